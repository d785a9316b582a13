"""Stage `few_shot`: how well a linear probe on a few frozen features a class does, for each encoder, set and split.

The probe is Patho-R1's (few_shot_probe.py). How the paper split its folders is not known. Here the split is the one
that the ingest made by group; where it made folds, each fold is tested by probes on all others and each picture counts
once a run. That is the way for sets of a few slides, where one test side would hold two or three of them.

An accuracy is the mean over the runs. Its interval resamples groups of the tested pictures, each with its share of
right answers over the runs: how far other patients would move this mean. How far other training pictures would is
the spread of the runs, which the box plot shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.evaluate.encoders import (
    NOT_FINITE,
    drop_of,
    each_encoder,
    image_features,
    read_set,
    refuse_learnt,
    write_measured,
)
from pathloom.evaluate.encoders_config import FewShotConfig, FewShotSet
from pathloom.evaluate.few_shot_board import Curve, board_of
from pathloom.evaluate.few_shot_probe import (
    BadSides,
    Run,
    Strings,
    check_sides,
    deal_by_picture,
    learning_curve,
    tested_rows,
)
from pathloom.evaluate.report_records import Measured
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError, write_jsonl

RUNS = "few_shot.jsonl"
SUMMARY = "few_shot_summary.jsonl"
TASKS = ("label", "choice")


@dataclass(frozen=True)
class _Labelled:
    """A set as it was read; `sides` [split] hold a side for each Sample."""

    entry: FewShotSet
    samples: list[Sample]
    labels: Strings
    sides: dict[str, Strings]


def run_few_shot(config: FewShotConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Boards for the report, a line for each run (RUNS) and for each curve's point (SUMMARY).

    Raises UserError for a set of one class, for a class without training pictures, and for pictures that an encoder of
    the recipe has learnt from and `by_picture` would test.
    """
    sets: list[_Labelled] = []
    drops: list[Drop] = []
    for entry in config.sets:
        samples, twice = _read(config, entry, inputs)
        sets.append(_labelled(config, entry, samples, inputs))
        drops += twice
    curves: dict[tuple[str, str], list[Curve]] = {
        (one.entry.name, split): [] for one in sets for split in config.splits
    }
    for name, encoder in each_encoder(config, inputs):
        for one in sets:
            features, rows, missing = image_features(config, name, encoder, one.samples, out)
            drops += missing
            for split in config.splits:
                curve = _curve(config, one, split, (name, encoder.name), features, rows, missing)
                curves[one.entry.name, split].append(curve)
    boards = tuple(
        board_of(config, one.entry, split, curves, {str(label) for label in one.labels})
        for one in sets
        for split in config.splits
    )
    write_jsonl(_run_lines(config, curves), out / RUNS)
    write_jsonl(_summary_lines(config, curves), out / SUMMARY)
    return {
        "samples_measured": sum(len(one.samples) for one in sets),
        "fits_not_converged": sum(run.unconverged for *_, runs in _points(config, curves) for run in runs),
        "drops": write_measured(Measured(boards=boards), drops, out),
    }


# ---------------------------------------------------------------------------------------------- the set
def _read(
    config: FewShotConfig, entry: FewShotSet, inputs: Mapping[str, Path]
) -> tuple[list[Sample], list[Drop]]:
    """Labelled Samples with a picture, of any side; an id that comes again is a Drop, as is a Sample without answer."""
    samples, drops = read_set(
        config, entry.samples, inputs, lambda s: s.task in TASKS and entry.source in (None, s.origin.source)
    )
    found = [sample for sample in samples if sample.answer.strip()]
    drops += [drop_of(config, sample, "no_label") for sample in samples if not sample.answer.strip()]
    if not found:
        of_source = f" of {entry.source}" if entry.source else ""
        raise UserError(
            f"{config.name}: set {entry.name}: {', '.join(entry.samples)} hold no labelled Sample{of_source} of "
            f"{' or '.join(TASKS)} with a picture"
        )
    return found, drops


