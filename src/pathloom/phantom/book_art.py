"""What a figure of a phantom book shows, without its caption: photographs, composites, vector charts and schemes.

An art knows its shape before it is drawn; drawing gives the truth in points from the top left corner of the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np

from pathloom.phantom.book_style import BookStyle
from pathloom.phantom.composite import Composite, CompositeStyle, PxBox, draw_composite
from pathloom.phantom.typeset import DESCENT, Sheet, register_family, text_width
from pathloom.schema import Box


@dataclass(frozen=True)
class Drawn:
    """Boxes in points: the whole figure with its letters and tick labels, and every panel."""

    box_pt: Box
    panels_pt: tuple[Box, ...]


class Art(Protocol):
    """`labels` are canonical, "" where the panels carry no letters; `words` say what each panel shows."""

    @property
    def aspect(self) -> float: ...  # width over height

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def words(self) -> tuple[str, ...]: ...

    def draw(self, sheet: Sheet, x: float, top: float, width: float) -> Drawn: ...


def union(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return (min(x1), min(y1), max(x2), max(y2))


@dataclass(frozen=True, eq=False)
class ImageArt:
    """A composite or single picture, as one image object or as one a panel; letters may be text over the pictures."""

    composite: Composite
    several_objects: bool
    letters_as_text: bool
    quality: int

    @property
    def aspect(self) -> float:
        height, width, _ = self.composite.pixels.shape
        return width / height

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(panel.label for panel in self.composite.panels)

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(panel.words for panel in self.composite.panels)

    def draw(self, sheet: Sheet, x: float, top: float, width: float) -> Drawn:
        scale = width / self.composite.pixels.shape[1]

        def place(box: PxBox) -> Box:
            return (x + box[0] * scale, top + box[1] * scale, x + box[2] * scale, top + box[3] * scale)

        panels = self.composite.panels
        if self.several_objects:
            for index, panel in enumerate(panels):
                sheet.image(self.composite.picture(index), place(panel.box_px), quality=self.quality)
        else:
            height_px, width_px, _ = self.composite.pixels.shape
            sheet.image(self.composite.pixels, place((0, 0, width_px, height_px)), quality=self.quality)
        boxes = [place(panel.box_px) for panel in panels]
        extent = [place(self.composite.content_box_px)] if not self.several_objects else list(boxes)
        if self.letters_as_text:
            extent += self._draw_letters(sheet, place, scale)
        return Drawn(union(extent), tuple(boxes))

    def _draw_letters(self, sheet: Sheet, place: "Placing", scale: float) -> list[Box]:
        """Letters as text objects; gives the boxes of those that stand outside their panels."""
        face = self.composite.style.face
        font = register_family("serif" if "serif" in face else "sans")["bold" in face]
        outside = []
        for panel in self.composite.panels:
            letter = panel.letter
            if letter is None:
                continue
            if letter.ground_px:
                sheet.rect(place(letter.ground_px), fill="black" if letter.white else "white")
            x1, y1, _, y2 = place(letter.box_px)
            size = letter.size_px * scale
            if any(char in letter.text for char in "()"):  # brackets reach below the baseline
                y2 -= DESCENT * size
            top = y2 - 0.72 * size
            colour = "white" if letter.white else "black"
            sheet.words(letter.text, font, size, x1, top, colour=colour)
            if self.composite.style.letter_place != "inside":
                outside.append(
                    (x1, min(top, y1), x1 + text_width(letter.text, font, size), place(letter.box_px)[3])
                )
        return outside


class Placing(Protocol):
    def __call__(self, box: PxBox) -> Box: ...


def draw_image_art(
    rng: np.random.Generator, style: BookStyle, look: CompositeStyle, num_panels: int, *, charts: bool = True
) -> ImageArt:
    """A photograph or composite in the book's look; gutters of a look that does not touch vary a little."""
    if look.gutter_px:
        look = replace(look, gutter_px=int(np.clip(look.gutter_px + rng.integers(-2, 3), 3, 16)))
    several = num_panels > 1 and rng.random() > style.one_image_share
    if several:  # images apart lie on the paper
        look = replace(look, background="white", gutter_px=max(look.gutter_px, 3))
    outside = look.letter_place in ("above", "below")
    as_text = several and num_panels > 1 and look.letter_place != "none" and (outside or rng.random() < 0.5)
    width_px = int(rng.integers(700, 1200)) if num_panels > 1 else int(rng.integers(520, 900))
    composite = draw_composite(rng, num_panels, look, width_px=width_px, letters=not as_text, charts=charts)
    return ImageArt(composite, several, as_text, int(rng.integers(82, 95)))


@dataclass(frozen=True, eq=False)
class ChartArt:
    """One to three vector charts in a row, their axes, ticks and letters drawn as lines and text."""

    seed: int
    aspect: float
    labels: tuple[str, ...]
    words: tuple[str, ...]
    letters: tuple[str, ...]
    size_pt: float = 7.0

    def draw(self, sheet: Sheet, x: float, top: float, width: float) -> Drawn:
        rng = np.random.default_rng(self.seed)
        count = len(self.labels)
        gap = 14.0 if count > 1 else 0.0
        each = (width - gap * (count - 1)) / count
        lettered = bool(self.letters)
        head = 1.9 * self.size_pt if lettered else 2.0
        font, bold, _ = register_family("sans")
        panels, letters = [], []
        for index in range(count):
            left = x + index * (each + gap)
            panel = _vector_chart(
                rng, sheet, (left, top + head, left + each, top + width / self.aspect), self.size_pt, font
            )
            if lettered:
                letters.append(sheet.words(self.letters[index], bold, 1.25 * self.size_pt, left, top + 1))
            panels.append(panel)
        return Drawn(union(panels + letters), tuple(panels))


