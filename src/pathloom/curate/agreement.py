"""How well annotators agree, with one another and with the value that became of their votes: tables for the report.

Cells that cannot be computed, as the kappa of two that always said the same one value, are left out.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.curate.consensus_votes import ABSENT, CANNOT_TELL, UNKNOWN, Ints, Votes

SAME_SHARE = 0.99
"""Annotators that say the same on this share of what both answered are taken for one and the same; our own choice."""
SAME_MARGIN = 0.02
"""And agree less with everybody else by at least this: where all agree, likeness tells nothing. Our own choice."""
SAME_LEAST = 50
"""Answers that two must share for that to be said; our own choice."""
MOST_ROWS = 30
"""Rows of a table that could be as long as the set has kinds of mistake."""


def alpha(votes: Ints, *, ordered: bool) -> float | None:
    """Krippendorff's alpha; None where it is undefined: no Sample with two votes, or one value throughout.

    Krippendorff 2004, Content Analysis, 2nd edition, chapter 11: missing votes are left out, and Samples with a single
    vote. Distance is 0 or 1, or for ordered values the squared difference of their places (the interval metric).
    """
    import pandas as pd
    from crowdkit.metrics.data import alpha_krippendorff

    several = (votes >= 0).sum(axis=1) > 1
    if len(np.unique(votes[several][votes[several] >= 0])) < 2:
        return None
    rows, columns = np.nonzero((votes >= 0) & several[:, None])
    said = pd.DataFrame({"task": rows, "worker": columns, "label": votes[rows, columns].astype(int)})
    return float(alpha_krippendorff(said, _squared if ordered else _unequal))


def _squared(one: Any, other: Any) -> float:
    return float((one - other) ** 2)


def _unequal(one: Any, other: Any) -> float:
    return float(one != other)


def kappa(one: Ints, other: Ints, num_values: int, *, ordered: bool) -> float | None:
    """Cohen's kappa on what both answered, weighted by the squared difference where values are ordered (Cohen 1968,
    Psychological Bulletin 70, 213-220); None without two values.
    """
    from sklearn.metrics import cohen_kappa_score

    both = (one >= 0) & (other >= 0)
    one, other = one[both], other[both]
    if len(np.unique(np.concatenate([one, other]))) < 2:
        return None
    weights = "quadratic" if ordered else None
    return float(cohen_kappa_score(one, other, labels=range(num_values), weights=weights))


def alphas(votes: Votes) -> dict[str, float | None]:
    return {
        name: alpha(votes.values[name], ordered=kind.ordered)
        for name, kind in votes.schema.attributes.items()
    }


def kappas(votes: Votes) -> dict[str, dict[str, float]]:
    """Attribute -> "a / b" -> kappa."""
    table: dict[str, dict[str, float]] = {}
    for name, kind in votes.schema.attributes.items():
        said = votes.values[name]
        found = {
            f"{votes.annotators[a]} / {votes.annotators[b]}": kappa(
                said[:, a], said[:, b], len(kind.values), ordered=kind.ordered
            )
            for a, b in pairs_of(votes)
        }
        table[name] = {pair: value for pair, value in found.items() if value is not None}
    return table


def pairs_of(votes: Votes) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(len(votes.annotators)), 2))


def pooled_agreement(votes: Votes) -> dict[tuple[int, int], tuple[int, float]]:
    """Pair -> (answers that both gave, over all attributes; share on which they agree), NaN without any."""
    found = {}
    for a, b in pairs_of(votes):
        answered = same = 0
        for said in votes.values.values():
            both = (said[:, a] >= 0) & (said[:, b] >= 0)
            answered += int(both.sum())
            same += int((both & (said[:, a] == said[:, b])).sum())
        found[a, b] = (answered, same / answered if answered else math.nan)
    return found


def same_annotators(votes: Votes) -> list[tuple[int, int]]:
    """Pairs that say the same of nearly everything while each agrees less with somebody else, or none is there."""
    agreement = pooled_agreement(votes)
    found = []
    for (a, b), (answered, share) in agreement.items():
        others = [
            other
            for pair, (many, other) in agreement.items()
            if many and pair != (a, b) and len({a, b} & set(pair)) == 1
        ]
        apart = not others or min(others) <= share - SAME_MARGIN
        if answered >= SAME_LEAST and share >= SAME_SHARE and apart:
            found.append((a, b))
    return found


def against_fused(votes: Votes, fused: Mapping[str, Ints]) -> dict[str, dict[str, Any]]:
    """Annotator -> what it said, and how much of it became the fused value. Its own vote is part of that value."""
    rows = {}
    for column, annotator in enumerate(votes.annotators):
        said = np.concatenate([values[:, column] for values in votes.values.values()])
        final = np.concatenate([fused[name] for name in votes.values])
        both = (said >= 0) & (final >= 0)
        present = int((said != ABSENT).sum())
        rows[annotator] = {
            "samples": present // max(len(votes.values), 1),
            "votes": int((said >= 0).sum()),
            "cannot_tell": share((said == CANNOT_TELL).sum(), present),
            "unknown_words": share((said == UNKNOWN).sum(), present),
            "agrees_with_fused": share((said == final)[both].sum(), both.sum()),
        }
    return rows


def confusions(votes: Votes, fused: Mapping[str, Ints]) -> list[dict[str, Any]]:
    """The largest confusions: annotator against fused value, as a share of its votes where that value came out."""
    rows = []
    for name, kind in votes.schema.attributes.items():
        for column, annotator in enumerate(votes.annotators):
            table = cross(fused[name], votes.values[name][:, column], len(kind.values))
            for final, said in np.argwhere(table * (1 - np.eye(len(table), dtype=np.int64))):
                rows.append(
                    {
                        "attribute": name,
                        "annotator": annotator,
                        "fused": kind.values[final],
                        "said": kind.values[said],
                        "count": int(table[final, said]),
                        "share": share(table[final, said], table[final].sum()),
                    }
                )
    return sorted(rows, key=lambda row: -int(row["count"]))[:MOST_ROWS]


def cross(one: Ints, other: Ints, num_values: int) -> NDArray[np.int64]:
    """How often the first is the row's and the second the column's value [value, value]."""
    both = (one >= 0) & (other >= 0)
    table = np.zeros((num_values, num_values), dtype=np.int64)
    np.add.at(table, (one[both], other[both]), 1)
    return table


def unknown_words(votes: Votes) -> list[dict[str, Any]]:
    """What was said most often that the schema does not know: words to add to it, or an annotator off the point."""
    rows: list[dict[str, Any]] = [
        {"annotator": annotator, "attribute": name, "words": words[:80], "count": count}
        for (annotator, name, words), count in votes.unknown.items()
    ] + [
        {"annotator": annotator, "attribute": f"{called[:40]} (no attribute)", "words": "", "count": count}
        for (annotator, called), count in votes.unasked.items()
    ]
    return sorted(rows, key=lambda row: (-int(row["count"]), row["annotator"], row["attribute"]))[:MOST_ROWS]


def share(part: Any, whole: Any) -> float:
    """0 of nothing."""
    return float(part) / float(whole) if whole else 0.0


def pair_names(votes: Votes, pair: Sequence[int]) -> str:
    return " / ".join(votes.annotators[column] for column in pair)
