"""Few-shot curves as boards: accuracies with intervals, the runs as boxes, and in words what the table must say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathloom.evaluate.encoders_config import FewShotConfig, FewShotSet
from pathloom.evaluate.few_shot_probe import FIRST_SEED, MAX_ITERATIONS, Run
from pathloom.evaluate.metrics import Scored, compare_runs, measure
from pathloom.evaluate.report_records import Board, BoardRow, BoxPlot, Cell
from pathloom.schema import FOLD_PREFIX, Sample
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

PERCENT = 100.0

_SPLITS = {"grouped": "split by group", "by_picture": "split by picture, not group-safe"}
_PUBLISHED = (
    "BMT",
    "Patho-CLIP-L",
    2,
    73.0,
    "Patho-R1, arXiv 2505.11404, few-shot figure: about 73, read by eye",
)
"""Set, row, shots, per cent and source of the only few-shot number of the paper that we have."""


@dataclass(frozen=True)
class Curve:
    """One encoder on one set and split: `runs` [number of shots][run], and the Samples that their `correct` is of."""

    name: str
    source: str
    tested: list[Sample]
    runs: list[list[Run]]
    num_unreadable: int
    num_not_finite: int

    def shares(self, place: int) -> NDArray[np.float64]:
        """[number of tested Samples]: each one's share of right answers over the runs at one number of shots."""
        return np.mean([run.correct for run in self.runs[place]], axis=0)

    def scored(self, place: int) -> list[Scored]:
        return [
            Scored(sample, Score(answer=sample.answer, correct=float(share)))
            for sample, share in zip(self.tested, self.shares(place), strict=True)
        ]


def board_of(
    config: FewShotConfig,
    entry: FewShotSet,
    split: str,
    curves: Mapping[tuple[str, str], Sequence[Curve]],
    classes: set[str],
) -> Board:
    """One set and split; `curves` hold all, by set and split. In per cent."""
    of_set = curves[entry.name, split]
    columns = tuple(f"{shots} shots" for shots in config.shots)
    rows = [
        BoardRow(
            name=curve.name,
            origin="measured",
            source=curve.source,
            cells=tuple(_cell(config, curve, place) for place in range(len(config.shots))),
        )
        for curve in of_set
    ]
    chance = PERCENT / len(classes)
    plot = BoxPlot(
        title=f"{entry.name}, {_SPLITS[split]}: {config.num_runs} runs for each number of shots",
        x_label="training pictures of each class",
        y_label="accuracy, %",
        x=tuple(map(str, config.shots)),
        series={
            curve.name: tuple(tuple(PERCENT * run.accuracy for run in runs) for runs in curve.runs)
            for curve in of_set
        },
        chance=chance,
    )
    gaps = _gaps(config, entry, curves) if split == "by_picture" and "grouped" in config.splits else []
    return Board(
        stage=config.name,
        title=f"{entry.name}: few-shot linear probe, accuracy in %, {_SPLITS[split]}",
        columns=columns,
        rows=(*rows, *_published(config, entry)),
        digits=1,
        notes=(*gaps, *_notes(config, split, of_set, chance)),
        plots=(plot,),
    )


def _cell(config: FewShotConfig, curve: Curve, place: int) -> Cell:
    intervals = measure(
        find_task("label"), curve.scored(place), seed=config.seed, num_resamples=config.num_resamples
    )
    found = intervals["accuracy"]
    return Cell(value=PERCENT * found.value, low=PERCENT * found.low, high=PERCENT * found.high)


def _published(config: FewShotConfig, entry: FewShotSet) -> list[BoardRow]:
    name, row, shots, value, source = _PUBLISHED
    if not config.published or entry.name.strip().upper() != name or shots not in config.shots:
        return []
    cells = tuple(Cell(value=value) if one == shots else None for one in config.shots)
    return [BoardRow(name=row, origin="published", source=source, cells=cells)]


