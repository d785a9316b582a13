"""Binding by rule: graphics of a page to figures, and figures to captions.

A caption looks above, below, left and right of itself for graphics that no prose, heading or other caption hides. The
directions of all captions of a page are chosen together, so that most graphics find a caption and the nearer, usual
place wins (the idea of scoring regions for all captions at once is that of pdffigures 2, Clark and Divvala 2016).
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from pathloom.books.elements import (
    LABEL_GAP_PT,
    LOOSE_GAP_PT,
    MIN_SIDE_PT,
    Element,
    connected,
    elements_of,
    label_boxes,
)
from pathloom.books.geometry import (
    area,
    center_x,
    center_y,
    covered,
    gap,
    height,
    overlap_x,
    overlap_y,
    union,
    width,
)
from pathloom.books.layout import Block, Layout
from pathloom.books.page import Graphic
from pathloom.books.profile import Profile
from pathloom.schema import Box

Side = Literal["above", "below", "left", "right"]
"""Where the graphics stand, seen from the caption."""

# Our own choices, in points; the pages they were made on are named in docs/log.md.
PANEL_GAP_PT = 60.0
CLOSE_GAP_PT = 8.0
IMAGE_SLACK_PT = 4.0
SCAN_SLACK_PT = 10.0
DRAWING_SLACK_PT = 16.0
MAX_REACH_PT = 320.0
MAX_COMBINATIONS = 4096
MANY = 5
"""So many elements below the only caption of a page are its figure, in rows or not."""

BOUND = 0.6
"""What it is worth that a caption has a figure at all, beside a usual side and a full share of the graphics, 1 each."""

USUAL: Mapping[Side, float] = {"above": 1.0, "below": 0.75, "left": 0.8, "right": 0.8}
"""Most captions stand below their figures; the book's own habit is learnt from its pages (`habits`)."""


@dataclass(frozen=True, eq=False)
class Found:
    """A figure on its page; `side` where its caption, if it has one, sees it."""

    box_pt: Box
    graphics: tuple[Graphic, ...]
    number: str = ""
    caption: Block | None = None
    side: Side | None = None


@dataclass(frozen=True, eq=False)
class Binding:
    """The figures of a page and the captions that found none."""

    figures: tuple[Found, ...]
    lonely: tuple[Block, ...]


@dataclass(frozen=True, eq=False)
class _View:
    """What a caption sees on one side: elements with their distance; the direct ones in its own line of sight."""

    side: Side
    distances: Mapping[int, float]
    direct: frozenset[int]


@dataclass(frozen=True)
class _Reach:
    """How far one panel leads to the next: over which gap, how exactly in line, in a row at all.

    `within_pt` is a caption that is set to the width of what it sees: what stands in the next column is not its own.
    """

    gap_pt: float
    slack_pt: float
    within_pt: Box | None
    in_rows: bool


def habits(bindings: Iterable[Binding]) -> dict[Side, float]:
    """How usual each side is in a book, from pages bound without it: 1 for the most usual, never below 0.4."""
    counts: Counter[Side] = Counter()
    for binding in bindings:
        counts.update(figure.side for figure in binding.figures if figure.side is not None)
    if counts.total() < 4:
        return dict(USUAL)
    most = max(counts.values())
    return {side: 0.4 + 0.6 * counts[side] / most for side in USUAL}


def bind(layout: Layout, book: Profile, usual: Mapping[Side, float] = USUAL) -> Binding:
    """All figures of a page, with their captions where they have one."""
    elements = elements_of(layout, book)
    captions = layout.of("caption")
    views = [_views(caption, elements, layout) for caption in captions]
    chosen = _choose(captions, views, elements, usual)
    figures: list[Found] = []
    lonely: list[Block] = []
    used: set[int] = set()
    for caption, (side, members) in zip(captions, chosen, strict=True):
        used |= set(members)
        if caption.start is not None and caption.start.kind != "figure":
            continue
        if side is None or not members:
            lonely.append(caption)
            continue
        others = [element.box_pt for index, element in enumerate(elements) if index not in members]
        figures += _figures_of(caption, side, [elements[index] for index in members], others, layout)
    rest = [element for index, element in enumerate(elements) if index not in used]
    figures += _without_caption(rest, layout)
    return Binding(tuple(sorted(figures, key=lambda f: (f.box_pt[1], f.box_pt[0]))), tuple(lonely))


