import pytest

from pathloom.card import CARD_FILE, BadModelFolder, ModelCard, read_card, write_card
from pathloom.models.load import load_model


def a_card(**fields: object) -> ModelCard:
    given = {
        "name": "sft",
        "base": "qwen2.5-vl-nano",
        "style": "cot",
        "tasks": ("choice",),
        "templates": {"choice": ("pick", "which")},
        "min_pixels": 3136,
        "max_pixels": 50176,
        "mpp_range": (0.25, 0.5),
        "trained_on": ("book",),
        "num_train_samples": 12,
        "num_parameters": 3_500_000,
        "pathloom_version": "0.1.0",
    }
    return ModelCard.model_validate({**given, **fields})


def test_a_card_comes_back_as_it_was_written(tmp_path):
    write_card(a_card(), tmp_path)

    assert read_card(tmp_path) == a_card()


def test_a_folder_without_a_card_says_which_stage_writes_one(tmp_path):
    with pytest.raises(BadModelFolder, match=rf"{CARD_FILE} is missing.*sft.*init"):
        read_card(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": "x", "colour": "red"}'])
def test_a_broken_card_is_named(tmp_path, text):
    (tmp_path / CARD_FILE).write_text(text)

    with pytest.raises(BadModelFolder, match=f"{CARD_FILE} is not a model card"):
        read_card(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "last.ckpt"])
def test_pickled_weights_are_refused_with_the_cure(tmp_path, name):
    write_card(a_card(), tmp_path)
    (tmp_path / name).write_bytes(b"\x80\x04")

    for read in (lambda: read_card(tmp_path), lambda: load_model(str(tmp_path))):
        with pytest.raises(BadModelFolder, match=rf"{name} is a pickle.*safetensors"):
            read()


def test_a_pickle_beside_safetensors_does_no_harm(tmp_path):
    # Only the safetensors are loaded; trainers leave such files beside them.
    write_card(a_card(), tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x04")
    (tmp_path / "model.safetensors").write_bytes(b"")

    assert read_card(tmp_path).name == "sft"
