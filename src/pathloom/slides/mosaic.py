"""Tiles that were cut from one slide, put together again by the places in their names; what is missing is white."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.write import write_pyramid
from pathloom.stage import UserError

PLACE_IN_NAME = r"_x(?P<x>\d+)_y(?P<y>\d+)_"
"""As in the names of the IDC tiles of Janowczyk and Madabhushi 2016: 14082_idx5_x1001_y1051_class0.png."""
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_MOSAIC_QUALITY = 95
_WHITE = 255

Place = tuple[int, int]
"""x, y of a tile's upper left corner in pixels of the slide it was cut from."""


@dataclass(frozen=True)
class Mosaic:
    """What was put together: tile (x, y) begins at pixel (x - origin[0], y - origin[1]) of level 0."""

    tiles: Mapping[Place, Path]
    origin: Place
    tile_px: tuple[int, int]  # width, height
    width_px: int
    height_px: int

    def place_l0(self, place: Place) -> Place:
        """Where the tile of this place begins in the mosaic."""
        return place[0] - self.origin[0], place[1] - self.origin[1]


def plan_mosaic(folder: Path, *, place_in_name: str = PLACE_IN_NAME) -> Mosaic:
    """Find the tiles of one slide under `folder`, at any depth.

    `place_in_name` is a regular expression with the groups x and y. Raises UserError for a folder without such tiles,
    for a picture without a place, and for tiles of different sizes or that overlap.
    """
    tiles: dict[Place, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in _PICTURES:
            continue
        found = re.search(place_in_name, path.name)
        if found is None:
            raise UserError(f"{path}: no place in its name; {place_in_name} finds x and y where they stand")
        place = (int(found["x"]), int(found["y"]))
        if place in tiles:
            raise UserError(f"{path}: {tiles[place].name} lies at x {place[0]}, y {place[1]} already")
        tiles[place] = path
    if not tiles:
        raise UserError(f"{folder}: no tiles with a place in their names, as {place_in_name} finds it")
    sizes = {path: _size_of(path) for path in tiles.values()}
    wide, high = next(iter(sizes.values()))
    for path, size in sizes.items():
        if size != (wide, high):
            raise UserError(f"{path}: {size[0]} x {size[1]} px, the tiles before it {wide} x {high}")
    _refuse_overlap(tiles, wide, high)
    left, top = min(x for x, _ in tiles), min(y for _, y in tiles)
    right, bottom = max(x for x, _ in tiles) + wide, max(y for _, y in tiles) + high
    return Mosaic(tiles, (left, top), (wide, high), right - left, bottom - top)


def _size_of(path: Path) -> tuple[int, int]:
    try:
        with PILImage.open(path) as picture:
            return picture.size
    except (OSError, PILImage.DecompressionBombError) as error:
        raise BadImage("unreadable", f"{path}: {error}") from error


def _refuse_overlap(tiles: Mapping[Place, Path], wide: int, high: int) -> None:
    cells: dict[Place, list[Place]] = {}
    for x, y in sorted(tiles):
        for cell in ((x // wide + dx, y // high + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)):
            for other in cells.get(cell, ()):
                if abs(other[0] - x) < wide and abs(other[1] - y) < high:
                    raise UserError(
                        f"{tiles[x, y]}: overlaps {tiles[other].name}; a mosaic takes tiles side by side"
                    )
        cells.setdefault((x // wide, y // high), []).append((x, y))


def write_mosaic(mosaic: Mosaic, path: Path, mpp: float) -> None:
    """Write the mosaic as a pyramidal TIFF; `mpp` has to be stated, since tiles seldom say theirs.

    Raises BadImage for a tile that cannot be decoded.
    """
    wide, high = mosaic.tile_px
    placed = {mosaic.place_l0(place): tile for place, tile in mosaic.tiles.items()}

    def strip(y_px: int, height_px: int) -> NDArray[np.uint8]:
        rows = np.full((height_px, mosaic.width_px, 3), _WHITE, np.uint8)
        for (x, y), tile in placed.items():
            first, last = max(y, y_px), min(y + high, y_px + height_px)
            if first < last:
                rows[first - y_px : last - y_px, x : x + wide] = _pixels(tile)[first - y : last - y]
        return rows

    write_pyramid(path, strip, (mosaic.width_px, mosaic.height_px), mpp, quality=_MOSAIC_QUALITY)


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with PILImage.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error}") from error
