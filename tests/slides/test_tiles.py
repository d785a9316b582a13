"""Tiles read in supertiles are the tiles read one by one."""

import numpy as np
import pytest
from tests.slides.array_slide import ArraySlide, noise

from pathloom.images import BadImage
from pathloom.slides.grid import tile_grid
from pathloom.slides.tiles import MAX_SUPERTILE_PX, choose_cut, read_tile, read_tiles, try_tiles


def places(slide: ArraySlide, mpp: float, size_px: int, overlap_px: int = 0) -> np.ndarray:
    return tile_grid(slide.size_l0, slide.mpp_l0, mpp=mpp, size_px=size_px, overlap_px=overlap_px).places_l0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mpp", [0.5, 0.8, 1.0, 2.0, 2.7])
@pytest.mark.parametrize("size_px", [48, 56])
def test_supertiles_and_one_read_a_tile_give_the_same_pixels(mpp, size_px, threads):
    slide = ArraySlide(noise(900, 700))
    given = places(slide, mpp, size_px, overlap_px=5) + np.array([3, 0])
    given = given[np.random.default_rng(1).random(len(given)) < 0.7]

    together = list(read_tiles(slide, given, mpp=mpp, size_px=size_px, threads=threads))
    alone = [read_tile(slide, place, mpp=mpp, size_px=size_px) for place in given.tolist()]

    assert len(together) == len(given)
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
    assert together[0].shape == (size_px, size_px, 3)


def test_order_is_as_given_however_the_places_lie():
    slide = ArraySlide(noise(900, 700))
    given = np.random.default_rng(0).permutation(places(slide, 0.5, 64))

    tiles = list(read_tiles(slide, given, mpp=0.5, size_px=64, threads=3))

    for (x, y), tile in zip(given.tolist(), tiles, strict=True):
        assert np.array_equal(tile, slide.pixels[y : y + 64, x : x + 64])


def test_neighbours_are_read_together():
    slide = ArraySlide(noise(1024, 1024))
    given = places(slide, 0.5, 64)

    list(read_tiles(slide, given, mpp=0.5, size_px=64, threads=1))

    assert len(slide.reads) <= len(given) / 32


def test_no_region_is_larger_than_the_bound_that_is_stated():
    slide = ArraySlide(np.zeros((5000, 5000, 3), np.uint8))
    given = places(slide, 0.5, 256)

    list(read_tiles(slide, given, mpp=0.5, size_px=256, threads=1))

    assert max(width * height for *_, width, height in slide.reads) <= MAX_SUPERTILE_PX


def test_far_places_are_not_read_with_what_lies_between():
    slide = ArraySlide(noise(2000, 2000))

    list(read_tiles(slide, [(0, 0), (1900, 1900)], mpp=0.5, size_px=64, threads=1))

    assert [(width, height) for *_, width, height in slide.reads] == [(64, 64), (64, 64)]


def test_a_fault_in_mid_slide_costs_only_the_tiles_on_it():
    slide = ArraySlide(noise(640, 640), broken_l0=(130, 70))
    given = places(slide, 0.5, 64)

    found = dict(try_tiles(slide, given, mpp=0.5, size_px=64))

    lost = [tuple(given[number]) for number, tile in found.items() if isinstance(tile, BadImage)]
    assert lost == [(128, 64)]
    assert list(found) == list(range(len(given)))
    with pytest.raises(BadImage, match="broken at 130, 70"):
        list(read_tiles(slide, given, mpp=0.5, size_px=64))


def test_where_a_level_s_pixels_cannot_be_named_exactly_each_tile_is_read_alone():
    slide = ArraySlide(noise(640, 640), vendor="openslide/aperio", level_downsamples=(1.0, 4.0001))
    given = places(slide, 2.0, 32)

    list(read_tiles(slide, given, mpp=2.0, size_px=32, threads=1))

    assert len(slide.reads) == len(given)


def test_the_level_is_the_smallest_at_or_above_the_resolution():
    slide = ArraySlide(noise(64, 64), level_downsamples=(1.0, 2.0, 4.0))

    assert choose_cut(slide, mpp=0.5, size_px=100).level == 0
    assert [choose_cut(slide, mpp=mpp, size_px=100).level for mpp in (0.9, 1.0, 1.9, 2.0, 9.0)] == [
        0,
        1,
        1,
        2,
        2,
    ]
    assert choose_cut(slide, mpp=1.5, size_px=100).crop_px == 150
    assert choose_cut(slide, mpp=0.997, size_px=100).level == 1  # 0.3 % coarser counts as the same


def test_whoever_stops_early_does_not_wait_for_the_rest():
    slide = ArraySlide(noise(4000, 640))
    tiles = read_tiles(slide, places(slide, 0.5, 64), mpp=0.5, size_px=64, threads=2)
    next(tiles)
    tiles.close()  # type: ignore[attr-defined]

    assert len(slide.reads) <= 4
