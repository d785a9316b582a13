"""One whole slide, opened: sizes, resolution and pixels of its levels; the extra `slides`.

Coordinates are pixels of level 0 (`_l0`), resolution is micrometres per pixel (mpp). Which reader a file is given to
follows from what it is, never from a reader's failure:

    a scanner maker's format or DICOM, as OpenSlide tells    OpenSlide   "openslide/aperio", "openslide/dicom" ...
    another TIFF with OME-XML in its description             tifffile    "tifffile/ome"
    another TIFF                                             tifffile    "tifffile/tiff"

The third column is `Slide.vendor`. OpenSlide could read some TIFFs of the last two lines, but neither their OME-XML nor
levels in sub-IFDs, it takes tiles that are tagged RGB for RGB, and it takes almost three times as long.

A reader gives levels and pixels only. Labels, macro images, names and dates that a file carries are not reached from
here, so that nothing that points to a person is carried along.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pathloom.images import LIMITS, BadImage
from pathloom.stage import UserError

MPP_RANGE = (0.05, 20.0)
"""Micrometres per pixel that a slide can have: 100x oil with a camera's finest pixels is about 0.05, an overview below
1x is 20. Our own choice. A resolution of 72 dpi (353 um), which programs write where they know none, is outside."""
MAX_ANISOTROPY = 0.03
"""By how much of their mean mpp in x and y may differ; the mean is used. Our own choice: no slide we have seen differs
by more than 0.0001, and more than a few per cent is a mistake in the file."""

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""TIFF and BigTIFF, either byte order (TIFF 6.0, section 2; BigTIFF by its design at libtiff)."""
_PLAIN_TIFF = "generic-tiff"
"""What OpenSlide calls any tiled TIFF of no maker that it knows."""


