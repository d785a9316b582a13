"""Detector `nuclei`: finds stained nuclei in a field by their darkness, and guesses a cell around each.

It is for fields that come without boxes; nothing in it is trained. A nucleus is a blob that is dark in red and in green
light (cyanophilic cytoplasm lets green pass, eosinophilic cytoplasm red), of a nucleus' size, nearly an ellipse, with
lighter surroundings on almost every side. Nuclei in clumps, out of focus or at the field's edge are missed, so what it
finds is biased towards single squamous cells: of synthetic ones nearly all NILM and ASC-US, a third of SCC, hardly any
adenocarcinoma. On liquid-based fields about a third of its boxes are folds and clumps of cytoplasm. A detector that was
trained for the preparation at hand will do better: give its boxes.

Blobs are extrema of the scale-normalised Laplacian of a Gaussian over place and scale (Lindeberg, Int J Comput Vision
30, 1998, section 3); optical density is that of Ruifrok and Johnston (Anal Quant Cytol Histol 23, 2001). All limits are
our own, set by eye on liquid-based cervical fields and by counting on synthetic cells.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.schema import Box

NUCLEUS_UM = (4.0, 24.0)
"""Smallest and largest diameter. The Bethesda System's yardstick, the intermediate squamous nucleus of about 35 um2, is
6.7 um across; the largest here has thirteen times that area."""
CELL_FACTOR = 2.5
"""Sides of a cell's box by those of its nucleus' box: a guess, the best single factor on synthetic cells,
with a mean IoU of 0.48 on others. The best one of a class goes from 1.2 (HSIL) to 4 (NILM)."""

_SMALLEST_PX = 6.0
"""Fields are shrunk until the smallest nucleus is so wide, which bounds time and smooths chromatin."""
_SCALE_STEP = 1.25
_MIN_RESPONSE = 0.04
_MIN_DENSITY = 0.2
_MIN_CONTRAST = 0.15
"""Optical density of the middle above that of the ring around."""
_REACH = 2.2
"""How far from its peak a nucleus may go, in radii of the peak's scale."""
_MIN_AXIS_RATIO = 0.42
_MIN_ELLIPSE_SHARE = 0.85
"""Area by that of the ellipse with the same second moments: 1 for an ellipse, less for what is ragged or bent."""
_MAX_OPEN_SHARE = 0.15
"""Of the rim around a nucleus, the share that may be as dark as the nucleus."""


class _Blob(NamedTuple):
    """A candidate: `mask` within the window that starts at row `top` and column `left`."""

    top: int
    left: int
    mask: NDArray[np.bool_]
    score: float


def find_nuclei(pixels_rgb: NDArray[np.uint8], diameter_px: tuple[float, float]) -> list[Box]:
    """Boxes of nuclei in pixels of the field [H, W, 3], most conspicuous first; `diameter_px` are least and largest."""
    from scipy import ndimage

    height_px, width_px = pixels_rgb.shape[:2]
    shrink = min(1.0, _SMALLEST_PX / diameter_px[0])
    size_px = (max(1, round(width_px * shrink)), max(1, round(height_px * shrink)))
    small = PILImage.fromarray(pixels_rgb).resize(size_px, PILImage.Resampling.BOX)
    density = _nuclear_density(np.asarray(small))
    limits_px = (diameter_px[0] * shrink, diameter_px[1] * shrink)
    taken = np.zeros(density.shape, bool)
    boxes = []
    for blob in sorted(_blobs(density, limits_px), key=lambda blob: -blob.score):
        window = taken[blob.top :, blob.left :][: blob.mask.shape[0], : blob.mask.shape[1]]
        if window[blob.mask].any():  # a clump of chromatin in a nucleus, or two nuclei as one
            continue
        window |= blob.mask
        rows, columns = ndimage.find_objects(blob.mask.astype(np.uint8))[0]
        boxes.append(
            (
                (blob.left + columns.start) * width_px / size_px[0],
                (blob.top + rows.start) * height_px / size_px[1],
                (blob.left + columns.stop) * width_px / size_px[0],
                (blob.top + rows.stop) * height_px / size_px[1],
            )
        )
    return boxes


