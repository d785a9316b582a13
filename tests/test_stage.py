"""References to models: exactly one kind of place, and the small bases that the package ships."""

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from pathloom import stage
from pathloom.card import read_card
from pathloom.models.export import ExportConfig, run_export
from pathloom.stage import ModelRef, shipped_bases


@pytest.fixture
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped bases: two with weights, one without."""
    for name in ("nano", "nano3", "unfinished"):
        (tmp_path / name).mkdir()
    (tmp_path / "unfinished" / "config.json").write_text("{}")
    (tmp_path / "nano" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "nano3" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(stage, "_BASES", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"stage": "a", "base": "nano"},
        {"base": "nano", "folder": "b"},
        {"base": "nano", "hub": "c/d"},
        {"stage": "a", "base": "nano", "folder": "b", "hub": "c/d"},
    ],
)
def test_a_model_is_named_in_exactly_one_way(given, bases):
    with pytest.raises(ValidationError, match="give exactly one of stage, base, folder and hub"):
        ModelRef(**given)


def test_a_base_is_a_folder_with_weights_in_the_package(bases):
    reference = ModelRef(base="nano")

    assert shipped_bases() == ("nano", "nano3")
    assert reference.locate({}) == str(bases / "nano")
    assert reference.needs() == ()


@pytest.mark.parametrize("name", ["nino", "unfinished", "", "../nano"])
def test_an_unknown_base_is_refused_with_a_list_of_those_shipped(name, bases):
    with pytest.raises(ValidationError, match=f"no base '{name}' is shipped; there is nano, nano3"):
        ModelRef(base=name)


def test_where_no_base_is_shipped_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "_BASES", tmp_path / "missing")

    assert shipped_bases() == ()
    with pytest.raises(ValidationError, match="no base 'nano' is shipped; there is none"):
        ModelRef(base="nano")


def test_the_fingerprint_of_a_base_is_that_of_its_weights_wherever_they_lie(bases):
    before = ModelRef(base="nano").fingerprint()
    other = ModelRef(base="nano3").fingerprint()
    shutil.copytree(bases / "nano", bases / "copy")

    assert ModelRef(base="copy").fingerprint() == before, (
        "another installation has another path and other times"
    )
    assert before != other
    (bases / "nano" / "model.safetensors").write_bytes(b"weighty")
    assert ModelRef(base="nano").fingerprint() not in (before, "")


def test_the_fingerprint_of_a_folder_changes_with_its_files(tmp_path):
    (tmp_path / "a").write_text("1")
    before = ModelRef(folder=str(tmp_path)).fingerprint()
    (tmp_path / "a").write_text("12")

    assert ModelRef(folder=str(tmp_path)).fingerprint() != before


def test_a_stage_and_a_hub_id_have_no_fingerprint_of_their_own():
    assert ModelRef(stage="trained").fingerprint() == ModelRef(hub="a/b").fingerprint() == ""


def test_a_reference_is_located_where_it_says(tmp_path):
    assert ModelRef(stage="trained").locate({"trained": tmp_path}) == str(tmp_path)
    assert ModelRef(stage="trained").needs() == ("trained",)
    assert ModelRef(folder="some/model").locate({}) == "some/model"
    assert ModelRef(hub="a/b").locate({}) == "a/b"


def test_a_shipped_base_is_used_like_any_model_folder(model_folder, tmp_path, monkeypatch):
    shutil.copytree(model_folder, tmp_path / "bases" / "nano")
    monkeypatch.setattr(stage, "_BASES", tmp_path / "bases")
    (tmp_path / "out").mkdir()
    config = ExportConfig(name="again", kind="export", model=ModelRef(base="nano"))

    run_export(config, {}, tmp_path / "out")

    assert config.fingerprint() == ModelRef(base="nano").fingerprint() != ""
    assert read_card(tmp_path / "out").num_parameters == read_card(model_folder).num_parameters
