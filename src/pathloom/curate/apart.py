"""Step `apart`: drop what overlaps with other stages, by picture, by group and by text.

What reinforcement asks must not have been answered in SFT: a model would be rewarded for its memory.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pathloom.curate.text_duplicates import (
    MARGIN,
    MAX_BUCKET,
    Shingles,
    band_keys,
    digest_of,
    shingles_of_text,
    signatures_of,
    text_of,
)
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.images import BadImage, load_pixels
from pathloom.schema import Drop, Image, Sample
from pathloom.store import read_samples

Check = Literal["image", "group", "text"]


class ApartStep(StepConfig):
    """Entry of `steps`: `{step: apart, others: [rl_items]}`.

    image  the same pixels, however they are encoded
    group  the same patient, slide or book of one source
    text   what a Sample asks and teaches, or the text that it was written from, as similar as `threshold` (Jaccard of
           5-word shingles) to that of another Sample. What is asked and taught counts only with a reasoning: one
           yes/no question on two pictures is no overlap

    A copied text is always found, a similar one as likely as in the step near_duplicates. Texts from one template fill
    a few buckets, and a bucket takes the first 64 texts of the others: a similar text that shares only full buckets
    with its like may be missed, which here leaves an overlap. So templated sets should be kept apart by group as well.
    """

    version: ClassVar[int] = 2

    step: Literal["apart"]
    others: tuple[str, ...] = Field(min_length=1, description="stages to stay apart from")
    by: tuple[Check, ...] = Field(default=("image", "group", "text"), min_length=1)
    threshold: float = Field(default=0.8, gt=0, le=1)

    def needs(self) -> tuple[str, ...]:
        return self.others

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        theirs = Overlap(
            (sample for name in self.others for sample in read_samples(inputs[name])), self.by, self.threshold
        )

        def change(sample: Sample) -> Sample | Drop:
            met = theirs.first_overlap(sample)
            return sample if met is None else self.drop(sample, f"overlap_{met[0]}", met[1])

        return Prepared(change, {"others": theirs.num_samples})  # Drops by reason are counted in the manifest


class Overlap:
    """A set of Samples, and whether another Sample shares a picture, a group or a text with it."""

    def __init__(self, samples: Iterable[Sample], by: Iterable[Check], threshold: float) -> None:
        self.by = tuple(by)
        self.num_samples = 0
        self._pictures: dict[str, str] = {}
        self._groups: dict[tuple[str, str], str] = {}
        self._texts = _Texts(threshold)
        for sample in samples:
            self.num_samples += 1
            self._groups.setdefault(sample.origin.cluster, sample.id)
            if "image" in self.by:
                for image in sample.images:
                    self._pictures.setdefault(_pixel_hash(image), sample.id)
            if "text" in self.by:
                for text in _texts(sample):
                    self._texts.add(text, sample.id)
        self._texts.close()

    def first_overlap(self, sample: Sample) -> tuple[Check, str] | None:
        """(check, what it meets) of the first check that the Sample fails; the cheapest check comes first."""
        if "group" in self.by and sample.origin.cluster in self._groups:
            return "group", f"{sample.origin.group}, as {self._groups[sample.origin.cluster]}"
        if "text" in self.by:
            for text in _texts(sample):
                other = self._texts.find(text)
                if other is not None:
                    return "text", f"as {other}"
        if "image" in self.by:
            for image in sample.images:
                other = self._pictures.get(_pixel_hash(image))
                if other is not None:
                    return "image", f"{image.path}, as {other}"
        return None


def _texts(sample: Sample) -> Iterator[str]:
    """Its own words where it reasons, and those that it was written from."""
    if sample.reasoning:
        yield text_of(sample)
    if sample.context:
        yield sample.context


def _pixel_hash(image: Image) -> str:
    """Of the decoded picture, so that another file format or name changes nothing; of its name if it cannot be read."""
    try:
        pixels = load_pixels(image)
    except BadImage:
        return f"unreadable {image.path}"
    return hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).hexdigest()


class _Texts:
    """Texts by MinHash; a candidate counts when its exact Jaccard reaches the threshold."""

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

    def find(self, text: str) -> str | None:
        """The name of the text that is most like it, if that is as similar as the threshold."""
        shingles = shingles_of_text(text)
        copied = self._row_of.get(digest_of(shingles))
        if copied is not None:
            return self._names[copied]
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
        return self._names[met[best]] if jaccards[best] >= self._threshold else None
