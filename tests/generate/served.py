"""A small server on this machine that speaks OpenAI's chat completions and answers them with a Local."""

import json
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pathloom.generate.generator import Generation, Message, Request, Sampling
from pathloom.generate.local import Local

PATH = "/v1/chat/completions"


class Part(BaseModel):
    type: str
    text: str = ""


class Turn(BaseModel):
    role: str
    content: str | list[Part]

    def message(self) -> Message:
        parts = [Part(type="text", text=self.content)] if isinstance(self.content, str) else self.content
        if any(part.type != "text" for part in parts):
            raise ValueError("only text is read here")
        return Message.model_validate({"role": self.role, "text": "".join(part.text for part in parts)})


class ResponseFormat(BaseModel):
    type: str = "text"
    json_schema: dict[str, Any] = {}


class Body(BaseModel):
    """What is read of a request; OpenAI's defaults where it names one."""

    model_config = ConfigDict(extra="ignore")

    messages: list[Turn] = Field(min_length=1)
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 256
    seed: int = 0
    response_format: ResponseFormat = ResponseFormat()

    def request(self) -> Request:
        return Request(
            messages=tuple(turn.message() for turn in self.messages),
            json_schema=self.response_format.json_schema.get("schema"),
            sampling=Sampling(
                temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens, seed=self.seed
            ),
        )


class Server(ThreadingHTTPServer):
    """Requests that come within `gather_s` of one another are answered as one batch."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, local: Local, gather_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.local = local
        self.gather_s = gather_s
        self.asked: queue.SimpleQueue[tuple[Request, Future[Generation]] | None] = queue.SimpleQueue()
        self.batches: list[int] = []
        """Sizes, in order."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer_batches(self) -> None:
        """Until None is asked."""
        while (first := self.asked.get()) is not None:
            batch = [first]
            until = time.monotonic() + self.gather_s
            while len(batch) < self.local.batch_size and (left_s := until - time.monotonic()) > 0:
                try:
                    further = self.asked.get(timeout=left_s)
                except queue.Empty:
                    break
                if further is None:
                    self.asked.put(None)
                    break
                batch.append(further)
            self.batches.append(len(batch))
            requests = [(str(place), request) for place, (request, _) in enumerate(batch)]
            for answers in self.local.generate(requests):
                for place, generation in answers:
                    batch[int(place)][1].set_result(generation)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != PATH:
            self.refuse(404, f"only {PATH} is served")
            return
        try:
            request = Body.model_validate_json(body).request()
        except ValueError as error:  # pydantic's ValidationError is one
            self.refuse(400, str(error))
            return
        coming: Future[Generation] = Future()
        self.server.asked.put((request, coming))
        generation = coming.result(timeout=60)
        if generation.error is not None:
            self.refuse(400, f"{generation.error}: {generation.detail}")
            return
        self.reply(200, completion(generation))

    def refuse(self, status: int, message: str) -> None:
        self.reply(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def reply(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(generation: Generation) -> dict[str, Any]:
    return {
        "object": "chat.completion",
        "model": generation.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": generation.text},
                "finish_reason": "length" if generation.cut_off else "stop",
            }
        ],
        "usage": {
            "prompt_tokens": generation.prompt_tokens,
            "completion_tokens": generation.completion_tokens,
            "total_tokens": generation.prompt_tokens + generation.completion_tokens,
        },
    }


@contextmanager
def serving(local: Local, *, gather_s: float = 0.05) -> Iterator[Server]:
    """The running server; `url` is what an Endpoint takes."""
    server = Server(local, gather_s)
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True),
        threading.Thread(target=server.answer_batches, daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.asked.put(None)
        for thread in threads:
            thread.join()
        server.server_close()