def _views(caption: Block, elements: Sequence[Element], layout: Layout) -> list[_View]:
    walls = [b.box_pt for b in layout.of("body", "caption") if b is not caption]
    sides: tuple[Side, ...] = ("above", "below", "left", "right")
    several = caption.start is not None and len(caption.start.numbers) > 1
    alone = len(layout.of("caption")) == 1 and len(elements) >= MANY
    views = []
    for side in sides:
        direct: dict[int, float] = {}
        seen = [
            (_sees(caption.box_pt, element.box_pt, side), index) for index, element in enumerate(elements)
        ]
        for distance, index in sorted((d, i) for d, i in seen if d is not None and d <= MAX_REACH_PT):
            nearer = [elements[other].box_pt for other in direct]
            if not _hidden(caption.box_pt, elements[index].box_pt, [*walls, *nearer]):
                direct[index] = distance
        if direct:
            seen_pt = union(elements[index].box_pt for index in direct)
            fits = side in ("above", "below") and not several and _is_set_to(caption, seen_pt)
            reach = _Reach(
                gap_pt=2.5 * PANEL_GAP_PT if several else PANEL_GAP_PT,
                slack_pt=SCAN_SLACK_PT if layout.page.text_from == "ocr" else IMAGE_SLACK_PT,
                within_pt=caption.box_pt if fits and not alone else None,
                in_rows=not alone,
            )
            spread = _spread(direct, elements, walls, reach)
            views.append(_View(side, spread, frozenset(direct)))
    return views


def _is_set_to(caption: Block, seen_pt: Box) -> bool:
    """Whether a caption has the width of the graphics or, of a single line, their middle."""
    box, size = caption.box_pt, caption.size_pt
    justified = abs(box[0] - seen_pt[0]) < size and abs(box[2] - seen_pt[2]) < 0.25 * width(seen_pt)
    centred = len(caption.lines) == 1 and abs(center_x(box) - center_x(seen_pt)) < 0.5 * size
    return justified or centred


def _sees(caption: Box, element: Box, side: Side) -> float | None:
    """The distance to an element on that side, or None where it is elsewhere."""
    if side in ("above", "below"):
        if overlap_x(caption, element) < 0.2 * min(width(caption), width(element)):
            return None
        distance = caption[1] - element[3] if side == "above" else element[1] - caption[3]
        tolerance = min(6.0, 0.25 * height(element))
    else:
        if overlap_y(caption, element) < 0.5 * min(height(caption), height(element)):
            return None
        distance = caption[0] - element[2] if side == "left" else element[0] - caption[2]
        tolerance = min(6.0, 0.25 * width(element))
    return max(distance, 0.0) if distance >= -tolerance else None


def _between(one: Box, other: Box) -> Box | None:
    """The strip between two boxes that stand above or beside each other; None where they overlap."""
    if overlap_y(one, other) < 0 <= overlap_x(one, other):
        return (max(one[0], other[0]), min(one[3], other[3]), min(one[2], other[2]), max(one[1], other[1]))
    if overlap_x(one, other) < 0 <= overlap_y(one, other):
        return (min(one[2], other[2]), max(one[1], other[1]), max(one[0], other[0]), min(one[3], other[3]))
    return None


def _hidden(one: Box, other: Box, walls: Iterable[Box]) -> bool:
    strip = _between(one, other)
    return strip is not None and any(
        overlap_x(strip, wall) > 0.1 * min(width(strip), width(wall))
        and overlap_y(strip, wall) > 0.3 * min(height(strip), height(wall))
        for wall in walls
    )


