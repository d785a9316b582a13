"""Dawid and Skene's weights: where they beat a majority, how sure they are, and what they do without votes."""

import numpy as np
import pytest
from tests.curate.made_votes import as_votes, draw_truth, err, leaf_schema

from pathloom.curate.consensus_fusion import Method, by_weight, fuse
from pathloom.curate.consensus_truth import POOLED, Known, error_table
from pathloom.curate.dawid_skene import Confusion, weigh

SIZES = {"two": 2, "three": 3, "four": 4, "six": 6, "eight": 8}


def ruled(counted, truth, error: float, seed: int) -> dict[str, dict[str, str]]:
    """Rulings of an arbiter that is wrong with that chance where the truth is in dispute, always where it is not."""
    rng = np.random.default_rng(seed)
    rulings: dict[str, dict[str, str]] = {}
    ids = list(counted.votes.row)
    place = {sample_id: row for row, sample_id in enumerate(ids)}
    for sample_id, disputes in counted.disputes().items():
        for name, competing in disputes.items():
            true = counted.votes.schema[name].values[truth[name][place[sample_id]]]
            others = [value for value in competing if value != true]
            right = true in competing and rng.random() >= error
            rulings.setdefault(sample_id, {})[name] = true if right else str(rng.choice(others))
    return rulings


def difference(folder, errors, confusion, num_samples: int, seed: int, arbiter: float | None) -> list[float]:
    """Error of the majority less that of the weights, pooled over attributes: [value, low, high], over groups."""
    rng = np.random.default_rng(seed)
    schema, truth = leaf_schema(folder, SIZES), draw_truth(rng, SIZES, num_samples)
    votes = {name: err(rng, truth[name], size, errors, confusion=confusion) for name, size in SIZES.items()}
    cast = as_votes(schema, votes)
    methods: tuple[Method, ...] = ("majority", "dawid_skene")
    final = []
    for method in methods:
        counted = fuse(cast, method, "shared", min_votes=1, min_confidence=0.8)
        settled = counted.settle(ruled(counted, truth, arbiter, seed) if arbiter is not None else {})
        final.append({name: settled.final(name) for name in SIZES})
    if arbiter is None:
        modes = {name: weighing.posterior.argmax(axis=1) for name, weighing in counted.weighings.items()}
        known = Known(cast, truth, final[0], {name: mode.astype(np.int16) for name, mode in modes.items()})
        return list(error_table(known, seed)[POOLED]["majority_minus_dawid_skene"].values())
    wrong = [np.stack([each[name] != truth[name] for name in SIZES]) for each in final]
    gain = (wrong[0].astype(float) - wrong[1]).mean(axis=0)
    drawn = gain[rng.integers(0, num_samples, (2000, num_samples))].mean(axis=1)
    return [float(gain.mean()), *np.percentile(drawn, [2.5, 97.5]).tolist()]


@pytest.mark.parametrize("arbiter", [None, 0.2])
@pytest.mark.parametrize("confusion", ["uniform", "neighbour"])
@pytest.mark.parametrize("errors", [(0.1, 0.2, 0.5), (0.05, 0.3, 0.5)])
def test_weights_beat_a_majority_in_which_one_of_three_errs_half_the_time(
    tmp_path, errors, confusion, arbiter
):
    value, low, _ = difference(tmp_path, errors, confusion, 1000, seed=1, arbiter=arbiter)
    assert value > 0
    assert low > 0


@pytest.mark.parametrize("confusion", ["shared", "own"])
def test_probabilities_are_as_right_as_they_say_where_errors_are_independent(confusion: Confusion):
    rng = np.random.default_rng(0)
    true = rng.choice(3, 1500, p=[0.5, 0.3, 0.2])
    posterior = weigh(err(rng, true, 3, (0.1, 0.2, 0.4)), 3, confusion).posterior
    sure, right = posterior.max(axis=1), posterior.argmax(axis=1) == true
    assert sure.mean() == pytest.approx(right.mean(), abs=0.02)
    middling = (sure > 0.5) & (sure < 0.9)
    assert middling.sum() > 100
    assert sure[middling].mean() == pytest.approx(right[middling].mean(), abs=0.08)


@pytest.mark.parametrize("confusion", ["shared", "own"])
def test_the_estimated_accuracy_is_the_true_one(confusion: Confusion):
    rng = np.random.default_rng(2)
    true = rng.choice(4, 2000)
    votes = err(rng, true, 4, (0.1, 0.2, 0.5))
    votes[rng.random(votes.shape) < 0.1] = -1
    accuracy = weigh(votes, 4, confusion).accuracy
    assert [accuracy[column] for column in range(3)] == pytest.approx([0.9, 0.8, 0.5], abs=0.05)


@pytest.mark.parametrize("confusion", ["shared", "own"])
def test_no_vote_one_value_and_an_annotator_that_never_answers_are_borne(confusion: Confusion):
    silent = np.full((5, 3), -1, dtype=np.int16)
    assert weigh(silent, 4, confusion).posterior.sum() == 0
    assert weigh(silent, 4, confusion).accuracy == {}
    same = np.full((5, 3), 2, dtype=np.int16)
    same[:, 1] = -1
    same[4] = -3
    found = weigh(same, 4, confusion)
    assert set(found.accuracy) == {0, 2}
    assert found.posterior[:4, 2] == pytest.approx(1, abs=0.01)
    assert found.posterior[4].sum() == 0
    fused = by_weight(same, found, 1, 0.8)
    assert fused.value.tolist() == [2, 2, 2, 2, -1]
    assert not fused.disputed.any(), "of what nobody could tell there is no dispute"


def test_what_is_less_probable_than_asked_is_in_dispute_between_two_values_at_least():
    rng = np.random.default_rng(4)
    votes = err(rng, rng.choice(4, 500), 4, (0.1, 0.2, 0.5))
    votes[rng.random(votes.shape) < 0.3] = -1
    weighing = weigh(votes, 4, "shared")
    fused = by_weight(votes, weighing, 1, 0.8)
    best, answered = weighing.posterior.max(axis=1), (votes >= 0).any(axis=1)
    assert (fused.disputed == (answered & (best < 0.8))).all()
    assert (fused.competing.sum(axis=1)[fused.disputed] >= 2).all()
    assert fused.confidence[fused.value >= 0].min() >= 0.8
