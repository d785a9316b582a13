"""Tiles of a slide at a stated resolution, read in supertiles: regions of many tiles, read once and cut.

A tile's pixels are defined without regard to how they are read: the smallest level that is at or above the wanted
resolution; on it the square of round(size_px * mpp / level's mpp) pixels whose corner is the tile's place in whole
pixels of the level, rounded half up; resized from that square alone (Pillow, BILINEAR with support over all its
pixels) where it is not size_px already. One read a tile gives the same pixels; supertiles are what threads share.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.reader import best_level

MAX_SUPERTILE_PX = 2**20
"""Pixels of the level in one region: 1024 x 1024, 3 MiB. Our own choice; `speed/tiling.py` measures it."""
MIN_FILLED = 0.5
"""Share of a region that must be tiles, else it is cut: what lies between is read for nothing. Our own choice."""
LEVEL_TOLERANCE = 0.01
"""A level this much coarser than the mpp asked for counts as that mpp: 0.4990 for 0.5. Our own choice."""
THREADS = 2

Pixels = NDArray[np.uint8]


class Readable(Protocol):
    """What is needed of `reader.Slide`."""

    @property
    def vendor(self) -> str: ...
    @property
    def mpp_l0(self) -> float: ...
    @property
    def level_downsamples(self) -> Sequence[float]: ...
    @property
    def threads_safe(self) -> bool: ...

    def read_level(self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int) -> Pixels: ...


@dataclass(frozen=True)
class Cut:
    """From which level tiles are cut, and how many of its pixels each takes along an edge."""

    level: int
    downsample: float
    crop_px: int


def choose_cut(slide: Readable, *, mpp: float, size_px: int) -> Cut:
    """See the module's first lines."""
    wanted = mpp / slide.mpp_l0 * (1 + LEVEL_TOLERANCE)
    level = best_level(slide.level_downsamples, wanted)
    downsample = slide.level_downsamples[level]
    return Cut(level, downsample, max(1, int(np.floor(size_px * mpp / (slide.mpp_l0 * downsample) + 0.5))))


def read_tile(slide: Readable, place_l0: Sequence[int], *, mpp: float, size_px: int) -> Pixels:
    """[size_px, size_px, 3] RGB of one tile by a read of its own. Raises BadImage."""
    cut = choose_cut(slide, mpp=mpp, size_px=size_px)
    corner = np.floor(np.asarray(place_l0) / cut.downsample + 0.5).astype(np.int64)
    return _resized(_read(slide, cut, corner, (cut.crop_px, cut.crop_px)), size_px)


def read_tiles(
    slide: Readable, places_l0: ArrayLike, *, mpp: float, size_px: int, threads: int = THREADS
) -> Iterator[Pixels]:
    """[size_px, size_px, 3] RGB of each place [n, 2], in the order given. Raises BadImage at an unreadable one."""
    for _, tile in try_tiles(slide, places_l0, mpp=mpp, size_px=size_px, threads=threads):
        if isinstance(tile, BadImage):
            raise tile
        yield tile


def try_tiles(
    slide: Readable, places_l0: ArrayLike, *, mpp: float, size_px: int, threads: int = THREADS
) -> Iterator[tuple[int, Pixels | BadImage]]:
    """(number of the place, its tile or why it cannot be read), in the order given.

    At most `threads` + 1 supertiles are held with their tiles, each of MAX_SUPERTILE_PX or one tile at most, whatever
    the slide's size. An unreadable supertile is read again tile by tile, so that only tiles on the fault are lost.
    Order counts: neighbours in the list that are neighbours on the slide (grid.py) are read together.
    """
    cut = choose_cut(slide, mpp=mpp, size_px=size_px)
    places = np.asarray(places_l0, np.int64).reshape(-1, 2)
    corners = np.floor(places / cut.downsample + 0.5).astype(np.int64)
    runs = _runs(corners, cut.crop_px, whole_pixels=_on_whole_pixels(slide, cut))

    def tiles_of(run: range) -> list[Pixels | BadImage]:
        return _cut_run(slide, cut, corners[run.start : run.stop], size_px)

    if threads < 2 or not slide.threads_safe:
        for run in runs:
            yield from zip(run, tiles_of(run), strict=True)
        return
    waiting: deque[tuple[range, Future[list[Pixels | BadImage]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for run in itertools.islice(runs, threads):
                waiting.append((run, pool.submit(tiles_of, run)))
            while waiting:
                run, future = waiting.popleft()
                tiles = future.result()
                waiting.extend((after, pool.submit(tiles_of, after)) for after in itertools.islice(runs, 1))
                yield from zip(run, tiles, strict=True)
        finally:  # whoever asks no further must not wait for what is not begun
            for _, future in waiting:
                future.cancel()


def _on_whole_pixels(slide: Readable, cut: Cut) -> bool:
    """Whether a region's corner can be named exactly: OpenSlide takes level-0 pixels and interpolates between a level's
    own, so that on a level shrunk by 4.0001 a pixel differs with the region that it is read in.
    """
    return slide.vendor.startswith("tifffile/") or float(cut.downsample).is_integer()


def _runs(corners: NDArray[np.int64], crop_px: int, *, whole_pixels: bool) -> Iterator[range]:
    """Stretches of the list whose bounding boxes are small and filled enough to be read at once."""
    start = 0
    while start < len(corners):
        stop = start + 1
        low, high = corners[start].copy(), corners[start] + crop_px
        while stop < len(corners) and whole_pixels:
            wider_low, wider_high = np.minimum(low, corners[stop]), np.maximum(high, corners[stop] + crop_px)
            area = int(np.prod(wider_high - wider_low))
            if area > MAX_SUPERTILE_PX or (stop + 1 - start) * crop_px**2 < MIN_FILLED * area:
                break
            low, high, stop = wider_low, wider_high, stop + 1
        yield range(start, stop)
        start = stop


def _cut_run(slide: Readable, cut: Cut, corners: NDArray[np.int64], size_px: int) -> list[Pixels | BadImage]:
    low, high = corners.min(0), corners.max(0) + cut.crop_px
    try:
        region = _read(slide, cut, low, (int(high[0] - low[0]), int(high[1] - low[1])))
    except BadImage as error:
        if len(corners) == 1:
            return [error]
        return [tile for corner in corners for tile in _cut_run(slide, cut, corner[None], size_px)]
    side = cut.crop_px
    return [_resized(region[y : y + side, x : x + side], size_px) for x, y in corners - low]


def _read(slide: Readable, cut: Cut, corner: NDArray[np.int64], size_px: tuple[int, int]) -> Pixels:
    x_l0, y_l0 = (int(np.floor(along * cut.downsample + 0.5)) for along in corner)
    return slide.read_level(x_l0, y_l0, cut.level, *size_px)


def _resized(crop: Pixels, size_px: int) -> Pixels:
    if crop.shape[:2] == (size_px, size_px):
        return np.ascontiguousarray(crop)
    picture = PILImage.fromarray(np.ascontiguousarray(crop))
    return np.asarray(picture.resize((size_px, size_px), PILImage.Resampling.BILINEAR))
