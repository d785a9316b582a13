"""Many Scores to metrics with 95 % intervals, paired differences, confusion and agreement of reasoning and answer.

Every metric is a sum over Samples followed by a formula (`tallies.Tally`). A resample therefore only weights the sums
of the groups, so that all resamples are one matrix product.

Intervals are percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3) over
whole groups of `Sample.origin.cluster`, because Samples of one patient, slide or book are not independent (Field &
Welsh 2007, Bootstrapping clustered data, J. R. Stat. Soc. B 69, 369-390). One group says nothing about the spread
between groups: then Samples are resampled, the interval is too narrow for a claim about new groups, and
`resampling_unit` says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pathloom.evaluate.reasoning import finding_vocabulary, named_finding
from pathloom.evaluate.tallies import Floats, Scored, class_order, mean_tally, tallies
from pathloom.tasks.ordinal import ORDINAL
from pathloom.tasks.parsing import has_reasoning, normalise, reasoning_of
from pathloom.tasks.task import Task

__all__ = [
    "Difference",
    "Floats",
    "Interval",
    "Scored",
    "agreement",
    "bootstrap_p",
    "compare",
    "confusion",
    "interval_of",
    "measure",
    "named_finding",
    "resampled_sums",
    "resampling_unit",
    "share_reasoning",
]

CELLS_AT_ONCE = 2_000_000
"""Weights held at once (resamples x groups): bounds memory to some 50 MB."""


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % interval, in the metric's own unit; NaN where it cannot be computed."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A metric after minus before on the same n Samples, its 95 % interval and a two-sided p-value."""

    difference: float
    low: float
    high: float
    n: int
    p_value: float


# ------------------------------------------------------------------------------------------------- public
def measure(
    task: Task, scored: Sequence[Scored], *, metric: str = "", seed: int = 0, num_resamples: int = 2000
) -> dict[str, Interval]:
    """`metric`, or the task's own, then "parse_rate", then the further ones of `tallies`, each with its interval.

    An answer that could not be parsed counts as wrong: 0 in every mean, never a predicted label, and all its true
    boxes missed (one false box where the picture holds none, so that silence does not pay). The one exception is
    "mean_absolute_error" of counts, which is over parsed answers and NaN when there are none.
    Boxes: precision, recall and f1 pool all boxes at IoU 0.5; ap50 and mean_iou are means over Samples.
    The same seed gives the same interval. Raises ValueError for no Samples.
    """
    sums = _Resampler(scored, seed, num_resamples)
    return {
        name: interval_of(tally.value, tally.combine(sums.of(tally.components)))
        for name, tally in tallies(task, scored, metric).items()
    }


def compare(
    task: Task,
    before: Sequence[Scored],
    after: Sequence[Scored],
    *,
    metric: str = "",
    seed: int = 0,
    num_resamples: int = 2000,
) -> Difference:
    """The paired difference, after minus before, of `metric` or the task's own, by resampling groups with both answers.

    p-value: McNemar's test in its exact form (McNemar 1947, Psychometrika 12, 153-157; two-sided binomial with
    p = 1/2 on the Samples that only one side got right) when the metric is a share of right answers and every
    group holds one Sample. Otherwise the bootstrap's: with d the resampled differences,
    min(1, 2 (1 + min(#{d <= 0}, #{d >= 0})) / (1 + resamples)), which asks whether the interval holds 0 (Davison
    & Hinkley 1997, Bootstrap Methods and their Application, chapter 4, for the added ones).
    Raises ValueError when the two do not answer the same Samples once each.
    """
    pairs = _paired(before, after)
    before, after = [old for old, _ in pairs], [new for _, new in pairs]
    metric = metric or task.metric
    old_tally, new_tally = tallies(task, before, metric)[metric], tallies(task, after, metric)[metric]
    resampler = _Resampler(before, seed, num_resamples)
    both = resampler.of(np.hstack([old_tally.components, new_tally.components]))
    width = old_tally.components.shape[1]
    differences = new_tally.combine(both[:, width:]) - old_tally.combine(both[:, :width])
    difference = new_tally.value - old_tally.value
    low, high = _percentiles(differences)
    correct = np.array([[old.score.correct, new.score.correct] for old, new in pairs])
    all_single = resampler.num_groups == len(pairs)
    if metric == "accuracy" and all_single and np.isin(correct, (0.0, 1.0)).all():
        p_value = _mcnemar(correct[:, 0], correct[:, 1])
    else:
        p_value = bootstrap_p(differences)
    return Difference(difference, low, high, len(pairs), p_value)


