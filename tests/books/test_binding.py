import pytest
from tests.books.pages import caption, drawing, image, line, page, prose

from pathloom.books.binding import Binding, bind, habits
from pathloom.books.layout import lay_out
from pathloom.books.page import Graphic, Line
from pathloom.books.profile import Profile

BOOK = Profile(body_size_pt=10.0, column_pt=250.0)


def bound(lines: list[Line], graphics: list[Graphic]) -> Binding:
    return bind(lay_out(page(lines, graphics), BOOK), BOOK)


def numbers_and_boxes(binding: Binding) -> list[tuple[str, tuple[int, ...]]]:
    return [(figure.number, tuple(round(side) for side in figure.box_pt)) for figure in binding.figures]


@pytest.mark.parametrize(
    ("x", "y", "side"),
    [(100, 310, "above"), (100, 85, "below"), (410, 200, "left"), (10, 200, "right")],
)
def test_a_caption_finds_its_figure_on_any_side(x, y, side):
    found = bound(caption("Figure 7. Glands.\nThe stroma is dense.", x, y, 85), [image(100, 100, 400, 300)])
    assert [(figure.number, figure.side) for figure in found.figures] == [("7", side)]


def test_two_figures_side_by_side_keep_their_own_captions():
    lines = [*caption("Figure 1. Left.", 40, 310, 250), *caption("Figure 2. Right.", 310, 310, 250)]
    found = bound(lines, [image(40, 100, 290, 300), image(310, 100, 560, 300)])
    assert numbers_and_boxes(found) == [("1", (40, 100, 290, 300)), ("2", (310, 100, 560, 300))]


def test_a_figure_of_several_image_objects_is_joined():
    images = [
        image(40, 100, 160, 200),
        image(166, 100, 290, 200),
        image(40, 206, 160, 300),
        image(166, 206, 290, 300),
    ]
    found = bound(caption("Figure 3. (A) Glands. (B) Cells. (C) Stroma. (D) Vessels.", 40, 310, 250), images)
    assert numbers_and_boxes(found) == [("3", (40, 100, 290, 300))]


def test_prose_between_a_caption_and_a_picture_parts_them():
    lines = [*prose(40, 310, 250, 6), *caption("Figure 3. Glands.", 40, 400, 250)]
    found = bound(lines, [image(40, 100, 290, 300)])
    assert [figure.number for figure in found.figures] == [""]
    assert len(found.lonely) == 1


def test_of_two_figures_in_a_column_each_has_the_caption_below_it():
    lines = [*caption("Figure 1. Upper.", 40, 205, 250), *caption("Figure 2. Lower.", 40, 325, 250)]
    found = bound(lines, [image(40, 100, 290, 200), image(40, 220, 290, 320)])
    assert numbers_and_boxes(found) == [("1", (40, 100, 290, 200)), ("2", (40, 220, 290, 320))]


def test_one_caption_for_two_figures_gives_both():
    found = bound(
        caption("Figures 4 and 5. Glands in two patients.", 40, 310, 520),
        [image(40, 100, 290, 300), image(330, 100, 560, 300)],
    )
    assert numbers_and_boxes(found) == [("4", (40, 100, 290, 300)), ("5", (330, 100, 560, 300))]
    assert len({id(figure.caption) for figure in found.figures}) == 1


def test_a_photograph_in_the_next_column_is_not_part_of_a_figure_set_to_its_column():
    lines = caption("Figure 4. Glands of the stomach with\ndense stroma.", 310, 310, 250)
    found = bound(lines, [image(40, 100, 290, 280), image(310, 100, 560, 300)])
    assert numbers_and_boxes(found) == [("", (40, 100, 290, 280)), ("4", (310, 100, 560, 300))]


def test_letters_and_ticks_outside_belong_to_the_box():
    lines = [
        line("A", 28, 100, 8),
        line("0.5", 20, 180, 14, 7),
        line("Time (h)", 140, 306, 40, 7),
        *caption("Figure 9. A curve.", 40, 330, 250),
    ]
    found = bound(lines, [drawing((40, 100, 290, 300))])
    assert numbers_and_boxes(found) == [("9", (20, 100, 290, 313))]


def test_points_and_axes_are_a_plot_but_rules_are_none():
    dots = [drawing((60 + 13 * i, 150 + 9 * i, 63 + 13 * i, 153 + 9 * i), 1) for i in range(12)]
    rules = [drawing((40, y, 290, y + 0.5), 1) for y in (500, 520, 540, 560)]
    lines = caption("Figure 9. Points.", 40, 290, 250)
    assert [figure.number for figure in bound(lines, [*dots, *rules]).figures] == ["9"]
    assert bound(caption("Figure 9. Rules.", 40, 580, 250), rules).figures == ()


def test_a_table_is_no_figure():
    lines = caption("Table 2. Counts.", 40, 100, 200)
    assert bound(lines, [drawing((40, 115, 290, 300), 14)]).figures == ()


def test_a_coloured_ground_behind_text_is_no_figure():
    lines = prose(50, 110, 230, 5)
    assert bound(lines, [drawing((40, 100, 290, 190), 1)]).figures == ()


def test_what_stands_at_the_same_place_on_many_pages_is_decoration():
    book = Profile(body_size_pt=10.0, column_pt=250.0, decorations_pt=((39.0, 21.0, 99.0, 60.0),))
    logo = page([], [image(40, 20, 100, 60)])
    assert bind(lay_out(logo, book), book).figures == ()


def test_a_photograph_without_caption_is_a_figure_without_number():
    (figure,) = bound([], [image(100, 100, 400, 300)]).figures
    assert (figure.number, figure.caption) == ("", None)


def test_a_book_that_captions_above_teaches_its_habit():
    lines = [*caption("Figure 1. One.", 40, 88, 250), *caption("Figure 2. Two.", 40, 310, 250)]
    images = [image(40, 100, 290, 200), image(40, 322, 290, 420)]
    learnt = habits([bind(lay_out(page(lines, images), BOOK), BOOK)] * 3)
    assert learnt["below"] == 1.0
    assert learnt["above"] < 0.5


def test_a_page_of_many_captions_and_pictures_is_bound_quickly():
    spots = [(40 + 130 * column, 40 + 90 * row) for row in range(8) for column in range(4)]
    images = [image(x, y, x + 110, y + 60) for x, y in spots]
    lines = [
        one for n, (x, y) in enumerate(spots, 1) for one in caption(f"Figure {n}. Cells.", x, y + 64, 100)
    ]
    found = bound(lines, images)
    assert [figure.number for figure in found.figures] == [str(n) for n in range(1, 33)]
