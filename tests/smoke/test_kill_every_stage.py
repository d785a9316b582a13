"""A kill -9 from outside in every stage: the run completes, finished stages stay, the numbers are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathloom.run import PARTIAL

pytestmark = pytest.mark.slow
pytest.importorskip("openslide")

RECIPE = """
name: killed
stages:
  - name: phantoms
    kind: ingest
    source: phantom
    train: {diagnosis: 300, presence: 300, mitoses: 300, structures: 100, caption: 60}
    test: {diagnosis: 48, presence: 48, mitoses: 50}

  - {name: slides, kind: ingest, source: phantom_slides, train: 3, side_px: 1600}

  - {name: tiles_seen, kind: embed_slides, samples: [slides], encoder: efficientnet_lite0}

  - {name: untrained, kind: init, samples: [phantoms], vocab_size: 1000}

  - name: tower
    kind: vision
    samples: [phantoms]
    model: {stage: untrained}
    trainer: {max_steps: 60, save_steps: 10, logging_steps: 1, per_device_train_batch_size: 8}

  - name: captions
    kind: pretrain
    samples: [phantoms]
    model: {stage: tower}
    trainer: {max_steps: 12, save_steps: 4, logging_steps: 1, per_device_train_batch_size: 8}

  - name: sft
    kind: sft
    samples: [phantoms]
    model: {stage: captions}
    tasks: {choice: 1, yes_no: 1, count: 1}
    trainer: {max_steps: 16, save_steps: 5, logging_steps: 1, per_device_train_batch_size: 8, learning_rate: 1.0e-3}

  - name: dapo
    kind: reinforce
    samples: [phantoms]
    model: {stage: sft}
    tasks: {choice: 1, count: 1}
    group_size: 4
    max_new_tokens: 24
    max_rounds: 2
    filter_by: reward
    trainer: {max_steps: 8, save_steps: 3, logging_steps: 1, per_device_train_batch_size: 16, learning_rate: 1.0e-4}

  - {name: given, kind: export, model: {stage: dapo}}

  - name: mixture
    kind: experts
    samples: [phantoms, slides]
    slides: [tiles_seen]
    slide_tokens: {side: 2}
    model: {stage: captions}
    start_from: [dapo]
    tasks: {choice: 1, label: 1}
    trainable: [slide]
    trainer: {max_steps: 8, save_steps: 3, logging_steps: 1, per_device_train_batch_size: 8, learning_rate: 1.0e-3}

  - name: after
    kind: evaluate
    model: {stage: mixture}
    samples: [phantoms]
    benchmarks: [phantom_diagnosis_words, phantom_presence, phantom_mitoses]
    controls: [no_image, wrong_image]
    max_new_tokens: 48
    batch_size: 16

  - {name: report, kind: report, stages: [tiles_seen, tower, captions, sft, dapo, mixture, after], samples: [phantoms]}
"""
# What must lie in the stage's partial folder before the kill, so that the kill falls into the middle of the work.
UNDER_WAY = {
    "phantoms": "samples/*.parquet",
    "slides": "files/*.tiff",
    "tiles_seen": "features/*.safetensors",
    "untrained": "",
    "tower": "checkpoints/checkpoint-10/trainer_state.json",
    "captions": "checkpoints/checkpoint-4/trainer_state.json",
    "sft": "checkpoints/checkpoint-5/trainer_state.json",
    "dapo": "checkpoints/checkpoint-3/trainer_state.json",
    "given": "",
    "mixture": "checkpoints/checkpoint-3/trainer_state.json",
    "after": "predictions.jsonl",
    "report": "",
}


def command(folder: Path, runs: str) -> list[str]:
    recipe = folder / "killed.yaml"
    recipe.write_text(RECIPE)
    return [sys.executable, "-m", "pathloom.cli", "run", str(recipe), "--runs", str(folder / runs)]


def rows(folder: Path, runs: str) -> list[dict[str, object]]:
    report = json.loads((folder / runs / "killed" / "report.json").read_text())
    return [dict(row) for row in report["rows"]]


def kill_inside(folder: Path, stage: str) -> None:
    """Start the run and kill it, with all it started, as soon as the stage is under way."""
    process = subprocess.Popen(command(folder, "killed"), start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any((folder / "killed" / PARTIAL).glob(f"{stage}-*/{UNDER_WAY[stage]}")):
        assert process.poll() is None, f"the run ended before it could be killed in {stage}"
        assert time.monotonic() < deadline, f"{stage} was not reached"
        time.sleep(0.01)
    if "checkpoint" in UNDER_WAY[stage]:
        time.sleep(0.5)  # into a step after the checkpoint
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_killed_once_in_every_stage_ends_with_the_same_numbers(tmp_path):
    subprocess.run(command(tmp_path, "whole"), check=True)
    finished_before: dict[str, int] = {}
    for stage in UNDER_WAY:
        kill_inside(tmp_path, stage)
        made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*-*")}
        assert not any(name.startswith(f"{stage}-") for name in made), f"{stage} was finished before the kill"
        assert made.items() >= finished_before.items(), "a finished stage was made again"
        finished_before = made
    subprocess.run(command(tmp_path, "killed"), check=True)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*-*")}
    assert made.items() >= finished_before.items()
    killed, whole = rows(tmp_path, "killed"), rows(tmp_path, "whole")
    assert [row["metric"] for row in killed] == [row["metric"] for row in whole]
    for one, other in zip(killed, whole, strict=True):
        # Bitwise on this machine; the tolerance is for another number of threads after the restart.
        assert one["value"] == pytest.approx(other["value"], abs=0.02, nan_ok=True), (one, other)
