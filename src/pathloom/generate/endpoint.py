"""Generator `endpoint`: any server that speaks OpenAI's chat completions, asked over many connections at once."""

import asyncio
import base64
import heapq
import itertools
import json
import random
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx2
from pydantic import Field

from pathloom.generate.generator import Generation, Request, picture_bytes
from pathloom.images import BadImage, encode_png, load_pixels
from pathloom.schema import Image, Record
from pathloom.stage import UserError

_CROWDED = (429, 503, 529)
"""Statuses by which a server asks for fewer connections; 529 is what some hosts answer when they are overloaded."""
_AGAIN = (408, 409, 425, 500, 502, 504, *_CROWDED)
_REFUSED = {
    401: "the key is refused; {cure}",
    403: "the key may not use this model",
    404: "no such path or model; `url` ends in /v1 as a rule",
}
_MIME = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class EndpointSettings(Record):
    """How a server is asked; no part of an answer's key. `structured` may change how well an answer can be read."""

    connections: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="most requests that are open at once; fewer while the server asks for it",
    )
    timeout_s: float = Field(
        default=300.0, gt=0, allow_inf_nan=False, description="for one attempt, from sending to the last byte"
    )
    retries: int = Field(
        default=8, ge=0, le=100, description="further attempts after one that may succeed later"
    )
    wait_s: float = Field(
        default=0.1,
        gt=0,
        allow_inf_nan=False,
        description="the mean of the first wait; each further one doubles it",
    )
    max_wait_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="of the longest wait, and of what a server's Retry-After is followed for",
    )
    max_reply_bytes: int = Field(
        default=4 * 2**20, ge=1, description="of one answer; a longer one is an error"
    )
    structured: Literal["json_schema", "json_object", "none"] = Field(
        default="json_schema",
        description="how JSON is asked for where a request has a schema: with it, as any object, or in the prompt only",
    )


