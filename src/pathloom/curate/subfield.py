"""Step `subfield`: which of the ten sub-fields a Sample belongs to, by its words or by a classifier.

The classifier follows Patho-R1: a small set labelled by hand, a prediction for the rest, corrections by a person, and
the same again. The paper trains an EfficientNet; here the encoder stays frozen (a stage `embed`) and logistic
regression is fitted on its features, so that a round of corrections costs seconds on a CPU. One round is one run: add
the review file to `labels` and run the recipe again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from pathloom.curate.decisions import Decision, latest, majority
from pathloom.curate.organ import told
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.curate.words import SUBFIELDS, subfield_of, words_hash
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

if TYPE_CHECKING:
    import numpy as np

    from pathloom.curate.features import Features

MAX_ITERATIONS = 2000
MAX_FOLDS = 5
ROWS_PER_BLOCK = 8192
"""Vectors that are in memory at once while sub-fields are predicted; our own choice."""
MIN_EXAMPLES = 2
"""Of a labelled class: with one example there is nothing to hold out or to weigh. Our own choice."""


@dataclass(frozen=True)
class HandLabel:
    """What people said of one Sample, and who, where the file tells it."""

    value: str
    reviewer: str | None = None


@dataclass(frozen=True)
class HandLabels:
    """By Sample id; `undecided` are the ids on whose sub-field no majority of the reviewers agrees."""

    of: Mapping[str, HandLabel]
    undecided: frozenset[str] = frozenset()


class SubfieldStep(StepConfig):
    """Entry of `steps`: `{step: subfield, by: words}`, or by: classifier with `features: NAME` and `labels: [FILE]`.

    A hand label decides: what most reviewers say, or else a line of a seed. Where reviewers disagree without a majority
    there is none. Without one a Sample keeps the sub-field that it has; the rest is predicted.
    """

    version: ClassVar[int] = 2

    step: Literal["subfield"]
    by: Literal["words", "classifier"]
    features: str | None = Field(default=None, description="the stage `embed` that the classifier sees with")
    labels: tuple[Path, ...] = Field(
        default=(),
        description='JSONL with lines {"sample_id", "value"}, of which later ones win, and review files, which win '
        "over those",
    )
    keep: tuple[Literal[SUBFIELDS], ...] = Field(  # type: ignore[valid-type]
        default=SUBFIELDS,
        min_length=1,
        description="Samples of other sub-fields are dropped; default: all ten",
    )
    min_probability: float = Field(
        default=0.0, ge=0, le=1, description="less certain predictions are dropped"
    )

    @model_validator(mode="after")
    def _a_classifier_has_what_it_needs(self) -> "SubfieldStep":
        if self.by == "classifier" and not (self.features and self.labels):
            raise ValueError(
                "by: classifier needs features (the name of an embed stage) and labels (JSONL files)"
            )
        if self.by == "words" and (self.features or self.labels or self.min_probability):
            raise ValueError("features, labels and min_probability belong to by: classifier; remove them")
        return self

    def needs(self) -> tuple[str, ...]:
        return (self.features,) if self.features else ()

    def check(self, where: str) -> None:
        for path in self.labels:
            if not path.is_file():
                raise UserError(f"{where}.labels: {path} is not a file; give the JSONL with the hand labels")
        read_labels(self.labels)

    def keyed(self) -> dict[str, Any]:
        """Without the label files' names: their content is in the fingerprint, so a copied file reruns nothing."""
        return {key: value for key, value in super().keyed().items() if key != "labels"}

    def fingerprint(self) -> str:
        """The words, or the content of the label files; "" for one that is not there, which `check` reports."""
        if self.by == "words":
            return words_hash()
        return str(
            [hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in self.labels]
        )

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        if self.by == "words":
            return self._prepare_words(read)
        return self._prepare_classifier(read, inputs, seed)

    def _prepare_words(self, read: Read) -> Prepared:
        counts: Counter[str] = Counter()
        for sample in read():
            counts[sample.subfield or subfield_of(told(sample)) or "untold"] += 1

        def change(sample: Sample) -> Sample | Drop:
            name = sample.subfield or subfield_of(told(sample))
            if name != sample.subfield:
                sample = sample.changed(self.event(f"subfield {name}, by its words"), subfield=name)
            return self._kept(sample)

        return Prepared(change, {"subfields": dict(counts.most_common())})

    def _prepare_classifier(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        from pathloom.curate.features import read_features

        features = read_features(inputs[self.features or ""])
        read_in = read_labels(self.labels)
        labels = read_in.of
        stands: dict[str, str | None] = {}
        clusters: dict[str, tuple[str, str]] = {}
        for sample in read():
            stands[sample.id] = sample.subfield
            if sample.id in labels:
                clusters[sample.id] = sample.origin.cluster
        seed_ids = [sample_id for sample_id in clusters if sample_id in features.rows]
        values = [labels[sample_id].value for sample_id in seed_ids]
        _refuse_rare(values, self.labels)
        known = features.of(seed_ids)
        classifier = make_classifier(seed).fit(known, values)
        open_ids = [sample_id for sample_id, name in stands.items()
                    if name is None and sample_id not in labels and sample_id in features.rows]  # fmt: skip
        found = predict_by_id(classifier, features, open_ids)

        counts = Counter(
            labels[i].value if i in labels else name or found.get(i, ("no_features", 0))[0]
            for i, name in stands.items()
        )
        facts = {
            "subfields": dict(counts.most_common()),
            "by_hand": len(clusters),
            "predicted": len(found),
            "had_one": sum(name is not None and i not in labels for i, name in stands.items()),
            "labels_without_sample": len(labels.keys() - stands.keys()),
            "labels_without_features": len(clusters) - len(seed_ids),
            "labels_undecided": len(read_in.undecided & stands.keys()),
            "encoder": features.encoder,
            "held_out": cross_validate(known, values, [clusters[i] for i in seed_ids], seed),
        }

        def change(sample: Sample) -> Sample | Drop:
            return self._label(sample, labels.get(sample.id), found.get(sample.id))

        return Prepared(change, facts)

    def _label(
        self, sample: Sample, label: HandLabel | None, found: tuple[str, float] | None
    ) -> Sample | Drop:
        if label:
            event = self.event(f"subfield {label.value}, by hand", reviewer=label.reviewer)
            return self._kept(sample.changed(event, subfield=label.value))
        if sample.subfield is not None:
            return self._kept(sample)
        if found is None:
            return self.drop(sample, "no_features", f"no row in {self.features}; its missing.jsonl says why")
        name, probability = found
        if probability < self.min_probability:
            return self.drop(sample, "uncertain_subfield", f"{name}, probability {probability:.2f}")
        event = self.event(f"subfield {name}, probability {probability:.2f}", model="logistic regression")
        return self._kept(sample.changed(event, subfield=name))

    def _kept(self, sample: Sample) -> Sample | Drop:
        if sample.subfield in self.keep or set(self.keep) == set(SUBFIELDS):
            return sample
        return self.drop(sample, "subfield", sample.subfield or "told by no word")


def read_labels(paths: Sequence[Path]) -> HandLabels:
    """Hand labels of all files. A line with a `reviewer` is a decision of a review, any other a line of a seed.

    Of a seed later files and later lines win. Of a review the latest decision of each reviewer counts, in whatever
    file, and more than half of them have to agree; what they say or leave undecided stands above the seed. Decisions
    about another field are passed over. A label holds by the Sample's id, as that of a seed does, whether or not its
    text changed since: it is of the picture. The step `reviewed` compares the text as well.

    Raises UserError with file and line for what is no label, and for a value that is no sub-field.
    """
    labels: dict[str, HandLabel] = {}
    decisions: list[Decision] = []
    for path in paths:
        for where, text, row in _rows(path):
            if row.get("field", "subfield") != "subfield":
                continue
            if not isinstance(row.get("sample_id"), str) or "value" not in row:
                raise UserError(f"{where}: a label needs sample_id and value")
            if row["value"] not in SUBFIELDS:
                raise UserError(f"{where}: {row['value']!r} is no sub-field; known: {', '.join(SUBFIELDS)}")
            if row.get("reviewer") is None:
                labels[row["sample_id"]] = HandLabel(row["value"])
            else:
                decisions.append(_decision(text, where))
    said: dict[str, list[Decision]] = {}
    for decision in latest(decisions).values():
        said.setdefault(decision.sample_id, []).append(decision)
    undecided = set()
    for sample_id, of_sample in said.items():
        verdict = majority(of_sample)
        if verdict is None:
            undecided.add(sample_id)
            labels.pop(sample_id, None)
        else:
            won = sorted(decision.reviewer for decision in of_sample if decision.verdict == verdict)
            labels[sample_id] = HandLabel(verdict, ", ".join(won))
    return HandLabels(labels, frozenset(undecided))


def _rows(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(file and line, text, object) of each line that is not blank. A line ends at a line feed only: a reviewer's note
    may hold what `splitlines` takes for an end. Raises UserError.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig")
            row = json.loads(text) if text.strip() else None
        except ValueError as error:
            raise UserError(f"{where}: not JSON ({error})") from error
        if not text.strip():
            continue
        if not isinstance(row, dict):
            raise UserError(f'{where}: not an object; a label is {{"sample_id": ..., "value": ...}}')
        yield where, text, row


def _decision(text: str, where: str) -> Decision:
    try:
        return Decision.model_validate_json(text)
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        at = "".join(f"{place}: " for place in first["loc"])
        raise UserError(
            f"{where}: {at}{first['msg']}; a line with a reviewer must be as the review page exports it, and a "
            "label of a seed names no reviewer"
        ) from error


def _refuse_rare(values: Sequence[str], paths: Sequence[Path]) -> None:
    counts = Counter(values)
    files = ", ".join(map(str, paths))
    if len(counts) < 2:
        raise UserError(
            f"{files}: {len(counts)} sub-field(s) among the labelled Samples that have features; label examples of at "
            "least two"
        )
    rare = sorted(name for name, count in counts.items() if count < MIN_EXAMPLES)
    if rare:
        raise UserError(
            f"{files}: fewer than {MIN_EXAMPLES} labelled Samples with features of {', '.join(rare)}; label more of it "
            "or remove the label"
        )


def make_classifier(seed: int) -> Any:
    """Standardised features, then logistic regression in which rare classes weigh as much as frequent ones."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(
        StandardScaler(),
        LogisticRegression(class_weight="balanced", max_iter=MAX_ITERATIONS, random_state=seed),
    )


def predict(classifier: Any, features: "np.ndarray") -> list[tuple[str, float]]:
    """The likeliest sub-field of each row and its probability. These probabilities are not calibrated."""
    if not len(features):
        return []
    names = classifier.classes_.tolist()
    probabilities = classifier.predict_proba(features)
    best, highest = probabilities.argmax(1).tolist(), probabilities.max(1).tolist()
    return [(names[k], probability) for k, probability in zip(best, highest, strict=True)]


def predict_by_id(classifier: Any, features: "Features", ids: Iterable[str]) -> dict[str, tuple[str, float]]:
    """`predict`, block by block: only labels and probabilities stay in memory."""
    # as on the disk, so that a shard is read twice at most
    in_order = sorted(ids, key=features.rows.__getitem__)
    found: dict[str, tuple[str, float]] = {}
    for start in range(0, len(in_order), ROWS_PER_BLOCK):
        block = in_order[start : start + ROWS_PER_BLOCK]
        found.update(zip(block, predict(classifier, features.of(block)), strict=True))
    return found


def cross_validate(
    features: "np.ndarray", values: Sequence[str], clusters: Sequence[tuple[str, str]], seed: int
) -> dict[str, Any]:
    """Recall of each class on labelled Samples whose whole group was left out of the fit, and their mean.

    A class of one group cannot be tested (`untested`, with its n): it is learnt from in every fold, and its Samples are
    judged in none. `n` counts the Samples judged: those whose class the fold's fit has seen.
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    truth = np.array(values)
    group = np.array([repr(cluster) for cluster in clusters])
    groups_of = {name: len(set(group[truth == name])) for name in sorted(set(values))}
    testable = [name for name, count in groups_of.items() if count >= 2]
    untested = {name: {"n": int((truth == name).sum()), "groups": count}
                for name, count in groups_of.items() if count < 2}  # fmt: skip
    if not testable:
        return {"macro_recall": None, "recall": {}, "untested": untested, "folds": 0}
    inside = np.flatnonzero(np.isin(truth, testable))
    num_folds = min(MAX_FOLDS, *(groups_of[name] for name in testable))
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    answers = np.full(len(truth), "", dtype=object)
    for _, held in folds.split(inside, truth[inside], group[inside]):
        test = inside[held]
        training = ~np.isin(group, group[test])
        seen = set(truth[training])
        test = [i for i in test if truth[i] in seen]
        if len(seen) >= 2 and test:
            answers[test] = (
                make_classifier(seed).fit(features[training], truth[training]).predict(features[test])
            )
    recall = {}
    for name in testable:
        judged = (truth == name) & (answers != "")
        recall[name] = {
            "recall": float((answers[judged] == name).mean()) if judged.any() else None,
            "n": int(judged.sum()),
            "groups": groups_of[name],
        }
    known = [row["recall"] for row in recall.values() if row["recall"] is not None]
    macro = float(np.mean(known)) if known else None
    return {"macro_recall": macro, "recall": recall, "untested": untested, "folds": num_folds}
