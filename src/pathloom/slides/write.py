"""Writing a pyramidal tiled TIFF row by row: what a slide costs in memory is one strip a level, whatever its size.

Tiles are JPEG (YCbCr, chroma halved both ways, as scanners write them). Resolution stands in XResolution and
YResolution per centimetre, which is what OpenSlide's generic-tiff reader takes openslide.mpp-x and mpp-y from, and
what tifffile shows. Reduced levels are the means of the level before over whole blocks, rounded; a last block that
is not whole is left out, as in Aperio's files.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from tqdm import tqdm

Pixels = NDArray[np.uint8]
Strip = Callable[[int, int], Pixels]
"""strip(y_px, height_px) -> [height_px, width_px, 3]: level 0 over its whole width, from the top to the bottom."""

DOWNSAMPLES = (4, 16)
QUALITY = 85
TILE_PX = 256
_UM_PER_CM = 1e4


class _Level:
    """One level while it is made: rows that fill no tile yet, and the encoded tiles, on disk but for level 0's."""

    def __init__(self, width_px: int, height_px: int, tile_px: int, quality: int) -> None:
        self.width_px, self.height_px = width_px, height_px
        self.tile_px, self.quality = tile_px, quality
        self._waiting: list[Pixels] = []
        self._num_waiting = 0

    def take(self, rows: Pixels, pool: Executor) -> Iterator[bytes]:
        """The tiles that `rows` [h, width_px, 3] complete, encoded, in the file's order."""
        self._waiting.append(rows)
        self._num_waiting += len(rows)
        if self._num_waiting < self.tile_px:
            return iter(())
        held = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        whole = len(held) - len(held) % self.tile_px
        self._waiting, self._num_waiting = [held[whole:]], len(held) - whole
        return self._encoded(held[:whole], pool)

    def rest(self, pool: Executor) -> Iterator[bytes]:
        """The last row of tiles, where the height is no multiple of a tile's."""
        held = np.concatenate(self._waiting) if self._waiting else np.empty((0, self.width_px, 3), np.uint8)
        return self._encoded(held, pool) if len(held) else iter(())

    def _encoded(self, rows: Pixels, pool: Executor) -> Iterator[bytes]:
        side = self.tile_px
        tiles = [
            rows[y : y + side, x : x + side]
            for y in range(0, len(rows), side)
            for x in range(0, self.width_px, side)
        ]
        return pool.map(self._encode, tiles)

    def _encode(self, tile: Pixels) -> bytes:
        import imagecodecs

        missing = [(0, self.tile_px - tile.shape[0]), (0, self.tile_px - tile.shape[1]), (0, 0)]
        whole = np.pad(tile, missing, mode="edge") if missing[0][1] or missing[1][1] else tile
        return imagecodecs.jpeg8_encode(
            np.ascontiguousarray(whole),
            level=self.quality,
            colorspace="rgb",
            outcolorspace="ycbcr",
            subsampling="420",
        )


def reduced(rows: Pixels, factor: int) -> Pixels:
    """Means over whole factor x factor blocks, [h // factor, w // factor, 3]; what is no whole block is left out."""
    height, width = len(rows) // factor, rows.shape[1] // factor
    if not height or not width:
        return np.empty((height, width, 3), np.uint8)
    whole = PILImage.fromarray(np.ascontiguousarray(rows[: height * factor, : width * factor]))
    return np.asarray(whole.reduce(factor))


