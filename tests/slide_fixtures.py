"""Slides without pixels for tests: made-up tile features where a stage `embed_slides` would leave them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pathloom.schema import Image
from pathloom.slides.features import (
    FEATURES_FOLDER,
    FeaturesAbout,
    SlideAbout,
    TileFeatures,
    TileKind,
    write_about,
    write_features,
)

DIM = 12
ENCODER = "made (weights 123)"
KIND = TileKind(encoder=ENCODER, dim=DIM, mpp=1.0, size_px=112)


def slide_image(slide: str) -> Image:
    return Image(path=f"{slide}.svs", width_px=40_000, height_px=30_000, mpp=0.25, slide=slide)


def write_slides(
    stage: Path,
    tiles: Mapping[str, int],
    *,
    encoder: str = ENCODER,
    change: Mapping[str, int] | None = None,
    missing: Mapping[str, str] | None = None,
    meaning: Mapping[str, float] | None = None,
    mpp: float = 1.0,
) -> Path:
    """A stage's folder with that many tiles of noise for each slide, on a grid of 32 columns.

    `change` draws one tile of a slide anew; `meaning` moves the first feature of all tiles of a slide.
    """
    (stage / FEATURES_FOLDER).mkdir(parents=True)
    for position, (slide, count) in enumerate(tiles.items()):
        rng = np.random.default_rng(position)
        features = rng.standard_normal((count, DIM)) + np.arange(DIM)
        features[:, 0] += (meaning or {}).get(slide, 0.0)
        if slide in (change or {}):
            features[(change or {})[slide]] += 5 * rng.standard_normal(DIM)
        rows, columns = np.divmod(np.arange(count), 32)
        places = np.stack([columns, rows], axis=1) * 448
        found = TileFeatures(features.astype(np.float16), places.astype(np.int32))
        write_features(stage / FEATURES_FOLDER / f"{slide}.safetensors", found, encoder)
    slides = {
        slide: SlideAbout(file=f"{slide}.safetensors", num_tiles=count, mpp=mpp, size_px=112)
        for slide, count in tiles.items()
    }
    write_about(FeaturesAbout(encoder=encoder, dim=DIM, slides=slides, missing=dict(missing or {})), stage)
    return stage
