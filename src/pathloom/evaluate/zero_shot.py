"""Stage `zero_shot`: pictures classified by the prompts of their classes alone, encoders side by side.

As CONCH does it (Lu et al. 2024, Nature Medicine 30, 863-874; conch/downstream/zeroshot_path.py) and Patho-R1 after it
(zero_shot_evaluation.py): a class is the mean of the unit vectors of all its names in all templates, brought to length
1; its logit is the encoder's logit scale times the cosine with the picture. The largest logit wins, of equal ones the
class that comes first in the prompt file.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from pathloom.evaluate.class_metrics import (
    ClassSet,
    Formula,
    Tallied,
    accuracy,
    balanced_accuracy,
    compare_sets,
    constant_accuracy,
    constant_balanced_accuracy,
    measure_sets,
)
from pathloom.evaluate.class_prompts import ClassPrompts, nearest, read_prompts
from pathloom.evaluate.encoders import (
    DROPS_FILE,
    NOT_FINITE,
    comparison,
    drop_of,
    each_encoder,
    held_out_set,
    image_features,
    unit,
    write_measured,
)
from pathloom.evaluate.encoders_config import ZeroShotConfig, ZeroShotSet
from pathloom.evaluate.kappa import weighted_kappa
from pathloom.evaluate.measure import SCORES
from pathloom.evaluate.metrics import Floats, Interval, Scored, compare, resampling_unit
from pathloom.evaluate.published import DIGITS, MEAN, published_notes, published_zero_shot
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Comparison, Confusion, Measured
from pathloom.evaluate.select import NO_CONTROL
from pathloom.models.embed import Encoder
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError, write_jsonl
from pathloom.tasks.label import LABEL
from pathloom.tasks.task import Score

TASKS = ("label", "choice")
_ACCURACY = replace(LABEL, metric="accuracy")


@dataclass(frozen=True, eq=False)
class Column:
    """One data set: its prompts, and its Samples with the class of the prompt file as their answer."""

    config: ZeroShotSet
    prompts: ClassPrompts
    samples: tuple[Sample, ...]
    drops: tuple[Drop, ...]


@dataclass(frozen=True, eq=False)
class Answers:
    """What one encoder answered to one data set. Pictures that cannot be read are in `drops` only."""

    scored: tuple[Scored, ...]
    probabilities: tuple[float | None, ...]  # of the answer given; None where there is none
    drops: tuple[Drop, ...]


def run_zero_shot(config: ZeroShotConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Boards, confusions and comparisons in BOARDS_FILE; a line for each Sample and encoder in scores.jsonl.

    Raises UserError where prompts and data do not fit, before any encoder is loaded.
    """
    columns = [_column(config, one, inputs) for one in config.sets]
    answers: dict[str, dict[str, Answers]] = {}
    sources: dict[str, str] = {}
    for name, encoder in each_encoder(config, inputs):
        sources[name] = encoder.name
        answers[name] = {
            column.config.name: _answers(config, name, encoder, column, out) for column in columns
        }
    write_jsonl(_score_lines(answers), out / SCORES)
    drops = [drop for column in columns for drop in column.drops]
    drops += [drop for sets in answers.values() for one in sets.values() for drop in one.drops]
    return {
        "samples_measured": sum(len(one.scored) for one in next(iter(answers.values())).values()),
        "encoders": len(sources),
        "drops": write_measured(_measured(config, columns, sources, answers), drops, out),
    }


# --------------------------------------------------------------------------------------- prompts and data
def _column(config: ZeroShotConfig, one: ZeroShotSet, inputs: Mapping[str, Path]) -> Column:
    prompts = read_prompts(one.prompts)
    of_source = f" of the source {one.source!r}" if one.source else ""
    samples, drops = held_out_set(
        config,
        one,
        inputs,
        lambda s: s.task in TASKS and one.source in (None, s.origin.source),
        f"{' or '.join(TASKS)}{of_source}",
    )
    drops += [drop_of(config, sample, "no_label") for sample in samples if not sample.answer.strip()]
    samples = [sample for sample in samples if sample.answer.strip()]
    if not samples:
        raise UserError(f"{config.name}: set {one.name}: none of {len(drops)} Samples has an answer")
    labelled = map(_labelled, samples, _labels(one, prompts, samples), repeat(prompts.classes))
    return Column(one, prompts, tuple(labelled), tuple(drops))


