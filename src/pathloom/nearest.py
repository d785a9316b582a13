"""Exact nearest neighbours in blocks: top-k, pairs above a threshold and ranks of pairs, in bounded memory.

Scores are dot products in float32, so cosines where rows have length 1. A block is some rows against all rows of the
other side. The last bit of a matrix product depends on where in a block a row stands; each function says how it keeps
that bit from deciding between equals. Vectors that hold NaN or infinity are refused: a comparison with NaN is never
true and would hide a row.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

BLOCK_BYTES = 64 * 2**20
"""Scores held at once; what is derived from them takes two to five times as much (our own choice)."""

TIE = 1e-6
"""Cosines this close are a tie. Our own choice: ten times the largest error of a cosine of 512 dimensions in float32
that `speed/retrieval.py` finds, and far below any difference between captions that a reader would call one."""


def top_k(
    queries: ArrayLike, keys: ArrayLike, k: int, *, block_bytes: int = BLOCK_BYTES
) -> tuple[Floats, Indices]:
    """The `k` keys [m, d] with the largest dot product with each query [n, d], all of them where m < k.

    Gives scores and indices of keys, both [n, min(k, m)], descending; of a tie the lower index stands first. Identical
    rows have one score, because each is multiplied once; where keys repeat, the distinct ones are copied.
    Raises ValueError for NaN, infinity, other shapes or k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    queries, keys = _two_sides(queries, keys)
    k = min(k, len(keys))
    first_queries, query_of = _distinct(queries)
    first_keys, key_of = _distinct(keys)
    repeated = len(first_keys) < len(keys)
    few = keys[first_keys] if repeated else keys
    scores = np.empty((len(first_queries), min(k, len(few))), np.float32)
    found = np.empty(scores.shape, np.int64)
    for start, stop in _blocks(len(first_queries), len(few), block_bytes):
        block = queries[first_queries[start:stop]] @ few.T
        found[start:stop] = _largest(block, scores.shape[1])
        scores[start:stop] = np.take_along_axis(block, found[start:stop], axis=1)
    if repeated:
        scores, found = _with_repeats(scores, found, key_of, k)
    return scores[query_of], found[query_of]


def pairs_above(
    vectors: ArrayLike, threshold: float, others: ArrayLike | None = None, *, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[int, int, float]]:
    """(i, j, score) of all pairs with a dot product >= threshold, by i, then j.

    i < j within `vectors` [n, d], or i of `vectors` and j of `others` [m, d]. A score may be 1e-6 off, so that a row of
    length 1 need not reach 1.0 with itself: stay below. Raises ValueError for NaN, infinity or other shapes.
    """
    left, right = _two_sides(vectors, vectors if others is None else others)
    for start, stop in _blocks(len(left), len(right), block_bytes):
        skipped = start if others is None else 0
        block = left[start:stop] @ right[skipped:].T
        rows, columns = np.nonzero(block >= threshold)
        if others is None:
            later = rows < columns
            rows, columns = rows[later], columns[later]
        scores = block[rows, columns]
        yield from zip((rows + start).tolist(), (columns + skipped).tolist(), scores.tolist(), strict=True)


def pair_ranks(
    left: ArrayLike, right: ArrayLike, groups: ArrayLike | None = None, *, block_bytes: int = BLOCK_BYTES
) -> tuple[Indices, Indices]:
    """Ranks from 1 of the best right answer: (of each left row among `right`, of each right row among `left`).

    left, right  [n, d], rows of length 1; row i of one is the partner of row i of the other
    groups       [n] integers; items of the query's own group are right answers too. Default: the partner alone

    A rank is 1 + the number of wrong items that score at least as high as the best right one. A wrong item less than
    TIE below it is counted, so a tie counts against the model: features that are all alike rank last, not first. TIE
    is larger than the error of float32, so the place of a row in a block decides nothing between equals.
    Raises ValueError for NaN, infinity or sides that do not fit.
    """
    left, right = _two_sides(left, right)
    labels = np.arange(len(left)) if groups is None else np.asarray(groups, np.int64)
    if not len(left) == len(right) == len(labels):
        raise ValueError(f"{len(left)} rows, {len(right)} partners and {len(labels)} groups are no pairs")
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    if (order[1:] < order[:-1]).any():
        # a group's members side by side, so few blocks hold right answers
        left, right = left[order], right[order]
    blocks = list(_blocks(len(left), len(right), block_bytes))
    left_best = np.full(len(left), -np.inf, np.float32)
    right_best = np.full(len(right), -np.inf, np.float32)
    for start, stop in blocks:
        low, high = _columns_of_groups(labels, start, stop)
        wrong = labels[start:stop, None] != labels[None, low:high]
        scores = np.where(wrong, -np.inf, left[start:stop] @ right[low:high].T)
        left_best[start:stop] = scores.max(axis=1)
        np.maximum(right_best[low:high], scores.max(axis=0), out=right_best[low:high])
    left_above = np.zeros(len(left), np.int64)
    right_above = np.zeros(len(right), np.int64)
    for start, stop in blocks:
        low, high = _columns_of_groups(labels, start, stop)
        scores = left[start:stop] @ right.T
        scores[:, low:high][labels[start:stop, None] == labels[None, low:high]] = -np.inf
        left_above[start:stop] = np.count_nonzero(scores >= (left_best[start:stop, None] - TIE), axis=1)
        right_above += np.count_nonzero(scores >= (right_best - TIE), axis=0)
    ranks = np.empty((2, len(left)), np.int64)
    ranks[:, order] = 1 + np.stack([left_above, right_above])
    return ranks[0], ranks[1]


