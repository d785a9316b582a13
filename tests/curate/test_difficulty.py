import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.curate.test_subfield import write_features
from tests.fixtures import grouped

from pathloom.curate import difficulty, words
from pathloom.curate.difficulty import DifficultyStep, num_terms
from pathloom.curate.step import Prepared
from pathloom.schema import Drop, Level, Sample

LENGTHS: Mapping[Level, int] = {"easy": 20, "medium": 80, "hard": 200}
CENTRES: Mapping[Level, tuple[int, int, int]] = {"easy": (0, 9, 0), "medium": (9, 0, 0), "hard": (0, 0, 9)}


def make(
    count: int, subfield: str | None = "histopathology", prefix: str = "s", **fields: Any
) -> tuple[list[Sample], dict[str, list[float]]]:
    """A third of each level: caption lengths and vectors that tell them apart."""
    rng = np.random.default_rng(0)
    samples, vectors = [], {}
    for index in range(count):
        level = list(LENGTHS)[index % 3]
        sample_id = f"{prefix}{index}"
        caption = "x" * (LENGTHS[level] + index % 2)
        one = grouped(sample_id, sample_id, question="", answer=caption)
        samples.append(one.model_copy(update={"subfield": subfield, **fields}))
        vectors[sample_id] = rng.normal(CENTRES[level], 0.3).tolist()
    return samples, vectors


def run(samples: Sequence[Sample], folders: Mapping[str, Path], **fields: Any) -> tuple[Prepared, list[Any]]:
    step = DifficultyStep(step="difficulty", features=tuple(folders), **fields)
    prepared = step.prepare(lambda: iter(samples), folders, seed=0)
    return prepared, [prepared.change(sample) for sample in samples]


def level_of(sample: Sample) -> str:
    return list(LENGTHS)[int(sample.id.lstrip("sgi")) % 3]


def test_longer_captions_make_a_harder_cluster(tmp_path):
    samples, vectors = make(60)

    prepared, results = run(samples, {"seen": write_features(tmp_path / "seen", vectors)})

    assert all(isinstance(one, Sample) and one.level == level_of(one) for one in results)
    assert results[0].history[-1].note == "level easy"
    facts = prepared.facts["levels"]
    assert [(row["subfield"], row["level"], row["n"]) for row in facts] == [
        ("histopathology", level, 20) for level in LENGTHS
    ]
    assert [row["mean_chars"] for row in facts] == [20.5, 80.5, 200.5]
    assert facts[0]["mean_terms"] == 0
    json.dumps(prepared.facts)


def test_the_examples_lie_nearest_to_the_centre(tmp_path):
    samples, vectors = make(60)
    for sample_id in ("s0", "s3", "s6"):
        vectors[sample_id] = list(map(float, CENTRES["easy"]))

    prepared, _ = run(samples, {"seen": write_features(tmp_path / "seen", vectors)})

    nearest = prepared.facts["levels"][0]["nearest"]
    assert set(nearest) == {"s0", "s3", "s6"}


def test_equal_lengths_are_told_apart_by_pathology_terms(tmp_path):
    samples, vectors = make(60)
    captions = {"easy": "lung lung lung.", "medium": "lung, liver 123", "hard": "lung skin liver"}
    samples = [one.model_copy(update={"answer": captions[level_of(one)]}) for one in samples]

    prepared, results = run(samples, {"seen": write_features(tmp_path / "seen", vectors)})

    assert len({len(caption) for caption in captions.values()}) == 1
    assert all(one.level == level_of(one) for one in results)
    assert [row["mean_terms"] for row in prepared.facts["levels"]] == [1, 2, 3]


def test_terms_are_distinct_words():
    assert num_terms("The liver: cirrhosis of the Liver, with hepatocellular carcinoma.") == 3
    assert num_terms("Nothing of the kind.") == 0


def test_each_sub_field_has_its_own_levels(tmp_path):
    samples, vectors = make(60)
    gross, more = make(60, "gross", "g")
    gross = [one.model_copy(update={"answer": one.answer * 5}) for one in gross]

    prepared, results = run(
        [*samples, *gross], {"seen": write_features(tmp_path / "seen", {**vectors, **more})}
    )

    assert all(one.level == level_of(one) for one in results)
    assert {row["subfield"] for row in prepared.facts["levels"]} == {"histopathology", "gross"}


