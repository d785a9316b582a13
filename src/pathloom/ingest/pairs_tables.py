"""What source `pairs` reads rows from, and how a path becomes one: `open_table`.

A table is listed once, by places, and read row by row, each at its place: no format is held in memory whole.
"""

import json
import mmap
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathloom.stage import UserError
from pathloom.webdataset import TarIndex, index_tar, read_span, refuse_packed

TEXT_SUFFIXES = (".jsonl", ".csv", ".tsv", ".txt")
SUFFIXES = (*TEXT_SUFFIXES, ".json", ".parquet", ".tar")

MAX_GROUP_BYTES = 2 * 2**30
"""Our own number: a row group of Parquet is read whole, once in each worker, and must fit beside the others."""


_PACKED_TAR = re.compile(r"\.(tgz|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)


class BadRow(Exception):  # it is a value as often as it is raised
    """A row that cannot be read; `reason` is a short constant word for counting, str() says it in full."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """A picture that stands in the table itself. `data` is None while rows are only listed; `name` may be empty."""

    name: str
    data: bytes | None


class Table(ABC):
    """Rows in one or several files. `names` fills with the columns that were seen."""

    listed_by_check = True
    """Whether listing all rows is quick enough to be done before anything runs."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.names: dict[str, None] = {}

    @abstractmethod
    def rows(self) -> Iterator[tuple[Any, Mapping[str, Any] | BadRow]]:
        """(place, row) of all rows in order; a place is plain and picklable. Captions and pictures may be left out.

        Raises UserError for a table that cannot be split into rows.
        """

    @abstractmethod
    def row(self, place: Any) -> Mapping[str, Any]:
        """The whole row at a place. Raises BadRow, and UserError where the files have changed."""

    def name_of(self, place: Any, number: int) -> str:
        """Where the row stands, for messages; `number` counts all rows from 1."""
        return f"{self.files[0]}, row {number}"


def open_table(path: Path, keys: Iterable[str], read: Iterable[str]) -> Table:
    """The table at `path`: a file, a folder of .parquet or of .tar, or a pattern with * of such files.

    `keys` are the columns that ids and groups come from, `read` all columns that are used; Parquet reads no others.
    Raises UserError.
    """
    files = _files(path)
    suffix = files[0].suffix
    if suffix == ".tar":
        return TarTable(files)
    if suffix == ".parquet":
        return ParquetTable(files, keys, read)
    if len(files) > 1:
        raise UserError(f"{path}: names {len(files)} files; several are read of .parquet and .tar only")
    if suffix == ".json":
        return JsonTable(files[0])
    from pathloom.ingest.pairs_text import TextTable  # it stands on this module

    return TextTable(files[0])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.suffix in (".parquet", ".tar") and one.is_file())
    elif not path.exists() and any(sign in path.name for sign in "*?["):
        found = sorted(path.parent.glob(path.name)) if path.parent.is_dir() else []
    elif path.is_file():
        found = [path]
    else:
        other = "" if path.suffix in SUFFIXES else ", nor a folder of .parquet or .tar files"
        raise UserError(f"{path} is not a file{other}")
    suffixes = sorted({one.suffix for one in found})
    if not found and path.is_dir() and any(_PACKED_TAR.search(one.name) for one in path.iterdir()):
        raise UserError(
            f"{path}: its tars are packed; unpack each to a plain .tar, and leave those as they are"
        )
    if not found:
        raise UserError(f"{path}: no .parquet or .tar file is there")
    if len(suffixes) > 1:
        raise UserError(
            f"{path}: has files of several formats ({', '.join(suffixes)}); name one with *{suffixes[0]}"
        )
    if suffixes[0] not in SUFFIXES:
        raise UserError(f"{path} is none of {', '.join(SUFFIXES)}; convert it")
    return found


_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# First an object without objects in it, which most rows are: found as a whole it takes a tenth of the time.
_TOKEN = re.compile(rb'\{[^{}"]*+(?:' + _STRING + rb'[^{}"]*+)*+\}|' + _STRING + rb"|[\[\]{},:]", re.DOTALL)


