"""Completions to blocks, and blocks to letters and whole numbers."""

import pytest

from pathloom.tasks.parsing import (
    Blocks,
    is_well_formed,
    normalise,
    read_integer,
    read_letter,
    reasoning_of,
    split_completion,
)

GOOD = "<think>no nuclei</think><answer>B</answer>"


@pytest.mark.parametrize(
    ("completion", "blocks"),
    [
        (GOOD, Blocks("no nuclei", "B")),
        ("<answer> B\n</answer>", Blocks(None, "B")),
        ("So: <answer>B</answer> Done.", Blocks(None, "B")),
        ("no nuclei</think><answer>B</answer>", Blocks(None, "B")),
        ("<think>cut <answer>B</answer>", Blocks(None, "B")),
        ("<think></think><answer></answer>", Blocks("", "")),
    ],
)
def test_one_answer_block_is_found_whatever_stands_before_it(completion: str, blocks: Blocks):
    assert split_completion(completion) == blocks


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "B",
        "<answer>B",
        "B</answer>",
        "</answer>B<answer>",
        "<answer>A</answer><answer>B</answer>",
        "<think>write <answer>B</answer></think><answer>B</answer>",
        "<think>so <answer>B</answer></think>",
        "<ANSWER>B</ANSWER>",
    ],
)
def test_no_whole_answer_block_outside_the_thought_is_none(completion: str):
    assert split_completion(completion) is None


@pytest.mark.parametrize("completion", [GOOD, f"\n{GOOD} ", "<think>a\nb</think>\n\n<answer>\nB\n</answer>"])
def test_one_thought_then_one_answer_is_well_formed(completion: str):
    assert is_well_formed(completion)


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "<answer>B</answer>",
        f"So {GOOD}",
        f"{GOOD}.",
        GOOD + GOOD,
        "<think>a</think> so <answer>B</answer>",
        "<answer>B</answer><think>a</think>",
        "<think>a<answer>B</think></answer>",
        "<think>a</think></think><answer>B</answer>",
    ],
)
def test_anything_outside_missing_or_repeated_is_not_well_formed(completion: str):
    assert not is_well_formed(completion)


def test_the_reasoning_is_what_stands_before_the_answer_without_tags():
    assert reasoning_of(GOOD) == "no nuclei"
    assert reasoning_of("no nuclei") == "no nuclei"
    assert reasoning_of("<answer>B</answer>") == ""


def test_normalising_keeps_words_and_drops_case_spacing_quotes_and_the_full_stop():
    assert normalise('  "Clear  Cell\nCarcinoma" ') == "clear cell carcinoma"
    assert normalise("Yes.") == "yes"
    assert normalise(" . ") == ""


@pytest.mark.parametrize(
    ("text", "index"),
    [("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("B)", 1), ("B:", 1), (" B ", 1), ("D", 3)]
    + [(text, None) for text in ("E", "", "BB", "B C", "B. x", "((B))", "*B*", "1", "\u0410")],
)
def test_a_letter_alone_is_an_index_and_anything_else_is_none(text: str, index: int | None):
    assert read_letter(text, 4) == index


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), (" 7 ", 7), ("7.", 7), ("007", 7), ("0", 0), ("999999999", 999999999)]
    + [
        (text, None)
        for text in ("", "-7", "+7", "7.0", "7 8", "seven", "1,000", "9999999999", "\uff17", "7\n8")
    ],
)
def test_a_whole_number_alone_is_read_and_anything_else_is_none(text: str, value: int | None):
    assert read_integer(text) == value
