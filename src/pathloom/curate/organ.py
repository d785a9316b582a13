"""Step `organ`: the organ system of each Sample, from its words by rule or by a Generator."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.curate.words import organ_of
from pathloom.schema import Drop, Sample


class OrganStep(StepConfig):
    """Entry of `steps`: `{step: organ}`. A Sample that has an organ keeps it; one whose words tell none has none."""

    version: ClassVar[int] = 1

    step: Literal["organ"]

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        counts: Counter[str] = Counter()
        for sample in read():
            counts[sample.organ or organ_of(told(sample)) or "untold"] += 1
        return Prepared(self._label, {"organs": dict(counts.most_common())})

    def _label(self, sample: Sample) -> Sample | Drop:
        organ = sample.organ or organ_of(told(sample))
        return sample if organ == sample.organ else sample.changed(self.event(f"organ {organ}"), organ=organ)


def told(sample: Sample) -> str:
    """What a Sample's source says about its pictures: the caption, or question and answer, then the context."""
    question = "" if sample.task == "caption" else sample.question
    return "\n".join(text for text in (question, sample.answer, sample.context) if text)
