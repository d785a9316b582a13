"""The prompts of the data engine: the 60 of the paper, as they are sent, and what a changed part changes."""

import copy
import itertools
import os
import re
from pathlib import Path

import pytest
from tests.fixtures import make_sample

from pathloom.curate import prompts
from pathloom.curate.prompts import EXPLAIN, WRITTEN, all_prompts, instructions, prompt_lines, write_request
from pathloom.curate.replies import REPLIES
from pathloom.curate.words import SUBFIELDS, TAUGHT
from pathloom.generate.generator import Request, Sampling

SNAPSHOT = Path(__file__).parent / "prompts.snapshot.txt"


def parts() -> dict[str, str]:
    """Name -> text of every part."""
    texts = {}
    for name, part in prompts._parts().items():
        named = {name: part} if "text" in part else {f"{name}.{key}": each for key, each in part.items()}
        texts.update({key: each["text"] for key, each in named.items()})
    return texts


def captioned(**fields: object):
    return make_sample(
        "s1",
        task="caption",
        question="",
        answer="Colon, H&E: fused glands.",
        **{"subfield": "histopathology", "level": "easy", **fields},
    )


def test_there_are_sixty_prompts_of_the_paper_and_each_is_another_text():
    of_the_paper = [each for each in all_prompts() if each[2] in WRITTEN]
    assert len(of_the_paper) == 5 * 3 * 4
    assert len({instructions(*each) for each in all_prompts()}) == 60 + 15


def test_every_prompt_is_sent_as_it_was_when_somebody_last_read_it():
    """After a change on purpose: PATHLOOM_WRITE_SNAPSHOT=1 make test, then read the diff."""
    text = "\n".join(prompt_lines()) + "\n"
    if os.environ.get("PATHLOOM_WRITE_SNAPSHOT"):
        SNAPSHOT.write_text(text, encoding="utf-8")
    assert text == SNAPSHOT.read_text(encoding="utf-8")


def test_no_sentence_stands_in_two_parts():
    sentences = [
        (name, sentence)
        for name, text in parts().items()
        for sentence in re.split(r"(?<=[.:;]) ", text)
        if len(sentence.split()) > 4
    ]
    for (name, sentence), (other, text) in itertools.product(sentences, parts().items()):
        assert name == other or sentence not in text, f"{sentence!r} of {name} stands in {other} too"


def test_every_part_says_where_it_is_from():
    lines = list(prompt_lines())
    sources = lines[lines.index("## sources of the parts") + 1 :]
    assert len(sources) == len(parts())
    assert all(len(line.partition(": ")[2]) > 3 for line in sources)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (("subfields", "cytology"), 3 * 5),
        (("levels", "hard"), 5 * 5),
        (("tasks", "dialogue"), 5 * 3),
        (("format",), 75),
        (("role",), 75),
    ],
)
def test_a_changed_part_changes_the_prompts_that_hold_it_and_no_other(monkeypatch, changed, expected):
    before = {each: instructions(*each) for each in all_prompts()}
    altered = copy.deepcopy(dict(prompts._parts()))
    part = altered
    for name in changed:
        part = part[name]
    part["text"] += " Be brief."
    monkeypatch.setattr(prompts, "_parts", lambda: altered)
    after = {each: instructions(*each) for each in all_prompts()}
    differing = [each for each in before if before[each] != after[each]]
    assert len(differing) == expected
    assert all(changed[-1] in each for each in differing) or len(changed) == 1


def test_the_taught_sub_fields_are_five_of_ten():
    assert len(TAUGHT) == 5
    assert len(SUBFIELDS) == len(set(SUBFIELDS)) == 10
    assert set(TAUGHT) < set(SUBFIELDS)


def test_a_caption_is_sent_with_its_reference_and_organ_and_the_schema_of_the_task():
    sample = captioned(context="See the text.", organ="digestive")
    request = write_request(sample, "report", Sampling(seed=3))
    text = request.messages[-1].text
    assert "<caption>Colon, H&E: fused glands.</caption>" in text
    assert "<reference>See the text.</reference>" in text
    assert "<organ>digestive</organ>" in text
    assert request.json_schema == REPLIES["report"].model_json_schema()
    assert request.sampling.seed == 3


def test_a_question_is_sent_with_options_and_answer_but_without_a_caption():
    sample = make_sample(
        "s2", task="choice", question="Which?", choices=("a", "b"), answer="b", subfield="ihc", level="hard"
    )
    text = write_request(sample, EXPLAIN, Sampling()).messages[-1].text
    assert "<question>Which?</question>" in text
    assert "<options>A. a\nB. b</options>" in text
    assert "<answer>b</answer>" in text
    assert "<caption>" not in text
    assert "<reference>" not in text


def test_the_key_of_a_request_knows_nothing_of_the_sample_but_its_words():
    def key(sample) -> str:
        request: Request = write_request(sample, "choice", Sampling())
        return request.key("m")

    same = key(captioned())
    assert key(captioned().model_copy(update={"id": "another", "images": (), "split": "test"})) == same
    assert key(captioned(level="medium")) != same
    assert key(captioned(subfield="cytology")) != same
    assert key(captioned(organ="breast")) != same
