"""Stage `vision`: the vision tower and the projector learn what lies where, before a language model has to read it.

Each visual token is asked by a linear head, which is thrown away afterwards, for the words of the region that it shows
and for that region's box; of a Sample without boxes, the tokens' mean is asked for the words of its finding and answer.
Hundreds of answers a picture, and none of them through a language model: a small tower from random weights learns from
a few thousand pictures what captions alone do not teach it in many times as long (docs/log.md).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer

from pathloom.images import load_pixels
from pathloom.models.nano import number_ids, projector_layer, renew_tower
from pathloom.schema import Image, Region, Sample
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
from pathloom.train.rows import turned
from pathloom.train.sft import sft_arguments

CURVE = {"loss": "loss", "learning_rate": "learning_rate"}
_WORD = re.compile(r"[^\W_]+(?:[&'\u2019./-][^\W_]+)*")
IN_WORDS = ("caption", "choice", "label")
"""Tasks whose answer is words that can be seen in the picture, whatever was asked."""
LEAST_COMMON = 0.01
"""Share of a source's labels or answers that must hold a word for the tower to learn it; our choice."""
LEAST_SHARE = 0.1
"""Share of a token's cell that a region's box must cover to be what the token shows; our choice."""
_WAVES = 24
"""Leading directions of the numbers' embeddings: as many as a nano model starts with (`wiring.wire_numbers`)."""
_NUM_FITTED = 1000
"""Pictures at most, evenly out of all; our choice."""
_FITTED_AT_ONCE = 50
_RIDGE = 1e-3
"""Of the mean square of an input; our choice."""
BOX_WEIGHT = 4.0
"""Of the boxes' loss beside the words', so that both fall together; our choice."""


