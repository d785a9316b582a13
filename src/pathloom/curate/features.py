"""Stage `embed`: one vector a Sample from a frozen encoder, computed once and kept beside the Samples' ids.

A folder of features:
    features.json        encoder (with a hash of its weights), what it saw, length of a vector
    features/00000.npz   ids [n], features [n, d] float32, and ids and reasons of Samples without a row
    missing.jsonl        those Samples, all shards together

What needs features (sub-fields, difficulty) names this stage and joins by id.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.curate.organ import told
from pathloom.models.embed import (
    BATCH_SIZE,
    Encoder,
    check_encoder,
    encoder_fingerprint,
    encoder_kinds,
    encoder_stages,
    parse_encoder,
)
from pathloom.schema import Sample
from pathloom.stage import StageConfig, UserError, write_json, write_jsonl

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage

ABOUT_FILE = "features.json"
MISSING_FILE = "missing.jsonl"

SAMPLES_PER_FEATURE_SHARD = 512
"""What a kill costs at most; our own choice."""


class EncoderConfig(StageConfig):
    """Common keys of stages that keep what a frozen encoder makes of Samples."""

    samples: tuple[str, ...] = Field(min_length=1, description="stages whose Samples are read, in this order")
    encoder: str = Field(
        description="efficientnet_lite0, timm:..., open_clip:..., stage:..., tower:...; of text minilm, open_clip:..."
    )
    batch_size: int = Field(default=BATCH_SIZE, ge=1)

    @field_validator("encoder")
    @classmethod
    def _encoder_is_known(cls, name: str) -> str:
        return parse_encoder(name).text

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.samples, *encoder_stages(self.encoder))))

    def kinds_needed(self) -> dict[str, str]:
        return encoder_kinds(self.encoder)

    def check(self) -> None:
        check_encoder(self.encoder, "image")

    def keyed(self) -> dict[str, Any]:
        """The batch changes the last bits of a vector at most."""
        return {key: value for key, value in super().keyed().items() if key != "batch_size"}

    def fingerprint(self) -> str:
        return encoder_fingerprint(self.encoder)


class EmbedConfig(EncoderConfig):
    """Entry of a recipe: `{name: seen, kind: embed, samples: [figures], encoder: efficientnet_lite0, of: image}`."""

    version: ClassVar[int] = 1

    kind: Literal["embed"]
    of: Literal["image", "text", "caption"] = Field(
        description="a Sample's first picture; its words: question, answer and context; or its answer alone"
    )

    def check(self) -> None:
        check_encoder(self.encoder, "image" if self.of == "image" else "text")


@dataclass(frozen=True)
class Features:
    """Vectors of a stage `embed` and the row of each Sample's id. Memory holds the ids, the vectors stay on the disk.

    `ends` are the numbers of rows up to the end of each of the `shards`.
    """

    rows: Mapping[str, int]
    dim: int
    encoder: str
    shards: tuple[Path, ...]
    ends: tuple[int, ...]

    def of(self, ids: Iterable[str]) -> "np.ndarray":
        """[len(ids), dim] float32; each shard is read once at most. Raises KeyError for an id without a row."""
        import numpy as np

        rows = np.array([self.rows[sample_id] for sample_id in ids], np.int64)
        vectors = np.empty((len(rows), self.dim), np.float32)
        order = np.argsort(rows, kind="stable")
        start = first = 0
        lasts = np.searchsorted(rows[order], self.ends).tolist()
        for path, end, last in zip(self.shards, self.ends, lasts, strict=True):
            if last > first:
                wanted = order[first:last]
                with np.load(path) as shard:
                    vectors[wanted] = shard["features"][rows[wanted] - start]
            start, first = end, last
        return vectors


def run_embed(config: EmbedConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the shards that are not there yet; the manifest gets the counts of rows and, by reason, of missing ones.

    A Sample of an id that came before is passed over: two stages may hold the same Samples. Raises UserError when the
    encoder differs from the one that wrote the shards of an earlier, killed run.
    """
    from tqdm import tqdm

    from pathloom.models.embed import load_encoder
    from pathloom.store import count_records

    encoder = load_encoder(config.encoder, inputs)
    dim = encoder.image_dim if config.of == "image" else encoder.text_dim
    _begin(out, {"encoder": encoder.name, "of": config.of, "dim": dim}, config.name)
    total = sum(count_records(inputs[name])["samples"] for name in config.samples)
    samples = _first_of_each(config, inputs)
    index = 0
    with tqdm(total=total, desc=config.name, unit="sample", leave=False) as bar:
        while shard := list(islice(samples, SAMPLES_PER_FEATURE_SHARD)):
            path = _shard_path(out, index)
            if path.is_file():
                bar.update(len(shard))
            else:
                _write_shard(path, _ticking(shard, bar), encoder, config)
            index += 1
    missing = [row for path in _shards(out) for row in _missing(path)]
    write_jsonl(missing, out / MISSING_FILE)
    return {
        "features": sum(_num_rows(path) for path in _shards(out)),
        "dim": dim,
        "encoder": encoder.name,
        "missing": dict(sorted(Counter(row["reason"] for row in missing).items())),
    }


