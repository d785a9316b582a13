"""Several processes and real kills: programs of their own, so slow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.train.contrastive_helpers import TINY, entry, losses, train, write_shards

from pathloom.models import clip_presets
from pathloom.stage import UserError

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards")


@pytest.fixture
def start(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder: the processes know only the presets that are shipped."""
    with monkeypatch.context() as patch:
        patch.setattr(clip_presets, "CLIP_PRESETS", (TINY,))
        train(entry(max_steps=1, learning_rate=1e-9), shards, tmp_path / "start")
    return tmp_path / "start"


@pytest.mark.parametrize(
    "changes", [{}, {"loss": "siglip", "accumulate": 2}], ids=["clip", "siglip accumulated"]
)
def test_two_processes_take_the_loss_path_of_one(
    changes: dict[str, Any], shards: Path, start: Path, tmp_path: Path
):
    config = {"model": {"folder": str(start)}, "max_steps": 10, "learning_rate": 1e-2, **changes}

    alone = train(entry(**config), shards, tmp_path / "alone")
    together = train(entry(**config, processes=2), shards, tmp_path / "together")

    assert losses(tmp_path / "together") == pytest.approx(losses(tmp_path / "alone"), abs=1e-4)
    assert losses(tmp_path / "alone")[0] - losses(tmp_path / "alone")[-1] > 0.01
    assert together == {**alone, "loss": pytest.approx(alone["loss"], abs=1e-4)}
    assert (tmp_path / "together" / "open_clip_model.safetensors").is_file()
    assert not (tmp_path / "together" / "checkpoints").exists()


def test_what_stops_one_of_several_processes_is_told_in_its_words(shards: Path, start: Path, tmp_path: Path):
    config = entry(model={"folder": str(start)}, processes=2, learning_rate=1e30, warmup_steps=0)

    with pytest.raises(UserError, match="clip: the loss is no finite number any more at step"):
        train(config, shards, tmp_path / "out")


PROGRAM = """
import sys
from pathlib import Path
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive import run_contrastive
config, shards, out = sys.argv[1:]
run_contrastive(ContrastiveConfig.model_validate_json(config), {"shards": Path(shards)}, Path(out))
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_inside_an_epoch_ends_as_if_it_had_not_been(
    processes: int, shards: Path, start: Path, tmp_path: Path
):
    config = entry(model={"folder": str(start)}, max_steps=80, save_steps=4, processes=processes)
    out = tmp_path / "killed"
    out.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, config.model_dump_json(), str(shards), str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.DEVNULL,
    )
    saved = out / "checkpoints"
    deadline = time.monotonic() + 120
    while len(list(saved.glob("step-*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    program.send_signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    left = sorted(path.name for path in saved.glob("step-*.pt"))
    assert left
    time.sleep(3)
    assert sorted(path.name for path in saved.glob("step-*.pt")) == left, "no process of it writes on"

    train(config, shards, out)

    train(entry(model={"folder": str(start)}, max_steps=80, processes=1), shards, tmp_path / "whole")
    tolerance = 0.0 if processes == 1 else 1e-3
    assert losses(out) == pytest.approx(losses(tmp_path / "whole"), abs=tolerance)
