"""Near-copies of pictures: phantom tissue turned, cropped, mirrored and re-encoded is found, other tissue is not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.curate.copies import (
    jpeg,
    shown,
    tissue,
    turned_copy,
    vector,
    written_features,
    written_stage,
)
from tests.fixtures import make_sample

from pathloom.curate.config import CurateConfig
from pathloom.curate.curate import run_curate
from pathloom.curate.duplicates import ImageDuplicatesStep
from pathloom.curate.near_copies import grouped
from pathloom.curate.perceptual_hash import HASH_BITS, hash_pairs, hash_signs, turned
from pathloom.curate.registration import points_of, shared_points
from pathloom.curate.step import Prepared
from pathloom.images import decode
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

pytest.importorskip("cv2")

TURNS = [
    (mirror, quarter)
    for mirror in (None, PILImage.Transpose.FLIP_LEFT_RIGHT)
    for quarter in (0, 90, 180, 270)
]


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    """A step on Samples, whose vectors are given by id; by default each Sample has one of its own."""

    def prepare(samples: list[Sample], vectors: dict[str, Any] | None = None, **fields: Any) -> Prepared:
        if vectors is None:
            vectors = {sample.id: vector(row) for row, sample in enumerate(samples)}
        folder = written_features(tmp_path / "seen", vectors)
        # Each Sample is a candidate of each: the points decide, whatever the vectors.
        step = ImageDuplicatesStep(step="image_duplicates", features="seen", **{"cosine": -1, **fields})
        return step.prepare(lambda: iter(samples), {"seen": folder}, 0)

    return prepare


def reasons(step: Prepared, samples: list[Sample]) -> dict[str, str]:
    records = [step.change(sample) for sample in samples]
    return {record.sample_id: record.reason for record in records if isinstance(record, Drop)}


@pytest.mark.parametrize(("mirror", "quarter"), TURNS)
def test_the_hash_knows_a_picture_in_each_of_its_eight_turns_and_as_a_jpeg(mirror, quarter):
    picture = tissue(1)
    other = picture.rotate(quarter) if mirror is None else picture.transpose(mirror).rotate(quarter)
    other = decode(jpeg(other.resize((100, 100))), "copy")

    assert hash_pairs(hash_signs(picture)[None], 6, hash_signs(other)[None])


def test_the_hash_tells_other_tissue_apart_and_sees_nothing_in_one_colour():
    signs = np.stack([hash_signs(tissue(seed)) for seed in range(12)])
    flat = hash_signs(PILImage.new("RGB", (64, 64), (240, 200, 220)))

    assert hash_pairs(signs, 6) == {}
    assert not flat.any()
    assert hash_pairs(np.stack([flat, flat]), 16) == {}


def test_hash_pairs_are_those_of_a_plain_count_of_bits():
    signs = np.random.default_rng(0).choice([-1, 1], (40, HASH_BITS)).astype(np.int8)
    signs[7] = next(turn[0] for row, turn in enumerate(turned(signs[3:4])) if row == 5)
    signs[7, :4] *= -1
    plain = {}
    for i in range(40):
        for j in range(i + 1, 40):
            distance = min(int((signs[i] != turn[0]).sum()) for turn in turned(signs[j : j + 1]))
            if distance <= 18:
                plain[i, j] = distance

    assert hash_pairs(signs, 18) == plain
    assert plain[3, 7] == 4


def test_points_agree_on_a_mirrored_turned_crop_and_on_nothing_else():
    one = points_of(tissue(1))

    assert shared_points(one, points_of(turned_copy(tissue(1)))).points >= 30
    assert max(shared_points(one, points_of(tissue(seed))).points for seed in range(2, 8)) < 8
    assert shared_points(one, points_of(PILImage.new("RGB", (64, 64)))).points == 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_overlap_is_the_share_of_the_smaller_field(mirrored):
    wide = tissue(1).resize((320, 320))
    left, right = wide.crop((0, 40, 200, 240)), wide.crop((120, 40, 320, 240))
    if mirrored:
        right = right.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    inner = wide.crop((30, 70, 170, 210))

    assert shared_points(points_of(left), points_of(right)).overlap == pytest.approx(0.4, abs=0.03)
    assert shared_points(points_of(left), points_of(inner)).overlap == pytest.approx(1, abs=0.03)
    assert shared_points(points_of(inner), points_of(left)).overlap == pytest.approx(1, abs=0.03)


def test_points_are_found_at_any_shape_of_picture():
    assert len(points_of(tissue(1).resize((30, 900)))) > 0
    assert len(points_of(PILImage.new("RGB", (1, 5000)))) == 0


def test_the_first_of_each_group_is_kept_and_named(prepared):
    samples = [
        shown("a", tissue(1)),
        shown("b", tissue(2)),
        shown("c", turned_copy(tissue(1))),
        shown("d", tissue(2).rotate(90)),
        shown("e", tissue(3)),
    ]
    step = prepared(samples)
    drops = [record for record in map(step.change, samples) if isinstance(record, Drop)]

    assert {drop.sample_id for drop in drops} == {"c", "d"}
    assert {drop.reason for drop in drops} == {"near_copy"}
    assert drops[0].detail.startswith("of a (")
    assert "points agree" in drops[0].detail
    assert drops[1].detail.startswith("of b (hash ")
    facts = step.facts
    assert (facts["pairs"], facts["groups"], facts["group_sizes"]) == (2, 2, {"2": 2})
    assert facts["pairs_by"] == {"embedding": 1, "hash": 1}
    assert [(row["one"], row["other"]) for row in facts["closest_pairs"]] == [("b", "d"), ("a", "c")]


def test_candidates_come_from_the_embedding(prepared):
    samples = [
        shown("a", tissue(1)),
        shown("b", turned_copy(tissue(1))),
        shown("c", turned_copy(tissue(1), -15)),
    ]
    vectors = {"a": vector(0), "b": vector(0) * 3, "c": -vector(0)}

    assert reasons(prepared(samples, vectors, cosine=0.9), samples) == {"b": "near_copy"}


def test_a_held_out_copy_is_kept_and_the_training_one_dropped(prepared):
    samples = [shown("a", tissue(1)), shown("b", turned_copy(tissue(1)), split="test")]
    step = prepared(samples)

    assert set(reasons(step, samples)) == {"a"}
    assert step.facts["pairs_across_splits"] == 1
    assert step.facts["leaks_across_splits"][0]["splits"] == "train, test"


def test_a_picture_shown_on_both_sides_under_one_path_is_a_leak(prepared):
    samples = [shown("a", tissue(1), path="x.jpg"), shown("b", tissue(1), path="x.jpg", split="test")]

    assert set(reasons(prepared(samples), samples)) == {"a"}


def test_several_questions_on_one_picture_share_its_fate(prepared):
    samples = [
        shown("a", tissue(1), path="x.jpg"),
        shown("b", tissue(1), path="x.jpg", question="Which stain?"),
        shown("c", tissue(1).rotate(180), path="y.jpg"),
        shown("d", tissue(1).rotate(180), path="y.jpg", question="Which stain?"),
    ]
    step = prepared(samples)

    assert set(reasons(step, samples)) == {"c", "d"}
    assert step.facts["pictures_compared"] == 2


def test_a_chain_of_overlapping_fields_is_dropped_only_against_what_is_kept(prepared):
    wide = PILImage.new("RGB", (400, 160))
    for row in range(3):
        wide.paste(tissue(10 + row), (row * 160 - 10, 0))
    fields = [shown(name, wide.crop((90 * k, 0, 90 * k + 160, 160))) for k, name in enumerate("abc")]

    # b overlaps with a and with c; a and c share nothing
    assert set(reasons(prepared(fields, hash_bits=0, overlap=0), fields)) == {"b"}


def test_neighbouring_fields_that_share_less_than_half_are_no_duplicates(prepared):
    wide = tissue(1).resize((320, 320))
    fields = [shown("a", wide.crop((0, 40, 200, 240))), shown("b", wide.crop((120, 40, 320, 240)))]

    assert reasons(prepared(fields), fields) == {}


def test_groups_are_widened_along_copies_and_groups(prepared):
    samples = [
        shown("a", tissue(1), group="one"),
        shown("b", turned_copy(tissue(1)), group="two"),
        shown("c", tissue(2), group="two"),
        shown("d", tissue(3), group="three"),
    ]
    step = prepared(samples, action="group")
    changed = [step.change(sample) for sample in samples]

    assert [one.origin.group for one in changed if isinstance(one, Sample)] == ["one", "one", "one", "three"]
    assert changed[1].history[-1].note == "group two joins one"
    assert step.facts["groups_widened"] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"split": "test"},
            "1 pairs of near-copies stand on two sides of the split: a and b; use action: drop",
        ),
        ({"source": "other"}, "stand in two sources: a and b"),
    ],
)
def test_copies_that_no_group_can_keep_together_raise(prepared, fields, message):
    samples = [shown("a", tissue(1)), shown("b", turned_copy(tissue(1)), **fields)]

    with pytest.raises(UserError, match=message):
        prepared(samples, action="group")


def test_a_chain_that_swallows_the_set_raises(prepared):
    samples = [shown(name, tissue(1).rotate(90 * k)) for k, name in enumerate("abc")]

    with pytest.raises(UserError, match="a chain of copies from a holds 3 pictures, more than max_group 2"):
        prepared(samples, action="group", max_group=2)


def test_what_cannot_be_compared_is_a_drop_with_its_reason(prepared, tmp_path):
    broken = shown("broken", tissue(4))
    image = broken.images[0].model_copy(update={"data": jpeg(tissue(4))[:-900]})
    samples = [
        shown("a", tissue(1)),
        broken.model_copy(update={"images": (image,)}),
        shown("rowless", tissue(5)),
        shown("nan", tissue(6)),
        make_sample("bare", images=()),
        shown("a", tissue(7), path="another.jpg"),
        shown("b", turned_copy(tissue(1))),
    ]
    vectors = {"a": vector(0), "broken": vector(1), "nan": np.full(16, np.nan), "b": vector(2)}
    step = prepared(samples, vectors)

    expected = {"broken": "truncated", "rowless": "no_features", "nan": "nan_features", "a": "repeated_id"}
    assert reasons(step, samples) == {**expected, "b": "near_copy"}
    assert not isinstance(step.change(samples[0]), Drop)
    assert step.facts["not_compared"] == {
        "nan_features": 1,
        "no_features": 1,
        "repeated_id": 1,
        "truncated": 1,
    }


def test_a_repeated_id_whose_first_picture_has_no_finite_vector_is_a_drop(prepared):
    samples = [shown("a", tissue(1)), shown("a", tissue(2), path="another.jpg"), shown("b", tissue(3))]
    step = prepared(samples, {"a": np.full(16, np.nan), "b": vector(0)})

    found = [step.change(sample) for sample in samples]

    assert [one.reason for one in found if isinstance(one, Drop)] == ["nan_features", "repeated_id"]


def test_a_picture_under_a_repeated_id_is_compared_once_it_comes_under_its_own(prepared):
    other = shown("a", tissue(2), path="another.jpg")
    own = other.model_copy(update={"id": "c"})
    samples = [shown("a", tissue(1)), other, shown("b", tissue(3)), own, shown("d", tissue(2))]
    step = prepared(samples, {name: vector(row) for row, name in enumerate("abcd")})

    found = [step.change(sample) for sample in samples]

    assert [one.reason for one in found if isinstance(one, Drop)] == ["repeated_id", "near_copy"]
    assert step.facts["not_compared"] == {}


def test_one_sample_and_none_are_no_error(prepared, tmp_path):
    samples = [shown("a", tissue(1))]

    assert reasons(prepared(samples), samples) == {}
    step = ImageDuplicatesStep(step="image_duplicates", features="seen")
    nothing = step.prepare(lambda: iter([]), {"seen": tmp_path / "seen"}, 0)
    assert nothing.facts["pairs"] == nothing.facts["groups"] == 0


def test_features_of_texts_are_refused(tmp_path):
    folder = written_features(tmp_path / "read", {"a": vector(0)}, of="caption")
    step = ImageDuplicatesStep(step="image_duplicates", features="read")

    with pytest.raises(UserError, match="stage read holds features of: caption"):
        step.prepare(lambda: iter([]), {"read": folder}, 0)


def test_a_machine_without_opencv_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    step = ImageDuplicatesStep(step="image_duplicates", features="seen")

    with pytest.raises(UserError, match="clean compares local points by OpenCV: pip install"):
        step.check("clean")


def test_grouping_follows_pairs_in_any_order():
    assert grouped(6, [(4, 5), (1, 4), (0, 2)]).tolist() == [0, 1, 0, 3, 1, 1]


def test_a_recipe_stage_drops_a_copy_and_writes_what_it_found(tmp_path):
    samples = [shown("a", tissue(1)), shown("b", tissue(2)), shown("c", turned_copy(tissue(1)))]
    vectors = {"a": vector(0), "b": vector(1), "c": vector(0)}
    inputs = {
        "samples": written_stage(tmp_path / "samples", samples),
        "seen": written_features(tmp_path / "seen", vectors),
    }
    config = CurateConfig(
        name="clean",
        kind="curate",
        samples=("samples",),
        steps=({"step": "image_duplicates", "features": "seen"},),
    )

    counts = run_curate(config, inputs, tmp_path / "out")

    assert config.needs() == ("samples", "seen")
    assert counts["drops_by_step"] == {"curate.image_duplicates": 1}
    assert '"pairs": 1' in (tmp_path / "out" / "facts.json").read_text()
