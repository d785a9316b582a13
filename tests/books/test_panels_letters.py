import numpy as np

from pathloom.books.page import Line
from pathloom.books.panels_letters import letters_of, split_by_letters


def letter(text: str, x: float, y: float, size: float = 12.0) -> Line:
    return Line(text=text, box_pt=(x, y, x + 6, y + size), size_pt=size, bold=True)


def chart(pixels: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> None:
    """An axis with bars: mostly white inside."""
    pixels[y1:y2, x1 : x1 + 2] = 0
    pixels[y2 - 2 : y2, x1:x2] = 0
    pixels[y1 + 10 : y2, x1 + 20 : x1 + 30] = 90
    pixels[y1 + 30 : y2, x2 - 12 : x2 - 2] = 90


def test_charts_are_parted_where_their_letters_stand_though_all_is_white():
    pixels = np.full((300, 400, 3), 255, np.uint8)
    places = {"A": (20, 20, 380, 120), "B": (20, 160, 180, 280), "C": (220, 160, 380, 280)}
    for box in places.values():
        chart(pixels, *box)
    letters = {label: (x1 - 10.0, y1 - 12.0, x1 - 4.0, y1) for label, (x1, y1, _, _) in places.items()}
    found = split_by_letters(pixels, letters)
    assert {panel.label: panel.box_px for panel in found} == places


def test_a_tall_panel_beside_two_reaches_to_the_bottom():
    pixels = np.full((300, 400, 3), 255, np.uint8)
    places = {"A": (20, 20, 180, 280), "B": (220, 20, 380, 120), "C": (220, 160, 380, 280)}
    for box in places.values():
        chart(pixels, *box)
    letters = {label: (x1 - 10.0, y1 - 12.0, x1 - 4.0, y1) for label, (x1, y1, _, _) in places.items()}
    assert {panel.label: panel.box_px for panel in split_by_letters(pixels, letters)} == places


def test_letters_that_stand_below_their_panels_part_nothing():
    pixels = np.full((150, 400, 3), 255, np.uint8)
    chart(pixels, 20, 10, 180, 110)
    chart(pixels, 220, 10, 380, 110)
    assert (
        split_by_letters(pixels, {"A": (95.0, 120.0, 101.0, 132.0), "B": (295.0, 120.0, 301.0, 132.0)}) == ()
    )


def test_a_letter_is_known_with_the_number_of_an_axis_beside_it():
    lines = [letter("a", 10, 10), letter("b 0.8", 100, 10), letter("V", 40, 60, size=6)]
    assert list(letters_of(lines, ("A", "B"))) == ["A", "B"]


def test_letters_count_only_when_all_are_there_in_one_size():
    lines = [letter("a", 10, 10), letter("b", 100, 10, size=8)]
    assert letters_of(lines, ("A", "B")) == {}
    assert letters_of(lines[:1], ("A", "B")) == {}
