"""What zero-shot, retrieval and few-shot share: the Samples measured, features that a killed run keeps, boards."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PILImage
from tqdm import tqdm

from pathloom.card import CARD_FILE
from pathloom.evaluate.encoders_config import EncodersConfig, RetrievalSet, ZeroShotSet
from pathloom.evaluate.metrics import Difference
from pathloom.evaluate.report_records import BOARDS_FILE, Comparison, Measured
from pathloom.images import BadImage, load_pixels
from pathloom.models.embed import Encoder, encoder_stages, load_encoder
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError, write_json, write_jsonl
from pathloom.store import read_samples

FEATURES = "features"
DROPS_FILE = "drops.jsonl"
NOT_FINITE = "features_not_finite"


def read_set(
    config: EncodersConfig, names: Sequence[str], inputs: Mapping[str, Path], wanted: Callable[[Sample], bool]
) -> tuple[list[Sample], list[Drop]]:
    """The `wanted` Samples of the stages `names`; one without a picture or with an id that came before is a Drop."""
    found: dict[str, Sample] = {}
    drops: list[Drop] = []
    for name in names:
        for sample in filter(wanted, read_samples(inputs[name])):
            if not sample.images:
                drops.append(drop_of(config, sample, "no_image"))
            elif sample.id in found:
                drops.append(
                    drop_of(config, sample, "duplicate_id", f"again in {name}; the first is measured")
                )
            else:
                found[sample.id] = sample
    return list(found.values()), drops


def held_out_set(
    config: EncodersConfig,
    one: ZeroShotSet | RetrievalSet,
    inputs: Mapping[str, Path],
    wanted: Callable[[Sample], bool],
    what: str,
) -> tuple[list[Sample], list[Drop]]:
    """What `read_set` finds outside split train, or with `which: all` of every split.

    Raises UserError where nothing is left, and for `all` where an encoder of this recipe has learnt from a source.
    """
    samples, drops = read_set(
        config, one.samples, inputs, lambda s: (one.which == "all" or s.split != "train") and wanted(s)
    )
    if not samples:
        kept = "held-out " if one.which == "test" else ""
        counts = Counter(drop.reason for drop in drops)
        dropped = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        raise UserError(
            f"{config.name}: set {one.name}: {', '.join(one.samples)} hold no {kept}Sample of {what} "
            f"with a picture{f' ({dropped})' if dropped else ''}"
        )
    refuse_learnt(config, one.name, samples, inputs, "give `which: test`")
    return samples, drops


def refuse_learnt(
    config: EncodersConfig, set_name: str, samples: Sequence[Sample], inputs: Mapping[str, Path], cure: str
) -> None:
    """Raise UserError where an encoder trained in this recipe has seen the source of a Sample of split train."""
    training = {sample.origin.source for sample in samples if sample.split == "train"}
    for stage in encoder_stages(*config.encoders.values()):
        card = inputs[stage] / CARD_FILE
        learnt = json.loads(card.read_text(encoding="utf-8"))["trained_on"] if card.is_file() else []
        for source in sorted(training & set(learnt)):
            raise UserError(
                f"{config.name}: set {set_name}: {stage} was trained on {source}, and pictures of its training split "
                f"would be measured: {cure}"
            )


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
                drops.append(drop_of(config, sample, error.reason, str(error)))
                continue
            rows.append(row)
            yield picture

    path = out / FEATURES / f"{_key(encoder, samples)}.npz"
    if path.is_file():
        with np.load(path) as kept:
            features, found = kept["features"], kept["rows"]
            pairs = zip(kept["missing"].tolist(), kept["reasons"].tolist(), strict=True)
            drops = [drop_of(config, samples[row], *reason.split(": ", 1)) for row, reason in pairs]
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
        drop_of(config, samples[row], NOT_FINITE, f"{encoder.name} gives NaN or infinity")
        for row in found[~whole].tolist()
    ]
    return features[whole], found[whole], drops


def _key(encoder: Encoder, samples: Sequence[Sample]) -> str:
    """Of the weights and the pictures: two stages may hold other pictures under the same ids."""
    digest = hashlib.sha256(encoder.name.encode())
    for sample in samples:
        picture = sample.images[0]
        digest.update(f"\0{sample.id}\0{picture.path}\0".encode())
        digest.update(hashlib.sha256(picture.data or b"").digest())
    return digest.hexdigest()[:16]


def drop_of(config: EncodersConfig, sample: Sample, reason: str, detail: str = "") -> Drop:
    return Drop(sample_id=sample.id, step=f"evaluate.{config.kind}", reason=reason, detail=detail)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row brought to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def comparison(before: str, after: str, benchmark: str, metric: str, found: Difference) -> Comparison:
    """A paired difference of shares, in points of per cent as on the boards beside it."""
    return Comparison(
        before=before,
        after=after,
        benchmark=benchmark,
        metric=f"{metric}, per cent",
        difference=100 * found.difference,
        low=100 * found.low,
        high=100 * found.high,
        n=found.n,
        p_value=found.p_value,
    )


def write_measured(measured: Measured, drops: Iterable[Drop], out: Path) -> dict[str, int]:
    """What the report shows of this stage, and its Drops; returns their number by reason.

    A picture that cannot be read fails for each encoder alike and is one Drop.
    """
    write_json(json.loads(measured.model_dump_json()), out / BOARDS_FILE)
    kept = list(dict.fromkeys(drops))
    write_jsonl((drop.model_dump() for drop in kept), out / DROPS_FILE)
    return dict(sorted(Counter(drop.reason for drop in kept).items()))
