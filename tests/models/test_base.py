"""The models inside the package: what they weigh, say of themselves, can write, and have learnt."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tests.ingest.test_basics import basics, read_all
from transformers import AutoProcessor

from pathloom.benchmarks import find_benchmark
from pathloom.card import read_card
from pathloom.evaluate.generative import Request, generate
from pathloom.models.load import load_model
from pathloom.recipe import load_recipe
from pathloom.schema import Sample
from pathloom.stage import ModelRef, shipped_bases
from pathloom.tasks import find_task

MAX_BYTES = 9_000_000
"""Small enough to travel inside the package."""
RECIPE = Path(__file__).parents[2] / "recipes" / "nano_base.yaml"
BASES = ("qwen2.5-vl-nano", "qwen3-vl-nano")


def folder(name: str) -> Path:
    return Path(ModelRef(base=name).locate({}))


def test_both_families_are_shipped():
    assert shipped_bases() == BASES


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_small_and_all_bfloat16(name):
    assert (folder(name) / "model.safetensors").stat().st_size <= MAX_BYTES
    with safe_open(folder(name) / "model.safetensors", framework="pt") as weights:
        assert {weights.get_slice(key).get_dtype() for key in weights.keys()} == {"BF16"}  # noqa: SIM118


@pytest.mark.parametrize("name", BASES)
def test_a_base_says_that_it_has_seen_nothing_of_pathology(name):
    card = read_card(folder(name))

    assert name in card.name
    assert card.trained_on
    assert all(source.startswith("basics_") for source in card.trained_on)


@pytest.mark.parametrize("name", BASES)
def test_a_base_has_learnt_what_the_last_stage_of_its_recipe_asks(name):
    stages = {stage.name: stage.model_dump() for stage in load_recipe(RECIPE).stages}
    asked = [stages[samples]["train"] for samples in stages["trained"]["samples"]]
    card = read_card(folder(name))

    assert set(card.trained_on) == {f"basics_{kind}" for kinds in asked for kind in kinds}
    assert card.num_train_samples == sum(sum(kinds.values()) for kinds in asked)


@pytest.mark.parametrize("name", BASES)
def test_a_base_writes_numbers_and_letters_as_one_token_and_any_text_back(name):
    tokenizer = AutoProcessor.from_pretrained(folder(name)).tokenizer

    assert 4000 <= len(tokenizer) <= 8000
    for text in (*map(str, range(1001)), *"ABCDEFGH"):
        assert len(tokenizer.encode(text)) == 1, text
    for text in ("[[12,345,678,1000]]", "Bethesda: 高级别鳞状上皮内病变, µm² 4.5 ≥ 3", "Größe\tøre 🔬"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", BASES)
def test_a_base_picks_the_letter_of_words_that_it_has_never_read(name):
    """Chance is 0.36; docs/log.md has the measured value, of more questions."""
    samples = list(read_all(basics({}, {"word_choice": 60})))

    scores = answers(name, "basics_word_choice", samples)

    assert np.mean(scores) >= 0.85


def answers(name: str, benchmark_name: str, samples: list[Sample]) -> list[float]:
    benchmark = find_benchmark(benchmark_name)
    task = find_task(benchmark.task)
    model, processor = load_model(str(folder(name)))
    requests = [Request(benchmark, "none", sample, sample) for sample in samples]
    texts = generate(model, processor, requests, "cot", 64)
    template = task.template(benchmark.template)
    return [
        float(task.score(sample, text, template).correct) for sample, text in zip(samples, texts, strict=True)
    ]
