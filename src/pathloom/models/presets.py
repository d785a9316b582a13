"""Shapes of the Qwen2.5-VL and Qwen3-VL classes: the nano presets that train on a laptop, and the published sizes.

The nano presets are the same transformers classes with smaller numbers, so everything a 7B run does happens to them.
Published sizes are for checks without weights (meta device) and for timing real shapes from random weights.
This file imports neither torch nor transformers; `pathloom.models.nano` builds from it.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Preset:
    """One model shape.

    `family` picks the class. `text` and `vision` are keyword arguments of the family's text and vision config.
    `min_pixels` and `max_pixels` are areas to which a picture is resized before it is cut into patches.
    `hub_id` names the published checkpoint of this shape, None for our own.
    """

    name: str
    family: Literal["qwen2_5_vl", "qwen3_vl"]
    text: dict[str, Any]
    vision: dict[str, Any]
    min_pixels: int
    max_pixels: int
    patch_px: int
    tie_word_embeddings: bool = True
    hub_id: str | None = None
    special: dict[str, int] = field(default_factory=dict)


_NANO_TEXT = {
    "hidden_size": 192,
    "intermediate_size": 336,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 2048,
}

# Published configs: https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct/blob/main/config.json and its 3B sibling.
_QWEN2_5_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_QWEN2_5_ROPE = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1_000_000.0}
_SPECIAL = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}

PRESETS: tuple[Preset, ...] = (
    Preset(
        name="qwen2.5-vl-nano",
        family="qwen2_5_vl",
        text={
            **_NANO_TEXT,
            # head_dim 32: the three sections of the rotary embedding add up to half of it.
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 1_000_000.0,
            },
        },
        vision={
            "depth": 4,
            "hidden_size": 192,
            "intermediate_size": 336,
            "num_heads": 6,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
            "out_hidden_size": 192,
        },
        min_pixels=56 * 56,
        max_pixels=448 * 448,
        patch_px=14,
    ),
    Preset(
        name="qwen3-vl-nano",
        family="qwen3_vl",
        text={
            **_NANO_TEXT,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "mrope_interleaved": True,
                "rope_theta": 1_000_000.0,
            },
        },
        vision={
            "depth": 4,
            "hidden_size": 160,
            "intermediate_size": 320,
            "num_heads": 5,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1],
        },
        min_pixels=64 * 64,
        max_pixels=448 * 448,
        patch_px=16,
    ),
    Preset(
        name="qwen2.5-vl-3b",
        family="qwen2_5_vl",
        text={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": _QWEN2_5_ROPE,
        },
        vision={**_QWEN2_5_VISION, "out_hidden_size": 2048},
        min_pixels=56 * 56,
        max_pixels=28 * 28 * 1280,
        patch_px=14,
        hub_id="Qwen/Qwen2.5-VL-3B-Instruct",
        special=_SPECIAL,
    ),
    Preset(
        name="qwen2.5-vl-7b",
        family="qwen2_5_vl",
        text={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_parameters": _QWEN2_5_ROPE,
        },
        vision={**_QWEN2_5_VISION, "out_hidden_size": 3584},
        min_pixels=56 * 56,
        max_pixels=28 * 28 * 1280,
        patch_px=14,
        tie_word_embeddings=False,
        hub_id="Qwen/Qwen2.5-VL-7B-Instruct",
        special=_SPECIAL,
    ),
    # https://huggingface.co/Qwen/Qwen3-VL-4B-Instruct/blob/main/config.json
    Preset(
        name="qwen3-vl-4b",
        family="qwen3_vl",
        text={
            "vocab_size": 151936,
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
                "rope_theta": 5_000_000.0,
            },
        },
        vision={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 2560,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        min_pixels=64 * 64,
        max_pixels=32 * 32 * 1280,
        patch_px=16,
        hub_id="Qwen/Qwen3-VL-4B-Instruct",
        special=_SPECIAL,
    ),
)


def find_preset(name: str) -> Preset:
    """The preset of that name or hub id. Raises ValueError that lists the known ones."""
    for preset in PRESETS:
        if name in (preset.name, preset.hub_id):
            return preset
    raise ValueError(f"no preset {name!r}; known: {', '.join(preset.name for preset in PRESETS)}")
