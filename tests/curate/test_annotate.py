"""The stage `annotate`: what annotators are asked, and what becomes of good and bad answers."""

import contextlib
import json
from collections import Counter

import pytest
from tests.curate.annotators import (
    SCHEMA,
    Annotators,
    asking,
    cell,
    configured,
    number_of,
    run,
    run_with,
    sound,
    values_of,
)

from pathloom.attributes import ANNOTATION_TITLE, Language
from pathloom.curate import annotation_prompts
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.annotation_prompts import AnnotationPrompt
from pathloom.curate.annotation_reply import read_annotation
from pathloom.curate.annotator_health import is_in
from pathloom.generate.generator import Generation, Request, Sampling
from pathloom.schema import Image, Region, Sample
from pathloom.stage import UserError


def test_a_sample_leaves_with_what_each_annotator_said_and_without_truth(tmp_path, monkeypatch):
    Annotators(monkeypatch, m1=sound("b"), m2=sound("a"))
    config = configured({"b": asking("m1"), "a": asking("m2")})
    (sample,), drops, facts = run(tmp_path, [cell(3)], config)
    assert not drops
    assert [each.annotator for each in sample.annotations] == ["b", "a"]
    first = sample.annotations[0]
    assert {each.name: each.text for each in first.said} == values_of(3, who="b")
    assert first.caption == "b sees cell 3."
    assert (sample.attributes, sample.answer) == ((), "")
    assert (sample.finding, sample.regions) == ("HSIL", cell(3).regions)
    events = [(event.step, event.note, event.model) for event in sample.history[1:]]
    assert events == [("annotate", "b", "m1"), ("annotate", "a", "m2")]
    assert facts["annotators"]["b"]["model"] == "m1"
    assert facts["warnings"] == []


def test_an_answer_that_is_no_caption_stays(tmp_path, monkeypatch):
    Annotators(monkeypatch, m=sound("a"))
    question = cell(0, task="yes_no", question="Is it a cell?", answer="yes")
    (sample,), _, _ = run(tmp_path, [question], configured({"a": asking("m")}))
    assert (sample.answer, sample.attributes) == ("yes", ())


@pytest.mark.parametrize("split", ["val", "test", "fold-2"])
def test_samples_of_every_split_are_described(tmp_path, monkeypatch, split):
    Annotators(monkeypatch, m=sound("a"))
    (sample,), _, _ = run(tmp_path, [cell(0, split=split)], configured({"a": asking("m")}))
    assert sample.split == split
    assert len(sample.annotations) == 1


def test_the_request_holds_picture_and_values_and_nothing_that_is_known_of_the_cell():
    sample = cell(1)
    request = AnnotationPrompt(SCHEMA, "en").about(sample, Sampling(seed=4))
    assert request.messages[-1].images == sample.images
    assert request.sampling.seed == 4
    text = "\n".join(message.text for message in request.messages)
    for secret in ("HSIL", "the truth in words", "a secret", sample.id):
        assert secret not in text
    for kind in SCHEMA.attributes.values():
        assert all(kind.say(value) in text for value in kind.values)
    assert "cannot tell" in text
    wanted = request.json_schema
    assert wanted is not None
    assert (wanted["title"], wanted["description"]) == (ANNOTATION_TITLE, "cervical_cell en")
    assert set(wanted["properties"]["attributes"]["properties"]) == set(SCHEMA.attributes)


def test_a_picture_without_a_box_is_not_asked_about_one():
    def text(sample: Sample) -> str:
        return AnnotationPrompt(SCHEMA, "en").about(sample, Sampling()).messages[-1].text

    assert "box" in text(cell(1))
    assert "box" not in text(cell(1, regions=()))
    whole = Region(box_px=(0, 0, 24, 16), label="cell")
    assert "box" not in text(cell(1, regions=(whole,))), "a picture of one cell is not framed"


def test_in_chinese_the_prompt_is_chinese_and_its_keys_stay():
    request = AnnotationPrompt(SCHEMA, "zh").about(cell(1), Sampling())
    text = request.messages[0].text + request.messages[1].text.partition("\n{")[0]
    assert is_in("zh", request.messages[0].text)
    assert "无法判断" in text
    assert "`nuclear_size` (核大小)" in text
    for kind in SCHEMA.attributes.values():
        assert all(kind.say(value, "zh") in text for value in kind.values)
    assert request.json_schema is not None
    assert request.json_schema["description"] == "cervical_cell zh"


