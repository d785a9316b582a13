"""Shelves of bad books, how tests read them, and what must hold of what is left."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from tests.books import odd_pdfs
from tests.books.extracted import extract
from tests.books.odd_pdfs import one_page, stream, text_at

from pathloom.books.extract import Extracted
from pathloom.books.files import find_books
from pathloom.books.journal import Journal
from pathloom.books.reader import PageRead

CAPTION = "Figure 1. Nests of cells with round nuclei and pale cytoplasm."
PROSE = "The glands are lined by cells with round nuclei and pale cytoplasm."


def noise(side_px: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(40, 200, side_px * side_px, dtype=np.uint8)
    keys = b"/Type/XObject/Subtype/Image/ColorSpace/DeviceGray/BitsPerComponent 8/Width %d/Height %d"
    return stream(pixels.tobytes(), keys % (side_px, side_px))


def a_book(pages: int = 1, matrix: str = "1 0 0 1 0 0", keys: str = "") -> bytes:
    """Pages of a figure, its caption and prose, in the lower left 500 x 520 pt of the frame that `matrix` sets."""
    prose = "".join(text_at(72, 270 - 14 * row, PROSE) for row in range(15))
    content = "q 300 0 0 200 100 320 cm /X1 Do Q\n" + text_at(100, 300, CAPTION, size_pt=8) + prose
    return one_page(f"q {matrix} cm\n{content}Q\n", pictures=(noise(),), keys=keys, pages=pages)


def write_shelf(folder: Path) -> Path:
    """Every kind of bad PDF that the reader knows, among them `good` with a figure a page."""
    vast = one_page(text_at(7200, 7000, PROSE, size_pt=900), media_pt=(0, 0, 60_000, 60_000))
    scan = one_page("q 595 0 0 842 0 0 cm /X1 Do Q\n", pictures=(odd_pdfs.grey_picture(value=255),))
    picture = one_page(
        "q 300 0 0 300 100 300 cm /X1 Do Q\n" + text_at(72, 700, PROSE), pictures=(odd_pdfs.vast_picture(),)
    )
    files = {
        "encrypted": odd_pdfs.encrypted(),
        "truncated": odd_pdfs.truncated(),
        "pageless": odd_pdfs.without_pages(),
        "words": b"A file of words that somebody called a PDF.",
        "nothing": b"",
        "good": a_book(pages=2),
        "blank": one_page("", pages=3),
        "crowded": odd_pdfs.of_many_objects(),
        "vast_page": vast,
        "vast_picture": picture,
        "nameless_letters": odd_pdfs.without_unicode(),
        "blank_scan": scan,
    }
    folder.mkdir()
    for name, data in files.items():
        (folder / f"{name}.pdf").write_bytes(data)
    return folder


def read(folder: Path, out: Path, **settings: Any) -> dict[str, Extracted]:
    settings = {"workers": 0, "letters": False, "ocr": "never"} | settings
    return {book.file.name: book for book in extract(find_books(folder), out, **settings)}


def statuses(out: Path, name: str) -> list[str]:
    """Of the pages of a book, as they stand on the disk: each page once, in order."""
    records = list(Journal(out / "pages" / f"{name}.jsonl", PageRead))
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    return [record.status for record in records]


def assert_nothing_is_half_written(out: Path) -> None:
    for path in (path for path in out.rglob("*") if path.is_file()):
        if path.suffix == ".jsonl":
            data = path.read_text("utf-8")
            assert not data or data.endswith("\n")
            assert all(json.loads(line) for line in data.splitlines())
        elif path.suffix == ".jpg":
            with PILImage.open(path) as picture:
                picture.load()
        else:
            assert path.suffix in (".html", ".csv", ".json", ".parquet"), path


def deny(path: Path) -> None:
    """A file that cannot be read. Root may read all, so for root it is one whose reading fails."""
    if os.geteuid() == 0:
        path.symlink_to("/proc/self/mem")
    else:
        path.write_bytes(a_book())
        path.chmod(0)
