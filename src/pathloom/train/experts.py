"""Stage `experts`: a mixture of LoRA experts over a frozen model, begun as what earlier stages have learnt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image as PILImage
from torch import Tensor
from tqdm import tqdm

from pathloom.models.experts import (
    LAYER_KEY,
    attach_experts,
    balance_loss,
    layers_with_experts,
    recorded_logits,
    routed,
)
from pathloom.models.experts_config import Mixture, Route, expert_of, route_of
from pathloom.models.load import load_card, load_model
from pathloom.models.slide_ticket import picture_loader
from pathloom.schema import Image, Sample
from pathloom.slides.features import Shelf
from pathloom.stage import UserError
from pathloom.train.experts_config import ExpertsConfig
from pathloom.train.experts_start import Learnt, begin, begin_gates, learnt_since, taken_over
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
from pathloom.train.rows import Rows
from pathloom.train.sft import CURVE as SFT_CURVE
from pathloom.train.sft import SupervisedTrainer, sft_arguments

CURVE = {**SFT_CURVE, "balance": "balance"}
KEPT_ENOUGH = 0.95
"""Of an expert's squared norm: below, the stage says that the rank is too small. Our own choice."""
_NO_RNG_CLASH = 1
"""Told apart from the draws of `Rows`, which are seeded by (seed, epoch, row)."""


