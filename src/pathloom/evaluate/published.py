"""What Patho-R1 printed of its CLIP models, as rows that stand beside measured ones (published.yaml).

    published_retrieval("ARCH", [retrieval_column("i2t", 1), retrieval_column("t2i", None)])
    published_zero_shot(["LC-Lung", "BMT", MEAN])
    published_notes("retrieval", "ARCH"), published_notes("zero_shot", columns)

Every number is in per cent, as printed, also where it is odd; the notes name what does not fit. A board that shows
these rows is in per cent too, on two digits. No number here was measured by pathloom.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from pathloom.evaluate.report_records import BoardRow, Cell

Direction = Literal["i2t", "t2i"]
DIRECTIONS: tuple[Direction, ...] = ("i2t", "t2i")
RECALL_AT = (1, 5, 10, 20)
MEAN = "mean"
"""The column of a row's printed average: over the five sets in Table 2, over recall at 1, 5, 10 and 20 in Table 1.

It is left out where the other columns are not just those: an average over others would stand in the same column.
"""
DIGITS = 2


def retrieval_column(direction: Direction, k: int | None) -> str:
    """The heading of recall at `k`, per cent; k None: the mean of recall at 1, 5, 10 and 20."""
    return f"{direction} {MEAN}" if k is None else f"{direction} @{k}"


def published_retrieval(set_name: str, columns: Sequence[str]) -> list[BoardRow]:
    """Table 1's rows for ARCH or Archive; None where `columns` (of `retrieval_column`) name what is not printed.

    Empty for another set, and where no column is known.
    """
    table = _tables()["retrieval"]
    rows = {_key(name): of_set["rows"] for name, of_set in table["sets"].items()}.get(_key(set_name), {})
    printed: dict[str, dict[str, float]] = {name: {} for name in rows}
    for way in DIRECTIONS:
        heads = [retrieval_column(way, k) for k in (*RECALL_AT, None)]
        asked = {one for one in columns if one.startswith(f"{way} @")}
        kept = heads if asked == set(heads[:-1]) else heads[:-1]
        for name, row in rows.items():
            printed[name] |= dict(zip(kept, row[way], strict=False))
    return _rows(printed, columns, f"{_tables()['paper']}, {table['table']}")


def published_zero_shot(columns: Sequence[str]) -> list[BoardRow]:
    """Table 2's accuracies for the sets that `columns` name as the paper or their makers do, and for MEAN.

    None where nothing is printed for a column ("" for one that is no set); empty where that is so for every set.
    """
    table = _tables()["zero_shot"]
    sets = table["sets"]
    named = [_set_name(column) for column in columns]
    if not set(named) & set(sets):
        return []
    heads = [*sets, MEAN] if set(named) - {MEAN, ""} == set(sets) else sets
    printed = {name: dict(zip(heads, row, strict=False)) for name, row in table["rows"].items()}
    return _rows(printed, named, f"{_tables()['paper']}, {table['table']}")


def published_notes(
    table: Literal["retrieval", "zero_shot"], set_name: str = "", columns: Sequence[str] = ()
) -> tuple[str, ...]:
    """What is odd in the printed rows of a set of Table 1, or in the `columns` of Table 2 that a board shows."""
    shown = {_set_name(column) for column in columns}
    return tuple(
        f"Patho-R1's {_tables()[table]['table']}: {oddity['says']}"
        for oddity in _tables()["oddities"][table]
        if ("set" not in oddity or _key(oddity["set"]) == _key(set_name))
        and ("columns" not in oddity or shown & set(oddity["columns"]))
    )


def _rows(printed: Mapping[str, Mapping[str, float]], columns: Sequence[str], source: str) -> list[BoardRow]:
    rows = [
        BoardRow(
            name=name,
            origin="published",
            source=source,
            cells=tuple(Cell(value=values[one]) if one in values else None for one in columns),
        )
        for name, values in printed.items()
    ]
    return [row for row in rows if any(row.cells)]


def _set_name(column: str) -> str:
    """The name in published.yaml of a set that may be written as in the paper, in other case or with other signs."""
    known = {_key(name): name for name in _tables()["zero_shot"]["sets"]}
    return {**known, "wsssluad": "WSSS4LUAD"}.get(_key(column), column)


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


@cache
def _tables() -> dict[str, Any]:
    tables: dict[str, Any] = yaml.safe_load(
        files("pathloom.evaluate").joinpath("published.yaml").read_text(encoding="utf-8")
    )
    return tables
