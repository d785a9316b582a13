import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.curate.expert_cells import SCHEMA, cell
from tests.curate.reviews import NOON, decided, example_page, labelled, line, write_lines

from pathloom.curate.decisions import apply_export, content_of, read_decisions
from pathloom.curate.expert import ExpertStep
from pathloom.curate.review import write_page
from pathloom.curate.reviewed import ReviewedStep
from pathloom.routing import awaits_review
from pathloom.schema import Drop, Event, Sample
from pathloom.stage import UserError

LATER = "2026-01-02T13:00:00.000Z"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return example_page(tmp_path)


def test_an_export_becomes_a_sorted_review_file_and_twice_changes_nothing(page, tmp_path):
    export = write_lines(tmp_path / "e.jsonl", line(page, "b"), line(page, "a", "fish", note="two signals"))
    into = tmp_path / "reviews" / "subfield.jsonl"

    first = apply_export(export, into, page)
    kept = into.read_bytes()
    second = apply_export(export, into, page)

    assert (first.new, first.changed, first.unchanged, first.conflicts) == (2, 0, 0, ())
    assert (second.new, second.changed, second.unchanged) == (0, 0, 2)
    assert into.read_bytes() == kept
    assert [(d.sample_id, d.value, d.note) for d in read_decisions(into)] == [
        ("a", "fish", "two signals"),
        ("b", "gross", ""),
    ]
    assert [path.name for path in into.parent.iterdir()] == ["subfield.jsonl"]


def test_the_latest_decision_of_a_reviewer_wins_whatever_the_order(page, tmp_path):
    into = tmp_path / "r.jsonl"
    late = write_lines(
        tmp_path / "late.jsonl", line(page, value="ihc", decided_at=LATER), line(page, value="gross")
    )
    early = write_lines(tmp_path / "early.jsonl", line(page, value="fish"))

    assert apply_export(early, into, page).new == 1
    assert apply_export(late, into, page).changed == 1
    assert apply_export(early, into, page).unchanged == 1

    assert [decision.value for decision in read_decisions(into)] == ["ihc"]


def test_reviewers_who_disagree_are_both_kept_and_reported(page, tmp_path):
    into = tmp_path / "r.jsonl"
    apply_export(write_lines(tmp_path / "1.jsonl", line(page, "a"), line(page, "b")), into, page)

    others = [line(page, "a", "fish", reviewer="Bo"), line(page, "b", reviewer="Bo")]
    merged = apply_export(write_lines(tmp_path / "2.jsonl", *others), into, page)

    assert merged.new == 2
    assert merged.conflicts == (("a", "subfield"),)
    assert len(read_decisions(into)) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"field": "organ"}, "unknown field 'organ'"),
        ({"value": "h&e"}, "unknown value 'h&e'.*known: histopathology"),
        ({"sample_id": "z"}, "no sample 'z' on"),
        ({"content": "0" * 16}, "content 0{16} of 'b', but .*page.html shows"),
        ({"content": "none"}, "content: "),
        ({"page_id": "f00"}, "it is of page f00.*name its own page with --out"),
        ({"decided_at": "yesterday"}, "decided_at: "),
        ({"decided_at": "2026-01-02T12:00:00"}, "decided_at: .*timezone"),
        ({"reviewer": ""}, "reviewer: "),
        ({"extra": 1}, "extra: Extra inputs"),
    ],
)
def test_a_wrong_line_names_file_and_line_and_nothing_is_merged(page, tmp_path, fields, message):
    export = write_lines(tmp_path / "e.jsonl", line(page, "a"), line(page, "b") | fields)

    with pytest.raises(UserError, match=rf"e\.jsonl, line 2: .*{message}"):
        apply_export(export, tmp_path / "r.jsonl", page)

    assert not (tmp_path / "r.jsonl").exists()


def test_a_line_or_a_page_that_does_not_say_what_was_judged_is_refused(page, tmp_path):
    old = line(page, "a")
    del old["content"]
    path = write_lines(tmp_path / "r.jsonl", line(page, "b"), old)

    with pytest.raises(UserError, match=r"r\.jsonl, line 2: no `content`.*review again"):
        apply_export(path, tmp_path / "into.jsonl", page)
    with pytest.raises(UserError, match=r"r\.jsonl, line 2: no `content`.*review again"):
        ReviewedStep(step="reviewed", files=(path,)).check("here")
    page.write_text(page.read_text().replace('"content":', '"other":'))
    with pytest.raises(UserError, match=r"page\.html does not say what text it showed"):
        apply_export(path, tmp_path / "into.jsonl", page)


