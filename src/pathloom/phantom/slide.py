"""Whole phantom slides: tissue on pale glass, a lesion of at most 5 % of it, and the truth about both.

What lies where is planned first (`slide_plan`); pixels are drawn strip by strip from a bank of tissue (`slide_bank`),
so a slide of any size is written in the memory of a few strips. Stain, paper, tissue, gaps and benign foci are drawn
from the slide's seed whatever its label; only the lesion tells it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageFilter

from pathloom.phantom.slide_bank import (
    PATCH_PX,
    PATCHES_PER_KIND,
    PITCH_PX,
    Amounts,
    coloured,
    draw_colours,
    patches,
)
from pathloom.phantom.slide_plan import (
    BENIGN,
    EXTENTS,
    LESIONS,
    MIN_SIDE_PX,
    NORMAL,
    Polygon,
    SlidePlan,
    plan_slide,
    rasterise,
)
from pathloom.slides.geojson import write_geojson
from pathloom.slides.write import QUALITY, TILE_PX, write_pyramid

__all__ = [
    "BENIGN",
    "EXTENTS",
    "LESIONS",
    "MIN_SIDE_PX",
    "NORMAL",
    "SlidePainter",
    "SlidePlan",
    "plan_slide",
    "write_slide",
]

_TISSUE_EDGE_PX = 3
_FOCUS_EDGE_PX = 13


class SlidePainter:
    """Draws any strip of a planned slide; the same strip has the same pixels however the slide is cut into strips."""

    def __init__(self, plan: SlidePlan) -> None:
        self.plan = plan
        self.colours = draw_colours(np.random.default_rng([plan.seed, 8]))
        rng = np.random.default_rng([plan.seed, 9])
        # A slide's tissue is made of a part of the bank, so that slides of one kind differ from each other.
        self._chosen = rng.permutation(PATCHES_PER_KIND)[: int(rng.integers(12, 25))]
        self._columns = -(-plan.width_px // PITCH_PX) + 2

    def strip(self, y_px: int, height_px: int) -> NDArray[np.uint8]:
        """Pixels [height_px, width_px, 3] from row y_px on."""
        return coloured(self._amounts(y_px, height_px), self.colours)

    def _amounts(self, y_px: int, height_px: int) -> Amounts:
        plan = self.plan
        amounts = np.zeros((height_px, plan.width_px), np.uint16)
        tissue = self._cover(plan.tissue_l0, y_px, height_px, _TISSUE_EDGE_PX)
        tissue[self._cover(plan.gaps_l0, y_px, height_px, _TISSUE_EDGE_PX) > 127] = 0
        if not tissue.any():
            return amounts
        covers = [(plan.background, tissue)]
        for focus in (*plan.benign_foci, *plan.lesions):
            cover = self._cover((focus.outline_l0,), y_px, height_px, _FOCUS_EDGE_PX)
            if cover.any():
                np.minimum(cover, tissue, out=cover)
                tissue -= cover
                covers.append((focus.kind, cover))
        first = (y_px - PATCH_PX) // PITCH_PX + 1
        for row in range(first, (y_px + height_px - 1) // PITCH_PX + 1):
            self._lay_row(amounts, covers, row, row * PITCH_PX - y_px)
        return amounts

    def _cover(
        self, outlines: tuple[Polygon, ...], y_px: int, height_px: int, edge_px: int
    ) -> NDArray[np.uint8]:
        """[height_px, width_px], 255 inside and 0 outside, fading over `edge_px`."""
        # Pillow fills an outline inexactly by a pixel where its picture cuts it, so it is cut farther out.
        halo = 2 * edge_px + 16
        high, low = y_px + height_px + halo, y_px - halo
        near = [one for one in outlines if one[:, 1].max() > low and one[:, 1].min() < high]
        if not near:
            return np.zeros((height_px, self.plan.width_px), np.uint8)
        mask = rasterise(near, 0, low, self.plan.width_px, height_px + 2 * halo)
        faded = PILImage.fromarray(mask).filter(ImageFilter.BoxBlur(edge_px // 2))
        return np.array(faded)[halo:-halo]

    def _lay_row(
        self, amounts: Amounts, covers: list[tuple[str, NDArray[np.uint8]]], row: int, top_px: int
    ) -> None:
        """One row of patches, its upper edge at `top_px` of the strip; each row begins at a place of its own."""
        height, width = amounts.shape
        rng = np.random.default_rng([self.plan.seed, 10, row + 1])
        begin = -int(rng.integers(1, PITCH_PX + 1))
        which = self._chosen[rng.integers(len(self._chosen), size=self._columns)]
        turns = rng.integers(4, size=self._columns)
        y1, y2 = max(top_px, 0), min(top_px + PATCH_PX, height)
        for column in range(self._columns):
            left = begin + column * PITCH_PX
            x1, x2 = max(left, 0), min(left + PATCH_PX, width)
            if x2 <= x1 or y2 <= y1:
                continue
            part = (slice(y1 - top_px, y2 - top_px), slice(x1 - left, x2 - left))
            here = amounts[y1:y2, x1:x2]
            for kind, cover in covers:
                covered = cover[y1:y2, x1:x2]
                if covered.any():
                    patch = patches(kind)[which[column]]
                    patch = patch[:: 1 - 2 * (turns[column] & 1), :: 1 - (turns[column] & 2)][part]
                    here += patch if covered.min() == 255 else _thinned(patch, covered)


def _thinned(patch: Amounts, cover: NDArray[np.uint8]) -> Amounts:
    """Both stains of a patch times cover / 255."""
    both = np.ascontiguousarray(patch).astype("<u2").view(np.uint8).reshape(*patch.shape, 2)
    thin = (both * (cover[..., None].astype(np.uint16) + 1)) >> 8
    return np.asarray(thin[..., 0] | (thin[..., 1] << 8), np.uint16)


def write_slide(
    plan: SlidePlan, path: Path, *, tile_px: int = TILE_PX, quality: int = QUALITY, quiet: bool = True
) -> None:
    """Write the slide as a pyramidal TIFF, and its truth beside it as PATH's name with .geojson."""
    write_geojson(plan.features(), path.with_suffix(".geojson"))
    painter = SlidePainter(plan)
    write_pyramid(
        path,
        painter.strip,
        (plan.width_px, plan.height_px),
        plan.mpp,
        tile_px=tile_px,
        quality=quality,
        quiet=quiet,
    )
