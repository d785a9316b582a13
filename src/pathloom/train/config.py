"""Entries of training stages. No torch here: a recipe is checked before anything heavy is loaded."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pathloom.masks import CLASSICAL
from pathloom.models.segment import check_segmenter, segmenter_fingerprint
from pathloom.models.slide_config import SlideTokens
from pathloom.schema import Record
from pathloom.stage import ModelRef, StageConfig
from pathloom.tasks import TASKS, find_task
from pathloom.tasks.task import Style
from pathloom.train.rewards import DEFAULT, Weights, check_weights, default_weights

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


def _check_tasks(weights: dict[str, float]) -> dict[str, float]:
    known = [task.name for task in TASKS]
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"no task {name!r}; known: {', '.join(known)}")
        if weight <= 0:
            raise ValueError(f"{name}: a weight is positive; leave the task out instead")
    return weights


Module = Literal["vision", "projector", "slide", "language"]
MODULES: tuple[Module, ...] = ("vision", "projector", "language")
"""The parts of a Qwen-VL model: the vision tower, the projector (its mergers), the language model. A model that reads
slides has a fourth, `slide`: their compressor and projector (models/slide.py).
"""


class LoraSettings(Record):
    """LoRA on the language tower (the vision tower shares module names, so the target is a regular expression)."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Replay(Record):
    """Knowledge replay: general data, or that of an earlier training, mixed in so that it is not forgotten.

    It is asked and turned as it was when it was first learnt, not as what is learnt now.
    """

    samples: tuple[str, ...] = Field(min_length=1, description="stages whose training Samples are repeated")
    share: float = Field(gt=0, lt=1, description="of the rows that are learnt")
    tasks: dict[str, float] = Field(default={}, description="task -> weight among them; empty: as they come")
    style: Style | None = Field(default=None, description="system prompt; default: that of the stage")
    augment: bool = Field(default=False, description="flips and right-angle turns, as in the stage's own key")


