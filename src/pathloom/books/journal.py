"""An append-only file of records, one JSON object a line: what a killed run finds again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from pathloom.schema import Record

T = TypeVar("T", bound=Record)


class Journal(Generic[T]):
    """Records of one type in `path`. A last line that a kill cut off is removed when the journal is made.

    The file is open only while it is read or written: there may be thousands of books.
    """

    def __init__(self, path: Path, record: type[T]) -> None:
        self.path = path
        self._record = record
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.truncate(_whole(path, file.tell()))

    def append(self, record: T) -> None:
        """The record is with the operating system when this returns, so it outlives this process."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(record.model_dump_json() + "\n")

    def __iter__(self) -> Iterator[T]:
        """All records in the order they were written, one in memory at a time."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield self._record.model_validate_json(line)


def _whole(path: Path, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
