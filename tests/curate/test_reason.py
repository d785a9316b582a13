"""The stage `reason`: what is asked, what comes of the answers, and that nothing is paid for twice."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_sample

from pathloom.curate import prompts
from pathloom.curate.config import ReasonConfig
from pathloom.curate.reason import run_reason
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Generation, Request
from pathloom.schema import Drop, Sample
from pathloom.stage import FACTS_FILE, UserError
from pathloom.store import read_samples, write_samples

STEPS = {"steps": ["Glands are fused.", "This is carcinoma."]}
REPLY = {
    "ChoiceReply": {
        **STEPS,
        "question": "What?",
        "options": ["carcinoma", "adenoma", "colitis", "normal"],
        "answer": "carcinoma",
    },
    "ReportReply": {**STEPS, "question": "Describe.", "description": "Fused glands. Impression: carcinoma."},
    "ShortAnswerReply": {**STEPS, "question": "Why?", "answer": "Fused glands"},
    "DialogueReply": {
        **STEPS,
        "turns": [
            {"question": "Organ?", "answer": "Colon."},
            {"question": "Diagnosis?", "answer": "Carcinoma."},
        ],
    },
    "ExplainReply": STEPS,
}


class Teacher:
    """An `echo` in the place of the recipe's generator: answers by schema and notes what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reply=None) -> None:
        self.asked: list[Request] = []
        self.reply = reply or (lambda request: json.dumps(REPLY[request.json_schema["title"]]))

        def answer(request: Request) -> str | Generation:
            self.asked.append(request)
            return self.reply(request)

        monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Echo(answer, "m"))
        monkeypatch.setattr(GeneratorRef, "name", lambda ref: "m")


def caption(number: int, **fields: Any) -> Sample:
    given = {
        "task": "caption",
        "question": "",
        "answer": f"Colon, H&E: fused glands {number}.",
        "level": "easy",
    }
    return make_sample(f"c{number}", **{"subfield": "histopathology", **given, **fields})


