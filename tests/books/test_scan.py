"""Graphics of pages that are pictures: photographs to the pixel, drawings, and what is neither."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

pytest.importorskip("cv2")

from pathloom.books.geometry import covered, gap, iou, union
from pathloom.books.page import Graphic, Line
from pathloom.books.scan import graphics_of_scan, read_scan
from pathloom.images import LIMITS, BadImage
from pathloom.phantom.scan import Wear, degrade
from pathloom.phantom.tissue import draw_tissue
from pathloom.schema import Box

WIDTH_PT, HEIGHT_PT = 600, 840
PX = 2  # pixels a point
WORN = Wear(
    dpi=144,
    paper_rgb=(246, 243, 236),
    light_fall=(0.06, -0.04),
    blur_px=0.6,
    noise_sd=3.0,
    bleed_through=0.06,
    jpeg_quality=75,
    grey=False,
)


def blank() -> Image.Image:
    return Image.new("RGB", (WIDTH_PT * PX, HEIGHT_PT * PX), "white")


def put_photo(page: Image.Image, box_pt: Box, seed: int = 0) -> None:
    x1, y1, x2, y2 = (round(value * PX) for value in box_pt)
    tissue = draw_tissue(seed, size_px=128).pixels_rgb
    page.paste(Image.fromarray(tissue).resize((x2 - x1, y2 - y1), Image.Resampling.BICUBIC), (x1, y1))


def put_text(page: Image.Image, box_pt: Box) -> list[Line]:
    """Lines of 10 pt that fill the box, and the Lines that OCR would give."""
    draw, font, lines = ImageDraw.Draw(page), ImageFont.load_default(10 * PX), []
    text = "glands and stroma of the organ " * 8
    while draw.textlength(text, font) > (box_pt[2] - box_pt[0]) * PX:
        text = text[:-1]
    for top_pt in np.arange(box_pt[1], box_pt[3] - 12, 13.0):
        draw.text((box_pt[0] * PX, top_pt * PX), text, "black", font)
        left, top, right, bottom = draw.textbbox((box_pt[0] * PX, top_pt * PX), text, font)
        lines.append(
            Line(text=text, box_pt=(left / PX, top / PX, right / PX, bottom / PX), size_pt=10, score=0.99)
        )
    return lines


def found_in(page: Image.Image, lines: list[Line] | None = None) -> tuple[Graphic, ...]:
    return graphics_of_scan(page, lines or [], WIDTH_PT, HEIGHT_PT)


def assert_same(box: Box, other: Box, within_pt: float) -> None:
    assert np.abs(np.subtract(box, other)).max() <= within_pt, (box, other)


def test_a_blank_scan_has_no_graphics():
    worn = degrade(np.asarray(blank()), np.random.default_rng(1), WORN)
    assert found_in(blank()) == ()
    assert found_in(Image.fromarray(worn)) == ()


def test_a_photograph_on_paper_is_found_to_the_pixel():
    page, box = blank(), (60.0, 100.0, 320.0, 290.0)
    put_photo(page, box)
    lines = put_text(page, (60, 300, 540, 500))
    (photo,) = found_in(page, lines)
    assert photo.kind == "image"
    assert_same(photo.box_pt, box, 1 / PX)


def test_photographs_on_a_worn_page_stand_alone_with_a_gutter_of_5_pt():
    page, left, right = blank(), (60.0, 100.0, 280.0, 260.0), (285.0, 100.0, 505.0, 260.0)
    put_photo(page, left, 1)
    put_photo(page, right, 2)
    lines = put_text(page, (60, 280, 540, 700))
    overleaf = blank()
    put_text(overleaf, (60, 60, 540, 780))
    worn = degrade(np.asarray(page), np.random.default_rng(2), WORN, overleaf=np.asarray(overleaf))
    photos = sorted(found_in(Image.fromarray(worn), lines), key=lambda graphic: graphic.box_pt[0])
    assert [photo.kind for photo in photos] == ["image", "image"]
    assert_same(photos[0].box_pt, left, 2 / PX)
    assert_same(photos[1].box_pt, right, 2 / PX)


def test_the_pale_ground_of_a_photograph_belongs_to_it():
    page, box = blank(), (100, 100, 400, 300)
    draw = ImageDraw.Draw(page)
    draw.rectangle([value * PX for value in box], fill=(240, 238, 236))
    put_photo(page, (160, 140, 340, 260))
    (photo,) = found_in(page)
    assert_same(photo.box_pt, box, 2 / PX)


def test_text_that_ocr_sees_in_a_photograph_leaves_it_whole():
    page, box = blank(), (60.0, 100.0, 320.0, 290.0)
    put_photo(page, box)
    inside = [Line(text="100 um", box_pt=(62, 102, 318, 140), size_pt=30, score=0.6)]
    (photo,) = found_in(page, inside)
    assert_same(photo.box_pt, box, 1 / PX)


def test_a_chart_is_one_drawing_of_several_strokes():
    page = blank()
    draw = ImageDraw.Draw(page)
    draw.line([(200, 200), (200, 600), (800, 600)], "black", 3)
    draw.line([(200, 580), (350, 420), (500, 460), (650, 300), (780, 220)], "red", 4)
    draw.line([(200, 500), (350, 520), (500, 360), (650, 380), (780, 300)], "blue", 4)
    (chart,) = found_in(page)
    assert (chart.kind, chart.num_paths > 3) == ("drawing", True)
    assert_same(chart.box_pt, (100, 100, 400, 300), 2)


@pytest.mark.parametrize("look", ["frame", "ground", "table"])
def test_a_box_around_text_is_a_drawing_of_one_path(look: str):
    page, box = blank(), (60, 100, 400, 260)
    draw = ImageDraw.Draw(page)
    corners = [value * PX for value in box]
    draw.rectangle(corners, outline="black", fill=(215, 228, 240) if look == "ground" else None, width=2)
    if look == "table":
        for x_pt in (180, 290):
            draw.line([(x_pt * PX, 100 * PX), (x_pt * PX, 260 * PX)], "black", 2)
    lines = put_text(page, (66, 108, 170, 255))
    (graphic,) = found_in(page, lines)
    assert (graphic.kind, graphic.num_paths) == ("drawing", 1)
    assert_same(graphic.box_pt, box, 2)


def test_rules_bars_dust_and_the_dark_edge_of_a_scan_are_no_graphics():
    page = blank()
    draw = ImageDraw.Draw(page)
    draw.rectangle([0, 0, 30, page.height], fill=(25, 20, 20))  # behind the paper
    draw.line([(120, 100), (1080, 104)], "black", 3)
    draw.rectangle([120, 140, 1080, 170], fill=(20, 110, 90))
    for x in range(100, 1100, 90):
        draw.rectangle([x, 900, x + 2, 902], fill="black")
    assert found_in(page) == ()


def test_a_picture_larger_than_the_cap_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pathloom.books.scan.LIMITS", type(LIMITS)(max_pixels=1000))
    with pytest.raises(BadImage, match="at most 1000"):
        read_scan(blank(), 1, WIDTH_PT, HEIGHT_PT)


def test_a_scan_is_read_into_a_page_of_lines_and_graphics():
    pytest.importorskip("rapidocr")
    page = blank()
    put_photo(page, (60, 100, 320, 290))
    put_text(page, (60, 310, 320, 360))
    read = read_scan(page, 7, WIDTH_PT, HEIGHT_PT)
    assert (read.number, read.kind, read.text_from, len(read.graphics)) == (7, "scan", "ocr", 1)
    assert [line.text[:18] for line in read.lines] == ["glands and stroma "] * 3
    empty = read_scan(blank(), 8, WIDTH_PT, HEIGHT_PT)
    assert (empty.lines, empty.graphics, empty.text_from) == ((), (), "none")


def _scanned(path: Path) -> tuple[Image.Image, float]:
    """The picture of a page and its points a pixel."""
    picture = Image.open(path).convert("RGB")
    return picture, 842 / max(picture.size)


def _patho_r1(data_root: Path) -> Path:
    folder = data_root / "documents" / "patho_r1_pages"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", ["images", "high_res"])
def test_each_panel_of_the_textbook_pages_is_a_graphic(data_root: Path, size: str):
    folder = _patho_r1(data_root)
    overlaps = []
    for truth in sorted(folder.glob("images/*_ali.json")):
        small, pt = _scanned(folder / "images" / f"{truth.name[:4]}.jpg")
        picture, _ = _scanned(folder / size / f"{truth.name[:4]}.jpg")
        page = read_scan(picture, 1, small.width * pt, small.height * pt)
        for entry in json.loads(truth.read_text()):
            panel = tuple(value * pt for value in entry["bbox"])
            overlaps.append(max(iou(panel, graphic.box_pt) for graphic in page.graphics))
    assert len(overlaps) == 6
    assert min(overlaps) > 0.95


def _joined(graphics: tuple[Graphic, ...]) -> list[Box]:
    """Graphics within 42 pt of each other as one figure, as binding reaches from panel to panel."""
    boxes = [graphic.box_pt for graphic in graphics]
    joining = True
    while joining:
        joining = False
        for one in range(len(boxes)):
            other = next((i for i in range(one + 1, len(boxes)) if gap(boxes[one], boxes[i]) < 42), None)
            if other is not None:
                boxes[one] = union([boxes[one], boxes.pop(other)])
                joining = True
                break
    return boxes


@pytest.mark.slow
def test_the_figures_of_articles_are_covered(data_root: Path):
    folder = data_root / "documents" / "publaynet"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    samples = json.loads((folder / "samples.json").read_text())
    kinds = {category["id"]: category["name"] for category in samples["categories"]}
    checked = 0
    for image in samples["images"]:
        picture, pt = _scanned(folder / image["file_name"])
        truth = [a for a in samples["annotations"] if a["image_id"] == image["id"]]
        figures = [a["bbox"] for a in truth if kinds[a["category_id"]] == "figure"]
        if not figures:
            continue
        page = read_scan(picture, 1, picture.width * pt, picture.height * pt)
        found = _joined(page.graphics)
        for x, y, width, height in figures:
            box = (x * pt, y * pt, (x + width) * pt, (y + height) * pt)
            if height * pt < 30:
                continue  # the upper rim of a frame around a caption, listed as a figure
            assert max(iou(box, other) for other in found) >= 0.5, image["file_name"]
            checked += 1
        for x, y, width, height in (a["bbox"] for a in truth if kinds[a["category_id"]] == "text"):
            box = (x * pt, y * pt, (x + width) * pt, (y + height) * pt)
            photos = [graphic for graphic in page.graphics if graphic.kind == "image"]
            assert all(covered(photo.box_pt, box) < 0.5 for photo in photos), image["file_name"]
    assert checked == 6
