"""Stage `sft`: supervised fine-tuning over TRL's SFTTrainer, full or LoRA, resumed from its last whole checkpoint.

Stage `pretrain` is the same on captions alone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import SFTConfig as TrlSftConfig
from trl import SFTTrainer

from pathloom.models.slide_ticket import picture_loader
from pathloom.schema import Sample
from pathloom.slides.features import Shelf
from pathloom.train.config import PretrainConfig, SftConfig, TrainConfig
from pathloom.train.loop import (
    CHECKPOINTS,
    FollowEpoch,
    Progress,
    ResumesWholeModels,
    check_trainer_block,
    finish,
    last_whole_checkpoint,
    load_trainable,
    quiet,
    run_by_fold,
    trainer_settings,
)
from pathloom.train.parts import lora_config
from pathloom.train.rows import NOTHING, Replayed, Rows

CURVE = {"loss": "loss", "mean_token_accuracy": "token_accuracy", "learning_rate": "learning_rate"}


def check_sft(config: TrainConfig) -> None:
    """Raise UserError for a `trainer` block that TRL's SFTConfig does not take."""
    check_trainer_block(config, TrlSftConfig, lambda folder: sft_arguments(config, folder))


def run_sft(config: SftConfig | PretrainConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest."""
    return run_by_fold(config, inputs, out, train_one)


def train_one(
    config: TrainConfig,
    training: Sequence[Sample],
    base: str,
    out: Path,
    replayed: Replayed = NOTHING,
    shelf: Shelf | None = None,
) -> dict[str, Any]:
    model, processor = load_trainable(config, base, shelf, training)
    rows = Rows(
        training,
        config.style,
        augment=config.augment,
        seed=config.seed,
        replayed=replayed,
        load=picture_loader(model, processor),
    )
    trainer = SupervisedTrainer(
        model=model,
        args=sft_arguments(config, out / CHECKPOINTS),
        train_dataset=Dataset.from_dict({"row": list(range(len(rows.samples)))}).with_transform(rows),
        processing_class=processor,
        peft_config=lora_config(config, model),
        callbacks=[FollowEpoch(rows), Progress(config, out)],
    )
    quiet(trainer)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / CHECKPOINTS))
    return finish(trainer, config, base, rows.samples, out, CURVE, num_replayed=len(replayed.samples))


class SupervisedTrainer(ResumesWholeModels, SFTTrainer):
    """TRL's trainer, whose checkpoints of a whole model come back when a run is resumed."""


def sft_arguments(config: TrainConfig, folder: Path) -> TrlSftConfig:
    # truncation would cut a picture's tokens in two
    return TrlSftConfig(**{**trainer_settings(config, folder), "max_length": None})
