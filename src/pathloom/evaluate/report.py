"""The evaluation report: one HTML page that needs nothing but itself, beside it the facts as data and text.

What a model wrote is hostile text here: the template escapes it, and the page's policy runs no other script.
"""

import base64
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pathloom.evaluate.report_drawing import (
    BOX_FRAME,
    FRAME,
    Chart,
    Scale,
    draw_boxes,
    draw_chart,
    embed_image,
    format_duration,
    format_fixed,
    format_number,
    format_p,
    format_tick,
    quartiles,
)
from pathloom.evaluate.report_records import (
    CONTROLS,
    SHARE_REASONING,
    Board,
    Cell,
    Comparison,
    Confusion,
    Curve,
    Example,
    Report,
    Row,
)

__all__ = ["Comparison", "Confusion", "Curve", "Example", "Report", "Row", "main_rows", "write_report"]

IMAGES_EMBEDDED_MAX = 120
PARSE_RATE = "parse_rate"
BESIDE = (PARSE_RATE, SHARE_REASONING)
"""Rows that are columns of the main table."""


@dataclass(frozen=True)
class Line:
    """A row of the main table: the model itself or one control, and of the same answers how many parse and reason."""

    row: Row
    parse_rate: float | None
    reasoning: float | None
    change: float | None
    verdict: str


@dataclass(frozen=True)
class Group:
    """One benchmark, task and metric with its stages; every stage's controls follow it in `lines`."""

    benchmark: str
    task: str
    metric: str
    scale: Scale
    lines: tuple[Line, ...]

    @property
    def chance(self) -> float | None:
        return next((line.row.chance for line in self.lines if line.row.chance is not None), None)

    @property
    def headline(self) -> Line | None:
        """The last stage that answered with its images in place."""
        return next((line for line in reversed(self.lines) if line.row.control == "none"), None)

    def control(self, name: str) -> Line | None:
        """The headline stage's line under that control."""
        stage = self.headline.row.stage if self.headline else ""
        return next((x for x in self.lines if (x.row.stage, x.row.control) == (stage, name)), None)


def _lower_is_better(metric: str) -> bool:
    return "error" in metric or "loss" in metric


def _verdict(row: Row) -> str:
    if row.chance is None or not (math.isfinite(row.low) and math.isfinite(row.high)):
        return ""
    if row.low <= row.chance <= row.high:
        return "not told from chance"
    better = (row.low > row.chance) != _lower_is_better(row.metric)
    return "better than chance" if better else "worse than chance"


def main_rows(report: Report) -> list[Row]:
    """The rows of the main table: primary ones, and the same metric under every control."""
    named = {(row.benchmark, row.task, row.metric) for row in report.rows if row.primary}
    covered = {key[:2] for key in named}
    for row in report.rows:
        # A benchmark whose primary metric nobody marked still belongs on the page: its first one stands in.
        if (row.benchmark, row.task) not in covered and row.metric not in BESIDE:
            named.add((row.benchmark, row.task, row.metric))
            covered.add((row.benchmark, row.task))
    return [row for row in report.rows if (row.benchmark, row.task, row.metric) in named]


def _groups(report: Report) -> list[Group]:
    stages = list(dict.fromkeys(row.stage for row in report.rows))
    beside = {
        (row.stage, row.benchmark, row.task, row.control, row.metric): row.value
        for row in report.rows
        if row.metric in BESIDE
    }
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in main_rows(report):
        grouped.setdefault((row.benchmark, row.task, row.metric), []).append(row)
    groups = []
    for (benchmark, task, metric), rows in grouped.items():
        rows.sort(key=lambda row: (stages.index(row.stage), CONTROLS.index(row.control)))
        own = {row.stage: row.value for row in rows if row.control == "none"}
        lines = tuple(
            Line(
                row,
                beside.get((row.stage, benchmark, task, row.control, PARSE_RATE)),
                beside.get((row.stage, benchmark, task, row.control, SHARE_REASONING)),
                row.value - own[row.stage] if row.control != "none" and row.stage in own else None,
                _verdict(row),
            )
            for row in rows
        )
        marks = [x for row in rows for x in (row.value, row.low, row.high, row.chance) if x is not None]
        unit = not _lower_is_better(metric)
        scale = Scale.around(marks if unit else [0.0, *marks], unit)
        groups.append(Group(benchmark, task, metric, scale, lines))
    return groups


def _difference_scales(report: Report) -> dict[str, Scale]:
    """per metric one axis with zero in its middle, so that bars of one metric compare by eye."""
    bounds: dict[str, list[float]] = {}
    for item in report.comparisons:
        bounds.setdefault(item.metric, []).extend((item.low, item.high, item.difference))
    scales = {}
    for metric, values in bounds.items():
        reach = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
        scales[metric] = Scale(-reach, reach, (0.0,))
    return scales