def test_the_vectors_of_each_encoder_weigh_the_same(tmp_path):
    # The first encoder's vectors are a thousand times longer and tell nothing; the second's tell the levels.
    samples, vectors = make(60)
    noise = {one.id: [1000.0, 1000.0 + index % 7] for index, one in enumerate(samples)}
    folders = {
        "seen": write_features(tmp_path / "seen", noise),
        "read": write_features(tmp_path / "read", vectors),
    }

    prepared, results = run(samples, folders)

    assert all(one.level == level_of(one) for one in results)
    assert prepared.facts["encoders"] == ["made", "made"]


def test_a_small_sub_field_is_dropped_with_the_cure_and_the_user_decides(tmp_path):
    samples, vectors = make(29)
    folder = write_features(tmp_path / "seen", vectors)

    prepared, results = run(samples, {"seen": folder})
    _, allowed = run(samples, {"seen": folder}, min_samples=29)

    assert {one.reason for one in results if isinstance(one, Drop)} == {"too_few_for_levels"}
    assert results[0].detail.startswith(
        "29 Samples of histopathology have features, 30 are needed: add Samples, lower"
    )
    assert prepared.facts["levels"] == [{"subfield": "histopathology", "level": "too few", "n": 29}]
    assert all(one.level == level_of(one) for one in allowed)


def test_vectors_that_do_not_differ_give_no_levels(tmp_path):
    samples, vectors = make(40)
    same = {sample_id: [1.0, 2.0 if index % 2 else 1.0] for index, sample_id in enumerate(vectors)}

    _, results = run(samples, {"seen": write_features(tmp_path / "seen", same)})

    assert all(isinstance(one, Drop) and one.reason == "too_few_for_levels" for one in results)
    assert "show fewer than three different vectors" in results[0].detail


def test_who_lacks_features_or_a_sub_field_is_dropped_and_a_level_is_kept(tmp_path):
    samples, vectors = make(60)
    (unplaced, *_), _ = make(1, None, "i")
    (leveled, *_), _ = make(1, "gross", "g", level="hard")
    folders = {
        "seen": write_features(tmp_path / "seen", {**vectors, "i0": [0.0, 0.0, 1.0]}),
        "read": write_features(tmp_path / "read", {key: row for key, row in vectors.items() if key != "s7"}),
    }

    prepared, results = run([*samples, unplaced, leveled], folders)

    assert isinstance(results[7], Drop)
    assert (results[7].reason, results[7].detail) == (
        "no_features",
        "no row in read; missing.jsonl there says why",
    )
    assert isinstance(results[60], Drop)
    assert results[60].reason == "no_subfield"
    assert results[61] is leveled
    assert sum(row["n"] for row in prepared.facts["levels"]) == 59


def test_large_sub_fields_are_clustered_in_mini_batches(tmp_path, monkeypatch):
    from sklearn.cluster import MiniBatchKMeans

    used = []
    whole = MiniBatchKMeans.fit_predict

    def fit_predict(self: Any, vectors: np.ndarray) -> np.ndarray:
        used.append(len(vectors))
        return whole(self, vectors)

    monkeypatch.setattr(MiniBatchKMeans, "fit_predict", fit_predict)
    monkeypatch.setattr(difficulty, "MINI_BATCH_ABOVE", 59)
    samples, vectors = make(60)

    _, results = run(samples, {"seen": write_features(tmp_path / "seen", vectors)})

    assert used == [60]
    assert all(one.level == level_of(one) for one in results)


def test_the_same_seed_gives_the_same_levels(tmp_path):
    samples, _ = make(90)
    rng = np.random.default_rng(1)
    folder = write_features(tmp_path / "seen", {one.id: rng.normal(size=4).tolist() for one in samples})

    assert run(samples, {"seen": folder})[1] == run(samples, {"seen": folder})[1]


@pytest.mark.parametrize("fields", [{"features": ()}, {"features": ("seen",), "min_samples": 2}])
def test_an_impossible_entry_is_refused(fields):
    with pytest.raises(ValidationError):
        DifficultyStep(step="difficulty", **fields)


def test_the_stages_of_features_are_needed():
    assert DifficultyStep(step="difficulty", features=("seen", "read")).needs() == ("seen", "read")


def test_other_words_are_another_key(monkeypatch):
    step = DifficultyStep(step="difficulty", features=("seen",))
    before = step.fingerprint()
    monkeypatch.setattr(words, "_TABLE", {"organs": {}, "subfields": {}})

    assert step.fingerprint() != before


def test_few_gives_a_small_sub_field_one_level_where_the_user_says_so(tmp_path):
    samples, vectors = make(12)

    _, results = run(samples, {"seen": write_features(tmp_path / "seen", vectors)}, few="medium")

    assert [one.level for one in results if isinstance(one, Sample)] == ["medium"] * 12