def read_features(folder: Path) -> Features:
    """Where the vectors of a stage folder lie. Raises UserError for a folder of another kind."""
    import numpy as np

    if not (folder / ABOUT_FILE).is_file():
        raise UserError(f"{folder} holds no {ABOUT_FILE}: `features` must name a stage of the kind embed")
    about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    shards = tuple(_shards(folder))
    rows: dict[str, int] = {}
    ends: list[int] = []
    num_rows = 0
    for path in shards:
        with np.load(path) as shard:
            ids = shard["ids"].tolist()
        rows.update(zip(ids, range(num_rows, num_rows + len(ids)), strict=True))
        num_rows += len(ids)
        ends.append(num_rows)
    return Features(rows, about["dim"], about["encoder"], shards, tuple(ends))


def _begin(out: Path, about: dict[str, Any], name: str) -> None:
    path = out / ABOUT_FILE
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != about:
            raise UserError(
                f"{name}: {out} was begun with {before}, and now it is {about}; the weights have changed: remove that "
                "folder and run again"
            )
    out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write_json(about, partial)
    partial.replace(path)


def _first_of_each(config: EmbedConfig, inputs: Mapping[str, Path]) -> Iterator[Sample]:
    from pathloom.store import read_samples

    seen: set[str] = set()
    for name in config.samples:
        for sample in read_samples(inputs[name]):
            if sample.id not in seen:
                seen.add(sample.id)
                yield sample


def _ticking(samples: Iterable[Sample], bar: Any) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        bar.update()


def _write_shard(path: Path, samples: Iterable[Sample], encoder: Encoder, config: EmbedConfig) -> None:
    import numpy as np

    ids: list[str] = []
    missing: list[tuple[str, str]] = []
    if config.of == "image":
        features = encoder.images(_pictures(samples, ids, missing), config.batch_size)
    else:
        features = encoder.texts(_texts(samples, config.of, ids, missing), config.batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            ids=np.array(ids, dtype=np.str_),
            features=features,
            missing_ids=np.array([sample_id for sample_id, _ in missing], dtype=np.str_),
            missing_reasons=np.array([reason for _, reason in missing], dtype=np.str_),
        )
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _pictures(
    samples: Iterable[Sample], ids: list[str], missing: list[tuple[str, str]]
) -> "Iterator[PILImage.Image]":
    """The first picture of each Sample, decoded when the encoder asks for it; who has one and who not is noted."""
    from pathloom.images import BadImage, load_pixels

    for sample in samples:
        if not sample.images:
            missing.append((sample.id, "no_image"))
            continue
        try:
            picture = load_pixels(sample.images[0])
        except BadImage as error:
            missing.append((sample.id, error.reason))
            continue
        ids.append(sample.id)
        yield picture


def _texts(
    samples: Iterable[Sample], of: str, ids: list[str], missing: list[tuple[str, str]]
) -> Iterator[str]:
    for sample in samples:
        text = sample.answer if of == "caption" else told(sample)
        if text.strip():
            ids.append(sample.id)
            yield text
        else:
            missing.append((sample.id, "no_words"))


def _shard_path(folder: Path, index: int) -> Path:
    return folder / "features" / f"{index:05d}.npz"


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / "features").glob("*.npz"))


def _missing(path: Path) -> list[dict[str, str]]:
    import numpy as np

    with np.load(path) as shard:
        pairs = zip(shard["missing_ids"].tolist(), shard["missing_reasons"].tolist(), strict=True)
        return [{"sample_id": sample_id, "reason": reason} for sample_id, reason in pairs]


def _num_rows(path: Path) -> int:
    import numpy as np

    with np.load(path) as shard:
        return len(shard["ids"])
