"""One open slide, whatever its format: the same coordinates, a known resolution, and nothing that names a person."""

import io
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.find import find_slides
from pathloom.slides.reader import (
    MPP_RANGE,
    Slide,
    best_level,
    need_slides_extra,
    open_slide,
    read_region,
)
from pathloom.stage import UserError

openslide = pytest.importorskip("openslide")
tifffile = pytest.importorskip("tifffile")

SVS = "aperio_cmu1/CMU-1-Small-Region.svs"
NDPI = "hamamatsu_dapi/test3-DAPI-2-(387).ndpi"
BOTH = pytest.mark.parametrize("name", ["a.svs", "a.tif"])
PIXELS = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)


@pytest.fixture
def examples(data_root: Path) -> Path:
    return data_root / "slides"


def dicom_of(examples: Path) -> Path:
    return find_slides(examples / "dicom_cmu1")["dicom_cmu1"]


def write_tiled(path: Path, mpp: tuple[float, float] | None = (0.5, 0.5)) -> Path:
    """Deflated tiles of 64 px: for OpenSlide where the suffix is .svs (one mpp for both axes), else for tifffile."""
    keys: dict[str, Any] = {}
    if path.suffix == ".svs":
        keys["description"] = "Aperio" + (f"\r\n|MPP = {mpp[0]}" if mpp else "")
    elif mpp:
        keys |= {"resolution": tuple(1e4 / one for one in mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        path, PIXELS, photometric="rgb", tile=(64, 64), compression="deflate", metadata=None, **keys
    )
    return path


def break_tile(path: Path, index: int) -> None:
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[index], tif.pages[0].databytecounts[index]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\xff" * count
    path.write_bytes(data)


def whole(slide: Slide) -> np.ndarray:
    return slide.read_level(0, 0, 0, *slide.size_l0)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In grey levels, without sign."""
    return np.abs(one.astype(np.int16) - other)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Which JPEG keeps at full size, other than colour."""
    return np.asarray(PILImage.fromarray(pixels).convert("L"))


def recompressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(PILImage.open(buffer))


# ------------------------------------------------------------------------------------------------ two formats
def test_one_slide_in_two_formats_is_the_same_but_for_its_second_compression(examples):
    with open_slide(examples / SVS) as svs, open_slide(dicom_of(examples)) as dicom:
        assert svs.size_l0 == dicom.size_l0 == (2220, 2967)
        assert svs.mpp_l0 == dicom.mpp_l0 == 0.499
        assert (svs.vendor, dicom.vendor) == ("openslide/aperio", "openslide/dicom")
        assert svs.notes == ()
        assert dicom.notes == (
            "frames are tagged RGB but are YCbCr by their JPEG markers, and were converted",
        )
        one, other = whole(svs), whole(dicom)
    apart = difference(one, other)
    # The DICOM's tables are those of quality 80 with halved chroma; its writer compressed decoded tiles once more.
    again = difference(one, recompressed(one, quality=80))
    assert apart.mean() < 1.1 * again.mean() < 3.7
    assert (apart > 16).any(2).mean() < 0.11
    tissue = (slice(1500, 1800), slice(1200, 1500))
    there = difference(one[tissue], other[tissue]).mean()
    for aside in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        assert difference(one[tissue], np.roll(other, aside, (0, 1))[tissue]).mean() > 1.5 * there


def test_one_slide_in_two_formats_has_the_same_parts_at_the_same_places(examples):
    with open_slide(examples / SVS) as svs, open_slide(dicom_of(examples)) as dicom:
        for x_l0, y_l0 in ((0, 0), (500, 600), (1201, 1503), (2000, 2700), (-40, -30)):
            one, other = (luminance(slide.read_level(x_l0, y_l0, 0, 256, 256)) for slide in (svs, dicom))
            assert difference(one, other).mean() < 2.5  # at most; 18.8 at the third place a pixel aside


def test_frames_taken_at_their_tag_would_be_far_from_the_slides_colours(examples, monkeypatch):
    from pathloom.slides import openslide_reader
    from pathloom.slides.dicom import FrameColour

    monkeypatch.setattr(openslide_reader, "colour_of_frames", lambda path: FrameColour.AS_TAGGED)
    with open_slide(examples / SVS) as svs, open_slide(dicom_of(examples)) as dicom:
        one, other = (slide.read_level(1000, 1000, 0, 500, 500) for slide in (svs, dicom))
    assert difference(one, other).mean() > 40


def test_any_file_of_a_series_opens_the_same_slide(examples):
    levels = []
    for name in ("level-0-frames-0-30.dcm", "level-5-frames-0-1.dcm"):
        with open_slide(examples / "dicom_cmu1" / name) as slide:
            levels.append((slide.level_sizes_px, slide.notes, slide.read_level(0, 0, 5, 69, 92).tobytes()))
    assert levels[0] == levels[1]


# ------------------------------------------------------------------------------------------------ real files
@pytest.mark.parametrize(
    ("name", "vendor", "size_l0", "mpp_l0", "num_levels"),
    [
        (SVS, "openslide/aperio", (2220, 2967), 0.499, 1),
        (NDPI, "openslide/hamamatsu", (3968, 4864), 0.22817506, 7),
        ("ometiff_he_ki67/images_OS-1-detail.ome.tif", "tifffile/ome", (1101, 1101), 0.22709982, 1),
        ("ometiff_he_ki67/images_OS-2-ndpi.ome.tif", "tifffile/ome", (2202, 2202), 0.22709982, 1),
        ("ometiff_he_ki67/images_OS-2-vsi.ome.tif", "tifffile/ome", (1445, 1445), 0.34605462, 1),
        ("dicom_small/sm_image.dcm", "openslide/dicom", (50, 50), 0.499, 1),
        ("dicom_small/sm_image_dots.dcm", "openslide/dicom", (50, 50), 0.499, 1),
        ("openslide_fixtures/boxes_0.dcm", "openslide/dicom", (16, 16), 0.499, 1),
    ],
)
def test_slides_of_each_format_open_and_can_be_read_to_their_end(
    examples, name, vendor, size_l0, mpp_l0, num_levels
):
    with open_slide(examples / name) as slide:
        assert (slide.vendor, slide.size_l0, len(slide.level_sizes_px)) == (vendor, size_l0, num_levels)
        assert slide.mpp_l0 == pytest.approx(mpp_l0)
        assert slide.level_downsamples[0] == 1.0
        last = slide.read_level(0, 0, num_levels - 1, *slide.level_sizes_px[-1])
        assert last.shape == (*slide.level_sizes_px[-1][::-1], 3)
        assert last.dtype == np.uint8
        corner = slide.read_level(size_l0[0] - 10, size_l0[1] - 10, 0, 10, 10)
        assert (whole(slide)[-10:, -10:] == corner).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("openslide_fixtures/histolab_broken.svs", "not_a_slide"),
        ("openslide_fixtures/unopenable.tiff", "not_a_slide"),
        ("openslide_fixtures/boxes.png", "not_a_slide"),
        ("openslide_fixtures/boxes.tiff", "absurd_mpp"),
        ("dicom_small/sm_annotations.dcm", "not_a_slide"),
        ("dicom_small/seg_image_sm_control.dcm", "not_a_slide"),
        ("dicom_small", "not_a_slide"),
        ("no_such_file.svs", "not_a_slide"),
    ],
)
def test_what_is_no_slide_is_refused_by_name(examples, name, reason):
    with pytest.raises(BadImage, match=Path(name).name) as raised:
        open_slide(examples / name)
    assert raised.value.reason == reason


