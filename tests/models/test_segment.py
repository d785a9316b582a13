"""Segmenters by name, and a SAM of random weights in place of a real one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from pathloom.masks import CLASSICAL, Prompt, segment_classically
from pathloom.models.segment import PROMPTS_AT_ONCE, check_segmenter, load_segmenter, segmenter_fingerprint
from pathloom.schema import Box
from pathloom.stage import UserError


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SamModel of a few thousand random weights, saved as a hub model is."""
    import torch
    from transformers import (
        SamConfig,
        SamImageProcessor,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    vision: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 32,
    }
    places = {"image_size": 64, "patch_size": 8}
    config = SamConfig(
        vision_config=SamVisionConfig(
            **vision,
            **places,
            output_channels=16,
            num_pos_feats=8,
            window_size=4,
            global_attn_indexes=[1],
            initializer_range=0.3,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **places),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
        ),
        initializer_range=0.3,
    )
    folder = tmp_path_factory.mktemp("sam")
    SamModel(config).save_pretrained(folder)
    SamProcessor(
        SamImageProcessor(
            size={"longest_edge": 64},
            pad_size={"height": 64, "width": 64},
            mask_size={"longest_edge": 16},
            mask_pad_size={"height": 16, "width": 16},
        )
    ).save_pretrained(folder)
    return folder


def picture(height: int = 40, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


BOX, POINT = (10.0, 5.0, 40.0, 30.0), (30.0, 20.0)


def test_masks_come_back_in_the_size_of_the_picture_for_boxes_and_for_points(sam_folder: Path):
    segment = load_segmenter(f"sam:{sam_folder}")

    for prompts in ([BOX, (1.0, 1.0, 9.0, 9.0)], [POINT, (0.0, 0.0), (70.0, 40.0)]):
        masks = list(segment(picture(), prompts))

        assert [(mask.shape, mask.dtype) for mask in masks] == [((40, 70), np.dtype(bool))] * len(prompts)


def test_the_same_folder_loaded_again_draws_the_same_and_another_box_another_mask(sam_folder: Path):
    first, again = (load_segmenter(f"sam:{sam_folder}") for _ in range(2))
    others: list[Prompt] = [BOX, (50.0, 2.0, 69.0, 12.0), POINT, (60.0, 35.0)]

    masks = list(first(picture(), others))

    assert all(np.array_equal(a, b) for a, b in zip(masks, again(picture(), others), strict=True))
    assert any(mask.any() for mask in masks)
    assert not np.array_equal(masks[0], masks[1]) or not np.array_equal(masks[2], masks[3])


def test_boxes_and_points_are_fed_as_the_models_own_processor_feeds_them(sam_folder: Path):
    import torch
    from transformers import SamModel, SamProcessor

    segment = load_segmenter(f"sam:{sam_folder}")
    model, processor = SamModel.from_pretrained(sam_folder).eval(), SamProcessor.from_pretrained(sam_folder)
    asked: list[tuple[Any, dict[str, Any]]] = [
        (BOX, {"input_boxes": [[list(BOX)]]}),
        (POINT, {"input_points": [[[list(POINT)]]]}),
    ]
    for prompt, given in asked:
        read = processor(images=PILImage.fromarray(picture()), return_tensors="pt", **given)
        with torch.inference_mode():
            found = model(
                **{key: read[key] for key in ("pixel_values", *given)}, multimask_output=prompt == POINT
            )
        (masks,) = processor.image_processor.post_process_masks(
            found.pred_masks, read["original_sizes"], read["reshaped_input_sizes"]
        )
        expected = masks[0][int(found.iou_scores[0, 0].argmax())].numpy()
        assert np.array_equal(next(iter(segment(picture(), [prompt]))), expected)


def test_a_mask_does_not_depend_on_the_prompts_beside_it(sam_folder: Path):
    segment = load_segmenter(f"sam:{sam_folder}")
    boxes: list[Box] = [(float(k), 2.0, float(k) + 30.0, 30.0) for k in range(PROMPTS_AT_ONCE + 3)]

    prompts: list[Prompt] = [*boxes, POINT]
    together = list(segment(picture(), prompts))

    assert len(together) == len(prompts)
    for mask, prompt in zip(together, prompts, strict=True):
        assert np.array_equal(mask, next(iter(segment(picture(), [prompt]))))


def test_what_lies_beyond_the_picture_prompts_an_empty_mask_in_its_place(sam_folder: Path):
    segment = load_segmenter(f"sam:{sam_folder}")
    outside = (80.0, 5.0, 90.0, 30.0)

    masks = list(segment(picture(), [BOX, outside, BOX, (99.0, 99.0)]))

    assert len(masks) == 4
    assert not masks[1].any()
    assert not masks[3].any()
    assert np.array_equal(masks[0], masks[2])


def test_a_picture_is_embedded_once_for_all_its_prompts_and_calls(sam_folder: Path, monkeypatch: Any):
    segment: Any = load_segmenter(f"sam:{sam_folder}")
    embedded = []
    real = segment.model.get_image_embeddings

    def counted(pixels: Any) -> Any:
        embedded.append(1)
        return real(pixels)

    monkeypatch.setattr(segment.model, "get_image_embeddings", counted)

    list(segment(picture(), [BOX] * (PROMPTS_AT_ONCE + 1)))
    list(segment(picture(), [POINT]))
    list(segment(picture(40, 60), [BOX]))

    assert len(embedded) == 2


def test_classical_needs_no_weights():
    assert load_segmenter(CLASSICAL) is segment_classically
    assert segmenter_fingerprint(CLASSICAL) == ""


def test_a_changed_folder_has_another_fingerprint(sam_folder: Path):
    before = segmenter_fingerprint(f"sam:{sam_folder}")
    (sam_folder / "note.txt").write_text("new", encoding="utf-8")

    assert segmenter_fingerprint(f"sam:{sam_folder}") != before
    assert segmenter_fingerprint("sam:wanglab/medsam-vit-base") == ""


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("grabcut", "known: classical"),
        ("sam:", "known: classical"),
        ("sam:/no/such/folder", "is no folder"),
        ("sam:nowhere", "is no folder"),
    ],
)
def test_a_wrong_name_is_told_before_anything_is_loaded(name: str, fault: str):
    with pytest.raises(UserError, match=fault):
        check_segmenter(name)


