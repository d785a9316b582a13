"""Synthetic cervical cytology at 0.5 um per pixel: one cell in the middle, its neighbours, and known attributes.

Papanicolaou stain by Beer-Lambert absorption: light adds up through overlapping cells. What the attributes say is
what is drawn; the classes and their profiles are in phantom.cytology.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathloom.phantom.cytology import (
    BETHESDA,
    PROFILES,
    CellPlan,
    attribute_sentence,
    cell_caption,
    draw_plan,
)
from pathloom.phantom.smear import Smear, draw_anchor
from pathloom.phantom.stain import draw_mean_rgb, expose, to_pixels
from pathloom.phantom.surroundings import draw_context, draw_neighbours

__all__ = ["BETHESDA", "PROFILES", "Cell", "draw_cell"]

FIELD_UM = 56.0
MIN_SIZE_PX = 64
_BACKGROUNDS = ("clean", "inflammatory", "dirty")
_BACKGROUND_SHARES = (0.55, 0.30, 0.15)


@dataclass(frozen=True, eq=False)
class Cell:
    """One tile with its truth. Boxes are x1 y1 x2 y2 in pixels, half-open, inside the image."""

    pixels_rgb: NDArray[np.uint8]  # [H, W, 3]
    cell_mask: NDArray[np.bool_]  # [H, W], the cell in the middle, its nuclei included
    cell_box_px: NDArray[np.float32]  # [4], tight around cell_mask
    nucleus_mask: NDArray[np.int32]  # [H, W], nuclei of the cell in the middle only, from 1
    nucleus_boxes_px: NDArray[np.float32]  # [n, 4], tight around the mask
    bethesda: str
    attributes: Mapping[str, str]  # nine keys; values as in cytology.VALUES
    broken: tuple[str, ...]  # attributes whose drawn value lies outside the class profile, at most two
    background: str  # clean, inflammatory or dirty (tumour diathesis)
    mpp: float  # um per pixel

    def observations(self) -> tuple[str, ...]:
        """Ten short sentences: the nine attributes in order, then the background."""
        said = tuple(attribute_sentence(key, value) for key, value in self.attributes.items())
        return (*said, f"The background is {self.background}.")

    def caption(self, rng: np.random.Generator) -> str:
        """One or two sentences in varied wording that name the class."""
        return cell_caption(rng, self.bethesda, self.attributes)


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)


def _photograph(rng: np.random.Generator, density: NDArray[np.float32]) -> NDArray[np.uint8]:
    light = expose(density, draw_mean_rgb(rng, "Papanicolaou"), gain_range=(0.72, 1.3))
    focus = float(rng.uniform(0.4, 0.8))
    for channel in light:
        ndimage.gaussian_filter(channel, focus, output=channel, truncate=2.5)
    return to_pixels(light, rng, noise_sd=float(rng.uniform(1.0, 2.5)))


def draw_cell(
    seed: int, *, size_px: int = 112, bethesda: str | None = None, broken_share: float = 0.1
) -> Cell:
    """Draw one tile of 56 x 56 um on size_px x size_px pixels (at least 64); deterministic in its arguments.

    With probability `broken_share` one or two attributes are drawn from outside the class profile; the attributes
    still say what is drawn, and `broken` names them.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px is {size_px}, at least {MIN_SIZE_PX} are needed")
    if not 0 <= broken_share <= 1:
        raise ValueError(f"broken_share is {broken_share}, not in 0..1")
    plan_rng = np.random.default_rng([seed, 2])
    drawn = BETHESDA[int(plan_rng.integers(len(BETHESDA)))]
    if bethesda is not None and bethesda not in BETHESDA:
        raise ValueError(f"{bethesda!r} is none of {BETHESDA}")
    plan: CellPlan = draw_plan(plan_rng, bethesda or drawn, broken_share=broken_share)
    background = _BACKGROUNDS[int(plan_rng.choice(3, p=_BACKGROUND_SHARES))]
    if plan.bethesda == "SCC":
        background = "dirty"

    rng = np.random.default_rng([seed, 3])
    smear = Smear(size_px, size_px / FIELD_UM)
    anchor = draw_anchor(rng, smear, plan)
    draw_neighbours(rng, smear, plan, anchor)
    draw_context(rng, smear, anchor, background)
    nucleus_mask = np.zeros((size_px, size_px), np.int32)
    for number, nucleus in enumerate(anchor.nuclei, start=1):
        nucleus_mask[nucleus] = number
    return Cell(
        pixels_rgb=_photograph(rng, np.maximum(smear.density, 0.004)),
        cell_mask=anchor.mask,
        cell_box_px=_box(anchor.mask),
        nucleus_mask=nucleus_mask,
        nucleus_boxes_px=np.stack([_box(nucleus) for nucleus in anchor.nuclei]),
        bethesda=plan.bethesda,
        attributes=plan.attributes,
        broken=plan.broken,
        background=background,
        mpp=FIELD_UM / size_px,
    )
