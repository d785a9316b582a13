"""Entries of training stages. No torch here: a recipe is checked before anything heavy is loaded."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.schema import Record
from pathloom.stage import ModelRef, StageConfig
from pathloom.tasks import TASKS
from pathloom.tasks.task import Style

# Keys of the trainer block that a stage owns: setting them would break resume, the stage folder or determinism.
_OWNED = (
    "output_dir",
    "seed",
    "data_seed",
    "resume_from_checkpoint",
    "push_to_hub",
    "hub_model_id",
    "max_length",
    "remove_unused_columns",
)


class LoraSettings(Record):
    """LoRA on the language tower (the vision tower shares module names, so the target is a regular expression)."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class SftConfig(StageConfig):
    """Entry of a recipe: supervised fine-tuning of a model on Samples.

    Samples of splits fold-0 ... fold-k give k models in sub-folders, each trained without its own fold.
    """

    version: ClassVar[int] = 1

    kind: Literal["sft"]
    samples: tuple[str, ...] = Field(min_length=1, description="stages whose training Samples are learnt")
    model: ModelRef
    tasks: dict[str, float] = Field(
        default={}, description="task -> weight in the mixture; empty: all as they come"
    )
    style: Style = "cot"
    lora: LoraSettings | None = None
    augment: bool = Field(default=False, description="flips and right-angle turns, new in every epoch")
    trainer: dict[str, Any] = Field(default={}, description="goes unchanged to TRL's SFTConfig")
    seed: int = 0

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, weights: dict[str, float]) -> dict[str, float]:
        known = [task.name for task in TASKS]
        for name, weight in weights.items():
            if name not in known:
                raise ValueError(f"no task {name!r}; known: {', '.join(known)}")
            if weight <= 0:
                raise ValueError(f"{name}: a weight is positive; leave the task out instead")
        return weights

    @field_validator("trainer")
    @classmethod
    def _trainer_leaves_the_stage_its_keys(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in _OWNED:
            if key in trainer:
                raise ValueError(f"{key} is set by the stage; remove it")
        return trainer

    def needs(self) -> tuple[str, ...]:
        return (*self.samples, *self.model.needs())

    def fingerprint(self) -> str:
        """A changed task or model folder trains anew."""
        return f"{[(task.name, task.version) for task in TASKS]} {self.model.fingerprint()}"

    def check(self) -> None:
        """The trainer block against TRL's own config class, before the first stage runs."""
        if self.trainer:
            from pathloom.train.sft import check_trainer_block

            check_trainer_block(self)
