"""Source `pairs`: a table of captions, with or without pictures, one row a pair: JSON lines, CSV or TSV.

    {"id": "f1", "image": "figures/f1.jpg", "caption": "Liver, H&E ...", "group": "book 3", "licence": "CC BY 4.0"}

Captions are cleaned of markup and control characters; what no model should learn from is a Drop with its reason.
"""

import csv
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from pydantic import Field

from pathloom.images import BadImage, read_image
from pathloom.ingest.pictures import size_and_time
from pathloom.ingest.source import IngestConfig, Source
from pathloom.schema import Drop, Event, Image, Origin, Sample
from pathloom.stage import UserError

COLUMNS = ("id", "image", "caption", "reference", "group", "licence", "subfield", "organ")
"""What a row may say; `columns` gives the table's own names for them. Only the caption is needed."""

_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>|<!--.{0,2000}?-->", re.DOTALL)
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LETTER = re.compile(r"[^\W\d_]")
# Unicode categories: format signs (soft hyphens, zero-width joiners) stand within words, the others between them.
_KEPT = {"Cf": "", "Cc": " ", "Cn": " ", "Co": " ", "Cs": " "}
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


class PairsConfig(IngestConfig):
    """Entry of a recipe: `{name: pairs, kind: ingest, source: pairs, table: FILE}`."""

    version: ClassVar[int] = 1

    source: Literal["pairs"]
    table: Path = Field(description="*.jsonl, *.csv or *.tsv with a header")
    dataset: str = Field(default="pairs", description="name under which the data are reported")
    root: Path | None = Field(
        default=None, description="folder that the table's image paths start from; default: its own"
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
        if self.table.suffix not in (".jsonl", *_DELIMITERS):
            raise UserError(f"{self.name}.table: {self.table} is no .jsonl, .csv or .tsv; convert it")
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
        if not self._starts:
            raise UserError(f"{self.name}.table: {self.table} holds no row")

    def fingerprint(self) -> str:
        """Of the table; a picture that is replaced under its old name is not noticed."""
        return str(size_and_time(self.table))

    def plan(self) -> Sequence[Any]:
        """The byte at which each row begins, with its number from 0: rows are read by seeking, not held."""
        return self._starts

    @cached_property
    def _starts(self) -> list[tuple[int, int]]:
        with self.table.open("rb") as file:
            if self.table.suffix == ".jsonl":
                found = [start for start, line in _lines(file) if line.strip()]
            else:
                found = [start for start, row in _rows(file, self._delimiter) if row][1:]
        return [(start, number) for number, start in enumerate(found)]

    @property
    def _delimiter(self) -> str:
        return _DELIMITERS[self.table.suffix]

    @cached_property
    def _header(self) -> list[str]:
        with self.table.open("rb") as file:
            return next((row for _, row in _rows(file, self._delimiter) if row), [])

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _row(self, start: int) -> Mapping[str, Any]:
        """Raises ValueError for a row that is none."""
        with self.table.open("rb") as file:
            file.seek(start)
            if self.table.suffix == ".jsonl":
                row = json.loads(file.readline().decode("utf-8", "replace"))
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                return row
            _, values = next(_rows(file, self._delimiter))
            if len(values) != len(self._header):
                raise ValueError(f"{len(values)} columns, the header has {len(self._header)}")
            return dict(zip(self._header, values, strict=True))

    def read(self, unit: Any) -> list[Sample | Drop]:
        start, number = unit
        name = f"{self.dataset}/row-{number}"
        try:
            row = self._row(start)
        except ValueError as error:
            return [self._drop(name, "not_a_row", f"{self.table}, row {number + 1}: {error}")]
        value = {column: _text(row.get(self._column(column))) for column in COLUMNS}
        name = f"{self.dataset}/{value['id'] or value['image'] or f'row-{number}'}"
        caption, reference = clean(value["caption"]), clean(value["reference"])
        licence = value["licence"] or self.licence
        fault = self._fault(caption, reference, licence)
        if fault is not None:
            return [self._drop(name, *fault)]
        try:
            images = self._images(value["image"])
        except BadImage as error:
            return [self._drop(name, error.reason, str(error))]
        group = self._group(value["group"] or value["image"] or name)
        return [
            Sample(
                id=name,
                task="caption",
                split="test" if _share(group, self.seed) < self.test_share else "train",
                images=images,
                question=self.question,
                answer=caption,
                context=reference,
                subfield=value["subfield"] or None,
                organ=value["organ"] or None,
                origin=Origin(
                    source=self.dataset,
                    source_id=f"{self.table}, row {number + 1}",
                    licence=licence,
                    group=group,
                ),
                history=(Event(step="ingest.pairs", version=self.version),),
            )
        ]

    def _drop(self, name: str, reason: str, detail: str) -> Drop:
        return Drop(sample_id=name, step="ingest.pairs", reason=reason, detail=detail[:500])

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
        return (read_image(((self.root or self.table.parent) / name).resolve()),)

    def _group(self, group: str) -> str:
        match = re.search(self.group_pattern, group) if self.group_pattern else None
        return "/".join(match.groups("") or (match[0],)) if match else group


def clean(text: str) -> str:
    """Without markup, control characters and doubled spaces; entities become the signs that they stand for (NFC).

    Only what looks like a tag is taken for one, so that "p<0.05" and "<5 mitoses" stay.
    """
    text = html.unescape(_TAG.sub(" ", html.unescape(text)))
    kept = "".join(_KEPT.get(unicodedata.category(sign), sign) for sign in text)
    return " ".join(unicodedata.normalize("NFC", kept).replace("\ufffd", " ").split())


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _share(group: str, seed: int) -> float:
    """A number in [0, 1) by which a group's side is decided; rows added later move no group."""
    return int(hashlib.sha256(f"{seed} {group}".encode()).hexdigest()[:12], 16) / 16**12


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(byte at which it begins, line)."""
    start = file.tell()
    while line := file.readline():
        yield start, line
        start = file.tell()


def _rows(file: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(byte at which it begins, row) of a CSV; a quoted value may hold line breaks."""
    ends = [file.tell()]

    def text() -> Iterator[str]:
        for start, line in _lines(file):
            ends.append(start + len(line))
            yield line.decode("utf-8-sig" if start == 0 else "utf-8", "replace")

    start = ends[0]
    # A value may be long (a page of text in a caption), and the default limit would end the whole table there.
    csv.field_size_limit(64 * 2**20)
    for row in csv.reader(text(), delimiter=delimiter):
        yield start, row
        start = ends[-1]


PAIRS = Source("pairs", PairsConfig, "a table of captions with pictures: JSON lines, CSV or TSV")
