"""Text in pictures of pages, by the PP-OCRv6 models that the rapidocr package carries: nothing is downloaded.

The one recogniser reads Latin and Chinese. On drawn scans of eight books and on two real articles it gets 0.02 to 0.6 %
of the characters wrong, and less than 0.1 % are spaces, so nothing is mended. Boxes are in the frame of the picture as
given, however the page is turned; each piece of text is turned upright by itself before it is read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.books.geometry import area, height, intersection
from pathloom.books.page import Line
from pathloom.schema import Box
from pathloom.stage import UserError

# Without another source: our own choices, measured on drawn scans (phantom.scan), figures (phantom.composite), and the
# pages of Patho-R1.
DETECT_SIDE_PX = 1216
"""The longer side of a page when lines are looked for; 960 and 1600 find the same lines of books."""
MIN_SCORE = 0.5
"""Lines below are noise or strokes of drawings (the default of rapidocr)."""
TALL = 2.5
"""A piece of text so much higher than wide is a line that reads upwards; a lone letter I or 1 stays below."""
MIN_LABEL_SCORE = 0.8
"""Marks in tissue are read as letters with less."""
MAX_GLYPHS = 20
"""So many of the marks that stand out most are read at each of five brightnesses; letters are among the first three."""
SMALL_FIGURE_PX = 1000
"""Figures whose shorter side is less are enlarged twice: strokes of letters 10 px high break otherwise."""
MAX_SOLIDITY = 0.9
"""Share of its convex hull that a letter fills at most; nuclei fill more."""

_LABEL = re.compile(r"[(\[]?([A-HJ-NP-Za-hj-np-z]|[IVXivx]{1,4}|[1-9]|1\d|20)[)\].:]?")
_CJK = re.compile(r"[\u3400-\u9fff]")
_RISING = re.compile(r"[A-Zbdfhijklt0-9()\[\]/|]")
_FALLING = re.compile(r"[gjpqyQ,;()\[\]/|]")

_Pixels = NDArray[np.uint8]
Letter = tuple[str, Box, float]
"""A panel letter, its box in pixels, and the reader's confidence."""


@dataclass(frozen=True, eq=False)
class _Strip:
    """A piece of text cut from a picture and set upright, [h, w, 3]; `quad_px` its corners there, [4, 2], from the
    top left one clockwise.
    """

    pixels: _Pixels
    quad_px: NDArray[np.float32]


@dataclass(frozen=True)
class _Reading:
    text: str
    score: float


@lru_cache(maxsize=1)
def _engine(threads: int) -> Any:
    """The two models, loaded once a process. Raises UserError when the package is missing or incomplete."""
    try:
        import rapidocr
    except ImportError as error:
        raise UserError("pages that are pictures need OCR: pip install 'pathloom[books]'") from error
    folder = Path(rapidocr.__file__).parent / "models"
    models = {"Det": "PP-OCRv6_det_small.onnx", "Rec": "PP-OCRv6_rec_small.onnx"}
    for name in models.values():
        if not (folder / name).is_file():  # rapidocr itself would try to download it
            raise UserError(f"{folder / name} is missing: reinstall rapidocr")
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.use_cls": False,  # pages come the right way up
            "Global.use_preprocess_img": False,  # sizes are chosen here
            "Global.use_vertical_padding": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.limit_side_len": 32,
            "Det.unclip_ratio": 1.6,
            "Rec.rec_img_shape": [3, 48, 96],
            "Rec.rec_batch_num": 1,  # a batch is padded to its longest line: a quarter slower on a processor
            **{f"{part}.model_path": str(folder / name) for part, name in models.items()},
        }
    )


def _detect(pixels: _Pixels, side_px: int, threads: int) -> list[NDArray[np.float32]]:
    """Corners of pieces of text, [4, 2] each, in pixels of `pixels` [H, W, 3]."""
    import cv2

    scale = side_px / max(pixels.shape[:2])
    height, width = (max(32, round(side * scale / 32) * 32) for side in pixels.shape[:2])
    small = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    )
    boxes = _engine(threads)(small[:, :, ::-1], use_det=True, use_rec=False).boxes
    if boxes is None:
        return []
    to_pixels = np.array([pixels.shape[1] / width, pixels.shape[0] / height], np.float32)
    return [np.asarray(box, np.float32) * to_pixels for box in boxes]


