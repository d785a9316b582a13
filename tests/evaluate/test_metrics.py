"""Metrics against formulas worked out by hand, and intervals against closed forms."""

import math
import random
import tracemalloc
from collections.abc import Sequence

import pytest
from tests.tasks.samples import make_sample

from pathloom.evaluate import metrics
from pathloom.evaluate.metrics import (
    Scored,
    agreement,
    compare,
    compare_runs,
    confusion,
    measure,
    named_finding,
    resampling_unit,
)
from pathloom.schema import Region
from pathloom.tasks import find_task

CHOICE, YES_NO, LABEL = find_task("choice"), find_task("yes_no"), find_task("label")
COUNT, BOXES, SHORT = find_task("count"), find_task("boxes"), find_task("short_answer")


def answered(
    task_name: str, text: str | None, *, number: int = 0, group: str | None = None, **fields
) -> Scored:
    """The ordinary Sample of a task with this answer block; None is a completion without one."""
    task = find_task(task_name)
    name = f"s{number}"
    sample = make_sample(task_name, name=name, group=group if group is not None else name, **fields)
    completion = "no idea" if text is None else f"<answer>{text}</answer>"
    template = next(template for template in task.templates if template.frame == "px")
    return Scored(sample, task.score(sample, completion, template))


def yes_no_row(right: Sequence[bool], groups: Sequence[str] | None = None) -> list[Scored]:
    groups = groups or [f"g{k}" for k in range(len(right))]
    return [
        answered("yes_no", "yes" if ok else "no", number=k, group=group)
        for k, (ok, group) in enumerate(zip(right, groups, strict=True))
    ]


def width(interval: metrics.Interval) -> float:
    return interval.high - interval.low


def test_the_interval_of_a_share_is_the_normal_one_for_many_independent_samples():
    right = [k % 10 < 3 for k in range(2000)]
    accuracy = measure(YES_NO, yes_no_row(right), num_resamples=4000)["accuracy"]
    half = 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert accuracy.value == pytest.approx(0.3)
    assert accuracy.low == pytest.approx(0.3 - half, abs=0.0025)
    assert accuracy.high == pytest.approx(0.3 + half, abs=0.0025)


def test_samples_that_agree_within_their_group_count_once_a_group():
    # 100 groups of 20 equal samples: the interval is that of 100 independent ones, sqrt(20) times wider.
    right = [group % 2 == 0 for group in range(100) for _ in range(20)]
    groups = [f"g{group}" for group in range(100) for _ in range(20)]
    clustered = measure(YES_NO, yes_no_row(right, groups))["accuracy"]
    independent = measure(YES_NO, yes_no_row(right))["accuracy"]
    assert clustered.value == independent.value == 0.5
    assert width(clustered) == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 100), rel=0.1)
    assert width(clustered) / width(independent) == pytest.approx(math.sqrt(20), rel=0.15)


def test_groups_of_unequal_size_are_weighted_by_their_samples():
    scored = yes_no_row([True, True, True, False], ["big", "big", "big", "small"])
    accuracy = measure(YES_NO, scored)["accuracy"]
    # Resamples hold big twice, both, or small twice: accuracies 1, 3/4 and 0 with weights 1/4, 1/2, 1/4.
    assert accuracy == metrics.Interval(0.75, 0.0, 1.0)


def test_one_group_alone_is_resampled_by_sample_and_says_so():
    scored = yes_no_row([k % 2 == 0 for k in range(100)], ["only"] * 100)
    assert resampling_unit(scored) == "sample"
    assert resampling_unit(yes_no_row([True, False])) == "group"
    assert width(measure(YES_NO, scored)["accuracy"]) == pytest.approx(2 * 1.96 * 0.05, rel=0.15)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    scored = yes_no_row([k % 3 == 0 for k in range(60)])
    assert measure(YES_NO, scored, seed=4) == measure(YES_NO, scored, seed=4)
    assert measure(YES_NO, scored, seed=4)["accuracy"] != measure(YES_NO, scored, seed=5)["accuracy"]