def _spread(
    direct: Mapping[int, float], elements: Sequence[Element], walls: Sequence[Box], reach: _Reach
) -> dict[int, float]:
    """From what a caption sees to what stands beside that without anything between: the other panels."""
    distances: dict[int, float] = {}
    queue = [(distance, index) for index, distance in direct.items()]
    heapq.heapify(queue)
    while queue:
        distance, index = heapq.heappop(queue)
        if index in distances:
            continue
        distances[index] = distance
        box = elements[index].box_pt
        group = union(elements[i].box_pt for i in distances)
        for other, element in enumerate(elements):
            step = gap(box, element.box_pt)
            if other in distances or step > reach.gap_pt:
                continue
            if reach.within_pt and step >= LOOSE_GAP_PT and overlap_x(element.box_pt, reach.within_pt) <= 0:
                continue
            in_row = not reach.in_rows or _in_line(box, element, group, reach.slack_pt)
            if in_row and not _hidden(box, element.box_pt, walls):
                heapq.heappush(queue, (distance + step, other))
    return distances


def _in_line(box: Box, element: Element, group: Box, slack_pt: float) -> bool:
    """Panels of one figure stand in rows and columns: one of their sides is in line, or they nearly touch."""
    if gap(box, element.box_pt) <= CLOSE_GAP_PT:
        return True
    slack_pt = slack_pt if all(g.kind == "image" for g in element.graphics) else DRAWING_SLACK_PT
    axis = 0 if overlap_x(box, element.box_pt) > 0 else 1
    if axis == 1 and overlap_y(box, element.box_pt) <= 0:
        return False
    other = element.box_pt
    return any(
        abs(difference) <= slack_pt
        for known in (box, group)
        for difference in (known[axis] - other[axis], known[axis + 2] - other[axis + 2])
    )


def _choose(
    captions: Sequence[Block],
    views: Sequence[Sequence[_View]],
    elements: Sequence[Element],
    usual: Mapping[Side, float],
) -> list[tuple[Side | None, list[int]]]:
    """A side and elements for each caption, best for the page as a whole."""
    most = MAX_COMBINATIONS // max(1, len(captions) * len(elements) // 64)
    options: list[list[_View | None]] = [[*found, None] for found in views]
    combinations = 1
    for index, option in enumerate(options):
        combinations *= len(option)
        if combinations > most:  # a page of many captions: the rest take their nearest view
            options[index] = [min(option, key=lambda v: min(v.distances.values()) if v else MAX_REACH_PT)]
            combinations //= len(option)
    total = sum(area(element.box_pt) for element in elements) or 1.0
    best: tuple[float, list[tuple[Side | None, list[int]]]] = (-1e9, [])
    for combination in product(*options):
        shares = _share_out(combination, len(elements))
        score = 0.0
        for caption, view, members in zip(captions, combination, shares, strict=True):
            score += _worth(caption, view, members, elements, total, usual)
        if score > best[0]:
            sides = [view.side if view else None for view in combination]
            best = (score, list(zip(sides, shares, strict=True)))
    return best[1]


def _share_out(combination: Sequence[_View | None], num_elements: int) -> list[list[int]]:
    """Each element to the caption that sees it itself, then to the nearest."""
    shares: list[list[int]] = [[] for _ in combination]
    for element in range(num_elements):
        claims = [
            (element not in view.direct, view.distances[element], number)
            for number, view in enumerate(combination)
            if view is not None and element in view.distances
        ]
        if claims:
            shares[min(claims)[2]].append(element)
    return shares


def _worth(
    caption: Block,
    view: _View | None,
    members: Sequence[int],
    elements: Sequence[Element],
    total: float,
    usual: Mapping[Side, float],
) -> float:
    if view is None or not members:
        return 0.0
    is_table = caption.start is not None and caption.start.kind == "table"
    if is_table and any(g.kind == "image" for i in members for g in elements[i].graphics):
        return -1.0
    side: Side = view.side
    habit = {"above": 0.7, "below": 1.0, "left": 0.4, "right": 0.4}[side] if is_table else usual[side]
    nearest = min(view.distances[index] for index in members)
    box = union(elements[index].box_pt for index in members)
    axis = 0 if side in ("above", "below") else 1
    askew = _askew(box, caption.box_pt, axis)
    share = sum(area(elements[index].box_pt) for index in members) / total
    return BOUND + habit + share - nearest / 150 - 0.5 * askew


