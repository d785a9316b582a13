"""Shelves of bad input through the whole extraction: whatever cannot be read has a status, and the rest is done."""

import csv
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont
from tests.books import odd_pdfs
from tests.books.extracted import extract
from tests.books.odd_pdfs import one_page, stream, text_at

from pathloom.books.extract import Extracted
from pathloom.books.files import find_books
from pathloom.books.journal import Journal
from pathloom.books.reader import PageFigures, PageJob, PageRead, Reader, read_page, split_page
from pathloom.books.table import row_of
from pathloom.cli import main
from pathloom.schema import Drop
from pathloom.stage import UserError

KNOWN = pytest.mark.xfail(strict=True, reason="a known fault, its mending proposed")
CAPTION = "Figure 1. Nests of cells with round nuclei and pale cytoplasm."
PROSE = "The glands are lined by cells with round nuclei and pale cytoplasm."
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


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    return write_shelf(tmp_path_factory.mktemp("bad") / "shelf")


@pytest.fixture(scope="module", params=(0, 2), ids=("one process", "workers"))
def done(request, shelf, tmp_path_factory) -> tuple[dict[str, Extracted], Path]:
    """The bad shelf's books by name, and where they went."""
    out = tmp_path_factory.mktemp("out")
    books = extract(find_books(shelf), out, workers=request.param, letters="never", ocr="never")
    return {book.file.name: book for book in books}, out


def read(folder: Path, out: Path, **settings: object) -> dict[str, Extracted]:
    settings = {"workers": 0, "letters": "never", "ocr": "never"} | settings
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


def test_a_file_that_does_not_open_says_why_and_has_no_pages(done):
    books, out = done
    failures = {name: book.failure[0] for name, book in books.items() if book.failure}
    assert failures == WHOLE_FILE
    for name, reason in WHOLE_FILE.items():
        assert statuses(out, name) == []
        assert row_of(books[name])["failures"] == f"{reason}:1"


def test_every_page_of_a_bad_shelf_has_its_status(done):
    books, out = done
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
    settings = ("pages.workers=0", "pages.letters=never", "pages.ocr=never")
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


@KNOWN
def test_a_rendering_that_a_kill_cut_off_is_written_again(tmp_path, monkeypatch):
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "atlas.pdf").write_bytes(a_book())
    save = PILImage.Image.save

    def killed_in_the_rendering(picture: PILImage.Image, path: Path, **options: object) -> None:
        save(picture, path, **options)
        if "renderings" in str(path):
            path.write_bytes(path.read_bytes()[:500])
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(PILImage.Image, "save", killed_in_the_rendering)
        read(tmp_path / "shelf", tmp_path / "out")
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


@KNOWN
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


@KNOWN
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


@KNOWN
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


def deny(path: Path) -> None:
    """A file that cannot be read. Root may read all, so for root it is one whose reading fails."""
    if os.geteuid() == 0:
        path.symlink_to("/proc/self/mem")
    else:
        path.write_bytes(a_book())
        path.chmod(0)


def page_picture() -> PILImage.Image:
    picture = PILImage.new("RGB", (600, 800), "white")
    font = ImageFont.load_default(size=22)
    for row in range(2):
        ImageDraw.Draw(picture).text((40, 60 + 40 * row), "Glands are lined by cells.", "black", font)
    return picture


IMAGES = {
    "1.png": "ocr",
    "2_cut.png": "truncated",
    "3_words.png": "not_an_image",
    "4_cmyk.jpg": "ocr",
    "5_16_bits.png": "more_than_8_bits",
    "6_1_bit.png": "ocr",
    "7_palette.png": "ocr",
    "8_empty.png": "not_an_image",
    "9_paper.png": "blank",
    "10_vast.png": "too_many_pixels",
    "11_denied.png": "unreadable",
}


def write_images(folder: Path) -> None:
    """A folder of page images, few of them as they should be."""
    folder.mkdir(parents=True)
    picture = page_picture()
    picture.save(folder / "1.png")
    whole = (folder / "1.png").read_bytes()
    (folder / "2_cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "3_words.png").write_bytes(b"Words that somebody called a picture.")
    picture.convert("CMYK").save(folder / "4_cmyk.jpg")
    PILImage.fromarray(np.full((800, 600), 40_000, np.uint16)).save(folder / "5_16_bits.png")
    picture.convert("1").save(folder / "6_1_bit.png")
    picture.quantize(16).save(folder / "7_palette.png")
    (folder / "8_empty.png").write_bytes(b"")
    PILImage.new("L", (600, 800), 250).save(folder / "9_paper.png")
    PILImage.new("1", (9000, 9000)).save(folder / "10_vast.png")
    deny(folder / "11_denied.png")


@KNOWN
def test_page_images_of_every_kind_have_their_status(tmp_path):
    write_images(tmp_path / "shelf" / "scan")
    (tmp_path / "shelf" / "good.pdf").write_bytes(a_book())
    books = read(tmp_path / "shelf", tmp_path / "out", ocr="auto")
    assert dict(zip(IMAGES, statuses(tmp_path / "out", "scan"), strict=True)) == IMAGES
    assert row_of(books["scan"])["failed"] == 6
    assert row_of(books["good"])["bound"] == 1


@KNOWN
@pytest.mark.parametrize("bad", ["words", "vast", "denied"])
def test_a_bad_image_in_the_middle_does_not_lose_the_book(bad, tmp_path):
    """The middle page tells the book's shape."""
    folder = tmp_path / "scan"
    folder.mkdir()
    PILImage.new("L", (600, 800), 250).save(folder / "1.png")
    middle = folder / "2.png"
    if bad == "words":
        middle.write_bytes(b"Words.")
    elif bad == "vast":
        PILImage.new("1", (60_000, 4_000)).save(middle)
    else:
        deny(middle)
    book = read(folder, tmp_path / "out")["scan"]
    assert book.failure is None
    assert [page.status for page in book.pages.values()][0] == "blank"
    assert book.pages[2].failed


@KNOWN
@pytest.mark.parametrize("size_px", [(1, 1), (1, 5000), (5000, 1)])
def test_an_image_of_a_pixel_is_a_status_and_no_error_of_a_library(size_px, tmp_path):
    (tmp_path / "scan").mkdir()
    PILImage.new("L", size_px, 250).save(tmp_path / "scan" / "1.png")
    read(tmp_path / "scan", tmp_path / "out")
    assert statuses(tmp_path / "out", "scan") != ["error"]


@KNOWN
def test_a_tiff_of_several_pages_does_not_lose_them_silently(tmp_path):
    pages = [PILImage.new("L", (600, 800), 250) for _ in range(3)]
    (tmp_path / "scan").mkdir()
    pages[0].save(tmp_path / "scan" / "1.tif", save_all=True, append_images=pages[1:])
    book = read(tmp_path / "scan", tmp_path / "out")["scan"]
    assert len(book.pages) == 3 or book.pages[1].status == "several_pages"


@KNOWN
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
