"""What a step is: an entry in a `curate` stage that keeps, changes or drops Samples, each drop with a reason.

A step that looks at one Sample at a time and a pass that must see the whole set first differ only in whether `prepare`
reads. What it remembers has to fit in memory, so it keeps ids and numbers, never pictures.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pathloom.schema import Drop, Event, Record, Sample

Change = Callable[[Sample], Sample | Drop]
Read = Callable[[], Iterator[Sample]]
"""The Samples that reach a step, in order, anew at every call."""


@dataclass(frozen=True)
class Prepared:
    """A step that is ready: what it does to one Sample, and what it learnt of the set, for manifest and report."""

    change: Change
    facts: Mapping[str, Any] = field(default_factory=dict)


class StepConfig(Record):
    """One entry of `steps`. `version` is raised by hand when a step's behaviour changes, which reruns its stage."""

    version: ClassVar[int] = 1

    step: str

    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages that this step reads besides the Samples."""
        return ()

    def check(self, where: str) -> None:
        """Anything that can be known before the first stage runs. Raises UserError; `where` names the entry."""

    def keyed(self) -> dict[str, Any]:
        """The part of this entry that the result depends on: all of it, unless a step says otherwise."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """What the result depends on besides this entry, as the content of files that it names."""
        return ""

    @abstractmethod
    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        """Look at the set where that is needed. `inputs` are the folders of `needs`."""

    def drop(self, sample: Sample, reason: str, detail: str = "") -> Drop:
        return Drop(sample_id=sample.id, step=f"curate.{self.step}", reason=reason, detail=detail)

    def event(self, note: str = "", *, model: str | None = None, reviewer: str | None = None) -> Event:
        return Event(
            step=f"curate.{self.step}", version=self.version, note=note, model=model, reviewer=reviewer
        )
