"""BLEU-4 against NLTK and by hand, and the credit of what a policy could say instead of looking."""

import math

import pytest
from tests.tasks.samples import make_sample

from pathloom.tasks import find_task
from pathloom.tasks.bleu import best_constant_bleu4, bleu4

CAPTIONS = tuple(
    f"{grade} tumour of {organ} with {extent} necrosis in a fibrous stroma."
    for grade in ("Low grade", "High grade")
    for organ in ("the breast", "the colon", "the skin")
    for extent in ("focal", "wide", "no")
)
"""18 sentences of one form that differ in three of ten words or so, as reports do."""


def mean(said: list[str]) -> float:
    return sum(bleu4(one, true) for one, true in zip(said, CAPTIONS, strict=True)) / len(CAPTIONS)


def test_bleu_is_the_geometric_mean_of_four_precisions_by_hand():
    # 5 of 6 words, 4 of 5 pairs, 3 of 4 triples, 2 of 3 fours, no brevity penalty
    expected = (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert bleu4(
        "glands with cribriform growth and necrosis", "glands with cribriform growth and atypia"
    ) == (pytest.approx(expected))


def test_precisions_of_nothing_are_smoothed_by_method_4():
    # "a b x c d": 4 of 5 words, 2 of 4 pairs, then ln(5) / (2 x 5) of 3 triples and ln(5) / (4 x 5) of 2 fours
    # Chen & Cherry 2014, with NLTK's k of 5
    precisions = (4 / 5, 2 / 4, math.log(5) / 10 / 3, math.log(5) / 20 / 2)
    assert bleu4("a b x c d", "a b y c d") == pytest.approx(math.prod(precisions) ** 0.25)


def test_a_shorter_answer_is_punished_by_the_exponential_of_the_ratio():
    assert bleu4("clear cell", "clear cell carcinoma") == pytest.approx(math.exp(1 - 3 / 2))


@pytest.mark.parametrize("text", ["necrosis", "clear cell", "clear cell carcinoma", CAPTIONS[0]])
def test_the_truth_itself_earns_one_however_short_it_is(text: str):
    assert bleu4(text, text) == pytest.approx(1.0)
    assert bleu4(text.upper() + "!", text) == pytest.approx(1.0), "neither case nor punctuation counts"


@pytest.mark.parametrize("text", ["", " ", "...", "_ _", "\x00", "melanoma"])
def test_no_words_and_no_shared_words_earn_nothing(text: str):
    assert bleu4(text, CAPTIONS[0]) == 0.0
    assert bleu4(CAPTIONS[0], text) == 0.0


def test_stuffing_is_paid_less_than_one_caption_for_all():
    constant = best_constant_bleu4(CAPTIONS)
    assert constant == pytest.approx(mean([CAPTIONS[0]] * 18), abs=0.05)
    assert 0.4 < constant < 0.7, "sentences of one form: a constant one earns half"
    stuffed = {
        "the commonest four words over and over": ["in a fibrous stroma " * 3] * 18,
        "the commonest word": ["a " * 12] * 18,
        "every caption": [" ".join(CAPTIONS)] * 18,
        "the truth ten times": [caption * 10 for caption in CAPTIONS],
        "the commonest four words": ["in a fibrous stroma"] * 18,
        "all words": [" ".join(sorted(set(" ".join(CAPTIONS).split())))] * 18,
    }
    for name, said in stuffed.items():
        assert mean(said) < constant, name


def test_looking_is_paid_more_than_one_caption_for_all():
    assert mean([caption.replace("fibrous ", "") for caption in CAPTIONS]) > best_constant_bleu4(CAPTIONS)


def test_known_faults_a_denial_is_nearly_right_and_other_words_are_wrong():
    assert bleu4(CAPTIONS[2], CAPTIONS[0]) > 0.6, "no necrosis against focal necrosis"
    assert bleu4("malignant melanocytic neoplasm", "melanoma of the skin") == 0.0


def test_a_copied_question_earns_what_it_shares_with_the_answer():
    task = find_task("short_answer")
    sample = make_sample("short_answer", question="Which clear cell tumour is shown?")
    copied = task.score(sample, f"<answer>{sample.question}</answer>", task.templates[0])
    assert copied.correct == 0.0
    assert 0.0 < copied.parts["bleu4"] < 0.3


def test_a_long_answer_takes_time_in_proportion_and_earns_nothing_much():
    assert bleu4("focal necrosis " * 20_000, CAPTIONS[0]) < 0.01


@pytest.mark.parametrize("name", ["short_answer", "caption", "report", "dialogue"])
def test_open_answers_have_bleu_as_a_part_that_may_be_rewarded(name: str):
    task, sample = find_task(name), make_sample(name)
    score = task.score(sample, task.target(sample, task.templates[0], "direct"), task.templates[0])
    assert "bleu4" in task.rewards
    assert score.parts["bleu4"] == pytest.approx(1.0)


def test_no_captions_have_no_constant():
    assert best_constant_bleu4([]) == 0.0
