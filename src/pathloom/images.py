"""Image files to pixels, safely: the header is read and the caps are checked before anything is decoded.

Limits stand here once. A file that breaks one is a BadImage with the reason in plain words; ingest turns it into
a Drop, everything else lets it raise.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from pathloom.schema import Image
from pathloom.stage import UserError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageLimits:
    """What a single picture may weigh. Slides are read region by region and never pass here whole."""

    max_bytes: int = 64 * 2**20
    max_pixels: int = 64_000_000


LIMITS = ImageLimits()


class BadImage(UserError):
    """A picture that cannot be used; `reason` is a short constant word for counting, str() says it in full."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        return type(self), (
            self.reason,
            str(self),
        )  # the default passes `detail` alone, and a pool would break


def read_image(
    path: Path, *, limits: ImageLimits = LIMITS, mpp: float | None = None, embed: bool = False
) -> Image:
    """The record of an image file: format, sizes and byte count checked, and decoded once to see that it is whole.

    `embed` keeps the file's bytes in the record; otherwise it is read in place later. Raises BadImage.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise BadImage("unreadable", f"{path}: {error.strerror}") from error
    if size_bytes > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{path}: {size_bytes} bytes, at most {limits.max_bytes} are read")
    try:
        data = path.read_bytes()
    except OSError as error:  # a folder of that name, no permission
        raise BadImage("unreadable", f"{path}: {error.strerror}") from error
    pixels = decode(data, str(path), limits=limits)
    return Image(
        path=str(path), data=data if embed else None, width_px=pixels.width, height_px=pixels.height, mpp=mpp
    )


def load_pixels(image: Image, *, limits: ImageLimits = LIMITS) -> PILImage.Image:
    """The record's picture as 8-bit RGB. Raises BadImage when the file is gone, changed or broken."""
    if image.slide is not None:
        raise BadImage("whole_slide", f"{image.path}: a whole slide has no pixels as one picture")
    data = image.data
    if data is None:
        try:
            data = Path(image.path).read_bytes()
        except OSError as error:
            raise BadImage("unreadable", f"{image.path}: {error.strerror}; was the source moved?") from error
    pixels = decode(data, image.path, limits=limits)
    if pixels.size != (image.width_px, image.height_px):
        raise BadImage(
            "changed",
            f"{image.path}: {pixels.size[0]}x{pixels.size[1]} px, but {image.width_px}x{image.height_px} at ingest",
        )
    return pixels


def decode(data: bytes, name: str, *, limits: ImageLimits = LIMITS) -> PILImage.Image:
    """Bytes of an image file to RGB; `name` only serves the messages. Raises BadImage, never decodes past a cap."""
    if len(data) > limits.max_bytes:
        raise BadImage("too_many_bytes", f"{name}: {len(data)} bytes, at most {limits.max_bytes} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PILImage.DecompressionBombWarning)  # our own cap follows
            picture = PILImage.open(io.BytesIO(data), formats=FORMATS)
    except PILImage.DecompressionBombError as error:
        raise BadImage("too_many_pixels", f"{name}: {error}") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error) as error:
        raise BadImage("not_an_image", f"{name}: not a readable {', '.join(FORMATS)} file") from error
    width_px, height_px = picture.size
    if width_px * height_px > limits.max_pixels:
        raise BadImage(
            "too_many_pixels",
            f"{name}: {width_px}x{height_px} px, at most {limits.max_pixels} pixels are decoded",
        )
    if picture.format == "TIFF" and getattr(picture, "n_frames", 1) > 1:
        raise BadImage("several_pages", f"{name}: a TIFF of several pictures; save each as a file of its own")
    if picture.mode[0] in "IF":
        raise BadImage(
            "more_than_8_bits",
            f"{name}: more than 8 bits a channel (Pillow mode {picture.mode}) would be clipped; save it with 8",
        )
    try:
        return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise BadImage("truncated", f"{name}: the header is fine but the pixels are not ({error})") from error


def encode_png(pixels: PILImage.Image) -> bytes:
    """PNG bytes at the fastest lossless setting: phantoms are written by the thousand."""
    buffer = io.BytesIO()
    pixels.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
