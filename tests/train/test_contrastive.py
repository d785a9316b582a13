"""Contrastive training: open_clip's own loss path, a folder that it opens, and nothing that a kill can change."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from tests.train.contrastive_helpers import TINY, entry, losses, png, train, write_shards

from pathloom.models import clip_presets
from pathloom.models.clip import open_trainable, write_preset
from pathloom.models.embed import load_encoder
from pathloom.stage import UserError, read_jsonl
from pathloom.train import contrastive_loop
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive_data import (
    Collate,
    PairOrder,
    Pairs,
    Places,
    normalised,
    read_batches,
    read_corpus,
    training_transform,
)
from pathloom.webdataset import ShardWriter

STEPS_BY_HAND = 20


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_presets, "CLIP_PRESETS", (*clip_presets.CLIP_PRESETS, TINY))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "open_clip_model.safetensors")


def recorded(
    config: ContrastiveConfig, shards: Path, folder: Path
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of a run as open_clip would make them: whole contexts, its own transform's floats."""
    clip = open_trainable(
        f"local-dir:{folder}", None, siglip=False, precision="fp32", device="cpu", seed=config.seed
    )
    corpus = read_corpus(config.name, config.shards, {"shards": shards})
    pairs = Pairs(corpus, PairOrder(corpus, {}, config.seed), clip, config)
    places = Places(config.batch_size, config.accumulate, 0, 1, 0, STEPS_BY_HAND)
    transform = training_transform(clip, config.crop_scale)
    batches = [
        (normalised(batch.pixels, transform), batch.tokens)
        for batch in read_batches(pairs, places, Collate(clip, None), 0)
    ]
    corpus.close()
    return batches