def _cut(pixels: _Pixels, quads_px: Sequence[NDArray[np.float32]]) -> list[_Strip]:
    """The pieces in `quads_px`, each turned upright; tall ones are taken to read upwards, as an axis' name does."""
    import cv2

    strips = []
    for quad in quads_px:
        if np.linalg.norm(quad[3] - quad[0]) > TALL * np.linalg.norm(quad[1] - quad[0]):
            quad = np.roll(quad, 1, axis=0)
        width = max(2, round(float(np.linalg.norm(quad[1] - quad[0]))))
        height = max(2, round(float(np.linalg.norm(quad[3] - quad[0]))))
        upright = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        turn = cv2.getPerspectiveTransform(np.ascontiguousarray(quad), upright)
        strip = cv2.warpPerspective(
            pixels, turn, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        strips.append(_Strip(strip, quad))
    return strips


def _recognise(strips: Sequence[_Strip], threads: int) -> list[_Reading]:
    if not strips:
        return []
    found = _engine(threads).recognize_txt([strip.pixels[:, :, ::-1] for strip in strips])
    return [_Reading(text, float(score)) for text, score in zip(found.txts, found.scores, strict=True)]


def read_lines(
    pixels: PILImage.Image, width_pt: float, height_pt: float, *, threads: int = 1
) -> tuple[Line, ...]:
    """Lines of a page of the given size, top to bottom; bold and italic stay unknown (False). Raises UserError.

    A turned line's box is upright, as high as its letters, about the line's middle: around its corners it would reach
    into the lines above and below.
    """
    page = np.asarray(pixels.convert("RGB"))
    strips = _cut(page, _detect(page, DETECT_SIDE_PX, threads))
    x_pt, y_pt = width_pt / pixels.width, height_pt / pixels.height
    lines = []
    for strip, reading in zip(strips, _recognise(strips, threads), strict=True):
        if reading.score < MIN_SCORE or not reading.text.strip():
            continue
        x1, y1, x2, y2 = _ink_box(strip)
        height_px = min(x2 - x1, y2 - y1) if _is_tall(strip.quad_px) else y2 - y1
        size_pt = height_px * y_pt / _height_em(reading.text)
        box_pt = (x1 * x_pt, y1 * y_pt, x2 * x_pt, y2 * y_pt)
        lines.append(Line(text=reading.text, box_pt=box_pt, size_pt=size_pt, score=reading.score))
    return tuple(lines)


def _ink_rows(strip: _Pixels) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of the letters in a strip, without what reaches in from the lines above and below."""
    paper = np.median(strip.reshape(-1, 3), axis=0)
    contrast = np.abs(strip.astype(np.float32) - paper).max(-1)
    ink = contrast > 0.4 * max(float(np.percentile(contrast, 99)), 30.0)
    rows = ink.sum(1)
    edges = np.flatnonzero(np.diff(np.pad(rows > 1, 1).astype(np.int8)))  # of runs of inked rows
    if not len(edges):
        return (0, 0, strip.shape[1], strip.shape[0])
    top, bottom = max(edges.reshape(-1, 2), key=lambda run: int(rows[run[0] : run[1]].sum()))
    columns = np.flatnonzero(ink[top:bottom].any(0))
    return (int(columns[0]), int(top), int(columns[-1]) + 1, int(bottom))


def _ink_box(strip: _Strip) -> Box:
    """The letters' box in the picture: upright, of the letters' own width and height, about their middle."""
    height, width = strip.pixels.shape[:2]
    x1, y1, x2, y2 = _ink_rows(strip.pixels)
    corner, along, down = (
        strip.quad_px[0],
        strip.quad_px[1] - strip.quad_px[0],
        strip.quad_px[3] - strip.quad_px[0],
    )
    middle = corner + along * (x1 + x2) / 2 / width + down * (y1 + y2) / 2 / height
    half = np.array([x2 - x1, y2 - y1], np.float32) / 2
    if _is_tall(strip.quad_px):
        half = half[::-1]
    return (
        float(middle[0] - half[0]),
        float(middle[1] - half[1]),
        float(middle[0] + half[0]),
        float(middle[1] + half[1]),
    )


def _is_tall(quad_px: NDArray[np.float32]) -> bool:
    """Whether a strip was turned by a quarter to be read."""
    along = quad_px[1] - quad_px[0]
    return bool(abs(along[1]) > abs(along[0]))


def _height_em(text: str) -> float:
    """Height of the ink of a text in font sizes, by the kinds of its letters.

    Fitted to Times, Helvetica and a Chinese face on drawn scans: sizes come out within 2 %, single lines within 5 %.
    """
    if _CJK.search(text):
        return 0.95
    return 0.485 + (0.24 if _RISING.search(text) else 0.0) + (0.22 if _FALLING.search(text) else 0.0)


def read_letters(pixels: PILImage.Image, *, threads: int = 1) -> tuple[tuple[str, Box, float], ...]:
    """Panel letters and numbers printed in a figure: (label, box_px, score), labels in upper case without brackets.

    Letters are looked for twice: as text, and as single glyphs, black or white, which text detection passes over. A
    glyph is read from its own outline, so that no tissue around it disturbs, and counts only where another label of
    its kind and size stands in its row or column. Ticks of axes read as labels too. Raises UserError.
    """
    figure = np.asarray(pixels.convert("RGB"))
    text = _cut(figure, _detect(figure, DETECT_SIDE_PX, threads))
    text = [strip for strip in text if strip.pixels.shape[1] < 4 * strip.pixels.shape[0]]
    sure = _labels(text, MIN_LABEL_SCORE, threads)
    glyphs = [
        glyph
        for glyph in _labels(_glyphs(figure), MIN_LABEL_SCORE, threads)
        if not any(_same_place(glyph[1], letter[1]) for letter in sure)
    ]
    found = sure + glyphs
    kept = [glyph for glyph in glyphs if any(_in_one_series(glyph, letter) for letter in found)]
    return (*sure, *kept)


def _labels(strips: Sequence[_Strip], least_score: float, threads: int) -> list[Letter]:
    """What reads as a label, and best so in its place."""
    read: list[Letter] = []
    for strip, reading in zip(strips, _recognise(strips, threads), strict=True):
        label = _LABEL.fullmatch(reading.text.strip())
        if label is not None and reading.score >= least_score:
            read.append((label[1].upper(), _ink_box(strip), reading.score))
    found: list[Letter] = []
    for letter in sorted(read, key=lambda letter: -letter[2]):
        if not any(_same_place(letter[1], other[1]) for other in found):
            found.append(letter)
    return found


def _in_one_series(one: Letter, other: Letter) -> bool:
    """Whether two labels differ, are of a kind and a size, and stand in one row or column of panels."""
    if one[0] == other[0] or one[0].isdigit() != other[0].isdigit():
        return False
    tall = max(height(one[1]), height(other[1]))
    if min(height(one[1]), height(other[1])) < 0.65 * tall:  # "a" beside "b"
        return False
    if one[0].isdigit() and abs(int(one[0]) - int(other[0])) > 1:
        return False
    in_row = abs(one[1][3] - other[1][3]) < 0.4 * tall
    in_column = abs(one[1][0] - other[1][0]) < 0.4 * tall
    return in_row or in_column


def _same_place(one: Box, other: Box) -> bool:
    return intersection(one, other) > 0.3 * min(area(one), area(other))


def _glyphs(figure: _Pixels) -> list[_Strip]:
    """What looks like one printed letter or a few in a row, black or white: as black letters on white."""
    import cv2

    scale = 2 if min(figure.shape[:2]) < SMALL_FIGURE_PX else 1
    large = cv2.resize(figure, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    strips: list[_Strip] = []
    for light, level in ((large.max(-1), 90), (large.max(-1), 120), (large.max(-1), 150)):
        strips += _glyphs_darker(light, level)
    for dark, level in ((255 - large.min(-1), 30), (255 - large.min(-1), 70)):
        strips += _glyphs_darker(dark, level)
    return [_Strip(strip.pixels, strip.quad_px / np.float32(scale)) for strip in strips]


def _glyphs_darker(grey: _Pixels, level: int) -> list[_Strip]:
    """Those of the glyphs darker than `level` in `grey`, [H, W], that stand out most from what is around them."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats((grey < level).astype(np.uint8), connectivity=8)
    side = min(grey.shape)
    lone = [i for i in range(1, len(stats)) if _may_be_glyph(stats[i], labels, i, side)]
    ranked: list[tuple[float, _Strip]] = []
    for row in _rows(lone, stats):
        x1, y1 = stats[row, :2].min(0)
        x2, y2 = (stats[row, :2] + stats[row, 2:4]).max(0)
        pad = max(2, int(0.3 * (y2 - y1)))
        letters = np.pad(np.isin(labels[y1:y2, x1:x2], row), pad)
        around = np.pad(grey, pad, mode="edge")[y1 : y2 + 2 * pad, x1 : x2 + 2 * pad]
        contrast = float(around[~letters].mean()) - float(around[letters].mean())
        quad = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float32)
        quad += pad * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
        picture = np.where(letters, 0, 255).astype(np.uint8)
        ranked.append((contrast, _Strip(np.repeat(picture[..., None], 3, -1), quad)))
    ranked.sort(key=lambda pair: -pair[0])
    return [strip for _, strip in ranked[:MAX_GLYPHS]]


