"""Do two pictures show the same place? Local points that agree on one turn, scale, shift and mirror.

Points and descriptors are SIFT (Lowe 2004) by OpenCV, the descriptors compared as RootSIFT (Arandjelovic & Zisserman
2012). Two points match when each is the other's nearest and the second nearest is clearly farther (Lowe 2004, section
7.1; there the ratio is 0.8). A similarity transform is fitted to the matches by RANSAC; what counts is how many agree
with it. This holds for crops, zooms and turns by any angle, where a vector of the whole picture or a hash does not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image as PILImage

AREA_PX = 224**2
"""Pictures are brought to this area, so that pixels below mean the same for all; that of the tiles measured on."""

MAX_POINTS = 300
"""The strongest ones; 300 tell all sampled pairs of the tuning half of lc25000 apart (our own measurement)."""

_CONTRAST = 0.02  # half of OpenCV's default: pale tissue has few strong points
_RATIO = 0.85
_AGREE_PX = 4.0
_SCALES = (0.4, 2.5)  # a fit beyond shrinks all points to one spot, on which anything agrees
_ITERATIONS = 300
_LEAST = 4


@dataclass(frozen=True, eq=False)
class Points:
    """Local points of a picture: 40 kB at most."""

    places_px: NDArray[np.float32]  # [n, 2], x and y in the picture of AREA_PX
    descriptors: NDArray[np.uint8]  # [n, 128]

    def __len__(self) -> int:
        return len(self.places_px)


def points_of(picture: "PILImage.Image") -> Points:
    """Of an RGB picture of any size; a flat one has none."""
    import cv2
    from PIL import Image as PILImage

    scale = (AREA_PX / (picture.width * picture.height)) ** 0.5
    size = (max(8, round(picture.width * scale)), max(8, round(picture.height * scale)))
    grey = picture.convert("L").resize(size, PILImage.Resampling.BICUBIC)
    sift = cv2.SIFT_create(nfeatures=MAX_POINTS, contrastThreshold=_CONTRAST)
    found, descriptors = sift.detectAndCompute(np.asarray(grey), None)
    if descriptors is None:
        return Points(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8))
    return Points(np.array([point.pt for point in found], np.float32), descriptors.astype(np.uint8))


def shared_points(one: Points, other: Points) -> int:
    """How many points of two pictures agree on one similarity transform, or on one with a mirror; the larger count."""
    if min(len(one), len(other)) < _LEAST:
        return 0
    theirs = _rooted(other.descriptors)
    plain = _agreeing(one.places_px, _rooted(one.descriptors), other.places_px, theirs)
    flipped = one.places_px * np.array([-1, 1], np.float32)
    return max(plain, _agreeing(flipped, _rooted(_mirrored(one.descriptors)), other.places_px, theirs))


def _agreeing(
    places: NDArray[np.float32],
    descriptors: NDArray[np.float32],
    other_places: NDArray[np.float32],
    others: NDArray[np.float32],
) -> int:
    import cv2

    scores = descriptors @ others.T
    rows = np.arange(len(scores))
    nearest = scores.argmax(axis=1)
    mutual = scores.argmax(axis=0)[nearest] == rows
    best = scores[rows, nearest]
    scores[rows, nearest] = -1
    # descriptors have length 1: the square of a distance is 2 - 2 x score
    matched = mutual & (1 - best < _RATIO**2 * (1 - scores.max(axis=1)))
    if matched.sum() < _LEAST:
        return 0
    fit, agree = cv2.estimateAffinePartial2D(
        places[matched],
        other_places[nearest[matched]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_AGREE_PX,
        maxIters=_ITERATIONS,
    )
    if fit is None or not _SCALES[0] <= np.hypot(fit[0, 0], fit[1, 0]) <= _SCALES[1]:
        return 0
    return int(agree.sum())


def _rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    sums = descriptors.sum(axis=1, keepdims=True, dtype=np.float32)
    rooted: NDArray[np.float32] = np.sqrt(descriptors / np.maximum(sums, 1))
    return rooted


def _mirrored(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Descriptors of the mirrored picture: 4 x 4 cells in the frame of the point's direction, 8 directions each."""
    cells = descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    return cells[..., -np.arange(8) % 8].reshape(len(descriptors), -1)
