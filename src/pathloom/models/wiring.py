"""What a nano model starts with beside random weights: induction heads, and numbers that lie in a row."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

_CONSTANT_DIM = 0
_EMBEDDING_SCALE = 6.0
"""Embeddings are this much longer than the library's, whose length AdamW at 1e-3 rewrites within 20 steps."""
_AS_LONG = 0.05 * _EMBEDDING_SCALE
"""Strength of a head whose output is about as long as an embedding."""
_QUIET = 0.2
"""Of what is not wired in the first two layers, beside what is."""


class Marks(NamedTuple):
    """Token ids by which options and answers are told."""

    letters: tuple[int, ...]
    line_break: int
    answer: int
    """Opens the answer, three tokens after the last word of the reasoning."""


@torch.no_grad()
def wire_induction(model: Any, marks: Marks | None = None) -> None:
    """Start the first three language layers as induction heads (Olsson et al. 2022, arXiv 2209.11895).

    Copying words and binding them to an option's letter take steps that gradient alone finds late (docs/log.md).
    Layer 0: two heads look 1 and 2 tokens back, a third at the last option letter of the line; each writes what it
    finds into a subspace of its own, so that an option's words carry its letter. Layer 1: two heads look at the token
    after an earlier occurrence of this one, and two at one where the token before agrees as well; they copy it. One
    head looks at occurrences of this token, and one at those where the token before agrees as well; they fetch the
    letter that is carried there. Layer 2: where the answer opens, a head says the letter that was fetched three
    tokens before. Training is free to undo all of it. Without `marks` letters are neither carried nor said.
    """
    language = model.model.language_model
    first, second, third = (layer.self_attn for layer in language.layers[:3])
    width, head_width = language.config.hidden_size, first.head_dim
    model.get_input_embeddings().weight *= _EMBEDDING_SCALE
    language.norm.weight.fill_(4.0 / _EMBEDDING_SCALE)  # so that a copied token stands out among thousands

    def rows(head: int) -> slice:
        return slice(head * head_width, (head + 1) * head_width)

    def copy(attention: Any, head: int, source: Tensor, target: Tensor, strength: float = 1.0) -> None:
        attention.v_proj.weight[rows(head)] = source.T
        attention.o_proj.weight[:, rows(head)] = strength * _AS_LONG * target

    # orthogonal, so that what heads write does not blur what tokens say: [width, head_width] each
    basis = torch.linalg.qr(torch.randn(width, width))[0]
    basis[_CONSTANT_DIM] = 0.0  # says nothing about a token
    says, says_too, one_back, two_back, carried, fetched = basis.split(head_width, dim=1)[:6]

    for head, target in enumerate((one_back, two_back)):
        _look_back(first, rows(head), head + 1)
        copy(first, head, says, target)
    if marks is not None:
        _look_at_letters(model, rows(2), marks, says)
        copy(first, 2, says, carried)
    _add_constant_feature(model)
    first.o_proj.weight[:, 3 * head_width :] *= _QUIET * _EMBEDDING_SCALE
    for layer in language.layers[:2]:
        layer.mlp.down_proj.weight *= _QUIET * _EMBEDDING_SCALE

    # Rotation by position blurs the content in fast dimensions, so the slow ones carry the comparison.
    pair = torch.arange(head_width // 2)
    slow = 1.6 * (pair >= head_width // 5).repeat(2)[:, None]
    even = (pair % 2 == 0).repeat(2)
    here, after = (
        torch.where(even, 2 * says, one_back),
        torch.where(even, one_back, two_back),
    )  # two tokens at once
    for head, (query, key, source, target, strength) in enumerate(
        (
            (says, one_back, says, says, 8.0),
            (here, after, says, says, 8.0),
            (says, one_back, says_too, says_too, 8.0),
            (here, after, says_too, says_too, 8.0),
            (says, 2 * says, carried, fetched, 1.0),
            (here, here, carried, fetched, 1.0),
        )
    ):
        second.q_proj.weight[rows(head)] = 2 * slow * query.T
        second.k_proj.weight[rows(head)] = slow * key.T
        copy(second, head, source, target, strength)
    if hasattr(second, "q_norm"):
        second.q_norm.weight.fill_(3.6)
        second.k_norm.weight.fill_(1.8)

    if marks is not None:
        _look_back(third, rows(0), 3)
        _only_at(third, rows(0), model.get_input_embeddings().weight[marks.answer])
        copy(third, 0, fetched, says, 8.0)


def _add_constant_feature(model: Any) -> None:
    """Where queries have no bias (Qwen3-VL): one dimension that is alike in all tokens stands in for it."""
    if model.model.language_model.layers[0].self_attn.q_proj.bias is None:
        constant = 0.1 * _EMBEDDING_SCALE
        model.get_input_embeddings().weight[:, _CONSTANT_DIM] = constant
        for merger in (model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", ())):
            merger.linear_fc2.bias[_CONSTANT_DIM] = constant if merger is model.model.visual.merger else 0.0


def _look_back(attention: Any, rows: slice, offset: int) -> None:
    """Make one head attend `offset` tokens back whatever they say: its query is its key, turned back by that much.

    Rotary embedding turns pair i of a head's dimensions by position x theta^(-i/pairs); the product of query and key is
    then largest where the positions differ by `offset`. The fast pairs tell neighbours apart.
    """
    pairs = attention.head_dim // 2
    frequencies = attention.config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / pairs)
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


def _only_at(attention: Any, rows: slice, embedding: Tensor) -> None:
    """Let a head that looks back do so from one token: its query is now set off by that token's embedding."""
    query = attention.q_proj.weight[rows]
    if attention.q_proj.bias is not None:
        bias = attention.q_proj.bias[rows]
        query += bias[:, None] * normalize(embedding, dim=0)
        bias.zero_()
    else:
        vector = query[:, _CONSTANT_DIM].clone()
        query[:, _CONSTANT_DIM] = 0.0
        query += 4 * vector[:, None] * normalize(embedding, dim=0)


_LETTER_REACH = 15
"""Tokens over which an option's words carry its letter; three words of five tokens each."""
_LINE_BREAK_SHARE = 0.5
"""Of what marks a letter, in a line break: enough to keep an old letter from a new option, and less than a letter."""


def _look_at_letters(model: Any, rows: slice, marks: Marks, says: Tensor) -> None:
    """Make one head of the first layer attend to the last option letter; line breaks since then compete with it.

    Letters and line breaks share a direction, which keys read. Two pairs of the rotary embedding make the nearest
    win: the product falls as the cosine of distance x frequency, one of which reaches zero at _LETTER_REACH tokens.
    """
    attention = model.model.language_model.layers[0].self_attn
    embeddings = model.get_input_embeddings().weight
    direction = torch.randn(embeddings.shape[1])
    direction = normalize(direction - says @ (says.T @ direction), dim=0)
    ids = [*marks.letters, marks.line_break]
    own = embeddings[ids]
    own[-1] -= says @ (says.T @ own[-1])  # says no letter
    share = torch.ones(len(ids), 1)
    share[-1] = _LINE_BREAK_SHARE
    embeddings[ids] = (own + share * own.norm(dim=1, keepdim=True) * direction) / (1 + share**2).sqrt()

    pairs = attention.head_dim // 2
    theta = attention.config.rope_parameters["rope_theta"]
    fast = round(pairs * math.log(_LETTER_REACH / (math.pi / 2)) / math.log(theta))
    used = [fast, fast + 1]  # two, as one alone comes round again
    query, key = (projection.weight[rows] for projection in (attention.q_proj, attention.k_proj))
    query *= 0.05
    key *= 0.05
    if attention.q_proj.bias is not None:
        attention.q_proj.bias[rows][used] = 6.0
        key[used] = 2 * direction
    else:  # normalised before use: what is no letter looks elsewhere
        query[used, _CONSTANT_DIM] = 1.0
        key[used] = direction
        key[-1, _CONSTANT_DIM] = 2.0


NUMBER_WAVES = 24
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
    waves = torch.arange(NUMBER_WAVES)
    place = torch.cos(torch.pi * waves * (numbers / numbers.max())[:, None])
    place = place * torch.exp(-((2 * waves / NUMBER_WAVES) ** 2) / 2)
    directions = torch.linalg.qr(torch.randn(embeddings.shape[1], NUMBER_WAVES))[0]  # [width, waves]
    place = place @ directions.T
    own = embeddings[ids]
    place = place * (own.norm(dim=1) / place.norm(dim=1))[:, None]
    embeddings[ids] = (own + place) / 2**0.5
