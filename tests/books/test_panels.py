"""Composite figures into panels: gutters, touching pictures, charts, letters, labels, scans."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pathloom.books.geometry import iou
from pathloom.books.panels import FoundPanel, split_panels
from pathloom.books.panels_labels import assigned, canonical, in_reading_order, letters_among
from pathloom.phantom.composite import Composite, draw_composite
from pathloom.schema import Box

pytest.importorskip("cv2", reason="panels need opencv: pip install 'pathloom[books]'")

Pixels = NDArray[np.uint8]


def texture(seed: int, width: int, height: int, mean: int = 150) -> Pixels:
    """A picture without straight lines: coloured noise of several px, lighter or darker by its mean."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (height // 6 + 2, width // 6 + 2, 3)).astype(np.float32)
    tint = rng.uniform(-25, 25, 3)
    return np.clip(
        mean + tint + 30 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 235
    ).astype(np.uint8)


def figure(boxes: Sequence[tuple[int, int, int, int]], width: int, height: int, ground: int = 255) -> Pixels:
    pixels = np.full((height, width, 3), ground, np.uint8)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        pixels[y1:y2, x1:x2] = texture(index, x2 - x1, y2 - y1, mean=190 if index % 2 else 110)
    return pixels


GRID = ((0, 0, 300, 220), (308, 0, 700, 220), (0, 228, 300, 500), (308, 228, 700, 500))


def assert_found(found: Sequence[FoundPanel], truth: Sequence[Sequence[float]], least_iou: float = 0.97):
    assert len(found) == len(truth), [panel.box_px for panel in found]
    for panel, (x1, y1, x2, y2) in zip(found, truth, strict=True):
        assert iou(panel.box_px, (x1, y1, x2, y2)) >= least_iou, (panel.box_px, (x1, y1, x2, y2))


@pytest.mark.parametrize("ground", [255, 0, 128])
def test_a_grid_with_plain_gutters_falls_into_its_panels_row_by_row(ground):
    found = split_panels(figure(GRID, 700, 500, ground), labels=list("ABCD"))
    assert_found(found, GRID)
    assert [panel.label for panel in found] == list("ABCD")


def test_a_grid_is_found_without_any_caption():
    assert_found(split_panels(figure(GRID, 700, 500)), GRID)


def test_a_single_picture_is_one_panel_of_the_whole_box():
    pixels = figure([(5, 5, 595, 395)], 600, 400)
    (panel,) = split_panels(pixels)
    assert panel.box_px == (0, 0, 600, 400)
    assert panel.label == ""


def test_a_wrong_caption_does_not_cut_a_single_picture():
    assert len(split_panels(figure([(0, 0, 600, 400)], 600, 400), labels=["A", "B"])) == 1


def test_pictures_that_touch_are_told_apart():
    boxes = ((0, 0, 350, 400), (350, 0, 700, 400))
    assert_found(split_panels(figure(boxes, 700, 400), labels=["A", "B"]), boxes)


def test_a_large_panel_beside_a_column_of_small_ones():
    boxes = ((0, 0, 420, 460), (430, 0, 700, 225), (430, 235, 700, 460))
    assert_found(split_panels(figure(boxes, 700, 460)), boxes)


def test_a_chart_is_not_cut_by_its_own_white():
    import cv2

    pixels = np.full((400, 560, 3), 255, np.uint8)
    cv2.line(pixels, (60, 20), (60, 350), (0, 0, 0), 3)
    cv2.line(pixels, (60, 350), (540, 350), (0, 0, 0), 3)
    for number, height in enumerate((200, 320, 260, 120)):
        x = 100 + 110 * number
        cv2.rectangle(pixels, (x, 350 - height), (x + 60, 348), (40, 60, 160), -1)
        cv2.putText(pixels, str(number + 1), (x + 20, 385), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)
    assert len(split_panels(pixels)) == 1
    pair = np.concatenate([pixels, np.full((400, 30, 3), 255, np.uint8), pixels], axis=1)
    assert_found(split_panels(pair, labels=["A", "B"]), ((58, 18, 542, 387), (648, 18, 1132, 387)), 0.93)


def test_a_light_smear_is_not_cut_by_its_own_background():
    import cv2

    rng = np.random.default_rng(3)
    pixels = np.clip(rng.normal((238, 228, 215), 1.5, (400, 640, 3)), 0, 255).astype(np.uint8)
    for x, y in rng.uniform(30, 370, (18, 2)):
        cv2.circle(pixels, (int(x if x < 200 else x + 220), int(y)), 16, (120, 60, 140), -1)
    assert len(split_panels(pixels)) == 1


def test_letters_above_the_pictures_are_not_part_of_them():
    import cv2

    boxes = ((0, 50, 300, 300), (310, 50, 610, 300))
    pixels = figure(boxes, 610, 300)
    for letter, (x1, _, _, _) in zip("AB", boxes, strict=True):
        cv2.putText(pixels, letter, (x1 + 4, 36), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 3)
    assert_found(split_panels(pixels), boxes)


def test_image_objects_of_the_pdf_give_the_exact_boxes():
    boxes = ((0, 0, 300, 300), (310, 0, 610, 300))
    pixels = figure(boxes, 610, 300)
    pixels[:, 200:300] = 255  # the first picture fades into the page
    found = split_panels(
        pixels, image_boxes_px=[(float(a), float(b), float(c), float(d)) for a, b, c, d in boxes]
    )
    assert [panel.box_px for panel in found] == list(boxes)


