"""A slide that is an array: what `tiles` and `tissue` need of an open slide, without a file."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pathloom.images import BadImage


@dataclass
class ArraySlide:
    """Levels are every n-th pixel; a region that touches `broken_l0` (x, y) of level 0 cannot be read."""

    pixels: NDArray[np.uint8]
    mpp_l0: float = 0.5
    level_downsamples: Sequence[float] = (1.0, 4.0)
    vendor: str = "tifffile/tiff"
    threads_safe: bool = True
    broken_l0: tuple[int, int] | None = None
    reads: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    @property
    def size_l0(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]

    def read_level(
        self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int
    ) -> NDArray[np.uint8]:
        self.reads.append((x_l0, y_l0, level, width_px, height_px))
        by = self.level_downsamples[level]
        if self.broken_l0 is not None:
            x, y = self.broken_l0
            if x_l0 <= x < x_l0 + width_px * by and y_l0 <= y < y_l0 + height_px * by:
                raise BadImage("unreadable_region", f"broken at {x}, {y}")
        whole = self.pixels[:: int(by), :: int(by)]
        left, top = int(np.floor(x_l0 / by + 0.5)), int(np.floor(y_l0 / by + 0.5))
        region = np.full((height_px, width_px, 3), 255, np.uint8)
        part = whole[top : top + height_px, left : left + width_px]
        region[: part.shape[0], : part.shape[1]] = part
        return region


def noise(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def glass(width: int, height: int) -> NDArray[np.uint8]:
    """Paper-white with the noise of a scanner."""
    grey = np.random.default_rng(0).integers(240, 246, (height, width, 1), dtype=np.uint8)
    return np.repeat(grey, 3, axis=2)


def stained(width: int, height: int, colour: tuple[int, int, int] = (200, 110, 160)) -> NDArray[np.uint8]:
    """An even stain with a scanner's noise."""
    drawn = np.random.default_rng(1).integers(-12, 13, (height, width, 1)) + np.array(colour)
    return drawn.clip(0, 255).astype(np.uint8)
