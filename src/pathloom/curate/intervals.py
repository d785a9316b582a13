"""Intervals of means over Samples, for the facts of steps (`consensus`, `expert`): a percentile bootstrap.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3; 95 %.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_MAX_DRAWN = 1_000_000  # clusters drawn at once (resamples x clusters): some 24 MB


def ratio_intervals(
    sums: Floats, counts: Floats, seed: int, num_resamples: int = 2000
) -> tuple[Floats, Floats]:
    """Low and high ends of sums over counts [...] when clusters, the last axis, are drawn with replacement.

    The same draws serve all ratios. Draws in which nothing is counted are left out; NaN where nothing ever is.
    """
    shape, num_clusters = sums.shape[:-1], sums.shape[-1]
    above, below = sums.reshape(-1, num_clusters), counts.reshape(-1, num_clusters)
    rng = np.random.default_rng(seed)
    at_once = max(1, _MAX_DRAWN // num_clusters)
    means = np.full((num_resamples, len(above)), np.nan)
    for start in range(0, num_resamples, at_once):
        part = means[start : start + at_once]
        drawn = rng.integers(num_clusters, size=(len(part), num_clusters))
        drawn += np.arange(len(part))[:, None] * num_clusters  # a range of numbers for each resample
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        number = weights @ below.T
        np.divide(weights @ above.T, number, out=part, where=number > 0)
    ends = np.full((2, len(above)), np.nan)
    known = ~np.isnan(means).all(axis=0)
    ends[:, known] = np.nanpercentile(means[:, known], (2.5, 97.5), axis=0)
    return ends[0].reshape(shape), ends[1].reshape(shape)


def bootstrap_mean(
    values: ArrayLike, groups: Sequence[Hashable], seed: int, num_resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of `values` [N] and its interval (value, low, high), by resampling whole `groups` [N].

    Where all values are of one group, values are resampled instead, which says nothing about other groups. Raises
    ValueError without values.
    """
    numbers = np.asarray(values, np.float64)
    if not len(numbers) or len(numbers) != len(groups):
        raise ValueError(f"{len(numbers)} values of {len(groups)} groups: as many of each, at least one")
    place = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    member = np.array([place[group] for group in groups]) if len(place) > 1 else np.arange(len(numbers))
    sums, counts = (np.bincount(member, each).astype(np.float64) for each in (numbers, np.ones(len(numbers))))
    low, high = ratio_intervals(sums, counts, seed, num_resamples)
    return float(numbers.mean()), float(low), float(high)
