"""Votes to values: by majority, or weighted by Dawid and Skene's model; what is in dispute; and what became of all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pathloom.curate.consensus_arbiter import Competing
from pathloom.curate.consensus_votes import Ints, Votes
from pathloom.curate.dawid_skene import Confusion, Weighing, weigh
from pathloom.schema import Attribute

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Method = Literal["majority", "dawid_skene"]


@dataclass(frozen=True)
class Fused:
    """How the votes about one attribute came out.

    value       place of the value in the schema, -1 where the votes settle none [sample]
    confidence  of that value, or of the best one where none is settled; 0 without votes [sample]
    competing   the values that a dispute is between; all False where there is none [sample, value]
    """

    value: Ints
    confidence: Floats
    competing: Bools

    @property
    def disputed(self) -> Bools:
        return np.asarray(self.competing.any(axis=1))


@dataclass(frozen=True)
class Counted:
    """All votes, how they came out by the method of the step, and Dawid and Skene's model beside it in either case."""

    votes: Votes
    method: Method
    fused: Mapping[str, Fused]
    majority: Mapping[str, Fused]
    weighings: Mapping[str, Weighing]

    def disputes(self) -> Mapping[str, Competing]:
        """Sample id -> disputed attribute -> competing value -> how many annotators gave it."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        ids = list(self.votes.row)
        for name, fused in self.fused.items():
            values = self.votes.schema[name].values
            counts = counts_of(self.votes.values[name], len(values))
            for row in np.flatnonzero(fused.disputed):
                competing = np.flatnonzero(fused.competing[row])
                found.setdefault(ids[row], {})[name] = {values[at]: int(counts[row, at]) for at in competing}
        return found

    def settle(self, ruled: Mapping[str, Mapping[str, str]]) -> "Settled":
        """With the arbiter's rulings: Sample id -> disputed attribute -> value."""
        schema = self.votes.schema
        rulings = {name: np.full(self.votes.num_samples, -1, dtype=np.int16) for name in self.fused}
        for sample_id, ruling in ruled.items():
            for name, value in ruling.items():
                rulings[name][self.votes.row[sample_id]] = schema[name].values.index(value)
        return Settled(self, rulings)


@dataclass(frozen=True)
class Settled:
    """The end of it. `rulings` are the arbiter's, -1 where it was not asked or gave none: attribute -> [sample]."""

    counted: Counted
    rulings: Mapping[str, Ints]

    def final(self, name: str) -> Ints:
        """Place of the value that the attribute has in the end, -1 where it is left out [sample]."""
        return np.where(self.rulings[name] >= 0, self.rulings[name], self.counted.fused[name].value)

    def attributes(self, row: int) -> tuple[Attribute, ...]:
        """Of one Sample, those that have a value, in the schema's order."""
        return tuple(self._attributes(row))

    def _attributes(self, row: int) -> Iterator[Attribute]:
        votes = self.counted.votes
        for name, fused in self.counted.fused.items():
            ruling, settled = int(self.rulings[name][row]), int(fused.value[row])
            place = ruling if ruling >= 0 else settled
            if place < 0:
                continue
            said = votes.values[name][row]
            share = float((said == place).sum() / max((said >= 0).sum(), 1))
            yield Attribute(
                name=name,
                value=votes.schema[name].values[place],
                resolver="arbiter" if ruling >= 0 else self.counted.method,
                confidence=share if ruling >= 0 else round(min(float(fused.confidence[row]), 1.0), 6),
                votes=votes.of(name, row),
            )

    def why_none(self, row: int) -> str:
        """Of a Sample without any attribute."""
        disputed = sum(bool(fused.disputed[row]) for fused in self.counted.fused.values())
        return (
            f"{disputed} of {len(self.counted.fused)} attributes in dispute, the others without enough votes"
        )


def fuse(
    votes: Votes, method: Method, confusion: Confusion, *, min_votes: int, min_confidence: float
) -> Counted:
    """Every attribute by both methods, since reports compare them."""
    sizes = {name: len(kind.values) for name, kind in votes.schema.attributes.items()}
    majority = {name: by_majority(votes.values[name], size, min_votes) for name, size in sizes.items()}
    weighings = {name: weigh(votes.values[name], size, confusion) for name, size in sizes.items()}
    fused = majority
    if method == "dawid_skene":
        fused = {
            name: by_weight(votes.values[name], weighings[name], min_votes, min_confidence) for name in sizes
        }
    return Counted(votes, method, fused, majority, weighings)


def counts_of(votes: Ints, num_values: int) -> NDArray[np.int64]:
    """How many annotators gave each value [sample, value]."""
    return np.stack([(votes == value).sum(axis=1) for value in range(num_values)], axis=1)


def by_majority(votes: Ints, num_values: int, min_votes: int) -> Fused:
    """The value of more than half of the answering votes; where there is none, the values given are in dispute.

    Abstentions are no votes: a value that one annotator gave while the others could not tell stands, with confidence
    1 of 1. Fewer answering votes than `min_votes` give neither a value nor a dispute. Confidence is the share of the
    answering votes.
    """
    counts = counts_of(votes, num_values)
    answering, most = counts.sum(axis=1), counts.max(axis=1)
    enough = answering >= min_votes
    settled = enough & (2 * most > answering)
    return Fused(
        value=np.where(settled, counts.argmax(axis=1), -1).astype(np.int16),
        confidence=most / np.maximum(answering, 1),
        competing=(counts > 0) & (enough & ~settled)[:, None],
    )


def by_weight(votes: Ints, weighing: Weighing, min_votes: int, min_confidence: float) -> Fused:
    """The most probable value given the votes; in dispute where its probability is below `min_confidence`.

    A dispute is between the values that annotators gave and the two most probable ones. Fewer answering votes than
    `min_votes` give neither a value nor a dispute. Confidence is the probability.
    """
    posterior = weighing.posterior
    counts = counts_of(votes, posterior.shape[1])
    enough = counts.sum(axis=1) >= min_votes
    confidence = posterior.max(axis=1)
    settled = enough & (confidence >= min_confidence)
    likely = np.zeros(posterior.shape, dtype=bool)
    np.put_along_axis(likely, np.argsort(-posterior, axis=1, kind="stable")[:, :2], True, axis=1)
    competing = (counts > 0) | (likely & (posterior > 0))
    return Fused(
        value=np.where(settled, posterior.argmax(axis=1), -1).astype(np.int16),
        confidence=confidence,
        competing=competing & (enough & ~settled)[:, None],
    )
