"""Phantom books: the truth agrees with the PDF that was written, page for page, and what a test needs occurs in it."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pypdfium2 as pdfium
import pytest

from pathloom.figures import Book, Figure
from pathloom.phantom.book import draw_house, write_book
from pathloom.phantom.book_style import HOUSES
from pathloom.phantom.book_text import Prose, RefStyle
from pathloom.phantom.typeset import break_lines, tokenise
from pathloom.schema import Box

NUM_PAGES = 8
ENGLISH = tuple(name for name, house in HOUSES.items() if house.language == "en")
FONT_VARIABLE = "PATHLOOM_ZH_FONT"
LABELS = {
    "textbook": r"Figure \d+-\d+\. [A-Z]",
    "journal": r"Fig \d+ – [A-Z]",  # noqa: RUF001
    "atlas": r"Fig\. \d+\.\d+ [A-Z]",
    "handbook": r"FIGURE \d+-\d+ \| [A-Z]",
    "review": r"Figure \d+: [A-Z]",
    "lecture": r"Figure \d+-\d+\. [A-Z]",
    "manual": r"FIGURE \d+–\d+ [A-Z]",  # noqa: RUF001
    "chinese": r"图\d+-\d+ \w",
}
"""How the captions of each house begin."""


@dataclass(frozen=True)
class Written:
    name: str
    book: Book
    pdf: Path
    texts: tuple[str, ...]
    """Text of each page without white space and hyphens."""


def bare(text: str) -> str:
    """Without white space, and without hyphens, which the typesetter may have put in."""
    return re.sub(r"[\s\-\u0002\ufffe\u00ad]", "", text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    folder = tmp_path_factory.mktemp("books")
    books = []
    for seed, name in enumerate(HOUSES):
        path = folder / f"{name}.pdf"
        book = write_book(path, num_pages=NUM_PAGES, seed=seed, style=name)
        document = pdfium.PdfDocument(path)
        texts = tuple(bare(document[i].get_textpage().get_text_range()) for i in range(len(document)))
        document.close()
        books.append(Written(name, book, path, texts))
    return books


def figures(books: list[Written]) -> Iterator[tuple[Written, Figure]]:
    yield from ((one, figure) for one in books for figure in one.book.figures)


def within(inner: Box, outer: Box, slack: float = 0.6) -> bool:
    return all(inner[i] >= outer[i] - slack and inner[i + 2] <= outer[i + 2] + slack for i in (0, 1))


def overlap(a: Box, b: Box) -> float:
    """The shared area of two boxes."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def image_boxes(path: Path, page: int) -> list[Box]:
    document = pdfium.PdfDocument(path)
    height = document[page - 1].get_height()
    found = []
    for thing in document[page - 1].get_objects():
        if thing.type == pdfium.raw.FPDF_PAGEOBJ_IMAGE:
            left, bottom, right, top = thing.get_bounds()
            found.append((left, height - top, right, height - bottom))
    document.close()
    return found


# -- the whole


def test_the_same_seed_gives_the_same_book(tmp_path):
    first = write_book(tmp_path / "a.pdf", num_pages=3, seed=4)
    second = write_book(tmp_path / "b.pdf", num_pages=3, seed=4)
    other = write_book(tmp_path / "c.pdf", num_pages=3, seed=5)

    assert first.model_copy(update={"name": ""}) == second.model_copy(update={"name": ""})
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    assert first.references != other.references


def test_the_pdf_has_the_pages_that_were_asked_for(written):
    for one in written:
        assert one.book.num_pages == NUM_PAGES == len(one.texts)
        assert all(len(text) > 30 for text in one.texts)


def test_a_varied_house_is_drawn_from_the_seed():
    first, second = (draw_house(np.random.default_rng(seed), "journal") for seed in (1, 2))

    assert first != second
    assert first.name == second.name == "journal"


# -- figures


def test_numbers_rise_and_occur_once(written):
    for one in written:
        numbers = [figure.number for figure in one.book.figures if figure.number]
        keys = [tuple(map(int, number.split("-"))) for number in numbers]
        assert keys == sorted(set(keys))


def test_boxes_lie_on_their_page_and_do_not_overlap(written):
    for one in written:
        width, height = HOUSES[one.name].page_pt
        taken: dict[int, list[Box]] = {}
        for figure in one.book.figures:
            taken.setdefault(figure.page, []).append(figure.box_pt)
            if figure.caption_box_pt and figure.caption_page:
                others = taken.setdefault(figure.caption_page, [])
                if figure.caption_box_pt not in others:  # the caption of two figures stands in both
                    others.append(figure.caption_box_pt)
            assert all(within(panel.box_pt, figure.box_pt) for panel in figure.panels)
        for boxes in taken.values():
            for i, box in enumerate(boxes):
                assert within(box, (0, 0, width, height))
                assert all(overlap(box, other) < 1 for other in boxes[:i])


