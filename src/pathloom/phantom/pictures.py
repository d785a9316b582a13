"""Synthetic pictures for the panels of phantom books: crops of phantom tissue and cells, and simple charts.

Tissue and cells are drawn once per pool and re-used as crops: drawing is what costs time. Every picture comes with
words that are true of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pathloom.phantom.cell import draw_cell
from pathloom.phantom.tissue import DIAGNOSES, ORGANS, STAINS, draw_tissue

Kind = Literal["tissue", "cells", "chart"]

TISSUE_PX, CELLS_PX = 460, 360
NUM_TISSUES, NUM_CELLS = 18, 9
FACES: Mapping[str, str] = {
    "sans": "_a______.pfb",
    "sans bold": "_ab_____.pfb",
    "serif": "_er_____.pfb",
    "serif bold": "_eb_____.pfb",
}
"""Fonts that reportlab carries for its own use (lookalikes of Helvetica and Times), by what they look like."""

_BARE_LEVEL, _MAX_BARE = 225, 0.45
"""A crop with more bare glass than this share shows too little tissue to tell where the picture ends."""
_LIGHTEST = 250
"""Light borders stay darker than the paper, as in photographs whose white is balanced on glass."""

_FINDINGS: Mapping[str, tuple[str, ...]] = {
    "benign glands": (
        "round glands lined by a single cell layer",
        "evenly spaced benign glands",
        "regular glands",
    ),
    "adenocarcinoma": (
        "irregular fused glands with atypical nuclei",
        "adenocarcinoma with fused glands",
        "back-to-back malignant glands",
    ),
    "squamous cell carcinoma": (
        "solid nests of polygonal cells",
        "squamous cell carcinoma growing in nests",
        "tumour nests in a fibrous stroma",
    ),
    "chronic inflammation": (
        "dense infiltrate of lymphocytes and plasma cells",
        "chronic inflammation of the stroma",
        "many mononuclear inflammatory cells",
    ),
    "necrosis": (
        "granular debris without intact cells",
        "a focus of necrosis",
        "necrotic centre with debris",
    ),
    "fibrosis": (
        "wavy collagen with spindle nuclei",
        "dense fibrosis",
        "bundles of collagen and few fibroblasts",
    ),
    "NILM": ("normal squamous cells", "superficial cells with small nuclei"),
    "ASC-US": ("slightly enlarged nuclei of uncertain meaning", "atypical squamous cells"),
    "LSIL": ("cells with halos and enlarged nuclei", "low-grade squamous lesion"),
    "ASC-H": ("small atypical cells, a high-grade lesion not excluded", "immature atypical cells"),
    "HSIL": ("small cells with coarse chromatin", "high-grade squamous lesion"),
    "SCC": ("bizarre keratinised cells", "malignant squamous cells on a dirty background"),
    "malignant glandular cells": ("malignant glandular cells", "glandular cells with prominent nucleoli"),
    "AGC": ("crowded glandular cells", "atypical glandular cells"),
    "bar": ("share of positive nuclei by grade", "number of cases by group", "mean index of each group"),
    "curve": ("survival by grade", "course of the mean score over time", "cumulative share of recurrences"),
    "scatter": ("nuclear area against cell area", "index against age", "score against tumour size"),
}


@dataclass(frozen=True, eq=False)
class Picture:
    """One panel's picture; `words` begin in lower case and hold no full stop."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    kind: Kind
    words: str


@dataclass(frozen=True, eq=False)
class _Drawn:
    pixels: NDArray[np.uint8]
    kind: Kind
    finding: str
    stain: str
    organ: str


def letter_font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    """One of FACES at a size in pixels."""
    spec = find_spec("reportlab")
    if spec is None or spec.origin is None:
        raise ImportError("phantom books need reportlab: pip install 'pathloom[books]'")
    return ImageFont.truetype(Path(spec.origin).parent / "fonts" / FACES[face], size_px)


