"""The report page: it stands alone, it trusts no model, and a failed write costs nothing."""

import base64
import errno
import hashlib
import io
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from pathloom.evaluate.report import Comparison, Confusion, Curve, Example, Report, Row, write_report
from pathloom.evaluate.report_drawing import Scale, draw_chart, format_duration, format_number
from pathloom.evaluate.report_records import DataStage, Table

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">"\'{{ 7*7 }}'


def png(width_px: int = 16, height_px: int = 12, shade: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width_px, height_px), (shade, 90, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def row(**changes: Any) -> Row:
    facts: dict[str, Any] = {
        "stage": "base",
        "benchmark": "cells",
        "task": "choice",
        "metric": "accuracy",
        "control": "none",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 80,
        "chance": 0.25,
        "primary": True,
    }
    return Row(**(facts | changes))


def example(**changes: Any) -> Example:
    facts: dict[str, Any] = {
        "sample_id": "s1",
        "stage": "base",
        "benchmark": "cells",
        "task": "choice",
        "control": "none",
        "images_png": (png(),),
        "width_px": 16,
        "height_px": 12,
        "true_boxes_px": ((1.0, 2.0, 5.0, 9.0),),
        "predicted_boxes_px": ((8.0, 2.0, 11.5, 6.0),),
        "question": "Which cell?",
        "options": ("plasma cell", "neutrophil"),
        "reasoning": "an eccentric nucleus",
        "answer": "neutrophil",
        "truth": "plasma cell",
        "correct": 0.0,
        "completion": "it is B",
    }
    return Example(**(facts | changes))


def report(**changes: Any) -> Report:
    rows = []
    for place, stage in enumerate(("base", "tuned")):
        shift = place / 10
        rows += [
            row(stage=stage, value=0.301 + shift, low=0.2113 + shift, high=0.4417 + shift),
            row(
                stage=stage, metric="parse_rate", value=0.973, low=0.95, high=0.99, chance=None, primary=False
            ),
            row(stage=stage, metric="f1", value=0.277 + shift, primary=False),
        ]
    # One control ahead of its stage and one far behind: the page has to bring both to their place.
    rows.insert(0, row(control="no_image", value=0.26))
    rows.append(row(stage="tuned", control="no_image", value=0.26))
    compared = Comparison(
        before="base", after="tuned", benchmark="cells", metric="accuracy",
        difference=0.1, low=0.04, high=0.17, n=80, p_value=0.0001,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "recipe": "recipes/x.yaml",
        "title": "A report",
        "created": "2026-05-04T13:22:10+00:00",
        "rows": tuple(rows),
        "comparisons": (compared,),
        "curves": (Curve(stage="tuned", name="loss", steps=(1, 2, 3), values=(2.0, 1.5, 1.2345678)),),
        "confusions": (
            Confusion(stage="tuned", benchmark="cells", labels=("a", "b"), counts=((3, 1), (0, 4))),
        ),
        "examples": (example(),),
        "seconds": {"tuned": 812.5},
        "notes": ("phantom images are synthetic",),
        "sources": ("phantom, Apache-2.0, 80 samples",),
    }
    return Report(**(facts | changes))


class Page(HTMLParser):
    """Elements with their attributes, every piece of text, and the text of every table row, in page order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.script = ""
        self.table_rows: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.table_rows.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and not self.script:
            self.script = data
        self.texts.append(data)
        if self.table_rows:
            self.table_rows[-1] += f" {' '.join(data.split())}"

    def found(self, tag: str, name: str | None = None) -> list[dict[str, str | None]]:
        """Attributes of the elements with that tag and, if asked, that class among theirs."""
        return [
            attributes
            for each, attributes in self.elements
            if each == tag and (name is None or name in (attributes.get("class") or "").split())
        ]


def written(folder: Path, **changes: Any) -> tuple[Page, str, str]:
    write_report(report(**changes), folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Page(text), text, (folder / "report.md").read_text(encoding="utf-8")


def test_the_page_asks_the_network_for_nothing(tmp_path: Path):
    page, text, _ = written(tmp_path)
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), (tag, name, target)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest", text)


def test_the_policy_of_the_page_lets_only_its_own_script_run(tmp_path: Path):
    page, _, _ = written(tmp_path)
    policy = next(a["content"] or "" for a in page.found("meta") if a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_text_is_shown_and_never_becomes_part_of_the_page(tmp_path: Path):
    said = example(
        sample_id=HOSTILE, stage=HOSTILE, benchmark=HOSTILE, task=HOSTILE, question=HOSTILE,
        options=(HOSTILE,), reasoning=HOSTILE, answer=HOSTILE, truth=HOSTILE, completion=HOSTILE,
    )  # fmt: skip
    harmless, _, _ = written(tmp_path / "harmless")
    page, _, _ = written(
        tmp_path / "hostile",
        title=HOSTILE, recipe=HOSTILE, created=HOSTILE, notes=(HOSTILE,), sources=(HOSTILE,),
        examples=(said,),
        rows=(row(stage=HOSTILE, benchmark=HOSTILE, task=HOSTILE, metric=HOSTILE),), seconds={HOSTILE: 1.0},
        curves=(Curve(stage=HOSTILE, name=HOSTILE, steps=(1,), values=(1.0,)),),
        confusions=(Confusion(stage=HOSTILE, benchmark=HOSTILE, labels=(HOSTILE,), counts=((1,),)),),
    )  # fmt: skip
    assert len(page.found("script")) == 1
    assert page.script == harmless.script
    assert not page.found("img")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert sum(HOSTILE in text for text in page.texts) >= 12


def test_report_json_reads_back_as_the_report_without_its_images(tmp_path: Path):
    given = report()
    write_report(given, tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert list(facts) == list(Report.model_fields)
    assert list(facts["rows"][0]) == list(Row.model_fields)
    assert "images_png" not in facts["examples"][0]
    assert facts["curves"][0]["values"][-1] == 1.234568
    bare = given.model_copy(
        update={
            "examples": tuple(each.model_copy(update={"images_png": ()}) for each in given.examples),
            "curves": tuple(
                each.model_copy(update={"values": tuple(round(v, 6) for v in each.values)})
                for each in given.curves
            ),
            "rows": tuple(each.model_copy(update={"value": round(each.value, 6)}) for each in given.rows),
        }
    )
    back = Report.model_validate(facts)
    assert back.examples == bare.examples
    assert back.curves == bare.curves
    assert [(r.stage, r.metric, r.control, r.value, r.n) for r in back.rows] == [
        (r.stage, r.metric, r.control, r.value, r.n) for r in bare.rows
    ]


def test_what_could_not_be_computed_is_null_in_json_and_a_dash_on_the_page(tmp_path: Path):
    lost = row(value=math.nan, low=-math.inf, high=math.nan, chance=math.nan)
    page, text, markdown = written(tmp_path, rows=(lost,), seconds={"tuned": math.nan})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    facts = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert facts["rows"][0]["value"] is facts["rows"][0]["low"] is facts["rows"][0]["chance"] is None
    assert math.isnan(Report.model_validate(facts).rows[0].value)
    assert "nan" not in " ".join(page.table_rows) + markdown
    assert 'cx="nan' not in text


def test_every_row_stands_in_the_page_and_in_the_markdown(tmp_path: Path):
    rows = tuple(
        row(
            stage=stage, benchmark=benchmark, metric=metric, value=number / 1000, primary=metric == "accuracy"
        )
        for number, (stage, benchmark, metric) in enumerate(
            ((s, b, m) for s in ("base", "tuned") for b in ("cells", "slides") for m in ("f1", "accuracy")),
            101,
        )
    )
    page, _, markdown = written(tmp_path, rows=rows)
    for each in rows:
        value = f"{each.value:.3f}"
        assert sum(value in line.split() and each.stage in line for line in page.table_rows) == 1, each
        hits = [line for line in markdown.splitlines() if f"| {value} |" in line]
        assert len(hits) == 1, each
        assert f"| {each.benchmark} | {each.task} | {each.stage} | none | {each.metric} |" in hits[0]


def test_a_control_stands_right_under_its_stage_with_its_difference_from_it(tmp_path: Path):
    page, _, _ = written(tmp_path)
    lines = [line.split() for line in page.table_rows]
    models = [at for at, line in enumerate(lines) if line and line[0] in ("base", "tuned") and "97.3" in line]
    assert len(models) == 2
    for at, change in zip(models, ("0.041", "0.141"), strict=True):
        assert lines[at + 1][:3] == ["no", "image", f"\N{MINUS SIGN}{change}"]


def test_a_benchmark_without_a_primary_metric_shows_its_first_one(tmp_path: Path):
    rows = (row(metric="parse_rate", primary=False), row(metric="f1", value=0.345, primary=False))
    page, _, _ = written(tmp_path, rows=rows)
    assert "0.345" in "".join(page.texts).split("Parse rate")[0]


def test_less_error_than_chance_is_called_better_and_overlap_is_not_told_apart(tmp_path: Path):
    rows = (
        row(benchmark="few errors", metric="mean_absolute_error", value=1.0, low=0.8, high=1.2, chance=3.0),
        row(benchmark="unclear", value=0.3, low=0.2, high=0.4, chance=0.25),
    )
    page, _, _ = written(tmp_path, rows=rows)
    cards = "".join(page.texts).split("value and 95")[0]
    assert cards.index("few errors") < cards.index("better than chance") < cards.index("not told from chance")
    assert "worse than chance" not in cards


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_the_report_of_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
):
    write_report(report(title="the report of before"), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        write_report(report(title="the report after"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert sorted(before) == ["report.html", "report.json", "report.md"]


def test_a_report_with_nothing_in_it_is_still_a_page(tmp_path: Path):
    empty = Report(recipe="r", title="Nothing yet", created="2026-05-04", rows=())
    write_report(empty, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "No results were given." in "".join(page.texts)
    assert not page.found("article")
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"] == []


def test_boxes_are_drawn_in_the_pixels_of_the_image_even_where_it_was_shrunk(tmp_path: Path):
    wide = example(
        images_png=(png(1200, 600),), width_px=1200, height_px=600, true_boxes_px=((100, 50, 700, 550),)
    )
    page, _, _ = written(tmp_path, examples=(wide,))
    assert page.found("svg", "picture")[0]["viewbox"] == "0 0 1200 600"
    box = next(a for a in page.found("rect", "true") if a["x"] != "3")
    assert [float(box[name] or "nan") for name in ("x", "y", "width", "height")] == [100, 50, 600, 500]
    uri = page.found("image")[0]["href"] or ""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as embedded:
        assert embedded.size == (512, 256)


def test_an_image_that_several_examples_share_is_embedded_once(tmp_path: Path):
    pair = (example(), example(stage="tuned"), example(images_png=(png(shade=10),)))
    page, _, _ = written(tmp_path, examples=pair)
    assert len(page.found("image")) == 2
    shown = [a["href"] for a in page.found("use") if a.get("width") == "16"]
    assert shown[0] == shown[1] != shown[2]


def test_bytes_that_are_no_image_cost_only_that_image(tmp_path: Path):
    page, _, _ = written(tmp_path, examples=(example(images_png=(b"not an image", png())),))
    assert len(page.found("image")) == 1
    assert "An image could not be shown" in "".join(page.texts)


def test_a_name_with_a_bar_in_it_stays_one_cell_of_the_markdown_table(tmp_path: Path):
    _, _, markdown = written(tmp_path, rows=(row(benchmark="a|b\n<b>"),))
    line = next(line for line in markdown.splitlines() if "a\\|b" in line)
    assert "&lt;b>" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == 12


def test_the_share_that_reasons_stands_beside_the_parse_rate(tmp_path: Path):
    rows = (row(), row(metric="share_reasoning", value=0.75, low=0.6, high=0.9, chance=None, primary=False))
    _, html, markdown = written(tmp_path, rows=rows)
    assert '<td class="num" data-name="reasons">75.0&nbsp;%</td>' in html
    assert "| - | 0.750 | 80 |" in markdown
    _, html, _ = written(tmp_path, rows=(row(),))
    assert '<td class="num" data-name="reasons">&ndash;</td>' in html


def test_an_answer_by_letter_is_matched_to_its_option():
    lettered = example(options=("A. plasma cell", "B. neutrophil"), answer="B", truth="A. plasma cell")
    assert [lettered.names_option("B", index) for index in (0, 1)] == [False, True]
    assert [lettered.names_option("A. plasma cell", index) for index in (0, 1)] == [True, False]
    # An option may itself be a letter; then its text wins over its place.
    swapped = example(options=("B", "A"))
    assert [swapped.names_option("A", index) for index in (0, 1)] == [False, True]
    assert not lettered.names_option(None, 0)


def test_credit_between_none_and_full_is_partly_right():
    outcomes = [example(correct=credit).outcome for credit in (0.0, 0.4, 1.0, math.nan)]
    assert outcomes == ["wrong", "partly", "right", "wrong"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: row(control="no_picture"),
        lambda: row(unknown=1),
        lambda: Curve(stage="s", name="loss", steps=(1, 2), values=(0.1,)),
        lambda: Confusion(stage="s", benchmark="b", labels=("a",), counts=((1, 2, 3),)),
        lambda: Confusion(stage="s", benchmark="b", labels=("a", "b"), counts=((1, 2), (1, 2, 3))),
    ],
)
def test_records_that_contradict_themselves_are_refused(make: Any):
    with pytest.raises(ValidationError):
        make()


def test_an_unlabelled_last_column_of_a_confusion_is_no_answer(tmp_path: Path):
    page, _, _ = written(
        tmp_path,
        confusions=(Confusion(stage="s", benchmark="b", labels=("a", "b"), counts=((1, 2, 9), (3, 4, 8))),),
    )
    assert "no answer" in page.texts


def test_a_gap_in_a_curve_stays_a_gap_and_folds_share_one_chart():
    chart = draw_chart([((1, 2, 3, 4), (1.0, math.nan, 3.0, 2.0)), ((1, 2), (0.0, 4.0))])
    assert chart.lines[0].raw.count("M") == 2
    assert chart.lines[0].raw.count("L") == 1
    assert [value for _, value in chart.y_ticks] == [0, 1, 2, 3, 4]
    lengthy = draw_chart([(range(100_000), [0.5] * 100_000)])
    assert 500 < lengthy.lines[0].raw.count("L") < 600


@pytest.mark.parametrize("values", [(), (math.nan,), (0.0, 0.0), (5.0,), (-3.2, 1e9), (1e-9, 2e-9)])
def test_an_axis_holds_its_values_whatever_they_are(values: tuple[float, ...]):
    scale = Scale.around(values)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 7
    assert all(scale.low <= value <= scale.high for value in values if math.isfinite(value))


def test_numbers_read_as_a_person_writes_them():
    assert format_number(-0.0004, signed=True) == "0.000"
    assert format_number(12345.6) == "12,346"
    assert format_number(-0.5, ascii_only=True) == "-0.500"
    assert [format_duration(s) for s in (8.42, 59.97, 724, 12000)] == [
        "8.4 s",
        "1 min 00 s",
        "12 min 04 s",
        "3 h 20 min",
    ]


def test_the_heads_of_a_markdown_table_are_cells_too(tmp_path: Path):
    table = Table(title="t", columns=("", "lung, left", "a|b", "<b>"), rows=(("x", "1", "2", "3"),))
    data = DataStage(stage="s", kind="curate", kept={}, drops={}, tables=(table,), written=())

    _, _, markdown = written(tmp_path, data=(data,))

    lines = markdown.splitlines()
    head = next(index for index, line in enumerate(lines) if "lung" in line)
    assert lines[head : head + 3] == [
        "|  | lung, left | a\\|b | &lt;b> |",
        "| --- | --- | --- | --- |",
        "| x | 1 | 2 | 3 |",
    ]
