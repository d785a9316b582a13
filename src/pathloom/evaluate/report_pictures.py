"""Pictures beside the Samples of a report: a slide by its thumbnail, true masks as outlines to lay over a picture."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from scipy.ndimage import binary_erosion

from pathloom.images import BadImage, decode, encode_png, load_pixels
from pathloom.masks import cut_mask_of
from pathloom.schema import Image, Region
from pathloom.slides.record import read_records

THUMBNAIL_FILE = "thumbnail.jpg"
OUTLINE_RGB = (22, 199, 132)
"""The colour of a true box in report.css."""
LINES_PER_SIDE = 250
"""An outline is one part in so many of the picture's longer side thick: some two pixels on the page."""

Thumbnails = Mapping[str, Path]
"""Slide -> its thumbnail."""


def find_thumbnails(folders: Iterable[Path]) -> Thumbnails:
    """Those of the slides that these stages read."""
    return {
        record.id: folder / THUMBNAIL_FILE
        for stage in folders
        for record, folder in read_records(stage)
        if (folder / THUMBNAIL_FILE).is_file()
    }


def shown_png(image: Image, thumbnails: Thumbnails) -> bytes:
    """The picture or, for a slide, its thumbnail; b"" for a slide without one. Raises BadImage for a picture."""
    if image.slide is None:
        return encode_png(load_pixels(image))
    path = thumbnails.get(image.slide)
    try:
        return encode_png(decode(path.read_bytes(), str(path))) if path else b""
    except (BadImage, OSError):  # the slide itself was read: a report goes on without its thumbnail
        return b""


def outlines_png(regions: Sequence[Region], size_px: tuple[int, int]) -> bytes:
    """The outlines of the Regions' masks on nothing, over a picture of `size_px` (width, height); b"" without masks.

    Raises ValueError for a mask that does not fit.
    """
    outlined = [region for region in regions if region.mask_png is not None]
    if not outlined:
        return b""
    thickness = max(1, math.ceil(max(size_px) / LINES_PER_SIDE))
    drawn = np.zeros((size_px[1], size_px[0]), dtype=bool)
    for region in outlined:
        cut = cut_mask_of(region, size_px)
        inner = binary_erosion(cut.bits, iterations=thickness)
        cut.of(drawn)[:] |= cut.bits & ~inner
    pixels = np.zeros((*drawn.shape, 4), dtype=np.uint8)
    pixels[drawn] = (*OUTLINE_RGB, 255)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).quantize(2).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
