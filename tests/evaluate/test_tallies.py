"""Metrics of single-choice benchmarks against counts made by hand and against scikit-learn."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score
from tests.fixtures import make_sample
from tests.tasks.samples import make_sample as make_mask_sample

from pathloom.benchmarks import BENCHMARKS
from pathloom.evaluate.measure import Prediction, write_measurements
from pathloom.evaluate.metrics import Scored, compare, confusion, measure
from pathloom.evaluate.tallies import chance, class_order, tallies
from pathloom.phantom.cytology import BETHESDA
from pathloom.schema import Origin
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

CHOICE = find_task("choice")


def asked(number: int, truth: str, given: str | None, *, dimension: str = "", group: str = "") -> Scored:
    """One answered choice question among the classes of cytology, or about a dimension."""
    options = ("small", "large") if dimension else BETHESDA
    sample = make_sample(
        f"s{number}",
        task="choice",
        split="test",
        choices=options,
        answer=truth,
        strata=(f"dimension={dimension}",) if dimension else (),
        origin=Origin(source="made", source_id="", licence="", group=group or f"g{number}"),
    )
    return Scored(sample, Score(given, float(given == truth)))


def about(dimension: str, right: Sequence[bool], start: int = 0, groups: int | None = None) -> list[Scored]:
    return [
        asked(
            start + k, "small", "small" if ok else "large", dimension=dimension,
            group=f"{k % groups}" if groups else "",
        )
        for k, ok in enumerate(right)
    ]  # fmt: skip


def test_macro_accuracy_counts_every_dimension_the_same():
    scored = [*about("size", [True] * 9 + [False]), *about("rim", [False, True], start=10)]

    found = measure(CHOICE, scored, metric="macro_accuracy", num_resamples=100)

    assert next(iter(found)) == "macro_accuracy"
    assert found["macro_accuracy"].value == pytest.approx((0.9 + 0.5) / 2)
    assert found["accuracy"].value == pytest.approx(10 / 12)


def test_the_interval_of_macro_accuracy_takes_cells_as_they_come():
    """Both dimensions of a cell are right or wrong together: the interval is that of the cells, not of the answers."""
    right = [k % 4 > 0 for k in range(400)]
    together = [*about("size", right, groups=400), *about("rim", right, start=400, groups=400)]

    found = measure(CHOICE, together, metric="macro_accuracy", num_resamples=2000)["macro_accuracy"]

    half = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert (found.low, found.high) == pytest.approx((0.75 - half, 0.75 + half), abs=0.006)


def test_an_item_without_a_dimension_is_no_part_of_a_macro_mean():
    with pytest.raises(ValueError, match=r"sample s0: one stratum dimension=NAME is needed, there are 0"):
        measure(CHOICE, [asked(0, "NILM", "NILM")], metric="macro_accuracy")


def test_class_metrics_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = [BETHESDA[k] for k in rng.integers(0, 5, 300)]
    given = [t if rng.random() < 0.6 else BETHESDA[rng.integers(0, 5)] for t in truth]
    scored = [asked(k, t, g) for k, (t, g) in enumerate(zip(truth, given, strict=True))]

    found = measure(CHOICE, scored, metric="balanced_accuracy", num_resamples=100)

    assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, given))
    assert found["macro_f1"].value == pytest.approx(f1_score(truth, given, average="macro"))
    recalls = recall_score(truth, given, labels=BETHESDA[:5], average=None)
    assert [found[f"recall ({name})"].value for name in BETHESDA[:5]] == pytest.approx(list(recalls))
    assert list(found)[:3] == ["balanced_accuracy", "parse_rate", "accuracy"]


def test_an_answer_that_could_not_be_read_counts_against_recall():
    scored = [asked(0, "NILM", "NILM"), asked(1, "NILM", None), asked(2, "HSIL", "NILM")]

    found = measure(CHOICE, scored, metric="balanced_accuracy", num_resamples=100)

    assert found["recall (NILM)"].value == 0.5
    assert found["recall (HSIL)"].value == 0
    assert "recall (LSIL)" not in found, "no such cell was shown"


def test_a_metric_that_a_task_does_not_have_is_refused():
    with pytest.raises(ValueError, match="task choice has no metric 'kappa'"):
        tallies(CHOICE, [asked(0, "NILM", "NILM")], "kappa")


def test_every_benchmark_is_reported_by_a_metric_that_its_task_has():
    choice = [asked(0, "small", "small", dimension="size")]
    for benchmark in BENCHMARKS:
        task = find_task(benchmark.task)
        if task.name == "choice":
            assert benchmark.primary_metric in tallies(task, choice, benchmark.metric)
        else:
            assert benchmark.primary_metric == task.metric


def test_chance_is_that_of_the_best_constant_answer_to_each_dimension():
    letters = [asked(k, ("small", "large")[k % 2], "small", dimension="size") for k in range(4)]
    skewed = [asked(9 + k, "large" if k else "small", None, dimension="rim") for k in range(4)]
    samples = [one.sample for one in (*letters, *skewed)]

    assert chance(CHOICE, samples, "macro_accuracy") == pytest.approx((0.5 + 0.75) / 2)
    assert chance(CHOICE, samples, "accuracy") == pytest.approx(5 / 8)
    assert chance(CHOICE, samples, "balanced_accuracy") == 0.5


def test_a_paired_difference_is_of_the_benchmarks_own_metric():
    before = [*about("size", [True] * 8), *about("rim", [False] * 2, start=8)]
    after = [*about("size", [True] * 8), *about("rim", [True] * 2, start=8)]

    macro = compare(CHOICE, before, after, metric="macro_accuracy", num_resamples=200)
    plain = compare(CHOICE, before, after, num_resamples=200)

    assert macro.difference == pytest.approx(0.5)
    assert plain.difference == pytest.approx(0.2)
    assert macro.p_value != plain.p_value, "McNemar's test counts answers, not dimensions"


def test_classes_stand_as_cytologists_list_them_and_others_after_them():
    assert class_order(["zebra", "HSIL", "nilm", "apple", "NILM", "ASC-US"]) == [
        "nilm", "ASC-US", "HSIL", "apple", "zebra",
    ]  # fmt: skip
    labels, counts = confusion([asked(0, "SCC", "NILM"), asked(1, "NILM", "NILM")])
    assert (labels, counts) == (("NILM", "SCC"), ((1, 0, 0), (1, 0, 0)))


def measured(tmp_path: Path, benchmark: str, scored: Sequence[Scored]) -> dict[str, Any]:
    predictions = [Prediction(benchmark, "none", one.sample, "", one.score) for one in scored]
    write_measurements("model", predictions, tmp_path, num_resamples=100, seed=0)
    found: dict[str, Any] = json.loads((tmp_path / "metrics.json").read_text())
    return found


def test_accuracy_stands_for_each_dimension_with_its_chance_though_the_model_did_not_reason(tmp_path):
    scored = [*about("size", [True, True, False, True]), *about("rim", [False, True], start=4)]

    found = measured(tmp_path, "morphopercept", scored)

    rows = {row["metric"]: row for row in found["rows"]}
    assert [row["metric"] for row in found["rows"] if row["primary"]] == ["macro_accuracy"]
    assert rows["macro_accuracy"]["value"] == pytest.approx(0.625)
    assert rows["accuracy (dimension=size)"]["value"] == pytest.approx(0.75)
    assert rows["accuracy (dimension=rim)"]["n"] == 2
    assert rows["accuracy (dimension=rim)"]["chance"] == 1.0, "one value alone: a constant answer is right"
    assert found["confusions"] == [], "answers about different things make no table"


def test_class_questions_leave_recalls_and_a_confusion_in_the_usual_order(tmp_path):
    scored = [asked(0, "NILM", "NILM"), asked(1, "HSIL", "LSIL"), asked(2, "LSIL", "LSIL")]

    found = measured(tmp_path, "cytocell", scored)

    rows = {row["metric"]: row for row in found["rows"]}
    assert rows["balanced_accuracy"]["primary"]
    assert rows["balanced_accuracy"]["chance"] == pytest.approx(1 / 3)
    assert rows["recall (NILM)"]["value"] == 1
    assert found["confusions"][0]["labels"] == ["NILM", "LSIL", "HSIL"]


def test_questions_with_options_of_their_own_leave_no_confusion(tmp_path):
    scored = []
    for number in range(30):
        options = (f"word {number}", f"other {number}")
        sample = make_sample(f"s{number}", task="choice", choices=options, answer=options[0])
        scored.append(Scored(sample, Score(options[number % 2], float(number % 2 == 0))))

    assert measured(tmp_path, "basics_word_choice", scored)["confusions"] == []


def test_masks_are_measured_by_means_over_pictures_beside_the_boxes_filled():
    task = find_task("mask")
    sample = make_mask_sample("mask")
    parts = {
        "iou": 0.5,
        "precision": 0.75,
        "recall": 0.6,
        "dice_union": 0.7,
        "dice_box": 0.4,
        "iou_box": 0.25,
    }
    scored = [Scored(sample, Score((), 0.8, parts)), Scored(sample, Score(None, 0.0))]

    found = {name: tally.value for name, tally in tallies(task, scored).items()}

    assert found == pytest.approx(
        {"dice": 0.4, "parse_rate": 0.5, **{name: value / 2 for name, value in parts.items()}}
    )
