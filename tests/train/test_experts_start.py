"""What a stage has learnt since the base, cut to the rank of an expert."""

import pytest
import torch

from pathloom.models.experts import Experts, Routing
from pathloom.models.experts_config import Mixture
from pathloom.stage import UserError
from pathloom.train.experts_start import Learnt, begin, cut, learnt_since, taken_over


def test_a_cut_is_the_best_of_its_rank_and_says_what_it_keeps():
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(20, 6, generator=generator) @ torch.randn(6, 30, generator=generator)
    strengths = torch.linalg.svdvals(change)

    for rank in (6, 3, 8):
        down, up, share = cut(change, rank, 0)
        lost = (change - up.T @ down).square().sum()
        assert (down.shape, up.shape) == ((min(rank, 6), 30), (min(rank, 6), 20)), "it has six directions"
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


@pytest.mark.parametrize("routing", ["hard", "shared"])
def test_ranks_that_no_stage_fills_begin_as_lora_and_can_learn(routing):
    shared = routing == "shared"
    mixture = Mixture(
        routing=routing,
        num_experts=1 if shared else 2,
        r=16 if shared else 8,
        alpha=8,
        target_modules="layer",
    )
    experts = Experts(mixture, Routing(mixture), 30, 4, torch.device("cpu"))
    experts.start()
    began = experts.down.detach().clone()
    changes = [torch.randn(4, 2) @ torch.randn(2, 30), torch.randn(4, 30)]

    begin(
        {"layer": experts}, [Learnt(str(n), {"layer": change}, {}) for n, change in enumerate(changes)], 8, 0
    )

    for number, num_found in enumerate((2, 4)):  # a layer of four numbers has no more directions
        expert, first = (0, 8 * number) if shared else (number, 0)
        empty = slice(first + num_found, first + 8)
        assert torch.equal(experts.down[expert, empty], began[expert, empty])
        assert not experts.up[expert, empty].any()
    average = torch.stack(list(changes)).mean(dim=0)
    if shared:
        assert torch.allclose(mixture.scaling * experts.up[0].T @ experts.down[0], average, atol=1e-5)


def test_what_half_precision_rounded_is_nothing_learnt():
    generator = torch.Generator().manual_seed(0)
    base = {
        name: torch.randn(6, 6, generator=generator)
        for name in ("x.q_proj.weight", "x.k_proj.weight", "model.visual.merger.weight")
    }
    on_a_gpu = {name: tensor.bfloat16() for name, tensor in base.items()}
    on_a_gpu["x.q_proj.weight"] = on_a_gpu["x.q_proj.weight"] + 1

    learnt = learnt_since("region_sft", base, on_a_gpu, r".*(q|k)_proj")

    assert set(learnt.changes) == {"x.q_proj"}
    assert torch.allclose(learnt.changes["x.q_proj"], torch.ones(6, 6), atol=0.02)
    assert learnt.parts == {}


def test_changes_elsewhere_in_the_language_model_belong_to_one_stage():
    base = {"model.norm.weight": torch.zeros(3), "x.language_model.q_proj.weight": torch.zeros(2, 2)}
    one = learnt_since("one", base, {**base, "model.norm.weight": torch.ones(3)}, r".*q_proj")
    other = learnt_since(
        "other", base, {**base, "x.language_model.q_proj.weight": torch.ones(2, 2)}, r".*q_proj"
    )

    assert (set(one.changes), set(other.changes)) == (set(), {"x.language_model.q_proj"})
    assert set(taken_over([one, other])) == {"model.norm.weight"}
    with pytest.raises(
        UserError, match=r"one and one have both changed .*, or name its layers in target_modules"
    ):
        taken_over([one, one])
    with pytest.raises(UserError, match=r"target_modules: no layer's name matches 'q_proj'"):
        learnt_since("one", base, base, "q_proj")
