"""Source `phantom`: questions about synthetic tissue and cells whose truth is known because we drew them.

Each picture gets one question. Attributes that a question asks about are dealt evenly (every diagnosis, count, letter
and yes/no equally often), so that chance is what it looks like. Half of the test questions are worded as no training
question is; their stratum is wording=unseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image as PILImage
from pydantic import Field, field_validator

from pathloom.images import encode_png
from pathloom.ingest.source import IngestConfig, Source
from pathloom.phantom.cell import BETHESDA, Cell, draw_cell
from pathloom.phantom.tissue import DIAGNOSES, MIN_SIZE_PX, STAINS, Tissue, draw_tissue
from pathloom.schema import Box, Drop, Event, Image, Origin, Region, Sample
from pathloom.stage import UserError

NUM_OPTIONS = 6
"""All six diagnoses, letters A to F as in Patho-R1: an answer in words is then always one of the options."""
MAX_MITOSES = 4
MAX_STRUCTURES = 3
COUNTED_IN = ("benign glands", "adenocarcinoma", "squamous cell carcinoma")
"""Diagnoses whose structures have an outline that can be counted, up to MAX_STRUCTURES of them."""

Rng = np.random.Generator
Fields = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One kind of phantom question: the task it belongs to, its wordings, and how one is made.

    `seen` wordings occur in training and test, `unseen` ones in test only. `make(index, rng, size_px)` draws a
    picture and gives it with the fields of its Sample. Unseen wordings put words of training in a new order, as a model
    from random weights cannot know a word that it has never read; {what} in a wording is filled with the field "what".
    """

    name: str
    task: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    make: Callable[[int, Rng, int], tuple[Tissue | Cell, Fields]]


def _sentences(*parts: str) -> str:
    return " ".join(part if part.endswith(".") else part + "." for part in parts)


def _reasoning(tissue: Tissue, *conclusions: str) -> str:
    """All that can be seen, whatever is asked: every question then teaches every observation."""
    count = f"Number of {tissue.structure_name}s: {len(tissue.structure_boxes_px)}"
    return _sentences(*tissue.observations(), *([count] if tissue.structure_name else []), *conclusions)


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**31))


def _place(box_px: Sequence[float], size_px: int) -> str:
    """One of nine places in words: upper, middle, lower and left, centre, right thirds of the picture."""
    x, y = (box_px[0] + box_px[2]) / 2, (box_px[1] + box_px[3]) / 2
    row = ("upper", "middle", "lower")[min(int(3 * y / size_px), 2)]
    column = ("left", "centre", "right")[min(int(3 * x / size_px), 2)]
    return f"{row} {column}"


def _places(boxes_px: Sequence[Sequence[float]], size_px: int) -> str:
    return ", ".join(_place(box, size_px) for box in boxes_px) or "none"