def _may_be_glyph(stat: NDArray[np.int32], labels: NDArray[np.int32], index: int, side: int) -> bool:
    """Size and outline of a letter: neither a speck nor a region, and not a blob."""
    import cv2

    left, top, wide, tall, area_px = stat.tolist()
    if not (max(9, 0.015 * side) <= tall <= 0.16 * side and 0.12 * tall <= wide <= 1.5 * tall):
        return False
    if not 0.12 * wide * tall < area_px < 0.95 * wide * tall or area_px < 12:
        return False
    piece = (labels[top : top + tall, left : left + wide] == index).astype(np.uint8)
    contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.contourArea(cv2.convexHull(contours[0]))
    return bool(area_px < MAX_SOLIDITY * hull or wide < 0.5 * tall)


def _rows(lone: Sequence[int], stats: NDArray[np.int32]) -> list[list[int]]:
    """Glyphs that stand beside each other, as II or the parts of (a), in one row; at most five."""
    rows: list[list[int]] = []
    for index in sorted(lone, key=lambda i: int(stats[i, 0])):
        left, top, _, tall, _ = stats[index].tolist()
        for row in rows:
            last_left, last_top, last_wide, last_tall, _ = stats[row[-1]].tolist()
            reach = 0.5 * max(tall, last_tall)
            overlap = min(top + tall, last_top + last_tall) - max(top, last_top)
            if 0 <= left - last_left - last_wide <= reach and overlap > 0.6 * min(tall, last_tall):
                row.append(index)
                break
        else:
            rows.append([index])
    return [row for row in rows if len(row) <= 5]
