"""Levels of slides that tifffile reads: OME-TIFF and TIFFs of no scanner's maker, with levels in sub-IFDs or beside.

Only the tiles (or strips) that a region needs are read and decoded, and some of them are kept for the next region.
"""

import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from pathloom.images import BadImage

CACHE_BYTES = 64 * 2**20
"""Decoded tiles that an open slide keeps: 341 of 256 x 256 px, a row of a slide 87 000 px wide. Our own choice."""
MAX_SEGMENT_PX = 2**24
"""A tile or strip is decoded whole; one of more pixels (4096 x 4096) is refused. Our own choice."""
MAX_IFDS = 1000
"""Pictures in one file beyond which it is no slide but a stack. Our own choice; scanners write fewer than 20."""
UM_PER_UNIT = {
    "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "\u00b5m": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "\u212b": 1e-4, "in": 25.4e3
}  # fmt: skip
"""Units of length of OME-XML (UnitsLength, schema 2016-06) that a slide may use; the micro sign and the letter mu."""
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}
"""TIFF 6.0, ResolutionUnit: 2 is the inch, 3 the centimetre; 1 is no unit."""
_UNCOMPRESSED = 1
_JPEG_COMPRESSIONS = (6, 7, 33007, 34892)
_RGB, _YCBCR = 2, 6
_PLANAR = 2


class _Page(NamedTuple):
    """One level's picture in the file: tiles, or strips taken for tiles as wide as the picture."""

    page: Any
    tile_px: tuple[int, int]
    """Width, height."""
    num_tiles: tuple[int, int]
    """Columns, rows."""
    decode_with: dict[str, Any]

    @property
    def is_planar(self) -> bool:
        """Whether red, green and blue lie in tiles of their own."""
        return bool(self.page.planarconfig == _PLANAR)


@contextmanager
def _said_plainly(path: Path) -> Iterator[None]:
    """What tifffile and the codecs raise for broken files, as BadImage (not_a_slide)."""
    import tifffile

    broken = (
        tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError,
        RuntimeError, struct.error, ElementTree.ParseError,
    )  # fmt: skip
    try:
        yield
    except broken as error:
        raise BadImage("not_a_slide", f"{path}: {error or type(error).__name__}") from error


def _is_mistagged(page: Any) -> bool:
    """Whether tiles tagged RGB have a JFIF marker, which stands for YCbCr (JFIF 1.02, "Color space")."""
    return bool(page.photometric == _RGB and page.compression in _JPEG_COMPRESSIONS and page.is_jfif)


