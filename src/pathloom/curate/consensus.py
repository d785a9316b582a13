"""Step `consensus`: what several annotators said of a picture becomes one value for each attribute, or none.

Words become values by the attribute schema; a vote settles what it can; an arbiter, where there is one, chooses among
the competing values of the rest. What nobody could tell is left out, and the caption is written from what is left.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.attributes import AttributeSchema, Language, load_schema
from pathloom.curate.consensus_arbiter import Competing, prompt_text, read_ruling, requests_of
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.generate.config import Asking
from pathloom.generate.fill import fill, store_beside
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.schema import Attribute, Drop, Sample
from pathloom.stage import UserError
from pathloom.store import read_samples


class ConsensusStep(StepConfig):
    """Entry of `steps`: `{step: consensus}` after a stage `annotate`; an `arbiter` settles disputes.

    Dropped: a Sample without Annotation (`no_annotation`), and one of which no attribute got a value
    (`nobody_could_tell`).
    """

    version: ClassVar[int] = 1

    step: Literal["consensus"]
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    method: Literal["majority", "dawid_skene"] = Field(
        default="majority",
        description="more than half of the answering votes, or votes weighted by how often each annotator seems to err",
    )
    min_votes: int = Field(
        default=1, ge=1, description="answering votes that an attribute needs; with fewer it is left out"
    )
    confusion: Literal["shared", "own"] = Field(
        default="shared",
        description="of dawid_skene: one pattern of mistakes and an error rate for each annotator, or a confusion "
        "matrix for each, which needs thousands of Samples",
    )
    min_confidence: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="of dawid_skene: a value that is less probable is in dispute; default: the least error of 0.5 to "
        "0.95 on made votes, with an arbiter that errs one time in five",
    )
    arbiter: Asking | None = Field(
        default=None, description="asked about disputes only; without one, disputed attributes are left out"
    )
    language: Language = Field(
        default="en",
        description="of the caption that is written from the attributes, and of the arbiter's prompt",
    )
    truth: str | None = Field(
        default=None, description="stage whose Samples hold true attributes: errors are measured against them"
    )

    def needs(self) -> tuple[str, ...]:
        stages = (*([self.truth] if self.truth else []), *(self.arbiter.needs() if self.arbiter else ()))
        return tuple(dict.fromkeys(stages))

    def check(self, where: str) -> None:
        load_schema(self.attributes)
        if self.arbiter is not None:
            self.arbiter.check_sees_pictures(f"{where}.arbiter", "arbiter", self.attributes)

    def keyed(self) -> dict[str, Any]:
        return {**super().keyed(), "arbiter": None if self.arbiter is None else self.arbiter.decides()}

    def fingerprint(self) -> str:
        prompt = prompt_text() if self.arbiter else ""
        return f"{load_schema(self.attributes).digest} {prompt}"

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        from pathloom.curate.consensus_facts import consensus_facts
        from pathloom.curate.consensus_fusion import fuse
        from pathloom.curate.consensus_votes import gather, truths

        schema = load_schema(self.attributes)
        votes = gather(read(), schema)
        counted = fuse(
            votes, self.method, self.confusion, min_votes=self.min_votes, min_confidence=self.min_confidence
        )
        ruled, usage = self._ask(read, inputs, counted.disputes())
        settled = counted.settle(ruled)
        model = str(usage["model"]) if usage else None

        def change(sample: Sample) -> Sample | Drop:
            row = votes.row.get(sample.id)
            if row is None:
                return self.drop(sample, "no_annotation", "no annotator answered")
            attributes = settled.attributes(row)
            if not attributes:
                return self.drop(sample, "nobody_could_tell", settled.why_none(row))
            return self._change(sample, attributes, schema, model)

        true = truths(read_samples(inputs[self.truth]), votes) if self.truth else None
        if true is not None and votes.num_samples and all((values < 0).all() for values in true.values()):
            raise UserError(
                f"consensus.truth: the stage {self.truth} has true attributes of none of the Samples here; name the "
                "stage that they were first made in, or leave `truth` out"
            )
        return Prepared(change, consensus_facts(settled, usage, true, seed))

    def _change(
        self,
        sample: Sample,
        attributes: tuple[Attribute, ...],
        schema: AttributeSchema,
        model: str | None,
    ) -> Sample:
        """With these attributes, and the caption that says them; the answer of other tasks stays."""
        by_arbiter = sum(one.resolver == "arbiter" for one in attributes)
        total = len(schema.attributes)
        note = (
            f"{total} attributes: {len(attributes) - by_arbiter} {self.method}, {by_arbiter} arbiter, "
            f"{total - len(attributes)} left out"
        )
        values = {one.name: one.value for one in attributes}
        caption = {"answer": schema.describe(values, self.language)} if sample.task == "caption" else {}
        event = self.event(note, model=model if by_arbiter else None)
        return sample.changed(event, attributes=attributes, **caption)

    def requests(
        self, samples: Iterator[Sample], disputes: Mapping[str, Competing]
    ) -> Iterator[tuple[str, Request]]:
        """(Sample id, request) of those in dispute; none without an arbiter."""
        if self.arbiter is None:
            return iter(())
        schema = load_schema(self.attributes)
        return requests_of(samples, disputes, schema, self.language, self.arbiter.sampling)

    def _ask(
        self, read: Read, inputs: Mapping[str, Path], disputes: Mapping[str, Competing]
    ) -> tuple[dict[str, dict[str, str]], dict[str, Any]]:
        """Sample id -> disputed attribute -> the arbiter's value, of those that it answered; and what asking took."""
        if self.arbiter is None:
            return {}, {}
        ruled: dict[str, dict[str, str]] = {}
        unanswered: Counter[str] = Counter()
        with AnswerStore(store_beside(inputs)) as store:
            answers = fill(
                lambda: (request for _, request in self.requests(read(), disputes)),
                self.arbiter,
                store,
                partial(read_ruling, load_schema(self.attributes)),
                self.step,
                inputs,
            )
            for index, (sample_id, request) in enumerate(self.requests(read(), disputes)):
                outcome = answers.of(index, request)
                if outcome.value is None:
                    unanswered[str(outcome.reason)] += 1
                else:
                    ruled[sample_id] = outcome.value
        return ruled, {**answers.usage, "unanswered": dict(unanswered)}
