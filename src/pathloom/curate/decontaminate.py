"""Step `decontaminate`: training Samples that show or tell what a benchmark holds out are dropped."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.curate.near_copies import (
    NUM_SHOWN,
    TRAIN,
    Copy,
    NearCopyStep,
    Pictures,
    image_features,
    look,
    near_copies,
)
from pathloom.curate.step import Prepared, Read
from pathloom.curate.text_duplicates import TextIndex, digest_of, shingles_of_text
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError
from pathloom.store import read_samples


class DecontaminateStep(NearCopyStep):
    """Entry of `steps`: `{step: decontaminate, against: [bach, crc], features: seen, held_out_features: bench_seen}`.

    A training Sample is dropped when its picture is a near-copy (pathloom.curate.near_copies) of a held-out Sample of
    `against` or shares any tissue with it, or when one of its texts (question, answer, context) is as similar as
    `threshold` (Jaccard of 5-word shingles) to one of a held-out Sample. Held out is all that is not of the split
    train. Other Samples pass.

    Short texts are alike by chance, so a text counts from `min_words` words on. A text that stands in more than
    `max_repeats` held-out pictures is a template of the benchmark, not its content, and counts for nothing; the facts
    say how many there are. A similar text is found as in the step near_duplicates: 998 of 1,000 at a Jaccard of 0.8.

    Dropped as well: a training Sample whose picture cannot be compared (unreadable, without a finite vector), since
    nothing shows it clean. Held-out pictures that cannot be compared are counted in the facts, by benchmark.
    """

    version: ClassVar[int] = 1

    step: Literal["decontaminate"]
    against: tuple[str, ...] = Field(min_length=1, description="stages with held-out Samples")
    held_out_features: str | None = Field(
        default=None,
        description="stage `embed` that saw the Samples of `against`; default: that of `features`",
    )
    threshold: float = Field(default=0.8, ge=0.5, le=1, description="as in the step near_duplicates")
    min_words: int = Field(default=12, ge=5, description="eight shingles; our own choice")
    max_repeats: int = Field(default=3, ge=1, description="our own choice")

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.against, self.features, self._their_features)))

    @property
    def _their_features(self) -> str:
        return self.held_out_features or self.features

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        our_features = image_features(inputs[self.features], self.features)
        their_features = image_features(inputs[self._their_features], self._their_features)
        if our_features.encoder != their_features.encoder:
            raise UserError(
                f"step {self.step}: {self.features} was made by {our_features.encoder}, {self._their_features} by "
                f"{their_features.encoder}; vectors of two encoders cannot be compared: give stages of one encoder"
            )

        def training() -> Iterator[Sample]:
            return (sample for sample in read() if sample.split == TRAIN)

        def held_out() -> Iterator[Sample]:
            stages = (read_samples(inputs[name]) for name in self.against)
            return (sample for stage in stages for sample in stage if sample.split != TRAIN)

        for name in self.against:
            if all(sample.split == TRAIN for sample in read_samples(inputs[name])):
                raise UserError(
                    f"step {self.step}: no Sample of {name} is held out: all are of the split {TRAIN}; give its "
                    "ingest `folds` or a `test_share`, or take it out of `against`"
                )
        ours = look(training(), our_features, self.features)
        theirs = look(held_out(), their_features, self._their_features)
        texts = _HeldOutTexts(held_out(), self)
        self._check_held_out(theirs)
        copies: dict[int, Copy] = {}
        for copy in near_copies(self, ours, training, theirs, held_out):
            best = copies.get(copy.one)
            if best is None or _closeness(copy) > _closeness(best):
                copies[copy.one] = copy
        found: dict[str, _Found] = {}
        for sample in training():
            one = self._found(sample, ours, theirs, copies, texts)
            if one is not None:
                found.setdefault(sample.id, one)

        def change(sample: Sample) -> Sample | Drop:
            if sample.split != TRAIN:
                return sample
            one = found.get(sample.id)
            if one is not None:
                return self.drop(sample, f"held_out_{one.by}", one.detail)
            fault = ours.fault(sample) if sample.images else None
            return sample if fault is None else self.drop(sample, *fault)

        return Prepared(change, _facts(ours, theirs, texts, found))

    def _check_held_out(self, theirs: Pictures) -> None:
        """Raises UserError for a benchmark none of whose pictures can be compared: it would pass as clean."""
        compared = {source for source, _ in theirs.clusters}
        for (source, _, _), (reason, detail) in theirs.faults.items():
            if source not in compared:
                raise UserError(
                    f"step {self.step}: no held-out picture of the source {source} can be compared ({reason}: "
                    f"{detail}); held_out_features must name a stage embed that saw all of `against`"
                )

    def _found(
        self,
        sample: Sample,
        ours: Pictures,
        theirs: Pictures,
        copies: Mapping[int, Copy],
        texts: "_HeldOutTexts",
    ) -> "_Found | None":
        row = ours.row_of.get(sample.id) if sample.images and ours.fault(sample) is None else None
        copy = None if row is None else copies.get(row)
        if copy is not None:
            source, _ = theirs.clusters[copy.other]
            return _Found(copy.by, theirs.ids[copy.other], source, str(copy))
        like = texts.find(sample)
        if like is None:
            return None
        held_id, jaccard = like
        return _Found("text", held_id, texts.sources[held_id], f"Jaccard {jaccard:.2f}")


@dataclass(frozen=True)
class _Found:
    """By what a training Sample was found, and which held-out Sample it repeats."""

    by: str
    held_out: str
    source: str
    how: str

    @property
    def detail(self) -> str:
        return f"of {self.held_out} of {self.source} ({self.how})"


def _closeness(copy: Copy) -> tuple[bool, int, float]:
    return copy.points is None, copy.points or 0, copy.cosine


class _HeldOutTexts:
    """The texts of the held-out Samples that are long enough and no templates."""

    def __init__(self, samples: Iterable[Sample], step: DecontaminateStep) -> None:
        self.samples: Counter[str] = Counter()  # by source
        self.sources: dict[str, str] = {}  # by Sample id
        self._min_words = step.min_words
        self._index = TextIndex(step.threshold)
        pictures: dict[bytes, set[str]] = {}
        first: dict[bytes, tuple[str, str]] = {}
        for sample in samples:
            self.samples[sample.origin.source] += 1
            self.sources.setdefault(sample.id, sample.origin.source)
            shown = sample.images[0].path if sample.images else sample.id
            for text in self._long(sample):
                digest = digest_of(shingles_of_text(text))
                pictures.setdefault(digest, set()).add(shown)
                first.setdefault(digest, (text, sample.id))
        self._templates = {digest for digest, shown in pictures.items() if len(shown) > step.max_repeats}
        for digest, (text, sample_id) in first.items():
            if digest not in self._templates:
                self._index.add(text, sample_id)
        self._index.close()
        self.num_texts, self.num_templates = len(first) - len(self._templates), len(self._templates)

    def find(self, sample: Sample) -> tuple[str, float] | None:
        """Id and Jaccard of the held-out Sample whose text is most like one of this Sample's."""
        if not self.num_texts:
            return None
        found = [
            self._index.find(text)
            for text in self._long(sample)
            if not self._templates or digest_of(shingles_of_text(text)) not in self._templates
        ]
        return max((one for one in found if one), key=lambda one: one[1], default=None)

    def _long(self, sample: Sample) -> Iterator[str]:
        for text in (sample.question, sample.answer, sample.context):
            if len(re.findall(r"\w+", text)) >= self._min_words:
                yield text


def _facts(
    ours: Pictures, theirs: Pictures, texts: _HeldOutTexts, found: Mapping[str, _Found]
) -> dict[str, Any]:
    by_benchmark: dict[str, dict[str, int]] = {}
    compared = Counter(source for source, _ in theirs.clusters)
    faults = Counter(source for source, _, _ in theirs.faults)
    by = Counter((one.source, one.by) for one in found.values())
    for source, samples in sorted(texts.samples.items()):
        by_benchmark[source] = {
            "held_out_samples": samples,
            "pictures_compared": compared[source],
            "pictures_not_compared": faults[source],
            **{f"found_by_{kind}": by[source, kind] for kind in ("hash", "embedding", "text")},
        }
    return {
        "training_pictures_compared": len(ours.ids),
        "training_pictures_not_compared": len(ours.faults),
        "held_out_texts_compared": texts.num_texts,
        "held_out_templates_passed_over": texts.num_templates,
        "found": len(found),
        "benchmarks": by_benchmark,
        "examples": [
            {"sample": name, "held_out": one.held_out, "benchmark": one.source, "by": one.by, "how": one.how}
            for name, one in list(found.items())[:NUM_SHOWN]
        ],
    }