def by_hand(
    arguments: list[str], batches: list[tuple[torch.Tensor, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """The losses of `open_clip_train.main` with these arguments on these batches."""
    import open_clip_train.main as by_open_clip

    class Loader(list):
        num_batches = len(batches)
        num_samples = len(batches) * len(batches[0][0])

    found: list[float] = []

    class Recording(torch.nn.Module):
        def __init__(self, loss: torch.nn.Module) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, **features: Any) -> dict[str, torch.Tensor]:
            value: dict[str, torch.Tensor] = self.loss(**features)
            found.append(value["contrastive_loss"].item())
            return value

    create_loss = by_open_clip.create_loss
    train_data = SimpleNamespace(dataloader=Loader(batches), set_epoch=lambda epoch: None)
    monkeypatch.setattr(by_open_clip, "get_data", lambda *given, **named: {"train": train_data})
    monkeypatch.setattr(by_open_clip, "create_loss", lambda args: Recording(create_loss(args)))
    monkeypatch.setattr(by_open_clip, "setup_logging", lambda *given: None)  # it changes every logger's level
    by_open_clip.main(arguments)
    return found


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"loss": "siglip", "schedule": "constant"}, ["--siglip", "--lr-scheduler", "const"]),
        ({"accumulate": 2, "grad_clip": 0.5}, ["--accum-freq", "2", "--grad-clip-norm", "0.5"]),
    ],
    ids=["clip", "siglip", "accumulated"],
)
def test_the_loss_path_is_that_of_open_clip_by_hand(
    changes: dict[str, Any],
    flags: list[str],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    config = entry(max_steps=STEPS_BY_HAND, save_steps=7, **changes)
    corpus = read_corpus(config.name, config.shards, {"shards": shards})
    write_preset(TINY, [corpus.caption(pair) for pair in range(len(corpus))], tmp_path / "start")
    corpus.close()
    batches = recorded(config, shards, tmp_path / "start")
    accumulate = str(config.batch_size // config.accumulate)
    arguments = [
        *("--model", f"local-dir:{tmp_path / 'start'}", "--train-data", "recorded", "--epochs", "1"),
        *("--batch-size", accumulate, "--lr", "1e-3", "--wd", "0.2", "--warmup", "2", "--precision", "fp32"),
        *("--beta1", "0.9", "--beta2", "0.98", "--eps", "1e-6", "--seed", "3", "--device", "cpu"),
        *("--logs", str(tmp_path / "logs"), "--name", "by_hand", "--log-every-n-steps", "1", *flags),
    ]
    found = by_hand(arguments, batches, monkeypatch)

    train(config, shards, tmp_path / "out")

    wanted = found[config.accumulate - 1 :: config.accumulate]
    assert len(wanted) == STEPS_BY_HAND
    assert wanted[-1] < wanted[0]
    assert losses(tmp_path / "out") == pytest.approx(wanted, abs=1e-4)


def test_the_folder_is_one_that_open_clip_and_the_encoders_open(shards: Path, tmp_path: Path):
    import open_clip

    counts = train(entry(max_steps=None, epochs=0.5), shards, tmp_path / "out")

    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")
    encoder = load_encoder("stage:clip", {"clip": tmp_path / "out"})
    picture = PILImage.new("RGB", (50, 40), (200, 30, 30))
    torch.testing.assert_close(
        torch.from_numpy(encoder.images([picture])), model.encode_image(prepare(picture)[None]).detach()
    )
    features = model.encode_text(tokenizer(["A RED field"])).detach()
    torch.testing.assert_close(torch.from_numpy(encoder.texts(["a red field"])), features)
    assert tokenizer(["a red field " * 9])[0, -1] == 2, "a text that is cut keeps its end"
    assert encoder.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert counts["steps"] == 8
    assert counts["pairs_seen"] == 64
    card = json.loads((tmp_path / "out" / "pathloom_card.json").read_text())
    assert (card["trained_on"], card["licences"]) == (["paint"], ["CC0-1.0"])
    assert (card["image_px"], card["context_length"], card["embed_dim"]) == (32, 20, 16)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_second_stage_goes_on_from_the_first(shards: Path, tmp_path: Path):
    train(entry(loss="siglip", max_steps=2), shards, tmp_path / "first")
    second = entry(loss="siglip", max_steps=2, model={"stage": "first"}, name="second", lock_image=True)

    chalk = write_shards(tmp_path / "chalk", 16, source="chalk")
    train(second, chalk, tmp_path / "second", first=tmp_path / "first")

    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "logit_bias" in changed
    assert not any(name.startswith("visual.") for name in changed), "lock_image"
    assert any(name.startswith("transformer.") for name in changed)
    card = json.loads((tmp_path / "second" / "pathloom_card.json").read_text())
    assert card["base"] == "clip-tiny > clip"
    assert card["trained_on"] == ["chalk", "paint"], "what the first stage saw counts too"


def test_a_card_that_is_none_is_told_before_the_first_step(shards: Path, tmp_path: Path):
    train(entry(max_steps=1), shards, tmp_path / "first")
    (tmp_path / "first" / "pathloom_card.json").write_text('{"name": "clip"}')

    with pytest.raises(UserError, match=r"first/pathloom_card.json: is no card of a CLIP model"):
        train(entry(model={"folder": str(tmp_path / "first")}), shards, tmp_path / "second")
    assert not (tmp_path / "second" / "open_clip_model.safetensors").exists()


class StopHereError(Exception):
    """Stands for a kill."""


def test_a_run_that_was_stopped_inside_an_epoch_ends_as_if_it_had_not_been(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # patches dropped at random: the process's own random numbers have to come back too
    dropping = replace(TINY, name="clip-dropping", vision={**TINY.vision, "patch_dropout": 0.5})
    monkeypatch.setattr(clip_presets, "CLIP_PRESETS", (dropping,))
    config = entry(max_steps=8, save_steps=3, model={"preset": "clip-dropping"})
    train(config, shards, tmp_path / "whole")
    with monkeypatch.context() as patch:
        read, stop_at = Pairs.__getitem__, 7 * config.batch_size

        def stops(pairs: Pairs, position: int) -> Any:
            if position == stop_at:
                raise StopHereError
            return read(pairs, position)

        patch.setattr(Pairs, "__getitem__", stops)
        with pytest.raises(StopHereError):
            train(config, shards, tmp_path / "stopped")
    kept = contrastive_loop.saved_checkpoints(tmp_path / "stopped")
    assert [path.name for path in kept] == ["step-000000006.pt", "step-000000003.pt"]
    kept[0].write_bytes(kept[0].read_bytes()[:1000])  # the newest is damaged: the one before it serves
    begun_at: list[int] = []
    init = Places.__init__

    def noting(places: Places, *given: Any) -> None:
        begun_at.append(given[4])
        init(places, *given)

    monkeypatch.setattr(Places, "__init__", noting)

    train(config, shards, tmp_path / "stopped")

    assert begun_at == [3]
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_processes_that_read_pictures_change_no_number(shards: Path, tmp_path: Path):
    train(entry(), shards, tmp_path / "alone")
    train(entry(workers=2), shards, tmp_path / "helped")

    assert losses(tmp_path / "helped") == losses(tmp_path / "alone")


def test_a_lost_run_stops_and_names_the_step_and_leaves_the_last_good_checkpoint(
    shards: Path, tmp_path: Path
):
    with pytest.raises(
        UserError, match=r"clip: the loss is no finite number any more at step \d+: lower lea"
    ):
        train(entry(learning_rate=1e30, warmup_steps=0, save_steps=1), shards, tmp_path / "out")

    for path in contrastive_loop.saved_checkpoints(tmp_path / "out"):
        state = torch.load(path, weights_only=True)
        assert all(bool(value.isfinite().all()) for value in state["model"].values())
        assert all(row["loss"] == row["loss"] for row in state["curve"])
    assert not (tmp_path / "out" / "open_clip_model.safetensors").exists()


def test_the_curve_has_a_row_each_log_steps(shards: Path, tmp_path: Path):
    train(entry(max_steps=5, log_steps=2, warmup_steps=0, schedule="constant"), shards, tmp_path / "out")

    rows = read_jsonl(tmp_path / "out" / "training.jsonl")
    assert [row["step"] for row in rows] == [1, 3, 5]
    assert {row["learning_rate"] for row in rows} == {1e-3}
    assert all(row["images_per_second"] > 0 and row["logit_scale"] > 1 for row in rows)


def test_a_presets_tokenizer_may_know_words_that_its_weights_never_see(shards: Path, tmp_path: Path):
    import open_clip

    with ShardWriter(tmp_path / "later", per_shard=40) as writer:
        for number in range(40):
            picture = png((90, 90, 90), number)
            writer.add(picture, "png", "Keratohyalin granules.", {"source": "later"})
    tokens = {}
    for name, changes in (("narrow", {}), ("wide", {"words_of": ("later",)})):
        counts = train(entry(max_steps=1, **changes), shards, tmp_path / name, later=tmp_path / "later")
        card = json.loads((tmp_path / name / "pathloom_card.json").read_text())
        assert (counts["pairs"], card["trained_on"]) == (120, ["paint"])
        tokens[name] = int(
            open_clip.get_tokenizer(f"local-dir:{tmp_path / name}")("keratohyalin").count_nonzero()
        )
    assert tokens["wide"] < tokens["narrow"]
