"""Cells without pictures for tests of the step `expert`: the truth, and what simulated annotators make of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tests.fixtures import grouped, make_sample

from pathloom.attributes import load_schema
from pathloom.phantom.cytology import BETHESDA, draw_plan
from pathloom.schema import Attribute, Resolver, Sample, Vote
from pathloom.store import write_samples

SCHEMA = load_schema("cervical_cell")
LSIL: Mapping[str, str] = {
    "nuclear_size": "markedly enlarged",
    "chromatin": "dark smudged",
    "num_nuclei": "one",
    "nc_ratio": "low",
    "nuclear_membrane": "mildly irregular",
    "nucleoli": "none",
    "cytoplasm": "mature",
    "abnormal_signs": "nuclear atypia",
    "arrangement": "single",
}


def attribute(
    name: str, value: str, *, votes: Sequence[str | None] = (), resolver: Resolver = "majority"
) -> Attribute:
    """`votes` are those of annotators a, b and so on; without any they are the value, another and an abstention."""
    others = [each for each in SCHEMA[name].values if each != value] if name in SCHEMA.attributes else ["x"]
    said = votes or (value, others[0], None)
    cast = tuple(Vote(annotator="abcdef"[place], value=vote) for place, vote in enumerate(said))
    return Attribute(name=name, value=value, resolver=resolver, confidence=0.5, votes=cast)


def cell(sample_id: str = "a", finding: str | None = "LSIL", **values: str) -> Sample:
    """A caption of a cell that breaks no rule, but for the `values` that are given."""
    held = tuple(attribute(name, value) for name, value in {**LSIL, **values}.items())
    answer = SCHEMA.describe({each.name: each.value for each in held})
    return make_sample(sample_id, task="caption", finding=finding, attributes=held, answer=answer)


def put(sample: Sample, *given: Attribute) -> Sample:
    """The Sample with these attributes in place of those of the same name, its caption as it was."""
    of = {each.name: each for each in given}
    held = tuple(of.get(each.name, each) for each in sample.attributes)
    return sample.model_copy(update={"attributes": held})


def drawn_cells(
    count: int, seed: int, *, error: float = 0.2, wrong_labels: float = 0.1, broken: float = 0.1
) -> tuple[list[Sample], list[Sample]]:
    """(true cells, what is known of them): three annotators err independently, evenly over the other values; a majority
    is taken, an arbiter who errs as often chooses among three different answers. Groups hold four cells.
    """
    rng = np.random.default_rng(seed)
    truths, known = [], []
    for index in range(count):
        finding = BETHESDA[int(rng.integers(len(BETHESDA)))]
        plan = draw_plan(rng, finding, broken_share=broken)
        others = [each for each in BETHESDA if each != finding]
        label = others[int(rng.integers(len(others)))] if rng.random() < wrong_labels else finding
        true = tuple(
            Attribute(name=name, value=value, resolver="truth") for name, value in plan.attributes.items()
        )
        fused = tuple(_fused(rng, each, error) for each in true)
        base = grouped(f"{index:05d}", f"slide {index // 4}", task="caption", images=())
        truths.append(base.model_copy(update={"finding": finding, "attributes": true}))
        answer = SCHEMA.describe({each.name: each.value for each in fused})
        known.append(base.model_copy(update={"finding": label, "attributes": fused, "answer": answer}))
    return truths, known


def _fused(rng: np.random.Generator, true: Attribute, error: float) -> Attribute:
    others = [value for value in SCHEMA[true.name].values if value != true.value]
    said = [others[int(rng.integers(len(others)))] if rng.random() < error else true.value for _ in range(3)]
    value, count = Counter(said).most_common(1)[0]
    resolver: Resolver = "majority"
    if count == 1:
        resolver = "arbiter"
        wrong = [each for each in said if each != true.value]
        errs = true.value not in said or rng.random() < error
        value = wrong[int(rng.integers(len(wrong)))] if errs else true.value
    return attribute(true.name, value, votes=said, resolver=resolver)


def stage_of(samples: Sequence[Sample], folder: Path) -> Path:
    write_samples(samples, folder)
    return folder
