"""Step `near_duplicates`: Samples of one task whose texts are nearly the same; the first of them is kept.

MinHash with banding (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4) in numpy.
The library datasketch (MIT) does the same; hashing and banding are a few lines here, its index keeps Python objects for
every band, and one dependency less is worth more.
"""

import hashlib
import re
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.schema import Drop, Sample

SHINGLE_WORDS = 5
"""Words that make a shingle; ours, as usual for MinHash on short texts."""

NUM_BANDS, BAND_ROWS = 20, 6
"""120 permutations. Two texts of Jaccard J meet in a band with probability 1 - (1 - J^6)^20: 0.998 at 0.8, 0.61 at 0.6,
0.27 at 0.5. So a threshold below 0.7 misses many pairs."""

MARGIN = 0.15
"""Estimates below the threshold by more are not verified: four standard errors, sqrt(0.8 x 0.2 / 120) = 0.037."""

MAX_BUCKET = 64
"""Texts that one bucket remembers; ours."""


class NearDuplicatesStep(StepConfig):
    """Entry of `steps`: `{step: near_duplicates}`.

    Compared are question, options, answer, earlier turns and reasoning. A Sample is dropped when a kept one before it
    is as similar as `threshold`, measured exactly; so no chain of small changes drops what resembles nothing that is
    kept.

    Memory: 4 bytes for each permutation and each word of a Sample, 0.5 kB and about 1 kB. Texts from templates fill a
    few buckets; a bucket takes at most `max_bucket` kept Samples, so that each Sample meets at most 20 times as many.
    What meets only in a full bucket is missed: this errs to the side of keeping.

    A second Sample of an id is not compared and left alone, unless its words are those of the first: then both share
    one fate.
    """

    version: ClassVar[int] = 2

    step: Literal["near_duplicates"]
    threshold: float = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="Jaccard of 5-word shingles; the value is ours, usual for web text",
    )
    max_bucket: int = Field(default=MAX_BUCKET, ge=1, description="kept Samples that one bucket remembers")
    reasoned_only: bool = Field(
        default=True,
        description="leave Samples without reasoning alone: one question and answer on two pictures are no duplicate",
    )

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        kept_of = self._duplicates(read, seed)

        def change(sample: Sample) -> Sample | Drop:
            found = kept_of.get(sample.id)
            if found is None or found.digest != digest_of(_compared_shingles(sample)):
                return sample
            return self.drop(sample, "near_duplicate", f"of {found.kept} (Jaccard {found.jaccard:.2f})")

        return Prepared(change, {"near_duplicates": len(kept_of)})

    def _duplicates(self, read: Read, seed: int) -> dict[str, "_Found"]:
        """By the dropped id."""
        ids, texts = _Ids(), Shingles()
        signatures = signatures_of(self._compared(read, ids), texts, np.random.default_rng(seed))
        bands = _shared_bands(signatures)
        buckets: dict[int, list[int]] = {}
        kept_of: dict[str, _Found] = {}
        for row in range(len(ids.names)):
            keys = [int(key) for key in bands[row] if key]
            met = np.array(sorted({other for key in keys for other in buckets.get(key, ())}), dtype=np.int64)
            alike = (signatures[met] == signatures[row]).mean(axis=1)
            for other in met[alike >= self.threshold - MARGIN]:
                jaccard = texts.jaccard(row, int(other))
                if jaccard >= self.threshold:
                    digest = digest_of(texts.of(row))
                    kept_of[ids.names[row]] = _Found(ids.names[other], jaccard, digest)
                    break
            else:
                for key in keys:
                    bucket = buckets.setdefault(key, [])
                    if len(bucket) < self.max_bucket:
                        bucket.append(row)
        return kept_of

    def _compared(self, read: Read, ids: "_Ids") -> Iterator[NDArray[np.uint32]]:
        for sample in read():
            if (sample.reasoning or not self.reasoned_only) and ids.add(sample.id):
                yield _compared_shingles(sample)


@dataclass(frozen=True)
class _Found:
    """The Sample kept in place of a dropped one, how alike they are, and what tells the dropped one's words."""

    kept: str
    jaccard: float
    digest: bytes


class _Ids:
    """Ids in order; the first Sample of an id is compared, since a Drop could not tell two apart."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._seen: set[str] = set()

    def add(self, name: str) -> bool:
        new = name not in self._seen
        if new:
            self._seen.add(name)
            self.names.append(name)
        return new


class Shingles:
    """The sorted shingles of all texts, end to end."""

    def __init__(self) -> None:
        self._values = array("I")
        self._ends = array("Q", [0])

    def add(self, shingles: NDArray[np.uint32]) -> None:
        self._values.frombytes(shingles.tobytes())
        self._ends.append(len(self._values))

    def of(self, row: int) -> NDArray[np.uint32]:
        return np.frombuffer(self._values, np.uint32)[self._ends[row] : self._ends[row + 1]]

    def jaccard(self, one: int, other: int) -> float:
        a, b = self.of(one), self.of(other)
        shared = len(np.intersect1d(a, b, assume_unique=True))
        return shared / (len(a) + len(b) - shared)

    def jaccards(self, rows: NDArray[np.int64], shingles: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Of each of the rows, one at least, with a text that is not among them."""
        theirs = [self.of(row) for row in rows.tolist()]
        sizes = np.array([len(one) for one in theirs])
        flat = np.concatenate(theirs)
        places = np.minimum(np.searchsorted(shingles, flat), len(shingles) - 1)
        shared = np.add.reduceat(shingles[places] == flat, np.cumsum(sizes) - sizes, dtype=np.int64)
        jaccards: NDArray[np.float64] = shared / (sizes + len(shingles) - shared)
        return jaccards


