"""What a nano model starts with beside random weights: induction heads, and numbers that lie in a row."""

from collections.abc import Mapping
from typing import Any

import torch

_OFFSETS = (1, 2, 3)
"""How far back the first layer's wired heads look: an option's letter stands two tokens before its first word."""
_CONSTANT_DIM = 0


@torch.no_grad()
def wire_induction(model: Any) -> None:
    """Start the first two language layers as induction heads (Olsson et al. 2022, arXiv 2209.11895).

    Binding an option's letter to its words takes two steps: a head that carries the token of some places back to where
    it stands, and one that looks for the place where the same token stood before. Found by gradient alone it did not
    come within 400 steps; wired, it comes within 100 (docs/log.md). Layer 0, heads 0 to 2: attention to the token 1,
    2, 3 back, whose content is written into a subspace of its own. Layer 1, heads 0 and 1: to the token after an
    earlier occurrence of this one, which is copied. Heads 2 to 5: to an earlier occurrence of the token 3, 2, 3, 1
    back, from where the token 2 before it is copied: its letter. Training is free to undo all of it.
    """
    language = model.model.language_model
    first, second = (layer.self_attn for layer in language.layers[:2])
    width, head_width = language.config.hidden_size, first.head_dim

    def rows(head: int) -> slice:
        return slice(head * head_width, (head + 1) * head_width)

    def subspace() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(width, head_width))[0]  # [width, head_width], orthonormal columns

    _add_constant_feature(model, first)
    read = {offset: subspace() for offset in _OFFSETS}
    written = {offset: subspace() for offset in _OFFSETS}
    for head, offset in enumerate(_OFFSETS):
        _look_back(first, rows(head), offset, language.config.rope_parameters["rope_theta"])
        first.v_proj.weight[rows(head)] = read[offset].T
        first.o_proj.weight[:, rows(head)] = 0.05 * written[offset]  # as large as an embedding
    # Rotation by position blurs the content in fast dimensions, so the slow ones carry the comparison.
    slow = torch.zeros(head_width // 2)
    slow[head_width // 5 :] = 1.6
    slow = torch.cat([slow, slow])[:, None]
    copied = subspace()
    for head in (0, 1):
        second.q_proj.weight[rows(head)] = slow * read[1].T
        second.k_proj.weight[rows(head)] = slow * written[1].T
        second.v_proj.weight[rows(head)] = copied.T
        second.o_proj.weight[:, rows(head)] = 0.05 * copied
    for head, offset in ((2, 3), (3, 2), (4, 3), (5, 1)):
        second.q_proj.weight[rows(head)] = slow * written[offset].T
        second.k_proj.weight[rows(head)] = slow * read[offset].T
        second.v_proj.weight[rows(head)] = written[2].T
        second.o_proj.weight[:, rows(head)] = 0.05 * read[2]
    if hasattr(second, "q_norm"):
        second.q_norm.weight.fill_(1.8)
        second.k_norm.weight.fill_(1.8)


def _add_constant_feature(model: Any, attention: Any) -> None:
    """Where queries have no bias (Qwen3-VL): one dimension that is alike in all tokens stands in for it."""
    if attention.q_proj.bias is None:
        model.get_input_embeddings().weight[:, _CONSTANT_DIM] = 0.1
        for merger in (model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", ())):
            merger.linear_fc2.bias[_CONSTANT_DIM] = 0.1 if merger is model.model.visual.merger else 0.0


def _look_back(attention: Any, rows: slice, offset: int, rope_theta: float) -> None:
    """Make one head attend `offset` tokens back whatever they say: its query is its key, turned back by that much.

    Rotary embedding turns pair i of a head's dimensions by position x theta^(-i/pairs); the product of query and key is
    then largest where the positions differ by `offset`. The fast pairs tell neighbours apart.
    """
    pairs = attention.head_dim // 2
    frequencies = rope_theta ** (-torch.arange(pairs) / pairs)
    if attention.q_proj.bias is not None:
        strength = torch.where(torch.arange(pairs) < pairs // 2, 4.0, 0.0)
    else:  # normalised to length sqrt(head_dim) before use, so only the shares count
        strength = torch.zeros(pairs)
        strength[:4] = torch.tensor([0.35, 0.3, 0.2, 0.15]).sqrt()
        attention.q_norm.weight.fill_(1.7)
        attention.k_norm.weight.fill_(1.7)
    key = torch.cat([strength, torch.zeros(pairs)])
    angle = offset * frequencies
    query = torch.cat([strength * angle.cos(), -strength * angle.sin()])
    for projection, vector in ((attention.q_proj, query), (attention.k_proj, key)):
        if projection.bias is not None:
            projection.weight[rows] *= 0.1
            projection.bias[rows] = vector
        else:
            projection.weight[rows] *= 0.05
            projection.weight[rows, _CONSTANT_DIM] = vector


_NUMBER_WAVES = 24
"""Waves over 0 to the largest number, so that numbers are alike within about a twentieth of the range; our choice."""


@torch.no_grad()
def wire_numbers(model: Any, token_ids: Mapping[int, int]) -> None:
    """Start the embeddings of numbers with what neighbours share: half of each is a place on the line, half its own.

    A box is then read off as a place, and a coordinate that training never showed is not a word never heard. The
    place of n is cos(pi k n / largest) for k = 0, 1, ... with weights that fall as a Gaussian, in random directions.
    `token_ids` maps number -> token id.
    """
    embeddings = model.get_input_embeddings().weight
    numbers = torch.tensor(sorted(token_ids))
    ids = torch.tensor([token_ids[int(number)] for number in numbers])
    waves = torch.arange(_NUMBER_WAVES)
    place = torch.cos(torch.pi * waves * (numbers / numbers.max())[:, None])
    place = place * torch.exp(-((2 * waves / _NUMBER_WAVES) ** 2) / 2)
    directions = torch.linalg.qr(torch.randn(embeddings.shape[1], _NUMBER_WAVES))[0]  # [width, waves]
    place = place @ directions.T
    own = embeddings[ids]
    place = place * (own.norm(dim=1) / place.norm(dim=1))[:, None]
    embeddings[ids] = (own + place) / 2**0.5
