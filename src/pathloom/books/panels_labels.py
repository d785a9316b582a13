"""Which panel bears which label: by letters where they were read, by the order of reading where they were not."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pathloom.books.geometry import center_x, center_y, height, overlap_x, overlap_y, width
from pathloom.schema import Box

Letter = tuple[str, Box, float]
"""A panel letter as read, its box in pixels of the figure, and the reader's confidence."""

_LETTER = re.compile(r"[(\[]?([A-Za-z]|[IVXivx]{1,4}|\d{1,2})[)\].:]?(?:\s|$)")
_ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_ALPHABET = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_SEQUENCES = (_ALPHABET, tuple(str(number) for number in range(1, 41)), _ROMANS)

_ACROSS: Mapping[str, float] = {"LEFT": 0.0, "RIGHT": 1.0}
_DOWN: Mapping[str, float] = {"UPPER": 0.0, "TOP": 0.0, "LOWER": 1.0, "BOTTOM": 1.0}
_MIDDLE = frozenset({"MIDDLE", "CENTER", "CENTRE"})

_ANCHORS = tuple((x, y) for y in (0.0, 1.0) for x in (0.0, 0.5, 1.0))
"""Where on a panel's border its letter stands, as shares of width and height; inside or outside makes no difference."""
MAX_ANCHOR_DISTANCE = 0.4
"""Distance from the anchor over the panel's shorter side beyond which a letter is not the panel's."""


def canonical(text: str) -> str:
    """The label that a piece of text begins with, in upper case ("(a) Regular" is "A"); "" where it is none."""
    found = _LETTER.match(text.strip())
    return found[1].upper() if found else ""


def letters_among(text_boxes: Sequence[tuple[str, Box]], labels: Sequence[str]) -> list[Letter]:
    """Lines of text that can be panel letters: those the caption lists, or else a lone letter, bracketed or not."""
    found = []
    for text, box in text_boxes:
        label = canonical(text)
        if label and (label in labels if labels else len(text.strip()) <= 4 and not label.isdigit()):
            found.append((label, box, 1.0))
    return found


def are_positions(labels: Sequence[str]) -> bool:
    """Whether the labels are places such as LEFT or UPPER RIGHT."""
    words = {word for label in labels for word in label.upper().split()}
    return bool(words) and words <= {*_ACROSS, *_DOWN, *_MIDDLE}


def in_reading_order(boxes: Sequence[Box], *, by_column: bool = False) -> list[int]:
    """Indices row by row, left to right (or column by column), where rows and columns can be told apart."""

    def ordered(indices: list[int]) -> list[int]:
        if len(indices) < 2:
            return indices
        axes: tuple[Callable[[Box, Box], float], ...] = (
            (overlap_x, overlap_y) if by_column else (overlap_y, overlap_x)
        )
        for overlap in axes:
            side = 1 if overlap is overlap_y else 0
            groups = _groups(sorted(indices, key=lambda i: boxes[i][side]), boxes, side)
            if len(groups) > 1:
                return [index for group in groups for index in ordered(group)]
        return sorted(indices, key=lambda i: (boxes[i][1], boxes[i][0]))

    return ordered(list(range(len(boxes))))


def _groups(indices: list[int], boxes: Sequence[Box], side: int) -> list[list[int]]:
    """Runs of boxes that overlap along an axis by more than a tenth of the smaller one."""
    groups = [[indices[0]]]
    end = boxes[indices[0]][side + 2]
    for index in indices[1:]:
        start, stop = boxes[index][side], boxes[index][side + 2]
        least = min(stop - start, *(boxes[i][side + 2] - boxes[i][side] for i in groups[-1]))
        if end - start > 0.1 * least:
            groups[-1].append(index)
        else:
            groups.append([index])
        end = max(end, stop)
    return groups


def assigned(boxes: Sequence[Box], letters: Sequence[Letter], labels: Sequence[str]) -> list[str]:
    """A label for each box, "" where nothing tells; no label twice."""
    if are_positions(labels):
        return _by_position(boxes, labels)
    read = _by_letters(boxes, letters)
    sequence = tuple(labels) or _sequence_of(read)
    if not sequence or (labels and len(labels) != len(boxes)):
        return read
    return _filled(boxes, read, sequence)


