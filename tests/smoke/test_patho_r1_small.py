"""The small twin of Patho-R1 as it is shipped, with few pictures and steps: every stage hands on what it should."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pathloom.cli import main
from pathloom.generate.rules import PhantomRules
from pathloom.recipe import load_recipe
from pathloom.schema import Sample
from pathloom.store import read_samples

CORPORA = ("pathgen", "quilt", "pathcap", "books")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FEW = {
    "pairs.train": "{caption: 120}",
    "questions.test": "{diagnosis: 6}",
    "seeing.trainer.max_steps": 2,
    "cpt.trainer.max_steps": 1,
    "sft.trainer.max_steps": 2,
    "sft.trainer.per_device_train_batch_size": 4,
    **{
        f"{stage}.{key}": value
        for stage in ("grpo", "dapo")
        for key, value in {
            "group_size": 2,
            "max_new_tokens": 8,
            "trainer.max_steps": 1,
            "trainer.per_device_train_batch_size": 4,
        }.items()
    },
    "dapo.max_rounds": 1,
    **{
        f"{stage}.{key}": value
        for stage in ("tuned", "grpo_measured", "dapo_measured")
        for key, value in {"max_new_tokens": 4, "num_resamples": 100}.items()
    },
    "report.num_examples": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("timm", reason="needs the extra `probe`")
    pytest.importorskip("open_clip", reason="needs the extra `embed`")
    folder = tmp_path_factory.mktemp("patho_r1") / "runs"
    changes = [word for key, value in FEW.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", str(RECIPES / "patho_r1_small.yaml"), "--runs", str(folder), *changes]) == 0
    return folder


def samples_of(runs: Path, stage: str) -> list[Sample]:
    (folder,) = runs.glob(f"{stage}-*")
    return list(read_samples(folder))


def test_every_caption_gets_four_samples_with_reasoning_of_its_level(runs):
    written = samples_of(runs, "reasoning")
    assert Counter(sample.task for sample in written) == dict.fromkeys(
        ("choice", "report", "short_answer", "dialogue"), 120
    )
    levels = Counter(sample.level for sample in written)
    assert set(levels) == {"easy", "medium", "hard"}
    words = {
        level: sum(len(str(s.reasoning).split()) for s in written if s.level == level) / levels[level]
        for level in levels
    }
    assert words["easy"] < words["medium"] < words["hard"]


def test_what_a_rule_wrote_is_called_so_in_every_sample(runs):
    assert all(s.history[-1].model == PhantomRules.model for s in samples_of(runs, "reasoning"))


def test_the_checks_find_nothing_to_drop_in_the_truth(runs):
    assert len(samples_of(runs, "checked")) == len(samples_of(runs, "reasoning"))


def test_reinforcement_and_sft_share_no_picture_and_no_group(runs):
    rl, sft = samples_of(runs, "rl_items"), samples_of(runs, "sft_items")
    assert {sample.task for sample in rl} == {"choice"}
    assert len(rl) > 5
    assert len(sft) > 200
    assert not {s.origin.cluster for s in rl} & {s.origin.cluster for s in sft}
    assert not {s.images[0].data for s in rl} & {s.images[0].data for s in sft}


def test_the_report_shows_data_and_numbers_of_all_stages(runs):
    report = json.loads((runs / "patho_r1_small" / "report.json").read_text())
    assert [stage["stage"] for stage in report["data"]] == [
        "levels",
        "reasoning",
        "checked",
        "rl_items",
        "sft_items",
    ]
    assert {row["stage"] for row in report["rows"]} == {"tuned", "grpo_measured", "dapo_measured"}
    page = (runs / "patho_r1_small" / "report.html").read_text()
    assert "written by rules-phantom-1" in page
    assert "difficulty: levels" in page


def test_the_twin_goes_the_way_of_the_recipe_at_the_papers_scale():
    large, small = (load_recipe(RECIPES / f"{name}.yaml") for name in ("patho_r1", "patho_r1_small"))
    extra = {"questions", "seeing", "tuned", "grpo_measured", "dapo_measured"}
    renamed = {"clip_images": "looks", "clip_texts": "words", **dict.fromkeys(CORPORA, "pairs")}
    ours = [renamed.get(stage.name, stage.name) for stage in large.stages]
    theirs = [stage.name for stage in small.stages if stage.name not in extra]
    assert list(dict.fromkeys(ours)) == theirs
    for stage in small.stages:
        if stage.name in ours and stage.name not in ("looks", "words", "pairs"):
            assert large.stage(stage.name).kind == stage.kind
