"""Annotators that err together: seen against the truth, and as far as votes alone can show it."""

import re

import numpy as np
import pytest
from tests.curate.made_votes import as_votes, draw_truth, err, leaf_schema

from pathloom.curate.consensus_dependence import dependence
from pathloom.curate.consensus_facts import consensus_facts
from pathloom.curate.consensus_fusion import fuse
from pathloom.curate.consensus_truth import drawn_errors

SIZES = {"a": 4, "b": 6, "c": 3, "d": 5, "e": 3, "f": 3, "g": 6, "h": 8, "i": 7}


def facts_of(folder, *, shared: float, seed: int, num_samples: int = 500, with_truth: bool = True):
    rng = np.random.default_rng(seed)
    schema, truth = leaf_schema(folder, SIZES), draw_truth(rng, SIZES, num_samples)
    votes = {name: err(rng, truth[name], size, (0.2,) * 3, shared=shared) for name, size in SIZES.items()}
    cast = as_votes(schema, votes)
    counted = fuse(cast, "majority", "shared", min_votes=1, min_confidence=0.8)
    return consensus_facts(counted.settle({}), {}, truth if with_truth else None, seed)


def test_shared_errors_are_said_in_words_with_the_truth_and_without_it(tmp_path):
    facts = facts_of(tmp_path, shared=0.3, seed=0)
    blind, seeing = facts["warnings"]
    assert re.match(r"ann / bob \(z [\d.]+\) err together, by their votes alone", blind)
    assert seeing.startswith("ann / bob err together, measured against the truth")
    row = facts["pairs_against_truth"]["ann / bob"]
    assert row["error_correlation"] == pytest.approx(0.3, abs=0.05), "the share of decisions taken as one"
    assert row["both_wrong"] > row["both_wrong_if_independent"] + 0.02
    independent = facts["majority_error_if_independent"]
    assert all(each["low"] <= each["if_independent"] <= each["high"] for each in independent.values())
    over = [each["error"] > each["high"] for each in independent.values()]
    assert np.mean(over) > 0.7, "a majority errs more often than independent annotators would"


def test_independent_errors_give_no_warning(tmp_path):
    facts = facts_of(tmp_path, shared=0.0, seed=1)
    assert facts["warnings"] == []
    assert abs(facts["pairs_against_truth"]["ann / bob"]["error_correlation"]) < 0.05
    inside = [
        each["low"] <= each["error"] <= each["high"]
        for each in facts["majority_error_if_independent"].values()
    ]
    assert np.mean(inside) > 0.7


def schema_and_votes(folder, seed: int, num_samples: int = 500, errors=(0.2, 0.2, 0.2), **options):
    rng = np.random.default_rng(seed)
    truth = draw_truth(rng, SIZES, num_samples)
    votes = {name: err(rng, truth[name], size, errors, **options) for name, size in SIZES.items()}
    return leaf_schema(folder, SIZES), votes


@pytest.mark.parametrize("confusion", ["uniform", "neighbour"])
@pytest.mark.parametrize("num_sets", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_votes_alone_show_the_right_pair_and_seldom_a_false_one(tmp_path, confusion, num_sets):
    found = wrong_pair = false = 0
    for seed in range(num_sets):
        schema, votes = schema_and_votes(tmp_path, seed, confusion=confusion, shared=0.4, together=(1, 2))
        alarms = {pair for pair, one in dependence(votes, schema, 3).items() if one.alarm}
        found += (1, 2) in alarms
        wrong_pair += bool(alarms - {(1, 2)})
        schema, votes = schema_and_votes(tmp_path, seed, confusion=confusion)
        false += any(one.alarm for one in dependence(votes, schema, 3).values())
    assert found >= 0.95 * num_sets
    assert wrong_pair == 0
    assert false <= 0.025 * num_sets


def test_abstentions_do_not_look_like_dependence(tmp_path):
    rng = np.random.default_rng(5)
    schema, votes = schema_and_votes(tmp_path, 5, errors=(0.1, 0.2, 0.3))
    for said in votes.values():
        said[rng.random(said.shape) < 0.2] = -1
    assert not any(one.alarm for one in dependence(votes, schema, 3).values())


@pytest.mark.parametrize("what", ["two annotators", "few samples", "two values"])
def test_what_cannot_be_told_is_said_not_passed_over(tmp_path, what):
    rng = np.random.default_rng(0)
    size, n, errors = {
        "two annotators": (4, 200, (0.2, 0.2)),
        "few samples": (4, 50, (0.2,) * 3),
        "two values": (2, 200, (0.2,) * 3),
    }[what]
    schema = leaf_schema(tmp_path, {"shape": size})
    cast = as_votes(schema, {"shape": err(rng, rng.integers(0, size, n), size, errors)})
    counted = fuse(cast, "majority", "shared", min_votes=1, min_confidence=0.8)
    (warning,) = consensus_facts(counted.settle({}), {}, None, 0)["warnings"]
    assert "cannot be told without truth" in warning


def test_a_tie_drawn_by_lot_is_wrong_in_part():
    counts = np.array([[2, 1, 0], [1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 2]])
    true = np.array([0, 2, 2, 0, -1], dtype=np.int16)
    assert drawn_errors(counts, true) == pytest.approx([0, 2 / 3, 1, np.nan, np.nan], nan_ok=True)


def test_few_groups_are_not_resampled_and_the_facts_say_which_was(tmp_path):
    assert facts_of(tmp_path, shared=0, seed=2, num_samples=100)["intervals_resample"] == "samples"
    assert facts_of(tmp_path, shared=0, seed=2, num_samples=124)["intervals_resample"] == "groups"