def test_a_slide_whose_tiles_cannot_be_read_opens_and_says_so_at_each_place(examples):
    with open_slide(examples / "openslide_fixtures" / "unreadable.svs") as slide:
        for x_l0 in (0, 8):
            with pytest.raises(
                BadImage, match=rf"unreadable.svs: region at {x_l0}, 0 \(level 0, 8x8 px\)"
            ) as raised:
                slide.read_level(x_l0, 0, 0, 8, 8)
            assert raised.value.reason == "unreadable_region"


# ------------------------------------------------------------------------------------------------ resolution
@BOTH
def test_a_slide_without_mpp_is_refused_with_the_key_that_states_it(tmp_path, name):
    path = write_tiled(tmp_path / name, mpp=None)
    words = rf"{name}: says no micrometres per pixel; give its resolution with the key stated_mpp"
    with pytest.raises(UserError, match=words) as raised:
        open_slide(path)
    assert isinstance(raised.value, BadImage)
    assert raised.value.reason == "no_mpp"
    with open_slide(path, stated_mpp=0.25) as slide:
        assert slide.mpp_l0 == 0.25
        assert slide.notes == (f"mpp 0.25 is stated, for {name}: says no micrometres per pixel",)


@BOTH
def test_the_files_mpp_wins_unless_it_is_to_be_overridden(tmp_path, name):
    path = write_tiled(tmp_path / name)
    with open_slide(path, stated_mpp=0.25) as slide:
        assert slide.mpp_l0 == pytest.approx(0.5)
        assert slide.notes == ("the file's mpp 0.5 is used, not the stated 0.25",)
    with open_slide(path, stated_mpp=0.25, overrides_file=True) as slide:
        assert slide.mpp_l0 == 0.25
        assert slide.notes == (f"mpp 0.25 is stated, for {name}: says 0.5 by 0.5 um per pixel",)
    with open_slide(path, stated_mpp=0.505) as slide:
        assert slide.notes == ()


