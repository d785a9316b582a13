"""Tables of text for source `pairs`: JSON lines, CSV, and tab-separated values without quoting."""

import csv
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pathloom.ingest.pairs_tables import BadRow, Table
from pathloom.stage import UserError

# Our own number: a caption of more lines is no caption, and an open quote is found before much is swallowed.
_MAX_LINE_BREAKS = 200
# A value may be long (a page of text in a caption), and csv's default of 128 KiB would refuse it.
_MAX_VALUE_CHARS = 64 * 2**20

_Raw = str | list[str] | csv.Error
"""A row as it stands in the table: a line of JSON, the values of a line, or why it has none."""


class TextTable(Table):
    """A file of lines; a place is the byte at which a row begins. Rows are read by seeking, not held."""

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.path = path
        self.is_json = path.suffix == ".jsonl"
        if not self.is_json:
            self.names.update(dict.fromkeys(self._header))

    def rows(self) -> Iterator[tuple[int, Mapping[str, Any] | BadRow]]:
        with self.path.open("rb") as file:
            raws = self._raw(file)
            if not self.is_json and self._header:
                next(raws)
            for start, raw in raws:
                yield start, self._row_or_fault(raw)

    def row(self, place: int) -> Mapping[str, Any]:
        with self.path.open("rb") as file:
            file.seek(place)
            found = next(self._raw(file), None)
        if found is None:
            raise UserError(f"{self.path}: shorter than before; do not change the table while it is read")
        row = self._row_or_fault(found[1])
        if isinstance(row, BadRow):
            raise row
        return row

    @cached_property
    def _header(self) -> list[str]:
        with self.path.open("rb") as file:
            _, header = next(self._raw(file), (0, []))
        mac = isinstance(header, list) and self.path.suffix != ".csv" and "\r" in "".join(header)
        if isinstance(header, csv.Error) or mac:
            why = "a carriage return alone ends no line" if mac else str(header)
            raise UserError(f"{self.path}, line 1: no header ({why}); save the table with LF line ends")
        return list(header)

    def _raw(self, file: BinaryIO) -> Iterator[tuple[int, _Raw]]:
        """(byte at which it begins, row) from where the file stands, a header among them, empty lines not."""
        if self.path.suffix == ".csv":
            yield from ((start, row) for start, row in _csv_rows(file, self.path) if row != [])
            return
        for start, line in _lines(file):
            if line.strip("\r\n" if not self.is_json else None):
                yield start, line if self.is_json else line.rstrip("\r\n").split("\t")

    def _row_or_fault(self, raw: _Raw) -> Mapping[str, Any] | BadRow:
        try:
            if isinstance(raw, csv.Error):
                raise raw
            if isinstance(raw, str):
                row = json.loads(raw)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                self.names.update(dict.fromkeys(row))
                return row
            if len(raw) != len(self._header):
                raise ValueError(f"{len(raw)} columns, the header has {len(self._header)}")
        except (ValueError, RecursionError, csv.Error) as error:
            return BadRow("not_a_row", str(error))
        return dict(zip(self._header, raw, strict=True))


def _lines(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """(byte at which it begins, line with its end); a byte order mark at the head of the file is none of its text."""
    start = file.tell()
    while line := file.readline():
        yield start, line.decode("utf-8-sig" if start == 0 else "utf-8", "replace")
        start += len(line)


def _csv_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """(byte at which it begins, row) of a CSV, or the error of a row of one line.

    Raises UserError where a row of several lines is faulty: which of its lines are rows of their own is then unknown.
    """
    lines: list[str] = []
    line_number, row_number = 1, 0

    def fault(why: str) -> UserError:
        row = f"row {row_number}" if row_number else "header"
        return UserError(
            f"{path}, line {line_number} ({row}): a quote that opens there {why}, so that it is unknown which lines "
            "are rows; close it, double quotes within a value, or save the table as .jsonl"
        )

    def text() -> Iterator[str]:
        for _, line in _lines(file):
            lines.append(line)
            if len(lines) > _MAX_LINE_BREAKS + 1:
                raise fault(f"is not closed within {_MAX_LINE_BREAKS} line breaks")
            yield line

    csv.field_size_limit(_MAX_VALUE_CHARS)
    reader = csv.reader(text())
    while True:
        start = file.tell()
        found: list[str] | csv.Error
        try:
            found = next(reader)
            if len(lines) > 1:
                # Forgiving, csv takes what follows a closed quote, and a quote that is open at the end.
                next(csv.reader(lines, strict=True))
        except StopIteration:
            return
        except csv.Error as error:
            if len(lines) > 1:
                raise fault(f"is not closed as it should be within {len(lines)} lines ({error})") from error
            found = error
        yield start, found
        row_number += found != []
        line_number += len(lines)
        lines.clear()
