"""A small vision-language model from nothing: tokenizer trained on the corpus, random weights, real classes.

What is written is an ordinary transformers model folder; AutoProcessor and AutoModelForImageTextToText open it.
"""

import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.utils.logging import disable_progress_bar

from pathloom.models.presets import Preset
from pathloom.models.wiring import Marks, wire_induction, wire_numbers

# Qwen's special tokens, in Qwen's order; the ids follow the small vocabulary's.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Single tokens, so that a model of a few million parameters need not learn to spell the answer format.
ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LETTERS = "ABCDEFGH"
"""Option letters that a nano model is wired for."""
MAX_NUMBER = 1000
"""Largest whole number that can be one token: box coordinates count from 0 to 1000."""
# Words with their leading space, single digits, punctuation one by one: an option letter is always one token.
_SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s+"
# The same, with up to three digits in a row, or 1000, in one piece.
_SPLIT_NUMBERS = _SPLIT.replace(r"|\p{N}|", r"|1000(?!\p{N})|\p{N}{1,3}|")

_MODEL_CLASSES: dict[str, Any] = {
    "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
    "qwen3_vl": Qwen3VLForConditionalGeneration,
}


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, number_tokens: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE on `texts`; any other text, Chinese included, still encodes through bytes.

    With `number_tokens` each whole number from 0 to MAX_NUMBER is one token, 991 of the vocabulary.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _pre_tokenizer(_SPLIT)
    merges = _number_merges() if number_tokens else []
    num_numbers = len({left + right for left, right in merges})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(ANSWER_TAGS) - num_numbers,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if merges:
        tokenizer = _with_merges(tokenizer, merges)
        tokenizer.pre_tokenizer = _pre_tokenizer(_SPLIT_NUMBERS)
    tokenizer.decoder = decoders.ByteLevel()
    # Ordinary tokens, not special ones: decoding with skip_special_tokens must keep the tags.
    tokenizer.add_tokens(list(ANSWER_TAGS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=list(SPECIAL_TOKENS),
    )


def number_ids(tokenizer: PreTrainedTokenizerFast) -> dict[int, int]:
    """Number -> token id for 0 to MAX_NUMBER; empty unless each of them is one token."""
    vocabulary = tokenizer.get_vocab()
    ids = {number: vocabulary.get(str(number)) for number in range(MAX_NUMBER + 1)}
    return {} if None in ids.values() else ids


def marks(tokenizer: PreTrainedTokenizerFast) -> Marks:
    """What wiring needs to know of a tokenizer of `train_tokenizer`."""
    letters, line_break, answer = (
        [int(tokenizer.encode(text)[0]) for text in texts] for texts in (LETTERS, "\n", ["<answer>"])
    )
    return Marks(tuple(letters), line_break[0], answer[0])


def _pre_tokenizer(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _number_merges() -> list[tuple[str, str]]:
    """Pairs of pieces that make 10 to 999 and 1000; single digits are pieces already.

    Which two of three digits meet first depends on the digits, so 110 is made both of 11 and 0 and of 1 and 10.
    """
    tens = [(str(number // 10), str(number % 10)) for number in range(10, 100)]
    from_tens = [(str(number // 10), str(number % 10)) for number in range(100, 1000)]
    to_tens = [(str(number // 100), str(number % 100)) for number in range(100, 1000) if number % 100 >= 10]
    return [*tens, *from_tens, *to_tens, ("100", "0")]


def _with_merges(tokenizer: Tokenizer, merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """The tokenizer with more merges and their tokens at the end of its vocabulary."""
    state = json.loads(tokenizer.to_str())
    vocabulary, known = state["model"]["vocab"], state["model"]["merges"]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
        known.append([left, right])
    return Tokenizer.from_str(json.dumps(state))


def build_processor(
    preset: Preset, tokenizer: PreTrainedTokenizerFast, *, max_pixels: int | None = None
) -> Any:
    """The family's processor. TRL recognises the chat template only byte for byte, so it is TRL's own copy."""
    size = {
        "shortest_edge": preset.min_pixels,
        "longest_edge": max_pixels or preset.max_pixels,
    }  # areas, not edges
    template = files("trl").joinpath("chat_templates", f"{preset.family}.jinja").read_text(encoding="utf-8")
    if preset.family == "qwen2_5_vl":
        image_processor = Qwen2VLImageProcessor(size=size)
        return Qwen2_5_VLProcessor(
            image_processor, tokenizer, Qwen2VLVideoProcessor(), chat_template=template
        )
    half = [0.5, 0.5, 0.5]
    image_processor = Qwen2VLImageProcessor(size=size, patch_size=16, image_mean=half, image_std=half)
    return Qwen3VLProcessor(image_processor, tokenizer, Qwen3VLVideoProcessor(), chat_template=template)


def build_config(preset: Preset, tokenizer: PreTrainedTokenizerFast | None = None) -> Any:
    """The family's config; token ids from the tokenizer, or the published ones where there is none."""
    text: dict[str, Any] = {**preset.text, "tie_word_embeddings": preset.tie_word_embeddings}
    ids = dict(preset.special)
    if tokenizer is not None:
        text |= {
            "vocab_size": len(tokenizer),
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
        }
        names = {
            "image_token_id": "<|image_pad|>",
            "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|vision_start|>",
            "vision_end_token_id": "<|vision_end|>",
        }
        ids = {key: int(tokenizer.convert_tokens_to_ids(token)) for key, token in names.items()}
    config_class = Qwen2_5_VLConfig if preset.family == "qwen2_5_vl" else Qwen3VLConfig
    return config_class(
        text_config=text,
        vision_config=dict(preset.vision),
        tie_word_embeddings=preset.tie_word_embeddings,
        **ids,
    )


def count_parameters(preset: Preset) -> int:
    """Parameters of a shape, built on the meta device: no memory is taken and nothing is downloaded."""
    with torch.device("meta"):
        model = _MODEL_CLASSES[preset.family](build_config(preset))
    return int(sum(parameter.numel() for parameter in model.parameters()))


def build_model(
    preset: Preset, config: Any, seed: int, tokenizer: PreTrainedTokenizerFast | None = None
) -> Any:
    """Random weights from `seed`, wired; the caller's random state is left as it was.

    Number tokens are wired where a tokenizer is given that has all of them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _MODEL_CLASSES[preset.family](config)
        _initialise_tower(model)
        numbers = number_ids(tokenizer) if tokenizer is not None else {}
        if numbers:
            wire_numbers(model, numbers)
        wire_induction(model, marks(tokenizer) if tokenizer is not None else None)
    model.generation_config.eos_token_id = getattr(config.text_config, "eos_token_id", None)
    model.generation_config.pad_token_id = getattr(config.text_config, "pad_token_id", None)
    return model


def renew_tower(model: Any, seed: int) -> None:
    """Give the vision tower and the projector of a Qwen-VL model random weights from `seed`, begun as in `build_model`.

    Visual tokens then lie around the mean of the embeddings, which holds what all tokens have in common.
    """
    old = model.model.visual
    slide = getattr(old, "slide", None)  # a model that reads slides keeps its slide encoder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.model.visual = type(old)._from_config(model.config.vision_config).to(old.device, old.dtype)
        _initialise_tower(model)
    if slide is not None:
        model.model.visual.slide = slide
    with torch.no_grad():
        projector_layer(model.model.visual.merger).bias.copy_(model.get_input_embeddings().weight.mean(dim=0))


def projector_layer(merger: Any) -> torch.nn.Linear:
    """The last layer of a merger, of either family."""
    return merger.linear_fc2 if hasattr(merger, "linear_fc2") else merger.mlp[-1]


def _initialise_tower(model: Any) -> None:
    for block in model.model.visual.blocks:
        _initialise_attention(block.attn, model.config.vision_config.num_heads)


@torch.no_grad()
def _initialise_attention(attention: Any, num_heads: int) -> None:
    """Mimetic initialisation (Trockman & Kolter 2023, arXiv 2305.09828) of one vision attention layer.

    Trained transformers have query-key products near the identity and value-projection products near its negative;
    starting there lets a small vision tower learn from hundreds of pictures instead of millions. The strengths 0.7
    and 0.4 are the paper's, for networks of this depth. qkv.weight is [3 d, d], proj.weight [d, d].
    """
    queries, keys, values = attention.qkv.weight.chunk(3)
    width = queries.shape[0]
    head_width = width // num_heads
    identity = torch.eye(width)
    for start in range(0, width, head_width):
        rows = slice(start, start + head_width)
        left, strengths, right = torch.linalg.svd(
            0.7 * torch.randn(width, width) / width**0.5 + 0.7 * identity
        )
        root = strengths[:head_width].sqrt()[:, None]
        queries[rows] = left.T[:head_width] * root
        keys[rows] = right[:head_width] * root
    left, strengths, right = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * identity)
    values.copy_((left * strengths.sqrt()).T)
    attention.proj.weight.copy_(right.T * strengths.sqrt())


def save_nano(
    preset: Preset,
    texts: Iterable[str],
    vocab_size: int,
    seed: int,
    max_pixels: int,
    folder: Path,
    *,
    number_tokens: bool = False,
) -> int:
    """Train the tokenizer, build the model and save both; returns the number of parameters."""
    disable_progress_bar()  # of the library: a model of 16 MB needs none
    tokenizer = train_tokenizer(texts, vocab_size, number_tokens=number_tokens)
    processor = build_processor(preset, tokenizer, max_pixels=max_pixels)
    model = build_model(preset, build_config(preset, tokenizer), seed, tokenizer)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return int(sum(parameter.numel() for parameter in model.parameters()))
