"""Metrics as sums over Samples followed by a formula, so that a resample only weights the sums of the groups."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathloom.benchmarks import DIMENSION
from pathloom.evaluate.kappa import weighted_kappa
from pathloom.phantom.cytology import BETHESDA
from pathloom.schema import Sample
from pathloom.tasks.bleu import BLEU4, best_constant_bleu4
from pathloom.tasks.label import LABEL
from pathloom.tasks.ordinal import ORDINAL_CREDIT, best_constant_credit, place_on_scale
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import Score, Task

Floats = NDArray[np.float64]

MACRO_ACCURACY = "macro_accuracy"
BALANCED_ACCURACY = "balanced_accuracy"
QUADRATIC_KAPPA = "quadratic_kappa"

FURTHER_CHANCES: Mapping[str, Callable[[Sequence[Sample]], float]] = {
    ORDINAL_CREDIT: best_constant_credit,
    QUADRATIC_KAPPA: lambda samples: 0.0,
    BLEU4: lambda samples: best_constant_bleu4([sample.answer for sample in samples]),
}
"""Metrics beside the primary one that mean little without what the best constant answer reaches in them."""


@dataclass(frozen=True)
class Scored:
    """A Sample and the Score of one answer to it."""

    sample: Sample
    score: Score


@dataclass(frozen=True)
class Tally:
    """A metric as sums and a formula.

    components  [sample, component]
    combine     sums [..., component] -> values [...]; NaN where the metric is undefined
    """

    components: Floats
    combine: Callable[[Floats], Floats]

    @property
    def value(self) -> float:
        """The metric of all Samples."""
        return float(self.combine(self.components.sum(axis=0)))


def tallies(task: Task, scored: Sequence[Scored], metric: str = "") -> dict[str, Tally]:
    """`metric`, or the task's own, then "parse_rate", then what else the task is measured by.

    macro_accuracy     plain mean over dimensions (strata "dimension=...") of accuracy: a dimension counts the same
                       however many Samples ask about it. One that a resample does not hold is left out of its mean
    balanced_accuracy  plain mean over classes of recall, with "macro_f1" and "recall (CLASS)" for each class

    Raises ValueError for a metric that the task does not have.
    """
    correct = mean_tally([one.score.correct for one in scored])
    parsed = mean_tally([float(one.score.answer is not None) for one in scored])
    further = _FURTHER[task.name](scored) if task.name in _FURTHER else {}
    further = {task.metric: correct, **further}
    if metric not in ("", task.metric):
        if task.metric != "accuracy" or metric not in _OF_CHOICES:
            raise ValueError(f"task {task.name} has no metric {metric!r}")
        further |= _OF_CHOICES[metric](scored)
    first = metric or task.metric
    found = {first: further.pop(first), "parse_rate": parsed, **further}
    if task.name in ("label", "ordinal"):
        found["accuracy"] = correct
    return found


def chance(task: Task, samples: Sequence[Sample], metric: str) -> float:
    """The value of `metric` that the best constant answer reaches, to each dimension apart where there are such.

    `metric` is what a benchmark is reported by, or one of FURTHER_CHANCES.
    """
    if metric in FURTHER_CHANCES:
        return FURTHER_CHANCES[metric](samples)
    if metric == MACRO_ACCURACY:
        by_dimension: dict[str, list[Sample]] = {}
        for sample in samples:
            by_dimension.setdefault(dimension_of(sample), []).append(sample)
        return sum(map(task.chance, by_dimension.values())) / len(by_dimension)
    return LABEL.chance(samples) if metric == BALANCED_ACCURACY else task.chance(samples)


def dimension_of(sample: Sample) -> str:
    """What the Sample's question is about, as its stratum says. Raises ValueError where none does."""
    found = [stratum for stratum in sample.strata if stratum.startswith(DIMENSION)]
    if len(found) != 1:
        raise ValueError(f"sample {sample.id}: one stratum {DIMENSION}NAME is needed, there are {len(found)}")
    return found[0].removeprefix(DIMENSION)


def class_order(texts: Iterable[str]) -> list[str]:
    """Different texts in order: Bethesda classes from NILM on as cytologists list them, then others by the alphabet.

    Texts are told apart after normalising; the first of those that are alike stands for them.
    """
    by_key: dict[str, str] = {}
    for text in texts:
        by_key.setdefault(normalise(text), text)
    place = {normalise(name): at for at, name in enumerate(BETHESDA)}
    return [by_key[key] for key in sorted(by_key, key=lambda key: (place.get(key, len(place)), key))]


def mean_tally(values: Sequence[float]) -> Tally:
    """The mean over Samples."""
    components = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    return Tally(components, _first_over_second)


def _first_over_second(sums: Floats) -> Floats:
    return _ratio(sums[..., 0], sums[..., 1], math.nan)


