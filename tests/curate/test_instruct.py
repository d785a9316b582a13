import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.fixtures import make_sample

from pathloom.attributes import LANGUAGES, load_schema
from pathloom.curate.annotate_config import INSTRUCTIONS, InstructConfig
from pathloom.curate.instruct import load_wordings, run_instruct
from pathloom.evaluate.select import apply_control
from pathloom.routing import REVIEW_NOTE
from pathloom.schema import Annotation, Attribute, Drop, Event, Region, Sample
from pathloom.stage import FACTS_FILE
from pathloom.store import read_samples, write_samples
from pathloom.tasks import find_task

CLASSES = ("NILM", "LSIL", "HSIL")
SCHEMA = load_schema("cervical_cell")
VALUES = {"nuclear_size": "normal", "nuclear_membrane": "smooth", "nucleoli": "none", "cytoplasm": "mature"}


def cell(sample_id: str = "cell/1", values: dict[str, str] = VALUES, **fields: Any) -> Sample:
    """What a consensus leaves of a cell."""
    return make_sample(
        sample_id,
        **{
            "task": "caption",
            "question": "Describe this cell.",
            "answer": "A caption from before.",
            "finding": "NILM",
            "regions": (Region(box_px=(1, 1, 5, 5), label="cell"),),
            "annotations": (Annotation(annotator="a", caption="A cell."),),
            "attributes": tuple(
                Attribute(name=name, value=value, resolver="majority") for name, value in values.items()
            ),
            **fields,
        },
    )


