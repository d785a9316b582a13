"""CLIP models for training: texts cut short give the same numbers, and what open_clip would load wrong is refused."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import CLIP, CustomTextCLIP, factory
from safetensors.torch import save_file

from pathloom.models.clip import check_clip, load_clip, open_trainable
from pathloom.models.clip_fast import PatchProjection, SelfAttention, quicken
from pathloom.models.clip_presets import CLIP_PRESETS, find_clip_preset
from pathloom.models.clip_text import shorten_texts
from pathloom.stage import UserError
from pathloom.train import contrastive_config
from pathloom.train.contrastive_config import ContrastiveConfig

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 40, "width": 32, "layers": 2, "heads": 2}


def build(kind: Any, **text: Any) -> Any:
    torch.manual_seed(0)
    return kind(16, VISION, {**TEXT, **text}, output_dict=True).double()


def tokens() -> torch.Tensor:
    """Four texts of 3 to 7 tokens with 38 before and 39 behind, filled up with 0."""
    rows = torch.zeros(4, 12, dtype=torch.long)
    for row, length in enumerate((3, 7, 4, 5)):
        rows[row, :length] = torch.randint(1, 38, (length,), generator=torch.Generator().manual_seed(row))
        rows[row, 0], rows[row, length - 1] = 38, 39
    return rows


def gradients(model: Any, text: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    features = model.encode_text(text, normalize=True)
    (features * torch.arange(16.0, dtype=torch.float64)).sum().backward()
    return features.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
@pytest.mark.parametrize("pooling", [{"pool_type": "argmax"}, {"pool_type": "eos", "eos_id": 39}])
def test_texts_cut_behind_the_longest_give_the_same_features_and_gradients(
    kind: Any, pooling: dict[str, Any]
):
    whole, cut = build(kind, **pooling), build(kind, **pooling)
    cutter = shorten_texts(cut)
    assert cutter is not None

    short = cutter(tokens())

    assert short.shape == (4, 7)
    wanted_features, wanted = gradients(whole, tokens())
    features, found = gradients(cut, short)
    torch.testing.assert_close(features, wanted_features, rtol=0, atol=1e-12)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-11)
    torch.testing.assert_close(gradients(cut, tokens())[0], wanted_features, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "text",
    [{"no_causal_mask": True}, {"pool_type": "last"}, {"pool_type": "first"}, {"embed_cls": True}],
)
def test_a_tower_that_looks_behind_the_end_of_a_text_is_left_alone(text: dict[str, Any]):
    assert shorten_texts(build(CustomTextCLIP, **text)) is None


@pytest.mark.parametrize("kind", [CLIP, CustomTextCLIP])
def test_quickened_modules_give_the_same_numbers_and_the_same_names_of_weights(kind: Any):
    plain, quick = build(kind), build(kind)
    picture = torch.randn(2, 3, 32, 32, dtype=torch.float64)

    quicken(quick)

    exchanged = [type(module) for module in quick.modules()]
    assert exchanged.count(SelfAttention) == 3
    assert exchanged.count(PatchProjection) == 1
    found = []
    for model in (plain, quick):
        out = model(picture, tokens()[:2])
        (out["image_features"] * out["text_features"]).sum().backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found.append((out["image_features"], out["text_features"], gradients))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-11)
    assert quick.state_dict().keys() == plain.state_dict().keys()


def test_attention_that_is_asked_for_more_is_left_alone():
    model = build(CLIP)
    model.transformer.resblocks[0].attn.dropout = 0.1
    model.visual.conv1.padding = (1, 1)

    quicken(model)

    assert [type(block.attn) for block in model.transformer.resblocks] == [
        torch.nn.MultiheadAttention,
        SelfAttention,
    ]
    assert type(model.visual.conv1) is torch.nn.Conv2d


def entry(**model: str) -> ContrastiveConfig:
    return ContrastiveConfig.model_validate(
        {"name": "clip", "kind": "contrastive", "shards": ("s",), "model": model, "max_steps": 1}
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"open_clip": "ViT-B-16", "pretrained": "openai"},
            "openai were trained with QuickGELU; give open_clip: ViT-B-16-quickgelu",
        ),
        (
            {"open_clip": "ViT-B-16-quickgelu", "pretrained": "laion2b_s34b_b88k"},
            "is neither a file nor a tag of ViT-B-16-quickgelu; its tags: openai",
        ),
        ({"open_clip": "ViT-B-61"}, "ViT-B-61: not in open_clip.list_models"),
        (
            {"open_clip": "ViT-B-16", "pretrained": "openay"},
            "openay is neither a file nor a tag of ViT-B-16; its",
        ),
        ({"preset": "clip-micro"}, "no preset 'clip-micro'; known: clip-nano"),
        ({"folder": "/nowhere"}, "/nowhere/open_clip_config.json is not there"),
        ({"open_clip": "coca_ViT-B-32"}, "coca_ViT-B-32: CoCa needs a loss of its own"),
        ({"open_clip": "hf-hub:a/b", "pretrained": "openai"}, "hf-hub:a/b brings its own weights; leave it"),
    ],
)
def test_a_model_that_cannot_be_trained_from_is_refused_before_the_first_stage(
    model: dict[str, str], message: str
):
    with pytest.raises(UserError, match=message):
        entry(**model).check()


def test_a_folder_is_told_as_folder_so_that_its_files_are_part_of_the_key():
    with pytest.raises(ValueError, match="a folder is given as `folder`"):
        entry(open_clip="local-dir:/models/clip")


def test_a_missing_extra_is_told_before_the_first_stage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contrastive_config, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"clip: .* pip install 'pathloom\[embed\]'"):
        entry(preset="clip-nano").check()


@pytest.mark.parametrize("fault", ["cut", "unknown key", "missing key"])
def test_a_folder_that_open_clip_cannot_load_is_told_with_its_name(fault: str, tmp_path: Path):
    model_cfg: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    save_file(
        CLIP(**json.loads(json.dumps(model_cfg))).state_dict(), tmp_path / "open_clip_model.safetensors"
    )
    if fault == "cut":
        os.truncate(tmp_path / "open_clip_model.safetensors", 500)
    elif fault == "unknown key":
        model_cfg["depth"] = 3
    else:
        del model_cfg["vision_cfg"]
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))

    name = f"local-dir:{tmp_path}"
    with pytest.raises(UserError, match=f"model {name}: "):
        open_trainable(name, None, siglip=False, precision="fp32", device="cpu", seed=0)
    with pytest.raises(UserError, match=f"encoder {name}: "):
        load_clip(name, None)


def test_a_hub_model_never_begins_at_random(monkeypatch: pytest.MonkeyPatch):
    """open_clip goes on with a warning where the hub gives the configuration and not the weights."""
    model_cfg = {"embed_dim": 16, "vision_cfg": dict(VISION), "text_cfg": dict(TEXT)}
    monkeypatch.setattr(factory, "_get_hf_config", lambda *given, **named: {"model_cfg": model_cfg})
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: model_cfg)

    def refuse(*given: Any, **named: Any) -> str:
        raise FileNotFoundError("gated")

    monkeypatch.setattr(factory, "download_pretrained_from_hf", refuse)
    with pytest.raises(UserError, match=r"model hf-hub:org/name: .*could not be loaded"):
        open_trainable("hf-hub:org/name", None, siglip=False, precision="fp32", device="cpu", seed=0)


def test_an_encoder_with_another_activation_than_its_weights_had_is_refused():
    with pytest.raises(UserError, match="give open_clip: ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", "openai")


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("ViT-B-16-quickgelu", "openai"),
        ("ViT-L-14-336-quickgelu", "openai"),
        ("ViT-B-16", "laion2b_s34b_b88k"),
    ],
)
def test_a_tag_with_its_own_activation_passes(name: str, tag: str):
    check_clip(name, tag)


def test_weights_in_a_pickle_are_refused(tmp_path: Path):
    for name in ("weights.pt", "open_clip_pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"weights.pt is not .safetensors; other files can run code"):
        entry(open_clip="ViT-B-16", pretrained=str(tmp_path / "weights.pt")).check()

    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"open_clip_pytorch_model.bin is a pickle"):
        entry(folder=str(tmp_path)).check()


def test_a_pickle_that_would_run_code_is_not_loaded_as_an_encoder(tmp_path: Path):
    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    model_cfg = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Runs()))

    with pytest.raises(UserError, match=r"a pickle of more than tensors .* save them as .safetensors"):
        load_clip(f"local-dir:{tmp_path}", None)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_weights_is_refused_where_open_clip_would_begin_at_random(tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_text("{}")

    with pytest.raises(UserError, match=r"holds no \*.safetensors"):
        entry(folder=str(tmp_path)).check()


def test_the_nano_preset_has_the_size_that_it_states():
    preset = find_clip_preset("clip-nano")
    with torch.device("meta"):
        model = CLIP(**preset.model_cfg(preset.vocab_size))

    image = sum(one.numel() for one in model.visual.parameters())
    whole = sum(one.numel() for one in model.parameters())
    assert image == pytest.approx(2.9e6, rel=0.03)
    assert whole == pytest.approx(4.0e6, rel=0.05)
    assert {preset.name for preset in CLIP_PRESETS} == {"clip-nano"}
