"""OME-TIFF and plain pyramids: axes, resolution, single tiles, and what is refused."""

import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides import tiff_reader
from pathloom.slides.reader import open_slide

tifffile = pytest.importorskip("tifffile")
openslide = pytest.importorskip("openslide")

OME = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "\u00b5m", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "\u00b5m"}  # fmt: skip  # noqa: E501
PIXELS = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)


def write(path: Path, pixels: Any = PIXELS, **keys: Any) -> Path:
    given = {"photometric": "rgb", "tile": (64, 64), "metadata": OME, **keys}
    tifffile.imwrite(path, pixels, **given)
    return path


def write_pyramid(path: Path, *, ome: bool = True) -> Path:
    """Two smaller levels, by taking every second and fourth pixel, in sub-IFDs."""
    keys: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64)}
    if not ome:
        keys |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, ome=ome) as writer:
        writer.write(PIXELS, subifds=2, metadata=OME if ome else None, **keys)
        for by in (2, 4):
            writer.write(PIXELS[::by, ::by], subfiletype=1, metadata=None, **keys)
    return path


def change_tag(path: Path, code: int, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags[code].overwrite(value)


def whole(slide: Any) -> np.ndarray:
    return slide.read_level(0, 0, 0, *slide.size_l0)


# ------------------------------------------------------------------------------------------------ pixels
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"compression": "deflate", "predictor": True},
        {"tile": None, "rowsperstrip": 40},
        {"bigtiff": True, "byteorder": ">"},
    ],
)
def test_an_ome_tiff_is_read_as_it_was_written(tmp_path, keys):
    with open_slide(write(tmp_path / "a.ome.tif", **keys)) as slide:
        assert (slide.vendor, slide.size_l0, slide.mpp_l0) == ("tifffile/ome", (200, 150), 0.5)
        assert (whole(slide) == PIXELS).all()
        assert (slide.read_level(70, 50, 0, 90, 60) == PIXELS[50:110, 70:160]).all()


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_colours_in_planes_of_their_own_are_put_together(tmp_path, tile):
    planar = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    path = write(
        tmp_path / "a.ome.tif", planar, planarconfig="separate", tile=tile, metadata=OME | {"axes": "SYX"}
    )
    with open_slide(path) as slide:
        assert (whole(slide) == PIXELS).all()


@pytest.mark.parametrize(("ome", "vendor"), [(True, "tifffile/ome"), (False, "tifffile/tiff")])
def test_levels_in_sub_ifds_are_read_at_level_0_coordinates(tmp_path, ome, vendor):
    with open_slide(write_pyramid(tmp_path / "a.tif", ome=ome)) as slide:
        assert (slide.vendor, slide.mpp_l0) == (vendor, 0.5)
        assert slide.level_sizes_px == ((200, 150), (100, 75), (50, 38))
        assert slide.level_downsamples == pytest.approx((1, 2, (4 + 150 / 38) / 2))
        assert (slide.read_level(80, 40, 1, 30, 20) == PIXELS[40:80:2, 80:140:2]).all()


def test_levels_beside_each_other_are_those_that_openslide_finds_with_its_pixels(data_root):
    path = data_root / "slides" / "openslide_fixtures" / "boxes.tiff"
    with openslide.OpenSlide(path) as other, open_slide(path, stated_mpp=0.5) as slide:
        assert slide.vendor == "tifffile/tiff"
        assert slide.level_sizes_px == other.level_dimensions == ((300, 250), (150, 125), (75, 62), (37, 31))
        assert slide.level_downsamples == other.level_downsamples
        for level, size_px in enumerate(slide.level_sizes_px):
            pixels = np.asarray(other.read_region((0, 0), level, size_px))
            assert (slide.read_level(0, 0, level, *size_px) == pixels[..., :3]).all()
        pixels = np.asarray(other.read_region((-20, 40), 1, (200, 50)).convert("RGBA"))
        region = slide.read_level(-20, 40, 1, 200, 50)
        seen = pixels[..., 3] == 255
        assert (region[seen] == pixels[seen][:, :3]).all()
        assert (region[~seen] == 255).all()


def test_only_the_tiles_of_a_region_are_decoded_and_then_kept(tmp_path, monkeypatch):
    decoded: list[int] = []
    real = tiff_reader.TiffLevels._decode

    def watched(self: tiff_reader.TiffLevels, page: Any, index: int) -> Any:
        decoded.append(index)
        return real(self, page, index)

    monkeypatch.setattr(tiff_reader.TiffLevels, "_decode", watched)
    with open_slide(write(tmp_path / "a.ome.tif")) as slide:
        slide.read_level(70, 10, 0, 50, 50)
        assert decoded == [1]
        slide.read_level(60, 10, 0, 50, 60)
        assert decoded == [1, 0, 4, 5]