@pytest.mark.parametrize(
    ("mpp", "words"),
    [
        ((352.78, 352.78), "says 352.78 by 352.78 um per pixel, and a slide has 0.05 to 20"),
        ((0.01, 0.01), "says 0.01 by 0.01 um per pixel, and a slide has"),
        ((0.5, 0.52), "says 0.5 by 0.52 um per pixel, which differ by more than 3%"),
    ],
)
def test_an_absurd_mpp_is_refused_with_its_numbers_and_a_stated_one_takes_its_place(tmp_path, mpp, words):
    path = write_tiled(tmp_path / "a.tif", mpp)
    with pytest.raises(BadImage, match=words) as raised:
        open_slide(path)
    assert raised.value.reason == "absurd_mpp"
    with open_slide(path, stated_mpp=0.4) as slide:
        assert slide.mpp_l0 == 0.4
        assert "{:g} by {:g} um".format(*mpp) in slide.notes[0]


def test_a_hardly_oblong_pixel_is_taken_for_a_square_of_the_mean(tmp_path):
    with open_slide(write_tiled(tmp_path / "a.tif", (0.5, 0.51))) as slide:
        assert slide.mpp_l0 == pytest.approx(0.505)


@pytest.mark.parametrize("stated", [0.0, -1.0, 0.049, 20.1, float("nan")])
def test_a_stated_mpp_that_no_slide_has_is_refused(tmp_path, stated):
    with pytest.raises(UserError, match=f"a slide has {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g}"):
        open_slide(write_tiled(tmp_path / "a.tif"), stated_mpp=stated)


# ------------------------------------------------------------------------------------------------ regions
@BOTH
def test_beyond_the_edge_is_paper(tmp_path, name):
    with open_slide(write_tiled(tmp_path / name)) as slide:
        region = slide.read_level(-10, 250, 0, 340, 20)
        assert (region[:6, 10:330] == PIXELS[250:]).all()
        for outside in (region[6:], region[:, :10], region[:, 330:]):
            assert (outside == 255).all()


@pytest.mark.parametrize("corner_l0", [(320, 0), (0, 256), (-64, 0), (0, -64), (10**6, 10**6)])
def test_a_region_wholly_outside_is_a_mistake_of_the_caller(tmp_path, corner_l0):
    outside = pytest.raises(ValueError, match="lies outside the slide of 320x256 px")
    with open_slide(write_tiled(tmp_path / "a.tif")) as slide, outside:
        slide.read_level(corner_l0[0], corner_l0[1], 0, 64, 64)


@pytest.mark.parametrize(
    ("level", "size_px", "words"),
    [(1, (9, 9), "no level 1"), (-1, (9, 9), "no level -1"), (0, (0, 9), "no area")],
)
def test_no_such_level_and_no_area_are_mistakes_of_the_caller(tmp_path, level, size_px, words):
    with open_slide(write_tiled(tmp_path / "a.tif")) as slide, pytest.raises(ValueError, match=words):
        slide.read_level(0, 0, level, *size_px)


class _OneLevel:
    """A slide whose pixels nobody may ask for."""

    vendor = "none"
    level_sizes_px: tuple[tuple[int, int], ...] = ((10**6, 10**6),)
    level_downsamples: tuple[float, ...] = (1.0,)
    mpp_xy: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def close(self) -> None: ...

    def read(self, x_l0: int, y_l0: int, level: int, width_px: int, height_px: int) -> np.ndarray:
        raise AssertionError("read")


def test_a_region_that_memory_could_not_hold_is_refused_before_it_is_read():
    with pytest.raises(BadImage, match=r"a region of 90000x90000 px.*is mpp right") as raised:
        read_region(Path("s.svs"), _OneLevel(), (0, 0), 0, (90_000, 90_000))
    assert raised.value.reason == "too_many_pixels"


@pytest.mark.parametrize("downsample", [0.5, 1, 3.9, 4, 4.01, 64, 1e9])
def test_the_best_level_is_openslides(examples, downsample):
    with openslide.OpenSlide(dicom_of(examples)) as slide:
        assert best_level(slide.level_downsamples, downsample) == slide.get_best_level_for_downsample(
            downsample
        )


# ------------------------------------------------------------------------------------------------ errors, threads
@pytest.mark.parametrize(
    ("name", "place"),
    [("a.svs", r"at 50, 60 \(level 0, 30x10 px\)"), ("a.tif", r"tile at 64, 64 \(level 0\)")],
)
def test_after_a_broken_tile_every_other_place_is_still_read(tmp_path, name, place):
    path = write_tiled(tmp_path / name)
    break_tile(path, 6)  # second row, second column
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(BadImage, match=rf"{name}: .*{place}"):
                slide.read_level(50, 60, 0, 30, 10)
            assert (slide.read_level(128, 64, 0, 64, 64) == PIXELS[64:128, 128:192]).all()


