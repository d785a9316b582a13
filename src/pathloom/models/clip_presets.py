"""Small CLIP models that train on a laptop: shapes in open_clip's own terms. No torch here: recipes check the names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAD, START, END = "<|pad|>", "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = (PAD, START, END)
"""Ids 0, 1 and 2: `pad_id` and `eos_id` of open_clip's text_cfg are 0 and 2 by default."""


@dataclass(frozen=True)
class ClipPreset:
    """One shape. `vision` and `text` are keys of open_clip's vision_cfg and text_cfg, without the vocabulary.

    `vocab_size` is the most that the preset's own tokenizer, byte-level BPE trained on the captions, may have.
    """

    name: str
    embed_dim: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    vocab_size: int

    def model_cfg(self, vocab_size: int) -> dict[str, Any]:
        """open_clip's `model_cfg` for a tokenizer of that many tokens."""
        text = {
            **self.text,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": self.name,  # any name: beside a folder open_clip looks into the folder
            "pool_type": "eos",
            "pad_id": SPECIAL_TOKENS.index(PAD),
            "eos_id": SPECIAL_TOKENS.index(END),
        }
        return {"embed_dim": self.embed_dim, "vision_cfg": dict(self.vision), "text_cfg": text}


CLIP_PRESETS: tuple[ClipPreset, ...] = (
    # Our own choice: the image tower has ViT-B-16's patch, the width and heads of the nano language models
    # (models/presets.py) and about 2.9 million parameters; two sentences of a caption take up to 64 tokens.
    ClipPreset(
        name="clip-nano",
        embed_dim=128,
        vision={"image_size": 112, "patch_size": 16, "width": 192, "layers": 6, "head_width": 32},
        text={"context_length": 64, "width": 128, "layers": 4, "heads": 4},
        vocab_size=2500,
    ),
)


def find_clip_preset(name: str) -> ClipPreset:
    """Raises ValueError that lists the known ones."""
    for preset in CLIP_PRESETS:
        if name == preset.name:
            return preset
    raise ValueError(f"no preset {name!r}; known: {', '.join(preset.name for preset in CLIP_PRESETS)}")
