"""The grid of tiles on a slide."""

import numpy as np
import pytest

from pathloom.images import BadImage
from pathloom.slides.grid import BLOCK_TILES, tile_grid, tissue_shares
from pathloom.stage import UserError


def test_tiles_cover_the_slide_once_and_stay_inside():
    grid = tile_grid((1000, 700), 0.5, mpp=0.5, size_px=100)

    assert grid.side_l0 == 100
    assert len(grid.places_l0) == 70
    covered = np.zeros((700, 1000), int)
    for x, y in grid.places_l0:
        covered[y : y + 100, x : x + 100] += 1
    assert (covered == 1).all()


def test_places_are_whole_pixels_that_do_not_drift():
    grid = tile_grid((100_000, 3000), 0.499, mpp=0.5, size_px=224)

    step = 224 * 0.5 / 0.499
    columns = np.unique(grid.places_l0[:, 0])
    assert grid.places_l0.dtype == np.int64
    assert np.abs(columns - np.arange(len(columns)) * step).max() <= 0.5


def test_neighbours_overlap_by_what_was_asked():
    grid = tile_grid((1000, 100), 0.25, mpp=0.5, size_px=50, overlap_px=10)

    assert np.diff(np.unique(grid.places_l0[:, 0])).tolist() == [80] * 11
    with pytest.raises(UserError, match="overlap_px 50"):
        tile_grid((1000, 100), 0.25, mpp=0.5, size_px=50, overlap_px=50)


def test_the_order_goes_block_by_block_and_is_always_the_same():
    grid = tile_grid((2000, 2000), 0.5, mpp=0.5, size_px=100)

    first = grid.places_l0[: BLOCK_TILES**2]
    assert first.max() < BLOCK_TILES * 100
    assert np.array_equal(grid.places_l0, tile_grid((2000, 2000), 0.5, mpp=0.5, size_px=100).places_l0)
    assert len(np.unique(grid.places_l0, axis=0)) == 400


def test_a_slide_too_coarse_too_small_or_in_too_many_tiles_is_refused_with_the_reason():
    with pytest.raises(BadImage) as coarse:
        tile_grid((1000, 1000), 1.0, mpp=0.5, size_px=100)
    with pytest.raises(BadImage) as small:
        tile_grid((99, 1000), 0.5, mpp=0.5, size_px=100)
    with pytest.raises(BadImage, match=r"999002449 tiles of 16 px.*less overlap") as many:
        tile_grid((31_622, 31_622), 1.0, mpp=1.0, size_px=16, overlap_px=15)
    reasons = [one.value.reason for one in (coarse, small, many)]
    assert reasons == ["too_coarse", "too_small", "too_many_tiles"]


def test_the_tissue_share_of_a_tile_is_the_covered_area():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True  # left half of a slide of 1000 x 1000
    grid = tile_grid((1000, 1000), 0.5, mpp=0.5, size_px=200)

    shares = tissue_shares(grid, mask, (1000, 1000))

    expected = {0: 1.0, 200: 1.0, 400: 0.5, 600: 0.0, 800: 0.0}
    assert shares == pytest.approx([expected[x] for x in grid.places_l0[:, 0].tolist()])


def test_a_tile_between_pixels_of_the_mask_gets_its_part():
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = True
    grid = tile_grid((400, 400), 0.5, mpp=0.5, size_px=150)

    assert tissue_shares(grid, mask, (400, 400))[0] == pytest.approx(100 * 100 / 150**2)
