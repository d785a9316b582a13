"""What a Generator replies for each task of the engine: a JSON schema when it is asked, a check when it answers."""

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from pathloom.tasks.parsing import normalise

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Steps = Annotated[list[Text], Field(min_length=1, max_length=20, description="the reasoning, step by step")]


class Reply(BaseModel):
    """Base of all replies. No key may be missing or added: servers that follow schemas ask for that."""

    model_config = ConfigDict(extra="forbid")

    steps: Steps


class ChoiceReply(Reply):
    question: Text
    options: list[Text] = Field(min_length=4, max_length=6, description="the right one among them")
    answer: Text = Field(description="the right option, word for word")

    @model_validator(mode="after")
    def _answer_is_one_of_the_options(self) -> "ChoiceReply":
        options = [normalise(option) for option in self.options]
        if len(set(options)) < len(options):
            raise ValueError("two options are alike")
        if normalise(self.answer) not in options:
            raise ValueError(f"the answer {self.answer!r} is none of the options")
        return self


class ReportReply(Reply):
    question: Text
    description: Text


class ShortAnswerReply(Reply):
    question: Text
    answer: Text


class Exchange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text
    answer: Text


class DialogueReply(Reply):
    turns: list[Exchange] = Field(min_length=2, max_length=6)


class ExplainReply(Reply):
    pass


REPLIES: dict[str, type[Reply]] = {
    "choice": ChoiceReply,
    "report": ReportReply,
    "short_answer": ShortAnswerReply,
    "dialogue": DialogueReply,
    "explain": ExplainReply,
}
"""Task of the engine -> what is replied to it."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_MAX_STARTS = 32  # opening braces that are tried; bounds the time on a reply that is nothing but braces


def read_reply(text: str, reply: type[Reply]) -> Reply:
    """The first JSON object in a text as a reply. Raises ValueError with the reason why it is none."""
    try:
        return reply.model_validate(parse_object(text))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'reply'}: {first['msg']}") from error


def parse_object(text: str) -> dict[str, Any]:
    """The first JSON object in a text; a thought, a fence or a greeting around it is passed over.

    Half an object is none: what is missing could be the answer. Raises ValueError.
    """
    _, closed, after = text.rpartition("</think>")
    if "<think>" in after or ("<think>" in text and not closed):
        raise ValueError("a thought that is never closed")
    text = after
    fenced = _FENCE.search(text)
    text = fenced[1] if fenced else text
    decoder = json.JSONDecoder()
    for start in [match.start() for match in re.finditer(r"\{", text)][:_MAX_STARTS]:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        return dict(value)
    raise ValueError("no JSON object")
