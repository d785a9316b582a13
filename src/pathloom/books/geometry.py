"""Boxes of a page: x1, y1, x2, y2 in points, y downwards (see pathloom.figures)."""

from collections.abc import Iterable

from pathloom.schema import Box


def width(box: Box) -> float:
    return box[2] - box[0]


def height(box: Box) -> float:
    return box[3] - box[1]


def area(box: Box) -> float:
    return max(0.0, width(box)) * max(0.0, height(box))


def center_x(box: Box) -> float:
    return (box[0] + box[2]) / 2


def center_y(box: Box) -> float:
    return (box[1] + box[3]) / 2


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box that holds all; at least one is needed."""
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


def overlap_x(one: Box, other: Box) -> float:
    """Length that both cover in x; negative: the gap between them."""
    return min(one[2], other[2]) - max(one[0], other[0])


def overlap_y(one: Box, other: Box) -> float:
    return min(one[3], other[3]) - max(one[1], other[1])


def gap(one: Box, other: Box) -> float:
    """The larger of the gaps in x and y; 0 where the boxes touch or overlap."""
    return max(0.0, -overlap_x(one, other), -overlap_y(one, other))


def intersection(one: Box, other: Box) -> float:
    """Area that both cover."""
    return max(0.0, overlap_x(one, other)) * max(0.0, overlap_y(one, other))


def covered(box: Box, by: Box) -> float:
    """Share of `box` that lies in `by`; of a box without area, 1 where its middle does."""
    if not area(box):
        inside = by[0] <= center_x(box) <= by[2] and by[1] <= center_y(box) <= by[3]
        return 1.0 if inside else 0.0
    return intersection(box, by) / area(box)


def iou(one: Box, other: Box) -> float:
    """Intersection over union."""
    both = intersection(one, other)
    return both / (area(one) + area(other) - both) if both else 0.0


def grown(box: Box, by_pt: float) -> Box:
    return (box[0] - by_pt, box[1] - by_pt, box[2] + by_pt, box[3] + by_pt)
