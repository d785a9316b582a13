"""Step `apart`: drop what overlaps with other stages, by picture, by group and by text.

What reinforcement asks must not have been answered in SFT: a model would be rewarded for its memory.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.curate.text_duplicates import TextIndex, text_of
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
        self._texts = TextIndex(threshold)
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
                found = self._texts.find(text)
                if found is not None:
                    return "text", f"as {found[0]}"
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
