"""Plain shapes: pictures with exact truth that have nothing to do with pathology.

The nano base learns to see on them. A scene holds a few named shapes on a patterned background. Colours, sizes and
patterns are named in plain words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw

from pathloom.schema import Box

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "green": (50, 150, 60),
    "blue": (45, 80, 200),
    "yellow": (235, 215, 60),
    "orange": (240, 140, 40),
    "purple": (125, 60, 160),
    "brown": (120, 75, 40),
    "pink": (240, 150, 190),
    "black": (25, 25, 25),
    "white": (250, 250, 250),
    "grey": (130, 130, 130),
}
KINDS = ("circle", "square", "triangle", "ring", "cross", "star", "diamond", "oval")
UNSEEN_KINDS = ("hexagon", "arrow", "moon")
"""Drawn in test pictures only, and asked about as shapes of a colour."""
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.065, 0.09),
    "medium": (0.115, 0.15),
    "large": (0.19, 0.25),
}
"""Half the height of a shape as a share of the picture's side; the gaps keep the words apart."""
BACKGROUNDS = ("plain", "striped", "dotted", "checked", "wavy", "speckled", "cloudy")

_OVERSAMPLING = 3
Rng = np.random.Generator
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """One shape of a scene; the box is its exact outline in pixels of the picture."""

    kind: str
    colour: str
    size: str
    box_px: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """pixels_rgb [size_px, size_px, 3] uint8, and what was drawn, in reading order (rows of thirds, then columns)."""

    pixels_rgb: NDArray[np.uint8]
    shapes: tuple[Shape, ...]
    background: str


def place(box_px: Sequence[float], size_px: int) -> str:
    """One of nine places in words: upper, middle, lower and left, centre, right thirds of a square picture."""
    row, column = _thirds(box_px, size_px)
    return f"{('upper', 'middle', 'lower')[row]} {('left', 'centre', 'right')[column]}"


def _thirds(box_px: Sequence[float], size_px: int) -> tuple[int, int]:
    x, y = (box_px[0] + box_px[2]) / 2, (box_px[1] + box_px[3]) / 2
    return min(int(3 * y / size_px), 2), min(int(3 * x / size_px), 2)


def reading_order(box_px: Sequence[float], size_px: int) -> tuple[float, ...]:
    """Sort key: by row of thirds, then by column, then from the left, as places are listed and boxes written."""
    return (*_thirds(box_px, size_px), box_px[0])


def draw_scene(seed: int, *, size_px: int, names: Sequence[tuple[str, str]]) -> Scene:
    """A scene with one shape for each (kind, colour), at random places that do not overlap, in random sizes.

    Shapes that find no free place are drawn smaller; after that the whole scene is laid out again.
    """
    rng = np.random.default_rng(seed)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    canvas = _background(rng, background, size_px, [COLOURS[colour] for _, colour in names])
    draw = ImageDraw.Draw(canvas)
    shapes = []
    for (kind, colour), (size, x, y, half) in zip(names, _lay_out(rng, len(names), size_px), strict=True):
        outline = _OUTLINES[kind](rng) * half + np.array([x, y])
        _fill(draw, kind, outline, _jitter(rng, COLOURS[colour]))
        low, high = outline.min(axis=0), outline.max(axis=0)
        shapes.append(
            Shape(kind, colour, size, (float(low[0]), float(low[1]), float(high[0]), float(high[1])))
        )
    return Scene(
        _to_pixels(canvas, rng),
        tuple(sorted(shapes, key=lambda shape: reading_order(shape.box_px, size_px))),
        background,
    )


def _lay_out(rng: Rng, count: int, size_px: int) -> list[tuple[str, float, float, float]]:
    """(size word, centre x, centre y, half height in px) of each shape."""
    for attempt in range(200):
        # crowds and unlucky draws get smaller shapes
        words = list(SIZES)[: 3 if count <= 3 and attempt < 20 else (2 if count <= 5 and attempt < 60 else 1)]
        placed: list[tuple[str, float, float, float]] = []
        for _ in range(count):
            word = words[int(rng.integers(len(words)))]
            half = float(rng.uniform(*SIZES[word])) * size_px
            reach = 1.15 * half
            for _ in range(20):
                x, y = rng.uniform(reach, size_px - reach, 2)
                if all(
                    max(abs(x - other[1]), abs(y - other[2])) > 1.2 * (half + other[3]) for other in placed
                ):
                    placed.append((word, float(x), float(y), half))
                    break
        if len(placed) == count:
            return placed
    raise RuntimeError(f"no place for {count} shapes in {size_px} px")


def _turned(points: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    angle = math.radians(degrees)
    return points @ np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _regular(corners: int, start_degrees: float) -> NDArray[np.float64]:
    angles = np.radians(start_degrees + 360 / corners * np.arange(corners))
    return np.stack([np.cos(angles), -np.sin(angles)], axis=1)


def _star(rng: Rng) -> NDArray[np.float64]:
    points = _regular(10, 90)
    points[1::2] *= 0.45
    return points


def _moon(rng: Rng) -> NDArray[np.float64]:
    """The outer arc and, back again, an inner one."""
    outer = np.radians(np.linspace(60, 300, 24))
    inner = np.radians(np.linspace(285, 75, 24))
    return np.concatenate(
        [
            np.stack([np.cos(outer), -np.sin(outer)], axis=1),
            np.stack([0.45 + 0.8 * np.cos(inner), -0.8 * np.sin(inner)], axis=1),
        ]
    )


_CROSS = np.array(
    [(-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3), (0.3, 1), (-0.3, 1), (-0.3, 0.3),
     (-1, 0.3), (-1, -0.3), (-0.3, -0.3)]
)  # fmt: skip
_ARROW = np.array([(-1, -0.3), (0.1, -0.3), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.3), (-1, 0.3)])

