"""Words for questions without pictures: what training reads, a test never asks about."""

from collections import Counter

import numpy as np
import pytest

from pathloom.phantom.words import (
    GENERAL,
    HELD_OUT_GENERAL,
    PATHOLOGY,
    blended_word,
    is_held_out,
    made_up_word,
    pick_words,
)


def test_a_word_is_either_for_training_or_held_out():
    assert set(GENERAL) & set(HELD_OUT_GENERAL) == set()
    assert not any(is_held_out(word) for word in GENERAL)
    assert all(is_held_out(word) for word in HELD_OUT_GENERAL)
    assert 0.07 < len(HELD_OUT_GENERAL) / len(GENERAL + HELD_OUT_GENERAL) < 0.14


def test_no_term_of_pathology_is_held_out():
    assert not any(is_held_out(word) for word in PATHOLOGY)
    assert set(PATHOLOGY) & set(HELD_OUT_GENERAL) == set()
    assert {"adenocarcinoma", "keratin", "melanin", "stroma"} <= set(PATHOLOGY)


def test_the_lists_hold_each_word_once_in_plain_letters():
    for words in (GENERAL, HELD_OUT_GENERAL, PATHOLOGY):
        assert len(words) == len(set(words))
        assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


@pytest.mark.parametrize("word", ["water", "robot", "village", "violin", "pilot"])
def test_these_words_stay_held_out_as_a_trained_base_relies_on_it(word):
    assert is_held_out(word)


@pytest.mark.parametrize("word", ["answer", "kind", "number"])
def test_a_word_that_questions_are_worded_with_is_in_no_list(word):
    assert word not in {*GENERAL, *HELD_OUT_GENERAL, *PATHOLOGY}


@pytest.mark.parametrize("word", ["give", "level", "number", "dermis", "keratin", "nodule"])
def test_a_word_of_training_that_chance_could_make_up_is_not_held_out(word):
    assert not is_held_out(word)


@pytest.mark.parametrize("held_out", [False, True])
def test_made_up_words_keep_to_their_side_and_have_no_end(held_out):
    rng = np.random.default_rng(0)
    words = [made_up_word(rng, held_out=held_out) for _ in range(300)]

    assert all(is_held_out(word) == held_out for word in words)
    assert all(word.isalpha() and word.islower() and 4 <= len(word) <= 15 for word in words)
    assert len(set(words)) > 290


@pytest.mark.parametrize("held_out", [False, True])
def test_picked_words_differ_and_keep_to_their_side(held_out):
    rng = np.random.default_rng(1)

    for _ in range(200):
        words = pick_words(rng, 6, held_out=held_out)
        assert len(set(words)) == len(words) == 6
        assert all(is_held_out(word) == held_out for word in words)


def shares(held_out: bool) -> dict[str, float]:
    """Where 2000 picked words come from; a term that is also a plain word counts as plain."""
    rng = np.random.default_rng(2)
    lists = {"plain": {*GENERAL, *HELD_OUT_GENERAL}, "term": {*PATHOLOGY} - {*GENERAL}}
    found = Counter(
        next((name for name, words in lists.items() if word in words), "made up")
        for _ in range(500)
        for word in pick_words(rng, 4, held_out=held_out)
    )
    return {name: number / 2000 for name, number in found.items()}


def test_training_words_are_plain_ones_terms_and_made_up_ones():
    assert shares(held_out=False) == pytest.approx({"plain": 0.4, "term": 0.2, "made up": 0.4}, abs=0.05)


def test_test_words_are_plain_ones_and_made_up_ones():
    assert shares(held_out=True) == pytest.approx({"plain": 0.5, "made up": 0.5}, abs=0.05)


@pytest.mark.parametrize("held_out", [False, True])
def test_blended_words_keep_to_their_side_and_are_a_head_and_a_tail_of_training_words(held_out):
    rng = np.random.default_rng(0)
    words = [blended_word(rng, held_out=held_out) for _ in range(300)]
    plain = [*GENERAL, *PATHOLOGY]

    assert all(is_held_out(word) == held_out and 3 <= len(word) <= 12 for word in words)
    assert len(set(words)) > 290
    for word in words[:50]:
        assert any(
            any(other.startswith(word[:cut]) for other in plain)
            and any(other.endswith(word[cut:]) for other in plain)
            for cut in range(1, len(word) + 1)
        )
    assert len(set(words) - set(plain)) > 270
