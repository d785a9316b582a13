"""A perceptual hash of a picture that knows its eight right-angle turns and mirror images.

The signs of the lowest frequencies of the cosine transform (Zauner 2010, section 3.2.1: 32 x 32 grey pixels, the 8 x 8
lowest coefficients). Two departures: the constant one is left out, and a coefficient is compared with 0 and not with
the median. So a turned picture's hash follows exactly from the hash: a mirror turns the sign of odd frequencies, a
transposition swaps the axes. The library imagehash (BSD-2) knows no turns: it would hash each picture eight times.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pathloom.nearest import pairs_above

if TYPE_CHECKING:
    from PIL import Image as PILImage

HASH_BITS = 63
_SIDE_PX, _FREQUENCIES = 32, 8

FLAT = 1.0
"""Grey levels: a coefficient below says nothing. The noise of JPEG at quality 75 on an even picture stays below 0.5
(our own measurement)."""

Signs = NDArray[np.int8]
"""[n, 63]: 1, -1, or 0 for a coefficient below FLAT. A picture of one colour has zeros only and resembles nothing."""


def hash_signs(picture: "PILImage.Image") -> Signs:
    """[63] of an RGB picture of any size."""
    from PIL import Image as PILImage
    from scipy.fft import dctn

    grey = picture.convert("L").resize((_SIDE_PX, _SIDE_PX), PILImage.Resampling.LANCZOS)
    low = dctn(np.asarray(grey, np.float64), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:]
    return np.where(np.abs(low) < FLAT, 0, np.sign(low)).astype(np.int8)


def turned(signs: Signs) -> Iterator[Signs]:
    """The hashes [n, 63] of the eight turns and mirror images, the picture as it is first."""
    even = np.ones(_FREQUENCIES, np.int8)
    odd = even.copy()
    odd[1::2] = -1
    square = np.concatenate([np.zeros((len(signs), 1), np.int8), signs], axis=1)
    square = square.reshape(-1, _FREQUENCIES, _FREQUENCIES)
    for one in (square, square.transpose(0, 2, 1)):
        for rows in (even, odd):
            for columns in (even, odd):
                yield (one * rows[:, None] * columns).reshape(len(signs), -1)[:, 1:]


def hash_pairs(signs: Signs, bits: float, others: Signs | None = None) -> dict[tuple[int, int], float]:
    """(i, j) -> Hamming distance of the closest turn, of all pairs at most `bits` apart; a 0 counts half a bit.

    i < j within `signs`, or i of `signs` and j of `others`. The distance is (63 - dot product) / 2, so the exact
    blocked search of `nearest` finds them.
    """
    found: dict[tuple[int, int], float] = {}
    least = HASH_BITS - 2 * bits
    for turn in turned(signs if others is None else others):
        for i, j, score in pairs_above(signs, least, turn):
            if others is not None or i < j:
                distance = (HASH_BITS - score) / 2
                found[i, j] = min(distance, found.get((i, j), distance))
    return found
