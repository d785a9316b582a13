"""Segmentation: boxes or points of the things asked for, from which a segmenter draws the masks.

So one describes how SmartPath-R1 does it, with boxes that MedSAM makes masks of; the paper does not say.

The model writes places; what is graded are the masks. So an answer may be right with a loose box, and which segmenter
drew belongs to every number: the classical one of `pathloom.masks` unless `Task.score` is given another.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from pathloom.images import load_pixels
from pathloom.masks import (
    CutMask,
    Point,
    Prompt,
    Segmenter,
    cut_mask_of,
    fill_boxes,
    match_overlaps,
    overlaps,
    segment_classically,
)
from pathloom.schema import Box, Image, Region, Sample
from pathloom.tasks.boxes import BOXES, MAX_BOXES, constant_boxes, pixels_per_unit, read_rows
from pathloom.tasks.free import free_points
from pathloom.tasks.task import Answer, Task, Template

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pathloom.masks import Mask, Pixels

KEPT_PICTURES = 8
"""Decoded pictures that are kept: the answers to one question are graded one after the other."""


def _truth(sample: Sample) -> tuple[Box, ...]:
    if len(sample.images) != 1:
        raise ValueError(
            f"sample {sample.id}: masks are asked of one picture, there are {len(sample.images)}"
        )
    for region in sample.regions:
        if region.mask_png is None:
            raise ValueError(f"sample {sample.id}: the region at {region.box_px} has no mask")
    return tuple(region.box_px for region in sample.regions)


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    """Where points are asked for, a box with a known mask becomes that mask's deepest point, another its middle."""
    if template.place_as == "box":
        return BOXES.write(sample, answer, template)
    regions = {region.box_px: region for region in sample.regions}
    scale_x, scale_y = pixels_per_unit(sample, template)
    # A point is the middle of a pixel. In whole pixels that is written as the pixel's own number.
    rounded = math.floor if template.frame == "px" else round
    points = [
        _point(sample, regions.get(place), place) if len(place) == 4 else place for place in _places(answer)
    ]
    return json.dumps(
        [[rounded(x / scale_x), rounded(y / scale_y)] for x, y in points], separators=(",", ":")
    )


def _point(sample: Sample, region: Region | None, box: Box) -> Point:
    if region is None or region.mask_png is None:
        return ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return cut_mask_of(region, _size_px(sample.images[0])).deepest()


def _read(sample: Sample, text: str, template: Template) -> Answer | None:
    if template.place_as == "box":
        return BOXES.read(sample, text, template)
    rows = read_rows(text, "point_2d", 2)
    return None if rows is None else _points(sample, rows, template)


def _read_free(sample: Sample, text: str, template: Template) -> Answer | None:
    if template.place_as == "box":
        return BOXES.read_free(sample, text, template)
    rows = free_points(text)
    return None if rows is None else _points(sample, rows[:MAX_BOXES], template)


def _points(sample: Sample, rows: Sequence[Sequence[float]], template: Template) -> tuple[Point, ...] | None:
    """Rows in the template's frame to pixels; None when there are too many or a number is beyond any picture."""
    if len(rows) > MAX_BOXES or not all(abs(number) < 1e6 for row in rows for number in row):  # also NaN
        return None
    scale_x, scale_y = pixels_per_unit(sample, template)
    return tuple((x * scale_x, y * scale_y) for x, y in rows)


def _places(answer: Answer) -> tuple[Prompt, ...]:
    if not isinstance(answer, tuple):
        raise TypeError(f"places are a tuple, not {type(answer).__name__}")
    return answer


def _size_px(image: Image) -> tuple[int, int]:
    return (image.width_px, image.height_px)


@lru_cache(maxsize=KEPT_PICTURES)
def _pixels(image: Image) -> "Pixels":
    """[height, width, 3], not to be written to."""
    import numpy as np

    pixels = np.array(load_pixels(image))
    pixels.flags.writeable = False
    return pixels


@lru_cache(maxsize=KEPT_PICTURES)
def _true_masks(regions: tuple[Region, ...], size_px: tuple[int, int]) -> tuple[CutMask, ...]:
    return tuple(cut_mask_of(region, size_px) for region in regions)


def _measure(
    places: Sequence[Prompt], drawn: Iterable["Mask"], true: Sequence[CutMask], size_px: tuple[int, int]
) -> dict[str, float]:
    """The measures that `_grade_drawn` names; `drawn` has one mask for each different place, in order."""
    import numpy as np

    found = overlaps(drawn, true, size_px)
    row_of = {place: row for row, place in enumerate(dict.fromkeys(places))}
    rows = [row_of[place] for place in places]
    overlap = found.iou()
    pairs = [(rows[predicted], true_one) for predicted, true_one in match_overlaps(overlap[rows])]

    def mean(of: "NDArray[np.float64]") -> float:
        return float(sum(of[pair] for pair in pairs)) / max(len(places), len(true))

    of_predicted, of_true = found.predicted[:, None], found.true[None]
    shared_by_all, predicted_by_any, true_by_any = found.union
    return {
        "dice": mean(2 * found.shared / (of_predicted + of_true)),
        "iou": mean(overlap),
        "precision": mean(found.shared / np.maximum(of_predicted, 1)),
        "recall": mean(found.shared / of_true),
        "dice_union": 2 * shared_by_all / (predicted_by_any + true_by_any),
    }


