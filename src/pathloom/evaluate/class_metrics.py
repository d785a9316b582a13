"""Metrics of closed classification that are formulas over a table of counts, and their plain mean over data sets.

Counts are [truth, predicted], one column more than classes: the last one is "no answer". A picture without an answer
is wrong in every metric.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pathloom.evaluate.metrics import (
    Difference,
    Floats,
    Interval,
    Scored,
    bootstrap_p,
    interval_of,
    resampled_sums,
)
from pathloom.tasks.parsing import normalise

Formula = Callable[[Floats], Floats]
"""Counts [..., class, class + 1] -> values [...]; NaN where the metric is undefined."""


@dataclass(frozen=True)
class ClassSet:
    """The answers to one data set, with its classes in order; every truth is one of them."""

    scored: Sequence[Scored]
    classes: tuple[str, ...]

    def cells(self) -> Floats:
        """[sample, class * (class + 1)]: 1 in the cell of the counts that the Sample falls into."""
        place = {normalise(label): k for k, label in enumerate(self.classes)}
        width = len(self.classes) + 1
        cells = np.zeros((len(self.scored), len(self.classes) * width))
        for row, one in enumerate(self.scored):
            answer = one.score.answer
            column = width - 1 if answer is None else place[normalise(str(answer))]
            cells[row, place[normalise(one.sample.answer)] * width + column] = 1.0
        return cells

    def tallied(self, seed: int, num_resamples: int) -> "Tallied":
        """The counts and those of resamples, whole groups drawn as in `metrics`."""
        cells, shape = self.cells(), (len(self.classes), len(self.classes) + 1)
        drawn = resampled_sums(self.scored, cells, seed=seed, num_resamples=num_resamples)
        return Tallied(cells.sum(axis=0).reshape(shape), drawn.reshape(-1, *shape))


@dataclass(frozen=True, eq=False)
class Tallied:
    """counts [class, class + 1] and resampled [resample, class, class + 1]."""

    counts: Floats
    resampled: Floats


def accuracy(counts: Floats) -> Floats:
    return _ratio(_right(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def balanced_accuracy(counts: Floats) -> Floats:
    """Mean recall of the classes that occur (scikit-learn's balanced_accuracy_score)."""
    recalls = _ratio(_right(counts), counts.sum(axis=-1))
    occurs = np.isfinite(recalls)
    return _ratio(np.where(occurs, recalls, 0.0).sum(axis=-1), occurs.sum(axis=-1))


def constant_accuracy(counts: Floats) -> float:
    """Accuracy of the best constant answer: the share of the commonest class."""
    return float(counts.sum(axis=-1).max() / counts.sum())


def constant_balanced_accuracy(counts: Floats) -> float:
    """Balanced accuracy of any constant answer that is a class that occurs: one over their number."""
    return 1.0 / int((counts.sum(axis=-1) > 0).sum())


def measure_sets(tallied: Mapping[str, Tallied], formula: Formula) -> tuple[dict[str, Interval], Interval]:
    """The metric of each data set, and the plain mean over them, with 95 % intervals over groups.

    Every set is resampled by itself, since the sets are given and not drawn; the mean's interval is that of the means
    of their resamples.
    """
    values = {name: float(formula(one.counts)) for name, one in tallied.items()}
    drawn = {name: formula(one.resampled) for name, one in tallied.items()}
    each = {name: interval_of(values[name], drawn[name]) for name in tallied}
    mean = sum(values.values()) / len(values)
    return each, interval_of(mean, np.mean(list(drawn.values()), axis=0))


def compare_sets(before: Mapping[str, Tallied], after: Mapping[str, Tallied], formula: Formula) -> Difference:
    """The paired difference, after minus before, of the mean over data sets, with the p-value of `metrics.compare`'s
    bootstrap. Both sides answer the same Samples in the same order and were tallied with the same seeds.
    """
    drawn = np.mean(
        [formula(after[name].resampled) - formula(one.resampled) for name, one in before.items()], axis=0
    )
    value = measure_sets(after, formula)[1].value - measure_sets(before, formula)[1].value
    interval = interval_of(value, drawn)
    p_value = bootstrap_p(drawn[np.isfinite(drawn)])
    num_samples = sum(int(one.counts.sum()) for one in before.values())
    return Difference(value, interval.low, interval.high, num_samples, p_value)


def _right(counts: Floats) -> Floats:
    """[..., class]"""
    return np.diagonal(counts[..., :-1], axis1=-2, axis2=-1)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), math.nan)
