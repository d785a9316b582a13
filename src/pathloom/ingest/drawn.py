"""Sources whose pictures and questions are made here: a table of Questions, dealt evenly and drawn from a seed.

Half of the test questions are worded as no training question is; their stratum is wording=unseen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field, field_validator

from pathloom.images import encode_png
from pathloom.ingest.source import IngestConfig
from pathloom.phantom.shapes import place
from pathloom.schema import Box, Drop, Event, Image, Origin, Sample
from pathloom.stage import UserError

Rng = np.random.Generator
Fields = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A picture as its source drew it: pixels_rgb [height_px, width_px, 3] uint8, mpp where it has one."""

    pixels_rgb: NDArray[np.uint8]
    mpp: float | None = None


@dataclass(frozen=True)
class Deal:
    """What one question is made from. Attributes are dealt by `index`, so that each occurs equally often."""

    index: int
    rng: Rng
    size_px: int
    test: bool

    def seed(self) -> int:
        """A fresh seed for a drawing function."""
        return int(self.rng.integers(2**31))


@dataclass(frozen=True)
class Question:
    """One kind of question: the task it belongs to, its wordings, and how one is made.

    `seen` wordings occur in training and test, `unseen` ones in test only. `make(deal)` gives a picture, None for a
    question of words alone, with the fields of its Sample. Unseen wordings put words of training in a new order, as a
    model from random weights cannot know a word that it has never read. {what} and {other} in a wording are filled
    with the fields "what" and "other".
    """

    name: str
    task: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]
    make: Callable[[Deal], tuple[Drawn | None, Fields]]


def sentences(*parts: str) -> str:
    """The parts in a row, each closed by one full stop."""
    return " ".join(part if part.endswith(".") else part + "." for part in parts)


def counted(words: str, boxes_px: Sequence[Box], size_px: int) -> str:
    """Each box with its number and place, then how many: the last number is the answer. `words` is a plural."""
    listed = [f"{number} {place(box, size_px)}" for number, box in enumerate(boxes_px, start=1)]
    return sentences(*listed, f"Number of {words}: {len(boxes_px)}")


def options_around(
    answer: str, others: Sequence[str], count: int, position: int, rng: Rng
) -> tuple[str, ...]:
    """`count` options, fewer where there are fewer others: the answer at `position` (modulo), the rest at random."""
    options = [str(other) for other in rng.permutation([o for o in others if o != answer])[: count - 1]]
    options.insert(position % (len(options) + 1), answer)
    return tuple(options)


class DrawnConfig(IngestConfig):
    """Entry of a recipe: how many training and test Samples each kind of question gets."""

    family: ClassVar[str]
    questions: ClassVar[tuple[Question, ...]]

    train: dict[str, int] = Field(description="question -> number of training Samples")
    test: dict[str, int] = Field(default={}, description="question -> number of held-out Samples")
    size_px: int = Field(default=112, ge=56, le=1024, description="width and height of the pictures")

    @field_validator("train", "test")
    @classmethod
    def _questions_are_known(cls, counts: dict[str, int]) -> dict[str, int]:
        known = [question.name for question in cls.questions]
        for name, count in counts.items():
            if name not in known:
                raise ValueError(f"no {cls.family} question {name!r}; known: {', '.join(known)}")
            if count < 0:
                raise ValueError(f"{name}: a number of Samples is not negative")
        return counts

    def check(self) -> None:
        if not self._units:
            raise UserError(f"{self.name}: train and test ask for no Sample at all")

    def plan(self) -> Sequence[Any]:
        return self._units

    @cached_property
    def _units(self) -> list[tuple[str, str, int]]:
        return [
            (question.name, split, index)
            for split, counts in (("train", self.train), ("test", self.test))
            for question in self.questions
            for index in range(counts.get(question.name, 0))
        ]

    def read(self, unit: Any) -> list[Sample | Drop]:
        name, split, index = unit
        question = next(question for question in self.questions if question.name == name)
        test = split == "test"
        # by name, so that a new row of the table leaves the pictures of the others as they are
        rng = np.random.default_rng([self.seed, test, index, *name.encode()])
        picture, fields = question.make(Deal(index, rng, self.size_px, test))
        unseen = test and (index // 4) % 2 == 1  # half; fours keep step with no dealt attribute
        wordings = question.unseen if unseen else question.seen
        wording = wordings[int(rng.integers(len(wordings)))].format(
            what=fields.pop("what", ""), other=fields.pop("other", "")
        )
        strata = (f"wording={'unseen' if unseen else 'seen'}", *fields.pop("strata", ()))
        unit_id = f"{self.family}/{name}/{split}/{index:05d}"
        return [
            Sample(
                id=unit_id,
                task=question.task,
                split=split,
                images=() if picture is None else (_to_image(picture, unit_id),),
                question=wording,
                strata=strata,
                origin=Origin(
                    source=f"{self.family}_{name}", source_id=unit_id, licence="Apache-2.0", group=unit_id
                ),
                history=(
                    Event(step=f"ingest.{self.source}", version=self.version, note=f"seed {self.seed}"),
                ),
                **fields,
            )
        ]


def _to_image(picture: Drawn, name: str) -> Image:
    height_px, width_px, _ = picture.pixels_rgb.shape
    return Image(
        path=f"{name}.png",
        data=encode_png(PILImage.fromarray(picture.pixels_rgb)),
        width_px=width_px,
        height_px=height_px,
        mpp=picture.mpp,
    )
