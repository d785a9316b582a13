"""Do annotators err together? A test that needs no truth, from the votes alone.

A vote that two annotators share counts twice, so a consensus of annotators that err together is surer than it is
right. Without the truth it is hard to see: two that agree often may be alike, or both be good. Dawid and Skene's model
is too free to show it: with a confusion matrix for each annotator it takes what two share for the truth. So the model
here is the one of `dawid_skene.fit_shared`, with one error rate for each annotator and a pattern of wrong values common
to all, in which annotators err independently given the truth. Against it stands the alternative that a share of the
decisions of two annotators is one decision.

What it can see, measured on made votes about nine attributes of 3 to 8 values: 9 false alarms in 1344 sets of 200 to
1500 Samples where errors are such; alarms in up to 30 of 100 sets where each annotator is good at values of its own. Of
three annotators, two that take three of ten decisions as one, all erring in 0.2 or 0.3 of their votes: found in nearly
all sets of 500 Samples, seldom in sets of 200, where values are of clearly unequal frequency. Not found by three: where
all values are equally frequent, where all share alike, or where one of the two hardly errs. No alarm is no proof.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathloom.attributes import AttributeSchema
from pathloom.curate.consensus_votes import Ints
from pathloom.curate.dawid_skene import SharedModel, fit_shared

Floats = NDArray[np.float64]

ALARM = 0.01
"""Chance of at least one false alarm over all pairs of a set at most (Bonferroni); our own choice."""
MIN_ANNOTATORS = 3
"""Two annotators that agree tell nothing of why."""
MIN_VALUES = 3
"""With two values three annotators give seven shares of patterns, and the model of a free confusion matrix for each has
seven numbers: anything fits."""
MIN_SAMPLES = 200
"""Below, shares of patterns are too rough for a normal approximation; our own choice."""
_LEAST = 1e-3
"""Probabilities below it are taken as this much in the score, which bounds the weight of a single Sample."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Dependence:
    """How far two annotators agree beyond what independent errors would give: standard score and one-sided p."""

    z: float
    p_value: float
    alarm: bool


def dependence(
    values: Mapping[str, Ints], schema: AttributeSchema, num_annotators: int
) -> dict[Pair, Dependence]:
    """Each pair of annotators over all attributes of three values or more; empty where nothing can be told.

    The score test of a shared share of 0 (Neyman's C(alpha): Neyman 1959, in Probability and Statistics, the Harald
    Cramer volume, 213-234): the slope of the log-likelihood in the shared share, for each Sample, freed by least
    squares from what the fitted rates, priors and spreads could explain, summed over the attributes of a Sample.
    Samples are independent, attributes of one Sample need not be.

    More than one pair shows where one is at fault: four annotators that fall into two camps of two look as if either
    camp erred together.
    """
    from scipy.stats import norm

    tested = [name for name in values if len(schema[name].values) >= MIN_VALUES]
    if num_annotators < MIN_ANNOTATORS or not tested or len(values[tested[0]]) < MIN_SAMPLES:
        return {}
    pairs = list(itertools.combinations(range(num_annotators), 2))
    slopes = np.zeros((len(values[tested[0]]), len(pairs)))
    for name in tested:
        votes = np.maximum(values[name], -1)
        if (votes >= 0).any(axis=0).all():
            slopes += _slopes(fit_shared(votes, len(schema[name].values)), pairs)
    spread = np.sqrt((slopes**2).sum(axis=0))
    found = {}
    for column, pair in enumerate(pairs):
        if spread[column] > 0:
            z = float(slopes[:, column].sum() / spread[column])
            p_value = float(norm.sf(z))
            found[pair] = Dependence(z, p_value, p_value < ALARM / len(pairs))
    return found


def _slopes(fit: SharedModel, pairs: Sequence[Pair]) -> Floats:
    """For each Sample and pair, the slope of its log-likelihood in the shared share, freed from the model's own."""
    known = _own_slopes(fit)
    weight, num_samples = np.sqrt(fit.count), fit.count.sum()
    slopes = []
    for first, second in pairs:
        raw = _shared_slope(fit, first, second)
        coefficients, _, rank, _ = np.linalg.lstsq(known * weight[:, None], raw * weight, rcond=1e-8)
        freedom = num_samples / max(num_samples - rank, 1)
        slopes.append((raw - known @ coefficients) * np.sqrt(freedom))
    return np.stack(slopes, axis=1)[fit.row]


def _shared_slope(fit: SharedModel, first: int, second: int) -> Floats:
    """For each pattern. Shared decisions come alike from the one's and from the other's distribution."""
    said, confusion = fit.patterns, fit.confusion
    both = (said[:, first] >= 0) & (said[:, second] >= 0)
    same = both & (said[:, first] == said[:, second])
    one, other = (
        np.maximum(confusion[who][:, np.maximum(said[:, who], 0)].T, _LEAST) for who in (first, second)
    )
    return (fit.posterior * np.where(same[:, None], (1 / one + 1 / other) / 2, 0)).sum(axis=1) - both


def _own_slopes(fit: SharedModel) -> Floats:
    """Slopes of each pattern's log-likelihood in prior, error rates and spread, those that data say something of."""
    num_samples = fit.count.sum()
    likely = int(np.argmax(fit.prior))
    seen = [value for value in range(len(fit.prior)) if fit.prior[value] * num_samples > 1]
    columns = [
        fit.posterior[:, value] / fit.prior[value] - fit.posterior[:, likely] / fit.prior[likely]
        for value in seen
        if value != likely
    ]
    for indicator, error in zip(fit.indicator, fit.errors, strict=True):
        right = (indicator * fit.posterior).sum(axis=1)
        columns.append((indicator.sum(axis=1) - right) / error - right / (1 - error))
    said = fit.indicator.sum(axis=0)
    for truth in seen:
        share = fit.spread[truth]
        expected = share * fit.errors.sum() * fit.prior[truth] * num_samples
        free = [value for value in np.argsort(-share) if value != truth and expected[value] > 1]
        columns += [
            fit.posterior[:, truth] * (said[:, value] / share[value] - said[:, free[0]] / share[free[0]])
            for value in free[1:]
        ]
    return np.stack(columns, axis=1)
