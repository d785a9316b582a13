"""Encoders side by side: boards and box plots on the page, in Markdown and in the terminal."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.evaluate.test_report import HOSTILE, Page, written

from pathloom.evaluate.report_drawing import draw_boxes, format_fixed
from pathloom.evaluate.report_records import Board, BoardRow, BoxPlot, Cell
from pathloom.evaluate.summary import terminal_summary


def row(name: str, *values: float | None, origin: str = "measured", source: str = "noise:8") -> BoardRow:
    cells = tuple(
        None if value is None else Cell(value=value, low=value - 1, high=value + 1) for value in values
    )
    return BoardRow.model_validate({"name": name, "origin": origin, "source": source, "cells": cells})


def plot(**changes: Any) -> BoxPlot:
    facts: dict[str, Any] = {
        "title": "Few shots",
        "x_label": "shots",
        "y_label": "accuracy",
        "x": ("2", "8"),
        "series": {"ours": ((40.0, 50.0, 60.0, 45.0, 55.0), (70.0, math.nan, 80.0))},
        "chance": 25.0,
    }
    return BoxPlot(**(facts | changes))


def board(**changes: Any) -> Board:
    facts: dict[str, Any] = {
        "stage": "zero_shot",
        "title": "Zero-shot",
        "columns": ("LC-Lung", "BMT"),
        "rows": (
            row("ours", 61.254, None),
            row("paper's", 99.5, 38.44, origin="published", source="A paper, Table 2"),
            row("theirs", 61.251, 40.0),
        ),
        "digits": 2,
        "notes": ("500 pictures",),
        "plots": (plot(),),
    }
    return Board(**(facts | changes))


def page_of(folder: Path, *boards: Board) -> tuple[Page, str, str]:
    return written(folder, boards=boards or (board(),), rows=(), comparisons=(), curves=())


def body_rows(page: Page) -> list[str]:
    return [" ".join(text.split()) for text in page.table_rows]


def test_published_rows_stand_below_the_measured_ones_under_their_source(tmp_path: Path):
    page, _, _ = page_of(tmp_path)
    rows = body_rows(page)
    at = next(place for place, text in enumerate(rows) if text.startswith("published A paper, Table 2"))
    assert rows[at - 2].startswith("ours noise:8 61.25 60.25 to 62.25 \u2013")
    assert rows[at - 1].startswith("theirs noise:8 61.25 60.25 to 62.25 40.00")
    assert rows[at + 1].startswith("paper's 99.50")
    assert len(page.found("tr", "published")) == 2


def test_the_best_is_the_highest_measured_value_as_shown_and_a_tie_marks_both():
    # 61.254 and 61.251 read the same; the published 99.5 is no rival; one value alone in a column is no best
    assert board().best() == {(0, 0), (2, 0)}
    assert board(digits=3).best() == {(0, 0)}


def test_the_page_marks_the_best_cells(tmp_path: Path):
    page, _, _ = page_of(tmp_path)
    assert len(page.found("td", "best")) == 2


def test_a_value_that_is_not_finite_is_a_dash_and_never_best(tmp_path: Path):
    rows = (row("ours", math.nan), row("theirs", 3.0), row("others", 2.0))
    odd = board(columns=("LC-Lung",), rows=rows, plots=())
    assert odd.best() == {(1, 0)}
    page, _, text = page_of(tmp_path, odd)
    assert "ours noise:8 \u2013" in " ".join(body_rows(page))
    assert "| ours | measured | - | noise:8 |" in text


def test_names_and_notes_are_escaped(tmp_path: Path):
    hostile = board(
        title=HOSTILE,
        columns=(HOSTILE, "BMT"),
        rows=(row(HOSTILE, 1.0, 2.0, source=HOSTILE),),
        notes=(HOSTILE,),
        plots=(plot(title=HOSTILE, x=(HOSTILE, "8"), series={HOSTILE: ((1.0,), (2.0,))}),),
    )
    page, _, text = page_of(tmp_path, hostile)
    assert [attributes for tag, attributes in page.elements if tag == "script"] == [{}]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "<script>" not in text


def test_markdown_holds_every_number_of_a_board(tmp_path: Path):
    _, _, text = page_of(tmp_path)
    assert "## Encoders side by side" in text
    assert "| ours | measured | 61.25 (60.25 to 62.25) | - | noise:8 |" in text
    assert "| paper's | published | 99.50 (98.50 to 100.50) |" in text
    assert "| ours | 50.00 (40.00 to 60.00) | 75.00 (70.00 to 80.00) |" in text
    assert "chance 25.00" in text
    assert "- 500 pictures" in text
    assert "## Results" not in text


def test_the_json_of_a_report_gives_its_boards_back(tmp_path: Path):
    page_of(tmp_path, board(plots=()))
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [Board.model_validate(one) for one in report["boards"]] == [board(plots=())]


def test_the_terminal_shows_measured_rows_and_says_where_the_published_ones_are(tmp_path: Path):
    page_of(tmp_path)
    lines = terminal_summary(tmp_path / "report.json").splitlines()
    assert lines[0] == "Zero-shot (* highest of its column); 1 published rows stand on the page"
    assert lines[1].split() == ["encoder", "LC-Lung", "BMT"]
    assert [line.split() for line in lines[2:]] == [["ours", "61.25*", "-"], ["theirs", "61.25*", "40.00"]]


def test_a_page_about_encoders_alone_does_not_say_that_results_are_missing(tmp_path: Path):
    page, text, _ = page_of(tmp_path)
    assert "No results were given" not in text
    assert {"href": "#boards"} in page.found("a")
    assert not [one for one in page.found("a") if one["href"] == "#results"]


def test_a_box_has_the_median_the_quartiles_and_the_ends():
    chart = draw_boxes(("2",), {"ours": ((40.0, 50.0, 60.0, 45.0, 55.0),)})
    ((name, (box,)),) = chart.series
    height = {tick: y for y, tick in chart.y_ticks}
    assert name == "ours"
    assert (box.top, box.upper, box.middle, box.lower, box.bottom) == tuple(
        height[tick] for tick in (60, 55, 50, 45, 40)
    )
    assert [y for _, y in box.points] == [height[tick] for tick in (40, 45, 50, 55, 60)]
    assert "median 50.0, quartiles 45.0 and 55.0, from 40.0 to 60.0, 5 runs" in box.said


def test_runs_that_failed_leave_no_point_and_a_place_without_runs_no_box(tmp_path: Path):
    chart = draw_boxes(("2", "8", "16"), {"ours": ((math.nan, 1.0), (math.nan,), ())})
    ((_, boxes),) = chart.series
    assert [len(box.points) for box in boxes] == [1]
    page, _, text = page_of(tmp_path, board(plots=(plot(series={"ours": ((math.nan,), ())}),)))
    assert not page.found("path", "median")
    assert "nan" not in text.lower().replace("nano", "")


def test_boxes_of_several_series_stand_apart_within_their_place():
    chart = draw_boxes(("2", "8"), dict.fromkeys("abcde", ((1.0,), (2.0,))), chance=0.2)
    edges = [
        (box.x - box.half, box.x + box.half)
        for at in (0, 1)
        for _, boxes in chart.series
        for box in [boxes[at]]
    ]
    assert all(right < left for (_, right), (left, _) in itertools.pairwise(edges))
    between = (chart.x_ticks[0][0] + chart.x_ticks[1][0]) / 2
    assert edges[4][1] < between < edges[5][0]
    assert chart.chance is not None
    assert chart.chance > max(box.bottom for _, boxes in chart.series for box in boxes)


def test_the_page_draws_each_run_the_medians_and_the_chance_line(tmp_path: Path):
    page, _, _ = page_of(tmp_path)
    assert len(page.found("path", "median")) == 2
    assert len(page.found("line", "mark")) == 2, "one in the chart, one in its legend"
    assert any("chance (25.00)" in text for text in page.texts)


def test_a_row_or_a_plot_that_does_not_fit_is_refused_by_name():
    with pytest.raises(ValidationError, match="row ours: 1 cells, 2 columns"):
        board(rows=(row("ours", 1.0),))
    with pytest.raises(ValidationError, match="series ours: 1 boxes, 2 places"):
        plot(series={"ours": ((1.0,),)})


def test_a_number_too_small_to_show_has_no_sign():
    assert format_fixed(-0.001, 2) == "0.00"
    assert format_fixed(-1.5, 1) == "\u22121.5"
    assert format_fixed(math.nan, 1) == "\u2013"
