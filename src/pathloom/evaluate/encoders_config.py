"""Entries of the stages that measure encoders side by side: zero-shot, retrieval, few-shot. No torch here."""

import hashlib
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from pathloom.evaluate.class_prompts import prompts_path, read_prompts
from pathloom.models.embed import (
    BATCH_SIZE,
    Kind,
    check_encoder,
    encoder_fingerprint,
    encoder_kinds,
    encoder_stages,
    parse_encoder,
)
from pathloom.schema import Record
from pathloom.stage import StageConfig

Which = Literal["test", "all"]


class EncodersSet(Record):
    """One data set that all encoders are measured on."""

    name: str
    samples: tuple[str, ...]


class EncodersConfig(StageConfig):
    """Common keys: the rows of the table are encoders, its columns data sets."""

    takes: ClassVar[tuple[Kind, ...]] = ("image", "text")

    encoders: dict[str, str] = Field(
        min_length=1,
        description="name in the table -> encoder as models/embed.py names it; stage:NAME is trained in this recipe",
    )
    sets: tuple[EncodersSet, ...] = Field(min_length=1)
    published: bool = Field(
        default=True, description="show the paper's rows, marked published, beside the measured"
    )
    batch_size: int = Field(default=BATCH_SIZE, ge=1)
    num_resamples: int = Field(default=2000, ge=100, description="bootstrap draws")
    seed: int = 0

    @field_validator("encoders")
    @classmethod
    def _encoders_are_known(cls, encoders: dict[str, str]) -> dict[str, str]:
        return {name: parse_encoder(text).text for name, text in encoders.items()}

    @model_validator(mode="after")
    def _sets_differ_in_name(self) -> Self:
        names = [one.name for one in self.sets]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sets are called {name!r}; each needs a name of its own")
        return self

    def needs(self) -> tuple[str, ...]:
        named = [name for one in self.sets for name in one.samples]
        return tuple(dict.fromkeys((*named, *encoder_stages(*self.encoders.values()))))

    def kinds_needed(self) -> dict[str, str]:
        return encoder_kinds(*self.encoders.values())

    def check(self) -> None:
        for text in self.encoders.values():
            for kind in self.takes:
                check_encoder(text, kind)

    def fingerprint(self) -> str:
        return str([encoder_fingerprint(text) for text in self.encoders.values()])


class ZeroShotSet(EncodersSet):
    """One column: labelled pictures and the prompts of their classes."""

    name: str = Field(description="heading of the column; one of the paper's names puts its numbers beside")
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages that hold Samples of the task label or choice"
    )
    prompts: str = Field(
        description="a shipped file's name (`pathloom list prompts`) or the path of one of your own (.json)"
    )
    which: Which = Field(
        default="test", description="held-out Samples, or all: a set that nothing here is trained on"
    )
    source: str | None = Field(
        default=None,
        description="only Samples of that origin.source, where the stages hold several, e.g. phantom_diagnosis",
    )
    ordered: bool = Field(
        default=False, description="the classes of the prompt file stand in order: weighted kappa"
    )
    allow_absent: bool = Field(
        default=False,
        description="the prompt file may have classes that no Sample has: harder, but comparable",
    )


class ZeroShotConfig(EncodersConfig):
    """Entry of a recipe: classify pictures by prompts alone, CONCH's way: synonyms x templates, averaged."""

    version: ClassVar[int] = 1

    kind: Literal["zero_shot"]
    sets: tuple[ZeroShotSet, ...] = Field(min_length=1)

    def check(self) -> None:
        super().check()
        for one in self.sets:
            read_prompts(one.prompts)

    def fingerprint(self) -> str:
        """A changed prompt file or encoder measures anew; "" for a file that `check` refuses."""
        paths = [prompts_path(one.prompts) for one in self.sets]
        hashes = [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths]
        return f"{hashes} {super().fingerprint()}"


class RetrievalSet(EncodersSet):
    """One board: pictures with their captions."""

    name: str = Field(description="title of the board; ARCH or Archive puts the paper's numbers beside")
    samples: tuple[str, ...] = Field(min_length=1, description="stages that hold Samples of the task caption")
    which: Which = "test"
    wording: Literal["all", "seen", "unseen"] = Field(
        default="all", description="Samples of that stratum only"
    )


class RetrievalConfig(EncodersConfig):
    """Entry of a recipe: find a picture's caption among all captions (i2t) and a caption's picture (t2i)."""

    version: ClassVar[int] = 1

    kind: Literal["retrieval"]
    sets: tuple[RetrievalSet, ...] = Field(min_length=1)
    recall_at: tuple[PositiveInt, ...] = Field(
        default=(1, 5, 10, 20), min_length=1, description="the paper's four; the mean is over these"
    )
    same_caption: Literal["right", "wrong"] = Field(
        default="right",
        description="whether another pair's item counts as found where its caption is the query's own but for case, "
        "spaces and a closing full stop; wrong: the pair's own item only, as in the paper's script",
    )

    @field_validator("recall_at")
    @classmethod
    def _once_and_ascending(cls, recall_at: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(recall_at)))


class FewShotSet(EncodersSet):
    """One set, measured apart: labelled pictures, split when they were ingested."""

    name: str = Field(description="heading of the tables; one of the paper's names puts its number beside")
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages that hold Samples of the task label or choice"
    )
    source: str | None = Field(
        default=None,
        description="only Samples of that origin.source, where the stages hold several, e.g. phantom_diagnosis",
    )


class FewShotConfig(EncodersConfig):
    """Entry of a recipe: logistic regression on a few frozen features a class, repeated (Patho-R1's protocol)."""

    version: ClassVar[int] = 1
    takes: ClassVar[tuple[Kind, ...]] = ("image",)

    kind: Literal["few_shot"]
    sets: tuple[FewShotSet, ...] = Field(min_length=1)
    shots: tuple[int, ...] = Field(
        default=(2, 8, 16, 32, 64, 128), min_length=1, description="per class; the paper's"
    )
    num_runs: int = Field(default=10, ge=1, description="subsets for each number of shots; the paper's ten")
    splits: tuple[Literal["grouped", "by_picture"], ...] = Field(
        default=("grouped",),
        min_length=1,
        description="grouped: the split that the ingest made by group, or its folds one after the other; by_picture: "
        "the same split with the pictures of each class dealt anew without regard to groups, as the paper may have "
        "done; both: two tables and the gap between them",
    )

    @field_validator("shots")
    @classmethod
    def _shots_rise(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if list(shots) != sorted(set(shots)) or shots[0] < 1:
            raise ValueError(f"{list(shots)}: whole numbers from 1, each larger than the one before")
        return shots

    @field_validator("splits")
    @classmethod
    def _each_split_once(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(splits))
