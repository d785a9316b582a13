"""Books on the disk: PDF files, and folders of page images."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pathloom.images import SUFFIXES
from pathloom.schema import Record
from pathloom.stage import MANIFEST_FILE, UserError

MAX_NAME_BYTES = 240
"""Linux takes 255, and `.jsonl` or a page's number is added. Our own choice."""


class BookFile(Record):
    """One book. `name` is its path below the folder that was given, without suffix; it is the group of its Samples.

    `path` is a PDF, or the folder whose images, in natural order (`2.png` before `10.png`), are pages, or one image.
    """

    name: str
    path: Path
    kind: Literal["pdf", "images"]

    def paths(self) -> list[Path]:
        """All files that are read."""
        return [self.path] if self.kind == "pdf" else self.page_images()

    def page_images(self) -> list[Path]:
        """The pages of a book of images."""
        return _images(self.path) if self.path.is_dir() else [self.path]


def find_books(path: Path) -> list[BookFile]:
    """The books at `path`, a PDF, an image or a folder with both at any depth. Raises UserError for none."""
    if path.is_file():
        _check_name(path.stem, path.parent)
        if path.suffix.lower() == ".pdf":
            return [BookFile(name=path.stem, path=path, kind="pdf")]
        if path.suffix.lower() in SUFFIXES:
            return [BookFile(name=path.stem, path=path, kind="images")]
        raise UserError(f"{path}: neither a PDF nor a page image ({', '.join(SUFFIXES)})")
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    try:
        books = list(_books_in(path, path))
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    if not books:
        raise UserError(f"{path}: holds neither a PDF nor a page image ({', '.join(SUFFIXES)})")
    names = [book.name for book in books]
    for name in names:
        _check_name(name, path)
        if names.count(name) > 1:
            raise UserError(f"{path}: two books are called {name!r}; rename one of them")
    return books


def _check_name(name: str, path: Path) -> None:
    """Files that are made bear the book's name and go into JSON."""
    try:
        size = max(len(part.encode()) for part in name.split("/"))
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: the file name {name!r} is no UTF-8; rename it") from error
    if size > MAX_NAME_BYTES:
        raise UserError(f"{path}: a file name of {size} bytes, at most {MAX_NAME_BYTES}; rename it: {name}")


def _books_in(folder: Path, root: Path, above: frozenset[Path] = frozenset()) -> Iterator[BookFile]:
    """`above` are the folders that hold this one: a link to one of them is not followed."""
    above |= {folder.resolve()}
    for pdf in sorted(one for one in folder.iterdir() if one.suffix.lower() == ".pdf" and _is_file(one)):
        yield BookFile(name=pdf.relative_to(root).with_suffix("").as_posix(), path=pdf, kind="pdf")
    if _images(folder):
        name = folder.name if folder == root else folder.relative_to(root).as_posix()
        yield BookFile(name=name, path=folder, kind="images")
    for inner in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        made_by_us = (inner / MANIFEST_FILE).is_file() or inner.name.endswith(".partial")
        if inner.resolve() not in above and not made_by_us:
            yield from _books_in(inner, root, above)


def _is_file(path: Path) -> bool:
    """Not what a system keeps beside files, as `._book.pdf`."""
    return not path.name.startswith(".") and path.is_file()


def _images(folder: Path) -> list[Path]:
    found = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and _is_file(one)]
    return sorted(
        found, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path.name)]
    )