def test_drawing_in_small_pieces_gives_the_same_interval(monkeypatch: pytest.MonkeyPatch):
    scored = yes_no_row([k % 3 == 0 for k in range(60)])
    whole = measure(YES_NO, scored)
    monkeypatch.setattr(metrics, "CELLS_AT_ONCE", 1000)
    assert measure(YES_NO, scored) == whole


def test_many_samples_fit_in_bounded_memory():
    samples = yes_no_row([k % 2 == 0 for k in range(5000)])
    tracemalloc.start()
    try:
        measure(YES_NO, samples, num_resamples=2000)
        assert tracemalloc.get_traced_memory()[1] < 120e6  # all weights at once would take 240 MB
    finally:
        tracemalloc.stop()


def test_no_samples_and_no_resamples_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        measure(YES_NO, [])
    with pytest.raises(ValueError, match="num_resamples is 0"):
        measure(YES_NO, yes_no_row([True]), num_resamples=0)


def test_every_task_gives_its_own_metric_first_and_then_the_parse_rate():
    for task_name, text in (("choice", "B"), ("yes_no", "yes"), ("label", "lsil"), ("count", "7"), ("boxes", "[]"),
                            ("short_answer", "fat"), ("caption", "fat")):  # fmt: skip
        task = find_task(task_name)
        names = list(measure(task, [answered(task_name, text), answered(task_name, None, number=1)]))
        assert names[:2] == [task.metric, "parse_rate"]


def test_an_unparsed_answer_is_wrong_in_every_metric():
    for task in (CHOICE, YES_NO, LABEL, COUNT, SHORT, BOXES, find_task("caption")):
        result = measure(task, [answered(task.name, None, number=k) for k in range(3)])
        for name, interval in result.items():
            if name == "mean_absolute_error":
                assert math.isnan(interval.value)
                assert math.isnan(interval.low)
            else:
                assert interval == metrics.Interval(0.0, 0.0, 0.0), (task.name, name)


def test_count_errors_are_averaged_over_parsed_answers_only():
    scored = [answered("count", text, number=k) for k, text in enumerate(("7", "9", "3", None))]
    result = measure(COUNT, scored)
    assert result["accuracy"].value == 0.25
    assert result["parse_rate"].value == 0.75
    assert result["mean_absolute_error"].value == pytest.approx((0 + 2 + 4) / 3)


def test_short_answers_are_also_measured_by_shared_words():
    scored = [
        answered("short_answer", text, number=k)
        for k, text in enumerate(("Clear cell carcinoma.", "carcinoma"))
    ]
    result = measure(SHORT, scored)
    assert result["accuracy"].value == 0.5
    assert result["token_f1"].value == pytest.approx((1 + 2 * 1 * (1 / 3) / (1 + 1 / 3)) / 2)


def test_boxes_are_pooled_over_samples():
    # Two true boxes each. First: one hit of one. Second: one hit of three. Third: cut off.
    texts = ("[[20,10,80,60]]", "[[120,30,180,90],[0,0,5,5],[0,0,9,9]]", None)
    result = measure(BOXES, [answered("boxes", text, number=k) for k, text in enumerate(texts)])
    assert result["precision"].value == pytest.approx(2 / 4)
    assert result["recall"].value == pytest.approx(2 / 6)
    assert result["f1"].value == pytest.approx(2 * 2 / (4 + 6))
    assert result["ap50"].value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert result["mean_iou"].value == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert result["parse_rate"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("text", "f1"), [("[]", 1.0), ("[[1,1,5,5]]", 0.0), (None, 0.0)])
def test_an_empty_picture_rewards_saying_so_and_neither_inventing_nor_silence(text: str | None, f1: float):
    result = measure(BOXES, [answered("boxes", text, regions=())])
    assert [result[name].value for name in ("f1", "precision", "recall", "ap50", "mean_iou")][:1] == [f1]
    assert result["precision"].value == f1


