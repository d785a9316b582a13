"""Step `reviewed`: labels that reviewers corrected and Samples that they dropped, from review files."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.attributes import Language
from pathloom.curate.decisions import (
    ATTRIBUTES_ARE_RIGHT,
    BOTH_ARE_RIGHT,
    CLASS_IS_RIGHT,
    DROP,
    FIELDS,
    KEEP,
    KEPT,
    NEITHER_IS_RIGHT,
    Decision,
    conflicts,
    content_of,
    latest,
    majority,
    read_decisions,
    values_of,
)
from pathloom.curate.expert import awaited_breaks, caption_of, confirmed, corrected
from pathloom.curate.expert_rules import RuleTable, load_rules
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.routing import CONTRADICTION
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

Said = Mapping[str, Mapping[str, Sequence[Decision]]]
"""Sample id -> field -> the decisions, one a reviewer."""


class ReviewedStep(StepConfig):
    """Entry of `steps`: `{step: reviewed, files: [reviews/subfield.jsonl]}`, files as `pathloom review --apply` writes.

    A field on which more than half of its reviewers agree is set, a Sample that they drop is dropped. Where there is no
    such majority the field stays as it is, which the facts count among the conflicts. A decision on other text than the
    Sample now holds is not applied, and no vote: the facts count those as `changed_since`.

    A contradiction between class and attributes is settled as reviewers say: attributes become what the rules write for
    the class, or the class is taken away, or both stay, or the Sample is dropped since neither is right.
    """

    version: ClassVar[int] = 1

    step: Literal["reviewed"]
    files: tuple[Path, ...] = Field(min_length=1)
    rules: str = Field(default="bethesda", description="of the step `expert` that sent Samples to review")
    attributes: str = Field(default="cervical_cell", description="of that step")
    language: Language = Field(default="en", description="of captions that are written anew, as in that step")

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
        self._table()

    def fingerprint(self) -> str:
        files = [_digest(path) for path in self.files]
        table = self._table() if all(files) else None
        return str([*files, *([table.digest, table.schema.digest] if table else [])])

    def _table(self) -> RuleTable | None:
        """The rules by which contradictions are corrected; None where no file decides about one."""
        decisions = (decision for path in self.files for decision in read_decisions(path))
        if all(decision.field != CONTRADICTION for decision in decisions):
            return None
        return load_rules(self.rules, self.attributes)

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        decisions = latest(decision for path in self.files for decision in read_decisions(path)).values()
        said: dict[str, dict[str, list[Decision]]] = {}
        for decision in decisions:
            said.setdefault(decision.sample_id, {}).setdefault(decision.field, []).append(decision)
        table = self._table()
        return Prepared(
            lambda sample: self._apply(sample, said.get(sample.id, {}), table), _facts(read, said)
        )

    def _apply(
        self, sample: Sample, said: Mapping[str, Sequence[Decision]], table: RuleTable | None
    ) -> Sample | Drop:
        record = sample
        for field in FIELDS:
            decisions = _valid(sample, field, said.get(field, ()))
            verdict = majority(decisions) if decisions else None
            if verdict is None:
                continue
            won = [decision for decision in decisions if decision.verdict == verdict]
            if verdict in (DROP, NEITHER_IS_RIGHT):
                return self.drop(sample, "reviewed_out", _why(won))
            reviewers = ", ".join(sorted(decision.reviewer for decision in won))
            if field == "keep":
                record = record.changed(self.event(KEPT, reviewer=reviewers))
            elif table is not None and field == CONTRADICTION:
                record = self._settle(record, verdict, reviewers, table)
            else:
                before = getattr(record, field)
                change = "confirmed" if before == verdict else f"was {before or 'unlabelled'}"
                event = self.event(f"{field} {verdict}, {change}", reviewer=reviewers)
                record = record.changed(event, **{field: verdict})
        return record

    def _settle(self, sample: Sample, verdict: str, reviewers: str, table: RuleTable) -> Sample:
        """The attributes in question are the reviewer's from here on, and the caption says what is held to be true."""
        breaks = awaited_breaks(sample, table)
        fields: dict[str, Any] = {}
        told = [f"{CONTRADICTION} {verdict}"]
        if verdict == CLASS_IS_RIGHT:
            fields["attributes"] = corrected(sample.attributes, breaks, "reviewer")
            told += [each.change for each in breaks]
        else:
            fields["attributes"] = confirmed(sample.attributes, breaks, "reviewer")
        if verdict == ATTRIBUTES_ARE_RIGHT:
            fields["finding"] = None
            told.append(f"class was {sample.finding}")
        fields["answer"] = caption_of(fields["attributes"], table.schema, self.language)
        return sample.changed(self.event(", ".join(told), reviewer=reviewers), **fields)


def _valid(sample: Sample, field: str, decisions: Sequence[Decision]) -> Sequence[Decision]:
    """The decisions on what the Sample holds now."""
    content = content_of(sample, field) if decisions else ""
    return [decision for decision in decisions if decision.content == content]


def _as_it_was(sample: Sample, field: str) -> str | None:
    """The verdict that changes nothing."""
    unchanging = {"keep": KEEP, CONTRADICTION: BOTH_ARE_RIGHT}
    return unchanging[field] if field in unchanging else getattr(sample, field)


def _why(won: Sequence[Decision]) -> str:
    """The reason of each reviewer with the note, for a Drop's detail."""
    reasons = []
    for decision in won:
        reason = decision.value.partition(": ")[2] or decision.value
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
            before = _as_it_was(sample, field)
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
