"""Boards of dimensions and of classes beside the mean over them."""

from pathloom.evaluate.breakdowns import boards_of_parts
from pathloom.evaluate.report_records import Row


def row(benchmark: str, metric: str, value: float, **fields: object) -> Row:
    given = {
        "stage": "base", "task": "choice", "control": "none", "low": value, "high": value, "n": 8, "chance": None
    }  # fmt: skip
    return Row.model_validate({"benchmark": benchmark, "metric": metric, "value": value, **given, **fields})


def test_each_dimension_stands_beside_the_mean_with_what_a_constant_answer_reaches():
    rows = [
        row("morphopercept", "macro_accuracy", 0.6, primary=True, chance=0.5),
        row("morphopercept", "parse_rate", 1.0),
        row("morphopercept", "accuracy", 0.7),
        row("morphopercept", "accuracy (dimension=nuclear_size)", 0.9, chance=0.3),
        row("morphopercept", "accuracy (profile=broken)", 0.1),
        row("morphopercept", "macro_accuracy", 0.2, primary=True, control="no_image"),
        row("basics_lookup", "accuracy", 0.8, primary=True),
    ]

    (board,) = boards_of_parts("report", rows)

    assert board.title == "morphopercept by dimension"
    assert board.columns == ("macro_accuracy", "nuclear_size")
    assert [one.values for one in board.rows] == [(0.6, 0.9)]
    assert board.notes[1] == "The best constant answer reaches: macro accuracy 0.500, nuclear size 0.300."


def test_the_recall_of_a_class_that_one_stage_was_not_asked_about_is_missing_there():
    rows = [
        row("cytocell", "balanced_accuracy", 0.6, primary=True, chance=0.5),
        row("cytocell", "macro_f1", 0.5),
        row("cytocell", "recall (NILM)", 0.9),
        row("cytocell", "recall (HSIL)", 0.3),
        row("cytocell", "balanced_accuracy", 0.4, primary=True, stage="few"),
        row("cytocell", "macro_f1", 0.4, stage="few"),
        row("cytocell", "recall (NILM)", 0.4, stage="few"),
    ]

    (board,) = boards_of_parts("report", rows)

    assert board.columns == ("balanced_accuracy", "macro_f1", "NILM", "HSIL")
    assert [one.values for one in board.rows] == [(0.6, 0.5, 0.9, 0.3), (0.4, 0.4, 0.4, None)]
    assert board.notes[0] == "Columns named by a class are its recall."