def test_a_hub_id_passes_the_check_and_is_refused_only_where_it_cannot_be_had():
    check_segmenter("sam:wanglab/medsam-vit-base")

    with pytest.raises(UserError, match="cannot be loaded"):
        load_segmenter("sam:pathloom-tests/never-published")


def test_a_folder_without_a_model_or_with_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json"):
        check_segmenter(f"sam:{tmp_path}")

    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UserError, match="of type bert"):
        load_segmenter(f"sam:{tmp_path}")


def without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def of_another_size(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["mask_decoder.iou_token.weight"] = weights["mask_decoder.iou_token.weight"][:, :8].contiguous()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:500])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_a_weight, r"has no weights for mask_decoder\.iou_token\.weight"),
        (of_another_size, "cannot be loaded"),
        (cut_off, "cannot be loaded"),
    ],
)
def test_weights_that_are_not_whole_are_refused_and_never_drawn_at_random(
    sam_folder: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
):
    shutil.copytree(sam_folder, tmp_path / "sam")
    damage(tmp_path / "sam")
    with pytest.raises(UserError, match=said):
        load_segmenter(f"sam:{tmp_path / 'sam'}")


def test_pickled_weights_are_not_loaded(sam_folder: Path, tmp_path: Path):
    import torch

    for name in ("config.json", "processor_config.json", "preprocessor_config.json"):
        if (sam_folder / name).is_file():
            (tmp_path / name).write_bytes((sam_folder / name).read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")

    with pytest.raises(UserError, match="safetensors"):
        load_segmenter(f"sam:{tmp_path}")
