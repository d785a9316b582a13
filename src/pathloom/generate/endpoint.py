"""Generator `endpoint`: any server that speaks OpenAI's chat completions, asked over many connections at once."""

import asyncio
import base64
import heapq
import itertools
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from pathloom.generate.generator import Generation, Request
from pathloom.images import BadImage, encode_png, load_pixels
from pathloom.schema import Image
from pathloom.stage import UserError

_CROWDED = (429, 503, 529)
"""Statuses by which a server asks for fewer connections; 529 is what some hosts answer when they are overloaded."""
_AGAIN = (408, 409, 425, 500, 502, 504, *_CROWDED)
_REFUSED = {
    401: "the key is refused; set the environment variable that the recipe names",
    403: "the key may not use this model",
    404: "no such path or model; `url` ends in /v1 as a rule",
}
_MIME = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True)
class EndpointSettings:
    """connections     most requests that are open at once; fewer while the server asks for fewer
    timeout_s       for one attempt, from sending to the last byte
    retries         further attempts after one that may succeed later, with doubling waits
    wait_s          the mean of the first wait
    max_wait_s      of the longest one, and of what a server's Retry-After is followed for
    max_reply_bytes of one answer; a longer one is an error
    """

    connections: int = 32
    timeout_s: float = 300.0
    retries: int = 6
    wait_s: float = 0.5
    max_wait_s: float = 60.0
    max_reply_bytes: int = 4 * 2**20


@dataclass
class _Attempt:
    key: str
    request: Request
    started: float
    number: int = 0


@dataclass
class _Failure:
    """Why an attempt failed; `again` whether a later one may succeed, `wait_s` what the server asked for."""

    error: str
    detail: str
    again: bool = True
    crowded: bool = False
    wait_s: float = 0.0