def _askew(one: Box, other: Box, axis: int) -> float:
    """How far neither the first sides, nor the last, nor the middles are in line, as a share of the longer."""
    first, last = one[axis] - other[axis], one[axis + 2] - other[axis + 2]
    length = max(one[axis + 2] - one[axis], other[axis + 2] - other[axis])
    return min(abs(first), abs(last), abs(first + last) / 2) / length


def _figures_of(
    caption: Block, side: Side, members: Sequence[Element], others: Sequence[Box], layout: Layout
) -> list[Found]:
    numbers = caption.start.numbers if caption.start else ()
    groups = _split_among(members, len(numbers)) if len(numbers) > 1 else [list(members)]
    if len(groups) != len(numbers):
        groups = [list(members)] * max(1, len(numbers))
    return [
        Found(
            _with_labels(group, others, layout, caption),
            tuple(g for e in group for g in e.graphics),
            number,
            caption,
            side,
        )
        for group, number in zip(groups, numbers or ("",), strict=True)
    ]


def _split_among(members: Sequence[Element], count: int) -> list[list[Element]]:
    """Elements of a caption that names several figures: by the widest gaps in x, else in y, in reading order."""
    for axis in (0, 1):
        ordered = sorted(members, key=lambda element: element.box_pt[axis])
        ends = [max(e.box_pt[axis + 2] for e in ordered[: i + 1]) for i in range(len(ordered))]
        gaps = [(ordered[i + 1].box_pt[axis] - ends[i], i + 1) for i in range(len(ordered) - 1)]
        cuts = sorted(at for size, at in sorted(gaps, reverse=True)[: count - 1] if size > 0)
        if len(cuts) == count - 1:
            return [ordered[start:end] for start, end in zip([0, *cuts], [*cuts, len(ordered)], strict=True)]
    return [list(members)]


def _with_labels(members: Sequence[Element], others: Sequence[Box], layout: Layout, caption: Block) -> Box:
    """The box of the elements and of the letters, ticks and titles that stand around them and not at others."""
    box = union(element.box_pt for element in members)
    labels = [one for one in label_boxes(layout) if not any(covered(one, other) > 0.5 for other in others)]
    labels += [block.box_pt for block in layout.of("title") if _stands_at(block.box_pt, box, caption)]
    walls = [block.box_pt for block in layout.of("body", "caption")]
    grew = True
    while grew:
        grew = False
        for label in list(labels):
            if gap(label, box) > LABEL_GAP_PT or width(label) > 1.7 * width(box):
                continue
            bigger = union([box, label])
            if any(covered(wall, bigger) > 0.1 + covered(wall, box) for wall in walls):
                continue
            labels.remove(label)
            grew = grew or bigger != box
            box = bigger
    return box


def _stands_at(title: Box, figure: Box, caption: Block) -> bool:
    """Large type beside a figure, over its middle, or between it and its caption is no heading."""
    if overlap_y(title, figure) > 0.5 * height(title):
        return True
    if gap(title, figure) <= LABEL_GAP_PT and abs(center_x(title) - center_x(figure)) < 0.08 * width(figure):
        return True
    top, bottom = sorted((center_y(figure), center_y(caption.box_pt)))
    return overlap_x(title, figure) > 0.9 * width(title) and top < center_y(title) < bottom


def _without_caption(rest: Sequence[Element], layout: Layout) -> list[Found]:
    page = layout.page
    groups = connected([element.box_pt for element in rest], LOOSE_GAP_PT)
    found = []
    for group in groups:
        box = union(rest[index].box_pt for index in group)
        graphics = tuple(g for index in group for g in rest[index].graphics)
        if min(width(box), height(box)) < MIN_SIDE_PT or area(box) < 0.008 * page.width_pt * page.height_pt:
            continue
        if not any(graphic.kind == "image" for graphic in graphics):
            continue  # a drawing without a caption is a table, a frame or an ornament more often than a figure
        found.append(Found(box, graphics))
    return found
