"""From graded predictions to the files that every evaluation leaves: metrics.json and scores.jsonl."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathloom.evaluate.metrics import Interval, Scored, agreement, confusion, measure
from pathloom.evaluate.report_records import Confusion, Row
from pathloom.evaluate.select import NO_CONTROL
from pathloom.benchmarks import find_benchmark
from pathloom.schema import Sample
from pathloom.stage import read_jsonl, write_json, write_jsonl
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

METRICS = "metrics.json"
SCORES = "scores.jsonl"


@dataclass(frozen=True)
class Prediction:
    """One graded answer to one benchmark Sample under one control."""

    benchmark: str
    control: str
    sample: Sample
    completion: str
    score: Score


def write_measurements(
    stage: str, predictions: Sequence[Prediction], out: Path, *, num_resamples: int, seed: int
) -> None:
    """Rows with intervals for each benchmark, control and stratum; one line a prediction in scores.jsonl."""
    rows: list[Row] = []
    confusions: list[Confusion] = []
    for (name, control), part in _parts(predictions):
        task = find_task(find_benchmark(name).task)
        scored = [Scored(prediction.sample, prediction.score) for prediction in part]
        chance = task.chance([prediction.sample for prediction in part])

        def row(
            metric: str, interval: Interval, n: int, *, primary: bool = False, chance: float | None = None
        ) -> Row:
            return Row(
                stage=stage, benchmark=name, task=task.name, metric=metric, control=control,
                value=interval.value, low=interval.low, high=interval.high, n=n, chance=chance, primary=primary,
            )  # fmt: skip

        for metric, interval in measure(task, scored, seed=seed, num_resamples=num_resamples).items():
            primary = metric == task.metric
            rows.append(
                row(metric, interval, len(scored), primary=primary, chance=chance if primary else None)
            )
        if control != NO_CONTROL:
            continue
        for metric, interval in agreement(task, scored, [p.completion for p in part], seed=seed).items():
            rows.append(row(metric, interval, len(scored)))
        for stratum, members in _strata(scored):
            interval = measure(task, members, seed=seed, num_resamples=num_resamples)[task.metric]
            rows.append(row(f"{task.metric} ({stratum})", interval, len(members)))
        if task.name in ("choice", "label"):
            labels, counts = confusion(scored)
            confusions.append(Confusion(stage=stage, benchmark=name, labels=labels, counts=counts))
    write_jsonl(map(_score_line, predictions), out / SCORES)
    write_json(
        {"rows": [r.model_dump() for r in rows], "confusions": [c.model_dump() for c in confusions]},
        out / METRICS,
    )


def read_predictions(folder: Path, samples: dict[str, Sample]) -> list[Prediction]:
    """The graded predictions of an evaluation stage, joined with the Samples they answer."""
    return [
        Prediction(
            line["benchmark"],
            line["control"],
            samples[line["sample_id"]],
            line["completion"],
            Score(_to_answer(line["answer"]), line["correct"], line["parts"]),
        )
        for line in read_jsonl(folder / SCORES)
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
