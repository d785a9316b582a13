"""A slide's tiles in an order in which neighbours stay together, and the runs of them that become its tokens."""

import numpy as np
from numpy.typing import NDArray

_BITS = 16
"""Of a place along the curve: tiles that are further apart than 1/65536 of the slide's longer edge are told apart."""


def along_curve(places: NDArray[np.integer]) -> NDArray[np.int64]:
    """The order [n] of places [n, 2] (x, y, any unit) along a Hilbert curve over the square that holds them.

    Neighbours on the curve are neighbours on the slide, so a run of it is a compact piece of tissue. Where the slide
    lies does not matter. The order of the rows does not either, as no two tiles lie at one place.
    """
    if len(places) == 0:
        return np.zeros(0, np.int64)
    corner = places.min(axis=0)
    edge = max(int((places.max(axis=0) - corner).max()), 1)
    x, y = ((places - corner).astype(np.float64) / edge * (2**_BITS - 1)).astype(np.int64).T
    return np.lexsort((places[:, 0], places[:, 1], _hilbert(x, y)))


def _hilbert(x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distances along the Hilbert curve through a square of 2**_BITS cells a side (the usual bitwise algorithm, as in
    Hacker's Delight, 2nd edition, section 16-2).
    """
    distance = np.zeros_like(x)
    for bit in reversed(range(_BITS)):
        right, below = x >> bit & 1, y >> bit & 1
        distance += (3 * right ^ below) << 2 * bit
        flip = (below == 0) & (right == 1)
        x, y = np.where(flip, ~x, x), np.where(flip, ~y, y)
        x, y = np.where(below == 0, y, x), np.where(below == 0, x, y)
    return distance


def cells_along_curve(side: int) -> NDArray[np.int64]:
    """The order of the side x side tokens, numbered row by row, along the curve: the k-th run becomes token [k]."""
    rows, columns = np.divmod(np.arange(side * side), side)
    return along_curve(np.stack([columns, rows], axis=1))


def runs(num_tiles: int, num_runs: int) -> NDArray[np.int64]:
    """First and one past the last tile of each run, [num_runs, 2], as in adaptive average pooling.

    Runs are as long as can be, none is empty: with fewer tiles than runs, or a number that does not divide, neighbours
    share tiles. No tiles, no runs: [0, 2].
    """
    if num_tiles == 0:
        return np.zeros((0, 2), np.int64)
    numbers = np.arange(num_runs)
    return np.stack([numbers * num_tiles // num_runs, -(-(numbers + 1) * num_tiles // num_runs)], axis=1)