def test_label_metrics_equal_those_worked_out_by_hand():
    pairs = [
        ("hsil", "hsil"),
        ("hsil", "hsil"),
        ("hsil", "lsil"),
        ("hsil", None),
        ("lsil", "lsil"),
        ("lsil", "normal"),
    ]
    scored = [answered("label", given, number=k, answer=true) for k, (true, given) in enumerate(pairs)]
    result = measure(LABEL, scored)
    assert result["accuracy"].value == pytest.approx(3 / 6)
    assert result["balanced_accuracy"].value == pytest.approx((2 / 4 + 1 / 2) / 2)
    # F1 = 2 found / (occurring + given): hsil 4 / (4 + 2), lsil 2 / (2 + 2); normal never occurs
    assert result["macro_f1"].value == pytest.approx((4 / 6 + 2 / 4) / 2)


def test_a_constant_label_reaches_chance_and_no_more():
    truths = ["hsil"] * 8 + ["lsil", "normal"]
    scored = [answered("label", "hsil", number=k, answer=true) for k, true in enumerate(truths)]
    result = measure(LABEL, scored)
    assert result["accuracy"].value == 0.8
    assert result["balanced_accuracy"].value == pytest.approx(1 / 3)
    assert result["balanced_accuracy"].value == pytest.approx(LABEL.chance([one.sample for one in scored]))


# -------------------------------------------------------------------------------------------- comparison
def test_mcnemars_exact_p_value_of_a_small_table():
    # 10 samples: 2 right before only, 8 right after only. Two-sided: 2 (1 + 10 + 45) / 2**10.
    before, after = (
        yes_no_row([True] * 2 + [False] * 8 + [True] * 5),
        yes_no_row([False] * 2 + [True] * 8 + [True] * 5),
    )
    result = compare(YES_NO, before, after)
    assert result.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert result.difference == pytest.approx(6 / 15)
    assert result.n == 15
    assert result.low < result.difference < result.high


def test_the_same_answers_differ_by_nothing_and_prove_nothing():
    for groups in (None, ["g"] * 10 + ["h"] * 10):
        scored = yes_no_row([k % 2 == 0 for k in range(20)], groups)
        assert compare(YES_NO, scored, scored) == metrics.Difference(0.0, 0.0, 0.0, 20, 1.0)


def test_turning_the_sides_round_turns_the_sign_only():
    before, after = yes_no_row([k % 3 == 0 for k in range(40)]), yes_no_row([k % 2 == 0 for k in range(40)])
    forth, back = compare(YES_NO, before, after), compare(YES_NO, after, before)
    assert back.difference == pytest.approx(-forth.difference)
    assert [back.low, back.high] == pytest.approx([-forth.high, -forth.low])
    assert back.p_value == forth.p_value


def test_a_paired_interval_is_narrower_than_two_separate_ones():
    before = yes_no_row([k % 2 == 0 for k in range(200)])
    after = yes_no_row([k % 2 == 0 or k < 20 for k in range(200)])
    paired = compare(YES_NO, before, after)
    assert paired.high - paired.low < 0.6 * width(measure(YES_NO, after)["accuracy"])
    assert paired.low > 0