def compare_runs(
    before: Sequence[Sequence[Scored]],
    after: Sequence[Sequence[Scored]],
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> Difference:
    """The paired difference, after minus before, of mean correctness, each side a mean over runs with other seeds.

    Every run holds the same Samples in the same order. Groups of Samples are resampled and runs are not: the interval
    says how far other Samples would move the mean of these runs. p-value: the bootstrap's of `compare`.
    Raises ValueError when the runs do not answer the same Samples in the same order.
    """
    asked = [one.sample.id for one in before[0]]
    if any([one.sample.id for one in run] != asked for run in (*before, *after)):
        raise ValueError("runs that are compared must answer the same samples in the same order")
    old, new = (
        np.mean([[one.score.correct for one in run] for run in runs], axis=0) for runs in (before, after)
    )
    components = np.stack([new - old, np.ones(len(asked))], axis=1)
    sums = _Resampler(before[0], seed, num_resamples).of(components)
    differences = sums[:, 0] / sums[:, 1]
    low, high = _percentiles(differences)
    p_value = bootstrap_p(differences)
    return Difference(float((new - old).mean()), low, high, len(asked), p_value)


def confusion(scored: Sequence[Scored]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """Labels in order and counts [truth][predicted] of answers by name; the last column is "no answer".

    Labels are the texts that occur as truth or answer, in the order of `class_order`; a row stands for each. Those of
    one ordered scale are its steps.
    """
    texts = (
        str(text) for one in scored for text in (one.sample.answer, one.score.answer) if text is not None
    )
    scales = {one.sample.choices for one in scored if one.sample.task == ORDINAL.name}
    labels = list(scales.pop()) if len(scales) == 1 else class_order(texts)
    order = {normalise(label): place for place, label in enumerate(labels)}
    counts = [[0] * (len(order) + 1) for _ in order]
    for one in scored:
        answer = one.score.answer
        column = len(order) if answer is None else order[normalise(str(answer))]
        counts[order[normalise(one.sample.answer)]][column] += 1
    return tuple(labels), tuple(map(tuple, counts))


def share_reasoning(
    scored: Sequence[Scored], completions: Sequence[str], *, seed: int = 0, num_resamples: int = 2000
) -> Interval:
    """The share of the completions that reason in a think block before they answer, in the order of `scored`.

    Reinforcement reports the same of its rollouts: SFT on answers alone teaches none, the prompt and the format reward
    call for it.
    """
    tally = mean_tally([float(has_reasoning(completion)) for completion in completions])
    drawn = resampled_sums(scored, tally.components, seed=seed, num_resamples=num_resamples)
    return interval_of(tally.value, tally.combine(drawn))


def agreement(
    task: Task,
    scored: Sequence[Scored],
    completions: Sequence[str],
    *,
    seed: int = 0,
    num_resamples: int = 2000,
) -> dict[str, Interval]:
    """Whether the reasoning supports the truth and the answer, by the finding that it names last.

    "finding_agrees_with_truth": share of the Samples with a `finding` whose reasoning names it; naming none is
    disagreement. "finding_agrees_with_answer": among Samples with a named finding and a parsed answer, the share
    where the one implies the other. For choice and label the finding must be the answer's text (only Samples
    whose own answer is their finding count: a stain does not imply a diagnosis); for yes_no the answer must be
    yes exactly when the named finding is `asked_finding`. A metric without any such Sample is left out.
    `completions` stand in the order of `scored`.
    """
    vocabulary = finding_vocabulary([one.sample for one in scored])
    truth: list[tuple[Scored, bool]] = []
    answer: list[tuple[Scored, bool]] = []
    for one, completion in zip(scored, completions, strict=True):
        named = named_finding(reasoning_of(completion), vocabulary)
        if one.sample.finding is not None:
            truth.append((one, named is not None and normalise(named) == normalise(one.sample.finding)))
        agrees = None if named is None else _implies(task, one, normalise(named))
        if agrees is not None:
            answer.append((one, agrees))
    intervals: dict[str, Interval] = {}
    for name, kept in (("finding_agrees_with_truth", truth), ("finding_agrees_with_answer", answer)):
        if kept:
            tally = mean_tally([float(agrees) for _, agrees in kept])
            resampled = _Resampler([one for one, _ in kept], seed, num_resamples).of(tally.components)
            intervals[name] = interval_of(tally.value, tally.combine(resampled))
    return intervals


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p-value of resampled differences [resample], as `compare` says."""
    fewer = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (1 + fewer) / (1 + len(differences)))


def resampled_sums(
    scored: Sequence[Scored], components: Floats, *, seed: int = 0, num_resamples: int = 2000
) -> Floats:
    """Sums [resample, component] of `components` [sample, component], drawn as the intervals of `measure` draw."""
    return _Resampler(scored, seed, num_resamples).of(components)


def interval_of(value: float, resampled: Floats) -> Interval:
    """A metric with the 2.5 % and 97.5 % points of its values [resample]; NaN where none is defined."""
    return Interval(value, *_percentiles(resampled))


def resampling_unit(scored: Sequence[Scored]) -> Literal["group", "sample"]:
    """What the intervals resample: groups, or single Samples when all of them belong to one group."""
    return "group" if len({one.sample.origin.cluster for one in scored}) > 1 else "sample"


# ------------------------------------------------------------------------------------------- resampling
class _Resampler:
    """Sums over resampled groups. The draws depend on the seed and the number of groups only."""

    def __init__(self, scored: Sequence[Scored], seed: int, num_resamples: int) -> None:
        if not scored:
            raise ValueError("no samples to measure")
        if num_resamples < 1:
            raise ValueError(f"num_resamples is {num_resamples}; at least 1 is needed")
        groups = [one.sample.origin.cluster for one in scored]
        names = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        if len(names) == 1:
            self._group_of_sample = np.arange(len(scored))
        else:
            self._group_of_sample = np.array([names[group] for group in groups])
        self.num_groups = int(self._group_of_sample.max()) + 1
        self._seed, self._num_resamples = seed, num_resamples

    def of(self, components: Floats) -> Floats:
        """[resample, component] from [sample, component]."""
        by_group = np.zeros((self.num_groups, components.shape[1]))
        np.add.at(by_group, self._group_of_sample, components)
        generator = np.random.default_rng(self._seed)
        chunk = max(1, CELLS_AT_ONCE // self.num_groups)
        sums = []
        for start in range(0, self._num_resamples, chunk):
            rows = min(chunk, self._num_resamples - start)
            drawn = generator.integers(0, self.num_groups, size=(rows, self.num_groups), dtype=np.int64)
            drawn += np.arange(rows)[:, None] * self.num_groups
            weights = np.bincount(drawn.ravel(), minlength=rows * self.num_groups)
            sums.append(weights.reshape(rows, self.num_groups).astype(np.float64) @ by_group)
        return np.vstack(sums)


def _percentiles(resampled: Floats) -> tuple[float, float]:
    """The 2.5 % and 97.5 % points of the resamples in which the metric is defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.percentile(defined, (2.5, 97.5))
    return float(low), float(high)


def _paired(before: Sequence[Scored], after: Sequence[Scored]) -> list[tuple[Scored, Scored]]:
    sides = []
    for name, side in (("before", before), ("after", after)):
        by_id = {one.sample.id: one for one in side}
        if len(by_id) != len(side):
            twice = next(key for key, n in Counter(one.sample.id for one in side).items() if n > 1)
            raise ValueError(f"sample {twice!r} stands twice on the {name} side; each must be answered once")
        sides.append(by_id)
    missing = sorted(sides[0].keys() ^ sides[1].keys())
    if missing:
        raise ValueError(
            f"the two sides answer different samples ({len(missing)} on one side only, first {missing[0]!r}); "
            "keep the samples that both answered"
        )
    return [(one, sides[1][key]) for key, one in sides[0].items()]


def _mcnemar(before: Floats, after: Floats) -> float:
    """Two-sided exact p-value from the numbers of Samples that only one side got right."""
    gained, lost = int((after > before).sum()), int((after < before).sum())
    discordant = gained + lost
    term, tail = 1, 1
    for k in range(min(gained, lost)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / 2**discordant)


def _implies(task: Task, one: Scored, named: str) -> bool | None:
    """Whether the named finding implies the parsed answer; None where the two say nothing about each other."""
    answer, sample = one.score.answer, one.sample
    if answer is None:
        return None
    if task.name in ("choice", "label") and sample.finding is not None:
        answered_by_finding = normalise(sample.answer) == normalise(sample.finding)
        return named == normalise(str(answer)) if answered_by_finding else None
    if task.name == "yes_no" and sample.asked_finding is not None:
        return (answer == "yes") == (named == normalise(sample.asked_finding))
    return None
