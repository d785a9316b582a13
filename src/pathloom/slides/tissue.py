"""Where the tissue of a slide is: a small picture of it, and a mask by colour.

Glass lets all light through and dust, coverslip edges and black ink take it from all colours alike; a stain does not.
So tissue is where the optical densities of the three colours differ, by more than a threshold after Otsu (IEEE
Transactions on Systems, Man, and Cybernetics 9, 1979) that is kept within limits: without a floor Otsu would find
"tissue" in the noise of an empty slide, without a ceiling it would lose pale tissue beside dark.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.images import LIMITS, BadImage
from pathloom.slides.reader import best_level
from pathloom.slides.tiles import Readable

MASK_MPP = 8.0
"""Micrometres per pixel of the mask: a nucleus is about one pixel. Our own choice.
"""
COLOUR_MPP = 2.0
"""Colour is measured at this resolution and then averaged to the mask's: blue and brown nuclei side by side are grey
from afar. Our own choice; half a nucleus."""
MIN_COLOUR = 0.05
"""Least difference of optical densities of a stained pixel: at most 0.3 % of histolab's empty tiles is above it."""
MIN_MEAN_COLOUR, MAX_MEAN_COLOUR = 0.02, 0.09
"""Limits of the threshold on its mean over a pixel of the mask. Histolab's six empty tiles have means of 0.000 to 0.007
and the paper of CMU-1 0.003 to 0.005; the upper quarter of a pale Ki67 scan begins at 0.042. The bluish paper of
another scan of that slide has 0.014 to 0.022: alone, it could be taken for tissue. Our own choice.
"""
MIN_OBJECT_UM2 = 20_000.0
"""Smaller pieces are left out: a square of 140 um, a tile of 224 px at 0.5 um has 112. Our own choice."""
MIN_HOLE_UM2 = 40_000.0
"""Smaller holes, as glands and vessels have them, are filled. Our own choice."""
_PIECE_PX = 2048
"""Width and height of what is read at once, in pixels of a level: bounds the memory. Our own choice."""
_SMALLEST_RETRY_PX, _RETRIES_ACROSS = 16, 64
"""What cannot be decoded is tried again in quarters, down to 16 pixels of the overview, and of large slides to a 64th
of its longer side: OpenSlide takes 20 ms after a fault, a quarter of a million of which would be hours. Our own choice.
"""
_SMOOTH_PX = 1.0
_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)


@dataclass(frozen=True)
class Overview:
    """A small picture of a slide: pixels_rgb [h, w, 3], covering it whole at about `mpp`, and
    colour [h, w], the mean of `colour_of` at COLOUR_MPP.

    `unread` [h, w] is True where the file cannot be decoded; there the picture is white.
    """

    pixels_rgb: NDArray[np.uint8]
    colour: NDArray[np.float32]
    unread: NDArray[np.bool_]
    mpp: float


@dataclass(frozen=True)
class TissueMask:
    """mask [h, w] over the whole slide at about `mpp`; `colour` is the threshold that was used."""

    mask: NDArray[np.bool_]
    mpp: float
    colour: float

    @property
    def share(self) -> float:
        return float(self.mask.mean())


