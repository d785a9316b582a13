"""Stage `report`: gather what the named stages left into one Report and write it as a page, JSON and Markdown."""

import itertools
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pathloom.benchmarks import find_benchmark
from pathloom.evaluate.breakdowns import boards_of_parts
from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.data_sets import board_of_data_sets
from pathloom.evaluate.measure import METRICS, SCORES, Prediction, read_predictions
from pathloom.evaluate.metrics import Scored, compare, compare_runs
from pathloom.evaluate.report import Comparison, Confusion, Curve, Example, Report, Row, write_report
from pathloom.evaluate.report_data import data_stage
from pathloom.evaluate.report_drawing import format_fixed
from pathloom.evaluate.report_pictures import Thumbnails, find_thumbnails, outlines_png, shown_png
from pathloom.evaluate.report_records import BOARDS_FILE, SHARE_REASONING, Board, Measured
from pathloom.evaluate.select import NO_CONTROL
from pathloom.evaluate.suites import boards_of_suites, name_of_side
from pathloom.schema import FOLD_PREFIX, Sample
from pathloom.stage import FACTS_FILE, MANIFEST_FILE, UserError, read_jsonl
from pathloom.store import read_samples
from pathloom.tasks import find_task
from pathloom.tasks.parsing import reasoning_of

COMPARISONS_IN_TERMINAL = 24
TRAINING_LOG = "training.jsonl"
PLACES = {"boxes": "boxes", "mask": "masks"}
"""Tasks that are answered by places, and what their truth is."""
CURVES = (
    "loss",
    "token_accuracy",
    "reward",
    "zero_variance_share",
    "groups_generated",
    "entropy",
    "answer_tokens",
    "share_reasoning",
    "logit_scale",
)


