"""The rows of an evaluation: how many answers reason, and what a constant answer earns in parts beside the first."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tasks.samples import make_sample

from pathloom.benchmarks import BENCHMARKS
from pathloom.evaluate.measure import METRICS, Prediction, write_measurements
from pathloom.evaluate.report_records import Row
from pathloom.schema import Origin, Sample
from pathloom.tasks import find_task

GRADE, CAPTION = "phantom_grade", "phantom_caption"
SCALE = ("low", "moderate", "high")


def asked(task: str, benchmark: str, name: str, **fields: Any) -> Sample:
    source = next(row.source for row in BENCHMARKS if row.name == benchmark)
    origin = Origin(source=source, source_id="", licence="CC0-1.0", group=name)
    return make_sample(task, name=name, **fields).model_copy(update={"origin": origin})


def measured(
    folder: Path, benchmark: str, answers: list[tuple[Sample, str]], control: str = "none"
) -> dict[str, Row]:
    predictions = []
    for sample, text in answers:
        task = find_task(sample.task)
        predictions.append(
            Prediction(benchmark, control, sample, text, task.score(sample, text, task.templates[0]))
        )
    write_measurements("model", predictions, folder, num_resamples=200, seed=0)
    rows = [Row.model_validate(row) for row in json.loads((folder / METRICS).read_text())["rows"]]
    return {row.metric: row for row in rows}


def grades(*said: str) -> list[tuple[Sample, str]]:
    return [
        (asked("ordinal", GRADE, f"s{k}", choices=SCALE, answer=SCALE[k % 3]), text)
        for k, text in enumerate(said)
    ]


def test_reasoning_is_a_think_block_with_something_in_it_before_the_one_answer(tmp_path):
    rows = measured(
        tmp_path,
        GRADE,
        grades(
            "<think>Pale nuclei.</think><answer>low</answer>",
            "<answer>low</answer>",
            "<think> </think><answer>low</answer>",
            "Pale nuclei. <answer>low</answer>",
            "<think>Pale nuclei.</think>",
            "<think>Dark nuclei.</think><answer>nothing of the scale</answer>",
        ),
    )
    assert rows["share_reasoning"].value == pytest.approx(2 / 6)
    assert rows["share_reasoning"].low < 2 / 6 < rows["share_reasoning"].high
    assert rows["share_reasoning"].n == 6
    assert not rows["share_reasoning"].primary


def test_the_share_that_reasons_is_measured_under_controls_too(tmp_path):
    rows = measured(tmp_path, GRADE, grades("<answer>low</answer>"), control="no_image")
    assert rows["share_reasoning"].value == 0.0
    assert rows["ordinal"].chance is None


def test_ordinal_credit_and_kappa_stand_beside_what_a_constant_grade_earns(tmp_path):
    rows = measured(tmp_path, GRADE, grades(*["<answer>moderate</answer>"] * 6))
    assert rows["balanced_accuracy"].primary
    assert rows["balanced_accuracy"].value == rows["balanced_accuracy"].chance == pytest.approx(1 / 3)
    assert rows["ordinal"].value == rows["ordinal"].chance == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert rows["quadratic_kappa"].value == rows["quadratic_kappa"].chance == 0.0


def test_the_confusion_of_grades_stands_in_the_order_of_the_scale(tmp_path):
    measured(tmp_path, GRADE, grades(*["<answer>high</answer>"] * 3))
    (confusion,) = json.loads((tmp_path / METRICS).read_text())["confusions"]
    assert confusion["labels"] == list(SCALE)
    assert confusion["counts"] == [[0, 0, 1, 0]] * 3


def test_bleu_of_captions_stands_beside_that_of_the_best_constant_caption(tmp_path):
    truths = ["Glands in a fibrous stroma.", "Glands in a fibrous stroma.", "Sheets of small round cells."]
    answers = [
        (asked("caption", CAPTION, f"c{k}", answer=truth), f"<answer>{truths[0]}</answer>")
        for k, truth in enumerate(truths)
    ]
    rows = measured(tmp_path, CAPTION, answers)
    assert rows["bleu4"].value == rows["bleu4"].chance == pytest.approx(2 / 3)
    assert rows["token_f1"].primary
