import numpy as np
import pytest
from PIL import Image as PILImage
from PIL import ImageDraw
from scipy import ndimage

from pathloom.ingest.cell_detector import NUCLEUS_UM, cell_around, find_nuclei
from pathloom.phantom.cell import draw_cell
from pathloom.schema import Box

CYTOPLASM = {"cyan": (150, 215, 220), "pink": (235, 150, 180)}
NUCLEUS_RGB = (80, 60, 130)


def field(*shapes: tuple[Box, tuple[int, int, int]], size_px: int = 160) -> np.ndarray:
    """Ellipses on white, a little out of focus."""
    picture = PILImage.new("RGB", (size_px, size_px), (245, 245, 248))
    draw = ImageDraw.Draw(picture)
    for box, colour in shapes:
        draw.ellipse(box, fill=colour)
    return np.stack(
        [ndimage.gaussian_filter(channel, 0.7) for channel in np.moveaxis(np.asarray(picture), -1, 0)], -1
    )


def iou(box: Box, other: Box) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("cytoplasm", CYTOPLASM)
@pytest.mark.parametrize("nucleus", [(40, 52, 53, 63), (38, 38, 78, 72)], ids=["small", "large"])
def test_a_nucleus_is_found_in_cyanophilic_and_in_eosinophilic_cytoplasm(cytoplasm, nucleus):
    found = find_nuclei(field(((20, 20, 110, 100), CYTOPLASM[cytoplasm]), (nucleus, NUCLEUS_RGB)), (8, 48))
    assert len(found) == 1
    assert iou(found[0], nucleus) > 0.75


def test_neither_an_empty_field_nor_cytoplasm_nor_a_fibre_nor_a_ring_holds_a_nucleus():
    assert find_nuclei(np.full((60, 90, 3), 240, np.uint8), (8, 48)) == []
    assert find_nuclei(field(((20, 20, 45, 45), CYTOPLASM["cyan"])), (8, 48)) == []
    picture = PILImage.fromarray(field())
    draw = ImageDraw.Draw(picture)
    draw.line((20, 20, 120, 110), fill=NUCLEUS_RGB, width=9)
    draw.ellipse((90, 20, 150, 80), outline=NUCLEUS_RGB, width=3)
    assert find_nuclei(np.asarray(picture), (8, 24)) == []


def test_nuclei_beyond_the_limits_and_those_cut_by_the_edge_are_not_found():
    shapes = [
        (box, NUCLEUS_RGB)
        for box in ((30, 30, 36, 36), (80, 60, 150, 130), (-8, 100, 8, 116), (30, 70, 46, 86))
    ]
    found = find_nuclei(field(*shapes), (10, 40))
    assert [iou(box, (30, 70, 46, 86)) > 0.7 for box in found] == [True]


def test_boxes_are_in_pixels_of_the_field_however_much_it_was_shrunk():
    nucleus = (200, 300, 280, 370)
    (found,) = find_nuclei(field((nucleus, NUCLEUS_RGB), size_px=600), (40, 120))
    assert iou(found, nucleus) > 0.75


def test_a_cell_is_its_nucleus_enlarged_about_the_middle():
    assert cell_around((10, 20, 14, 30), 2.5) == (7, 12.5, 17, 37.5)


def test_most_nuclei_of_synthetic_cells_are_found():
    """69 % of 400 when this was written."""
    cells = [draw_cell(seed) for seed in range(60)]
    hits = 0
    for cell in cells:
        found = find_nuclei(cell.pixels_rgb, (NUCLEUS_UM[0] / cell.mpp, NUCLEUS_UM[1] / cell.mpp))
        hits += any(
            iou(box, tuple(nucleus)) >= 0.5 for box in found for nucleus in cell.nucleus_boxes_px.tolist()
        )
    assert hits >= 0.55 * len(cells)
