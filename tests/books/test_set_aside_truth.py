"""What set_aside.py says of its book is what a PDF reader finds in it; the style stays unread."""

import re
from pathlib import Path
from typing import Any

import pytest

pypdfium2 = pytest.importorskip("pypdfium2", reason="needs the extra `books`")
pytest.importorskip("typst", reason="needs typst, a dev dependency")

from tests.books.set_aside import write_set_aside_book  # noqa: E402

from pathloom.figures import Book  # noqa: E402
from pathloom.schema import Box  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Book]:
    path = tmp_path_factory.mktemp("set_aside") / "book.pdf"
    return path, write_set_aside_book(path, num_pages=12, seed=5)


def _joined(text: str) -> str:
    """Text without its white space, and without hyphens, which may be those of line ends."""
    return re.sub(r"[\s\-\u00ad\ufffe\x02]+", "", text)


def _words_in(page: Any, box_pt: Box) -> str:
    left, top, right, bottom = box_pt
    height = page.get_height()
    return _joined(page.get_textpage().get_text_bounded(left - 1, height - bottom, right + 1, height - top))


def _image_boxes(page: Any) -> list[Box]:
    height = page.get_height()
    bounds = [o.get_bounds() for o in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])]
    return [(left, height - top, right, height - bottom) for left, bottom, right, top in bounds]


def _same(one: Box, other: Box) -> bool:
    return all(abs(a - b) < 0.2 for a, b in zip(one, other, strict=True))


def test_the_book_has_about_the_length_asked_for_and_figures_of_every_sort(made: tuple[Path, Book]):
    path, book = made
    assert len(pypdfium2.PdfDocument(path)) == book.num_pages
    assert 9 <= book.num_pages <= 15
    assert sum(len(figure.panels) > 1 for figure in book.figures) >= 5
    assert sum(len(figure.panels) == 1 and figure.caption != "" for figure in book.figures) >= 5
    assert any(figure.caption == "" and figure.number == "" for figure in book.figures)
    assert any(figure.caption_page == figure.page + 1 for figure in book.figures)
    assert any(reference.panels for reference in book.references)


def test_the_text_inside_a_caption_box_is_the_caption(made: tuple[Path, Book]):
    path, book = made
    pdf = pypdfium2.PdfDocument(path)
    for figure in book.figures:
        assert (figure.caption == "") == (figure.caption_page is None) == (figure.caption_box_pt is None)
        if figure.caption_page is not None and figure.caption_box_pt is not None:
            assert _words_in(pdf[figure.caption_page - 1], figure.caption_box_pt) == _joined(figure.caption)


def test_every_picture_of_the_file_is_a_figure_or_a_panel_and_none_is_missing(made: tuple[Path, Book]):
    path, book = made
    pdf = pypdfium2.PdfDocument(path)
    for i in range(len(pdf)):
        images = _image_boxes(pdf[i])
        told = [figure for figure in book.figures if figure.page == i + 1]
        boxes = [
            box for figure in told for box in (figure.box_pt, *(panel.box_pt for panel in figure.panels))
        ]
        assert all(any(_same(image, box) for box in boxes) for image in images)
        for figure in told:
            whole = any(_same(image, figure.box_pt) for image in images)
            assert whole or all(
                any(_same(image, panel.box_pt) for image in images) for panel in figure.panels
            )


def test_no_text_runs_over_a_picture_but_the_letters_of_its_panels(made: tuple[Path, Book]):
    path, book = made
    pdf = pypdfium2.PdfDocument(path)
    for figure in book.figures:
        left, top, right, bottom = figure.box_pt
        inside = (left + 2, top + 2, right - 2, bottom - 2)
        assert _words_in(pdf[figure.page - 1], inside) in (
            "",
            "".join(panel.label for panel in figure.panels),
        )


def test_panels_fill_their_figure_without_overlap(made: tuple[Path, Book]):
    _, book = made
    for figure in book.figures:
        boxes = [panel.box_pt for panel in figure.panels]
        outer = (
            min(b[0] for b in boxes),
            min(b[1] for b in boxes),
            max(b[2] for b in boxes),
            max(b[3] for b in boxes),
        )
        assert _same(outer, figure.box_pt)
        for k, (a, b, c, d) in enumerate(boxes):
            assert all(c <= x1 or a >= x2 or d <= y1 or b >= y2 for x1, y1, x2, y2 in boxes[:k])


def test_the_parts_of_a_caption_are_cut_from_it(made: tuple[Path, Book]):
    _, book = made
    for figure in book.figures:
        if len(figure.panels) > 1:
            assert [panel.label for panel in figure.panels] == list("ABCDEFGH"[: len(figure.panels)])
        for panel in figure.panels:
            assert panel.text == "".join(figure.caption[slice(*span)] for span in panel.caption_spans)
            assert (panel.text != "") == (panel.label != "")
        assert figure.shared in figure.caption


def test_a_sentence_that_refers_begins_on_its_page_and_names_a_figure_of_the_book(made: tuple[Path, Book]):
    path, book = made
    pdf = pypdfium2.PdfDocument(path)
    panels = {figure.number: {panel.label for panel in figure.panels} for figure in book.figures}
    for reference in book.references:
        assert set(reference.panels) <= panels[reference.number]
        assert reference.number.replace("-", ".") in reference.sentence
        first, second, third = (_joined(word) for word in reference.sentence.split()[:3])
        pages = [pdf[k] for k in (reference.page - 1, reference.page) if k < len(pdf)]
        here, after = (
            "".join(_joined(page.get_textpage().get_text_bounded()) for page in part)
            for part in (pages[:1], pages[1:])
        )
        # A sentence may break over the page after its first or second word.
        assert first + second + third in here or (
            first in here and (second + third in after or third in after)
        )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_book_and_another_seed_another(tmp_path: Path):
    first, again, other = (
        write_set_aside_book(tmp_path / "book.pdf", num_pages=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_book_too_short_to_hold_a_chapter_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least 8"):
        write_set_aside_book(tmp_path / "book.pdf", num_pages=3, seed=1)
