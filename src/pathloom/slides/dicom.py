"""The few tags of DICOM slides that OpenSlide does not show or believes too readily: class, series, colour of frames.

Elements are walked as PS3.5 section 7 lays them out; nothing else of a file is looked at.
"""

import enum
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pathloom.images import BadImage

DICOM_SUFFIX = ".dcm"
WHOLE_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (PS3.4, B.5)."""
_NOT_THE_SLIDE = ("LABEL", "OVERVIEW", "THUMBNAIL")
"""Third value of Image Type (PS3.3, C.8.12.4.1.1); the slide itself is VOLUME."""

_TRANSFER_SYNTAX, _CLASS, _IMAGE_TYPE = (0x0002, 0x0010), (0x0008, 0x0016), (0x0008, 0x0008)
_SERIES, _PHOTOMETRIC, _PIXELS = (0x0020, 0x000E), (0x0028, 0x0004), (0x7FE0, 0x0010)
_INSTANCE = (0x0008, 0x0018)
_KEPT = (_TRANSFER_SYNTAX, _CLASS, _INSTANCE, _IMAGE_TYPE, _SERIES, _PHOTOMETRIC)
_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
_LONG_LENGTH = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
"""Value representations whose length has four bytes after two empty ones (PS3.5, 7.1.2)."""
_UNDEFINED = 0xFFFFFFFF
_JPEG_START = b"\xff\xd8\xff"
_IMPLICIT, _DEFLATED, _BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"


class FrameColour(enum.Enum):
    """Of a series' frames; the value is what there is to say about it."""

    AS_TAGGED = ""
    TAGGED_RGB_ALONE = "frames are tagged RGB, of which their JPEG says nothing; the tag is believed"
    YCBCR_TAGGED_RGB = "frames are tagged RGB but are YCbCr by their JPEG markers, and were converted"


class SlideObject(NamedTuple):
    """What one DICOM file says of itself; `first_frame` is its first bytes, b"" where frames are not encapsulated."""

    sop_class: str
    instance: str
    series: str
    image_type: tuple[str, ...]
    photometric: str
    first_frame: bytes

    @property
    def is_slide(self) -> bool:
        """A level of a slide, not its label, overview or thumbnail, and no segmentation or annotation of it."""
        return self.sop_class == WHOLE_SLIDE_CLASS and not set(self.image_type) & set(_NOT_THE_SLIDE)


def read_object(path: Path) -> SlideObject:
    """The tags above. Raises BadImage (not_a_slide) for what is no DICOM file or is cut off before its pixels."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data)
    except (
        OSError,
        ValueError,
        struct.error,
        RecursionError,
    ) as error:  # ValueError: mmap of an empty file, too
        raise BadImage("not_a_slide", f"{path}: no readable DICOM file ({error})") from error


def _parse(path: Path, data: mmap.mmap) -> SlideObject:
    if data[128:132] != b"DICM":
        raise BadImage("not_a_slide", f"{path}: no DICOM file")
    values = dict.fromkeys(_KEPT, "")
    first_frame = b""
    for tag, start, length in _elements(data, 132, implicit=False):
        if tag == _PIXELS and length == _UNDEFINED:
            first_frame = _first_fragment(data, start)
        if tag in values:
            values[tag] = data[start : start + length].decode("ascii", "replace").rstrip(" \0")
    return SlideObject(
        sop_class=values[_CLASS],
        instance=values[_INSTANCE],
        series=values[_SERIES],
        image_type=tuple(values[_IMAGE_TYPE].split("\\")),
        photometric=values[_PHOTOMETRIC],
        first_frame=first_frame,
    )


def _elements(data: mmap.mmap, at: int, *, implicit: bool) -> Iterator[tuple[tuple[int, int], int, int]]:
    """(tag, start, length) of the elements from `at` to the pixels or, in an item of undefined length, to its end.

    From the end of group 2 on they are written as its transfer syntax says (PS3.10, 7.1).
    """
    in_meta = at == 132
    syntax = ""
    while at + 8 <= len(data):
        tag = struct.unpack_from("<HH", data, at)
        if in_meta and tag[0] != 2:
            in_meta = False
            if syntax in (_DEFLATED, _BIG_ENDIAN):
                raise ValueError(f"transfer syntax {syntax} is not read")
            implicit = syntax == _IMPLICIT
        start, length, is_sequence = _header(data, at, tag, implicit)
        if length != _UNDEFINED and start + length > len(data):
            raise ValueError("the file is cut off")
        yield tag, start, length
        if tag in (_PIXELS, _ITEM_END):
            return
        if tag == _TRANSFER_SYNTAX:
            syntax = data[start : start + length].decode("ascii").rstrip(" \0")
        at = _after_items(data, start, implicit) if length == _UNDEFINED and is_sequence else start + length


def _header(data: mmap.mmap, at: int, tag: tuple[int, int], implicit: bool) -> tuple[int, int, bool]:
    """Where an element's value starts, its length, and whether it may be a sequence."""
    if implicit or tag[0] == 0xFFFE:
        return at + 8, struct.unpack_from("<I", data, at + 4)[0], True
    kind = data[at + 4 : at + 6]
    if kind in _LONG_LENGTH:
        return at + 12, struct.unpack_from("<I", data, at + 8)[0], kind in (b"SQ", b"UN")
    return at + 8, struct.unpack_from("<H", data, at + 6)[0], False


