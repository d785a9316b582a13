"""Books through the whole extraction, for tests that measure it."""

from collections.abc import Sequence
from pathlib import Path

from pathloom.books.extract import Extracted, Extraction
from pathloom.books.files import BookFile, find_books
from pathloom.books.measure import Measured, measure, mistakes
from pathloom.books.reader import ReadSettings
from pathloom.figures import Book


def extract(files: Sequence[BookFile], out: Path, **settings: object) -> list[Extracted]:
    return Extraction(files, out, ReadSettings.model_validate(settings), "test").by_rule()


def extract_file(path: Path, out: Path, **settings: object) -> Book:
    (found,) = extract(find_books(path), out, **settings)
    return found.book


def tell(what: str, found: Sequence[Book], truth: Sequence[Book], show: int = 40) -> Measured:
    """Measure, and print the table and the mistakes: what `pytest -s` is run for."""
    measured = measure(found, truth)
    print(f"\n{what}: {measured.num_books} books, {measured.num_pages} pages, {measured.num_panels} panels")
    print("\n".join(measured.table()))
    wrong = mistakes(found, truth)
    print("\n".join(wrong[:show]) + (f"\n... {len(wrong) - show} more" if len(wrong) > show else ""))
    return measured