def _labels(one: ZeroShotSet, prompts: ClassPrompts, samples: Sequence[Sample]) -> list[str]:
    """The class of each Sample. Raises UserError where data and prompts name different classes, or one only."""
    labels = []
    for sample in samples:
        label = prompts.class_of(sample.answer)
        if label is None:
            raise UserError(
                f"{prompts.path}: classnames lacks {sample.answer!r}{nearest(sample.answer, prompts.classes)}, the "
                f"class of {sample.id} in the set {one.name}; add it there as a class, or as a name of one"
            )
        labels.append(label)
    occurring = set(labels)
    absent = [label for label in prompts.classes if label not in occurring]
    if absent and not one.allow_absent:
        raise UserError(
            f"{prompts.path}: classnames: no Sample of the set {one.name} is {absent[0]!r}"
            f"{nearest(absent[0], {sample.answer for sample in samples})}; correct the name, take the class out, or "
            "set `allow_absent: true` for data that hold some of the classes only"
        )
    if len(occurring) < 2:
        raise UserError(
            f"set {one.name}: all {len(samples)} Samples are {labels[0]!r}; at least two classes are needed"
        )
    return labels


def _labelled(sample: Sample, label: str, classes: tuple[str, ...]) -> Sample:
    return sample.model_copy(update={"task": LABEL.name, "answer": label, "choices": classes})


# ------------------------------------------------------------------------------------------ one encoder
def class_vectors(encoder: Encoder, prompts: ClassPrompts, batch_size: int | None = None) -> np.ndarray:
    """[class, text_dim], each of length 1. Raises UserError for an encoder that gives NaN or infinity."""
    vectors = []
    for label in prompts.classes:
        mean = unit(encoder.texts(prompts.texts(label), batch_size)).mean(axis=0)
        if not np.isfinite(mean).all():
            raise UserError(
                f"the encoder {encoder.name} gives NaN or infinity for prompts of {label!r} ({prompts.path.name}): "
                "its weights are broken; train it again, with a lower learning rate, or take it out"
            )
        vectors.append(mean)
    return unit(np.stack(vectors))


def class_probabilities(features: np.ndarray, vectors: np.ndarray, logit_scale: float) -> np.ndarray:
    """[picture, class] from features [picture, d] of any length and class vectors [class, d]."""
    logits = logit_scale * (unit(features).astype(np.float64) @ vectors.T.astype(np.float64))
    likely = np.exp(logits - logits.max(axis=1, keepdims=True))
    return likely / likely.sum(axis=1, keepdims=True)


def _answers(config: ZeroShotConfig, name: str, encoder: Encoder, column: Column, out: Path) -> Answers:
    """A picture whose features are not finite has no answer and counts as wrong: failing must not pay."""
    classes = column.prompts.classes
    vectors = class_vectors(encoder, column.prompts, config.batch_size)
    features, rows, drops = image_features(config, name, encoder, column.samples, out)
    if not len(rows):
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(d.reason for d in drops).items())
        raise UserError(
            f"{config.name}: {name} gives features of no picture of the set {column.config.name} ({reasons}): "
            "mend the pictures, or take the encoder out"
        )
    likely = class_probabilities(features, vectors, encoder.logit_scale)
    found: dict[int, tuple[Score, float | None]] = {}
    for row, of_classes in zip(rows.tolist(), likely, strict=True):
        best = int(of_classes.argmax())  # the first of equal ones
        right = float(classes[best] == column.samples[row].answer)
        found[row] = Score(classes[best], right), float(of_classes[best])
    no_features = {drop.sample_id for drop in drops if drop.reason == NOT_FINITE}
    for row, sample in enumerate(column.samples):
        if sample.id in no_features:
            found[row] = Score(None, 0.0), None
    ordered = sorted(found)
    return Answers(
        tuple(Scored(column.samples[row], found[row][0]) for row in ordered),
        tuple(found[row][1] for row in ordered),
        tuple(drops),
    )