def test_tiles_are_kept_up_to_a_number_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_reader, "CACHE_BYTES", 3 * 64 * 64 * 3)
    levels = tiff_reader.TiffLevels(write(tmp_path / "a.ome.tif"))
    for _ in range(2):
        assert (levels.read(0, 0, 0, 200, 150) == PIXELS).all()
        assert levels._kept_bytes == sum(tile.nbytes for tile in levels._kept.values()) == 3 * 64 * 64 * 3
    levels.close()


def test_threads_read_what_one_thread_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_reader, "CACHE_BYTES", 3 * 64 * 64 * 3)
    places = np.random.default_rng(1).integers(0, 100, (200, 2)).tolist()
    with (
        open_slide(write(tmp_path / "a.ome.tif", compression="deflate")) as slide,
        ThreadPoolExecutor(8) as pool,
    ):
        regions = list(pool.map(lambda place: slide.read_level(place[0], place[1], 0, 60, 40), places))
    for (x, y), region in zip(places, regions, strict=True):
        assert (region == PIXELS[y : y + 40, x : x + 60]).all()


def test_tiles_that_the_writer_left_out_are_paper(tmp_path):
    tiles = [np.zeros((64, 64, 3), np.uint8), None, None, None]
    path = tmp_path / "a.ome.tif"
    write(path, iter(tiles), shape=(128, 128, 3), dtype=np.uint8)
    with open_slide(path) as slide:
        pixels = whole(slide)
    assert (pixels[:64, :64] == 0).all()
    assert (pixels[64:] == 255).all()


