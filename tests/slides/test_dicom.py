"""Tags of DICOM files and the colour of their frames."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.dicom import WHOLE_SLIDE_CLASS, FrameColour, colour_of_frames, jpeg_colour, read_object

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
UNDEFINED = b"\xff\xff\xff\xff"
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


def jpeg(mode: str = "YCbCr", *, subsampling: int = 2, marker: bool = True) -> bytes:
    """A frame of 16 x 16 px; Pillow writes JFIF for YCbCr and an Adobe marker for RGB."""
    buffer = io.BytesIO()
    PILImage.fromarray(NOISE).save(
        buffer, "JPEG", subsampling=subsampling, keep_rgb=mode == "RGB", quality=90
    )
    data = buffer.getvalue()
    if marker:
        return data
    length = int.from_bytes(data[4:6], "big")
    return data[:2] + data[4 + length :]


def element(tag: int, kind: bytes, value: bytes, *, implicit: bool = False) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    value += b" " * (len(value) % 2)
    if implicit:
        return start + struct.pack("<I", len(value)) + value
    if kind in (b"SQ", b"OB"):
        return start + kind + b"\0\0" + struct.pack("<I", len(value)) + value
    return start + kind + struct.pack("<H", len(value)) + value


def sequence(tag: int, *items: bytes, implicit: bool = False) -> bytes:
    """Of undefined length, as are its items."""
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + (b"" if implicit else b"SQ\0\0") + UNDEFINED
    inside = b"".join(b"\xfe\xff\x00\xe0" + UNDEFINED + item + b"\xfe\xff\x0d\xe0\0\0\0\0" for item in items)
    return start + inside + b"\xfe\xff\xdd\xe0\0\0\0\0"


def write_dicom(
    path: Path,
    *,
    series: str = "1.1",
    instance: str = "",
    sop_class: str = WHOLE_SLIDE_CLASS,
    image_type: str = "VOLUME",
    photometric: str = "RGB",
    frame: bytes = b"",
    syntax: str = EXPLICIT,
) -> Path:
    """The tags that are looked at, and a sequence before them that names another series."""
    implicit = syntax == IMPLICIT
    other = sequence(0x00081115, element(0x0020000E, b"UI", b"9.9", implicit=implicit), implicit=implicit)
    elements = [
        element(0x00080008, b"CS", f"DERIVED\\PRIMARY\\{image_type}\\NONE".encode(), implicit=implicit),
        element(0x00080016, b"UI", sop_class.encode(), implicit=implicit),
        *([element(0x00080018, b"UI", instance.encode(), implicit=implicit)] if instance else []),
        other,
        element(0x0020000E, b"UI", series.encode(), implicit=implicit),
        element(0x00280004, b"CS", photometric.encode(), implicit=implicit),
    ]
    if frame:
        item = b"\xfe\xff\x00\xe0"
        elements += [
            struct.pack("<HH", 0x7FE0, 0x10) + b"OB\0\0" + UNDEFINED,
            item + struct.pack("<II", 4, 0),
            item + struct.pack("<I", len(frame)) + frame,
        ]
    path.parent.mkdir(exist_ok=True)
    meta = element(0x00020010, b"UI", syntax.encode())
    path.write_bytes(b"\0" * 128 + b"DICM" + meta + b"".join(elements))
    return path


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_series_is_the_files_own_and_not_one_that_a_sequence_names(tmp_path, syntax):
    found = read_object(write_dicom(tmp_path / "a.dcm", syntax=syntax))

    assert found.is_slide
    assert found == (WHOLE_SLIDE_CLASS, "", "1.1", ("DERIVED", "PRIMARY", "VOLUME", "NONE"), "RGB", b"")


@pytest.mark.parametrize("image_type", ["LABEL", "OVERVIEW", "THUMBNAIL"])
def test_labels_overviews_and_thumbnails_are_not_the_slide(tmp_path, image_type):
    assert not read_object(write_dicom(tmp_path / "a.dcm", image_type=image_type)).is_slide


def test_the_first_frame_is_behind_the_table_of_offsets(tmp_path):
    assert read_object(write_dicom(tmp_path / "a.dcm", frame=jpeg())).first_frame == jpeg()


def test_what_is_no_dicom_or_cut_off_is_refused(tmp_path):
    whole = write_dicom(tmp_path / "a.dcm").read_bytes()
    in_sequence = whole.index(b"9.9")
    for data in (b"", b"text", whole[:132] + b"\xff" * 40, whole[:-1], whole[:in_sequence]):
        (tmp_path / "b.dcm").write_bytes(data)
        with pytest.raises(BadImage) as raised:
            read_object(tmp_path / "b.dcm")
        assert raised.value.reason == "not_a_slide"


@pytest.mark.parametrize(
    ("frame", "colour"),
    [
        (jpeg("YCbCr"), "YCbCr"),
        (jpeg("RGB", subsampling=0), "RGB"),
        (jpeg("YCbCr", marker=False), "YCbCr"),  # by its halved chroma
        (jpeg("YCbCr", marker=False, subsampling=0), ""),
        (b"\xff\x4f\xff\x51 JPEG 2000", ""),
        (jpeg()[:9], ""),
        (b"", ""),
    ],
)
def test_a_jpeg_says_its_colour_by_markers_and_then_by_sampling(frame, colour):
    assert jpeg_colour(frame) == colour


def test_frames_tagged_rgb_are_ycbcr_where_their_jpeg_says_so(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", frame=jpeg())
    assert colour_of_frames(path) is FrameColour.YCBCR_TAGGED_RGB


@pytest.mark.parametrize(
    ("photometric", "frame"), [("YBR_FULL_422", jpeg()), ("RGB", jpeg("RGB", subsampling=0)), ("RGB", b"")]
)
def test_tags_that_nothing_speaks_against_are_believed(tmp_path, photometric, frame):
    path = write_dicom(tmp_path / "a.dcm", photometric=photometric, frame=frame)
    assert colour_of_frames(path) is FrameColour.AS_TAGGED


def test_a_tag_of_rgb_is_believed_but_it_is_said_where_the_jpeg_says_nothing(tmp_path):
    silent = jpeg("YCbCr", marker=False, subsampling=0)
    path = write_dicom(tmp_path / "a.dcm", frame=silent)
    write_dicom(tmp_path / "b.dcm")  # not compressed
    assert colour_of_frames(path) is FrameColour.TAGGED_RGB_ALONE
    write_dicom(tmp_path / "b.dcm", frame=jpeg())
    with pytest.raises(BadImage, match="of its 2 levels 1"):
        colour_of_frames(path)


def test_a_series_whose_levels_disagree_on_colour_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", frame=jpeg())
    write_dicom(tmp_path / "b.dcm", frame=jpeg("RGB", subsampling=0), series="1.2")
    assert colour_of_frames(path) is FrameColour.YCBCR_TAGGED_RGB
    write_dicom(tmp_path / "b.dcm", frame=jpeg("RGB", subsampling=0)).rename(tmp_path / "B.DCM")
    with pytest.raises(
        BadImage, match=r"of its 2 levels 1 \(a\.dcm\) are tagged RGB but are YCbCr"
    ) as raised:
        colour_of_frames(path)
    assert raised.value.reason == "colour_unclear"


def test_frames_tagged_ybr_that_say_rgb_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", photometric="YBR_FULL_422", frame=jpeg("RGB", subsampling=0))
    with pytest.raises(BadImage, match="tagged YBR_FULL_422, but their JPEG says RGB"):
        colour_of_frames(path)
