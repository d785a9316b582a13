"""Step `reviewed`: labels that reviewers corrected and Samples that they dropped, from review files."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.curate.decisions import (
    DROP,
    FIELDS,
    KEEP,
    KEPT,
    Decision,
    conflicts,
    content_of,
    latest,
    majority,
    read_decisions,
    values_of,
)
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

Said = Mapping[str, Mapping[str, Sequence[Decision]]]
"""Sample id -> field -> the decisions, one a reviewer."""


class ReviewedStep(StepConfig):
    """Entry of `steps`: `{step: reviewed, files: [reviews/subfield.jsonl]}`, files as `pathloom review --apply` writes.

    A field on which more than half of its reviewers agree is set, a Sample that they drop is dropped. Where there is no
    such majority the field stays as it is, which the facts count among the conflicts. A decision on other text than the
    Sample now holds is not applied, and no vote: the facts count those as `changed_since`.
    """

    version: ClassVar[int] = 1

    step: Literal["reviewed"]
    files: tuple[Path, ...] = Field(min_length=1)

    def check(self, where: str) -> None:
        for path in self.files:
            if not path.is_file():
                raise UserError(
                    f"{where}.files: {path} is no file; `pathloom review --apply EXPORT --into {path}` makes it"
                )
            for decision in read_decisions(path):
                if decision.value not in values_of(decision.field):
                    raise UserError(
                        f"{where}.files: {path} gives {decision.sample_id} the {decision.field} {decision.value!r}, "
                        f"which this step cannot set; known fields: {', '.join(FIELDS)}"
                    )

    def fingerprint(self) -> str:
        return str([_digest(path) for path in self.files])

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        decisions = latest(decision for path in self.files for decision in read_decisions(path)).values()
        said: dict[str, dict[str, list[Decision]]] = {}
        for decision in decisions:
            said.setdefault(decision.sample_id, {}).setdefault(decision.field, []).append(decision)
        return Prepared(lambda sample: self._apply(sample, said.get(sample.id, {})), _facts(read, said))

    def _apply(self, sample: Sample, said: Mapping[str, Sequence[Decision]]) -> Sample | Drop:
        record = sample
        for field in FIELDS:
            decisions = _valid(sample, field, said.get(field, ()))
            verdict = majority(decisions) if decisions else None
            if verdict is None:
                continue
            won = [decision for decision in decisions if decision.verdict == verdict]
            if verdict == DROP:
                return self.drop(sample, "reviewed_out", _why(won))
            reviewers = ", ".join(sorted(decision.reviewer for decision in won))
            if field == "keep":
                record = record.changed(self.event(KEPT, reviewer=reviewers))
            else:
                before = getattr(record, field)
                change = "confirmed" if before == verdict else f"was {before or 'unlabelled'}"
                event = self.event(f"{field} {verdict}, {change}", reviewer=reviewers)
                record = record.changed(event, **{field: verdict})
        return record


def _valid(sample: Sample, field: str, decisions: Sequence[Decision]) -> Sequence[Decision]:
    """The decisions on what the Sample holds now."""
    content = content_of(sample, field) if decisions else ""
    return [decision for decision in decisions if decision.content == content]


def _why(won: Sequence[Decision]) -> str:
    """The reason of each reviewer with the note, for a Drop's detail."""
    reasons = []
    for decision in won:
        reason = decision.value.partition(": ")[2]
        reasons.append(f"{decision.reviewer}: {reason}{f' ({decision.note})' if decision.note else ''}")
    return "; ".join(reasons)


def _facts(read: Read, said: Said) -> dict[str, Any]:
    """Counts of the decisions on the Samples that are here.

    `changed_since` counts, for each field, the decisions on text that the Sample no longer holds. `samples` counts all
    that were reviewed, everything else the decisions that are still valid.
    `agreement` is the share of a reviewer's decisions that leave a label as it was before the review, or a Sample in;
    `conflicts` counts the (Sample, field) on which reviewers disagree, `undecided` those of them without a majority.
    """
    counts: Counter[tuple[str, str]] = Counter()
    agreed: Counter[tuple[str, str]] = Counter()
    changed: Counter[str] = Counter()
    here: list[Sequence[Decision]] = []
    seen = set()
    for sample in read():
        if sample.id not in said or sample.id in seen:
            continue
        seen.add(sample.id)
        for field, told in said[sample.id].items():
            decisions = _valid(sample, field, told)
            if len(decisions) < len(told):
                changed[field] += len(told) - len(decisions)
            if not decisions:
                continue
            here.append(decisions)
            before = KEEP if field == "keep" else getattr(sample, field)
            for decision in decisions:
                counts[field, decision.reviewer] += 1
                agreed[field, decision.reviewer] += decision.verdict == before
    decided: dict[str, dict[str, int]] = {}
    agreement: dict[str, dict[str, float]] = {}
    for (field, reviewer), count in sorted(counts.items()):
        decided.setdefault(field, {})[reviewer] = count
        agreement.setdefault(field, {})[reviewer] = round(agreed[field, reviewer] / count, 4)
    return {
        "samples": len(seen),
        "not_here": len(said) - len(seen),
        "changed_since": dict(sorted(changed.items())),
        "decided": decided,
        "agreement": agreement,
        "conflicts": sum(len(conflicts(decisions)) for decisions in here),
        "undecided": sum(majority(decisions) is None for decisions in here),
    }


def _digest(path: Path) -> str:
    """Of the content; "" where there is no file, which `check` reports."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
