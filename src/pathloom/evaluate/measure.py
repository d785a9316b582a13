"""From graded predictions to the files that every evaluation leaves: metrics.json and scores.jsonl."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathloom.benchmarks import Benchmark, find_benchmark
from pathloom.evaluate.metrics import Interval, Scored, agreement, confusion, measure, share_reasoning
from pathloom.evaluate.report_records import SHARE_REASONING, Confusion, Row
from pathloom.evaluate.select import NO_CONTROL
from pathloom.evaluate.tallies import FURTHER_CHANCES, MACRO_ACCURACY, chance
from pathloom.schema import Sample
from pathloom.stage import UserError, read_jsonl, write_json, write_jsonl
from pathloom.tasks import find_task
from pathloom.tasks.parsing import reasoning_of
from pathloom.tasks.task import Score

METRICS = "metrics.json"
SCORES = "scores.jsonl"
CONFUSION_LABELS_MAX = 40
"""Our own choice, about what a page's width holds: questions with options of their own have hundreds of answers."""


@dataclass(frozen=True)
class Prediction:
    """One graded answer to one benchmark Sample under one control."""

    benchmark: str
    control: str
    sample: Sample
    completion: str
    score: Score

    @property
    def scored(self) -> Scored:
        return Scored(self.sample, self.score)


def write_measurements(
    stage: str, predictions: Sequence[Prediction], out: Path, *, num_resamples: int, seed: int
) -> None:
    """Rows with intervals for each benchmark, control and stratum; one line a prediction in scores.jsonl."""
    rows: list[Row] = []
    confusions: list[Confusion] = []
    for (name, control), part in _parts(predictions):
        benchmark = find_benchmark(name)
        rows += _rows(stage, benchmark, control, part, num_resamples=num_resamples, seed=seed)
        if control == NO_CONTROL and _has_classes(benchmark):
            labels, counts = confusion([one.scored for one in part])
            if len(labels) <= CONFUSION_LABELS_MAX:
                confusions.append(Confusion(stage=stage, benchmark=name, labels=labels, counts=counts))
    write_jsonl(map(_score_line, predictions), out / SCORES)
    # model_dump_json writes null where a number could not be computed; JSON has no NaN
    measured: dict[str, list[Any]] = {"rows": rows, "confusions": confusions}
    write_json(
        {name: [json.loads(one.model_dump_json()) for one in many] for name, many in measured.items()},
        out / METRICS,
    )


def _has_classes(benchmark: Benchmark) -> bool:
    """Whether all of its answers are of one kind: those about several dimensions make no table of confusion."""
    return benchmark.task in ("choice", "label", "ordinal") and benchmark.primary_metric != MACRO_ACCURACY


def _rows(
    stage: str,
    benchmark: Benchmark,
    control: str,
    part: Sequence[Prediction],
    *,
    num_resamples: int,
    seed: int,
) -> list[Row]:
    """The primary metric first, then the others, how many reason and whether that agrees with the answer, and the
    task's own by stratum.
    """
    task, primary = find_task(benchmark.task), benchmark.primary_metric
    scored = [one.scored for one in part]
    draws: dict[str, Any] = {"num_resamples": num_resamples, "seed": seed}

    def row(metric: str, interval: Interval, n: int, by_chance: float | None = None) -> Row:
        return Row(
            stage=stage,
            benchmark=benchmark.name,
            task=task.name,
            metric=metric,
            control=control,
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n=n,
            chance=by_chance,
            primary=metric == primary,
        )

    asked = [one.sample for one in part]
    with_chance = {primary, *(FURTHER_CHANCES if control == NO_CONTROL else ())}
    rows = [
        row(metric, interval, len(part), chance(task, asked, metric) if metric in with_chance else None)
        for metric, interval in measure(task, scored, metric=primary, **draws).items()
    ]
    completions = [one.completion for one in part]
    rows.append(row(SHARE_REASONING, share_reasoning(scored, completions, **draws), len(part)))
    if control != NO_CONTROL:
        return rows
    if any(map(reasoning_of, completions)):
        agreeing = agreement(task, scored, completions, **draws)
        rows += [row(metric, interval, len(part)) for metric, interval in agreeing.items()]
    for stratum, members in _strata(scored):
        interval = measure(task, members, **draws)[task.metric]
        by_chance = task.chance([one.sample for one in members])
        rows.append(row(f"{task.metric} ({stratum})", interval, len(members), by_chance))
    return rows


def read_predictions(folder: Path, samples: dict[str, Sample]) -> list[Prediction]:
    """The graded predictions of an evaluation stage, joined with the Samples they answer.

    Raises UserError when a Sample is missing: the report's `samples` must name what the evaluation read.
    """
    lines = read_jsonl(folder / SCORES)
    for line in lines:
        if line["sample_id"] not in samples:
            raise UserError(
                f"{folder.name} answers {line['sample_id']}, which no stage under the report's `samples` holds: "
                "name every stage there that the evaluation reads"
            )
    return [
        Prediction(
            line["benchmark"],
            line["control"],
            samples[line["sample_id"]],
            line["completion"],
            Score(_to_answer(line["answer"]), line["correct"], line["parts"]),
        )
        for line in lines
    ]


def _parts(predictions: Iterable[Prediction]) -> Iterable[tuple[tuple[str, str], list[Prediction]]]:
    parts: dict[tuple[str, str], list[Prediction]] = {}
    for prediction in predictions:
        parts.setdefault((prediction.benchmark, prediction.control), []).append(prediction)
    return parts.items()


def _strata(scored: Sequence[Scored]) -> Iterable[tuple[str, list[Scored]]]:
    """Subgroups that hold some but not all of the Samples."""
    strata: dict[str, list[Scored]] = {}
    for one in scored:
        for stratum in one.sample.strata:
            strata.setdefault(stratum, []).append(one)
    return [(name, members) for name, members in sorted(strata.items()) if len(members) < len(scored)]


def _score_line(prediction: Prediction) -> dict[str, Any]:
    return {
        "benchmark": prediction.benchmark,
        "control": prediction.control,
        "sample_id": prediction.sample.id,
        "group": prediction.sample.origin.group,
        "truth": prediction.sample.answer or [list(region.box_px) for region in prediction.sample.regions],
        "completion": prediction.completion,
        "answer": prediction.score.answer,
        "correct": prediction.score.correct,
        "parts": dict(prediction.score.parts),
    }


def _to_answer(value: Any) -> Any:
    return tuple(tuple(box) for box in value) if isinstance(value, list) else value
