"""The table with a row for each data set: its order, its mean, what is paired, and its place in the report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.fixtures import make_image, make_sample

from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.data_sets import board_of_data_sets
from pathloom.evaluate.metrics import Scored, compare, measure
from pathloom.evaluate.report_records import Board, Row
from pathloom.evaluate.summary import _board_as_text
from pathloom.schema import Origin
from pathloom.stage import UserError
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

WORDS, LOOKUP, BETHESDA = "basics_word_choice", "basics_lookup", "phantom_bethesda"


def answers(benchmark: str, right: Sequence[bool], *, on_slides: bool = False) -> list[Scored]:
    """Each question about a picture, or a slide, of its own."""
    task = "label" if benchmark == BETHESDA else "choice"
    image = make_image().model_copy(update={"slide": "s"} if on_slides else {})
    return [
        Scored(
            make_sample(
                f"{benchmark}/{k:03d}",
                task=task,
                split="test",
                images=(image,),
                choices=("this", "that"),
                answer=("this", "that")[k % 2],
                origin=Origin(source=benchmark, source_id="", licence="CC0-1.0", group=f"{benchmark} {k}"),
            ),
            Score(("this", "that")[k % 2 if ok else 1 - k % 2], float(ok)),
        )
        for k, ok in enumerate(right)
    ]


def drawn(seed: int, share: float, count: int = 200) -> list[bool]:
    return list(np.random.default_rng(seed).random(count) < share)


def report(columns: Mapping[str, Sequence[str]], **keys: Any) -> ReportConfig:
    repeats = keys.get("repeats", {})
    stages = {stage for sides in columns.values() for stage in sides} - repeats.keys()
    stages |= {stage for runs in repeats.values() for stage in runs}
    given: dict[str, Any] = {"data_sets": {"columns": columns}, **keys}
    return ReportConfig(
        name="report", kind="report", stages=tuple(sorted(stages)), samples=("basics",), **given
    )


def chance_of(benchmark: str, value: float) -> Row:
    return Row(
        stage="sft", benchmark=benchmark, task="choice", metric="accuracy", control="none", value=0.5, low=0.4,
        high=0.6, n=10, chance=value, primary=True,
    )  # fmt: skip


def test_a_row_for_each_data_set_by_scale_and_task_and_their_plain_mean_last():
    answered = {
        "sft": {
            BETHESDA: answers(BETHESDA, [True, True, True, False], on_slides=True),
            LOOKUP: answers(LOOKUP, [True] * 40),
            WORDS: answers(WORDS, [False, True]),
        }
    }
    board, pairs = board_of_data_sets(
        report({"SFT": ["sft"]}), answered, [chance_of(name, 0.5) for name in (WORDS, LOOKUP, BETHESDA)]
    )

    assert board.columns == ("SFT", "chance")
    assert [row.name for row in board.rows] == [LOOKUP, WORDS, BETHESDA, "mean of 3 data sets"]
    assert [row.values for row in board.rows] == [
        (1.0, 0.5), (0.5, 0.5), (0.75, 0.5), (pytest.approx(0.75), 0.5)
    ]  # fmt: skip
    assert board.rows[0].source == "region, choice, accuracy; n 40"
    assert board.rows[2].source == "slide, label, balanced accuracy; n 4"
    assert pairs == []


def test_a_column_may_be_put_together_of_stages_that_measured_some_each():
    answered = {
        "region": {WORDS: answers(WORDS, [True, False])},
        "slide": {BETHESDA: answers(BETHESDA, [True, True], on_slides=True)},
        "one": {WORDS: answers(WORDS, [True, True])},
    }
    board, _ = board_of_data_sets(report({"SFT": ["region", "slide"], "one": ["one"]}), answered, [])

    assert [row.values for row in board.rows] == [
        (0.5, 1.0, None), (1.0, None, None), (0.5, 1.0, None)
    ]  # fmt: skip
    assert board.rows[-1].name == "mean of 1 data set"
    assert any("Not in the mean" in note and BETHESDA in note for note in board.notes)


def test_repeats_are_the_mean_over_their_seeds_with_the_interval_of_one_draw_for_all():
    runs = {f"run_{k}": {WORDS: answers(WORDS, drawn(k, 0.6))} for k in range(3)}
    board, _ = board_of_data_sets(report({"RL": ["rl"]}, repeats={"rl": tuple(runs)}), runs, [])

    cell = board.rows[0].cells[0]
    each = [measure(find_task("choice"), run[WORDS])["accuracy"] for run in runs.values()]
    assert cell is not None
    assert cell.value == pytest.approx(np.mean([one.value for one in each]))
    assert cell.low is not None
    assert cell.high is not None
    assert cell.high - cell.low < np.mean([one.high - one.low for one in each])


def test_columns_are_compared_in_pairs_over_the_data_sets_that_both_have():
    before = {WORDS: answers(WORDS, drawn(0, 0.6)), LOOKUP: answers(LOOKUP, drawn(1, 0.5))}
    after = {WORDS: answers(WORDS, drawn(0, 0.8)), LOOKUP: answers(LOOKUP, drawn(1, 0.5))}
    _, (pair,) = board_of_data_sets(report({"SFT": ["sft"], "RL": ["rl"]}), {"sft": before, "rl": after}, [])

    alone = compare(find_task("choice"), before[WORDS], after[WORDS])
    assert (pair.before, pair.after, pair.benchmark) == ("SFT", "RL", "Data sets")
    assert pair.metric == "mean of 2 data sets"
    assert pair.difference == pytest.approx(alone.difference / 2)
    assert (pair.low, pair.high) == pytest.approx((alone.low / 2, alone.high / 2), abs=0.01)
    assert pair.low > 0
    assert pair.n == 400


def test_columns_that_answered_other_samples_are_no_pair():
    answered = {"a": {WORDS: answers(WORDS, [True] * 4)}, "b": {WORDS: answers(WORDS, [True] * 3)}}
    board, pairs = board_of_data_sets(report({"a": ["a"], "b": ["b"]}), answered, [])
    assert pairs == []
    assert board.rows[0].source.endswith("n 3 or 4")


def test_a_column_with_nothing_or_a_data_set_twice_is_refused():
    words = {WORDS: answers(WORDS, [True])}
    with pytest.raises(UserError, match=r"data_sets\.columns\.SFT: none of a measured a benchmark"):
        board_of_data_sets(report({"SFT": ["a"]}), {"a": {}}, [])
    with pytest.raises(
        UserError, match=r"columns\.SFT: b and one before it both measured basics_word_choice"
    ):
        board_of_data_sets(report({"SFT": ["a", "b"]}), {"a": words, "b": words}, [])
    with pytest.raises(ValidationError, match="c is neither among the report's stages nor in repeats"):
        ReportConfig(
            name="r", kind="report", stages=("a",), samples=("s",), data_sets={"columns": {"SFT": ("c",)}}
        )


def made(values: Sequence[Sequence[float | None]], **fields: Any) -> Board:
    rows = [
        {"name": f"r{k}", "origin": "measured", "source": "",
         "cells": [None if value is None else {"value": value} for value in row]}
        for k, row in enumerate(values)
    ]  # fmt: skip
    columns = tuple("abc"[: len(values[0])])
    return Board.model_validate({"stage": "s", "title": "t", "columns": columns, "rows": rows, **fields})


def test_the_best_of_each_row_is_marked_where_columns_are_compared_and_chance_is_none_of_them():
    values: list[list[float | None]] = [
        [0.5, 0.7, 0.9],
        [0.4, None, 0.9],
        [0.3, 0.3, 0.9],
        [math.nan, 0.2, 0.9],
    ]
    assert made(values, columns_compared=2).best() == {(0, 1), (2, 0), (2, 1)}
    assert made(values[:2]).best() == {(0, 0), (0, 2), (1, 2)}


def test_the_terminal_has_the_table_too():
    text = _board_as_text(made([[0.5, 0.7, 0.25]], columns_compared=2, of="data set", title="Data sets"))
    assert text.splitlines()[0] == "Data sets (* highest of its row)"
    assert text.splitlines()[2].split() == ["r0", "0.500", "0.700*", "0.250"]