def _score_lines(answers: Mapping[str, Mapping[str, Answers]]) -> Iterator[dict[str, Any]]:
    for encoder, sets in answers.items():
        for set_name, of_set in sets.items():
            for one, probability in zip(of_set.scored, of_set.probabilities, strict=True):
                yield {
                    "encoder": encoder,
                    "set": set_name,
                    "control": NO_CONTROL,
                    "sample_id": one.sample.id,
                    "group": one.sample.origin.group,
                    "truth": one.sample.answer,
                    "answer": one.score.answer,
                    "correct": one.score.correct,
                    "probability": probability,
                }


# ------------------------------------------------------------------------------------------------ boards
def _measured(
    config: ZeroShotConfig,
    columns: Sequence[Column],
    sources: Mapping[str, str],
    answers: Mapping[str, Mapping[str, Answers]],
) -> Measured:
    tallied: dict[str, dict[str, Tallied]] = {name: {} for name in sources}
    confusions = []
    for place, column in enumerate(columns):
        # same seed and groups, same draws: encoders are compared on equal terms
        seed = int(np.random.default_rng([config.seed, place]).integers(2**31))
        for name in sources:
            scored = answers[name][column.config.name].scored
            one = ClassSet(scored, column.prompts.classes).tallied(seed, config.num_resamples)
            tallied[name][column.config.name] = one
            confusions.append(_confusion(name, column, one))
    names = [column.config.name for column in columns]
    ordered = [column.config.name for column in columns if column.config.ordered]
    boards = [
        _accuracy_board(config, columns, sources, answers, tallied),
        Board(
            stage=config.name,
            title="Zero-shot: balanced accuracy, per cent",
            columns=_headings(names),
            rows=(
                *_rows(sources, tallied, names, balanced_accuracy, 100.0),
                _constant_row(tallied, names, constant_balanced_accuracy),
            ),
            digits=DIGITS,
            notes=("Balanced accuracy is the mean recall of the classes that occur.",),
        ),
    ]
    if ordered:
        boards.append(
            Board(
                stage=config.name,
                title="Zero-shot: quadratically weighted kappa of ordered classes",
                columns=_headings(ordered),
                rows=tuple(_rows(sources, tallied, ordered, weighted_kappa, 1.0)),
                notes=("0 is chance, 1 full agreement, and a class further away costs more (Cohen 1968).",),
            )
        )
    return Measured(
        boards=tuple(boards),
        confusions=tuple(confusions),
        comparisons=tuple(_comparisons(config, names, answers, tallied)),
    )


def _accuracy_board(
    config: ZeroShotConfig,
    columns: Sequence[Column],
    sources: Mapping[str, str],
    answers: Mapping[str, Mapping[str, Answers]],
    tallied: Mapping[str, Mapping[str, Tallied]],
) -> Board:
    """The paper's table, its own rows below."""
    names = [column.config.name for column in columns]
    headings = _headings(names)
    printed = published_zero_shot(headings) if config.published else []
    notes = [_set_note(column, answers) for column in columns]
    notes += [note for column in columns for note in _failure_notes(column, answers)]
    notes.append("Of equal logits the class that comes first in the prompt file wins.")
    if printed:
        notes.append(
            "The published rows were measured by their authors, on the whole sets, with prompts of their own."
        )
    if len(names) > 1:
        notes.append(f"The column {MEAN} is the plain mean over the sets, whatever their sizes.")
        clusters = [{sample.origin.cluster for sample in column.samples} for column in columns]
        if sum(map(len, clusters)) > len(set().union(*clusters)):
            notes.append(
                f"Some groups stand in more than one set; the intervals of {MEAN} take the sets as independent and are "
                "too narrow."
            )
    return Board(
        stage=config.name,
        title="Zero-shot: accuracy, per cent",
        columns=headings,
        rows=(
            *_rows(sources, tallied, names, accuracy, 100.0),
            _constant_row(tallied, names, constant_accuracy),
            *printed,
        ),
        digits=DIGITS,
        notes=(*notes, *(published_notes("zero_shot", columns=names) if printed else ())),
    )


