"""Source `pairs`: captions with or without pictures, one row a pair, in a table of any usual format.

    {"id": "f1", "image": "figures/f1.jpg", "caption": "Liver, H&E ...", "group": "book 3", "licence": "CC BY 4.0"}

Formats: JSON lines, CSV, TSV, one JSON value (a list of objects, or objects under keys), Parquet (pictures as paths,
bytes, or Hugging Face's {bytes, path}), WebDataset tars. All texts are cleaned of markup and control characters; what
no model should learn from is a Drop with its reason. Rows are counted from 1, without header and empty lines.

- Ids: a row without one is called after its picture and its number (`figures/f1.jpg#row-7`), so that two captions of
  one figure differ. Of rows with the same id the first is read, the others are Drops `id_seen_before`.
- Quotes: in .csv a quoted value may hold delimiters, doubled quotes and up to 200 line breaks. In .tsv and .txt a quote
  is a sign like any other: a line is a row, a tab ends a value, and `"Owl eye` is a caption.
- A row that cannot be read is a Drop `not_a_row`. Where an open quote makes it unknown which lines are rows, the table
  is refused: otherwise it would swallow the rows after it. A tar that is cut off gives its pairs before the cut, and a
  Drop `cut_off`.
- Pictures lie below `root`, by default the table's folder, links followed; others are Drops `outside_root`. Pictures
  that stand in the table are copied into the Samples.
- Corpora (pathloom.ingest.corpora): `corpus: quilt_1m` with `root` says all of this for a published collection.
"""

import html
import os
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from tqdm import tqdm

from pathloom.images import SUFFIXES, BadImage, decode, read_image
from pathloom.ingest.corpora import Corpus, find_corpus
from pathloom.ingest.pairs_tables import BadRow, Picture, Table, open_table
from pathloom.ingest.pictures import size_and_time
from pathloom.ingest.source import IngestConfig, Source, share_of
from pathloom.schema import Drop, Event, Image, Origin, Sample
from pathloom.stage import UserError

COLUMNS = ("id", "image", "caption", "reference", "group", "panel", "licence", "subfield", "organ")
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

# A place in `image_name`: a column, and of a list in it one place. Attributes are left out of reach.
_PLACE = re.compile(r"\w+(\[\d+\])*")
_FULL_SHARE = 0.99
"""Of a corpus's rows and pictures; with less it is here in part. Our own number: published counts are often round."""


