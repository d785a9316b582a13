"""Rewards by hand, and by everything a policy could try instead of being right."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.tasks.samples import HEIGHT_PX, TRUE_BOXES, WIDTH_PX, WRONG_ANSWERS, make_sample

from pathloom.masks import fill_boxes
from pathloom.tasks import TASKS, find_task
from pathloom.tasks.task import Task, Template
from pathloom.train.rewards import (
    Reward,
    Weights,
    check_weights,
    default_weights,
    grade,
    overlong_punishment,
)

LIMITS: dict[str, Any] = {"num_tokens": 10, "max_tokens": 128, "cache": 32}
BOXES = find_task("boxes")
PIXELS = BOXES.template("pixels")
TRUE = [list(map(int, box)) for box in TRUE_BOXES]
GIANT = [0, 0, WIDTH_PX, HEIGHT_PX]
GRID = [[x, y, x + 60, y + 50] for x in range(0, 150, 20) for y in range(0, 60, 10)]
"""48 boxes as large as the true ones; one is the first of them exactly, and one overlaps the second by 5 of 6."""

rule_tasks = pytest.mark.parametrize(
    "task", [task for task in TASKS if task.checkable], ids=lambda task: task.name
)


def paid(task: Task, completion: str, weights: Weights, template: Template | None = None) -> Reward:
    return grade(make_sample(task.name), completion, template or task.templates[0], weights, **LIMITS)


def everything(task: Task) -> dict[str, float]:
    return dict.fromkeys((*task.rewards, "format", "length"), 1.0)


def answer(text: object) -> str:
    return f"<think>Seen.</think><answer>{text}</answer>"


def box_part(part: str, boxes: list[list[Any]]) -> float:
    return paid(BOXES, answer(boxes), {part: 1.0}, PIXELS).total


@rule_tasks
def test_the_right_answer_is_paid_every_part_in_full(task: Task):
    sample = make_sample(task.name, reasoning="No nuclei.")
    for template in task.templates:
        reward = grade(sample, task.target(sample, template, "cot"), template, everything(task), **LIMITS)
        assert reward.parts == {**dict.fromkeys((*task.rewards, "format"), 1.0), "length": 0.0}
        assert reward.accuracy == len(task.rewards)
        assert reward.total == len(task.rewards) + 1
        assert reward.reasoned


def test_a_reward_is_the_weighted_sum_of_the_named_parts_and_accuracy_leaves_shaping_out():
    # one of two true boxes: AP50 0.5, F1 2 / 3; 112 of 128 tokens with a cache of 32: -(112 - 96) / 32 = -0.5
    weights = {"ap50": 2.0, "correct": 3.0, "format": 0.5, "length": 4.0}
    limits = {**LIMITS, "num_tokens": 112}

    reward = grade(make_sample("boxes"), answer([TRUE[0]]), PIXELS, weights, **limits)

    assert reward.parts == {"ap50": 0.5, "correct": pytest.approx(2 / 3), "format": 1.0, "length": -0.5}
    assert reward.accuracy == pytest.approx(2 * 0.5 + 3 * 2 / 3)
    assert reward.total == pytest.approx(2 * 0.5 + 3 * 2 / 3 + 0.5 * 1 + 4 * -0.5)


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    # max 20, cache 5: free up to 15, then (15 - n) / 5
    [(0, 0.0), (15, 0.0), (16, -0.2), (18, -0.6), (20, -1.0), (21, -1.0), (1000, -1.0)],
)
def test_soft_overlong_punishment_at_its_corners(num_tokens: int, expected: float):
    assert overlong_punishment(num_tokens, 20, 5) == pytest.approx(expected)


def test_default_weights_are_equal_and_length_is_for_dapo_only():
    assert default_weights(punish_length=False, style="cot") == {"correct": 1, "format": 1}
    assert default_weights(punish_length=True, style="cod") == {"correct": 1, "format": 1, "length": 1}
    assert default_weights(punish_length=True, style="direct") == {"correct": 1, "length": 1}


MISFORMED = (
    "<answer>{right}</answer>",
    "Sure. <think>Seen.</think><answer>{right}</answer>",
    "<think>Seen.</think><answer>{right}</answer> Good luck.",
    "<think>Seen.</think> so <answer>{right}</answer>",
    "<think>Seen.</think><think>Again.</think><answer>{right}</answer>",
    "<think><think>Seen.</think></think><answer>{right}</answer>",
    "<answer>{right}</answer><think>Seen.</think>",
    "<think><answer>{right}</answer></think>",
)
NO_ANSWER = (
    "",
    "{right}",
    "<think>{right}</think>",
    "<think>Seen.</think><answer>{right}",
    "<think>Seen.</think><answer>{right}</answer><answer>{right}</answer>",
    "<think>Seen.</think><answer>x</answer><answer>{right}</answer>",
    "<think><answer>{right}</answer></think><answer>x</answer>",
    "<think>" + "<answer>{right}</answer>" * 50 + "</think><answer>{right}</answer>",
    "<answer>" * 100 + "{right}" + "</answer>" * 100,
)


@rule_tasks
def test_tag_stuffing_is_paid_less_than_the_right_answer(task: Task):
    sample, template = make_sample(task.name), task.templates[0]
    right = task.write(sample, task.truth(sample), template)
    full = paid(task, answer(right), everything(task)).total
    for text in (*MISFORMED, *NO_ANSWER):
        reward = paid(task, text.format(right=right), everything(task))
        assert reward.parts["format"] == 0.0, text
        assert reward.total < full, text
    for text in NO_ANSWER:
        assert paid(task, text.format(right=right), everything(task)).total == 0.0, text


@rule_tasks
def test_an_empty_answer_is_paid_its_format_and_nothing_else(task: Task):
    for text in ("", " ", "\n"):
        reward = paid(task, f"<think></think><answer>{text}</answer>", everything(task))
        assert reward.accuracy == 0.0
        assert reward.total == 1.0
        assert not reward.reasoned


def test_listing_options_is_paid_no_more_than_one_wrong_letter():
    choice = find_task("choice")
    weights = default_weights(punish_length=True, style="cot")
    wrong = paid(choice, answer("A"), weights).total
    for listed in ("A B C D", "ABCD", "A, B, C, D", "B or A", "fibrosis necrosis mitosis apoptosis", "A-D"):
        assert paid(choice, answer(listed), weights).total == wrong == 1.0, listed


@pytest.mark.parametrize("part", BOXES.rewards)
def test_no_box_reward_pays_guessing_more_than_half_of_the_right_boxes(part: str):
    honest = box_part(part, [TRUE[0]])
    assert 0.4 < honest < 0.7
    assert box_part(part, TRUE) == 1.0
    guesses: dict[str, list[list[Any]]] = {
        "none": [],
        "giant": [GIANT],
        "many giants": [GIANT] * 50,
        "too many": [TRUE[0]] * 1000,
        "duplicates": [TRUE[0]] * 6,
        "small grid": [[x, y, x + 10, y + 10] for x in range(0, 200, 20) for y in range(0, 100, 10)],
        "not a number": [[math.nan, 0, 10, 10], TRUE[0]],
        "infinite": [[0, 0, math.inf, math.inf]],
        "inside out": [[80, 60, 20, 10]],
        "a point": [[20, 10, 20, 10]],
        "huge": [[0, 0, 1e9, 1e9]],
    }
    for name, boxes in guesses.items():
        assert box_part(part, boxes) <= honest, name
    for name in ("none", "giant", "many giants", "too many", "small grid", "not a number", "infinite"):
        assert box_part(part, guesses[name]) <= (0.09 if part == "overlap" else 0.0), name  # what they cover


def test_a_dense_grid_is_paid_less_than_half_of_the_boxes():
    assert TRUE[0] in GRID
    for part in ("correct", "ap50_length", "mean_iou", "overlap"):
        assert box_part(part, GRID) < 0.25 * box_part(part, [TRUE[0]]), part
    for part in ("ap50", "weighted"):
        assert box_part(part, GRID) < box_part(part, [TRUE[0]]), part


def test_a_sparse_grid_that_fits_is_overpaid_by_the_weighted_reward_up_to_a_bound():
    # IoU 1 and 5 / 6, seven needless
    sparse = [[x, y, x + 60, y + 50] for x in (20, 70, 120) for y in (10, 30, 50)]

    reward = box_part("weighted", sparse)

    assert reward == pytest.approx(0.7 * (1 + 5 / 6) / 2 + 0.3 * (1 + 2 / 9) / 2)
    assert box_part("weighted", [TRUE[0]]) < reward < 0.85 + 0.15 * len(TRUE) / len(sparse)


def test_boxes_behind_the_right_ones_are_free_in_ap50_alone_and_never_raise_it():
    stuffed = [*TRUE, *GRID]  # 2 hits among 50
    assert box_part("ap50", stuffed) == 1.0
    assert box_part("ap50_length", stuffed) == pytest.approx(2 / 50)
    assert box_part("mean_iou", stuffed) == box_part("overlap", stuffed) == pytest.approx(2 / 50)
    assert box_part("correct", stuffed) == pytest.approx(2 * 2 / (50 + 2))
    assert box_part("weighted", stuffed) == pytest.approx(0.7 + 0.3 * (1 + 2 / 50) / 2)
    # a guess in place of a box not found is free as long as the list is no longer than the truth
    assert box_part("ap50_length", [TRUE[0], GIANT]) == box_part("ap50_length", [TRUE[0]])


SCALE = ("grade 1", "grade 2", "grade 3", "grade 4", "grade 5")


def ordinal_reward(said: str, weights: Weights, truths: Sequence[str] = SCALE) -> float:
    """The mean reward of saying the same of each step of the scale."""
    task = find_task("ordinal")
    samples = [make_sample("ordinal", choices=SCALE, answer=truth) for truth in truths]
    paid_each = [grade(one, answer(said), task.templates[0], weights, **LIMITS).accuracy for one in samples]
    return sum(paid_each) / len(paid_each)


def test_the_middle_grade_said_of_all_earns_no_more_than_a_grade_that_is_one_off():
    weights = {"correct": 1.0, "ordinal": 1.0, "format": 1.0}
    middle = ordinal_reward("grade 3", weights)
    assert middle == pytest.approx(0.2 + 0.7)
    assert max(ordinal_reward(step, weights) for step in SCALE) == middle
    right_every_other_time = (2.0 + 0.75) / 2
    assert middle < right_every_other_time < 2.0
    assert ordinal_reward("grade 3", {"correct": 1.0}) == pytest.approx(0.2), (
        "exact match alone pays it chance"
    )


def test_several_grades_and_grades_off_the_scale_earn_their_format_alone():
    weights = {"ordinal": 1.0, "format": 1.0}
    for said in (
        "grade 2 or grade 3",
        "grade 1, grade 2, grade 3",
        "grade 0",
        "grade 9",
        "3",
        "grade",
        "all",
    ):
        assert ordinal_reward(said, weights) == 0.0, said


def bleu_reward(said: str, weights: Weights) -> Reward:
    sample = make_sample("caption", question="Describe the glands with cribriform growth.")
    return grade(sample, answer(said), find_task("caption").templates[0], weights, **LIMITS)


def test_a_caption_is_rewarded_by_likeness_where_that_is_named():
    weights = {"bleu4": 1.0, "format": 1.0}
    truth = make_sample("caption").answer
    assert bleu_reward(truth, weights).total == pytest.approx(2.0)
    paid_by_words = {
        said: bleu_reward(said, weights).accuracy
        for said in (
            "Describe the glands with cribriform growth.",  # the question
            "in a in a in a in a",
            "Glands with cribriform growth in a fibrous stroma. " * 5,
            "",
            " ".join(sorted(set(truth.split()))),
        )
    }
    near = bleu_reward("Glands with cribriform growth in a stroma.", weights).accuracy
    assert all(paid < near < 1.0 for paid in paid_by_words.values()), paid_by_words
    assert paid_by_words[""] == 0.0


@pytest.mark.parametrize("part", find_task("mask").rewards)
def test_no_mask_reward_pays_guessing_with_its_format_more_than_half_of_the_right_boxes(part: str):
    mask = find_task("mask")
    template = mask.template("segment_pixels")
    weights = {part: 1.0, "format": 1.0}
    honest = paid(mask, answer([TRUE[0]]), weights, template).total
    assert 1.4 < honest <= 1.5
    assert paid(mask, answer(TRUE), weights, template).total > 1.9
    guesses: dict[str, Any] = {
        "none": [],
        "giant": [GIANT],
        "many giants": [GIANT] * 50,
        "grid": GRID,
        "small grid": [[x, y, x + 10, y + 10] for x in range(0, 200, 20) for y in range(0, 100, 10)],
        "duplicates": [TRUE[0]] * 6,
        "everything": [*TRUE, *GRID, GIANT],
        "inside out": [[80, 60, 20, 10]],
        "half planes": [[0, 0, WIDTH_PX // 2, HEIGHT_PX], [WIDTH_PX // 2, 0, WIDTH_PX, HEIGHT_PX]],
    }
    for name in (
        "none",
        "giant",
        "many giants",
        "grid",
        "small grid",
        "duplicates",
        "everything",
        "inside out",
    ):
        assert paid(mask, answer(guesses[name]), weights, template).total < honest, name
    for name, boxes in guesses.items():
        assert (
            paid(mask, answer(boxes), weights, template).total
            <= paid(mask, answer(TRUE), weights, template).total
        ), name


def test_masks_are_graded_by_the_segmenter_that_is_given():
    mask = find_task("mask")

    def draws_nothing(pixels: Any, prompts: Sequence[Any]) -> Any:
        yield from (np.zeros(pixels.shape[:2], dtype=bool) for _ in prompts)

    template = mask.template("segment_pixels")
    for segment, is_paid in ((None, True), (draws_nothing, False), (fill_boxes, True)):
        reward = grade(make_sample("mask"), answer(TRUE), template, {"dice": 1.0}, **LIMITS, segment=segment)
        assert (reward.total > 0.5) is is_paid


def test_no_segmenter_reaches_a_task_without_masks():
    def unwanted(*arguments: Any) -> Any:
        raise AssertionError("nothing here is drawn")

    reward = grade(make_sample("boxes"), answer(TRUE), PIXELS, {"correct": 1.0}, **LIMITS, segment=unwanted)
    assert reward.total == 1.0


@rule_tasks
def test_an_answer_that_reasons_at_length_beside_its_answer_earns_no_more_than_the_right_one(task: Task):
    sample, template = make_sample(task.name), task.templates[0]
    right = task.write(sample, task.truth(sample), template)
    full = paid(task, answer(right), everything(task)).total
    wrong = WRONG_ANSWERS[task.name][0]
    for text in (
        f"<think>{right}</think><answer>{wrong}</answer>",
        f"<think>{right * 50}</think><answer>{wrong}</answer>",
        f"<think>{wrong}</think><answer>{wrong} {right}</answer>",
        f"<think>{wrong}</think><answer>{right} {wrong}</answer>",
    ):
        assert paid(task, text, everything(task)).total < full, text


@rule_tasks
def test_every_part_stays_in_its_range_on_random_garbage(task: Task):
    dice = random.Random(7)
    sample = make_sample(task.name)
    text = r"""<think> </think> <answer> </answer> [[ ]] [ ] , nan inf -inf 1e400 -5 0 9 10 20 60 80 100 200 999999
        [[20,10,80,60]] [[120,30,180,90]] [[0,0,200,100]] A B C D yes no 7 necrosis lsil clear cell carcinoma \\
        "bbox_2d" { } : <bbox> </bbox> <region> </region>"""
    pieces = [*text.split(), "\x00", "\ud800", "\u0667", "\n"]
    for number in range(1500):
        text = " ".join(dice.choices(pieces, k=dice.randrange(0, 14)))
        if number % 3:
            text = f"<think>{dice.choice(pieces)}</think><answer>{text}</answer>"
        limits: dict[str, Any] = {
            "num_tokens": dice.randrange(200),
            "max_tokens": 128,
            "cache": dice.randrange(1, 127),
        }
        reward = grade(sample, text, dice.choice(task.templates), everything(task), **limits)
        length = reward.parts["length"]
        assert all(0.0 <= value <= 1.0 for name, value in reward.parts.items() if name != "length"), text
        assert -1.0 <= length <= 0.0
        assert math.isfinite(reward.total)
        assert reward.total - length <= len(task.rewards) + 1, text


def test_random_boxes_keep_every_box_reward_in_range():
    dice = random.Random(11)
    for _ in range(300):
        boxes = []
        for _ in range(dice.randrange(0, 12)):
            x1, x2 = sorted(dice.sample(range(-20, WIDTH_PX + 20), 2))
            y1, y2 = sorted(dice.sample(range(-20, HEIGHT_PX + 20), 2))
            boxes.append(dice.choice([[x1, y1, x2, y2], *TRUE]))
        parts = paid(BOXES, answer(boxes), everything(BOXES), PIXELS).parts
        assert all(0.0 <= parts[part] <= 1.0 for part in BOXES.rewards), boxes


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"choice": {"corect": 1.0}}, r"choice\.corect: .* did you mean 'correct'"),
        ({"boxes": {"ap_50": 1.0}}, r"boxes\.ap_50: .* did you mean 'ap50'"),
        ({"boxes": {"true_positives": 1.0}}, r"boxes\.true_positives: no part that can be rewarded"),
        ({"choice": {"ap50": 1.0}}, r"choice\.ap50: .* known: correct, format, length"),
        ({"default": {"ap50": 1.0}}, r"default\.ap50"),
        ({"chioce": {"correct": 1.0}}, r"chioce: no task that can be rewarded, did you mean 'choice'"),
        ({"caption": {"correct": 1.0}}, r"caption\.correct: .* known: bleu4, format, length"),
        ({"caption": {"format": 1.0}}, r"caption: nothing here says what is right; add one of bleu4"),
        ({"default": {"bleu4": 1.0}}, r"default\.bleu4"),
        ({"choice": {"correct": -1.0}}, r"choice\.correct: a weight is positive"),
        ({"choice": {"correct": math.nan}}, r"choice\.correct: a weight is positive"),
        ({"choice": {"format": 1.0, "length": 1.0}}, r"choice: nothing here says what is right"),
        ({"boxes": {}}, r"boxes: nothing here .* ap50_length"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_the_key(rewards: dict[str, Weights], message: str):
    with pytest.raises(ValueError, match=message):
        check_weights(rewards, "cot")


def test_a_style_without_reasoning_takes_no_format_reward():
    with pytest.raises(ValueError, match=r"choice\.format: asks for a think block"):
        check_weights({"choice": {"correct": 1.0, "format": 1.0}}, "direct")
    check_weights({"choice": {"correct": 1.0, "length": 0.5}, "boxes": {"weighted": 1.0}}, "direct")
