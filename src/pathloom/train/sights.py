"""What a vision tower is asked: Samples to pictures, their words, and the targets of each visual token.

A token of a picture with boxes is asked for the words, the place and the box of the region that it shows; the tokens of
a picture with a finding or an answer in words together, for those. Of a Sample that has both, the tower sees the image
once and is asked for both.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pathloom.images import load_pixels
from pathloom.phantom.shapes import place
from pathloom.schema import Box, Image, Region, Sample
from pathloom.stage import UserError
from pathloom.train.rows import turned

_WORD = re.compile(r"[^\W_]+(?:[&'\u2019./-][^\W_]+)*")
IN_WORDS = ("caption", "choice", "label", "short_answer")
"""Tasks whose answer is words that can be seen in the picture."""
LEAST_COMMON = 0.01
"""Share of a source's captions that must hold a word for the tower to learn it; our choice."""
LEAST_SHARE = 0.1
"""Share of a token's cell that a region's box must cover to be what the token shows; our choice."""


@dataclass(frozen=True)
class Picture:
    """An image with one thing that is known of it: its regions, or words about the whole of it.

    `told` are the words of which it is known whether they fit; None where those are all words of its `source`, that is,
    where what is not said is not there.
    """

    image: Image
    source: str
    regions: tuple[Region, ...] = ()
    words: frozenset[str] = frozenset()
    told: frozenset[str] | None = None
    turn: int = 0

    def turned(self, turn: int) -> "Picture":
        """With one of the eight turns of `pathloom.train.rows.turned`, boxes and all."""
        size_px = (self.image.width_px, self.image.height_px)
        regions = tuple(
            region.model_copy(update={"box_px": turned_box(region.box_px, size_px, turn)})
            for region in self.regions
        )
        return replace(self, regions=regions, turn=turn)


Sight = tuple[Picture, ...]
"""All that is known of one image of one Sample."""


def tells(sample: Sample) -> bool:
    """Whether a Sample has boxes, a finding or an answer in words; a count alone tells nothing of what is seen."""
    return sample.task == "boxes" or bool(sample.regions or _said(sample))


def sights_of(samples: Sequence[Sample]) -> list[Sight]:
    """For each image of each Sample that tells something its boxes, the words about the whole of it, or both.

    An image with boxes in several Samples of one source has all of them in each. A choice or a label tells about the
    words of its own options alone.
    """
    regions: dict[tuple[str, Image], dict[Region, None]] = {}  # an ordered set each
    for sample in samples:
        for region in sample.regions:
            key = (sample.origin.source, sample.images[region.image])
            regions.setdefault(key, {})[region.model_copy(update={"image": 0})] = None
    sights = []
    for sample in samples:
        source = sample.origin.source
        for image in sample.images:
            sight = []
            if sample.regions or sample.task == "boxes":
                of_image = tuple(regions.get((source, image), ()))
                sight.append(Picture(image, f"{source} regions", of_image))
            if words := _said(sample):
                told = words.union(*map(words_of, sample.choices)) if sample.choices else None
                sight.append(Picture(image, f"{source} {sample.task}", words=words, told=told))
            sights.append(tuple(sight))
    return sights


def _said(sample: Sample) -> frozenset[str]:
    """Words about the whole of a Sample's pictures."""
    return words_of(sample.finding) | words_of(sample.answer if sample.task in IN_WORDS else None)


def words_of(text: str | None) -> frozenset[str]:
    """Words of a label or an answer without the punctuation around them; case stays, as the tokenizer tells it."""
    return frozenset(_WORD.findall(text or ""))


class Turned(Dataset[Sight]):
    """The training images with what is known of them; with `augment`, turned by (seed, epoch, place) alone."""

    def __init__(self, sights: Sequence[Sight], *, augment: bool, seed: int) -> None:
        self.sights = sights
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.sights)

    def __getitem__(self, index: int) -> Sight:
        if not self.augment:
            return self.sights[index]
        turn = int(np.random.default_rng([self.seed, self.epoch, index]).integers(8))
        return tuple(picture.turned(turn) for picture in self.sights[index])


@dataclass(frozen=True)
class Vocabulary:
    """The words to be learnt: word -> the share of labels and answers that hold it, and source -> its words.

    `rare` are the words of captions and findings that are left out.
    """

    shares: Mapping[str, float]
    of_source: Mapping[str, frozenset[str]]
    rare: frozenset[str] = frozenset()


