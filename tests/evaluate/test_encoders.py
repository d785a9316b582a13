import json

import numpy as np
import pytest
from tests.fixtures import make_image, make_sample

from pathloom.card import CARD_FILE
from pathloom.evaluate.encoders import held_out_set, image_features, unit
from pathloom.evaluate.encoders_config import RetrievalConfig
from pathloom.models.embed import Encoder
from pathloom.schema import Image
from pathloom.stage import UserError
from pathloom.store import write_samples


def entry(**fields):
    sets = [{"name": "set", "samples": ["pairs"]}]
    return RetrievalConfig(name="found", kind="retrieval", encoders={"it": "stage:clip"}, sets=sets, **fields)


def caption(sample_id, **fields):
    return make_sample(sample_id, task="caption", answer="a gland", **fields)


class Eyes:
    """Counts the pictures that it sees; the third is no number to it."""

    def __init__(self):
        self.seen = 0

    def __call__(self, pictures):
        import torch

        self.seen += len(pictures)
        rows = torch.tensor([[float(np.asarray(one).mean()), 1.0] for one in pictures])
        rows[2:3] = torch.nan
        return rows


def captions(sample):
    return sample.task == "caption"


def test_held_out_samples_are_measured_once_and_what_is_left_out_is_told(tmp_path):
    samples = [caption("a", split="test"), caption("b"), make_sample("c", split="test")]
    write_samples([*samples, caption("d", split="test", images=())], tmp_path / "pairs")
    write_samples(samples[:1], tmp_path / "again")
    inputs = {"pairs": tmp_path / "pairs", "again": tmp_path / "again"}
    one = entry().sets[0].model_copy(update={"samples": ("pairs", "again")})

    found, drops = held_out_set(entry(), one, {**inputs, "clip": tmp_path}, captions, "caption")

    assert [sample.id for sample in found] == ["a"]
    assert [(drop.sample_id, drop.reason) for drop in drops] == [("d", "no_image"), ("a", "duplicate_id")]


def test_a_stage_without_held_out_pairs_is_named(tmp_path):
    write_samples([caption("a"), caption("b", split="test", images=())], tmp_path)

    with pytest.raises(
        UserError, match=r"set: pairs hold no held-out Sample of caption with a picture \(1 no_image\)"
    ):
        held_out_set(entry(), entry().sets[0], {"pairs": tmp_path}, captions, "caption")


def test_all_samples_are_refused_where_an_encoder_has_learnt_from_them(tmp_path):
    write_samples([caption("a")], tmp_path / "pairs")
    inputs = {"pairs": tmp_path / "pairs", "clip": tmp_path / "clip"}
    (tmp_path / "clip").mkdir()
    card = tmp_path / "clip" / CARD_FILE
    one = entry().sets[0].model_copy(update={"which": "all"})

    card.write_text(json.dumps({"trained_on": ["other"]}))
    assert len(held_out_set(entry(), one, inputs, captions, "caption")[0]) == 1
    card.write_text(json.dumps({"trained_on": ["made"]}))
    with pytest.raises(UserError, match="trained on made"):
        held_out_set(entry(), one, inputs, captions, "caption")


def test_features_are_kept_for_a_second_run_and_what_has_none_is_a_drop(tmp_path):
    broken = Image(path="broken.png", data=b"no picture", width_px=4, height_px=4)
    samples = [caption(name, images=(make_image(seed),)) for seed, name in enumerate("abcd")]
    samples.insert(1, caption("broken", images=(broken,)))
    eyes = Eyes()
    encoder = Encoder("eyes", image_dim=2, see=eyes)

    first = image_features(entry(), "it", encoder, samples, tmp_path)
    again = image_features(entry(), "it", encoder, samples, tmp_path)

    assert eyes.seen == 4
    for features, rows, drops in (first, again):
        assert rows.tolist() == [0, 2, 4]  # the third picture seen, at row 3, came back as NaN
        assert features.shape == (3, 2)
        assert [drop.sample_id for drop in drops] == ["broken", "c"]
        assert drops[1].reason == "features_not_finite"
    np.testing.assert_array_equal(first[0], again[0])
    assert first[2] == again[2]


def test_other_pictures_under_the_same_ids_are_embedded_anew(tmp_path):
    sets = [[caption("a", images=(make_image(seed),))] for seed in (1, 2)]
    encoder = Encoder("eyes", image_dim=2, see=Eyes())

    first, other = (image_features(entry(), "it", encoder, one, tmp_path)[0] for one in sets)

    assert first[0, 0] != other[0, 0]


def test_unit_vectors_have_length_one_and_zeros_stay():
    vectors = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))

    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0.0, 0.0]])
