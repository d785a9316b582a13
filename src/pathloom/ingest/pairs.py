"""Source `pairs`: a table of captions, with or without pictures, one row a pair: JSON lines, CSV or TSV.

    {"id": "f1", "image": "figures/f1.jpg", "caption": "Liver, H&E ...", "group": "book 3", "licence": "CC BY 4.0"}

All texts are cleaned of markup and control characters; what no model should learn from is a Drop with its reason.
Rows are counted from 1, without the header and without empty lines.

- Ids: a row without one is called after its picture and its number (`figures/f1.jpg#row-7`), so that two captions of
  one figure differ. Of rows with the same id the first is read, the others are Drops `id_seen_before`.
- Quotes: in .csv a quoted value may hold delimiters, doubled quotes and up to 200 line breaks. In .tsv and .txt a quote
  is a sign like any other: a line is a row, a tab ends a value, and `"Owl eye` is a caption.
- A row that cannot be read is a Drop `not_a_row`. Where an open quote makes it unknown which lines are rows, the table
  is refused: otherwise it would swallow the rows after it.
- Pictures lie below `root`, by default the table's folder, links followed; others are Drops `outside_root`.
"""

import csv
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from pydantic import Field

from pathloom.images import BadImage, read_image
from pathloom.ingest.pictures import size_and_time
from pathloom.ingest.source import IngestConfig, Source, share_of
from pathloom.schema import Drop, Event, Image, Origin, Sample
from pathloom.stage import UserError

COLUMNS = ("id", "image", "caption", "reference", "group", "licence", "subfield", "organ")
"""What a row may say; `columns` gives the table's own names for them. Only the caption is needed."""

# Names of tags that captions carry, of HTML and of the XML of articles (JATS). Others may be text: "CD4<CD8 and CK7>".
_TAG_NAMES = """
    a abbr abbrev acronym address article aside b big blockquote body bold br break caption center cite code col
    colgroup dd del details dfn disp-formula div dl dt em email ext-link fig figcaption figure fn font footer graphic
    h[1-6] head header hr html i iframe img inline-formula inline-graphic ins italic kbd label li link list list-item
    mark mml:[a-z]+ monospace named-content nobr o:p ol overline p pre q roman s samp sans-serif sc script sec section
    small span strike strong style styled-content sub sup svg table tbody td tex-math tfoot th thead title tr tt u ul
    underline uri var wbr xref
"""
# Possessive, so that no text takes longer than its length. Bare attributes are those of old HTML only: "a<b and c>d".
_TAG = re.compile(
    rf"</?(?:{'|'.join(_TAG_NAMES.split())})"
    r"""(?:\s++(?:[\w:.-]++\s*+=\s*+(?:"[^"<>]*+"|'[^'<>]*+'|[^\s"'<>]++)|nowrap|noshade|compact|async|defer|hidden))*+"""
    r"\s*+/?>|<!--.{0,2000}?-->",
    re.DOTALL | re.IGNORECASE,
)
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
# Unicode categories: format signs (soft hyphens, zero-width joiners) stand within words, the others between them.
_KEPT = {"Cf": "", "Cc": " ", "Cn": " ", "Co": " ", "Cs": " "}
_SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt")
# Our own number: a caption of more lines is no caption, and an open quote is found before much is swallowed.
_MAX_LINE_BREAKS = 200
# A value may be long (a page of text in a caption), and csv's default of 128 KiB would refuse it.
_MAX_VALUE_CHARS = 64 * 2**20

_Raw = str | list[str] | csv.Error
"""A row as it stands in the table: a line of JSON, the values of a line, or why it has none."""


