"""Shelves of bad input through the whole extraction: whatever cannot be read has a status, and the rest is done."""

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.books.bad_shelf import (
    CAPTION,
    PROSE,
    a_book,
    assert_nothing_is_half_written,
    deny,
    read,
    statuses,
    write_shelf,
)
from tests.books.extracted import extract
from tests.books.odd_pdfs import one_page, text_at

from pathloom.books.extract import Extracted
from pathloom.books.files import find_books
from pathloom.books.reader import PageFigures, PageJob, PageRead, Reader, read_page, split_page
from pathloom.books.table import row_of
from pathloom.cli import main
from pathloom.schema import Drop
from pathloom.stage import UserError

PICTURE_PT = (100.0, 75.0, 400.0, 275.0)
"""Where the figure of `a_book` stands on a displayed page that is 595 high."""
WHOLE_FILE = {
    "encrypted": "encrypted",
    "truncated": "truncated",
    "pageless": "no_pages",
    "words": "not_a_pdf",
    "nothing": "not_a_pdf",
}
PAGES = {
    "good": ["read"] * 2,
    "blank": ["blank"] * 3,
    "crowded": ["read"],
    "vast_page": ["read"],
    "vast_picture": ["too_many_pixels"],
    "nameless_letters": ["fonts_without_letters"],
    "blank_scan": ["blank"],
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    return write_shelf(tmp_path_factory.mktemp("bad") / "shelf")


@pytest.fixture(scope="module", params=(0, 2), ids=("one process", "workers"))
def done(request, shelf, tmp_path_factory) -> tuple[dict[str, Extracted], Path]:
    """The bad shelf's books by name, and where they went."""
    out = tmp_path_factory.mktemp("out")
    books = extract(find_books(shelf), out, workers=request.param, ocr="never")
    return {book.file.name: book for book in books}, out


def test_a_file_that_does_not_open_says_why_and_has_no_pages(done):
    books, out = done
    failures = {name: book.failure[0] for name, book in books.items() if book.failure}
    assert failures == WHOLE_FILE
    for name, reason in WHOLE_FILE.items():
        assert statuses(out, name) == []
        assert row_of(books[name])["failures"] == f"{reason}:1"


def test_every_page_of_a_bad_shelf_has_its_status(done):
    books, out = done
    assert [
        page.detail for book in books.values() for page in book.pages.values() if page.status == "crashed"
    ] == []
    assert {name: statuses(out, name) for name in PAGES} == PAGES
    assert set(books) == {*WHOLE_FILE, *PAGES}
    assert row_of(books["vast_picture"])["failures"] == "too_many_pixels:1"
    assert "60000x60000" in books["vast_picture"].pages[1].detail


def test_the_good_book_of_a_bad_shelf_is_done_whole(done):
    books, out = done
    row = row_of(books["good"])
    assert (row["read"], row["figures"], row["bound"], row["failures"]) == (2, 2, 2, "")
    assert [figure.caption for figure in books["good"].book.figures] == [CAPTION] * 2
    assert len(list((out / "pictures" / "good").iterdir())) == 2


def test_a_bad_shelf_leaves_nothing_half_written(done):
    _, out = done
    assert_nothing_is_half_written(out)
    assert {path.name for path in (out / "pictures").iterdir()} == {"good"}


def test_the_command_reads_a_bad_shelf_and_drops_what_it_must(shelf, tmp_path, capsys):
    out = tmp_path / "pairs"
    assert main(command(shelf, out)) == 0
    assert "vast_picture" in capsys.readouterr().out
    lines = (line for path in (out / "drops").iterdir() for line in path.read_bytes().splitlines())
    drops = [Drop.model_validate_json(line) for line in lines]
    assert {(drop.sample_id, drop.reason) for drop in drops} == {
        (f"books/{name}", f"book_{reason}") for name, reason in WHOLE_FILE.items()
    } | {
        ("books/vast_picture/p1", "page_too_many_pixels"),
        ("books/nameless_letters/p1", "page_fonts_without_letters"),
    }
    assert len((out / "pairs.jsonl").read_text("utf-8").splitlines()) == 2
    rows = table(out)
    assert {name: row["failures"] for name, row in rows.items() if row["failures"]} == {
        **{name: f"{reason}:1" for name, reason in WHOLE_FILE.items()},
        "vast_picture": "too_many_pixels:1",
        "nameless_letters": "fonts_without_letters:1",
    }
    assert (rows["good"]["read"], rows["good"]["bound"]) == ("2", "2")
    assert_nothing_is_half_written(out)


def command(path: Path, out: Path) -> list[str]:
    settings = ("pages.workers=0", "pages.ocr=never")
    return [
        "ingest",
        "books",
        str(path),
        "--out",
        str(out),
        *(part for one in settings for part in ("--set", one)),
    ]


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "books.csv").open(encoding="utf-8", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_every_one_of_5000_pages_has_a_status(tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "long.pdf").write_bytes(one_page(text_at(290, 40, "1"), pages=5000))
    book = read(tmp_path / "shelf", tmp_path / "out")["long"]
    assert statuses(tmp_path / "out", "long") == ["read"] * 5000
    assert row_of(book)["pages"] == 5000


@pytest.mark.parametrize(
    ("turn", "matrix"), [(90, "0 1 -1 0 595 0"), (180, "-1 0 0 -1 595 842"), (270, "0 -1 1 0 0 842")]
)
def test_a_figure_on_a_rotated_page_is_found_where_it_is_displayed(turn, matrix, tmp_path):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "turned.pdf").write_bytes(a_book(matrix=matrix, keys=f"/Rotate {turn}"))
    book = read(tmp_path / "shelf", tmp_path / "out")["turned"]
    (figure,) = book.book.figures
    assert figure.caption == CAPTION
    lower = 842 - 595 if turn == 180 else 0  # the matrix counts from the page's bottom, boxes from its top
    x1, y1, x2, y2 = PICTURE_PT
    assert figure.box_pt == pytest.approx((x1, y1 + lower, x2, y2 + lower), abs=1.0)
    with PILImage.open(tmp_path / "out" / book.figures[1].rendering) as page:
        assert (page.width > page.height) == (turn != 180)
    with PILImage.open(tmp_path / "out" / book.figures[1].figures[0].whole.path) as picture:
        assert np.asarray(picture.convert("L")).mean() < 150  # the noise, not the paper beside it


