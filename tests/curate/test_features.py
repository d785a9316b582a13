import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.fixtures import make_image, make_sample, noting
from tests.models.test_embed import needs_minilm, needs_probe

from pathloom.curate import features as module
from pathloom.curate.features import EmbedConfig, read_features, run_embed
from pathloom.models import embed
from pathloom.models.embed import Encoder
from pathloom.schema import Sample
from pathloom.stage import UserError, read_jsonl
from pathloom.store import write_samples


def config(**fields: Any) -> EmbedConfig:
    given = {"samples": ("in",), "encoder": "efficientnet_lite0", "of": "image", **fields}
    return EmbedConfig(name="seen", kind="embed", **given)


def figures(count: int) -> list[Sample]:
    return [make_sample(f"s{index}", images=(make_image(index),)) for index in range(count)]


class Mean(Encoder):
    """Stands for an encoder: mean colour of a picture, length of a text; it notes every call."""

    calls: list[int]

    def images(self, pictures: Iterable[PILImage.Image], batch_size: int | None = None) -> np.ndarray:
        rows = [np.asarray(one, np.float32).mean((0, 1)) for one in pictures]
        self.calls.append(len(rows))
        return np.array(rows, np.float32).reshape(-1, 3)

    def texts(self, strings: Iterable[str], batch_size: int | None = None) -> np.ndarray:
        return np.array([[len(text)] for text in strings], np.float32).reshape(-1, 1)


def mean_encoder() -> Mean:
    made = Mean("mean (weights 1)", image_dim=3, text_dim=1)
    object.__setattr__(made, "calls", [])
    return made


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Mean:
    made = mean_encoder()
    monkeypatch.setattr(embed, "load_encoder", lambda text, inputs: made)
    monkeypatch.setattr(module, "SAMPLES_PER_FEATURE_SHARD", 4)
    return made


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write Samples to tmp_path/in, embed them into tmp_path/out."""

    def ran(samples: list[Sample], **fields: Any) -> dict[str, Any]:
        write_samples(samples, tmp_path / "in")
        return run_embed(config(**fields), {"in": tmp_path / "in"}, tmp_path / "out")

    return ran


def test_each_sample_finds_its_own_row(run, encoder, tmp_path):
    samples = figures(10)

    counts = run(samples)

    features = read_features(tmp_path / "out")
    assert counts == {"features": 10, "dim": 3, "encoder": "mean (weights 1)", "missing": {}}
    assert features.encoder == "mean (weights 1)"
    assert features.of(["s0"]).dtype == np.float32
    assert encoder.calls == [4, 4, 2]
    for index in (0, 5, 9):
        assert np.allclose(features.of([f"s{index}"])[0], mean_of(samples[index]), atol=1e-4)


def test_vectors_come_in_the_order_asked_for_and_only_the_shards_that_hold_them_are_read(
    run, encoder, tmp_path, monkeypatch
):
    samples = figures(10)
    run(samples)
    features = read_features(tmp_path / "out")
    read: list[str] = []
    monkeypatch.setattr(np, "load", noting(lambda path: read.append(path.name), np.load))

    vectors = features.of(["s9", "s1", "s8", "s1"])

    assert read == ["00000.npz", "00002.npz"], "a stage of millions is never in memory as a whole"
    assert np.allclose(vectors, [mean_of(samples[index]) for index in (9, 1, 8, 1)], atol=1e-4)
    with pytest.raises(KeyError, match="s10"):
        features.of(["s10"])


def mean_of(sample: Sample) -> np.ndarray:
    from pathloom.images import load_pixels

    return np.asarray(load_pixels(sample.images[0]), np.float32).mean((0, 1))


def test_who_has_no_picture_or_an_unreadable_one_is_listed_with_the_reason(run, encoder, tmp_path):
    broken = make_image(3).model_copy(update={"data": make_image(3).data[:200]})  # type: ignore[index]
    gone = make_image(4).model_copy(update={"data": None, "path": "gone.png"})
    samples = [
        *figures(2),
        make_sample("none", images=()),
        make_sample("cut", images=(broken,)),
        make_sample("gone", images=(gone,)),
    ]

    counts = run(samples)

    assert counts["features"] == 2
    assert counts["missing"] == {"no_image": 1, "truncated": 1, "unreadable": 1}
    assert read_jsonl(tmp_path / "out" / "missing.jsonl") == [
        {"sample_id": "none", "reason": "no_image"},
        {"sample_id": "cut", "reason": "truncated"},
        {"sample_id": "gone", "reason": "unreadable"},
    ]
    assert set(read_features(tmp_path / "out").rows) == {"s0", "s1"}


def test_of_a_text_all_words_are_read_and_a_wordless_sample_is_listed(run, encoder, tmp_path):
    told = make_sample("told", question="Ask.", answer="Yes.", context="A gland.")

    counts = run([told, make_sample("mute", question=" ", answer="")], of="text", encoder="minilm")

    assert counts["missing"] == {"no_words": 1}
    assert read_features(tmp_path / "out").of(["told"]).tolist() == [[len("Ask.\nYes.\nA gland.")]]


def test_a_sample_in_two_stages_is_embedded_once(encoder, tmp_path):
    write_samples(figures(3), tmp_path / "in")
    both = config(samples=("in", "again"))

    counts = run_embed(both, {"in": tmp_path / "in", "again": tmp_path / "in"}, tmp_path / "out")

    assert counts["features"] == 3
    assert len(read_features(tmp_path / "out").rows) == 3


def test_no_samples_give_an_empty_matrix(run, encoder, tmp_path):
    assert run([])["features"] == 0
    assert read_features(tmp_path / "out").of([]).shape == (0, 3)


KILLED = """
import os, signal, sys
from pathlib import Path
from pathloom.curate import features
from pathloom.models import embed
from tests.curate.test_features import config, mean_encoder

