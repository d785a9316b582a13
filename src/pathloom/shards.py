"""Run a source's units shard by shard, on this machine's cores; a shard on the disk is never made twice.

Later backends (many machines) belong here and nowhere else: sources never know where they run.
"""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathloom.ingest.source import IngestConfig, WholeIngest
from pathloom.schema import Drop, Sample
from pathloom.store import count_records, shard_is_written, write_shard

UNITS_PER_SHARD = 256

_workers_config: IngestConfig | None = None
"""What a worker process reads with; None in every other process."""


def run_ingest(config: IngestConfig, out: Path) -> dict[str, Any]:
    """Read all units of a source into `out`; returns counts of Samples by split and task, and Drops by reason."""
    if isinstance(config, WholeIngest):
        return config.ingest(out)
    units = list(config.plan())
    shards = [units[start : start + UNITS_PER_SHARD] for start in range(0, len(units), UNITS_PER_SHARD)]
    missing = [index for index in range(len(shards)) if not shard_is_written(out, index)]
    bar = tqdm(
        total=len(shards), initial=len(shards) - len(missing), desc=config.name, unit="shard", leave=False
    )
    with bar:
        for index, records in zip(
            missing, _read_all(config, [shards[index] for index in missing]), strict=True
        ):
            samples = [record for record in records if isinstance(record, Sample)]
            drops = [record for record in records if isinstance(record, Drop)]
            write_shard(samples, drops, out, index)
            bar.update()
    return count_records(out)


def _read_all(config: IngestConfig, shards: Sequence[Sequence[Any]]) -> Iterator[list[Sample | Drop]]:
    workers = min(len(shards), os.cpu_count() or 1)
    if workers <= 1:
        yield from (_read_shard(config, shard) for shard in shards)
        return
    # spawn: the parent may hold threads of other libraries, which a fork would copy in a locked state
    context = multiprocessing.get_context("spawn")
    # A worker gets the configuration once: it may be large, and there are many shards.
    pooled = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(config,))
    with pooled as pool:
        yield from pool.map(_read_in_worker, shards)


def _start_worker(config: IngestConfig) -> None:
    global _workers_config
    _workers_config = config


def _read_in_worker(units: Sequence[Any]) -> list[Sample | Drop]:
    assert _workers_config is not None, "_start_worker ran first"
    return _read_shard(_workers_config, units)


def _read_shard(config: IngestConfig, units: Sequence[Any]) -> list[Sample | Drop]:
    return [record for unit in units for record in config.read(unit)]