def write_pyramid(
    path: Path,
    strip: Strip,
    size_px: tuple[int, int],
    mpp: float,
    *,
    tile_px: int = TILE_PX,
    quality: int = QUALITY,
    downsamples: Sequence[int] = DOWNSAMPLES,
    threads: int | None = None,
    quiet: bool = True,
) -> None:
    """Write a slide of `size_px` (width, height) at `mpp` um per pixel; `path` appears once it is whole.

    `strip` is called once for each row of tiles, from the top down. `downsamples` are those of the reduced levels,
    each a multiple of the one before it and a divisor of `tile_px`; a level without a pixel is left out.
    Encoded tiles of reduced levels wait in temporary files beside `path` until level 0 is written.
    Raises ValueError for a size, mpp, tile, downsample or strip that does not fit.
    """
    width_px, height_px = size_px
    factors = _factors(size_px, mpp, tile_px, downsamples)
    levels = [_Level(width_px, height_px, tile_px, quality)]
    for factor in factors:
        above = levels[-1]
        levels.append(_Level(above.width_px // factor, above.height_px // factor, tile_px, quality))
    part = path.with_name(path.name + ".part")
    try:
        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            _write(part, strip, levels, factors, mpp, pool, quiet)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _factors(size_px: tuple[int, int], mpp: float, tile_px: int, downsamples: Sequence[int]) -> list[int]:
    """How much each reduced level is smaller than the one before it."""
    if min(size_px) < 1 or not 0 < mpp < float("inf"):
        raise ValueError(f"a slide of {size_px[0]} x {size_px[1]} px at {mpp} um per pixel cannot be written")
    if tile_px < 16 or tile_px % 16:
        raise ValueError(f"tile_px is {tile_px}; TIFF asks for a multiple of 16")
    factors = []
    before = 1
    for downsample in downsamples:
        if downsample <= before or downsample % before or tile_px % downsample:
            raise ValueError(
                f"downsamples {tuple(downsamples)}: each is a multiple of the one before it and divides {tile_px}"
            )
        if min(size_px) // downsample:
            factors.append(downsample // before)
        before = downsample
    return factors


def _write(
    part: Path,
    strip: Strip,
    levels: Sequence[_Level],
    factors: Sequence[int],
    mpp: float,
    pool: Executor,
    quiet: bool,
) -> None:
    """Level 0 into the file while the tiles of the others go into temporary files, then those after it."""
    import tifffile

    waiting: list[IO[bytes]] = []
    lengths: list[list[int]] = [[] for _ in factors]

    def spill(index: int, tiles: Iterator[bytes]) -> None:
        for tile in tiles:
            waiting[index].write(tile)
            lengths[index].append(len(tile))

    def level_0() -> Iterator[bytes]:
        base = levels[0]
        pending: Iterator[bytes] = iter(())
        for y_px in tqdm(range(0, base.height_px, base.tile_px), desc=part.stem, leave=False, disable=quiet):
            height_px = min(base.tile_px, base.height_px - y_px)
            rows = strip(y_px, height_px)
            if rows.shape != (height_px, base.width_px, 3) or rows.dtype != np.uint8:
                raise ValueError(
                    f"the strip at {y_px} px is {rows.shape} of {rows.dtype}, not "
                    f"{(height_px, base.width_px, 3)} of uint8"
                )
            encoded = base.take(rows, pool)
            for index, factor in enumerate(factors):
                rows = reduced(rows, factor)
                spill(index, levels[index + 1].take(rows, pool))
            yield from pending  # those of the strip before: tiles are encoded while the next strip is drawn
            pending = encoded
        yield from pending
        yield from base.rest(pool)

    with ExitStack() as temporary, tifffile.TiffWriter(part, bigtiff=True) as file:
        waiting += [temporary.enter_context(tempfile.TemporaryFile(dir=part.parent)) for _ in factors]
        _append(file, level_0(), levels[0], mpp, reduced_level=False)
        scale = 1
        for index, factor in enumerate(factors):
            scale *= factor
            spill(index, levels[index + 1].rest(pool))
            waiting[index].seek(0)
            tiles = _read_back(waiting[index], lengths[index])
            _append(file, tiles, levels[index + 1], mpp * scale, reduced_level=True)


def _read_back(file: IO[bytes], lengths: Sequence[int]) -> Iterator[bytes]:
    for length in lengths:
        yield file.read(length)


def _append(file: object, tiles: Iterator[bytes], level: _Level, mpp: float, *, reduced_level: bool) -> None:
    per_cm = _UM_PER_CM / mpp
    file.write(  # type: ignore[attr-defined]
        tiles,
        shape=(level.height_px, level.width_px, 3),
        dtype="uint8",
        photometric="ycbcr",
        subsampling=(2, 2),
        tile=(level.tile_px, level.tile_px),
        compression="jpeg",
        resolution=(per_cm, per_cm),
        resolutionunit="CENTIMETER",
        subfiletype=1 if reduced_level else 0,
        software="pathloom",
        metadata=None,
    )
