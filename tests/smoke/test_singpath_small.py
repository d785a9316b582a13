"""The small twin of Singpath-VL as it is shipped, with few cells and steps: every stage hands on what it should."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pathloom.attributes import load_schema
from pathloom.card import read_card
from pathloom.cli import main
from pathloom.recipe import load_recipe
from pathloom.schema import Sample
from pathloom.store import read_samples

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MEASURED = ("base", "aligned", "instructed", "replayed", "continued")
TRAINED = ("alignment", "instruction", "replay", "continuation")
FEW = {
    "cells.train": "{cell: 24}",
    "cells.test": "{cell: 8}",
    "general.train": "{word_choice: 4, match: 4, count: 4}",
    "general.test": "{word_choice: 2, phrase_choice: 2, match: 2, shape: 2, is_there: 2, count: 2}",
    "morphopercept.per_value": 1,
    **{f"{stage}.trainer.max_steps": 1 for stage in TRAINED},
    **{f"{stage}.trainer.per_device_train_batch_size": 4 for stage in TRAINED},
    **{f"{stage}.max_new_tokens": 4 for stage in MEASURED},
    **{f"{stage}.num_resamples": 100 for stage in MEASURED},
    "report.num_examples": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("singpath") / "runs"
    changes = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", str(RECIPES / "singpath_vl_small.yaml"), "--runs", str(folder), *changes]) == 0
    return folder


def folder_of(runs: Path, stage: str) -> Path:
    (folder,) = runs.glob(f"{stage}-*")
    return folder


def samples_of(runs: Path, stage: str) -> list[Sample]:
    return list(read_samples(folder_of(runs, stage)))


def test_every_cell_is_described_by_three_annotators_that_are_called_simulated(runs):
    annotated = samples_of(runs, "annotated")

    assert Counter(len(sample.annotations) for sample in annotated) == {3: 32}
    assert all(not sample.attributes for sample in annotated)
    assert all(
        "simulated" in str(event.model) for sample in annotated for event in sample.history if event.model
    )


def test_the_consensus_gives_attributes_and_a_caption_that_says_them(runs):
    schema = load_schema("cervical_cell")
    for sample in samples_of(runs, "fused"):
        assert sample.answer == schema.describe({a.name: a.value for a in sample.attributes})
        assert {attribute.resolver for attribute in sample.attributes} <= {"majority", "arbiter"}


def test_no_training_sees_the_drawn_truth_or_a_held_out_cell(runs):
    instructions = samples_of(runs, "instructions")

    assert {sample.split for sample in instructions} == {"train"}
    assert {"choice", "yes_no", "caption", "dialogue"} == {sample.task for sample in instructions}
    held_out = {
        sample.origin.cluster for name in ("morphopercept", "cytocell") for sample in samples_of(runs, name)
    }
    assert held_out
    assert not held_out & {sample.origin.cluster for sample in instructions}


def test_each_stage_of_training_says_what_learnt_and_what_was_replayed(runs):
    for stage, learns in zip(TRAINED, (("projector",), *[("projector", "language")] * 3), strict=True):
        counts = json.loads((folder_of(runs, stage) / "manifest.json").read_text())["counts"]
        assert {name for name, of in counts["modules"].items() if of["trainable"]} == set(learns)
        replayed = counts.get("replayed", 0)
        assert (replayed / counts["trained_on"] > 0.15) == (stage == "replay")
        assert read_card(folder_of(runs, stage)).num_replayed == replayed


def test_the_report_shows_data_numbers_and_what_is_forgotten(runs):
    report = json.loads((runs / "singpath_vl_small" / "report.json").read_text())

    assert {row["stage"] for row in report["rows"]} == set(MEASURED)
    assert {"annotated", "fused", "expert", "instructions"} <= {stage["stage"] for stage in report["data"]}
    page = (runs / "singpath_vl_small" / "report.html").read_text()
    for words in ("simulated", "phantoms", "morphopercept", "cytocell", "general"):
        assert words in page


def test_the_twin_goes_the_way_of_the_recipe_for_a_server():
    large, small = (load_recipe(RECIPES / f"{name}.yaml") for name in ("singpath_vl", "singpath_vl_small"))
    shared = {stage.name for stage in large.stages} & {stage.name for stage in small.stages}

    assert {
        "cells",
        "annotated",
        "fused",
        "expert",
        "instructions",
        "alignment",
        "instruction",
        "replay",
    } <= shared
    for name in shared - {"cells", "general"}:
        assert large.stage(name).kind == small.stage(name).kind
    ours, theirs = (
        [stage.name for stage in recipe.stages if stage.name in shared] for recipe in (large, small)
    )
    assert ours == theirs
    for name in TRAINED[:3]:
        assert large.stage(name).keyed()["trainable"] == small.stage(name).keyed()["trainable"]