def _in_reading_order(boxes_px: Any) -> list[Box]:
    """Top to bottom, then left to right: a set of boxes has no order, so one is fixed for the answers taught."""
    boxes = [(float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in boxes_px]
    return sorted(boxes, key=lambda box: (box[1], box[0]))


def _diagnosis(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    name = DIAGNOSES[index % len(DIAGNOSES)]
    others = [other for other in DIAGNOSES if other != name]
    options = [str(option) for option in rng.permutation(others)[: NUM_OPTIONS - 1]]
    options.insert((index // len(DIAGNOSES)) % NUM_OPTIONS, name)
    tissue = draw_tissue(_seed(rng), size_px=size_px, diagnosis=name)
    return tissue, {
        "choices": tuple(options),
        "answer": name,
        "finding": name,
        "reasoning": _reasoning(tissue, f"This is {name}"),
    }


def _presence(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    name = DIAGNOSES[(index // 2) % len(DIAGNOSES)]
    others = [other for other in DIAGNOSES if other != name]
    asked = name if index % 2 else others[(index // (2 * len(DIAGNOSES))) % len(others)]
    tissue = draw_tissue(_seed(rng), size_px=size_px, diagnosis=name)
    return tissue, {
        "what": asked,
        "answer": "yes" if asked == name else "no",
        "finding": name,
        "asked_finding": asked,
        # Both names side by side: a small model compares what stands close together.
        "reasoning": _reasoning(tissue, f"Asked is {asked}", f"This is {name}"),
    }


def _stain(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    """Always asked about the same stain, so that the answer needs sight alone, and no comparing of words."""
    stain, asked = STAINS[index % len(STAINS)], "IHC"
    tissue = draw_tissue(_seed(rng), size_px=size_px, stain=stain)
    return tissue, {
        "answer": "yes" if asked == stain else "no",
        "finding": stain,
        "asked_finding": asked,
        "reasoning": _reasoning(tissue, f"The stain is {stain}"),
    }


def _mitoses(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    tissue = draw_tissue(_seed(rng), size_px=size_px, num_mitoses=index % (MAX_MITOSES + 1))
    return tissue, {
        "answer": str(tissue.num_mitoses),
        "reasoning": _reasoning(tissue, f"The number of mitoses is {tissue.num_mitoses}"),
    }


def _structure_count(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    """One to three glands or nests: drawn again until the picture holds as many as this question is dealt."""
    wanted = index % MAX_STRUCTURES + 1
    name = COUNTED_IN[(index // MAX_STRUCTURES) % len(COUNTED_IN)]
    for _ in range(1000):
        tissue = draw_tissue(_seed(rng), size_px=size_px, diagnosis=name)
        if len(tissue.structure_boxes_px) == wanted:
            break
    else:
        raise RuntimeError(f"no phantom of {name} with {wanted} structures in 1000 draws")
    return tissue, {
        "what": f"{tissue.structure_name}s",
        "answer": str(wanted),
        "reasoning": _reasoning(tissue),
    }


def _structures(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    """Pictures are drawn until one holds a structure to find; a diagnosis without structures is passed over."""
    for attempt in range(100):
        tissue = draw_tissue(
            _seed(rng), size_px=size_px, diagnosis=DIAGNOSES[(index + attempt) % len(DIAGNOSES)]
        )
        if tissue.structure_name and len(tissue.structure_boxes_px):
            break
    else:
        raise RuntimeError("no phantom with a structure in 100 draws")
    boxes = _in_reading_order(tissue.structure_boxes_px)
    return tissue, {
        "what": tissue.structure_name,
        "regions": tuple(Region(box_px=box, label=tissue.structure_name) for box in boxes),
        "reasoning": _reasoning(tissue, f"Seen at {_places(boxes, size_px)}"),
    }


def _caption(index: int, rng: Rng, size_px: int) -> tuple[Tissue, Fields]:
    tissue = draw_tissue(_seed(rng), size_px=size_px, diagnosis=DIAGNOSES[index % len(DIAGNOSES)])
    return tissue, {"answer": tissue.caption(rng), "finding": tissue.diagnosis}


def _bethesda(index: int, rng: Rng, size_px: int) -> tuple[Cell, Fields]:
    cell = draw_cell(_seed(rng), size_px=size_px, bethesda=BETHESDA[index % len(BETHESDA)])
    return cell, {
        "choices": BETHESDA,
        "answer": cell.bethesda,
        "finding": cell.bethesda,
        "reasoning": _sentences(*cell.observations(), f"This is {cell.bethesda}"),
        "strata": (f"profile={'broken' if cell.broken else 'kept'}",),
    }


def _cell_caption(index: int, rng: Rng, size_px: int) -> tuple[Cell, Fields]:
    cell = draw_cell(_seed(rng), size_px=size_px, bethesda=BETHESDA[index % len(BETHESDA)])
    return cell, {"answer": cell.caption(rng), "finding": cell.bethesda}


QUESTIONS: tuple[Question, ...] = (
    Question(
        "diagnosis",
        "choice",
        ("What is the diagnosis?", "Which diagnosis fits this tissue?", "What does this region show?"),
        ("Name the diagnosis that fits this region.", "Which of these does the tissue show?"),
        _diagnosis,
    ),
    Question(
        "presence",
        "yes_no",
        ("Is this {what}?", "Does this tissue show {what}?", "Is {what} the diagnosis?"),
        ("Does the diagnosis {what} fit this region?", "Is the diagnosis of this tissue {what}?"),
        _presence,
    ),
    Question(
        "stain",
        "yes_no",
        ("Is the stain IHC?", "Was this tissue stained by IHC?", "Is this an IHC stain?"),
        ("Was IHC the stain of this tissue?", "Is IHC the stain?"),
        _stain,
    ),
    Question(
        "mitoses",
        "count",
        ("How many mitoses are there?", "Count the mitoses.", "What is the number of mitoses?"),
        ("Give the number of mitoses.", "How many are the mitoses?"),
        _mitoses,
    ),
    Question(
        "structure_count",
        "count",
        ("How many {what} are there?", "Count the {what}.", "What is the number of {what}?"),
        ("Give the number of {what}.", "How many are the {what}?"),
        _structure_count,
    ),
    Question(
        "structures",
        "boxes",
        ("Find each {what}.", "Where is each {what}?", "Mark every {what}."),
        ("Where in this region is each {what}?", "Find every {what} of this tissue."),
        _structures,
    ),
    Question(
        "caption", "caption", ("Describe this tissue.",), ("What can be seen in this region?",), _caption
    ),
    Question(
        "bethesda",
        "label",
        ("Which Bethesda class is this cell?", "What is the class of this cell?", "Classify this cell."),
        ("Name the Bethesda class of the cell.", "Which class fits this cell?"),
        _bethesda,
    ),
    Question(
        "cell_caption", "caption", ("Describe this cell.",), ("What does this cell show?",), _cell_caption
    ),
)


class PhantomConfig(IngestConfig):
    """Entry of a recipe: how many training and test pictures each kind of question gets."""

    version: ClassVar[int] = 1

    source: Literal["phantom"]
    train: dict[str, int] = Field(description="question -> number of training pictures")
    test: dict[str, int] = Field(description="question -> number of held-out pictures")
    size_px: int = Field(default=112, ge=MIN_SIZE_PX, le=1024)

    @field_validator("train", "test")
    @classmethod
    def _questions_are_known(cls, counts: dict[str, int]) -> dict[str, int]:
        known = [question.name for question in QUESTIONS]
        for name, count in counts.items():
            if name not in known:
                raise ValueError(f"no phantom question {name!r}; known: {', '.join(known)}")
            if count < 0:
                raise ValueError(f"{name}: a number of pictures is not negative")
        return counts

    def check(self) -> None:
        if not self._units:
            raise UserError(f"{self.name}: train and test ask for no picture at all")

    def plan(self) -> Sequence[Any]:
        return self._units

    @cached_property
    def _units(self) -> list[tuple[str, str, int]]:
        return [
            (question.name, split, index)
            for split, counts in (("train", self.train), ("test", self.test))
            for question in QUESTIONS
            for index in range(counts.get(question.name, 0))
        ]

    def read(self, unit: Any) -> list[Sample | Drop]:
        name, split, index = unit
        position = next(i for i, question in enumerate(QUESTIONS) if question.name == name)
        question = QUESTIONS[position]
        rng = np.random.default_rng([self.seed, split == "test", position, index])
        picture, fields = question.make(index, rng, self.size_px)
        unseen = split == "test" and (index // 4) % 2 == 1  # half; fours keep step with no dealt attribute
        wordings = question.unseen if unseen else question.seen
        wording = wordings[int(rng.integers(len(wordings)))].format(what=fields.pop("what", ""))
        strata = (f"wording={'unseen' if unseen else 'seen'}", *fields.pop("strata", ()))
        unit_id = f"phantom/{name}/{split}/{index:05d}"
        return [
            Sample(
                id=unit_id,
                task=question.task,
                split=split,
                images=(_to_image(picture, unit_id),),
                question=wording,
                strata=strata,
                origin=Origin(
                    source=f"phantom_{name}", source_id=unit_id, licence="Apache-2.0", group=unit_id
                ),
                history=(Event(step="ingest.phantom", version=self.version, note=f"seed {self.seed}"),),
                **fields,
            )
        ]


def _to_image(picture: Tissue | Cell, name: str) -> Image:
    height_px, width_px, _ = picture.pixels_rgb.shape
    return Image(
        path=f"{name}.png",
        data=encode_png(PILImage.fromarray(picture.pixels_rgb)),
        width_px=width_px,
        height_px=height_px,
        mpp=getattr(picture, "mpp", None),
    )


PHANTOM = Source("phantom", PhantomConfig, "synthetic tissue and cells with exact truth, drawn here")