def _ratio(top: Floats, bottom: Floats, otherwise: Floats | float) -> Floats:
    """top / bottom, and `otherwise` where the bottom is 0."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), otherwise)


def _mean_where(values: Floats, occurs: Floats) -> Floats:
    """Plain mean over the last axis of the values whose count `occurs` is not 0; NaN where there is none."""
    return _ratio(np.where(occurs > 0, values, 0.0).sum(axis=-1), (occurs > 0).sum(axis=-1), math.nan)


def _mean_of_part(scored: Sequence[Scored], part: str) -> Tally:
    return mean_tally([one.score.parts.get(part, 0.0) for one in scored])


def _count_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    errors = [one.score.parts.get("absolute_error", 0.0) for one in scored]
    components = np.column_stack([errors, [float(one.score.answer is not None) for one in scored]])
    return {"mean_absolute_error": Tally(components, _first_over_second)}


def _short_answer_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    return {"token_f1": _mean_of_part(scored, "token_f1"), **_caption_tallies(scored)}


def _caption_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    return {BLEU4: _mean_of_part(scored, BLEU4)}


def _ordinal_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Those of labels, the mean ordinal credit, and Cohen's kappa with quadratic weights (Cohen 1968).

    The kappa is of Samples with scales of one length; its components are the counts [truth, answer], one column more
    for no answer.
    """
    found = {**_label_tallies(scored), ORDINAL_CREDIT: _mean_of_part(scored, ORDINAL_CREDIT)}
    lengths = {len(one.sample.choices) for one in scored}
    if len(lengths) > 1:
        return found
    shape = (*lengths, lengths.pop() + 1)
    cells = np.zeros((len(scored), *shape))
    for row, one in enumerate(scored):
        answer = one.score.answer
        column = -1 if answer is None else place_on_scale(one.sample, str(answer))
        cells[row, place_on_scale(one.sample, one.sample.answer), column] = 1.0

    def kappa(sums: Floats) -> Floats:
        return weighted_kappa(sums.reshape(*sums.shape[:-1], *shape))

    return {**found, QUADRATIC_KAPPA: Tally(cells.reshape(len(scored), -1), kappa)}


def _boxes_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Components: true positives, predicted boxes, true boxes."""
    rows = []
    for one in scored:
        num_true = float(len(one.sample.regions))
        silent = float(num_true == 0) if one.score.answer is None else 0.0
        parts = one.score.parts
        rows.append([parts.get("true_positives", 0.0), parts.get("num_predicted", silent), num_true])
    components = np.array(rows)

    def share(of: Callable[[Floats], Floats], scale: float = 1.0) -> Tally:
        def combine(sums: Floats) -> Floats:
            # Nothing to find and nothing claimed is a perfect result (VLM-R1); one of the two alone is 0.
            nothing = (sums[..., 1] + sums[..., 2]) == 0
            return _ratio(scale * sums[..., 0], of(sums), np.where(nothing, 1.0, 0.0))

        return Tally(components, combine)

    return {
        "f1": share(lambda sums: sums[..., 1] + sums[..., 2], scale=2.0),
        "precision": share(lambda sums: sums[..., 1]),
        "recall": share(lambda sums: sums[..., 2]),
        "ap50": _mean_of_part(scored, "ap50"),
        "mean_iou": _mean_of_part(scored, "mean_iou"),
    }


def _mask_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Means over pictures of the parts that the task `mask` grades, beside its Dice."""
    parts = ("iou", "precision", "recall", "dice_union", "dice_box", "iou_box")
    return {part: _mean_of_part(scored, part) for part in parts}


def _label_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Components: for each label that occurs as truth, its Samples, those found, and those given this label."""
    truths = [normalise(one.sample.answer) for one in scored]
    given = [None if one.score.answer is None else normalise(str(one.score.answer)) for one in scored]
    place = {label: k for k, label in enumerate(sorted(set(truths)))}
    num = len(place)
    components = np.zeros((len(scored), 3 * num))
    for row, (truth, answer) in enumerate(zip(truths, given, strict=True)):
        components[row, place[truth]] = 1.0
        components[row, num + place[truth]] = float(truth == answer)
        if answer in place:
            components[row, 2 * num + place[answer]] = 1.0

    def balanced(sums: Floats) -> Floats:
        occurs, found = sums[..., :num], sums[..., num : 2 * num]
        return _mean_where(_ratio(found, occurs, 0.0), occurs)

    def macro_f1(sums: Floats) -> Floats:
        occurs, found, claimed = sums[..., :num], sums[..., num : 2 * num], sums[..., 2 * num :]
        return _mean_where(_ratio(2 * found, occurs + claimed, 0.0), occurs)

    return {BALANCED_ACCURACY: Tally(components, balanced), "macro_f1": Tally(components, macro_f1)}


def _dimension_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Components: for each dimension its Samples, then those that were answered right."""
    names = [dimension_of(one.sample) for one in scored]
    place = {name: k for k, name in enumerate(sorted(set(names)))}
    num = len(place)
    components = np.zeros((len(scored), 2 * num))
    for row, (name, one) in enumerate(zip(names, scored, strict=True)):
        components[row, place[name]] = 1.0
        components[row, num + place[name]] = one.score.correct

    def macro(sums: Floats) -> Floats:
        asked, right = sums[..., :num], sums[..., num:]
        return _mean_where(_ratio(right, asked, 0.0), asked)

    return {MACRO_ACCURACY: Tally(components, macro)}


def _class_tallies(scored: Sequence[Scored]) -> dict[str, Tally]:
    """Those of labels, and the recall of each class that occurs as truth."""
    found = _label_tallies(scored)
    for name in class_order([one.sample.answer for one in scored]):
        is_class = [float(normalise(one.sample.answer) == normalise(name)) for one in scored]
        right = [truth * one.score.correct for truth, one in zip(is_class, scored, strict=True)]
        found[f"recall ({name})"] = Tally(np.column_stack([right, is_class]), _first_over_second)
    return found


_FURTHER: dict[str, Callable[[Sequence[Scored]], dict[str, Tally]]] = {
    "boxes": _boxes_tallies,
    "caption": _caption_tallies,
    "count": _count_tallies,
    "dialogue": _caption_tallies,
    "label": _label_tallies,
    "mask": _mask_tallies,
    "ordinal": _ordinal_tallies,
    "report": _caption_tallies,
    "short_answer": _short_answer_tallies,
}

_OF_CHOICES: dict[str, Callable[[Sequence[Scored]], dict[str, Tally]]] = {
    MACRO_ACCURACY: _dimension_tallies,
    BALANCED_ACCURACY: _class_tallies,
}
"""What a benchmark of single-choice questions may be reported by, in place of accuracy."""
