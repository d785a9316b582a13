"""One table with a row for each data set and a column for each side: stages of training, models, sets of seeds."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from pathloom.benchmarks import find_benchmark
from pathloom.evaluate.config import DataSetTable, ReportConfig
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Comparison, Row
from pathloom.evaluate.select import NO_CONTROL
from pathloom.evaluate.suites import Answered, Side, cell_of, difference, draw_side
from pathloom.stage import UserError
from pathloom.tasks import TASKS

CHANCE = "chance"


def board_of_data_sets(
    config: ReportConfig, answered: Mapping[str, Answered], rows: Sequence[Row]
) -> tuple[Board, list[Comparison]]:
    """The table that `config.data_sets` asks for, and the paired differences between its columns on their means.

    Rows are the benchmarks that any column measured, by scale, then by task. The last row is the plain mean over those
    that every column measured, whatever their numbers of Samples, drawn as a suite is; `rows` say what the best
    constant answer reaches. Raises UserError where a column has nothing or one data set twice.
    """
    table = config.data_sets
    assert table is not None, "asked for by the entry"
    names = _in_order({name: scored for one in answered.values() for name, scored in one.items()})
    columns = {column: _runs_of(config, column, sides, answered) for column, sides in table.columns.items()}
    shown = [name for name in names if any(name in runs for runs in columns.values())]
    common = [name for name in shown if all(name in runs for runs in columns.values())]
    sides = {column: draw_side(shown, runs) for column, runs in columns.items()}
    chances = {
        row.benchmark: row.chance
        for row in reversed(rows)
        if row.primary and row.control == NO_CONTROL and row.chance is not None
    }
    board = Board(
        stage=config.name,
        title=table.title,
        of="data set",
        columns=(*columns, CHANCE),
        columns_compared=len(columns),
        rows=(
            *(_row(name, sides, answered, chances.get(name)) for name in shown),
            *_mean_row(common, sides, chances),
        ),
        notes=_notes(common, shown),
    )
    return board, _comparisons(table, common, sides)


def _runs_of(
    config: ReportConfig, column: str, sides: Sequence[str], answered: Mapping[str, Answered]
) -> dict[str, list[Answered]]:
    """Benchmark -> the stages whose mean stands in the column."""
    found: dict[str, list[Answered]] = {}
    for side in sides:
        runs = [answered.get(stage, {}) for stage in config.repeats.get(side, (side,))]
        for name in set(runs[0]).intersection(*runs[1:]):
            if name in found:
                raise UserError(
                    f"{config.name}.data_sets.columns.{column}: {side} and one before it both measured {name}; "
                    "name one of them, or make them `repeats`"
                )
            found[name] = runs
    if not found:
        raise UserError(
            f"{config.name}.data_sets.columns.{column}: none of {', '.join(sides)} measured a benchmark"
        )
    return found


def _in_order(scored: Answered) -> list[str]:
    """By scale, task and, within a task, as they were first measured."""
    tasks = [task.name for task in TASKS]
    return sorted(
        scored, key=lambda name: (scored[name][0].sample.scale, tasks.index(find_benchmark(name).task))
    )


def _row(
    name: str, sides: Mapping[str, Side], answered: Mapping[str, Answered], chance: float | None
) -> BoardRow:
    benchmark = find_benchmark(name)
    scale = next(one[name][0].sample.scale for one in answered.values() if name in one)
    counts = sorted({len(side.asked[name]) for side in sides.values() if name in side.of})
    asked = " or ".join(f"{count:,}" for count in counts)
    return BoardRow(
        name=name,
        origin="measured",
        source=f"{scale}, {benchmark.task}, {benchmark.primary_metric.replace('_', ' ')}; n {asked}",
        cells=(*(cell_of(side.of.get(name)) for side in sides.values()), _plain(chance)),
    )


def _mean_row(
    common: Sequence[str], sides: Mapping[str, Side], chances: Mapping[str, float | None]
) -> list[BoardRow]:
    if not common:
        return []
    known = [chances.get(name) for name in common]
    chance = None if None in known else math.fsum(filter(None, known)) / len(known)
    return [
        BoardRow(
            name=f"mean of {len(common)} data set{'s'[: len(common) > 1]}",
            origin="measured",
            source="each counts the same",
            cells=(*(cell_of(side.only(common).mean) for side in sides.values()), _plain(chance)),
        )
    ]


def _plain(value: float | None) -> Cell | None:
    return None if value is None else Cell(value=value)


def _notes(common: Sequence[str], shown: Sequence[str]) -> tuple[str, ...]:
    left_out = [name for name in shown if name not in common]
    return (
        "The highest value of each row is marked, whether or not it is clear of the others.",
        *([f"Not in the mean, for some column lacks them: {', '.join(left_out)}."] if left_out else []),
    )


def _comparisons(table: DataSetTable, common: Sequence[str], sides: Mapping[str, Side]) -> list[Comparison]:
    """Each column against every one before it, over the data sets of the mean, where both answered the same."""
    found = []
    for before, after in combinations(sides, 2):
        old, new = sides[before].only(common), sides[after].only(common)
        if common and old.asked == new.asked:
            measure = f"mean of {len(common)} data set{'s' if len(common) > 1 else ''}"
            found.append(Comparison.of(before, after, table.title, measure, difference(old, new)))
    return found
