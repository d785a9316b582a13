"""Nearest neighbours in blocks equal brute force, with ties, whatever the block."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from pathloom.nearest import TIE, pair_ranks, pairs_above, top_k

BLOCKS = (1, 64, 300, 2**20)
"""Bytes of scores at once: a row, a few rows, all."""


def whole_numbers(rng: np.random.Generator, n: int, d: int = 3) -> np.ndarray:
    """Few different rows of small whole numbers: products are exact and many tie."""
    return rng.integers(-2, 3, (n, d)).astype(np.float32)


def unit_rows(rng: np.random.Generator, n: int, d: int, distinct: int) -> np.ndarray:
    vectors = rng.standard_normal((distinct, d))[rng.integers(0, distinct, n)]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def slow_ranks(queries: np.ndarray, keys: np.ndarray, groups: np.ndarray) -> list[int]:
    """One query after the other in float64."""
    ranks = []
    for query, group in zip(queries.astype(np.float64), groups, strict=True):
        scores = keys.astype(np.float64) @ query
        best = scores[groups == group].max()
        ranks.append(1 + int((scores[groups != group] >= best - TIE).sum()))
    return ranks


@pytest.mark.parametrize("seed", range(40))
def test_top_k_equals_a_stable_sort_of_all_scores_with_repeats_and_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m, k = (int(number) for number in rng.integers(1, 30, 3))
    queries, keys = whole_numbers(rng, n), whole_numbers(rng, m)
    all_scores = queries @ keys.T
    wanted = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    for block_bytes in BLOCKS:
        scores, indices = top_k(queries, keys, k, block_bytes=block_bytes)
        np.testing.assert_array_equal(indices, wanted)
        np.testing.assert_array_equal(scores, np.take_along_axis(all_scores, wanted, axis=1))
        assert scores.dtype == np.float32
        assert indices.dtype == np.int64


@pytest.mark.parametrize("d", [33, 97, 512])
@pytest.mark.parametrize("m", [5, 37, 1001])
def test_identical_rows_have_identical_scores_where_a_product_differs_in_its_last_bit(d: int, m: int) -> None:
    """In plain products of these shapes some do (OpenBLAS, on the machine that this was written on)."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 17):
        keys = np.tile(rng.standard_normal(d), (m, 1))
        queries = np.tile(rng.standard_normal((n, d)), (3, 1))
        for k in (m // 2, m):
            scores, indices = top_k(queries, keys, k, block_bytes=4 * m * 2)
            np.testing.assert_array_equal(indices, np.tile(np.arange(k), (3 * n, 1)))
            np.testing.assert_array_equal(scores, np.tile(scores[:n, :1], (3, k)))


def test_a_search_in_small_blocks_takes_far_less_memory_than_the_vectors() -> None:
    vectors = np.random.default_rng(0).standard_normal((2000, 2048)).astype(np.float32)
    tracemalloc.start()
    try:
        top_k(vectors, vectors, 3, block_bytes=2**18)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.2 * vectors.nbytes


def test_more_neighbours_than_keys_are_all_keys() -> None:
    scores, indices = top_k(np.eye(2), np.eye(2), 9)
    assert indices.tolist() == [[0, 1], [1, 0]]
    assert scores.tolist() == [[1, 0], [1, 0]]
    assert top_k(np.zeros((0, 4)), np.eye(4), 2)[1].shape == (0, 2)
    assert top_k(np.eye(4), np.zeros((0, 4)), 2)[1].shape == (4, 0)


@pytest.mark.parametrize("seed", range(20))
def test_pairs_above_are_all_pairs_above_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = whole_numbers(rng, int(rng.integers(1, 25))), whole_numbers(rng, int(rng.integers(1, 25)))
    within, across = left @ left.T, left @ right.T
    threshold = float(rng.integers(-2, 6))
    for block_bytes in BLOCKS:
        assert list(pairs_above(left, threshold, block_bytes=block_bytes)) == [
            (i, j, float(within[i, j]))
            for i in range(len(left))
            for j in range(i + 1, len(left))
            if within[i, j] >= threshold
        ]
        assert list(pairs_above(left, threshold, right, block_bytes=block_bytes)) == [
            (i, j, float(across[i, j]))
            for i in range(len(left))
            for j in range(len(right))
            if across[i, j] >= threshold
        ]


@pytest.mark.parametrize("seed", range(60))
def test_ranks_equal_brute_force_with_repeats_and_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(1, 40)), int(rng.integers(2, 70))
    left, right = (unit_rows(rng, n, d, int(rng.integers(1, n + 1))) for _ in range(2))
    for groups in (np.arange(n), rng.integers(0, n, n), rng.integers(0, 3, n), np.zeros(n, np.int64)):
        wanted = slow_ranks(left, right, groups), slow_ranks(right, left, groups)
        for block_bytes in BLOCKS:
            ranks = pair_ranks(left, right, groups, block_bytes=block_bytes)
            assert (ranks[0].tolist(), ranks[1].tolist()) == wanted
    alone = slow_ranks(left, right, np.arange(n))
    assert pair_ranks(left, right)[0].tolist() == alone


@pytest.mark.parametrize("d", [3, 97, 512])
def test_features_that_are_all_alike_rank_last(d: int) -> None:
    rng = np.random.default_rng(d)
    right = unit_rows(rng, 1, d, 1).repeat(200, axis=0)
    almost = right + rng.normal(0, 1e-8, right.shape).astype(np.float32)
    for left in (right, almost):
        for block_bytes in (1, 4_000, 2**20):
            for ranks in pair_ranks(left, right, block_bytes=block_bytes):
                assert set(ranks.tolist()) == {200}


def test_a_right_answer_of_the_same_group_is_not_counted_against() -> None:
    right = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert pair_ranks(right, right)[0].tolist() == [2, 2, 1]
    assert pair_ranks(right, right, [5, 5, 9])[0].tolist() == [1, 1, 1]


def test_the_best_of_a_group_counts() -> None:
    left = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    right = np.array([[0, 1], [1, 0], [0.8, 0.6]], np.float32)
    assert pair_ranks(left, right)[0].tolist() == [3, 3, 1]
    assert pair_ranks(left, right, [0, 0, 1])[0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_by_its_row(bad: float) -> None:
    broken = np.eye(3)
    broken[1, 2] = bad
    for call in (
        lambda: top_k(np.eye(3), broken, 1),
        lambda: list(pairs_above(broken, 0.5)),
        lambda: pair_ranks(broken, np.eye(3)),
    ):
        with pytest.raises(ValueError, match="row 1 holds NaN or infinity"):
            call()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: top_k(np.eye(3), np.eye(3), 0), "k is 0"),
        (lambda: top_k(np.eye(3), np.eye(4), 1), r"shapes \(3, 3\) and \(4, 4\)"),
        (lambda: list(pairs_above(np.ones(3), 0.5)), r"shapes \(3,\)"),
        (lambda: pair_ranks(np.eye(3), np.eye(3)[:2]), "3 rows, 2 partners"),
        (lambda: pair_ranks(np.eye(3), np.eye(3), [1, 2]), "2 groups"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
