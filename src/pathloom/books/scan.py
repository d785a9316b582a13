"""Pages that are pictures: where on the paper there is anything but paper and text.

Ink is what differs from the paper around it. Ink that hangs together is one piece: glyphs are small pieces inside the
lines that OCR found, a photograph is one piece or a few, a drawing many near each other. Only whole pieces are taken
for text, so that what OCR reads inside a photograph leaves it alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.books.geometry import area, covered, gap, grown, height, union, width
from pathloom.books.page import Graphic, Line, Page
from pathloom.images import LIMITS, BadImage
from pathloom.schema import Box

# Our own choices, made on drawn scans of eight houses (phantom.scan) and on the pages of Patho-R1 and PubLayNet.
MAX_SIDE_PX = 2400
"""Larger pages are made smaller first: 2.8 pixels a point suffice for edges within half a point."""
MIN_SIDE_PX = 32
MAX_ASPECT = 30.0
"""Smaller or longer pictures are no pages: there is no cell of paper in them. Our own choice."""
INK = 28.0
"""Levels (of 255, in the channel that differs most) between paper and ink; what shines through stays below."""
LIGHT_FALL = 45.0
"""Levels by which the paper's brightness may differ within a page."""
JOIN_PT = 1.2
"""Ink across so small a gap is one piece: glyphs of a word, dots of a halftone."""
NEAR_PT = 3.4
"""Pieces so near are one graphic; gutters between panels are 4 pt and more."""
SPECK_PT = 2.5
"""Shorter pieces are dust."""
RULE_PT = 2.5
RULE_SLOPE = 0.02
"""A rule is thinner than RULE_PT plus this share of its length: a page may lie askew by one degree."""
BAR_ASPECT = 8.0
"""A thing so much longer than high, and not higher than large type, is a bar of a running head or of a table."""
BORDER_PT = 24.0
"""A thing at the border of the scan that is thinner is the edge of the paper or the dark behind it."""
LETTER_PT = 40.0
"""Text is not higher."""
IN_TEXT = 0.8
"""A piece is text when so much of it lies in lines."""
MIN_SIDE_PT = 20.0
"""Graphics are not smaller, and frames are not narrower."""
MIN_PHOTO_PT = 40.0
"""An even ground without text that is thinner is an ornament; larger boxes that only touch are two photographs."""
FAINT = 6.0
"""Levels by which the ground of a photograph differs from paper at the least, in the median along its edge."""
PALE = 10.0
"""The same where the picture itself ends dark: fainter things beside it are colours that JPEG or the overleaf lend."""
EVEN = 14.0
"""An even ground stays within so many levels of its median."""
STROKES = 4
"""The least `num_paths` of a drawing that is no frame; layout takes up to three for a box around text."""

_Pixels = NDArray[np.uint8]
_Mask = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """A page as differences from its paper; `px` is pixels a point."""

    difference: NDArray[np.float32]  # [H, W, 3], levels over the paper, negative for ink
    ink: _Mask  # [H, W], 1 where there is more than paper
    text: _Mask  # [H, W], 1 in the lines that OCR found
    px: float


@dataclass(frozen=True, eq=False)
class _Piece:
    """Ink that hangs together; the box in pixels, half open."""

    box_px: Box
    is_frame: bool


def read_scan(pixels: PILImage.Image, number: int, width_pt: float, height_pt: float) -> Page:
    """Text and graphics of the picture of a page. Raises BadImage for one that is too large, UserError without OCR."""
    from pathloom.books.ocr import read_lines

    if pixels.width * pixels.height > LIMITS.max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"page {number}: {pixels.width}x{pixels.height} px, at most {LIMITS.max_pixels}",
        )
    if min(pixels.size) < max(MIN_SIDE_PX, max(pixels.size) / MAX_ASPECT):
        raise BadImage("too_small", f"page {number}: {pixels.width}x{pixels.height} px are no page")
    lines = read_lines(pixels, width_pt, height_pt)
    return Page(
        number=number,
        width_pt=width_pt,
        height_pt=height_pt,
        lines=lines,
        graphics=graphics_of_scan(pixels, lines, width_pt, height_pt),
        text_from="ocr" if lines else "none",
        kind="scan",
    )


