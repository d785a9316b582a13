"""The rule-based teacher: what it writes is the phantom's truth, and it says nothing about anything else."""

import json
import re

import pytest
from tests.fixtures import make_sample

from pathloom.curate.prompts import levels, write_request
from pathloom.curate.replies import REPLIES, read_reply
from pathloom.generate.generator import Generation, Sampling
from pathloom.generate.rules import PhantomRules
from pathloom.ingest.phantom import PhantomConfig
from pathloom.phantom.tissue import DIAGNOSES
from pathloom.schema import Sample


def phantoms(**counts: int) -> list[Sample]:
    config = PhantomConfig(name="p", kind="ingest", source="phantom", size_px=64, train=counts)
    return [record for unit in config.plan() for record in config.read(unit) if isinstance(record, Sample)]


def reply(sample: Sample, task: str, level: str = "medium") -> Generation:
    request = write_request(sample.model_copy(update={"level": level}), task, Sampling())
    ((_, generation),) = next(iter(PhantomRules().generate([("k", request)])))
    return generation


@pytest.mark.parametrize(
    "question", ["diagnosis", "presence", "stain", "mitoses", "structure_count", "structures", "bethesda"]
)
def test_the_reasoning_for_a_given_answer_is_the_truth_word_for_word(question):
    for sample in phantoms(**{question: 6}):
        steps = read_reply(reply(sample, "explain").text, REPLIES["explain"]).steps
        assert " ".join(steps) == sample.context
        assert sample.reasoning is None


@pytest.mark.parametrize("task", ["choice", "report", "short_answer", "dialogue"])
@pytest.mark.parametrize("level", ["easy", "medium", "hard"])
def test_each_task_is_written_at_each_level_and_names_the_diagnosis(task, level):
    for sample in phantoms(caption=6):
        written = read_reply(reply(sample, task, level).text, REPLIES[task])
        bounds = levels()[level]
        assert bounds.least <= len(written.steps) <= bounds.most
        assert str(sample.finding) in written.model_dump_json()
        assert written.steps[-1] == f"This is {sample.finding}."


def test_the_right_option_is_the_diagnosis_among_all_six():
    for sample in phantoms(caption=6):
        written = json.loads(reply(sample, "choice").text)
        assert written["answer"] == sample.finding
        assert written["options"] == list(DIAGNOSES)


def test_alternatives_are_never_the_diagnosis_itself():
    for sample in phantoms(caption=12):
        steps = json.loads(reply(sample, "choice", "hard").text)["steps"]
        others = [re.match(r"(.+) would show", step) for step in steps]
        assert not any(other and other[1].lower() == sample.finding for other in others)


@pytest.mark.parametrize("reference", ["", "Glands are fused.", "This is melanoma."])
def test_it_answers_nothing_about_anything_but_a_phantom(reference):
    sample = make_sample(
        "s", task="caption", answer="Skin, H&E.", context=reference, subfield="histopathology"
    )
    generation = reply(sample, "choice")
    assert generation.error == "no_truth"
    assert not generation.text


def test_its_name_says_that_no_model_wrote_this():
    assert PhantomRules().model.startswith("rules-")
