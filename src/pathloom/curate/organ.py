"""Step `organ`: the organ system of each Sample, from its words by rule, and from a Generator where they tell none."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pathloom.curate.prompts import organ_instructions
from pathloom.curate.replies import parse_object
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.curate.words import ORGANS, organ_of, words_hash
from pathloom.generate.config import Asking
from pathloom.generate.fill import fill, store_beside
from pathloom.generate.generator import Message, Request
from pathloom.generate.store import AnswerStore
from pathloom.schema import Drop, Sample

NONE = "none"
_SCHEMA: dict[str, Any] = {
    "title": "Organ",
    "type": "object",
    "properties": {"organ": {"type": "string", "enum": [*ORGANS, NONE]}},
    "required": ["organ"],
    "additionalProperties": False,
}


class OrganStep(StepConfig):
    """Entry of `steps`: `{step: organ}`. A Sample that has an organ keeps it; one of which nothing tells it has none.

    With a `teacher`, a Generator is asked about the Samples whose words tell no organ.
    """

    version: ClassVar[int] = 1

    step: Literal["organ"]
    teacher: Asking | None = None

    def needs(self) -> tuple[str, ...]:
        return self.teacher.needs() if self.teacher else ()

    def check(self, where: str) -> None:
        if self.teacher is not None:
            self.teacher.check(f"{where}.teacher")

    def keyed(self) -> dict[str, Any]:
        decides = None if self.teacher is None else self.teacher.decides()
        return {**super().keyed(), "teacher": decides}

    def fingerprint(self) -> str:
        return f"{words_hash()} {organ_instructions()}"

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        answers, usage = self._ask(read, inputs)
        counts: Counter[str] = Counter()

        def organ(sample: Sample) -> str | None:
            return sample.organ or organ_of(told(sample)) or answers.get(sample.id)

        def change(sample: Sample) -> Sample | Drop:
            found = organ(sample)
            if found == sample.organ:
                return sample
            model = usage["model"] if sample.id in answers else None
            return sample.changed(self.event(f"organ {found}", model=model), organ=found)

        for sample in read():
            counts[organ(sample) or "untold"] += 1
        asked = {"asked": usage} if usage else {}
        return Prepared(change, {"organs": dict(counts.most_common()), **asked})

    def requests(self, samples: Iterator[Sample]) -> Iterator[tuple[str, Request]]:
        """(Sample id, request) of those about whom the teacher is asked; none without a teacher."""
        if self.teacher is None:
            return
        for sample in samples:
            if not sample.organ and organ_of(told(sample)) is None:
                text = f"{organ_instructions()}\n{json.dumps(_SCHEMA)}\n<text>{told(sample)}</text>"
                yield (
                    sample.id,
                    Request(
                        messages=(Message(role="user", text=text),),
                        json_schema=_SCHEMA,
                        sampling=self.teacher.sampling,
                    ),
                )

    def _ask(self, read: Read, inputs: Mapping[str, Path]) -> tuple[dict[str, str], dict[str, Any]]:
        """Sample id -> organ of those that the teacher knew, and what asking took."""
        if self.teacher is None:
            return {}, {}
        with AnswerStore(store_beside(inputs)) as store:
            answers = fill(
                lambda: (request for _, request in self.requests(read())),
                self.teacher,
                store,
                _read_organ,
                "organ",
                inputs,
            )
            known = {}
            for index, (sample_id, request) in enumerate(self.requests(read())):
                value = answers.of(index, request).value
                if value is not None and value != NONE:
                    known[sample_id] = value
        return known, answers.usage


def _read_organ(request: Request, text: str) -> str:
    organ = parse_object(text).get("organ")
    if organ not in (*ORGANS, NONE):
        raise ValueError(f"organ: {organ!r} is none of those asked for")
    return str(organ)


def told(sample: Sample) -> str:
    """What a Sample's source says about its pictures: the caption, or question and answer, then the context."""
    question = "" if sample.task == "caption" else sample.question
    return "\n".join(text for text in (question, sample.answer, sample.context) if text)
