"""Replies of Generators: what is read out of them, and what is none."""

import json

import pytest

from pathloom.curate.replies import REPLIES, ChoiceReply, DialogueReply, ExplainReply, ReportReply, read_reply

CHOICE = {
    "steps": ["Glands are fused.", "So it is a carcinoma."],
    "question": "What is it?",
    "options": ["adenoma", "adenocarcinoma", "normal", "colitis"],
    "answer": "Adenocarcinoma.",
}
TEXT = json.dumps(CHOICE)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        json.dumps(CHOICE, indent=2),
        f"Sure, here it is:\n{TEXT}\nI hope it helps!",
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}\n```\nDone.",
        f'<think>First {{"steps": []}} came to mind.</think>{TEXT}',
        f"{{not json}} {TEXT}",
        f"{TEXT} {TEXT}",
    ],
    ids=["bare", "indented", "chatty", "fenced", "fence without name", "thought", "braces before", "twice"],
)
def test_the_object_is_found_in_what_stands_around_it(text):
    reply = read_reply(text, ChoiceReply)
    assert isinstance(reply, ChoiceReply)
    assert reply.answer == "Adenocarcinoma."


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("I cannot see the image.", "no JSON object"),
        (f"<think> a draft: {TEXT} but wait, I should", "never closed"),
        (f"<think>one</think> {TEXT[:9]} <think> {TEXT}", "never closed"),
        (TEXT[: len(TEXT) // 2], "no JSON object"),
        (TEXT[:-1], "no JSON object"),
        ("{" * 100_000, "no JSON object"),
        ("[" * 100_000 + "{", "no JSON object"),
        ('{"a":' * 50_000, "no JSON object"),
        (json.dumps({**CHOICE, "steps": []}), "steps"),
        (json.dumps({**CHOICE, "steps": "Glands."}), "steps"),
        (json.dumps({**CHOICE, "steps": ["  "]}), "steps.0"),
        (json.dumps({**CHOICE, "extra": 1}), "extra"),
        (json.dumps({key: value for key, value in CHOICE.items() if key != "answer"}), "answer"),
        (json.dumps({**CHOICE, "answer": "B"}), "none of the options"),
        (json.dumps({**CHOICE, "options": ["adenocarcinoma", "normal"]}), "options"),
        (json.dumps({**CHOICE, "options": [*CHOICE["options"], "NORMAL."]}), "two options are alike"),
        (json.dumps({**CHOICE, "options": list("abcdefg")}), "options"),
        (json.dumps([1, 2]), "no JSON object"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_reply(text, ChoiceReply)


def test_a_half_object_is_never_completed():
    """What is missing could be the answer."""
    for end in range(1, len(TEXT)):
        with pytest.raises(ValueError, match="no JSON object"):
            read_reply(TEXT[:end], ChoiceReply)


def test_the_other_tasks_have_replies_of_their_own():
    assert read_reply('{"steps": ["a"]}', ExplainReply).steps == ["a"]
    turns = [{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}]
    dialogue = read_reply(json.dumps({"steps": ["a"], "turns": turns}), DialogueReply)
    assert isinstance(dialogue, DialogueReply)
    assert dialogue.turns[1].answer == "a2"
    with pytest.raises(ValueError, match="turns"):
        read_reply(json.dumps({"steps": ["a"], "turns": turns[:1]}), DialogueReply)
    with pytest.raises(ValueError, match="description"):
        read_reply('{"steps": ["a"], "question": "q"}', ReportReply)


def test_every_schema_forbids_other_keys_and_requires_all_of_its_own():
    """What servers with strict schemas ask for."""
    for reply in REPLIES.values():
        schema = reply.model_json_schema()
        assert schema["additionalProperties"] is False
        assert set(schema["required"]) == set(schema["properties"])
        for inner in schema.get("$defs", {}).values():
            assert inner["additionalProperties"] is False
            assert set(inner["required"]) == set(inner["properties"])