def run_report(config: ReportConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write report.html, report.json and report.md into `out`; returns counts for the manifest."""
    measured = [name for name in config.stages if (inputs[name] / METRICS).is_file()]
    made = [name for name in config.stages if (inputs[name] / FACTS_FILE).is_file()]
    side_by_side = [_side_by_side(inputs[name]) for name in config.stages]
    if not measured and not made and not any(one.boards for one in side_by_side):
        raise UserError(
            f"{config.name}.stages: none of {', '.join(config.stages)} measured anything or left facts, as evaluate, "
            "probe, zero_shot, retrieval, few_shot, curate, reason, annotate, instruct, release and benchmark do"
        )
    answered = {line["sample_id"] for name in measured for line in read_jsonl(inputs[name] / SCORES)}
    samples, sources = read_answered([inputs[name] for name in config.samples], answered)
    rows: list[Row] = []
    confusions: list[Confusion] = []
    predictions: dict[str, list[Prediction]] = {}
    for name in measured:
        metrics = json.loads((inputs[name] / METRICS).read_text(encoding="utf-8"))
        rows += [Row.model_validate(row) for row in metrics["rows"]]
        confusions += [Confusion.model_validate(confusion) for confusion in metrics["confusions"]]
        predictions[name] = read_predictions(inputs[name], samples)
    thumbnails = find_thumbnails(inputs[name] for name in config.samples)
    scored = {name: _by_benchmark(predictions[name]) for name in measured}
    suites, of_suites = boards_of_suites(config, scored)
    if config.data_sets is not None:
        table, of_columns = board_of_data_sets(config, scored, rows)
        suites, of_suites = [table, *suites], [*of_columns, *of_suites]
    report = Report(
        recipe=out.name,
        title=config.title or config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=tuple(rows),
        data=tuple(data_stage(name, inputs[name], config.num_examples) for name in made),
        boards=(
            *suites,
            *boards_of_parts(config.name, rows),
            *(board for one in side_by_side for board in one.boards),
        ),
        comparisons=(
            *of_suites,
            *_comparisons(config, measured, predictions),
            *_comparisons_of_repeats(config, measured, predictions),
            *(comparison for one in side_by_side for comparison in one.comparisons),
        ),
        curves=tuple(curve for name in config.stages for curve in _curves(name, inputs[name])),
        confusions=(*confusions, *(confusion for one in side_by_side for confusion in one.confusions)),
        examples=tuple(
            example
            for name in measured
            for example in _examples(name, predictions[name], config.num_examples, thumbnails)
        ),
        seconds={name: _manifest(folder)["seconds"] for name, folder in inputs.items()},
        notes=(*config.notes, *_notes(inputs)),
        sources=tuple(sources),
    )
    write_report(report, out)
    return {"rows": len(rows), "boards": len(report.boards), "examples": len(report.examples)}


def _side_by_side(folder: Path) -> Measured:
    """What a stage that measures encoders left; nothing for another stage."""
    path = folder / BOARDS_FILE
    return Measured.model_validate_json(path.read_bytes()) if path.is_file() else Measured(boards=())


def read_answered(folders: Iterable[Path], answered: Collection[str]) -> tuple[dict[str, Sample], list[str]]:
    """The Samples with the ids `answered`, and a line for each source of all Samples.

    Memory holds the answered ones and every id: a Sample that two stages hold counts once.
    """
    samples: dict[str, Sample] = {}
    seen: set[str] = set()
    counts: Counter[tuple[str, str]] = Counter()
    for sample in (sample for folder in folders for sample in read_samples(folder)):
        if sample.id in answered:
            samples[sample.id] = sample
        if sample.id not in seen:
            seen.add(sample.id)
            counts[sample.origin.source, sample.origin.licence] += 1
    return samples, [
        f"{source}, licence {licence}, {count} samples" for (source, licence), count in sorted(counts.items())
    ]


def _comparisons(
    config: ReportConfig, stages: Sequence[str], predictions: Mapping[str, Sequence[Prediction]]
) -> list[Comparison]:
    """Each stage against every one before it, on the Samples that both answered without a control.

    Repeats are not compared with each other one by one.
    """
    repeated = {stage for repeats in config.repeats.values() for stage in repeats}
    comparisons = []
    for before, after in itertools.combinations(stages, 2):
        if {before, after} <= repeated:
            continue
        old, new = _by_benchmark(predictions[before]), _by_benchmark(predictions[after])
        for name in old.keys() & new.keys():
            if {one.sample.id for one in old[name]} != {one.sample.id for one in new[name]}:
                continue  # asked of other Samples: not a pair
            benchmark = find_benchmark(name)
            metric = benchmark.primary_metric
            result = compare(find_task(benchmark.task), old[name], new[name], metric=metric)
            comparisons.append(Comparison.of(before, after, name, metric, result))
    # a suite stands for its benchmarks, so they come after those that nothing stands for
    in_suites = {name for benchmarks in config.suites.values() for name in benchmarks}
    return sorted(comparisons, key=lambda pair: (pair.benchmark in in_suites, pair.benchmark))


ALL_BENCHMARKS = "all of them"


def _comparisons_of_repeats(
    config: ReportConfig, measured: Sequence[str], predictions: Mapping[str, Sequence[Prediction]]
) -> list[Comparison]:
    """Mean correctness over all benchmarks: each stage that is no repeat, and each set of repeats, against the sets."""
    repeated = {stage for stages in config.repeats.values() for stage in stages}
    sides = {stage: (stage,) for stage in measured if stage not in repeated} | dict(config.repeats)
    runs = {name: [_in_one_order(predictions[stage]) for stage in stages] for name, stages in sides.items()}
    comparisons = []
    for before, after in itertools.combinations(sides, 2):
        if after not in config.repeats:
            continue
        asked = {tuple(one.sample.id for one in run) for run in (*runs[before], *runs[after])}
        if len(asked) > 1:
            continue  # asked of other Samples: not a pair
        result = compare_runs(runs[before], runs[after])
        comparisons.append(
            Comparison.of(
                name_of_side(before, config),
                name_of_side(after, config),
                ALL_BENCHMARKS,
                "mean correctness",
                result,
            )
        )
    return comparisons


def _in_one_order(predictions: Sequence[Prediction]) -> list[Scored]:
    plain = [one for one in predictions if one.control == NO_CONTROL]
    return [one.scored for one in sorted(plain, key=lambda one: (one.benchmark, one.sample.id))]


def _by_benchmark(predictions: Sequence[Prediction]) -> dict[str, list[Scored]]:
    scored: dict[str, list[Scored]] = {}
    for prediction in predictions:
        if prediction.control == NO_CONTROL:
            scored.setdefault(prediction.benchmark, []).append(prediction.scored)
    return scored


def _curves(stage: str, folder: Path) -> list[Curve]:
    """Training curves of a model folder, one for each fold where there are folds."""
    curves = []
    for log in sorted([*folder.glob(TRAINING_LOG), *folder.glob(f"{FOLD_PREFIX}*/{TRAINING_LOG}")]):
        lines = read_jsonl(log)
        for name in CURVES:
            points = [(int(line["step"]), float(line[name])) for line in lines if name in line]
            if points:
                steps, values = zip(*points, strict=True)
                curves.append(Curve(stage=stage, name=name, steps=steps, values=values))
    return curves


def _examples(
    stage: str, predictions: Sequence[Prediction], num_examples: int, thumbnails: Thumbnails
) -> list[Example]:
    """Spread over each benchmark's Samples, so right and wrong answers show in their true proportion."""
    examples = []
    of_benchmark: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        if prediction.control == NO_CONTROL:
            of_benchmark.setdefault(prediction.benchmark, []).append(prediction)
    for part in of_benchmark.values():
        count = min(num_examples, len(part))
        chosen = [part[index * len(part) // count] for index in range(count)]
        examples += [_example(stage, one, thumbnails) for one in chosen]
    return examples


def _example(stage: str, prediction: Prediction, thumbnails: Thumbnails) -> Example:
    sample, score = prediction.sample, prediction.score
    has_places = sample.task in PLACES
    places = score.answer if isinstance(score.answer, tuple) else ()
    boxes = tuple(place for place in places if len(place) == 4)
    points = tuple(place for place in places if len(place) == 2)
    size_px = (sample.images[0].width_px, sample.images[0].height_px) if sample.images else (1, 1)
    said = f"{len(points)} points" if points else f"{len(boxes)} boxes"
    return Example(
        sample_id=sample.id,
        stage=stage,
        benchmark=prediction.benchmark,
        task=sample.task,
        control=prediction.control,
        images_png=tuple(shown_png(image, thumbnails) for image in sample.images),
        outlines_png=outlines_png(sample.regions, size_px) if sample.task == "mask" else b"",
        is_slide=sample.scale == "slide",
        width_px=size_px[0],
        height_px=size_px[1],
        true_boxes_px=tuple(region.box_px for region in sample.regions) if sample.task == "boxes" else (),
        predicted_boxes_px=boxes,
        predicted_points_px=points,
        question=sample.question,
        options=sample.choices,
        reasoning=reasoning_of(prediction.completion),
        answer=None if score.answer is None else said if has_places else str(score.answer),
        truth=f"{len(sample.regions)} {PLACES[sample.task]}" if has_places else sample.answer,
        correct=score.correct,
        completion=prediction.completion,
    )


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    return manifest


def _notes(inputs: Mapping[str, Path]) -> list[str]:
    """What readers of a number must know, from the stages' own manifests."""
    notes = []
    for name, folder in inputs.items():
        counts = _manifest(folder)["counts"]
        drops = counts.get("drops", {})
        if drops:
            reasons = ", ".join(f"{count} {reason}" for reason, count in drops.items())
            notes.append(f"{name}: {sum(drops.values())} records were dropped ({reasons}).")
        if "template_seen_in_training" in counts:
            seen = ", ".join(counts["template_seen_in_training"])
            notes.append(f"{name}: the model was trained in the very wording of {seen}.")
        if "outside_mpp_range" in counts:
            notes.append(
                f"{name}: {counts['outside_mpp_range']} questions lie outside the model's range of mpp."
            )
    return notes


def terminal_summary(path: Path) -> str:
    """Primary numbers, boards and paired differences of a report.json as small tables for the terminal, or ""."""
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = [Row.model_validate(row) for row in report["rows"]]
    boards = [Board.model_validate(board) for board in report["boards"]]
    pairs = [Comparison.model_validate(pair) for pair in report["comparisons"]]
    parts = [_rows_as_text(rows), *map(_board_as_text, boards), _comparisons_as_text(pairs)]
    return "\n\n".join(filter(None, parts))


def _rows_as_text(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    wide = {
        name: max([len(name), *(len(getattr(row, name)) for row in rows if row.primary)])
        for name in ("stage", "benchmark", "control", "metric")
    }
    heads = "  ".join(name.ljust(width) for name, width in wide.items())
    lines = [f"{heads}   value  95 % interval  chance  reasons     n"]
    reasons = {
        (row.stage, row.benchmark, row.control): row.value for row in rows if row.metric == SHARE_REASONING
    }
    for row in rows:
        if row.primary:
            names = "  ".join(getattr(row, name).ljust(width) for name, width in wide.items())
            chance = "     -" if row.chance is None else f"{row.chance:6.3f}"
            share = reasons.get((row.stage, row.benchmark, row.control))
            reasoning = "      -" if share is None else f"{share:7.3f}"
            interval = f"{row.low:.3f} - {row.high:.3f}"
            lines.append(f"{names}  {row.value:6.3f}  {interval}  {chance}  {reasoning}  {row.n:4d}")
    return "\n".join(lines)


def _comparisons_as_text(comparisons: Sequence[Comparison]) -> str:
    """The first of them; those of suites stand first. The page has the others."""
    if not comparisons:
        return ""
    shown = comparisons[:COMPARISONS_IN_TERMINAL]
    table = [("benchmark", "metric", "before", "after")]
    table += [(pair.benchmark, pair.metric, pair.before, pair.after) for pair in shown]
    widths = [max(len(row[at]) for row in table) for at in range(4)]
    heads, *names = ["  ".join(map(str.ljust, row, widths)) for row in table]
    lines = [f"{heads}  difference  95 % interval"]
    for name, pair in zip(names, shown, strict=True):
        lines.append(f"{name}  {pair.difference:+10.3f}  {pair.low:+.3f} to {pair.high:+.3f}")
    more = len(comparisons) - len(shown)
    title = "Paired differences, after minus before" + (f"; {more} more stand on the page" if more else "")
    return "\n".join([title, *lines])


def _board_as_text(board: Board) -> str:
    """The rows measured here, * at the best of what stands side by side; the page has intervals and published rows."""
    best = board.best()
    table = [[board.of, *(f"{column} " for column in board.columns)]]
    for place, row in enumerate(board.rows):
        if row.origin == "measured":
            texts = [
                "-" if cell is None else format_fixed(cell.value, board.digits, ascii_only=True)
                for cell in row.cells
            ]
            table.append([row.name, *(f"{text}{' *'[(place, at) in best]}" for at, text in enumerate(texts))])
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    lines = [
        "  ".join(
            text.rjust(width) if at else text.ljust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    num_published = len(board.rows) + 1 - len(table)
    published = f"; {num_published} published rows stand on the page" if num_published else ""
    marked = f" (* highest of its {'row' if board.columns_compared else 'column'})" if best else ""
    return "\n".join([f"{board.title}{marked}{published}", *lines])
