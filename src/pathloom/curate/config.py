"""Entries of the stages `curate` and `reason`. No torch here: a recipe is checked before anything heavy is loaded."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.curate.apart import ApartStep
from pathloom.curate.consensus import ConsensusStep
from pathloom.curate.decontaminate import DecontaminateStep
from pathloom.curate.difficulty import DifficultyStep
from pathloom.curate.draw import DrawStep
from pathloom.curate.duplicates import ImageDuplicatesStep
from pathloom.curate.expert import ExpertStep
from pathloom.curate.organ import OrganStep
from pathloom.curate.prompts import WRITTEN, WrittenTask, prompts_hash
from pathloom.curate.reasoning import ReasoningFilterStep
from pathloom.curate.reviewed import ReviewedStep
from pathloom.curate.simulated_labels import SimulatedLabelsStep
from pathloom.curate.subfield import SubfieldStep
from pathloom.curate.text_duplicates import NearDuplicatesStep
from pathloom.curate.words import TAUGHT
from pathloom.generate.config import Asking
from pathloom.schema import Level
from pathloom.stage import StageConfig

AnyStep = (
    SubfieldStep
    | OrganStep
    | DifficultyStep
    | ReasoningFilterStep
    | NearDuplicatesStep
    | ReviewedStep
    | DrawStep
    | ApartStep
    | ImageDuplicatesStep
    | DecontaminateStep
    | ConsensusStep
    | ExpertStep
    | SimulatedLabelsStep
)
"""Every step; a new one is one file and one name here."""


class CurateConfig(StageConfig):
    """Entry of a recipe: Samples through steps, one after the other."""

    version: ClassVar[int] = 1

    kind: Literal["curate"]
    samples: tuple[str, ...] = Field(min_length=1, description="stages whose Samples are read, in this order")
    steps: tuple[Annotated[AnyStep, Field(discriminator="step")], ...] = Field(min_length=1)
    seed: int = 0

    def needs(self) -> tuple[str, ...]:
        named = [*self.samples, *(name for step in self.steps for name in step.needs())]
        return tuple(dict.fromkeys(named))

    def check(self) -> None:
        for number, step in enumerate(self.steps, start=1):
            step.check(f"{self.name}.steps, number {number} ({step.step})")

    def keyed(self) -> dict[str, Any]:
        return {**super().keyed(), "steps": [step.keyed() for step in self.steps]}

    def fingerprint(self) -> str:
        return str([(step.step, step.version, step.fingerprint()) for step in self.steps])


class ReasonConfig(StageConfig):
    """Entry of a recipe: a Generator writes questions with reasoning from captions, or reasoning for given answers."""

    version: ClassVar[int] = 1

    kind: Literal["reason"]
    samples: tuple[str, ...] = Field(min_length=1, description="stages whose training Samples are read")
    teacher: Asking
    tasks: tuple[WrittenTask, ...] = Field(
        default=WRITTEN,
        min_length=1,
        description="what is written from a caption; explain: reasoning for questions that have an answer",
    )
    per_sample: int | None = Field(
        default=None, ge=1, description="tasks for one caption, dealt by its id; default: all of them"
    )
    subfield: Literal[TAUGHT] | None = Field(  # type: ignore[valid-type]
        default=None, description="of Samples that have none"
    )
    level: Level | None = Field(default=None, description="of Samples that have none")
    max_chars: int = Field(default=12_000, ge=1, description="of a Sample's texts; a longer one is dropped")

    @field_validator("tasks")
    @classmethod
    def _no_task_twice(cls, tasks: tuple[WrittenTask, ...]) -> tuple[WrittenTask, ...]:
        for task in tasks:
            if tasks.count(task) > 1:
                raise ValueError(f"{task} stands twice")
        return tasks

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.samples, *self.teacher.needs())))

    def check(self) -> None:
        self.teacher.check(f"{self.name}.teacher")

    def keyed(self) -> dict[str, Any]:
        """Prices, caps, addresses and the number of connections change nothing in what is answered."""
        return {**super().keyed(), "teacher": self.teacher.decides()}

    def fingerprint(self) -> str:
        """A changed part of a prompt is another result; only the prompts that hold it are asked anew."""
        return prompts_hash()
