"""Answers to `mask` that try to be paid without being right, and the forms in which they are written."""

import io
import time

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.tasks.samples import HEIGHT_PX, TRUE_BOXES, WIDTH_PX, make_sample, things

from pathloom.images import BadImage, encode_png
from pathloom.masks import fill_boxes, region_of
from pathloom.schema import Image, Region, Sample
from pathloom.tasks import find_task
from pathloom.tasks.boxes import MAX_BOXES
from pathloom.tasks.mask import PARTS
from pathloom.tasks.task import Score

MASK = find_task("mask")
BOXES, POINTS = MASK.template("segment_pixels"), MASK.template("points_pixels")
NUCLEUS_PX = 12


def field(seed: int = 0, num: int = 20) -> Sample:
    """A stained field of `num` round nuclei on a noisy ground, no two of which touch."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:112, :112] + 0.5
    spots = [(x, y) for x in range(9, 110, 18) for y in range(9, 110, 18)]
    masks = []
    for place in random.permutation(len(spots))[:num]:
        (x, y), (a, b) = spots[place] + random.uniform(-1.5, 1.5, 2), random.uniform(4.0, 7.0, 2)
        masks.append(((across - x) / a) ** 2 + ((down - y) / b) ** 2 <= 1)
    colours = np.where(np.any(masks, axis=0)[..., None], (105, 75, 150), (225, 180, 205)).astype(float)
    colours = np.clip(colours + random.normal(0, 10, colours.shape), 0, 255).astype(np.uint8)
    image = Image(
        path=f"{seed}.png", data=encode_png(PILImage.fromarray(colours)), width_px=112, height_px=112
    )
    return make_sample("mask", images=(image,), regions=tuple(region_of(mask, "nucleus") for mask in masks))


def score(sample: Sample, places: object, template=BOXES) -> Score:
    text = str(places).replace("(", "[").replace(")", "]")
    return MASK.score(sample, f"<answer>{text}</answer>", template)


def boxes_of(sample: Sample) -> list[list[float]]:
    return [list(region.box_px) for region in sample.regions]


def grid(step: int, size: int = 112) -> list[list[float]]:
    return [[x, y, x + step, y + step] for x in range(0, size, step) for y in range(0, size, step)]


def paid(graded: Score) -> list[float]:
    return [{"correct": graded.correct, **graded.parts}.get(part, 0.0) for part in MASK.rewards]


# ---------------------------------------------------------------------------------------------- adversaries
def test_true_boxes_are_paid_well_and_better_than_filling_them():
    honest = score(field(), boxes_of(field()))

    assert honest.correct > 0.93
    assert honest.parts["dice_box"] < 0.92 < honest.correct
    assert honest.parts["iou_box"] < honest.parts["iou"]


STEPS = (8, 10, 12, 16, 18, 22, 28, 37, 56, 112)


@pytest.mark.parametrize("seed", range(3))
def test_no_answer_without_a_look_at_the_picture_is_paid_as_much_as_the_true_boxes(seed: int):
    sample = field(seed)
    honest = paid(score(sample, boxes_of(sample)))
    random = np.random.default_rng(seed)
    corners = random.integers(0, 100, (MAX_BOXES, 2))
    adversaries = {
        "giant": [[0, 0, 112, 112]],
        "many giants": [[0, 0, 112, 112]] * MAX_BOXES,
        "random": [[int(x), int(y), int(x) + NUCLEUS_PX, int(y) + NUCLEUS_PX] for x, y in corners],
        "outside": [[200, 200, 260, 260]] * 20,
        **{f"grid {step}": grid(step)[:MAX_BOXES] for step in STEPS},
    }
    for name, places in adversaries.items():
        graded = score(sample, places)
        assert graded.answer is not None, name
        assert max(paid(graded)) < 0.4 * min(honest), name


def test_points_on_every_pixel_are_no_answer_and_a_grid_of_them_pays_little():
    sample = field()
    every = [[x, y] for x in range(112) for y in range(112)]
    honest = score(sample, [[(b[0] + b[2]) // 2, (b[1] + b[3]) // 2] for b in boxes_of(sample)], POINTS)

    assert score(sample, every, POINTS).answer is None
    stuffed = score(sample, [[x, y] for x in range(5, 112, 14) for y in range(5, 112, 14)], POINTS)
    assert stuffed.answer is not None
    assert max(paid(stuffed)) < 0.4 * min(paid(honest))
    assert honest.correct > 0.7


def test_more_boxes_than_allowed_are_no_answer():
    assert score(field(), [[1, 1, 9, 9]] * (MAX_BOXES + 1)).answer is None


def test_a_copy_and_a_needless_box_cost_their_share():
    sample = field()
    true = boxes_of(sample)
    honest = score(sample, true).correct

    assert score(sample, [*true, true[0]]).correct == pytest.approx(honest * 20 / 21)
    assert score(sample, [*true, [0, 0, 112, 112]]).correct <= honest * 20 / 21 + 1e-9
    assert score(sample, true * 2).correct == pytest.approx(honest / 2)
    assert score(sample, true[:10]).correct < 0.55


def test_the_order_of_the_boxes_is_worth_nothing():
    sample = field()
    true = boxes_of(sample)

    assert paid(score(sample, true)) == pytest.approx(paid(score(sample, true[::-1])))


def test_what_may_be_had_for_free_is_not_for_reward():
    sample = field()
    copies = score(sample, boxes_of(sample) * 5)
    giant = score(sample, [[0, 0, 112, 112]])

    assert copies.parts["dice_union"] > 0.9
    assert copies.correct < 0.25
    assert giant.parts["recall"] > giant.correct
    assert {"dice_union", "precision", "recall", "dice_box", "iou_box"}.isdisjoint(MASK.rewards)


def test_all_parts_lie_between_none_and_one_for_any_boxes():
    sample, random = field(), np.random.default_rng(3)
    for _ in range(20):
        places = random.integers(-20, 130, (random.integers(0, 12), 4))
        places[:, 2:] = places[:, :2] + random.integers(1, 60, (len(places), 2))
        graded = score(sample, places.tolist())
        assert graded.answer is not None
        values = {"correct": graded.correct, **graded.parts}
        assert set(PARTS) <= set(values)
        assert all(0.0 <= values[part] <= 1.0 for part in PARTS), values


def test_the_longest_answer_is_graded_in_bounded_time():
    sample = field()
    started = time.process_time()
    score(sample, [[k % 50, k // 50, 100 + k % 12, 100 + k // 50] for k in range(MAX_BOXES)])
    assert time.process_time() - started < 0.02 * MAX_BOXES


# --------------------------------------------------------------------------------------------------- edges
def test_nothing_for_nothing_is_right_and_one_of_the_two_alone_is_wrong():
    empty = make_sample("mask", regions=())

    assert paid(score(empty, [])) == [1.0] * len(MASK.rewards)
    assert paid(score(empty, [[20, 10, 80, 60]])) == [0.0] * len(MASK.rewards)
    assert paid(score(make_sample("mask"), [])) == [0.0] * len(MASK.rewards)


def test_an_empty_picture_needs_no_pixels():
    gone = Image(path="/no/such/file.png", width_px=WIDTH_PX, height_px=HEIGHT_PX)

    assert score(make_sample("mask", images=(gone,), regions=()), []).correct == 1.0
    with pytest.raises(BadImage):
        score(make_sample("mask", images=(gone,)), [[20, 10, 80, 60]])


def test_a_mask_of_another_size_is_an_error_whoever_made_it():
    sample = make_sample("mask")
    completion = MASK.target(sample, BOXES, "direct")

    def wrong(pixels, prompts):
        return (np.ones((5, 5), dtype=bool) for _ in prompts)

    with pytest.raises(ValueError, match="another size"):
        MASK.score(sample, completion, BOXES, segment=wrong)
    shrunk = sample.regions[0].model_copy(update={"box_px": (20.0, 10.0, 70.0, 60.0)})
    with pytest.raises(ValueError, match="another size"):
        MASK.score(make_sample("mask", regions=(shrunk,)), completion, BOXES)


def test_a_sample_without_masks_or_with_two_pictures_has_no_truth():
    with pytest.raises(ValueError, match="has no mask"):
        MASK.truth(make_sample("mask", regions=(Region(box_px=TRUE_BOXES[0]),)))
    with pytest.raises(ValueError, match="one picture"):
        MASK.truth(make_sample("mask", images=make_sample("mask").images * 2))


def test_another_segmenter_draws_where_it_is_given():
    sample = make_sample("mask")
    completion = MASK.target(sample, BOXES, "direct")

    filled = MASK.score(sample, completion, BOXES, segment=fill_boxes)
    classical = MASK.score(sample, completion, BOXES)

    assert filled.correct == pytest.approx(filled.parts["dice_box"])
    assert filled.correct == pytest.approx(classical.parts["dice_box"])
    assert filled.correct < classical.correct == 1.0


def test_other_tasks_take_a_segmenter_and_do_not_use_it():
    task, sample = find_task("boxes"), make_sample("boxes")
    template = task.templates[0]
    completion = task.target(sample, template, "direct")

    assert task.score(sample, completion, template, segment=fill_boxes).correct == 1.0


def test_the_union_is_the_dice_of_all_masks_together():
    sample = make_sample("mask")
    one = score(sample, [list(TRUE_BOXES[0])])
    areas = things().sum(axis=(1, 2))

    assert one.parts["dice_union"] == pytest.approx(2 * areas[0] / (areas[0] + areas.sum()))
    assert one.correct == pytest.approx(0.5)


# --------------------------------------------------------------------------------------------------- forms
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[50,35]]", ((50.0, 35.0),)),
        ("[[50.5,35]]", ((50.5, 35.0),)),
        ('[{"point_2d":[50,35],"label":"nucleus"}]', ((50.0, 35.0),)),
        ("[]", ()),
        ("[50,35]", None),
        ("[[50,35,60]]", None),
        ("[[20,10,80,60]]", None),
        ("[[50,35],[20,10,80,60]]", None),
        ('[["50","35"]]', None),
        ("[[true,false]]", None),
        ("[[NaN,1]]", None),
        ("[[1e9,1]]", None),
        ("50,35", None),
    ],
)
def test_points_are_read_strictly(text: str, expected: object):
    assert MASK.parse(make_sample("mask"), f"<answer>{text}</answer>", POINTS) == expected


def test_points_where_boxes_are_asked_for_are_no_answer():
    assert score(make_sample("mask"), [[50, 35]]).answer is None


def test_points_of_things_are_written_inside_them_in_both_frames():
    sample = field()
    for name in ("points_pixels", "points_1000"):
        template = MASK.template(name)
        places = MASK.parse(sample, MASK.target(sample, template, "direct"), template)
        assert isinstance(places, tuple)
        assert len(places) == len(sample.regions)
        for (x, y), region in zip(places, sample.regions, strict=True):
            x1, y1, x2, y2 = region.box_px
            assert region.mask_png is not None
            inside = np.array(PILImage.open(io.BytesIO(region.mask_png)))
            assert inside[int(y - y1), int(x - x1)]
            assert x1 <= x <= x2
            assert y1 <= y <= y2


def test_free_points_are_read_as_free_boxes_are():
    sample = make_sample("mask")
    text = "The nuclei lie at [50, 35] and at [150,60]."

    assert MASK.read_free(sample, text, POINTS) == ((50.0, 35.0), (150.0, 60.0))
    assert MASK.read_free(sample, "I see none: []", POINTS) == ()
    assert MASK.read_free(sample, "I cannot tell.", POINTS) is None


def test_chance_is_what_the_best_constant_box_reaches():
    samples = [field(seed) for seed in range(2)]

    assert 0.0 < MASK.chance(samples) < 0.1
    assert MASK.chance([make_sample("mask", regions=())]) == 1.0


def test_chance_tries_the_halves_and_quarters_that_a_segmenter_makes_things_of():
    sample = make_sample("mask")
    halves = [[0, 0, WIDTH_PX // 2, HEIGHT_PX], [WIDTH_PX // 2, 0, WIDTH_PX, HEIGHT_PX]]
    without = make_sample("mask", regions=())

    paid_for_halves = score(sample, halves).correct
    assert 0.5 < paid_for_halves < 0.6
    assert score(sample, [[0, 0, WIDTH_PX, HEIGHT_PX]]).correct < 0.2
    assert MASK.chance([sample]) == pytest.approx(paid_for_halves)
    assert MASK.chance([sample, sample, without]) == pytest.approx(2 * paid_for_halves / 3)
    assert MASK.chance([sample, without, without]) == pytest.approx(2 / 3)