def test_the_same_verdict_on_a_changed_text_is_another_decision(tmp_path):
    into, page = tmp_path / "r.jsonl", tmp_path / "page.html"
    before = labelled("a")
    after = before.changed(Event(step="made", version=1), context="Another caption.")
    for sample, changes in ((before, (1, 0)), (after, (0, 1))):
        write_page([sample], page, field="subfield", title="T")
        merged = apply_export(write_lines(tmp_path / "e.jsonl", line(page)), into, page)
        assert (merged.new, merged.changed) == changes

    (kept,) = read_decisions(into)
    assert kept.content == content_of(after, "subfield")
    write_page([before], page, field="subfield", title="T")
    other = line(page, value="ihc", reviewer="Bo")
    assert apply_export(write_lines(tmp_path / "e.jsonl", other), into, page).conflicts == ()


def test_a_cut_last_line_is_a_notice_and_a_cut_line_before_it_is_not(page, tmp_path):
    cut = json.dumps(line(page, "b"))[:40]
    export = write_lines(tmp_path / "e.jsonl", line(page, "a"), end=cut)

    merged = apply_export(export, tmp_path / "r.jsonl", page)

    assert merged.new == 1
    assert "e.jsonl, line 2: cut off" in merged.notices[0]
    export.write_text(cut + "\n" + json.dumps(line(page, "a")) + "\n")
    with pytest.raises(UserError, match=r"e\.jsonl, line 1: Invalid JSON"):
        apply_export(export, tmp_path / "r.jsonl", page)
    export.write_text(cut)
    with pytest.raises(UserError, match="holds no whole decision"):
        apply_export(export, tmp_path / "r.jsonl", page)


def test_what_is_no_page_and_what_is_not_there_are_said(page, tmp_path):
    export = write_lines(tmp_path / "e.jsonl", line(page))
    (tmp_path / "other.html").write_text("<p>Not ours</p>")

    with pytest.raises(UserError, match=r"gone\.html: No such file.*--out"):
        apply_export(export, tmp_path / "r.jsonl", tmp_path / "gone.html")
    with pytest.raises(UserError, match=r"other\.html is not a review page"):
        apply_export(export, tmp_path / "r.jsonl", tmp_path / "other.html")
    with pytest.raises(UserError, match=r"gone\.jsonl: No such file"):
        apply_export(tmp_path / "gone.jsonl", tmp_path / "r.jsonl", page)


def run_step(path: Path, *samples: Sample) -> tuple[dict[str, Sample | Drop], Any]:
    step = ReviewedStep(step="reviewed", files=(path,))
    step.check("stage.steps, number 1 (reviewed)")

    def read() -> Iterator[Sample]:
        return iter(samples)

    prepared = step.prepare(read, {}, 0)
    return {sample.id: prepared.change(sample) for sample in samples}, prepared.facts


def test_the_step_sets_confirms_and_drops_and_says_by_whom(tmp_path):
    path = write_lines(
        tmp_path / "r.jsonl",
        decided("a", "fish"),
        decided("b", "ihc"),
        decided("b", "breast", field="organ"),
        decided("c", "drop: wrong answer", field="keep", note="it is necrosis"),
        decided("d", "keep", field="keep"),
        decided("gone", "ihc"),
    )

    after, facts = run_step(path, *(labelled(name) for name in "abcde"))

    a, b, c, d, e = (after[name] for name in "abcde")
    assert isinstance(a, Sample)
    assert isinstance(b, Sample)
    assert isinstance(d, Sample)
    assert a.subfield == "fish"
    assert (a.history[-1].note, a.history[-1].reviewer) == ("subfield fish, was ihc", "Ada")
    assert (b.subfield, b.organ) == ("ihc", "breast")
    assert [event.note for event in b.history] == ["subfield ihc, confirmed", "organ breast, was unlabelled"]
    assert c == Drop(
        sample_id="c",
        step="curate.reviewed",
        reason="reviewed_out",
        detail="Ada: wrong answer (it is necrosis)",
    )
    assert d.history[-1].note == "kept"
    assert e == labelled("e")
    assert facts == {
        "samples": 4,
        "not_here": 1,
        "changed_since": {},
        "decided": {"keep": {"Ada": 2}, "organ": {"Ada": 1}, "subfield": {"Ada": 2}},
        "agreement": {"keep": {"Ada": 0.5}, "organ": {"Ada": 0.0}, "subfield": {"Ada": 0.5}},
        "conflicts": 0,
        "undecided": 0,
    }


