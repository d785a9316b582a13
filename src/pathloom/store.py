"""Samples and Drops on disk: Parquet shards under one explicit Arrow schema.

The schema never depends on the data (an all-empty column would otherwise be typed null and two shards could not
be joined). Its metadata tell Hugging Face `datasets` which column holds pictures, so
`datasets.load_dataset("parquet", data_files="runs/<stage>/samples/*.parquet")` opens a folder directly.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pathloom.schema import Drop, Origin, Sample

SAMPLES_PER_SHARD = 1024
"""Bounds the memory of one shard: about 100 MB at 100 kB a picture."""

_BOX = pa.list_(pa.float64())
_IMAGE = pa.struct(
    [
        ("pixels", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("mpp", pa.float64()),
        ("slide", pa.string()),
    ]
)
_REGION = pa.struct(
    [("box_px", _BOX), ("label", pa.string()), ("mask_png", pa.binary()), ("image", pa.int32())]
)
_ORIGIN = pa.struct(
    [
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("licence", pa.string()),
        ("group", pa.string()),
        ("page", pa.int32()),
        ("box_pt", _BOX),
        ("box_l0", _BOX),
        ("panel", pa.string()),
        ("caption_span", pa.list_(pa.int64())),
    ]
)
_TURN = pa.struct([("question", pa.string()), ("answer", pa.string())])
_EVENT = pa.struct(
    [
        ("step", pa.string()),
        ("version", pa.int32()),
        ("note", pa.string()),
        ("model", pa.string()),
        ("reviewer", pa.string()),
    ]
)
_ANNOTATION = pa.struct(
    [
        ("annotator", pa.string()),
        ("said", pa.list_(pa.struct([("name", pa.string()), ("text", pa.string())]))),
        ("caption", pa.string()),
    ]
)
_ATTRIBUTE = pa.struct(
    [
        ("name", pa.string()),
        ("value", pa.string()),
        ("text", pa.string()),
        ("resolver", pa.string()),
        ("confidence", pa.float64()),
        ("votes", pa.list_(pa.struct([("annotator", pa.string()), ("value", pa.string())]))),
    ]
)
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("split", pa.string()),
        ("images", pa.list_(_IMAGE)),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("regions", pa.list_(_REGION)),
        ("earlier", pa.list_(_TURN)),
        ("reasoning", pa.string()),
        ("context", pa.string()),
        ("finding", pa.string()),
        ("asked_finding", pa.string()),
        ("subfield", pa.string()),
        ("organ", pa.string()),
        ("level", pa.string()),
        ("strata", pa.list_(pa.string())),
        ("annotations", pa.list_(_ANNOTATION)),
        ("attributes", pa.list_(_ATTRIBUTE)),
        ("origin", _ORIGIN),
        ("history", pa.list_(_EVENT)),
    ]
)


def _hugging_face_features(column: pa.DataType) -> Any:
    """The `datasets` feature description of an Arrow type; a {bytes, path} struct is a picture."""
    if pa.types.is_struct(column):
        names = [column.field(i).name for i in range(column.num_fields)]
        if names == ["bytes", "path"]:
            return {"_type": "Image"}
        return {name: _hugging_face_features(column.field(name).type) for name in names}
    if pa.types.is_list(column):
        return {"_type": "List", "feature": _hugging_face_features(column.value_type)}
    if pa.types.is_floating(column):
        return {"_type": "Value", "dtype": "float64"}
    return {"_type": "Value", "dtype": str(column)}


SCHEMA = _COLUMNS.with_metadata(
    {
        "huggingface": json.dumps(
            {"info": {"features": {field.name: _hugging_face_features(field.type) for field in _COLUMNS}}}
        )
    }
)


def _to_row(sample: Sample) -> dict[str, Any]:
    row = sample.model_dump()
    for image in row["images"]:
        image["pixels"] = {"bytes": image.pop("data"), "path": image.pop("path")}
    return row


def _from_row(row: dict[str, Any]) -> Sample:
    images = [
        {**{k: v for k, v in image.items() if k != "pixels"}, "data": image["pixels"]["bytes"],
         "path": image["pixels"]["path"]}
        for image in row["images"]
    ]  # fmt: skip
    return Sample.model_validate({**row, "images": images})


def write_samples(samples: Iterable[Sample], folder: Path) -> int:
    """Write `folder`/samples/00000.parquet and so on; returns how many Samples. No Samples: one empty shard."""
    source = iter(samples)
    total = index = 0
    while (shard := list(islice(source, SAMPLES_PER_SHARD))) or index == 0:
        write_shard(shard, [], folder, index)
        total, index = total + len(shard), index + 1
    return total


def write_shard(samples: Sequence[Sample], drops: Sequence[Drop], folder: Path, index: int) -> None:
    """One shard and its Drops, each written under another name, fsynced and renamed: a shard is whole or absent."""
    text = "".join(drop.model_dump_json() + "\n" for drop in drops)
    _write_whole(folder / "drops" / f"{index:05d}.jsonl", lambda file: file.write(text.encode()))
    table = pa.Table.from_pylist([_to_row(sample) for sample in samples], schema=SCHEMA)
    _write_whole(_shard_path(folder, index), lambda file: pq.write_table(table, file, compression="zstd"))


def shard_is_written(folder: Path, index: int) -> bool:
    return _shard_path(folder, index).is_file()  # the last file of a shard to appear


def _shard_path(folder: Path, index: int) -> Path:
    return folder / "samples" / f"{index:05d}.parquet"


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_samples(folder: Path) -> Iterator[Sample]:
    """All Samples of a stage folder in the order they were written, a shard at a time in memory."""
    shards = sorted((folder / "samples").glob("*.parquet"))
    if not shards:
        raise FileNotFoundError(
            f"{folder} holds no samples/*.parquet: is it the folder of an ingest or curate stage?"
        )
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=128):
            for row in batch.to_pylist():
                yield _from_row(row)


def read_outlines(folder: Path) -> Iterator[Sample]:
    """The Samples of a stage by id, task, split, source and group alone, all else empty: pictures are not read."""
    for shard in sorted((folder / "samples").glob("*.parquet")):
        with pq.ParquetFile(shard) as file:
            rows = file.read(columns=["id", "task", "split", "origin.source", "origin.group"]).to_pylist()
        for row in rows:
            origin = Origin(source_id="", licence="", **row.pop("origin"))
            yield Sample(question="", origin=origin, **row)


def count_records(folder: Path) -> dict[str, Any]:
    """Samples by split and task and Drops by reason of a stage folder, for its manifest."""
    reasons: Counter[str] = Counter()
    for path in sorted((folder / "drops").glob("*.jsonl")):
        reasons.update(Drop.model_validate_json(line).reason for line in path.read_bytes().splitlines())
    kept: Counter[str] = Counter()
    for shard in sorted((folder / "samples").glob("*.parquet")):
        columns = pq.read_table(shard, columns=["task", "split"]).to_pydict()
        kept.update(f"{split}/{task}" for task, split in zip(columns["task"], columns["split"], strict=True))
    return {
        "samples": kept.total(),
        "by_split_and_task": dict(sorted(kept.items())),
        "drops": dict(sorted(reasons.items())),
    }