def _comparison_verdict(item: Comparison) -> str:
    if not (item.low > 0 or item.high < 0):
        return "no clear difference"
    return "better" if (item.low > 0) != _lower_is_better(item.metric) else "worse"


def _charts(report: Report) -> list[tuple[str, str, Chart]]:
    """(stage, quantity, chart) with every fold of that quantity in one chart."""
    folds: dict[tuple[str, str], list[Curve]] = {}
    for curve in report.curves:
        folds.setdefault((curve.stage, curve.name), []).append(curve)
    return [(*key, draw_chart([(x.steps, x.values) for x in curves])) for key, curves in folds.items()]


Embedded = dict[str, tuple[str, int, int]]


def _written_images(report: Report) -> dict[bytes, str]:
    """Picture -> data URI of those beside Samples of the data stages; one past the page's limits has none."""
    embedded: dict[bytes, str] = {}
    for stage in report.data:
        for written in stage.written:
            png = written.image_png
            if (
                png
                and png not in embedded
                and len(embedded) < IMAGES_EMBEDDED_MAX
                and (image := embed_image(png))
            ):
                embedded[png] = image[0]
    return embedded


def _example_images(examples: Sequence[Example]) -> tuple[Embedded, list[list[str | None]]]:
    """Each distinct image once under its digest, and per example the digests; None is an image left out."""
    embedded: Embedded = {}
    shown: list[list[str | None]] = []
    for example in examples:
        keys: list[str | None] = []
        for png in example.images_png:
            key = hashlib.sha256(png).hexdigest()[:16]
            if key not in embedded and len(embedded) < IMAGES_EMBEDDED_MAX and (image := embed_image(png)):
                embedded[key] = image
            keys.append(key if key in embedded else None)
        shown.append(keys)
    return embedded, shown


def _outlines(examples: Sequence[Example]) -> dict[bytes, tuple[str, str]]:
    """Outlines -> (digest, data URI): our own PNGs, embedded as they are, for re-encoding loses what is clear."""
    return {
        png: (
            hashlib.sha256(png).hexdigest()[:16],
            "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
        )
        for png in (example.outlines_png for example in examples)
        if png
    }


def _html(report: Report) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": format_number,
        "fixed": format_fixed,
        "p": format_p,
        "tick": format_tick,
        "duration": format_duration,
        "words": lambda name: str(name).replace("_", " "),
        # The policy names the page's own script by its digest, so that no other script can run in the page.
        "digest": lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    }
    images, shown = _example_images(report.examples)
    siblings: dict[tuple[str, str], list[int]] = {}
    for index, example in enumerate(report.examples):
        siblings.setdefault((example.benchmark, example.sample_id), []).append(index)
    main = {id(row) for row in main_rows(report)}
    return environment.get_template("report.html.j2").render(
        report=report,
        of_encoders=_of_encoders(report),
        groups=_groups(report),
        other_rows=[row for row in report.rows if id(row) not in main],
        difference_scales=_difference_scales(report),
        comparison_verdict=_comparison_verdict,
        charts=_charts(report),
        frame=FRAME,
        box_frame=BOX_FRAME,
        draw_boxes=draw_boxes,
        images=images,
        written_images=_written_images(report),
        outlines=_outlines(report.examples),
        shown=shown,
        siblings=siblings,
        finite=math.isfinite,
    )


_BYTES = ("images_png", "image_png", "outlines_png")


def _plain(value: Any) -> Any:
    """JSON-safe data: floats on six decimals, what is not finite as None, bytes nowhere."""
    if isinstance(value, float):
        return round(value, 6) + 0.0 if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in _BYTES}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(text: object) -> str:
    """One line of Markdown that cannot end a table's row, open a tag or start a code span."""
    flat = " ".join(str(text).split()).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return flat.replace("|", "\\|").replace("`", "\\`")


def _table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    head, *lines = ["| " + " | ".join(_escaped(item) for item in row) + " |" for row in (heads, *rows)]
    return "\n".join([head, "|" + " --- |" * len(heads), *lines, ""])


