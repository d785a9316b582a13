"""Ordered scales: credit by distance, and what a policy earns that never looks."""

from itertools import pairwise, product

import pytest
from sklearn.metrics import cohen_kappa_score
from tests.tasks.samples import make_sample

from pathloom.evaluate.tallies import Scored, tallies
from pathloom.schema import Sample
from pathloom.tasks import find_task
from pathloom.tasks.ordinal import ORDINAL, best_constant_credit, place_on_scale
from pathloom.tasks.task import Score

SCALE = ("grade 1", "grade 2", "grade 3", "grade 4", "grade 5")


def graded(truth: str, answer: str, scale: tuple[str, ...] = SCALE) -> Score:
    sample = make_sample("ordinal", choices=scale, answer=truth)
    return ORDINAL.score(sample, f"<answer>{answer}</answer>", ORDINAL.templates[0])


def credit(truth: str, answer: str, scale: tuple[str, ...] = SCALE) -> float:
    return graded(truth, answer, scale).parts.get("ordinal", 0.0)


def balanced(scale: tuple[str, ...] = SCALE) -> list[Sample]:
    return [make_sample("ordinal", name=f"s{k}", choices=scale, answer=step) for k, step in enumerate(scale)]


def test_credit_falls_linearly_with_the_number_of_steps():
    assert [credit("grade 1", step) for step in SCALE] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [credit("grade 3", step) for step in SCALE] == [0.5, 0.75, 1.0, 0.75, 0.5]
    assert [graded("grade 3", step).correct for step in SCALE] == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_credit_is_the_linear_weight_of_kappa():
    # weighted agreement beyond chance is kappa itself when the weights are these
    truths, answers = zip(*[*product(SCALE, SCALE)][:-1], strict=True)
    observed = sum(map(credit, truths, answers)) / len(truths)
    expected = sum(credit(truth, answer) for truth in truths for answer in answers) / len(truths) ** 2
    kappa = cohen_kappa_score(truths, answers, weights="linear")
    assert (observed - expected) / (1 - expected) == pytest.approx(kappa)


def test_the_middle_of_the_scale_said_of_all_is_paid_what_chance_says_and_less_than_looking():
    always_middle = sum(credit(step, "grade 3") for step in SCALE) / len(SCALE)
    assert always_middle == best_constant_credit(balanced()) == pytest.approx(0.7)
    assert sum(graded(step, "grade 3").correct for step in SCALE) / len(SCALE) == 0.2
    honest_but_one_off = sum(credit(a, b) for a, b in pairwise(SCALE)) / (len(SCALE) - 1)
    assert always_middle < honest_but_one_off == 0.75


def test_a_scale_of_two_pays_a_constant_answer_half():
    assert best_constant_credit(balanced(("low", "high"))) == 0.5
    assert best_constant_credit([]) == 0.0


@pytest.mark.parametrize(
    "said",
    [
        "grade 2 or grade 3",
        "grade 2, grade 3",
        "grade 2-3",
        "grade 0",
        "grade 6",
        "3",
        "grade 1 grade 2",
        "higher",
    ],
)
def test_two_steps_or_one_that_is_not_on_the_scale_earn_nothing(said: str):
    score = graded("grade 3", said)
    assert score.answer is None
    assert score.correct == 0.0
    assert credit("grade 3", said) == 0.0


def test_a_sample_without_its_scale_or_off_it_is_refused():
    for fields, message in (
        ({"choices": ()}, "two choices or more"),
        ({"choices": ("low",), "answer": "low"}, "two choices or more"),
        ({"answer": "severe"}, "'severe' is not one of the scale"),
        ({"choices": ("low", "low.", "high"), "answer": "low"}, "not one of the scale"),
    ):
        sample = make_sample("ordinal", **fields)
        with pytest.raises(ValueError, match=message):
            ORDINAL.truth(sample)


def test_the_scale_stands_in_its_order_in_every_wording_and_training_never_turns_it():
    assert not ORDINAL.any_order
    sample = make_sample("ordinal", choices=SCALE, answer="grade 4")
    for template in ORDINAL.templates:
        assert "; ".join(SCALE) in ORDINAL.render(sample, template, "direct").user
    assert place_on_scale(sample, "Grade 4.") == 3


def test_kappa_and_credit_of_many_answers_with_what_silence_costs():
    task = find_task("ordinal")
    truths = ["grade 1", "grade 2", "grade 3", "grade 4", "grade 5", "grade 5"]
    answers = ["grade 2", "grade 2", "grade 5", "grade 4", None, "grade 4"]
    scored = []
    for truth, answer in zip(truths, answers, strict=True):
        sample = make_sample("ordinal", choices=SCALE, answer=truth)
        scored.append(Scored(sample, graded(truth, answer) if answer else Score(None, 0.0)))
    found = tallies(task, scored)
    silent_as_furthest = ["grade 1" if answer is None else answer for answer in answers]
    assert found["quadratic_kappa"].value == pytest.approx(
        cohen_kappa_score(truths, silent_as_furthest, weights="quadratic", labels=list(SCALE))
    )
    assert found["ordinal"].value == pytest.approx((0.75 + 1 + 0.5 + 1 + 0 + 0.75) / 6)
    assert found["balanced_accuracy"].value == pytest.approx((0 + 1 + 0 + 1 + 0) / 5)
    assert found["accuracy"].value == pytest.approx(2 / 6)


def test_scales_of_different_lengths_have_no_kappa():
    scored = [
        Scored(make_sample("ordinal", choices=scale, answer=scale[0]), Score(scale[0], 1.0, {"ordinal": 1.0}))
        for scale in (SCALE, SCALE[:3])
    ]
    assert "quadratic_kappa" not in tallies(find_task("ordinal"), scored)
