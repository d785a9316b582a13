"""Entries of the evaluation stages. No torch here: a recipe is checked before anything heavy is loaded."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pathloom.benchmarks import find_benchmark
from pathloom.masks import CLASSICAL
from pathloom.models.embed import (
    check_encoder,
    encoder_fingerprint,
    encoder_kinds,
    encoder_stages,
    parse_encoder,
)
from pathloom.models.segment import check_segmenter, segmenter_fingerprint
from pathloom.schema import Record
from pathloom.stage import ModelRef, StageConfig
from pathloom.tasks import find_task
from pathloom.tasks.task import Style

Control = Literal["no_image", "wrong_image", "shuffled_options", "shuffled_routes"]


class EvaluateConfig(StageConfig):
    """Entry of a recipe: a list of benchmarks on a model folder, with controls where asked for."""

    version: ClassVar[int] = 2
    added_later: ClassVar[tuple[str, ...]] = ("slides", "segmenter")

    kind: Literal["evaluate"]
    model: ModelRef
    samples: tuple[str, ...] = Field(min_length=1, description="stages that hold the benchmarks' Samples")
    slides: tuple[str, ...] = Field(
        default=(), description="stages `embed_slides` that hold the slides' features"
    )
    segmenter: str = Field(
        default=CLASSICAL,
        description="what draws the masks that boxes or points prompt, as models/segment.py names it",
    )
    benchmarks: tuple[str, ...] = Field(min_length=1)
    controls: tuple[Control, ...] = ()
    batch_size: int = Field(default=32, ge=1)
    style: Style | None = Field(default=None, description="system prompt; default: the model card's, or cot")
    max_new_tokens: int = Field(default=128, ge=1, description="a longer completion is cut and may not parse")
    limit: int | None = Field(default=None, ge=1, description="at most so many Samples of each benchmark")
    num_resamples: int = Field(default=2000, ge=100, description="bootstrap draws")
    seed: int = 0

    @field_validator("benchmarks")
    @classmethod
    def _benchmarks_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(find_benchmark(name).name for name in names)

    def needs(self) -> tuple[str, ...]:
        return (*self.samples, *self.slides, *self.model.needs())

    def kinds_needed(self) -> dict[str, str]:
        return dict.fromkeys(self.slides, "embed_slides")

    def check(self) -> None:
        check_segmenter(self.segmenter)

    def fingerprint(self) -> str:
        """A changed benchmark row, task, model or segmenter folder asks the questions anew."""
        rows = [find_benchmark(name) for name in self.benchmarks]
        versions = [(row.name, row.version, row.task, find_task(row.task).version) for row in rows]
        return f"{versions} {self.model.fingerprint()}{segmenter_fingerprint(self.segmenter)}"


class ProbeConfig(StageConfig):
    """Entry of a recipe: logistic regression on the features of a pretrained encoder, on the same split.

    Of a slide it sees the mean over the features of its tiles, which `slides` name.
    """

    version: ClassVar[int] = 2
    added_later: ClassVar[tuple[str, ...]] = ("slides",)

    kind: Literal["probe"]
    samples: tuple[str, ...] = Field(min_length=1)
    slides: tuple[str, ...] = Field(
        default=(),
        description="stages `embed_slides` that hold the slides' features, in the place of `encoder`",
    )
    benchmark: str
    encoder: str = Field(
        default="efficientnet_lite0", description="of pictures, as models/embed.py names them"
    )
    num_resamples: int = Field(default=2000, ge=100)
    seed: int = 0

    @field_validator("benchmark")
    @classmethod
    def _benchmark_is_known(cls, name: str) -> str:
        return find_benchmark(name).name

    @field_validator("encoder")
    @classmethod
    def _encoder_is_known(cls, name: str) -> str:
        return parse_encoder(name).text

    @model_validator(mode="after")
    def _one_kind_of_features(self) -> "ProbeConfig":
        if self.slides and "encoder" in self.model_fields_set:
            raise ValueError("encoder: the features of `slides` were made by theirs; remove one of the two")
        return self

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.samples, *(self.slides or encoder_stages(self.encoder)))))

    def kinds_needed(self) -> dict[str, str]:
        if self.slides:
            return dict.fromkeys(self.slides, "embed_slides")
        return encoder_kinds(self.encoder)

    def check(self) -> None:
        if not self.slides:
            check_encoder(self.encoder, "image")

    def fingerprint(self) -> str:
        return "" if self.slides else encoder_fingerprint(self.encoder)


class Forgetting(Record):
    """How much of what training lost remains where old data are replayed; each side a stage or a name of `repeats`."""

    suite: str
    before: str = Field(description="measured before the training that forgets")
    without: str = Field(description="measured after it, nothing replayed")
    replayed: str = Field(description="measured after the same training with replay")


class DataSetTable(Record):
    """One table with a row for each data set, as papers print their results."""

    title: str = "Data sets"
    columns: dict[str, tuple[str, ...]] = Field(
        min_length=1,
        description="name -> stages or names of `repeats`, each of which measured some of the data sets",
    )


class ReportConfig(StageConfig):
    """Entry of a recipe: one page over what the named stages measured, in this order."""

    version: ClassVar[int] = 3
    added_later: ClassVar[tuple[str, ...]] = ("data_sets",)

    kind: Literal["report"]
    title: str = ""
    stages: tuple[str, ...] = Field(min_length=1, description="stages that measure, train, or make data")
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages that hold the pictures of the examples"
    )
    repeats: dict[str, tuple[str, ...]] = Field(
        default={}, description="name -> evaluate stages of one training with several seeds, compared as one"
    )
    suites: dict[str, tuple[str, ...]] = Field(
        default={}, description="name -> benchmarks whose primary metrics are averaged, as a general skill"
    )
    forgetting: tuple[Forgetting, ...] = ()
    data_sets: DataSetTable | None = None
    num_examples: int = Field(default=12, ge=0, description="for each stage and benchmark")
    notes: tuple[str, ...] = ()

    @field_validator("suites")
    @classmethod
    def _suites_are_of_benchmarks(cls, suites: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, benchmarks in suites.items():
            if not benchmarks or len(set(benchmarks)) < len(benchmarks):
                raise ValueError(f"{name}: name at least one benchmark, and none twice")
            for benchmark in benchmarks:
                find_benchmark(benchmark)
        return suites

    @model_validator(mode="after")
    def _forgetting_is_of_what_is_shown(self) -> "ReportConfig":
        for one in self.forgetting:
            if one.suite not in self.suites:
                raise ValueError(f"forgetting: {one.suite!r} is none of suites: {', '.join(self.suites)}")
            for side in (one.before, one.without, one.replayed):
                if side not in (*self.stages, *self.repeats):
                    raise ValueError(
                        f"forgetting: {side} is neither among the report's stages nor in repeats"
                    )
        return self

    @model_validator(mode="after")
    def _data_sets_are_of_what_is_shown(self) -> "ReportConfig":
        columns = self.data_sets.columns if self.data_sets else {}
        for column, sides in columns.items():
            for side in sides:
                if side not in (*self.stages, *self.repeats):
                    raise ValueError(
                        f"data_sets.columns.{column}: {side} is neither among the report's stages nor in repeats"
                    )
        return self

    @model_validator(mode="after")
    def _repeats_are_shown(self) -> "ReportConfig":
        for name, stages in self.repeats.items():
            for stage in stages:
                if stage not in self.stages:
                    raise ValueError(f"repeats.{name}: {stage} is not among the report's stages")
        return self

    def needs(self) -> tuple[str, ...]:
        return (*self.stages, *self.samples)
