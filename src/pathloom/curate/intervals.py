"""Intervals of means over Samples, for the facts of steps (`consensus`, `expert`)."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

_MAX_DRAWN = 1_000_000  # groups drawn at once (resamples x groups): some 24 MB


def bootstrap_mean(
    values: ArrayLike, groups: Sequence[Hashable], seed: int, num_resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of `values` [N] and its 95 % interval (value, low, high), by resampling whole `groups` [N].

    Percentile bootstrap (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3). Where all values are
    of one group, values are resampled instead, which says nothing about other groups. Raises ValueError without values.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers) or len(numbers) != len(groups):
        raise ValueError(f"{len(numbers)} values of {len(groups)} groups: as many of each, at least one")
    place = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    member = np.array([place[group] for group in groups]) if len(place) > 1 else np.arange(len(numbers))
    sums, counts = np.bincount(member, numbers), np.bincount(member).astype(np.float64)
    rng = np.random.default_rng(seed)
    means: list[float] = []
    while len(means) < num_resamples:
        rows = min(num_resamples - len(means), max(1, _MAX_DRAWN // len(sums)))
        drawn = rng.integers(len(sums), size=(rows, len(sums)))
        means.extend((sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)).tolist())
    low, high = np.percentile(means, (2.5, 97.5))
    return float(numbers.mean()), float(low), float(high)
