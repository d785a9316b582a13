"""From the boxes of a field to its anchor cells, and from an anchor to its tile: plain geometry.

A tile lies inside its field: near an edge it is shifted, so that its context is always real, and its anchor is then
off its middle. Only where the field is smaller than the tile it is filled with the median colour of what is there.
"""

import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image as PILImage

from pathloom.ingest.anchor import mark_anchor
from pathloom.ingest.box_files import Fault
from pathloom.schema import Box
from pathloom.slides.reader import best_level, open_levels, read_region

SAME_CELL_IOU = 0.7
"""Boxes that overlap at least so much are one cell that was marked twice. Our own choice."""


class Anchor(NamedTuple):
    """A cell: its box in whole pixels of the field, the label in the box file, whether the field's edge cuts it."""

    box_px: tuple[int, int, int, int]
    label: str
    is_cut: bool = False


class Field(Protocol):
    """A picture that gives parts of itself; a slide or a decoded field."""

    size_px: tuple[int, int]
    mpp: float | None

    def crop(self, left: int, top: int, width: int, height: int, shrink: float) -> PILImage.Image: ...


class PictureField:
    """A field that was decoded as a whole."""

    def __init__(self, pixels: PILImage.Image, mpp: float | None) -> None:
        self._pixels, self.size_px, self.mpp = pixels, pixels.size, mpp

    def crop(self, left: int, top: int, width: int, height: int, shrink: float) -> PILImage.Image:
        return self._pixels.crop((left, top, left + width, top + height))


class SlideField:
    """An open slide, which need not say its resolution: sizes and places in pixels of its level 0."""

    def __init__(self, path: Path) -> None:
        """Raises BadImage with the reader's reason."""
        self._path, self._levels = path, open_levels(path)
        weakref.finalize(self, self._levels.close)  # a cache lets go of fields without closing them
        self.size_px = self._levels.level_sizes_px[0]
        self.mpp = self._levels.mpp_xy and sum(self._levels.mpp_xy) / 2

    def crop(self, left: int, top: int, width: int, height: int, shrink: float) -> PILImage.Image:
        """From the level nearest above `shrink` (level-0 pixels by wanted ones); it may be smaller. Raises BadImage."""
        level = best_level(self._levels.level_downsamples, shrink)
        by = self._levels.level_downsamples[level]
        size_px = (max(1, round(width / by)), max(1, round(height / by)))
        return PILImage.fromarray(read_region(self._path, self._levels, (left, top), level, size_px))


def choose_anchors(
    boxes: Sequence[tuple[str, Box]],
    size_px: tuple[int, int],
    *,
    sides_px: tuple[float, float],
    most: int,
    seed: int,
) -> tuple[tuple[Anchor, ...], tuple[tuple[Anchor, Fault], ...]]:
    """The cells of a field that get a tile, in reading order, and those that do not with the reason.

    Boxes are widened to whole pixels and cut at the field's edge. `sides_px` are the least shorter and the largest
    longer side. Of more than `most` cells those are taken that lie far from one another.
    """
    fitting: list[Anchor] = []
    refused: list[tuple[Anchor, Fault]] = []
    for label, box in boxes:
        placed = _place(label, box, size_px)
        fault = _fault(placed.box_px, size_px, sides_px)
        if fault:
            refused.append((placed, fault))
        else:
            fitting.append(placed)
    single, marked_twice = _merge(fitting)
    spread = _spread(single, most, seed)
    taken = set(spread)
    beyond = Fault("over_max_cells", f"{len(single)} cells; {most} are taken")
    refused += marked_twice + [(anchor, beyond) for anchor in single if anchor not in taken]
    ordered = sorted(spread, key=lambda anchor: (anchor.box_px[1], anchor.box_px[0], anchor.box_px))
    return tuple(ordered), tuple(refused)


def _place(label: str, box: Box, size_px: tuple[int, int]) -> Anchor:
    x1, y1, x2, y2 = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if x1 >= size_px[0] or y1 >= size_px[1] or x2 <= 0 or y2 <= 0:  # shown as written
        return Anchor((x1, y1, x2, y2), label)
    inside = (max(x1, 0), max(y1, 0), min(x2, size_px[0]), min(y2, size_px[1]))
    return Anchor(inside, label, is_cut=inside != (x1, y1, x2, y2))


def _fault(
    box_px: tuple[int, int, int, int], size_px: tuple[int, int], sides_px: tuple[float, float]
) -> Fault | None:
    x1, y1, x2, y2 = box_px
    if not (x1 < x2 and y1 < y2):
        return Fault("no_area", f"{box_px} px has no area: x1 < x2 and y1 < y2 are needed")
    if x1 >= size_px[0] or y1 >= size_px[1] or x2 <= 0 or y2 <= 0:
        return Fault("outside", f"{box_px} px lies outside the field of {size_px[0]}x{size_px[1]} px")
    if min(x2 - x1, y2 - y1) < sides_px[0]:
        return Fault("too_small", f"{box_px} px has a side of less than {sides_px[0]:g} px")
    if max(x2 - x1, y2 - y1) > sides_px[1]:
        return Fault("too_large", f"{box_px} px has a side of more than {sides_px[1]:g} px")
    return None


