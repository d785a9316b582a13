"""Synthetic composite figures: panels of phantom tissue, cells and charts in the layouts of books, every box known."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pathloom.phantom.pictures import (
    FACES,
    Kind,
    Picture,
    draw_chart,
    draw_picture,
    letter_font,
    ornament,
)

MAX_PANELS = 9
LETTER_FORMS = ("A", "a", "(A)", "(a)", "A.", "A)", "1", "I")
_FORM_SHARES = (0.44, 0.14, 0.06, 0.12, 0.08, 0.04, 0.08, 0.04)
_ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX")
_COUNT_SHARES = (0.1, 0.27, 0.13, 0.23, 0.06, 0.12, 0.03, 0.03, 0.03)
"""Panels of a figure, 1 to 9; our own choice: two and four are the commonest in books."""
_MIN_PANEL_PX = 130
_APART_RGB = 32.0
"""Least distance of the mean colours of panels that touch: nearer ones could pass for one photograph."""

PxBox = tuple[int, int, int, int]
Place = Literal["inside", "above", "below", "none"]
Corner = Literal["tl", "tr", "bl", "br"]
Ground = Literal["dark", "light", "plain"]
_PLACES: tuple[Place, ...] = ("inside", "above", "below", "none")
_CORNERS: tuple[Corner, ...] = ("tl", "tr", "bl", "br")
_GROUNDS: tuple[Ground, ...] = ("dark", "light", "plain")


@dataclass(frozen=True)
class CompositeStyle:
    """How one figure, or all figures of a book, set their panels."""

    gutter_px: int = 8
    background: Literal["white", "black"] = "white"
    letter_place: Place = "inside"
    letter_corner: Corner = "tl"
    letter_ground: Ground = "plain"
    letter_form: str = "A"
    face: str = "sans bold"
    letter_share: float = 0.1
    """Size of the letters over the shorter side of the median panel."""
    frame: bool = False
    by_column: bool = False
    """Letters of a grid run down its columns."""


@dataclass(frozen=True)
class Letter:
    """A letter as printed: the box of its ink, the box of its ground if it has one, its size and its colour."""

    text: str
    box_px: PxBox
    ground_px: PxBox | None
    size_px: int
    white: bool


@dataclass(frozen=True)
class CompositePanel:
    """`box_px` is x1 y1 x2 y2, half open: the picture with a letter inside it, without a letter outside it."""

    label: str
    box_px: PxBox
    words: str
    kind: Kind
    letter: Letter | None = None


@dataclass(frozen=True, eq=False)
class Composite:
    """A composite figure with its truth; `panels` in the order of their labels."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    panels: tuple[CompositePanel, ...]
    style: CompositeStyle

    def picture(self, index: int) -> NDArray[np.uint8]:
        """One panel alone, for books that place every panel as an image of its own."""
        x1, y1, x2, y2 = self.panels[index].box_px
        return self.pixels[y1:y2, x1:x2]

    @property
    def content_box_px(self) -> PxBox:
        """The union of the panels and their letters; all of it where the ground is black."""
        if self.style.background == "black":
            return (0, 0, self.pixels.shape[1], self.pixels.shape[0])
        boxes = [panel.box_px for panel in self.panels]
        boxes += [panel.letter.box_px for panel in self.panels if panel.letter]
        x1, y1, x2, y2 = zip(*boxes, strict=True)
        return (min(x1), min(y1), max(x2), max(y2))


def draw_style(rng: np.random.Generator) -> CompositeStyle:
    """A style drawn at random; gutters of 3 to 16 px, or panels that touch (about one in eight)."""
    touching = rng.random() < 0.12
    return CompositeStyle(
        gutter_px=0 if touching else int(rng.integers(3, 17)),
        background="black" if rng.random() < 0.12 else "white",
        letter_place=_PLACES[int(rng.choice(4, p=(0.66, 0.12, 0.08, 0.14)))],
        letter_corner=_CORNERS[int(rng.choice(4, p=(0.6, 0.06, 0.24, 0.1)))],
        letter_ground=_GROUNDS[int(rng.choice(3, p=(0.25, 0.3, 0.45)))],
        letter_form=str(rng.choice(LETTER_FORMS, p=_FORM_SHARES)),
        face=str(rng.choice(tuple(FACES), p=(0.2, 0.45, 0.1, 0.25))),
        letter_share=float(rng.uniform(0.075, 0.15)),
        frame=bool(rng.random() < 0.18),
        by_column=bool(rng.random() < 0.08),
    )


