"""Stage `instruct`: questions of many kinds from the attributes and the class of a Sample.

What Singpath-VL's instruction data (arXiv 2602.09523) are made of is not published; kinds, wordings and counts are our
own choice. Wordings, options and turns depend on the stage's seed and the Sample's id alone, so that a growing corpus
keeps the questions it has; what a yes/no question asks about depends on the Samples before it too.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pathloom.attributes import AttributeKind, Language, load_schema
from pathloom.curate.annotate_config import INSTRUCTIONS, InstructConfig, InstructionKind
from pathloom.curate.curate import read_all, write_records
from pathloom.routing import awaits_review
from pathloom.schema import FOLD_PREFIX, Drop, Event, Sample, Turn
from pathloom.stage import FACTS_FILE, write_json
from pathloom.store import count_records

_WORDINGS = Path(__file__).with_name("instruct_wordings.yaml")
TURNS = (2, 4)
"""Attributes that a conversation goes through before it comes to the class, fewest and most; our own choice."""
TRAINED_SPLIT = "train"

Rng = np.random.Generator


def run_instruct(config: InstructConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the questions of every training Sample; those of a fold count as such. Returns counts for the manifest."""
    maker = _Maker(config)
    write_records(maker.records(read_all(config.samples, inputs)), out, config.name)
    facts = {
        "step": "instruct",
        "questions": {kind: maker.made[kind] for kind in INSTRUCTIONS if kind in config.questions},
        "values_by_resolver": dict(sorted(maker.resolvers.items())),
        "signs_by_answer": dict(sorted(maker.signs.items())),
    }
    write_json([facts], out / FACTS_FILE)
    return {**count_records(out), "passed_over": dict(maker.passed)}


