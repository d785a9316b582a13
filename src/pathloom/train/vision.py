"""Stage `vision`: the vision tower and the projector learn what lies where, before a language model has to read it.

Each visual token is asked by a linear head, which is thrown away afterwards, for the words, the place and the box of
the region that it shows, and the tokens' mean for the words of the Sample's finding and answer. Hundreds of answers a
picture, and none of them through a language model: a small tower from random weights learns from a few thousand
pictures what captions alone do not teach it in many times as long (docs/log.md).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Trainer

from pathloom.models.nano import renew_tower
from pathloom.schema import Sample
from pathloom.stage import UserError
from pathloom.train.config import VisionConfig
from pathloom.train.loop import (
    CHECKPOINTS,
    FollowEpoch,
    Progress,
    finish,
    last_whole_checkpoint,
    load_trainable,
    quiet,
    run_by_fold,
)
from pathloom.train.sft import sft_arguments
from pathloom.train.sights import (
    IN_WORDS,
    Batches,
    Turned,
    pool,
    sights_of,
    tells,
    vocabulary,
)
from pathloom.train.speaking import speak

CURVE = {"loss": "loss", "learning_rate": "learning_rate"}
BOX_WEIGHT = 4.0
"""Of the boxes' loss beside the words', so that both fall together; our choice."""


def run_vision(config: VisionConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest."""
    return run_by_fold(config, inputs, out, train_tower)


def train_tower(config: VisionConfig, training: Sequence[Sample], base: str, out: Path) -> dict[str, Any]:
    model, processor = load_trainable(config, base)
    if config.fresh:
        renew_tower(model, config.seed)
    telling = [sample for sample in training if tells(sample)]
    silent = {sample.task for sample in training} - {sample.task for sample in telling}
    if silent:
        raise UserError(
            f"{config.name}.tasks: no training Sample of {', '.join(sorted(silent))} has boxes, a finding, or an "
            f"answer in words ({', '.join(IN_WORDS)}); leave the task out"
        )
    sights = sights_of(telling)
    pictures = [picture for sight in sights for picture in sight]
    rows = Turned(sights, augment=config.augment, seed=config.seed)
    batches = Batches(processor.image_processor, vocabulary(pictures, config.name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tower = Tower(model, batches)
    trainer = Trainer(
        model=tower,
        args=sft_arguments(config, out / CHECKPOINTS),
        train_dataset=rows,
        data_collator=batches,
        processing_class=processor,
        callbacks=[FollowEpoch(rows), Progress(config, out)],
    )
    quiet(trainer)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / CHECKPOINTS))
    trainer.model = model  # without the head
    counts = {
        "samples_that_tell_nothing": len(training) - len(telling),
        "words": len(batches.vocabulary.shares),
        "words_too_rare": len(batches.vocabulary.rare),
    }
    if config.speak:
        model.to(trainer.args.device)
        counts |= speak(model, processor.tokenizer, batches, pictures, config.seed)
    return finish(trainer, config, base, telling, out, CURVE) | counts


class Tower(nn.Module):
    """The vision tower and projector of a Qwen-VL model with the head that asks them."""

    def __init__(self, model: Any, batches: Batches) -> None:
        super().__init__()
        self.visual = model.model.visual
        width = model.config.vision_config.out_hidden_size
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, len(batches.vocabulary.shares))
        self.box = nn.Linear(width, 4)
        with torch.no_grad():  # start at how common each word is, as nearly all targets are zero
            self.words.bias.copy_(
                torch.tensor(list(batches.vocabulary.shares.values())).clamp(1e-4, 0.99).logit()
            )

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """The trainer calls this where `activation_checkpointing` is set, as it is by default on a GPU."""
        self.visual.activation_checkpointing_enable(**settings)

    def forward(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        tokens: Tensor,
        num_tokens: Tensor,
        words: Tensor,
        told: Tensor,
        boxes: Tensor,
        shows: Tensor,
        whole: Tensor,
    ) -> dict[str, Tensor]:
        """Loss: cross-entropy of the words that are told, summed, plus that of the boxes of tokens that show one."""
        output = self.visual(pixel_values, grid_thw=image_grid_thw)
        seen = self.norm(sum(getattr(output, "deepstack_features", ()), output.pooler_output))[tokens]
        logits = pool(self.words(seen).float(), whole, num_tokens)
        loss = functional.binary_cross_entropy_with_logits(logits, words, reduction="none")
        loss = (loss * told).sum(dim=1).mean()
        if shows.any():
            error = functional.smooth_l1_loss(self.box(seen[shows]), boxes[shows], beta=0.05)
            loss = loss + BOX_WEIGHT * error
        return {"loss": loss}
