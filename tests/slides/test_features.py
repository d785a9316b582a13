"""Tile features on disk, and the shelf that models take them from."""

import copy
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures import make_sample
from tests.slide_fixtures import DIM, slide_image, write_slides

from pathloom.slides.features import (
    Recent,
    Shelf,
    TileFeatures,
    encoder_of,
    lacks_features,
    open_shelf,
    read_features,
    write_features,
)
from pathloom.stage import UserError


def tiles(count: int = 3, fill: float = 1.0) -> TileFeatures:
    return TileFeatures(np.full((count, 4), fill, np.float16), np.zeros((count, 2), np.int32))


def test_features_and_places_come_back_as_written(tmp_path):
    path = tmp_path / "a.safetensors"
    written = TileFeatures(
        np.arange(12, dtype=np.float16).reshape(3, 4), np.array([[0, 0], [448, 0], [2**30, 7]], np.int32)
    )

    write_features(path, written, "made")

    found = read_features(path)
    assert np.array_equal(found.features, written.features)
    assert np.array_equal(found.places_l0, written.places_l0)
    assert found.features.dtype == np.float16
    assert found.places_l0.dtype == np.int32
    assert encoder_of(path) == "made"
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="half precision"):
        write_features(tmp_path / "a.safetensors", tiles(fill=np.inf), "made")
    with pytest.raises(ValueError, match="not those of the same tiles"):
        write_features(
            tmp_path / "a.safetensors", TileFeatures(tiles(3).features, tiles(2).places_l0), "made"
        )
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cut_off_is_nobodys_and_named(tmp_path):
    path = tmp_path / "a.safetensors"
    write_features(path, tiles(), "made")
    path.write_bytes(path.read_bytes()[:-10])

    assert encoder_of(path) is None
    assert encoder_of(tmp_path / "none") is None
    with pytest.raises(UserError, match=r"a\.safetensors"):
        read_features(path)


def test_stages_of_one_encoder_stand_on_one_shelf(tmp_path):
    first = write_slides(tmp_path / "first", {"a": 5, "b": 0})
    second = write_slides(tmp_path / "second", {"c": 2}, missing={"d": "not_a_slide: no such file"})

    shelf = Shelf([first, second])

    assert shelf.ids == ("a", "b", "c")
    assert (shelf.kind.dim, "a" in shelf, "d" in shelf) == (DIM, True, False)
    assert [len(shelf.read(slide).features) for slide in shelf.ids] == [5, 0, 2]
    with pytest.raises(UserError, match="no such file"):
        shelf.read("d")
    with pytest.raises(UserError, match="embed_slides"):
        shelf.read("e")
    assert copy.deepcopy(shelf) is shelf


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"encoder": "another"}, "by another"),
        ({"mpp": 0.5}, "0.5 um"),
        ({"tiles": {"a": 3}}, "slide a"),
    ],
)
def test_stages_that_do_not_belong_together_are_refused(tmp_path, other, said):
    first = write_slides(tmp_path / "first", {"a": 5})
    second = write_slides(tmp_path / "second", **{"tiles": {"b": 2}, **other})

    with pytest.raises(UserError, match=said):
        Shelf([first, second])


def test_a_folder_without_features_is_named(tmp_path):
    with pytest.raises(UserError, match=r"about\.json"):
        Shelf([tmp_path])
    assert open_shelf((), {}) is None


def test_a_shelf_keeps_the_last_slides_up_to_its_bytes(tmp_path, monkeypatch):
    stage = write_slides(tmp_path / "seen", {"a": 10, "b": 10, "c": 10})
    one = 10 * (DIM * 2 + 8)
    shelf = Shelf([stage], max_bytes=2 * one)
    read: list[str] = []

    def note(path: Path) -> TileFeatures:
        read.append(path.stem)
        return read_features(path)

    monkeypatch.setattr("pathloom.slides.features.read_features", note)
    for slide in ("a", "b", "a", "c", "a", "b"):
        shelf.read(slide)

    assert read == ["a", "b", "c", "b"]  # b was the oldest when c came


def test_what_is_larger_than_all_that_may_be_kept_is_not_kept():
    recent = Recent[bytes](10, len)

    assert recent.get("a", lambda: b"1234") == b"1234"
    assert recent.get("b", lambda: bytes(11)) == bytes(11)
    assert recent.num_bytes == 4
    assert recent.get("b", lambda: b"new") == b"new"
    assert recent.get("a", lambda: b"not asked") == b"1234"


def test_a_sample_is_usable_lost_or_unknown(tmp_path):
    shelf = Shelf([write_slides(tmp_path / "seen", {"a": 5}, missing={"b": "unreadable"})])

    def sample(slide: str) -> bool:
        return lacks_features(make_sample("s", images=(slide_image(slide),)), shelf, "sft")

    assert not sample("a")
    assert sample("b")
    with pytest.raises(UserError, match=r"sft\.slides: sample s .*slide c"):
        sample("c")
    assert not lacks_features(make_sample("region"), None, "sft")
    with pytest.raises(UserError, match=r"sft\.slides"):
        lacks_features(make_sample("s", images=(slide_image("a"),)), None, "sft")
