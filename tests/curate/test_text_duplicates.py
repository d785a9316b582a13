"""Near-duplicate texts: found when planted, left alone otherwise, and never slow on texts from templates."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.curate.faults import near_duplicate
from tests.curate.written import clean_samples, real_captions
from tests.fixtures import make_sample

from pathloom.curate.text_duplicates import NearDuplicatesStep, Shingles, shingles_of_text, text_of
from pathloom.schema import Drop, Sample

WORDS = np.array([f"word{number}" for number in range(4000)])


def text(seed: int, num_words: int = 120) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, num_words))


def written(sample_id: str, reasoning: str, **fields: Any) -> Sample:
    return make_sample(sample_id, **{"task": "report", "images": (), "reasoning": reasoning, **fields})


def dropped(samples: list[Sample], seed: int = 0, **fields: Any) -> dict[str, Drop]:
    step = NearDuplicatesStep(step="near_duplicates", **fields)
    prepared = step.prepare(lambda: iter(samples), {}, seed)
    records = [prepared.change(sample) for sample in samples]
    drops = {record.sample_id: record for record in records if isinstance(record, Drop)}
    assert prepared.facts == {"near_duplicates": len(drops)}
    return drops


def test_the_first_of_a_cluster_is_kept_and_named():
    near = text(1).replace(text(1).split()[60], "another", 1)
    drops = dropped([written("a", text(1)), written("b", text(2)), written("c", near), written("d", text(1))])

    assert set(drops) == {"c", "d"}
    assert drops["c"].reason == "near_duplicate"
    assert drops["c"].step == "curate.near_duplicates"
    assert "of a " in drops["c"].detail


def test_another_task_another_text_and_a_lower_likeness_are_kept():
    words = text(1).split()
    near = " ".join([*words[:100], *text(5).split()[:20]])  # Jaccard 0.71
    samples = [written("a", text(1)), written("b", text(1), task="dialogue"), written("c", near)]

    assert dropped(samples) == {}
    assert set(dropped(samples, threshold=0.6)) == {"c"}


def test_a_chain_of_small_changes_is_measured_against_what_is_kept():
    words = text(3, 100).split()
    chain = [" ".join([*text(4).split()[:changed], *words[changed:]]) for changed in (0, 5, 10)]
    drops = dropped([written(name, reasoning) for name, reasoning in zip("abc", chain, strict=True)])

    assert set(drops) == {"b"}


def test_the_order_of_the_options_makes_no_difference():
    options = ("adenocarcinoma of the colon", "tubular adenoma", "colitis", "lymphoma")
    samples = [
        written(name, text(7), task="choice", choices=choices, answer=options[0])
        for name, choices in (("a", options), ("b", options[::-1]))
    ]

    assert text_of(samples[0]) == text_of(samples[1])
    assert set(dropped(samples)) == {"b"}


def test_samples_without_reasoning_are_compared_only_on_demand():
    samples = [make_sample("a", images=()), make_sample("b", images=())]

    assert dropped(samples) == {}
    assert set(dropped(samples, reasoned_only=False)) == {"b"}


def test_an_empty_set_and_a_repeated_id_are_no_error():
    assert dropped([]) == {}
    assert dropped([written("a", text(1)), written("a", text(1))]) == {}


def test_a_second_sample_of_an_id_is_left_alone_unless_its_words_are_the_same():
    samples = [written("x", text(1)), written("a", text(1)), written("a", text(2)), written("a", text(1))]
    step = NearDuplicatesStep(step="near_duplicates")
    prepared = step.prepare(lambda: iter(samples), {}, 0)

    records = [prepared.change(sample) for sample in samples]

    assert [isinstance(record, Drop) for record in records] == [False, True, False, True]


def test_the_likeness_to_many_is_that_to_each():
    texts = Shingles()
    for number in range(4):
        texts.add(shingles_of_text(" ".join([*text(1).split()[: number * 30], *text(number + 2).split()])))
    one = shingles_of_text(text(1))
    texts.add(one)

    many = texts.jaccards(np.arange(4), one)

    assert many.tolist() == [texts.jaccard(row, 4) for row in range(4)]
    assert many[0] == 0 < many[1] < many[2] < many[3]


def test_the_result_does_not_depend_on_the_seed():
    samples = [written(str(number), text(number % 40)) for number in range(80)]

    assert set(dropped(samples, seed=1)) == set(dropped(samples, seed=2)) == {str(n) for n in range(40, 80)}


def test_texts_from_a_template_take_no_quadratic_time():
    # Four free words of 40: every two texts share most of their shingles and hardly any two are near duplicates.
    frame = text(9, 36).split()
    rng = np.random.default_rng(0)
    samples = []
    for number in range(3000):
        words = list(frame)
        for place in (5, 13, 21, 29):
            words.insert(place, str(rng.choice(WORDS)))
        samples.append(written(str(number), " ".join(words)))
    start = time.perf_counter()
    dropped(samples, threshold=0.9)

    assert time.perf_counter() - start < 10


def test_speed_on_random_texts():
    samples = [written(str(number), text(number)) for number in range(2000)]
    start = time.perf_counter()
    drops = dropped(samples)
    rate = len(samples) / (time.perf_counter() - start)
    print(f"\nnear_duplicates: {rate:,.0f} samples/s")

    assert drops == {}
    assert rate > 200


def test_planted_near_duplicates_of_rows_on_real_captions_are_found(data_root: Path):
    rows = clean_samples(real_captions(data_root), num_each=1)
    rng = np.random.default_rng(0)
    again = [near_duplicate(row, rng, rows) for row in rows if len(text_of(row).split()) >= 60]
    false = dropped(rows)
    drops = dropped([*rows, *again])
    recall = len(set(drops) - set(false)) / len(again)
    print(
        f"\nnear duplicates planted {len(again)}, found {recall:.3f}; false drops {len(false)} of {len(rows)}"
    )

    assert len(again) >= 60
    assert recall >= 0.95
    assert len(false) <= 0.02 * len(rows)