@dataclass
class _Attempt:
    """A request on its way, `sent` for the `number`-th time from 1; tokens are those of attempts that failed."""

    key: str
    request: Request
    started: float
    sent: float = 0.0
    number: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class _Failure:
    """Why an attempt failed; `again` whether a later one may succeed, `wait_s` what the server asked for. With a `cure`
    no request can succeed, unless the server has answered others.

    Tokens are what the server charged all the same.
    """

    error: str
    detail: str
    again: bool = True
    crowded: bool = False
    cure: str = ""
    wait_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """The number of open requests follows the server, as TCP follows a network (RFC 5681): one more for every answer
    until it first refuses one as crowded, then half at a refusal and one more for a whole round of answers.

    Random failures (500, a broken reply) are asked again later without giving up connections: a server that fails now
    and then is not a crowded one. Meanwhile their connections carry other requests.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        api_key_env: str | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        """`api_key_env` names the environment variable that `api_key` was read from, for the message about it."""
        self.url = url.rstrip("/") + "/chat/completions"
        self.model = model
        self.settings = settings or EndpointSettings()
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._api_key = api_key
        self._key_cure = (
            f"set the environment variable {api_key_env}"
            if api_key_env
            else "name the environment variable that holds one as `api_key_env`"
        )

    def generate(self, requests: Iterable[tuple[str, Request]]) -> Iterator[Sequence[tuple[str, Generation]]]:
        """See Generator. Raises UserError where no request can succeed: a refused key, no server."""
        with asyncio.Runner() as runner:  # it runs while the next answer is awaited, and rests in between
            flow = _Flow(self, iter(requests))
            try:
                while batch := runner.run(flow.answers()):
                    yield batch
            finally:
                runner.run(flow.close())

    def client(self, tls: ssl.SSLContext) -> httpx2.AsyncClient:
        """For one connection. A pool of many looks at all of them for every request: see speed/."""
        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=self.settings.timeout_s,
            limits=httpx2.Limits(max_connections=1),
            verify=tls,
        )

    async def attempt(self, client: httpx2.AsyncClient, request: Request) -> Generation | _Failure:
        """One exchange with the server. Everything that it may do wrong is a _Failure, which never holds the key."""
        result = await self._exchange(client, request)
        if isinstance(result, _Failure) and self._api_key:
            result.detail = result.detail.replace(self._api_key, "***")
        return result

    async def _exchange(self, client: httpx2.AsyncClient, request: Request) -> Generation | _Failure:
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
        if reply.status_code != 200:
            return _Failure(
                f"http_{reply.status_code}",
                body[:500].decode(errors="replace"),
                again=reply.status_code in _AGAIN,
                crowded=reply.status_code in _CROWDED,
                cure=_REFUSED.get(reply.status_code, "").format(cure=self._key_cure),
                wait_s=_retry_after_s(reply.headers),
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
        if request.json_schema is not None and self.settings.structured == "json_schema":
            payload["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.json_schema, "strict": True},
            }
        elif request.json_schema is not None and self.settings.structured == "json_object":
            payload["response_format"] = {"type": "json_object"}
        return payload

    def _read(self, body: bytes) -> Generation | _Failure:
        """`content` alone is the text: what a model thought stands beside it as `reasoning_content`."""
        prompt_tokens = completion_tokens = 0
        try:
            reply = json.loads(body)
            prompt_tokens, completion_tokens = _usage(reply)
            choice = reply["choices"][0]
            text, cut_off = choice["message"].get("content"), choice.get("finish_reason") == "length"
            if text is None and cut_off:
                text = ""  # a model that was still thinking; asking the same again would end the same
            if not isinstance(text, str):
                raise TypeError(f"content is {type(text).__name__}")
            text.encode()  # raises a ValueError for half of a surrogate pair, which JSON can hold and no file can
            return Generation(
                model=self.model,
                text=text,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cut_off=cut_off,
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            return _Failure(
                "bad_reply",
                f"{type(error).__name__} {error} in {body[:200].decode(errors='replace')!r}",
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
            )


class _Flow:
    """What is open, what waits to be sent again, and how many may be open at once."""

    def __init__(self, endpoint: Endpoint, requests: Iterator[tuple[str, Request]]) -> None:
        self.endpoint = endpoint
        self.settings = endpoint.settings
        self.requests = requests
        self.tls = httpx2.create_ssl_context()
        self.clients: list[httpx2.AsyncClient] = []
        self.idle: list[httpx2.AsyncClient] = []
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
            if self.fatal is None:
                self._send()
            elif not self.open:
                raise self.fatal
            wait_s = self._next_send_s() if self.fatal is None else None
            if self.open:
                done, _ = await asyncio.wait(self.open, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    attempt = self.open.pop(task)
                    try:
                        generation = self._judge(attempt, task.result())
                    except UserError as error:  # raised when those that are open have ended
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
        for client in self.clients:
            await client.aclose()

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
            attempt.sent = now
            attempt.number += 1
            self.open[asyncio.get_running_loop().create_task(self._attempt(attempt.request))] = attempt

    async def _attempt(self, request: Request) -> Generation | _Failure:
        """Over the connection that was used last, so that a server sees few that rest."""
        if not self.idle:
            self.clients.append(self.endpoint.client(self.tls))
            self.idle.append(self.clients[-1])
        client = self.idle.pop()
        try:
            return await self.endpoint.attempt(client, request)
        finally:
            self.idle.append(client)

    def _judge(self, attempt: _Attempt, result: Generation | _Failure) -> Generation | None:
        """The request's end, or None where it is to be sent again."""
        now = time.monotonic()
        seconds = now - attempt.started
        if isinstance(result, Generation):
            self.answered = True
            more = 1 / self.allowed if self.halved else 1.0
            self.allowed = min(self.allowed + more, float(self.settings.connections))
            tokens = {
                "prompt_tokens": attempt.prompt_tokens + result.prompt_tokens,
                "completion_tokens": attempt.completion_tokens + result.completion_tokens,
            }
            return result.model_copy(update={"seconds": seconds, **tokens})
        attempt.prompt_tokens += result.prompt_tokens
        attempt.completion_tokens += result.completion_tokens
        if result.crowded and attempt.sent >= self.halved:  # one cut for all that were open at the time
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
        if result.cure and not self.answered:
            raise UserError(f"{self.endpoint.url}: {result.error}, {result.cure}")
        if result.error == "no_connection" and not self.answered:
            raise UserError(f"{result.detail}; is the server running?")
        return Generation(
            model=self.endpoint.model,
            prompt_tokens=attempt.prompt_tokens,
            completion_tokens=attempt.completion_tokens,
            seconds=seconds,
            error=result.error,
            detail=result.detail,
        )


def _content(text: str, images: Sequence[Image]) -> str | list[dict[str, Any]]:
    if not images:
        return text
    pictures = [{"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in images]
    return [*pictures, {"type": "text", "text": text}]


def _data_uri(image: Image) -> str:
    """PNG and JPEG as they are, other formats as PNG."""
    data = picture_bytes(image)
    mime = next((mime for magic, mime in _MIME.items() if data.startswith(magic)), None)
    if mime is None:
        data, mime = encode_png(load_pixels(image)), "image/png"
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def _usage(reply: dict[str, Any]) -> tuple[int, int]:
    """Tokens of prompt and completion; 0 for what the server does not count, or not in whole numbers."""
    usage = reply.get("usage")
    counts = [
        usage.get(f"{of}_tokens") if isinstance(usage, dict) else None for of in ("prompt", "completion")
    ]
    prompt_tokens, completion_tokens = (
        count if type(count) is int and 0 < count < 2**53 else 0 for count in counts
    )
    return prompt_tokens, completion_tokens


def _retry_after_s(headers: httpx2.Headers) -> float:
    """Of the header Retry-After (RFC 9110, 10.2.3): seconds or a date; 0 for none and for what is neither.

    A date is compared with the reply's own Date, so the two clocks need not agree.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        until, now = _date(value), _date(headers.get("date", ""))
        seconds = (until - (now or datetime.now(UTC))).total_seconds() if until else 0.0
    return seconds if seconds > 0 else 0.0  # and 0 for "nan"


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
