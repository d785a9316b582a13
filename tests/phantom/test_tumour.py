"""Fields of tumour: what is said of them is what is drawn."""

import numpy as np
import pytest
from scipy import ndimage

from pathloom.masks import dice, fill_boxes, segment_classically
from pathloom.phantom.tumour import GRADES, draw_graded_field, draw_tumour_field


def test_the_same_seed_draws_the_same_field_and_another_one_does_not() -> None:
    one, same, other = draw_tumour_field(3), draw_tumour_field(3), draw_tumour_field(4)
    assert (one.pixels_rgb == same.pixels_rgb).all()
    assert not (one.pixels_rgb == other.pixels_rgb).all()
    graded = draw_graded_field(3), draw_graded_field(3)
    assert (graded[0].pixels_rgb == graded[1].pixels_rgb).all()


@pytest.mark.parametrize("size_px", [64, 112, 128])
@pytest.mark.parametrize("num_cells", [1, 2, 3, 4])
def test_cells_are_apart_inside_the_field_in_one_piece_and_framed_tightly(
    size_px: int, num_cells: int
) -> None:
    for seed in range(6):
        field = draw_tumour_field(seed, size_px=size_px, num_cells=num_cells)
        assert field.pixels_rgb.shape == (size_px, size_px, 3)
        assert len(field.masks) == len(field.boxes_px) == num_cells
        assert np.sum(field.masks, axis=0).max() == 1
        for mask, (x1, y1, x2, y2) in zip(field.masks, field.boxes_px.astype(int), strict=True):
            assert ndimage.label(mask)[1] == 1
            framed = mask[y1:y2, x1:x2]
            assert framed.sum() == mask.sum()
            assert framed[0].any()
            assert framed[-1].any()
            assert framed[:, 0].any()
            assert framed[:, -1].any()
            assert min(x1, y1) > 0
            assert max(x2, y2) < size_px
        together = np.logical_or.reduce(field.masks)
        assert ndimage.label(ndimage.binary_dilation(together))[1] == num_cells


def test_cells_are_large_and_cover_little_of_the_field() -> None:
    fields = [draw_tumour_field(seed) for seed in range(40)]
    sides = np.concatenate([field.boxes_px[:, 2:] - field.boxes_px[:, :2] for field in fields])
    assert sides.min() >= 18
    assert sides.max() <= 52
    covered = [np.sum(field.masks) / 112**2 for field in fields]
    assert max(covered) < 0.3


def test_a_mask_is_where_the_cell_is_drawn() -> None:
    for seed in range(12):
        field = draw_tumour_field(seed)
        grey = field.pixels_rgb.mean(2)
        ground = ~ndimage.binary_dilation(np.logical_or.reduce(field.masks), iterations=3)
        for mask in field.masks:
            assert grey[mask].mean() < grey[ground].mean() - 20


def test_the_classical_segmenter_beats_filled_boxes_and_boxes_that_are_off_cost_it() -> None:
    rng = np.random.default_rng(0)
    scores: dict[str, list[float]] = {"drawn": [], "filled": [], "off": []}
    for seed in range(30):
        field = draw_tumour_field(seed)
        boxes = [tuple(map(float, box)) for box in field.boxes_px]
        off = [tuple(map(float, np.array(box) + rng.normal(0, 2.5, 4))) for box in boxes]
        for name, draw, prompts in (
            ("drawn", segment_classically, boxes),
            ("filled", fill_boxes, boxes),
            ("off", segment_classically, off),
        ):
            found = draw(field.pixels_rgb, prompts)  # type: ignore[arg-type]
            scores[name] += [dice(mask, true) for mask, true in zip(found, field.masks, strict=True)]
    drawn, filled, off_by = (np.mean(scores[name]) for name in ("drawn", "filled", "off"))
    assert drawn > filled + 0.05
    assert off_by < drawn - 0.02


def test_lumina_are_lost_and_nuclei_gained_with_the_grade() -> None:
    fields = {grade: [draw_graded_field(seed, grade=grade) for seed in range(15)] for grade in GRADES}
    assert [bool(np.mean([f.num_lumina for f in fields[grade]])) for grade in GRADES] == [
        True,
        True,
        False,
        False,
    ]
    per_lumen = [
        np.mean([f.num_nuclei / max(f.num_lumina, 1) for f in fields[grade]]) for grade in GRADES[:2]
    ]
    assert per_lumen[1] < per_lumen[0]
    assert all(field.num_nuclei > 10 for field in fields["grade 4"])


def test_the_mean_colour_says_little_about_the_grade() -> None:
    from sklearn.linear_model import LogisticRegression

    fields = [draw_graded_field(seed, grade=GRADES[seed % 4]) for seed in range(240)]
    colours = np.array([field.pixels_rgb.mean((0, 1)) for field in fields])
    grades = np.arange(240) % 4
    fitted = LogisticRegression(max_iter=500).fit(colours[:120] / 50, grades[:120])
    assert fitted.score(colours[120:] / 50, grades[120:]) < 0.5


@pytest.mark.parametrize("draw", [draw_tumour_field, draw_graded_field])
def test_a_field_too_small_is_refused(draw: object) -> None:
    with pytest.raises(ValueError, match="at least 64"):
        draw(0, size_px=63)  # type: ignore[operator]


def test_another_number_or_grade_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not in 1\.\.4"):
        draw_tumour_field(0, num_cells=5)
    with pytest.raises(ValueError, match="none of"):
        draw_graded_field(0, grade="grade 5")
