"""Levels of slides that OpenSlide reads: SVS, NDPI, MRXS, SCN, series of DICOM objects ..."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.dicom import FrameColour, colour_of_frames


class OpenSlideLevels:
    """Through OpenSlide, which several threads may use at once.

    An error stops an OpenSlide object for good (openslide.org/api/openslide_8h.html, "openslide_get_error"): after one
    the slide is opened anew, so that one bad tile costs no other.
    """

    def __init__(self, path: Path) -> None:
        """Raises BadImage: not_a_slide with OpenSlide's reason, colour_unclear (dicom.py)."""
        self._path = path
        self._slide: Any = self._open()  # None once closed
        properties = self._slide.properties
        self.vendor = f"openslide/{properties['openslide.vendor']}"
        self.level_sizes_px: tuple[tuple[int, int], ...] = self._slide.level_dimensions
        self.level_downsamples: tuple[float, ...] = self._slide.level_downsamples
        stated = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        self.mpp_xy = None if None in stated else (float(stated[0]), float(stated[1]))
        self._paper = f"#{properties.get('openslide.background-color', 'FFFFFF')}"
        self.notes: tuple[str, ...] = ()
        self._is_ycbcr = False
        self._swap = threading.Lock()
        if properties["openslide.vendor"] == "dicom":
            self._settle_colour()

    def _settle_colour(self) -> None:
        try:
            colour = colour_of_frames(self._path)
        except BadImage:
            self.close()
            raise
        self._is_ycbcr = colour is FrameColour.YCBCR_TAGGED_RGB
        self.notes = (colour.value,) if colour.value else ()

    def _open(self) -> Any:
        import openslide

        try:
            return openslide.OpenSlide(self._path)
        except (openslide.OpenSlideError, OSError) as error:
            raise BadImage("not_a_slide", f"{self._path}: {error}") from error

    def read(self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int) -> NDArray[np.uint8]:
        region = (x_l0, y_l0), level, (width_px, height_px)
        pixels = self._read_rgba(region)
        alpha = pixels.getchannel("A")
        if self._is_ycbcr:
            pixels = PILImage.merge("YCbCr", pixels.split()[:3]).convert("RGB")
        if alpha.getextrema()[0] == 255:
            return np.asarray(pixels.convert("RGB"))
        # What was never scanned is transparent.
        opaque = PILImage.new("RGB", pixels.size, self._paper)
        opaque.paste(pixels, mask=alpha)
        return np.asarray(opaque)

    def _read_rgba(self, region: tuple[tuple[int, int], int, tuple[int, int]]) -> PILImage.Image:
        import openslide

        shared = self._slide
        if shared is None:
            raise ValueError(f"{self._path}: is closed")
        try:
            return shared.read_region(*region)
        except openslide.OpenSlideError:
            # It may stem from an earlier region or another thread's: an object of our own tells.
            fresh = self._open()
        try:
            pixels = fresh.read_region(*region)
        except openslide.OpenSlideError as error:
            fresh.close()
            (x_l0, y_l0), level, size_px = region
            raise BadImage(
                "unreadable_region",
                f"{self._path}: region at {x_l0}, {y_l0} (level {level}, {size_px[0]}x{size_px[1]} px): {error}",
            ) from error
        with self._swap:
            # The old one is closed when the last thread has let go of it.
            if self._slide is shared:
                self._slide = fresh
        return pixels

    def close(self) -> None:
        # OpenSlide's own close() under a thread that is reading kills the process; so the object goes, and its file is
        # closed when the last thread has let go of it.
        with self._swap:
            self._slide = None
