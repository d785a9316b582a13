"""Tables of agreement: known values, missing votes, and what cannot be computed."""

import numpy as np
import pytest
from tests.curate.made_votes import NAMES, as_samples, as_votes, err, leaf_schema

from pathloom.curate.agreement import alpha, confusions, kappa, kappas, same_annotators
from pathloom.curate.consensus_facts import consensus_facts
from pathloom.curate.consensus_fusion import fuse
from pathloom.curate.consensus_votes import Ints, Votes, gather
from pathloom.stage import UserError


def ints(*rows: tuple[int, ...]) -> Ints:
    return np.array(rows, dtype=np.int16)


def made(folder, votes, **options) -> Votes:
    schema = leaf_schema(folder, dict.fromkeys(votes, 4), **options)
    return gather(as_samples(schema, votes), schema)


def test_alpha_is_krippendorffs_own_example():
    """Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: four observers, twelve units, nominal 0.743."""
    a, b, c, d = (
        (1, 2, 3, 3, 2, 1, 4, 1, 2, -1, -1, -1),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, -1, 3),
        (-1, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, -1),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, -1),
    )
    votes = ints(*zip(a, b, c, d, strict=True))
    assert alpha(votes, ordered=False) == pytest.approx(0.743, abs=5e-4)
    assert alpha(votes, ordered=True) == pytest.approx(0.849, abs=5e-4), "interval metric"


def test_alpha_and_kappa_are_undefined_with_one_value_or_single_votes():
    same = ints((1, 1), (1, 1), (1, -1))
    single = ints((0, -1), (-1, 1), (2, -2))
    assert alpha(same, ordered=False) is None
    assert alpha(single, ordered=False) is None
    assert kappa(same[:, 0], same[:, 1], 3, ordered=False) is None
    assert kappa(single[:, 0], single[:, 1], 3, ordered=True) is None


def test_kappa_of_ordered_values_forgives_a_neighbour_more_than_a_far_value():
    one = ints(*[(value,) for value in (0, 1, 2, 3) * 10])[:, 0]
    near, far = one.copy(), one.copy()
    near[:4] = (1, 2, 3, 2)
    far[:4] = (3, 3, 0, 0)
    plain = [kappa(one, other, 4, ordered=False) for other in (near, far)]
    assert plain[0] == pytest.approx(plain[1])
    weighted = [kappa(one, other, 4, ordered=True) for other in (near, far)]
    assert weighted[0] is not None
    assert weighted[1] is not None
    assert weighted[0] > 0.95 > 0.8 > weighted[1]


def test_the_schema_says_which_attributes_are_ordered(tmp_path):
    votes = ints(*[(n % 4, (n + (n % 7 == 0)) % 4, n % 4) for n in range(60)])
    both = made(tmp_path, {"size": votes, "colour": votes}, ordered=("size",))
    table = kappas(both)
    assert table["size"]["ann / bob"] != table["colour"]["ann / bob"]
    assert table["size"]["ann / cid"] == table["colour"]["ann / cid"] == 1.0


def test_confusions_name_the_annotator_and_both_values(tmp_path):
    votes = ints(*[(0, 0, 2)] * 6, *[(1, 1, 1)] * 3, *[(0, 0, 0)] * 2)
    cast = made(tmp_path, {"shape": votes})
    (row,) = confusions(cast, {"shape": ints(*[(0,)] * 6, *[(1,)] * 3, *[(0,)] * 2)[:, 0]})
    assert row == {
        "attribute": "shape",
        "annotator": "cid",
        "fused": "shape 0",
        "said": "shape 2",
        "count": 6,
        "share": 0.75,
    }


def test_two_names_of_one_model_are_found_and_good_annotators_are_not(tmp_path):
    rng = np.random.default_rng(3)
    true = rng.integers(0, 4, 400)
    votes = err(rng, true, 4, (0.2, 0.2, 0.2))
    twins = votes.copy()
    twins[:, 1] = twins[:, 0]
    assert same_annotators(made(tmp_path, {"shape": twins})) == [(0, 1)]
    assert same_annotators(made(tmp_path, {"shape": votes})) == []
    clear = err(rng, true, 4, (0.001, 0.001, 0.001))
    assert same_annotators(made(tmp_path, {"shape": clear})) == [], "all agree since all are right"


def test_twins_stand_among_the_warnings(tmp_path):
    rng = np.random.default_rng(3)
    votes = err(rng, rng.integers(0, 4, 400), 4, (0.2, 0.2, 0.2))
    votes[:, 1] = votes[:, 0]
    cast = made(tmp_path, {"shape": votes})
    counted = fuse(cast, "majority", "shared", min_votes=1, min_confidence=0.8)
    (warning, *_) = consensus_facts(counted.settle({}), {}, None, 0)["warnings"]
    assert "ann / bob" in warning
    assert "one model under two names" in warning


def test_shares_of_an_attribute_add_up_to_all_samples(tmp_path):
    rng = np.random.default_rng(0)
    votes = err(rng, rng.integers(0, 4, 300), 4, (0.3, 0.3, 0.3))
    votes[rng.random(votes.shape) < 0.4] = -1
    cast = made(tmp_path, {"shape": votes})
    counted = fuse(cast, "majority", "shared", min_votes=1, min_confidence=0.8)
    row = consensus_facts(counted.settle({}), {}, None, 0)["by_attribute"]["shape"]
    kinds = ("voted", "arbiter", "left_out", "nobody_could_tell")
    assert sum(row[kind] for kind in kinds) == pytest.approx(1, abs=2e-4)
    assert row["nobody_could_tell"] == pytest.approx((votes < 0).all(axis=1).mean(), abs=1e-4)
    assert row["unanimous"] < row["voted"]


def test_words_become_the_votes_that_they_were_made_from(tmp_path):
    rng = np.random.default_rng(0)
    votes = {name: err(rng, rng.integers(0, 4, 50), 4, (0.3,) * 3) for name in ("shape", "colour")}
    votes["shape"][rng.random((50, 3)) < 0.2] = -1
    read, meant = made(tmp_path, votes), as_votes(leaf_schema(tmp_path, dict.fromkeys(votes, 4)), votes)
    assert all((read.values[name] == meant.values[name]).all() for name in votes)
    assert (read.row, read.groups.tolist()) == (meant.row, meant.groups.tolist())


def test_two_annotations_of_one_annotator_are_a_fault(tmp_path):
    schema = leaf_schema(tmp_path, {"shape": 4})
    (sample,) = as_samples(schema, {"shape": ints((1, 2))})
    twice = sample.model_copy(update={"annotations": sample.annotations[:1] * 2})
    with pytest.raises(ValueError, match=f"two annotations of {NAMES[0]}"):
        gather([twice], schema)


def test_a_sample_that_comes_from_two_stages_is_refused_with_the_cure(tmp_path):
    schema = leaf_schema(tmp_path, {"shape": 4})
    one, other = as_samples(schema, {"shape": ints((1, 2), (3, 3))})
    with pytest.raises(UserError, match="sample s0 comes twice; name one stage"):
        gather([one, one, other], schema)