def run(root: Path, samples: list[Sample], name: str = "reasoning", **settings: Any):
    """The stage on these Samples; the store of answers is that of `root`. Returns Samples, Drops, counts."""
    folder = root / "pairs"
    write_samples(samples, folder)
    out = root / ".partial" / name
    teacher = {"generator": {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}}, "max_failed": 1.0}
    config = ReasonConfig(
        **{
            "name": name,
            "kind": "reason",
            "samples": ("pairs",),
            **settings,
            "teacher": {**teacher, **settings.get("teacher", {})},
        }
    )
    counts = run_reason(config, {"pairs": folder}, out)
    drops = [
        Drop.model_validate_json(line)
        for path in sorted((out / "drops").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return list(read_samples(out)), drops, counts


def test_a_caption_becomes_four_samples_that_know_where_they_are_from(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    source = caption(1, context="See text.", organ="digestive")
    samples, drops, _ = run(tmp_path, [source])
    assert not drops
    made = {sample.task: sample for sample in samples}
    assert set(made) == {"choice", "report", "short_answer", "dialogue"}
    for task, sample in made.items():
        assert sample.id == f"c1/{task}"
        assert sample.origin == source.origin
        assert sample.images == source.images
        assert sample.reasoning == "Glands are fused. This is carcinoma."
        assert sample.context == "Colon, H&E: fused glands 1.\nSee text."
        assert (sample.subfield, sample.organ, sample.level) == ("histopathology", "digestive", "easy")
        assert sample.history[-1].note == f"histopathology/easy/{task}"
        assert sample.history[-1].model == "m"
    assert made["choice"].answer == "carcinoma"
    assert sorted(made["choice"].choices) == ["adenoma", "carcinoma", "colitis", "normal"]
    assert made["report"].answer == "Fused glands. Impression: carcinoma."
    assert made["dialogue"].earlier[0].answer == "Colon."
    assert made["dialogue"].question == "Diagnosis?"


def test_the_right_option_is_not_always_the_first(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    samples, _, _ = run(tmp_path, [caption(n) for n in range(80)], tasks=("choice",))
    places = Counter(sample.choices.index(sample.answer) for sample in samples)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 40


def test_a_question_with_its_answer_gets_a_reasoning_and_stays_itself(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    question = make_sample("q", subfield="ihc", level="hard")
    samples, _, _ = run(tmp_path, [question, caption(1)], tasks=("explain",))
    (explained,) = samples
    assert explained.reasoning == "Glands are fused. This is carcinoma."
    assert explained.model_copy(update={"reasoning": None, "history": question.history}) == question


def test_every_row_ends_as_a_sample_or_a_drop_with_its_reason(tmp_path, monkeypatch):
    answers = {
        "0": json.dumps(REPLY["ReportReply"]),
        "1": "I cannot see an image.",
        "2": Generation(model="m", error="http_500", detail="boom"),
        "3": json.dumps(REPLY["ReportReply"])[:-20],
    }
    Teacher(monkeypatch, lambda request: answers[request.messages[-1].text.split("glands ")[1].split(".")[0]])
    rows = [
        *(caption(n) for n in range(4)),
        caption(5, subfield="drawing"),
        caption(6, subfield=None),
        caption(7, level=None),
        caption(8, answer="x" * 60_000),
        caption(9, split="test"),
        make_sample("q"),
    ]
    samples, drops, counts = run(tmp_path, rows, tasks=("report",))
    assert [sample.id for sample in samples] == ["c0/report"]
    reasons = {drop.sample_id: drop.reason for drop in drops}
    assert reasons == {
        "c1/report": "unreadable_answer",
        "c2/report": "http_500",
        "c3/report": "unreadable_answer",
        "c5": "no_prompt_for_subfield",
        "c6": "no_prompt_for_subfield",
        "c7": "no_level",
        "c8": "text_too_long",
    }
    assert counts["passed_over"] == {"held_out": 1, "not_asked_for_yes_no": 1}
    assert "I cannot see an image." in next(drop.detail for drop in drops if drop.sample_id == "c1/report")


def test_a_run_with_an_unrelated_key_changed_asks_nothing(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    first, _, counts = run(tmp_path, rows)
    assert (counts["asked"], counts["reused"]) == (20, 0)
    teacher.asked.clear()
    again, _, counts = run(
        tmp_path,
        rows,
        name="another_name",
        max_chars=11_000,
        teacher={"max_requests": 7, "attempts": 3, "prices": {"m": {"prompt": 1, "completion": 1}}},
    )
    assert not teacher.asked
    assert (counts["asked"], counts["reused"]) == (0, 20)
    assert [s.model_copy(update={"history": ()}) for s in again] == [
        s.model_copy(update={"history": ()}) for s in first
    ]


def test_a_changed_part_asks_only_for_the_prompts_that_hold_it(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    rows = [caption(n, level=level) for n, level in enumerate(("easy", "medium", "hard"))]
    run(tmp_path, rows)
    teacher.asked.clear()
    altered = json.loads(json.dumps(prompts._parts()))
    altered["levels"]["hard"]["text"] += " Be brief."
    monkeypatch.setattr(prompts, "_parts", lambda: altered)
    _, _, counts = run(tmp_path, rows)
    assert (counts["asked"], counts["reused"]) == (4, 8)
    assert all("Be brief." in request.messages[-1].text for request in teacher.asked)


def test_a_cap_stops_the_stage_and_says_what_is_left(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    with pytest.raises(UserError, match=r"max_requests 6 is reached; 6 of 20 .* 14 are left"):
        run(tmp_path, rows, teacher={"max_requests": 6})
    assert len(teacher.asked) == 6
    samples, _, counts = run(tmp_path, rows)
    assert len(samples) == 20
    assert (counts["asked"], counts["reused"]) == (14, 6)


def test_a_cap_of_nothing_asks_nothing(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    with pytest.raises(UserError, match=r"0 of 4 .* 4 are left"):
        run(tmp_path, [caption(1)], teacher={"max_requests": 0})
    assert not teacher.asked


def test_partial_goes_on_with_what_is_answered(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    samples, drops, _ = run(tmp_path, rows, teacher={"max_requests": 6, "partial": True})
    assert len(samples) == 6
    assert [drop.reason for drop in drops] == ["max_requests"] * 14


def test_a_server_that_is_down_does_not_become_a_set_of_drops(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    run(tmp_path, rows, tasks=("report",))
    teacher.reply = lambda request: Generation(model="m", error="timeout", detail="no answer within 3 s")
    with pytest.raises(UserError, match=r"2 of 10 requests failed \(timeout 2; timeout: no answer"):
        run(tmp_path, rows, tasks=("report", "choice"), teacher={"max_failed": 0.1})
    assert len(list(read_samples(tmp_path / ".partial" / "reasoning"))) == 5, "only what the first run wrote"


def test_tasks_are_dealt_by_the_id_of_a_caption_alone(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    rows = [caption(n) for n in range(60)]
    samples, _, _ = run(tmp_path, rows, per_sample=1)
    assert len(samples) == 60
    assert set(Counter(sample.task for sample in samples)) == {"choice", "report", "short_answer", "dialogue"}
    alone, _, counts = run(tmp_path, rows[17:18], per_sample=1)
    assert [sample.id for sample in alone] == [samples[17].id]
    assert counts["asked"] == 0


def test_the_facts_say_what_was_asked_and_spent(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    run(tmp_path, [caption(1)], teacher={"prices": {"m": {"prompt": 1e6, "completion": 0}}})
    (facts,) = json.loads((tmp_path / ".partial" / "reasoning" / FACTS_FILE).read_text())
    assert facts["requests"] == facts["asked"] == 4
    assert facts["cost"] == facts["prompt_tokens"] > 0


def test_a_price_table_without_the_model_is_refused_before_anything_runs():
    config = ReasonConfig(
        name="r",
        kind="reason",
        samples=("pairs",),
        teacher={
            "generator": {"endpoint": {"url": "http://h/v1", "model": "m"}},
            "max_cost": 5,
            "prices": {"other": {"prompt": 1, "completion": 1}},
        },
    )
    with pytest.raises(UserError, match=r"no price for m; add .* priced are: other"):
        config.check()


def test_a_key_depends_on_generator_and_sampling_and_not_on_caps_or_addresses():
    def keyed(**teacher: Any) -> object:
        generator = {"endpoint": {"url": "http://h/v1", "model": "m"}}
        return ReasonConfig(
            name="r", kind="reason", samples=("pairs",), teacher={"generator": generator, **teacher}
        ).keyed()

    plain = keyed()
    assert keyed(max_requests=3, max_cost=2, prices={"m": {"prompt": 1, "completion": 1}}) == plain
    assert keyed(generator={"endpoint": {"url": "http://other/v1", "model": "m"}}) == plain
    assert keyed(generator={"endpoint": {"url": "http://h/v1", "model": "n"}}) != plain
    assert keyed(sampling={"temperature": 0}) != plain


def test_with_partial_the_caps_are_part_of_the_key():
    def keyed(**teacher: Any) -> object:
        generator = {"endpoint": {"url": "http://h/v1", "model": "m"}}
        return ReasonConfig(
            name="r",
            kind="reason",
            samples=("pairs",),
            teacher={"generator": generator, "partial": True, **teacher},
        ).keyed()

    assert keyed(max_requests=3) != keyed(max_requests=4)
    assert keyed(max_requests=3, prices={"m": {"prompt": 1, "completion": 1}}) == keyed(max_requests=3)


def test_a_cap_is_not_spent_again_by_starting_again(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    for _ in range(3):
        with pytest.raises(UserError, match=r"max_requests 6 is reached; 6 of 20"):
            run(tmp_path, rows, teacher={"max_requests": 6})
    assert len(teacher.asked) == 6


def test_the_cost_of_a_stage_is_that_of_all_its_answers(tmp_path, monkeypatch):
    Teacher(monkeypatch)
    rows = [caption(n) for n in range(5)]
    prices = {"m": {"prompt": 1.0, "completion": 1.0}}
    with pytest.raises(UserError, match="max_requests"):
        run(tmp_path, rows, teacher={"max_requests": 6, "prices": prices})
    _, _, stopped_between = run(tmp_path, rows, teacher={"prices": prices})
    _, _, at_once = run(tmp_path / "other", rows, teacher={"prices": prices})
    assert stopped_between["cost"] == at_once["cost"] > 0
    assert (stopped_between["asked"], at_once["asked"]) == (14, 20)


def test_answers_that_cannot_be_read_stop_the_stage_before_all_are_paid_for(tmp_path, monkeypatch):
    teacher = Teacher(monkeypatch, lambda request: "Absolutely! Here it is.")
    rows = [caption(n) for n in range(500)]
    with pytest.raises(
        UserError, match=r"answers cannot be read \(no JSON object: 'Absolutely! Here it is.'\)"
    ):
        run(tmp_path, rows, tasks=("report",))
    assert len(teacher.asked) < 250
    with pytest.raises(UserError, match="give another model or more max_tokens, or raise max_unreadable"):
        run(tmp_path, rows, tasks=("report",))
    samples, drops, _ = run(tmp_path, rows, tasks=("report",), teacher={"max_unreadable": 1.0})
    assert (len(samples), len(drops)) == (0, 500)


def test_a_few_open_requests_among_many_stored_ones_are_asked_together(tmp_path, monkeypatch):
    """The generator is handed all of them in one go, so that an endpoint can use its connections."""
    Teacher(monkeypatch)
    rows = [caption(n) for n in range(1500)]
    kept = [row for n, row in enumerate(rows) if n % 30]
    run(tmp_path, kept, tasks=("report",))
    starts: list[int] = []
    plain = Echo.generate

    def counted(echo: Echo, requests: Any) -> Any:
        starts.append(0)
        for batch in plain(echo, requests):
            starts[-1] += len(batch)
            yield batch

    monkeypatch.setattr(Echo, "generate", counted)
    _, _, counts = run(tmp_path, rows, tasks=("report",))
    assert counts["asked"] == 50
    assert starts == [50]


def test_a_task_named_twice_is_refused():
    with pytest.raises(ValueError, match="choice stands twice"):
        ReasonConfig(
            name="r",
            kind="reason",
            samples=("pairs",),
            tasks=("choice", "choice"),
            teacher={"generator": {"rules": "phantom"}},
        )
