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

    size_px: tuple[int, int]  # width and height of that picture

    def __len__(self) -> int:
        return len(self.places_px)


@dataclass(frozen=True)
class Shared:
    """How many points agree on the best fit, and the area that both pictures show, as a share of the smaller field."""

    points: int
    overlap: float


NOTHING = Shared(0, 0.0)


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
        return Points(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.uint8), size)
    places_px = np.array([point.pt for point in found], np.float32)
    return Points(places_px, descriptors.astype(np.uint8), size)


def shared_points(one: Points, other: Points) -> Shared:
    """What two pictures share by one similarity transform, or by one with a mirror: the one with more points."""
    if min(len(one), len(other)) < _LEAST:
        return NOTHING
    theirs = _rooted(other.descriptors)
    width, height = one.size_px
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    mirror = np.array([-1, 1], np.float32)
    fits = (
        _fit(one.places_px, _rooted(one.descriptors), corners, other, theirs),
        _fit(one.places_px * mirror, _rooted(_mirrored(one.descriptors)), corners * mirror, other, theirs),
    )
    return max(fits, key=lambda fit: fit.points)


def _fit(
    places_px: NDArray[np.float32],
    descriptors: NDArray[np.float32],
    corners_px: NDArray[np.float32],
    other: Points,
    others: NDArray[np.float32],
) -> Shared:
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
        return NOTHING
    fit, agree = cv2.estimateAffinePartial2D(
        places_px[matched],
        other.places_px[nearest[matched]],
        method=cv2.RANSAC,
        ransacReprojThreshold=_AGREE_PX,
        maxIters=_ITERATIONS,
    )
    if fit is None or not _SCALES[0] <= np.hypot(fit[0, 0], fit[1, 0]) <= _SCALES[1]:
        return NOTHING
    field_px = (corners_px @ fit[:, :2].T + fit[:, 2]).astype(np.float32)
    width, height = other.size_px
    frame_px = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    both, _ = cv2.intersectConvexConvex(field_px, frame_px)
    return Shared(int(agree.sum()), both / min(cv2.contourArea(field_px), width * height))


def _rooted(descriptors: NDArray[np.uint8]) -> NDArray[np.float32]:
    sums = descriptors.sum(axis=1, keepdims=True, dtype=np.float32)
    rooted: NDArray[np.float32] = np.sqrt(descriptors / np.maximum(sums, 1))
    return rooted


def _mirrored(descriptors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Descriptors of the mirrored picture: 4 x 4 cells in the frame of the point's direction, 8 directions each."""
    cells = descriptors.reshape(-1, 4, 4, 8)[:, ::-1]
    return cells[..., -np.arange(8) % 8].reshape(len(descriptors), -1)
