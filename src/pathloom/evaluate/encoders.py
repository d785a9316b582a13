"""What zero-shot, retrieval and few-shot share: the Samples measured, features that a killed run keeps, boards."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from tqdm import tqdm

from pathloom.card import CARD_FILE
from pathloom.evaluate.encoders_config import EncodersConfig, Which
from pathloom.evaluate.report_records import BOARDS_FILE, Measured
from pathloom.images import BadImage, load_pixels
from pathloom.models.embed import Encoder, encoder_stages, load_encoder
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError, write_json
from pathloom.store import read_samples

FEATURES = "features"


def samples_of(
    config: EncodersConfig,
    names: Sequence[str],
    inputs: Mapping[str, Path],
    tasks: Sequence[str],
    which: Which,
) -> list[Sample]:
    """Samples of `tasks` with a picture, an id once: held-out ones, or all that no encoder was trained on.

    Raises UserError where none is left, and for `all` where an encoder of this recipe has learnt from the same source.
    """
    found: dict[str, Sample] = {}
    for name in names:
        for sample in read_samples(inputs[name]):
            if sample.task in tasks and sample.images and (which == "all" or sample.split != "train"):
                found.setdefault(sample.id, sample)
    if not found:
        kept = "held-out " if which == "test" else ""
        raise UserError(
            f"{config.name}: {', '.join(names)} hold no {kept}Sample of {' or '.join(tasks)} with a picture"
        )
    if which == "all":
        learnt = {source for folder in _trained_here(config, inputs) for source in _trained_on(folder)}
        both = sorted({s.origin.source for s in found.values() if s.split == "train"} & learnt)
        if both:
            raise UserError(
                f"{config.name}: an encoder was trained on {both[0]}: give `which: test` for that set"
            )
    return list(found.values())


def _trained_here(config: EncodersConfig, inputs: Mapping[str, Path]) -> list[Path]:
    return [inputs[name] for name in encoder_stages(*config.encoders.values())]


def _trained_on(folder: Path) -> list[str]:
    card = folder / CARD_FILE
    return list(json.loads(card.read_text(encoding="utf-8"))["trained_on"]) if card.is_file() else []


def each_encoder(config: EncodersConfig, inputs: Mapping[str, Path]) -> Iterator[tuple[str, Encoder]]:
    """(name in the table, encoder), one in memory at a time."""
    for name, text in config.encoders.items():
        yield name, load_encoder(text, inputs)


def image_features(
    config: EncodersConfig, name: str, encoder: Encoder, samples: Sequence[Sample], out: Path
) -> tuple[np.ndarray, np.ndarray, list[Drop]]:
    """(features [n, d] float32 as the encoder gives them, rows [n] of `samples` that have some, Drops of the others).

    Kept in `out`/features, so that a killed run does not embed again. A vector that holds NaN or infinity is a Drop.
    """
    rows: list[int] = []
    drops: list[Drop] = []

    def pictures() -> Iterator[PILImage.Image]:
        for row, sample in enumerate(tqdm(samples, desc=f"{config.name} {name}", unit="image", leave=False)):
            try:
                picture = load_pixels(sample.images[0])
            except BadImage as error:
                drops.append(_drop(config, sample, error.reason, str(error)))
                continue
            rows.append(row)
            yield picture

    path = out / FEATURES / f"{_key(encoder, samples)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            features, found = kept["features"], kept["rows"]
            pairs = zip(kept["missing"].tolist(), kept["reasons"].tolist(), strict=True)
            drops = [_drop(config, samples[row], *reason.split(": ", 1)) for row, reason in pairs]
    else:
        features = encoder.images(pictures(), config.batch_size)
        found = np.array(rows, np.int64)
        missing = np.setdiff1d(np.arange(len(samples)), found)
        reasons = np.array([f"{drop.reason}: {drop.detail}" for drop in drops], dtype=np.str_)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, features=features, rows=found, missing=missing, reasons=reasons)
        partial.replace(path)
    whole = np.isfinite(features).all(axis=1)
    drops += [
        _drop(config, samples[row], "features_not_finite", f"{encoder.name} gives NaN or infinity")
        for row in found[~whole].tolist()
    ]
    return features[whole], found[whole], drops


def _key(encoder: Encoder, samples: Sequence[Sample]) -> str:
    digest = hashlib.sha256(encoder.name.encode())
    for sample in samples:
        digest.update(f"{sample.id}\0".encode())
    return digest.hexdigest()[:16]


def _drop(config: EncodersConfig, sample: Sample, reason: str, detail: str = "") -> Drop:
    return Drop(sample_id=sample.id, step=f"evaluate.{config.kind}", reason=reason, detail=detail)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row brought to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def write_measured(measured: Measured, out: Path) -> None:
    """What the report shows of this stage."""
    write_json(json.loads(measured.model_dump_json()), out / BOARDS_FILE)