def test_every_part_of_the_prompt_has_both_languages_and_a_source():
    for name, part in annotation_prompts._parts().items():
        assert set(part) == {"en", "zh", "source"}, name
        assert is_in("zh", part["zh"].replace("{subject}", "").replace("{cannot_tell}", "")), name


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (" normal ", "normal"),
        (3, "3"),
        (True, "true"),
        (None, None),
        ("", None),
        ([], None),
        (["normal"], "normal"),
        (["normal", None, 2], "normal + 2"),
        ({"size": "normal"}, '{"size": "normal"}'),
    ],
)
def test_values_that_are_no_strings_become_words_or_no_answer(value, said):
    reply = read_annotation(SCHEMA, "en", json.dumps({"attributes": {"nuclear_size": value}}))
    assert [each.text for each in reply.said] == ([said] if said else [])


def test_a_list_of_signs_is_the_value_that_holds_them_and_an_empty_one_is_none():
    def signs(language: Language, value: list[str]) -> str | None:
        reply = read_annotation(SCHEMA, language, json.dumps({"attributes": {"abnormal_signs": value}}))
        return SCHEMA.read("abnormal_signs", reply.said[0].text)

    assert signs("en", ["nuclear atypia", "koilocyte"]) == "nuclear atypia + koilocyte"
    assert signs("zh", ["核异型性", "挖空细胞"]) == "nuclear atypia + koilocyte"
    assert signs("en", []) == "none"


def test_prose_fences_and_thoughts_around_the_object_are_passed_over():
    text = '<think>{"attributes": 1}</think>Sure!\n```json\n{"attributes": {"nucleoli": "small"}}\n``` Hope it helps'
    assert read_annotation(SCHEMA, "en", text).said[0].text == "small"


def test_attributes_may_stand_beside_the_caption_under_their_titles_and_extra_keys_are_noted():
    given = {"Nuclear size": "normal", "核仁": "small", "nucleoli": "large", "stage": 2, "caption": "A cell."}
    reply = read_annotation(SCHEMA, "en", json.dumps(given))
    assert {each.name: each.text for each in reply.said} == {"nuclear_size": "normal", "nucleoli": "small"}
    assert reply.extra_keys == ("nucleoli", "stage")
    assert reply.caption == "A cell."
    nested = {"attributes": {"nucleoli": "small", "colour": "blue"}, "caption": ["x"], "diagnosis": "HSIL"}
    reply = read_annotation(SCHEMA, "en", json.dumps(nested))
    assert reply.extra_keys == ("diagnosis", "colour")
    assert reply.caption == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I cannot see the image.", "no JSON object"),
        ('{"attributes": {"nucleoli": "sma', "no JSON object"),
        ('{"caption": "A cell.", "diagnosis": "HSIL"}', "only diagnosis"),
        ('{"attributes": {}}', "an empty object"),
        ('{"attributes": {"nucleoli": "\\ud800"}}', "surrogates"),
        ('{"attributes": {"nucleoli": "small"}, "caption": "\\ud800"}', "surrogates"),
        ('{"\\ud800": 1, "nucleoli": "small"}', "surrogates"),
    ],
)
def test_an_answer_without_attributes_or_that_cannot_be_written_is_unreadable(text, why):
    with pytest.raises(ValueError, match=why):
        read_annotation(SCHEMA, "en", text)


def test_a_reply_nested_without_end_is_unreadable_and_no_crash():
    for depth in (100, 500, 900, 5000):
        text = '{"attributes": {"nucleoli": ' + "[" * depth + "]" * depth + "}}"
        with contextlib.suppress(ValueError):
            read_annotation(SCHEMA, "en", text)


