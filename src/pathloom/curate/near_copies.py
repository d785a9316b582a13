"""Near-copies among pictures, for the steps `image_duplicates` and `decontaminate`: found, then confirmed.

1. Perceptual hash: pairs at most `hash_bits` apart in one of the eight right-angle turns are copies.
2. Embedding: each picture's `neighbours` nearest by cosine are candidates, if the cosine reaches `cosine`.
3. Registration: a candidate is a copy when `points` local points agree on one turn, scale, shift and mirror, by which
   the pictures share `overlap` of the smaller field. A cosine alone cannot tell a copy from another field of a slide.

Compared is a Sample's first picture, which is what the stage `embed` sees. Samples of one source and one split whose
pictures have one path show one picture and share its fate: several questions on one picture are no duplicates. A
picture of one colour has neither hash nor points, so it is a copy of nothing.

Memory for n pictures and vectors of d numbers: n x (63 + 4 d) bytes, and about 1 kB each for ids and groups: 5 GB for
1.6 million at d = 512; 40 kB of local points for each candidate that is held (of `decontaminate`: of the held-out side
only); 0.2 kB for each pair; blocks of 256 MB. Where vectors repeat or are not finite, the others are copied once: 4 d
bytes more for each.
"""

import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm import tqdm

from pathloom.curate.perceptual_hash import Signs, hash_pairs, hash_signs
from pathloom.curate.registration import Points, points_of, shared_points
from pathloom.curate.step import StepConfig
from pathloom.images import BadImage, load_pixels
from pathloom.nearest import finite_rows, top_k
from pathloom.schema import Sample
from pathloom.stage import UserError

if TYPE_CHECKING:
    from pathloom.curate.features import Features

BLOCK_BYTES = 256 * 2**20
NUM_SHOWN = 20
"""Pairs, or Samples found, that the facts of a step list."""

TRAIN = "train"


class NearCopyStep(StepConfig):
    """The thresholds, set on half of lc25000's published groups (tests/curate/test_lc25000_duplicates.py)."""

    features: str = Field(description="stage `embed`, of: image, that saw these Samples")
    hash_bits: float = Field(
        default=6,
        ge=0,
        le=16,
        description="of 63; of 0.5 million pairs of unrelated tiles and cells none is nearer than 8",
    )
    cosine: float = Field(
        default=0.65, ge=-1, le=1, description="of embeddings; default: for efficientnet_lite0"
    )
    neighbours: int = Field(default=32, ge=1, description="candidates by embedding for each picture")
    points: int = Field(default=8, ge=4, description="local points, of 300 at most, that confirm a candidate")
    overlap: float = Field(
        default=0,
        ge=0,
        le=1,
        description="of a confirmed candidate: shared part of the smaller field; 0: any shared tissue counts",
    )

    def check(self, where: str) -> None:
        if importlib.util.find_spec("cv2") is None:
            raise UserError(f"{where} compares local points by OpenCV: pip install opencv-python-headless")


@dataclass(frozen=True)
class Copy:
    """Two near-copies. `points` and `overlap` are None where the hash decided, `bits` where it is far off."""

    one: int
    other: int
    bits: float | None
    cosine: float
    points: int | None
    overlap: float | None

    @property
    def by(self) -> str:
        return "hash" if self.points is None else "embedding"

    def __str__(self) -> str:
        if self.points is None:
            how = f"hash {self.bits:g} bits apart"
        else:
            how = f"{self.points} points agree, {self.overlap:.0%} of the field"
        return f"{how}, cosine {self.cosine:.3f}"


_Picture = tuple[str, str, str]

_REPEATED = (
    "repeated_id",
    "an earlier Sample of this id has another picture: features cannot tell them apart",
)


