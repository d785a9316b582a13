"""Generator `simulated`: annotators and arbiters that know the truth of a picture and err as they are told to.

No model is asked. Names begin with `simulated-`, so whatever they said is known as such in every Sample's history and
in the report. For experiments on how errors are found and mended: how real annotators err is not known from them.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pathloom.attributes import (
    ANNOTATION_TITLE,
    DISPUTE_TITLE,
    LANGUAGES,
    AttributeKind,
    AttributeSchema,
    Language,
    load_schema,
)
from pathloom.generate.config import SimulatedRef
from pathloom.generate.generator import Generation, Generator, Request, picture_bytes
from pathloom.generate.simulated_truth import NO_TRUTH, Values, read_truth
from pathloom.images import BadImage

_VERSION = 1
"""Raised by hand when the same settings answer otherwise: part of the name, and so of every key in the store."""
_BATCH = 256  # answers in one commit to the store
_OWN, _SHARED, _ARBITER, _CAPTION = range(4)  # streams of random numbers that never meet

_CAPTIONS: Mapping[Language, tuple[str, ...]] = {
    "en": (
        "{said}",
        "A {subject} is seen. {said}",
        "This {subject} was looked at closely. {said}",
        "{said} Nothing else was judged.",
    ),
    "zh": ("{said}", "图为{subject}。{said}", "可见{subject}。{said}", "{said}其余未作评价。"),
}
_NOTHING: Mapping[Language, str] = {
    "en": "Nothing certain can be said of this {subject}.",
    "zh": "{subject}无法判断。",
}


def simulated_name(ref: SimulatedRef) -> str:
    """How the Generator's `model` begins, from settings and schema alone: what it knows is read when it is opened."""
    facts = json.dumps([_VERSION, ref.model_dump(), load_schema(ref.attributes).digest], sort_keys=True)
    return f"simulated-{ref.role}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


def open_simulated(ref: SimulatedRef, inputs: Mapping[str, Path]) -> Generator:
    """Reads the Samples of the stage `ref.truth` once. Raises UserError for attributes that the schema has not."""
    ref.check("simulated")
    schema = load_schema(ref.attributes)
    return Simulated(ref, schema, read_truth(inputs[ref.truth], schema))