class Levels(Protocol):
    """What a reader gives: levels from the largest on, and their pixels."""

    vendor: str
    level_sizes_px: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    mpp_xy: tuple[float, float] | None
    """As the file states it, however absurd."""
    notes: tuple[str, ...]
    """What was done to the pixels beyond decoding them, in words."""

    def read(self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """[height, width, 3] RGB; what was never scanned or lies outside has the paper's colour. Raises BadImage."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, eq=False)
class Slide:
    """One open slide; `open_slide` makes it. Several threads may read at once."""

    path: Path
    vendor: str
    size_l0: tuple[int, int]
    mpp_l0: float
    level_sizes_px: tuple[tuple[int, int], ...]
    level_downsamples: tuple[float, ...]
    notes: tuple[str, ...]
    _levels: Levels
    threads_safe: bool = True

    def read_level(
        self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int
    ) -> NDArray[np.uint8]:
        """[height_px, width_px, 3] RGB of a level; its upper left corner in level-0 pixels, its size in the level's.

        Where the corner is no whole pixel of the level, OpenSlide interpolates and tifffile's reader takes the nearest.
        Beyond the slide's edge, and where nothing was scanned, it has the paper's colour: white, unless the file
        names another. Raises BadImage where it cannot be decoded or is too large to be held (images.LIMITS), after
        which other places can still be read; ValueError for no such level, no area, or a region wholly outside.
        """
        return read_region(self.path, self._levels, (x_l0, y_l0), level, (width_px, height_px))

    def close(self) -> None:
        self._levels.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def best_level(level_downsamples: Sequence[float], downsample: float) -> int:
    """The smallest level that is no smaller than level 0 shrunk `downsample` times, as OpenSlide's function does."""
    return max((level for level, by in enumerate(level_downsamples) if by <= downsample), default=0)


def need_slides_extra() -> None:
    """Raise UserError where the readers are not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("openslide", "tifffile", "imagecodecs")):
        raise UserError("slides are read with OpenSlide and tifffile: pip install 'pathloom[slides]'")


def open_slide(path: Path | str, *, stated_mpp: float | None = None, overrides_file: bool = False) -> Slide:
    """A slide whose resolution is known; for DICOM, `path` is any file of the series.

    The file's own mpp is used where it has one that a microscope can have; `stated_mpp` (a key of the recipe) only
    where it has none, or with `overrides_file` in any case. Whichever is passed over stands in `Slide.notes`.

    Raises BadImage: not_a_slide, no_mpp, absurd_mpp (outside MPP_RANGE, or x and y differ) and what the readers say;
    UserError for a `stated_mpp` outside MPP_RANGE.
    """
    path = Path(path)
    if stated_mpp is not None and not MPP_RANGE[0] <= stated_mpp <= MPP_RANGE[1]:
        raise UserError(
            f"stated_mpp {stated_mpp:g}: a slide has {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} um per pixel"
        )
    levels = open_levels(path)
    try:
        mpp_l0, notes = _resolve_mpp(path, levels.mpp_xy, stated_mpp, overrides_file)
    except BadImage:
        levels.close()
        raise
    return Slide(
        path=path,
        vendor=levels.vendor,
        size_l0=levels.level_sizes_px[0],
        mpp_l0=mpp_l0,
        level_sizes_px=levels.level_sizes_px,
        level_downsamples=levels.level_downsamples,
        notes=levels.notes + notes,
        _levels=levels,
    )


def _resolve_mpp(
    path: Path, in_file: tuple[float, float] | None, stated: float | None, overrides_file: bool
) -> tuple[float, tuple[str, ...]]:
    """Micrometres per pixel, and what there is to say about where they come from. Raises BadImage."""
    fault = "no_mpp" if in_file is None else _mpp_fault(in_file)
    says = "{}: says no micrometres per pixel" if in_file is None else "{}: says {:g} by {:g} um per pixel"
    says = says.format(path.name, *(in_file or ()))
    if in_file is not None and not fault and not (stated is not None and overrides_file):
        mean = sum(in_file) / 2
        differs = stated is not None and abs(stated - mean) > MAX_ANISOTROPY * mean
        return mean, (f"the file's mpp {mean:g} is used, not the stated {stated:g}",) if differs else ()
    if stated is not None:
        return stated, (f"mpp {stated:g} is stated, for {says}",)
    cure = "give its resolution with the key stated_mpp"
    if in_file is None:
        raise BadImage("no_mpp", f"{path}: says no micrometres per pixel; {cure}")
    raise BadImage(
        "absurd_mpp",
        f"{path}: says {in_file[0]:g} by {in_file[1]:g} um per pixel, {fault}; if that is wrong, {cure}",
    )


def _mpp_fault(mpp_xy: tuple[float, float]) -> str:
    """Why these cannot be a slide's micrometres per pixel; "" where they can."""
    if not all(MPP_RANGE[0] <= mpp <= MPP_RANGE[1] for mpp in mpp_xy):
        return f"and a slide has {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}"
    if abs(mpp_xy[0] - mpp_xy[1]) > MAX_ANISOTROPY * sum(mpp_xy) / 2:
        return f"which differ by more than {MAX_ANISOTROPY:.0%}"
    return ""


def open_levels(path: Path) -> Levels:
    """The levels of a slide that may say nothing of its resolution. Raises BadImage: not_a_slide and the readers'."""
    import openslide

    from pathloom.slides import openslide_reader, tiff_reader

    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in _TIFF_STARTS
    except OSError as error:
        raise BadImage("not_a_slide", f"{path}: {error.strerror}") from error
    maker = openslide.OpenSlide.detect_format(path)
    if maker not in (None, _PLAIN_TIFF):
        return openslide_reader.OpenSlideLevels(path)
    if is_tiff:
        return tiff_reader.TiffLevels(path)
    raise BadImage("not_a_slide", f"{path}: neither a format that OpenSlide knows nor a TIFF")


def read_region(
    path: Path, levels: Levels, corner_l0: tuple[int, int], level: int, size_px: tuple[int, int]
) -> NDArray[np.uint8]:
    """`Slide.read_level` for levels of unknown resolution."""
    if not 0 <= level < len(levels.level_sizes_px):
        raise ValueError(f"{path}: no level {level}, it has {len(levels.level_sizes_px)}")
    if min(size_px) < 1:
        raise ValueError(f"{path}: a region of {size_px[0]}x{size_px[1]} px has no area")
    by = levels.level_downsamples[level]
    for start, length, whole in zip(corner_l0, size_px, levels.level_sizes_px[0], strict=True):
        if start >= whole or start + length * by <= 0:
            raise ValueError(
                f"{path}: the region at {corner_l0} of {size_px} px of level {level} lies outside the slide of "
                "{}x{} px".format(*levels.level_sizes_px[0])
            )
    if size_px[0] * size_px[1] > LIMITS.max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"{path}: a region of {size_px[0]}x{size_px[1]} px, at most {LIMITS.max_pixels} pixels are read; "
            "is mpp right?",
        )
    return levels.read(*corner_l0, level, *size_px)