def canonical_label(style: CompositeStyle, index: int) -> str:
    """The label as the records hold it: "A", "1", "II"; "" in a style without letters."""
    if style.letter_place == "none":
        return ""
    if style.letter_form == "1":
        return str(index + 1)
    return _ROMANS[index] if style.letter_form == "I" else chr(ord("A") + index)


def printed_label(style: CompositeStyle, index: int) -> str:
    """The label as it stands on the panel: "(a)", "A.", ..."""
    label = canonical_label(style, index)
    form = style.letter_form
    if form in ("1", "I"):
        return label
    return form.replace("A", label).replace("a", label.lower())


def draw_composite(
    rng: np.random.Generator,
    num_panels: int | None = None,
    style: CompositeStyle | None = None,
    *,
    pool: int = 0,
    width_px: int | None = None,
    charts: bool = True,
    letters: bool = True,
) -> Composite:
    """Draw one composite of 1 to 9 panels; a single panel carries no letter. What is not given is drawn.

    Without `letters` their places stay free and known, for a book that sets them as text over the pictures.
    """
    count = int(rng.choice(range(1, 10), p=_COUNT_SHARES)) if num_panels is None else num_panels
    if not 1 <= count <= MAX_PANELS:
        raise ValueError(f"num_panels is {count}, not in 1..{MAX_PANELS}")
    style = draw_style(rng) if style is None else style
    if count == 1:
        style = CompositeStyle(0, letter_place="none", frame=style.frame)
    width = width_px or int(rng.integers(640, 1300))
    cells = _layout(rng, count, width, style)
    scale = max(1.0, _MIN_PANEL_PX / min(min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in cells))
    if scale > 1:
        cells = [_scaled(cell, scale) for cell in cells]
    letter_px = max(
        int(style.letter_share * np.median([min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in cells])), 13
    )
    chart_share = rng.choice((0.0, 0.4, 1.0), p=(0.86, 0.1, 0.04)) if charts else 0.0

    height, width = max(cell[3] for cell in cells), max(cell[2] for cell in cells)
    canvas = Image.new("RGB", (width, height), style.background)
    panels: list[CompositePanel] = []
    means: list[NDArray[np.float64]] = []
    for index, cell in enumerate(cells):
        box = _picture_box(cell, style, letter_px)
        if rng.random() < chart_share:
            top = int(1.6 * letter_px) if style.letter_place == "inside" else 0
            picture = draw_chart(rng, box[2] - box[0], box[3] - box[1], top_px=top)
        else:
            apart_from = means if style.gutter_px == 0 else []
            said = {panel.words for panel in panels}
            picture = ornament(rng, _unlike(rng, box, apart_from, said, pool))
            means.append(picture.pixels.mean((0, 1)))
        canvas.paste(Image.fromarray(picture.pixels), box[:2])
        letter = _place_letter(canvas, index, cell, box, picture.kind, style, letter_px)
        draw = ImageDraw.Draw(canvas)
        if letter and letters:
            _draw_letter(draw, letter, style.face)
        if style.frame:
            colour = "black" if style.background == "white" else "white"
            edge = (box[0], box[1], box[2] - 1, box[3] - 1)
            draw.rectangle(edge, outline=colour, width=max(letter_px // 16, 1))
        elif picture.kind == "chart" and style.background == "white":
            box = _ink_box(canvas, box)
        panels.append(CompositePanel(canonical_label(style, index), box, picture.words, picture.kind, letter))
    return _trimmed(Composite(np.asarray(canvas), tuple(panels), style))


def _unlike(
    rng: np.random.Generator,
    box: PxBox,
    means: Sequence[NDArray[np.float64]],
    said: Collection[str],
    pool: int,
) -> Picture:
    """A picture whose mean colour is apart from those given and whose words are new, or the last of eight tries."""
    for _ in range(8):
        picture = draw_picture(rng, box[2] - box[0], box[3] - box[1], pool=pool)
        mean = picture.pixels.mean((0, 1))
        if picture.words not in said and all(
            np.linalg.norm(mean - other) >= _APART_RGB for other in means[-4:]
        ):
            break
    return picture


def _place_letter(
    canvas: Image.Image,
    index: int,
    cell: PxBox,
    box: PxBox,
    kind: Kind,
    style: CompositeStyle,
    letter_px: int,
) -> Letter | None:
    """Where a panel's letter goes and in which colour; a plain one takes the colour that contrasts."""
    if style.letter_place == "none":
        return None
    text = printed_label(style, index)
    x1, y1, x2, y2 = letter_font(style.face, letter_px).getbbox(text)
    wide, tall = int(np.ceil(x2 - x1)), int(np.ceil(y2 - y1))
    if style.letter_place != "inside":  # left or in the middle, never right
        middle = style.letter_corner in ("tr", "br")
        left = (box[0] + box[2] - wide) // 2 if middle else box[0]
        room = (cell[1], box[1]) if style.letter_place == "above" else (box[3], cell[3])
        top = (room[0] + room[1] - tall) // 2
        return Letter(
            text, (left, top, left + wide, top + tall), None, letter_px, style.background == "black"
        )
    corner = "tl" if kind == "chart" else style.letter_corner
    pad = max(letter_px // 5, 3)
    flush = style.letter_ground != "plain" and letter_px % 2 == 0  # the box sits in the very corner or off it
    gap = 0 if flush else max(letter_px // 4, 3)
    left = box[0] + gap + pad if corner[1] == "l" else box[2] - gap - pad - wide
    top = box[1] + gap + pad if corner[0] == "t" else box[3] - gap - pad - tall
    ink = (left, top, left + wide, top + tall)
    ground = (left - pad, top - pad, left + wide + pad, top + tall + pad)
    if style.letter_ground == "plain" or kind == "chart":
        dark = bool(np.asarray(canvas.crop(ground)).mean() < 118)
        return Letter(text, ink, None, letter_px, dark)
    return Letter(text, ink, ground, letter_px, style.letter_ground == "dark")


def _draw_letter(draw: ImageDraw.ImageDraw, letter: Letter, face: str) -> None:
    if letter.ground_px:
        x1, y1, x2, y2 = letter.ground_px
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill="black" if letter.white else "white")
    font = letter_font(face, letter.size_px)
    left, top, _, _ = font.getbbox(letter.text)
    place = (letter.box_px[0] - left, letter.box_px[1] - top)
    draw.text(place, letter.text, font=font, fill="white" if letter.white else "black")


def _trimmed(composite: Composite) -> Composite:
    """Without the bare margins that charts and outside letters leave: a figure's image ends where its content ends."""
    left, top, right, bottom = composite.content_box_px

    def moved(box: PxBox) -> PxBox:
        return (box[0] - left, box[1] - top, box[2] - left, box[3] - top)

    panels = tuple(
        replace(
            panel,
            box_px=moved(panel.box_px),
            letter=panel.letter
            and replace(
                panel.letter,
                box_px=moved(panel.letter.box_px),
                ground_px=panel.letter.ground_px and moved(panel.letter.ground_px),
            ),
        )
        for panel in composite.panels
    )
    return replace(composite, pixels=composite.pixels[top:bottom, left:right], panels=panels)


def _ink_box(canvas: Image.Image, box: PxBox) -> PxBox:
    """The part of a box on white that holds ink: what a viewer sees of a chart."""
    ink = np.asarray(canvas.crop(box)).min(-1) < 250
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    x, y = box[:2]
    return (x + int(columns[0]), y + int(rows[0]), x + int(columns[-1]) + 1, y + int(rows[-1]) + 1)


def _scaled(cell: PxBox, scale: float) -> PxBox:
    x1, y1, x2, y2 = (round(value * scale) for value in cell)
    return (x1, y1, x2, y2)


def _picture_box(cell: PxBox, style: CompositeStyle, letter_px: int) -> PxBox:
    band = int(1.5 * letter_px)
    x1, y1, x2, y2 = cell
    if style.letter_place == "above":
        return (x1, y1 + band, x2, y2)
    return (x1, y1, x2, y2 - band) if style.letter_place == "below" else cell


def _layout(rng: np.random.Generator, count: int, width: int, style: CompositeStyle) -> list[PxBox]:
    """Cells in the order of their letters, the whole `width` px wide, `style.gutter_px` apart."""
    gutter = style.gutter_px
    aspect = float(rng.uniform(0.62, 1.05))
    uneven = rng.random() < 0.3
    if count in (3, 4, 5) and rng.random() < 0.3:
        return _one_large(rng, count, width, gutter)
    if count >= 4 and rng.random() < 0.12:
        columns = _parts(rng, count)
        tall = int(width / len(columns) * max(columns) * aspect)
        flipped = _rows(rng, columns, tall, width, gutter, uneven=uneven)
        return [(y1, x1, y2, x2) for x1, y1, x2, y2 in flipped]
    grids = [(rows, count // rows) for rows in range(1, 6) if count % rows == 0 and count // rows <= 4]
    grids = [(rows, across) for rows, across in grids if across > 1 or rows <= 3]
    if grids and rng.random() < 0.75:
        rows, columns_each = grids[int(rng.integers(len(grids)))]
        cells = _grid(rng, rows, columns_each, width, gutter, aspect, uneven=uneven)
        if style.by_column and rows > 1 and columns_each > 1:
            return [
                cells[row * columns_each + column] for column in range(columns_each) for row in range(rows)
            ]
        return cells
    if count >= 3 and rng.random() < 0.35:
        across = max(2, round(count**0.5 + 0.3))  # a grid whose last row is not full
        return _grid(rng, -(-count // across), across, width, gutter, aspect, uneven=False)[:count]
    rows_of = _parts(rng, count)
    tall = int(sum(width / of * aspect for of in rows_of))
    return _rows(rng, rows_of, width, tall, gutter, uneven=uneven, shares=[1 / of for of in rows_of])


def _parts(rng: np.random.Generator, count: int) -> list[int]:
    """Rows of one to four panels that sum to `count`, neighbours differing by one at most where that is possible."""
    rows = int(rng.integers(-(-count // 4), max(-(-count // 2), -(-count // 4)) + 1))
    parts = [count // rows + (row < count % rows) for row in range(rows)]
    return [int(part) for part in rng.permutation(parts)]


def _cuts(
    rng: np.random.Generator, length: int, shares: Sequence[float], gutter: int
) -> list[tuple[int, int]]:
    """Pieces of a length, `gutter` apart, by their shares."""
    room = length - gutter * (len(shares) - 1)
    ends = np.round(np.cumsum([0.0, *shares]) / sum(shares) * room).astype(int)
    return [(int(a) + i * gutter, int(b) + i * gutter) for i, (a, b) in enumerate(pairwise(ends))]


def _shares(rng: np.random.Generator, count: int, *, uneven: bool) -> list[float]:
    return [float(rng.uniform(0.65, 1.35)) if uneven else 1.0 for _ in range(count)]


def _rows(
    rng: np.random.Generator,
    rows_of: Sequence[int],
    width: int,
    height: int,
    gutter: int,
    *,
    uneven: bool,
    shares: Sequence[float] | None = None,
) -> list[PxBox]:
    """Rows of differing counts, each as wide as the whole."""
    bands = _cuts(rng, height, shares or [1.0] * len(rows_of), gutter)
    return [
        (x1, y1, x2, y2)
        for (y1, y2), of in zip(bands, rows_of, strict=True)
        for x1, x2 in _cuts(rng, width, _shares(rng, of, uneven=uneven), gutter)
    ]


def _grid(
    rng: np.random.Generator, rows: int, columns: int, width: int, gutter: int, aspect: float, *, uneven: bool
) -> list[PxBox]:
    """A grid; an uneven one has columns and rows of differing sizes."""
    xs = _cuts(rng, width, _shares(rng, columns, uneven=uneven), gutter)
    ys = _cuts(rng, int(width / columns * rows * aspect), _shares(rng, rows, uneven=uneven), gutter)
    return [(x1, y1, x2, y2) for y1, y2 in ys for x1, x2 in xs]


def _one_large(rng: np.random.Generator, count: int, width: int, gutter: int) -> list[PxBox]:
    """One large panel beside a column of small ones, left or right of it, or above a row of them."""
    share = float(rng.uniform(0.58, 0.72))
    height = int(width * rng.uniform(0.6, 0.85))
    if count == 4 and rng.random() < 0.4:
        top, bottom = _cuts(rng, int(width * 0.95), (share, 1 - share), gutter)
        small = [(x1, bottom[0], x2, bottom[1]) for x1, x2 in _cuts(rng, width, [1.0] * (count - 1), gutter)]
        return [(0, top[0], width, top[1]), *small]
    left_large = rng.random() < 0.7
    first, second = _cuts(rng, width, (share, 1 - share) if left_large else (1 - share, share), gutter)
    bands = _cuts(rng, height, [1.0] * (count - 1), gutter)
    if left_large:
        return [(first[0], 0, first[1], height), *((second[0], y1, second[1], y2) for y1, y2 in bands)]
    return [*((first[0], y1, first[1], y2) for y1, y2 in bands), (second[0], 0, second[1], height)]
