"""Step `draw`: a proportional stratified sample, as Patho-R1 takes its questions for reinforcement."""

import hashlib
from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.ingest.source import share_of
from pathloom.schema import Drop, Sample

Stratum = tuple[str, ...]


class DrawStep(StepConfig):
    """Entry of `steps`: `{step: draw, task: choice, count: 10000}`. Only training Samples are drawn.

    Strata are the sub-fields; those in `organs_of` are split further by organ (Patho-R1, figure 2). Each stratum gives
    its share of `count`, by largest remainder. Which of its Samples are drawn depends on seed and id alone.
    """

    version: ClassVar[int] = 1

    step: Literal["draw"]
    count: int = Field(ge=1, description="Samples to draw; all of them where there are fewer")
    task: str = "choice"
    organs_of: tuple[str, ...] = ("histopathology", "gross")
    max_options: int = Field(default=6, ge=2, description="A to F, as in Patho-R1")
    group_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="draw from this share of the groups only, so that the others stay whole for SFT",
    )

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        found: dict[Stratum, list[tuple[str, str]]] = {}
        for sample in read():
            if self._fault(sample, seed) is None:
                found.setdefault(self._stratum(sample), []).append((_hash(seed, sample.id), sample.id))
        quotas = proportional({stratum: len(members) for stratum, members in found.items()}, self.count)
        drawn = {
            sample_id for stratum, quota in quotas.items() for _, sample_id in sorted(found[stratum])[:quota]
        }

        def change(sample: Sample) -> Sample | Drop:
            fault = self._fault(sample, seed)
            if fault is not None:
                return self.drop(sample, *fault)
            if sample.id not in drawn:
                return self.drop(sample, "not_drawn")
            return sample.changed(self.event(" / ".join(self._stratum(sample))))

        strata = {
            " / ".join(stratum): {"at_hand": len(members), "drawn": quotas[stratum]}
            for stratum, members in sorted(found.items())
        }
        return Prepared(change, {"strata": strata})

    def _fault(self, sample: Sample, seed: int) -> tuple[str, str] | None:
        """(reason, detail) of a Sample that cannot be drawn at all."""
        if sample.split != "train":
            return "held_out", sample.split
        if sample.task != self.task:
            return "other_task", sample.task
        if len(sample.choices) > self.max_options:
            return "too_many_options", str(len(sample.choices))
        share = share_of("/".join(sample.origin.cluster), seed)
        return ("other_group", sample.origin.group) if share >= self.group_share else None

    def _stratum(self, sample: Sample) -> Stratum:
        subfield = sample.subfield or "none"
        return (subfield, sample.organ or "untold") if subfield in self.organs_of else (subfield,)


def proportional(sizes: Mapping[Stratum, int], count: int) -> dict[Stratum, int]:
    """How many of `count` each stratum gives: its exact share rounded down, the rest to the largest remainders."""
    total = sum(sizes.values())
    if count >= total:
        return dict(sizes)
    exact = {stratum: count * size / total for stratum, size in sizes.items()}
    quotas = {stratum: floor(share) for stratum, share in exact.items()}
    by_remainder = sorted(exact, key=lambda stratum: (quotas[stratum] - exact[stratum], stratum))
    for stratum in by_remainder[: count - sum(quotas.values())]:
        quotas[stratum] += 1
    return quotas


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