# -------------------------------------------------------------------------------------------- the notes
def _notes(config: FewShotConfig, split: str, of_set: Sequence[Curve], chance: float) -> list[str]:
    answers = Counter(sample.answer for sample in of_set[0].tested)
    commonest = PERCENT * max(answers.values()) / answers.total()
    notes = [
        _protocol(split, of_set[0]),
        f"Accuracy: mean over {config.num_runs} subsets (numpy seeds {FIRST_SEED + 1} to "
        f"{FIRST_SEED + config.num_runs}) of as many pictures a class as the column says; "
        f"guessing gives {chance:.1f} %, always the commonest tested class {commonest:.1f} %.",
        _interval_note(of_set[0].tested),
    ]
    notes += _shortages(config, of_set[0])
    if of_set[0].num_unreadable:
        notes.append(f"{of_set[0].num_unreadable} pictures cannot be read and are left out.")
    for curve in of_set:
        unconverged = sum(run.unconverged for point in curve.runs for run in point)
        if unconverged:
            notes.append(
                f"{curve.name}: {unconverged} fits stopped before they had converged (at most {MAX_ITERATIONS} "
                "iterations); they are counted with the answers that they give."
            )
        if curve.num_not_finite:
            notes.append(
                f"{curve.name}: features of {curve.num_not_finite} pictures are NaN or infinite; none of them is "
                "trained on, and each counts as wrong where it is tested."
            )
    return notes


def _protocol(split: str, curve: Curve) -> str:
    folds = {sample.split for sample in curve.tested if sample.split.startswith(FOLD_PREFIX)}
    groups = {sample.origin.cluster for sample in curve.tested}
    test = (
        f"each of {len(folds)} folds is tested by probes on the others"
        if folds
        else "one training and one test side"
    )
    paper = "The paper (Patho-R1) trains and tests on folders whose split is not known; the probe is its own otherwise."
    if len(groups) == len(curve.tested) and (folds or split == "grouped"):
        return f"No groups are known: each picture is a group of its own ({test}). {paper}"
    if split == "by_picture":
        return (
            f"Pictures were dealt to the sides at random within each class, without regard to groups ({test}): "
            f"pictures of one group stand on both sides, so this says little about new patients or slides. {paper}"
        )
    return f"No group stands on both sides ({test}; {len(groups)} groups are tested). {paper}"


def _interval_note(tested: Sequence[Sample]) -> str:
    groups = len({sample.origin.cluster for sample in tested})
    over = (
        f"{groups} groups of the {len(tested)} tested pictures"
        if groups > 1
        else f"the {len(tested)} tested pictures, which are of one group: too narrow for a claim about others"
    )
    return f"Intervals: 95 % by bootstrap over {over}, with the runs as they are; the boxes show the runs."


def _shortages(config: FewShotConfig, curve: Curve) -> list[str]:
    """Where a class has fewer training pictures than shots, in the words of the table."""
    notes = []
    for shots, runs in zip(config.shots, curve.runs, strict=True):
        taken = runs[0].taken
        short = {label: numbers for label, numbers in taken.items() if min(numbers) < shots}
        if not short:
            continue
        which = "each class" if len(short) == len(taken) else ", ".join(sorted(short))
        counts = sorted({number for numbers in short.values() for number in numbers if number < shots})
        counted = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        each = "a class and fold" if any(len(numbers) > 1 for numbers in short.values()) else "a class"
        alike = all(number < shots for numbers in taken.values() for number in numbers)
        notes.append(
            f"{shots} shots: fewer training pictures of {which}, so all were taken: {counted} {each}"
            + ("; all runs are the same then." if alike else ".")
        )
    return notes


def _gaps(
    config: FewShotConfig, entry: FewShotSet, curves: Mapping[tuple[str, str], Sequence[Curve]]
) -> list[str]:
    """One sentence an encoder: accuracy by picture minus accuracy by group, at the fewest and the most shots."""
    places = dict.fromkeys((0, len(config.shots) - 1))
    return [
        f"{grouped.name} on {entry.name}: dealing pictures without regard to groups changes the accuracy by "
        + " and by ".join(_gap(config, grouped, dealt, place) for place in places)
        + "."
        for grouped, dealt in zip(
            curves[entry.name, "grouped"], curves[entry.name, "by_picture"], strict=True
        )
    ]


def _gap(config: FewShotConfig, grouped: Curve, dealt: Curve, place: int) -> str:
    """A paired interval where both splits test the same pictures, which folds do."""
    before = grouped.scored(place)
    by_id = {one.sample.id: one for one in dealt.scored(place)}
    apart, torn = PERCENT * grouped.shares(place).mean(), PERCENT * dealt.shares(place).mean()
    interval = "no interval, as other pictures are tested"
    if by_id.keys() == {one.sample.id for one in before}:
        after = [by_id[one.sample.id] for one in before]
        found = compare_runs([before], [after], seed=config.seed, num_resamples=config.num_resamples)
        interval = f"95 % interval {PERCENT * found.low:+.1f} to {PERCENT * found.high:+.1f}"
    return f"{torn - apart:+.1f} points at {config.shots[place]} shots (from {apart:.1f} to {torn:.1f} %; {interval})"
