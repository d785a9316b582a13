"""What a stage that makes or sorts data left, for the report: counts, facts as tables, and some of its Samples."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pathloom.evaluate.report_pictures import Thumbnails, find_thumbnails, shown_png
from pathloom.evaluate.report_records import DataStage, Table, Written
from pathloom.images import BadImage, decode, encode_png
from pathloom.schema import Sample
from pathloom.stage import FACTS_FILE, MANIFEST_FILE
from pathloom.store import read_samples

_SHOWN_PX = 320
_INTERVAL = {"value", "low", "high"}


def data_stage(name: str, folder: Path, num_examples: int) -> DataStage:
    """From the stage's manifest, facts and Samples, if it makes any; `num_examples` of them for each task."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    counts = manifest["counts"]
    kept: Counter[str] = Counter()
    for split_and_task, count in counts.get("by_split_and_task", {}).items():
        kept[split_and_task.partition("/")[2]] += count
    thumbnails = find_thumbnails([folder])
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    return DataStage(
        stage=name,
        kind=manifest["kind"],
        kept=dict(kept),
        drops=counts.get("drops", {}),
        tables=tuple(table for fact in facts for table in _tables(fact)),
        written=tuple(_written(sample, thumbnails) for sample in _spread(folder, kept, num_examples)),
    )


def _tables(fact: Mapping[str, Any]) -> Iterator[Table]:
    """One table for the numbers of a step, one for each mapping or list of mappings among its facts."""
    step = fact["step"]
    plain = {
        key: value for key, value in fact.items() if key != "step" and not isinstance(value, dict | list)
    }
    if plain:
        facts = tuple((_words(key), _cell(value)) for key, value in plain.items() if value is not None)
        yield Table(title=step, columns=("fact", "value"), rows=facts)
    for key, value in fact.items():
        title = f"{step}: {_words(key)}"
        if isinstance(value, dict) and value:
            yield _table(title, value)
        elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            columns = tuple(dict.fromkeys(column for row in value for column in row))
            rows = tuple(tuple(_cell(row.get(column, "")) for column in columns) for row in value)
            yield Table(title=title, columns=columns, rows=rows)
        elif isinstance(value, list) and value:
            yield Table(title=title, columns=("value",), rows=tuple((_cell(item),) for item in value))


def _table(title: str, value: Mapping[str, Any]) -> Table:
    """A mapping of numbers is two columns; a mapping of mappings has a column for each inner key."""
    if not all(isinstance(inner, dict) for inner in value.values()):
        return Table(
            title=title, columns=("", "value"), rows=tuple((key, _cell(v)) for key, v in value.items())
        )
    columns = tuple(dict.fromkeys(column for inner in value.values() for column in inner))
    rows = tuple((key, *(_cell(inner.get(column, "")) for column in columns)) for key, inner in value.items())
    return Table(title=title, columns=("", *columns), rows=rows)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    """A mapping of value, low and high is a number with its interval."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, dict) and value.keys() == _INTERVAL:
            number, low, high = (f"{value[end]:.3g}" for end in ("value", "low", "high"))
            return f"{number} ({low}\u00a0to\u00a0{high})"
        if isinstance(value, dict):
            return ", ".join(f"{key}: {_cell(inner)}" for key, inner in value.items())
        return ", ".join(map(_cell, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _spread(folder: Path, kept: Counter[str], num_examples: int) -> Iterator[Sample]:
    """Up to `num_examples` Samples of each task, spread evenly over those that there are."""
    wanted = {
        task: {place * count // min(num_examples, count) for place in range(min(num_examples, count))}
        for task, count in kept.items()
    }
    seen: Counter[str] = Counter()
    for sample in read_samples(folder) if kept else ():  # one that makes none has no file of them
        if seen[sample.task] in wanted[sample.task]:
            yield sample
        seen[sample.task] += 1


def _written(sample: Sample, thumbnails: Thumbnails) -> Written:
    labels = (sample.subfield, sample.organ, sample.level)
    # other events tell who labelled or reviewed it
    written_by = [event.model for event in sample.history if event.step == "reason"]
    return Written(
        sample_id=sample.id,
        task=sample.task,
        labels=", ".join(filter(None, labels)),
        by=", ".join(dict.fromkeys(filter(None, written_by))),
        image_png=_small_png(sample, thumbnails),
        context=sample.context,
        earlier=tuple((turn.question, turn.answer) for turn in sample.earlier),
        question=sample.question,
        options=sample.choices,
        answer=sample.answer or (f"{len(sample.regions)} boxes" if sample.task == "boxes" else ""),
        reasoning=sample.reasoning or "",
    )


def _small_png(sample: Sample, thumbnails: Thumbnails) -> bytes | None:
    if not sample.images:
        return None
    try:
        png = shown_png(sample.images[0], thumbnails)
        pixels = decode(png, sample.id)
    except BadImage:
        return None
    pixels.thumbnail((_SHOWN_PX, _SHOWN_PX))
    return encode_png(pixels)
