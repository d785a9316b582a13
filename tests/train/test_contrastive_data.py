"""The order of pairs and what stands in a step: pure functions of the seed, whatever is broken or missing."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from tests.train.contrastive_helpers import TINY, entry, losses, png, train, write_shards

from pathloom.images import decode
from pathloom.models import clip_presets
from pathloom.models.clip import TrainableClip, open_trainable, write_preset
from pathloom.stage import UserError, read_jsonl
from pathloom.train import contrastive_data
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.train.contrastive_data import (
    Corpus,
    PairOrder,
    Pairs,
    Places,
    normalised,
    read_corpus,
    training_transform,
)
from pathloom.webdataset import ShardWriter, index_tar


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_presets, "CLIP_PRESETS", (*clip_presets.CLIP_PRESETS, TINY))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> TrainableClip:
    folder = tmp_path_factory.mktemp("start")
    write_preset(TINY, ["a red field, number 1. nothing else is seen."], folder)
    return open_trainable(f"local-dir:{folder}", None, siglip=False, precision="fp32", device="cpu", seed=0)


def order_of(weights: dict[str, float], tmp_path: Path, seed: int = 0) -> PairOrder:
    """Two stages, `many` of 90 pairs in 9 shards and `few` of 20 pairs in 2."""
    config = entry(shards=("many", "few"))
    folders = {"many": tmp_path / "many", "few": tmp_path / "few"}
    if not folders["many"].exists():
        write_shards(folders["many"], 90, 10)
        write_shards(folders["few"], 20, 10)
    return PairOrder(read_corpus(config.name, config.shards, folders, quiet=True), weights, seed)


def test_an_epoch_holds_every_pair_once_and_each_epoch_has_its_own_order(tmp_path: Path):
    order = order_of({}, tmp_path)

    first, second = order.epoch(0), order.epoch(1)

    assert sorted(first) == sorted(second) == list(range(110))
    assert list(first) != list(second)
    assert list(order_of({}, tmp_path).epoch(1)) == list(second), "a function of seed and epoch"
    assert list(order_of({}, tmp_path, seed=1).epoch(1)) != list(second)
    assert [order.pair(place) for place in range(110, 220)] == list(second)


def test_pairs_are_mixed_over_the_shards_of_a_pool(tmp_path: Path):
    first = order_of({}, tmp_path).epoch(0)[: contrastive_data.POOL_SHARDS * 10]

    shards = Counter(int(pair) // 10 for pair in first)
    assert sorted(shards.values()) == [10] * contrastive_data.POOL_SHARDS
    assert len({int(pair) // 10 for pair in first[:20]}) > 5


def test_a_weight_is_how_often_a_stages_pairs_are_seen_in_an_epoch(tmp_path: Path):
    order = order_of({"few": 2.5, "many": 0.1}, tmp_path)

    visits = Counter(int(pair) for pair in order.epoch(0))

    few = [visits[pair] for pair in range(90, 110)]
    assert sorted(few) == [2] * 10 + [3] * 10
    assert sum(visits[pair] for pair in range(90)) == 9
    assert order.epoch_length == 59
    drawn = {epoch: {int(pair) for pair in order.epoch(epoch) if pair < 90} for epoch in (0, 1)}
    assert drawn[0] != drawn[1], "the share is drawn anew"


def test_the_parts_of_processes_and_of_accumulation_make_up_the_step():
    whole = list(Places(8, 1, 0, 1, 3, 5))

    assert whole == [list(range(24, 32)), list(range(32, 40))]
    by_rank = [list(Places(8, 2, rank, 2, 3, 5)) for rank in (0, 1)]
    assert by_rank[0] == [[24, 25], [26, 27], [32, 33], [34, 35]]
    assert by_rank[1] == [[28, 29], [30, 31], [36, 37], [38, 39]]


def pairs_of(config: ContrastiveConfig, shards: Path, clip: TrainableClip) -> tuple[Corpus, Pairs]:
    corpus = read_corpus(config.name, config.shards, {"shards": shards}, quiet=True)
    return corpus, Pairs(corpus, PairOrder(corpus, {}, config.seed), clip, config)


def test_pixels_are_those_of_open_clips_own_transform_bit_for_bit(shards: Path, clip: TrainableClip):
    config = entry(crop_scale=(0.3, 1.0))
    corpus, pairs = pairs_of(config, shards, clip)
    transform = training_transform(clip, config.crop_scale)
    before = torch.get_rng_state()

    item = pairs[5]

    assert torch.equal(before, torch.get_rng_state()), "reading leaves the process's random numbers alone"
    assert np.array_equal(item.pixels, pairs[5].pixels), "a crop is drawn for its place"
    assert not np.array_equal(item.pixels, pairs[5 + len(corpus)].pixels)
    picture = decode(corpus.image(item.pair), "")
    seed = np.random.SeedSequence([config.seed, 5]).generate_state(1, np.uint64)[0] >> np.uint64(1)
    torch.manual_seed(int(seed))
    wanted = transform(picture)
    torch.set_rng_state(before)
    pixels = torch.from_numpy(item.pixels.copy()).permute(2, 0, 1)[None]
    assert torch.equal(normalised(pixels, transform)[0], wanted)
    corpus.close()


def broken_shards(folder: Path) -> Path:
    """40 pairs: pictures broken, cut and too large by their header, a caption of 5,000 words; a tar cut in half."""
    bomb = io.BytesIO()
    PILImage.new("1", (9000, 9000)).save(bomb, "PNG")
    with ShardWriter(folder, per_shard=40) as writer:
        for number in range(40):
            picture = {3: b"no picture", 4: png((9, 9, 9), 4)[:300], 5: bomb.getvalue()}.get(number)
            caption = " ".join(["word"] * 5000) if number == 6 else f"field {number}"
            writer.add(picture or png((200, 40, 40), number), "png", caption, {})
    whole = (folder / "00000.tar").read_bytes()
    with tarfile.open(folder / "00000.tar") as tar:
        half = tar.getmember("000000020.png").offset_data + 10
    (folder / "00001.tar").write_bytes(whole[:half])
    return folder


def test_broken_pictures_and_long_captions_are_counted_and_no_step_is_short(tmp_path: Path):
    shards = broken_shards(tmp_path / "shards")
    seen: list[list[int]] = []
    collate = contrastive_data.Collate.__call__

    def noting(self: Any, items: Any) -> Any:
        seen.append([item.pair for item in items])
        return collate(self, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive_data.Collate, "__call__", noting)
        counts = train(entry(max_steps=None, epochs=1), shards, tmp_path / "out")

    assert counts["pairs"] == 60
    assert counts["steps"] == 8
    assert all(len(set(step)) == 8 for step in seen), "full, and no pair twice in a step"
    reasons = {"cut_off": 1, "not_an_image": 2, "too_many_pixels": 2, "truncated": 2}
    assert counts["drops"] == reasons
    assert counts["captions_cut"] == 2
    drops = read_jsonl(tmp_path / "out" / "drops" / "00000.jsonl")
    assert Counter(drop["reason"] for drop in drops) == reasons
    names = {drop["sample_id"] for drop in drops}
    assert names >= {"shards/00000.tar/000000003", "shards/00001.tar/000000020"}
    assert len(losses(tmp_path / "out")) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_shards_without_a_readable_picture_stop_the_run(workers: int, tmp_path: Path):
    with ShardWriter(tmp_path / "shards", per_shard=40) as writer:
        for number in range(20):
            writer.add(b"no picture", "png", f"field {number}", {})

    with pytest.raises(
        UserError, match="100 pairs in a row have no readable picture, the first: not_an_image"
    ):
        train(entry(), tmp_path / "shards", tmp_path / "out")


@pytest.mark.parametrize("changes", [{"batch_size": 128}, {"weights": {"shards": 1e-3}}])
def test_an_epoch_of_fewer_pairs_than_a_step_is_refused(changes: Any, shards: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"clip.batch_size: \d+, but an epoch has (120|0) pairs"):
        train(entry(**changes), shards, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (2.0, 1.0)}, "0 < smallest <= largest <= 1"),
        ({"shards": ("a", "a")}, "a stands twice"),
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused(changes: Any, message: str):
    with pytest.raises(ValueError, match=message):
        entry(**changes)


def test_facts_that_are_no_object_name_their_stage(tmp_path: Path):
    shards = write_shards(tmp_path / "shards", 8, 8)
    whole = (shards / "00000.tar").read_bytes()
    facts = index_tar(shards / "00000.tar").facts
    for (start, length), told in zip(facts[:3], (b"[1]", b"null", b"\xff"), strict=True):
        whole = whole[:start] + told.ljust(length) + whole[start + length :]
    (shards / "00000.tar").write_bytes(whole)

    train(entry(max_steps=1), shards, tmp_path / "out")

    card = json.loads((tmp_path / "out" / "pathloom_card.json").read_text())
    assert card["trained_on"] == ["paint", "shards"]


def test_a_stage_without_a_whole_pair_is_refused(tmp_path: Path):
    (tmp_path / "shards").mkdir()

    with pytest.raises(UserError, match=r"clip.shards: shards holds no whole pair"):
        train(entry(), tmp_path / "shards", tmp_path / "out")
