"""Images and drawings of a PDF page, where a viewer shows them."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.books import odd_pdfs
from tests.books.odd_pdfs import form, grey_picture, one_page, text_at

from pathloom.books.page import Graphic, Page
from pathloom.books.pdf import open_pdf, read_pdf_page, render
from pathloom.books.pdf_graphics import cluster

pytest.importorskip("pypdfium2", reason="needs the extra `books`")


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_pdf(data: bytes) -> Path:
        path = tmp_path / "book.pdf"
        path.write_bytes(data)
        return path

    return write_pdf


@pytest.fixture
def read(write: Any) -> Any:
    def read_bytes(data: bytes) -> Page:
        with open_pdf(write(data)) as document:
            return read_pdf_page(document, 1)

    return read_bytes


def boxes(page: Page, kind: str) -> list[tuple[float, ...]]:
    return [tuple(round(side, 1) for side in g.box_pt) for g in page.graphics if g.kind == kind]


def test_an_image_is_cut_as_its_clip_cuts_it(read: Any):
    page = read(one_page("q 100 100 50 40 re W n 300 0 0 300 50 50 cm /X1 Do Q", pictures=(grey_picture(),)))
    assert boxes(page, "image") == [(100, 702, 150, 742)]


def test_images_in_forms_in_forms_stand_where_a_viewer_shows_them(write: Any):
    inner = form(
        "q 0 0 50 50 re W n 100 0 0 100 0 0 cm /X1 Do Q",
        (0, 0, 80, 80),
        "2 0 0 2 10 10",
        "/XObject<</X1 6 0 R>>",
    )
    outer = form("q 1 0 0 1 5 5 cm /X2 Do Q", (0, 0, 300, 60), ".5 0 0 .5 3 3", "/XObject<</X2 7 0 R>>")
    data = one_page("q 1 0 0 1 100 200 cm /X3 Do Q", pictures=(grey_picture(), inner, outer))
    with open_pdf(write(data)) as document:
        page = read_pdf_page(document, 1)
        dark = np.asarray(render(document, 1, 2380, 3368))[..., 0] < 200
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    seen = (columns[0] / 4, rows[0] / 4, (columns[-1] + 1) / 4, (rows[-1] + 1) / 4)
    assert page.graphics[0].box_pt == pytest.approx(seen, abs=0.5)
    assert seen[3] - seen[1] < 26  # the outer form's box cuts it


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_boxes_are_those_of_the_displayed_page(write: Any, turn: int):
    content = (
        "0 0 1 rg " + text_at(150, 700, "HHHHHHH", 20) + "q 100 0 0 50 150 600 cm /X1 Do Q "
        "1 0 0 RG 3 w 200 100 m 300 100 l S"
    )
    data = one_page(
        content,
        pictures=(grey_picture(),),
        media_pt=(100, 50, 495, 792),
        keys=f"/CropBox[120 60 480 780]/Rotate {turn}",
    )
    with open_pdf(write(data)) as document:
        page = read_pdf_page(document, 1)
        assert (page.width_pt, page.height_pt) == ((360, 720) if turn % 180 == 0 else (720, 360))
        pixels = np.asarray(render(document, 1, int(page.width_pt * 2), int(page.height_pt * 2))).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    drawn = {
        "text": (blue > 200) & (red < 100),
        "image": (abs(red - 128) < 5) & (abs(blue - 128) < 5) & (abs(green - 128) < 5),
        "drawing": (red > 200) & (blue < 100),
    }
    found = {"text": page.lines[0].box_pt} | {g.kind: g.box_pt for g in page.graphics}
    for kind, ink in drawn.items():
        rows, columns = np.flatnonzero(ink.any(axis=1)) / 2, np.flatnonzero(ink.any(axis=0)) / 2
        seen = (columns[0], rows[0], columns[-1] + 0.5, rows[-1] + 0.5)
        x1, y1, x2, y2 = found[kind]
        if kind == "text":  # the box has room for descenders, at one side
            assert x1 - 0.5 <= seen[0] <= seen[2] <= x2 + 0.5
            assert y1 - 0.5 <= seen[1] <= seen[3] <= y2 + 0.5
            assert (x2 - x1) * (y2 - y1) < 1.8 * (seen[2] - seen[0]) * (seen[3] - seen[1])
        else:
            assert (x1, y1, x2, y2) == pytest.approx(seen, abs=0.6)


def test_spacers_white_sheets_and_white_fills_are_no_graphics(read: Any):
    page = read(
        one_page(
            "q 595 0 0 842 0 0 cm /X1 Do Q q 100 0 0 100 50 50 cm /X2 Do Q q 200 0 0 .5 50 300 cm /X3 Do Q "
            "1 g 50 500 100 100 re f " + "0 g " + text_at(50, 700, "Text on white."),
            pictures=(grey_picture(40, 40, 255), grey_picture(1, 1), grey_picture()),
        )
    )
    assert page.graphics == ()
    assert page.kind == "digital"


def test_an_image_cut_into_bands_is_one_and_panels_that_touch_are_two(read: Any):
    bands = "".join(f"q 200 0 0 20 50 {500 + 20 * i} cm /X1 Do Q " for i in range(8))
    bands += "".join(f"q 20 0 0 200 {300 + 20 * i} 500 cm /X1 Do Q " for i in range(5))
    panels = "q 100 0 0 100 50 200 cm /X1 Do Q q 100 0 0 100 150 200 cm /X1 Do Q "
    again = "q 100 0 0 100 50 200 cm /X1 Do Q "
    page = read(one_page(bands + panels + again, pictures=(grey_picture(),)))
    assert sorted(boxes(page, "image")) == [
        (50, 182, 250, 342),
        (50, 542, 150, 642),
        (150, 542, 250, 642),
        (300, 142, 400, 342),
    ]


def test_connected_paths_are_one_drawing_and_a_frame_is_apart_from_what_it_frames(read: Any):
    page = read(
        one_page(
            "100 100 400 300 re S "  # a frame
            "150 150 m 300 150 l S 150 150 m 150 250 l S 150 150 m 300 250 l S "  # axes and a curve in it
            "50 700 m 545 700 l S "  # a rule
            ".9 g 100 500 400 100 re f"  # a tint
        )
    )
    found = [(g.num_paths, [round(v) for v in g.box_pt]) for g in page.graphics]
    assert found == [
        (1, [100, 442, 500, 742]),
        (3, [150, 592, 300, 692]),
        (1, [50, 142, 545, 142]),
        (1, [100, 242, 500, 342]),
    ]


def test_a_curve_ends_at_its_clip(read: Any):
    page = read(one_page("q 100 100 200 100 re W n 0 150 m 595 160 l S Q"))
    (x1, y1, x2, y2) = page.graphics[0].box_pt
    assert (x1, x2) == pytest.approx((100, 300), abs=0.5)
    assert 842 - 157 < y1 < y2 < 842 - 150


def test_a_wide_stroke_is_as_high_as_its_pen(read: Any):
    page = read(one_page("40 w 100 400 m 300 400 l S"))
    assert boxes(page, "drawing") == [(100, 422, 300, 462)]


def test_no_paths_are_no_drawings():
    assert cluster([], [], (0, 0, 595, 842)) == []
    beyond = (700.0, 10.0, 800.0, 10.0, 0.0, 0.0, 0.0, 595.0, 842.0)
    assert cluster([beyond], [0.5], (0, 0, 595, 842)) == []


def test_a_page_of_twenty_thousand_paths_is_read_in_seconds(read: Any):
    begin = time.process_time()
    page = read(odd_pdfs.of_many_objects(20_000))
    assert time.process_time() - begin < 5
    first, rule = page.graphics
    assert (first.num_paths, rule.num_paths) == (20_000, 1)
    assert isinstance(first, Graphic)
    assert first.box_pt == pytest.approx((200, 342, 400, 442), abs=1)
