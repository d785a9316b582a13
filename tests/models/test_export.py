"""Stage `export`: the same model in fewer bytes, with its processor and card."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.fixtures import FAMILIES, picture

from pathloom.card import BadModelFolder, read_card
from pathloom.models.export import ExportConfig, run_export
from pathloom.models.load import load_model
from pathloom.stage import UserError


def export(model: dict[str, str], **fields: Any) -> ExportConfig:
    return ExportConfig.model_validate({"name": "base", "kind": "export", "model": model, **fields})


@pytest.fixture(scope="module")
def exported(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Family -> the folder that a bfloat16 export leaves, and what goes into its manifest."""
    folders = {}
    for family in FAMILIES:
        out = tmp_path_factory.mktemp(f"exported_{family}")
        config = export({"stage": "trained"}, title="Nano base 1")
        folders[family] = (out, run_export(config, {"trained": model_folders[family]}, out))
    return folders


def logits(location: Path, dtype: str) -> Any:
    model, processor = load_model(str(location), dtype=dtype)
    content = [{"type": "image"}, {"type": "text", "text": "What is the diagnosis?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    batch = processor(text=[text], images=[[picture(1, width_px=64, height_px=64)]], return_tensors="pt")
    with torch.inference_mode():
        return model.eval()(**batch).logits.float()


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_weights_are_the_models_rounded_to_bfloat16(exported, model_folders, family):
    before = load_file(model_folders[family] / "model.safetensors")
    after = load_file(exported[family][0] / "model.safetensors")

    assert set(after) == set(before)
    assert all(tensor.dtype == torch.bfloat16 for tensor in after.values())
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_model_is_loaded_as_it_is_and_answers_as_before(exported, model_folders, family):
    before = logits(model_folders[family], "float32")

    same_sums, as_given_away = logits(exported[family][0], "float32"), logits(exported[family][0], "auto")

    assert load_model(str(exported[family][0]), dtype="auto")[0].dtype == torch.bfloat16
    assert not torch.equal(same_sums, before), "the weights are rounded"
    # bfloat16 keeps eight bits: rounded weights alone, then sums of such numbers too.
    assert (same_sums - before).square().mean().sqrt() < 0.02 * before.std()
    assert (as_given_away - before).square().mean().sqrt() < 0.05 * before.std()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_card_is_kept_under_its_new_title(exported, model_folders, family):
    before, after = read_card(model_folders[family]), read_card(exported[family][0])

    assert after.name == "Nano base 1"
    assert before.name != after.name
    assert after.model_copy(update={"name": before.name}) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_folder_holds_safetensors_and_no_pickle_and_its_size_is_told(exported, family):
    folder, told = exported[family]
    names = {path.name for path in folder.iterdir()}

    assert {"model.safetensors", "config.json", "tokenizer.json", "pathloom_card.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) for name in names)
    assert told == {"weight_bytes": (folder / "model.safetensors").stat().st_size}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_processor_is_the_same(exported, model_folders, family):
    """Byte for byte where it matters: trl knows a chat template only so."""
    before, after = (load_model(str(place))[1] for place in (model_folders[family], exported[family][0]))

    assert after.chat_template == before.chat_template
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    assert after.image_processor.to_dict() == before.image_processor.to_dict()
    text = "<think>12 glands</think><answer>B</answer>"
    assert after.tokenizer.encode(text) == before.tokenizer.encode(text)


def test_another_precision_and_no_title_can_be_asked_for(model_folder, tmp_path):
    run_export(export({"folder": str(model_folder)}, dtype="float16"), {}, tmp_path)

    weights = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert read_card(tmp_path).name == "base", "the stage's own name"


def test_a_hub_id_is_not_exported(tmp_path):
    with pytest.raises(UserError, match=r"base\.model: a model folder is exported, and Qwen/none is none"):
        run_export(export({"hub": "Qwen/none"}), {}, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_card_or_with_a_pickle_is_not_exported(tmp_path):
    (tmp_path / "model").mkdir()
    config = export({"folder": str(tmp_path / "model")})

    with pytest.raises(BadModelFolder, match=r"pathloom_card\.json is missing"):
        run_export(config, {}, tmp_path)
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BadModelFolder, match="is a pickle"):
        run_export(config, {}, tmp_path)


def test_an_export_needs_the_stage_of_its_model_and_notices_a_changed_folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    config = export({"folder": str(tmp_path)})
    before = config.fingerprint()
    (tmp_path / "config.json").write_text("{ }")

    assert config.fingerprint() != before
    assert config.needs() == ()
    assert export({"stage": "trained"}).needs() == ("trained",)
