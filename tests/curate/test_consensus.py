"""The step `consensus`: words to votes, votes to values, disputes to the arbiter, and a caption from what is left."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.curate.made_votes import (
    Arbiter,
    annotated,
    as_samples,
    draw_truth,
    err,
    leaf,
    leaf_schema,
    true_samples,
)

from pathloom.attributes import DISPUTE_TITLE, load_schema
from pathloom.curate.config import CurateConfig
from pathloom.curate.consensus import ConsensusStep
from pathloom.curate.consensus_arbiter import dispute_request
from pathloom.curate.curate import run_curate
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.expected_error import expected_error
from pathloom.generate.generator import Generation, Request, Sampling
from pathloom.schema import Drop, Region, Sample
from pathloom.stage import FACTS_FILE, UserError, read_jsonl
from pathloom.store import read_samples, write_samples

ASKED = {"generator": {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}}}
Reply = Callable[[Request], str]


def run(
    folder: Path, samples: list[Sample], truth: list[Sample] | None = None, **step: Any
) -> tuple[list[Sample], list[Drop], dict[str, Any]]:
    """Samples, Drops and facts of a stage with this one step; schema `leaf.yaml` of the folder."""
    write_samples(samples, folder / "described")
    if truth is not None:
        write_samples(truth, folder / "drawn")
        step["truth"] = "drawn"
    entry = {"step": "consensus", "attributes": str(folder / "leaf.yaml"), **step}
    config = CurateConfig(name="fused", kind="curate", samples=("described",), steps=(entry,))
    inputs = {name: folder / name for name in ("described", *config.steps[0].needs())}
    run_curate(config, inputs, folder / "out")
    (facts,) = json.loads((folder / "out" / FACTS_FILE).read_text())
    drops = [Drop(**row) for row in read_jsonl(folder / "out" / "drops" / "00000.jsonl")]
    return list(read_samples(folder / "out")), drops, facts


class Batches(Echo):
    """All answers at once, which is one write to the store."""

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        yield list(chain.from_iterable(super().generate(requests)))


@pytest.fixture
def arbiter(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], None]:
    def answers(reply: Reply) -> None:
        monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Batches(reply, "m"))

    return answers


def votes_of(sample: Sample, name: str) -> list[str | None]:
    (found,) = [one for one in sample.attributes if one.name == name]
    return [vote.value for vote in found.votes]


def test_synonyms_and_both_languages_are_the_same_vote(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    said = {"ann": {"shape": "Shape 1."}, "bob": {"the shape": "shape值1"}, "cid": {"shape": "alias 2"}}
    (sample,), _, facts = run(tmp_path, [annotated("s0", said)])
    (shape,) = sample.attributes
    assert (shape.value, shape.resolver) == ("shape 1", "majority")
    assert shape.confidence == pytest.approx(2 / 3)
    assert votes_of(sample, "shape") == ["shape 1", "shape 1", "shape 2"]
    assert sample.answer == "It has shape 1 as its shape."
    assert sample.history[-1].note == "1 attributes: 1 majority, 0 arbiter, 0 left out"
    assert facts["words_without_value"] == []


def test_an_annotator_that_cannot_tell_has_no_vote_and_neither_has_one_whose_words_are_unknown(tmp_path):
    leaf_schema(tmp_path, {"shape": 3, "colour": 2})
    said = {
        "ann": {"shape": "shape 1", "colour": "cannot tell"},
        "bob": {"shape": "无法判断", "colour": "cannot tell"},
        "cid": {"shape": "like a heart", "price": "high"},
    }
    (sample,), _, facts = run(tmp_path, [annotated("s0", said)])
    assert [one.name for one in sample.attributes] == ["shape"], "nobody could tell the colour"
    assert sample.attributes[0].confidence == 1.0, "one of one answering vote"
    assert votes_of(sample, "shape") == ["shape 1", None, None]
    assert sample.answer == "It has shape 1 as its shape."
    assert facts["by_attribute"]["colour"]["nobody_could_tell"] == 1.0
    words = {(row["annotator"], row["attribute"], row["words"]) for row in facts["words_without_value"]}
    assert words == {("cid", "shape", "like a heart"), ("cid", "price (no attribute)", "")}
    assert facts["annotators"]["cid"]["unknown_words"] == 0.5


def test_one_vote_alone_is_left_out_where_two_are_asked_for(tmp_path):
    leaf_schema(tmp_path, {"shape": 3, "colour": 2})
    said = {
        "ann": {"shape": "shape 1", "colour": "colour 0"},
        "bob": {"shape": "cannot tell", "colour": "colour 0"},
    }
    (sample,), _, facts = run(tmp_path, [annotated("s0", said)], min_votes=2)
    assert [one.name for one in sample.attributes] == ["colour"]
    assert facts["disputed_attributes"] == 0
    assert facts["by_attribute"]["shape"]["left_out"] == 1.0


def test_samples_of_which_nothing_is_known_are_dropped_with_the_reason(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    mute = annotated("mute", {"ann": {"shape": "cannot tell"}, "bob": {"shape": ""}})
    split = annotated("split", {"ann": {"shape": "shape 0"}, "bob": {"shape": "shape 1"}})
    kept, drops, _ = run(tmp_path, [leaf("bare"), mute, split])
    assert kept == []
    assert {drop.sample_id: drop.reason for drop in drops} == {
        "bare": "no_annotation",
        "mute": "nobody_could_tell",
        "split": "nobody_could_tell",
    }
    assert "1 of 1 attributes in dispute" in next(drop.detail for drop in drops if drop.sample_id == "split")


@pytest.mark.parametrize("names", [(), ("ann",)])
def test_no_annotator_at_all_and_one_alone_are_borne(tmp_path, names):
    leaf_schema(tmp_path, {"shape": 3})
    truth = [leaf("s0", attributes=({"name": "shape", "value": "shape 1", "resolver": "truth"},))]
    kept, drops, facts = run(
        tmp_path, [annotated("s0", {name: {"shape": "shape 1"} for name in names})], truth=truth
    )
    assert (len(kept), len(drops)) == (len(names), 1 - len(names))
    assert facts["samples"] == len(names)
    assert list(facts["annotators"]) == list(names)
    assert facts["warnings"] == []


def test_a_truth_that_knows_nothing_of_the_samples_is_refused(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    with pytest.raises(UserError, match=r"consensus\.truth: the stage drawn has true attributes of none"):
        run(tmp_path, [annotated("s0", {"ann": {"shape": "shape 1"}})], truth=[leaf("s0")])


def test_an_annotator_may_be_called_as_a_column_of_the_table_of_errors(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    truth = [leaf("s0", attributes=({"name": "shape", "value": "shape 1", "resolver": "truth"},))]
    said = {"majority": {"shape": "shape 2"}, "ann": {"shape": "shape 1"}, "n": {"shape": "shape 1"}}
    _, _, facts = run(tmp_path, [annotated("s0", said)], truth=truth)
    row = facts["error_and_interval"]["shape"]
    assert row["n"] == 1
    assert row["annotator majority"] == {"value": 1, "low": 1, "high": 1}
    assert row["majority"] == {"value": 0, "low": 0, "high": 0}


def test_only_captions_are_written_anew_and_in_the_language_asked_for(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    said = {name: {"shape": "shape 1"} for name in ("ann", "bob", "cid")}
    question = annotated("q", said, task="short_answer", question="What is it?", answer="a leaf")
    caption, kept = run(tmp_path, [annotated("s0", said), question], language="zh")[0]
    assert caption.answer == "shape:shape值1。"
    assert kept.answer == "a leaf"
    assert kept.attribute("shape") == "shape 1"


def test_an_annotator_that_was_down_for_a_while_is_absent_not_abstaining(tmp_path):
    leaf_schema(tmp_path, {"shape": 3})
    with_two = [annotated(f"s{n}", {w: {"shape": "shape 1"} for w in ("ann", "bob")}) for n in range(3)]
    with_all = [
        annotated(f"t{n}", {w: {"shape": "shape 1"} for w in ("ann", "bob", "cid")}) for n in range(2)
    ]
    samples, _, facts = run(tmp_path, [*with_two, *with_all, *with_two[:0]])
    assert [len(sample.attributes[0].votes) for sample in samples] == [2, 2, 2, 3, 3]
    assert [facts["annotators"][name]["samples"] for name in ("ann", "bob", "cid")] == [5, 5, 2]
    assert facts["annotators"]["cid"]["cannot_tell"] == 0


def test_the_arbiter_gets_only_disputes_with_their_votes_and_without_names(tmp_path, arbiter):
    schema = leaf_schema(tmp_path, {"shape": 3, "colour": 4, "edge": 2})
    agreed = {w: {"shape": "shape 0", "colour": "colour 1", "edge": "edge 1"} for w in ("ann", "bob", "cid")}
    split = {
        "ann": {"shape": "shape 2", "colour": "colour 3", "edge": "edge 1"},
        "bob": {"shape": "shape 0", "colour": "colour 0", "edge": "cannot tell"},
        "cid": {"shape": "shape 1", "colour": "cannot tell", "edge": "edge 1"},
    }
    asked: list[Request] = []

    def reply(request: Request) -> str:
        asked.append(request)
        return '{"shape": "shape 2", "colour": "colour 0"}'

    arbiter(reply)
    samples, _, facts = run(tmp_path, [annotated("s0", agreed), annotated("s1", split)], arbiter=ASKED)
    (request,) = asked
    assert request.messages[-1].images == samples[1].images
    form = request.json_schema or {}
    assert (form["title"], form["description"]) == (DISPUTE_TITLE, f"{schema.name} en")
    assert {name: entry["enum"] for name, entry in form["properties"].items()} == {
        "shape": ["shape 0", "shape 1", "shape 2"],
        "colour": ["colour 0", "colour 3"],
    }
    text = request.messages[-1].text
    assert "colour 0 (said by 1)" in text
    assert "edge" not in text
    assert not {"ann", "bob", "cid"} & set(re.findall(r"\w+", text))
    by_name = {one.name: one for one in samples[1].attributes}
    assert (by_name["shape"].value, by_name["shape"].resolver) == ("shape 2", "arbiter")
    assert by_name["shape"].confidence == pytest.approx(1 / 3)
    assert by_name["colour"].confidence == pytest.approx(1 / 2)
    assert by_name["edge"].resolver == "majority"
    assert samples[1].history[-1].note == "3 attributes: 1 majority, 2 arbiter, 0 left out"
    assert (samples[0].history[-1].model, samples[1].history[-1].model) == (None, "m")
    assert (facts["disputed_samples"], facts["disputed_attributes"], facts["arbiter_calls"]) == (1, 2, 1)


def test_the_arbiter_is_told_of_the_box_that_the_annotators_saw(tmp_path):
    schema = leaf_schema(tmp_path, {"shape": 3})

    def text(*regions: Region) -> str:
        competing = {"shape": {"shape 0": 1, "shape 1": 1}}
        sample = leaf("s0", regions=regions)
        return dispute_request(sample, competing, schema, "en", Sampling()).messages[-1].text

    assert "the leaf inside the drawn box" in text(Region(box_px=(1, 1, 5, 5), label="leaf"))
    assert "box" not in text(Region(box_px=(0, 0, 8, 8), label="leaf"))


@pytest.mark.parametrize(
    ("generator", "why"),
    [
        ({"local": {}}, r"s\.arbiter\.generator: `local` and `rules` see no pictures"),
        ({"simulated": {"truth": "cells"}}, "annotator is no arbiter; write `role: arbiter`"),
    ],
)
def test_a_generator_that_cannot_judge_pictures_is_refused(generator, why):
    with pytest.raises(UserError, match=why):
        ConsensusStep(step="consensus", arbiter={"generator": generator}).check("s")


def test_a_ruling_outside_the_dispute_is_none_and_a_second_run_asks_nothing(tmp_path, arbiter):
    leaf_schema(tmp_path, {"shape": 3, "edge": 2})
    split = {
        "ann": {"shape": "shape 0", "edge": "edge 0"},
        "bob": {"shape": "shape 1", "edge": "edge 0"},
    }
    asked: list[Request] = []

    def reply(request: Request) -> str:
        asked.append(request)
        return '{"shape": "shape 2"}'

    arbiter(reply)
    teacher = {**ASKED, "max_unreadable": 1.0}
    (sample,), _, facts = run(tmp_path, [annotated("s0", split)], arbiter=teacher)
    assert [one.name for one in sample.attributes] == ["edge"]
    assert facts["arbiter"]["unanswered"] == {"unreadable_answer": 1}
    assert facts["by_attribute"]["shape"]["left_out"] == 1.0
    assert len(asked) == 2, "once more with another seed"
    run(tmp_path, [annotated("s0", split)], arbiter=teacher)
    assert len(asked) == 2, "answers on disk are not asked for again"


def by_hand(size: int, error: float, arbiter: float) -> float:
    """Of the majority of three annotators that err independently and uniformly, disputes going to an arbiter.

    All three wrong: wrong whatever the arbiter says, since the truth is not among what they gave. Exactly two wrong:
    they agree with probability 1 / (K - 1) and outvote the truth; otherwise all three differ, and the arbiter errs with
    its own rate. With K = 2 two wrong ones always agree.
    """
    agree = 1 / (size - 1)
    return error**3 + 3 * (1 - error) * error**2 * (agree + (1 - agree) * arbiter)


def test_three_annotators_and_an_arbiter_err_as_often_as_the_formula_says(tmp_path, arbiter):
    """Within the 95 % interval for nearly all attributes, within the 99.9 % interval for all."""
    from scipy.stats import binomtest

    sizes = {"two": 2, "three": 3, "four": 4, "six": 6, "eight": 8}
    errors = {"two": 0.1, "three": 0.2, "four": 0.3, "six": 0.4, "eight": 0.3}
    schema, rng = leaf_schema(tmp_path, sizes), np.random.default_rng(7)
    truth = draw_truth(rng, sizes, 500)
    votes = {name: err(rng, truth[name], size, [errors[name]] * 3) for name, size in sizes.items()}
    judge = Arbiter(schema, truth, error=0.2)
    arbiter(judge)
    samples, drops, facts = run(
        tmp_path, as_samples(schema, votes), truth=true_samples(schema, truth), arbiter=ASKED
    )
    assert not drops
    assert len(judge.asked) == facts["disputed_samples"] == facts["arbiter_calls"]
    inside = 0
    for name, size in sizes.items():
        wrong = sum(
            sample.attribute(name) != schema[name].values[true]
            for sample, true in zip(samples, truth[name], strict=True)
        )
        expected = by_hand(size, errors[name], 0.2)
        assert expected == pytest.approx(expected_error(size, (errors[name],) * 3, 0.2).error)
        wide = binomtest(wrong, len(samples)).proportion_ci(0.999, "exact")
        assert wide.low < expected < wide.high, (name, wrong, expected)
        error, low, high = facts["error_and_interval"][name]["fused"].values()
        assert error == pytest.approx(wrong / len(samples), abs=1e-5)
        inside += low <= expected <= high
    assert inside >= 4


def test_the_shipped_schema_of_cells_goes_through(tmp_path):
    schema = load_schema("cervical_cell")
    said = {name: {kind.name: kind.values[-1] for kind in schema.attributes.values()} for name in ("a", "b")}
    (sample,), _, _ = run(tmp_path, [annotated("s0", said)], attributes="cervical_cell")
    assert sample.attribute("abnormal_signs") == schema["abnormal_signs"].values[-1]
    assert len(sample.attributes) == 9


def test_what_an_arbiter_may_cost_is_no_part_of_the_key():
    def keyed(**asking: Any) -> dict[str, Any]:
        steps = ({"step": "consensus", "arbiter": {**ASKED, **asking}},)
        return CurateConfig(name="l", kind="curate", samples=("pairs",), steps=steps).keyed()

    assert keyed(max_requests=3) == keyed()
    assert keyed(sampling={"temperature": 0}) != keyed()
