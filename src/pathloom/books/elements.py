"""From graphics to elements: what on a page may be part of a figure, and what is a rule or a box around text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pathloom.books.geometry import area, covered, gap, height, union, width
from pathloom.books.layout import Layout
from pathloom.books.page import Graphic
from pathloom.books.profile import Profile, is_decoration
from pathloom.schema import Box

# Our own choices, in points; the pages they were made on are named in docs/log.md.
TOUCHES_PT = 3.0
LOOSE_GAP_PT = 14.0
DOT_PT = 12.0
MIN_DOTS = 6
LABEL_GAP_PT = 16.0
MIN_SIDE_PT = 30.0
GROUND_PATHS = 3
GROUND_TEXT = 0.2
SENTENCE_CHARS = 40
"""A drawing of so few paths is a box around text where text covers this share or a line so long stands in it."""


@dataclass(frozen=True, eq=False)
class Element:
    """Graphics that touch: the smallest thing that belongs to one figure."""

    box_pt: Box
    graphics: tuple[Graphic, ...]


def elements_of(layout: Layout, book: Profile) -> list[Element]:
    """The graphics of a page that may be figures; rules, grounds of text and the page's furniture are none."""
    graphics = [g for g in layout.page.graphics if _may_be_figure(g, layout, book)]
    solid = [g for g in graphics if g.kind == "image" or not _is_slight(g.box_pt)]
    slight = [g for g in graphics if g.kind == "drawing" and _is_slight(g.box_pt)]
    groups = [[solid[i] for i in group] for group in connected([g.box_pt for g in solid], TOUCHES_PT)]
    for group in connected([g.box_pt for g in slight], LOOSE_GAP_PT):
        members = [slight[i] for i in group]
        if _is_plot(members):
            groups.append(members)
    boxes = [union(g.box_pt for g in group) for group in groups]
    merged = [[g for at in one for g in groups[at]] for one in connected(boxes, 0.0)]
    return [Element(_with_ticks(group, layout), tuple(group)) for group in merged]


def _with_ticks(group: Sequence[Graphic], layout: Layout) -> Box:
    """The box of graphics; of a drawing with the short texts at its sides, an axis' numbers and name."""
    box = union(g.box_pt for g in group)
    if all(g.kind == "image" for g in group):
        return box
    return union([box, *(label for label in label_boxes(layout) if gap(label, box) <= LABEL_GAP_PT)])


def label_boxes(layout: Layout) -> list[Box]:
    """Lines of short texts: letters, ticks, names of axes; not a list of references."""
    short = [b for b in layout.of("other") if max(len(line.text) for line in b.lines) < SENTENCE_CHARS]
    return [line.box_pt for block in short for line in block.lines]


def _is_slight(box: Box) -> bool:
    """A stroke or a dot, which alone is a rule or an ornament."""
    return min(width(box), height(box)) < TOUCHES_PT or max(width(box), height(box)) < DOT_PT


def _is_plot(members: Sequence[Graphic]) -> bool:
    """Strokes and dots that spread in both directions, as points of measurement and axes do and rules do not."""
    box = union(g.box_pt for g in members)
    level = sum(height(g.box_pt) < TOUCHES_PT < width(g.box_pt) for g in members)
    return min(width(box), height(box)) >= MIN_SIDE_PT and len(members) - level >= MIN_DOTS


def _may_be_figure(graphic: Graphic, layout: Layout, book: Profile) -> bool:
    box, page = graphic.box_pt, layout.page
    if is_decoration(box, book) or (graphic.kind == "image" and min(width(box), height(box)) < TOUCHES_PT):
        return False
    blocks = [b for b in layout.blocks if b.role != "margin" and covered(b.box_pt, box) > 0.8]
    prose = [b for b in blocks if b.role in ("body", "caption")]
    if graphic.kind == "drawing" and graphic.num_paths <= GROUND_PATHS:
        text = sum(area(line.box_pt) for block in blocks for line in block.lines)
        lines = [line for block in blocks for line in block.lines]
        long = any(len(line.text) >= SENTENCE_CHARS for line in lines)
        listed = sum(width(line.box_pt) > GROUND_TEXT * width(box) for line in lines) >= 4
        if prose or long or listed or text > GROUND_TEXT * area(box):
            return False  # a frame or a coloured ground of text
    if (
        sum(len(block.lines) for block in prose) >= 3
    ):  # a ground of many strokes, or a scan under its own text layer
        return False
    return area(box) < 0.97 * page.width_pt * page.height_pt or not prose


def connected(boxes: Sequence[Box], distance_pt: float) -> list[list[int]]:
    """Indices of boxes that touch one another, directly or through others, within the distance."""
    root = list(range(len(boxes)))

    def find(index: int) -> int:
        while root[index] != index:
            root[index] = root[root[index]]
            index = root[index]
        return index

    sides = np.array(boxes, dtype=float).reshape(-1, 4)
    for one in range(len(boxes)):
        x1, y1, x2, y2 = sides[one]
        rest = sides[one + 1 :]
        apart = np.maximum.reduce([rest[:, 0] - x2, x1 - rest[:, 2], rest[:, 1] - y2, y1 - rest[:, 3]])
        for other in np.flatnonzero(apart <= distance_pt):
            root[find(one + 1 + int(other))] = find(one)
    groups: dict[int, list[int]] = {}
    for index in range(len(boxes)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())