def graphics_of_scan(
    pixels: PILImage.Image, lines: Sequence[Line], width_pt: float, height_pt: float
) -> tuple[Graphic, ...]:
    """Photographs ("image") and groups of strokes ("drawing") on the picture of a page, top to bottom.

    Photographs with paper between them are several graphics. A frame, an even ground and a ruled table are drawings of
    one path, so that layout can take them for what they are: boxes around text. Rules, specks, the dark border that a
    scanner leaves, and what shines through the paper are left out.
    """
    sheet = _sheet(pixels, lines, max(width_pt, height_pt))
    pieces = _pieces(sheet)
    boxes = _merged([piece.box_px for piece in pieces if not piece.is_frame], sheet.px)
    boxes = [_spread(sheet, box) if _is_dense(sheet, box) else box for box in boxes]
    found = [_graphic(sheet, box, pieces) for box in _merged(boxes, sheet.px)]
    found += [_drawing(sheet, piece.box_px, 1) for piece in pieces if piece.is_frame]
    return tuple(sorted((g for g in found if g is not None), key=lambda g: (g.box_pt[1], g.box_pt[0])))


def _sheet(pixels: PILImage.Image, lines: Sequence[Line], side_pt: float) -> _Sheet:
    import cv2

    page = np.asarray(pixels.convert("RGB"))
    scale = MAX_SIDE_PX / max(page.shape[:2])
    if scale < 1:
        page = cv2.resize(page, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    px = max(page.shape[:2]) / side_pt
    paper = _paper(page, max(4, round(8 * px)))
    difference = page.astype(np.float32) - paper
    text = np.zeros(page.shape[:2], np.uint8)
    for line in lines:
        x1, y1, x2, y2 = (max(0, round(value * px)) for value in grown(line.box_pt, 1.5))
        text[y1:y2, x1:x2] = 1
    return _Sheet(difference, (np.abs(difference).max(-1) > INK).astype(np.uint8), text, px)


def _paper(page: _Pixels, cell_px: int) -> NDArray[np.float32]:
    """The colour that the paper has at each pixel, [H, W, 3]: bright, even cells, smoothed over the page.

    Grounds of pictures are bright and even too. Paper is what most of these cells agree on, up to light that falls
    off evenly to the sides.
    """
    import cv2

    height_cells, width_cells = page.shape[0] // cell_px, page.shape[1] // cell_px
    cells = page[: height_cells * cell_px, : width_cells * cell_px]
    cells = cells.reshape(height_cells, cell_px, width_cells, cell_px, 3).transpose(0, 2, 1, 3, 4)
    cells = cells.reshape(height_cells, width_cells, -1, 3)
    light = np.percentile(cells, 80, axis=2).astype(np.float32)
    grey = light.mean(-1)
    usual = _usual_light(grey)
    grounds = np.abs(grey - usual) < LIGHT_FALL
    y, x = np.mgrid[-1 : 1 : height_cells * 1j, -1 : 1 : width_cells * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).astype(np.float32)
    near = grounds
    for slack in (20.0, 10.0, 6.0):
        shape, *_ = np.linalg.lstsq(terms[near], light[near], rcond=None)
        model = terms @ shape
        near = grounds & (np.abs(light - model).max(-1) < slack)
        if near.sum() < 0.02 * near.size:
            break
    weight = near.astype(np.float32)
    spread = 0.05 * max(weight.shape)
    share = cv2.GaussianBlur(weight, (0, 0), spread)[..., None] + 1e-3
    model += cv2.GaussianBlur((light - model) * weight[..., None], (0, 0), spread) / share
    return cv2.resize(model, (page.shape[1], page.shape[0]), interpolation=cv2.INTER_LINEAR)


def _usual_light(grey: NDArray[np.float32]) -> float:
    """The most frequent brightness among the brighter half of what a page shows."""
    counts, edges = np.histogram(grey, bins=64, range=(0, 256))
    counts[: int(np.searchsorted(edges, 130))] = 0
    if not counts.any():
        return float(grey.max())
    return float(edges[int(np.argmax(np.convolve(counts, [1, 2, 1], "same")))] + 2)


def _pieces(sheet: _Sheet) -> list[_Piece]:
    """Ink in pieces, without text, specks, rules and the border of the scan."""
    import cv2

    reach = round(JOIN_PT * sheet.px) | 1  # odd: an even kernel would move what it closes
    closed = cv2.morphologyEx(sheet.ink, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(closed, connectivity=8)
    in_text = np.bincount(labels[sheet.text > 0], minlength=len(stats)) / np.maximum(stats[:, 4], 1)
    page_height, page_width = sheet.ink.shape
    pieces = []
    for label, (left, top, wide, tall, area_px) in enumerate(stats.tolist()[1:], start=1):
        box = (float(left), float(top), float(left + wide), float(top + tall))
        thin_pt, long_pt = sorted((wide / sheet.px, tall / sheet.px))
        if long_pt < SPECK_PT or _is_rule(thin_pt, long_pt):
            continue
        at_border = left == 0 or top == 0 or left + wide == page_width or top + tall == page_height
        if at_border and (thin_pt < BORDER_PT or (wide == page_width and tall == page_height)):
            continue
        is_low = tall < LETTER_PT * sheet.px or area_px < 0.5 * wide * tall
        if is_low and in_text[label] > IN_TEXT:
            continue
        pieces.append(_Piece(box, _is_frame(labels[_cut(box)] == label, sheet.px)))
    return pieces


def _is_frame(piece: NDArray[np.bool_], px: float) -> bool:
    """Whether the piece, [h, w], runs along its box and has nothing to do with what stands inside."""
    edge = round((RULE_PT + RULE_SLOPE * max(piece.shape) / px) * px)
    inner = piece[edge:-edge, edge:-edge]
    if min(inner.shape, default=0) < MIN_SIDE_PT * px:
        return False
    sides = (piece[:edge].any(0), piece[-edge:].any(0), piece[:, :edge].any(1), piece[:, -edge:].any(1))
    return min(float(side.mean()) for side in sides) > 0.95 and float(inner.sum()) < 0.1 * float(piece.sum())


def _is_rule(thin_pt: float, long_pt: float) -> bool:
    """A line, or a bar such as those below running heads and at the head of a table."""
    return (long_pt > 30 and thin_pt < RULE_PT + RULE_SLOPE * long_pt) or (
        long_pt > BAR_ASPECT * thin_pt and thin_pt < LETTER_PT + RULE_SLOPE * long_pt
    )


def _to_px(box_pt: Box, px: float) -> Box:
    return (box_pt[0] * px, box_pt[1] * px, box_pt[2] * px, box_pt[3] * px)


def _merged(boxes: Sequence[Box], px: float) -> list[Box]:
    """Boxes that overlap or nearly touch as one, until none do."""
    boxes = sorted(boxes, key=area, reverse=True)
    merging = True
    while merging:
        merging = False
        kept: list[Box] = []
        for box in boxes:
            at = next((i for i, other in enumerate(kept) if _belong_together(other, box, px)), None)
            if at is None:
                kept.append(box)
            else:
                kept[at] = union([kept[at], box])
                merging = True
        boxes = kept
    return list(boxes)


def _belong_together(larger: Box, smaller: Box, px: float) -> bool:
    if min(width(smaller), height(smaller)) > MIN_PHOTO_PT * px:
        return (
            covered(smaller, larger) > 0.1
        )  # boxes of two photographs overlap a little on a page that lies askew
    if max(width(smaller), height(smaller)) < MIN_SIDE_PT * px:
        return gap(smaller, larger) <= JOIN_PT * px
    return gap(smaller, larger) <= NEAR_PT * px


def _cut(box: Box) -> tuple[slice, slice]:
    """Rows and columns of a box in pixels."""
    return slice(int(box[1]), int(box[3])), slice(int(box[0]), int(box[2]))


def _is_dense(sheet: _Sheet, box: Box) -> bool:
    """Whether ink covers so much of the box that it can be a photograph."""
    return min(width(box), height(box)) >= MIN_SIDE_PT * sheet.px and float(sheet.ink[_cut(box)].mean()) > 0.3


def _spread(sheet: _Sheet, box: Box) -> Box:
    """The box moved outwards to where a photograph's pale ground ends and the paper begins."""
    edges = [int(value) for value in box]
    for _ in range(2):
        for at in range(4):
            level = _level(sheet, edges, at, inside=True)
            while _level(sheet, edges, at, inside=False) >= max(FAINT, min(PALE, level / 2)):
                edges[at] += 1 if at > 1 else -1
    return (float(edges[0]), float(edges[1]), float(edges[2]), float(edges[3]))


def _level(sheet: _Sheet, edges: Sequence[int], at: int, *, inside: bool) -> float:
    """Difference from paper along an edge of the box, inside or outside: the median of what is not text, in levels.

    0 beyond the page and where text covers most of the edge.
    """
    axis = at % 2
    index = edges[at] - (1 if inside == (at > 1) else 0)
    if not 0 <= index < sheet.ink.shape[1 - axis]:
        return 0.0
    along = slice(edges[1 - axis], edges[3 - axis])
    place = (along, index) if axis == 0 else (index, along)
    free = sheet.text[place] == 0
    if free.mean() < 0.4:
        return 0.0
    return float(np.abs(np.median(sheet.difference[place][free], axis=0)).max())


def _drawing(sheet: _Sheet, box: Box, num_paths: int) -> Graphic:
    return Graphic(box_pt=_to_px(box, 1 / sheet.px), kind="drawing", num_paths=num_paths)


def _graphic(sheet: _Sheet, box: Box, pieces: Sequence[_Piece]) -> Graphic | None:
    """What the box is; None where it is too small to be anything."""
    thin_pt, long_pt = sorted((width(box) / sheet.px, height(box) / sheet.px))
    if thin_pt < MIN_SIDE_PT or _is_rule(thin_pt, long_pt):
        return None
    if _is_ground(sheet, box, thin_pt) or _is_ruled(sheet, box):
        return _drawing(sheet, box, 1)
    contrast = np.abs(sheet.difference[_cut(box)]).max(-1)
    if float((contrast > 2 * FAINT).mean()) > 0.5:
        return Graphic(box_pt=_to_px(box, 1 / sheet.px), kind="image")
    inside = sum(covered(piece.box_px, box) > 0.5 for piece in pieces)
    return _drawing(sheet, box, max(inside, STROKES))


def _is_ground(sheet: _Sheet, box: Box, thin_pt: float) -> bool:
    """Whether the box is an even colour with text on it and nothing else; it may lie askew, with paper around it."""
    import cv2

    difference, text = sheet.difference[_cut(box)], sheet.text[_cut(box)] > 0
    filled = np.abs(difference).max(-1) > FAINT
    if filled.mean() < 0.6:
        return False
    ground = np.median(difference[filled], axis=0)
    other = filled & ~text & (np.abs(difference - ground).max(-1) > EVEN)
    other_share = cv2.morphologyEx(other.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).mean()
    return bool(other_share < 0.05 and (text.mean() > 0.03 or thin_pt < MIN_PHOTO_PT))


def _is_ruled(sheet: _Sheet, box: Box) -> bool:
    """Whether, beside text, there is little but straight rules: a table or a frame."""
    import cv2

    ink = sheet.ink[_cut(box)] & (1 - sheet.text[_cut(box)])
    length = max(3, round(20 * sheet.px))
    across = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((1, length), np.uint8))
    down = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((length, 1), np.uint8))
    return float(ink.mean()) < 0.2 and float((across | down).sum()) > 0.8 * float(ink.sum())