@BOTH
def test_one_threads_broken_tile_costs_other_threads_nothing(tmp_path, name):
    path = write_tiled(tmp_path / name)
    break_tile(path, 6)
    places = [(column, row) for column in range(5) for row in range(4)] * 10

    def read(slide: Slide, column: int, row: int) -> bool | str:
        try:
            region = slide.read_level(column * 64, row * 64, 0, 64, 64)
        except BadImage as error:
            return error.reason
        return bool((region == PIXELS[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]).all())

    with open_slide(path) as slide, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda place: read(slide, *place), places))
    assert results == ["unreadable_region" if place == (1, 1) else True for place in places]


def test_threads_read_what_one_thread_reads(examples):
    places = np.random.default_rng(0).integers(0, 1900, (60, 2)).tolist()
    with open_slide(dicom_of(examples)) as slide, ThreadPoolExecutor(8) as pool:
        assert slide.threads_safe
        alone = [slide.read_level(x_l0, y_l0, 0, 64, 64) for x_l0, y_l0 in places]
        together = list(pool.map(lambda place: slide.read_level(place[0], place[1], 0, 64, 64), places))
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_a_slide_that_is_closed_under_a_reading_thread_is_read_to_the_end_first(tmp_path, monkeypatch):
    # OpenSlide's close() under a reading thread kills the process: Ctrl-C while tiles are read must not.
    path = write_tiled(tmp_path / "a.svs")
    began, closed = threading.Event(), threading.Event()
    read_region_now = openslide.OpenSlide.read_region

    def waits(self: Any, *region: Any) -> Any:
        began.set()
        assert closed.wait(10)
        return read_region_now(self, *region)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", waits)
    with ThreadPoolExecutor(1) as pool:
        with open_slide(path) as slide:
            reading = pool.submit(slide.read_level, 0, 0, 0, 64, 64)
            assert began.wait(10)
        closed.set()
        assert (reading.result() == PIXELS[:64, :64]).all()


@BOTH
def test_a_closed_slide_holds_no_file_and_is_read_no_more(tmp_path, name):
    path = write_tiled(tmp_path / name)

    with open_slide(path) as slide:
        slide.read_level(0, 0, 0, 64, 64)
    assert path.resolve() not in [link.resolve() for link in Path("/proc/self/fd").glob("*")]
    with pytest.raises((ValueError, BadImage), match="closed"):
        slide.read_level(64, 64, 0, 64, 64)


# ------------------------------------------------------------------------------------------------ nothing identifying
READ_PROPERTIES = {
    "openslide.vendor",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "openslide.background-color",
}


class _Watched(Mapping[str, str]):
    """The properties of a slide, which remember what was asked for."""

    def __init__(self, real: Mapping[str, str], asked: set[str]) -> None:
        self._real, self._asked = real, asked

    def __getitem__(self, key: str) -> str:
        self._asked.add(key)
        return self._real[key]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the properties are listed")

    def __len__(self) -> int:
        return len(self._real)


@pytest.mark.parametrize("name", [SVS, NDPI, "dicom_cmu1/level-0-frames-0-30.dcm"])
def test_labels_macro_images_and_all_other_properties_are_never_touched(examples, name, monkeypatch):
    asked: set[str] = set()
    real = openslide.OpenSlide.properties.fget

    def refuse(self: Any) -> None:
        raise AssertionError("associated images are read")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda self: _Watched(real(self), asked)))
    with open_slide(examples / name) as slide:
        slide.read_level(-8, -8, len(slide.level_sizes_px) - 1, 64, 64)
    assert asked <= READ_PROPERTIES


def test_a_slide_shows_nothing_that_points_to_a_person(examples):
    with openslide.OpenSlide(examples / SVS) as plain:
        associated = {name: picture.size for name, picture in plain.associated_images.items()}
        kept = (*READ_PROPERTIES, "openslide.level-count", "aperio.MPP", "aperio.AppMag", "aperio.Filename")
        private = {value for key, value in plain.properties.items() if key not in kept and len(value) > 6}
    assert {"label", "macro", "thumbnail"} <= set(associated)
    assert {"b414003d-95c6-48b0-9369-8010ed517ba7", "12/29/09"} <= private
    with open_slide(examples / SVS) as slide:
        public = {name: getattr(slide, name) for name in dir(slide) if not name.startswith("_")}
    assert set(public) == {
        "path", "vendor", "size_l0", "mpp_l0", "level_sizes_px", "level_downsamples", "notes", "threads_safe",
        "read_level", "close",
    }  # fmt: skip
    shown = repr(slide) + str(public)
    assert not [value for value in private if value in shown]
    assert not set(associated.values()) & set(slide.level_sizes_px)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'pathloom\[slides\]'"):
        need_slides_extra()
