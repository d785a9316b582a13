"""Stage `benchmark`: single-choice questions about held-out pictures, with a card that says what they are.

Two families, after the two benchmarks of Singpath-VL (arXiv 2602.09523), whose questions are not published; wording,
options and balance are our own. Items are Samples of the task `choice` with a stratum by which `evaluate` finds them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pathloom.attributes import AttributeSchema, Language, load_schema
from pathloom.benchmarks import DIMENSION, OF_BENCHMARK
from pathloom.evaluate.select import is_held_out
from pathloom.evaluate.single_choice_card import ItemTally, write_benchmark_card
from pathloom.evaluate.single_choice_config import BenchmarkConfig
from pathloom.routing import awaits_review, review_note
from pathloom.schema import Drop, Event, Image, Sample
from pathloom.stage import FACTS_FILE, UserError, write_json
from pathloom.store import SAMPLES_PER_SHARD, count_records, read_samples, write_shard
from pathloom.tasks.parsing import normalise

CLASS_QUESTION: Mapping[Language, str] = {
    "en": "Which Bethesda class is this cell?",
    "zh": "该细胞属于哪一个 Bethesda 分类？",  # noqa: RUF001
}
CLASS = "class"
"""The one dimension of cytocell."""
OF_THE_QUESTION = ("wording=", DIMENSION)
"""Strata of a Sample that are about its own question; others, as profile=broken, are about its picture and stay."""
_STEP = "benchmark"


@dataclass(frozen=True)
class Case:
    """What could be asked about one Sample: a dimension and the value, or class, that is right."""

    sample_id: str
    cluster: tuple[str, str]
    dimension: str
    value: str


def run_benchmark(config: BenchmarkConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the items, card.md, benchmark.json and facts.json; returns counts for the manifest.

    Samples are read twice: what there is to ask is known and balanced before the first item is made, and memory holds
    one shard. Raises UserError when nothing can be asked.
    """
    schema = load_schema(config.attributes)
    cases: list[Case] = []
    drops: list[Drop] = []
    for sample in _progress(_held_out(config, inputs, drops), f"{config.name}: cases"):
        for found in _cases(config, schema, sample):
            if isinstance(found, Drop):
                drops.append(found)
            else:
                cases.append(found)
    chosen = cases if config.per_value is None else _balanced(cases, config.per_value, config.seed)
    if not chosen:
        why = ", ".join(f"{count} {reason}" for reason, count in Counter(d.reason for d in drops).items())
        raise UserError(
            f"{config.name}.samples: {', '.join(config.samples)} hold nothing to ask about ({why or 'no Sample'}); "
            f"{config.family} needs Samples of split test or fold-k with "
            + ("attributes whose resolver is accepted" if _is_morpho(config) else "a finding among classes")
        )
    tallied = ItemTally(left_out_for_balance=len(cases) - len(chosen))
    items = _progress(_items(config, schema, chosen, _held_out(config, inputs, [])), config.name)
    index = 0
    while shard := list(islice(items, SAMPLES_PER_SHARD)):
        for item in shard:
            tallied.add(item, _fingerprint(item))
        write_shard(shard, drops if index == 0 else [], out, index)
        index += 1
    counts = count_records(out)
    facts = write_benchmark_card(config, schema, tallied, inputs, counts["drops"], out)
    write_json([{"step": _STEP, **facts}], out / FACTS_FILE)
    return counts


def _held_out(config: BenchmarkConfig, inputs: Mapping[str, Path], drops: list[Drop]) -> Iterator[Sample]:
    """The Samples that no model of the recipe may learn from, each once; a repeated one is added to `drops`."""
    seen: set[str] = set()
    for name in config.samples:
        for sample in read_samples(inputs[name]):
            if not is_held_out(sample) or any(stratum.startswith(OF_BENCHMARK) for stratum in sample.strata):
                continue
            if sample.id in seen:
                drops.append(_drop(sample.id, "repeated", f"again in {name}"))
                continue
            seen.add(sample.id)
            yield sample


def _progress(samples: Iterator[Sample], name: str) -> Iterator[Sample]:
    return iter(tqdm(samples, desc=name, unit="sample", leave=False))


def _is_morpho(config: BenchmarkConfig) -> bool:
    return config.family == "morphopercept"


def _drop(sample_id: str, reason: str, detail: str = "") -> Drop:
    return Drop(sample_id=sample_id, step=_STEP, reason=reason, detail=detail)


# ----------------------------------------------------------------------------------------- what can be asked
def _cases(config: BenchmarkConfig, schema: AttributeSchema, sample: Sample) -> Iterator[Case | Drop]:
    """Every dimension of a Sample as something to ask, or as a Drop with the reason why not."""
    if not sample.images:
        yield _drop(sample.id, "no_picture")
        return
    if awaits_review(sample):
        yield _drop(sample.id, "awaits_review", review_note(sample) or "")
        return
    if _is_morpho(config):
        yield from _attribute_cases(config, schema, sample)
        return
    classes = {normalise(name): name for name in config.classes}
    if sample.finding is None:
        yield _drop(sample.id, "no_class")
    elif normalise(sample.finding) not in classes:
        yield _drop(sample.id, "unknown_class", sample.finding)
    else:
        yield Case(sample.id, sample.origin.cluster, CLASS, classes[normalise(sample.finding)])


