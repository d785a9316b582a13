"""The mixture of LoRA experts: who answers, alone and beside others, before and after its folder is opened again."""

import itertools
import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fixtures import FAMILIES
from tests.models.experts_helpers import (
    LANGUAGE,
    REGION_BOXES,
    REGION_CHOICE,
    ROUTES,
    SLIDE_CHOICE,
    mixed,
    mixture,
    prompts,
    row,
)
from transformers import AutoModelForImageTextToText

from pathloom.models.experts import (
    attach_experts,
    balance_loss,
    choose,
    gates_of,
    layers_with_experts,
    recorded_logits,
    routed,
)
from pathloom.models.experts_config import UNKNOWN, Mixture, Route, expert_of
from pathloom.models.load import load_model
from pathloom.stage import UserError

KINDS: dict[str, dict[str, Any]] = {
    "hard": {"routing": "hard", "routes": {"region": 0, "slide": 1, "boxes": 2, "unknown/unknown": 0}},
    "soft": {"routing": "soft"},
    "top 2": {"routing": "soft", "top_k": 2},
    "token gate": {"routing": "soft", "token_gate": True},
    "shared": {"routing": "shared", "num_experts": 1, "r": 12, "alpha": 24},
}


@torch.inference_mode()
def logits(model: Any, batch: dict[str, Any], routes: Any = None) -> torch.Tensor:
    if routes is None:
        return model(**batch).logits
    with routed(model, routes):
        return model(**batch).logits


def add_by_hand(folder: Any, experts: dict[str, Any], expert: int, scaling: float) -> Any:
    """The plain model with one expert added to its weights: what LoRA is by definition."""
    model = load_model(str(folder))[0].eval()
    with torch.no_grad():
        for name, layer in experts.items():
            model.get_submodule(name).weight += scaling * layer.up[expert].T @ layer.down[expert]
    return model


@pytest.mark.parametrize("top_k", [None, 1, 2, 3])
def test_gates_sum_to_one_and_exactly_top_k_are_not_zero(top_k):
    gates = choose(torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(0)), top_k)

    assert torch.allclose(gates.sum(dim=-1), torch.ones(5, 7))
    assert ((gates > 0).sum(dim=-1) == (top_k or 3)).all()


def test_equal_logits_still_leave_exactly_top_k_at_work():
    assert ((choose(torch.zeros(4, 1, 3), 2) > 0).sum(dim=-1) == 2).all()


@pytest.mark.parametrize(
    ("fields", "route", "expert", "scaling"),
    [
        (KINDS["hard"], SLIDE_CHOICE, 1, 2.0),
        (KINDS["hard"], REGION_BOXES, 2, 2.0),
        (KINDS["shared"], SLIDE_CHOICE, 0, 2.0),
        ({"routing": "soft", "num_experts": 1, "alpha": 12}, SLIDE_CHOICE, 0, 3.0),
    ],
    ids=["hard by scale", "hard by task", "shared", "soft with one expert"],
)
def test_one_expert_alone_is_plain_lora(model_folder, fields, route, expert, scaling):
    model, batch = mixed(model_folder, **fields), prompts()
    plain = add_by_hand(model_folder, layers_with_experts(model), expert, scaling)

    found = logits(model, batch, [route] * 4)

    assert torch.allclose(found, logits(plain, batch), atol=1e-4)
    assert not torch.allclose(found, logits(load_model(str(model_folder))[0].eval(), batch), atol=1e-2)


def test_a_soft_layer_is_the_sum_of_its_experts_by_their_gates(model_folder):
    model = mixed(model_folder, top_k=2)
    name, layer = next(iter(layers_with_experts(model).items()))
    linear, states = model.get_submodule(name), torch.randn(1, 5, layer.down.shape[-1])

    with torch.inference_mode(), routed(model, [SLIDE_CHOICE]):
        found = linear(states)
        gates = gates_of(model, SLIDE_CHOICE)[0]
        expected = torch.nn.functional.linear(states, linear.weight, linear.bias) + 2.0 * sum(
            gate * states @ layer.down[expert].T @ layer.up[expert] for expert, gate in enumerate(gates)
        )

    assert (gates > 0).sum() == 2
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_untouched_mixture_answers_as_the_frozen_model(model_folder):
    plain, batch = load_model(str(model_folder))[0].eval(), prompts()
    before = logits(plain, batch)

    attach_experts(plain, mixture())

    assert torch.equal(logits(plain, batch, ROUTES), before), "B is zero at first"
    assert not any(
        parameter.requires_grad
        for name, parameter in plain.named_parameters()
        if name.endswith("_proj.weight") and "language_model" in name
    )


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_answered_as_each_alone(model_folder, kind):
    model, batch = mixed(model_folder, **KINDS[kind]), prompts()

    together = logits(model, batch, ROUTES)

    for index, route in enumerate(ROUTES):
        alone = logits(model, row(batch, index), [route])
        assert torch.allclose(together[index, -alone.shape[1] :], alone[0], atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["hard", "top 2", "token gate"])