def run_vision(config: VisionConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Train one model into `out`, or one a fold into `out`/fold-k. Returns counts for the manifest."""
    return run_by_fold(config, inputs, out, train_tower)


def train_tower(config: VisionConfig, training: Sequence[Sample], base: str, out: Path) -> dict[str, Any]:
    model, processor = load_trainable(config, base)
    if config.fresh:
        renew_tower(model, config.seed)
    pictures = [picture for sample in training for picture in pictures_of(sample, config.name)]
    rows = Turned(pictures, augment=config.augment, seed=config.seed)
    batches = Batches(processor.image_processor, *vocabulary(pictures, config.name))
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
    if config.speak:
        speak(model, processor.tokenizer, batches, pictures[:: -(-len(pictures) // _NUM_FITTED)])
    return finish(trainer, config, base, training, out, CURVE)


@dataclass(frozen=True)
class Picture:
    """An image with what is known of it: its regions, or words about the whole of it.

    Pictures of one `source` are told about in the same words: what is not said of one of them is not there.
    """

    image: Image
    source: str
    regions: tuple[Region, ...] = ()
    words: frozenset[str] = frozenset()
    turn: int = 0


def pictures_of(sample: Sample, stage: str) -> list[Picture]:
    """Each image with its own regions, or for a Sample without boxes with the words of its finding and answer.

    Raises UserError for a Sample that has neither, such as a count.
    """
    source = f"{sample.origin.source} {sample.task}"
    if sample.task == "boxes":
        return [
            Picture(image, source, tuple(region for region in sample.regions if region.image == index))
            for index, image in enumerate(sample.images)
        ]
    words = words_of(sample.finding) | words_of(sample.answer if sample.task in IN_WORDS else None)
    if not words:
        raise UserError(
            f"{stage}.tasks: sample {sample.id}, a {sample.task} of {sample.origin.source}, has neither boxes nor a "
            "finding nor an answer in words that could be seen; leave the task out"
        )
    return [Picture(image, source, words=words) for image in sample.images]


class Turned(Dataset[Picture]):
    """The training pictures. With `augment`, those without regions are turned, by (seed, epoch, place) alone."""

    def __init__(self, pictures: Sequence[Picture], *, augment: bool, seed: int) -> None:
        self.pictures = pictures
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Picture:
        picture = self.pictures[index]
        if not self.augment or picture.regions:
            return picture
        return replace(picture, turn=int(np.random.default_rng([self.seed, self.epoch, index]).integers(8)))


def vocabulary(pictures: Sequence[Picture], stage: str) -> tuple[dict[str, float], dict[str, frozenset[str]]]:
    """Word -> the share of labels and answers that hold it, and source -> the words that its pictures are told about.

    Words in less than LEAST_COMMON of a source's answers are left out. Raises UserError where no word is left.
    """
    said: dict[str, list[frozenset[str]]] = {}
    for picture in pictures:
        of_regions = [words_of(region.label) for region in picture.regions]
        said.setdefault(picture.source, []).extend([picture.words] if picture.words else of_regions)
    counts = {source: Counter(word for words in labels for word in words) for source, labels in said.items()}
    told = {
        source: frozenset(word for word, count in of.items() if count >= LEAST_COMMON * len(said[source]))
        for source, of in counts.items()
    }
    shares = {
        word: sum(counts[source][word] for source in sources) / sum(len(said[source]) for source in sources)
        for word in sorted(frozenset().union(*told.values()))
        if (sources := [source for source, words in told.items() if word in words])
    }
    if not shares:
        raise UserError(f"{stage}: no region of the training Samples has a label, so there is nothing to see")
    return shares, told


def words_of(text: str | None) -> frozenset[str]:
    """Words of a label or an answer without the punctuation around them; case stays, as the tokenizer tells it."""
    return frozenset(_WORD.findall(text or ""))


@dataclass
class Batches:
    """The collator: pictures in; patches, and for each visual token its words, which of them its picture is told
    about, its box, whether it shows a region, and whether its words are of the whole picture, out.

    `words` and `told` are those of `vocabulary`.
    """

    image_processor: Any
    words: Mapping[str, float]
    told: Mapping[str, frozenset[str]]

    def __call__(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        pixels = [turned(load_pixels(picture.image), picture.turn) for picture in pictures]
        batch = self.image_processor(images=pixels, return_tensors="pt")
        merge = self.image_processor.merge_size
        targets = [
            self._targets(picture, image.size, (int(rows) // merge, int(columns) // merge))
            for picture, image, (_, rows, columns) in zip(
                pictures, pixels, batch["image_grid_thw"], strict=True
            )
        ]
        names = ("words", "told", "boxes", "shows", "whole")
        parts = zip(*targets, strict=True)
        return {**batch, **{name: torch.cat(part) for name, part in zip(names, parts, strict=True)}}

    def _targets(
        self, picture: Picture, size_px: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        words, boxes, shows = region_targets(picture.regions, size_px, grid, list(self.words))
        words += torch.tensor([float(word in picture.words) for word in self.words])
        told = torch.tensor([word in self.told[picture.source] for word in self.words])
        whole = torch.full_like(shows, bool(picture.words))
        return words, told.expand_as(words), boxes, shows, whole


def region_targets(
    regions: Sequence[Region], size_px: tuple[int, int], grid: tuple[int, int], words: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """What the visual tokens of one picture show, in reading order, where `size_px` is (width, height) of the picture
    and `grid` its (rows, columns) of tokens.

    words [tokens, words] 0 or 1, boxes [tokens, 4] as shares of width and height, shows [tokens] bool. Of several
    regions a token shows the one that covers most of it.
    """
    rows, columns = grid
    width_px, height_px = size_px
    cell = torch.tensor([width_px / columns, height_px / rows])
    corners = torch.stack(
        [torch.arange(columns).repeat(rows), torch.arange(rows).repeat_interleave(columns)], dim=1
    )
    low = corners * cell  # [tokens, 2]
    is_word = torch.zeros(rows * columns, len(words))
    boxes = torch.zeros(rows * columns, 4)
    most = torch.full((rows * columns,), LEAST_SHARE)
    for region in regions:
        box = torch.tensor(region.box_px)
        sides = (torch.minimum(box[2:], low + cell) - torch.maximum(box[:2], low)).clamp(min=0)
        share = sides.prod(dim=1) / cell.prod()
        covers = share > most
        most = torch.where(covers, share, most)
        said = words_of(region.label)
        is_word[covers] = torch.tensor([float(word in said) for word in words])
        boxes[covers] = box / torch.tensor([width_px, height_px, width_px, height_px])
    return is_word, boxes, most > LEAST_SHARE


@torch.no_grad()
def speak(model: Any, tokenizer: Any, batches: Batches, pictures: Sequence[Picture]) -> None:
    """Refit the projector's last layer so that a visual token is the sum of the embeddings of the words that it shows.

    A language model that has learnt to copy and to compare words can then do so with what it sees. Where the tokenizer
    has all numbers from 0 to 1000, the four sides of the box are added, each as the place of its number among the
    numbers' embeddings, turned into directions of its own. Ridge regression on `pictures` in closed form, from the
    layer's inputs, for each word on those pictures that are told about it, over a picture's mean where it is about the
    whole. What the layer gave before is added in the directions that are left, as long as an embedding.
    """
    model.eval()
    embeddings = model.get_input_embeddings().weight
    mean = embeddings.mean(dim=0)
    said = torch.stack(  # [words, width]
        [
            embeddings[tokenizer.encode(f" {word}", add_special_tokens=False)].mean(dim=0)
            for word in batches.words
        ]
    )
    said -= mean
    sides = side_embeddings(embeddings, number_ids(tokenizer), said)  # [4, numbers, width]
    layers = [projector_layer(merger) for merger in projectors(model)]
    seen: dict[nn.Linear, list[Tensor]] = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: seen[layer].append(given[0])) for layer in layers
    ]
    shown: list[dict[str, Tensor]] = []
    for start in range(0, len(pictures), _FITTED_AT_ONCE):
        some = pictures[start : start + _FITTED_AT_ONCE]
        batch = {name: values.to(model.device) for name, values in batches(some).items()}
        grids = batch.pop("image_grid_thw")
        model.model.visual(batch.pop("pixel_values"), grid_thw=grids)
        for given in seen.values():
            given[-1] = pool(given[-1].float(), batch["whole"], grids, batches.image_processor.merge_size)
        shown.append(batch)
    for hook in hooks:
        hook.remove()
    targets = {name: torch.cat([batch[name] for batch in shown]) for name in shown[0]}
    fits = [  # which tokens, and what they mean [tokens, width]
        (targets["told"][:, alike[0]], targets["words"][:, alike] @ said[alike])
        for alike in _told_alike(batches)
    ]
    for side, places in zip(targets["boxes"].T, sides, strict=False):
        meant = places[(side * (len(places) - 1)).round().long()]
        fits.append((~targets["whole"], targets["shows"][:, None] * meant))
    used = torch.linalg.qr(torch.cat([said, *(places[:: len(places) // _WAVES] for places in sides)]).T)[0]
    length = (embeddings - mean).norm(dim=1).mean()
    for layer, given in seen.items():
        inputs = torch.cat(given).float()
        centre = inputs.mean(dim=0)
        weight = layer.weight - used @ (used.T @ layer.weight)
        weight *= length / functional.linear(inputs - centre, weight).norm(dim=1).mean().clamp(min=1e-6)
        bias = -weight @ centre
        if layer is layers[0]:
            bias += mean
            for rows, meant in fits:
                if rows.any():
                    slope, offset = _ridge(inputs[rows], meant[rows])
                    weight += slope
                    bias += offset
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def pool(values: Tensor, whole: Tensor, image_grid_thw: Tensor, merge_size: int) -> Tensor:
    """`values` [tokens, any], where those of tokens that are `whole` [tokens] give way to the mean of their picture."""
    num_tokens = image_grid_thw.prod(dim=1) // merge_size**2
    picture = torch.arange(len(num_tokens), device=values.device).repeat_interleave(num_tokens)
    sums = values.new_zeros(len(num_tokens), values.shape[1]).index_add(0, picture, values)
    means = (sums / num_tokens[:, None])[picture]
    return torch.where(whole[:, None], means, values)


def _told_alike(batches: Batches) -> list[list[int]]:
    """Positions of the words, those together that the same sources tell."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for position, word in enumerate(batches.words):
        groups.setdefault(tuple(word in words for words in batches.told.values()), []).append(position)
    return list(groups.values())


def _ridge(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(slope [outputs, inputs], offset [outputs]) of least squares with _RIDGE on the slope."""
    centre, mean = inputs.mean(dim=0), outputs.mean(dim=0)
    gram = (inputs - centre).T @ (inputs - centre)
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    slope = torch.linalg.solve(gram + ridge, (inputs - centre).T @ (outputs - mean)).T
    return slope, mean - slope @ centre


def side_embeddings(embeddings: Tensor, numbers: Mapping[int, int], said: Tensor) -> list[Tensor]:
    """For left, top, right and bottom: number -> the place that its embedding tells, in directions of that side alone.

    Each [numbers, width]; empty without number tokens or
    without directions enough. The place is what numbers have in common with their neighbours:
    the leading directions of their embeddings. Sides are orthogonal to each other and to the words.
    """
    width = embeddings.shape[1]
    if not numbers or len(said) + 4 * _WAVES > width:
        return []
    line = embeddings[[numbers[number] for number in sorted(numbers)]]
    line = line - line.mean(dim=0)
    leading = torch.linalg.svd(line, full_matrices=False).Vh[:_WAVES]  # [waves, width]
    place = line @ leading.T
    free = torch.linalg.qr(torch.cat([said.T, torch.eye(width, device=said.device)], dim=1))[0][
        :, len(said) :
    ]
    return [place @ free[:, side * _WAVES : (side + 1) * _WAVES].T for side in range(4)]


def projectors(model: Any) -> list[nn.Module]:
    """The merger at the end of the vision tower, then those of Qwen3-VL's deep features."""
    return [model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", ())]


class Tower(nn.Module):
    """The vision tower and projector of a Qwen-VL model with the head that asks them."""

    def __init__(self, model: Any, batches: Batches) -> None:
        super().__init__()
        self.visual = model.model.visual
        width = model.config.vision_config.out_hidden_size
        self.merge_size = batches.image_processor.merge_size
        self.norm = nn.LayerNorm(width)
        self.words = nn.Linear(width, len(batches.words))
        self.box = nn.Linear(width, 4)
        with torch.no_grad():  # start at how common each word is, as nearly all targets are zero
            self.words.bias.copy_(torch.tensor(list(batches.words.values())).clamp(1e-4, 0.99).logit())

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        """The trainer calls this where `activation_checkpointing` is set, as it is by default on a GPU."""
        self.visual.activation_checkpointing_enable(**settings)

    def forward(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        words: Tensor,
        told: Tensor,
        boxes: Tensor,
        shows: Tensor,
        whole: Tensor,
    ) -> dict[str, Tensor]:
        """Loss: cross-entropy of the words that are told, summed, plus that of the boxes of tokens that show one."""
        output = self.visual(pixel_values, grid_thw=image_grid_thw)
        seen = self.norm(sum(getattr(output, "deepstack_features", ()), output.pooler_output))
        logits = pool(self.words(seen), whole, image_grid_thw, self.merge_size)
        loss = functional.binary_cross_entropy_with_logits(logits, words, reduction="none")
        loss = (loss * told).sum(dim=1).mean()
        if shows.any():
            error = functional.smooth_l1_loss(self.box(seen[shows]), boxes[shows], beta=0.05)
            loss = loss + BOX_WEIGHT * error
        return {"loss": loss}
