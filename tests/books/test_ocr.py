"""OCR of rendered pages: the text, where it stands, how large it is, and the letters on panels."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("rapidocr")

from pathloom.books.ocr import read_letters, read_lines
from pathloom.phantom.composite import CompositeStyle, draw_composite

PX = 2  # pixels a point
PARAGRAPH = (
    "The specimen was fixed in formalin and stained with",
    "haematoxylin and eosin. Sections of the pancreas show",
    "well-formed glands; 14 of 230 fields held a mitosis, and",
    "the margin (Fig. 3-2, right) was free of any tumour.",
)


def font_of(size_pt: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_pt * PX)


def write(page: Image.Image, lines: tuple[str, ...], x_pt: float, y_pt: float, size_pt: float) -> list[float]:
    """Draw lines 1.3 font sizes apart; gives their widths in points."""
    draw, font = ImageDraw.Draw(page), font_of(size_pt)
    for number, line in enumerate(lines):
        draw.text((x_pt * PX, (y_pt + 1.3 * size_pt * number) * PX), line, "black", font)
    return [draw.textlength(line, font) / PX for line in lines]


def blank(width_pt: int = 400, height_pt: int = 300) -> Image.Image:
    return Image.new("RGB", (width_pt * PX, height_pt * PX), "white")


def test_an_english_paragraph_is_read_with_its_spaces():
    page = blank()
    write(page, PARAGRAPH, 40, 60, 11)
    lines = read_lines(page, 400, 300)
    assert tuple(line.text for line in lines) == PARAGRAPH


def test_boxes_and_font_sizes_are_in_points():
    page = blank()
    widths = write(page, PARAGRAPH, 40, 60, 11)
    lines = read_lines(page, 400, 300)
    for line, width in zip(lines, widths, strict=True):
        assert line.size_pt == pytest.approx(11, rel=0.12)
        assert line.box_pt[0] == pytest.approx(40, abs=1.5)
        assert line.box_pt[2] == pytest.approx(40 + width, abs=2)
    pitches = [below.box_pt[3] - above.box_pt[3] for above, below in pairwise(lines)]
    assert np.mean(pitches) == pytest.approx(1.3 * 11, abs=0.7)


def test_lines_do_not_cross_the_gutter_of_two_columns():
    page = blank(640)
    write(page, PARAGRAPH, 20, 60, 11)
    write(page, PARAGRAPH, 330, 60, 11)
    lines = read_lines(page, 640, 300)
    assert sorted(line.text for line in lines) == sorted(PARAGRAPH * 2)
    assert all(line.box_pt[2] < 330 or line.box_pt[0] > 325 for line in lines)


def test_lines_of_a_page_that_lies_askew_stay_as_thin_as_their_letters():
    page = blank(640)
    write(page, ("  ".join(PARAGRAPH[:2]), "  ".join(PARAGRAPH[2:])), 20, 120, 11)
    askew = page.rotate(0.7, Image.Resampling.BICUBIC, fillcolor="white")
    lines = read_lines(askew, 640, 300)
    assert len(lines) == 2
    assert all(line.box_pt[3] - line.box_pt[1] < 12 for line in lines)
    assert all(line.size_pt == pytest.approx(11, rel=0.12) for line in lines)


def test_a_name_of_an_axis_is_read_upwards():
    page = blank()
    text = Image.new("RGB", (260, 30), "white")
    ImageDraw.Draw(text).text((4, 2), "Number of fields", "black", font_of(11))
    page.paste(text.rotate(90, expand=True), (80, 120))
    (line,) = read_lines(page, 400, 300)
    assert line.text == "Number of fields"
    assert line.box_pt[3] - line.box_pt[1] > 5 * (line.box_pt[2] - line.box_pt[0])
    assert line.size_pt == pytest.approx(11, rel=0.2)


def test_a_blank_page_has_no_lines_and_a_blank_figure_no_letters():
    assert read_lines(blank(), 400, 300) == ()
    assert read_letters(blank()) == ()


def test_chinese_is_read_by_the_same_model(data_root):
    page = data_root / "documents" / "patho_r1_pages" / "images" / "0001.jpg"
    if not page.is_file():
        pytest.skip(f"no {page}")
    picture = Image.open(page).convert("RGB").crop((180, 1005, 660, 1060))
    text = "".join(line.text for line in read_lines(picture, 240, 27.5))
    assert "13-19" in text
    assert sum("\u4e00" <= sign <= "\u9fff" for sign in text) >= 15


def test_panel_letters_are_found_on_tissue():
    style = CompositeStyle(gutter_px=8, letter_share=0.1)
    figure = draw_composite(np.random.default_rng(1), 4, style, width_px=700, charts=False)
    letters = read_letters(Image.fromarray(figure.pixels))
    for panel in figure.panels:
        x1, y1, x2, y2 = panel.box_px
        assert any(
            label == panel.label and x1 <= box[0] < (x1 + x2) / 2 and y1 <= box[1] < (y1 + y2) / 2
            for label, box, _ in letters
        )


def test_reading_needs_neither_network_nor_a_word_on_the_terminal():
    code = """
import socket
def refuse(*_): raise AssertionError("the network was tried")
socket.socket.connect = socket.getaddrinfo = refuse
from PIL import Image, ImageDraw, ImageFont
from pathloom.books.ocr import read_lines
page = Image.new("RGB", (600, 200), "white")
ImageDraw.Draw(page).text((40, 80), "benign glands", "black", ImageFont.load_default(40))
assert [line.text for line in read_lines(page, 300, 100)] == ["benign glands"]
assert read_lines(Image.new("RGB", (600, 200), "white"), 300, 100) == ()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
