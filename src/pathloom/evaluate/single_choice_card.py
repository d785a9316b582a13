"""The card of a benchmark: what it holds, from what, and the hash by which a published number can name it."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathloom import __version__
from pathloom.attributes import AttributeSchema
from pathloom.benchmarks import DIMENSION, Benchmark, find_benchmark
from pathloom.evaluate.single_choice_config import BenchmarkConfig
from pathloom.evaluate.tallies import BALANCED_ACCURACY, chance
from pathloom.schema import Sample
from pathloom.stage import write_json
from pathloom.tasks import find_task
from pathloom.tasks.parsing import normalise

CARD_FILE = "card.md"
RECORD_FILE = "benchmark.json"


@dataclass
class ItemTally:
    """What is known of the items written so far; `outlines` are the items without their pictures."""

    left_out_for_balance: int = 0
    outlines: list[Sample] = field(default_factory=list)
    _digest: Any = field(default_factory=hashlib.sha256)

    def add(self, item: Sample, line: str) -> None:
        """One more item, with the line by which it is hashed."""
        self._digest.update(line.encode())
        self.outlines.append(item.model_copy(update={"images": (), "regions": (), "history": ()}))

    @property
    def sha256(self) -> str:
        return str(self._digest.hexdigest())

    def by_dimension(self) -> Mapping[str, list[Sample]]:
        """The items of each dimension; all of them as "class" where there is but that one."""
        found: dict[str, list[Sample]] = {}
        for item in self.outlines:
            names = [s.removeprefix(DIMENSION) for s in item.strata if s.startswith(DIMENSION)]
            found.setdefault(names[0] if names else "class", []).append(item)
        return dict(sorted(found.items()))


def write_benchmark_card(
    config: BenchmarkConfig,
    schema: AttributeSchema,
    tallied: ItemTally,
    inputs: Mapping[str, Path],
    drops: Mapping[str, int],
    out: Path,
) -> dict[str, Any]:
    """Write card.md and benchmark.json; returns the facts that a report shows."""
    row = find_benchmark(config.family)
    task = find_task(row.task)
    dimensions = {name: _balance(items, row) for name, items in tallied.by_dimension().items()}
    values = {
        name: dict(Counter(item.answer for item in items)) for name, items in tallied.by_dimension().items()
    }
    if config.family == "cytocell":
        values = {name: {one: many.get(one, 0) for one in config.classes} for name, many in values.items()}
    record = {
        "name": config.name,
        "family": config.family,
        "release": config.release,
        "sha256": tallied.sha256,
        "items": len(tallied.outlines),
        "metric": row.primary_metric,
        "chance": round(chance(task, tallied.outlines, row.primary_metric), 4),
        "mean_guess": round(sum(one["guess"] for one in dimensions.values()) / len(dimensions), 4),
        "language": config.language,
        "options_at_most": max(len(item.choices) for item in tallied.outlines),
        "left_out_for_balance": tallied.left_out_for_balance,
    }
    if config.family == "morphopercept":
        record |= {
            "attributes": f"{schema.name}, version {schema.version}",
            "attributes_sha256": schema.digest,
            "accepted_resolvers": ", ".join(config.accept),
        }
    facts = {
        **record,
        "dimensions": dimensions,
        "values": {f"{name}: {value}": n for name, many in values.items() for value, n in many.items()},
        "sources": _sources(tallied.outlines),
    }
    whole = {
        **facts,
        "values": values,
        "made_from": {name: folder.name for name, folder in inputs.items()},
        "drops": dict(drops),
        "seed": config.seed,
        "citation": row.citation,
        "pathloom": __version__,
    }
    write_json(whole, out / RECORD_FILE)
    (out / CARD_FILE).write_text(_card(whole), encoding="utf-8")
    return facts


def _balance(items: Sequence[Sample], benchmark: Benchmark) -> dict[str, Any]:
    """What answers that do not look reach in one dimension, in accuracy, or balanced accuracy where that is reported.

    chance  of the best constant letter or text, as `evaluate` reports it
    guess   of the option that is right most often in the whole dimension, of those that an item offers: the best that
            a reader of the words alone can do
    """
    answers = Counter(normalise(item.answer) for item in items)
    commonest, count = answers.most_common(1)[0]
    guessed: Counter[str] = Counter()
    for item in items:
        guess = max(item.choices, key=lambda choice: answers[normalise(choice)])
        guessed[normalise(item.answer)] += normalise(guess) == normalise(item.answer)
    is_balanced = benchmark.metric == BALANCED_ACCURACY
    recalls = [guessed[answer] / n for answer, n in answers.items()]
    return {
        "items": len(items),
        "groups": len({item.origin.cluster for item in items}),
        "values": len(answers),
        "commonest": next(item.answer for item in items if normalise(item.answer) == commonest),
        "share_of_commonest": round(count / len(items), 4),
        "chance": round(
            chance(find_task("choice"), items, BALANCED_ACCURACY if is_balanced else "accuracy"), 4
        ),
        "guess": round(sum(recalls) / len(recalls) if is_balanced else guessed.total() / len(items), 4),
    }


def _sources(items: Iterable[Sample]) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str]] = Counter()
    groups: dict[tuple[str, str], set[str]] = {}
    for item in items:
        key = (item.origin.source, item.origin.licence)
        counts[key] += 1
        groups.setdefault(key, set()).add(item.origin.group)
    return [
        {"source": source, "licence": licence, "items": n, "groups": len(groups[source, licence])}
        for (source, licence), n in sorted(counts.items())
    ]


def _card(record: Mapping[str, Any]) -> str:
    """The record in words."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    asked = (
        "One question for each picture and attribute: which of the values offered the picture shows. The numbers of "
        "all dimensions count the same in the mean."
        if record["family"] == "morphopercept"
        else "One question for each picture: which class the cell is. The classes that occur count the same in the "
        "mean; recall of each class and the confusion matrix stand beside it."
    )
    parts = [
        f"# {record['name']}, release {record['release']}\n",
        f"{asked} Made from held-out Samples only. Quote the first twelve signs of the hash, "
        f"`{record['sha256'][:12]}`, with every number: it is taken over the items in order, their words, their "
        "options and their pictures.\n",
        _table(("", "value"), ((key.replace("_", " "), value) for key, value in plain.items())),
        "## Balance\n",
        "`chance` is what the best constant letter or text reaches, `guess` what a reader reaches who does not look "
        "and picks the option that is right most often in the benchmark. A model has seen something above both.\n",
        _table(
            ("dimension", *next(iter(record["dimensions"].values()))),
            ((name, *row.values()) for name, row in record["dimensions"].items()),
        ),
        "## Values\n",
        _table(
            ("dimension", "value", "items"),
            ((name, value, n) for name, many in record["values"].items() for value, n in many.items()),
        ),
        "## Sources\n",
        _table(("source", "licence", "items", "groups"), (row.values() for row in record["sources"])),
        "## Made from\n",
        _table(("stage", "folder"), record["made_from"].items()),
        "## Left out\n",
        _table(("reason", "count"), record["drops"].items()) if record["drops"] else "Nothing.\n",
    ]
    return "\n".join(parts)


def _table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in (heads, *rows)
    ]
    return "\n".join([lines[0], "|" + " --- |" * (lines[0].count(" | ") + 1), *lines[1:], ""])
