"""What a stage has learnt since the base, cut to the rank of an expert."""

import pytest
import torch

from pathloom.stage import UserError
from pathloom.train.experts_start import cut, learnt_since, taken_over


def test_a_cut_is_the_best_of_its_rank_and_says_what_it_keeps():
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(20, 6, generator=generator) @ torch.randn(6, 30, generator=generator)
    strengths = torch.linalg.svdvals(change)

    for rank in (6, 3, 8):
        down, up, share = cut(change, rank, 0)
        lost = (change - up.T @ down).square().sum()
        assert (down.shape, up.shape) == ((rank, 30), (rank, 20))
        assert lost == pytest.approx(float(strengths[rank:].square().sum()), abs=1e-2)
        assert share == pytest.approx(
            1 - float(strengths[rank:].square().sum() / strengths.square().sum()), abs=1e-5
        )
    assert cut(torch.zeros(4, 5), 2, 0)[2] == 1


def test_a_large_matrix_of_low_rank_is_cut_without_its_whole_svd(monkeypatch):
    monkeypatch.setattr("pathloom.train.experts_start.EXACT_SVD_UP_TO", 10)
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(120, 5, generator=generator) @ torch.randn(5, 90, generator=generator)

    down, up, share = cut(change, 5, 0)

    assert torch.allclose(up.T @ down, change, atol=1e-3)
    assert share == pytest.approx(1, abs=1e-5)
    assert torch.equal(cut(change, 5, 0)[0], down)


def test_changes_elsewhere_in_the_language_model_belong_to_one_stage():
    base = {"model.norm.weight": torch.zeros(3), "x.language_model.q_proj.weight": torch.zeros(2, 2)}
    one = learnt_since("one", base, {**base, "model.norm.weight": torch.ones(3)}, r".*q_proj")
    other = learnt_since(
        "other", base, {**base, "x.language_model.q_proj.weight": torch.ones(2, 2)}, r".*q_proj"
    )

    assert (set(one.changes), set(other.changes)) == (set(), {"x.language_model.q_proj"})
    assert set(taken_over([one, other])) == {"model.norm.weight"}
    with pytest.raises(UserError, match="one and one have both changed"):
        taken_over([one, one])
