"""Generators: requests in, generations out. Teacher, annotator, arbiter, judge and the tests' echo are all one."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from pathloom.images import BadImage
from pathloom.schema import Image, Record


class Message(Record):
    """One turn. Images stand before the text, as the Qwen-VL families were trained."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


class Sampling(Record):
    """How an answer is drawn. `seed` is part of the request, so another seed is another answer to be paid for."""

    temperature: float = Field(default=0.7, ge=0, description="0 takes the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    seed: int = Field(default=0, ge=0)


class Request(Record):
    """Everything that an answer depends on besides the model."""

    messages: tuple[Message, ...] = Field(min_length=1)
    json_schema: dict[str, Any] | None = Field(default=None, description="the answer is JSON of this schema")
    sampling: Sampling = Sampling()

    def key(self, model: str) -> str:
        """SHA-256 of model, messages, the content of their images, schema and sampling, and of nothing else.

        A picture that moved to another path keeps its key. Raises BadImage for one that cannot be read.
        """
        facts = {
            "model": model,
            "messages": [
                [message.role, message.text, [_content_hash(image) for image in message.images]]
                for message in self.messages
            ],
            "json_schema": self.json_schema,
            "sampling": self.sampling.model_dump(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def again(self, attempt: int) -> "Request":
        """The same with its seed moved on by `attempt`: a key of its own, and the request itself for 0."""
        sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + attempt})
        return self.model_copy(update={"sampling": sampling})


class Generation(Record):
    """What came back: a text that was paid for, or an `error` in a short constant word with its `detail`.

    Tokens are the server's own count, of every attempt that it charged for. `seconds` is the time from sending to the
    last byte, retries included.
    """

    model: str
    text: str = ""
    prompt_tokens: int = Field(default=0, ge=0)
    completion_tokens: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)
    cut_off: bool = Field(default=False, description="the answer stopped at max_tokens")
    error: str | None = None
    detail: str = ""


class Generator(Protocol):
    """Answers requests. `model` names what answers, version included: it is part of every key."""

    @property
    def model(self) -> str: ...

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        """(key, request) in; every key once with its Generation out, in any order, in batches of what is ready.

        Requests are pulled only when there is room for them, so whoever hands them out can stop at a cap. A request
        that fails comes back with an error; it does not raise.
        """
        ...


def picture_bytes(image: Image) -> bytes:
    """The file as it is. Raises BadImage for one that cannot be read.

    A Request holds no bytes of a file, so the file is read for the key and again for sending: thousands of requests
    wait between the two, and their pictures would not fit memory.
    """
    if image.data is not None:
        return image.data
    try:
        return Path(image.path).read_bytes()
    except OSError as error:
        raise BadImage("unreadable", f"{image.path}: {error.strerror}") from error


def _content_hash(image: Image) -> str:
    return hashlib.sha256(picture_bytes(image)).hexdigest()