def test_every_image_object_lies_in_a_figure_of_its_page(written):
    for one in written:
        for page in range(1, NUM_PAGES + 1):
            known = [figure.box_pt for figure in one.book.figures if figure.page == page]
            for box in image_boxes(one.pdf, page):
                area = (box[2] - box[0]) * (box[3] - box[1])
                assert max(overlap(box, figure) for figure in known) > 0.85 * area


def test_panels_of_photographs_lie_at_image_objects(written):
    apart, together = 0, 0
    for one, figure in figures(written):
        images = [box for box in image_boxes(one.pdf, figure.page) if overlap(box, figure.box_pt) > 1]
        if not images:
            continue  # a vector drawing
        if len(images) == 1:
            together += 1
            assert all(within(panel.box_pt, images[0]) for panel in figure.panels)
        else:
            apart += 1
            assert len(images) == len(figure.panels)
            for panel, image in zip(figure.panels, images, strict=True):
                assert within(panel.box_pt, image)
    assert apart > 3
    assert together > 20


def test_the_text_layer_under_a_caption_box_is_the_caption(written):
    for one, figure in figures(written):
        if figure.caption_page is None or figure.caption_box_pt is None:
            assert figure.caption == ""
            continue
        document = pdfium.PdfDocument(one.pdf)
        page = document[figure.caption_page - 1]
        x1, y1, x2, y2 = figure.caption_box_pt
        height = page.get_height()
        text = page.get_textpage().get_text_bounded(x1 - 1, height - y2 - 1, x2 + 1, height - y1 + 1)
        assert bare(text) == bare(figure.caption)
        document.close()


def test_a_caption_box_is_tight_around_its_ink(written):
    for one in [one for one in written if one.name in ENGLISH][:3]:
        document = pdfium.PdfDocument(one.pdf)
        for figure in [figure for figure in one.book.figures if figure.caption_page][:6]:
            assert figure.caption_page is not None
            assert figure.caption_box_pt is not None
            scale = 4.0
            page = np.asarray(document[figure.caption_page - 1].render(scale=scale).to_pil().convert("L"))
            x1, y1, x2, y2 = (round(value * scale) for value in figure.caption_box_pt)
            around = page[y1 - 8 : y2 + 8, x1 - 8 : x2 + 8] < 160
            rows, columns = np.flatnonzero(around.any(1)), np.flatnonzero(around.any(0))
            found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            assert np.allclose(found, (8, 8, 8 + x2 - x1, 8 + y2 - y1), atol=9)  # two points
        document.close()


def test_spans_of_parts_hold_their_texts(written):
    parts = 0
    for _, figure in figures(written):
        for panel in figure.panels:
            assert "".join(figure.caption[a:b] for a, b in panel.caption_spans) == panel.text
            parts += bool(panel.text)
    assert parts > 40


def test_shared_words_are_in_the_caption_and_the_label_is_not_in_them(written):
    for _, figure in figures(written):
        if not figure.caption:
            assert not figure.shared
            continue
        assert figure.shared
        assert all(sentence in figure.caption for sentence in figure.shared.split(" "))
        assert not re.match(r"(?i)fig|图", figure.shared)


def test_a_figure_without_parts_has_one_panel_of_its_own_box(written):
    for _, figure in figures(written):
        if len(figure.panels) == 1:
            assert figure.panels[0].box_pt == figure.box_pt
            assert figure.panels[0].label == ""


def test_tables_and_text_boxes_are_no_figures(written):
    decoys = 0
    for one in written:
        document = pdfium.PdfDocument(one.pdf)
        for number in range(NUM_PAGES):
            text = document[number].get_textpage()
            for words in ("Table", "Box", "表"):
                search = text.search(words, match_case=True)
                while found := search.get_next():
                    left, bottom, right, top = text.get_charbox(found[0])
                    height = document[number].get_height()
                    box = (left, height - top, right, height - bottom)
                    decoys += 1
                    own = [figure for figure in one.book.figures if figure.page == number + 1]
                    assert all(not overlap(box, figure.box_pt) for figure in own)
        document.close()
    assert decoys > 20


# -- what occurs


@pytest.mark.parametrize("name", HOUSES)
def test_every_caption_style_occurs(written, name):
    (one,) = [one for one in written if one.name == name]
    captions = [figure.caption for figure in one.book.figures if figure.caption]

    assert any(re.match(LABELS[name], caption) for caption in captions)


def test_every_style_of_parts_occurs(written):
    captions = " ".join(figure.caption for _, figure in figures(written))

    for pattern in (
        r"\(A\) [A-Z]",
        r"\([a-z]\) [A-Z]",
        r" A, [a-z]",
        r" [aA]: [a-z]",
        r" A\. [A-Z]",
        "A[.:)].*\uff1bB",
    ):
        assert re.search(pattern, captions), pattern