def fails_on_page_1(
    task: Callable[[Reader, PageJob], PageRead | PageFigures], reader: Reader, job: PageJob
) -> object:
    """What the file's name says, on page 1. The functions below reach workers by their names in this module."""
    if job.number == 1 and job.file.name == "abort":
        os.abort()
    if job.number == 1 and job.file.name == "hang":
        time.sleep(600)
    if job.number == 1 and job.file.name == "eat":
        meals = []
        while True:
            meals.append(np.ones(2**22))
            time.sleep(0.01)
    return task(reader, job)


def read_badly(reader: Reader, job: PageJob) -> object:
    return fails_on_page_1(read_page, reader, job)


def split_badly(reader: Reader, job: PageJob) -> object:
    return fails_on_page_1(split_page, reader, job)


MISHAPS = {"abort": "crashed", "eat": "out_of_memory", "hang": "timed_out"}
CAPS = {"workers": 2, "seconds_a_page": 10.0, "bytes_a_page": 2**29}


@pytest.fixture
def mishaps(tmp_path) -> Path:
    folder = tmp_path / "mishaps"
    folder.mkdir()
    for name in (*MISHAPS, "good"):
        (folder / f"{name}.pdf").write_bytes(a_book(pages=2))
    return folder


@pytest.mark.slow
def test_a_page_that_kills_its_reader_is_a_status_and_the_other_pages_are_read(
    mishaps, tmp_path, monkeypatch
):
    monkeypatch.setattr("pathloom.books.extract.read_page", read_badly)
    out = tmp_path / "out"
    books = read(mishaps, out, **CAPS)
    for name, reason in MISHAPS.items():
        assert statuses(out, name) == [reason, "read"]
        assert row_of(books[name])["failures"] == f"{reason}:1"
        assert row_of(books[name])["bound"] == 1
    assert row_of(books["good"])["bound"] == 2
    assert_nothing_is_half_written(out)


@pytest.mark.slow
def test_a_page_that_kills_the_splitter_loses_its_pictures_only(mishaps, tmp_path, monkeypatch):
    monkeypatch.setattr("pathloom.books.extract.split_page", split_badly)
    out = tmp_path / "out"
    books = read(mishaps, out, **CAPS)
    for name, reason in MISHAPS.items():
        assert statuses(out, name) == ["read"] * 2
        assert [page.status for page in books[name].figures.values()] == [reason, "cut"]
        assert [figure.caption for figure in books[name].figures[1].uncut] == [CAPTION]
        assert row_of(books[name])["failures"] == f"{reason}:1"
    assert row_of(books["good"])["bound"] == 2
    assert_nothing_is_half_written(out)


def test_a_rendering_that_a_kill_cut_off_is_written_again(tmp_path, monkeypatch):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "atlas.pdf").write_bytes(a_book())
    save = PILImage.Image.save

    def killed_in_the_rendering(picture: PILImage.Image, path: Path, **options: Any) -> None:
        save(picture, path, **options)
        if "renderings" in str(path):
            path.write_bytes(path.read_bytes()[:500])
            raise KeyboardInterrupt

    monkeypatch.setattr(PILImage.Image, "save", killed_in_the_rendering)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "shelf", tmp_path / "out")
    monkeypatch.undo()
    assert read(tmp_path / "shelf", tmp_path / "out")["atlas"].figures[1].status == "cut"
    assert_nothing_is_half_written(tmp_path / "out")


