"""Stage `webdataset`: the caption Samples of split train as tars that open_clip and other trainers read.

`out` holds 00000.tar ..., sizes.json, and `drops` beside. A pair is the first picture of a Sample, its answer, and a
.json with Patho-R1's five fields (caption, key, width, height, original_path) and sample_id, source, licence, group.

Order: each stage's Samples stay in theirs, and stages are interleaved in proportion, so that every tar holds the whole
mixture. A full shuffle would need every picture in memory or a second copy on disk; the trainer shuffles within a pool
of tars. A killed run goes on behind the last tar that is whole.
"""

import heapq
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from tqdm import tqdm

from pathloom.images import BadImage, decode, encode_png
from pathloom.schema import FOLD_PREFIX, TEST_SPLIT, Drop, Sample
from pathloom.stage import UserError, read_jsonl, write_jsonl
from pathloom.store import read_outlines, read_samples
from pathloom.train.contrastive_config import WebdatasetConfig
from pathloom.train.rows import refuse_held_out, refuse_shared_groups
from pathloom.webdataset import ShardWriter, index_tar, read_sizes, read_span

JPEG_QUALITY = 95
"""Of pictures that are made smaller; our choice. The others keep their bytes, or become PNG without loss."""

_STEP = "webdataset"


def run_pack(config: WebdatasetConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the tars; returns counts of pairs, shards, drops and sources, and how long captions are, in words.

    Raises LeakError where a group stands in training and in test, UserError for folds and for no pair at all.
    """
    folders = [inputs[name] for name in config.samples]
    numbers = _check_outlines(config, folders)
    done = _whole_shards(out)
    behind = sum(list(read_sizes(out).values())[:done]) if done else 0
    behind += sum(len(read_jsonl(_drops_path(out, shard))) for shard in range(done))
    drops: list[Drop] = []
    bar = tqdm(total=sum(numbers), initial=behind, desc=config.name, unit="pair", leave=False)
    with bar, ShardWriter(out, config.per_shard, start=done) as writer:
        for sample in islice(_in_proportion(folders, numbers), behind, None):
            refuse_held_out([sample], None)
            current = writer.shard
            try:
                if not sample.answer.strip():
                    raise BadImage("no_caption", "the Sample has no answer")
                image, suffix, size_px = _encode(sample, config.max_side_px)
            except BadImage as error:
                detail = str(error)[:500]
                drops.append(Drop(sample_id=sample.id, step=_STEP, reason=error.reason, detail=detail))
            else:
                writer.add(image, suffix, sample.answer, _facts(sample, size_px))
            if writer.shard > current:
                _write_drops(drops, out, current)
                drops = []
            bar.update()
        current = writer.shard
    _write_drops(drops, out, current)
    if not writer.sizes:
        raise UserError(
            f"{config.name}: none of {sum(numbers)} Samples is a pair that can be read: {drops[0].detail}"
        )
    return _counts(out)


def _check_outlines(config: WebdatasetConfig, folders: Sequence[Path]) -> list[int]:
    """How many caption Samples of split train each stage has. Raises LeakError and UserError."""
    numbers = []
    stage_of: dict[str, str] = {}
    for stage, folder in zip(config.samples, folders, strict=True):
        numbers.append(0)
        for sample in read_outlines(folder):
            if sample.split.startswith(FOLD_PREFIX):
                raise UserError(
                    f"{config.name}.samples: sample {sample.id} is of {sample.split}, and shards are written once for "
                    "all folds; set `folds: 0` and `test_share` at ingest"
                )
            if _is_training(sample) and stage_of.setdefault(sample.id, stage) != stage:
                raise UserError(
                    f"{config.name}.samples: sample {sample.id} is in {stage_of[sample.id]} and in {stage}, and would "
                    "be trained on twice; leave one stage out, or give each source a `dataset` name of its own"
                )
            numbers[-1] += _is_training(sample)
    if not any(numbers):
        raise UserError(
            f"{config.name}.samples: {', '.join(config.samples)} hold no caption Sample of split train"
        )
    refuse_shared_groups(
        (sample for folder in folders for sample in read_outlines(folder) if _is_training(sample)),
        (sample for folder in folders for sample in read_outlines(folder) if sample.split == TEST_SPLIT),
    )
    return numbers


def _is_training(sample: Sample) -> bool:
    return sample.task == "caption" and sample.split == "train"


def _in_proportion(folders: Sequence[Path], numbers: Sequence[int]) -> Iterator[Sample]:
    """The training Samples of all stages, each stage's i-th of n at (i + 1/2) / n of the way."""

    def placed(folder: Path, number: int) -> Iterator[tuple[float, Sample]]:
        for index, sample in enumerate(filter(_is_training, read_samples(folder))):
            yield (index + 0.5) / number, sample

    streams = [placed(folder, number) for folder, number in zip(folders, numbers, strict=True)]
    return (sample for _, sample in heapq.merge(*streams, key=lambda pair: pair[0]))


def _encode(sample: Sample, max_side_px: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """(bytes, suffix, (width, height) in pixels) of the first picture, decoded once to see that it is whole."""
    if not sample.images:
        raise BadImage("no_image", "the Sample has no picture")
    image = sample.images[0]
    data = image.data
    if data is None:
        try:
            data = Path(image.path).read_bytes()
        except OSError as error:
            raise BadImage("unreadable", f"{image.path}: {error.strerror}; was the source moved?") from error
    pixels = decode(data, image.path)
    if max_side_px is not None and max(pixels.size) > max_side_px:
        pixels.thumbnail((max_side_px, max_side_px), PILImage.Resampling.LANCZOS)
        buffer = io.BytesIO()
        pixels.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), "jpg", pixels.size
    suffix = _suffix(data)
    return (data, suffix, pixels.size) if suffix else (encode_png(pixels), "png", pixels.size)


def _suffix(data: bytes) -> str | None:
    """What open_clip's reader must be told that these bytes are: by their first signs, since names can be wrong."""
    for signs, suffix in ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg")):
        if data.startswith(signs):
            return suffix
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _facts(sample: Sample, size_px: tuple[int, int]) -> dict[str, Any]:
    return {
        "width": size_px[0],
        "height": size_px[1],
        "original_path": sample.images[0].path,
        "sample_id": sample.id,
        "source": sample.origin.source,
        "licence": sample.origin.licence,
        "group": sample.origin.group,
    }


def _drops_path(out: Path, shard: int) -> Path:
    return out / "drops" / f"{shard:05d}.jsonl"


def _write_drops(drops: Sequence[Drop], out: Path, shard: int) -> None:
    """Beside each tar, and after it: where both are there, all Samples up to its last are accounted for."""
    path = _drops_path(out, shard)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    write_jsonl((drop.model_dump() for drop in drops), partial)
    partial.replace(path)


def _whole_shards(out: Path) -> int:
    shards = takewhile(lambda n: (out / f"{n:05d}.tar").is_file() and _drops_path(out, n).is_file(), count())
    return sum(1 for _ in shards)


def _counts(out: Path) -> dict[str, Any]:
    """Of what was written, read back from it: a run that went on counts what was there before."""
    sizes = read_sizes(out)
    sources: Counter[str] = Counter()
    words: list[int] = []
    for name in tqdm(sizes, desc="counting", unit="shard", leave=False):
        index = index_tar(out / name)
        with index.path.open("rb") as file:
            for span in index.facts:
                facts = json.loads(read_span(file, span))
                sources[facts["source"]] += 1
                words.append(len(facts["caption"].split()))
    reasons = Counter(
        drop["reason"] for path in sorted((out / "drops").glob("*.jsonl")) for drop in read_jsonl(path)
    )
    half, most = np.quantile(words, [0.5, 0.95])
    return {
        "pairs": sum(sizes.values()),
        "shards": len(sizes),
        "drops": dict(sorted(reasons.items())),
        "by_source": dict(sorted(sources.items())),
        "caption_words": {"median": float(half), "quantile_0.95": float(most), "most": max(words)},
    }
