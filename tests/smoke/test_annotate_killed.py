"""Three annotators and an arbiter on a real local server that fails one time in ten, killed again and again."""

import base64
import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import encoded

from pathloom.attributes import ANNOTATION_TITLE, DISPUTE_TITLE, load_schema
from pathloom.store import read_samples

NUM_CELLS, CONNECTIONS = 48, 4
ANNOTATORS, ARBITER = ("a", "b", "c"), "judge"
FAILURE_SHARE = 0.1
ANSWER_S = 0.02
SIDE_PX = 64
DISPUTED = ("nucleoli", "nuclear_membrane")
"""Each annotator says something else of these about every third picture: two disputes, one request to the arbiter."""

Asked = tuple[str, str]
"""Model, SHA-256 of the picture."""


def picture(number: int) -> bytes:
    return encoded(number, width_px=SIDE_PX, height_px=SIDE_PX)


NUMBER_OF = {hashlib.sha256(picture(number)).hexdigest(): number for number in range(NUM_CELLS)}
IN_DISPUTE = {digest for digest, number in NUMBER_OF.items() if number % 3 == 0}


def reply(model: str, schema: dict[str, Any], number: int) -> dict[str, Any]:
    if schema["title"] == DISPUTE_TITLE:
        return {name: kind["enum"][0] for name, kind in schema["properties"].items()}
    assert schema["title"] == ANNOTATION_TITLE
    kinds = load_schema("cervical_cell").attributes
    own = ANNOTATORS.index(model) if number % 3 == 0 else 0
    said = {
        name: kind.values[own if name in DISPUTED else number % len(kind.values)]
        for name, kind in kinds.items()
    }
    return {"attributes": said, "caption": f"{model} looks at cell {number}."}


class Server:
    """`answered` holds model and picture of every answer that it finished writing."""

    def __init__(self) -> None:
        self.answered: list[Asked] = []
        self.failed = 0
        self.lock = threading.Lock()
        self.random = random.Random(0)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    fails = server.random.random() < FAILURE_SHARE
                time.sleep(ANSWER_S)
                try:
                    self._answer(body, fails)
                except OSError:  # whoever asked is gone
                    self.close_connection = True

            def _answer(self, body: dict[str, Any], fails: bool) -> None:
                url = body["messages"][-1]["content"][0]["image_url"]["url"]
                digest = hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest()
                schema = body["response_format"]["json_schema"]["schema"]
                text = json.dumps(reply(body["model"], schema, NUMBER_OF[digest]))
                answer = {
                    "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 900, "completion_tokens": 150},
                }
                data = b"boom" if fails else json.dumps(answer).encode()
                self.send_response(500 if fails else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                with server.lock:
                    server.failed += fails
                    if not fails:
                        server.answered.append((body["model"], digest))

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A killed asker resets its connections; there is nothing to say about it."""

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def recipe(folder: Path, url: str) -> Path:
    (folder / "images").mkdir()
    with (folder / "pairs.jsonl").open("w") as file:
        for number in range(NUM_CELLS):
            (folder / "images" / f"{number}.png").write_bytes(picture(number))
            row = {
                "id": str(number),
                "caption": f"The cell of case {number}.",
                "image": f"images/{number}.png",
            }
            file.write(json.dumps(row) + "\n")

    def asking(model: str) -> str:
        settings = f"{{connections: {CONNECTIONS}, wait_s: 0.05, max_wait_s: 0.5}}"
        return f'{{generator: {{endpoint: {{url: "{url}", model: {model}, settings: {settings}}}}}}}'

    path = folder / "cells.yaml"
    path.write_text(
        f"""
name: cells
stages:
  - {{name: cells, kind: ingest, source: pairs, table: {folder / "pairs.jsonl"}, images: required}}
  - name: described
    kind: annotate
    samples: [cells]
    annotators: {{{", ".join(f"{name}: {asking(name)}" for name in ANNOTATORS)}}}
  - name: fused
    kind: curate
    samples: [described]
    steps: [{{step: consensus, arbiter: {asking(ARBITER)}}}]
"""
    )
    return path


def run(path: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pathloom.cli", "run", str(path), "--runs", str(runs)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def on_disk(runs: Path) -> set[Asked]:
    """Model and picture of the answers that the store holds."""
    if not (runs / "answers.sqlite").is_file():
        return set()
    with sqlite3.connect(runs / "answers.sqlite") as database:
        rows = database.execute("SELECT model, request FROM answers").fetchall()
    paths = [(model, json.loads(request)["messages"][-1]["images"][0]["path"]) for model, request in rows]
    return {(model, hashlib.sha256(picture(int(Path(path).stem))).hexdigest()) for model, path in paths}


@pytest.mark.slow
def test_kills_while_annotators_and_arbiter_are_asked_cost_at_most_what_was_on_its_way(tmp_path, server):
    runs, path = tmp_path / "runs", recipe(tmp_path, server.url)
    of_annotators = len(ANNOTATORS) * NUM_CELLS
    # within each annotator, then twice within the arbiter
    kills = [20, NUM_CELLS + 10, 2 * NUM_CELLS + 30, of_annotators + 3, of_annotators + 9]
    kept: set[Asked] = set()
    lost = 0
    for wanted in kills:
        began = len(server.answered)
        process = run(path, runs)
        while len(server.answered) < wanted + lost:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(5 * ANSWER_S)  # answers that the server is still writing
        asked = server.answered[began:]
        assert not kept & set(asked), "an answer on disk was asked for again"
        now = on_disk(runs)
        assert kept <= now
        assert len(asked) - (len(now) - len(kept)) <= CONNECTIONS, "more was lost than was open"
        lost += len(asked) - (len(now) - len(kept))
        kept = now
    began = len(server.answered)
    process = run(path, runs)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert not kept & set(server.answered[began:]), "an answer on disk was asked for again"

    assert {digest for model, digest in server.answered if model == ARBITER} == IN_DISPUTE
    assert Counter(model for model, _ in on_disk(runs)) == {
        **dict.fromkeys(ANNOTATORS, NUM_CELLS),
        ARBITER: len(IN_DISPUTE),
    }
    assert len(server.answered) == of_annotators + len(IN_DISPUTE) + lost
    assert server.failed > 0

    (folder,) = runs.glob("fused-*")
    samples = list(read_samples(folder))
    assert len(samples) == NUM_CELLS
    settled = {
        sample.id: [each.name for each in sample.attributes if each.resolver == "arbiter"]
        for sample in samples
    }
    assert Counter(map(len, settled.values())) == {0: NUM_CELLS - len(IN_DISPUTE), 2: len(IN_DISPUTE)}
    print(f"lost to {len(kills)} kills: {lost} answers of {len(server.answered)}; failed: {server.failed}")