def test_every_arrangement_occurs(written):
    seen: Counter[str] = Counter()
    for one, figure in figures(written):
        box, caption = figure.box_pt, figure.caption_box_pt
        seen["with letters" if figure.panels[0].label else "without letters"] += 1
        seen[f"{len(image_boxes(one.pdf, figure.page)) == 0} drawing"] += 1
        if caption is None:
            seen["no caption"] += 1
        elif figure.caption_page != figure.page:
            seen["next page"] += 1
        elif caption[1] >= box[3]:
            seen["below"] += 1
        elif caption[3] <= box[1]:
            seen["above"] += 1
        else:
            seen["beside"] += 1
        twins = [other for other in one.book.figures if other.caption == figure.caption and figure.caption]
        seen["two under one caption"] += len(twins) == 2
    for what in (
        "no caption",
        "below",
        "above",
        "beside",
        "two under one caption",
        "with letters",
        "True drawing",
    ):
        assert seen[what], what


# -- references


def test_references_lie_on_their_page(written):
    begun = []
    for one in written:
        for reference in one.book.references:
            text = one.texts[reference.page - 1]
            assert bare(reference.sentence)[:2] in text, reference.sentence
            begun.append(bare(reference.sentence)[:14] in text)  # the last line of a page may hold fewer
    assert sum(begun) > 0.95 * len(begun)


def test_a_sentence_stands_whole_on_its_page_or_runs_on_to_the_next(written):
    whole, split = 0, 0
    for one in written:
        for reference in one.book.references:
            words = bare(reference.sentence)
            if words in one.texts[reference.page - 1]:
                whole += 1
            else:
                split += 1
    assert whole > 10 * split > 0


def test_references_name_figures_and_panels_of_the_book(written):
    for one in written:
        labels = {figure.number: {panel.label for panel in figure.panels} for figure in one.book.figures}
        for reference in one.book.references:
            assert set(reference.panels) <= labels[reference.number]


def test_most_figures_are_named_and_some_with_panels(written):
    numbered, named, with_panels, twice = 0, 0, 0, 0
    for one in written:
        names = {reference.number for reference in one.book.references}
        numbers = {figure.number for figure in one.book.figures if figure.number}
        numbered, named = numbered + len(numbers), named + len(numbers & names)
        with_panels += sum(bool(reference.panels) for reference in one.book.references)
        sentences = Counter(reference.sentence for reference in one.book.references)
        twice += sum(count == 2 for count in sentences.values())
    assert named > 0.8 * numbered
    assert with_panels > 10
    assert twice > 3


def test_a_figure_of_another_book_is_no_reference(written):
    texts = "".join(text for one in written for text in one.texts)
    assert "companionatlas" in texts
    assert all("companion" not in r.sentence for one in written for r in one.book.references)


def test_ways_of_naming_figures_vary():
    prose = Prose(np.random.default_rng(0), "en")
    targets = (("3-2", ("A", "B", "C")), ("3-3", ("A", "B")), ("3-4", ()))
    said = " ".join(prose.referring_sentence(targets[: 1 + i % 3], RefStyle()).text for i in range(400))

    for words in (
        "(Fig. 3-2A)",
        "Fig. 3-2A\u2013C",
        "Figures 3-2 and 3-3",
        "Figs. 3-2",
        "Figure 3-2 shows",
        "see Fig. 3-2",
        "Figures 3-2 to 3-4",
    ):
        assert words in said, words


# -- typesetting


def test_broken_lines_fit_and_hold_all_words():
    text = "Immunohistochemistry confirms the nature of the cells, which are negative for keratin in nearly all cases."
    hyphenated = 0
    for width in range(100, 200, 8):
        lines = break_lines(tokenise([(text, "Times-Roman")]), width, 10, hyphenate=True)
        assert all(line.width_pt <= width for line in lines)
        assert bare("".join(token.text for line in lines for token in line.tokens)) == bare(text)
        hyphenated += any(line.tokens[-1].text.endswith("-") for line in lines)
    assert hyphenated


def test_chinese_lines_do_not_begin_with_a_stop():
    text = "鉴别诊断包括腺癌、腺瘤，少数情况下还包括肺来源的转移（图13-19A、B）。" * 4  # noqa: RUF001
    for width in range(80, 200, 7):
        lines = break_lines(tokenise([(text, "Times-Roman")]), width, 10)
        assert all(line.tokens[0].text[0] not in "，。、）" for line in lines)  # noqa: RUF001


def test_chinese_glyphs_are_drawn_with_a_font(tmp_path):
    font = os.environ.get(FONT_VARIABLE)
    if not font:
        pytest.skip(f"{FONT_VARIABLE} names no TrueType font with Chinese characters")
    book = write_book(tmp_path / "zh.pdf", num_pages=2, seed=1, style="chinese", font=Path(font))
    document = pdfium.PdfDocument(tmp_path / "zh.pdf")
    page = np.asarray(document[0].render(scale=2).to_pil().convert("L"))
    document.close()

    assert book.num_pages == 2
    assert (page < 128).mean() > 0.01