class PairsConfig(IngestConfig):
    """Entry of a recipe: `{name: pairs, kind: ingest, source: pairs, table: FILE}`, or `corpus` and `root`."""

    version: ClassVar[int] = 2

    source: Literal["pairs"]
    corpus: str | None = Field(
        default=None, description="a published collection in `root`; see `pathloom list corpora`"
    )
    part: bool = Field(default=False, description="the corpus is here in part: its numbers are not asked for")
    table: Path = Field(
        description="*.jsonl, *.csv, *.tsv without quoting, *.json, *.parquet, *.tar; or a folder of the last two"
    )
    dataset: str = Field(default="pairs", description="name under which the data are reported")
    root: Path | None = Field(
        default=None, description="folder of all pictures, where image paths start; default: the table's"
    )
    image_folder: str = Field(default="", description="stands before every image path, below `root`")
    image_name: str | None = Field(
        default=None, description="the image path, made of columns: {uuid}.jpg or {slide}_{position[0]}.png"
    )
    any_suffix: bool = Field(default=False, description="image paths lack .png, .jpg and so on")
    columns: dict[str, str] = Field(default={}, description=f"{', '.join(COLUMNS)} -> the table's own name")
    images: Literal["required", "optional", "ignored"] = "required"
    bags: Literal["all", "single"] = Field(
        default="all",
        description="single: only rows whose group stands once in the table, as figures of one picture",
    )
    question: str = Field(default="Describe this image.", description="what the caption answers")
    licence: str = Field(default="unstated", description="of rows that state none")
    licences: tuple[str, ...] = Field(
        default=(), description="regular expressions of licences that may be used; none: all"
    )
    group_pattern: str | None = Field(default=None, description="regular expression on the group column")
    test_share: float = Field(default=0.0, ge=0, le=1, description="of groups, by their hash; 1: all")
    min_chars: int = Field(default=15, ge=1, description="a shorter caption says nothing to reason about")
    max_chars: int = Field(
        default=8000, ge=1, description="a longer one is a page that was taken for a caption"
    )
    language: Literal["en", "any"] = Field(
        default="en", description="en drops captions with more than 1 % of Han signs among their letters"
    )

    @model_validator(mode="before")
    @classmethod
    def _filled_from_the_corpus(cls, entry: Any) -> Any:
        """What the entry says itself wins, column by column."""
        if not isinstance(entry, dict) or entry.get("corpus") is None:
            return entry
        if entry.get("root") is None:
            raise ValueError(f"corpus {entry['corpus']}: give `root`, the folder that it lies in")
        filled = find_corpus(str(entry["corpus"])).entry(Path(entry["root"]))
        columns = {**filled["columns"], **(entry.get("columns") or {})}
        return {**filled, **entry, "columns": columns}

    @field_validator("image_name")
    @classmethod
    def _names_columns_only(cls, pattern: str | None) -> str | None:
        for _, place, layout, _ in string.Formatter().parse(pattern or ""):
            if place is not None and (_PLACE.fullmatch(place) is None or "{" in (layout or "")):
                raise ValueError(f"{{{place}}} is no column; write {{column}} or {{column[0]}}")
        return pattern

    def check(self) -> None:
        if self.corpus is not None:
            self._check_presence(find_corpus(self.corpus))
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
        self._check_rows()

    def _check_presence(self, corpus: Corpus) -> None:
        assert self.root is not None, "_filled_from_the_corpus asked for it"
        folder = self.root / self.image_folder
        for path in (self.table, *([folder] if self.images != "ignored" else [])):
            if not path.exists():
                raise UserError(corpus.missing(self.name, self.root, path))
        for column, why in corpus.unknown.items():
            if column not in self.columns and not (column == "image" and self.image_name):
                raise UserError(f"{self.name}.columns.{column}: {why}; name the column of {self.table}")

    def _columns_in_image_name(self) -> list[str]:
        parts = string.Formatter().parse(self.image_name or "")
        return [place.partition("[")[0] for _, place, _, _ in parts if place]

    def _check_rows(self) -> None:
        """That there are rows, with the columns that the entry names, and of a corpus as many as it has."""
        table = self._table
        if table.listed_by_check or self.corpus is not None:
            known = table.names if self._units else {}
            found = bool(self._units)
        else:
            found = next(iter(table.rows()), None) is not None
            known = table.names
        if not found:
            raise UserError(f"{self.name}.table: {self.table} holds no row")
        needed = {self._column(name): name for name in self.columns}
        # a JSON row may leave its caption out, and is a Drop
        if self.table.suffix not in (".jsonl", ".json"):
            needed[self._column("caption")] = "caption"
        if self.image_name is not None:
            needed.pop(self._column("image"), None)
            needed |= dict.fromkeys(self._columns_in_image_name(), "image")
        for own, name in needed.items():
            if own not in known:
                raise UserError(
                    f"{self.table}: no column {own!r}; it has {', '.join(known)}; name it with "
                    f"`columns: {{{name}: ...}}`" + (" or image_name" if name == "image" else "")
                )
        if self.corpus is not None and not self.part:
            self._check_numbers(find_corpus(self.corpus))

    def _check_numbers(self, corpus: Corpus) -> None:
        cure = f"fetch the rest, or take what is there with --set {self.name}.part=true"
        rows = len(self._units)
        if corpus.rows is not None and rows < _FULL_SHARE * corpus.rows:
            raise UserError(f"{self.table}: {rows:,} rows of the {corpus.rows:,} of {corpus.title}; {cure}")
        if corpus.rows is not None and rows * _FULL_SHARE > corpus.rows:
            raise UserError(
                f"{self.table}: {rows:,} rows, and {corpus.title} has {corpus.rows:,}: it is another version; check "
                f"its columns, then set {self.name}.part=true"
            )
        if corpus.pictures is None or self.images == "ignored" or self.root is None:
            return
        folder = self.root / self.image_folder
        files = sum(name.lower().endswith(SUFFIXES) for *_, names in os.walk(folder) for name in names)
        if files < _FULL_SHARE * corpus.pictures:
            raise UserError(
                f"{folder}: {files:,} pictures of the {corpus.pictures:,} of {corpus.title}; {cure}"
            )

    def fingerprint(self) -> str:
        """Of the table; a picture that is replaced under its old name is not noticed."""
        try:
            files = self._table.files
        except UserError:  # check() says so
            files = (self.table,)
        return str([size_and_time(path) for path in files] if len(files) > 1 else size_and_time(files[0]))

    def plan(self) -> Sequence[Any]:
        """(place in the table, number of the row, why it is not read or None).

        Rows are read at their places, not held. Raises UserError for a table that cannot be split into rows.
        """
        return self._units

    @cached_property
    def _units(self) -> list[tuple[Any, int, tuple[str, str] | None]]:
        units: list[tuple[Any, int, tuple[str, str] | None]] = []
        rows_of_ids: dict[str, int] = {}
        groups: list[str] = []
        # it shows for long tables only
        bar = tqdm(self._table.rows(), desc=f"{self.name}: rows", unit="row", leave=False, delay=2)
        for number, (place, row) in enumerate(bar, 1):
            first = number
            if not isinstance(row, BadRow):  # read() says why it is no row
                first = rows_of_ids.setdefault(self._id(row, number), number)
            cure = f"its id stood first in row {first}; give each row its own, or none"
            units.append((place, number, None if first == number else ("id_seen_before", cure)))
            if self.bags == "single":
                groups.append("" if isinstance(row, BadRow) else clean(_text(row.get(self._column("group")))))
        if self.bags == "single":
            sizes = Counter(filter(None, groups))
            for index, group in enumerate(groups):
                if sizes[group] > 1 and units[index][2] is None:
                    why = f"its figure, {group}, has {sizes[group]} pictures, and bags is single"
                    units[index] = (*units[index][:2], ("bag_of_several", why))
        return units

    @cached_property
    def _table(self) -> Table:
        in_name = self._columns_in_image_name()
        keys = [*(self._column(name) for name in ("id", "image", "group")), *in_name]
        try:
            return open_table(self.table, keys, [*map(self._column, COLUMNS), *in_name])
        except UserError as error:
            raise UserError(f"{self.name}.table: {error}") from error

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _id(self, row: Mapping[str, Any], number: int) -> str:
        if own := clean(_text(row.get(self._column("id")))):
            return own
        image = clean(self._image_name(row))
        return f"{image}#row-{number}" if image else f"row-{number}"

    def _image_name(self, row: Mapping[str, Any]) -> str:
        """The path of the row's picture as the table has it, "" where it names none."""
        if self.image_name is None:
            image = row.get(self._column("image"))
            return image.name if isinstance(image, Picture) else _text(image)
        try:
            return self.image_name.format_map(dict(row))
        except (LookupError, TypeError, ValueError):
            return ""

    def read(self, unit: Any) -> list[Sample | Drop]:
        place, number, fault = unit
        where = self._table.name_of(place, number)
        try:
            row = self._table.row(place)
            name = f"{self.dataset}/{self._id(row, number)}"
            value = {column: _text(row.get(self._column(column))) for column in COLUMNS if column != "image"}
        except BadRow as error:
            return [self._drop(f"{self.dataset}/row-{number}", error.reason, f"{where}: {error}")]
        if fault is not None:
            return [self._drop(f"{name}#row-{number}", fault[0], f"{where}: {fault[1]}")]
        # A file is found under its name as it stands; all that goes into the Sample is cleaned.
        image, value = self._image_name(row), {column: clean(text) for column, text in value.items()}
        licence = value["licence"] or self.licence
        fault = self._fault(value["caption"], value["reference"], licence)
        if fault is not None:
            return [self._drop(name, *fault)]
        try:
            images = self._images(row.get(self._column("image")), image, where)
        except BadImage as error:
            return [self._drop(name, error.reason, str(error))]
        group = self._group(value["group"] or clean(image) or name)
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
                origin=Origin(
                    source=self.dataset,
                    source_id=where,
                    licence=licence,
                    group=group,
                    panel=value["panel"] or None,
                ),
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

    def _images(self, held: Any, name: str, where: str) -> tuple[Image, ...]:
        """The row's picture: `held` in the table, or read in place under its `name`. Raises BadImage."""
        if self.images == "ignored":
            return ()
        if isinstance(held, Picture) and held.data is not None:
            pixels = decode(held.data, where)
            label = clean(held.name) or where
            return (Image(path=label, data=held.data, width_px=pixels.width, height_px=pixels.height),)
        if not name and self.images == "optional":
            return ()
        if not name:
            raise BadImage("no_image", "the row names no picture; `images: optional` takes it without one")
        try:
            root = (self.root or self._table.files[0].parent).resolve()
            path = self._with_suffix((root / self.image_folder / name).resolve())
            str(path).encode()  # Parquet holds no half characters
        # a zero byte or a lone surrogate, a circle of links
        except (ValueError, OSError, RuntimeError) as error:
            raise BadImage("no_file_name", f"{name[:200]!r} names no file: {error}") from error
        if not path.is_relative_to(root):
            cure = f"name the folder that holds all pictures: --set {self.name}.root=DIR"
            raise BadImage("outside_root", f"{name[:200]} lies outside {root}; {cure}")
        return (read_image(path),)

    def _with_suffix(self, path: Path) -> Path:
        """The one file of this name with the suffix of a picture. Raises BadImage where several have it."""
        if not self.any_suffix:
            return path
        names = [path.name + one for suffix in SUFFIXES for one in (suffix, suffix.upper())]
        found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
        if len(found) > 1:
            raise BadImage(
                "two_images", f"{path}: {' and '.join(one.name for one in found)} are there; keep one"
            )
        return found[0].resolve() if found else path

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


PAIRS = Source(
    "pairs", PairsConfig, "captions with pictures: JSON (lines), CSV, TSV, Parquet, WebDataset, corpora"
)
