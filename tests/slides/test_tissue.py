"""Where the tissue of a slide is."""

import numpy as np
import pytest
from tests.slides.array_slide import ArraySlide, glass, stained

from pathloom.images import BadImage
from pathloom.slides.find import find_slides
from pathloom.slides.grid import tile_grid, tissue_shares
from pathloom.slides.reader import open_slide
from pathloom.slides.tiles import read_tiles
from pathloom.slides.tissue import find_tissue, read_overview


def slide_with(colour: tuple[int, int, int], *, width: int = 1600, height: int = 1200) -> ArraySlide:
    """Glass of 800 x 600 um with stain on its left half."""
    pixels = glass(width, height)
    pixels[:, : width // 2] = stained(width // 2, height, colour)
    return ArraySlide(pixels)


@pytest.mark.parametrize("colour", [(200, 110, 160), (90, 60, 130), (205, 212, 226), (140, 100, 70)])
def test_stain_is_tissue_and_glass_is_none_for_strong_and_pale_stains(colour):
    slide = slide_with(colour)

    mask = find_tissue(read_overview(slide, slide.size_l0)).mask

    truth = np.arange(mask.shape[1]) < mask.shape[1] // 2
    assert ((mask & truth).sum() / (mask | truth).sum()) > 0.95


def test_empty_glass_has_no_tissue():
    slide = ArraySlide(glass(1600, 1200))
    assert not find_tissue(read_overview(slide, slide.size_l0)).mask.any()


def test_black_ink_and_grey_dust_are_no_tissue():
    pixels = glass(1600, 1200)
    pixels[200:800, 200:800] = 40
    pixels[900:1100] = 170
    slide = ArraySlide(pixels)
    assert not find_tissue(read_overview(slide, slide.size_l0)).mask.any()


def test_small_pieces_go_and_small_holes_are_filled_by_their_area_in_um():
    pixels = glass(3200, 2400)
    pixels[200:1800, 200:1800] = stained(1600, 1600)
    pixels[900:1000, 900:1000] = 243  # 50 um
    pixels[2000:2100, 2500:2600] = stained(100, 100)
    slide = ArraySlide(pixels)

    overview = read_overview(slide, slide.size_l0)
    mask = find_tissue(overview).mask

    assert mask[60, 60]
    assert not mask[125:135, 150:].any()
    assert mask[13:112, 13:112].all()


def test_blue_and_brown_side_by_side_are_tissue_though_they_are_grey_from_afar():
    pixels = glass(1600, 1200)
    pattern = np.indices((1200, 800)).sum(axis=0) // 8 % 2 == 0
    pixels[:, :800] = np.where(pattern[..., None], (170, 190, 220), (220, 200, 170))
    slide = ArraySlide(pixels)

    assert find_tissue(read_overview(slide, slide.size_l0)).share == pytest.approx(0.5, abs=0.03)


def test_what_cannot_be_read_counts_as_tissue_and_the_rest_is_seen():
    slide = slide_with((200, 110, 160))
    slide.broken_l0 = (1500, 1100)

    overview = read_overview(slide, slide.size_l0)

    assert 0 < overview.unread.mean() < 0.03
    assert find_tissue(overview).mask[overview.unread].all()
    assert find_tissue(overview).share == pytest.approx(0.5, abs=0.04)


def test_a_slide_of_which_nothing_can_be_read_says_why():
    slide = ArraySlide(glass(16, 16), broken_l0=(8, 8))
    with pytest.raises(BadImage, match="broken at 8, 8"):
        read_overview(slide, slide.size_l0)


def test_a_slide_larger_than_any_glass_is_refused_before_memory_is_asked_for():
    slide = ArraySlide(glass(16, 16), mpp_l0=8.0)  # stated by mistake for a scan at 0.25
    with pytest.raises(BadImage, match=r"100000x80000 px at 8 um are 800 x 640 mm.*is mpp right") as raised:
        read_overview(slide, (100_000, 80_000))
    assert (raised.value.reason, slide.reads) == ("too_many_pixels", [])


def test_a_large_slide_of_which_nothing_can_be_read_is_given_up_in_bounded_time():
    class Broken(ArraySlide):
        def read_level(self, x_l0, y_l0, level, width_px, height_px):
            self.reads.append((x_l0, y_l0, level, width_px, height_px))
            raise BadImage("unreadable_region", "broken")

    slide = Broken(glass(16, 16), mpp_l0=0.25)
    with pytest.raises(BadImage, match="broken"):
        read_overview(slide, (200_000, 160_000))
    assert len(slide.reads) < 20_000


def test_no_piece_read_is_larger_than_the_bound():
    slide = ArraySlide(glass(5000, 2500))
    read_overview(slide, slide.size_l0)
    assert max(width * height for *_, width, height in slide.reads) <= 2049**2


def test_one_slide_in_two_formats_has_the_same_tissue_grid_and_pixels(data_root):
    pytest.importorskip("openslide")
    found = []
    for name in ("aperio_cmu1", "dicom_cmu1"):
        ((_, path),) = find_slides(data_root / "slides" / name).items()
        with open_slide(path) as slide:
            mask = find_tissue(read_overview(slide, slide.size_l0)).mask
            grid = tile_grid(slide.size_l0, slide.mpp_l0, mpp=0.499, size_px=224)
            shares = tissue_shares(grid, mask, slide.size_l0)
            tiles = list(read_tiles(slide, grid.places_l0, mpp=0.499, size_px=224))
            found.append((mask, grid, shares, tiles))
    (svs, grid, shares, tiles), (dicom, other_grid, other_shares, other_tiles) = found

    assert (svs & dicom).sum() / (svs | dicom).sum() >= 0.95
    assert np.array_equal(grid.places_l0, other_grid.places_l0)
    apart = (shares >= 0.25) != (other_shares >= 0.25)
    # the two were compressed apart, which moves the mask's edge by a pixel: one tile has 25.2 and 22.3 % tissue
    assert apart.sum() <= 1
    assert np.abs(shares - other_shares).max() < 0.06
    # strongly compressed in the DICOM: pixels of dense tissue differ, their means hardly
    differences = [np.abs(a.astype(int) - b).mean() for a, b in zip(tiles, other_tiles, strict=True)]
    means = [np.abs(a.mean((0, 1)) - b.mean((0, 1))).max() for a, b in zip(tiles, other_tiles, strict=True)]
    assert np.mean(differences) < 4
    assert max(differences) < 10
    assert max(means) < 2
