"""What simulated annotators know: the values of each picture of a stage, found by the picture's bytes."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pathloom.attributes import AttributeSchema
from pathloom.generate.generator import picture_bytes
from pathloom.images import BadImage
from pathloom.phantom.cytology import PROFILES
from pathloom.schema import Sample
from pathloom.stage import UserError
from pathloom.store import read_samples

NO_TRUTH = "no_truth"
PROFILED_SCHEMA = "cervical_cell"
"""The schema whose values the class profiles of the phantom cells are made of."""

Values = tuple[str | None, ...]
"""A value for each attribute of a schema, in its order; None where nothing is known."""


def read_truth(folder: Path, schema: AttributeSchema) -> dict[str, Values]:
    """SHA-256 of a picture's bytes -> its values, from the Samples of a stage; pictures are read one shard at a time.

    Values are the Sample's attributes. A Sample that has none but a Bethesda class as its `finding` gets values drawn
    from the class's profile, seeded by the picture: a made-up truth, the same for all who are simulated. It says
    nothing of the picture beyond its class. Nothing is known of any other Sample. Of several Samples with one picture,
    the first with attributes counts, then the first. Raises UserError for attributes that the schema does not have.
    """
    truth: dict[str, Values] = {}
    known: set[str] = set()
    for sample in read_samples(folder):
        if not sample.images:
            continue
        try:
            picture = hashlib.sha256(picture_bytes(sample.images[0])).hexdigest()
        except BadImage:  # nobody can be asked about it either: its request has no key
            continue
        if picture not in truth or (sample.attributes and picture not in known):
            truth[picture] = _values_of(sample, picture, schema, folder)
        if sample.attributes:
            known.add(picture)
    return truth


def _values_of(sample: Sample, picture: str, schema: AttributeSchema, folder: Path) -> Values:
    for one in sample.attributes:
        if one.name not in schema.attributes or one.value not in schema[one.name].words:
            raise UserError(
                f"truth: {one.name} = {one.value!r} of sample {sample.id} in {folder} is not of the schema "
                f"{schema.name}; give `attributes` the schema that its Samples were made with"
            )
    values = {one.name: one.value for one in sample.attributes} or _made_up(sample.finding, picture, schema)
    return tuple(values.get(name) for name in schema.attributes)


def _made_up(finding: str | None, picture: str, schema: AttributeSchema) -> Mapping[str, str]:
    """One of the values that the profile of the class admits, for each attribute, any alike."""
    if schema.name != PROFILED_SCHEMA or finding is None or finding not in PROFILES:
        return {}
    rng = np.random.default_rng(int(picture, 16))
    return {name: values[int(rng.integers(len(values)))] for name, values in PROFILES[finding].items()}