def _labelled(
    config: FewShotConfig, entry: FewShotSet, samples: list[Sample], inputs: Mapping[str, Path]
) -> _Labelled:
    labels = np.array([sample.answer for sample in samples])
    grouped = np.array([sample.split for sample in samples])
    _check(config, entry, labels, grouped)
    sides = {"grouped": grouped}
    if "by_picture" in config.splits:
        # dealing moves training pictures to the test side
        refuse_learnt(config, entry.name, samples, inputs, "give splits: [grouped]")
        sides["by_picture"] = deal_by_picture(labels, grouped, config.seed)
    return _Labelled(entry, samples, labels, sides)


def _check(
    config: FewShotConfig, entry: FewShotSet, labels: Strings, sides: Strings, encoder: str = ""
) -> None:
    try:
        check_sides(labels, sides)
    except BadSides as error:
        which = f", pictures that {encoder} gives features of" if encoder else ""
        raise UserError(f"{config.name}: set {entry.name}{which}: {error}") from error


# -------------------------------------------------------------------------------------------- the curves
def _curve(
    config: FewShotConfig,
    one: _Labelled,
    split: str,
    encoder: tuple[str, str],
    features: NDArray[np.float32],
    rows: NDArray[np.int64],
    missing: Sequence[Drop],
) -> Curve:
    """Pictures that cannot be read are left out; those whose features are not finite stay, and are never answered."""
    name, source = encoder
    unreadable = {drop.sample_id for drop in missing if drop.reason != NOT_FINITE}
    kept = np.array([sample.id not in unreadable for sample in one.samples])
    finite = np.zeros(len(kept), bool)
    finite[rows] = True
    _check(config, one.entry, one.labels[finite], one.sides[split][finite], name)
    whole = np.full((len(kept), features.shape[1]), np.nan, np.float32)
    whole[rows] = features
    labels, sides = one.labels[kept], one.sides[split][kept]
    runs = learning_curve(
        whole[kept], labels, sides, config.shots, config.num_runs, f"{config.name} {one.entry.name} {name}"
    )
    tested = [one.samples[row] for row in np.flatnonzero(kept)[tested_rows(sides)]]
    return Curve(name, source, tested, runs, len(unreadable), int((kept & ~finite).sum()))


Curves = Mapping[tuple[str, str], Sequence[Curve]]
"""(set, split) -> one an encoder."""


def _points(config: FewShotConfig, curves: Curves) -> Iterator[tuple[dict[str, Any], Curve, list[Run]]]:
    """(what names the point, its curve, its runs) of every encoder, set, split and number of shots."""
    for (set_name, split), of_set in curves.items():
        for curve in of_set:
            for shots, runs in zip(config.shots, curve.runs, strict=True):
                yield {"encoder": curve.name, "set": set_name, "split": split, "shots": shots}, curve, runs


def _run_lines(config: FewShotConfig, curves: Curves) -> Iterator[dict[str, Any]]:
    """`taken`: pictures drawn of each class, one number for each part of the split (one, or one a fold)."""
    for point, curve, runs in _points(config, curves):
        for run in runs:
            yield {
                **point,
                "run": run.run,
                "accuracy": run.accuracy,
                "tested": len(curve.tested),
                "taken": run.taken,
                "converged": run.unconverged == 0,
            }


def _summary_lines(config: FewShotConfig, curves: Curves) -> Iterator[dict[str, Any]]:
    """What the released script prints: mean, standard deviation (over all runs, not a sample's), least and largest."""
    for point, _, runs in _points(config, curves):
        values = np.array([run.accuracy for run in runs])
        yield {
            **point,
            "mean": float(values.mean()),
            "std": float(values.std()),
            "min": float(values.min()),
            "max": float(values.max()),
            "not_converged": sum(run.unconverged > 0 for run in runs),
        }
