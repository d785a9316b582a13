"""Pairs of WebDataset shards as the steps of a contrastive training: which pairs stand in a step is a pure function.

The order of an epoch follows from seed and epoch alone, step k takes the next `batch_size` pairs of it, process r its
part of them, and a picture's crop follows from seed and place in the order. So neither workers nor processes nor a
kill change what a step sees.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from pathloom.images import BadImage, decode
from pathloom.models.clip import TrainableClip
from pathloom.models.clip_text import Cutter
from pathloom.stage import UserError
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.webdataset import TarIndex, index_tar, read_span

POOL_SHARDS = 8
"""Shards whose pairs are mixed with each other: our own choice, 40,000 pairs at 5,000 a shard, as many as open_clip's
own buffer of 5,000 pairs times 8 workers."""

MAX_TRIES = 100
"""Pairs tried in the place of one whose picture cannot be read, before the run stops."""

_MAX_OPEN_FILES = 64


class Corpus:
    """The pairs of all shards under one number each: those of a shard stand together, shards in order of `stages`."""

    def __init__(self, stages: Mapping[str, Sequence[TarIndex]]) -> None:
        self.tars = tuple(tar for tars in stages.values() for tar in tars)
        self.stage_of = tuple(stage for stage, tars in stages.items() for _ in tars)
        self.starts = np.concatenate([[0], np.cumsum([len(tar) for tar in self.tars])]).astype(np.int64)
        self._files: dict[tuple[int, int], BinaryIO] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, pair: int) -> tuple[int, int]:
        """(number of the shard, number of the pair within it)."""
        shard = int(np.searchsorted(self.starts, pair, side="right")) - 1
        return shard, pair - int(self.starts[shard])

    def name(self, pair: int) -> str:
        """`STAGE/SHARD/KEY`, for messages and drops."""
        shard, row = self.place(pair)
        return f"{self.stage_of[shard]}/{self.tars[shard].path.name}/{self.tars[shard].keys[row]}"

    def image(self, pair: int) -> bytes:
        """The picture's file as it is packed."""
        shard, row = self.place(pair)
        return read_span(self._file(shard), self.tars[shard].images[row])

    def caption(self, pair: int) -> str:
        """The pair's .txt; bytes that are no UTF-8 become the replacement character."""
        shard, row = self.place(pair)
        return read_span(self._file(shard), self.tars[shard].captions[row]).decode("utf-8", errors="replace")

    def facts(self, pair: int) -> bytes:
        """The pair's .json; empty where it has none."""
        shard, row = self.place(pair)
        return read_span(self._file(shard), self.tars[shard].facts[row])

    def close(self) -> None:
        """Close the tars; they open again when they are read."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _file(self, shard: int) -> BinaryIO:
        key = (os.getpid(), shard)  # a worker that shared a file with its parent would share the place in it
        if key not in self._files:
            if len(self._files) >= _MAX_OPEN_FILES:
                self._files.pop(next(iter(self._files))).close()
            self._files[key] = self.tars[shard].path.open("rb")
        return self._files[key]


def read_corpus(
    name: str, shards: Sequence[str], inputs: Mapping[str, Path], *, quiet: bool = False
) -> Corpus:
    """Index all shards of the stages. Raises UserError for a stage without shards or without a whole pair."""
    stages: dict[str, list[TarIndex]] = {}
    for stage in shards:
        paths = sorted(inputs[stage].rglob("*.tar"))
        with tqdm(
            paths, desc=f"{name} {stage}", unit="shard", leave=False, disable=quiet
        ) as bar:  # closed before an error is told
            stages[stage] = [index_tar(path) for path in bar]
        if not sum(map(len, stages[stage])):
            raise UserError(
                f"{name}.shards: {stage} holds no whole pair of picture and caption in a .tar; "
                "name stages `webdataset`"
            )
    return Corpus(stages)


class PairOrder:
    """The endless order in which training sees the pairs: epoch after epoch, each shuffled anew.

    Shards are shuffled, taken in pools of POOL_SHARDS, and the pairs shuffled within a pool. `weights` of a stage
    w gives floor(w) visits of each of its pairs in an epoch, and one more of a drawn share w - floor(w) of them.
    """

    def __init__(self, corpus: Corpus, weights: Mapping[str, float], seed: int) -> None:
        self.starts = corpus.starts
        self.stage_of = corpus.stage_of
        self.weights = dict(weights)
        self.seed = seed
        self.epoch_length = sum(self._visits(stage) for stage in dict.fromkeys(self.stage_of))
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _pairs(self, stage: str) -> list[NDArray[np.int64]]:
        """Numbers of the pairs of each of the stage's shards."""
        return [
            np.arange(self.starts[shard], self.starts[shard + 1])
            for shard, name in enumerate(self.stage_of)
            if name == stage
        ]

    def _share(self, stage: str) -> tuple[int, int]:
        """(whole visits of each pair, pairs drawn for one more)."""
        weight = self.weights.get(stage, 1.0)
        whole = int(weight)
        return whole, round((weight - whole) * sum(map(len, self._pairs(stage))))

    def _visits(self, stage: str) -> int:
        whole, drawn = self._share(stage)
        return whole * sum(map(len, self._pairs(stage))) + drawn

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """[epoch_length] numbers of pairs."""
        rng = np.random.default_rng([self.seed, epoch])
        visits: list[NDArray[np.int64]] = []
        for stage in dict.fromkeys(self.stage_of):
            whole, drawn = self._share(stage)
            pairs = self._pairs(stage)
            visits += pairs * whole
            chosen = np.sort(rng.choice(np.concatenate(pairs), drawn, replace=False))
            ends = [part[-1] + 1 for part in pairs if len(part)]
            visits += np.split(chosen, np.searchsorted(chosen, ends))
        visits = [visit for visit in visits if len(visit)]
        shuffled = rng.permutation(len(visits))
        pools = [
            np.concatenate([visits[visit] for visit in shuffled[at : at + POOL_SHARDS]])
            for at in range(0, len(shuffled), POOL_SHARDS)
        ]
        return np.concatenate([rng.permutation(pool) for pool in pools])

    def pair(self, position: int) -> int:
        """The pair at a place of the endless order."""
        epoch, row = divmod(position, self.epoch_length)
        return int(self.epoch(epoch)[row])


