"""Dawid and Skene's model: how often each annotator errs, and what is probably true, from the votes alone.

Dawid & Skene 1979, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, J. R. Stat. Soc. C 28,
20-28: every Sample has one true value, and annotators err independently given it. Two forms of how they err:

own     a confusion matrix for each annotator, as in the paper: K (K - 1) numbers each for K values
shared  one error rate for each annotator, and one pattern for all of which wrong value stands for which true one: one
        number each, and K (K - 2). Ours, between the paper's model and the one-coin model, in which all wrong values
        are alike (Zhang, Chen, Zhou & Jordan 2016, Spectral Methods Meet EM, J. Mach. Learn. Res. 17, 1-44)

Abstentions are taken as missing at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pathloom.curate.consensus_votes import Ints

Floats = NDArray[np.float64]
Confusion = Literal["shared", "own"]

_MAX_ITERATIONS = 300
_TOLERANCE = 1e-8
"""Rise of the log-likelihood for a Sample at which the shared model has settled."""
_OWN_ITERATIONS = 100
"""The library's default; it stops before where its bound rises by less than 1e-5 for a vote."""


@dataclass(frozen=True)
class Weighing:
    """A fitted model of one attribute.

    posterior  probability of each value given the votes; 0 in rows without votes [sample, value]
    accuracy   column of the annotator -> estimated share of its votes that are right
    """

    posterior: Floats
    accuracy: Mapping[int, float]


@dataclass(frozen=True)
class SharedModel:
    """The shared form, fitted to the patterns of votes.

    patterns   the different rows of votes [pattern, annotator], and the pattern of each Sample `row` [sample]
    count      Samples of each pattern [pattern]
    indicator  1 where the annotator gave the value [annotator, pattern, value]
    prior      of each value; errors: rate of each annotator
    spread     which wrong value stands for which truth, rows sum to 1 [truth, value]
    posterior  [pattern, truth]
    """

    patterns: Ints
    row: NDArray[np.intp]
    count: NDArray[np.int64]
    indicator: Floats
    prior: Floats
    errors: Floats
    spread: Floats
    posterior: Floats

    @property
    def confusion(self) -> Floats:
        """[annotator, truth, value]"""
        return _confusion(self.errors, self.spread)


def weigh(votes: Ints, num_values: int, confusion: Confusion) -> Weighing:
    """Fit the model to the votes about one attribute [sample, annotator]; negative votes are abstentions."""
    answered = (votes >= 0).any(axis=1)
    posterior = np.zeros((len(votes), num_values))
    if not answered.any():
        return Weighing(posterior, {})
    columns = np.flatnonzero((votes >= 0).any(axis=0))
    given = votes[np.ix_(answered, columns)]
    if confusion == "own":
        posterior[answered], accuracy = _weigh_own(given, num_values)
    else:
        model = fit_shared(given, num_values)
        posterior[answered], accuracy = model.posterior[model.row], 1 - model.errors
    return Weighing(posterior, dict(zip(columns.tolist(), accuracy.tolist(), strict=True)))


def _weigh_own(votes: Ints, num_values: int) -> tuple[Floats, Floats]:
    """Posterior and accuracy, the sum over values of prior times the diagonal of the confusion."""
    import pandas as pd
    from crowdkit.aggregation.classification.dawid_skene import DawidSkene

    rows, columns = np.nonzero(votes >= 0)
    said = pd.DataFrame({"task": rows, "worker": columns, "label": votes[rows, columns].astype(np.int64)})
    model: Any = DawidSkene(n_iter=_OWN_ITERATIONS).fit(said)
    posterior = np.zeros((len(votes), num_values))
    values = model.probas_.columns.to_numpy()
    posterior[np.ix_(model.probas_.index.to_numpy(), values)] = model.probas_.to_numpy()
    prior = model.priors_.reindex(values).to_numpy()
    accuracy = np.zeros(votes.shape[1])
    for (column, value), shares in model.errors_.iterrows():
        accuracy[column] += prior[values == value].sum() * shares[value]
    return posterior, accuracy


def fit_shared(votes: Ints, num_values: int) -> SharedModel:
    """By expectation-maximisation, from the shares of the votes. Every annotator must have a vote."""
    patterns, row, count = np.unique(np.maximum(votes, -1), axis=0, return_inverse=True, return_counts=True)
    indicator = (patterns.T[:, :, None] == np.arange(num_values)).astype(float)
    wrong = 1 - np.eye(num_values)
    posterior = indicator.sum(axis=0) + 0.01
    posterior /= posterior.sum(axis=1, keepdims=True)
    before = -np.inf
    for _ in range(_MAX_ITERATIONS):
        weight = posterior * count[:, None]
        prior = (weight.sum(axis=0) + 1e-3) / (count.sum() + num_values * 1e-3)
        said = np.einsum("apv,pt->atv", indicator, weight)
        errors = 1 - np.einsum("att->a", said) / said.sum(axis=(1, 2))
        errors = np.clip(errors, 1e-4, 1 - 1e-4)
        spread = said.sum(axis=0) * wrong + 1e-2 * wrong
        spread /= spread.sum(axis=1, keepdims=True)
        logs = np.log(np.maximum(_confusion(errors, spread), 1e-12))
        joint = np.log(prior) + np.einsum("apv,atv->pt", indicator, logs)
        most = joint.max(axis=1, keepdims=True)
        likelihood = np.exp(joint - most).sum(axis=1, keepdims=True)
        posterior = np.exp(joint - most) / likelihood
        now = float((count * (most + np.log(likelihood))[:, 0]).sum())
        if abs(now - before) < _TOLERANCE * count.sum():
            break
        before = now
    return SharedModel(patterns, row.ravel(), count, indicator, prior, errors, spread, posterior)


def _confusion(errors: Floats, spread: Floats) -> Floats:
    right = np.eye(len(spread))
    return (1 - errors)[:, None, None] * right + errors[:, None, None] * spread