def _vector_chart(rng: np.random.Generator, sheet: Sheet, cell: Box, size: float, font: str) -> Box:
    """A line, bar or scatter chart filling a cell; gives the box of its ink."""
    x1, y1, x2, y2 = cell
    ink: list[Box] = []
    titled = rng.random() < 0.7
    left, bottom = x1 + 3.2 * size, y2 - (2.8 if titled else 1.4) * size
    right, upper = x2 - 1.5, y1 + 2.0
    sheet.rule(left, upper, left, bottom)
    sheet.rule(left, bottom, right, bottom)
    ink.append((left, upper, right, bottom))
    for step in range(5):
        y = bottom - (bottom - upper - size) * step / 4
        sheet.rule(left - 3, y, left, y)
        ink.append(sheet.words(f"{20 * step}", font, size, left - 4, y - 0.36 * size, anchor="right"))
    count = int(rng.integers(3, 8))
    span = (right - left) / count
    for number in range(count):
        at = left + span * (number + 0.5)
        ink.append(sheet.words(f"{number + 1}", font, size, at, bottom + 3, anchor="center"))
    if titled:
        text = ("Time (years)", "Grade", "Group", "Age (decades)")[int(rng.integers(4))]
        ink.append(sheet.words(text, font, size, (left + right) / 2, bottom + 1.7 * size, anchor="center"))
    colours = ("#c0392b", "#2c5f9e", "#3a7d44")
    kind = int(rng.integers(3))
    room = bottom - upper - size
    if kind == 0:
        for number in range(count):
            tall = float(rng.uniform(0.1, 0.95)) * room
            bar = left + span * (number + 0.2)
            sheet.rect((bar, bottom - tall, bar + 0.6 * span, bottom), fill=colours[number % 3])
    elif kind == 1:
        for colour in colours[: int(rng.integers(1, 4))]:
            heights = bottom - np.sort(rng.uniform(0.05, 0.95, 9)) * room
            xs = np.linspace(left, right, 9)
            for i in range(8):
                sheet.rule(xs[i], heights[i], xs[i + 1], heights[i + 1], width=1.1, colour=colour)
    else:
        for px, py in rng.uniform(0.04, 0.96, (30, 2)):
            at, y = left + px * (right - left), bottom - (0.6 * px + 0.35 * py) * room
            sheet.rect((at - 1.2, y - 1.2, at + 1.2, y + 1.2), fill=colours[0])
    return union(ink)


def draw_chart_art(rng: np.random.Generator, look: CompositeStyle, count: int) -> ChartArt:
    words = ("share of positive nuclei", "survival by grade", "nuclear area by group", "index of each group")
    order = rng.permutation(len(words))[:count]
    lettered = count > 1 and look.letter_place != "none" and look.letter_form not in ("1", "I")
    labels = tuple(chr(ord("A") + i) if lettered else "" for i in range(count))
    printed = tuple(look.letter_form.replace("A", label).replace("a", label.lower()) for label in labels)
    aspect = float(rng.uniform(1.25, 1.7)) * count
    return ChartArt(
        int(rng.integers(2**31)), aspect, labels, tuple(words[i] for i in order), printed if lettered else ()
    )


@dataclass(frozen=True, eq=False)
class SchemeArt:
    """A flow chart: boxes with words joined by arrows."""

    steps: tuple[str, ...]
    aspect: float
    colour: str
    labels: tuple[str, ...] = ("",)
    words: tuple[str, ...] = ("steps of the work-up",)
    size_pt: float = 7.5

    def draw(self, sheet: Sheet, x: float, top: float, width: float) -> Drawn:
        height = width / self.aspect
        font = register_family("sans")[0]
        rows = [self.steps[:1], self.steps[1:3], self.steps[3:]]
        tall = height / (len(rows) + 0.5 * (len(rows) - 1))
        boxes: list[list[Box]] = []
        for number, row in enumerate(rows):
            y = top + number * 1.5 * tall
            each = width / len(row)
            wide = min(0.86 * each, 0.46 * width)
            boxes.append([])
            for place, text in enumerate(row):
                middle = x + each * (place + 0.5)
                box = (middle - wide / 2, y, middle + wide / 2, y + tall)
                sheet.rect(box, fill=self.colour, stroke="#444444", radius=3)
                sheet.words(
                    text, font, self.size_pt, middle, y + tall / 2 - 0.36 * self.size_pt, anchor="center"
                )
                boxes[-1].append(box)
        for upper, lower in pairwise(boxes):
            for index, box in enumerate(lower):
                above = upper[min(index, len(upper) - 1)]
                start, end = (above[0] + above[2]) / 2, (box[0] + box[2]) / 2
                sheet.rule(start, above[3], end, box[1], width=0.8, colour="#444444")
                sheet.rect((end - 1.6, box[1] - 3.2, end + 1.6, box[1]), fill="#444444")
        whole = union([box for row in boxes for box in row])
        return Drawn(whole, (whole,))


def draw_scheme_art(rng: np.random.Generator) -> SchemeArt:
    steps = (
        "Biopsy",
        "Routine stains",
        "Cytology",
        "Panel of markers",
        "Review",
        "Repeat biopsy",
        "Report",
        "Follow-up",
    )
    count = int(rng.integers(4, 6))
    chosen = (steps[0], *(steps[int(i)] for i in 1 + rng.permutation(len(steps) - 1)[:count]))
    colour = ("#e8eef7", "#f5ecd9", "#e6f2e6")[int(rng.integers(3))]
    return SchemeArt(chosen, float(rng.uniform(1.4, 2.1)), colour)
