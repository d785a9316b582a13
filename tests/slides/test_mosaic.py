"""Tiles put together again are found where their names say."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.images import BadImage
from pathloom.slides.mosaic import Mosaic, plan_mosaic, write_mosaic
from pathloom.slides.reader import open_slide
from pathloom.stage import UserError


def save_tile(folder: Path, x: int, y: int, side_px: int = 32) -> NDArray[np.uint8]:
    """A tile whose colours tell its place."""
    rows, columns = np.mgrid[y : y + side_px, x : x + side_px]
    pixels = np.stack([columns % 200, rows % 200, np.full_like(rows, 120)], -1).astype(np.uint8)
    PILImage.fromarray(pixels).save(folder / f"s1_x{x}_y{y}_class0.png")
    return pixels


def read_back(mosaic: Mosaic, path: Path, place: tuple[int, int]) -> NDArray[np.uint8]:
    with open_slide(path) as slide:
        return slide.read_level(*mosaic.place_l0(place), 0, *mosaic.tile_px)


def test_every_tile_is_read_back_where_it_lies_and_holes_are_white(tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    folder.mkdir()
    places = [(1001, 51), (1033, 51), (1001, 83), (1097, 115)]
    tiles = {place: save_tile(folder, *place) for place in places}
    mosaic = plan_mosaic(folder)
    assert (mosaic.origin, mosaic.width_px, mosaic.height_px) == ((1001, 51), 128, 96)
    write_mosaic(mosaic, tmp_path / "slide.tiff", 2.0)
    for place, tile in tiles.items():
        assert np.abs(read_back(mosaic, tmp_path / "slide.tiff", place).astype(int) - tile).mean() < 6
    assert (read_back(mosaic, tmp_path / "slide.tiff", (1065, 51)) > 240).all()
    with open_slide(tmp_path / "slide.tiff") as slide:
        assert slide.mpp_l0 == pytest.approx(2.0)


def test_the_tiles_of_a_real_slide_are_read_back_and_meet_at_their_edges(
    data_root: Path, tmp_path: Path
) -> None:
    mosaic = plan_mosaic(data_root / "tiles" / "breast_idc" / "14082")
    assert len(mosaic.tiles) == 478
    write_mosaic(mosaic, tmp_path / "slide.tiff", 1.0)
    wide, high = mosaic.tile_px
    steps: dict[str, list[float]] = {"right": [], "down": [], "elsewhere": []}
    pixels = {
        place: np.asarray(PILImage.open(path).convert("RGB"), int) for place, path in mosaic.tiles.items()
    }
    rng = np.random.default_rng(0)
    others = list(pixels)
    with open_slide(tmp_path / "slide.tiff") as slide:
        for place, tile in pixels.items():
            read = slide.read_level(*mosaic.place_l0(place), 0, wide, high)
            assert np.abs(read.astype(int) - tile).mean() < 8
    for (x, y), tile in pixels.items():
        if (x + wide, y) in pixels:
            steps["right"].append(np.abs(tile[:, -1] - pixels[x + wide, y][:, 0]).mean())
        if (x, y + high) in pixels:
            steps["down"].append(np.abs(tile[-1] - pixels[x, y + high][0]).mean())
        other = pixels[others[int(rng.integers(len(others)))]]
        steps["elsewhere"].append(np.abs(tile[:, -1] - other[:, 0]).mean())
    assert max(np.mean(steps["right"]), np.mean(steps["down"])) < 0.6 * np.mean(steps["elsewhere"])


def test_what_makes_no_mosaic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tiles"):
        plan_mosaic(tmp_path)
    save_tile(tmp_path, 0, 0)
    save_tile(tmp_path, 20, 10)
    with pytest.raises(UserError, match="overlaps"):
        plan_mosaic(tmp_path)
    (tmp_path / "s1_x20_y10_class0.png").unlink()
    save_tile(tmp_path, 64, 0, side_px=16)
    with pytest.raises(UserError, match="16 x 16 px, the tiles before it 32 x 32"):
        plan_mosaic(tmp_path)
    PILImage.new("RGB", (32, 32)).save(tmp_path / "unplaced.png")
    with pytest.raises(UserError, match="no place in its name"):
        plan_mosaic(tmp_path)


def test_two_tiles_in_one_place_are_refused(tmp_path: Path) -> None:
    save_tile(tmp_path, 0, 0)
    (tmp_path / "1").mkdir()
    save_tile(tmp_path / "1", 0, 0)
    with pytest.raises(UserError, match="lies at x 0, y 0 already"):
        plan_mosaic(tmp_path)


def test_a_tile_that_is_cut_off_is_named(tmp_path: Path) -> None:
    save_tile(tmp_path, 0, 0)
    path = tmp_path / "s1_x0_y0_class0.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadImage, match="s1_x0_y0"):
        write_mosaic(plan_mosaic(tmp_path), tmp_path / "slide.tiff", 1.0)
    assert not (tmp_path / "slide.tiff").exists()
