"""The slide that is written is the slide that OpenSlide and tifffile read."""

import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from pathloom.slides.write import reduced, write_pyramid


def smooth(width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Colours that differ everywhere and vary slowly, so that JPEG keeps them."""
    y, x = np.mgrid[0:height_px, 0:width_px]
    red, green = 128 + 100 * np.sin(x / 170), 128 + 100 * np.cos(y / 210)
    return np.stack([red, green, 60 + 140 * x / width_px], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NDArray[np.uint8]]:
    pixels = smooth(1030, 850)
    path = tmp_path_factory.mktemp("written") / "slide.tiff"
    write_pyramid(path, lambda y, height: pixels[y : y + height], (1030, 850), 0.2521)
    return path, pixels


def test_openslide_reads_size_levels_and_resolution(written: tuple[Path, NDArray[np.uint8]]) -> None:
    with openslide.OpenSlide(written[0]) as slide:
        assert slide.level_dimensions == ((1030, 850), (257, 212), (64, 53))
        assert slide.level_downsamples == pytest.approx((1, 4, 16), rel=0.01)
        for axis in "xy":
            assert float(slide.properties[f"openslide.mpp-{axis}"]) == pytest.approx(0.2521, rel=1e-6)


def test_tifffile_reads_one_series_of_levels_with_the_resolution(
    written: tuple[Path, NDArray[np.uint8]],
) -> None:
    with tifffile.TiffFile(written[0]) as file:
        assert [level.shape for level in file.series[0].levels] == [
            (850, 1030, 3),
            (212, 257, 3),
            (53, 64, 3),
        ]
        tags = file.pages[0].tags
        per_cm = tags["XResolution"].value[0] / tags["XResolution"].value[1]
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        assert 1e4 / per_cm == pytest.approx(0.2521, rel=1e-6)
        assert file.is_bigtiff


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_holds_the_pixels_it_was_given(
    written: tuple[Path, NDArray[np.uint8]], level: int
) -> None:
    path, true = written
    for _ in range(level):
        true = reduced(true, 4)
    with openslide.OpenSlide(path) as slide:
        read = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]
    assert read.shape == true.shape
    away = np.abs(read.astype(int) - true)
    assert away.mean() < 1.5
    assert np.quantile(away, 0.99) < 8


def test_reducing_leaves_the_part_of_a_block_out_and_means_the_rest() -> None:
    rows = np.zeros((9, 10, 3), np.uint8)
    rows[:4, 4:8] = 200
    rows[8:] = 255
    assert reduced(rows, 4)[:, :, 0].tolist() == [[0, 200], [0, 0]]


def test_a_slide_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def strip(y_px: int, height_px: int) -> NDArray[np.uint8]:
        if y_px:
            raise RuntimeError("the scanner stopped")
        return np.zeros((height_px, 600, 3), np.uint8)

    with pytest.raises(RuntimeError, match="scanner"):
        write_pyramid(tmp_path / "slide.tiff", strip, (600, 600), 1.0)
    assert not list(tmp_path.iterdir())


def test_a_small_slide_has_only_the_levels_that_have_pixels(tmp_path: Path) -> None:
    pixels = smooth(40, 10)
    write_pyramid(tmp_path / "slide.tiff", lambda y, height: pixels[y : y + height], (40, 10), 0.5)
    with openslide.OpenSlide(tmp_path / "slide.tiff") as slide:
        assert slide.level_dimensions == ((40, 10), (10, 2))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"mpp": 0.0}, "um per pixel"),
        ({"tile_px": 100}, "multiple of 16"),
        ({"downsamples": (4, 6)}, "multiple of the one before"),
        ({"downsamples": (512,)}, "divides 256"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    entry = {"mpp": 1.0, **changed}
    with pytest.raises(ValueError, match=said):
        write_pyramid(tmp_path / "x.tiff", lambda y, height: smooth(300, height), (300, 300), **entry)  # type: ignore[arg-type]


def test_a_strip_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the strip at 256 px"):
        write_pyramid(tmp_path / "x.tiff", lambda y, height: smooth(300, 256), (300, 300), 1.0)


def test_memory_is_that_of_a_few_strips_however_high_the_slide(tmp_path: Path) -> None:
    peaks = []
    for height_px in (2048, 8192):
        tracemalloc.start()
        write_pyramid(
            tmp_path / "slide.tiff",
            lambda y, height: np.full((height, 2048, 3), 200, np.uint8),
            (2048, height_px),
            1.0,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
