"""Figures of public documents as listed by eye: the truth that no rule was tuned on (see `about` in by_eye.json)."""

import json
from dataclasses import dataclass
from pathlib import Path

from pathloom.figures import Book


@dataclass(frozen=True)
class Listed:
    """One document. A text of `book` that ends in an ellipsis is a beginning, as `books.measure` reads it.

    file            below PATHLOOM_DATA/documents: a PDF, a page image, or a folder of page images
    lists           what is complete of "figures" (with captions), "panels" and "references"; measure nothing else
    caption_chars   by figure number, characters of the whole caption, lines joined, to within 3 %
    notes           odd cases, and for published results what is wrong with them
    """

    file: str
    book: Book
    lists: frozenset[str]
    caption_chars: dict[str, int]
    notes: tuple[str, ...]


def listed() -> dict[str, Listed]:
    """All documents by the name of their book, which is the file's or the folder's, without suffix."""
    entries = json.loads(Path(__file__).with_name("by_eye.json").read_text("utf-8"))["documents"]
    documents = [
        Listed(
            file=entry["file"],
            book=Book.model_validate(entry["book"]),
            lists=frozenset(entry["lists"]),
            caption_chars=entry["caption_chars"],
            notes=tuple(entry["notes"]),
        )
        for entry in entries
    ]
    return {document.book.name: document for document in documents}
