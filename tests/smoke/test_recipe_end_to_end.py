"""A recipe of a few phantoms and steps, through the same command line and classes as a 7B run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pathloom.cli import main
from pathloom.evaluate.generative import PREDICTIONS
from pathloom.ingest.phantom import PhantomConfig
from pathloom.recipe import load_recipe
from pathloom.run import PARTIAL
from pathloom.stage import read_jsonl
from pathloom.train.loop import FollowEpoch

RECIPE = """
name: micro
description: The whole path at its smallest.
stages:
  - name: phantoms
    kind: ingest
    source: phantom
    size_px: 64
    train: {diagnosis: 6, presence: 4, structures: 2, caption: 2}
    test: {diagnosis: 6, presence: 4, structures: 2}

  - {name: untrained, kind: init, samples: [phantoms], vocab_size: 600, max_pixels: 4096}

  - name: before
    kind: evaluate
    model: {stage: untrained}
    samples: [phantoms]
    benchmarks: [phantom_diagnosis, phantom_presence]
    max_new_tokens: 4
    num_resamples: 100

  - name: tower
    kind: vision
    samples: [phantoms]
    model: {stage: untrained}
    trainer: {max_steps: 2, logging_steps: 1, per_device_train_batch_size: 2}

  - name: captions
    kind: pretrain
    samples: [phantoms]
    model: {stage: tower}
    trainable: [projector]
    trainer: {max_steps: 1, per_device_train_batch_size: 2}

  - name: sft
    kind: sft
    samples: [phantoms]
    model: {stage: captions}
    tasks: {choice: 2, yes_no: 2, boxes: 1}
    trainer: {max_steps: 3, save_steps: 1, logging_steps: 1, per_device_train_batch_size: 4, learning_rate: 1e-3}

  - name: dapo
    kind: reinforce
    samples: [phantoms]
    model: {stage: sft}
    tasks: {choice: 1, boxes: 1}
    group_size: 2
    max_new_tokens: 4
    max_rounds: 1
    rewards: {boxes: {mean_iou: 1, format: 1}}
    trainer: {max_steps: 2, logging_steps: 1, per_device_train_batch_size: 4}

  - name: after
    kind: evaluate
    model: {stage: dapo}
    samples: [phantoms]
    benchmarks: [phantom_diagnosis, phantom_presence, phantom_structures]
    controls: [no_image, wrong_image, shuffled_options]
    max_new_tokens: 4
    num_resamples: 100

  - {name: report, kind: report, stages: [before, tower, sft, dapo, after], samples: [phantoms], num_examples: 2}
"""

STAGES = ["phantoms", "untrained", "before", "tower", "captions", "sft", "dapo", "after", "report"]

# Killed from within, at the one moment that matters: a checkpoint is there, and the next step has begun.
KILLED = """
import os, signal, sys
from pathloom.cli import main
from pathloom.train.loop import FollowEpoch

def on_step_begin(self, args, state, control, **kwargs):
    if state.global_step == 2 and state.max_steps == 3:
        os.kill(os.getpid(), signal.SIGKILL)

FollowEpoch.on_step_begin = on_step_begin
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the runs of one whole pass."""
    folder = tmp_path_factory.mktemp("smoke")
    (folder / "micro.yaml").write_text(RECIPE)
    assert main(command(folder)) == 0
    return folder


def command(folder: Path) -> list[str]:
    return ["run", str(folder / "micro.yaml"), "--runs", str(folder / "runs")]


def state_of(runs: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every stage's manifest: both stay when nothing is made again."""
    paths = sorted(runs.glob("*/manifest.json"))
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def test_one_command_goes_all_the_way_to_the_report(workplace):
    runs = workplace / "runs"

    assert sorted(name.split("-")[0] for name in state_of(runs)) == sorted(STAGES)
    assert [path.name for path in (runs / PARTIAL).iterdir()] == ["lock"]
    assert (runs / "micro" / "report.html").stat().st_size > 1000
    assert (runs / "micro" / "report.md").read_text()