class TiffLevels:
    """The largest picture of a TIFF and its smaller levels, as 8-bit RGB."""

    def __init__(self, path: Path) -> None:
        """Raises BadImage: not_a_slide, too_many_pictures, in_another_file, several_planes, not_rgb, more_than_8_bits,
        large_tiles.
        """
        import tifffile

        self._path = path
        with _said_plainly(path):
            self._tif = tifffile.TiffFile(path)
        try:
            with _said_plainly(path):
                self._read_header()
        except BadImage:
            self._tif.close()
            raise
        self._size_bytes = path.stat().st_size
        self._file = path.open("rb")
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0

    def _read_header(self) -> None:
        _refuse_stacks(self._path, self._tif)
        if not self._tif.series:
            raise BadImage("not_a_slide", f"{self._path}: holds no picture; is it cut off?")
        is_ome = bool(self._tif.is_ome)
        series = max(self._tif.series, key=lambda one: one.levels[0].size)
        self._pages = [_check_level(self._path, self._tif, level) for level in series.levels]
        self.vendor = "tifffile/ome" if is_ome else "tifffile/tiff"
        self.level_sizes_px: tuple[tuple[int, int], ...] = tuple(
            (level.page.imagewidth, level.page.imagelength) for level in self._pages
        )
        whole = self.level_sizes_px[0]
        self.level_downsamples = tuple(
            (whole[0] / width + whole[1] / height) / 2 for width, height in self.level_sizes_px
        )
        first = self._pages[0].page
        self.mpp_xy = _mpp_of_ome(self._tif.ome_metadata, whole) if is_ome else _mpp_of_tags(first)
        self.notes: tuple[str, ...] = (
            ("tiles are tagged RGB but are YCbCr by their JPEG markers, and were converted",)
            if _is_mistagged(first)
            else ()
        )

    def read(self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        by = self.level_downsamples[level]
        left, top = int(np.floor(x_l0 / by + 0.5)), int(np.floor(y_l0 / by + 0.5))
        region = np.full((height_px, width_px, 3), 255, np.uint8)
        page = self._pages[level]
        width, height = self.level_sizes_px[level]
        across = _touched(left, width_px, page.tile_px[0], width)
        down = _touched(top, height_px, page.tile_px[1], height)
        for column, row, plane in product(across, down, range(3 if page.is_planar else 1)):
            tile = self._tile(level, column, row, plane)
            if tile is None:  # left out by the writer: nothing was scanned there
                continue
            x, y = column * page.tile_px[0], row * page.tile_px[1]
            start_x, start_y = max(x, left), max(y, top)
            stop_x = min(x + tile.shape[1], left + width_px, width)
            stop_y = min(y + tile.shape[0], top + height_px, height)
            channels = slice(plane, plane + 1) if page.is_planar else slice(None)
            region[start_y - top : stop_y - top, start_x - left : stop_x - left, channels] = tile[
                start_y - y : stop_y - y, start_x - x : stop_x - x
            ]
        return region

    def _tile(self, level: int, column: int, row: int, plane: int) -> NDArray[np.uint8] | None:
        """[height, width, 3 or, of one plane, 1]; None where the file has none. Raises BadImage."""
        page = self._pages[level]
        columns, rows = page.num_tiles
        index = (plane * rows + row) * columns + column
        with self._lock:
            if (level, index) in self._kept:
                self._kept.move_to_end((level, index))
                return self._kept[level, index]
        try:
            with _said_plainly(self._path):
                tile = self._decode(page, index)
        except BadImage as error:
            by = self.level_downsamples[level]
            x_l0, y_l0 = round(column * page.tile_px[0] * by), round(row * page.tile_px[1] * by)
            place = f"tile at {x_l0}, {y_l0} (level {level})"
            raise BadImage("unreadable_region", f"{error}: {place}") from error
        if tile is not None:
            self._keep((level, index), tile)
        return tile

    def _decode(self, page: _Page, index: int) -> NDArray[np.uint8] | None:
        offset, size_bytes = page.page.dataoffsets[index], page.page.databytecounts[index]
        if size_bytes == 0:
            return None
        if offset + size_bytes > self._size_bytes:
            raise ValueError("the file is cut off")
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(size_bytes)
        decoded, _, _ = page.page.decode(data, index, **page.decode_with)
        return np.asarray(decoded[0])

    def _keep(self, key: tuple[int, int], tile: NDArray[np.uint8]) -> None:
        with self._lock:
            if key in self._kept:  # another thread was quicker
                return
            self._kept[key] = tile
            self._kept_bytes += tile.nbytes
            while self._kept_bytes > CACHE_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def close(self) -> None:
        self._file.close()
        self._tif.close()


def _refuse_stacks(path: Path, tif: Any) -> None:
    """Raise BadImage for more than MAX_IFDS pictures, without walking all of them."""
    try:
        tif.pages[MAX_IFDS]
    except IndexError:
        return
    raise BadImage(
        "too_many_pictures", f"{path}: more than {MAX_IFDS} pictures in one file; a slide has some levels"
    )


def _check_level(path: Path, tif: Any, level: Any) -> _Page:
    """A level that is one picture of 8-bit RGB in this file and in tiles that can be held. Raises BadImage."""
    import tifffile

    page = level.keyframe
    if page.compression != _UNCOMPRESSED and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise BadImage("not_a_slide", f"{path}: compression {page.compression} is not known")
    if page.parent is not tif:
        raise BadImage(
            "in_another_file", f"{path}: its OME-XML says that the pixels are in {page.parent.filename}"
        )
    if len(level.pages) != 1 or level.axes not in ("YXS", "SYX"):
        sizes = ", ".join(f"{axis} {length}" for axis, length in zip(level.axes, level.shape, strict=True))
        reason = "several_planes" if len(level.pages) > 1 else "not_rgb"
        raise BadImage(reason, f"{path}: one picture in RGB is needed, and this has the axes {sizes}")
    if page.bitspersample != 8 or page.dtype != np.uint8:
        raise BadImage("more_than_8_bits", f"{path}: {page.bitspersample} bits a channel; save it with 8")
    is_jpeg = page.compression in _JPEG_COMPRESSIONS
    if page.samplesperpixel != 3 or page.photometric not in ((_RGB, _YCBCR) if is_jpeg else (_RGB,)):
        raise BadImage(
            "not_rgb", f"{path}: {page.samplesperpixel} channels, photometric {page.photometric}, not RGB"
        )
    tile_px = (
        (page.tilewidth, page.tilelength)
        if page.is_tiled
        else (page.imagewidth, min(page.rowsperstrip, page.imagelength))
    )
    if tile_px[0] * tile_px[1] > MAX_SEGMENT_PX:
        raise BadImage(
            "large_tiles",
            f"{path}: in pieces of {tile_px[0]}x{tile_px[1]} px, at most {MAX_SEGMENT_PX} pixels are decoded at once; "
            "save it in tiles",
        )
    num_tiles = -(-page.imagewidth // tile_px[0]), -(-page.imagelength // tile_px[1])
    needed = num_tiles[0] * num_tiles[1] * (3 if page.planarconfig == _PLANAR else 1)
    if min(len(page.dataoffsets), len(page.databytecounts)) < needed:
        raise BadImage("not_a_slide", f"{path}: names {len(page.dataoffsets)} of {needed} tiles")
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if is_jpeg else {}
    return _Page(page, tile_px, num_tiles, tables)


def _touched(start: int, length: int, tile: int, whole: int) -> range:
    """Numbers of the tiles along one axis that a stretch touches, within the picture."""
    first, last = max(start, 0), min(start + length, whole)
    return range(first // tile, -(-last // tile)) if first < last else range(0)


# ------------------------------------------------------------------------------------------------ resolution
def _mpp_of_ome(xml: str, size_px: tuple[int, int]) -> tuple[float, float] | None:
    """PhysicalSizeX and Y of the picture of that size; the unit is the micrometre where none is named (OME 2016-06)."""
    for pixels in ElementTree.fromstring(xml).iterfind(".//{*}Pixels"):
        if (int(pixels.get("SizeX", 0)), int(pixels.get("SizeY", 0))) != size_px:
            continue
        sizes_um = [
            float(pixels.get(f"PhysicalSize{axis}", "nan"))
            * UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m"), float("nan"))
            for axis in "XY"
        ]
        return None if np.isnan(sizes_um).any() else (sizes_um[0], sizes_um[1])
    return None


def _mpp_of_tags(page: Any) -> tuple[float, float] | None:
    """From XResolution and YResolution in pixels a unit."""
    unit_um = _UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit))
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if unit_um is None or None in tags or any(0 in tag.value for tag in tags):
        return None
    mpp_x, mpp_y = (unit_um * tag.value[1] / tag.value[0] for tag in tags)
    return mpp_x, mpp_y
