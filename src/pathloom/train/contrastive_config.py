"""Entries of the stages `webdataset` and `contrastive`. No torch here, as in every file of entries."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pathloom.schema import Record
from pathloom.stage import StageConfig, UserError, files_of


def _each_once(stages: tuple[str, ...]) -> tuple[str, ...]:
    for stage in stages:
        if stages.count(stage) > 1:
            raise ValueError(f"{stage} stands twice, and its pairs would be there twice; name it once")
    return stages


class WebdatasetConfig(StageConfig):
    """Entry of a recipe: the training pairs of earlier stages as WebDataset shards, for this or any other trainer."""

    version: ClassVar[int] = 1

    kind: Literal["webdataset"]
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages whose caption Samples of split train are written"
    )
    per_shard: int = Field(default=5000, ge=1, le=9999, description="pairs in one tar; Patho-R1's number")
    max_side_px: int | None = Field(
        default=None,
        ge=32,
        description="larger pictures are made smaller, which is faster to read; default: as they are",
    )

    _no_stage_twice = field_validator("samples")(_each_once)

    def needs(self) -> tuple[str, ...]:
        return self.samples


class ClipRef(Record):
    """Where contrastive training starts: one of

    preset      a small model from random weights, its tokenizer trained on the captions
    stage       an earlier `contrastive` stage
    folder      a folder that open_clip opens as local-dir
    open_clip   a name of open_clip.list_models() or hf-hub:ORG/NAME; `pretrained` is a tag or a file, none: random
    """

    preset: str | None = None
    stage: str | None = None
    folder: str | None = None
    open_clip: str | None = None
    pretrained: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "ClipRef":
        if sum(value is not None for value in (self.preset, self.stage, self.folder, self.open_clip)) != 1:
            raise ValueError("give exactly one of preset, stage, folder and open_clip")
        if self.pretrained is not None and self.open_clip is None:
            raise ValueError("pretrained: stands beside open_clip only; the others bring their weights")
        if (self.open_clip or "").startswith("local-dir:"):  # its files would be no part of the stage's key
            raise ValueError("open_clip: a folder is given as `folder`, without local-dir:")
        return self

    def needs(self) -> tuple[str, ...]:
        return (self.stage,) if self.stage else ()

    def fingerprint(self) -> str:
        """Names, sizes and times of a folder's files, or of a file of weights; "" for what the entry says itself."""
        place = self.folder or self.pretrained
        return "" if place is None or not Path(place).exists() else files_of(Path(place))


class ContrastiveConfig(StageConfig):
    """Entry of a recipe: CLIP or SigLIP training of an open_clip model on WebDataset shards.

    Patho-R1 prints no hyper-parameters of PathoCLIP: the defaults are stand-ins, those that open_clip's own README and
    CLIP (Radford et al. 2021, table 20) use. The numbers of a run depend neither on `workers`
    nor, but for rounding, on `processes`.
    """

    version: ClassVar[int] = 1

    kind: Literal["contrastive"]
    shards: tuple[str, ...] = Field(min_length=1, description="stages `webdataset`")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="stage -> how often its pairs are seen in one epoch; default: once each"
    )
    model: ClipRef
    words_of: tuple[str, ...] = Field(
        default=(),
        description="further stages `webdataset` whose captions a preset's tokenizer is made for, though its weights "
        "never see them: a published tokenizer knows the words of later stages too",
    )
    loss: Literal["clip", "siglip"] = "clip"
    batch_size: int = Field(default=64, ge=2, description="pairs in one step, over all processes")
    epochs: float | None = Field(default=None, gt=0, description="over the pairs; or max_steps")
    max_steps: int | None = Field(default=None, ge=1, description="or epochs")
    learning_rate: float = Field(default=1e-5, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.2, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-6, gt=0)
    grad_clip: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    precision: Literal["fp32", "bf16", "amp_bf16"] | None = Field(
        default=None, description="default: amp_bf16 on a GPU, fp32 on a CPU"
    )
    accumulate: int = Field(
        default=1, ge=1, description="a step's batch in so many parts, with all its negatives"
    )
    grad_checkpointing: bool = False
    lock_image: bool = Field(
        default=False, description="the image tower stays as it is (LiT, arXiv 2111.07991)"
    )
    crop_scale: tuple[float, float] = Field(
        default=(0.9, 1.0), description="share of a picture that a training crop keeps; open_clip's default"
    )
    workers: int = Field(
        default=0, ge=0, description="processes that read pictures, for each training process"
    )
    processes: int = Field(
        default=1, ge=1, description="training processes on this machine, one a GPU (torchrun)"
    )
    save_steps: int = Field(default=500, ge=1, description="a killed run goes on from the last of these")
    log_steps: int = Field(default=10, ge=1)
    seed: int = 0

    _no_stage_twice = field_validator("shards")(_each_once)

    @field_validator("crop_scale")
    @classmethod
    def _is_a_share(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"{list(scale)}: smallest and largest share, 0 < smallest <= largest <= 1")
        return scale

    @model_validator(mode="after")
    def _lengths_agree(self) -> "ContrastiveConfig":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give epochs or max_steps, and not both")
        for name in self.weights:
            if name not in self.shards:
                raise ValueError(f"weights.{name}: is not among shards; they are {', '.join(self.shards)}")
        if self.words_of and self.model.preset is None:
            raise ValueError("words_of: only a preset's tokenizer is made here; remove it")
        if self.batch_size % (self.processes * self.accumulate):
            raise ValueError(
                f"batch_size: {self.batch_size} is no multiple of processes x accumulate, "
                f"{self.processes} x {self.accumulate}"
            )
        return self

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.shards, *self.words_of, *self.model.needs())))

    def check(self) -> None:
        """Raises UserError without open_clip, and for a preset, name, tag or folder that cannot be trained from."""
        if find_spec("open_clip") is None:
            raise UserError(f"{self.name}: training needs the extra `embed`: pip install 'pathloom[embed]'")
        from pathloom.models.clip import LOCAL, check_clip
        from pathloom.models.clip_presets import find_clip_preset

        ref = self.model
        try:
            if ref.preset is not None:
                find_clip_preset(ref.preset)
            elif ref.stage is None:
                check_clip(ref.open_clip or f"{LOCAL}{ref.folder}", ref.pretrained)
        except (UserError, ValueError) as error:
            raise UserError(f"{self.name}.model: {error}") from error

    def kinds_needed(self) -> dict[str, str]:
        kinds = dict.fromkeys((*self.shards, *self.words_of), "webdataset")
        return {**kinds, **dict.fromkeys(self.model.needs(), "contrastive")}

    def keyed(self) -> dict[str, Any]:
        """What changes no number stands outside."""
        machine = ("workers", "processes", "save_steps", "log_steps")
        return {key: value for key, value in super().keyed().items() if key not in machine}

    def fingerprint(self) -> str:
        return self.model.fingerprint()