class _Maker:
    """Makes the questions of one Sample after the other and counts them. Only yes/no questions look back."""

    def __init__(self, config: InstructConfig) -> None:
        self.config = config
        self.schema = load_schema(config.attributes)
        self.wordings = load_wordings()[config.language]
        self.passed: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.resolvers: Counter[str] = Counter()
        self.signs: Counter[str] = Counter()
        self.owed: Counter[tuple[str, str]] = Counter()
        """(attribute, value) -> how often it was asked about where it is right more than where it is wrong."""

    def records(self, samples: Iterator[Sample]) -> Iterator[Sample | Drop]:
        for sample in samples:
            if not (sample.split == TRAINED_SPLIT or sample.split.startswith(FOLD_PREFIX)):
                self.passed["held_out"] += 1
                continue
            if refused := self._refused(sample):
                yield refused
                continue
            self.resolvers.update(attribute.resolver for attribute in sample.attributes)
            yield from self._questions(sample)

    def _refused(self, sample: Sample) -> Drop | None:
        """The reason why nothing can be asked about a Sample."""
        if not sample.attributes:
            return _drop(sample.id, "no_attributes", "run a step that gives it attributes, as `consensus`")
        if awaits_review(sample):
            return _drop(sample.id, "awaits_review", "apply what reviewers decide with the step `reviewed`")
        for attribute in sample.attributes:
            kind = self.schema.attributes.get(attribute.name)
            if kind is None or attribute.value not in kind.values:
                detail = f"{attribute.name}: {attribute.value} is not in {self.schema.name}"
                return _drop(sample.id, "not_in_schema", detail)
        return None

    def _questions(self, sample: Sample) -> Iterator[Sample | Drop]:
        values = {attribute.name: attribute.value for attribute in sample.attributes}
        for number, kind in enumerate(INSTRUCTIONS):
            count = self.config.questions.get(kind, 0)
            if count == 0:
                continue
            if kind == "class" and sample.finding not in self.config.classes:
                detail = f"{sample.finding or 'no class'}; classes are {', '.join(self.config.classes)}"
                yield _drop(f"{sample.id}/class", "not_one_of_the_classes", detail)
                continue
            rng = np.random.default_rng(
                [self.config.seed, number, *hashlib.sha256(sample.id.encode()).digest()]
            )
            for name, fields in self._made(kind, count, values, sample.finding, rng):
                self.made[kind] += 1
                yield _asked(sample, f"{kind}/{name}", fields, self.config.version)

    def _made(
        self, kind: InstructionKind, count: int, values: Mapping[str, str], finding: str | None, rng: Rng
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name among the Sample's questions of this kind, fields that differ from the Sample's) of each question."""
        if kind == "attribute":
            names = rng.permutation(list(values))[:count]
            yield from ((str(name), self._attribute(str(name), values[name], rng)) for name in names)
        elif kind == "sign":
            yield from self._signs(count, values, rng)
        else:
            wordings = _drawn(self.wordings["conclusion" if kind == "dialogue" else kind], count, rng)
            for number, wording in enumerate(wordings, start=1):
                if kind == "class":
                    yield str(number), self._class(wording, values, str(finding), rng)
                elif kind == "description":
                    yield str(number), self._description(wording, values)
                else:
                    yield str(number), self._dialogue(wording, values, finding, rng)

    def _attribute(self, name: str, value: str, rng: Rng) -> dict[str, Any]:
        kind = self.schema[name]
        others = [other for other in kind.values if other != value]
        options = [str(other) for other in rng.permutation(others)[: self.config.num_options - 1]]
        options.insert(int(rng.integers(len(options) + 1)), value)
        return {
            "task": "choice",
            "question": self._worded(_one(self.wordings["attribute"], rng), kind),
            "choices": tuple(kind.say(option, self.config.language) for option in options),
            "answer": kind.say(value, self.config.language),
            "reasoning": self._seen({name: value}),
        }

    def _signs(self, count: int, values: Mapping[str, str], rng: Rng) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each value is asked about as often where it is wrong as where it is right, as far as there are attributes to
        choose from: one that nearly all Samples have would otherwise give its answer away.
        """
        for name in self._attributes_to_doubt(count, values, rng):
            kind, value = self.schema[name], values[name]
            wrong = [other for other in kind.values if other != value and self.owed[name, other] > 0]
            asked = str(rng.permutation(wrong)[0]) if wrong else value
            self.owed[name, asked] += 1 if asked == value else -1
            answer = "yes" if asked == value else "no"
            self.signs[answer] += 1
            sentence = self._sentence(kind, asked)
            yield (
                name,
                {
                    "task": "yes_no",
                    "question": self._worded(_one(self.wordings["sign"], rng), kind, sentence),
                    "answer": answer,
                    "finding": self._sentence(kind, value),
                    "asked_finding": sentence,
                    "reasoning": self._seen({name: value}),
                },
            )

    def _attributes_to_doubt(self, count: int, values: Mapping[str, str], rng: Rng) -> list[str]:
        """`count` attributes in a drawn order, those first for which a yes or a no is due."""
        names = [str(name) for name in rng.permutation(list(values))]

        def due(name: str) -> bool:
            others = (other for other in self.schema[name].values if other != values[name])
            return self.owed[name, values[name]] == 0 or any(self.owed[name, other] > 0 for other in others)

        return sorted(names, key=lambda name: not due(name))[:count]

    def _class(self, wording: str, values: Mapping[str, str], finding: str, rng: Rng) -> dict[str, Any]:
        return {
            "task": "choice",
            "question": self._worded(wording),
            "choices": tuple(str(name) for name in rng.permutation(self.config.classes)),
            "answer": finding,
            "finding": finding,
            "reasoning": self._seen(values, finding),
        }

    def _seen(self, values: Mapping[str, str], finding: str | None = None) -> str | None:
        """What decides an answer, said before it; None where the recipe asks for no reasoning."""
        if self.config.reasoning == "none":
            return None
        said = self.schema.describe(values, self.config.language)
        return said if finding is None else f"{said}{self._space}{self._concluded(finding)}"

    def _concluded(self, finding: str) -> str:
        return self.wordings["concluded"][0].format(finding=finding)

    @property
    def _space(self) -> str:
        """Between two sentences."""
        return " " if self.config.language == "en" else ""

    def _description(self, wording: str, values: Mapping[str, str]) -> dict[str, Any]:
        answer = self.schema.describe(values, self.config.language)
        return {"task": "caption", "question": self._worded(wording), "answer": answer}

    def _dialogue(
        self, wording: str, values: Mapping[str, str], finding: str | None, rng: Rng
    ) -> dict[str, Any]:
        """Without a class it ends in the last of its attributes."""
        count = int(rng.integers(TURNS[0], TURNS[1] + 1))
        turns = []
        for name in rng.permutation(list(values))[:count]:
            kind = self.schema[str(name)]
            asked = self._worded(_one(self.wordings["turn"], rng), kind)
            turns.append(Turn(question=asked, answer=self._sentence(kind, values[name])))
        if finding in self.config.classes:
            turns.append(Turn(question=self._worded(wording), answer=self._concluded(str(finding))))
        *earlier, last = turns
        return {
            "task": "dialogue",
            "earlier": tuple(earlier),
            "question": last.question,
            "answer": last.answer,
            "finding": finding,
        }

    def _sentence(self, kind: AttributeKind, value: str) -> str:
        return self.schema.describe({kind.name: value}, self.config.language)

    def _worded(self, wording: str, kind: AttributeKind | None = None, sentence: str = "") -> str:
        language = self.config.language
        of_kind = {"title": kind.title[language], "question": kind.question[language]} if kind else {}
        return wording.format(
            subject=self.schema.subject[language],
            class_name=self.config.class_name or self.wordings["class_name"][0],
            sentence=sentence,
            **of_kind,
        )


def _asked(sample: Sample, name: str, fields: Mapping[str, Any], version: int) -> Sample:
    """One question of the Sample. Boxes go, as the anchor is framed on the picture itself, which may thus be turned."""
    kept = {
        name: getattr(sample, name)
        for name in ("split", "images", "subfield", "organ", "context", "origin", "history")
    }
    event = Event(step="instruct", version=version, note=name)
    return Sample(**{**kept, "id": f"{sample.id}/{name}", "history": (*sample.history, event), **fields})


def _drop(sample_id: str, reason: str, detail: str) -> Drop:
    return Drop(sample_id=sample_id, step="instruct", reason=reason, detail=detail)


def _one(wordings: Sequence[str], rng: Rng) -> str:
    return wordings[int(rng.integers(len(wordings)))]


def _drawn(wordings: Sequence[str], count: int, rng: Rng) -> list[str]:
    """`count` of them, none again before all are used."""
    order = rng.permutation(len(wordings))
    return [wordings[order[place % len(order)]] for place in range(count)]


@cache
def load_wordings() -> Mapping[Language, Mapping[str, tuple[str, ...]]]:
    """Language -> kind of question -> its wordings."""
    data = yaml.safe_load(_WORDINGS.read_text(encoding="utf-8"))
    return {
        language: {kind: tuple(wordings) for kind, wordings in kinds.items()}
        for language, kinds in data.items()
    }
