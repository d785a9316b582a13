"""Detection: all boxes of the thing asked for. Answers hold pixels of the stored picture in any prompt's frame.

Four written forms are read: `[[x1,y1,x2,y2],...]`, `<bbox>[x1,y1,x2,y2]</bbox>`,
`<region>x1 y1 x2 y2</region>` and a JSON list of objects with `bbox_2d`. The first is taught.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence

from pathloom.masks import match_overlaps
from pathloom.schema import Box, Sample
from pathloom.tasks.free import free_boxes
from pathloom.tasks.task import Answer, Task, Template

IOU_MATCH = 0.5
"""PASCAL VOC's threshold (Everingham et al. 2010), also that of AP50 and of VLM-R1's weighted reward."""
MAX_BOXES = 256
"""A longer list is no answer: it bounds the work of matching and makes box stuffing worthless."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BBOX = re.compile(rf"<bbox>\s*\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]\s*</bbox>", re.ASCII)
# One quantifier for the white space between two numbers: two would take quadratic time on a long run of it.
_REGION = re.compile(r"<region>\s*" + r"\s+".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*</region>", re.ASCII)
_SEPARATORS = re.compile(r"[\s,;]*")


def _truth(sample: Sample) -> tuple[Box, ...]:
    return tuple(region.box_px for region in sample.regions)


def pixels_per_unit(sample: Sample, template: Template) -> tuple[float, float]:
    """Of the prompt's frame, along x and y."""
    if template.frame == "px" or not sample.images:
        return 1.0, 1.0
    return sample.images[0].width_px / 1000, sample.images[0].height_px / 1000


def _write(sample: Sample, answer: Answer, template: Template) -> str:
    scale_x, scale_y = pixels_per_unit(sample, template)
    scales = (scale_x, scale_y, scale_x, scale_y)
    boxes = [
        _whole_numbers([edge / scale for edge, scale in zip(box, scales, strict=True)])
        for box in _boxes(answer)
    ]
    return json.dumps(boxes, separators=(",", ":"))


def _whole_numbers(box: Sequence[float]) -> list[int]:
    """Rounded edges; outwards along an axis where a thin box would lose its area and not parse again."""
    rounded = [round(edge) for edge in box]
    for low in (0, 1):
        if rounded[low] == rounded[low + 2]:
            rounded[low], rounded[low + 2] = math.floor(box[low]), math.ceil(box[low + 2])
    return rounded


def _read(sample: Sample, text: str, template: Template) -> tuple[Box, ...] | None:
    found = read_rows(text, "bbox_2d", 4)
    for pattern in (_BBOX, _REGION):
        found = _read_tags(text, pattern) if found is None else found
    return None if found is None else _to_pixels(sample, found, template)


def read_rows(text: str, key: str, length: int) -> list[list[float]] | None:
    """A JSON list of rows of `length` numbers, or of objects with such a row as `key`; None when it is not that."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    rows: list[list[float]] = []
    for entry in value:
        row = entry.get(key) if isinstance(entry, dict) else entry
        if not (isinstance(row, list) and len(row) == length and all(type(x) in (int, float) for x in row)):
            return None
        rows.append(row)
    return rows


def _read_tags(text: str, pattern: re.Pattern[str]) -> list[list[float]] | None:
    """One or more tags with nothing between them but white space, commas and semicolons."""
    matches = list(pattern.finditer(text))
    if not matches or _SEPARATORS.fullmatch(pattern.sub("", text)) is None:
        return None
    return [[float(number) for number in match.groups()] for match in matches]


def _to_pixels(sample: Sample, rows: Sequence[Sequence[float]], template: Template) -> tuple[Box, ...] | None:
    """Rows in the template's frame to boxes in pixels, cut at the picture's edges.

    None when there are too many, when a number is not finite or beyond any picture, or for an inside-out box.
    """
    if len(rows) > MAX_BOXES:
        return None
    scale_x, scale_y = pixels_per_unit(sample, template)
    limit_x = sample.images[0].width_px if sample.images else math.inf
    limit_y = sample.images[0].height_px if sample.images else math.inf
    boxes: list[Box] = []
    for row in rows:
        if not all(abs(number) < 1e6 for number in row):  # also false for NaN
            return None
        x1, y1, x2, y2 = row
        if not (x1 < x2 and y1 < y2):
            return None
        boxes.append(
            (
                min(max(x1 * scale_x, 0.0), limit_x),
                min(max(y1 * scale_y, 0.0), limit_y),
                min(max(x2 * scale_x, 0.0), limit_x),
                min(max(y2 * scale_y, 0.0), limit_y),
            )
        )
    return tuple(boxes)


def _read_free(sample: Sample, text: str, template: Template) -> tuple[Box, ...] | None:
    rows = free_boxes(text)
    return None if rows is None else _to_pixels(sample, rows[:MAX_BOXES], template)


def _boxes(answer: Answer) -> tuple[Box, ...]:
    if not isinstance(answer, tuple):
        raise TypeError(f"boxes are a tuple, not {type(answer).__name__}")
    boxes = tuple(place for place in answer if len(place) == 4)
    if len(boxes) < len(answer):
        raise TypeError(f"boxes are four numbers each, not {answer!r}")
    return boxes


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes in the same frame; 0 when either has no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


def match_boxes(predicted: Sequence[Box], true: Sequence[Box]) -> list[float]:
    """IoU of each predicted box with the true box it was given, 0 for none; in the order of `predicted`.

    Greedy in the order in which the boxes were written, as there are no confidences (arXiv 2505.15687): each
    takes the free true box it overlaps most, if that reaches IOU_MATCH.
    """
    free = list(true)
    matched: list[float] = []
    for box in predicted:
        best = max(free, key=lambda candidate: iou(box, candidate), default=None)
        overlap = 0.0 if best is None else iou(box, best)
        if best is not None and overlap >= IOU_MATCH:
            free.remove(best)
            matched.append(overlap)
        else:
            matched.append(0.0)
    return matched


def average_precision(matched: Sequence[float], num_true: int) -> float:
    """Area under the interpolated precision-recall curve of boxes in written order (all-point, VOC 2010).

    Both empty is 1, one empty is 0 (VLM-R1).
    """
    if not num_true or not matched:
        return float(not num_true and not matched)
    hits, points = 0, []
    for rank, overlap in enumerate(matched, start=1):
        hits += overlap > 0
        points.append((hits / num_true, hits / rank))
    area, recall_before, best = 0.0, 0.0, 0.0
    envelope = []
    for recall, precision in reversed(points):
        best = max(best, precision)
        envelope.append((recall, best))
    for recall, precision in reversed(envelope):
        area += (recall - recall_before) * precision
        recall_before = recall
    return area


def _grade(sample: Sample, answer: Answer) -> Mapping[str, float]:
    """`correct` is the Sample's F1 at IoU 0.5; true_positives and num_predicted let a metric pool over Samples.

    The other parts are published rewards over the matches of `match_boxes`, T true and P predicted boxes, H hits.
    All are in [0, 1]; both lists empty is 1 and one empty is 0, also where a source says otherwise.

    ap50         `average_precision` in written order (arXiv 2505.15687; VLM-R1's mAP with all confidences 1). Can be
                 gamed: boxes written after the last hit cost nothing, since no recall is left to gain
    ap50_length  ap50 x min(1, T / P) (VLM-R1's odLength). A short list may be filled up to T with guesses for free
    weighted     0.7 x sum of matched IoU / T + 0.3 x (1 - (miss rate + false-alarm rate) / 2), with miss rate 1 - H / T
                 and false-alarm rate 1 - H / P (VLM-R1). Can be gamed: needless boxes cost 0.15 together at most, so
                 a grid that happens to fit is paid more than half of the right boxes
    mean_iou     sum of matched IoU / max(T, P) (Visual-RFT's IoU reward): every needless box costs its full share
    overlap      the same without a least IoU, the largest overlap paired first (`match_overlaps`): ours, so that a
                 box that comes nearer is paid more before it is a hit. Can be gamed: a constant earns what it covers

    In all of them a box over the whole picture is a hit where the one true box covers half of the picture.
    """
    predicted, true = _boxes(answer), _truth(sample)
    matched = match_boxes(predicted, true)
    hits = sum(overlap > 0 for overlap in matched)
    counts = {"true_positives": float(hits), "num_predicted": float(len(predicted))}
    if not predicted or not true:
        return {**dict.fromkeys(BOXES.rewards, float(not predicted and not true)), **counts}
    ap50 = average_precision(matched, len(true))
    complete = (hits / len(true) + hits / len(predicted)) / 2
    return {
        "correct": 2 * hits / (len(predicted) + len(true)),
        "mean_iou": sum(matched) / max(len(predicted), len(true)),
        "overlap": _overlap(predicted, true),
        "ap50": ap50,
        "ap50_length": ap50 * min(1.0, len(true) / len(predicted)),
        "weighted": 0.7 * sum(matched) / len(true) + 0.3 * complete,
        **counts,
    }


def _overlap(predicted: Sequence[Box], true: Sequence[Box]) -> float:
    import numpy as np

    ious = np.array([[iou(box, other) for other in true] for box in predicted])
    return float(sum(ious[pair] for pair in match_overlaps(ious))) / max(len(predicted), len(true))


def constant_boxes(samples: Sequence[Sample]) -> list[list[float]]:
    """The whole picture and the mean of all true boxes, relative to the picture; none where there are no boxes."""
    relative = [
        (box[0] / image.width_px, box[1] / image.height_px, box[2] / image.width_px, box[3] / image.height_px)
        for sample in samples
        for image in sample.images[:1]
        for box in _truth(sample)
    ]
    if not relative:
        return []
    mean = [sum(box[k] for box in relative) / len(relative) for k in range(4)]
    return [[0.0, 0.0, 1.0, 1.0], mean]


def _chance(samples: Sequence[Sample]) -> float:
    """Pooled F1 of the better of the `constant_boxes`."""
    best = 0.0
    for x1, y1, x2, y2 in constant_boxes(samples):
        hits = both = 0.0
        for sample in samples:
            width_px, height_px = sample.images[0].width_px, sample.images[0].height_px
            constant: Box = (x1 * width_px, y1 * height_px, x2 * width_px, y2 * height_px)
            hits += sum(overlap > 0 for overlap in match_boxes([constant], _truth(sample)))
            both += 1 + len(_truth(sample))
        best = max(best, 2 * hits / both)
    return best


BOXES = Task(
    name="boxes",
    version=2,
    metric="f1",
    templates=(
        Template("list_1000", "{question}\nGive boxes [[x1,y1,x2,y2],...] from 0 to 1000.", frame="norm1000"),
        Template("locate_1000", "{question}\nAnswer [[x1,y1,x2,y2],...] in thousandths.", frame="norm1000"),
        Template("give_1000", "{question}\nGive boxes [[x1,y1,x2,y2],...] in thousandths.", frame="norm1000"),
        Template("range_1000", "From 0 to 1000, answer [[x1,y1,x2,y2],...]. {question}", frame="norm1000"),
        Template("pixels", "{question}\nAnswer [[x1,y1,x2,y2],...] in pixels.", frame="px"),
    ),
    truth=_truth,
    write=_write,
    read=_read,
    read_free=_read_free,
    grade=_grade,
    chance=_chance,
    rewards=("correct", "ap50", "ap50_length", "weighted", "mean_iou", "overlap"),
)