def read_overview(slide: Readable, size_l0: tuple[int, int], *, mpp: float = MASK_MPP) -> Overview:
    """The slide at `mpp` (level 0's own if that is coarser), each pixel the mean over its square of the level above it.

    Read piece by piece. A piece that cannot be decoded is tried in quarters, down to _SMALLEST_RETRY_PX. Raises
    BadImage with the reader's reason where nothing can be read, and too_many_pixels where a slide is so large at `mpp`
    (images.LIMITS) that its resolution must be wrong: 64 megapixels at 8 um are 41 by 100 mm of glass.
    """
    shrink_l0 = max(1.0, mpp / slide.mpp_l0)
    finer_l0 = COLOUR_MPP / slide.mpp_l0
    level = best_level(slide.level_downsamples, finer_l0 * 1.01)
    by = slide.level_downsamples[level]
    width, height = (max(1, round(length / shrink_l0)) for length in size_l0)
    if width * height > LIMITS.max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"{size_l0[0]}x{size_l0[1]} px at {slide.mpp_l0:g} um are {size_l0[0] * slide.mpp_l0 / 1000:.0f} x "
            f"{size_l0[1] * slide.mpp_l0 / 1000:.0f} mm, more than any slide; is mpp right?",
        )
    pixels = np.full((height, width, 3), 255, np.uint8)
    colour = np.zeros((height, width), np.float32)
    unread = np.zeros((height, width), bool)
    side = max(1, int(_PIECE_PX * by / shrink_l0))
    waiting = [
        (x, y, min(side, width - x), min(side, height - y))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    smallest = max(_SMALLEST_RETRY_PX, max(width, height) // _RETRIES_ACROSS)
    last: BadImage | None = None
    while waiting:
        x, y, w, h = waiting.pop()
        left_l0, top_l0 = (round(x * size_l0[0] / width), round(y * size_l0[1] / height))
        right_l0, bottom_l0 = (round((x + w) * size_l0[0] / width), round((y + h) * size_l0[1] / height))
        size_px = max(1, round((right_l0 - left_l0) / by)), max(1, round((bottom_l0 - top_l0) / by))
        try:
            piece = slide.read_level(left_l0, top_l0, level, *size_px)
        except BadImage as error:
            last = error
            if max(w, h) > smallest:
                waiting += _quarters(x, y, w, h)
            else:
                unread[y : y + h, x : x + w] = True
            continue
        picture = PILImage.fromarray(piece)
        fine = picture.resize(_at_most(picture.size, finer_l0 / by), PILImage.Resampling.BOX)
        means = PILImage.fromarray(colour_of(np.asarray(fine))).resize((w, h), PILImage.Resampling.BOX)
        colour[y : y + h, x : x + w] = np.asarray(means)
        pixels[y : y + h, x : x + w] = np.asarray(picture.resize((w, h), PILImage.Resampling.BOX))
    if last is not None and unread.all():
        raise last
    return Overview(pixels, colour, unread, slide.mpp_l0 * size_l0[0] / width)


def _at_most(size_px: tuple[int, int], shrink: float) -> tuple[int, int]:
    width, height = (max(1, round(length / max(1.0, shrink))) for length in size_px)
    return width, height


def _quarters(x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int, int, int]]:
    for top, rows in ((y, h - h // 2), (y + h - h // 2, h // 2)):
        for left, columns in ((x, w - w // 2), (x + w - w // 2, w // 2)):
            if rows and columns:
                yield left, top, columns, rows


def optical_density(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[h, w, 3] -log10((value + 1) / 256): Beer-Lambert with white as the light that comes in (Ruifrok and Johnston,
    Anal Quant Cytol Histol 2001).
    """
    return _DENSITY[pixels_rgb]


def colour_of(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[h, w] largest minus smallest optical density of each pixel: 0 for all greys."""
    most, least = pixels_rgb.max(axis=2), pixels_rgb.min(axis=2)
    return _DENSITY[least] - _DENSITY[most]


def find_tissue(overview: Overview) -> TissueMask:
    """The mask of an overview; what could not be read counts as tissue, so that its tiles are tried and named."""
    from scipy.ndimage import gaussian_filter

    colour = gaussian_filter(overview.colour, _SMOOTH_PX)
    threshold = float(np.clip(_otsu(colour), MIN_MEAN_COLOUR, MAX_MEAN_COLOUR))
    mask = (colour > threshold) & ~overview.unread
    mask = _without_small(mask, MIN_OBJECT_UM2 / overview.mpp**2)
    mask = ~_without_small(~mask, MIN_HOLE_UM2 / overview.mpp**2)
    return TissueMask(mask | overview.unread, overview.mpp, threshold)


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold with the largest variance between the classes on both sides; the value where all are equal."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    weight, mean = np.cumsum(counts) / counts.sum(), np.cumsum(counts * centres) / counts.sum()
    inner = (weight > 0) & (weight < 1)
    if not inner.any():
        return float(centres[0])
    between = (mean[-1] * weight[inner] - mean[inner]) ** 2 / (weight[inner] * (1 - weight[inner]))
    return float(centres[inner][between.argmax()])


def _without_small(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    """Without 4-connected pieces of fewer pixels."""
    from scipy.ndimage import label

    pieces, number = label(mask)
    sizes = np.bincount(pieces.ravel(), minlength=number + 1)
    keep = sizes >= least_px
    keep[0] = False
    return keep[pieces]
