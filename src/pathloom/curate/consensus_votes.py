"""What annotators said, as votes: whole numbers that fit memory and that all of a consensus is counted from."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pathloom.attributes import AttributeSchema, UnknownWords
from pathloom.schema import Sample, Vote
from pathloom.stage import UserError

Ints = NDArray[np.int16]

CANNOT_TELL = -1
"""The annotator said so, or said nothing of this attribute."""
UNKNOWN = -2
"""Words that no value of the attribute has."""
ABSENT = -3
"""No Annotation of this annotator."""


@dataclass(frozen=True)
class Votes:
    """The votes about all Samples that have an Annotation, in the order of the Samples.

    row         Sample id -> its row
    groups      number of the Sample's group [sample]; groups are resampled whole
    values      attribute -> place of the value said in the schema, or one of the codes above [sample, annotator]
    unknown     (annotator, attribute, words) -> how often these words were said that no value has
    unasked     (annotator, name) -> how often something was said under a name that no attribute has
    """

    schema: AttributeSchema
    annotators: tuple[str, ...]
    row: Mapping[str, int]
    groups: NDArray[np.int64]
    values: Mapping[str, Ints]
    unknown: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    unasked: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        return len(self.groups)

    def of(self, name: str, row: int) -> tuple[Vote, ...]:
        """The votes about one attribute of one Sample, abstentions as None, absent annotators left out."""
        values = self.schema[name].values
        return tuple(
            Vote(annotator=annotator, value=values[said] if said >= 0 else None)
            for annotator, said in zip(self.annotators, self.values[name][row], strict=True)
            if said != ABSENT
        )


def gather(samples: Iterable[Sample], schema: AttributeSchema) -> Votes:
    """The votes of every Sample with an Annotation; annotators in the order of their names.

    Raises UserError for a Sample that comes twice, and ValueError for one with two Annotations of one annotator.
    """
    names = list(schema.attributes)
    place = {name: {value: n for n, value in enumerate(schema[name].values)} for name in names}
    said: dict[str, array[int]] = {}
    row: dict[str, int] = {}
    group_of: dict[tuple[str, str], int] = {}
    groups = array("q")
    unknown: Counter[tuple[str, str, str]] = Counter()
    unasked: Counter[tuple[str, str]] = Counter()
    for sample in samples:
        if not sample.annotations:
            continue
        if sample.id in row:
            raise UserError(
                f"consensus: sample {sample.id} comes twice; name one stage that holds it in `samples`, and all "
                "annotators in one stage `annotate`"
            )
        start = len(row) * len(names)
        row[sample.id] = len(row)
        groups.append(group_of.setdefault(sample.origin.cluster, len(group_of)))
        for annotation in sample.annotations:
            votes = said.setdefault(annotation.annotator, array("h"))
            if len(votes) > start:
                raise ValueError(f"sample {sample.id}: two annotations of {annotation.annotator}")
            votes.extend([ABSENT] * (start - len(votes)) + [CANNOT_TELL] * len(names))
            for name, text in _said_once(
                schema, annotation.annotator, ((s.name, s.text) for s in annotation.said), unasked
            ):
                try:
                    value = schema.read(name, text)
                except UnknownWords:
                    unknown[annotation.annotator, name, text] += 1
                    votes[start + names.index(name)] = UNKNOWN
                    continue
                votes[start + names.index(name)] = CANNOT_TELL if value is None else place[name][value]
    annotators = tuple(sorted(said))
    table = np.full((len(row), len(names), len(annotators)), ABSENT, dtype=np.int16)
    for column, annotator in enumerate(annotators):
        votes = said[annotator]
        table.reshape(-1, len(annotators))[: len(votes), column] = votes
    return Votes(
        schema=schema,
        annotators=annotators,
        row=row,
        groups=np.array(groups, dtype=np.int64),
        values={name: np.ascontiguousarray(table[:, column]) for column, name in enumerate(names)},
        unknown=unknown,
        unasked=unasked,
    )


def _said_once(
    schema: AttributeSchema,
    annotator: str,
    said: Iterable[tuple[str, str]],
    unasked: Counter[tuple[str, str]],
) -> Iterable[tuple[str, str]]:
    """(attribute, words) of what was said of the schema's attributes, the first time that each is spoken of."""
    seen: set[str] = set()
    for called, text in said:
        name = schema.name_of(called)
        if name is None:
            unasked[annotator, called] += 1
        elif name not in seen and text.strip():
            seen.add(name)
            yield name, text


def truths(samples: Iterable[Sample], votes: Votes) -> Mapping[str, Ints]:
    """Attribute -> place of the true value for each row of `votes`; CANNOT_TELL where none is known [sample]."""
    names = votes.schema.attributes
    true = {name: np.full(votes.num_samples, CANNOT_TELL, dtype=np.int16) for name in names}
    for sample in samples:
        row = votes.row.get(sample.id)
        if row is None:
            continue
        for attribute in sample.attributes:
            if attribute.name in names and attribute.value in names[attribute.name].values:
                true[attribute.name][row] = names[attribute.name].values.index(attribute.value)
    return true
