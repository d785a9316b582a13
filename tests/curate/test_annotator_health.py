"""What is said about annotators: silent, always the same, one model twice, the wrong language, words of their own."""

import dataclasses
import json
from pathlib import Path

import pytest
from tests.curate.annotators import (
    CANNOT_TELL,
    SCHEMA,
    Annotators,
    Reply,
    asking,
    cell,
    configured,
    number_of,
    run,
    run_with,
    sound,
    values_of,
)

from pathloom.curate.annotation_reply import AnnotatorReply
from pathloom.curate.annotator_health import Checkup, is_in
from pathloom.generate.generator import Request
from pathloom.schema import Said


def warnings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **replies: Reply) -> list[str]:
    _, _, facts = run_with(tmp_path, monkeypatch, replies)
    return list(facts["warnings"])


def test_sound_annotators_raise_no_warning(tmp_path, monkeypatch):
    assert warnings_of(tmp_path, monkeypatch, a=sound("a"), b=sound("b"), c=sound("c")) == []


def test_the_same_text_for_every_picture_is_told(tmp_path, monkeypatch):
    text = json.dumps({"attributes": values_of(0), "caption": "A normal cell."})
    found = warnings_of(tmp_path, monkeypatch, a=sound("a"), b=lambda request: text)
    assert found == ["annotator b gave the same answer for 12 of 12 pictures"]


def test_always_cannot_tell_is_told_and_its_words_are_kept(tmp_path, monkeypatch):
    def silent(request: Request) -> str:
        return CANNOT_TELL.replace("Blurred", f"Blurred {number_of(request)}")

    samples, _, facts = run_with(tmp_path, monkeypatch, {"a": sound("a"), "b": silent})
    assert facts["warnings"] == ["annotator b is silent: it cannot tell 108 of 108 attributes"]
    assert facts["answers"]["b"]["cannot_tell"] == 1.0
    assert {each.text for each in samples[0].annotations[1].said} == {"cannot tell"}


def test_two_of_three_identical_models_are_told_by_their_words(tmp_path, monkeypatch):
    found = warnings_of(tmp_path, monkeypatch, a=sound("x"), b=sound("b"), c=sound("x"))
    assert found == [
        "annotators a and c gave the same answer, word for word, for 12 of 12 pictures: they may be one model"
    ]


def test_the_same_values_in_other_sentences_are_told_too(tmp_path, monkeypatch):
    def rephrases(request: Request) -> str:
        return sound("a")(request).replace("a sees", "Here is")

    def mostly(request: Request) -> str:
        reply = json.loads(rephrases(request))
        reply["attributes"] |= {"nucleoli": "prominent"} if number_of(request) < 3 else {}
        return json.dumps(reply)

    told = "annotators a and b used the same words for all attributes of 12 of 12 pictures"
    (found,) = warnings_of(tmp_path / "1", monkeypatch, a=sound("a"), b=rephrases)
    assert found.startswith(told)
    assert warnings_of(tmp_path / "2", monkeypatch, a=sound("a"), b=mostly) == [], (
        "9 of 12 is below the bound"
    )


def test_with_one_attribute_two_good_annotators_are_not_taken_for_one_model():
    one = dataclasses.replace(SCHEMA, attributes={"nucleoli": SCHEMA["nucleoli"]})
    checkup = Checkup(one, "en", {"a": "m", "b": "n"})
    for number in range(40):
        said = {"a": "small", "b": "small" if number % 20 else "large"}  # one in twenty is another
        checkup.saw(
            {who: AnnotatorReply((Said(name="nucleoli", text=text),), who) for who, text in said.items()}
        )
    (pair,) = checkup.pairs()
    assert pair["same_attributes"] == 0.95
    assert not any("all attributes" in warning for warning in checkup.warnings())


def test_one_model_under_two_names_is_told_and_asked_once(tmp_path, monkeypatch):
    annotators = Annotators(monkeypatch, m=sound("m"), n=sound("n"))
    config = configured({"a": asking("m"), "b": asking("n"), "c": asking("m")})
    samples, _, facts = run(tmp_path, map(cell, range(12)), config)
    assert annotators.asked == {"m": 12, "n": 12}
    assert len(samples[0].annotations) == 3
    assert facts["warnings"] == ["annotators a and c are one model, m: their votes are not independent"]
    assert {row["annotators"]: row["same"] for row in facts["pairs"]} == {
        "a, b": 0.0,
        "a, c": 1.0,
        "b, c": 0.0,
    }


def test_the_wrong_language_is_told_and_its_words_are_kept(tmp_path, monkeypatch):
    found = warnings_of(tmp_path, monkeypatch, a=sound("a"), b=sound("b", "zh"))
    assert found == ["annotator b answered 12 of 12 pictures in another language than en"]


def test_asked_in_chinese_an_english_answer_is_the_wrong_one(tmp_path, monkeypatch):
    Annotators(monkeypatch, a=sound("甲", "zh"), b=sound("b"))
    config = configured({name: asking(name) for name in "ab"}, language="zh")
    _, _, facts = run(tmp_path, map(cell, range(12)), config)
    assert facts["warnings"] == ["annotator b answered 12 of 12 pictures in another language than zh"]


def test_extra_and_missing_keys_and_unknown_words_are_counted(tmp_path, monkeypatch):
    def strays(request: Request) -> str:
        reply = json.loads(sound("b")(request))
        del reply["attributes"]["nucleoli"]
        reply["attributes"] |= {"nuclear_size": "gigantic", "diagnosis": "HSIL"}
        return json.dumps({**reply, "confidence": 0.9})

    _, _, facts = run_with(tmp_path, monkeypatch, {"a": sound("a"), "b": strays})
    assert facts["answers"]["a"]["extra_keys"] == {}
    row = facts["answers"]["b"]
    assert row["extra_keys"] == {"confidence": 12, "diagnosis": 12}
    assert row["cannot_tell"] == round(1 / 9, 4)
    assert row["unknown_words"] == round(1 / 8, 4)
    (warning,) = facts["warnings"]
    assert (
        "12 of 96 values are in no list of cervical_cell (most often 'nuclear_size: gigantic', 12" in warning
    )


def test_of_few_answers_nothing_is_concluded(tmp_path, monkeypatch):
    _, _, facts = run_with(
        tmp_path, monkeypatch, {"a": lambda request: CANNOT_TELL, "b": lambda request: CANNOT_TELL}, num=9
    )
    assert facts["warnings"] == []


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The nucleus is large.", True),
        ("zh", "The nucleus is large.", False),
        ("zh", "核大，符合HSIL。", True),  # noqa: RUF001
        ("en", "核大小正常", False),
        ("en", "Ядро увеличено", False),
        ("zh", "12, 3.", True),
    ],
)
def test_the_language_of_an_answer_is_that_of_half_its_letters(language, text, expected):
    assert is_in(language, text) is expected