def test_rows_with_padding_and_a_cache_are_continued_as_each_alone_without(model_folders, family, kind):
    model, batch = mixed(model_folders[family], **KINDS[kind]), prompts()
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}

    with routed(model, ROUTES):
        together = model.generate(**batch, **settings)

    for index, route in enumerate(ROUTES):
        with routed(model, [route]):
            alone = model.generate(**row(batch, index), **settings, use_cache=False)
        assert together[index, -6:].tolist() == alone[0, -6:].tolist()


def test_answers_to_one_question_share_its_route(model_folder):
    model, batch = mixed(model_folder), prompts(2)
    twice = {name: tensor.repeat_interleave(2, dim=0) for name, tensor in batch.items()}

    found = logits(model, twice, [SLIDE_CHOICE, REGION_BOXES])

    written_out = logits(model, twice, [SLIDE_CHOICE, SLIDE_CHOICE, REGION_BOXES, REGION_BOXES])
    assert torch.equal(found, written_out)
    assert not torch.equal(found, logits(model, twice, [REGION_BOXES, SLIDE_CHOICE]))


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_routes_that_do_not_divide_the_batch_are_refused(model_folder, kind):
    model = mixed(model_folder, **KINDS[kind])

    for routes in (ROUTES[:3], [SLIDE_CHOICE] * 3):
        with pytest.raises(UserError, match="a batch of 4 rows was given 3 routes"):
            logits(model, prompts(), routes)


def test_without_a_route_scale_and_task_are_unknown_and_hard_routing_says_so(model_folder):
    soft, batch = mixed(model_folder), prompts()
    assert torch.allclose(logits(soft, batch), logits(soft, batch, [UNKNOWN] * 4), atol=1e-5)
    assert torch.equal(
        logits(soft, batch, [Route("slide", "never learnt")] * 4), logits(soft, batch, [Route("slide")] * 4)
    )

    hard = mixed(model_folder, **KINDS["hard"])
    with pytest.raises(UserError, match="routes by rule and nobody said"):
        logits(hard, batch)


def test_the_most_exact_name_of_a_route_wins_and_a_missing_one_is_named():
    routes = {"slide": 1, "boxes": 2, "slide/boxes": 3}

    assert [expert_of(route, routes) for route in (Route("slide", "boxes"), REGION_BOXES, SLIDE_CHOICE)] == [
        3,
        2,
        1,
    ]
    with pytest.raises(
        UserError, match="no expert for region/choice; add the key region/choice, choice or region"
    ):
        expert_of(REGION_CHOICE, routes)


def test_what_was_said_of_one_batch_is_forgotten_at_its_end(model_folder):
    model, batch = mixed(model_folder), prompts()
    before = logits(model, batch)

    inside = logits(model, batch, ROUTES)
    with routed(model, ROUTES), routed(model, ROUTES[::-1]):
        pass

    assert not torch.allclose(inside, before, atol=1e-3)
    assert torch.equal(logits(model, batch), before)
    with torch.no_grad():
        next(iter(layers_with_experts(model).values())).up.add_(0.1)
    assert not torch.equal(logits(model, batch, ROUTES), inside), "gates are kept for one context only"


def test_a_plain_model_does_not_mind_routes(model_folder):
    model, batch = load_model(str(model_folder))[0].eval(), prompts()

    assert torch.equal(logits(model, batch, ROUTES[:3]), logits(model, batch))


@pytest.mark.parametrize(
    ("kind", "routes", "num_experts"),
    [
        ("hard", [SLIDE_CHOICE] * 4, 1),
        ("hard", [SLIDE_CHOICE, REGION_BOXES] * 2, 2),
        ("top 1", [SLIDE_CHOICE] * 4, 1),
    ],
)
def test_no_product_is_made_for_an_expert_that_no_row_asks(model_folder, kind, routes, num_experts):
    model = mixed(model_folder, **KINDS.get(kind, {"top_k": 1}))
    layer = next(iter(layers_with_experts(model).values()))
    states = torch.randn(4, 5, layer.down.shape[-1])

    with torch.no_grad(), routed(model, routes):
        found = layer.mix(states)

    assert (len(found.down), len(found.up)) == (4 * num_experts, 4 * num_experts)


