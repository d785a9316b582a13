"""Masks stored, measured, matched, and drawn without weights."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.tasks.samples import make_sample

from pathloom.masks import (
    CutMask,
    Prompt,
    cut_mask_of,
    dice,
    encode_mask,
    fill_boxes,
    iou,
    mask_of,
    match_overlaps,
    overlaps,
    precision,
    recall,
    region_of,
    segment_classically,
)
from pathloom.schema import Region
from pathloom.store import read_samples, write_samples

SIZE_PX = (60, 40)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros((SIZE_PX[1], SIZE_PX[0]), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def disc(x: float, y: float, radius: float, size_px: tuple[int, int] = SIZE_PX) -> np.ndarray:
    down, across = np.mgrid[: size_px[1], : size_px[0]] + 0.5
    return (across - x) ** 2 + (down - y) ** 2 <= radius**2


def stained(thing: np.ndarray, *, noise: float = 8.0, inverted: bool = False) -> np.ndarray:
    """A blue-violet thing on pink, or the negative of that as fluorescence has it."""
    colours = np.where(thing[..., None], (110, 80, 150), (225, 180, 205)).astype(float)
    colours += np.random.default_rng(0).normal(0, noise, colours.shape)
    return np.clip(255 - colours if inverted else colours, 0, 255).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ stored
def test_a_mask_comes_back_pixel_for_pixel_from_its_region():
    random = np.random.default_rng(0)
    for _ in range(50):
        x, y, width, height = map(int, (*random.integers(0, [30, 20]), *random.integers(1, 20, 2)))
        mask = rectangle(x, y, x + width, y + height) & (random.random((40, 60)) < 0.8)
        if mask.any():
            assert np.array_equal(mask_of(region_of(mask), SIZE_PX), mask)


def test_a_mask_survives_the_store(tmp_path: Path):
    sample = make_sample("mask")
    write_samples([sample], tmp_path)

    (again,) = read_samples(tmp_path)

    assert again == sample
    size_px = (again.images[0].width_px, again.images[0].height_px)
    assert [mask_of(region, size_px).sum() for region in again.regions] == [
        mask_of(region, size_px).sum() for region in sample.regions
    ]


def test_a_mask_is_a_png_of_one_bit_over_the_box_rounded_outwards():
    region = Region(box_px=(3.4, 2.0, 9.6, 7.5), label="nucleus", mask_png=encode_mask(np.ones((6, 7), bool)))

    assert region.mask_png is not None
    with PILImage.open(io.BytesIO(region.mask_png)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "1", (7, 6))
    assert np.array_equal(mask_of(region, SIZE_PX), rectangle(3, 2, 10, 8))


def test_an_empty_mask_is_not_stored():
    with pytest.raises(ValueError, match="nothing to keep"):
        encode_mask(np.zeros((3, 3), dtype=bool))
    with pytest.raises(ValueError, match="empty"):
        region_of(rectangle(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("region", "fault"),
    [
        (Region(box_px=(1, 1, 5, 5)), "has no mask"),
        (Region(box_px=(1, 1, 5, 5), mask_png=encode_mask(np.ones((4, 5), bool))), "another size"),
        (Region(box_px=(58, 1, 62, 5), mask_png=encode_mask(np.ones((4, 4), bool))), "beyond the picture"),
        (Region(box_px=(-1, 1, 3, 5), mask_png=encode_mask(np.ones((4, 4), bool))), "beyond the picture"),
        (Region(box_px=(1, 1, 5, 5), mask_png=b"\x89PNG no more"), "no readable PNG"),
        (Region(box_px=(1, 1, 5, 5), mask_png=encode_mask(np.ones((4, 4), bool))[:-30]), "no readable PNG"),
    ],
    ids=["none", "size", "right", "left", "text", "cut"],
)
def test_a_region_whose_mask_cannot_be_right_is_refused(region: Region, fault: str):
    with pytest.raises(ValueError, match=fault):
        mask_of(region, SIZE_PX)


def test_an_empty_mask_in_a_region_is_refused():
    buffer = io.BytesIO()
    PILImage.new("1", (4, 4)).save(buffer, format="PNG")

    with pytest.raises(ValueError, match="empty"):
        mask_of(Region(box_px=(1, 1, 5, 5), mask_png=buffer.getvalue()), SIZE_PX)


def test_the_deepest_point_lies_in_the_thing_even_where_the_middle_of_its_box_does_not():
    ring = disc(30, 20, 15) & ~disc(26, 20, 10)
    x, y = cut_mask_of(region_of(ring), SIZE_PX).deepest()

    assert ring[int(y), int(x)]
    assert not ring[20, 30]


# ---------------------------------------------------------------------------------------------- measured
def test_the_four_measures_agree_with_numbers_by_hand():
    predicted, true = rectangle(0, 0, 4, 5), rectangle(2, 0, 6, 10)  # 20 and 40 pixels, 10 shared

    assert dice(predicted, true) == pytest.approx(20 / 60)
    assert iou(predicted, true) == pytest.approx(10 / 50)
    assert precision(predicted, true) == pytest.approx(10 / 20)
    assert recall(predicted, true) == pytest.approx(10 / 40)


@pytest.mark.parametrize("measure", [dice, iou, precision, recall])
def test_both_empty_is_one_and_one_empty_is_none(measure):
    empty, full = rectangle(0, 0, 0, 0), rectangle(0, 0, 3, 3)

    assert measure(empty, empty) == 1.0
    assert measure(empty, full) == 0.0
    assert measure(full, empty) == 0.0
    with pytest.raises(ValueError, match="another size"):
        measure(full, full[:-1])


def test_overlaps_count_what_the_measures_of_pairs_count():
    random = np.random.default_rng(1)
    predicted = [rectangle(*random.integers(0, 20, 2), *random.integers(21, 40, 2)) for _ in range(6)]
    true = [rectangle(*random.integers(0, 20, 2), *random.integers(21, 40, 2)) for _ in range(4)]

    found = overlaps(iter(predicted), [cut_mask_of(region_of(mask), SIZE_PX) for mask in true], SIZE_PX)

    assert found.iou() == pytest.approx(np.array([[iou(p, t) for t in true] for p in predicted]))
    shared, of_predicted, of_true = found.union
    assert 2 * shared / (of_predicted + of_true) == pytest.approx(
        dice(np.any(predicted, axis=0), np.any(true, axis=0))
    )


def test_a_predicted_mask_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="another size"):
        overlaps([np.ones((41, 60), dtype=bool)], [], SIZE_PX)


def test_the_best_pair_is_made_first_and_each_mask_once():
    assert match_overlaps(np.array([[0.5, 0.6], [0.4, 0.9]])) == [(1, 1), (0, 0)]
    assert match_overlaps(np.array([[0.9, 0.8], [0.9, 0.0]])) == [(0, 0)]  # greedy: the second is left alone
    assert match_overlaps(np.array([[0.0, 0.01]])) == [(0, 1)]
    assert match_overlaps(np.zeros((3, 2))) == []
    assert match_overlaps(np.zeros((0, 2))) == []


def test_the_order_of_writing_does_not_change_what_is_matched():
    random = np.random.default_rng(2)
    overlap = random.random((7, 5))
    total = sum(overlap[pair] for pair in match_overlaps(overlap))
    for _ in range(10):
        order = random.permutation(7)
        assert sum(overlap[order][pair] for pair in match_overlaps(overlap[order])) == pytest.approx(total)


# ------------------------------------------------------------------------------------------------- drawn
def test_filled_boxes_are_cut_at_the_picture_and_points_fill_nothing():
    pixels = np.zeros((40, 60, 3), np.uint8)
    boxes: list[Prompt] = [(2.0, 3.0, 10.0, 8.0), (-5.0, -5.0, 4.0, 4.0), (70.0, 1.0, 80.0, 9.0), (5.0, 5.0)]

    filled = list(fill_boxes(pixels, boxes))

    assert np.array_equal(filled[0], rectangle(2, 3, 10, 8))
    assert np.array_equal(filled[1], rectangle(0, 0, 4, 4))
    assert not filled[2].any()
    assert not filled[3].any()


@pytest.mark.parametrize("inverted", [False, True], ids=["stained", "fluorescent"])
def test_a_thing_in_its_box_is_drawn_better_than_the_box_filled(inverted: bool):
    thing = disc(30, 20, 11)
    pixels, box = stained(thing, inverted=inverted), region_of(thing).box_px

    (drawn,) = segment_classically(pixels, [box])
    (filled,) = fill_boxes(pixels, [box])

    assert dice(drawn, thing) > 0.97
    assert dice(filled, thing) < 0.9


def test_a_loose_box_still_gives_the_thing():
    thing = disc(30, 20, 9)
    (drawn,) = segment_classically(stained(thing), [(17.0, 9.0, 44.0, 33.0)])

    assert dice(drawn, thing) > 0.95


def test_holes_are_filled_and_a_neighbour_is_left_out():
    cell = disc(22, 20, 11)
    neighbour = disc(36, 34, 6)  # reaches into the corner of the cell's box
    (drawn,) = segment_classically(stained((cell & ~disc(22, 20, 3)) | neighbour), [(11.0, 9.0, 33.0, 31.0)])

    assert drawn[20, 22]
    assert neighbour[9:31, 11:33].any()
    assert not (drawn & neighbour).any()
    assert dice(drawn, cell) > 0.95


@pytest.mark.parametrize("point", [(30.0, 20.0), (28.5, 21.5)], ids=["middle", "near"])
def test_a_point_in_a_thing_gives_the_thing(point: tuple[float, float]):
    thing = disc(30, 20, 11)
    (drawn,) = segment_classically(stained(thing), [point])

    assert dice(drawn, thing) > 0.9


def test_where_nothing_stands_out_the_mask_is_empty():
    blank = stained(rectangle(0, 0, 0, 0), noise=0.0)
    noisy = stained(rectangle(0, 0, 0, 0), noise=3.0)
    for pixels in (blank, noisy):
        for mask in segment_classically(pixels, [(10.0, 10.0, 40.0, 35.0), (0.0, 0.0, 60.0, 40.0)]):
            assert not mask.any()


def test_what_no_pixel_lies_in_prompts_an_empty_mask_in_its_place():
    thing = disc(30, 20, 11)
    good = region_of(thing).box_px
    nowhere = [(60.0, 5.0, 60.0, 9.0), (5.0, 5.0, 5.0, 9.0), (90.0, 1.0, 99.0, 9.0), (10.1, 1.1, 10.3, 1.2)]

    masks = list(segment_classically(stained(thing), [*nowhere, good, (61.0, 2.0), (-1.0, 5.0)]))

    assert [bool(mask.any()) for mask in masks] == [False] * 4 + [True] + [False] * 2


def test_a_mask_never_leaves_its_box():
    thing = disc(30, 20, 15)
    for box in [(20.0, 10.0, 35.0, 25.0), (25.0, 2.0, 58.0, 20.0)]:
        (drawn,) = segment_classically(stained(thing), [box])
        x1, y1, x2, y2 = map(int, box)
        assert not (drawn & ~rectangle(x1, y1, x2, y2)).any()


def test_a_large_thing_is_drawn_at_a_coarser_step_within_its_box():
    size_px = (900, 700)
    thing = disc(450, 350, 300, size_px)
    box = region_of(thing).box_px
    (drawn,) = segment_classically(stained(thing), [box])

    assert dice(drawn, thing) > 0.97
    assert region_of(drawn).box_px == pytest.approx(box, abs=9)


def test_the_same_pixels_and_prompts_give_the_same_masks():
    pixels = stained(disc(30, 20, 11))
    prompts: list[Prompt] = [(10.0, 5.0, 50.0, 35.0), (30.0, 20.0)]
    first, second = (list(segment_classically(pixels, prompts)) for _ in range(2))

    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_boxes_over_a_large_picture_are_drawn_in_bounded_time():
    pixels = stained(disc(500, 500, 200, (1000, 1000)))
    started = time.process_time()
    for mask in segment_classically(pixels, [(0.0, 0.0, 1000.0, 1000.0)] * 40):
        assert mask.shape == (1000, 1000)
    # Some 6 ms a box on an idle core; a window read at full size would take 200 ms.
    assert time.process_time() - started < 0.05 * 40


def test_a_cut_mask_reads_the_same_part_of_a_picture():
    mask = rectangle(3, 4, 20, 20)
    assert CutMask(3, 4, np.ones((16, 17), dtype=bool)).of(mask).all()