def test_broken_json_is_asked_again_once_and_then_the_annotator_has_no_annotation(tmp_path, monkeypatch):
    def stubborn(request: Request) -> str:
        return '{"attributes": {"nucleoli": ' if number_of(request) == 1 else sound("b")(request)

    def careless(request: Request) -> str:
        return "Sorry, what?" if request.sampling.seed == 0 else sound("c")(request)

    annotators = Annotators(monkeypatch, a=sound("a"), b=stubborn, c=careless)
    config = configured({name: asking(name) for name in "abc"})
    samples, drops, facts = run(tmp_path, map(cell, range(12)), config)
    assert not drops
    assert annotators.asked == {"a": 12, "b": 13, "c": 24}
    said = {sample.id: [each.annotator for each in sample.annotations] for sample in samples}
    assert said.pop("c1") == ["a", "c"]
    assert set(map(tuple, said.values())) == {("a", "b", "c")}
    assert facts["annotators"]["b"]["failed"] == {"unreadable_answer": 1}
    assert facts["annotators"]["b"]["answered"] == 11


def test_an_annotator_that_is_down_stops_the_stage_and_is_named(tmp_path, monkeypatch):
    down = Generation(model="b", error="http_503", detail="overloaded")
    with pytest.raises(UserError, match=r"described\.b: 1 of 12 requests failed \(http_503 1"):
        run_with(tmp_path, monkeypatch, {"a": sound("a"), "b": lambda request: down})


def test_with_max_failed_raised_the_others_go_on_and_the_half_that_is_missing_is_told(tmp_path, monkeypatch):
    def half(request: Request) -> str | Generation:
        if number_of(request) >= 6:
            return Generation(model="b", error="no_connection", detail="refused")
        return sound("b")(request)

    samples, drops, facts = run_with(
        tmp_path, monkeypatch, {"a": sound("a"), "b": half, "c": sound("c")}, max_failed=0.6
    )
    assert not drops
    assert Counter(len(sample.annotations) for sample in samples) == {3: 6, 2: 6}
    assert facts["annotators"]["b"]["answered"] == 6
    assert facts["warnings"] == ["annotator b has no answer for 6 of 12 pictures (no_connection 6)"]


def test_a_sample_that_nobody_answered_is_a_drop_that_says_why(tmp_path, monkeypatch):
    def fails(request: Request) -> str | Generation:
        if number_of(request) == 2:
            return Generation(model="m", error="http_500", detail="boom")
        return sound("a")(request)

    samples, drops, _ = run_with(tmp_path, monkeypatch, {"a": fails, "b": fails}, num=5, max_failed=1.0)
    assert [sample.id for sample in samples] == ["c0", "c1", "c3", "c4"]
    ((dropped, reason),) = ((drop.sample_id, drop.reason) for drop in drops)
    assert (dropped, reason) == ("c2", "no_annotation")
    assert drops[0].detail == "a: http_500, boom; b: http_500, boom"


def test_pictures_that_cannot_be_read_are_drops_with_their_reason(tmp_path, monkeypatch):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nrest")

    def refuses(request: Request) -> str | Generation:
        if request.messages[-1].images[0].path == str(broken):
            return Generation(model="m", error="http_400", detail="not an image")
        return sound("a")(request)

    Annotators(monkeypatch, m=refuses)
    gone = Image(path=str(tmp_path / "gone.png"), width_px=24, height_px=16)
    torn = Image(path=str(broken), width_px=24, height_px=16)
    rows = [
        cell(0),
        cell(1, images=(gone,)),
        cell(2, images=(torn,)),
        cell(3, images=(), regions=()),
        cell(4),
    ]
    samples, drops, facts = run(tmp_path, rows, configured({"a": asking("m", max_failed=0.5)}))
    assert [sample.id for sample in samples] == ["c0", "c4"]
    assert {drop.sample_id: drop.reason for drop in drops} == {
        "c1": "unreadable",
        "c2": "not_an_image",
        "c3": "no_picture",
    }
    assert samples[1].annotations[0].caption == "a sees cell 4.", "answers stay with their Samples"
    assert facts["annotators"]["a"]["failed"] == {"unreadable": 1, "http_400": 1}


