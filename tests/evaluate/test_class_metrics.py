from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score
from tests.fixtures import make_sample

from pathloom.evaluate.class_metrics import (
    ClassSet,
    accuracy,
    balanced_accuracy,
    compare_sets,
    constant_accuracy,
    constant_balanced_accuracy,
    measure_sets,
)
from pathloom.evaluate.kappa import weighted_kappa
from pathloom.evaluate.metrics import Scored, compare, measure
from pathloom.tasks.label import LABEL
from pathloom.tasks.task import Score

CLASSES = ("low", "moderate", "high")


def answered(classes: Sequence[str], truth: Iterable[int], given: Iterable[int]) -> list[Scored]:
    return [
        Scored(
            make_sample(str(number), task="label", answer=classes[t], choices=tuple(classes)),
            Score(classes[g] if g >= 0 else None, float(t == g)),
        )
        for number, (t, g) in enumerate(zip(truth, given, strict=True))
    ]


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_every_metric_agrees_with_scikit_learn_on_random_answers(num_classes):
    rng = np.random.default_rng(num_classes)
    classes = tuple(f"class {k}" for k in range(num_classes))
    for _ in range(20):
        truth = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 40)])
        given = np.where(rng.random(len(truth)) < 0.5, truth, rng.integers(0, num_classes, len(truth)))
        scored = answered(classes, truth, given)
        counts = ClassSet(scored, classes).tallied(0, 1).counts

        assert float(accuracy(counts)) == pytest.approx(accuracy_score(truth, given))
        assert float(balanced_accuracy(counts)) == pytest.approx(balanced_accuracy_score(truth, given))
        assert float(weighted_kappa(counts)) == pytest.approx(
            cohen_kappa_score(truth, given, weights="quadratic")
        )


def test_the_table_agrees_with_the_metrics_of_every_other_evaluation():
    rng = np.random.default_rng(0)
    scored = answered(CLASSES, rng.integers(0, 3, 60), rng.integers(-1, 3, 60))
    counts = ClassSet(scored, CLASSES).tallied(0, 1).counts

    measured = measure(LABEL, scored, num_resamples=100)

    assert float(accuracy(counts)) == pytest.approx(measured["accuracy"].value)
    assert float(balanced_accuracy(counts)) == pytest.approx(measured["balanced_accuracy"].value)


def test_no_answer_weighs_in_kappa_as_the_answer_furthest_from_the_truth():
    truth = [0, 0, 1, 1, 2, 2, 2]
    silent = ClassSet(answered(CLASSES, truth, [0, -1, 1, 0, 2, 2, -1]), CLASSES).tallied(0, 1).counts

    assert float(weighted_kappa(silent)) == pytest.approx(
        cohen_kappa_score(truth, [0, 2, 1, 0, 2, 2, 0], weights="quadratic")
    )


def test_kappa_of_one_class_that_is_always_right_is_not_a_number():
    counts = ClassSet(answered(CLASSES, [1, 1], [1, 1]), CLASSES).tallied(0, 1).counts

    assert np.isnan(weighted_kappa(counts))
    assert constant_accuracy(counts) == constant_balanced_accuracy(counts) == 1.0


def test_the_mean_is_over_sets_and_not_over_pictures():
    large = ClassSet(answered(CLASSES, [0] * 90 + [1] * 10, [0] * 100), CLASSES).tallied(1, 300)
    small = ClassSet(answered(CLASSES, [0, 1, 2, 0], [1, 2, 0, 1]), CLASSES).tallied(2, 300)

    each, mean = measure_sets({"large": large, "small": small}, accuracy)

    assert (each["large"].value, each["small"].value) == (0.9, 0.0)
    assert mean.value == 0.45
    assert mean.low < 0.45 < mean.high
    assert (
        mean.high - mean.low < each["large"].high - each["large"].low
    )  # the small set has no spread: half of it


def test_a_difference_of_means_is_paired_by_picture():
    rng = np.random.default_rng(0)
    truth = {"a": rng.integers(0, 3, 80), "b": rng.integers(0, 3, 40)}
    weak = {name: np.where(rng.random(len(t)) < 0.5, t, (t + 1) % 3) for name, t in truth.items()}
    # right wherever the weak one is, and on the first ten of its faults besides
    strong = {name: weak[name].copy() for name in truth}
    for name, t in truth.items():
        better = np.flatnonzero(weak[name] != t)[:10]
        strong[name][better] = t[better]

    def tallied(given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: ClassSet(answered(CLASSES, t, given[name]), CLASSES).tallied(place, 500)
            for place, (name, t) in enumerate(truth.items())
        }

    found = compare_sets(tallied(weak), tallied(strong), accuracy)
    same = compare_sets(tallied(weak), tallied(weak), accuracy)
    one_set = compare_sets({"a": tallied(weak)["a"]}, {"a": tallied(strong)["a"]}, accuracy)
    by_compare = compare(
        replace(LABEL, metric="accuracy"),
        answered(CLASSES, truth["a"], weak["a"]),
        answered(CLASSES, truth["a"], strong["a"]),
        num_resamples=500,
    )

    assert found.difference == pytest.approx((10 / 80 + 10 / 40) / 2)
    assert 0 < found.low < found.difference < found.high
    assert (found.n, found.p_value) == (120, 2 / 501)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert one_set.difference == pytest.approx(by_compare.difference)
    assert (one_set.low, one_set.high) == pytest.approx((by_compare.low, by_compare.high))  # the same draws