def _grade_drawn(sample: Sample, answer: Answer, segment: Segmenter) -> Mapping[str, float]:
    """Measures of the masks that `segment` draws for P places against T true masks, all of one picture in [0, 1].

    Predicted and true masks are paired one to one by `match_overlaps`: the largest IoU first, any overlap pairs. dice,
    iou, precision and recall are those of the pairs' pixels, summed and divided by max(T, P): a thing that was missed
    and a place that was needless count 0 each. A metric is the mean of these over pictures. So PathoMLLM evaluates
    (its README: macro over images, greedy one-to-one matching, zero for misses), without saying by what it divides;
    ours is the divisor of Visual-RFT's IoU reward, so that stuffing never pays. No places for no things is 1, one of
    the two empty is 0. A place from which nothing is drawn is a needless one.

    No least overlap is asked of a pair, as IOU_MATCH is of boxes, though the segmenter finds large things in boxes that
    are far too large: two halves of a picture, said of two ellipses that take a quarter of it together, earn 0.53. On
    phantom tumour cells, 40 fields for each number, halves earn 0.18 at most and quarters 0.34 of four cells, the true
    boxes 0.98, and shifted along both axes by 0.2 and 0.3 of their sides 0.70 and 0.49. A least IoU of 0.25 would leave
    0.53 as it is; one of 0.5 would pay boxes shifted by 0.3 nothing, and nothing then says that 0.2 is better. So what
    a constant earns is `chance`, which tries these.

    correct     dice, which may also be rewarded under that name
    iou
    precision   not for reward: tiny masks have it
    recall      not for reward: masks over everything have it
    dice_union  Dice of all predicted masks together against all true ones, as in semantic segmentation. Not for
                reward: copies and grids cost nothing
    dice_box    dice and iou of the boxes filled, which is what a segmenter has to beat; 0 for points. Not for reward:
    iou_box     right boxes do not reach 1
    num_predicted   P
    """
    places, image = _places(answer), sample.images[0]
    size_px, num_predicted = _size_px(image), float(len(places))
    if not places or not sample.regions:
        nothing = float(not places and not sample.regions)
        return {**dict.fromkeys(PARTS, nothing), "num_predicted": num_predicted}
    true, pixels = _true_masks(sample.regions, size_px), _pixels(image)
    different = list(dict.fromkeys(places))
    drawn = _measure(places, segment(pixels, different), true, size_px)
    filled = _measure(places, fill_boxes(pixels, different), true, size_px)
    return {
        "correct": drawn["dice"],
        **drawn,
        "dice_box": filled["dice"],
        "iou_box": filled["iou"],
        "num_predicted": num_predicted,
    }


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    return _grade_drawn(sample, answer, segment_classically)


_HALVES_AND_QUARTERS = (
    ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
    ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
    tuple((x, y, x + 0.5, y + 0.5) for y in (0.0, 0.5) for x in (0.0, 0.5)),
)
"""Constant answers of several boxes, relative to the picture."""


def _chance(samples: Sequence[Sample]) -> float:
    """Mean dice of the best constant answer: none, the whole picture, its halves or quarters, the mean true box.

    The classical segmenter draws, whichever drew for the model.
    """
    if not samples:
        return 0.0
    answers = (*([box] for box in constant_boxes(samples)), *_HALVES_AND_QUARTERS)
    totals = [0.0] * len(answers)
    with_things = [sample for sample in samples if sample.regions]
    for sample in with_things:  # the outer loop, so that a picture is decoded once
        width_px, height_px = size_px = _size_px(sample.images[0])
        pixels, true = _pixels(sample.images[0]), _true_masks(sample.regions, size_px)
        for number, answer in enumerate(answers):
            boxes = [
                (x1 * width_px, y1 * height_px, x2 * width_px, y2 * height_px) for x1, y1, x2, y2 in answer
            ]
            totals[number] += _measure(boxes, segment_classically(pixels, boxes), true, size_px)["dice"]
    return max(len(samples) - len(with_things), *totals) / len(samples)


PARTS = ("correct", "dice", "iou", "precision", "recall", "dice_union", "dice_box", "iou_box")

MASK = Task(
    name="mask",
    version=2,
    metric="dice",
    templates=(
        Template(
            "outline_1000", "{question}\nOutline by boxes [[x1,y1,x2,y2],...] from 0 to 1000.", "norm1000"
        ),
        Template(
            "boxes_1000", "{question}\nOutline by boxes [[x1,y1,x2,y2],...] in thousandths.", "norm1000"
        ),
        Template(
            "range_1000", "From 0 to 1000, outline by boxes [[x1,y1,x2,y2],...]. {question}", "norm1000"
        ),
        # words of its own: a small model answers in the frame of the wording that is most alike
        Template("segment_pixels", "{question}\nTo segment, give [[x1,y1,x2,y2],...] in pixels.", "px"),
        Template(
            "points_1000",
            "{question}\nGive a point [[x,y],...] in each, from 0 to 1000.",
            "norm1000",
            place_as="point",
        ),
        Template(
            "points_pixels",
            "{question}\nGive a point [[x,y],...] in each, in pixels.",
            "px",
            place_as="point",
        ),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
    rewards=("correct", "dice", "iou"),
    grade_drawn=_grade_drawn,
)
