"""A phantom book through the whole extraction; what is killed goes on, what is broken is a status."""

import json
from pathlib import Path

import pytest
from PIL import Image as PILImage
from tests.books.extracted import extract, extract_file
from tests.books.odd_pdfs import truncated

from pathloom.books.binding import bind
from pathloom.books.extract import Extraction
from pathloom.books.files import BookFile, find_books
from pathloom.books.journal import Journal
from pathloom.books.measure import measure
from pathloom.books.reader import PageRead, ReadSettings, read_page
from pathloom.books.table import row_of
from pathloom.figures import Book
from pathloom.phantom.book import write_book
from pathloom.stage import UserError

PAGES = 8


@pytest.fixture(scope="session")
def phantom_book(tmp_path_factory) -> tuple[Path, Book]:
    path = tmp_path_factory.mktemp("phantom") / "atlas.pdf"
    return path, write_book(path, num_pages=PAGES, seed=3, style="textbook").model_copy(
        update={"name": "atlas"}
    )


def test_a_phantom_book_is_found_with_its_figures_captions_and_references(phantom_book, tmp_path):
    path, truth = phantom_book
    found = extract_file(path, tmp_path, workers=0)
    measured = measure([found], [truth])
    assert measured.figure_box.f1.value >= 0.9
    assert measured.caption_binding.f1.value >= 0.9
    assert measured.reference.f1.value >= 0.9


def test_worker_processes_find_what_one_process_finds(phantom_book, tmp_path):
    path, _ = phantom_book
    alone = extract_file(path, tmp_path / "alone", workers=0)
    assert extract_file(path, tmp_path / "workers", workers=2) == alone


def test_finished_pages_are_not_read_again(phantom_book, tmp_path, monkeypatch):
    path, _ = phantom_book
    whole = extract_file(path, tmp_path / "whole", workers=0)
    read: list[int] = []

    def stop_at_page_5(reader, job):
        if job.number == 5 and not read.count(5):
            read.append(5)
            raise KeyboardInterrupt
        read.append(job.number)
        return read_page(reader, job)

    monkeypatch.setattr("pathloom.books.extract.read_page", stop_at_page_5)
    with pytest.raises(KeyboardInterrupt):
        extract_file(path, tmp_path / "killed", workers=0)
    assert extract_file(path, tmp_path / "killed", workers=0) == whole
    assert read == [1, 2, 3, 4, 5, *range(5, PAGES + 1)]


def test_a_line_that_a_kill_cut_off_is_read_again(phantom_book, tmp_path):
    path, _ = phantom_book
    whole = extract_file(path, tmp_path, workers=0)
    journal = tmp_path / "pages" / "atlas.jsonl"
    journal.write_bytes(journal.read_bytes()[:-100])
    assert extract_file(path, tmp_path, workers=0) == whole
    assert [record.number for record in Journal(journal, PageRead)] == list(range(1, PAGES + 1))


def test_a_page_that_breaks_its_reader_is_a_status_and_the_rest_is_done(phantom_book, tmp_path, monkeypatch):
    path, _ = phantom_book

    def fails_on_page_3(reader, job):
        if job.number == 3:
            raise RuntimeError("no such glyph")
        return read_page(reader, job)

    monkeypatch.setattr("pathloom.books.extract.read_page", fails_on_page_3)
    (book,) = extract(find_books(path), tmp_path, workers=0)
    assert [page.number for page in book.pages.values() if page.failed] == [3]
    assert "no such glyph" in book.pages[3].detail
    assert row_of(book)["failures"] == "error:1"
    assert len(book.pages) == PAGES


def test_a_file_that_does_not_open_does_not_stop_the_others(phantom_book, tmp_path):
    path, _ = phantom_book
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(truncated())
    files = [BookFile(name="broken", path=broken, kind="pdf"), *find_books(path)]
    broken_book, good = extract(files, tmp_path / "out", workers=0)
    assert broken_book.failure is not None
    assert broken_book.failure[0] in ("truncated", "damaged")
    assert len(good.pages) == PAGES


def test_figures_are_cut_from_the_large_rendering(phantom_book, tmp_path):
    path, _ = phantom_book
    (book,) = extract(find_books(path), tmp_path, workers=0)
    small, large = book.survey.small_px, book.survey.large_px
    assert large == (2 * small[0], 2 * small[1])
    cuts = [cut for page in book.figures.values() for cut in page.figures]
    assert cuts
    for cut in cuts:
        for picture in (cut.whole, *cut.panels):
            x1, y1, x2, y2 = picture.bbox_px
            with PILImage.open(tmp_path / picture.path) as pixels:
                assert pixels.size == (x2 - x1, y2 - y1)
            assert picture.page_px == large


def test_without_panels_of_its_own_a_figure_is_one_panel(phantom_book, tmp_path):
    path, _ = phantom_book
    found = extract_file(path, tmp_path, workers=0)
    for figure in found.figures:
        assert figure.panels
        if len(figure.panels) == 1:
            assert figure.panels[0].box_pt == figure.box_pt


def test_books_are_found_at_any_depth_and_pages_in_natural_order(tmp_path):
    (tmp_path / "shelf" / "scan").mkdir(parents=True)
    for name in ("10.png", "2.png", "1.png"):
        PILImage.new("L", (20, 30)).save(tmp_path / "shelf" / "scan" / name)
    (tmp_path / "shelf" / "b.PDF").write_bytes(b"%PDF-1.4")
    pdf, scan = find_books(tmp_path / "shelf")
    assert (pdf.name, pdf.kind) == ("b", "pdf")
    assert scan.name == "scan"
    assert [path.name for path in scan.page_images()] == ["1.png", "2.png", "10.png"]


def test_a_folder_without_books_says_so(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(UserError, match="neither a PDF nor a page image"):
        find_books(tmp_path)


def test_an_extraction_of_nothing_reads_nothing(tmp_path):
    assert Extraction([], tmp_path, ReadSettings(), "books").by_rule() == []


def test_statuses_are_on_the_disk_a_line_a_page(phantom_book, tmp_path):
    path, _ = phantom_book
    extract(find_books(path), tmp_path, workers=0)
    lines = (tmp_path / "pages" / "atlas.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(one)["status"] for one in lines] == ["read"] * PAGES


def test_a_page_that_breaks_the_rules_is_a_status_and_the_rest_is_bound(phantom_book, tmp_path, monkeypatch):
    path, _ = phantom_book

    def fails_on_page_2(layout, *known):
        if layout.page.number == 2:
            raise ZeroDivisionError("no such gutter")
        return bind(layout, *known)

    monkeypatch.setattr("pathloom.books.extract.bind", fails_on_page_2)
    (book,) = extract(find_books(path), tmp_path, workers=0)
    assert [page.number for page in book.pages.values() if page.status == "layout_failed"] == [2]
    assert 2 not in book.figures
    assert len(book.figures) >= 3
