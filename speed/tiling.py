"""Tiles a second of `read_tiles` against loops of one read a tile, in turns in one process, the same pixels asserted.

    pathloom phantom slide --out big.tiff --pixels 1e9
    OMP_NUM_THREADS=1 python speed/tiling.py big.tiff [tiles] [repeats]

The tiles are those of a window from a fixed place on, in the grid's order; the loops go row by row, as such loops do.
Each turn opens the file anew, so that no cache is warm. `naive` is OpenSlide's read_region with its default cache (32
MiB), `one read` is our own reader without supertiles (64 MiB). Memory is the peak of a process that reads only so.
"""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.slides.grid import tile_grid
from pathloom.slides.reader import open_slide
from pathloom.slides.tiles import choose_cut, read_tile, read_tiles

Places = NDArray[np.int64]
Read = Callable[[Path, Places, float, int], Iterator[NDArray[np.uint8]]]


def supertiles(threads: int) -> Read:
    def read(path: Path, places: Places, mpp: float, size_px: int) -> Iterator[NDArray[np.uint8]]:
        with open_slide(path) as slide:
            yield from read_tiles(slide, places, mpp=mpp, size_px=size_px, threads=threads)

    return read


def one_read(path: Path, places: Places, mpp: float, size_px: int) -> Iterator[NDArray[np.uint8]]:
    with open_slide(path) as slide:
        for place in places.tolist():
            yield read_tile(slide, place, mpp=mpp, size_px=size_px)


def naive(threads: int) -> Read:
    """What a script does: read_region, RGB, resize."""

    def read(path: Path, places: Places, mpp: float, size_px: int) -> Iterator[NDArray[np.uint8]]:
        import openslide

        with open_slide(path) as slide:
            cut = choose_cut(slide, mpp=mpp, size_px=size_px)
        with openslide.OpenSlide(path) as whole:

            def tile(place: list[int]) -> NDArray[np.uint8]:
                corner = [int(int(along / cut.downsample + 0.5) * cut.downsample + 0.5) for along in place]
                region = whole.read_region((corner[0], corner[1]), cut.level, (cut.crop_px, cut.crop_px))
                pixels = region.convert("RGB")
                if cut.crop_px != size_px:
                    pixels = pixels.resize((size_px, size_px), PILImage.Resampling.BILINEAR)
                return np.asarray(pixels)

            if threads == 1:
                yield from map(tile, places.tolist())
                return
            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(tile, places.tolist())

    return read


WAYS: dict[str, Read] = {
    "supertiles, 2 threads": supertiles(2),
    "supertiles, 1 thread": supertiles(1),
    "one read, 1 thread": one_read,
    "naive, 2 threads": naive(2),
    "naive, 1 thread": naive(1),
}
SETTINGS = {
    "aligned (256 px, native)": (256, 0, 1.0, 0),
    "unaligned (224 px, overlap 32, offset 100, native)": (224, 32, 1.0, 100),
    "non-native (224 px at 1.6 times the mpp)": (224, 0, 1.6, 0),
}
"""size_px, overlap_px, mpp in level 0's, offset_l0."""


def places_of(path: Path, setting: str, count: int) -> tuple[Places, float, int]:
    size_px, overlap_px, times, offset_l0 = SETTINGS[setting]
    with open_slide(path) as slide:
        mpp = slide.mpp_l0 * times
        grid = tile_grid(slide.size_l0, slide.mpp_l0, mpp=mpp, size_px=size_px, overlap_px=overlap_px)
        places = grid.places_l0 + offset_l0
        whole = (places + grid.side_l0 <= slide.size_l0).all(axis=1)
        middle = (places[:, 1] > 0.3 * slide.size_l0[1]) & whole
        return places[middle][:count], mpp, size_px


def main() -> None:
    path, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1024
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    if len(sys.argv) > 4:  # a process of one way only: its memory
        places, mpp, size_px = places_of(path, sys.argv[5], count)
        for _ in WAYS[sys.argv[4]](path, places, mpp, size_px):
            pass
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    for setting in SETTINGS:
        places, mpp, size_px = places_of(path, setting, count)
        in_rows = np.lexsort((places[:, 0], places[:, 1]))
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        digests: dict[str, list[int]] = {}
        for _ in range(repeats):
            for way, read in WAYS.items():
                order = np.arange(len(places)) if way.startswith("super") else in_rows
                start = time.perf_counter()
                found = [hash(tile.tobytes()) for tile in read(path, places[order], mpp, size_px)]
                seconds[way].append(time.perf_counter() - start)
                digests[way] = [digest for _, digest in sorted(zip(order.tolist(), found, strict=True))]
        same = {way: digests[way] == digests["one read, 1 thread"] for way in WAYS}
        assert all(same[way] for way in WAYS if not way.startswith("naive"))
        print(f"\n{setting}: {len(places)} tiles, {repeats} turns")
        for way, taken in seconds.items():
            rate = len(places) / statistics.median(taken)
            print(f"| {way} | {rate:.0f} tiles/s | pixels {'same' if same[way] else 'other'} |")
        for ours, theirs in (
            ("supertiles, 2 threads", "naive, 1 thread"),
            ("supertiles, 2 threads", "naive, 2 threads"),
            ("supertiles, 1 thread", "naive, 1 thread"),
            ("supertiles, 1 thread", "one read, 1 thread"),
        ):
            ratios = [b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True)]
            print(
                f"ratio {ours} / {theirs}: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )
    for few in (count // 4, count):
        command = [
            sys.executable,
            __file__,
            str(path),
            str(few),
            "1",
            "supertiles, 2 threads",
            next(iter(SETTINGS)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"peak memory, {few} tiles: {done.stdout.strip()} MiB")


if __name__ == "__main__":
    main()