def test_letters_that_are_text_name_panels_out_of_reading_order():
    order = "ACBD"
    texts = [
        (f"({letter.lower()})", (x1 + 8.0, y1 + 8.0, x1 + 28.0, y1 + 30.0))
        for letter, (x1, y1, _, _) in zip(order, GRID, strict=True)
    ]
    found = split_panels(figure(GRID, 700, 500), text_boxes=texts, labels=list("ABCD"))
    assert [panel.label for panel in found] == list(order)


def test_the_costly_reader_is_asked_only_where_there_is_something_to_name():
    asked = []

    def reader(pixels: Pixels) -> list[tuple[str, Box, float]]:
        asked.append(pixels.shape)
        return [("B", (8.0, 8.0, 30.0, 30.0), 0.9)]

    split_panels(figure([(0, 0, 400, 300)], 400, 300), find_letters=reader)
    split_panels(figure(GRID[:2], 700, 220), labels=["LEFT", "RIGHT"], find_letters=reader)
    assert not asked
    found = split_panels(figure(GRID[:2], 700, 220), labels=["A", "B"], find_letters=reader)
    assert len(asked) == 1
    assert [panel.label for panel in found] == ["B", ""] or [panel.label for panel in found] == ["B", "A"]


def test_a_letter_that_was_not_read_follows_from_the_others_by_columns_too():
    boxes = [(x, y, x + 90.0, y + 90.0) for y in (0.0, 100.0) for x in (0.0, 100.0)]
    letters = [(label, (x + 5, y + 5, x + 15, y + 15), 0.9) for label, x, y in (("C", 100, 0), ("B", 0, 100))]
    assert assigned(boxes, letters, ["A", "B", "C", "D"]) == ["A", "C", "B", "D"]


def test_places_name_panels_by_where_they_lie():
    boxes = [(x, y, x + 90.0, y + 90.0) for y in (0.0, 100.0) for x in (0.0, 100.0)]
    labels = ["LOWER RIGHT", "UPPER LEFT", "LOWER LEFT", "UPPER RIGHT"]
    assert assigned(boxes, [], labels) == ["UPPER LEFT", "UPPER RIGHT", "LOWER LEFT", "LOWER RIGHT"]
    assert assigned(boxes[:2], [], ["RIGHT", "LEFT"]) == ["LEFT", "RIGHT"]


def test_reading_order_keeps_a_column_beside_a_large_panel_together():
    boxes = [(210.0, 0.0, 300.0, 95.0), (0.0, 0.0, 200.0, 200.0), (210.0, 105.0, 300.0, 200.0)]
    assert in_reading_order(boxes) == [1, 0, 2]


@pytest.mark.parametrize(
    ("text", "label"), [("(a)", "A"), ("B.", "B"), ("iv", "IV"), ("(a) Regular dense", "A"), ("Collagen", "")]
)
def test_labels_are_read_in_the_forms_of_books(text, label):
    assert canonical(text) == label


def test_numbers_on_the_axis_of_a_chart_are_no_letters():
    assert letters_among([("20", (0, 0, 9, 9)), ("A", (0, 20, 9, 29))], []) == [("A", (0, 20, 9, 29), 1.0)]


def scanned(composite: Composite, seed: int) -> tuple[Pixels, list[Box]]:
    """The figure turned by 0.5 degrees, blurred, with noise and JPEG of quality 70, and its boxes."""
    import cv2

    height, width = composite.pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 0.5, 1.0)
    turned = cv2.warpAffine(composite.pixels, turn, (width, height), borderValue=(255, 255, 255))
    noise = np.random.default_rng(seed).normal(0, 3, turned.shape)
    noisy = np.clip(cv2.GaussianBlur(turned, (0, 0), 0.9) * 0.96 + noise, 0, 255).astype(np.uint8)
    coded = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    boxes: list[Box] = []
    for panel in composite.panels:
        x1, y1, x2, y2 = panel.box_px
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]], float) @ turn.T
        left, top, right, bottom = (float(v) for v in (*corners.min(axis=0), *corners.max(axis=0)))
        boxes.append((left, top, right, bottom))
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8), boxes


def mean_average_precision(
    results: Sequence[tuple[Sequence[FoundPanel], Sequence[Box]]], least_iou: float
) -> float:
    """AP of one class over all points of the curve, detections in order of score, each truth matched once."""
    ranked = sorted(
        ((panel.score, which, panel.box_px) for which, (found, _) in enumerate(results) for panel in found),
        key=lambda row: -row[0],
    )
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, which, box in ranked:
        free = [
            (iou(box, truth), at) for at, truth in enumerate(results[which][1]) if (which, at) not in taken
        ]
        best, at = max(free, default=(0.0, -1))
        hits.append(best >= least_iou)
        if hits[-1]:
            taken.add((which, at))
    found = np.cumsum(hits)
    precision = np.maximum.accumulate((found / np.arange(1, len(hits) + 1))[::-1])[::-1]
    return float((precision * np.diff(found, prepend=0)).sum() / sum(len(truth) for _, truth in results))


@pytest.mark.slow
@pytest.mark.parametrize(("degraded", "least"), [(False, 0.92), (True, 0.87)])
def test_phantom_composites_are_split_to_the_bar(degraded, least):
    results = []
    for seed in range(60):
        composite = draw_composite(np.random.default_rng(seed))
        boxes: list[Box] = [tuple(map(float, panel.box_px)) for panel in composite.panels]  # type: ignore[misc]
        pixels, truth = scanned(composite, seed) if degraded else (composite.pixels, boxes)
        labels = [panel.label for panel in composite.panels if panel.label]
        results.append((split_panels(pixels, labels=labels), truth))
    assert mean_average_precision(results, 0.5) >= least
