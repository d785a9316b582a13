"""Pictures with augmented copies, as tests of near-copies need them: phantom tissue, cropped, turned and re-encoded."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image as PILImage

from pathloom.curate.features import EmbedConfig, run_embed
from pathloom.phantom.tissue import draw_tissue
from pathloom.schema import Image, Origin, Sample
from pathloom.store import write_shard

SIDE_PX = 160


def tissue(seed: int) -> PILImage.Image:
    return PILImage.fromarray(draw_tissue(seed, size_px=SIDE_PX).pixels_rgb)


def turned_copy(picture: PILImage.Image, angle: float = 20, zoom: float = 1.2) -> PILImage.Image:
    """Mirrored, turned and cropped, so that no hash of the whole picture knows it."""
    side = round(SIDE_PX / zoom)
    start = (SIDE_PX - side) // 2
    mirrored = picture.transpose(PILImage.Transpose.FLIP_LEFT_RIGHT)
    turned = mirrored.rotate(angle, PILImage.Resampling.BICUBIC)
    return turned.crop((start, start, start + side, start + side)).resize((SIDE_PX, SIDE_PX))


def jpeg(picture: PILImage.Image, quality: int = 70) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def shown(
    sample_id: str,
    picture: PILImage.Image,
    *,
    split: str = "train",
    source: str = "made",
    path: str = "",
    group: str = "",
    question: str = "What is seen?",
    answer: str = "tissue",
) -> Sample:
    image = Image(
        path=path or f"{sample_id}.jpg", data=jpeg(picture), width_px=picture.width, height_px=picture.height
    )
    origin = Origin(source=source, source_id=sample_id, licence="CC0-1.0", group=group or f"of {sample_id}")
    return Sample(
        id=sample_id,
        task="caption",
        split=split,
        images=(image,),
        question=question,
        answer=answer,
        origin=origin,
    )


def written_stage(folder: Path, samples: list[Sample]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(samples, [], folder, 0)
    return folder


def features_of(samples: list[Sample], folder: Path, encoder: str) -> Path:
    """The folder of a stage `embed` on these Samples."""
    inputs = {"samples": written_stage(folder / "samples_stage", samples)}
    config = EmbedConfig(name="seen", kind="embed", samples=("samples",), encoder=encoder, of="image")
    run_embed(config, inputs, folder / "seen")
    return folder / "seen"


def written_features(
    folder: Path, vectors: dict[str, np.ndarray], *, encoder: str = "made", of: str = "image"
) -> Path:
    """The folder of a stage `embed` with these rows, without an encoder."""
    (folder / "features").mkdir(parents=True)
    dim = len(next(iter(vectors.values())))
    (folder / "features.json").write_text(json.dumps({"encoder": encoder, "of": of, "dim": dim}))
    np.savez(
        folder / "features" / "00000.npz",
        ids=np.array(list(vectors), dtype=np.str_),
        features=np.array(list(vectors.values()), np.float32),
        missing_ids=np.array([], dtype=np.str_),
        missing_reasons=np.array([], dtype=np.str_),
    )
    return folder


def vector(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(16)
