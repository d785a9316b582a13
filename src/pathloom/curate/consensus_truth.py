"""What a consensus is worth where the truth is known: errors with intervals, and whether annotators err together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.curate.agreement import pair_names, pairs_of
from pathloom.curate.consensus_dependence import ALARM
from pathloom.curate.consensus_fusion import counts_of
from pathloom.curate.consensus_votes import Ints, Votes
from pathloom.curate.intervals import ratio_intervals

Floats = NDArray[np.float64]

NUM_RESAMPLES = 1000
MIN_GROUPS = 30
"""With fewer groups the spread between them says little, and Samples are resampled instead; our own choice."""
NUM_PERMUTATIONS = 50
POOLED = "all attributes"
MAJORITY_MINUS_DAWID_SKENE = "majority_minus_dawid_skene"


@dataclass(frozen=True)
class Known:
    """Votes with their truth, and what three ways made of them.

    true, fused  attribute -> place of the value [sample], negative where there is none
    weighted     attribute -> the most probable value by Dawid and Skene's model [sample]
    """

    votes: Votes
    true: Mapping[str, Ints]
    fused: Mapping[str, Ints]
    weighted: Mapping[str, Ints]

    @property
    def resampled(self) -> str:
        return "groups" if self.votes.groups.max(initial=-1) + 1 >= MIN_GROUPS else "samples"

    @property
    def clusters(self) -> NDArray[np.int64]:
        return self.votes.groups if self.resampled == "groups" else np.arange(self.votes.num_samples)


def drawn_errors(counts: NDArray[np.int64], true: Ints) -> Floats:
    """Chance that the most voted value is wrong where ties are drawn by lot; NaN without votes or truth [sample]."""
    most = counts.max(axis=1)
    best = (counts == most[:, None]) & (most > 0)[:, None]
    hit = np.take_along_axis(best, np.maximum(true, 0)[:, None].astype(np.intp), axis=1)[:, 0]
    right = hit / np.maximum(best.sum(axis=1), 1)
    return np.where((true >= 0) & (most > 0), 1 - right, np.nan)


def error_table(known: Known, seed: int) -> dict[str, dict[str, Any]]:
    """Attribute -> who -> error with its interval (intervals.py) over groups or Samples, then pooled over attributes.

    An annotator's error is over what it answered, `fused` over what got a value; `majority` (ties drawn by lot) and
    `dawid_skene` are of the votes alone, without an arbiter, and `majority_minus_dawid_skene` is paired.
    """
    wrong = {name: _wrong(known, name) for name in known.votes.schema.attributes}
    wrong = {name: table for name, table in wrong.items() if not np.isnan(table["dawid_skene"]).all()}
    if not wrong:
        return {}
    who = list(next(iter(wrong.values())))
    rows = np.stack([[wrong[name][one] for one in who] for name in wrong])  # [attribute, who, sample]
    rows = np.concatenate([rows, np.full((1, *rows.shape[1:]), np.nan)])
    sums, counts = (_by_cluster(part, known.clusters) for part in (np.nan_to_num(rows), ~np.isnan(rows)))
    sums[-1], counts[-1] = sums[:-1].sum(axis=0), counts[:-1].sum(axis=0)
    low, high = ratio_intervals(sums, counts, seed, NUM_RESAMPLES)
    table: dict[str, dict[str, Any]] = {}
    for at, name in enumerate([*wrong, POOLED]):
        total, number = sums[at].sum(axis=1), counts[at].sum(axis=1)
        table[name] = {"n": int(number[who.index("dawid_skene")])}
        for column, one in enumerate(who):
            if number[column]:
                ends = (total[column] / number[column], low[at, column], high[at, column])
                named = zip(("value", "low", "high"), ends, strict=True)
                table[name][one] = {end: round(float(value), 5) for end, value in named}
    return table


def _wrong(known: Known, name: str) -> dict[str, Floats]:
    """Who -> 1 where it is wrong, 0 where right, NaN where it says nothing or nothing is known [sample]."""
    votes, true = known.votes.values[name], known.true[name]
    num_values = len(known.votes.schema[name].values)

    def of(said: Ints) -> Floats:
        return np.where((said >= 0) & (true >= 0), (said != true).astype(float), np.nan)

    majority, weighted = drawn_errors(counts_of(votes, num_values), true), of(known.weighted[name])
    return {
        # named so that an annotator called "majority" or "n" stands beside the others and not in their place
        **{f"annotator {name}": of(votes[:, column]) for column, name in enumerate(known.votes.annotators)},
        "fused": of(known.fused[name]),
        "majority": majority,
        "dawid_skene": weighted,
        MAJORITY_MINUS_DAWID_SKENE: majority - weighted,
    }


def _by_cluster(rows: NDArray[Any], clusters: NDArray[np.int64]) -> Floats:
    """Sums over the Samples of each cluster [..., cluster]."""
    order = np.argsort(clusters, kind="stable")
    starts = np.flatnonzero(np.diff(clusters[order], prepend=-1))
    return np.add.reduceat(rows[..., order].astype(float), starts, axis=-1)


def pairs_against_truth(known: Known) -> dict[str, dict[str, Any]]:
    """Pair -> how its errors go together, pooled over attributes.

    Errors are taken from their rate for each attribute and true value, so that a hard value is no correlation. The
    standard score is that of the summed products over groups, which have mean 0 where the two err independently.
    """
    from scipy.stats import norm

    table = {}
    pairs = pairs_of(known.votes)
    for pair in pairs:
        products, both_wrong, same_wrong = (np.zeros(known.votes.num_samples) for _ in range(3))
        squares, answered = np.zeros(2), 0
        for name, said in known.votes.values.items():
            one, other, true = said[:, pair[0]], said[:, pair[1]], known.true[name]
            use = (one >= 0) & (other >= 0) & (true >= 0)
            off = _from_rate(said[use][:, pair], true[use])
            products[use] += off.prod(axis=1)
            squares += (off**2).sum(axis=0)
            answered += int(use.sum())
            both = (one[use] != true[use]) & (other[use] != true[use])
            both_wrong[use] += both
            same_wrong[use] += both & (one[use] == other[use])
        norms = np.sqrt(squares.prod())
        if not norms:
            continue
        by_cluster = _by_cluster(products, known.clusters)
        spread = float(np.sqrt((by_cluster**2).sum()))
        z = float(by_cluster.sum()) / spread if spread else 0.0
        table[pair_names(known.votes, pair)] = {
            "n": answered,
            "error_correlation": round(float(products.sum() / norms), 4),
            "both_wrong": round(float(both_wrong.sum() / answered), 4),
            "both_wrong_if_independent": round(float((both_wrong.sum() - products.sum()) / answered), 4),
            "same_wrong_value": round(float(same_wrong.sum() / answered), 4),
            "z": round(z, 2),
            "alarm": bool(norm.sf(z) < ALARM / len(pairs)),
        }
    return table


def _from_rate(said: Ints, true: Ints) -> Floats:
    """Errors less their mean over the Samples of the same true value [sample, annotator]."""
    wrong = (said != true[:, None]).astype(float)
    for value in np.unique(true):
        of = true == value
        wrong[of] -= wrong[of].mean(axis=0)
    return wrong


def majority_if_independent(known: Known, seed: int) -> dict[str, dict[str, float]]:
    """Attribute -> error of the majority, and the one that it would have if annotators with the very same answers for
    each true value erred independently.

    Each annotator's votes are shuffled among the Samples of the same true value; `low` and `high` hold 95 % of the
    shuffles. Ties are drawn by lot.
    """
    rng = np.random.default_rng(seed)
    table = {}
    for name, said in known.votes.values.items():
        true, num_values = known.true[name], len(known.votes.schema[name].values)
        use = true >= 0
        votes, truth = said[use], true[use]
        observed = drawn_errors(counts_of(votes, num_values), truth)
        if np.isnan(observed).all():
            continue
        members = [np.flatnonzero(truth == value) for value in np.unique(truth)]
        shuffled = votes.copy()
        drawn = []
        for _ in range(NUM_PERMUTATIONS):
            for rows in members:
                for column in range(votes.shape[1]):
                    shuffled[rows, column] = votes[rng.permutation(rows), column]
            drawn.append(np.nanmean(drawn_errors(counts_of(shuffled, num_values), truth)))
        low, high = np.percentile(drawn, [2.5, 97.5])
        table[name] = {
            "error": round(float(np.nanmean(observed)), 5),
            "if_independent": round(float(np.mean(drawn)), 5),
            "low": round(float(low), 5),
            "high": round(float(high), 5),
        }
    return table
