"""Entry of the stage `experts`. No torch here: a recipe is checked before anything heavy is loaded."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pathloom.models.experts_config import SCALES, GateOn, Routing, default_routes
from pathloom.tasks import TASKS
from pathloom.tasks.task import Style
from pathloom.train.config import LoraSettings, Module, TrainConfig


class ExpertsConfig(TrainConfig):
    """Entry of a recipe: a mixture of LoRA experts over a frozen model, learnt on the Samples of all scales and tasks.

    hard    one expert a Sample, as `routes` says; nothing is learnt of who gets what
    soft    a gate over scale and task mixes the `top_k` experts that it finds best
    shared  one LoRA of rank num_experts x r for all: as many adapter weights, no gate

    `trainer: {max_steps: 0}` puts the experts together without training them.
    """

    kind: Literal["experts"]
    style: Style = "cot"
    trainable: tuple[Module, ...] = Field(
        default=(), description="parts that learn whole beside the experts: projector, slide"
    )
    routing: Routing = "soft"
    start_from: tuple[str, ...] = Field(
        default=(),
        description="stages that began at `model`: what each has learnt since begins an expert, in this order",
    )
    num_experts: int = Field(default=2, ge=1)
    r: int = Field(default=16, ge=1, description="rank of each expert")
    alpha: int = Field(default=32, ge=1)
    top_k: int | None = Field(
        default=None, ge=1, description="soft: experts at work for a Sample; default: all"
    )
    gate_on: tuple[GateOn, ...] = Field(default=("scale", "task"), min_length=1)
    token_gate: bool = Field(default=False, description="soft: the gate reads each token's state too")
    gate_start: float = Field(
        default=0.9,
        gt=0,
        lt=1,
        description="soft, where experts begin as stages' or `routes` are given: the share with which a row's own "
        "expert begins",
    )
    gate_speed: float = Field(
        default=10.0,
        gt=0,
        description="soft: the gate's learning rate, in multiples of the trainer's; at 1 it hardly leaves its start",
    )
    balance_weight: float = Field(default=0.01, ge=0, description="soft: weight of the load-balance loss")
    unknown_share: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="soft: share of rows that are learnt without their task, half of them without their scale too",
    )
    routes: dict[str, int] = Field(
        default={},
        description="scale, task or scale/task -> expert from 0, the most exact name wins; default: an expert a scale, "
        "region and then slide",
    )
    target_modules: str = LoraSettings.model_fields["target_modules"].default

    @field_validator("lora")
    @classmethod
    def _experts_are_the_adapters(cls, lora: LoraSettings | None) -> LoraSettings | None:
        if lora is not None:
            raise ValueError("the experts are the adapters: set r, alpha and target_modules of this stage")
        return lora

    @field_validator("trainable")
    @classmethod
    def _experts_learn_alone_or_with_projectors(cls, parts: tuple[Module, ...]) -> tuple[Module, ...]:
        if refused := sorted(set(parts) - {"projector", "slide"}):
            raise ValueError(
                f"{', '.join(refused)} cannot learn whole beside experts, only projector and slide can"
            )
        return parts

    @model_validator(mode="after")
    def _experts_agree(self) -> "ExpertsConfig":
        if len(self.start_from) > self.num_experts:
            raise ValueError(
                f"start_from: {len(self.start_from)} stages begin as experts, and num_experts is {self.num_experts}"
            )
        if len(set(self.start_from)) < len(self.start_from):
            raise ValueError("start_from: a stage stands there twice")
        if self.top_k is not None and self.top_k > self.num_experts:
            raise ValueError(f"top_k: {self.top_k} of {self.num_experts} experts cannot be at work")
        if self.routing == "soft" and self.top_k == 1 < self.num_experts:
            raise ValueError(
                "top_k: the gate of a single expert is 1 whatever is learnt, so the loss could not teach who is "
                "asked; give 2 or more, or routing: hard"
            )
        known = (*SCALES, *(task.name for task in TASKS))
        for key, expert in self.all_routes.items():
            scale, _, task = key.rpartition("/")
            if (scale and scale not in SCALES) or task not in known or (scale and task in SCALES):
                raise ValueError(f"routes.{key}: a key is a scale, a task or scale/task")
            if not 0 <= expert < self.num_experts:
                raise ValueError(f"routes.{key}: there are experts 0 to {self.num_experts - 1}")
            if self.routing == "soft" and scale:
                raise ValueError(
                    f"routes.{key}: a gate begins with a scale or a task, not with both in one key"
                )
        if self.routing == "hard" and (idle := set(range(self.num_experts)) - {*self.all_routes.values()}):
            raise ValueError(f"routes: nothing is ever asked of expert {min(idle)}")
        return self

    @property
    def adapts(self) -> bool:
        return True

    @property
    def all_routes(self) -> dict[str, int]:
        """The rule of hard routing, and where the gate of soft routing begins."""
        if self.routing == "shared":
            return {}
        if self.routes or (self.routing == "soft" and not self.start_from):
            return self.routes
        return default_routes(self.num_experts)

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.samples, *self.slides, *self.start_from, *self.model.needs())))
