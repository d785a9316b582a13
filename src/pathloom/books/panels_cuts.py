"""Where a figure could be cut: gutters of one colour, and edges between pictures that touch.

A cut has a weight in the manner of log odds: above 0 the picture itself speaks for two panels, below 0 it takes a
caption or letters to make them two. What counts most is that a picture ends at the gutter along a straight, solid
edge; the white of a smear and the white of a chart have none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pathloom.books.panels_view import Floats, Ground, Region, View

GUTTER_CONTENT = 0.04
"""Content that a line of a gutter may have: leader lines, specks and a letter cross gutters, pictures do not."""
TRIM_CONTENT = 0.004
"""Content from which a line belongs to the picture and not to its margin: 4 px of 1000."""
PEEL_PX = 110
"""How deep outside letters may stand before a picture: a 24 point letter and its gap at 200 dpi."""
EDGE_DEPTH_PX = 9
"""Depth behind an edge over which its solidity is measured: more than the axis of a chart is thick."""
SOLID = 0.55
"""Content behind the straight edge of a picture; tissue with bare glass at its border leaves some of it white."""
LOOSE = 0.3
"""The same where the picture on the other side of the gutter is SOLID."""
LINED = 0.93
"""Content of a line that runs along all of an edge."""
SPARSE = 0.55
"""Content below which a region may be a chart or a drawing, whose inner white must not part it."""
PIECE_SHARE = 0.1
"""Largest connected piece on one side of a gutter over that on the other: below, one side is a legend or a number."""
MIN_GUTTER_PX = 2
MIN_CHILD_PX = 6
MAX_LINE_PX = 5
"""A band no wider may be a drawn line, the frame of a picture or the axis of a chart, and is looked at twice."""
MAX_BANDS = 8
"""Widest bands of a sparse region that are looked at, for speed; it has some dozens."""
MARGIN_PX = 7
"""Corners of a turned scan show paper this deep."""

IMAGE_WEIGHT = 5.0
"""Weight of a gap between image objects of a PDF: more than anything the pixels say."""
STRONG = 3.0
"""Weight from which a gutter needs no further evidence."""


@dataclass(frozen=True)
class Cut:
    """A cut of a region: columns (axis 0) or rows (axis 1) start to stop are left out; equal where pictures touch.

    `ground` is what the gutter shows; None where there is no gutter or only the PDF knows of it.
    """

    axis: int
    start: int
    stop: int
    weight: float
    ground: Ground | None = None


def part(region: Region, axis: int, start: int, stop: int) -> Region:
    """The columns or rows start to stop (of the working copy) of a region."""
    x1, y1, x2, y2 = region
    return (start, y1, stop, y2) if axis == 0 else (x1, start, x2, stop)


def length(region: Region, axis: int) -> int:
    return region[axis + 2] - region[axis]


def area(region: Region) -> int:
    return max(0, length(region, 0)) * max(0, length(region, 1))


def trimmed(ground: Ground, region: Region) -> Region | None:
    """The region without margins of the ground's colour; None where it holds nothing else."""
    for axis in (1, 0, 1):
        if not area(region):
            return None
        filled = np.flatnonzero(ground.occupancy(region, axis) > TRIM_CONTENT)
        if not len(filled):
            return None
        at = region[axis]
        region = part(region, axis, at + int(filled[0]), at + int(filled[-1]) + 1)
    return region


def runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Half-open stretches of true flags."""
    padded = np.concatenate([[False], flags, [False]])
    bounds = np.flatnonzero(padded[1:] != padded[:-1])
    return [(int(a), int(b)) for a, b in zip(bounds[::2], bounds[1::2], strict=True)]


@dataclass(frozen=True)
class Flank:
    """How a trimmed child ends at one side.

    `solidity` is the content of what lies just behind its first straight edge, `at` the position of that edge, and
    `lined` whether a line runs along all of it.
    """

    solidity: float
    at: int
    lined: bool


def flank(ground: Ground, child: Region, axis: int, *, last: bool) -> Flank:
    """The child's first straight edge seen from its end (last) or start, behind letters that stand before it."""
    occupancy = ground.occupancy(child, axis)
    start, stop = child[axis], child[axis + 2]
    if last:
        occupancy = occupancy[::-1]
    reach = min(PEEL_PX, len(occupancy) // 3)
    depth = min(EDGE_DEPTH_PX, max(2, len(occupancy) // 4))
    first = 0
    if occupancy[: max(3, depth // 2)].max() < LOOSE:
        rising = np.flatnonzero(occupancy[: reach + 1] >= LOOSE)
        if len(rising) and occupancy[: rising[0]].mean() < LOOSE / 2:
            first = int(rising[0])
    behind = occupancy[first + 1 : first + 1 + depth]
    solidity = float(behind.mean()) if len(behind) else 0.0
    at = stop - first if last else start + first
    return Flank(solidity, at, bool(occupancy[first : first + 3].max() >= LINED))


def gutters(view: View, region: Region, axis: int) -> list[Cut]:
    """Cuts along bands of one colour through the whole region, heaviest first."""
    found: list[Cut] = []
    for ground in view.grounds:
        inner = trimmed(ground, region)
        if inner is None:
            continue
        start, stop = inner[axis], inner[axis + 2]
        for band in _bands(ground, inner, axis):
            if band[1] - band[0] <= MAX_LINE_PX and _is_drawn_line(view, ground, inner, axis, band):
                continue
            before = trimmed(ground, part(inner, axis, start, band[0]))
            after = trimmed(ground, part(inner, axis, band[1], stop))
            if (
                before is None
                or after is None
                or min(length(before, axis), length(after, axis)) < MIN_CHILD_PX
            ):
                continue
            weight = _gutter_weight(ground, before, after, inner, axis, band)
            found.append(Cut(axis, *band, weight, ground))
    return distinct(found)


def _bands(ground: Ground, region: Region, axis: int) -> list[tuple[int, int]]:
    """Stretches of lines that show the ground; of a drawing, whose own lines are nearly empty, the widest pure ones."""
    occupancy = ground.occupancy(region, axis)
    start, last = region[axis], len(occupancy)
    found = runs(occupancy <= GUTTER_CONTENT)
    if ground.content(region) < SPARSE:
        pure = sorted(runs(occupancy <= TRIM_CONTENT), key=lambda run: run[0] - run[1])
        found = [*sorted(found, key=lambda run: run[0] - run[1])[:MAX_BANDS], *pure[:MAX_BANDS]]
    return [
        (start + a, start + b)
        for a, b in dict.fromkeys(found)
        if a > 0 and b < last and b - a >= MIN_GUTTER_PX
    ]


def _is_drawn_line(view: View, ground: Ground, region: Region, axis: int, band: tuple[int, int]) -> bool:
    """Whether a thin band is a frame or the axis of a chart: beside it lies another ground, and more of it."""
    reach = 2 * (band[1] - band[0])
    start, stop = max(region[axis], band[0] - 1 - reach), min(region[axis + 2], band[1] + 1 + reach)
    besides = part(region, axis, start, band[0] - 1), part(region, axis, band[1] + 1, stop)
    return any(
        other.content(beside) < 1 - SOLID
        for other in view.grounds
        if other is not ground
        for beside in besides
        if area(beside)
    )


def _gutter_weight(
    ground: Ground, before: Region, after: Region, whole: Region, axis: int, band: tuple[int, int]
) -> float:
    ends = flank(ground, before, axis, last=True), flank(ground, after, axis, last=False)
    framed = [
        end.lined and flank(ground, child, axis, last=not last).lined
        for end, child, last in zip(ends, (before, after), (True, False), strict=True)
    ]
    weaker, better = sorted(1.0 if frame else end.solidity for end, frame in zip(ends, framed, strict=True))
    crossings = _crossings(ground, part(whole, axis, *band), axis)
    straight = weaker >= LOOSE and better >= SOLID
    if len(crossings) and not (straight and (np.abs(crossings - 0.5) < 0.2).any()):
        return -3.0
    pieces = sorted((ground.largest_piece(before), ground.largest_piece(after)))
    if straight:
        weight = 4.0 if weaker >= SOLID else 3.0
    elif max(end.solidity for end in ends) >= 0.8:
        weight = 1.5 if pieces[0] > PIECE_SHARE * pieces[1] else 0.4 if pieces[0] == 0 else -0.5
    elif (
        ground.is_paper
        and max(ground.content(before), ground.content(after)) < SPARSE
        and pieces[0] > PIECE_SHARE * pieces[1]
    ):
        weight = _sparse_weight(before, after, whole, axis, band[1] - band[0])
    else:
        return -2.0
    if ground.content(whole) < SPARSE and not len(crossings) and ground.are_joined(before, after):
        return -3.0
    return weight


def _sparse_weight(before: Region, after: Region, whole: Region, axis: int, width: int) -> float:
    """Weight of a gutter between charts or drawings, which end nowhere straight: wide, and between like neighbours."""
    across = 1 - axis
    height = length(whole, across)
    aligned = all(abs(before[side] - after[side]) < 0.04 * height for side in (across, across + 2))
    sizes = sorted((length(before, axis), length(after, axis)))
    even = sizes[0] > 0.6 * sizes[1]
    return -0.6 + min(1.0, 40 * width / length(whole, axis)) + 0.4 * aligned + 0.4 * even


def _crossings(ground: Ground, band: Region, axis: int) -> Floats:
    """Where lines run right across the band, in 0..1 along it: leader lines, or the axis of a chart between bars."""
    occupancy = ground.occupancy(band, 1 - axis)
    near = np.convolve(occupancy, np.ones(3), mode="same")
    found = np.flatnonzero((near > 0.9) & (occupancy > 0.2))
    inner = (found >= MARGIN_PX) & (found < len(occupancy) - MARGIN_PX)
    return found[inner] / len(occupancy)


def distinct(cuts: list[Cut]) -> list[Cut]:
    """The heaviest of cuts that overlap: two grounds of like colour find the same gutter."""
    kept: list[Cut] = []
    for cut in sorted(cuts, key=lambda c: (-c.weight, c.start - c.stop)):
        if all(cut.stop <= other.start or cut.start >= other.stop for other in kept):
            kept.append(cut)
    return kept


def image_gaps(images: Sequence[Region], region: Region, axis: int) -> list[Cut]:
    """Cuts between image objects of the PDF that lie in the region, where a line passes between them."""
    inside = sorted(
        (image[axis], image[axis + 2])
        for image in images
        if all(
            region[side] - 3 <= (image[side] + image[side + 2]) / 2 <= region[side + 2] + 3 for side in (0, 1)
        )
    )
    found: list[Cut] = []
    end = inside[0][1] if inside else 0
    for start, stop in inside[1:]:
        if end + MIN_GUTTER_PX <= start and region[axis] < end and start < region[axis + 2]:
            found.append(Cut(axis, end, start, IMAGE_WEIGHT))
        end = max(end, stop)
    return found


NUM_EDGE_STRIPS = 10
EDGE_NEAR_PX = 4
EDGE_FAR_PX = 26
BLOCK_NEAR_PX = 7
LEAST_EVIDENCE = 1.0
EVEN_EVIDENCE = 1.1
CHANCE_PX = 25
"""Ratio of the step at an edge to the steps beside it: 99 of 100 pictures have no line above 1.15 and nine tenths of
the edges between drawn pictures that touch lie above it (composites of seeds 5000 to 5059)."""


def touching_edges(view: View, region: Region, axis: int, *, min_part_px: int) -> list[Cut]:
    """Cuts along edges without gutter: one line where brightness steps all the way through, and not beside it."""
    if length(region, axis) < 2 * min_part_px or length(region, 1 - axis) < min_part_px:
        return []
    across = 1 - axis
    bounds = np.linspace(region[across], region[across + 2], NUM_EDGE_STRIPS + 1).astype(int)
    strips = np.stack([view.steps(part(region, across, int(a), int(b)), axis) for a, b in pairwise(bounds)])
    mean_beside, most_beside = _beside(strips.astype(np.float32))
    steady = np.sort(strips / (mean_beside + 1.0), axis=0)[2]  # all strips but the two weakest
    alone = strips.mean(axis=0) / (most_beside + 1.0)
    evidence = np.minimum(steady, alone)
    even = EVEN_EVIDENCE + CHANCE_PX / length(region, across)
    found: list[Cut] = []
    start = region[axis]
    order = np.argsort(-evidence[min_part_px : len(evidence) - min_part_px], kind="stable") + min_part_px
    for at in order[:24]:
        if evidence[at] < LEAST_EVIDENCE or any(abs(start + at - cut.start) < min_part_px for cut in found):
            continue
        weight = float(np.clip(5.0 * (evidence[at] - even), -2.5, 3.5))
        found.append(Cut(axis, start + int(at), start + int(at), weight))
    return found


def _beside(strips: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Mean step of each strip a little to either side of each line [strips, lines], and the largest of all [lines].

    The largest tells an edge from the blocks of JPEG, which come every 8 px.
    """
    import cv2

    either: list[Floats] = []
    for values, near in ((strips, EDGE_NEAR_PX), (strips.mean(axis=0, keepdims=True), BLOCK_NEAR_PX)):
        window = EDGE_FAR_PX - near + 1
        if near == EDGE_NEAR_PX:
            values = cv2.blur(values, (window, 1), borderType=cv2.BORDER_REPLICATE)
        else:
            values = cv2.dilate(values, np.ones((1, window), np.uint8))
        shift = near + window // 2
        left, right = np.roll(values, shift, axis=1), np.roll(values, -shift, axis=1)
        left[:, :shift] = values[:, :shift]
        right[:, -shift:] = values[:, -shift:]
        either.append(np.maximum(left, right).astype(np.float64))
    return either[0], either[1][0]