class TrainConfig(StageConfig):
    """Common keys of training stages.

    Samples of splits fold-0 ... fold-k give k models in sub-folders, each trained without its own fold.
    """

    added_later: ClassVar[tuple[str, ...]] = ("slides", "slide_tokens", "min_pixels")

    samples: tuple[str, ...] = Field(min_length=1, description="stages whose training Samples are learnt")
    model: ModelRef
    slides: tuple[str, ...] = Field(
        default=(), description="stages `embed_slides` that hold the slides' features"
    )
    slide_tokens: SlideTokens | None = Field(
        default=None,
        description="how a model that has not seen slides is to read them; default: as it does already",
    )
    tasks: dict[str, float] = Field(
        default={}, description="task -> weight in the mixture; empty: all as they come"
    )
    style: Style = "cot"
    trainable: tuple[Module, ...] = Field(
        default=MODULES,
        min_length=1,
        description="parts that learn, the others stay as they are; default: all. Beside `lora`, parts that learn "
        "whole with the adapters: projector, slide",
    )
    lora: LoraSettings | None = None
    augment: bool = Field(default=False, description="flips and right-angle turns, new in every epoch")
    min_pixels: int | None = Field(
        default=None,
        ge=784,
        description="area to which smaller pictures are enlarged; default: the model's own",
    )
    max_pixels: int | None = Field(
        default=None,
        ge=784,
        description="area to which larger pictures are resized; default: the model's own",
    )
    trainer: dict[str, Any] = Field(default={}, description="goes unchanged to TRL's config class")
    seed: int = 0

    @field_validator("tasks")
    @classmethod
    def _tasks_are_known(cls, weights: dict[str, float]) -> dict[str, float]:
        return _check_tasks(weights)

    @field_validator("trainer")
    @classmethod
    def _trainer_leaves_the_stage_its_keys(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in _OWNED:
            if key in trainer:
                raise ValueError(f"{key} is set by the stage; remove it")
        return trainer

    @model_validator(mode="after")
    def _adapters_or_modules(self) -> "TrainConfig":
        whole = set(self.trainable) if self.lora is not None and self.trainable != MODULES else set()
        if refused := sorted(whole - {"projector", "slide"}):
            raise ValueError(
                f"trainable: {', '.join(refused)} cannot learn whole beside LoRA, only projector and slide can"
            )
        return self

    @property
    def adapts(self) -> bool:
        """Whether adapters learn beside frozen weights, which may then be of half precision."""
        return self.lora is not None

    @model_validator(mode="after")
    def _slides_are_there_to_be_read(self) -> "TrainConfig":
        if self.slide_tokens is not None and not self.slides:
            raise ValueError("slide_tokens: name the stages `embed_slides` in `slides` that it is to read")
        if self.slides and self.trainer.get("use_vllm"):
            raise ValueError("trainer.use_vllm: vLLM's models read no slides; remove it")
        return self

    def needs(self) -> tuple[str, ...]:
        return (*self.samples, *self.slides, *self.model.needs())

    def kinds_needed(self) -> dict[str, str]:
        return dict.fromkeys(self.slides, "embed_slides")

    def fingerprint(self) -> str:
        """A changed task or model folder trains anew; where no tasks are named, any of them may be learnt."""
        named = self.named_tasks()
        versions = [(task.name, task.version) for task in TASKS if not named or task.name in named]
        return f"{versions} {self.model.fingerprint()}"

    def named_tasks(self) -> frozenset[str]:
        """All tasks that the Samples learnt can have; empty where the entry leaves that open."""
        return frozenset(self.tasks)

    def check(self) -> None:
        """The trainer block against TRL's own config class, before the first stage runs."""
        if self.trainer:
            from pathloom.train.sft import check_sft

            check_sft(self)


class SftConfig(TrainConfig):
    """Entry of a recipe: supervised fine-tuning of a model on Samples."""

    version: ClassVar[int] = 2
    added_later: ClassVar[tuple[str, ...]] = (*TrainConfig.added_later, "replay")

    kind: Literal["sft"]
    replay: Replay | None = Field(default=None, description="what is repeated so that it is not forgotten")

    @field_validator("replay")
    @classmethod
    def _replayed_tasks_are_known(cls, replay: Replay | None) -> Replay | None:
        if replay is not None:
            _check_tasks(replay.tasks)
        return replay

    def needs(self) -> tuple[str, ...]:
        replayed = self.replay.samples if self.replay else ()
        return tuple(dict.fromkeys((*self.samples, *replayed, *self.slides, *self.model.needs())))

    def named_tasks(self) -> frozenset[str]:
        if self.replay is None:
            return super().named_tasks()
        named = (frozenset(self.tasks), frozenset(self.replay.tasks))
        return named[0] | named[1] if all(named) else frozenset()


class PretrainConfig(TrainConfig):
    """Entry of a recipe: continued pre-training on pictures and their captions, the loss on the caption alone.

    Learns every caption Sample of `samples` and nothing else; `trainable: [projector]` is LLaVA's first stage.
    """

    version: ClassVar[int] = 1

    kind: Literal["pretrain"]
    tasks: dict[str, float] = Field(default={"caption": 1.0}, description="captions only")
    style: Style = Field(default="direct", description="captions have no reasoning")

    @field_validator("tasks")
    @classmethod
    def _captions_only(cls, weights: dict[str, float]) -> dict[str, float]:
        if set(weights) != {"caption"}:
            raise ValueError("pre-training learns captions; other tasks belong into an `sft` stage")
        return weights


class VisionConfig(TrainConfig):
    """Entry of a recipe: the vision tower and the projector alone, on labelled boxes and on answers in words.

    For models from random weights, before captions: each visual token learns the words, the place and the box of what
    it shows; all tokens of a picture together, the words of its finding and of the caption, choice, label or short
    answer that it has. With `augment`, pictures are turned with their boxes, so no word should name a place.
    """

    version: ClassVar[int] = 4

    kind: Literal["vision"]
    tasks: dict[str, float] = Field(
        default={"boxes": 1.0},
        description="task -> weight in the mixture; each with boxes or with truth in words",
    )
    trainable: tuple[Module, ...] = Field(default=("vision", "projector"), description="these two")
    fresh: bool = Field(
        default=False,
        description="forget what the tower and the projector have learnt: a small tower learns tissue sooner from "
        "random weights than after shapes",
    )
    speak: bool = Field(
        default=False,
        description="at the end, make visual tokens the sum of the language model's embeddings of the words they show",
    )

    @field_validator("lora")
    @classmethod
    def _no_adapters(cls, lora: LoraSettings | None) -> LoraSettings | None:
        if lora is not None:
            raise ValueError("a `vision` stage trains the vision tower and the projector, whole; remove it")
        return lora

    @model_validator(mode="after")
    def _tower_only(self) -> "VisionConfig":
        if self.slides:
            raise ValueError("slides: a `vision` stage learns from pictures; remove it")
        if set(self.trainable) != {"vision", "projector"}:
            raise ValueError("trainable: a `vision` stage trains the vision tower and the projector, whole")
        return self


# Keys of TRL's GRPOConfig that `reinforce` sets, with the key of the stage that decides; "" for none.
_OWNED_BY_REINFORCE = {
    "loss_type": "algorithm",
    "epsilon": "algorithm",
    "epsilon_high": "algorithm",
    "delta": "algorithm",
    "scale_rewards": "algorithm",
    "importance_sampling_level": "algorithm",
    "multi_objective_aggregation": "algorithm",
    "mask_truncated_completions": "overlong_cache",
    "beta": "kl_weight",
    "sync_ref_model": "kl_weight",
    "num_generations": "group_size",
    "num_generations_eval": "group_size",
    "max_completion_length": "max_new_tokens",
    "temperature": "temperature",
    "reward_weights": "rewards",
    "generation_kwargs": "",
    "shuffle_dataset": "",
    "ignore_data_skip": "",
    "save_only_model": "",
    "log_completions": "",
}


class ReinforceConfig(TrainConfig):
    """Entry of a recipe: reinforcement of a model with GRPO or DAPO; the reward reads the Task's own Score.

    grpo  KL to the starting model, ratios clipped at 1 -+ 0.2, loss averaged inside each answer first
          (arXiv 2402.03300 as restated in arXiv 2503.14476, section 2)
    dapo  no KL and no reference model, ratios clipped at 0.8 and 1.28, loss over all tokens of the batch, groups whose
          answers are all as good as each other sampled anew, overlong answers punished (arXiv 2503.14476, section 3)
    """

    version: ClassVar[int] = 2
    added_later: ClassVar[tuple[str, ...]] = (*TrainConfig.added_later, "segmenter")

    kind: Literal["reinforce"]
    algorithm: Literal["grpo", "dapo"] = "dapo"
    group_size: int = Field(default=8, ge=2, description="rollouts of one prompt, G")
    max_new_tokens: int = Field(default=128, ge=2, description="longest answer, in tokens")
    overlong_cache: int | None = Field(
        default=None,
        ge=1,
        description="last tokens of max_new_tokens over which `length` falls from 0 to -1; default: a quarter. Keep "
        "usual answers out of it: there, length gives every group variance and drowns what is right",
    )
    temperature: float = Field(default=1.0, gt=0)
    max_rounds: int = Field(
        default=10, ge=1, description="dapo: rounds of sampling for one batch at most (verl's bound)"
    )
    filter_by: Literal["accuracy", "reward"] = Field(
        default="accuracy",
        description="dapo: what must differ inside a group; accuracy is the reward without format and length",
    )
    kl_weight: float | None = Field(
        default=None, gt=0, description="grpo: weight of the KL; default: 0.001, verl's kl_loss_coef"
    )
    rewards: dict[str, dict[str, float]] = Field(
        default={},
        description="task or `default` -> part of its reward -> weight; a task that no rule decides is rewarded only "
        "where it is named, as in caption: {bleu4: 1}",
    )
    segmenter: str = Field(
        default=CLASSICAL,
        description="what draws the masks that boxes or points prompt, as models/segment.py names it",
    )

    @field_validator("trainer")
    @classmethod
    def _trainer_leaves_the_algorithm_its_keys(cls, trainer: dict[str, Any]) -> dict[str, Any]:
        for key in trainer:
            if key in _OWNED_BY_REINFORCE:
                ours = _OWNED_BY_REINFORCE[key]
                cure = f"use the stage's {ours}" if ours else "remove it"
                raise ValueError(f"{key} is set by the stage; {cure}")
        return trainer

    @model_validator(mode="after")
    def _settings_agree(self) -> "ReinforceConfig":
        if self.cache >= self.max_new_tokens:
            raise ValueError(
                f"overlong_cache: {self.cache} leaves no answer of max_new_tokens {self.max_new_tokens} unpunished"
            )
        if self.algorithm == "dapo" and self.kl_weight is not None:
            raise ValueError("kl_weight: DAPO has no KL term; remove it or set algorithm: grpo")
        try:
            check_weights(self.rewards, self.style)
        except ValueError as error:
            raise ValueError(f"rewards.{error}") from error
        for name in self.tasks:
            if not self.can_reward(name):
                part = find_task(name).rewards[0]
                raise ValueError(
                    f"tasks.{name}: no rule says whether an answer is right; leave it out, or say that likeness to the "
                    f"reference is rewarded: rewards: {{{name}: {{{part}: 1.0}}}}"
                )
        return self

    def can_reward(self, task: str) -> bool:
        """Whether a rule decides what is right, or the recipe names what is rewarded instead."""
        return find_task(task).checkable or task in self.rewards

    @property
    def cache(self) -> int:
        """Tokens at the end of max_new_tokens in which an answer is punished for its length."""
        return self.overlong_cache or max(self.max_new_tokens // 4, 1)

    @property
    def beta(self) -> float:
        """Weight of the KL term; 0 keeps no reference model in memory."""
        if self.algorithm == "dapo":
            return 0.0
        return 0.001 if self.kl_weight is None else self.kl_weight

    def weights(self, task: str) -> Weights:
        """Part of the reward -> weight for a task."""
        given = self.rewards.get(task) or self.rewards.get(DEFAULT)
        return given or default_weights(punish_length=self.algorithm == "dapo", style=self.style)

    def fingerprint(self) -> str:
        """A changed segmenter folder pays other answers."""
        return super().fingerprint() + segmenter_fingerprint(self.segmenter)

    def check(self) -> None:
        """The trainer block against TRL's own config class, before the first stage runs."""
        from pathloom.train.reinforce import check_reinforce

        check_segmenter(self.segmenter)
        check_reinforce(self)
