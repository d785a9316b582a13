"""Synthetic composite figures: what the truth says of panels and letters agrees with the pixels."""

from dataclasses import replace

import numpy as np
import pytest

from pathloom.phantom.composite import (
    MAX_PANELS,
    Composite,
    CompositeStyle,
    canonical_label,
    draw_composite,
    draw_style,
    printed_label,
)

MANY = 60


def drawn(seed: int, num_panels: int | None = None, style: CompositeStyle | None = None) -> Composite:
    return draw_composite(np.random.default_rng(seed), num_panels, style)


@pytest.fixture(scope="module")
def composites() -> list[Composite]:
    return [drawn(seed) for seed in range(MANY)]


def test_the_same_seed_draws_the_same_composite():
    first, second = drawn(5), drawn(5)

    assert np.array_equal(first.pixels, second.pixels)
    assert first.panels == second.panels


@pytest.mark.parametrize("num_panels", range(1, MAX_PANELS + 1))
def test_every_number_of_panels_can_be_drawn(num_panels):
    composite = drawn(num_panels, num_panels)

    assert len(composite.panels) == num_panels
    labels = [panel.label for panel in composite.panels]
    assert labels == [canonical_label(composite.style, index) for index in range(num_panels)]


def test_panels_lie_inside_the_figure_and_apart_by_the_gutter(composites):
    for composite in composites:
        height, width, _ = composite.pixels.shape
        boxes = [panel.box_px for panel in composite.panels]
        assert all(0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height for x1, y1, x2, y2 in boxes)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                gap = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
                assert gap >= composite.style.gutter_px


def test_what_lies_outside_panels_and_letters_is_bare_ground(composites):
    for composite in composites:
        outside = np.ones(composite.pixels.shape[:2], bool)
        for panel in composite.panels:
            for box in (panel.box_px, panel.letter and panel.letter.box_px):
                if box:
                    outside[max(box[1] - 1, 0) : box[3] + 1, max(box[0] - 1, 0) : box[2] + 1] = False
        bare = composite.pixels[outside]
        ground = 255 if composite.style.background == "white" else 0
        assert (np.abs(bare.astype(int) - ground) <= 5).all()


def test_a_letter_inside_lies_in_its_panel_and_one_outside_does_not(composites):
    for composite in composites:
        for panel in composite.panels:
            if panel.letter is None:
                assert panel.label == ""
                continue
            x1, y1, x2, y2 = panel.box_px
            left, top, right, bottom = panel.letter.box_px
            inside = x1 - 2 <= left < right <= x2 + 2 and y1 - 2 <= top < bottom <= y2 + 2
            assert inside == (composite.style.letter_place == "inside")


def test_a_letter_is_drawn_where_the_truth_says():
    style = CompositeStyle(letter_ground="light", gutter_px=6)
    with_letters = drawn(3, 4, style)
    without = draw_composite(np.random.default_rng(3), 4, style, letters=False)

    changed = (with_letters.pixels != without.pixels).any(-1)
    grounds = np.zeros_like(changed)
    for panel in with_letters.panels:
        assert panel.letter is not None
        assert panel.letter.ground_px is not None
        x1, y1, x2, y2 = panel.letter.ground_px
        grounds[y1:y2, x1:x2] = True
    assert changed.sum() > 0.5 * grounds.sum()
    assert not (changed & ~grounds).any()


def test_photographs_that_touch_differ_in_colour():
    for seed in range(12):
        composite = drawn(seed, 2, CompositeStyle(gutter_px=0, letter_place="none"))
        photographs = [composite.picture(i) for i, p in enumerate(composite.panels) if p.kind != "chart"]
        if len(photographs) == 2:
            first, second = (picture.mean((0, 1)) for picture in photographs)
            assert np.linalg.norm(first - second) > 10


def test_styles_vary(composites):
    styles = [draw_style(np.random.default_rng(seed)) for seed in range(300)]

    for field, values in (
        ("background", {"white", "black"}),
        ("letter_place", {"inside", "above", "below", "none"}),
        ("letter_corner", {"tl", "tr", "bl", "br"}),
        ("letter_ground", {"dark", "light", "plain"}),
    ):
        assert {getattr(style, field) for style in styles} == values
    assert min(style.gutter_px for style in styles) == 0
    assert max(style.gutter_px for style in styles) == 16
    assert {panel.kind for composite in composites for panel in composite.panels} == {
        "tissue",
        "cells",
        "chart",
    }


@pytest.mark.parametrize(
    ("form", "printed", "canonical"),
    [("A", "C", "C"), ("(a)", "(c)", "C"), ("A.", "C.", "C"), ("1", "3", "3"), ("I", "III", "III")],
)
def test_a_label_is_printed_in_the_style_and_recorded_in_upper_case(form, printed, canonical):
    style = replace(CompositeStyle(), letter_form=form)

    assert printed_label(style, 2) == printed
    assert canonical_label(style, 2) == canonical