@dataclass
class Pictures:
    """What is remembered of a set: a row for each distinct first picture, in the order of the Samples."""

    ids: list[str] = field(default_factory=list)  # of a row's first Sample
    signs: Signs = field(default_factory=lambda: np.zeros((0, 63), np.int8))
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))  # length 1
    clusters: list[tuple[str, str]] = field(default_factory=list)  # source and group of a row
    splits: list[str] = field(default_factory=list)  # of a row
    row_of: dict[str, int] = field(default_factory=dict)  # by Sample id
    row_of_picture: dict[_Picture, int] = field(default_factory=dict)
    faults: dict[_Picture, tuple[str, str]] = field(default_factory=dict)  # reason, detail

    def fault(self, sample: Sample) -> tuple[str, str] | None:
        """Reason and detail, where the Sample's picture is not compared though it has one."""
        picture = _picture(sample)
        if picture in self.faults:
            return self.faults[picture]
        if self.row_of.get(sample.id) != self.row_of_picture.get(picture):
            return _REPEATED
        return None


def _picture(sample: Sample) -> _Picture:
    return sample.origin.source, sample.split, sample.images[0].path


def image_features(folder: Path, name: str) -> "Features":
    """Of a stage `embed` that saw pictures. Raises UserError for another one."""
    from pathloom.curate.features import ABOUT_FILE, read_features

    features = read_features(folder)
    of = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))["of"]
    if of != "image":
        raise UserError(
            f"stage {name} holds features of: {of}; pictures are compared by a stage with of: image"
        )
    return features


def look(samples: Iterable[Sample], features: "Features", stage: str) -> Pictures:
    """Hash and vector of every distinct first picture; Samples without pictures are passed over."""
    seen = Pictures()
    signs: list[Signs] = []
    for sample in tqdm(samples, desc="hash", unit="sample", leave=False):
        if not sample.images:
            continue
        picture = _picture(sample)
        if picture not in seen.row_of_picture and seen.faults.get(picture, _REPEATED) is _REPEATED:
            if sample.id in seen.row_of:
                seen.faults[picture] = _REPEATED  # unless a later Sample has it under an id of its own
                continue
            seen.faults.pop(picture, None)
            if sample.id not in features.rows:
                seen.faults[picture] = ("no_features", f"no row in {stage}; missing.jsonl there says why")
                continue
            try:
                signs.append(hash_signs(load_pixels(sample.images[0])))
            except BadImage as error:
                seen.faults[picture] = (error.reason, str(error))
                continue
            seen.row_of_picture[picture] = len(seen.ids)
            seen.ids.append(sample.id)
            seen.clusters.append(sample.origin.cluster)
            seen.splits.append(sample.split)
        if picture in seen.row_of_picture:
            seen.row_of.setdefault(sample.id, seen.row_of_picture[picture])
    seen.signs = np.array(signs, np.int8).reshape(-1, 63)
    seen.vectors = features.of(seen.ids)
    bad = ~finite_rows(seen.vectors)
    if bad.any():
        seen = _without(seen, bad, stage)
    lengths = np.sqrt(np.einsum("ij,ij->i", seen.vectors, seen.vectors))  # norm would square a copy
    seen.vectors /= np.maximum(lengths, 1e-12)[:, None]
    return seen


def _without(seen: Pictures, bad: NDArray[np.bool_], stage: str) -> Pictures:
    """The rows that are not bad, counted anew; the others are faults."""
    new_row = (np.cumsum(~bad) - 1).tolist()
    rows = np.flatnonzero(~bad).tolist()
    faults = dict(seen.faults)
    for picture, row in seen.row_of_picture.items():
        if bad[row]:
            faults[picture] = ("nan_features", f"the row of {seen.ids[row]} in {stage} holds NaN or infinity")
    return Pictures(
        ids=[seen.ids[row] for row in rows],
        clusters=[seen.clusters[row] for row in rows],
        splits=[seen.splits[row] for row in rows],
        signs=seen.signs[~bad],
        vectors=seen.vectors[~bad],
        row_of={one: new_row[row] for one, row in seen.row_of.items() if not bad[row]},
        row_of_picture={one: new_row[row] for one, row in seen.row_of_picture.items() if not bad[row]},
        faults=faults,
    )