class JsonTable(Table):
    """One JSON value: a list of objects, or an object of objects, whose keys stand in the column `key`.

    Objects under integer keys are read in the order of their numbers. A place is the bytes (begin, end) and the key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.path = path

    def rows(self) -> Iterator[tuple[Any, Mapping[str, Any] | BadRow]]:
        any_object = False
        with self.path.open("rb") as file:
            places = self._places(file)
            for place in places:
                row = _json_row(file, place)
                any_object |= not isinstance(row, BadRow)
                if not isinstance(row, BadRow):
                    self.names.update(dict.fromkeys(row))
                yield place, row
        if not any_object:
            raise UserError(f"{self.path}: holds neither a list of objects nor an object of objects")

    def row(self, place: Any) -> Mapping[str, Any]:
        with self.path.open("rb") as file:
            row = _json_row(file, place)
        if isinstance(row, BadRow):
            raise row
        return row

    def _places(self, file: Any) -> Iterable[tuple[int, int, str | None]]:
        if self.path.stat().st_size == 0:
            return []
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = list(_elements(data, self.path))
        keys = [key for _, _, key in found]
        if all(key is not None and re.fullmatch(r"-?\d{1,18}", key) for key in keys):
            found.sort(key=lambda place: int(place[2] or 0))
        return found


def _elements(data: mmap.mmap, path: Path) -> Iterator[tuple[int, int, str | None]]:
    """(begin, end, key or None) of the members of the outermost list or object, by its brackets alone."""
    depth, begin, number = 0, 0, 0
    key: str | None = None
    closed = False
    for token in _TOKEN.finditer(data):
        sign = token[0]
        if closed:
            raise UserError(f"{path}: holds several JSON values; if each line is one, name it .jsonl")
        if depth == 1 and sign == b":":
            key, begin = json.loads(data[begin : token.start()].decode("utf-8", "replace")), token.end()
        elif depth == 1 and sign in (b",", b"]", b"}"):
            if data[begin : token.start()].strip():
                number += 1
                yield begin, token.start(), key
            begin = token.end()
        if depth == 0 and len(sign) > 1:  # a string, or an object that holds no others: nothing to list
            closed = True
        elif sign in (b"[", b"{"):
            begin = token.end() if depth == 0 else begin
            depth += 1
        elif sign in (b"]", b"}"):
            depth -= 1
            closed = depth == 0
    if depth:
        raise UserError(f"{path}: ends within row {number + 1}: it is cut off; fetch it again")


def _json_row(file: Any, place: tuple[int, int, str | None]) -> Mapping[str, Any] | BadRow:
    begin, end, key = place
    file.seek(begin)
    try:
        row = json.loads(file.read(end - begin).decode("utf-8", "replace"))
        if not isinstance(row, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        return BadRow("not_a_row", str(error))
    return row if key is None else {"key": key, **row}


class TarTable(Table):
    """WebDataset shards. A place is (tar, pair in it), with the faults of a tar behind its pairs.

    Columns are the fields of the pair's .json, `caption` (the .txt), `image`, `key`, and `id`, if the .json has none:
    TAR/KEY, since keys need not differ between tars.
    """

    listed_by_check = False

    def __init__(self, files: Sequence[Path]) -> None:
        super().__init__(files)
        for path in files:
            refuse_packed(path)
        self._held: tuple[int, TarIndex] | None = None

    def rows(self) -> Iterator[tuple[Any, Mapping[str, Any] | BadRow]]:
        for tar, path in enumerate(self.files):
            index = self._index(tar)
            with path.open("rb") as file:
                for pair in range(len(index) + len(index.faults)):
                    try:
                        yield (tar, pair), self._row(index, pair, file, whole=False)
                    except BadRow as fault:
                        yield (tar, pair), fault

    def row(self, place: Any) -> Mapping[str, Any]:
        tar, pair = place
        with self.files[tar].open("rb") as file:
            return self._row(self._index(tar), pair, file, whole=True)

    def name_of(self, place: Any, number: int) -> str:
        tar, pair = place
        index = self._index(tar)
        key = index.keys[pair] if pair < len(index) else index.faults[pair - len(index)][0]
        # tarfile keeps bytes that are no UTF-8 as half characters, which Parquet does not hold
        return f"{self.files[tar]}, key {key}".encode("utf-8", "replace").decode()

    def _index(self, tar: int) -> TarIndex:
        if self._held is None or self._held[0] != tar:
            self._held = tar, index_tar(self.files[tar])
        return self._held[1]

    def _row(self, index: TarIndex, pair: int, file: Any, *, whole: bool) -> Mapping[str, Any]:
        if pair >= len(index) + len(index.faults):
            raise UserError(
                f"{index.path}: holds fewer pairs than before; do not change shards while they are read"
            )
        if pair >= len(index):
            key, reason = index.faults[pair - len(index)]
            raise BadRow(reason, f"{key}: {_FAULTS.get(reason, reason)}")
        facts = {}
        if index.facts[pair, 1]:
            try:
                facts = json.loads(read_span(file, index.facts[pair]).decode("utf-8", "replace"))
                if not isinstance(facts, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError) as error:
                raise BadRow("not_a_row", f"its .json: {error}") from error
        self.names.update(dict.fromkeys((*facts, "id", "key", "image", "caption")))
        key = index.keys[pair]
        name = f"{index.path.stem}/{key}"
        picture = Picture(
            f"{name}.{index.suffixes[pair]}", read_span(file, index.images[pair]) if whole else None
        )
        caption = read_span(file, index.captions[pair]).decode("utf-8-sig", "replace") if whole else ""
        return {"id": name, **facts, "key": key, "image": picture, "caption": caption}


_FAULTS = {
    "cut_off": "the tar ends there; the pairs before it were read, fetch it again for the others",
    "damaged": "what follows is no tar; the pairs before it were read, fetch it again for the others",
    "not_a_tar": "is no tar file",
    "no_image": "has no picture",
    "no_caption": "has no .txt",
    "two_images": "has several pictures",
    "two_captions": "has several .txt",
    "empty": "its picture or caption has no bytes",
}


class ParquetTable(Table):
    """Parquet files of one schema; a place is (file, row group, row). Pictures are paths, bytes, or {bytes, path}."""

    def __init__(self, files: Sequence[Path], keys: Iterable[str], read: Iterable[str]) -> None:
        super().__init__(files)
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.keys: list[str] = []
        self.read: list[str] = []
        first = None
        for path in files:
            try:
                opened = pq.ParquetFile(path)
            except (pa.ArrowInvalid, OSError) as error:
                raise UserError(
                    f"{path}: not readable as Parquet ({error}); is it cut off? Fetch it again"
                ) from error
            with opened:
                schema = opened.schema_arrow
                if first is not None and set(schema.names) != set(first.names):
                    raise UserError(
                        f"{path}: has other columns than {files[0]}; read them in stages of their own"
                    )
                first = first or schema
                self._refuse_large_groups(path, opened.metadata)
        assert first is not None, "open_table found a file"
        self.names.update(dict.fromkeys(first.names))
        self.read = [name for name in dict.fromkeys(read) if name in self.names]
        for name in dict.fromkeys(keys):
            if name in self.names and (column := _listed_column(name, first.field(name).type)):
                self.keys.append(column)
        self._held: tuple[int, int, Any] | None = None

    def rows(self) -> Iterator[tuple[Any, Mapping[str, Any] | BadRow]]:
        for number in range(len(self.files)):
            with self._open(number) as file:
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group, columns=self.keys)
                    for index in range(file.metadata.row_group(group).num_rows):
                        found = {name: _value(table[name][index].as_py()) for name in table.column_names}
                        yield (number, group, index), found

    def row(self, place: Any) -> Mapping[str, Any]:
        number, group, index = place
        if self._held is None or self._held[:2] != (number, group):
            self._held = None  # the old group goes before the new one comes
            with self._open(number) as file:
                self._held = number, group, file.read_row_group(group, columns=self.read)
        table = self._held[2]
        return {name: _value(table[name][index].as_py()) for name in table.column_names}

    def name_of(self, place: Any, number: int) -> str:
        return f"{self.files[place[0]]}, row {number}"

    def _open(self, number: int) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.files[number])

    @staticmethod
    def _refuse_large_groups(path: Path, metadata: Any) -> None:
        for group in range(metadata.num_row_groups):
            size = metadata.row_group(group).total_byte_size
            if size > MAX_GROUP_BYTES:
                raise UserError(
                    f"{path}: row group {group} has {size / 2**30:.1f} GiB, and {MAX_GROUP_BYTES / 2**30:.0f} are read "
                    "at most; write the file with row_group_size=1000"
                )


def _listed_column(name: str, kind: Any) -> str | None:
    """The part of a column that is read while rows are listed: of pictures their path, if they have one."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return f"{name}.path" if kind.get_field_index("path") >= 0 else None
    return None if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else name


def _value(value: Any) -> Any:
    """Bytes, and Hugging Face's {bytes, path}, become a Picture; a path without bytes the path."""
    if isinstance(value, bytes):
        return Picture("", value)
    if isinstance(value, dict) and set(value) <= {"bytes", "path"}:
        path = str(value.get("path") or "")
        return Picture(path, value["bytes"]) if value.get("bytes") is not None else path
    return value