def vocabulary(pictures: Sequence[Picture], stage: str) -> Vocabulary:
    """Words of boxes and of options all count; others when LEAST_COMMON of their source's pictures hold them.

    Raises UserError where no word is left.
    """
    said: dict[str, list[frozenset[str]]] = {}
    free: set[str] = set()  # sources whose words are not those of a list
    for picture in pictures:
        size_px = (picture.image.width_px, picture.image.height_px)
        labels = [words_of(region.label) | place_words(region.box_px, size_px) for region in picture.regions]
        said.setdefault(picture.source, []).extend([picture.words] if picture.words else labels)
        if picture.words and picture.told is None:
            free.add(picture.source)
    counts = {source: Counter(word for words in texts for word in words) for source, texts in said.items()}
    kept = {
        source: frozenset(
            word
            for word, count in of.items()
            if source not in free or count >= LEAST_COMMON * len(said[source])
        )
        for source, of in counts.items()
    }
    words = sorted(frozenset().union(*kept.values()))
    if not words:
        raise UserError(
            f"{stage}: no training Sample has a box, and no answer a word that is common enough, so there is nothing "
            "to see"
        )
    shares = {}
    for word in words:
        telling = [source for source in kept if word in kept[source]]
        shares[word] = sum(counts[source][word] for source in telling) / sum(
            len(said[source]) for source in telling
        )
    return Vocabulary(shares, kept, frozenset().union(*counts.values()) - frozenset(words))


@dataclass
class Batches:
    """The collator: sights in, patches and targets out.

    For each picture of each sight, each visual token has its words, which of them the picture is told about, its box,
    whether it shows a region, and whether its words are of the whole picture. "tokens" are their positions among the
    tokens of all images, "num_tokens" [pictures] how many a picture has.
    """

    image_processor: Any
    vocabulary: Vocabulary

    def __call__(self, sights: Sequence[Sight]) -> dict[str, Tensor]:
        pixels = [turned(load_pixels(sight[0].image), sight[0].turn) for sight in sights]
        batch = self.image_processor(images=pixels, return_tensors="pt")
        merge = self.image_processor.merge_size
        targets, tokens, num_tokens, first = [], [], [], 0
        for sight, image, (_, rows, columns) in zip(
            sights, pixels, batch["image_grid_thw"].tolist(), strict=True
        ):
            grid = (rows // merge, columns // merge)
            last = first + grid[0] * grid[1]
            for picture in sight:
                targets.append(self._targets(picture, image.size, grid))
                tokens.append(torch.arange(first, last))
                num_tokens.append(last - first)
            first = last
        names = ("words", "told", "boxes", "shows", "whole")
        parts = zip(*targets, strict=True)
        return {
            **batch,
            **{name: torch.cat(part) for name, part in zip(names, parts, strict=True)},
            "tokens": torch.cat(tokens),
            "num_tokens": torch.tensor(num_tokens),
        }

    def _targets(
        self, picture: Picture, size_px: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, ...]:
        words = list(self.vocabulary.shares)
        is_word, boxes, shows = region_targets(picture.regions, size_px, grid, words)
        is_word += torch.tensor([float(word in picture.words) for word in words])
        about = self.vocabulary.of_source[picture.source] if picture.told is None else picture.told
        told = torch.tensor([word in about for word in words])
        whole = torch.full_like(shows, bool(picture.words))
        return is_word, told.expand_as(is_word), boxes, shows, whole


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
        said = words_of(region.label) | place_words(region.box_px, size_px)
        is_word[covers] = torch.tensor([float(word in said) for word in words])
        boxes[covers] = box / torch.tensor([width_px, height_px, width_px, height_px])
    return is_word, boxes, most > LEAST_SHARE


def place_words(box_px: Sequence[float], size_px: tuple[int, int]) -> frozenset[str]:
    """Row and column, in thirds, of a box's centre in a picture of (width, height): {"upper", "left"}, for example."""
    (x1, y1, x2, y2), (width_px, height_px) = box_px, size_px
    shares = (x1 / width_px, y1 / height_px, x2 / width_px, y2 / height_px)
    return frozenset(place(shares, 1).split())


def turned_box(box_px: Box, size_px: tuple[int, int], turn: int) -> Box:
    """A box of a picture of (width, height) after one of the eight turns of `pathloom.train.rows.turned`."""
    (x1, y1, x2, y2), (width_px, height_px) = box_px, size_px
    if turn >= 4:
        x1, x2 = width_px - x2, width_px - x1
    for _ in range(turn % 4):  # a quarter to the left
        x1, y1, x2, y2 = y1, width_px - x2, y2, width_px - x1
        width_px, height_px = height_px, width_px
    return x1, y1, x2, y2


def pool(values: Tensor, whole: Tensor, num_tokens: Tensor) -> Tensor:
    """`values` [tokens, any], where those of tokens that are `whole` [tokens] give way to the mean of their picture."""
    picture = torch.arange(len(num_tokens), device=values.device).repeat_interleave(num_tokens)
    sums = values.new_zeros(len(num_tokens), values.shape[1]).index_add(0, picture, values)
    means = (sums / num_tokens[:, None])[picture]
    return torch.where(whole[:, None], means, values)
