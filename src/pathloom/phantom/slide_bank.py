"""Tissue without end at 1 um per pixel: a bank of patches a kind, laid side by side with their seams faded.

A patch is drawn as `phantom.tissue` draws a region, but kept as stain amounts. They are stored as one uint16 a pixel,
hematoxylin in the low byte and protein in the high one, and multiplied by a weight that falls to 0 over the seam: the
patches that overlap at a pixel add up to a mean, no byte ever carries over, and a slide's stain is one look-up table.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathloom.phantom.architecture import BUILDERS
from pathloom.phantom.stain import draw_stain_vectors
from pathloom.phantom.texture import draw_noise
from pathloom.phantom.tissue import populate

Amounts = NDArray[np.uint16]
"""Stain amounts of pixels, [h, w]: hematoxylin in steps | (protein in steps) << 8; 0 is bare glass."""

PATCH_PX = 128
SEAM_PX = 16
PITCH_PX = PATCH_PX - SEAM_PX
PATCHES_PER_KIND = 36
HEMATOXYLIN_STEPS, PROTEIN_STEPS = 110.0, 170.0
_BANK_SEED = 20_261_122
# Focus and grain of the scanner lie in the patches, where they cost a slide nothing.
_FOCUS_PX = 0.5
_GRAIN = 0.02
# Hematoxylin and eosin; at these, tissue is on the mean about as light as the regions of `phantom.tissue`.
_MEAN_STRENGTHS = np.array([0.72, 0.50])
_STRENGTH_SD = 0.12


def _seam_weights() -> NDArray[np.float32]:
    """[PATCH_PX, PATCH_PX]; those of patches at PITCH_PX from each other add up to 1 everywhere."""
    rising = (np.arange(SEAM_PX, dtype=np.float32) + 0.5) / SEAM_PX
    along = np.concatenate([rising, np.ones(PATCH_PX - 2 * SEAM_PX, np.float32), rising[::-1]])
    return along[:, None] * along[None, :]


@cache
def patches(kind: str) -> Amounts:
    """[PATCHES_PER_KIND, PATCH_PX, PATCH_PX] of one of tissue.DIAGNOSES, weighted; drawn once per process."""
    rng = np.random.default_rng([_BANK_SEED, *kind.encode()])
    weights = _seam_weights()
    drawn = np.empty((PATCHES_PER_KIND, PATCH_PX, PATCH_PX), np.uint16)
    for index in range(PATCHES_PER_KIND):
        crowding = index % 3
        planes = populate(rng, BUILDERS[kind](rng, PATCH_PX, crowding), crowding).planes[:2]
        amounts = []
        for plane, steps in zip(planes, (HEMATOXYLIN_STEPS, PROTEIN_STEPS), strict=True):
            seen = ndimage.gaussian_filter(np.maximum(plane, 0.0), _FOCUS_PX, truncate=3.0)
            seen = seen + np.float32(_GRAIN) * draw_noise(rng, 0.0, PATCH_PX)
            amounts.append(np.clip(seen * np.float32(steps), 1, 254) * weights)
        drawn[index] = amounts[0].astype(np.uint16) | (amounts[1].astype(np.uint16) << 8)
    drawn.flags.writeable = False
    return drawn


def draw_colours(rng: np.random.Generator) -> NDArray[np.uint32]:
    """[65536] pixel (R | G << 8 | B << 16) of each amount: a slide's own stain strengths, hues and paper white.

    Beer-Lambert absorption with the vectors of `phantom.stain`; strengths differ between slides as they do between
    laboratories, by about 12 % of the mean a stain.
    """
    vectors = draw_stain_vectors(rng, "H&E")[:2]
    strengths = _MEAN_STRENGTHS * np.clip(rng.normal(1.0, _STRENGTH_SD, 2), 0.7, 1.3)
    paper = np.clip(rng.normal(243.0, 3.0) + rng.normal(0, 1.5, 3), 232, 252)
    code = np.arange(65536)
    amounts = np.stack([(code & 255) / HEMATOXYLIN_STEPS, (code >> 8) / PROTEIN_STEPS]) * strengths[:, None]
    light = np.round(paper[:, None] * 10.0 ** -(vectors.T @ amounts)).astype(np.uint32)
    return np.asarray(light[0] | (light[1] << 8) | (light[2] << 16), np.uint32)


def coloured(amounts: Amounts, colours: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Pixels [h, w, 3] of amounts [h, w]."""
    packed = colours.astype("<u4").take(amounts)
    return np.ascontiguousarray(packed.view(np.uint8).reshape(*amounts.shape, 4)[..., :3])