def test_the_report_holds_every_number_with_its_bounds(workplace):
    report = json.loads((workplace / "runs" / "micro" / "report.json").read_text())

    for row in report["rows"]:
        keys = {"stage", "benchmark", "task", "metric", "control", "value", "low", "high", "n", "chance"}
        assert keys <= row.keys()
    primary = {(row["stage"], row["benchmark"], row["control"]) for row in report["rows"] if row["primary"]}
    controls = ("none", "no_image", "wrong_image", "shuffled_options")
    assert primary == {
        *(("before", f"phantom_{name}", "none") for name in ("diagnosis", "presence")),
        *(("after", "phantom_diagnosis", control) for control in controls),
        *(("after", "phantom_presence", control) for control in controls[:3]),
        *(("after", "phantom_structures", control) for control in controls[:3]),
    }
    for row in report["rows"]:
        if row["primary"]:
            assert row["low"] <= row["value"] <= row["high"]
            assert 0 <= row["chance"] <= 1
    assert {comparison["benchmark"] for comparison in report["comparisons"]} == {
        "phantom_diagnosis",
        "phantom_presence",
    }
    curves = {(curve["stage"], curve["name"]): curve["steps"] for curve in report["curves"]}
    assert curves["tower", "loss"] == [1, 2]
    assert curves["sft", "loss"] == [1, 2, 3]
    assert curves["dapo", "reward"] == curves["dapo", "zero_variance_share"] == [1, 2]


def test_the_second_run_does_nothing(workplace, capsys):
    before = state_of(workplace / "runs")
    capsys.readouterr()

    assert main(command(workplace)) == 0

    said = capsys.readouterr().out
    assert said.count("done before") == len(STAGES)
    assert "running" not in said
    assert "phantom_diagnosis" in said, "the numbers are printed again"
    assert state_of(workplace / "runs") == before


def test_an_answer_can_be_traced_back_to_its_source(workplace, capsys):
    assert main(["explain", "phantom/diagnosis/test/00002", "--runs", str(workplace / "runs")]) == 0

    chain = capsys.readouterr().out
    assert f"ingest.phantom v{PhantomConfig.version}: seed 0" in chain
    for stage in ("before-", "after-"):
        assert f"  {stage}" in chain
    assert "(shuffled_options)" in chain


def test_a_run_killed_in_the_middle_of_training_is_completed_by_the_same_command(
    workplace, tmp_path, monkeypatch, capsys
):
    (tmp_path / "micro.yaml").write_text(RECIPE)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *command(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    runs = tmp_path / "runs"
    before = state_of(runs)
    assert [name.split("-")[0] for name in before] == ["before", "captions", "phantoms", "tower", "untrained"]
    (partial,) = (runs / PARTIAL).glob("sft-*")
    assert (partial / "checkpoints" / "checkpoint-2" / "trainer_state.json").is_file()
    steps = []
    monkeypatch.setattr(
        FollowEpoch,
        "on_step_end",
        lambda self, args, state, control, **rest: steps.append(state.global_step),
    )
    capsys.readouterr()

    assert main(command(tmp_path)) == 0

    said = capsys.readouterr().out
    assert said.count("done before") == 5
    assert steps == [3], "the steps of the killed run are not done again"
    after = state_of(runs)
    assert {name: after[name] for name in before} == before
    # It ends where the run that nobody killed ended: same keys, same weights, same answers.
    assert after.keys() == state_of(workplace / "runs").keys()
    for stage, file in (("sft", "model.safetensors"), ("dapo", "model.safetensors"), ("after", PREDICTIONS)):
        ours, theirs = (next(place.glob(f"{stage}-*")) / file for place in (runs, workplace / "runs"))
        assert ours.read_bytes() == theirs.read_bytes()
    assert len(read_jsonl(next(runs.glob("after-*")) / PREDICTIONS)) == 6 * 4 + 4 * 3 + 2 * 3


def test_the_recipe_above_is_one_that_a_user_could_write(workplace):
    assert [stage.name for stage in load_recipe(workplace / "micro.yaml").stages] == STAGES