class TextIndex:
    """Named texts by MinHash; a candidate counts when its exact Jaccard reaches the threshold. A bucket takes the first
    MAX_BUCKET texts that differ.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._row_of: dict[bytes, int] = {}
        self._pending: list[NDArray[np.uint32]] = []
        self._names: list[str] = []
        self._shingles = Shingles()
        self._signatures: NDArray[np.uint32] = np.zeros((0, 0), np.uint32)
        self._buckets: dict[int, list[int]] = {}

    def add(self, text: str, name: str) -> None:
        shingles = shingles_of_text(text)
        digest = digest_of(shingles)
        if digest not in self._row_of:  # four Samples are written from one caption
            self._row_of[digest] = len(self._names)
            self._pending.append(shingles)
            self._names.append(name)

    def close(self) -> None:
        """All are added."""
        self._signatures = signatures_of(iter(self._pending), self._shingles, np.random.default_rng(0))
        for row, bands in enumerate(band_keys(self._signatures)):
            for key in bands.tolist():
                bucket = self._buckets.setdefault(key, [])
                if len(bucket) < MAX_BUCKET:
                    bucket.append(row)
        self._pending.clear()

    def find(self, text: str) -> tuple[str, float] | None:
        """Name and Jaccard of the text that is most like it, if that is as similar as the threshold."""
        shingles = shingles_of_text(text)
        copied = self._row_of.get(digest_of(shingles))
        if copied is not None:
            return self._names[copied], 1.0
        signature = signatures_of(iter([shingles]), Shingles(), np.random.default_rng(0))
        keys = band_keys(signature)[0].tolist()
        met = np.array(sorted({row for key in keys for row in self._buckets.get(key, ())}), np.int64)
        if not len(met):
            return None
        met = met[(self._signatures[met] == signature).mean(axis=1) >= self._threshold - MARGIN]
        if not len(met):
            return None
        jaccards = self._shingles.jaccards(met, shingles)
        best = int(jaccards.argmax())
        if jaccards[best] < self._threshold:
            return None
        return self._names[met[best]], float(jaccards[best])


def _compared_shingles(sample: Sample) -> NDArray[np.uint32]:
    return shingles_of_text(text_of(sample), sample.task)


def digest_of(shingles: NDArray[np.uint32]) -> bytes:
    """Texts with the same digest have the same words in every five in a row."""
    return hashlib.blake2b(shingles.tobytes(), digest_size=16).digest()


def text_of(sample: Sample) -> str:
    """What is compared; options in one order, since theirs is drawn."""
    turns = [text for turn in sample.earlier for text in (turn.question, turn.answer)]
    return "\n".join(
        [*turns, sample.question, *sorted(sample.choices), sample.answer, sample.reasoning or ""]
    )


def shingles_of_text(text: str, kind: str = "") -> NDArray[np.uint32]:
    """Sorted CRC-32 of every five words in a row; a shorter text is one shingle. Texts of two kinds share none."""
    words = re.findall(r"\w+", text.casefold())
    last = max(len(words) - SHINGLE_WORDS, 0)
    start = zlib.crc32(kind.encode())
    pieces = (" ".join(words[place : place + SHINGLE_WORDS]) for place in range(last + 1))
    return np.unique(np.fromiter((zlib.crc32(piece.encode(), start) for piece in pieces), np.uint32))


def signatures_of(
    shingles: Iterator[NDArray[np.uint32]], texts: Shingles, rng: np.random.Generator
) -> NDArray[np.uint32]:
    """MinHash by multiply-shift (Dietzfelbinger 1997): [Sample, permutation]."""
    num = NUM_BANDS * BAND_ROWS
    factor = rng.integers(0, 2**63, num, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offset = rng.integers(0, 2**63, num, dtype=np.uint64)
    rows = array("I")
    for values in shingles:
        texts.add(values)
        hashed = (values.astype(np.uint64)[:, None] * factor + offset) >> np.uint64(32)
        rows.frombytes(hashed.min(axis=0).astype(np.uint32).tobytes())
    return np.frombuffer(rows, np.uint32).reshape(-1, num) if rows else np.zeros((0, num), np.uint32)


def band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """[text, band]: two texts with the same key agree in all rows of that band."""
    weights = np.random.default_rng(0).integers(1, 2**63, BAND_ROWS, dtype=np.uint64) | np.uint64(1)
    parts = signatures.reshape(-1, NUM_BANDS, BAND_ROWS).astype(np.uint64)
    bands = np.arange(1, NUM_BANDS + 1, dtype=np.uint64)[:, None]
    keys: NDArray[np.uint64] = ((parts + bands) * weights).sum(axis=2, dtype=np.uint64)
    return keys


def _shared_bands(signatures: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Key of every Sample in every band; 0 where no other Sample has it."""
    keys = band_keys(signatures)
    for band in range(NUM_BANDS):
        _, inverse, counts = np.unique(keys[:, band], return_inverse=True, return_counts=True)
        keys[:, band] = np.where(counts[inverse] > 1, keys[:, band], 0)
    return keys