def test_a_changed_text_is_not_judged_by_an_old_decision_and_is_counted(tmp_path):
    path = write_lines(
        tmp_path / "r.jsonl",
        *(
            decided(name, "drop: wrong answer", reviewer, "keep")
            for name in "ab"
            for reviewer in ("Ada", "Bo")
        ),
        decided("c", "keep", field="keep"),
        decided("d", "fish"),
        decided("d", "drop: other", field="keep"),
    )
    again = Event(step="write", version=1)
    a, c = (labelled(name).changed(again, question="Which stain?", reasoning="Magenta.") for name in "ac")
    d = labelled("d").changed(again, context="Another caption.")

    after, facts = run_step(path, a, labelled("b"), c, d)

    assert (after["a"], after["c"]) == (a, c)
    assert isinstance(after["b"], Drop)
    assert isinstance(after["d"], Drop)
    assert facts == {
        "samples": 4,
        "not_here": 0,
        "changed_since": {"keep": 3, "subfield": 1},
        "decided": {"keep": {"Ada": 2, "Bo": 1}},
        "agreement": {"keep": {"Ada": 0.0, "Bo": 0.0}},
        "conflicts": 0,
        "undecided": 0,
    }


def test_only_reviewers_of_the_text_that_is_here_vote(tmp_path):
    old = {"content": "0" * 16}
    path = write_lines(
        tmp_path / "r.jsonl",
        decided("a", "gross", "Ada") | old,
        decided("a", "gross", "Bo") | old,
        decided("a", "fish", "Cy"),
    )

    after, facts = run_step(path, labelled("a"))

    assert isinstance(after["a"], Sample)
    assert (after["a"].subfield, after["a"].history[-1].reviewer) == ("fish", "Cy")
    assert (facts["changed_since"], facts["conflicts"]) == ({"subfield": 2}, 0)


def test_a_majority_wins_and_without_one_the_sample_stays_as_it_is(tmp_path):
    path = write_lines(
        tmp_path / "r.jsonl",
        decided("a", "fish", "Ada"),
        decided("a", "gross", "Bo"),
        decided("b", "fish", "Ada"),
        decided("b", "gross", "Bo"),
        decided("b", "fish", "Cy"),
        decided("c", "drop: bad language", "Ada", "keep"),
        decided("c", "drop: other", "Bo", "keep", "blurred"),
        decided("d", "drop: other", "Ada", "keep"),
        decided("d", "keep", "Bo", "keep"),
    )

    after, facts = run_step(path, *(labelled(name) for name in "abcd"))

    b, c = after["b"], after["c"]
    assert after["a"] == labelled("a")
    assert isinstance(b, Sample)
    assert (b.subfield, b.history[-1].reviewer) == ("fish", "Ada, Cy")
    assert isinstance(c, Drop)
    assert c.detail == "Ada: bad language; Bo: other (blurred)"
    assert after["d"] == labelled("d")
    assert (facts["conflicts"], facts["undecided"]) == (3, 2)


def test_the_step_checks_its_files_before_anything_runs(tmp_path):
    path = tmp_path / "r.jsonl"
    step = ReviewedStep(step="reviewed", files=(path,))

    assert step.fingerprint() == str([""])
    with pytest.raises(UserError, match=r"here\.files: .*r\.jsonl is no file; `pathloom review --apply"):
        step.check("here")
    write_lines(path, decided("a", "fish"), end="{\n")
    with pytest.raises(UserError, match=r"r\.jsonl, line 2: Invalid JSON"):
        step.check("here")
    write_lines(path, decided("a", "fits", field="panel"))
    with pytest.raises(UserError, match="gives a the panel 'fits', which this step cannot set"):
        step.check("here")


def test_the_step_depends_on_the_content_of_its_files_and_not_on_their_time(tmp_path):
    path = write_lines(tmp_path / "r.jsonl", decided("a", "fish"))
    step = ReviewedStep(step="reviewed", files=(path,))
    before = step.fingerprint()

    write_lines(path, decided("a", "fish"))
    assert step.fingerprint() == before
    write_lines(path, decided("a", "ihc"))
    assert step.fingerprint() != before


def waiting(sample_id: str) -> Sample:
    """A cell that the step `expert` sent to review: LSIL with fine even chromatin, and a nucleus of normal size."""
    sample = cell(sample_id, chromatin="fine even", nuclear_size="normal")
    after = ExpertStep(step="expert").prepare(lambda: iter(()), {}, 0).change(sample)
    assert isinstance(after, Sample)
    assert awaits_review(after)
    return after