class Endpoint:
    """The number of open requests follows the server, as TCP follows a network (RFC 5681): one more for every answer
    until it first refuses one as crowded, then half at a refusal and one more for a whole round of answers.

    Random failures (500, a broken reply) are asked again later without giving up connections: a server that fails now
    and then is not a crowded one.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        self.url = url.rstrip("/") + "/chat/completions"
        self.model = model
        self.settings = settings or EndpointSettings()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        """See Generator. Raises UserError where no request can succeed: a refused key, no server."""
        with asyncio.Runner() as runner:  # it runs while the next answer is awaited, and rests in between
            client = httpx2.AsyncClient(
                headers=self._headers,
                timeout=self.settings.timeout_s,
                limits=httpx2.Limits(max_connections=self.settings.connections),
            )
            flow = _Flow(self, client, iter(requests))
            try:
                while batch := runner.run(flow.answers()):
                    yield batch
            finally:
                runner.run(flow.close())

    async def attempt(self, client: httpx2.AsyncClient, request: Request) -> Generation | _Failure:
        """One exchange with the server. Everything that it may do wrong is a _Failure."""
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                async with client.stream("POST", self.url, json=self._payload(request)) as reply:
                    body = bytearray()
                    async for piece in reply.aiter_bytes():
                        body += piece
                        if len(body) > self.settings.max_reply_bytes:
                            return _Failure(
                                "reply_too_long", f"over {self.settings.max_reply_bytes} bytes", again=False
                            )
        except BadImage as error:
            return _Failure(error.reason, str(error), again=False)
        except (TimeoutError, httpx2.TimeoutException):
            return _Failure("timeout", f"no answer within {self.settings.timeout_s:g} s", crowded=True)
        except httpx2.ConnectError as error:
            return _Failure("no_connection", f"{self.url}: {error}")
        except httpx2.HTTPError as error:
            return _Failure("broken_connection", f"{type(error).__name__}: {error}")
        if reply.status_code in _REFUSED:
            raise UserError(f"{self.url}: {reply.status_code}, {_REFUSED[reply.status_code]}")
        if reply.status_code != 200:
            return _Failure(
                f"http_{reply.status_code}",
                body[:500].decode(errors="replace"),
                again=reply.status_code in _AGAIN,
                crowded=reply.status_code in _CROWDED,
                wait_s=_seconds(reply.headers.get("retry-after")),
            )
        return self._read(bytes(body))

    def _payload(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": message.role, "content": _content(message.text, message.images)}
                for message in request.messages
            ],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
        }
        if request.json_schema is not None:
            payload["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.json_schema, "strict": True},
            }
        return payload

    def _read(self, body: bytes) -> Generation | _Failure:
        try:
            reply = json.loads(body)
            text = reply["choices"][0]["message"]["content"]
            usage = reply.get("usage") or {}
            if not isinstance(text, str):
                raise TypeError(f"content is {type(text).__name__}")
            return Generation(
                model=self.model,
                text=text,
                prompt_tokens=usage.get("prompt_tokens", 0),
                completion_tokens=usage.get("completion_tokens", 0),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            shown = body[:200].decode(errors="replace")
            return _Failure("bad_reply", f"{type(error).__name__} {error} in {shown!r}")


class _Flow:
    """What is open, what waits to be sent again, and how many may be open at once."""

    def __init__(
        self, endpoint: Endpoint, client: httpx2.AsyncClient, requests: Iterator[tuple[str, Request]]
    ) -> None:
        self.endpoint = endpoint
        self.settings = endpoint.settings
        self.client = client
        self.requests = requests
        self.open: dict[asyncio.Task[Generation | _Failure], _Attempt] = {}
        self.later: list[tuple[float, int, _Attempt]] = []
        self.allowed = float(min(8, self.settings.connections))
        self.halved = 0.0
        self.paused_until = 0.0
        self.answered = False
        self.fatal: UserError | None = None
        self._order = itertools.count()
        self._random = random.Random(0)

    async def answers(self) -> list[tuple[str, Generation]]:
        """The next answers, at least one; none when every request has ended."""
        ended: list[tuple[str, Generation]] = []
        while not ended:
            if self.fatal is not None:
                raise self.fatal
            self._send()
            wait_s = self._next_send_s()
            if self.open:
                done, _ = await asyncio.wait(self.open, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    attempt = self.open.pop(task)
                    try:
                        generation = self._judge(attempt, task.result())
                    except UserError as error:  # raised when the answers beside it are handed on
                        self.fatal = error
                        continue
                    if generation is not None:
                        ended.append((attempt.key, generation))
            elif wait_s is not None:
                await asyncio.sleep(wait_s)
            else:
                break
        return ended

    def _next_send_s(self) -> float | None:
        """Seconds until something else may be sent; None when only an answer can change that."""
        now = time.monotonic()
        if len(self.open) >= int(self.allowed) or not (self.later or now < self.paused_until):
            return None
        due = self.later[0][0] if self.later else now
        return max(due, self.paused_until, now) - now

    async def close(self) -> None:
        for task in self.open:
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)
        await self.client.aclose()

    def _send(self) -> None:
        """As many as are allowed: those whose wait is over, then new ones."""
        now = time.monotonic()
        while len(self.open) < int(self.allowed) and now >= self.paused_until:
            if self.later and self.later[0][0] <= now:
                attempt = heapq.heappop(self.later)[2]
            elif len(self.later) < 4 * self.settings.connections and (new := next(self.requests, None)):
                attempt = _Attempt(*new, started=now)
            else:
                return
            attempt.number += 1
            task = asyncio.get_running_loop().create_task(self.endpoint.attempt(self.client, attempt.request))
            self.open[task] = attempt

    def _judge(self, attempt: _Attempt, result: Generation | _Failure) -> Generation | None:
        """The request's end, or None where it is to be sent again."""
        now = time.monotonic()
        seconds = now - attempt.started
        if isinstance(result, Generation):
            self.answered = True
            more = 1 / self.allowed if self.halved else 1.0
            self.allowed = min(self.allowed + more, float(self.settings.connections))
            return result.model_copy(update={"seconds": seconds})
        if result.crowded and now - self.halved > self.settings.wait_s:  # one cut for those refused together
            self.halved = now
            self.allowed = max(self.allowed / 2, 1.0)
        if result.wait_s:
            self.paused_until = max(self.paused_until, now + min(result.wait_s, self.settings.max_wait_s))
        if result.again and attempt.number <= self.settings.retries:
            wait_s = min(self.settings.wait_s * 2 ** (attempt.number - 1), self.settings.max_wait_s)
            heapq.heappush(
                self.later, (now + wait_s * self._random.uniform(0.5, 1.5), next(self._order), attempt)
            )
            return None
        if result.error == "no_connection" and not self.answered:
            raise UserError(f"{result.detail}; is the server running?")
        return Generation(
            model=self.endpoint.model, seconds=seconds, error=result.error, detail=result.detail
        )


def _content(text: str, images: Sequence[Image]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in images]
    return [*pictures, {"type": "text", "text": text}]


def _data_uri(image: Image) -> str:
    """PNG and JPEG as they are, other formats as PNG."""
    data = image.data if image.data is not None else Path(image.path).read_bytes()
    mime = next((mime for magic, mime in _MIME.items() if data.startswith(magic)), None)
    if mime is None:
        data, mime = encode_png(load_pixels(image)), "image/png"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _seconds(retry_after: str | None) -> float:
    """Of a Retry-After header; 0 for none, and for its other form, a date."""
    try:
        return max(float(retry_after or 0), 0.0)
    except ValueError:
        return 0.0
