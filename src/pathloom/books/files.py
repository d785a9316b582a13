"""Books on the disk: PDF files, and folders of page images."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pathloom.images import SUFFIXES
from pathloom.schema import Record
from pathloom.stage import UserError


class BookFile(Record):
    """One book. `name` is its path below the folder that was given, without suffix; it is the group of its Samples.

    `path` is a PDF, or the folder whose images, in natural order (`2.png` before `10.png`), are pages, or one image.
    """

    name: str
    path: Path
    kind: Literal["pdf", "images"]

    def page_images(self) -> list[Path]:
        """The pages of a book of images."""
        return _images(self.path) if self.path.is_dir() else [self.path]


def find_books(path: Path) -> list[BookFile]:
    """The books at `path`, a PDF, an image or a folder with both at any depth. Raises UserError for none."""
    if path.is_file():
        if path.suffix.lower() == ".pdf":
            return [BookFile(name=path.stem, path=path, kind="pdf")]
        if path.suffix.lower() in SUFFIXES:
            return [BookFile(name=path.stem, path=path, kind="images")]
        raise UserError(f"{path}: neither a PDF nor a page image ({', '.join(SUFFIXES)})")
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    books = list(_books_in(path, path))
    if not books:
        raise UserError(f"{path}: holds neither a PDF nor a page image ({', '.join(SUFFIXES)})")
    names = [book.name for book in books]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two books are called {name!r}; rename one of them")
    return books


def _books_in(folder: Path, root: Path) -> Iterator[BookFile]:
    for pdf in sorted(one for one in folder.iterdir() if one.suffix.lower() == ".pdf" and one.is_file()):
        yield BookFile(name=pdf.relative_to(root).with_suffix("").as_posix(), path=pdf, kind="pdf")
    if _images(folder):
        name = folder.name if folder == root else folder.relative_to(root).as_posix()
        yield BookFile(name=name, path=folder, kind="images")
    for inner in sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")):
        yield from _books_in(inner, root)


def _images(folder: Path) -> list[Path]:
    found = [one for one in folder.iterdir() if one.suffix.lower() in SUFFIXES and one.is_file()]
    return sorted(
        found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)]
    )