_OUTLINES: dict[str, Callable[[Rng], NDArray[np.float64]]] = {
    # corners [n, 2] around the origin, about one unit out
    "circle": lambda rng: _regular(36, 0),
    "ring": lambda rng: _regular(36, 0),
    "oval": lambda rng: _turned(_regular(36, 0) * (1.0, 0.5), float(rng.uniform(0, 180))),
    "square": lambda rng: _turned(_regular(4, 45) * 1.2, float(rng.uniform(-12, 12))),
    "diamond": lambda rng: _turned(_regular(4, 0) * (0.75, 1.1), float(rng.uniform(-12, 12))),
    "triangle": lambda rng: _turned(_regular(3, 90) * 1.1, float(rng.uniform(-20, 20))),
    "star": _star,
    "cross": lambda rng: _turned(_CROSS, float(rng.uniform(-12, 12))),
    "hexagon": lambda rng: _turned(_regular(6, 0), float(rng.uniform(0, 60))),
    "arrow": lambda rng: _turned(_ARROW, float(rng.uniform(0, 360))),
    "moon": _moon,
}


def _fill(draw: ImageDraw.ImageDraw, kind: str, outline: NDArray[np.float64], fill: Colour) -> None:
    if kind != "ring":
        _polygon(draw, outline, fill)
        return
    low, high = outline.min(axis=0) * _OVERSAMPLING, outline.max(axis=0) * _OVERSAMPLING
    width = max(1, round(float(high[0] - low[0]) * 0.17))
    draw.ellipse((*low.tolist(), *high.tolist()), outline=fill, width=width)


def _polygon(draw: ImageDraw.ImageDraw, outline: NDArray[np.float64], fill: Colour) -> None:
    draw.polygon([(float(x), float(y)) for x, y in outline * _OVERSAMPLING], fill=fill)


def _jitter(rng: Rng, colour: Colour, spread: float = 10.0) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.normal(0, spread, 3), 0, 255).astype(int).tolist()
    return red, green, blue


def _background(rng: Rng, pattern: str, size_px: int, avoided: Sequence[Colour]) -> PILImage.Image:
    """An oversampled canvas whose two tones lie close together and away from the colours drawn on it."""
    for _ in range(50):
        tone = rng.uniform(60, 250, 3) if rng.random() < 0.4 else rng.uniform(205, 250, 3)
        if all(np.abs(tone - colour).sum() > 120 for colour in avoided):
            break
    other = np.clip(tone + rng.choice([-1, 1]) * rng.uniform(14, 34) + rng.normal(0, 8, 3), 0, 255)
    mix = _pattern(rng, pattern, size_px)[..., None]
    pixels = np.clip(tone * (1 - mix) + other * mix, 0, 255).astype(np.uint8)
    side = size_px * _OVERSAMPLING
    return PILImage.fromarray(pixels).resize((side, side), PILImage.Resampling.BILINEAR)


def _pattern(rng: Rng, pattern: str, size_px: int) -> NDArray[np.float64]:
    """Share of the second tone, [size_px, size_px] in 0 to 1."""
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float64)
    period = float(rng.uniform(0.07, 0.16)) * size_px
    angle = math.radians(float(rng.uniform(0, 180)))
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if pattern == "striped":
        return (np.sin(2 * math.pi * u / period) > 0).astype(np.float64)
    if pattern == "checked":
        return ((np.sin(2 * math.pi * u / period) > 0) ^ (np.sin(2 * math.pi * v / period) > 0)).astype(
            np.float64
        )
    if pattern == "dotted":
        return (
            (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < (0.28 * period) ** 2
        ).astype(np.float64)
    if pattern == "wavy":
        return (np.sin(2 * math.pi * (u + 0.35 * period * np.sin(v / period * 2)) / period) > 0).astype(
            np.float64
        )
    if pattern == "speckled":
        return (rng.random((size_px, size_px)) < 0.25).astype(np.float64)
    if pattern == "cloudy":
        coarse = PILImage.fromarray((rng.random((7, 7)) * 255).astype(np.uint8))
        smooth = coarse.resize((size_px, size_px), PILImage.Resampling.BICUBIC)
        return np.asarray(smooth, dtype=np.float64) / 255
    return np.zeros((size_px, size_px))


def _to_pixels(canvas: PILImage.Image, rng: Rng) -> NDArray[np.uint8]:
    """Reduced to the picture's size, with a little sensor noise."""
    pixels = np.asarray(canvas.reduce(_OVERSAMPLING), dtype=np.float64)
    return np.clip(pixels + rng.normal(0, 2.5, pixels.shape), 0, 255).astype(np.uint8)