features.SAMPLES_PER_FEATURE_SHARD = 4
embed.load_encoder = lambda text, inputs: mean_encoder()
real = os.fsync

def fsync(descriptor):
    real(descriptor)
    name = os.readlink(f"/proc/self/fd/{descriptor}")
    if name.endswith("00001.partial"):
        os.kill(os.getpid(), signal.SIGKILL)

os.fsync = fsync
folder = Path(sys.argv[1])
features.run_embed(config(), {"in": folder / "in"}, folder / "out")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the kill is timed by /proc")
def test_a_killed_run_goes_on_after_its_last_whole_shard(encoder, tmp_path):
    write_samples(figures(10), tmp_path / "in")
    root = Path(__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out = tmp_path / "out"
    assert [path.name for path in sorted((out / "features").iterdir())] == ["00000.npz", "00001.partial"]
    first = (out / "features" / "00000.npz").stat().st_mtime_ns

    counts = run_embed(config(), {"in": tmp_path / "in"}, out)

    assert counts["features"] == 10
    assert encoder.calls == [4, 2], "the first shard is not computed again"
    assert (out / "features" / "00000.npz").stat().st_mtime_ns == first
    whole = tmp_path / "whole"
    run_embed(config(), {"in": tmp_path / "in"}, whole)
    ours, theirs = read_features(out), read_features(whole)
    assert ours.rows == theirs.rows
    assert np.array_equal(ours.of(ours.rows), theirs.of(theirs.rows))


def test_shards_of_other_weights_are_never_mixed(run, encoder, tmp_path):
    run(figures(2))
    object.__setattr__(encoder, "name", "mean (weights 2)")

    with pytest.raises(UserError, match=r"the weights have changed: remove that folder and run again"):
        run(figures(6))


def test_a_folder_of_another_kind_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"holds no features.json: `features` must name a stage of the kind embed"
    ):
        read_features(tmp_path)


@needs_minilm
@needs_probe
def test_real_encoders_embed_pictures_and_texts(run, tmp_path):
    counts = run(figures(3))
    assert (counts["features"], counts["dim"]) == (3, 1280)
    again = run_embed(config(of="text", encoder="minilm"), {"in": tmp_path / "in"}, tmp_path / "read")
    assert (again["features"], again["dim"]) == (3, 384)
    assert json.loads((tmp_path / "read" / "features.json").read_text())["encoder"].startswith(
        "minilm (weights "
    )


@needs_probe
def test_a_recipe_is_refused_for_an_encoder_that_cannot(tmp_path):
    with pytest.raises(UserError, match="efficientnet_lite0 takes no texts; those that do: minilm"):
        config(of="text").check()
    with pytest.raises(UserError, match="no encoder 'uni'"):
        config(encoder="uni")
    config().check()


def test_the_batch_size_is_no_part_of_the_key():
    assert config(batch_size=4).keyed() == config(batch_size=64).keyed()
    assert config(of="text").keyed() != config().keyed()