@dataclass(frozen=True)
class Simulated:
    """An annotator or an arbiter. `truth` are the values of a picture, in the schema's order, by its bytes' SHA-256.

    An annotator draws for each picture and attribute, from its settings, its seed and the picture alone, so that the
    order of requests decides nothing. First, whether it can tell; then, with probability `shared`, the decision (right
    or wrong, and which wrong value) is that of the stream of `shared_seed`, otherwise its own. Both streams err with
    probability `error`, so that is its error among what it tells, whatever `shared` is. Two annotators of one
    `shared_seed`, with shares s and t and errors e <= f, take the same decision with probability s t and are
    independent otherwise; their being wrong is correlated by s t sqrt(e (1 - f) / (f (1 - e))), which is s t for equal
    errors, and with `confusion` and error alike the wrong values of common decisions are the same.

    An arbiter that finds the truth among the competing values takes it with probability 1 - error, otherwise one of the
    others, any alike; without the truth among them, any of them.

    Our own model of error. Confusion `uniform` is the one for which `expected_error` gives the exact result.
    """

    ref: SimulatedRef
    schema: AttributeSchema
    truth: Mapping[str, Values]

    @cached_property
    def model(self) -> str:
        """With a digest of the truth, so that stored answers about the same pictures are not those of another truth."""
        known = json.dumps(sorted(self.truth.items()))
        return f"{simulated_name(self.ref)}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        source = iter(requests)
        while batch := list(islice(source, _BATCH)):
            yield [(key, self._answer(request)) for key, request in batch]

    def _answer(self, request: Request) -> Generation:
        form = request.json_schema or {}
        schema, _, ending = str(form.get("description")).rpartition(" ")
        language = next((each for each in LANGUAGES if each == ending), None)
        wanted = ANNOTATION_TITLE if self.ref.role == "annotator" else DISPUTE_TITLE
        if form.get("title") != wanted or schema != self.schema.name or language is None:
            asked = f"{form.get('title')} of {form.get('description')}"
            return self._fault(
                "other_form",
                f"asked for {asked}; this {self.ref.role} answers {wanted} of {self.schema.name}",
            )
        try:
            picture = _hash_of(request)
        except BadImage as error:
            return self._fault(error.reason, str(error))
        values = self.truth.get(picture)
        if values is None:
            detail = (
                f"no Sample of the stage {self.ref.truth} has this picture; `truth` names where it comes from"
            )
            return self._fault(NO_TRUTH, detail)
        truth = dict(zip(self.schema.attributes, values, strict=True))
        reply = (
            self._annotation(picture, truth, language)
            if self.ref.role == "annotator"
            else self._rulings(picture, truth, form["properties"])
        )
        return Generation(model=self.model, text=json.dumps(reply, ensure_ascii=False))

    def _fault(self, reason: str, detail: str) -> Generation:
        return Generation(model=self.model, error=reason, detail=detail)

    def _annotation(
        self, picture: str, truth: Mapping[str, str | None], language: Language
    ) -> dict[str, object]:
        said = {name: self._says(picture, name, value) for name, value in truth.items()}
        words = {
            name: self.schema.cannot_tell[language][0]
            if value is None
            else self.schema[name].say(value, language)
            for name, value in said.items()
        }
        told = {name: value for name, value in said.items() if value is not None}
        return {"attributes": words, "caption": self._caption(picture, told, language)}

    def _says(self, picture: str, name: str, true: str | None) -> str | None:
        """The value that it gives to one attribute; None where it cannot tell, as for a truth that nobody knows."""
        rng = self._stream(_OWN, picture, name)
        abstains, common = rng.random(2) < (self.ref.cannot_tell, self.ref.shared)
        if true is None or abstains:
            return None
        if common:
            rng = _stream(_SHARED, self.ref.shared_seed, picture, name)
        wrong, which = rng.random(2)
        others = confusable(self.schema[name], true, self.ref.confusion)
        if not others or wrong >= self.ref.error_of(name):
            return true
        return others[int(which * len(others))]

    def _caption(self, picture: str, told: Mapping[str, str], language: Language) -> str:
        """All that is told, in an order and a frame of words that differ from picture to picture."""
        subject = self.schema.subject[language]
        if not told:
            return _NOTHING[language].format(subject=subject)
        rng = self._stream(_CAPTION, picture, "")
        names = [list(told)[place] for place in rng.permutation(len(told))]
        said = [self.schema.describe({name: told[name]}, language) for name in names]
        frames = _CAPTIONS[language]
        frame = frames[int(rng.integers(len(frames)))]
        return frame.format(subject=subject, said=(" " if language == "en" else "").join(said))

    def _rulings(
        self, picture: str, truth: Mapping[str, str | None], asked: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, str]:
        """Attribute -> one of the competing words, as they stand in the request."""
        rulings = {}
        for name, allowed in asked.items():
            words = list(allowed["enum"])
            right = [each for each in words if self.schema.read(name, each) == truth[name]]
            others = [each for each in words if each not in right]
            errs, which = self._stream(_ARBITER, picture, name).random(2)
            among = right if right and (errs >= self.ref.error_of(name) or not others) else others
            rulings[name] = among[int(which * len(among))]
        return rulings

    @cached_property
    def _own_seed(self) -> int:
        """Of all settings, so that annotators of one seed and other errors do not err together by accident."""
        settings = json.dumps(self.ref.model_dump(exclude={"truth", "attributes"}), sort_keys=True)
        return int(hashlib.sha256(settings.encode()).hexdigest(), 16)

    def _stream(self, purpose: int, picture: str, name: str) -> np.random.Generator:
        return _stream(purpose, self._own_seed, picture, name)


def confusable(kind: AttributeKind, true: str, confusion: str) -> tuple[str, ...]:
    """The wrong values that are given for `true`, each as often: all others, or with `neighbour` those beside it.

    Values without an order have one fixed partner each: first and second, third and fourth and so on; the last of an
    odd number is taken for the one before it.
    """
    values = kind.values
    place = values.index(true)
    if confusion == "uniform" or len(values) == 1:
        return values[:place] + values[place + 1 :]
    if kind.ordered:
        return values[max(place - 1, 0) : place] + values[place + 1 : place + 2]
    partner = place ^ 1
    return (values[partner if partner < len(values) else place - 1],)


def _stream(purpose: int, seed: int, picture: str, name: str) -> np.random.Generator:
    return np.random.default_rng([purpose, seed, int(picture, 16), *name.encode()])


def _hash_of(request: Request) -> str:
    """SHA-256 of the first picture of the last message. Raises BadImage; a request without a picture has none."""
    images = request.messages[-1].images
    if not images:
        return ""
    return hashlib.sha256(picture_bytes(images[0])).hexdigest()
