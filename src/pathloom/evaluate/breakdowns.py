"""Benchmarks whose number is a mean over parts, dimensions or classes: a board of the parts, so that none hides."""

from collections.abc import Sequence

from pathloom.benchmarks import DIMENSION, find_benchmark
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Row
from pathloom.evaluate.select import NO_CONTROL
from pathloom.evaluate.tallies import BALANCED_ACCURACY, MACRO_ACCURACY

_OF_A_DIMENSION = f"accuracy ({DIMENSION}"
_OF_A_CLASS = "recall ("


def boards_of_parts(stage: str, rows: Sequence[Row]) -> list[Board]:
    """For each benchmark that names its own metric, a row for every stage that measured it without a control."""
    of_benchmark: dict[str, list[Row]] = {}
    for row in rows:
        if row.control == NO_CONTROL and find_benchmark(row.benchmark).metric in (
            MACRO_ACCURACY,
            BALANCED_ACCURACY,
        ):
            of_benchmark.setdefault(row.benchmark, []).append(row)
    return [_board(stage, name, part) for name, part in of_benchmark.items()]


def _board(stage: str, benchmark: str, rows: Sequence[Row]) -> Board:
    """The mean first, then its parts."""
    is_macro = find_benchmark(benchmark).metric == MACRO_ACCURACY
    wanted = (_OF_A_DIMENSION,) if is_macro else ("macro_f1", _OF_A_CLASS)
    primary = next(row.metric for row in rows if row.primary)
    metrics = [primary] + [
        metric
        for start in wanted
        for metric in dict.fromkeys(row.metric for row in rows)
        if metric.startswith(start)
    ]
    measured: dict[str, dict[str, Row]] = {}
    for row in rows:
        measured.setdefault(row.stage, {})[row.metric] = row
    return Board(
        stage=stage,
        title=f"{benchmark} by {'dimension' if is_macro else 'class'}",
        of="stage",
        columns=tuple(map(_shown, metrics)),
        digits=2,  # a column for each part: more digits than a page is wide
        rows=tuple(
            BoardRow(
                name=name,
                origin="measured",
                source=f"{found[primary].n:,} answers",
                cells=tuple(_cell(found.get(metric)) for metric in metrics),
            )
            for name, found in measured.items()
        ),
        notes=(
            f"Columns named by a {'dimension' if is_macro else 'class'} are its "
            + ("accuracy." if is_macro else "recall."),
            *_chances(rows, metrics),
        ),
    )


def _shown(metric: str) -> str:
    """A part by its own name."""
    for start in (_OF_A_DIMENSION, _OF_A_CLASS):
        if metric.startswith(start):
            return metric.removeprefix(start).removesuffix(")")
    return metric


def _cell(row: Row | None) -> Cell | None:
    return None if row is None else Cell(value=row.value, low=row.low, high=row.high)


def _chances(rows: Sequence[Row], metrics: Sequence[str]) -> tuple[str, ...]:
    """What the best constant answer reaches in each column, as the first stage was asked."""
    known: dict[str, float] = {}
    for row in rows:
        if row.chance is not None and row.metric in metrics:
            known.setdefault(row.metric, row.chance)
    words = ", ".join(f"{_shown(metric).replace('_', ' ')} {value:.3f}" for metric, value in known.items())
    return (f"The best constant answer reaches: {words}.",) if words else ()
