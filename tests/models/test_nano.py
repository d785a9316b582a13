import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tests.fixtures import FAMILIES, PRESET_OF, VOCAB_SIZE, picture
from transformers import AutoProcessor

from pathloom.card import read_card
from pathloom.models.init import InitConfig
from pathloom.models.load import load_model
from pathloom.models.nano import (
    ANSWER_TAGS,
    MAX_NUMBER,
    SPECIAL_TOKENS,
    build_config,
    build_model,
    projector_layer,
    renew_tower,
    save_nano,
    train_tokenizer,
)
from pathloom.models.presets import PRESETS, find_preset
from pathloom.phantom.words import GENERAL

MAX_NANO_PARAMETERS = 4_500_000
"""At most 9 MB of bfloat16, so that two of them can travel inside the package."""


@pytest.fixture(scope="module")
def loaded(model_folders: dict[str, Path]) -> dict[str, tuple[Any, Any]]:
    """Family -> (model, processor), as any stage loads them."""
    return {family: load_model(str(model_folders[family])) for family in FAMILIES}


def asked(processor: Any) -> Any:
    """One question about one picture, ready for the model."""
    content = [{"type": "image"}, {"type": "text", "text": "What is the diagnosis?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    pixels = picture(1, width_px=64, height_px=64)
    return processor(text=[text], images=[[pixels]], return_tensors="pt")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_saved_and_loaded_gives_identical_logits(loaded, family, tmp_path):
    model, processor = loaded[family]
    batch = asked(processor)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)

    again, processor_again = load_model(str(tmp_path))
    batch_again = asked(processor_again)

    assert torch.equal(batch["input_ids"], batch_again["input_ids"])
    assert torch.equal(batch["pixel_values"], batch_again["pixel_values"])
    with torch.inference_mode():
        logits, logits_again = (one.eval()(**b).logits for one, b in ((model, batch), (again, batch_again)))
    assert torch.equal(logits, logits_again)
    assert logits.shape[-1] == len(processor.tokenizer)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_model_answers_depends_on_the_picture(loaded, family):
    model, processor = loaded[family]
    batch = asked(processor)
    with torch.inference_mode():
        logits = model.eval()(**batch).logits
        batch["pixel_values"] = -batch["pixel_values"]
        changed = model(**batch).logits

    assert not torch.allclose(logits[:, -1], changed[:, -1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_fixes_the_weights_and_leaves_the_callers_random_state_alone(loaded, family):
    processor = loaded[family][1]
    preset = find_preset(PRESET_OF[family])
    config = build_config(preset, processor.tokenizer)
    state = torch.random.get_rng_state()

    first, second, other = (build_model(preset, config, seed).state_dict() for seed in (0, 0, 1))

    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_renewed_tower_is_new_by_its_seed_around_the_mean_of_the_words(loaded, family):
    processor = loaded[family][1]
    preset = find_preset(PRESET_OF[family])
    config = build_config(preset, processor.tokenizer)
    models = [build_model(preset, config, 0, processor.tokenizer) for _ in range(3)]
    before = {name: weight.clone() for name, weight in models[0].state_dict().items()}
    state = torch.random.get_rng_state()

    for model, seed in zip(models, (1, 1, 2), strict=True):
        renew_tower(model, seed)

    assert torch.equal(torch.random.get_rng_state(), state)
    one, same, other = (model.state_dict() for model in models)
    assert one.keys() == before.keys()
    for name in one:
        assert torch.equal(one[name], same[name])
        new = not torch.equal(one[name], before[name])
        of_output = name.endswith(("visual.merger.mlp.2.bias", "visual.merger.linear_fc2.bias"))
        assert new == (".visual." in name and (one[name].ndim > 1 or of_output)), name
        assert not new or name.endswith("bias") or not torch.equal(one[name], other[name])
    layer = projector_layer(models[0].model.visual.merger)
    assert torch.equal(layer.bias, before["model.language_model.embed_tokens.weight"].mean(dim=0))
    attention = models[0].model.visual.blocks[0].attn
    queries, keys, _ = attention.qkv.weight.chunk(3)
    width = queries.shape[0] // preset.vision["num_heads"]
    product = queries[:width].T @ keys[:width]
    assert product.diagonal().mean() > 5 * product.mean().abs(), "begun near the identity, as in a new model"


@pytest.mark.parametrize(
    "preset", [preset for preset in PRESETS if preset.hub_id is None], ids=lambda p: p.name
)
def test_a_nano_model_stays_small_with_a_vocabulary_of_4000(preset, capsys):
    config = build_config(preset)
    config.text_config.vocab_size = 4000
    with torch.device("meta"):
        number = sum(parameter.numel() for parameter in build_model(preset, config, 0).parameters())

    with capsys.disabled():
        print(f" {preset.name}: {number:,} parameters ", end="")
    assert number <= MAX_NANO_PARAMETERS


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_folder_is_safetensors_with_a_card_and_its_chat_template(model_folders, family):
    folder = model_folders[family]
    names = {path.name for path in folder.iterdir()}
    card = read_card(folder)

    assert "model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    assert json.loads((folder / "config.json").read_text())["model_type"] == family
    assert (card.min_pixels, card.max_pixels) == (find_preset(PRESET_OF[family]).min_pixels, 64 * 64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        "高级别鳞状上皮内病变、腺癌 12 例",
        "Ki-67 ≥ 20 %",
        "naïve ß Größe",
        "a\n\n  b\tc ",
        "<answer>B</answer>",
    ],
)
def test_any_text_comes_back_through_the_tokenizer(loaded, family, text):
    tokenizer = loaded[family][1].tokenizer

    ids = tokenizer.encode(text, add_special_tokens=False)

    assert tokenizer.decode(ids) == text
    assert None not in ids
    assert max(ids) < len(tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_letters_digits_and_tags_are_one_token_each(loaded, family):
    tokenizer = loaded[family][1].tokenizer

    for text in [*"ABCDEFGHIJ", *"0123456789", *ANSWER_TAGS, *SPECIAL_TOKENS]:
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text
    # In their place, too: nothing merges with the bracket before or after.
    ids = tokenizer.encode("<think>x</think><answer>B</answer>", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["<think>", "x", "</think>", "<answer>", "B", "</answer>"]


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_without_special_tokens_keeps_the_tags(loaded, family):
    tokenizer = loaded[family][1].tokenizer
    ids = tokenizer.encode("<answer>A</answer><|im_end|>", add_special_tokens=False)

    assert tokenizer.decode(ids, skip_special_tokens=True) == "<answer>A</answer>"


def test_a_tokenizer_is_no_larger_than_asked_and_the_same_each_time():
    texts = [f"The gland number {index} is well formed." for index in range(50)]
    one, two = (train_tokenizer(texts, 400) for _ in range(2))

    assert len(one) <= 400
    assert one.get_vocab() == two.get_vocab()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vocabulary_of_the_model_is_that_of_its_tokenizer(loaded, family):
    model, processor = loaded[family]

    assert len(processor.tokenizer) <= VOCAB_SIZE
    assert model.get_input_embeddings().weight.shape[0] == len(processor.tokenizer)
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("family", FAMILIES)
def test_large_pictures_are_cut_to_the_size_that_the_card_names(loaded, family):
    processor = loaded[family][1]
    side = find_preset(PRESET_OF[family]).patch_px

    large = processor.image_processor(images=[picture(0, 640, 320)], return_tensors="pt")
    frames, height, width = (int(n) for n in large["image_grid_thw"][0])

    assert frames == 1
    assert height * width * side**2 <= 64 * 64
    assert width > height


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"known: qwen2\.5-vl-nano"):
        find_preset("qwen")


NUMBERED_VOCAB_SIZE = 1500
# Numbers stand in the text that the tokenizer is made for, as boxes do in training.
NUMBERED_TEXTS = [f"{word} {word} [[{index},{1000 - index},998,1000]]" for index, word in enumerate(GENERAL)]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Family -> the tokenizer with number_tokens of a model folder, as AutoProcessor reads it."""
    tokenizers = {}
    for family in FAMILIES:
        folder = tmp_path_factory.mktemp(f"numbered_{family}")
        preset = find_preset(PRESET_OF[family])
        save_nano(preset, NUMBERED_TEXTS, NUMBERED_VOCAB_SIZE, 0, 64 * 64, folder, number_tokens=True)
        assert json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"] == 1500
        tokenizers[family] = AutoProcessor.from_pretrained(folder).tokenizer
    return tokenizers


def pieces(tokenizer: Any, text: str) -> list[str]:
    """Tokens of a text, each decoded by itself."""
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_number_to_1000_is_one_token_wherever_it_stands(numbered, family):
    tokenizer = numbered[family]
    found = set()
    for number in map(str, range(MAX_NUMBER + 1)):
        (token,) = tokenizer.encode(number, add_special_tokens=False)
        assert tokenizer.decode([token]) == number
        assert pieces(tokenizer, f"[[{number},{number}]]") == ["[", "[", number, ",", number, "]", "]"]
        assert pieces(tokenizer, f"<answer>{number}</answer>") == ["<answer>", number, "</answer>"]
        found.add(token)

    assert len(found) == MAX_NUMBER + 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["1001", "12345", "10000", "007", "00", "x2y", "3.5", "100100", "½ ² ٣"])
def test_other_numbers_come_back_too(numbered, family, text):
    tokenizer = numbered[family]
    ids = tokenizer.encode(text, add_special_tokens=False)

    assert None not in ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("family", FAMILIES)
def test_with_number_tokens_an_option_letter_is_one_token_of_its_own(numbered, family):
    tokenizer = numbered[family]
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        assert pieces(tokenizer, f"<answer>{letter}</answer>") == ["<answer>", letter, "</answer>"]
        asked_in_prompt = pieces(tokenizer, f"which?\n{letter}. apple\n{letter}.")
        assert asked_in_prompt.count(letter) == 2
        ids = {tokenizer.convert_tokens_to_ids(letter), *tokenizer.encode(letter, add_special_tokens=False)}
        assert len(ids) == 1, "the letter in the prompt and in the answer are the same token"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "text",
    ["高级别鳞状上皮内病变、腺癌 12 例", "🔬🧫 40 µm 🧬", "naïve ß Größe", "a\n\n  b\tc ", "Ki-67 ≥ 20 %"],
)
def test_with_number_tokens_any_text_comes_back(numbered, family, text):
    tokenizer = numbered[family]
    ids = tokenizer.encode(text, add_special_tokens=False)

    assert tokenizer.decode(ids) == text
    assert None not in ids
    assert max(ids) < len(tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_with_number_tokens_is_exactly_as_large_as_asked(numbered, family):
    tokenizer = numbered[family]

    assert len(tokenizer) == NUMBERED_VOCAB_SIZE
    assert sorted(tokenizer.get_vocab().values()) == list(range(NUMBERED_VOCAB_SIZE))
    assert len(train_tokenizer(NUMBERED_TEXTS, 700)) == 700


def test_number_tokens_leave_the_words_as_they_were():
    with_numbers = train_tokenizer(NUMBERED_TEXTS, 1700, number_tokens=True)
    without = train_tokenizer(NUMBERED_TEXTS, 1700 - 991)

    for text in ("The glands are well formed.", " ".join(GENERAL[:50]), "A. apple\nB. ant"):
        assert pieces(with_numbers, text) == pieces(without, text)


def test_without_number_tokens_each_digit_is_a_token():
    tokenizer = train_tokenizer(NUMBERED_TEXTS, 700)

    assert pieces(tokenizer, "[[12,1000,7]]") == [*"[[12,1000,7]]"]


def test_number_tokens_need_a_vocabulary_that_has_room_for_words():
    given: dict[str, Any] = {"name": "n", "kind": "init", "samples": ("words",), "number_tokens": True}

    with pytest.raises(ValidationError, match="vocab_size: number_tokens needs at least 1500"):
        InitConfig(**given, vocab_size=1499)
    assert InitConfig(**given, vocab_size=1500).number_tokens
    assert not InitConfig(**{**given, "number_tokens": False}, vocab_size=400).number_tokens