def _with_glass(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with a cleft of bare, nearly white glass that reaches its border."""
    height, width, _ = pixels.shape
    coarse = rng.normal(size=(5, 5))
    field = ndimage.zoom(coarse, (height / 5, width / 5), order=3)[:height, :width]
    fine = ndimage.zoom(rng.normal(size=(40, 40)), (height / 40, width / 40), order=1)[:height, :width]
    field = field + 0.12 * fine
    glass = field > np.quantile(field, rng.uniform(0.62, 0.88))
    soft = ndimage.gaussian_filter(glass.astype(np.float32), 1.2)[..., None]
    white = rng.uniform(240, 254) + rng.normal(0, 1.5, (height, width, 1))
    return np.clip(pixels * (1 - soft) + white * soft, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _pool(seed: int) -> tuple[_Drawn, ...]:
    rng = np.random.default_rng([seed, 40])
    drawn = []
    for number in range(NUM_TISSUES):
        tissue = draw_tissue(
            int(rng.integers(2**31)),
            size_px=TISSUE_PX,
            diagnosis=DIAGNOSES[number % len(DIAGNOSES)],
            stain=STAINS[number % 3 == 2],
            organ=ORGANS[number % len(ORGANS)],
        )
        pixels = _with_glass(rng, tissue.pixels_rgb) if rng.random() < 0.35 else tissue.pixels_rgb
        drawn.append(_Drawn(pixels, "tissue", tissue.diagnosis, tissue.stain, tissue.organ))
    for _ in range(NUM_CELLS):
        cell = draw_cell(int(rng.integers(2**31)), size_px=CELLS_PX)
        finding = "malignant glandular cells" if cell.bethesda == "adenocarcinoma" else cell.bethesda
        drawn.append(_Drawn(cell.pixels_rgb, "cells", finding, "Papanicolaou", ""))
    return tuple(drawn)


def _words(rng: np.random.Generator, finding: str, stain: str, organ: str) -> str:
    phrases = _FINDINGS[finding]
    phrase = phrases[int(rng.integers(len(phrases)))]
    style = rng.random()
    if organ and style < 0.3:
        phrase += f" in the {organ}"
    if stain and style > 0.75:
        phrase += f" ({stain})"
    return phrase


def _crop(
    rng: np.random.Generator, pixels: NDArray[np.uint8], aspect: float, share: float
) -> NDArray[np.uint8]:
    """A crop of width over height `aspect` whose longer side is `share` of the square picture's."""
    size = pixels.shape[0]
    tall = max(int(size * share / max(aspect, 1.0)), 16)
    wide = max(int(size * share * min(aspect, 1.0)), 16)
    top, left = int(rng.integers(size - tall + 1)), int(rng.integers(size - wide + 1))
    return pixels[top : top + tall, left : left + wide]


def draw_picture(rng: np.random.Generator, width_px: int, height_px: int, *, pool: int = 0) -> Picture:
    """A tissue or cell picture of the wanted size: a crop of the pool, mirrored, enlarged and tinted at random."""
    drawn = _pool(pool)[int(rng.integers(NUM_TISSUES + NUM_CELLS))]
    least = 0.9 if drawn.kind == "cells" else 0.4
    for _ in range(6):
        crop = _crop(rng, drawn.pixels, width_px / height_px, float(rng.uniform(least, 1.0)))
        if drawn.kind == "cells" or (crop.min(-1) > _BARE_LEVEL).mean() < _MAX_BARE:
            break
    crop = np.ascontiguousarray(crop[:: int(rng.choice((-1, 1))), :: int(rng.choice((-1, 1)))])
    picture = Image.fromarray(crop).resize((width_px, height_px), Image.Resampling.BICUBIC)
    tint = rng.uniform(0.94, 1.04, 3) * rng.uniform(0.92, 1.04)
    pixels = np.clip(np.asarray(picture) * tint, 0, _LIGHTEST).astype(np.uint8)
    return Picture(pixels, drawn.kind, _words(rng, drawn.finding, drawn.stain, drawn.organ))


def ornament(rng: np.random.Generator, picture: Picture, *, text: bool = True) -> Picture:
    """The picture with, each now and then: an inset magnification, a scale bar, arrows or an asterisk."""
    canvas = Image.fromarray(picture.pixels)
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    shorter = min(width, height)
    if shorter >= 160 and rng.random() < 0.12:
        _inset(rng, canvas, draw)
    if rng.random() < 0.35:
        _scale_bar(rng, draw, width, height, text=text)
    if rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            _arrow(rng, draw, width, height)
    if rng.random() < 0.06:
        place = (float(rng.uniform(0.3, 0.7)) * width, float(rng.uniform(0.3, 0.7)) * height)
        draw.text(place, "*", font=letter_font("sans bold", max(shorter // 8, 14)), fill="black")
    return Picture(np.asarray(canvas), picture.kind, picture.words)


def _inset(rng: np.random.Generator, canvas: Image.Image, draw: ImageDraw.ImageDraw) -> None:
    """A magnified detail in the lower left or lower right corner, framed."""
    width, height = canvas.size
    side = int(min(width, height) * rng.uniform(0.28, 0.4))
    detail_px = side // 3
    left, top = int(rng.integers(width - detail_px)), int(rng.integers(height // 2))
    detail = canvas.crop((left, top, left + detail_px, top + detail_px)).resize((side, side))
    x = 0 if rng.random() < 0.5 else width - side
    canvas.paste(detail, (x, height - side))
    colour = ("white", "black")[int(rng.integers(2))]
    draw.rectangle((x, height - side, x + side - 1, height - 1), outline=colour, width=2)


def _scale_bar(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, *, text: bool
) -> None:
    colour = ("white", "black")[int(rng.integers(2))]
    length, thick = int(width * rng.uniform(0.12, 0.25)), max(height // 80, 2)
    right, bottom = width - max(width // 25, 5), height - max(height // 25, 5)
    draw.rectangle((right - length, bottom - thick, right, bottom), fill=colour)
    if text and rng.random() < 0.5:
        size = max(height // 20, 10)
        label = f"{int(rng.choice((20, 50, 100, 200)))} µm"
        draw.text(
            (right, bottom - thick - 2), label, font=letter_font("sans", size), fill=colour, anchor="rd"
        )


def _arrow(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    colour = ("white", "black", "yellow")[int(rng.integers(3))]
    shorter = min(width, height)
    tip = np.array([rng.uniform(0.25, 0.75) * width, rng.uniform(0.25, 0.75) * height])
    angle, length = rng.uniform(0, 2 * np.pi), shorter * rng.uniform(0.08, 0.14)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    head = 0.4 * length
    corners = (tip, tip - head * along + 0.5 * head * across, tip - head * along - 0.5 * head * across)
    draw.polygon([(float(x), float(y)) for x, y in corners], fill=colour)
    if rng.random() < 0.6:
        end = tip - length * along
        draw.line(
            (*map(float, end), *map(float, tip - head * along)), fill=colour, width=max(shorter // 90, 2)
        )


def draw_chart(rng: np.random.Generator, width_px: int, height_px: int, *, top_px: int = 0) -> Picture:
    """A bar, curve or scatter chart on white with axes, ticks and numbers; its ink leaves a small white margin.

    `top_px` rows stay free at the top, for a letter.
    """
    kind = ("bar", "curve", "scatter")[int(rng.integers(3))]
    canvas = Image.new("RGB", (width_px, height_px), "white")
    draw = ImageDraw.Draw(canvas)
    size = max(min(width_px, height_px) // 18, 10)
    font = letter_font("sans", size)
    left, bottom, right, top = 3 * size, height_px - int(2.2 * size), width_px - size, max(2 * size, top_px)
    thick = max(size // 8, 1)
    draw.line((left, top, left, bottom, right, bottom), fill="black", width=thick)
    for step in range(5):
        y = bottom - (bottom - top) * step / 4
        draw.line((left - size // 2, y, left, y), fill="black", width=thick)
        draw.text((left - 0.7 * size, y), str(20 * step), font=font, fill="black", anchor="rm")
    colours = [tuple(int(c) for c in rng.integers(20, 200, 3)) for _ in range(3)]
    count = int(rng.integers(3, 7))
    span = (right - left) / count
    for number in range(count):
        place = (left + span * (number + 0.5), bottom + 0.4 * size)
        draw.text(place, str(number + 1), font=font, fill="black", anchor="ma")
    if kind == "bar":
        for number in range(count):
            x, tall = left + span * (number + 0.2), (bottom - top) * float(rng.uniform(0.15, 0.95))
            draw.rectangle((x, bottom - tall, x + 0.6 * span, bottom - thick), fill=colours[number % 3])
    elif kind == "curve":
        for colour in colours[: int(rng.integers(1, 4))]:
            heights = np.cumsum(rng.uniform(0, 1, 12))
            heights = heights / heights[-1] * rng.uniform(0.5, 1.0)
            xs = np.linspace(left, right, 12)
            points = [(x, bottom - h * (bottom - top)) for x, h in zip(xs, heights, strict=True)]
            draw.line(points, fill=colour, width=2 * thick)
    else:
        for x, y in rng.uniform(0.04, 0.96, (40, 2)):
            px, py = left + x * (right - left), bottom - (0.3 * y + 0.65 * x) * (bottom - top)
            draw.ellipse((px - size / 5, py - size / 5, px + size / 5, py + size / 5), fill=colours[0])
    return Picture(np.asarray(canvas), "chart", _words(rng, kind, "", ""))
