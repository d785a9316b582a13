"""What openstax.py says of its books is what a PDF reader finds in them."""

import re
from pathlib import Path
from typing import Any

import pytest

pypdfium2 = pytest.importorskip("pypdfium2", reason="needs the extra `books`")
pytest.importorskip("reportlab", reason="needs the extra `books`")

from tests.books.openstax import LAYOUTS, caption_parts, sentences, write_openstax_books  # noqa: E402

from pathloom.figures import Book  # noqa: E402
from pathloom.schema import Box  # noqa: E402

Books = list[tuple[Path, Book]]


@pytest.fixture(scope="module", params=LAYOUTS)
def books(request: pytest.FixtureRequest, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Books:
    return write_openstax_books(data_root, tmp_path_factory.mktemp("openstax"), request.param)


def _folded(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _words_in(page: Any, box_pt: Box) -> str:
    left, top, right, bottom = box_pt
    height = page.get_height()
    return _folded(page.get_textpage().get_text_bounded(left - 1, height - bottom, right + 1, height - top))


def _image_boxes(page: Any) -> list[Box]:
    height = page.get_height()
    bounds = [o.get_bounds() for o in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])]
    return [(left, height - top, right, height - bottom) for left, bottom, right, top in bounds]


def test_every_figure_of_the_sections_is_typeset_and_named(books: Books):
    figures = [figure for _, book in books for figure in book.figures]
    assert len(figures) == 23
    assert sum(len(book.references) for _, book in books) == 25
    numbers = [figure.number for figure in figures]
    assert len(set(numbers)) == len(numbers)
    for _, book in books:
        assert {reference.number for reference in book.references} <= {f.number for f in book.figures}


def test_the_text_inside_a_caption_box_is_the_caption(books: Books):
    for path, book in books:
        pdf = pypdfium2.PdfDocument(path)
        assert len(pdf) == book.num_pages
        for figure in book.figures:
            assert figure.caption_page is not None
            assert figure.caption_box_pt is not None
            assert _words_in(pdf[figure.caption_page - 1], figure.caption_box_pt) == figure.caption
            assert figure.caption.startswith(f"Figure {figure.number.replace('-', '.')} ")


def test_the_figures_of_a_page_are_its_image_objects(books: Books):
    for path, book in books:
        pdf = pypdfium2.PdfDocument(path)
        for i in range(len(pdf)):
            expected = sorted(figure.box_pt for figure in book.figures if figure.page == i + 1)
            assert sorted(_image_boxes(pdf[i])) == [pytest.approx(box, abs=0.1) for box in expected]


def test_a_sentence_that_refers_is_printed_on_its_page(books: Books):
    for path, book in books:
        pdf = pypdfium2.PdfDocument(path)
        for reference in book.references:
            assert f"Figure {reference.number.replace('-', '.')}" in reference.sentence
            page = _folded(pdf[reference.page - 1].get_textpage().get_text_bounded())
            # The rest may stand behind a figure, in the next column or on the next page.
            assert " ".join(reference.sentence.split()[:4]) in page


def test_panels_lie_in_their_figure_apart_from_each_other_and_share_out_the_caption(books: Books):
    composites = [figure for _, book in books for figure in book.figures if len(figure.panels) > 1]
    assert sorted(len(figure.panels) for figure in composites) == [2, 2, 2, 3, 3, 3, 3]
    for figure in composites:
        left, top, right, bottom = figure.box_pt
        seen: list[Box] = []
        for letter, panel in zip("ABC", figure.panels, strict=False):
            a, b, c, d = panel.box_pt
            assert panel.label == letter
            assert left <= a < c <= right + 1e-6
            assert top <= b < d <= bottom + 1e-6
            assert all(c <= x1 or a >= x2 or d <= y1 or b >= y2 for x1, y1, x2, y2 in seen)
            assert [figure.caption[slice(*span)] for span in panel.caption_spans] == [panel.text]
            assert f"({letter.lower()}) {panel.text}" in figure.caption
            assert panel.text not in figure.shared
            seen.append(panel.box_pt)


def test_parts_end_where_the_shared_tail_begins():
    caption = "Figure 1.2 Two cells. (a) One cell. It is B. subtle. (b) Another (a) is above. Both unstained."
    spans, shared = caption_parts(caption, "Figure 1.2", 1)
    assert {letter: caption[slice(*span)] for letter, span in spans.items()} == {
        "A": "One cell. It is B. subtle.",
        "B": "Another (a) is above.",
    }
    assert shared == "Two cells. Both unstained."


def test_a_genus_cut_short_does_not_end_a_sentence():
    text = "It holds B. Alpha and more (Figure 4.1). Next comes “C. diff.” Then the end."
    assert [text[a:b] for a, b in sentences(text)] == [
        "It holds B. Alpha and more (Figure 4.1).",
        "Next comes “C. diff.”",
        "Then the end.",
    ]


def test_an_unknown_layout_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none of"):
        write_openstax_books(tmp_path, tmp_path, "three_columns")