def cell_around(nucleus_px: Box, factor: float) -> Box:
    """The nucleus' box, enlarged about its centre."""
    x1, y1, x2, y2 = nucleus_px
    more_x, more_y = (x2 - x1) * (factor - 1) / 2, (y2 - y1) * (factor - 1) / 2
    return x1 - more_x, y1 - more_y, x2 + more_x, y2 + more_y


def _nuclear_density(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Optical density [H, W], log10, in that of red and green which the pixel lets pass better."""
    light = pixels_rgb[..., :2].astype(np.float32).max(-1)
    return -np.log10(np.maximum(light, 1) / 255)


def _blobs(density: NDArray[np.float32], limits_px: tuple[float, float]) -> Iterator[_Blob]:
    from scipy import ndimage

    steps = max(2, math.ceil(math.log(limits_px[1] / limits_px[0]) / math.log(_SCALE_STEP)) + 1)
    diameters_px = np.geomspace(*limits_px, steps)
    sigmas_px = diameters_px / (2 * math.sqrt(2))  # the scale at which a disc of that diameter responds most
    response = np.stack([-(sigma**2) * ndimage.gaussian_laplace(density, sigma) for sigma in sigmas_px])
    peaks = (response == ndimage.maximum_filter(response, size=3)) & (response > _MIN_RESPONSE)
    for scale, row, column in np.argwhere(peaks).tolist():
        blob = _grow(density, row, column, float(diameters_px[scale]) / 2, limits_px)
        if blob is not None:
            yield blob


def _grow(
    density: NDArray[np.float32], row: int, column: int, radius_px: float, limits_px: tuple[float, float]
) -> _Blob | None:
    """The connected pixels around a peak that are nearer to its middle's density than to its surroundings'."""
    from scipy import ndimage

    reach = math.ceil(_REACH * radius_px) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    window = density[top : row + reach + 1, left : column + reach + 1]
    rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
    away_px = np.hypot(rows + top - row, columns + left - column)
    middle = float(np.median(window[away_px <= max(0.7 * radius_px, 1)]))
    surroundings = window[(away_px >= 1.3 * radius_px) & (away_px <= 2 * radius_px)]
    around = float(np.median(surroundings)) if surroundings.size else middle
    if middle < _MIN_DENSITY or middle - around < _MIN_CONTRAST:
        return None
    dark = window > (middle + around) / 2
    mask = ndimage.binary_fill_holes(dark & (away_px <= _REACH * radius_px))
    opening_px = max(1, round(radius_px / 4))
    if radius_px >= 3:
        mask = ndimage.binary_opening(mask, iterations=opening_px)
    parts, _ = ndimage.label(mask)
    part = parts[row - top, column - left]
    if part == 0:
        return None
    mask = parts == part
    if away_px[mask].max() > _REACH * radius_px - 1:  # it goes on, as a fibre or a fold does
        return None
    diameter_px = 2 * math.sqrt(mask.sum() / math.pi)
    if not limits_px[0] <= diameter_px <= limits_px[1]:
        return None
    if _meets_edge(mask, top, left, density.shape) or not _is_elliptic(mask):
        return None
    near = ndimage.binary_dilation(mask, iterations=opening_px)
    rim = ndimage.binary_dilation(near, iterations=1) & ~near
    if not rim.any() or dark[rim].mean() > _MAX_OPEN_SHARE:
        return None
    return _Blob(top, left, mask, (middle - around) * math.sqrt(diameter_px))


def _meets_edge(mask: NDArray[np.bool_], top: int, left: int, shape: tuple[int, ...]) -> bool:
    """Whether the nucleus is cut by the field's edge."""
    rows, columns = np.nonzero(mask)
    highest, widest = shape[0] - 1 - top, shape[1] - 1 - left
    return bool(
        rows.min() + top == 0 or columns.min() + left == 0 or rows.max() == highest or columns.max() == widest
    )


def _is_elliptic(mask: NDArray[np.bool_]) -> bool:
    covariance = np.cov(np.stack(np.nonzero(mask)))
    short, long = np.linalg.eigvalsh(covariance)
    if short <= 0 or math.sqrt(short / long) < _MIN_AXIS_RATIO:
        return False
    return bool(mask.sum() / (4 * math.pi * math.sqrt(short * long)) >= _MIN_ELLIPSE_SHARE)
