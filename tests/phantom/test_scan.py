"""Phantom scans: what the truth says of a turned page is where a viewer sees it."""

import numpy as np
import pytest
from PIL import Image

from pathloom.phantom.book import write_book
from pathloom.phantom.scan import PAGE_SIDE_PT, Wear, degrade, draw_wear, scan_book, turned

CLEAN = Wear(
    dpi=150,
    paper_rgb=(250, 248, 240),
    light_fall=(0.03, 0.02),
    blur_px=0.5,
    noise_sd=1.5,
    bleed_through=0.05,
    jpeg_quality=80,
    grey=False,
)


@pytest.mark.parametrize("turn_deg", [-0.7, 0.4, 0.7])
def test_a_box_turns_with_its_page(turn_deg):
    page = np.full((1400, 1000, 3), 255, np.uint8)
    page[200:500, 600:900] = 40

    scanned = degrade(page, np.random.default_rng(0), CLEAN, turn_deg=turn_deg).mean(-1)

    dark = scanned < 110
    rows, columns = np.flatnonzero(dark.sum(1) > 3), np.flatnonzero(dark.sum(0) > 3)
    found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert np.allclose(found, turned((600, 200, 900, 500), turn_deg, (1000, 1400)), atol=2)


def test_a_scan_shows_what_the_truth_says(tmp_path):
    book = write_book(tmp_path / "b.pdf", num_pages=3, seed=7, style="handbook")
    scan = scan_book(tmp_path / "b.pdf", tmp_path / "scan", book, seed=1)

    assert sorted(path.name for path in (tmp_path / "scan").iterdir()) == ["0001.jpg", "0002.jpg", "0003.jpg"]
    assert scan.references == book.references
    assert len(scan.figures) == len(book.figures) > 0
    for before, after in zip(book.figures, scan.figures, strict=True):
        with Image.open(tmp_path / "scan" / f"{after.page:04}.jpg") as page:
            width_pt = PAGE_SIDE_PT * page.width / page.height
        assert 0 <= after.box_pt[0] < after.box_pt[2] <= width_pt + 0.5
        assert abs(after.box_pt[3] * 720 / PAGE_SIDE_PT - before.box_pt[3]) < 8
        assert before.caption == after.caption
        grown = [abs(a - b * PAGE_SIDE_PT / 720) for a, b in zip(after.box_pt, before.box_pt, strict=True)]
        assert max(grown) > 0


def test_the_same_seed_scans_alike():
    page = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    first, second = (degrade(page, np.random.default_rng(3), CLEAN, turn_deg=0.3) for _ in range(2))

    assert np.array_equal(first, second)
    assert draw_wear(np.random.default_rng(1)) == draw_wear(np.random.default_rng(1))