def instruct(tmp_path: Path, cells: list[Sample], **fields: Any) -> tuple[list[Sample], dict[str, Any]]:
    write_samples(cells, tmp_path / "cells")
    out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    given = {"name": "instruct", "kind": "instruct", "samples": ["cells"], "classes": CLASSES}
    counts = run_instruct(
        InstructConfig.model_validate({**given, **fields}), {"cells": tmp_path / "cells"}, out
    )
    counts["facts"] = json.loads((out / FACTS_FILE).read_text())[0]
    counts["dropped"] = [
        Drop.model_validate_json(line)
        for path in sorted((out / "drops").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    return list(read_samples(out)), counts


def random_cells(count: int) -> list[Sample]:
    """Nine cells of ten have one nucleus."""
    rng = np.random.default_rng(0)
    return [
        cell(
            f"cell/{index}",
            {
                **{name: str(rng.choice(SCHEMA[name].values)) for name in VALUES},
                "num_nuclei": "two" if rng.random() < 0.1 else "one",
            },
        )
        for index in range(count)
    ]


def test_a_cell_gets_as_many_questions_of_each_kind_as_asked_for(tmp_path):
    questions = {"attribute": 3, "sign": 2, "class": 1, "description": 2, "dialogue": 1}

    made, counts = instruct(tmp_path, [cell()], questions=questions)

    assert Counter(sample.id.split("/")[2] for sample in made) == questions
    assert counts["facts"]["questions"] == questions
    assert len({sample.id for sample in made}) == len(made)


def test_every_question_can_be_asked_answered_and_graded(tmp_path):
    made, _ = instruct(tmp_path, [cell(f"cell/{index}") for index in range(5)])

    for sample in made:
        task = find_task(sample.task)
        for template in task.templates:
            completion = task.target(sample, template, "direct")
            assert task.score(sample, completion, template).correct == pytest.approx(1)


def test_what_is_learnt_is_what_the_attributes_say(tmp_path):
    made, _ = instruct(tmp_path, [cell()], questions={"attribute": 9, "class": 1, "description": 1})
    by_id = {sample.id.removeprefix("cell/1/"): sample for sample in made}

    for name, value in VALUES.items():
        asked = by_id[f"attribute/{name}"]
        assert asked.answer == value
        assert set(asked.choices) <= set(SCHEMA[name].values)
    assert by_id["description/1"].answer == SCHEMA.describe(VALUES)
    assert by_id["class/1"].answer == by_id["class/1"].finding == "NILM"
    assert sorted(by_id["class/1"].choices) == sorted(CLASSES)


def test_the_picture_and_where_it_is_from_stay_and_what_led_to_the_values_goes(tmp_path):
    made, _ = instruct(tmp_path, [cell()])

    for sample in made:
        assert (sample.images, sample.origin) == (cell().images, cell().origin)
        assert [event.step for event in sample.history] == ["ingest.made", "instruct"]
        assert (sample.attributes, sample.annotations, sample.regions) == ((), (), ())


def test_options_are_no_more_than_asked_for_and_the_right_one_is_at_any_place(tmp_path):
    made, _ = instruct(
        tmp_path, [cell(f"cell/{index}") for index in range(60)], questions={"attribute": 4}, num_options=3
    )

    assert {len(sample.choices) for sample in made} == {3}
    places = Counter(sample.choices.index(sample.answer) for sample in made)
    assert min(places.values()) > len(made) / 5


def test_a_value_that_nearly_all_cells_have_does_not_give_its_answer_away(tmp_path):
    made, counts = instruct(tmp_path, random_cells(200), questions={"sign": 1})

    asked = Counter((sample.asked_finding, sample.answer) for sample in made)
    for finding in {finding for finding, _ in asked}:
        assert abs(asked[finding, "yes"] - asked[finding, "no"]) <= 1
    assert abs(counts["facts"]["signs_by_answer"]["yes"] - 100) <= 3


def test_the_answer_about_a_sign_follows_from_what_is_named(tmp_path):
    made, _ = instruct(tmp_path, random_cells(40), questions={"sign": 2})

    for sample in made:
        assert (sample.asked_finding == sample.finding) == (sample.answer == "yes")
        assert str(sample.asked_finding) in sample.question
    for swapped in apply_control(made, "wrong_image", 0):
        other = next(sample for sample in made if sample.images == swapped.images)
        assert (other.finding == swapped.asked_finding) != (swapped.answer == "yes")


def test_a_conversation_goes_over_two_to_four_attributes_to_the_class(tmp_path):
    made, _ = instruct(tmp_path, [cell(f"cell/{index}") for index in range(20)], questions={"dialogue": 1})

    assert {len(sample.earlier) for sample in made} == {2, 3, 4}
    sentences = {SCHEMA.describe({name: value}) for name, value in VALUES.items()}
    for sample in made:
        assert {turn.answer for turn in sample.earlier} <= sentences
        assert sample.answer == "This is NILM."


def test_a_conversation_about_a_cell_without_class_ends_in_an_attribute(tmp_path):
    made, _ = instruct(tmp_path, [cell(finding=None)], questions={"dialogue": 1})

    assert {len(sample.earlier) for sample in made} <= {1, 2, 3}
    assert made[0].answer in {SCHEMA.describe({name: value}) for name, value in VALUES.items()}


def test_held_out_cells_are_passed_over_and_folds_are_not(tmp_path):
    cells = [cell(split, split=split) for split in ("train", "test", "val", "fold-0")]

    made, counts = instruct(tmp_path, cells, questions={"description": 1})

    assert [sample.split for sample in made] == ["train", "fold-0"]
    assert counts["passed_over"] == {"held_out": 2}


@pytest.mark.parametrize(
    ("broken", "sample_id", "reason"),
    [
        (cell(attributes=()), "cell/1", "no_attributes"),
        (cell(values={"nuclear_size": "huge"}), "cell/1", "not_in_schema"),
        (cell(values={"colour": "red"}), "cell/1", "not_in_schema"),
        (cell(finding=None), "cell/1/class", "not_one_of_the_classes"),
        (cell(finding="SCC"), "cell/1/class", "not_one_of_the_classes"),
    ],
)
def test_what_cannot_be_asked_is_dropped_by_name(tmp_path, broken, sample_id, reason):
    made, counts = instruct(tmp_path, [broken], questions={"class": 1})

    assert made == []
    assert [(drop.sample_id, drop.reason) for drop in counts["dropped"]] == [(sample_id, reason)]


def test_the_same_seed_asks_the_same_and_another_seed_otherwise(tmp_path):
    cells = [cell(f"cell/{index}") for index in range(5)]

    first, again, other = (instruct(tmp_path, cells, seed=seed)[0] for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_a_growing_corpus_keeps_the_questions_it_has(tmp_path):
    cells = [cell(f"cell/{index}") for index in range(4)]
    questions = {"attribute": 2, "class": 1, "description": 1, "dialogue": 1}

    few, _ = instruct(tmp_path, cells[2:], questions=questions)
    many, _ = instruct(tmp_path, cells, questions=questions)

    assert few == many[len(many) - len(few) :]


def test_chinese_questions_have_chinese_words(tmp_path):
    made, _ = instruct(tmp_path, [cell()], language="zh")

    assert {sample.answer for sample in made if "/attribute/" in sample.id} <= {
        SCHEMA[name].say(value, "zh") for name, value in VALUES.items()
    }
    assert all(any("一" <= sign <= "鿿" for sign in sample.question) for sample in made)
    assert {sample.answer for sample in made if sample.task == "yes_no"} <= {"yes", "no"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_kind_has_several_wordings_in_both_languages(language):
    wordings = load_wordings()[language]

    assert {"attribute", "sign", "class", "description", "conclusion", "turn"} <= set(wordings)
    for kind in (*INSTRUCTIONS[:-1], "conclusion"):
        assert len(set(wordings[kind])) >= 3


def test_a_cell_that_waits_for_review_is_not_learnt_from(tmp_path):
    waiting = cell().changed(Event(step="curate.expert", version=1, note=f"{REVIEW_NOTE}: a rule"))

    made, counts = instruct(tmp_path, [waiting])

    assert made == []
    assert [drop.reason for drop in counts["dropped"]] == ["awaits_review"]


def test_with_reasoning_what_is_seen_is_said_before_the_answer(tmp_path):
    made, _ = instruct(tmp_path, [cell()], reasoning="attributes")

    reasonings = {sample.id.split("/")[2]: sample.reasoning for sample in made}
    assert reasonings["class"] == f"{SCHEMA.describe(VALUES)} This is NILM."
    assert reasonings["description"] is None
    for sample in made:
        if "/attribute/" in sample.id:
            name = sample.id.rsplit("/", 1)[1]
            assert sample.reasoning == SCHEMA.describe({name: VALUES[name]})
        if "/sign/" in sample.id:
            assert sample.reasoning == sample.finding


def test_classes_of_ones_own_are_called_by_their_own_name(tmp_path):
    questions = {"class": 1, "dialogue": 1}

    made, _ = instruct(
        tmp_path, [cell(finding="b")], questions=questions, classes=["a", "b"], class_name="grade"
    )

    assert all("grade" in sample.question for sample in made)
    assert made[0].answer == "b"


def test_one_class_alone_is_refused():
    with pytest.raises(ValidationError, match="classes"):
        InstructConfig(name="a", kind="instruct", samples=("cells",), classes=("NILM",))