def settled(sample: Sample, value: str, reviewer: str = "Ada") -> dict[str, Any]:
    """A line of a review file about the contradiction of `sample`."""
    content = content_of(sample, "contradiction")
    given = {"sample_id": sample.id, "field": "contradiction", "value": value, "reviewer": reviewer}
    return {**given, "note": "", "page_id": "0", "content": content, "decided_at": NOON}


def test_a_contradiction_is_settled_as_reviewers_say_and_the_caption_is_written_anew(tmp_path):
    verdicts = ("class is right", "attributes are right", "both are right", "neither is right")
    samples = {verdict: waiting(verdict.replace(" ", "-")) for verdict in verdicts}
    path = write_lines(tmp_path / "r.jsonl", *(settled(one, verdict) for verdict, one in samples.items()))

    after, facts = run_step(path, *samples.values())

    by_class, by_attributes, both, neither = (after[sample.id] for sample in samples.values())
    assert isinstance(by_class, Sample)
    assert isinstance(by_attributes, Sample)
    assert isinstance(both, Sample)
    assert isinstance(neither, Drop)
    assert (neither.reason, neither.detail) == ("reviewed_out", "Ada: neither is right")
    assert not any(map(awaits_review, (by_class, by_attributes, both)))
    assert (by_class.finding, by_attributes.finding, both.finding) == ("LSIL", None, "LSIL")
    assert by_class.attribute("nuclear_size") == "markedly enlarged"
    assert by_class.attribute("chromatin") is None
    assert by_attributes.attribute("nuclear_size") == both.attribute("nuclear_size") == "normal"
    for sample in (by_class, by_attributes, both):
        held = {each.name: each for each in sample.attributes}
        assert held["nuclear_size"].resolver == "reviewer"
        assert len(held["nuclear_size"].votes) == 3
        assert held["nucleoli"].resolver == "majority"
        assert sample.answer == SCHEMA.describe({name: each.value for name, each in held.items()})
    assert [sample.history[-1].note for sample in (by_class, by_attributes, both)] == [
        "contradiction class is right, nuclear_size normal -> markedly enlarged, chromatin fine even -> left out",
        "contradiction attributes are right, class was LSIL",
        "contradiction both are right",
    ]
    assert (facts["samples"], facts["agreement"]) == (4, {"contradiction": {"Ada": 0.25}})


def test_reviewers_who_disagree_about_a_contradiction_leave_the_sample_waiting(tmp_path):
    sample = waiting("a")
    lines = settled(sample, "class is right"), settled(sample, "both are right", "Bo")

    after, facts = run_step(write_lines(tmp_path / "r.jsonl", *lines), sample)

    assert after["a"] == sample
    assert (facts["conflicts"], facts["undecided"]) == (1, 1)


def test_a_decision_about_a_contradiction_holds_for_the_class_the_attributes_and_the_rules_that_were_shown(
    tmp_path,
):
    sample = waiting("a")
    path = write_lines(tmp_path / "r.jsonl", settled(sample, "both are right"))
    again = Event(step="curate.expert", version=1, note="review: by another rule")
    label = sample.changed(Event(step="curate.subfield", version=1), subfield="ihc", answer="Other words.")

    for other in (
        sample.model_copy(update={"finding": "HSIL"}),
        sample.model_copy(update={"attributes": cell().attributes}),
        sample.changed(again),
        cell("a", chromatin="fine even", nuclear_size="normal"),
    ):
        after, facts = run_step(path, other)
        assert after["a"] == other
        assert facts["changed_since"] == {"contradiction": 1}
    after, _ = run_step(path, label)
    assert isinstance(after["a"], Sample)
    assert not awaits_review(after["a"])


def test_another_table_than_the_one_that_sent_a_sample_to_review_is_refused(tmp_path):
    sample = waiting("a")
    path = write_lines(tmp_path / "r.jsonl", settled(sample, "class is right"))
    table = tmp_path / "rules.yaml"
    table.write_text(
        "{name: mine, version: 1, attributes: cervical_cell, classes: [LSIL], rules: [{id: one, classes: [LSIL], "
        "attribute: nucleoli, allowed: [none], severity: correct, source: a book}]}"
    )
    step = ReviewedStep(step="reviewed", files=(path,), rules=str(table))

    with pytest.raises(UserError, match="sample a was sent to review by other rules than those of mine"):
        step.prepare(lambda: iter([sample]), {}, 0).change(sample)
    with pytest.raises(UserError, match="gone is neither a file nor a shipped table"):
        ReviewedStep(step="reviewed", files=(path,), rules="gone").check("here")
    usual = ReviewedStep(step="reviewed", files=(path,))
    assert usual.fingerprint() != step.fingerprint()
