"""Regions of whole slides through OpenSlide, the extra `slides`; a slide is never read whole.

A DICOM slide is a folder of .dcm files: OpenSlide finds its levels from any of them. Some writers tag YCbCr frames as
RGB, and OpenSlide believes the tag: a JFIF marker in the frames, which stands for YCbCr (JFIF 1.02, "Color space"),
tells them apart.
"""

import importlib.util
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from pathloom.images import LIMITS, BadImage
from pathloom.ingest.pictures import size_and_time
from pathloom.stage import UserError

SLIDE_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide")
DICOM_SUFFIX = ".dcm"
_JPEG_START = b"\xff\xd8\xff"
_HEAD_BYTES = 2**20
"""Tags before a file's first frame take a few kilobytes, with an ICC profile some more."""


def need_openslide() -> None:
    """Raise UserError where OpenSlide is not installed."""
    if importlib.util.find_spec("openslide") is None:
        raise UserError("slides are read with OpenSlide: pip install 'pathloom[slides]'")


def find_slides(folder: Path) -> dict[str, Path]:
    """Name below `folder` -> what OpenSlide opens: files, and each folder of .dcm files under the folder's name."""
    slides = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SLIDE_SUFFIXES
    }
    for path in sorted(folder.rglob(f"*{DICOM_SUFFIX}")):
        series = path.parent
        name = series.relative_to(folder).as_posix() if series != folder else folder.resolve().name
        slides.setdefault(name, path)
    return slides


def slide_size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and latest change of all files of a slide: a DICOM slide's folder, and the folder beside a .mrxs file."""
    files = [path]
    if path.suffix.lower() == DICOM_SUFFIX:
        files = sorted(path.parent.glob(f"*{DICOM_SUFFIX}"))
    elif path.suffix.lower() == ".mrxs":
        files += sorted(path.with_suffix("").rglob("*"))
    sizes, times = zip(*map(size_and_time, files), strict=True)
    return sum(sizes), max(times)


def _is_ycbcr(path: Path, photometric: str | None) -> bool:
    """Whether the first frame of a DICOM file that is tagged RGB says that it is not."""
    if photometric != "RGB":
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    frame = head[max(head.find(_JPEG_START), 0) :]
    return frame.startswith(_JPEG_START) and frame[6:11] == b"JFIF\0"


class SlideField:
    """One open slide: sizes and places in pixels of its level 0."""

    def __init__(self, path: Path) -> None:
        """Raises BadImage with OpenSlide's reason."""
        import openslide

        try:
            self._slide: Any = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise BadImage("not_a_slide", f"{path}: {error}") from error
        self._path = path
        self.size_px: tuple[int, int] = self._slide.dimensions
        self.mpp = self._mpp()
        self._is_ycbcr = _is_ycbcr(path, self._slide.properties.get("dicom.PhotometricInterpretation"))

    def _mpp(self) -> float | None:
        """um per pixel, the mean of both axes; None where the file says none."""
        stated = [self._slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        return None if None in stated else sum(map(float, stated)) / 2

    def crop(self, left: int, top: int, width: int, height: int, shrink: float) -> PILImage.Image:
        """A part inside the slide as RGB, from the level nearest above `shrink` (level-0 pixels by wanted ones).

        It may be smaller than width by height: that is the level. Raises BadImage where it cannot be read, or is too
        large to be held.
        """
        import openslide

        level = self._slide.get_best_level_for_downsample(shrink)
        by = self._slide.level_downsamples[level]
        size_px = (max(1, round(width / by)), max(1, round(height / by)))
        if size_px[0] * size_px[1] > LIMITS.max_pixels:
            raise BadImage(
                "too_many_pixels",
                f"{self._path}: a tile of {size_px[0]}x{size_px[1]} px, at most {LIMITS.max_pixels} pixels are read; "
                "is mpp right?",
            )
        try:
            pixels = self._slide.read_region((left, top), level, size_px)
        except openslide.OpenSlideError as error:
            raise BadImage("unreadable_region", f"{self._path}: at {left}, {top}: {error}") from error
        alpha = pixels.getchannel("A")
        if self._is_ycbcr:
            pixels = PILImage.merge("YCbCr", pixels.split()[:3]).convert("RGB")
        # What was never scanned is transparent.
        paper = f"#{self._slide.properties.get('openslide.background-color', 'FFFFFF')}"
        opaque = PILImage.new("RGB", pixels.size, paper)
        opaque.paste(pixels, mask=alpha)
        return opaque