def _merge(anchors: Sequence[Anchor]) -> tuple[list[Anchor], list[tuple[Anchor, Fault]]]:
    """Of boxes of one cell the first; none where their labels differ, for then its class is not known."""
    if not anchors:
        return [], []
    boxes = np.array([anchor.box_px for anchor in anchors], np.float64)
    by_left = np.argsort(boxes[:, 0], kind="stable")
    lefts = boxes[by_left, 0]
    first_of = np.arange(len(anchors))
    for index, (x1, _, x2, _) in enumerate(boxes):
        # Boxes of that IoU share so much of the wider one's width, so their left edges lie so near.
        near = (x2 - x1) * (1 / SAME_CELL_IOU - 1)
        start, stop = np.searchsorted(lefts, x1 - near), np.searchsorted(lefts, x1 + near, "right")
        earlier = np.sort(by_left[start:stop])
        earlier = earlier[(earlier < index) & (first_of[earlier] == earlier)]
        same = earlier[_iou(boxes[index], boxes[earlier]) >= SAME_CELL_IOU]
        if same.size:
            first_of[index] = same[0]
    firsts: list[int] = first_of.tolist()
    disputed = {first for index, first in enumerate(firsts) if anchors[index].label != anchors[first].label}
    kept, refused = [], []
    for index, (anchor, first) in enumerate(zip(anchors, firsts, strict=True)):
        if first in disputed:
            detail = f"{anchors[first].box_px} px is marked with two labels"
            refused.append((anchor, Fault("labels_disagree", detail)))
        elif first != index:
            refused.append((anchor, Fault("marked_twice", f"the cell at {anchors[first].box_px} px again")))
        else:
            kept.append(anchor)
    return kept, refused


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of one box [4] with many [n, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.maximum(high - low, 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(shared / ((box[2:] - box[:2]).prod() + areas - shared))


def _spread(anchors: Sequence[Anchor], most: int, seed: int) -> list[Anchor]:
    """Farthest-point sampling (Gonzalez, Theor Comput Sci 38, 1985) from a drawn start."""
    if len(anchors) <= most:
        return list(anchors)
    boxes = np.array([anchor.box_px for anchor in anchors], np.float64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    chosen = [int(np.random.default_rng(seed).integers(len(anchors)))]
    away = np.full(len(anchors), np.inf)
    while len(chosen) < most:
        away = np.minimum(away, ((centres - centres[chosen[-1]]) ** 2).sum(1))
        away[chosen[-1]] = -1  # cells of one centre are still two
        chosen.append(int(away.argmax()))
    return [anchors[index] for index in chosen]


def cut_tile(field: Field, anchor: Anchor, side_px: int, out_px: int) -> tuple[PILImage.Image, Box]:
    """A square of `side_px` field pixels on `out_px` pixels with the anchor framed, and the anchor's box in it.

    Raises BadImage where the field cannot be read there.
    """
    x1, y1, x2, y2 = anchor.box_px
    left, width = _interval((x1 + x2) // 2, side_px, field.size_px[0])
    top, height = _interval((y1 + y2) // 2, side_px, field.size_px[1])
    shrink = side_px / out_px
    size_px = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    part = field.crop(left, top, width, height, shrink)
    if part.size != size_px:
        part = part.resize(size_px, PILImage.Resampling.LANCZOS)
    pad_x, pad_y = (out_px - size_px[0]) // 2, (out_px - size_px[1]) // 2
    if (pad_x, pad_y) != (0, 0) or part.size != (out_px, out_px):
        tile = PILImage.new("RGB", (out_px, out_px), _edge_colour(part))
        tile.paste(part, (pad_x, pad_y))
    else:
        tile = part
    box_px = (
        pad_x + (x1 - left) * size_px[0] / width,
        pad_y + (y1 - top) * size_px[1] / height,
        pad_x + (x2 - left) * size_px[0] / width,
        pad_y + (y2 - top) * size_px[1] / height,
    )
    framed = (
        math.floor(box_px[0]), math.floor(box_px[1]), math.ceil(box_px[2]), math.ceil(box_px[3])
    )  # fmt: skip
    return mark_anchor(tile, framed), box_px


def _interval(centre: int, side_px: int, available_px: int) -> tuple[int, int]:
    """Start and length of a stretch of `side_px` around a centre, shifted into what there is."""
    length = min(side_px, available_px)
    return min(max(centre - side_px // 2, 0), available_px - length), length


def _edge_colour(part: PILImage.Image) -> tuple[int, int, int]:
    pixels = np.asarray(part)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    red, green, blue = np.median(edge, axis=0)
    return int(red), int(green), int(blue)