def _markdown(report: Report) -> str:
    def number(value: float | None) -> str:
        return format_number(value, ascii_only=True)

    def cells(row: Row, *more: str) -> tuple[object, ...]:
        interval = f"{number(row.low)} to {number(row.high)}"
        names = (row.benchmark, row.task, row.stage, row.control.replace("_", " "), row.metric)
        return (*names, number(row.value), interval, number(row.chance), *more, row.n)

    heads = ("benchmark", "task", "stage", "control", "metric", "value", "95 % interval", "chance")
    first = [line for group in _groups(report) for line in group.lines]
    shown = {id(line.row) for line in first}
    rest = [row for row in report.rows if id(row) not in shown]
    parts = [f"# {report.title}\n", f"Stage {report.recipe}, written {report.created}.\n"]
    if first or not (report.data or report.boards):
        parts += ["Intervals are 95 % bootstrap intervals clustered by group.\n", "## Results\n"]
        parts.append(
            _table(
                (*heads, "parse rate", "reasons", "n"),
                (cells(line.row, number(line.parse_rate), number(line.reasoning)) for line in first),
            )
        )
    if rest:
        parts += ["## Other metrics\n", _table((*heads, "n"), (cells(row) for row in rest))]
    if report.boards:
        title = "Encoders side by side" if _of_encoders(report) else "Side by side"
        parts += [f"## {title}\n", *(part for board in report.boards for part in _board(board))]
    for stage in report.data:
        kept = ", ".join(f"{count} {task}" for task, count in stage.kept.items())
        drops = ", ".join(f"{count} {reason}" for reason, count in stage.drops.items()) or "none"
        counted = f"\n\nKept: {kept}. Dropped: {drops}." if stage.kept or stage.drops else ""
        parts.append(f"## Data of {stage.stage}{counted}\n")
        for table in stage.tables:
            parts.append(f"{table.title}\n\n{_table(table.columns, table.rows)}")
    if report.comparisons:
        paired = (
            (x.before, x.after, x.benchmark, x.metric, format_number(x.difference, True, True),
             f"{number(x.low)} to {number(x.high)}", format_p(x.p_value, True), x.n)
            for x in report.comparisons
        )  # fmt: skip
        head = ("before", "after", "benchmark", "metric", "after minus before", "95 % interval", "p", "n")
        parts += ["## Paired comparisons\n", _table(head, paired)]
    if report.seconds:
        seconds = (
            (stage, f"{value:.1f}" if math.isfinite(value) else "-")
            for stage, value in report.seconds.items()
        )
        parts += ["## Seconds\n", _table(("stage", "seconds"), seconds)]
    for title, lines in (("Sources", report.sources), ("Notes", report.notes)):
        if lines:
            parts += [f"## {title}\n", "\n".join(f"- {' '.join(line.split())}" for line in lines) + "\n"]
    return "\n".join(parts)


def _of_encoders(report: Report) -> bool:
    return all(board.of == "encoder" for board in report.boards)


def _board(board: Board) -> Iterable[str]:
    """A board in Markdown: its table, the runs behind its plots, its notes."""

    def written(cell: Cell | None) -> str:
        if cell is None:
            return "-"
        value, low, high = (
            "" if number is None else format_fixed(number, board.digits, ascii_only=True)
            for number in (cell.value, cell.low, cell.high)
        )
        return f"{value} ({low} to {high})" if low and high else value

    yield f"### {_escaped(board.title)}\n\nStage {board.stage}; in brackets 95 % intervals.\n"
    yield _table(
        (board.of, "origin", *board.columns, "source"),
        ((row.name, row.origin, *map(written, row.cells), row.source) for row in board.rows),
    )
    for plot in board.plots:
        chance = "-" if plot.chance is None else format_fixed(plot.chance, board.digits, ascii_only=True)
        said = f"{plot.title}: {plot.y_label}, median (lowest to highest run), chance {chance}"
        yield f"{_escaped(said)}\n"
        yield _table(
            (plot.x_label, *plot.x),
            (
                (name, *(_runs(values, board.digits) for values in boxes))
                for name, boxes in plot.series.items()
            ),
        )
    if board.notes:
        yield "\n".join(f"- {_escaped(note)}" for note in board.notes) + "\n"


def _runs(values: Sequence[float], digits: int) -> str:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "-"
    middle, low, high = (
        format_fixed(value, digits, ascii_only=True)
        for value in (quartiles(finite)[1], min(finite), max(finite))
    )
    return f"{middle} ({low} to {high})"


def _write_together(texts: dict[Path, str]) -> None:
    """Write every file beside its target, flush all to disk, and only then put them in place one by one.

    Raises:
        OSError: the disk refused. While writing, that leaves every earlier file as it was; while renaming,
            the file that failed and those after it. Nothing half-written stays behind.
    """
    parts = {path: path.with_name(f".{path.name}.{secrets.token_hex(6)}.part") for path in texts}
    try:
        for path, text in texts.items():
            with parts[path].open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.json and report.md into `folder`, which is made where it is missing.

    Raises:
        OSError: a file could not be written; each report file is then whole, of this or the earlier run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.dumps(_plain(report.model_dump()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    names = {"report.html": _html(report), "report.json": facts, "report.md": _markdown(report)}
    _write_together({folder / name: text for name, text in names.items()})
