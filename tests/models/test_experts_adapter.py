"""One expert given away: what PEFT makes of it is what hard routing to it gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.fixtures import FAMILIES
from tests.models.experts_helpers import SLIDE_CHOICE, mixed, prompts
from transformers import AutoModelForImageTextToText

from pathloom.card import read_card, write_card
from pathloom.models.experts import mixture_of, routed
from pathloom.models.export import ExportConfig, run_export
from pathloom.models.load import load_model
from pathloom.stage import UserError

HARD = {"routing": "hard", "routes": {"region": 0, "slide": 1, "boxes": 2}}
SLIDE_EXPERT = 1


def export(**fields: Any) -> ExportConfig:
    given = {"name": "given", "kind": "export", "model": {"stage": "mixture"}, "expert": SLIDE_EXPERT}
    return ExportConfig.model_validate({**given, **fields})


@pytest.fixture(scope="module")
def mixtures(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> a model folder with three experts of rank 4 and hard routing."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        mixed(model_folders[family], **HARD).save_pretrained(folders[family])
        load_model(str(model_folders[family]))[1].save_pretrained(folders[family])
        write_card(read_card(model_folders[family]), folders[family])
    return folders


@torch.inference_mode()
def logits_of_the_slide_expert(folder: Path) -> torch.Tensor:
    model = load_model(str(folder))[0].eval()
    with routed(model, [SLIDE_CHOICE] * 4):
        return model(**prompts()).logits


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(**prompts()).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_with_an_exported_expert_is_hard_routing_to_it(mixtures, family, tmp_path):
    told = run_export(export(), {"mixture": mixtures[family]}, tmp_path)

    base = AutoModelForImageTextToText.from_pretrained(mixtures[family])  # its experts are left out
    adapted = PeftModel.from_pretrained(base, tmp_path)

    expected = logits_of_the_slide_expert(mixtures[family])
    assert torch.allclose(logits(adapted), expected, atol=1e-5)
    assert torch.allclose(logits(adapted.merge_and_unload()), expected, atol=1e-4), "sums in another order"
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert told == {"weight_bytes": (tmp_path / "adapter_model.safetensors").stat().st_size}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        mixtures[family]
    )


def test_an_adapter_file_holds_every_adapted_layer_and_nothing_else(mixtures, tmp_path):
    run_export(export(), {"mixture": mixtures["qwen2_5_vl"]}, tmp_path)

    tensors = load_file(tmp_path / "adapter_model.safetensors")

    assert len(tensors) == 2 * 7 * 4, "A and B of seven layers in four blocks"
    assert {len(tensor) for name, tensor in tensors.items() if "lora_A" in name} == {4}
    assert {tuple(tensor.shape)[1] for name, tensor in tensors.items() if "lora_B" in name} == {4}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_expert_is_a_plain_model_that_answers_as_hard_routing_to_it(mixtures, family, tmp_path):
    run_export(
        export(form="merged", dtype="float32", title="Slides"), {"mixture": mixtures[family]}, tmp_path
    )

    model, _ = load_model(str(tmp_path))

    assert mixture_of(model) is None
    assert not any(".experts." in name for name in load_file(tmp_path / "model.safetensors"))
    assert read_card(tmp_path).name == "Slides"
    assert torch.allclose(logits(model), logits_of_the_slide_expert(mixtures[family]), atol=1e-4)


def test_a_merged_expert_is_rounded_once(mixtures, tmp_path):
    for dtype in ("float32", "bfloat16"):
        (tmp_path / dtype).mkdir()
        run_export(export(form="merged", dtype=dtype), {"mixture": mixtures["qwen2_5_vl"]}, tmp_path / dtype)

    exact, rounded = (load_file(tmp_path / dtype / "model.safetensors") for dtype in ("float32", "bfloat16"))
    assert all(torch.equal(rounded[name], tensor.to(torch.bfloat16)) for name, tensor in exact.items())


def test_a_whole_mixture_is_exported_with_its_experts(mixtures, tmp_path):
    run_export(export(expert=None, dtype="float32"), {"mixture": mixtures["qwen2_5_vl"]}, tmp_path)

    assert torch.equal(
        logits_of_the_slide_expert(tmp_path), logits_of_the_slide_expert(mixtures["qwen2_5_vl"])
    )


def test_an_expert_that_is_not_there_is_not_exported(mixtures, model_folder, tmp_path):
    with pytest.raises(UserError, match="there is no expert 3; there are 0 to 2"):
        run_export(export(expert=3), {"mixture": mixtures["qwen2_5_vl"]}, tmp_path)
    with pytest.raises(UserError, match="the model is no mixture of experts"):
        run_export(export(), {"mixture": model_folder}, tmp_path)
    with pytest.raises(ValueError, match="only an expert is merged"):
        export(expert=None, form="merged")