def _headings(names: Sequence[str]) -> tuple[str, ...]:
    return (*names, MEAN) if len(names) > 1 else tuple(names)


def _rows(
    sources: Mapping[str, str],
    tallied: Mapping[str, Mapping[str, Tallied]],
    names: Sequence[str],
    formula: Formula,
    scale: float,
) -> Iterator[BoardRow]:
    for encoder, source in sources.items():
        each, mean = measure_sets({name: tallied[encoder][name] for name in names}, formula)
        intervals = [*each.values(), mean] if len(names) > 1 else list(each.values())
        cells = tuple(_cell(interval, scale) for interval in intervals)
        yield BoardRow(name=encoder, origin="measured", source=source, cells=cells)


def _cell(interval: Interval, scale: float) -> Cell:
    return Cell(value=scale * interval.value, low=scale * interval.low, high=scale * interval.high)


def _constant_row(
    tallied: Mapping[str, Mapping[str, Tallied]], names: Sequence[str], constant: Callable[[Floats], float]
) -> BoardRow:
    """What is reached without looking: of one encoder's counts, as the truths are the same for all."""
    first = next(iter(tallied.values()))
    values = [100.0 * constant(first[name].counts) for name in names]
    if len(names) > 1:
        values.append(sum(values) / len(values))
    return BoardRow(
        name="best constant answer",
        origin="measured",
        source="no encoder: one class for all pictures",
        cells=tuple(Cell(value=value) for value in values),
    )


def _set_note(column: Column, answers: Mapping[str, Mapping[str, Answers]]) -> str:
    scored = next(iter(answers.values()))[column.config.name].scored
    resampled = resampling_unit(scored)
    num_units = len({one.sample.origin.cluster for one in scored}) if resampled == "group" else len(scored)
    unit_words = "groups" if resampled == "group" else "pictures, as all are of one group"
    prompts, held = column.prompts, "held-out " if column.config.which == "test" else ""
    num_texts = sum(len(prompts.texts(label)) for label in prompts.classes)
    return (
        f"{column.config.name}: {len(scored)} {held}pictures of {len(prompts.classes)} classes "
        f"({', '.join(prompts.classes)}), {num_texts} prompts of {prompts.path.name}; "
        f"95 % intervals resample {num_units} {unit_words}."
    )


def _failure_notes(column: Column, answers: Mapping[str, Mapping[str, Answers]]) -> Iterator[str]:
    name = column.config.name
    unread = len(column.samples) - len(next(iter(answers.values()))[name].scored)
    if unread:
        yield f"{name}: {unread} pictures could not be read and are left out ({DROPS_FILE})."
    for encoder, sets in answers.items():
        failed = sum(one.score.answer is None for one in sets[name].scored)
        if failed:
            yield f"{name}: {encoder} has no finite features of {failed} pictures, which count as wrong ({DROPS_FILE})."


def _confusion(encoder: str, column: Column, tallied: Tallied) -> Confusion:
    """The last column, no answer, is left out where it is empty."""
    counts = tallied.counts.astype(int)
    counts = counts if counts[:, -1].any() else counts[:, :-1]
    return Confusion(
        stage=encoder,
        benchmark=column.config.name,
        labels=column.prompts.classes,
        counts=tuple(map(tuple, counts.tolist())),
    )


def _comparisons(
    config: ZeroShotConfig,
    names: Sequence[str],
    answers: Mapping[str, Mapping[str, Answers]],
    tallied: Mapping[str, Mapping[str, Tallied]],
) -> Iterator[Comparison]:
    """Each encoder against the first on the same pictures: the mean over sets, then set by set."""
    first, *others = answers
    for name in others:
        if len(names) > 1:
            for metric, formula in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy)):
                found = compare_sets(tallied[first], tallied[name], formula)
                yield comparison(first, name, MEAN, metric, found)
        for set_name in names:
            for task in (_ACCURACY, LABEL):
                sides = (answers[first][set_name].scored, answers[name][set_name].scored)
                found = compare(task, *sides, seed=config.seed, num_resamples=config.num_resamples)
                yield comparison(first, name, set_name, task.metric, found)
