"""A nano model starts with heads that copy words and fetch option letters, and with numbers that lie in a row."""

from typing import Any

import pytest
import torch
from tests.fixtures import FAMILIES, PRESET_OF
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedTokenizerFast

from pathloom.models.nano import build_config, build_model, marks, number_ids, train_tokenizer
from pathloom.models.presets import find_preset

REPEATED = 30


@pytest.fixture(scope="module", params=FAMILIES)
def nano(request: pytest.FixtureRequest, model_folders) -> tuple[Any, PreTrainedTokenizerFast]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folders[request.param])
    preset = find_preset(PRESET_OF[request.param])
    model = build_model(preset, build_config(preset, tokenizer), seed=0, tokenizer=tokenizer)
    model.set_attn_implementation("eager")
    return model, tokenizer


def plain(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> torch.Tensor:
    """Different tokens [count] that mark nothing."""
    told = marks(tokenizer)
    known = [token for token in range(40, 400) if token not in (*told.letters, told.line_break, told.answer)]
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.tensor(known)[order]


def look(model: Any, tokens: torch.Tensor) -> Any:
    """Outputs for tokens [batch, length], with attention of each layer [batch, head, query, key]."""
    with torch.no_grad():
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), output_attentions=True)


@pytest.fixture(scope="module")
def twice(nano) -> torch.Tensor:
    """Four rows of thirty tokens that are then repeated."""
    once = torch.stack([plain(nano[1], REPEATED, seed) for seed in range(4)])
    return torch.cat([once, once], dim=1)


@pytest.fixture(scope="module")
def attentions(nano, twice) -> tuple[torch.Tensor, ...]:
    return look(nano[0], twice).attentions


def looked_back(attention: torch.Tensor, head: int, offset: int) -> float:
    """Mean attention of the second half's tokens to the one `offset` before each."""
    return float(attention[:, head].diagonal(-offset, 1, 2)[:, -25:].mean())


@pytest.mark.parametrize(("head", "offset"), [(0, 1), (1, 2)])
def test_two_heads_of_the_first_layer_look_back_by_a_fixed_number_of_tokens(attentions, head, offset):
    assert looked_back(attentions[0], head, offset) > 0.5


@pytest.mark.parametrize("head", range(4))
def test_four_heads_of_the_second_layer_look_at_what_followed_an_earlier_occurrence(attentions, head):
    assert looked_back(attentions[1], head, REPEATED - 1) > 0.4


@pytest.mark.parametrize("head", [4, 5])
def test_two_heads_of_the_second_layer_look_at_occurrences_of_the_token_itself(attentions, head):
    here, before = (looked_back(attentions[1], head, offset) for offset in (0, REPEATED))

    assert here + before > 0.7
    assert before > 0.15


def test_before_any_training_a_repeated_text_is_copied(nano, twice):
    predicted = look(nano[0], twice).logits[:, REPEATED:-1].argmax(dim=-1)

    assert (predicted == twice[:, REPEATED + 1 :]).float().mean() > 0.5


def test_words_of_an_option_look_at_its_letter_and_not_at_another(nano):
    model, tokenizer = nano
    told = marks(tokenizer)
    words = plain(tokenizer, 14, seed=5).tolist()
    lines = [words[:5], [told.letters[0], *words[5:10]], [told.letters[1], *words[10:14]]]
    tokens = [token for line in lines for token in (*line, told.line_break)]
    first, second = (tokens.index(letter) for letter in told.letters[:2])

    attention = look(model, torch.tensor([tokens])).attentions[0][0, 2]

    assert attention[first + 1 : first + 6, first].min() > 0.4
    assert attention[second + 1 : second + 5, second].min() > 0.4
    assert attention[second + 1 : second + 5, first].max() < 0.4


def test_where_the_answer_opens_a_head_of_the_third_layer_looks_at_the_last_word_of_the_reasoning(nano):
    model, tokenizer = nano
    tokens = torch.cat([plain(tokenizer, 40, seed=6), torch.tensor([marks(tokenizer).answer])])

    attention = look(model, tokens[None]).attentions[2][0, 0, -1]

    assert attention[-4] > 0.5


def test_marks_are_single_tokens(nano):
    told = marks(nano[1])

    assert [nano[1].decode([token]) for token in told.letters] == list("ABCDEFGH")
    assert nano[1].decode([told.line_break]) == "\n"
    assert nano[1].decode([told.answer]) == "<answer>"


def test_without_a_tokenizer_no_head_carries_letters(nano):
    preset = find_preset(PRESET_OF["qwen2_5_vl"])
    config = build_config(preset, nano[1])
    with_marks, without = (build_model(preset, config, 0, tokenizer) for tokenizer in (nano[1], None))

    carries = [
        model.model.language_model.layers[0].self_attn.q_proj.bias[64:96] for model in (with_marks, without)
    ]
    assert [bool(bias.any()) for bias in carries] == [True, False]


def test_numbers_that_are_near_start_alike_and_differ_all_the_same():
    texts = [f"{number} words" for number in range(0, 1000, 7)]
    tokenizer = train_tokenizer(texts, 1500, number_tokens=True)
    preset = find_preset(PRESET_OF["qwen2_5_vl"])
    model = build_model(preset, build_config(preset, tokenizer), 0, tokenizer)
    ids = number_ids(tokenizer)
    assert len(ids) == 1001

    line = model.get_input_embeddings().weight.detach()[[ids[number] for number in range(1001)]]
    alike = [float(cosine_similarity(line[:-apart], line[apart:]).mean()) for apart in (1, 30, 300)]

    assert 0.8 > alike[0] > alike[1] + 0.1 > alike[2] + 0.3


def test_a_tokenizer_without_number_tokens_has_none_to_wire():
    assert number_ids(train_tokenizer(["one 1 two 2"], 400)) == {}
