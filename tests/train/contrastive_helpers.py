"""What the tests of contrastive training share: a model of a few thousand weights and shards of coloured noise."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from pathloom.models.clip_presets import ClipPreset
from pathloom.train.contrastive import run_contrastive
from pathloom.train.contrastive_config import ContrastiveConfig
from pathloom.webdataset import ShardWriter

TINY = ClipPreset(
    name="clip-tiny",
    embed_dim=16,
    vision={"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    text={"context_length": 20, "width": 32, "layers": 1, "heads": 2},
    vocab_size=400,
)
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (128, 128, 128)}


def png(colour: tuple[int, int, int], seed: int, side_px: int = 40) -> bytes:
    noise = np.random.default_rng(seed).integers(-30, 30, (side_px, side_px, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder: Path, num_pairs: int = 120, per_shard: int = 40, source: str = "paint") -> Path:
    """Noise around a colour, and a caption of 8 to 18 tokens that names it."""
    with ShardWriter(folder, per_shard=per_shard) as writer:
        for number in range(num_pairs):
            name = list(COLOURS)[number % 4]
            caption = f"A {name} field, number {number}." + " Nothing else is seen." * (number % 3)
            writer.add(png(COLOURS[name], number), "png", caption, {"source": source, "licence": "CC0-1.0"})
    return folder


def entry(**changes: Any) -> ContrastiveConfig:
    given = {
        "name": "clip",
        "kind": "contrastive",
        "shards": ("shards",),
        "model": {"preset": "clip-tiny"},
        "batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "log_steps": 1,
        "seed": 3,
    }
    return ContrastiveConfig.model_validate({**given, **changes})


def train(config: ContrastiveConfig, shards: Path, out: Path, **inputs: Path) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    return run_contrastive(config, {"shards": shards, **inputs}, out)


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "training.jsonl").read_text().splitlines()]
