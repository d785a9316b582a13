import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.curate.expert_cells import SCHEMA, attribute, cell, put, stage_of
from tests.curate.reviews import line, write_lines

from pathloom.cli import main
from pathloom.curate.config import CurateConfig
from pathloom.curate.curate import run_curate
from pathloom.curate.expert import TRUSTED, ExpertStep, corrected, routed_note
from pathloom.curate.expert_rules import REASONS, load_rules
from pathloom.routing import awaits_review
from pathloom.schema import Drop, Event, Sample
from pathloom.stage import FACTS_FILE
from pathloom.store import read_samples


def run(*samples: Sample, **keys: Any) -> tuple[list[Sample | Drop], Mapping[str, Any]]:
    step = ExpertStep(step="expert", **keys)
    step.check("cells.steps, number 1 (expert)")
    prepared = step.prepare(lambda: iter(samples), {}, 0)
    return [prepared.change(sample) for sample in samples], prepared.facts


def one(sample: Sample, **keys: Any) -> Sample:
    (after,), _ = run(sample, **keys)
    assert isinstance(after, Sample)
    return after


def reason_of(sample: Sample, **keys: Any) -> str | None:
    """Why a Sample was routed, as the facts count it."""
    _, facts = run(sample, **keys)
    told = [words for words, count in facts["routed_because"].items() if count]
    assert bool(told) == awaits_review(one(sample, **keys))
    return next((name for name, words in REASONS.items() if [words] == told), None)


def test_a_value_that_annotators_dispute_is_corrected_with_its_votes_and_the_caption_says_so():
    before = cell(nuclear_size="normal", nucleoli="large")

    after = one(before)

    held = {each.name: each for each in after.attributes}
    size, old = held["nuclear_size"], before.attributes[0]
    assert (size.value, size.resolver, size.confidence) == ("markedly enlarged", "expert", None)
    assert size.votes == old.votes
    assert held["nucleoli"].value == "none"
    assert held["chromatin"] == before.attributes[1]
    assert after.answer == SCHEMA.describe({each.name: each.value for each in after.attributes})
    assert "Nuclear size: markedly enlarged." in after.answer
    assert after.history[-1].note == (
        "nuclear_size normal -> markedly enlarged (LSIL-size); nucleoli large -> none (squamous-nucleoli)"
    )
    assert not awaits_review(after)


def test_a_cell_that_breaks_no_rule_is_left_as_it_is():
    assert one(cell()) == cell()


def test_a_caption_that_does_not_say_its_attributes_is_written_anew_even_where_nothing_is_corrected():
    stale = cell().model_copy(update={"answer": "A cell of LSIL with fine even chromatin."})

    assert one(stale).answer == cell().answer
    assert one(stale).history[-1].note == "caption written from the attributes"
    assert one(cell(), language="zh").answer.startswith("核大小：显著增大。")  # noqa: RUF001


def test_the_caption_of_a_source_stays_while_all_attributes_are_its_own():
    for sample in cell(), cell(nuclear_size="normal"):
        stated = tuple(each.model_copy(update={"resolver": "source"}) for each in sample.attributes)
        theirs = sample.model_copy(update={"attributes": stated, "answer": "In the words of the source."})
        mixed = theirs.model_copy(update={"attributes": (*stated[:-1], sample.attributes[-1])})

        assert one(theirs).answer == "In the words of the source."
        assert one(mixed).answer != "In the words of the source."
    assert awaits_review(one(theirs))


@pytest.mark.parametrize(
    "sample",
    [
        cell(finding=None, nuclear_size="normal"),
        cell(finding="necrosis", nuclear_size="normal"),
        cell().model_copy(update={"attributes": ()}),
        cell(nuclear_size="normal").model_copy(update={"task": "choice"}),
    ],
    ids=["no class", "unknown class", "no attributes", "no caption"],
)
def test_what_the_rules_say_nothing_about_passes_and_is_counted(sample):
    (after,), facts = run(sample)

    assert after == sample
    assert (facts["samples"], facts["not_checked"], facts["corrected"]) == (1, 1, 0)
    assert facts["classes_without_rules"] == ({"necrosis": 1} if sample.finding == "necrosis" else {})
    assert [("no rules for the class necrosis" in told) for told in facts["warnings"]] == (
        [True] if sample.finding == "necrosis" else []
    )


def test_attributes_of_another_schema_are_dropped_and_not_guessed_at():
    strange = cell(), cell().model_copy(update={"attributes": (attribute("colour", "red"),)})
    odd = put(cell("b"), attribute("nucleoli", "none").model_copy(update={"value": "huge"}))

    (_, colour, size), _ = run(*strange, odd)

    assert isinstance(colour, Drop)
    assert (colour.reason, colour.detail) == ("not_of_the_schema", "colour: 'red' is not of cervical_cell")
    assert isinstance(size, Drop)


@pytest.mark.parametrize("resolver", TRUSTED)
def test_what_a_reviewer_a_source_or_the_truth_says_is_never_rewritten(resolver):
    sample = put(cell(), attribute("nuclear_size", "normal", resolver=resolver))

    assert one(sample).attributes == sample.attributes
    assert reason_of(sample) == "trusted"


def test_more_contradictions_than_may_be_corrected_speak_against_the_class():
    two, three = (
        cell(nuclear_size="normal", nucleoli="large"),
        cell(nuclear_size="normal", nucleoli="large", nc_ratio="high"),
    )

    assert (reason_of(two), reason_of(three)) == (None, "many")
    assert reason_of(two, max_corrections=1) == "many"
    assert one(three).attributes == three.attributes