def _by_letters(boxes: Sequence[Box], letters: Sequence[Letter]) -> list[str]:
    """Letters matched to boxes one to one, all near the same corner or side of their panels."""
    from scipy.optimize import linear_sum_assignment

    best, labels = np.inf, [""] * len(boxes)
    if not letters or not boxes:
        return labels
    for anchor in _ANCHORS:
        costs = np.array([[_distance(box, letter, anchor) for letter in letters] for box in boxes])
        costs = np.minimum(costs, MAX_ANCHOR_DISTANCE)
        rows, columns = linear_sum_assignment(costs)
        total = float(costs[rows, columns].sum())
        if total < best - 1e-9:
            best = total
            labels = [""] * len(boxes)
            for cost, row, column in sorted(zip(costs[rows, columns], rows, columns, strict=True)):
                label = letters[column][0]
                if cost < MAX_ANCHOR_DISTANCE and label not in labels:
                    labels[row] = label
    return labels


def _distance(box: Box, letter: Letter, anchor: tuple[float, float]) -> float:
    """From a panel's anchor to the nearest point of the letter, over the panel's shorter side."""
    x = box[0] + anchor[0] * width(box)
    y = box[1] + anchor[1] * height(box)
    x1, y1, x2, y2 = letter[1]
    away = float(np.hypot(max(x1 - x, 0.0, x - x2), max(y1 - y, 0.0, y - y2)))
    return away / max(1.0, min(width(box), height(box)))


def _sequence_of(read: Sequence[str]) -> tuple[str, ...]:
    """The alphabet, numbers or roman numerals, whichever holds all labels read; () for none."""
    known = [label for label in read if label]
    if len(known) < 2:
        return ()
    fitting = [sequence for sequence in _SEQUENCES if all(label in sequence for label in known)]
    return min(fitting, key=lambda sequence: sum(map(sequence.index, known)), default=())


def _filled(boxes: Sequence[Box], read: Sequence[str], sequence: Sequence[str]) -> list[str]:
    """Labels read, and the rest by row or by column, whichever agrees with more of those read."""
    orders = [in_reading_order(boxes), in_reading_order(boxes, by_column=True)]
    agreements = [
        sum(read[index] == label for index, label in zip(order, sequence, strict=False)) for order in orders
    ]
    order = orders[1] if agreements[1] > agreements[0] else orders[0]
    labels = list(read)
    known = sum(label != "" for label in read)
    if known and max(agreements) < 0.6 * known:
        return labels
    for index, label in zip(order, sequence, strict=False):
        if not labels[index] and label not in labels:
            labels[index] = label
    return labels


def _by_position(boxes: Sequence[Box], labels: Sequence[str]) -> list[str]:
    """Labels such as LEFT or UPPER RIGHT, each to the panel nearest to that place of the figure."""
    from scipy.optimize import linear_sum_assignment

    across = _spread([center_x(box) for box in boxes])
    down = _spread([center_y(box) for box in boxes])
    costs = np.zeros((len(boxes), len(labels)))
    for column, label in enumerate(labels):
        words = label.upper().split()
        x = next((_ACROSS[word] for word in words if word in _ACROSS), None)
        y = next((_DOWN[word] for word in words if word in _DOWN), None)
        if x is None and y is None:
            x = y = 0.5
        for row in range(len(boxes)):
            costs[row, column] = sum(
                abs(place[row] - goal) for place, goal in ((across, x), (down, y)) if goal is not None
            )
    found = [""] * len(boxes)
    for row, column in zip(*linear_sum_assignment(costs), strict=True):
        if costs[row, column] < 0.5:
            found[row] = labels[column]
    return found


def _spread(values: Sequence[float]) -> list[float]:
    """Values from 0 to 1; 0.5 where all are alike."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high - low > 1 else 0.5 for value in values]
