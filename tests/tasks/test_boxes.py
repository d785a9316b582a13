"""Overlap, matching and average precision against values computed by hand or by counting pixels."""

import itertools
import json
import random

import pytest
from tests.tasks.samples import HEIGHT_PX, TRUE_BOXES, WIDTH_PX, make_sample

from pathloom.schema import Box, Region
from pathloom.tasks.boxes import BOXES, IOU_MATCH, MAX_BOXES, average_precision, iou, match_boxes

PIXELS, THOUSANDTHS = BOXES.template("pixels"), BOXES.template("list_1000")


def random_box(dice: random.Random, side: int) -> Box:
    x1, x2 = sorted(dice.sample(range(side + 1), 2))
    y1, y2 = sorted(dice.sample(range(side + 1), 2))
    return float(x1), float(y1), float(x2), float(y2)


def test_iou_of_boxes_drawn_by_hand():
    unit = (0.0, 0.0, 2.0, 2.0)
    assert iou(unit, unit) == 1.0
    assert iou(unit, (1.0, 0.0, 3.0, 2.0)) == pytest.approx(2 / 6)
    assert iou(unit, (0.0, 0.0, 1.0, 1.0)) == pytest.approx(1 / 4)
    assert iou(unit, (2.0, 0.0, 3.0, 2.0)) == 0.0  # they touch
    assert iou(unit, (1.0, 1.0, 1.0, 2.0)) == 0.0  # no area


def test_iou_equals_the_count_of_shared_pixels():
    dice = random.Random(3)

    def pixels(box: Box) -> set[tuple[int, int]]:
        x1, y1, x2, y2 = map(int, box)
        return set(itertools.product(range(x1, x2), range(y1, y2)))

    for _ in range(200):
        a, b = random_box(dice, 12), random_box(dice, 12)
        shared, union = pixels(a) & pixels(b), pixels(a) | pixels(b)
        assert iou(a, b) == pytest.approx(len(shared) / len(union))
        assert iou(a, b) == iou(b, a)


def test_each_true_box_is_given_away_once_in_written_order():
    true = [(0.0, 0.0, 10.0, 10.0)]
    near, exact = (0.0, 0.0, 10.0, 8.0), (0.0, 0.0, 10.0, 10.0)
    assert match_boxes([near, exact], true) == [pytest.approx(0.8), 0.0]
    assert match_boxes([exact, near], true) == [1.0, 0.0]


def test_a_box_takes_the_free_true_box_that_it_overlaps_most():
    left, right = (0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0)
    assert match_boxes([(2.0, 0.0, 12.0, 10.0), left], [left, right]) == [1.0, 1.0]


def test_an_overlap_of_exactly_one_half_matches_and_less_does_not():
    true = [(0.0, 0.0, 10.0, 10.0)]
    assert match_boxes([(0.0, 0.0, 10.0, 5.0)], true) == [IOU_MATCH]
    assert match_boxes([(0.0, 0.0, 10.0, 4.9)], true) == [0.0]


@pytest.mark.parametrize(
    ("matched", "num_true", "expected"),
    [
        ([], 0, 1.0),
        ([], 2, 0.0),
        ([0.0], 0, 0.0),
        ([1.0], 1, 1.0),
        ([0.0, 1.0], 1, 0.5),
        ([1.0, 0.0], 1, 1.0),
        ([1.0], 2, 0.5),
        # hit, miss, hit of two: precision 1 up to recall 1/2, then 2/3 up to recall 1
        ([0.9, 0.0, 0.6], 2, 0.5 * 1 + 0.5 * 2 / 3),
        # miss, hit, hit of three: precision 1/2 then 2/3, lifted to 2/3 for both
        ([0.0, 0.9, 0.6], 3, 2 / 3 * 2 / 3),
    ],
)
def test_average_precision_of_lists_worked_out_by_hand(matched: list[float], num_true: int, expected: float):
    assert average_precision(matched, num_true) == pytest.approx(expected)


def test_average_precision_equals_the_sum_over_recall_steps_of_the_best_later_precision():
    dice = random.Random(5)
    for _ in range(300):
        matched = [dice.choice((0.0, 0.7)) for _ in range(dice.randrange(1, 9))]
        hits = [sum(overlap > 0 for overlap in matched[: k + 1]) for k in range(len(matched))]
        num_true = max(hits[-1], 1) + dice.randrange(3)
        precision = [hit / (k + 1) for k, hit in enumerate(hits)]
        area = sum(max(precision[k:]) / num_true for k, overlap in enumerate(matched) if overlap > 0)
        assert average_precision(matched, num_true) == pytest.approx(area)


@pytest.mark.parametrize(
    "text",
    [
        "[[20,10,80,60],[120,30,180,90]]",
        "[[20.0, 10.0, 80.0, 60.0], [120, 30, 180, 90]]",
        '[{"bbox_2d":[20,10,80,60],"label":"cell"},{"bbox_2d":[120,30,180,90]}]',
        "<bbox>[20,10,80,60]</bbox>, <bbox>[ 120 , 30 , 180 , 90 ]</bbox>",
        "<region>20 10 80 60</region>\n<region> 120.0  30 180 90 </region>",
    ],
)
def test_all_four_written_forms_mean_the_same_boxes(text: str):
    assert BOXES.parse(make_sample("boxes"), f"<answer>{text}</answer>", PIXELS) == TRUE_BOXES