def test_a_value_that_all_annotators_gave_is_not_corrected_unless_that_is_asked_for():
    seen = put(cell(), attribute("nuclear_size", "normal", votes=("normal", "normal", None)))
    alone = put(cell(), attribute("nuclear_size", "normal", votes=("normal", None, None)))

    assert reason_of(seen) == "unanimous"
    assert reason_of(seen, unanimous="correct") is None
    assert reason_of(alone) is None


def test_a_rule_of_severity_review_takes_the_whole_sample_to_review():
    sample = cell(nuclear_size="normal", chromatin="fine even")

    after = one(sample)

    assert reason_of(sample) == "severity"
    assert after.attributes == sample.attributes
    assert after.history[-1].step == "curate.expert"
    assert after.history[-1].note == (
        "review: LSIL-size: nuclear_size is normal, but for LSIL markedly enlarged; if the class is right it becomes "
        "markedly enlarged | LSIL-chromatin: chromatin is fine even, but for LSIL dark even or dark smudged or coarse "
        "dark; if the class is right it is left out"
    )


def test_a_sample_waits_until_its_contradiction_is_settled_and_by_nothing_else():
    sample = one(cell(chromatin="fine even"))
    other = Event(step="curate.reviewed", version=1, note="subfield ihc, confirmed", reviewer="Ada")
    settled = Event(step="curate.reviewed", version=1, note="contradiction both are right", reviewer="Ada")

    assert not awaits_review(cell())
    assert awaits_review(sample)
    assert awaits_review(sample.changed(other))
    assert not awaits_review(sample.changed(settled))


def test_what_a_reviewer_has_settled_is_not_sent_to_review_again():
    seen = put(cell(), attribute("chromatin", "fine even", resolver="reviewer"))
    settled = Event(step="curate.reviewed", version=1, note="contradiction both are right", reviewer="Ada")

    assert awaits_review(one(seen))
    assert not awaits_review(one(seen.changed(settled)))
    assert one(seen.changed(settled)).attribute("chromatin") == "fine even"


def test_every_hit_of_a_rule_is_counted_by_what_became_of_it():
    _, facts = run(
        cell("a", nuclear_size="normal"),
        cell("b", nuclear_size="normal", chromatin="fine even"),
        cell("c", nuclear_size="normal", nucleoli="large"),
        cell("d"),
    )

    hits = {row["rule"]: row for row in facts["hits"]}
    assert [facts[key] for key in ("samples", "unbroken", "corrected", "routed")] == [4, 1, 2, 1]
    assert (facts["attributes_corrected"], facts["attributes_routed"]) == (3, 2)
    assert hits["LSIL-size"] == {
        "rule": "LSIL-size",
        "classes": "LSIL",
        "attribute": "nuclear_size",
        "severity": "correct",
        "hits": 3,
        "corrected": 2,
        "routed": 1,
    }
    assert hits["NILM-size"]["hits"] == 0
    assert len(hits) == len(load_rules("bethesda", "cervical_cell").rules)


def test_an_attribute_for_which_the_rules_name_no_value_is_left_out():
    table = load_rules("bethesda", "cervical_cell")
    sample = cell(chromatin="fine even")
    breaks = table.breaks("LSIL", {"chromatin": "fine even"})

    held = corrected(sample.attributes, breaks, "reviewer")

    assert [each.name for each in held] == [
        each.name for each in sample.attributes if each.name != "chromatin"
    ]
    assert routed_note(breaks, sample) == one(sample).history[-1].note


def curated(source: Path, out: Path, *steps: Mapping[str, Any]) -> dict[str, Sample]:
    config = CurateConfig(name="curated", kind="curate", samples=("source",), steps=steps)
    config.check()
    run_curate(config, {"source": source}, out)
    return {sample.id: sample for sample in read_samples(out)}


def test_what_the_step_sends_to_review_comes_back_from_the_page_settled(tmp_path, capsys):
    samples = cell("fine"), cell("dark", chromatin="fine even"), cell("size", nuclear_size="normal")
    source = stage_of(samples, tmp_path / "source")
    page, into = tmp_path / "page.html", tmp_path / "reviews" / "contradiction.jsonl"

    checked = curated(source, tmp_path / "checked", {"step": "expert"})
    ask = ["review", str(tmp_path / "checked"), "--field", "contradiction", "--out", str(page)]
    assert main(ask) == 0
    export = write_lines(tmp_path / "e.jsonl", line(page, "dark", "both are right"))
    assert main(["review", "--apply", str(export), "--into", str(into), "--out", str(page)]) == 0
    settled = curated(tmp_path / "checked", tmp_path / "settled", {"step": "reviewed", "files": [str(into)]})

    assert "1 of 1 samples" in capsys.readouterr().out
    assert [name for name, sample in checked.items() if awaits_review(sample)] == ["dark"]
    assert not any(map(awaits_review, settled.values()))
    assert settled["size"].attribute("nuclear_size") == "markedly enlarged"
    (facts,) = json.loads((tmp_path / "checked" / FACTS_FILE).read_text())
    assert (facts["step"], facts["corrected"], facts["routed"]) == ("expert", 1, 1)
    assert [told.partition(":")[0] for told in facts["warnings"]] == [
        "1 Samples await review and are not learnt from"
    ]
