"""The data engine against a real local server that fails one time in ten, killed five times in between."""

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

from pathloom.schema import Drop
from pathloom.store import read_samples

NUM_CAPTIONS, CONNECTIONS, NUM_KILLS = 500, 16, 5
FAILURE_SHARE = 0.1
ANSWER_S = 0.02

STEPS = {"steps": ["Glands are fused.", "This is carcinoma."], "question": "What is shown?"}
REPLIES: dict[str, dict[str, Any]] = {
    "ChoiceReply": {**STEPS, "options": ["carcinoma", "adenoma", "colitis", "normal"], "answer": "carcinoma"},
    "ReportReply": {**STEPS, "description": "Fused glands. Impression: carcinoma."},
    "ShortAnswerReply": {**STEPS, "answer": "Fused glands"},
    "DialogueReply": {
        "steps": STEPS["steps"],
        "turns": [{"question": "Organ?", "answer": "Colon."}, {"question": "What?", "answer": "Carcinoma."}],
    },
}


class Server:
    """Answers by the schema that is asked for; `answered` holds the prompt of every answer that it finished writing."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.failed = 0
        self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.random = random.Random(0)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.open += 1
                    server.most_open = max(server.most_open, server.open)
                    fails = server.random.random() < FAILURE_SHARE
                time.sleep(ANSWER_S)
                try:
                    self._answer(body, fails)
                except OSError:  # whoever asked is gone
                    self.close_connection = True
                finally:
                    with server.lock:
                        server.open -= 1

            def _answer(self, body: dict[str, Any], fails: bool) -> None:
                reply = REPLIES[body["response_format"]["json_schema"]["schema"]["title"]]
                answer = {
                    "choices": [{"message": {"content": json.dumps(reply)}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 300, "completion_tokens": 50},
                }
                data = b"boom" if fails else json.dumps(answer).encode()
                self.send_response(500 if fails else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                with server.lock:
                    if fails:
                        server.failed += 1
                    else:
                        server.answered.append(body["messages"][-1]["content"])

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
    captions = folder / "pairs.jsonl"
    with captions.open("w") as file:
        for number in range(NUM_CAPTIONS):
            file.write(
                json.dumps({"id": str(number), "caption": f"Colon, H&E: fused glands, case {number}."}) + "\n"
            )
    path = folder / "engine.yaml"
    path.write_text(
        f"""
name: engine
stages:
  - {{name: pairs, kind: ingest, source: pairs, table: {captions}, images: ignored}}
  - name: reasoning
    kind: reason
    samples: [pairs]
    subfield: histopathology
    level: easy
    teacher:
      generator:
        endpoint: {{url: "{url}", model: m, settings: {{connections: {CONNECTIONS}, wait_s: 0.05, max_wait_s: 0.5}}}}
"""
    )
    return path


def run(path: Path, runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pathloom.cli", "run", str(path), "--runs", str(runs)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def on_disk(runs: Path) -> set[str]:
    """The prompts whose answers the store holds."""
    if not (runs / "answers.sqlite").is_file():
        return set()
    with sqlite3.connect(runs / "answers.sqlite") as database:
        rows = database.execute("SELECT request FROM answers").fetchall()
    return {json.loads(request)["messages"][-1]["text"] for (request,) in rows}


def test_five_kills_cost_at_most_what_was_on_its_way(tmp_path, server):
    runs, total = tmp_path / "runs", 4 * NUM_CAPTIONS
    path = recipe(tmp_path, server.url)
    kept: set[str] = set()
    lost = 0
    for kill in range(1, NUM_KILLS + 1):
        began = len(server.answered)
        process = run(path, runs)
        while len(server.answered) < kill * total // (NUM_KILLS + 2) + lost:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(5 * ANSWER_S)  # answers that the server is still writing
        asked = server.answered[began:]
        assert not kept & set(asked), "a row on disk was asked again"
        now = on_disk(runs)
        assert kept <= now
        assert len(asked) - (len(now) - len(kept)) <= CONNECTIONS, "more was lost than was open"
        lost += len(asked) - (len(now) - len(kept))
        kept = now
    began = len(server.answered)
    process = run(path, runs)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert not kept & set(server.answered[began:]), "a row on disk was asked again"
    assert len(server.answered) == total + lost <= total + NUM_KILLS * CONNECTIONS
    assert server.failed > 0.05 * total
    assert server.most_open <= CONNECTIONS

    (folder,) = runs.glob("reasoning-*")
    drops = [
        Drop.model_validate_json(line)
        for file in (folder / "drops").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    samples = list(read_samples(folder))
    assert len(samples) + len(drops) == total
    assert all(drop.reason == "http_500" for drop in drops)
    assert Counter(sample.task for sample in samples)["choice"] + len(drops) >= NUM_CAPTIONS
    print(
        f"lost to five kills: {lost} answers of {len(server.answered)}; failed and asked again: {server.failed}"
    )