def run_experts(config: ExpertsConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one mixture into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest."""
    return run_by_fold(config, inputs, out, partial(train_one, inputs=inputs))


def train_one(
    config: ExpertsConfig,
    training: Sequence[Sample],
    base: str,
    out: Path,
    shelf: Shelf | None = None,
    *,
    inputs: Mapping[str, Path],
) -> dict[str, Any]:
    mixture = plan(config, training)
    starts = _starts(config, inputs, out)
    like, begun = begin_at(config, base, starts)
    model, processor = load_trainable(config, like, shelf, training)
    kept = mix_in(config, mixture, model, begun)
    del begun  # as large as several models
    rows = RoutedRows(config, mixture, training, picture_loader(model, processor))
    trainer = ExpertsTrainer(
        config,
        mixture,
        model=model,
        args=sft_arguments(config, out / CHECKPOINTS),
        train_dataset=Dataset.from_dict({"row": list(range(len(rows.samples)))}).with_transform(rows),
        processing_class=processor,
        callbacks=[FollowEpoch(rows), Progress(config, out)],
    )
    quiet(trainer)
    if config.trainer.get("max_steps") != 0:  # the trainer takes 0 for "as many as the epochs have"
        trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / CHECKPOINTS))
    counts = finish(trainer, config, base, rows.samples, out, CURVE)
    warnings = _sizes_apart(config, starts, processor)
    return counts | ({"share_kept": kept} if kept else {}) | ({"warnings": warnings} if warnings else {})


def plan(config: ExpertsConfig, training: Sequence[Sample]) -> Mixture:
    """The mixture of an entry, its gate's tables for the tasks of `training`.

    Raises UserError for a Sample that hard routing has no expert for.
    """
    routes = sorted({route_of(sample) for sample in training})
    if config.routing == "hard":
        for route in routes:
            try:
                expert_of(route, config.all_routes)
            except UserError as error:
                raise UserError(f"{config.name}.{error}") from error
    shared = config.routing == "shared"
    together = config.num_experts if shared else 1
    return Mixture(
        routing=config.routing,
        num_experts=1 if shared else config.num_experts,
        r=config.r * together,
        alpha=config.alpha * together,  # the same alpha / r
        top_k=config.top_k if config.routing == "soft" else None,
        gate_on=config.gate_on if config.routing == "soft" else (),
        token_gate=config.token_gate and config.routing == "soft",
        routes=config.all_routes,
        target_modules=config.target_modules,
        tasks=tuple(sorted({str(route.task) for route in routes})),
        names=() if shared else config.start_from,
    )


@dataclass(frozen=True)
class Begun:
    """What the stages of `start_from` have learnt, and the weights that the mixture is frozen at."""

    stages: Sequence[Learnt]
    frozen: Mapping[str, Tensor]


def begin_at(config: ExpertsConfig, base: str, starts: Mapping[str, str]) -> tuple[str, Begun]:
    """(folder to load, what to put into it); `starts` maps each stage of `start_from` to its model folder.

    The folder is the base's, or that of the stage which has a part that the base lacks, as that of slides. Raises
    UserError where a stage did not begin at the base or two changed the same part.
    """
    if not starts:
        return base, Begun((), {})
    before = load_model(base, dtype="float32")[0].state_dict()
    stages, like = [], base
    for stage, folder in starts.items():
        after = load_model(folder, dtype="auto")[0].state_dict()
        stages.append(learnt_since(stage, before, after, config.target_modules))
        if after.keys() - before.keys():
            like = folder
    return like, Begun(stages, {**before, **taken_over(stages)})


def mix_in(config: ExpertsConfig, mixture: Mixture, model: Any, begun: Begun) -> dict[str, float]:
    """Give a loaded model its frozen weights and its experts; returns stage -> share of the squared norm kept."""
    if begun.frozen:
        model.load_state_dict(begun.frozen, strict=False)  # parts of slides may be new
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        attach_experts(model, mixture)
    layers = layers_with_experts(model)
    kept = begin(layers, begun.stages, config.r, config.seed)
    begin_gates(layers, mixture, config.gate_start)
    for stage, share in kept.items():
        if share < KEPT_ENOUGH:
            tqdm.write(
                f"{config.name}: rank {config.r} keeps {share:.3f} of what {stage} has learnt (squared norm); a "
                "larger r keeps more"
            )
    return kept


def _starts(config: ExpertsConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Stage -> its model folder, that of the same fold in cross-validation."""
    folders = {}
    for stage in config.start_from:
        of_fold = inputs[stage] / out.name
        folders[stage] = str(of_fold if of_fold.is_dir() else inputs[stage])
    return folders


def _sizes_apart(config: ExpertsConfig, starts: Mapping[str, str], processor: Any) -> list[str]:
    """What to tell of stages that saw pictures of another size than the mixture will, where the entry names none."""
    size = processor.image_processor.size  # areas
    own = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    cards = {stage: load_card(folder) for stage, folder in starts.items()}
    return [
        f"{stage} was shown pictures with {key} {getattr(card, key):,}, and the mixture is shown them with {area:,}: "
        f"set {key}"
        for key, area in own.items()
        if getattr(config, key) is None
        for stage, card in cards.items()
        if card is not None and getattr(card, key) != area
    ]


class RoutedRows(Rows):
    """Rows with the route of each, as the two places in the gate's tables.

    A share of rows hides its task or task and scale, so that the gate learns what to do where nobody says them; which
    ones depends on (seed, epoch, row) alone.
    """

    def __init__(
        self,
        config: ExpertsConfig,
        mixture: Mixture,
        samples: Sequence[Sample],
        load: Callable[[Image], PILImage.Image],
    ) -> None:
        super().__init__(samples, config.style, augment=config.augment, seed=config.seed, load=load)
        self.mixture = mixture
        self.unknown_share = config.unknown_share if config.routing == "soft" else 0.0

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        return {**super().__call__(batch), "route": [self.route(index) for index in batch["row"]]}

    def route(self, index: int) -> tuple[int, int]:
        scale, task = self.mixture.ids(route_of(self.samples[index]))
        drawn = np.random.default_rng([self.seed, self.epoch, index, _NO_RNG_CLASH]).random()
        if drawn >= self.unknown_share:
            return scale, task
        return (0 if drawn < self.unknown_share / 2 else scale), 0


class CollatesRoutes:
    """TRL's collator drops columns that it does not know: this one carries the route around it, [rows, 2]."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Any:
        batch = self.collator([dict(example) for example in examples])
        batch["routes"] = torch.tensor([example["route"] for example in examples])
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["collator"], name)


class ExpertsTrainer(SupervisedTrainer):
    """Learns with the rows' routes around each pass; the gate has its own learning rate and its balance counts."""

    def __init__(self, config: ExpertsConfig, mixture: Mixture, **given: Any) -> None:
        super().__init__(**given)
        self.config, self.mixture = config, mixture
        self.data_collator: Any = CollatesRoutes(self.data_collator)

    def training_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Tensor:
        # around the backward pass too: with activation checkpointing it runs the layers again
        with routed(model, self._routes(inputs)):
            return super().training_step(model, inputs, *arguments, **options)

    def _routes(self, inputs: Any) -> list[Route]:
        return [self.mixture.route(scale, task) for scale, task in inputs.pop("routes").tolist()]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with recorded_logits(model) as logits:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not logits or return_outputs:
            return loss
        mask = inputs["attention_mask"] if self.mixture.token_gate else None
        balance = balance_loss(logits, self.mixture.top_k, mask)
        self._metrics["train"]["balance"].append(balance.item())
        # with the number of items the trainer leaves the mean over accumulated batches to the loss, as in TRL's own
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        return loss + self.config.balance_weight * balance / steps

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        optimizer = super().create_optimizer(*arguments, **options)
        gates = {
            id(parameter)
            for name, parameter in self.model.named_parameters()
            if f"{LAYER_KEY}gate." in name and parameter.requires_grad
        }
        fast = []
        for group in optimizer.param_groups:
            fast += [parameter for parameter in group["params"] if id(parameter) in gates]
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gates]
        if fast:
            rate = self.config.gate_speed * optimizer.param_groups[0]["lr"]
            optimizer.add_param_group({"params": fast, "lr": rate, "weight_decay": 0.0})
        return optimizer
