"""Composite figures into panels: gutters and edges of the picture, letters, and what the caption lists.

The picture proposes cuts with weights (panels_cuts), every number of panels gets its best partition (panels_search),
the number of labels chooses among them, and letters or the order of reading name the panels (panels_labels).
Thresholds of these modules are our own choices, measured on phantom composites of seeds 0 to 149, plain and scanned.
"""

import math
from collections.abc import Callable, Sequence

from pydantic import Field

from pathloom.books.geometry import center_x, center_y
from pathloom.books.panels_labels import Letter, are_positions, assigned, in_reading_order, letters_among
from pathloom.books.panels_search import Leaf, Plan, Search, regions_of
from pathloom.books.panels_view import Bytes, Region, View, look_at
from pathloom.schema import Box, Record


class FoundPanel(Record):
    """A panel of a figure: `label` in upper case, "" where it has none; the box in pixels of the figure."""

    label: str
    box_px: Box
    score: float = Field(ge=0, le=1)


def split_panels(
    pixels: Bytes,
    *,
    image_boxes_px: Sequence[Box] = (),
    text_boxes: Sequence[tuple[str, Box]] = (),
    labels: Sequence[str] = (),
    find_letters: Callable[[Bytes], Sequence[Letter]] | None = None,
) -> tuple[FoundPanel, ...]:
    """The panels of a figure in reading order; a figure that is not composite gives one of the whole box.

    pixels          [H, W, 3] the figure's crop, some 200 dpi
    image_boxes_px  image objects that the PDF places in it
    text_boxes      lines of text in it, panel letters among them where the letters are text
    labels          what the caption lists, such as A, B or LEFT, RIGHT; may be wrong or incomplete
    find_letters    reads letters from the pixels (letter, box, score); asked only where there is something to name
    """
    height_px, width_px = pixels.shape[:2]
    labels = tuple(label.upper() for label in labels)
    view = look_at(pixels)
    images = [view.region_of(box) for box in image_boxes_px]
    texts = [view.region_of(box) for _, box in text_boxes]
    letters = letters_among(text_boxes, labels)
    best = _searched(view, images, texts, letters, len(labels))

    is_worth_reading = (labels or len(best.leaves) > 1) and not are_positions(labels)
    if find_letters and is_worth_reading and len(letters) < max(len(labels), len(best.leaves)):
        known = {label for label, _, _ in letters}
        read = ((label.upper(), box, score) for label, box, score in find_letters(pixels))
        letters += [one for one in read if one[0] not in known and (not labels or one[0] in labels)]
        best = _searched(view, images, texts, letters, len(labels))

    boxes = [view.box_in_figure(region, width_px, height_px) for region in regions_of(best, view, images)]
    if len(boxes) < 2:
        whole = (0.0, 0.0, float(width_px), float(height_px))
        label = labels[0] if len(labels) == 1 else ""
        return (FoundPanel(label=label, box_px=whole, score=_score(best.leaves[0], len(labels), 1)),)
    names = assigned(boxes, letters, labels)
    return tuple(
        FoundPanel(
            label=names[index], box_px=boxes[index], score=_score(best.leaves[index], len(labels), len(boxes))
        )
        for index in in_reading_order(boxes)
    )


def _searched(
    view: View, images: Sequence[Region], texts: Sequence[Region], letters: Sequence[Letter], num_labels: int
) -> Plan:
    """The best plan for as many panels as the caption lists; for as many as letters were read, or more, if none."""
    stamps = [view.region_of(box) for _, box, _ in letters]
    places = [(center_x(region), center_y(region)) for region in stamps]
    expected = max(num_labels, len({label for label, _, _ in letters}))
    if letters:
        view = view.without(stamps)
    return Search(view, places, texts, images).best(expected, at_least=not num_labels)


def _score(leaf: Leaf, num_labels: int, num_panels: int) -> float:
    """Confidence of a panel: the weight of its weakest cut, and whether the caption counts as many panels."""
    logit = 0.8 * min(leaf.weight, 4.0)
    if num_labels:
        logit += 1.0 if num_labels == num_panels else -1.0
    return 1 / (1 + math.exp(-logit))