class Item(NamedTuple):
    """One pair as a step takes it: pixels uint8 [side, side, 3].

    `unread` are the pairs that stood here before, with the reason why their picture could not be read.
    """

    pixels: NDArray[np.uint8]
    caption: str
    pair: int
    unread: tuple[tuple[int, str], ...]


class Pairs(Dataset[Item]):
    """The item at each place of the order.

    A pair whose picture cannot be read gives its place to the one that stands `batch_size` places later: a pair of
    another step, as beside itself it would be a false negative.
    """

    def __init__(
        self, corpus: Corpus, order: PairOrder, clip: TrainableClip, config: ContrastiveConfig
    ) -> None:
        self.corpus = corpus
        self.order = order
        self.batch_size = config.batch_size
        self.seed = config.seed
        self.crop = training_transform(clip, config.crop_scale).transforms[0]

    def __getitem__(self, position: int) -> Item:
        unread: list[tuple[int, str]] = []
        for attempt in range(MAX_TRIES):
            pair = self.order.pair(position + attempt * self.batch_size)
            try:
                picture = decode(self.corpus.image(pair), self.corpus.name(pair))
            except BadImage as error:
                unread.append((pair, f"{error.reason}: {error}"))
                continue
            return Item(self._pixels(picture, position), self.corpus.caption(pair), pair, tuple(unread))
        raise UserError(
            f"{MAX_TRIES} pairs in a row have no readable picture, the first: {unread[0][1]}; "
            "look at the stage that wrote the shards"
        )

    def _pixels(self, picture: PILImage.Image, position: int) -> NDArray[np.uint8]:
        """open_clip's random crop, drawn for this place of the order; the process's own random numbers stay."""
        state = np.random.SeedSequence([self.seed, position]).generate_state(1, np.uint64)
        generator = torch.default_generator
        before = generator.get_state()
        try:
            generator.manual_seed(int(state[0] >> np.uint64(1)))  # torch's seeds are signed
            return np.asarray(self.crop(picture))
        finally:
            generator.set_state(before)