class PairsConfig(IngestConfig):
    """Entry of a recipe: `{name: pairs, kind: ingest, source: pairs, table: FILE}`."""

    version: ClassVar[int] = 1

    source: Literal["pairs"]
    table: Path = Field(description="*.jsonl, *.csv, or *.tsv without quoting; the last two with a header")
    dataset: str = Field(default="pairs", description="name under which the data are reported")
    root: Path | None = Field(
        default=None, description="folder of all pictures, where image paths start; default: the table's"
    )
    columns: dict[str, str] = Field(default={}, description=f"{', '.join(COLUMNS)} -> the table's own name")
    images: Literal["required", "optional", "ignored"] = "required"
    question: str = Field(default="Describe this image.", description="what the caption answers")
    licence: str = Field(default="unstated", description="of rows that state none")
    licences: tuple[str, ...] = Field(
        default=(), description="regular expressions of licences that may be used; none: all"
    )
    group_pattern: str | None = Field(default=None, description="regular expression on the group column")
    test_share: float = Field(default=0.0, ge=0, lt=1, description="of groups, by their hash")
    min_chars: int = Field(default=15, ge=1, description="a shorter caption says nothing to reason about")
    max_chars: int = Field(
        default=8000, ge=1, description="a longer one is a page that was taken for a caption"
    )
    language: Literal["en", "any"] = Field(
        default="en", description="en drops captions with more than 1 % of Han signs among their letters"
    )

    def check(self) -> None:
        if not self.table.is_file():
            raise UserError(f"{self.name}.table: {self.table} is not a file")
        if self.table.suffix not in _SUFFIXES:
            raise UserError(f"{self.name}.table: {self.table} is no .jsonl, .csv or .tsv; convert it")
        if self.root is not None and self.images != "ignored" and not self.root.is_dir():
            raise UserError(f"{self.name}.root: {self.root} is not a folder")
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(f"{self.name}.columns.{name}: unknown; known: {', '.join(COLUMNS)}")
        for pattern in (*self.licences, *filter(None, [self.group_pattern])):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"{self.name}: {pattern!r} is not a regular expression: {error}") from error
        if self.table.suffix != ".jsonl" and self._column("caption") not in self._header:
            raise UserError(
                f"{self.table}: no column {self._column('caption')!r}; it has {', '.join(self._header)}; name it with "
                f"`columns: {{caption: ...}}`"
            )
        if not self._units:
            raise UserError(f"{self.name}.table: {self.table} holds no row")

    def fingerprint(self) -> str:
        """Of the table; a picture that is replaced under its old name is not noticed."""
        return str(size_and_time(self.table))

    def plan(self) -> Sequence[Any]:
        """(byte at which the row begins, its number, number of the first row with its id or None).

        Rows are read by seeking, not held. Raises UserError for a table that cannot be split into rows.
        """
        return self._units

    @cached_property
    def _units(self) -> list[tuple[int, int, int | None]]:
        units = []
        rows_of_ids: dict[str, int] = {}
        with self.table.open("rb") as file:
            has_header = self.table.suffix != ".jsonl" and bool(self._header)
            for number, (start, raw) in enumerate(islice(self._raw(file), has_header, None), 1):
                try:
                    first = rows_of_ids.setdefault(self._id(self._row(raw), number), number)
                except (ValueError, RecursionError, csv.Error):
                    first = number  # read() says why it is no row
                units.append((start, number, None if first == number else first))
        return units

    def __getstate__(self) -> dict[Any, Any]:
        """Without what is cached: a worker gets the units that it reads, not a list of all."""
        state = super().__getstate__()
        kept = {name: value for name, value in state["__dict__"].items() if name in type(self).model_fields}
        return {**state, "__dict__": kept}

    @cached_property
    def _header(self) -> list[str]:
        with self.table.open("rb") as file:
            _, header = next(self._raw(file), (0, []))
        mac = isinstance(header, list) and self.table.suffix != ".csv" and "\r" in "".join(header)
        if isinstance(header, csv.Error) or mac:
            why = "a carriage return alone ends no line" if mac else str(header)
            raise UserError(f"{self.table}, line 1: no header ({why}); save the table with LF line ends")
        return list(header)

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _raw(self, file: BinaryIO) -> Iterator[tuple[int, _Raw]]:
        """(byte at which it begins, row) from where the file stands, a header among them, empty lines not."""
        if self.table.suffix == ".csv":
            yield from ((start, row) for start, row in _csv_rows(file, self.table) if row != [])
            return
        for start, line in _lines(file):
            if line.strip("\r\n" if self.table.suffix != ".jsonl" else None):
                yield start, line if self.table.suffix == ".jsonl" else line.rstrip("\r\n").split("\t")

    def _row(self, raw: _Raw) -> Mapping[str, Any]:
        """Raises ValueError, RecursionError or csv.Error for a row that is none."""
        if isinstance(raw, csv.Error):
            raise raw
        if isinstance(raw, str):
            row = json.loads(raw)
            if not isinstance(row, dict):
                raise ValueError("not an object")
            return row
        if len(raw) != len(self._header):
            raise ValueError(f"{len(raw)} columns, the header has {len(self._header)}")
        return dict(zip(self._header, raw, strict=True))

    def _id(self, row: Mapping[str, Any], number: int) -> str:
        if own := clean(_text(row.get(self._column("id")))):
            return own
        image = clean(_text(row.get(self._column("image"))))
        return f"{image}#row-{number}" if image else f"row-{number}"

    def read(self, unit: Any) -> list[Sample | Drop]:
        start, number, first = unit
        where = f"{self.table}, row {number}"
        with self.table.open("rb") as file:
            file.seek(start)
            found = next(self._raw(file), None)
        if found is None:
            raise UserError(f"{where}: no longer there; do not change the table while it is read")
        try:
            row = self._row(found[1])
            name = f"{self.dataset}/{self._id(row, number)}"
            value = {column: _text(row.get(self._column(column))) for column in COLUMNS}
        except (ValueError, RecursionError, csv.Error) as error:
            return [self._drop(f"{self.dataset}/row-{number}", "not_a_row", f"{where}: {error}")]
        if first is not None:
            detail = f"{where}: its id stood first in row {first}; give each row its own, or none"
            return [self._drop(f"{name}#row-{number}", "id_seen_before", detail)]
        # A file is found under its name as it stands; all that goes into the Sample is cleaned.
        image, value = value["image"], {column: clean(text) for column, text in value.items()}
        licence = value["licence"] or self.licence
        fault = self._fault(value["caption"], value["reference"], licence)
        if fault is not None:
            return [self._drop(name, *fault)]
        try:
            images = self._images(image)
        except BadImage as error:
            return [self._drop(name, error.reason, str(error))]
        group = self._group(value["group"] or value["image"] or name)
        return [
            Sample(
                id=name,
                task="caption",
                split="test" if share_of(group, self.seed) < self.test_share else "train",
                images=images,
                question=self.question,
                answer=value["caption"],
                context=value["reference"],
                subfield=value["subfield"] or None,
                organ=value["organ"] or None,
                origin=Origin(source=self.dataset, source_id=where, licence=licence, group=group),
                history=(Event(step="ingest.pairs", version=self.version),),
            )
        ]

    def _drop(self, name: str, reason: str, detail: str) -> Drop:
        detail = detail.encode("utf-8", "replace").decode()[:500]  # it may name a file in half a character
        return Drop(sample_id=name, step="ingest.pairs", reason=reason, detail=detail)

    def _fault(self, caption: str, reference: str, licence: str) -> tuple[str, str] | None:
        """(reason, detail) of a row that cannot be used."""
        if self.licences and not any(re.search(one, licence, re.IGNORECASE) for one in self.licences):
            return "licence", licence
        if len(caption) < self.min_chars:
            return "caption_too_short", caption
        if len(caption) + len(reference) > self.max_chars:
            return "caption_too_long", f"{len(caption) + len(reference)} characters: {caption[:100]}"
        letters = _LETTER.findall(caption)
        if not letters:
            return "no_words", caption
        if self.language == "en" and len(_HAN.findall(caption)) > 0.01 * len(letters):
            return "not_english", caption[:100]
        return None

    def _images(self, name: str) -> tuple[Image, ...]:
        """The row's picture, read in place. Raises BadImage."""
        if self.images == "ignored" or (not name and self.images == "optional"):
            return ()
        if not name:
            raise BadImage("no_image", "the row names no picture; `images: optional` takes it without one")
        try:
            root = (self.root or self.table.parent).resolve()
            path = (root / name).resolve()
            str(path).encode()  # Parquet holds no half characters
        # a zero byte or a lone surrogate, a circle of links
        except (ValueError, OSError, RuntimeError) as error:
            raise BadImage("no_file_name", f"{name[:200]!r} names no file: {error}") from error
        if not path.is_relative_to(root):
            cure = f"name the folder that holds all pictures: --set {self.name}.root=DIR"
            raise BadImage("outside_root", f"{name[:200]} lies outside {root}; {cure}")
        return (read_image(path),)

    def _group(self, group: str) -> str:
        match = re.search(self.group_pattern, group) if self.group_pattern else None
        return "/".join(match.groups("") or (match[0],)) if match else group


def clean(text: str) -> str:
    """Without markup, control characters and doubled spaces; entities become the signs that they stand for (NFC).

    Only tags of known names are taken for markup, so that "p<0.05", "<5 mitoses" and "CD4<CD8 and CK7>CK20" stay.
    """
    text = html.unescape(_TAG.sub(" ", html.unescape(text)))
    # No printable sign is of a category in _KEPT.
    if not text.isprintable():
        text = "".join(_KEPT.get(unicodedata.category(sign), sign) for sign in text)
    return " ".join(unicodedata.normalize("NFC", text).replace("\ufffd", " ").split())


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


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


PAIRS = Source("pairs", PairsConfig, "a table of captions with pictures: JSON lines, CSV or TSV")