def test_balance_is_one_where_all_have_the_same_say_and_n_where_one_has_all():
    even, all_to_one = torch.zeros(6, 1, 3), torch.tensor([30.0, 0, 0]).expand(6, 1, 3)
    each_its_own = 30 * torch.eye(3).repeat(2, 1)[:, None]

    for top_k in (None, 1, 2):
        assert balance_loss([even], top_k).item() == pytest.approx(1)
        assert balance_loss([all_to_one], top_k).item() == pytest.approx(3)
        assert balance_loss([each_its_own], top_k).item() == pytest.approx(1), "sure, and even over the batch"
    assert balance_loss([even, all_to_one], None).item() == pytest.approx(2), "the mean over layers"


def test_balance_moves_the_gates_towards_each_other():
    logits_of_gate = torch.tensor([[[1.0, 0.0, -1.0]]], requires_grad=True)

    losses = []
    for _ in range(200):
        loss = balance_loss([logits_of_gate], None)
        (gradient,) = torch.autograd.grad(loss, logits_of_gate)
        losses.append(loss.item())
        logits_of_gate = (logits_of_gate - gradient).detach().requires_grad_()

    assert losses[0] > 1.3
    assert losses[-1] == pytest.approx(1, abs=1e-3)
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(losses))


def test_balance_of_a_token_gate_leaves_out_padding():
    read = torch.tensor([[False, True, True]])
    of_tokens = torch.tensor([[[30.0, 0], [0, 30.0], [30.0, 0]]])

    assert balance_loss([of_tokens], None, read).item() == pytest.approx(1)
    assert balance_loss([of_tokens], None).item() > 1.05


def test_gates_and_experts_learn_and_the_model_does_not(model_folder):
    model, batch = mixed(model_folder, token_gate=True).train(), prompts()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".experts." in name

    with routed(model, ROUTES), recorded_logits(model) as recorded:
        loss = model(**batch, labels=batch["input_ids"]).loss
    (loss + 0.01 * balance_loss(recorded, None, batch["attention_mask"])).backward()

    assert len(recorded) == len(layers_with_experts(model)) == 28
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (".experts." in name)
        if parameter.grad is not None:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["hard", "token gate", "shared"])
def test_a_saved_mixture_comes_back_with_the_same_logits_to_the_bit(model_folders, family, kind, tmp_path):
    model, batch = mixed(model_folders[family], **KINDS[kind]), prompts()
    model.save_pretrained(tmp_path)
    load_model(str(model_folders[family]))[1].save_pretrained(tmp_path)

    again = load_model(str(tmp_path))[0].eval()

    assert type(again) is type(model)
    assert torch.equal(logits(again, batch, ROUTES), logits(model, batch, ROUTES))
    assert Mixture.model_validate(json.loads((tmp_path / "config.json").read_text())["experts"]) == mixture(
        **KINDS[kind]
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_other_programs_open_the_folder_as_the_frozen_model(model_folders, family, tmp_path):
    model, batch = mixed(model_folders[family]), prompts()
    model.save_pretrained(tmp_path)

    opened, told = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)

    plain = load_model(str(model_folders[family]))[0].eval()
    assert torch.equal(logits(opened.eval(), batch), logits(plain, batch))
    assert told["unexpected_keys"]
    assert all(".experts." in name for name in told["unexpected_keys"])


def test_experts_stay_in_float32_beside_weights_of_half_precision(model_folder, tmp_path):
    model, batch = mixed(model_folder), prompts()
    model.save_pretrained(tmp_path)
    load_model(str(model_folder))[1].save_pretrained(tmp_path)

    half = load_model(str(tmp_path), dtype="bfloat16")[0].eval()

    kinds = {(".experts." in name, parameter.dtype) for name, parameter in half.named_parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    exact, found = logits(model, batch, ROUTES), logits(half, batch, ROUTES).float()
    assert (found - exact).square().mean().sqrt() < 0.1 * exact.std()


def test_a_folder_that_lost_an_expert_is_refused(model_folder, tmp_path):
    mixed(model_folder).save_pretrained(tmp_path)
    load_model(str(model_folder))[1].save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("o_proj.experts.gate.scale"))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != lost},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )

    with pytest.raises(
        UserError, match=r"states a mixture of experts, but .*o_proj\.experts\.gate\.scale is missing"
    ):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [(r".*qkv", "qkv is of the vision tower"), (LANGUAGE + "x", "no linear layer's name matches")],
)
def test_experts_go_into_the_language_model_and_somewhere(model_folder, pattern, message):
    with pytest.raises(UserError, match=message):
        attach_experts(load_model(str(model_folder))[0], mixture(target_modules=pattern))


def test_a_mixture_that_was_asked_can_learn_afterwards(model_folder):
    model, batch = mixed(model_folder), prompts()
    logits(model, batch)

    model(**batch, labels=batch["input_ids"]).loss.backward()

    assert next(iter(layers_with_experts(model).values())).up.grad is not None
