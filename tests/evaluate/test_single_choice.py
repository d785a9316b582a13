"""The stage `benchmark`: what is asked, what is left out, and what its card says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample

from pathloom.attributes import load_schema
from pathloom.benchmarks import find_benchmark
from pathloom.evaluate.report_data import data_stage
from pathloom.evaluate.select import held_out
from pathloom.evaluate.single_choice import run_benchmark
from pathloom.evaluate.single_choice_config import BenchmarkConfig
from pathloom.phantom.cytology import BETHESDA
from pathloom.routing import REVIEW_NOTE
from pathloom.schema import Annotation, Attribute, Event, Origin, Resolver, Said, Sample
from pathloom.stage import MANIFEST_FILE, UserError, read_jsonl, write_json
from pathloom.store import read_samples, write_samples
from pathloom.tasks import find_task

SCHEMA = load_schema("cervical_cell")
SIZES = SCHEMA["nuclear_size"].values


def cell(name: str, resolver: Resolver = "truth", *, group: str = "", **fields: Any) -> Sample:
    """A cell as the engine leaves it: annotated, described, with attributes given as `values`."""
    values = fields.pop("values", {"nuclear_size": SIZES[1]})
    given: dict[str, Any] = {
        "task": "caption",
        "split": "test",
        "question": "Describe the cell.",
        "answer": SCHEMA.describe({k: v for k, v in values.items() if v in SCHEMA[k].words}),
        "context": "the truth of the phantom",
        "finding": "LSIL",
        "annotations": (Annotation(annotator="one", said=(Said(name="nuclear_size", text="large"),)),),
        "attributes": tuple(Attribute(name=k, value=v, resolver=resolver) for k, v in values.items()),
        "origin": Origin(source="cells", source_id=name, licence="CC0-1.0", group=group or name),
    }
    return make_sample(name, **{**given, **fields})


def made(folder: Path, samples: list[Sample], family: str = "morphopercept", **keys: Any) -> Path:
    """The folder that the stage leaves for these Samples."""
    write_samples(samples, folder / "cells-0123")
    out = folder / "out"
    out.mkdir(exist_ok=True)
    config = BenchmarkConfig(name="asked", kind="benchmark", family=family, samples=("cells",), **keys)
    config.check()
    counts = run_benchmark(config, {"cells": folder / "cells-0123"}, out)
    write_json({"kind": "benchmark", "counts": counts, "seconds": 1.0}, out / MANIFEST_FILE)
    return out


def items(folder: Path, samples: list[Sample], family: str = "morphopercept", **keys: Any) -> list[Sample]:
    return list(read_samples(made(folder, samples, family, **keys)))


def reasons(out: Path) -> Counter[str]:
    return Counter(drop["reason"] for drop in read_jsonl(out / "drops" / "00000.jsonl"))


def cells_of_every_size(count: int, **fields: Any) -> list[Sample]:
    return [cell(f"c{k}", values={"nuclear_size": SIZES[k % len(SIZES)]}, **fields) for k in range(count)]


@pytest.mark.parametrize("family", ["morphopercept", "cytocell"])
def test_nobody_is_measured_by_a_cell_that_awaits_review(tmp_path, family):
    routed = Event(step="curate.expert", version=1, note=f"{REVIEW_NOTE}LSIL-size")

    out = made(tmp_path, [cell("doubted", history=(routed,)), cell("clear")], family)

    assert {sample.id.partition("/")[0] for sample in read_samples(out)} == {"clear"}
    assert reasons(out) == {"awaits_review": 1}


def test_a_value_that_a_rule_wrote_is_no_truth_unless_it_is_accepted(tmp_path):
    cells = [cell("ruled", "expert"), cell("known")]

    assert [one.id for one in items(tmp_path / "default", cells)] == ["known/morphopercept/nuclear_size"]
    assert len(items(tmp_path / "asked for", cells, accept=("truth", "expert"))) == 2


def test_every_attribute_of_a_held_out_cell_becomes_one_question_about_the_same_picture(tmp_path):
    sample = cell("c", values={"nuclear_size": "normal", "chromatin": "dark even"}, split="fold-2")

    size, chromatin = items(tmp_path, [sample, cell("t", split="train"), cell("v", split="val")])

    assert (size.id, chromatin.id) == ("c/morphopercept/nuclear_size", "c/morphopercept/chromatin")
    assert size.question == "How large is the nucleus?"
    assert (size.answer, chromatin.answer) == ("normal", "dark even")
    assert set(size.choices) == set(SIZES)
    assert len(chromatin.choices) == 4
    assert set(chromatin.choices) < set(SCHEMA["chromatin"].values)
    assert size.strata == ("benchmark=morphopercept", "dimension=nuclear_size")
    assert (size.task, size.split, size.finding) == ("choice", "fold-2", "LSIL")
    assert size.images == sample.images
    assert size.origin == sample.origin


def test_an_item_holds_nothing_that_gives_its_answer_away(tmp_path):
    (item,) = items(tmp_path, [cell("c", reasoning="It is large.")])

    assert (item.context, item.reasoning, item.earlier) == ("", None, ())
    assert (item.attributes, item.annotations) == ((), ())


def test_an_item_keeps_what_is_told_apart_about_its_picture(tmp_path):
    (item,) = items(tmp_path, [cell("c", strata=("wording=unseen", "profile=broken"))])

    assert item.strata == ("benchmark=morphopercept", "profile=broken", "dimension=nuclear_size")


@pytest.mark.parametrize("resolver", ["majority", "dawid_skene", "arbiter"])
def test_a_vote_of_models_is_no_truth_unless_it_is_accepted(tmp_path, resolver):
    samples = [cell("seen"), cell("voted", resolver)]

    out = made(tmp_path / "strict", samples)
    accepted = items(tmp_path / "open", samples, accept=("truth", resolver))

    assert [item.id for item in read_samples(out)] == ["seen/morphopercept/nuclear_size"]
    assert reasons(out) == {"untrusted": 1}
    assert len(accepted) == 2


def test_whatever_cannot_be_asked_is_counted_with_its_reason(tmp_path):
    samples = [
        cell("good"),
        cell("bare", values={}),
        cell("blind", images=()),
        cell("odd", values={"nuclear_size": "normal"}).model_copy(
            update={"attributes": (Attribute(name="colour", value="red", resolver="truth"),)}
        ),
        cell("huge").model_copy(
            update={"attributes": (Attribute(name="nuclear_size", value="huge", resolver="truth"),)}
        ),
        cell("good"),
    ]

    out = made(tmp_path, samples)

    assert reasons(out) == dict.fromkeys(
        ("no_attribute", "no_picture", "unknown_attribute", "unknown_value", "repeated"), 1
    )
    assert len(list(read_samples(out))) == 1


def test_each_letter_is_right_equally_often(tmp_path):
    asked = items(tmp_path, cells_of_every_size(40))

    assert Counter(item.choices.index(item.answer) for item in asked) == dict.fromkeys(range(4), 10)
    by_answer = Counter((item.answer, item.choices.index(item.answer)) for item in asked)
    assert len(by_answer) > 8, "the letter goes its own way, whatever the answer is"


def test_the_same_seed_gives_the_same_items_and_another_one_others(tmp_path):
    samples = [cell(f"c{k}", values={"chromatin": "dark even"}) for k in range(12)]

    first, again, other = (
        [item.choices for item in items(tmp_path / name, samples, seed=seed)]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )

    assert first == again
    assert first != other


def test_no_more_options_are_offered_than_there_are_values(tmp_path):
    (item,) = items(tmp_path, [cell("c", values={"nucleoli": "small"})], num_options=6)

    assert set(item.choices) == {"none", "small", "large"}


def test_a_chinese_benchmark_asks_and_offers_chinese_words(tmp_path):
    (item,) = items(tmp_path, [cell("c", values={"nuclear_size": "normal"})], language="zh")

    assert item.question == SCHEMA["nuclear_size"].question["zh"]
    assert item.answer == "正常"
    assert all(not choice.isascii() for choice in item.choices)
    find_task("choice").truth(item)  # raises where the answer is no option


def test_the_commonest_value_no_longer_wins_where_values_are_capped(tmp_path):
    normal = [cell(f"n{k}", values={"nuclear_size": "normal"}) for k in range(30)]
    rare = [cell(f"r{k}", values={"nuclear_size": "markedly enlarged"}) for k in range(5)]

    asked = items(tmp_path, normal + rare, per_value=5)

    assert Counter(item.answer for item in asked) == {"normal": 5, "markedly enlarged": 5}
    chosen = [item.id for item in asked if item.id.startswith("n")]
    assert chosen == sorted(chosen, key=lambda name: int(name[1:].partition("/")[0])), "order is kept"
    assert chosen[-1] != "n4/morphopercept/nuclear_size", "spread over all, not the first five"


def test_a_cap_is_dealt_over_slides(tmp_path):
    one_slide = [cell(f"a{k}", group="slide a") for k in range(20)]
    others = [cell(f"b{k}", group=f"slide b{k}") for k in range(4)]

    asked = items(tmp_path, one_slide + others, per_value=5)

    assert Counter(item.origin.group for item in asked) == dict.fromkeys(
        ("slide a", "slide b0", "slide b1", "slide b2", "slide b3"), 1
    )


def test_a_class_question_offers_all_classes_in_an_order_that_says_nothing(tmp_path):
    samples = [cell(f"c{k}", finding=BETHESDA[k % 8]) for k in range(32)]

    asked = items(tmp_path, samples, "cytocell")

    assert all(set(item.choices) == set(BETHESDA) for item in asked)
    assert all(item.answer == item.finding for item in asked)
    assert Counter(item.choices.index(item.answer) for item in asked) == dict.fromkeys(range(8), 4)
    assert asked[0].strata == ("benchmark=cytocell",)
    assert asked[0].id == "c0/cytocell"


def test_a_cell_of_no_class_or_of_another_one_is_left_out_and_counted(tmp_path):
    samples = [cell("a"), cell("b", finding="nilm"), cell("c", finding=None), cell("d", finding="SCC")]

    out = made(tmp_path, samples, "cytocell", classes=("NILM", "LSIL"))

    assert [item.answer for item in read_samples(out)] == ["LSIL", "NILM"]
    assert reasons(out) == {"no_class": 1, "unknown_class": 1}


def test_a_benchmark_of_nothing_is_refused_with_the_reasons(tmp_path):
    with pytest.raises(
        UserError, match=r"asked\.samples: cells hold nothing to ask.*1 untrusted, 1 no_attribute"
    ):
        made(tmp_path, [cell("a", "majority"), cell("b", values={}), cell("c", split="train")])


def test_a_class_named_twice_is_refused():
    config = BenchmarkConfig(
        name="asked", kind="benchmark", family="cytocell", samples=("cells",), classes=("NILM", "nilm")
    )

    with pytest.raises(UserError, match=r"asked\.classes: one class stands there twice"):
        config.check()


def test_items_are_found_by_their_own_benchmark_and_by_no_other(tmp_path):
    morpho = items(tmp_path / "m", [cell("c")])
    classes = items(tmp_path / "c", [cell("c")], "cytocell")
    plain = make_sample("q", task="choice", choices=("a", "b"), answer="a", split="test")

    found = {
        name: [one.id for one in held_out([*morpho, *classes, plain], find_benchmark(name), None)]
        for name in ("morphopercept", "cytocell")
    }

    assert found == {"morphopercept": [morpho[0].id], "cytocell": [classes[0].id]}


def test_the_card_says_what_the_items_are(tmp_path):
    samples = [*cells_of_every_size(8), cell("x", values={"nucleoli": "none"}), cell("y", "majority")]

    out = made(tmp_path, samples, release=3)

    record = json.loads((out / "benchmark.json").read_text())
    assert (record["family"], record["release"], record["items"]) == ("morphopercept", 3, 9)
    assert record["attributes"] == "cervical_cell, version 1"
    assert record["attributes_sha256"] == SCHEMA.digest
    assert record["made_from"] == {"cells": "cells-0123"}
    assert record["drops"] == {"untrusted": 1}
    assert record["sources"] == [{"source": "cells", "licence": "CC0-1.0", "items": 9, "groups": 9}]
    assert record["values"]["nuclear_size"] == dict.fromkeys(SIZES, 2)
    assert record["dimensions"]["nuclear_size"]["share_of_commonest"] == 0.25
    assert record["dimensions"]["nucleoli"]["chance"] == 1.0
    assert record["chance"] == pytest.approx((0.25 + 1.0) / 2)
    card = (out / "card.md").read_text()
    assert record["sha256"][:12] in card
    assert "| nuclear_size | 8 | 8 | 4 |" in card
    assert "| untrusted | 1 |" in card


def test_a_guess_without_looking_counts_what_is_offered(tmp_path):
    """Of six kinds of chromatin four are offered: where the commonest is not, the next one is guessed."""
    values = ["dark even"] * 6 + ["fine even"] * 3 + ["coarse dark"]
    samples = [cell(f"c{k}", values={"chromatin": value}) for k, value in enumerate(values)]
    out = made(tmp_path, samples)

    row = json.loads((out / "benchmark.json").read_text())["dimensions"]["chromatin"]

    order = ("dark even", "fine even", "coarse dark")
    guesses = [
        next(value for value in order if value in item.choices) == item.answer for item in read_samples(out)
    ]
    assert row["guess"] == pytest.approx(sum(guesses) / 10)
    assert row["guess"] >= row["share_of_commonest"] == 0.6


def test_a_guess_at_classes_is_told_in_the_metric_of_the_benchmark(tmp_path):
    """Always the commonest class: right in 9 of 10, but a balanced accuracy of a half."""
    samples = [cell(f"c{k}", finding="HSIL" if k == 0 else "NILM") for k in range(10)]

    record = json.loads((made(tmp_path, samples, "cytocell") / "benchmark.json").read_text())

    assert record["dimensions"]["class"]["share_of_commonest"] == 0.9
    assert record["dimensions"]["class"]["guess"] == record["dimensions"]["class"]["chance"] == 0.5
    assert record["mean_guess"] == record["chance"] == 0.5


@pytest.mark.parametrize("change", ["picture", "value", "order", "nothing"])
def test_the_hash_changes_with_whatever_is_asked(tmp_path, change):
    before = cells_of_every_size(4)
    after = list(before)
    if change == "picture":
        after[2] = after[2].model_copy(update={"images": (make_image(7),)})
    elif change == "value":
        after[2] = cell("c2", values={"nuclear_size": SIZES[0]})
    elif change == "order":
        after.reverse()

    first, second = (
        json.loads((made(tmp_path / name, samples) / "benchmark.json").read_text())["sha256"]
        for name, samples in (("a", before), ("b", after))
    )

    assert (first == second) == (change == "nothing")


def test_a_report_shows_the_balance(tmp_path):
    shown = data_stage("asked", made(tmp_path, cells_of_every_size(8)), num_examples=2)

    assert shown.kept == {"choice": 8}
    assert "benchmark: dimensions" in [table.title for table in shown.tables]
