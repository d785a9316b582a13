"""What came of each file, as a table: `books.csv` and lines for the terminal."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pathloom.books.extract import Extracted
from pathloom.books.references import refer

TABLE_FILE = "books.csv"
COLUMNS = (
    "pages",
    "read",
    "ocr",
    "blank",
    "failed",
    "figures",
    "captions",
    "bound",
    "panels",
    "references",
    "failures",
)
"""`captions`: of figures, bound or not. `references`: sentences that name a figure that was found."""


def row_of(book: Extracted) -> dict[str, int | str]:
    """The row of one file, without its name."""
    statuses = Counter("failed" if page.failed else page.status for page in book.pages.values())
    reasons = Counter(page.status for page in book.pages.values() if page.failed)
    reasons.update(cut.status for cut in book.figures.values() if cut.status != "cut")
    if book.failure is not None:
        reasons[book.failure[0]] += 1
    figures = [*book.book.figures, *(figure for cut in book.figures.values() for figure in cut.uncut)]
    bound = sum(bool(figure.caption) for figure in figures)
    meant = {id(reference) for figure in figures for reference in refer(figure, book.references)}
    return {
        "pages": book.survey.num_pages,
        **{status: statuses[status] for status in ("read", "ocr", "blank", "failed")},
        "figures": len(figures),
        "captions": bound + len(book.lonely),
        "bound": bound,
        "panels": sum(len(figure.panels) for figure in figures if len(figure.panels) > 1),
        "references": len(meant),
        "failures": " ".join(f"{reason}:{count}" for reason, count in sorted(reasons.items())),
    }


def totals(books: Iterable[Extracted]) -> dict[str, int]:
    """Sums of the table's numbers over all files, for the manifest."""
    rows = [row_of(book) for book in books]
    return {name: sum(int(row[name]) for row in rows) for name in COLUMNS if name != "failures"}


def write_table(books: Iterable[Extracted], out: Path) -> None:
    with (out / TABLE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("file", *COLUMNS))
        writer.writeheader()
        writer.writerows({"file": book.file.name, **row_of(book)} for book in books)


def table_lines(path: Path, limit: int = 40) -> list[str]:
    """The written table for people: columns aligned, at most `limit` files."""
    with path.open(encoding="utf-8", newline="") as file:
        rows: Sequence[Sequence[str]] = list(csv.reader(file))
    shown = rows[: limit + 1]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    lines = [
        "  ".join(
            cell.ljust(size) if not column or column == len(widths) - 1 else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    return [*lines, *([f"... {len(rows) - len(shown)} more in {path}"] if len(rows) > len(shown) else [])]