def test_groups_widen_the_difference_and_use_the_bootstraps_p_value():
    groups = [f"g{k // 10}" for k in range(60)]
    before, after = (
        yes_no_row([False] * 60, groups),
        yes_no_row([k // 10 in (0, 3) for k in range(60)], groups),
    )
    clustered = compare(YES_NO, before, after)
    single = compare(YES_NO, yes_no_row([False] * 60), yes_no_row([k // 10 in (0, 3) for k in range(60)]))
    assert clustered.difference == single.difference == pytest.approx(1 / 3)
    assert clustered.high - clustered.low > 2 * (single.high - single.low)
    # No resample can be below 0, and all six groups miss both gains with probability (4/6)**6 = 0.088.
    assert clustered.p_value == pytest.approx(2 * (4 / 6) ** 6, abs=0.03)
    assert single.p_value == pytest.approx(2 / 2**20)


def test_a_metric_that_is_no_share_of_right_answers_is_compared_by_bootstrap():
    right = [answered("boxes", "[[20,10,80,60],[120,30,180,90]]", number=k) for k in range(12)]
    half = [answered("boxes", "[[20,10,80,60]]", number=k) for k in range(12)]
    result = compare(BOXES, half, right, num_resamples=999)
    assert result.difference == pytest.approx(1 - 2 / 3)
    assert result.p_value == pytest.approx(2 / 1000)


def test_the_order_of_the_sides_does_not_matter():
    before, after = yes_no_row([True, False, False]), yes_no_row([True, True, False])
    assert compare(YES_NO, before, after[::-1]) == compare(YES_NO, before, after)


def test_sides_with_other_samples_or_one_twice_are_refused():
    three = yes_no_row([True] * 3)
    with pytest.raises(ValueError, match=r"different samples \(1 on one side only, first 's2'\)"):
        compare(YES_NO, three, three[:2])
    with pytest.raises(ValueError, match="'s0' stands twice on the after side"):
        compare(YES_NO, three, [*three, three[0]])


# --------------------------------------------------------------------------- confusion and reasoning
def test_runs_with_other_seeds_are_averaged_for_each_sample_before_sides_are_compared():
    # before: 0 1 0 1; after: means 1, 1, 0.5, 0.5 over two runs, so the differences are 1, 0, 0.5, -0.5
    before = [yes_no_row([False, True, False, True])]
    after = [yes_no_row([True, True, True, False]), yes_no_row([True, True, False, True])]

    result = compare_runs(before, after)

    assert result.difference == pytest.approx(0.25)
    assert result.n == 4
    assert result.low < 0.25 < result.high
    assert compare_runs(after, before).difference == pytest.approx(-0.25)


def test_more_runs_of_one_training_narrow_the_interval_no_further_than_their_samples_do():
    rng = random.Random(0)
    before = [yes_no_row([rng.random() < 0.5 for _ in range(400)])]
    one = yes_no_row([rng.random() < 0.6 for _ in range(400)])

    once, thrice = compare_runs(before, [one]), compare_runs(before, [one, one, one])

    assert (once.low, once.high) == (thrice.low, thrice.high)
    single = compare(YES_NO, before[0], one)
    assert (once.difference, once.low, once.high) == pytest.approx(
        (single.difference, single.low, single.high)
    )


def test_runs_that_answered_other_samples_are_refused():
    with pytest.raises(ValueError, match="the same samples in the same order"):
        compare_runs([yes_no_row([True, False])], [yes_no_row([True])])


def test_confusion_counts_truth_by_prediction_with_a_last_column_for_no_answer():
    pairs = [("hsil", "hsil"), ("hsil", "LSIL"), ("lsil", "lsil"), ("lsil", None), ("hsil", "normal")]
    scored = [answered("label", given, number=k, answer=true) for k, (true, given) in enumerate(pairs)]
    labels, counts = confusion(scored)
    assert labels == ("lsil", "hsil", "normal"), "as cytologists list them, then others by the alphabet"
    assert counts == ((1, 0, 0, 1), (1, 1, 1, 0), (0, 0, 0, 0))


def test_confusion_of_choices_is_by_text_not_by_letter():
    order = ("necrosis", "mitosis")
    scored = [answered("choice", "A", choices=order), answered("choice", "B", number=1, choices=order[::-1])]
    assert confusion(scored) == (("necrosis",), ((2, 0),))


VOCABULARY = ("carcinoma", "Carcinoma in situ", "squamous cell carcinoma", "HSIL", "wart (flat)")


@pytest.mark.parametrize(
    ("reasoning", "finding"),
    [
        ("It may be carcinoma, but HSIL fits.", "HSIL"),
        ("It may be hsil, but it is a carcinoma in situ.", "Carcinoma in situ"),
        ("carcinoma\n in  situ", "Carcinoma in situ"),
        ("A squamous cell carcinoma", "squamous cell carcinoma"),
        ("adenocarcinoma", None),
        ("carcinomas", None),
        ("a wart (flat) here", "wart (flat)"),
        ("carcinoma in situ, so carcinoma", "carcinoma"),
        ("", None),
    ],
)
def test_the_finding_mentioned_last_in_whole_words_is_the_named_one(reasoning: str, finding: str | None):
    assert named_finding(reasoning, VOCABULARY) == finding
    assert named_finding(reasoning, ()) is None


def agree(task_name: str, rows: Sequence[tuple[dict, str]]) -> dict[str, float]:
    task = find_task(task_name)
    scored, completions = [], []
    for number, (fields, completion) in enumerate(rows):
        sample = make_sample(task_name, name=f"s{number}", group=f"g{number}", **fields)
        scored.append(Scored(sample, task.score(sample, completion, task.templates[-1])))
        completions.append(completion)
    return {name: interval.value for name, interval in agreement(task, scored, completions).items()}


def test_a_choice_agrees_when_the_reasoning_names_what_is_answered():
    asked = {"finding": "necrosis"}
    result = agree("choice", [
        (asked, "<think>this is necrosis</think><answer>B</answer>"),  # agrees with both
        (asked, "<think>this is necrosis</think><answer>A</answer>"),  # with the truth only
        (asked, "<think>this is fibrosis</think><answer>A</answer>"),  # with the answer only
        (asked, "<think>hard to say</think><answer>B</answer>"),  # names none: disagrees with the truth
        (asked, "<think>this is necrosis</think>"),  # no answer: only the truth can be agreed with
        ({}, "<think>this is necrosis</think><answer>B</answer>"),  # nothing was to be named
    ])  # fmt: skip
    assert result["finding_agrees_with_truth"] == pytest.approx(3 / 5)
    assert result["finding_agrees_with_answer"] == pytest.approx(2 / 3)


def test_a_yes_or_no_agrees_when_the_named_finding_implies_it():
    asked = {"finding": "necrosis", "asked_finding": "necrosis", "answer": "yes"}
    denied = {"finding": "fibrosis", "asked_finding": "necrosis", "answer": "no"}
    result = agree("yes_no", [
        (asked, "<think>necrosis</think><answer>yes</answer>"),
        (asked, "<think>fibrosis</think><answer>yes</answer>"),
        (denied, "<think>fibrosis</think><answer>no</answer>"),
        (denied, "<think>necrosis</think><answer>no</answer>"),
    ])  # fmt: skip
    assert result == {"finding_agrees_with_truth": 0.5, "finding_agrees_with_answer": 0.5}


def test_a_finding_that_is_not_what_is_asked_says_nothing_about_the_answer():
    fields = {"finding": "melanoma", "choices": ("H&E", "silver"), "answer": "silver"}
    result = agree("choice", [(fields, "<think>a melanoma</think><answer>A</answer>")])
    assert result == {"finding_agrees_with_truth": 1.0}


def test_tasks_without_an_implied_answer_agree_with_the_truth_only_and_samples_without_findings_not_at_all():
    assert agree("count", [({"finding": "HSIL"}, "<think>seven hsil</think><answer>7</answer>")]) == {
        "finding_agrees_with_truth": 1.0
    }
    assert agree("yes_no", [({}, "<answer>yes</answer>")]) == {}


def test_reasoning_and_answers_must_stand_side_by_side():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        agreement(YES_NO, yes_no_row([True, False]), ["one"])


def test_random_boxes_give_metrics_between_nothing_and_everything():
    dice = random.Random(2)
    scored = []
    for k in range(30):
        x, y = dice.randrange(100), dice.randrange(50)
        text = f"[[{x},{y},{x + 60},{y + 40}]]"
        regions = tuple(Region(box_px=(20, 10, 90, 60)) for _ in range(dice.randrange(3)))
        scored.append(answered("boxes", dice.choice([text, "[]", None]), number=k, regions=regions))
    for interval in measure(BOXES, scored).values():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1
