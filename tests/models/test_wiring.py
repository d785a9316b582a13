"""The first two language layers of a nano model start as induction heads."""

import pytest
import torch
from tests.fixtures import FAMILIES, PRESET_OF
from transformers import PreTrainedTokenizerFast

from pathloom.models.nano import build_config, build_model
from pathloom.models.presets import find_preset


@pytest.fixture(params=FAMILIES)
def attentions(request: pytest.FixtureRequest, model_folders) -> list[torch.Tensor]:
    """Attention of each layer, [batch, head, query, key], on thirty random tokens that are then repeated."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folders[request.param])
    preset = find_preset(PRESET_OF[request.param])
    model = build_model(preset, build_config(preset, tokenizer), seed=0)
    model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    once = torch.stack([torch.randperm(300, generator=generator)[:30] + 40 for _ in range(4)])
    tokens = torch.cat([once, once], dim=1)
    with torch.no_grad():
        return model.model(
            input_ids=tokens, attention_mask=torch.ones_like(tokens), output_attentions=True
        ).attentions


def looked_back(attention: torch.Tensor, head: int, offset: int) -> float:
    """Mean attention of the second half's tokens to the one `offset` before each."""
    return float(attention[:, head].diagonal(-offset, 1, 2)[:, -25:].mean())


@pytest.mark.parametrize(("head", "offset"), [(0, 1), (1, 2), (2, 3)])
def test_wired_heads_of_the_first_layer_look_back_by_a_fixed_number_of_tokens(attentions, head, offset):
    assert looked_back(attentions[0], head, offset) > 0.5


@pytest.mark.parametrize(
    ("head", "offset"),
    [(0, 29), (1, 29), (2, 33), (3, 32), (4, 33), (5, 31)],
    ids=["copies", "copies too", "3 back", "2 back", "3 back too", "1 back"],
)
def test_wired_heads_of_the_second_layer_find_the_earlier_occurrence(attentions, head, offset):
    others = [looked_back(attentions[1], head, other) for other in range(20, 40) if other != offset]

    assert looked_back(attentions[1], head, offset) > 3 * sum(others) / len(others)


def test_wiring_leaves_other_layers_alone(attentions):
    for head in range(6):
        assert looked_back(attentions[2], head, 1) < 0.1