def near_copies(
    step: NearCopyStep,
    ours: Pictures,
    read: Callable[[], Iterable[Sample]],
    theirs: Pictures | None = None,
    read_theirs: Callable[[], Iterable[Sample]] | None = None,
) -> list[Copy]:
    """All near-copies, by rows: `one` of `ours`, `other` of `theirs`, or one < other within `ours`.

    `read` gives the Samples of `ours` again, for the local points of candidates; `read_theirs` those of `theirs`.
    """
    if not ours.ids or (theirs is not None and not theirs.ids):
        return []
    bits = hash_pairs(ours.signs, step.hash_bits, None if theirs is None else theirs.signs)
    others = ours.vectors if theirs is None else theirs.vectors
    copies = [
        Copy(i, j, distance, float(ours.vectors[i] @ others[j]), None, None)
        for (i, j), distance in bits.items()
    ]
    candidates = {
        pair: cosine for pair, cosine in _candidates(step, ours, theirs).items() if pair not in bits
    }
    held: dict[int, Points] = {}
    if theirs is not None and read_theirs is not None:
        held.update(_points(read_theirs(), theirs, {j for _, j in candidates}))
    # Rows are read in order: within one set the partner that came before is held when the later one is read.
    partners: dict[int, list[int]] = {}
    for i, j in candidates:
        partners.setdefault(j if theirs is None else i, []).append(i if theirs is None else j)
    wanted = {row for pair in candidates for row in pair} if theirs is None else set(partners)
    for row, own in _points(read(), ours, wanted):
        for other in partners.get(row, ()):
            shared = shared_points(own, held[other])
            if shared.points >= step.points and shared.overlap >= step.overlap:
                pair = (other, row) if theirs is None else (row, other)
                copies.append(Copy(*pair, None, candidates[pair], shared.points, shared.overlap))
        if theirs is None:
            held[row] = own
    return sorted(copies, key=lambda copy: (copy.one, copy.other))


def _candidates(step: NearCopyStep, ours: Pictures, theirs: Pictures | None) -> dict[tuple[int, int], float]:
    """(i, j) -> cosine, of each picture of `ours` with its nearest; i < j within one set."""
    others = ours if theirs is None else theirs
    num = step.neighbours + (theirs is None)  # a picture is its own nearest
    scores, found = top_k(ours.vectors, others.vectors, num, block_bytes=BLOCK_BYTES)
    pairs: dict[tuple[int, int], float] = {}
    for i, rank in zip(*(places.tolist() for places in np.nonzero(scores >= step.cosine)), strict=True):
        j = int(found[i, rank])
        if theirs is not None:
            pairs[i, j] = float(scores[i, rank])
        elif i != j:
            pairs[min(i, j), max(i, j)] = float(scores[i, rank])
    return pairs


def _points(samples: Iterable[Sample], seen: Pictures, wanted: set[int]) -> Iterator[tuple[int, Points]]:
    """Row and local points of the wanted pictures, ascending. Raises BadImage for a file gone since it was hashed."""
    left = set(wanted)
    bar = tqdm(desc="local points", total=len(left), unit="picture", leave=False)
    with bar:
        for sample in samples:
            row = seen.row_of.get(sample.id) if sample.images and seen.fault(sample) is None else None
            if row in left:
                left.discard(row)
                bar.update()
                yield row, points_of(load_pixels(sample.images[0]))


def grouped(num: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """[num]: for each item the lowest item that a chain of pairs connects it with."""
    root = list(range(num))

    def find(item: int) -> int:
        while root[item] != item:
            root[item] = root[root[item]]
            item = root[item]
        return item

    for one, other in pairs:
        first, last = sorted((find(one), find(other)))
        root[last] = first
    return np.array([find(item) for item in range(num)], np.int64)
