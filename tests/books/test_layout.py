from tests.books.pages import caption, image, line, page, prose

from pathloom.books.layout import lay_out
from pathloom.books.page import Line
from pathloom.books.profile import Profile, profile

BOOK = Profile(body_size_pt=10.0, column_pt=250.0)


def texts_of(lines: list[Line], book: Profile = BOOK, **roles: str) -> list[str]:
    layout = lay_out(page(lines), book)
    return [block.text for block in layout.blocks if block.role == roles.get("role", block.role)]


def test_columns_are_read_one_after_the_other():
    left = [
        line("Left begins with words that fill the line of a column", 40, 100, 250),
        *prose(40, 112, 250, 5),
    ]
    right = [
        line("Right begins with words that fill the line of a column", 310, 100, 250),
        *prose(310, 112, 250, 5),
    ]
    layout = lay_out(page([*right, *left]), BOOK)
    assert [block.text.split()[0] for block in layout.of("body")] == ["Left", "Right"]


def test_a_heading_over_both_columns_is_read_before_them_and_parts_what_is_above():
    first = [*prose(40, 100, 250, 4), *prose(310, 100, 250, 4)]
    second = [*prose(40, 200, 250, 4), *prose(310, 200, 250, 4)]
    heading = line(
        "Tumours of the stomach and the small bowel, a second chapter", 40, 165, 520, 16, bold=True
    )
    layout = lay_out(page([*second, heading, *first]), BOOK)
    tops = [block.box_pt[1] for block in layout.of("body", "title")]
    assert tops == [100, 100, 165, 200, 200]


def test_three_columns_of_prose_stay_apart():
    lines = [one for x in (40, 225, 410) for one in prose(x, 100, 160, 6)]
    layout = lay_out(page(lines), Profile(body_size_pt=10.0, column_pt=160.0))
    assert [block.box_pt[0] for block in layout.of("body")] == [40, 225, 410]


def test_a_line_torn_apart_by_justification_is_whole_again():
    above, below = prose(40, 100, 250, 2)[0], prose(40, 124, 250, 2)[0]
    torn = [line("cells", 40, 112, 30), line("with", 100, 112, 30), line("nucleoli", 170, 112, 120)]
    (text,) = texts_of([above, *torn, below], role="body")
    assert "cells with nucleoli" in text


def test_rows_of_a_table_are_not_joined_over_its_columns():
    cells = [
        line(word, x, 100 + 12 * row, 40, 8) for row in range(4) for x, word in ((40, "Lung"), (110, "Three"))
    ]
    assert not any("Lung Three" in text for text in texts_of(cells))


def test_a_caption_begins_a_block_of_its_own():
    body = prose(40, 100, 250, 4)
    lines = [*body, *caption("Figure 3-2. Glands in the lung.\nThe stroma is dense.", 40, 150, 240)]
    assert texts_of(lines, role="caption") == ["Figure 3-2. Glands in the lung. The stroma is dense."]


def test_a_sentence_that_names_a_figure_at_the_head_of_a_line_is_no_caption():
    start = line("of the patients. The pattern is seen in many of the", 40, 100, 250)
    named = line("Figure 3-2 shows glands with a cribriform pattern and", 40, 112, 250)
    assert texts_of([start, named, *prose(40, 124, 250, 3)], role="caption") == []


def test_a_bold_label_on_its_own_line_goes_on_below():
    lines = [line("Figure 3-2.", 40, 100, 50, 8, bold=True), *caption("Glands in the lung.", 40, 110, 200)]
    assert texts_of(lines, role="caption") == ["Figure 3-2. Glands in the lung."]


def test_an_index_in_a_line_does_not_end_its_paragraph():
    lines = prose(40, 100, 250, 4)
    lines[1] = lines[1].model_copy(
        update={"box_pt": (40, 112, 290, 126)}
    )  # a subscript reaches below the line
    assert len(texts_of(lines, role="body")) == 1


def test_an_item_of_a_list_does_not_run_into_the_next_paragraph():
    lines = [line("\u2022 Glands within the lamina propria", 40, 100, 150), *prose(40, 112, 250, 3)]
    layout = lay_out(page(lines), BOOK)
    assert layout.prose.count("\n\n") == 1


def test_running_heads_and_page_numbers_are_furniture():
    pages = [
        page(
            [line(f"Chapter 3 {n}", 40, 30, 80, 9), *prose(40, 100, 250, 8), line(str(n), 300, 770, 10)],
            number=n,
        )
        for n in range(1, 7)
    ]
    book = profile(pages)
    layout = lay_out(pages[2], book)
    assert [block.text for block in layout.of("margin")] == ["Chapter 3 3", "3"]


def test_a_caption_at_the_foot_of_many_pages_is_not_furniture():
    pages = [
        page([*prose(40, 100, 250, 8), *caption(f"Figure {n}. Glands.", 40, 740, 200)], number=n)
        for n in range(1, 7)
    ]
    assert len(lay_out(pages[0], profile(pages)).of("caption")) == 1


def test_a_list_of_figures_holds_no_captions():
    entries = [
        line(f"Figure {n}. Glands of the lung . . . . . . . {n}0", 40, 100 + 14 * n, 400) for n in range(1, 6)
    ]
    assert texts_of(entries, role="caption") == []


def test_the_last_word_of_a_paragraph_alone_at_the_head_of_a_column_is_prose():
    lines = [line("metastasis.", 310, 100, 50), *prose(322, 112, 238, 1), *prose(310, 124, 250, 4)]
    assert "metastasis." in lay_out(page(lines), BOOK).prose


def test_the_body_size_is_the_size_of_most_characters():
    pages = [page([*prose(40, 100, 250, 12, size=9.5), *caption("Figure 1. Glands.", 40, 400, 200)])]
    assert profile(pages).body_size_pt == 9.5


def test_a_page_without_text_has_no_blocks():
    assert lay_out(page([], [image(40, 40, 500, 700)]), BOOK).blocks == ()