def training_transform(clip: TrainableClip, crop_scale: tuple[float, float]) -> Any:
    """open_clip's own: random crop and resize, RGB, tensor, normalisation."""
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2

    prepared = PreprocessCfg(**clip.model.visual.preprocess_cfg)
    return image_transform_v2(prepared, is_train=True, aug_cfg=AugmentationCfg(scale=crop_scale))


@dataclass
class Seen:
    """What reading found, over all steps so far: pairs without a readable picture, pairs whose caption was cut."""

    unread: dict[int, str] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)

    def merge(self, others: Sequence["Seen"]) -> None:
        """Add what others found."""
        for other in others:
            self.unread.update(other.unread)
            self.cut |= other.cut


class Batch(NamedTuple):
    """Pixels uint8 [batch, 3, side, side], tokens int64 [batch, tokens], and what reading them found."""

    pixels: Tensor
    tokens: Tensor
    seen: Seen


class Collate:
    """Items to a Batch, its tokens cut behind the longest where the model allows."""

    def __init__(self, clip: TrainableClip, cutter: Cutter | None) -> None:
        self.tokenizer = clip.tokenizer
        self.context_length = clip.context_length
        self.pad_id = clip.pad_id
        self.cutter = cutter

    def __call__(self, items: Sequence[Item]) -> Batch:
        pixels = torch.from_numpy(np.stack([item.pixels for item in items])).permute(0, 3, 1, 2)
        tokens = self.tokenizer([item.caption for item in items])
        full = [item for item, row in zip(items, tokens, strict=True) if row[-1] != self.pad_id]
        seen = Seen({pair: told for item in items for pair, told in item.unread}, self._cut(full))
        return Batch(pixels, self.cutter(tokens) if self.cutter else tokens, seen)

    def _cut(self, items: Sequence[Item]) -> set[int]:
        """Of pairs whose caption fills the context those that would fill one token more."""
        if not items:
            return set()
        longer = self.tokenizer([item.caption for item in items], context_length=self.context_length + 1)
        return {item.pair for item, row in zip(items, longer, strict=True) if row[-1] != self.pad_id}


@dataclass(frozen=True)
class Places:
    """The places of the order that one process reads, from `first_step` until before `last_step`.

    It has part `rank` of `world_size` of each step and gives it in `accumulate` lists of `part_size` places.
    """

    batch_size: int
    accumulate: int
    rank: int
    world_size: int
    first_step: int
    last_step: int

    @property
    def part_size(self) -> int:
        """Pairs that go through the model at once."""
        return self.batch_size // (self.world_size * self.accumulate)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            start = step * self.batch_size + self.rank * self.part_size * self.accumulate
            for part in range(self.accumulate):
                yield list(range(start + part * self.part_size, start + (part + 1) * self.part_size))


def read_batches(pairs: Pairs, places: Places, collate: Collate, workers: int) -> Iterator[Batch]:
    """All parts in order, read ahead by `workers` processes. Raises UserError where pictures cannot be read."""
    loader = DataLoader(
        pairs,
        batch_sampler=places,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
        worker_init_fn=_work_alone,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its seeds are not drawn from the process's own random numbers
    )
    try:
        yield from loader
    except UserError as error:  # torch writes a worker's whole traceback before its words
        raise UserError(str(error).rpartition("UserError: ")[2].rstrip()) from error


def _work_alone(worker: int) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # it warns of being forked after it was used


def normalised(pixels: Tensor, transform: Any) -> Tensor:
    """uint8 [batch, 3, side, side] to float32 as the last two parts of open_clip's `transform` make it, bit for bit."""
    normalize = transform.transforms[-1]
    shape = (1, 3, 1, 1)
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(shape)
        for values in (normalize.mean, normalize.std)
    )
    return pixels.contiguous().to(torch.float32).div(255).sub_(mean).div_(std)
