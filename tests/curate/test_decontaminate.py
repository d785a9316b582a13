"""Training Samples that repeat a benchmark's pictures or texts are dropped, and the report says which and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.curate.copies import shown, tissue, turned_copy, vector, written_features, written_stage
from tests.fixtures import make_sample

from pathloom.curate.decontaminate import DecontaminateStep
from pathloom.curate.step import Prepared
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

pytest.importorskip("cv2")

WORDS = np.array([f"word{number}" for number in range(500)])


def text(seed: int, num_words: int = 40) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    def prepare(train: list[Sample], held_out: list[Sample], **fields: Any) -> Prepared:
        folders = {"bench": written_stage(tmp_path / "bench", held_out)}
        for name, samples in (("seen", train), ("bench_seen", held_out)):
            vectors = {sample.id: vector(row) for row, sample in enumerate(samples)}
            folders[name] = written_features(tmp_path / name, vectors)
        given = {"against": ("bench",), "features": "seen", "held_out_features": "bench_seen", "cosine": -1}
        step = DecontaminateStep(step="decontaminate", **{**given, **fields})
        return step.prepare(lambda: iter(train), folders, 0)

    return prepare


def drops(step: Prepared, samples: list[Sample]) -> dict[str, Drop]:
    return {drop.sample_id: drop for drop in map(step.change, samples) if isinstance(drop, Drop)}


def test_copies_by_hash_by_points_and_by_text_are_dropped_and_named(prepared):
    bench = [
        shown("q1", tissue(1), split="test", source="bach"),
        shown("q2", tissue(2), split="test", source="bach"),
        shown("q3", tissue(3), split="fold-0", source="crc", answer=text(1)),
        shown("own", tissue(8), split="train", source="bach"),
    ]
    near = text(1).split()
    near[-1] = "another"
    train = [
        shown("a", tissue(1).rotate(90)),
        shown("b", turned_copy(tissue(2))),
        shown("c", tissue(5), answer=" ".join(near)),
        shown("d", tissue(6), answer=text(2)),
        shown("e", tissue(8).rotate(90)),
        shown("f", tissue(1), split="val"),
    ]
    step = prepared(train, bench)
    found = drops(step, train)

    assert {name: drop.reason for name, drop in found.items()} == {
        "a": "held_out_hash",
        "b": "held_out_embedding",
        "c": "held_out_text",
    }
    assert found["a"].detail.startswith("of q1 of bach (hash ")
    assert "points agree" in found["b"].detail
    assert found["c"].detail == "of q3 of crc (Jaccard 0.95)"
    assert step.facts["benchmarks"]["bach"] == {
        "held_out_samples": 2,
        "pictures_compared": 2,
        "pictures_not_compared": 0,
        "found_by_hash": 1,
        "found_by_embedding": 1,
        "found_by_text": 0,
    }
    assert step.facts["benchmarks"]["crc"]["found_by_text"] == 1
    assert [row["sample"] for row in step.facts["examples"]] == ["a", "b", "c"]


def test_short_texts_and_templates_of_the_benchmark_are_no_overlap(prepared):
    template = text(3)
    bench = [
        shown(f"q{n}", tissue(n), split="test", question=template, answer="carcinoma in situ")
        for n in range(4)
    ]
    train = [
        shown("a", tissue(10), question=template, answer="carcinoma in situ"),
        shown("b", tissue(11), question=f"{template} indeed"),
    ]
    step = prepared(train, bench)

    assert drops(step, train) == {}
    assert step.facts["held_out_templates_passed_over"] == 1
    assert step.facts["held_out_texts_compared"] == 0


def test_a_repeated_question_below_the_limit_of_templates_is_found(prepared):
    bench = [shown(f"q{n}", tissue(n), split="test", question=text(3)) for n in range(3)]
    train = [make_sample("a", images=(), question=text(3)), shown("b", tissue(11))]

    assert drops(prepared(train, bench), train)["a"].reason == "held_out_text"


def test_a_training_picture_that_cannot_be_compared_is_dropped_and_a_held_out_one_counted(prepared):
    bench = [shown("q1", tissue(1), split="test"), shown("q2", tissue(2), split="test")]
    image = bench[1].images[0].model_copy(update={"data": b"no picture"})
    bench[1] = bench[1].model_copy(update={"images": (image,)})
    train = [shown("a", tissue(3)), shown("b", tissue(4))]
    train[1] = train[1].model_copy(update={"images": (image,)})
    step = prepared(train, bench)

    assert {name: drop.reason for name, drop in drops(step, train).items()} == {"b": "not_an_image"}
    assert step.facts["benchmarks"]["made"]["pictures_not_compared"] == 1


def test_a_held_out_picture_of_a_repeated_id_is_counted_as_not_compared(prepared):
    bench = [shown("q", tissue(1), split="test"), shown("q", tissue(2), split="test", path="another.jpg")]
    made = prepared([shown("a", tissue(3))], bench).facts["benchmarks"]["made"]

    assert (made["pictures_compared"], made["pictures_not_compared"]) == (1, 1)


def test_a_text_that_repeats_the_id_of_a_copied_picture_shares_its_fate(prepared):
    train = [shown("a", tissue(1)), make_sample("a", images=())]
    step = prepared(train, [shown("q", tissue(1), split="test")])

    assert [step.change(sample).reason for sample in train] == ["held_out_hash", "held_out_hash"]


def test_a_benchmark_of_texts_alone_and_a_training_set_of_texts_alone_are_no_error(prepared, tmp_path):
    bench = [make_sample("q", split="test", images=(), context=text(4))]
    train = [make_sample("a", images=(), context=text(4)), make_sample("b", images=())]

    assert set(drops(prepared(train, bench), train)) == {"a"}


def test_features_of_two_encoders_are_refused_by_name(tmp_path):
    inputs = {
        "one": written_features(tmp_path / "one", {"a": vector(0)}, encoder="efficientnet_lite0"),
        "two": written_features(tmp_path / "two", {"b": vector(1)}, encoder="stage:pathoclip"),
    }
    step = DecontaminateStep(
        step="decontaminate", against=("bench",), features="one", held_out_features="two"
    )

    with pytest.raises(UserError, match="one was made by efficientnet_lite0, two by stage:pathoclip"):
        step.prepare(lambda: iter([]), inputs, 0)


def test_stages_that_hold_nothing_out_and_features_of_other_samples_are_refused(prepared, tmp_path):
    with pytest.raises(UserError, match="no Sample of bench is held out"):
        prepared([shown("a", tissue(1))], [shown("q", tissue(2))])

    step = DecontaminateStep(step="decontaminate", against=("bench",), features="seen")
    inputs = {"bench": written_stage(tmp_path / "bench", [shown("z", tissue(2), split="test")])}
    inputs["seen"] = tmp_path / "seen"
    with pytest.raises(UserError, match=r"no held-out picture of the source made can .*held_out_features"):
        step.prepare(lambda: iter([shown("a", tissue(1))]), inputs, 0)


def test_one_stage_of_several_that_holds_nothing_out_is_named(tmp_path):
    inputs = {
        "held": written_stage(tmp_path / "held", [shown("q", tissue(1), split="test")]),
        "open": written_stage(tmp_path / "open", [shown("r", tissue(2))]),
        "seen": written_features(tmp_path / "seen", {"q": vector(0), "r": vector(1)}),
    }
    step = DecontaminateStep(step="decontaminate", against=("held", "open"), features="seen")

    with pytest.raises(UserError, match=r"no Sample of open is held out.*`folds`"):
        step.prepare(lambda: iter([]), inputs, 0)


def test_a_benchmark_whose_pictures_no_features_know_is_named(tmp_path):
    inputs = {
        "one": written_stage(tmp_path / "one", [shown("q", tissue(1), split="test", source="bach")]),
        "two": written_stage(tmp_path / "two", [shown("r", tissue(2), split="test", source="crc")]),
        "seen": written_features(tmp_path / "seen", {"q": vector(0)}),
    }
    step = DecontaminateStep(step="decontaminate", against=("one", "two"), features="seen")

    with pytest.raises(UserError, match="no held-out picture of the source crc can be compared"):
        step.prepare(lambda: iter([]), inputs, 0)


def test_the_stages_it_needs_are_named_once():
    step = DecontaminateStep(step="decontaminate", against=("bach", "crc"), features="seen")

    assert step.needs() == ("bach", "crc", "seen")