def finite_rows(vectors: Floats) -> NDArray[np.bool_]:
    """[n]: whether a row of [n, d] holds neither NaN nor infinity. By its sum, which takes no second [n, d]."""
    finite: NDArray[np.bool_] = np.isfinite(vectors.sum(axis=1, dtype=np.float64))
    return finite


def _two_sides(left: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    sides = [np.ascontiguousarray(side, dtype=np.float32) for side in (left, right)]
    for side in sides:
        if side.ndim != 2 or side.shape[1] != sides[0].shape[-1]:
            raise ValueError(f"shapes {sides[0].shape} and {sides[1].shape} are not [n, d] and [m, d]")
        finite = finite_rows(side)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise ValueError(f"row {row} holds NaN or infinity; leave such vectors out first")
    return sides[0], sides[1]


def _blocks(num_rows: int, num_columns: int, block_bytes: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of rows whose scores against all columns fit, one row at least."""
    size = max(1, block_bytes // (4 * max(1, num_columns)))
    for start in range(0, num_rows, size):
        yield start, min(num_rows, start + size)


def _columns_of_groups(labels: Indices, start: int, stop: int) -> tuple[int, int]:
    """Where in the sorted `labels` the groups of rows start to stop stand."""
    return int(np.searchsorted(labels, labels[start])), int(
        np.searchsorted(labels, labels[stop - 1], "right")
    )


def _distinct(vectors: Floats) -> tuple[Indices, Indices]:
    """(where each distinct row stands first, ascending; for each row which of those it equals)."""
    places: dict[bytes, int] = {}
    first: list[int] = []
    same = np.empty(len(vectors), np.int64)
    for row, vector in enumerate(vectors):
        key = hashlib.blake2b(vector, digest_size=16).digest()  # the bytes themselves would double the memory
        if key not in places:
            places[key] = len(first)
            first.append(row)
        same[row] = places[key]
    return np.array(first, np.int64), same


def _largest(scores: Floats, k: int) -> Indices:
    """Columns [n, k] of the k largest of each row, descending, of a tie the lower column first."""
    if k == scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    columns = np.sort(np.argpartition(scores, -k, axis=1)[:, -k:], axis=1)
    kept = np.take_along_axis(scores, columns, axis=1)
    # argpartition picks any of those that tie for the last place
    tied = np.flatnonzero(np.count_nonzero(scores >= kept.min(axis=1, keepdims=True), axis=1) > k)
    for row in tied:
        columns[row] = np.sort(np.argsort(-scores[row], kind="stable")[:k])
        kept[row] = scores[row, columns[row]]
    return np.take_along_axis(columns, np.argsort(-kept, axis=1, kind="stable"), axis=1)


def _with_repeats(scores: Floats, found: Indices, key_of: Indices, k: int) -> tuple[Floats, Indices]:
    """Distinct keys replaced by all rows that equal them, cut at k; both [n, k]."""
    by_key = np.argsort(key_of, kind="stable")
    ends = np.cumsum(np.bincount(key_of))
    starts = np.concatenate([[0], ends[:-1]])
    more_scores = np.empty((len(scores), k), np.float32)
    more_found = np.empty((len(scores), k), np.int64)
    for row, (own_scores, own) in enumerate(zip(scores, found, strict=True)):
        members = [by_key[starts[key] : min(ends[key], starts[key] + k)] for key in own]
        rows = np.concatenate(members)
        values = np.repeat(own_scores, [len(part) for part in members])
        best = np.lexsort((rows, -values))[:k]
        more_scores[row], more_found[row] = values[best], rows[best]
    return more_scores, more_found