@pytest.mark.parametrize(
    "text",
    [
        "[20,10,80,60]",
        "[[20,10,80,60],[120,30]]",
        "[[20,10,80,60]] and more",
        "cell <bbox>[20,10,80,60]</bbox>",
        "<region>20 10 80</region>",
        "<region>20,10,80,60</region>",
        '{"bbox_2d":[20,10,80,60]}',
    ],
)
def test_a_form_that_is_not_whole_is_no_answer(text: str):
    assert BOXES.parse(make_sample("boxes"), f"<answer>{text}</answer>", PIXELS) is None


def test_thousandths_become_pixels_and_edges_are_cut_at_the_picture():
    sample = make_sample("boxes")
    parsed = BOXES.parse(sample, "<answer>[[100,100,400,600],[-50,0,2000,1000]]</answer>", THOUSANDTHS)
    assert parsed == (TRUE_BOXES[0], (0.0, 0.0, float(WIDTH_PX), float(HEIGHT_PX)))


def test_a_list_is_read_up_to_the_limit_and_not_beyond():
    sample = make_sample("boxes")
    for num, is_read in ((MAX_BOXES, True), (MAX_BOXES + 1, False)):
        text = json.dumps([[0, 0, 5, 5]] * num)
        assert (BOXES.parse(sample, f"<answer>{text}</answer>", PIXELS) is not None) == is_read


def test_a_box_thinner_than_one_unit_keeps_its_area_when_written():
    for box in ((10.1, 10.1, 10.3, 40.0), (10.0, 50.4, 90.0, 50.45), (199.9, 99.9, 200.0, 100.0)):
        sample = make_sample("boxes", regions=(Region(box_px=box),))
        for template in BOXES.templates:
            parsed = BOXES.parse(sample, BOXES.target(sample, template, "direct"), template)
            assert isinstance(parsed, tuple)
            x1, y1, x2, y2 = (float(edge) for edge in parsed[0])
            assert x1 < x2
            assert y1 < y2


def test_no_boxes_is_an_answer_and_right_when_there_are_none():
    for regions, grade in (((), 1.0), (make_sample("boxes").regions, 0.0)):
        score = BOXES.score(make_sample("boxes", regions=regions), "<answer>[]</answer>", PIXELS)
        assert score.answer == ()
        assert score.correct == grade


def test_the_parts_of_a_score_count_hits_and_claims():
    text = "<answer>[[20,10,80,60],[0,0,5,5],[120,30,180,60]]</answer>"
    score = BOXES.score(make_sample("boxes"), text, PIXELS)
    assert score.correct == pytest.approx(2 * 2 / (3 + 2))
    assert score.parts["true_positives"] == 2
    assert score.parts["num_predicted"] == 3
    assert score.parts["mean_iou"] == score.parts["overlap"] == pytest.approx((1.0 + 0.5) / 3)
    assert score.parts["ap50"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        # hit 1.0, miss, hit 0.5 of two true: AP50 0.5 x 1 + 0.5 x 2/3; the list is longer than the truth by 3 / 2
        (
            "[[20,10,80,60],[0,0,5,5],[120,30,180,60]]",
            {
                "ap50": 5 / 6,
                "ap50_length": 5 / 6 * 2 / 3,
                # position (1 + 0.5) / 2, completeness 1 - (0 + 1/3) / 2
                "weighted": 0.7 * 0.75 + 0.3 * 5 / 6,
                "mean_iou": 1.5 / 3,
                "overlap": 1.5 / 3,
            },
        ),
        # one of two and nothing else: completeness 1 - (1/2 + 0) / 2
        (
            "[[20,10,80,60]]",
            {"ap50": 0.5, "ap50_length": 0.5, "weighted": 0.7 * 0.5 + 0.3 * 0.75, "mean_iou": 0.5},
        ),
        # two misses: completeness 1 - (1 + 1) / 2
        (
            "[[0,0,5,5],[5,5,9,9]]",
            {"ap50": 0.0, "ap50_length": 0.0, "weighted": 0.0, "mean_iou": 0.0, "overlap": 0.0},
        ),
        # a quarter of the first box, which is no hit; the nearer of two is paid, and the other one costs its share
        ("[[20,10,50,35]]", {"mean_iou": 0.0, "overlap": 0.25 / 2}),
        ("[[20,10,50,35],[20,10,80,35]]", {"mean_iou": 0.5 / 2, "overlap": 0.5 / 2}),
        ("[[20,10,50,35],[20,10,50,30],[20,10,65,35]]", {"overlap": 0.375 / 3}),
    ],
)
def test_rewards_of_lists_worked_out_by_hand(boxes: str, expected: dict[str, float]):
    parts = BOXES.score(make_sample("boxes"), f"<answer>{boxes}</answer>", PIXELS).parts
    assert {name: parts[name] for name in expected} == pytest.approx(expected)


def test_both_lists_empty_is_one_and_one_empty_is_nothing_in_every_part():
    nothing_there = make_sample("boxes", regions=())
    for sample, text, expected in (
        (nothing_there, "[]", 1.0),
        (nothing_there, "[[0,0,5,5]]", 0.0),
        (make_sample("boxes"), "[]", 0.0),
    ):
        score = BOXES.score(sample, f"<answer>{text}</answer>", PIXELS)
        parts = {"correct": score.correct, **score.parts}
        assert {parts[name] for name in BOXES.rewards} == {expected}
        assert score.parts["num_predicted"] == float(text != "[]")


def test_chance_is_what_the_mean_box_reaches_when_all_boxes_lie_in_one_place():
    samples = [make_sample("boxes", name=f"s{k}", regions=(Region(box_px=TRUE_BOXES[0]),)) for k in range(3)]
    assert BOXES.chance(samples) == 1.0
    assert BOXES.chance([make_sample("boxes", regions=())]) == 0.0
