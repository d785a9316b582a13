"""Panels of drawn figures by the letters that the text layer names: charts have white inside, so white parts nothing.

A panel reaches from its letter, which stands at its top left, to the next letter in its row and to the next below.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pathloom.books.geometry import center_y, height
from pathloom.books.page import Line
from pathloom.books.panels import FoundPanel
from pathloom.schema import Box

INK = 250
"""Of 255: what is darker in any channel is ink."""
MIN_PANEL_PX = 24
"""A panel with less ink to each side is none: then the letters do not stand at their top left. Our own choice."""


_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?(?:\s+[-\u2212]?[\d.]+)?")
"""A letter alone, or with the axis' number beside it, which a text layer may have on one line with it."""


def letters_of(lines: Sequence[Line], labels: Sequence[str]) -> dict[str, Box]:
    """The box of each label's letter, all of one size; empty unless every label stands there exactly once."""
    candidates = [
        (found[1].upper(), line) for line in lines if (found := _LETTER.fullmatch(line.text.strip()))
    ]
    for size_pt in sorted({round(line.size_pt, 1) for _, line in candidates}, reverse=True):
        alike = [
            (label, line)
            for label, line in candidates
            if round(line.size_pt, 1) == size_pt and label in labels
        ]
        if sorted(label for label, _ in alike) == sorted(labels):
            by_label = dict(alike)
            return {label: _letter_box(by_label[label]) for label in labels}
    return {}


def _letter_box(line: Line) -> Box:
    x1, y1, x2, y2 = line.box_pt
    return (x1, y1, min(x2, x1 + 0.8 * line.size_pt), y2)


def split_by_letters(pixels: NDArray[np.uint8], letters: Mapping[str, Box]) -> tuple[FoundPanel, ...]:
    """Panels of a figure [H, W, 3] whose letters are known by their boxes in its pixels, in the order of the mapping.

    Empty where some panel would hold hardly any ink.
    """
    ink = np.any(pixels < INK, axis=2)
    panels = []
    for label, box in letters.items():
        region = _region(box, [other for other in letters.values() if other is not box], ink.shape)
        rows, columns = (np.flatnonzero(ink[region].any(axis=axis)) for axis in (1, 0))
        if not len(rows) or min(rows[-1] - rows[0], columns[-1] - columns[0]) < MIN_PANEL_PX:
            return ()
        top, left = region[0].start, region[1].start
        found = (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)
        panels.append(FoundPanel(label=label, box_px=found, score=0.9))
    return tuple(panels)


def _region(letter: Box, others: Sequence[Box], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns from a letter to its neighbours on the right and below; a first one reaches back."""
    em = height(letter)
    right = _right(letter, others, shape[1])
    below = [
        other[1]
        for other in others
        if other[1] > letter[3]
        and min(right, _right(other, [letter, *others], shape[1])) - max(letter[0], other[0]) > em
    ]
    first = not any(other[0] < letter[0] - em for other in others)
    rows = slice(max(0, int(letter[1])), max(1, int(min([*below, shape[0]]))))
    return rows, slice(0 if first else max(0, int(letter[0])), max(1, int(right)))


def _right(letter: Box, others: Sequence[Box], width: float) -> float:
    """Where the next letter of the row begins."""
    em = height(letter)
    return min(
        [width, *(o[0] for o in others if abs(center_y(o) - center_y(letter)) < em and o[0] > letter[0] + em)]
    )