def test_tiles_tagged_rgb_that_are_ycbcr_by_their_marker_are_converted_and_it_is_said(tmp_path):
    pixels = np.full((64, 64, 3), (200, 60, 160), np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    write(
        tmp_path / "a.tif", iter([buffer.getvalue()]), shape=pixels.shape, dtype=np.uint8, compression="jpeg",
        metadata=None, resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    change_tag(tmp_path / "a.tif", 262, 2)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.vendor == "tifffile/tiff"
        assert "tagged RGB but are YCbCr" in slide.notes[0]
        assert np.abs(whole(slide).astype(int) - pixels).max() <= 3


def test_the_example_ome_tiffs_have_the_colours_of_their_jpeg_tiles(data_root):
    path = data_root / "slides" / "ometiff_he_ki67" / "images_OS-1-detail.ome.tif"
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    tile = np.asarray(PILImage.open(io.BytesIO(path.read_bytes()[offset : offset + count])).convert("RGB"))
    with open_slide(path) as slide:
        assert np.abs(slide.read_level(0, 0, 0, 512, 512).astype(int) - tile).mean() < 0.5


# ------------------------------------------------------------------------------------------------ resolution
@pytest.mark.parametrize(
    ("size", "unit"),
    [(0.5, "\u00b5m"), (0.5, "\u03bcm"), (500, "nm"), (0.0005, "mm"), (5e-7, "m"), (0.5, None)],
)
def test_physical_sizes_are_taken_in_their_unit_and_micrometres_where_none_is_named(tmp_path, size, unit):
    units = {} if unit is None else {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size, **units}
    with open_slide(write(tmp_path / "a.ome.tif", metadata=metadata)) as slide:
        assert slide.mpp_l0 == pytest.approx(0.5)


@pytest.mark.parametrize(
    "metadata",
    [
        {"axes": "YXS"},
        {"axes": "YXS", "PhysicalSizeX": 0.5},
        OME | {"PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"},
    ],
)
def test_an_ome_tiff_without_physical_sizes_is_refused_even_where_tags_state_something(tmp_path, metadata):
    path = write(
        tmp_path / "a.ome.tif", metadata=metadata, resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    with pytest.raises(
        BadImage, match="says no micrometres per pixel; give its resolution with the key stated_mpp"
    ):
        open_slide(path)


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [(20_000, "CENTIMETER", 0.5), (50_800, "INCH", 0.5), (20_000, "NONE", None), (0, "INCH", None)],
)
def test_tags_of_resolution_count_in_their_unit(tmp_path, resolution, unit, mpp):
    path = write(
        tmp_path / "a.tif", tile=None, metadata=None, resolution=(resolution, resolution), resolutionunit=unit
    )
    with open_slide(path, stated_mpp=0.25) as slide:
        assert slide.vendor == "tifffile/tiff"
        assert slide.mpp_l0 == pytest.approx(mpp or 0.25)


# ------------------------------------------------------------------------------------------------ refused
@pytest.mark.parametrize(
    ("pixels", "keys", "reason"),
    [
        (PIXELS[..., 0], {"photometric": "minisblack", "metadata": {"axes": "YX"}}, "not_rgb"),
        (
            PIXELS.transpose(2, 0, 1),
            {"photometric": "minisblack", "metadata": {"axes": "CYX"}},
            "several_planes",
        ),
        (np.stack([PIXELS] * 2), {"metadata": {"axes": "ZYXS"}}, "several_planes"),
        (PIXELS.astype(np.uint16), {}, "more_than_8_bits"),
        (np.concatenate([PIXELS, PIXELS[..., :1]], 2), {"extrasamples": ["unassalpha"]}, "not_rgb"),
    ],
)
def test_what_is_no_single_picture_in_8_bit_rgb_is_refused(tmp_path, pixels, keys, reason):
    with pytest.raises(BadImage) as raised:
        open_slide(write(tmp_path / "a.ome.tif", pixels, **keys))
    assert raised.value.reason == reason
    assert "a.ome.tif" in str(raised.value)


def test_pixels_that_ome_xml_places_in_another_file_are_not_taken_from_this_one(tmp_path):
    write(tmp_path / "b.ome.tif")
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tif:
        xml = tif.ome_metadata
    other = '<UUID FileName="b.ome.tif">urn:uuid:11111111-2222-3333-4444-555555555555</UUID></TiffData>'
    start, _, rest = xml.partition("<TiffData")
    end = rest.partition("/>")[2] if "/>" in rest else rest
    description = f'{start}<TiffData IFD="0" PlaneCount="1">{other}{end}'
    write(tmp_path / "a.ome.tif", 255 - PIXELS, metadata=None, description=description.encode())
    with pytest.raises(BadImage, match=r"a\.ome\.tif: its OME-XML says that the pixels are in b\.ome\.tif"):
        open_slide(tmp_path / "a.ome.tif")


def test_a_file_of_thousands_of_pictures_is_refused_without_walking_them(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    monkeypatch.setattr(tiff_reader, "MAX_IFDS", 4)
    with tifffile.TiffWriter(path) as writer:
        for _ in range(6):
            writer.write(PIXELS[:16, :16], photometric="rgb", metadata=None)
    with pytest.raises(BadImage, match="more than 4 pictures") as raised:
        open_slide(path)
    assert raised.value.reason == "too_many_pictures"


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_an_absurd_size_is_refused_and_takes_no_memory(tmp_path, tile):
    path = write(tmp_path / "a.ome.tif", tile=tile, metadata=OME, dtype=np.uint8)
    for code in (256, 257):
        change_tag(path, code, 60_000)
    tracemalloc.start()
    with pytest.raises(BadImage):
        whole(open_slide(path))
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


def test_one_strip_that_memory_should_not_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_reader, "MAX_SEGMENT_PX", 200 * 149)
    with pytest.raises(BadImage, match=r"in pieces of 200x150 px.*save it in tiles") as raised:
        open_slide(write(tmp_path / "a.ome.tif", tile=None, rowsperstrip=150))
    assert raised.value.reason == "large_tiles"


def test_a_broken_tile_is_named_with_its_place_and_the_others_are_still_read(tmp_path):
    path = write(tmp_path / "a.ome.tif", compression="deflate")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[5], tif.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\xff" * count
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(BadImage, match=r"a.ome.tif.*tile at 64, 64 \(level 0\)") as raised:
            whole(slide)
        assert raised.value.reason == "unreadable_region"
        assert (slide.read_level(128, 0, 0, 72, 150) == PIXELS[:, 128:]).all()


def test_a_file_that_was_cut_off_is_refused_where_its_tiles_are_missing(tmp_path):
    path = write(tmp_path / "a.tif", tile=None, rowsperstrip=40, metadata=None)
    path.write_bytes(path.read_bytes()[:-20_000])
    with open_slide(path, stated_mpp=0.5) as slide:
        assert (slide.read_level(0, 0, 0, 200, 80) == PIXELS[:80]).all()
        with pytest.raises(BadImage, match="cut off"):
            whole(slide)


def test_a_file_whose_index_was_cut_off_says_so(tmp_path):
    path = write(tmp_path / "a.tif", tile=None, rowsperstrip=40, metadata=None)
    data = bytearray(path.read_bytes())
    data[4:8] = (len(data) + 1000).to_bytes(4, "little")  # where the index of a longer file would stand
    path.write_bytes(bytes(data))
    with pytest.raises(BadImage, match=r"a\.tif: holds no picture; is it cut off\?") as raised:
        open_slide(path, stated_mpp=0.5)
    assert raised.value.reason == "not_a_slide"


@pytest.mark.parametrize(
    "data", [b"II*\0", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\0\x01", b"II+\0" + b"\1" * 40]
)
def test_what_only_begins_as_a_tiff_is_refused(tmp_path, data):
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(BadImage) as raised:
        open_slide(tmp_path / "a.tif")
    assert raised.value.reason == "not_a_slide"
