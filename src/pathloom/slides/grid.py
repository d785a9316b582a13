"""Where the tiles of a slide lie: a grid at a stated resolution, in whole pixels of level 0."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathloom.images import BadImage
from pathloom.stage import UserError

BLOCK_TILES = 8
"""Tiles are ordered block by block of 8 x 8, so that neighbours in the list are neighbours on the slide: tiles.py reads
each block at once, and a file tile on its edge is still in the reader's cache. Our own choice."""
MAX_UPSAMPLING = 1.1
"""A slide this much coarser than the mpp asked for is refused, since its pixels would be made up. Our own choice."""
MAX_TILES = 2**22
"""Of one slide, glass too. A whole glass of 26 x 76 mm has 630 000 of 224 px at 0.25 um; an overlap of all but a pixel
would ask for as many as the slide has pixels. Our own choice."""


@dataclass(frozen=True)
class Grid:
    """places_l0 [n, 2] x, y of upper left corners; a tile covers side_l0 by side_l0 pixels of level 0."""

    places_l0: NDArray[np.int64]
    side_l0: float


def tile_grid(
    size_l0: tuple[int, int], mpp_l0: float, *, mpp: float, size_px: int, overlap_px: int = 0
) -> Grid:
    """Every whole tile of `size_px` at `mpp` inside the slide, from its corner on; neighbours overlap by `overlap_px`.

    It follows from the slide's size and resolution alone: the same slide in another format has the same grid. Raises
    BadImage too_coarse (MAX_UPSAMPLING), too_small (not one tile fits) and too_many_tiles (MAX_TILES), UserError for an
    overlap of a whole tile.
    """
    if not 0 <= overlap_px < size_px:
        raise UserError(f"overlap_px {overlap_px}: give 0 or more, and less than size_px {size_px}")
    if mpp_l0 > mpp * MAX_UPSAMPLING:
        raise BadImage(
            "too_coarse", f"level 0 has {mpp_l0:g} um per pixel, tiles at {mpp:g} would be made up"
        )
    scale = mpp / mpp_l0
    side_l0, stride_l0 = size_px * scale, (size_px - overlap_px) * scale
    columns, rows = (
        max(0, int((length - side_l0 + 0.5) // stride_l0) + 1) if length + 0.5 >= side_l0 else 0
        for length in size_l0
    )
    if not columns * rows:
        raise BadImage(
            "too_small", f"no tile of {size_px} px at {mpp:g} um fits into {size_l0[0]}x{size_l0[1]} px"
        )
    if columns * rows > MAX_TILES:
        raise BadImage(
            "too_many_tiles",
            f"{columns * rows} tiles of {size_px} px at {mpp:g} um that overlap by {overlap_px}; at most {MAX_TILES} "
            "are cut: ask for larger tiles, a larger mpp or less overlap",
        )
    row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
    order = np.lexsort((column, row, column // BLOCK_TILES, row // BLOCK_TILES))
    steps = np.stack([column[order], row[order]], axis=1)
    return Grid(np.floor(steps * stride_l0 + 0.5).astype(np.int64), side_l0)


def tissue_shares(grid: Grid, mask: NDArray[np.bool_], size_l0: tuple[int, int]) -> NDArray[np.float64]:
    """[n] in [0, 1]: the share of each tile that the mask [h, w] over the whole slide calls tissue.

    Sums over the mask's pixels, those on the edge by their part: exact by an integral image, interpolated between its
    corners.
    """
    height, width = mask.shape
    integral = np.zeros((height + 1, width + 1))
    integral[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    per_l0 = np.array([width / size_l0[0], height / size_l0[1]])
    first = grid.places_l0 * per_l0
    last = np.minimum((grid.places_l0 + grid.side_l0) * per_l0, [width, height])
    corners = [(first, first), (last, first), (first, last), (last, last)]
    upper_left, upper_right, lower_left, lower_right = (
        _between(integral, of_x[:, 0], of_y[:, 1]) for of_x, of_y in corners
    )
    area = np.prod(last - first, axis=1)
    return np.clip((lower_right - upper_right - lower_left + upper_left) / area, 0.0, 1.0)


def _between(
    table: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Bilinear values of a table [rows, columns] at places in its own steps."""
    left, top = (
        np.minimum(np.floor(axis).astype(int), most - 2)
        for axis, most in ((x, table.shape[1]), (y, table.shape[0]))
    )
    dx, dy = x - left, y - top
    upper = table[top, left] * (1 - dx) + table[top, left + 1] * dx
    lower = table[top + 1, left] * (1 - dx) + table[top + 1, left + 1] * dx
    return upper * (1 - dy) + lower * dy


def boxes_l0(grid: Grid, chosen: Iterable[int]) -> list[tuple[int, int, int, int]]:
    """x1, y1, x2, y2 of some tiles, for drawing."""
    side = round(grid.side_l0)
    return [(int(x), int(y), int(x) + side, int(y) + side) for x, y in grid.places_l0[list(chosen)]]
