"""What makes a held-out wording held out, and that captions say what is drawn."""

import re
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from pathloom.phantom.cell import draw_cell
from pathloom.phantom.pair_wording import (
    HELD_OUT_WRITERS,
    TRAINING_WRITERS,
    WRITERS,
    Facts,
    Writer,
    cell_facts,
    phrases,
    tissue_facts,
    write_caption,
)
from pathloom.phantom.tissue import DIAGNOSES, draw_tissue

WORD = re.compile(r"[a-z][a-z/&-]*")


@pytest.fixture(scope="module")
def pictures() -> list[Facts]:
    tissues = [
        draw_tissue(seed, size_px=64, diagnosis=DIAGNOSES[seed % 6], num_mitoses=seed % 5)
        for seed in range(120)
    ]
    cells = [draw_cell(seed, size_px=64) for seed in range(120)]
    return [*map(tissue_facts, tissues), *map(cell_facts, cells)]


@pytest.fixture(scope="module")
def captions(pictures: list[Facts]) -> Mapping[Writer, list[str]]:
    rng = np.random.default_rng(0)
    return {
        writer: [write_caption(writer, facts, rng) for facts in pictures for _ in range(8)]
        for writer in WRITERS
    }


def words(texts: list[str]) -> set[str]:
    return {word for text in texts for word in WORD.findall(text.lower())}


def every_phrase(writer: Writer, pictures: list[Facts]) -> Iterator[str]:
    for facts in pictures:
        for fact, value in facts.items():
            if fact != "structure":
                yield from phrases(writer, fact, value)


def test_the_unseen_wording_has_only_words_that_training_reads(captions):
    training = words([text for writer in TRAINING_WRITERS for text in captions[writer]])

    assert words(captions["unseen"]) - training == set()


def test_the_reworded_captions_have_only_words_of_the_first_stage(captions):
    assert words(captions["reworded"]) - words(captions["patch"]) == set()


@pytest.mark.parametrize("writer", HELD_OUT_WRITERS)
def test_no_writer_of_training_uses_a_phrase_of_a_held_out_one(writer, pictures):
    # The bare name of an organ or a class is no wording.
    held_out = {phrase.lower() for phrase in every_phrase(writer, pictures) if " " in phrase}
    training = {phrase.lower() for other in TRAINING_WRITERS for phrase in every_phrase(other, pictures)}

    assert held_out & training == set()


@pytest.mark.parametrize("writer", HELD_OUT_WRITERS)
def test_a_held_out_caption_is_no_caption_of_training(writer, captions):
    seen = {text for other in TRAINING_WRITERS for text in captions[other]}

    assert seen & set(captions[writer]) == set()


@pytest.mark.parametrize("writer", WRITERS)
def test_captions_are_hardly_ever_told_twice(writer, captions):
    """Else a caption would be right for many pictures, and recall would say little."""
    told = captions[writer]
    limit = 0.85 if writer == "spoken" else 0.93  # idle talk is from a short list
    assert len(set(told)) >= limit * len(told)
    assert all(text.strip() and "{" not in text for text in told)


def test_a_writer_of_training_differs_from_the_first_in_most_words(captions):
    first = words(captions["patch"])

    assert len(words(captions["spoken"]) - first) > 100
    assert len(words(captions["legend"]) - first) > 60


@pytest.mark.parametrize("writer", WRITERS)
def test_every_value_can_be_said(writer, pictures):
    for facts in pictures:
        for fact, value in facts.items():
            assert fact == "structure" or phrases(writer, fact, value), (fact, value)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_caption_says_what_is_drawn_and_nothing_else(writer, pictures):
    """Each value of a fact has phrases of its own, so a caption cannot be true of another value by its phrase."""
    by_fact: dict[str, dict[str, set[str]]] = {}
    for facts in pictures:
        for fact, value in facts.items():
            if fact not in ("structure", "organ"):
                by_fact.setdefault(fact, {}).setdefault(value, set()).update(phrases(writer, fact, value))
    for fact, values in by_fact.items():
        said = [phrase for options in values.values() for phrase in options]
        assert len(set(said)) == len(said), fact


def test_the_same_generator_writes_the_same_caption(pictures):
    for writer in WRITERS:
        one, another = (write_caption(writer, pictures[3], np.random.default_rng(7)) for _ in range(2))
        assert one == another