NAMES = (
    "a b",
    'it\'s "so"',
    "x#1?&y=%20",
    "<b>&lt;",
    "\u56fe\u8c31 \u809d",
    "a.b",
    "-x",
    "two\nlines",
    "n" * 240,
    "\u56fe" * 80,
)


def test_file_names_may_hold_any_sign(tmp_path):
    shelf, out = tmp_path / "shelf", tmp_path / "out"
    shelf.mkdir()
    for name in NAMES:
        (shelf / f"{name}.pdf").write_bytes(a_book())
    assert main(command(shelf, out)) == 0
    assert set(table(out)) == set(NAMES)
    pairs = [json.loads(line) for line in (out / "pairs.jsonl").read_text("utf-8").splitlines()]
    assert {pair["group"] for pair in pairs} == set(NAMES)
    assert all((out / pair["image"]).is_file() for pair in pairs)
    assert all((out / "gallery" / f"{name}.html").is_file() for name in NAMES)
    assert_nothing_is_half_written(out)


@pytest.mark.parametrize(
    "name", [b"n" * 251, b"\xb0\xa1"], ids=("too long for a journal", "GBK of an old archive")
)
def test_a_file_name_that_cannot_be_kept_is_named_before_work_begins(name, tmp_path, capsys):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name + b".pdf")).write_bytes(a_book())
    assert main(command(tmp_path, tmp_path / "out")) == 1
    assert "rename it" in capsys.readouterr().err


def test_two_books_of_one_name_in_two_folders_stay_apart(tmp_path):
    for folder, pages in (("first", 1), ("second", 2)):
        (tmp_path / "shelf" / folder).mkdir(parents=True)
        (tmp_path / "shelf" / folder / "atlas.pdf").write_bytes(a_book(pages=pages))
    books = read(tmp_path / "shelf", tmp_path / "out")
    assert {name: len(book.book.figures) for name, book in books.items()} == {
        "first/atlas": 1,
        "second/atlas": 2,
    }
    assert len(list((tmp_path / "out" / "pictures" / "second" / "atlas").iterdir())) == 2


def test_a_link_to_a_folder_above_adds_no_book(tmp_path):
    shelf = tmp_path / "shelf"
    (shelf / "inner").mkdir(parents=True)
    (shelf / "atlas.pdf").write_bytes(a_book())
    (shelf / "inner" / "up").symlink_to(shelf)
    (shelf / "gone.pdf").symlink_to(shelf / "nowhere.pdf")
    (shelf / "itself.pdf").symlink_to(shelf / "itself.pdf")
    assert [book.name for book in find_books(shelf)] == ["atlas"]


def test_a_file_that_may_not_be_read_is_a_status_and_the_rest_is_done(tmp_path):
    shelf, out = tmp_path / "shelf", tmp_path / "out"
    shelf.mkdir()
    (shelf / "good.pdf").write_bytes(a_book())
    deny(shelf / "secret.pdf")
    books = read(shelf, out)
    assert books["secret"].failure is not None
    assert books["secret"].failure[0] == "unreadable"
    assert statuses(out, "good") == ["read"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "good.pdf").write_bytes(a_book())
    iterdir = Path.iterdir

    def denied(path: Path) -> object:
        if path.name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(UserError, match="secret: Permission denied"):
        find_books(tmp_path)


def test_plates_at_the_same_place_of_every_page_are_figures(tmp_path):
    """As an atlas has them: one plate a page, all of one size."""
    from reportlab.pdfgen.canvas import Canvas

    (tmp_path / "shelf").mkdir()
    canvas = Canvas(str(tmp_path / "shelf" / "atlas.pdf"), pagesize=(595, 842))
    for number in range(1, 5):
        picture = np.random.default_rng(number).integers(40, 200, (64, 64, 3), dtype=np.uint8)
        canvas.drawInlineImage(PILImage.fromarray(picture), 100, 420, 300, 300)
        canvas.setFont("Helvetica", 8)
        canvas.drawString(100, 400, f"Figure {number}. Nests of cells with round nuclei, case {number}.")
        canvas.setFont("Helvetica", 10)
        for row in range(20):
            canvas.drawString(72, 370 - 14 * row, PROSE)
        canvas.showPage()
    canvas.save()
    book = read(tmp_path / "shelf", tmp_path / "out")["atlas"]
    assert [figure.number for figure in book.book.figures] == ["1", "2", "3", "4"]
