"""Knowledge replay: what of it is learnt, counted, resumed and refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fixtures import make_sample
from tests.train.test_sft import Stopped, config, in_folds, same_weights, stop_after_save

from pathloom.card import read_card
from pathloom.schema import Origin
from pathloom.stage import UserError
from pathloom.store import write_samples
from pathloom.train import loop, sft
from pathloom.train.config import SftConfig
from pathloom.train.rows import LeakError
from pathloom.train.sft import run_sft

GENERAL = tuple(
    make_sample(
        f"g{index}", origin=Origin(source="g", source_id=f"{index}", licence="CC0-1.0", group=f"{index}")
    )
    for index in range(12)
)


def with_replay(**fields: Any) -> SftConfig:
    """A quarter of the rows is repeated."""
    return config(replay={"samples": ["general"], "share": 0.25, "style": "direct", **fields})


@pytest.fixture
def inputs(phantom_folder: Path, model_folder: Path) -> dict[str, Path]:
    return {"phantoms": phantom_folder, "untrained": model_folder}


@pytest.fixture
def and_general(inputs: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    write_samples(GENERAL, tmp_path / "general")
    return {**inputs, "general": tmp_path / "general"}


def test_replayed_rows_are_counted_in_the_manifest_and_on_the_card(and_general, tmp_path):
    out = tmp_path / "out"

    counts = run_sft(with_replay(), and_general, out)

    card = read_card(out)
    assert (counts["trained_on"], counts["replayed"]) == (27, 7)
    assert (card.num_train_samples, card.num_replayed) == (27, 7)
    assert "g" in card.trained_on


def test_a_resumed_run_with_replay_ends_with_the_weights_of_an_uninterrupted_one(
    and_general, tmp_path, monkeypatch
):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_sft(with_replay(), and_general, whole)
    with monkeypatch.context() as patched:
        stop_after_save(patched, 2)
        with pytest.raises(Stopped):
            run_sft(with_replay(), and_general, resumed)

    run_sft(with_replay(), and_general, resumed)

    assert same_weights(whole, resumed)


@pytest.mark.parametrize(
    ("leaked", "message"),
    [
        ({"split": "test"}, "group 'g0' of g"),
        ({"split": "fold-0"}, r"sft\.replay\.samples: they are split into folds \(fold-0\)"),
    ],
)
def test_a_leak_through_replay_is_refused_before_anything_is_loaded(
    inputs, tmp_path, monkeypatch, leaked, message
):
    origin = Origin(source="g", source_id="x", licence="CC0-1.0", group="g0")
    write_samples(
        [make_sample("a", origin=origin), make_sample("b", origin=origin, **leaked)], tmp_path / "general"
    )
    monkeypatch.setattr(loop, "load_model", lambda *arguments, **options: pytest.fail("a model was loaded"))

    with pytest.raises(LeakError, match=message):
        run_sft(with_replay(), {**inputs, "general": tmp_path / "general"}, tmp_path)


def test_a_group_that_is_held_out_of_what_is_learnt_is_not_replayed(inputs, tmp_path):
    origin = Origin(source="s", source_id="x", licence="CC0-1.0", group="smear 3")
    write_samples(
        [make_sample("new"), make_sample("test", origin=origin, split="test")], tmp_path / "phantoms"
    )
    write_samples([make_sample("old", origin=origin)], tmp_path / "general")

    with pytest.raises(LeakError, match="smear 3"):
        run_sft(
            with_replay(),
            {**inputs, "phantoms": tmp_path / "phantoms", "general": tmp_path / "general"},
            tmp_path,
        )


def test_replay_without_a_training_sample_is_named(inputs, tmp_path):
    write_samples([make_sample("a", split="test")], tmp_path / "general")

    with pytest.raises(UserError, match=r"sft\.replay: general hold no training Sample"):
        run_sft(with_replay(), {**inputs, "general": tmp_path / "general"}, tmp_path)


def test_each_fold_replays_without_the_fold_that_is_held_out(inputs, tmp_path, monkeypatch):
    write_samples(in_folds([make_sample(f"a{index}") for index in range(4)]), tmp_path / "phantoms")
    write_samples(in_folds([make_sample(f"b{index}") for index in range(4)]), tmp_path / "general")
    seen = {}

    def note(config: Any, training: Any, base: str, out: Path, replayed: Any) -> Any:
        seen[out.name] = {sample.split for sample in (*training, *replayed.samples)}
        return {}

    monkeypatch.setattr(sft, "train_one", note)
    folders = {**inputs, "phantoms": tmp_path / "phantoms", "general": tmp_path / "general"}
    run_sft(with_replay(share=0.5), folders, tmp_path)

    assert seen == {"fold-0": {"fold-1"}, "fold-1": {"fold-0"}}


def test_an_entry_without_replay_has_the_key_that_it_had_before_there_was_any():
    assert "replay" not in config().keyed()
    assert with_replay().keyed()["replay"]["share"] == 0.25
    assert with_replay().needs() == ("phantoms", "general", "untrained")
    with pytest.raises(ValidationError, match="no task 'counting'"):
        with_replay(tasks={"counting": 1})
