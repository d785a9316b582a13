"""Requests a second through `ask` and `endpoint`, against what a local server allows.

`python speed/endpoint.py [requests] [connections] [seconds an answer]`. The server is a process of its own. It has as
many places as there are connections, takes the same time for every answer, refuses with 429 when it is full, and
fails one request in ten with 500, which costs a place and its time too. So it allows connections / seconds attempts a
second, and nine tenths of that in answers. What the last hundredth of the requests took is printed too: there the waits
before further attempts show, as no new request fills them.
"""

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from pathloom.generate.ask import ask
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.endpoint import Endpoint, EndpointSettings
from pathloom.generate.generator import Message, Request
from pathloom.generate.store import AnswerStore

_PROMPT = "Describe what a pathologist sees in this figure, step by step. " * 30
_ANSWER = "Solid nests of polygonal cells with keratin pearls. " * 40


def serve(port: "multiprocessing.Queue[int]", places: int, seconds: float) -> None:
    free = places
    number = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal free, number
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return  # the client has gone
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(length)
            number += 1
            fails = number % 10 == 0
            value: dict[str, object] = {}
            if free == 0:
                status = "429 Too Many Requests"
            else:
                free -= 1
                await asyncio.sleep(seconds)
                free += 1
                status = "500 Internal Server Error" if fails else "200 OK"
                if not fails:
                    value = {
                        "choices": [{"message": {"content": _ANSWER}}],
                        "usage": {"prompt_tokens": 400, "completion_tokens": 500},
                    }
            body = json.dumps(value).encode()
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def main() -> None:
    given = [float(argument) for argument in sys.argv[1:]]
    count, connections, seconds = given + [2000, 32, 0.1][len(given) :]
    port: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(target=serve, args=(port, int(connections), seconds), daemon=True)
    server.start()
    endpoint = Endpoint(
        f"http://127.0.0.1:{port.get()}/v1", "m", settings=EndpointSettings(connections=int(connections))
    )
    requests = [
        Request(messages=(Message(role="user", text=f"{_PROMPT}{number}"),)) for number in range(int(count))
    ]
    with tempfile.TemporaryDirectory() as folder, AnswerStore(Path(folder) / "answers") as store:
        started = time.perf_counter()
        ends = [
            (time.perf_counter() - started, outcome.value is not None)
            for outcome in ask(requests, endpoint, store, lambda _, text: text, Budget(Caps(), None, "m"))
        ]
    server.terminate()
    answered = sum(has_value for _, has_value in ends)
    taken = ends[-1][0]
    allowed = 0.9 * connections / seconds
    print(
        f"{answered} of {int(count)} answered in {taken:.1f} s: {answered / taken:.0f} a second, "
        f"{answered / taken / allowed:.2f} of what the server allows; "
        f"the last hundredth took {taken - ends[int(0.99 * len(ends)) - 1][0]:.1f} s"
    )


if __name__ == "__main__":
    main()