def test_another_annotator_and_looser_bounds_ask_nobody_again(tmp_path, monkeypatch):
    annotators = Annotators(monkeypatch, a=sound("a"), b=sound("b"), c=sound("c"))
    run(tmp_path, map(cell, range(5)), configured({"a": asking("a"), "b": asking("b")}))
    annotators.asked.clear()
    config = configured(
        {"c": asking("c"), "b": asking("b", max_failed=0.5), "a": asking("a")}, name="described_again"
    )
    samples, _, _ = run(tmp_path, map(cell, range(5)), config)
    assert annotators.asked == {"c": 5}
    assert [each.annotator for each in samples[0].annotations] == ["c", "b", "a"]


def test_caps_are_those_of_each_annotator(tmp_path, monkeypatch):
    annotators = Annotators(monkeypatch, a=sound("a"), b=sound("b"))
    rows = [cell(n) for n in range(5)]
    with pytest.raises(UserError, match=r"described\.b: max_requests 2 is reached; 2 of 5"):
        run(tmp_path, rows, configured({"a": asking("a"), "b": asking("b", max_requests=2)}))
    assert annotators.asked == {"a": 5, "b": 2}
    partial = configured({"a": asking("a"), "b": asking("b", max_requests=2, partial=True)})
    samples, _, facts = run(tmp_path, rows, partial)
    assert [len(sample.annotations) for sample in samples] == [2, 2, 1, 1, 1]
    assert facts["annotators"]["b"]["failed"] == {"max_requests": 3}


def test_a_server_that_is_gone_for_good_is_left_out_by_a_cap_at_what_it_answered(tmp_path, monkeypatch):
    Annotators(monkeypatch, a=sound("a"), b=sound("b"))
    rows = [cell(n) for n in range(4)]
    with pytest.raises(UserError, match="max_requests 2 is reached"):
        run(tmp_path, rows, configured({"a": asking("a"), "b": asking("b", max_requests=2)}))
    monkeypatch.undo()  # from here on the endpoint is a real one, and nobody listens there
    url = "http://127.0.0.1:1/v1"
    gone = {"generator": {"endpoint": {"url": url, "model": "b", "settings": {"retries": 0}}}}
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1/v1.*is the server running"):
        run(tmp_path, rows, configured({"a": asking("a"), "b": {**gone, "max_failed": 1.0}}))
    left_out = {**gone, "max_requests": 2, "partial": True}
    samples, _, _ = run(tmp_path, rows, configured({"a": asking("a"), "b": left_out}))
    assert [len(sample.annotations) for sample in samples] == [2, 2, 1, 1]


def test_the_key_depends_on_who_is_asked_in_which_order_and_with_which_words(monkeypatch):
    def key(config: AnnotateConfig) -> tuple[str, str]:
        return json.dumps(config.keyed(), sort_keys=True), config.fingerprint()

    plain = key(configured({"a": asking("m"), "b": asking("n")}))
    assert key(configured({"a": asking("m", max_failed=0.5), "b": asking("n", max_requests=3)})) == plain
    assert key(configured({"b": asking("n"), "a": asking("m")})) != plain
    assert key(configured({"a": asking("m"), "b": asking("m")})) != plain
    assert key(configured({"a": asking("m"), "b": asking("n")}, language="zh")) != plain
    altered = {**annotation_prompts._parts(), "role": {"en": "Look.", "zh": "看。", "source": "a test"}}
    monkeypatch.setattr(annotation_prompts, "_parts", lambda: altered)
    assert key(configured({"a": asking("m"), "b": asking("n")})) != plain


@pytest.mark.parametrize(
    ("generator", "why"),
    [
        ({"local": {}}, "annotators.a.generator: `local` and `rules` see no pictures"),
        ({"rules": "phantom"}, "annotators.a.generator: `local` and `rules` see no pictures"),
        (
            {"simulated": {"truth": "cells", "role": "arbiter"}},
            "arbiter is no annotator; write `role: annotator`",
        ),
        (
            {"simulated": {"truth": "cells", "attributes": "mine.yaml"}},
            "mine.yaml, but cervical_cell is asked about; write `attributes: cervical_cell`",
        ),
    ],
)
def test_a_generator_that_cannot_describe_pictures_is_refused(generator, why):
    with pytest.raises(UserError, match=why):
        configured({"a": {"generator": generator}}).check()
