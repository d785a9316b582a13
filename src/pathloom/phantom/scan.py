"""Phantom scans: the pages of a PDF as a worn scanner would give them, with the truth turned along."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pathloom.figures import Book, Figure
from pathloom.schema import Box

PAGE_SIDE_PT = 842.0
"""An image file has no points: its longer side counts as this many (see pathloom.books.page)."""
MAX_TURN_DEG = 0.7
DPI = (150, 200)


@dataclass(frozen=True)
class Wear:
    """What a scanner and its paper do to every page of a book; angles and specks are drawn page by page."""

    dpi: int
    paper_rgb: tuple[float, float, float]
    light_fall: tuple[float, float]
    """Share of light lost from the middle to the right and to the lower border (negative: to the other one)."""
    blur_px: float
    noise_sd: float
    bleed_through: float
    """Share of the overleaf page's ink that shows."""
    jpeg_quality: int
    grey: bool


def draw_wear(rng: np.random.Generator) -> Wear:
    """Ranges are our own choice, looked at on rendered pages: text stays readable for a person throughout."""
    paper = rng.uniform(238, 254)
    return Wear(
        dpi=int(rng.integers(DPI[0], DPI[1] + 1)),
        paper_rgb=(paper, paper - float(rng.uniform(0, 4)), paper - float(rng.uniform(2, 16))),
        light_fall=(float(rng.uniform(-0.07, 0.07)), float(rng.uniform(-0.05, 0.05))),
        blur_px=float(rng.uniform(0.3, 0.9)),
        noise_sd=float(rng.uniform(1.0, 4.0)),
        bleed_through=float(rng.uniform(0.02, 0.09)) if rng.random() < 0.6 else 0.0,
        jpeg_quality=int(rng.integers(60, 86)),
        grey=bool(rng.random() < 0.15),
    )


def degrade(
    pixels: NDArray[np.uint8],
    rng: np.random.Generator,
    wear: Wear,
    *,
    turn_deg: float = 0.0,
    overleaf: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """A page [H, W, 3] as scanned, of the same size, turned counter-clockwise about its middle; JPEG is left to the
    writer. `overleaf` is the page printed on the back.
    """
    height, width, _ = pixels.shape
    page = pixels.astype(np.float32)
    if overleaf is not None and wear.bleed_through:
        back = Image.fromarray(overleaf[:, ::-1]).resize((width, height)).filter(ImageFilter.GaussianBlur(2))
        page -= wear.bleed_through * (255 - np.asarray(back, np.float32))
    page *= np.array(wear.paper_rgb, np.float32) / 255
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    page *= 1 - np.clip(wear.light_fall[0] * across + wear.light_fall[1] * down, 0, None)
    picture = Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))
    tone = (int(wear.paper_rgb[0]), int(wear.paper_rgb[1]), int(wear.paper_rgb[2]))
    picture = picture.rotate(turn_deg, Image.Resampling.BICUBIC, fillcolor=tone)
    picture = picture.filter(ImageFilter.GaussianBlur(wear.blur_px))
    noisy = np.asarray(picture, np.float32) + rng.normal(0, wear.noise_sd, (height, width, 1)).astype(
        np.float32
    )
    for _ in range(int(rng.integers(0, 12))):  # dust
        y, x, size = int(rng.integers(height)), int(rng.integers(width)), int(rng.integers(1, 4))
        noisy[y : y + size, x : x + size] -= float(rng.uniform(40, 140))
    if wear.grey:
        noisy = np.repeat(noisy.mean(-1, keepdims=True), 3, -1)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def turned(box: Box, turn_deg: float, size: tuple[float, float]) -> Box:
    """The upright box around a box turned counter-clockwise about the middle of a page, kept inside the page."""
    cos, sin = math.cos(math.radians(turn_deg)), math.sin(math.radians(turn_deg))
    middle_x, middle_y = size[0] / 2, size[1] / 2
    corners = [(x - middle_x, y - middle_y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    xs = [cos * x + sin * y + middle_x for x, y in corners]
    ys = [cos * y - sin * x + middle_y for x, y in corners]
    return (max(min(xs), 0.0), max(min(ys), 0.0), min(max(xs), size[0]), min(max(ys), size[1]))


def scan_book(pdf: Path, folder: Path, book: Book, *, seed: int, wear: Wear | None = None) -> Book:
    """Scan a phantom book into `folder` as 0001.jpg, 0002.jpg ...; gives its truth in points of the images."""
    import pypdfium2 as pdfium

    rng = np.random.default_rng([seed, 60])
    wear = draw_wear(rng) if wear is None else wear
    folder.mkdir(parents=True, exist_ok=True)
    turns: list[float] = []
    sizes: list[tuple[float, float]] = []
    document = pdfium.PdfDocument(pdf)
    try:
        rendered = [_render(document, number, wear.dpi) for number in range(min(2, len(document)))]
        for number in range(len(document)):
            pixels = rendered[0]
            overleaf = rendered[1] if len(rendered) > 1 else None
            turns.append(float(rng.uniform(-MAX_TURN_DEG, MAX_TURN_DEG)))
            sizes.append(document.get_page_size(number))
            scanned = degrade(pixels, rng, wear, turn_deg=turns[-1], overleaf=overleaf)
            name = folder / f"{number + 1:04}.jpg"
            Image.fromarray(scanned).save(name, quality=wear.jpeg_quality, dpi=(wear.dpi, wear.dpi))
            rendered = rendered[1:]
            if number + 2 < len(document):
                rendered.append(_render(document, number + 2, wear.dpi))
    finally:
        document.close()

    def moved(box: Box, page: int) -> Box:
        size = sizes[page - 1]
        scale = PAGE_SIDE_PT / max(size)
        x1, y1, x2, y2 = turned(box, turns[page - 1], size)
        return (x1 * scale, y1 * scale, x2 * scale, y2 * scale)

    def scanned_figure(figure: Figure) -> Figure:
        caption_box = None
        if figure.caption_box_pt is not None and figure.caption_page is not None:
            caption_box = moved(figure.caption_box_pt, figure.caption_page)
        panels = tuple(
            panel.model_copy(update={"box_pt": moved(panel.box_pt, figure.page)}) for panel in figure.panels
        )
        return figure.model_copy(
            update={
                "box_pt": moved(figure.box_pt, figure.page),
                "caption_box_pt": caption_box,
                "panels": panels,
            }
        )

    return book.model_copy(
        update={"name": folder.name, "figures": tuple(scanned_figure(figure) for figure in book.figures)}
    )


def _render(document: Any, index: int, dpi: int) -> NDArray[np.uint8]:
    page = document[index]
    pixels: NDArray[np.uint8] = np.asarray(page.render(scale=dpi / 72).to_pil().convert("RGB"))
    page.close()
    return pixels
