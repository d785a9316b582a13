"""Shapes and pictures of figures for the set-aside book: phantom tissue cut to shape, and composites as one picture."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pathloom.phantom.cell import draw_cell
from pathloom.phantom.tissue import DIAGNOSES, draw_tissue

Cell = tuple[float, float, float, float]
"""x, y, width and height in points, from the top left corner of the figure."""

_COLUMN_PT = 229.0
_SPAN_PT = 474.0
_GUTTER_PT = 3.0
# Pixels per point of the printed picture: 115 an inch, enough to look at and small enough for sixty pages.
_PIXELS_PER_PT = 1.6
_SOURCE_PX = 320
_KEPT_PER_ENTITY = 6


@dataclass(frozen=True)
class Shape:
    """Where the cells of a figure lie in its box, in points, and how it stands on the page."""

    width_pt: float
    height_pt: float
    cells: tuple[Cell, ...]
    place: str  # column, inline, span, beside, plate


def _grid(width: float, rows: int, columns: int, aspect: float) -> tuple[float, tuple[Cell, ...]]:
    """Height and cells of a regular grid; `aspect` is a cell's width over its height."""
    across = (width - (columns - 1) * _GUTTER_PT) / columns
    down = across / aspect
    cells = tuple(
        (i * (across + _GUTTER_PT), j * (down + _GUTTER_PT), across, down)
        for j in range(rows)
        for i in range(columns)
    )
    return rows * down + (rows - 1) * _GUTTER_PT, cells


def _large_and_two(width: float) -> tuple[float, tuple[Cell, ...]]:
    """A large picture and two small ones stacked at its right."""
    large = (width - _GUTTER_PT) * 0.645
    height = large * 0.75
    small = width - large - _GUTTER_PT
    down = (height - _GUTTER_PT) / 2
    x = large + _GUTTER_PT
    return height, ((0, 0, large, height), (x, 0, small, down), (x, down + _GUTTER_PT, small, down))


def draw_shape(rng: random.Random) -> Shape:
    """A figure's shape; about four in ten are composites."""
    aspect = rng.choice((4 / 3, 4 / 3, 1.5, 1.2))
    kind = rng.choices(
        (
            "single",
            "inline",
            "narrow",
            "beside",
            "pair",
            "stack",
            "trio",
            "large",
            "quad",
            "quad_beside",
            "six",
        ),
        (30, 8, 6, 9, 12, 5, 8, 7, 8, 4, 5),
    )[0]
    rows, columns, width, place = {
        "single": (1, 1, _COLUMN_PT, "column"),
        "inline": (1, 1, _COLUMN_PT, "inline"),
        "narrow": (1, 1, 178.0, "column"),
        "beside": (1, 1, 292.0, "beside"),
        "pair": (1, 2, _SPAN_PT, "span"),
        "stack": (2, 1, _COLUMN_PT, "column"),
        "trio": (1, 3, _SPAN_PT, "span"),
        "large": (1, 1, _SPAN_PT, "span"),
        "quad": (2, 2, _COLUMN_PT, "column"),
        "quad_beside": (2, 2, 318.0, "beside"),
        "six": (2, 3, _SPAN_PT, "span"),
    }[kind]
    if kind == "large":
        height, cells = _large_and_two(width)
    else:
        height, cells = _grid(width, rows, columns, aspect)
    return Shape(width, height, cells, place)


def plate_shape(rng: random.Random) -> Shape:
    rows, aspect = rng.choice(((2, 0.82), (3, 1.2)))
    height, cells = _grid(_SPAN_PT, rows, 2, aspect)
    return Shape(_SPAN_PT, height, cells, "plate")


class Stock:
    """Phantom pictures by entity, each drawn once and cut anew for every use."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.kept: dict[tuple[str, int], Image.Image] = {}

    def _source(self, entity: str, index: int) -> Image.Image:
        key = (entity, index)
        if key not in self.kept:
            seed = self.seed * 1000 + index
            if entity in DIAGNOSES:
                pixels = draw_tissue(seed, size_px=_SOURCE_PX, diagnosis=entity).pixels_rgb
            else:
                pixels = draw_cell(seed, size_px=_SOURCE_PX).pixels_rgb
            self.kept[key] = Image.fromarray(pixels)
        return self.kept[key]

    def draw(self, rng: random.Random, entity: str, size_pt: tuple[float, float]) -> Image.Image:
        """A picture of the entity for a box of `size_pt`: a random window of a source, mirrored or not."""
        source = self._source(entity, rng.randrange(_KEPT_PER_ENTITY))
        width, height = size_pt
        scale = _SOURCE_PX * rng.uniform(0.55, 1.0) / max(width, height)
        across, down = width * scale, height * scale
        x, y = rng.uniform(0, _SOURCE_PX - across), rng.uniform(0, _SOURCE_PX - down)
        cut = source.resize(
            (round(width * _PIXELS_PER_PT), round(height * _PIXELS_PER_PT)),
            Image.Resampling.BICUBIC,
            box=(x, y, x + across, y + down),
        )
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else cut


def composed(
    pictures: list[Image.Image],
    cells: tuple[Cell, ...],
    letters: tuple[str, ...],
    size_pt: tuple[float, float],
) -> Image.Image:
    """One picture of several with white gutters, the letters drawn into it at the lower left of each part."""
    import reportlab

    factor = _PIXELS_PER_PT
    sheet = Image.fromarray(
        np.full((round(size_pt[1] * factor), round(size_pt[0] * factor), 3), 255, np.uint8)
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(
        str(Path(reportlab.__file__).parent / "fonts" / "VeraBd.ttf"), round(9 * factor)
    )
    side = round(13 * factor)
    for picture, (x, y, width, height), letter in zip(pictures, cells, letters, strict=True):
        left, top = round(x * factor), round(y * factor)
        right, bottom = round((x + width) * factor), round((y + height) * factor)
        sheet.paste(picture.resize((right - left, bottom - top)), (left, top))
        draw.rectangle((left, bottom - side, left + side, bottom), fill="white")
        draw.text((left + side / 2, bottom - side / 2), letter, fill="black", font=font, anchor="mm")
    return sheet