def _after_items(data: mmap.mmap, at: int, implicit: bool) -> int:
    """Where a sequence of undefined length ends."""
    while True:
        *tag, length = struct.unpack_from("<HHI", data, at)
        at += 8
        if tuple(tag) == _SEQUENCE_END:
            return at
        if tuple(tag) != _ITEM:
            raise ValueError(f"no item at byte {at - 8}")
        if length != _UNDEFINED:
            at += length
            continue
        for inner, start, _ in _elements(data, at, implicit=implicit):
            at = start
            if inner == _ITEM_END:
                break
        else:
            raise ValueError(f"an item without an end at byte {at}")


def _first_fragment(data: mmap.mmap, at: int) -> bytes:
    """The start of the first frame: encapsulated pixels are a table of offsets and then the frames (PS3.5, A.4)."""
    _, _, table_length = struct.unpack_from("<HHI", data, at)
    at += 8 + table_length
    *tag, length = struct.unpack_from("<HHI", data, at)
    return bytes(data[at + 8 : at + 8 + min(length, 2**16)]) if tuple(tag) == _ITEM else b""


# ------------------------------------------------------------------------------------------------ colour
def colour_of_frames(path: Path) -> FrameColour:
    """Whether a series' frames have the colours that they are tagged with; its levels lie in one folder.

    OpenSlide believes the tag. Some writers tag frames RGB that are YCbCr, which shows in the JPEG itself. Where it
    shows nothing the tag is believed, as PS3.3, C.7.6.3.1.2 has it. Raises BadImage (colour_unclear) where the files
    of a series disagree, or frames tagged YBR say that they are RGB.
    """
    series = read_object(path).series
    verdicts = {}
    for other in sorted(path.parent.iterdir()):  # OpenSlide, too, asks every file, whatever its suffix
        try:
            found = read_object(other)
        except BadImage:
            continue
        if found.is_slide and found.series == series:
            verdicts[other.name] = _colour(other, found)
    odd = [name for name, colour in verdicts.items() if colour is FrameColour.YCBCR_TAGGED_RGB]
    if 0 < len(odd) < len(verdicts):
        raise BadImage(
            "colour_unclear",
            f"{path}: of its {len(verdicts)} levels {len(odd)} ({odd[0]}) are tagged RGB but are YCbCr",
        )
    for colour in (FrameColour.YCBCR_TAGGED_RGB, FrameColour.TAGGED_RGB_ALONE):
        if colour in verdicts.values():
            return colour
    return FrameColour.AS_TAGGED


def _colour(path: Path, found: SlideObject) -> FrameColour:
    says = jpeg_colour(found.first_frame)
    if found.photometric == "RGB" and says == "YCbCr":
        return FrameColour.YCBCR_TAGGED_RGB
    if found.photometric == "RGB" and not says and found.first_frame.startswith(_JPEG_START):
        return FrameColour.TAGGED_RGB_ALONE
    if found.photometric.startswith("YBR") and says == "RGB":
        # OpenSlide would convert what is RGB already, and cut values off on the way.
        raise BadImage(
            "colour_unclear", f"{path}: frames are tagged {found.photometric}, but their JPEG says RGB"
        )
    return FrameColour.AS_TAGGED


def jpeg_colour(frame: bytes) -> str:
    """ "RGB" or "YCbCr" where a JPEG of three components says so, "" where it does not or is no JPEG.

    In this order, as libjpeg decides (jdapimin.c, default_decompress_parms): a JFIF marker is YCbCr (JFIF 1.02, "Color
    space"); an Adobe marker's transform is 0 for RGB, 1 for YCbCr (Adobe TN 5116, section 18); component ids R, G, B
    are RGB. After these: components of different sampling are YCbCr, since nobody subsamples red against green.
    """
    if not frame.startswith(_JPEG_START):
        return ""
    at = 2
    adobe = ""
    while at + 4 <= len(frame):
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            return "YCbCr"
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = {0: "RGB", 1: "YCbCr"}.get(body[11], "")
        if marker in (0xC0, 0xC1, 0xC2):
            return adobe or _colour_of_components(body)
        at += 2 + length
    return ""


def _colour_of_components(start_of_frame: bytes) -> str:
    """From a JPEG's frame header (ITU T.81, B.2.2): ids and sampling factors of its three components."""
    components = [start_of_frame[at : at + 2] for at in range(6, len(start_of_frame), 3)]
    if len(components) != 3:
        return ""
    if bytes(component[0] for component in components) == b"RGB":
        return "RGB"
    return "YCbCr" if len({component[1] for component in components}) > 1 else ""
