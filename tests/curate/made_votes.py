"""Annotators made up for tests: a truth, votes that err as they are told, and the Samples that carry them as words."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pathloom.attributes import AttributeSchema, load_schema
from pathloom.curate.consensus_votes import Votes
from pathloom.generate.generator import Request
from pathloom.schema import Annotation, Attribute, Image, Origin, Said, Sample

Truth = Mapping[str, NDArray[np.int16]]
NAMES = ("ann", "bob", "cid", "dee", "eva")


def leaf_schema(folder: Path, sizes: Mapping[str, int], *, ordered: tuple[str, ...] = ()) -> AttributeSchema:
    """Leaves, not cells: attribute -> number of its values, which are called `NAME 0` and so on."""
    attributes = {
        name: {
            "title": {"en": f"the {name}", "zh": f"{name}题"},
            "question": {"en": f"Which {name}?", "zh": f"{name}?"},
            "sentence": {"en": f"It has {{}} as its {name}.", "zh": f"{name}:{{}}。"},
            "ordered": name in ordered,
            "values": {f"{name} {n}": {"zh": [f"{name}值{n}"], "also": [f"alias {n}"]} for n in range(size)},
        }
        for name, size in sizes.items()
    }
    path = folder / "leaf.yaml"
    schema = {
        "name": "leaf",
        "version": 1,
        "subject": {"en": "leaf", "zh": "叶子"},
        "cannot_tell": {"en": ["cannot tell"], "zh": ["无法判断"]},
        "attributes": attributes,
    }
    path.write_text(yaml.safe_dump(schema, allow_unicode=True), encoding="utf-8")
    return load_schema(str(path))


def draw_truth(rng: np.random.Generator, sizes: Mapping[str, int], num_samples: int) -> Truth:
    """Values of unequal frequency."""
    return {
        name: rng.choice(size, num_samples, p=rng.dirichlet(np.full(size, 3.0))).astype(np.int16)
        for name, size in sizes.items()
    }


def err(
    rng: np.random.Generator,
    true: NDArray[Any],
    size: int,
    errors: Sequence[float],
    *,
    confusion: str = "uniform",
    shared: float = 0.0,
    together: tuple[int, ...] = (0, 1),
) -> NDArray[np.int16]:
    """Votes [sample, annotator]: wrong with the annotator's error, and then any other value alike, or a neighbour.

    `shared` is the share of decisions that the annotators `together` take as one.
    """
    n = len(true)
    common, is_common = rng.random((n, 2)), rng.random(n) < shared
    votes = []
    for place, error in enumerate(errors):
        drawn = rng.random((n, 2))
        if place in together:
            drawn = np.where(is_common[:, None], common, drawn)
        if confusion == "uniform":
            wrong = (true + 1 + np.floor(drawn[:, 1] * (size - 1)).astype(int)) % size
        else:
            up = np.where(true == 0, True, np.where(true == size - 1, False, drawn[:, 1] < 0.5))
            wrong = np.where(up, true + 1, true - 1)
        votes.append(np.where(drawn[:, 0] < error, wrong, true))
    return np.stack(votes, axis=1).astype(np.int16)


def as_votes(schema: AttributeSchema, votes: Mapping[str, NDArray[np.int16]]) -> Votes:
    """What `gather` makes of `as_samples`, without the words."""
    num_samples, num_annotators = next(iter(votes.values())).shape
    rows = {f"s{row}": row for row in range(num_samples)}
    return Votes(schema, NAMES[:num_annotators], rows, np.arange(num_samples) // 4, votes)


def as_samples(
    schema: AttributeSchema, votes: Mapping[str, NDArray[np.int16]], **fields: Any
) -> list[Sample]:
    """Samples with the votes as words; a negative vote is `cannot tell`. Every Sample has a picture of its own."""
    num_samples, num_annotators = next(iter(votes.values())).shape
    samples = []
    for row in range(num_samples):
        annotations = tuple(
            Annotation(
                annotator=NAMES[column],
                said=tuple(
                    Said(
                        name=name,
                        text=schema[name].values[said[row, column]]
                        if said[row, column] >= 0
                        else "cannot tell",
                    )
                    for name, said in votes.items()
                ),
            )
            for column in range(num_annotators)
        )
        samples.append(leaf(f"s{row}", annotations=annotations, group=f"g{row // 4}", **fields))
    return samples


def leaf(sample_id: str, *, group: str = "g", **fields: Any) -> Sample:
    """With a picture of its own, which no test decodes."""
    picture = Image(path=f"{sample_id}.png", data=sample_id.encode(), width_px=8, height_px=8)
    given: Mapping[str, Any] = {
        "task": "caption",
        "split": "train",
        "question": "Describe.",
        "images": (picture,),
        "origin": Origin(source="made", source_id=sample_id, licence="CC0-1.0", group=group),
    }
    return Sample(id=sample_id, **{**given, **fields})


def annotated(sample_id: str, said: Mapping[str, Mapping[str, str]], **fields: Any) -> Sample:
    """Annotator -> attribute -> words."""
    annotations = tuple(
        Annotation(annotator=who, said=tuple(Said(name=name, text=text) for name, text in words.items()))
        for who, words in said.items()
    )
    return leaf(sample_id, annotations=annotations, **fields)


def true_samples(schema: AttributeSchema, truth: Truth) -> list[Sample]:
    num_samples = len(next(iter(truth.values())))
    return [
        leaf(
            f"s{row}",
            group=f"g{row // 4}",
            attributes=tuple(
                Attribute(name=name, value=schema[name].values[values[row]], resolver="truth")
                for name, values in truth.items()
            ),
        )
        for row in range(num_samples)
    ]


class Arbiter:
    """Chooses the truth where it is in dispute, but for a share `error`; then and elsewhere another value at random."""

    def __init__(self, schema: AttributeSchema, truth: Truth, error: float, seed: int = 0) -> None:
        self.schema, self.truth, self.error = schema, truth, error
        self.rng = np.random.default_rng(seed)
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> str:
        self.asked.append(request)
        picture = request.messages[-1].images[0]
        assert picture.data is not None
        row = int(picture.data.decode()[1:])
        ruling = {}
        for name, allowed in (request.json_schema or {})["properties"].items():
            values = list(allowed["enum"])
            true = self.schema[name].values[self.truth[name][row]]
            others = [value for value in values if value != true]
            right = true in values and self.rng.random() >= self.error
            ruling[name] = true if right else str(self.rng.choice(others))
        return json.dumps(ruling)
