"""How often the rules of the step `expert` were right, where the true attributes and classes are known."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pathloom.curate.expert_rules import Judged, Rule
from pathloom.curate.intervals import bootstrap_mean
from pathloom.schema import Sample
from pathloom.stage import UserError


@dataclass(frozen=True)
class Case:
    """One attribute of one checked Sample: its value before and after the step, the true one, the rules it broke."""

    sample_id: str
    group: tuple[str, str]
    finding: str
    attribute: str
    before: str
    after: str
    truth: str
    rules: tuple[str, ...]
    routed: bool
    label_is_wrong: bool

    @property
    def was_wrong(self) -> bool:
        return self.before != self.truth

    @property
    def is_wrong(self) -> bool:
        return self.after != self.truth

    @property
    def change(self) -> int:
        """-1 for an error less, 1 for one more."""
        return self.is_wrong - self.was_wrong

    @property
    def became(self) -> str:
        """What happened to a value that broke a rule, as the tables name it."""
        if self.routed:
            return "routed_rightly" if self.was_wrong or self.label_is_wrong else "routed_needlessly"
        if not self.was_wrong:
            return "true_to_wrong"
        return "wrong_to_wrong" if self.is_wrong else "wrong_to_true"


BECAME = ("wrong_to_true", "true_to_wrong", "wrong_to_wrong", "routed_rightly", "routed_needlessly")


def measure(
    judged: Iterable[tuple[Sample, Judged]], truths: Mapping[str, Sample], rules: Sequence[Rule], seed: int
) -> dict[str, Any]:
    """Tables for the facts of the step. `truths` are Samples by id; those without one are counted and left out.

    An error rate is a share of attributes that have a value and a true one. Intervals: 95 %, bootstrap over groups.
    Routed Samples are as they were; `learnt_from` tells the errors in what is left when they are put aside.
    A break is routed rightly where the attribute or the label is wrong, needlessly where both are right.
    """
    cases, labels, unknown = list[Case](), Counter[str](), 0
    for sample, verdict in judged:
        truth = truths.get(sample.id)
        if truth is None or not truth.attributes:
            unknown += 1
            continue
        label_is_wrong = truth.finding is not None and truth.finding != sample.finding
        labels[f"{'wrong' if label_is_wrong else 'right'} {verdict.became}"] += 1
        cases.extend(_cases(sample, verdict, truth, label_is_wrong=label_is_wrong))
    if unknown and not cases:
        raise UserError(
            "expert.truth: that stage has true attributes of none of the Samples here; name the stage that they were "
            "first made in"
        )
    broken = [case for case in cases if case.rules]
    kept = [case for case in cases if not case.routed]
    by_rule = []
    for rule in rules:
        mine = [case for case in broken if rule.id in case.rules]
        could = [case for case in cases if case.finding in rule.classes and case.attribute == rule.attribute]
        by_rule.append({**rule.columns, **_outcomes(mine), **_error_change(could, mine, seed)})
    attributes = dict.fromkeys(case.attribute for case in cases)
    return {
        "without_truth": unknown,
        **{f"breaks_{name}": count for name, count in _outcomes(broken).items()},
        "errors": {
            "all": _errors(cases, seed),
            "learnt_from": _errors(kept, seed),
            **{name: _errors([c for c in cases if c.attribute == name], seed) for name in attributes},
        },
        "rules_against_truth": by_rule,
        "labels": _labels(labels),
    }


def _cases(sample: Sample, verdict: Judged, truth: Sample, *, label_is_wrong: bool) -> Iterator[Case]:
    broken = {each.attribute: each for each in verdict.breaks}
    for attribute in sample.attributes:
        true = truth.attribute(attribute.name)
        if true is None:
            continue
        found = broken.get(attribute.name)
        mended = found is not None and verdict.reason is None
        yield Case(
            sample_id=sample.id,
            group=sample.origin.cluster,
            finding=str(sample.finding),
            attribute=attribute.name,
            before=attribute.value,
            after=str(found.to) if found is not None and mended else attribute.value,
            truth=true,
            rules=tuple(rule.id for rule in found.rules) if found else (),
            routed=verdict.reason is not None,
            label_is_wrong=label_is_wrong,
        )


def _outcomes(cases: Iterable[Case]) -> dict[str, int]:
    counts = Counter(case.became for case in cases)
    return {name: counts[name] for name in BECAME}


def _error_change(could: Sequence[Case], broke: Sequence[Case], seed: int) -> dict[str, Any]:
    """Change of the error rate by one rule, over all attributes that it could have touched."""
    if not could:
        return {}
    touched = {(case.sample_id, case.attribute) for case in broke}
    values = [case.change if (case.sample_id, case.attribute) in touched else 0 for case in could]
    change, low, high = bootstrap_mean(values, [case.group for case in could], seed)
    return {"checked": len(could), "error_change": change, "low": low, "high": high}


def _errors(cases: Sequence[Case], seed: int) -> dict[str, Any]:
    """Share of wrong attributes before and after, and the change with its interval."""
    if not cases:
        return {}
    change, low, high = bootstrap_mean([case.change for case in cases], [case.group for case in cases], seed)
    return {
        "attributes": len(cases),
        "error_before": sum(case.was_wrong for case in cases) / len(cases),
        "error_after": sum(case.is_wrong for case in cases) / len(cases),
        "error_change": change,
        "low": low,
        "high": high,
    }


def _labels(labels: Counter[str]) -> dict[str, Any]:
    """What became of Samples whose class is wrong and of those whose class is right; `routed_share` is the recall."""
    table = {}
    for kind in ("wrong", "right"):
        counts = {became: labels[f"{kind} {became}"] for became in ("routed", "corrected", "unbroken")}
        total = sum(counts.values())
        share = {"routed_share": counts["routed"] / total} if total else {}
        table[f"{kind} class"] = {"samples": total, **counts, **share}
    return table
