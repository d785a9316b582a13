import io
import pickle
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.fixtures import encoded, picture

from pathloom.images import BadImage, ImageLimits, decode, encode_png, load_pixels, read_image


def png_header_only(width_px: int, height_px: int) -> bytes:
    """A PNG whose header promises a size and whose pixels are a few bytes: a decompression bomb."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def reason_of(data: bytes, **limits: int) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, "tile.png", limits=ImageLimits(**limits))
    assert "tile.png" in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_every_format_is_read(file_format, tmp_path):
    path = tmp_path / "a.image"
    path.write_bytes(encoded(1, file_format))

    record = read_image(path, mpp=0.5)

    assert (record.width_px, record.height_px, record.mpp, record.data) == (24, 16, 0.5, None)
    assert load_pixels(record).mode == "RGB"


def test_an_embedded_picture_needs_its_file_no_more(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(1))
    record = read_image(path, embed=True)
    path.unlink()

    assert np.array_equal(np.asarray(load_pixels(record)), np.asarray(picture(1)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadImage, match=r"gone\.png.*No such file") as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.reason == "unreadable"


def test_a_folder_named_like_a_picture_is_unreadable(tmp_path):
    (tmp_path / "folder.png").mkdir()

    with pytest.raises(BadImage, match=r"folder\.png") as caught:
        read_image(tmp_path / "folder.png")
    assert caught.value.reason == "unreadable"


def test_a_picture_cut_off_is_truncated():
    assert reason_of(encoded(1)[:-400]) == "truncated"


def test_text_named_like_a_picture_is_not_an_image():
    assert reason_of(b"diagnosis,patient\nnormal,7\n") == "not_an_image"
    assert reason_of(b"") == "not_an_image"


@pytest.mark.parametrize("side_px", [60_000, 9_000])
def test_a_decompression_bomb_is_refused_by_its_header(side_px, monkeypatch):
    # 60000 px a side is past Pillow's own cap, 9000 px only past ours.
    def decoded(*arguments: object) -> None:
        raise AssertionError("a picture past the cap was decoded")

    monkeypatch.setattr(PILImage.Image, "convert", decoded)

    assert reason_of(png_header_only(side_px, side_px)) == "too_many_pixels"


def test_the_caps_hold_at_their_edge():
    data = encoded(1)

    assert decode(data, "a", limits=ImageLimits(max_bytes=len(data), max_pixels=24 * 16)).size == (24, 16)
    assert reason_of(data, max_pixels=24 * 16 - 1) == "too_many_pixels"
    assert reason_of(data, max_bytes=len(data) - 1) == "too_many_bytes"


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)  # sparse: takes no room

    with pytest.raises(BadImage, match=r"large\.png: 104857600 bytes") as caught:
        read_image(path)
    assert caught.value.reason == "too_many_bytes"


def test_a_picture_that_changed_after_ingest_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(1))
    record = read_image(path)
    path.write_bytes(encoded(1, width_px=30))

    with pytest.raises(BadImage, match="30x16 px, but 24x16") as caught:
        load_pixels(record)
    assert caught.value.reason == "changed"
    path.unlink()
    with pytest.raises(BadImage, match="was the source moved"):
        load_pixels(record)


def test_damaged_files_give_a_reason_and_never_another_error():
    rng = random.Random(0)
    reasons = set()
    for file_format in ("PNG", "JPEG", "BMP", "WEBP"):  # libtiff would write to the terminal
        whole = encoded(2, file_format)
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                assert decode(bytes(data), "a").mode == "RGB"
            except BadImage as error:
                reasons.add(error.reason)
    assert reasons <= {"not_an_image", "truncated", "too_many_pixels"}
    assert len(reasons) >= 2


def test_more_than_eight_bits_are_refused_rather_than_clipped():
    buffer = io.BytesIO()
    PILImage.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(buffer, "TIFF")

    assert reason_of(buffer.getvalue()) == "more_than_8_bits"


def test_a_bad_image_crosses_process_borders():
    error = pickle.loads(pickle.dumps(BadImage("truncated", "a.png: cut off")))

    assert (error.reason, str(error)) == ("truncated", "a.png: cut off")


def test_png_bytes_keep_every_pixel():
    assert np.array_equal(np.asarray(decode(encode_png(picture(3)), "a")), np.asarray(picture(3)))
