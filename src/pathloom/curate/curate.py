"""Stage `curate`: Samples through steps, one after the other, into shards of Samples and Drops."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pathloom.curate.config import CurateConfig
from pathloom.curate.step import Change
from pathloom.schema import Drop, Sample
from pathloom.stage import FACTS_FILE, write_json
from pathloom.store import SAMPLES_PER_SHARD, count_records, read_samples, write_shard


def run_curate(config: CurateConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Prepare each step on what the steps before it leave, then write what all of them leave.

    Samples are read again for every step that looks at the set first: memory holds one shard and what steps remember.
    """
    changes: list[Change] = []

    def read() -> Iterator[Sample]:
        for record in _through(read_all(config.samples, inputs), changes[:]):
            if isinstance(record, Sample):
                yield record

    facts = []
    for step in config.steps:
        prepared = step.prepare(read, inputs, config.seed)
        changes.append(prepared.change)
        facts.append({"step": step.step, **prepared.facts})
    records = _through(read_all(config.samples, inputs), changes)
    by_step = write_records(records, out, config.name)
    write_json(facts, out / FACTS_FILE)
    warnings = [warning for fact in facts for warning in fact.get("warnings", ())]
    return {**count_records(out), "drops_by_step": by_step, **({"warnings": warnings} if warnings else {})}


def write_records(records: Iterable[Sample | Drop], out: Path, name: str) -> dict[str, int]:
    """Shards of Samples and Drops, with a progress bar; returns the number of Drops of each step."""
    by_step: Counter[str] = Counter()
    bar = tqdm(records, desc=name, unit="sample", leave=False)
    for index, shard in enumerate(_shards(iter(bar))):
        drops = [record for record in shard if isinstance(record, Drop)]
        by_step.update(drop.step for drop in drops)
        write_shard([record for record in shard if isinstance(record, Sample)], drops, out, index)
    return dict(by_step)


def read_all(names: Sequence[str], inputs: Mapping[str, Path]) -> Iterator[Sample]:
    """The Samples of several stages, one stage after the other."""
    return (sample for name in names for sample in read_samples(inputs[name]))


def _through(samples: Iterator[Sample], changes: Sequence[Change]) -> Iterator[Sample | Drop]:
    for sample in samples:
        record: Sample | Drop = sample
        for change in changes:
            if isinstance(record, Drop):
                break
            record = change(record)
        yield record


def _shards(records: Iterator[Sample | Drop]) -> Iterator[list[Sample | Drop]]:
    """At least one shard, be it empty."""
    first = True
    while (shard := list(islice(records, SAMPLES_PER_SHARD))) or first:
        yield shard
        first = False