def _attribute_cases(
    config: BenchmarkConfig, schema: AttributeSchema, sample: Sample
) -> Iterator[Case | Drop]:
    if not sample.attributes:
        yield _drop(sample.id, "no_attribute")
    for attribute in sample.attributes:
        item_id = _item_id(config, sample.id, attribute.name)
        if attribute.name not in schema.attributes:
            yield _drop(item_id, "unknown_attribute", attribute.name)
        elif attribute.value not in schema[attribute.name].words:
            yield _drop(item_id, "unknown_value", attribute.value)
        elif attribute.resolver not in config.accept:
            yield _drop(item_id, "untrusted", f"{attribute.value} by {attribute.resolver}")
        else:
            yield Case(sample.id, sample.origin.cluster, attribute.name, attribute.value)


def _balanced(cases: Sequence[Case], per_value: int, seed: int) -> list[Case]:
    """At most `per_value` cases of each dimension and value, dealt over groups in a seeded order; order is kept.

    Every group gives its first case before any gives its second: the more groups, the less the items depend.
    """
    rng = np.random.default_rng(seed)
    of_group: Counter[tuple[str, str, tuple[str, str]]] = Counter()
    rounds: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place in map(int, rng.permutation(len(cases))):
        case = cases[place]
        rounds.setdefault((case.dimension, case.value), []).append(
            (of_group[case.dimension, case.value, case.cluster], place)
        )
        of_group[case.dimension, case.value, case.cluster] += 1
    kept = {
        place
        for dealt in rounds.values()
        for _, place in sorted(dealt, key=lambda one: one[0])[:per_value]  # stable: the seeded order stands
    }
    return [case for place, case in enumerate(cases) if place in kept]


# ------------------------------------------------------------------------------------------------- the items
def _items(
    config: BenchmarkConfig, schema: AttributeSchema, cases: Sequence[Case], samples: Iterator[Sample]
) -> Iterator[Sample]:
    """An item for each case, in the order of the Samples."""
    of_sample: dict[str, list[Case]] = {}
    for case in cases:
        of_sample.setdefault(case.sample_id, []).append(case)
    rng = np.random.default_rng(config.seed)
    places: dict[str, list[int]] = {}
    for sample in samples:
        for case in of_sample.get(sample.id, ()):
            values = schema[case.dimension].values if _is_morpho(config) else config.classes
            num_options = min(config.num_options, len(values)) if _is_morpho(config) else len(values)
            others = [value for value in values if value != case.value]
            shown = [others[at] for at in rng.permutation(len(others))[: num_options - 1]]
            # each letter is dealt once before any is dealt again
            if not places.get(case.dimension):
                places[case.dimension] = rng.permutation(num_options).tolist()
            shown.insert(places[case.dimension].pop(), case.value)
            yield _item(config, schema, sample, case, shown)


def _item(
    config: BenchmarkConfig, schema: AttributeSchema, sample: Sample, case: Case, shown: Sequence[str]
) -> Sample:
    """The question as a Sample that holds nothing by which the answer could be told but its pictures."""
    strata = [f"{OF_BENCHMARK}{config.family}"]
    strata += [stratum for stratum in sample.strata if not stratum.startswith(OF_THE_QUESTION)]
    if _is_morpho(config):
        kind = schema[case.dimension]
        question = kind.question[config.language]
        choices = tuple(kind.say(value, config.language) for value in shown)
        answer = kind.say(case.value, config.language)
        strata.append(f"{DIMENSION}{case.dimension}")
    else:
        question = config.question or CLASS_QUESTION[config.language]
        choices, answer = tuple(shown), case.value
    event = Event(step=_STEP, version=config.version, note=f"{config.family}, release {config.release}")
    return Sample(
        id=_item_id(config, sample.id, case.dimension),
        task="choice",
        split=sample.split,
        images=sample.images,
        question=question,
        choices=choices,
        answer=answer,
        regions=sample.regions,
        finding=sample.finding,
        subfield=sample.subfield,
        organ=sample.organ,
        strata=tuple(strata),
        origin=sample.origin,
        history=(*sample.history, event),
    )


def _item_id(config: BenchmarkConfig, sample_id: str, dimension: str) -> str:
    return f"{sample_id}/{config.family}" + (f"/{dimension}" if _is_morpho(config) else "")


def _fingerprint(item: Sample) -> str:
    """One line that changes with anything that a model is shown or graded by."""
    pictures = [hashlib.sha256(_bytes_of(image)).hexdigest() for image in item.images]
    shown = [item.id, item.question, item.choices, item.answer, pictures]
    return json.dumps(shown, ensure_ascii=False) + "\n"


def _bytes_of(image: Image) -> bytes:
    if image.data is not None:
        return image.data
    try:
        return Path(image.path).read_bytes()
    except OSError as error:
        raise UserError(f"{image.path}: {error.strerror}; was the source moved?") from error
