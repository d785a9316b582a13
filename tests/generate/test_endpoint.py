"""Against a real server on this machine that misbehaves as it is told."""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image as PILImage
from pydantic import ValidationError

from pathloom.generate.ask import Outcome, ask
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.config import EndpointRef, GeneratorRef
from pathloom.generate.endpoint import Endpoint, EndpointSettings
from pathloom.generate.generator import Message, Request, Sampling
from pathloom.generate.store import AnswerStore
from pathloom.images import encode_png
from pathloom.schema import Image
from pathloom.stage import UserError

REPLIES = {
    "charged": {"choices": [], "usage": {"prompt_tokens": 70, "completion_tokens": 3}},
    "uncounted": {
        "choices": [{"message": {"content": "so"}}],
        "usage": {"prompt_tokens": "many", "completion_tokens": -1},
    },
    "thought": {
        "choices": [{"message": {"reasoning_content": "hm", "content": "so"}, "finish_reason": "stop"}]
    },
    "cut": {"choices": [{"message": {"content": "so lo"}, "finish_reason": "length"}]},
    "thinking": {
        "choices": [{"message": {"reasoning_content": "hm"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 900},
    },
}


class Server(ThreadingHTTPServer):
    """Answers with the prompt in capitals. A prompt `FAULT:n ...` gets FAULT the first n times it is asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        self.bodies: dict[str, dict] = {}
        self.times: dict[str, list[float]] = defaultdict(list)
        self.busy = self.most_busy = self.connected = 0
        self.delay_s = 0.0
        self.room = 10**9

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def process_request(self, request, client_address):
        self.connected += 1
        super().process_request(request, client_address)

    def handle_error(self, request, client_address):
        """A client that went away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else content[-1]["text"]
        with self.server.lock:
            self.server.bodies[prompt] = {
                **body,
                "authorization": self.headers["Authorization"],
                "path": self.path,
            }
            self.server.times[prompt].append(time.monotonic())
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
            crowded = self.server.busy > self.server.room
            asked = self.server.seen[prompt] = self.server.seen[prompt] + 1
        try:
            fault, _, times = prompt.split(" ")[0].partition(":")
            time.sleep(0 if fault == "403" else self.server.delay_s)  # a refusal needs no thought
            if crowded:
                self.reply(429, {})
            elif times and asked <= int(times):
                self.misbehave(fault)
            else:
                self.answer(prompt.upper())
        finally:
            with self.server.lock:
                self.server.busy -= 1

    def misbehave(self, fault: str) -> None:
        if fault.isdigit():
            self.reply(int(fault), {"error": fault})
        elif fault == "wait":
            self.reply(429, {}, ("Retry-After", "0.4"))
        elif fault == "date":
            self.reply(429, {}, ("Retry-After", formatdate(time.time() + 2, usegmt=True)))
        elif fault in REPLIES:
            self.reply(200, REPLIES[fault])
        elif fault == "half":
            self.raw(b'{"choices": [{"message": {"cont')
        elif fault == "none":
            self.reply(200, {"choices": []})
        elif fault == "null":
            self.reply(200, {"choices": [{"message": {"content": None}}]})
        elif fault == "list":
            self.reply(200, ["what", "is", "this"])
        elif fault == "deep":
            self.raw(b"[" * 90_000)
        elif fault == "surrogate":  # no character of its own: no text can hold it
            self.raw(b'{"choices": [{"message": {"content": "\\ud800"}}]}')
        elif fault == "hang":
            time.sleep(3)
        elif fault == "close":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices"')
            self.wfile.flush()
            self.close_connection = True
        elif fault == "flood":
            self.raw(b"x" * 300_000)
        elif fault == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(30):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.1)
        else:
            raise AssertionError(fault)

    def answer(self, text: str) -> None:
        usage = {"prompt_tokens": 11, "completion_tokens": 5}
        self.reply(200, {"choices": [{"message": {"content": text}}], "usage": usage})

    def reply(self, status: int, value: object, *headers: tuple[str, str]) -> None:
        self.raw(json.dumps(value).encode(), status, *headers)

    def raw(self, body: bytes, status: int = 200, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def quick(
    *, connections: int = 32, timeout_s: float = 20.0, retries: int = 3, wait_s: float = 0.02
) -> EndpointSettings:
    return EndpointSettings(
        connections=connections,
        timeout_s=timeout_s,
        retries=retries,
        wait_s=wait_s,
        max_reply_bytes=100_000,
    )


def request(text: str, **changes: object) -> Request:
    return Request(messages=(Message(role="user", text=text),), **changes)


def run(
    server: Server, prompts: list[str], path: Path, settings: EndpointSettings | None = None, **caps: int
) -> list[Outcome[str]]:
    endpoint = Endpoint(server.url, "m", settings=settings or quick())
    with AnswerStore(path) as store:
        outcomes = list(
            ask(map(request, prompts), endpoint, store, lambda _, text: text, Budget(Caps(**caps), None, "m"))
        )
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(prompts)))
    return sorted(outcomes, key=lambda outcome: outcome.index)


@pytest.mark.parametrize(
    "fault", ["429", "500", "502", "503", "half", "none", "null", "list", "deep", "close", "surrogate"]
)
def test_what_may_pass_is_asked_again(server, tmp_path, fault):
    (outcome,) = run(server, [f"{fault}:2 a"], tmp_path / "s")
    assert outcome.value == f"{fault}:2 A".upper()
    assert server.seen[f"{fault}:2 a"] == 3
    assert outcome.generation is not None
    assert (outcome.generation.prompt_tokens, outcome.generation.completion_tokens) == (11, 5)


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_never_ends_its_answer_is_left_after_the_timeout(server, tmp_path, fault):
    started = time.monotonic()
    (outcome,) = run(server, [f"{fault}:1 a"], tmp_path / "s", quick(timeout_s=0.5))
    assert outcome.value == f"{fault}:1 A".upper()
    assert 0.5 < time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("prompt", "reason", "times"),
    [
        ("500:99 a", "http_500", 4),
        ("429:99 a", "http_429", 4),
        ("400:99 a", "http_400", 1),
        ("413:99 a", "http_413", 1),
        ("half:99 a", "bad_reply", 4),
        ("close:99 a", "broken_connection", 4),
        ("flood:99 a", "reply_too_long", 1),
    ],
)
def test_what_does_not_pass_ends_with_its_reason_beside_the_others(server, tmp_path, prompt, reason, times):
    lost, kept = run(server, [prompt, "b"], tmp_path / "s")
    assert (lost.value, lost.reason, kept.value) == (None, reason, "B")
    assert server.seen[prompt] == times


def test_a_reply_without_an_answer_is_paid_for_all_the_same(server, tmp_path):
    budget = Budget(Caps(), None, "m")
    endpoint = Endpoint(server.url, "m", settings=quick())
    with AnswerStore(tmp_path / "s") as store:
        outcomes = list(
            ask(map(request, ["charged:2 a", "charged:99 b"]), endpoint, store, lambda _, text: text, budget)
        )
    kept, lost = sorted(outcomes, key=lambda outcome: outcome.index)
    assert (kept.value, lost.reason) == ("CHARGED:2 A", "bad_reply")
    assert kept.generation is not None
    assert (kept.generation.prompt_tokens, kept.generation.completion_tokens) == (2 * 70 + 11, 2 * 3 + 5)
    assert (budget.prompt_tokens, budget.completion_tokens) == (6 * 70 + 11, 6 * 3 + 5)


@pytest.mark.parametrize(
    ("fault", "text", "cut_off", "tokens"),
    [
        ("uncounted", "so", False, (0, 0)),
        ("thought", "so", False, (0, 0)),
        ("cut", "so lo", True, (0, 0)),
        ("thinking", "", True, (11, 900)),
    ],
)
def test_an_answer_is_its_content_and_says_whether_it_was_cut_off(server, fault, text, cut_off, tokens):
    endpoint = Endpoint(server.url, "m", settings=quick())
    (((key, answer),),) = endpoint.generate([("k", request(f"{fault}:99 a"))])
    assert (key, answer.error, answer.text, answer.cut_off) == ("k", None, text, cut_off)
    assert (answer.prompt_tokens, answer.completion_tokens) == tokens
    assert server.seen[f"{fault}:99 a"] == 1


def test_a_picture_that_vanishes_before_it_is_sent_is_an_error_beside_the_others(server, tmp_path):
    gone = Image(path=str(tmp_path / "gone.png"), width_px=1, height_px=1)
    pictured = Request(messages=(Message(role="user", text="?", images=(gone,)),))
    endpoint = Endpoint(server.url, "m", settings=quick())
    answers = dict(
        pair for batch in endpoint.generate([("lost", pictured), ("kept", request("b"))]) for pair in batch
    )
    assert (answers["lost"].error, answers["kept"].text) == ("unreadable", "B")
    assert "gone.png" in answers["lost"].detail


@pytest.mark.parametrize(
    ("status", "cure"), [(401, "environment variable"), (403, "may not use"), (404, "/v1")]
)
def test_a_refusal_of_everything_ends_the_run_with_the_cure(server, tmp_path, status, cure):
    with pytest.raises(UserError, match=f"{status}.*{cure}"):
        run(server, [f"{status}:99 {n}" for n in range(50)], tmp_path / "s")
    assert sum(server.seen.values()) <= 8


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_in_the_middle_is_a_failure_of_its_own_request_alone(server, tmp_path, status):
    """Some hosts answer 403 to a single prompt that they do not like."""
    outcomes = run(server, [*"abcdefgh", f"{status}:99 bad", *"ijklmnop"], tmp_path / "s")
    assert [o.reason for o in outcomes if o.value is None] == [f"http_{status}"]
    assert sum(o.value is not None for o in outcomes) == 16


def test_answers_on_their_way_are_kept_when_the_run_ends(server, tmp_path):
    """The first reply refuses all, but what was open with it has been paid for."""
    server.delay_s = 0.3
    with pytest.raises(UserError, match="403"):
        run(server, ["403:99 bad", *"abcdefg"], tmp_path / "s")
    with AnswerStore(tmp_path / "s") as store:
        assert len(store) == sum(server.seen[prompt] for prompt in "abcdefg")


def test_no_message_holds_the_key(monkeypatch):
    monkeypatch.setenv("LAB_KEY", "sk-secret-123\r\n")
    ref = EndpointRef(
        url="http://127.0.0.1:9/v1", model="m", api_key_env="LAB_KEY", settings=quick(retries=0)
    )
    opened = GeneratorRef(endpoint=ref).open({})
    assert isinstance(opened, Endpoint)
    assert opened._headers == {"Authorization": "Bearer sk-secret-123"}
    broken = Endpoint("http://127.0.0.1:9/v1", "m", api_key="sk-secret\r", settings=quick(retries=0))
    try:
        told = [answer.detail for batch in broken.generate([("k", request("a"))]) for _, answer in batch]
    except UserError as error:
        told = [str(error)]
    assert told
    assert not any("secret" in text for text in told)
    for odd in ("sk secret", "sk-\u00e9", 'sk\n"x"'):
        monkeypatch.setenv("LAB_KEY", odd)
        with pytest.raises(UserError, match="LAB_KEY holds signs that no key has") as caught:
            GeneratorRef(endpoint=ref).open({})
        assert "sk" not in str(caught.value).replace("LAB_KEY", "")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://me:word@h/v1", "name and password do not belong here"),
        ("http://h:99999/v1", "Port out of range"),
        ("localhost:8000/v1", "is no address"),
        ("ftp://h/v1", "is no address"),
        ("http:///v1", "is no address"),
    ],
)
def test_a_url_that_is_none_or_holds_a_password_is_refused(url, why):
    with pytest.raises(ValidationError, match=why):
        EndpointRef(url=url, model="m")


def test_a_refused_key_is_named_by_its_variable(server):
    endpoint = Endpoint(server.url, "m", api_key="secret", api_key_env="LAB_KEY", settings=quick())
    with pytest.raises(UserError, match="set the environment variable LAB_KEY"):
        list(endpoint.generate([("k", request("401:99 a"))]))


def test_a_server_that_is_not_there_is_named(tmp_path):
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", settings=quick())
    with (
        AnswerStore(tmp_path / "s") as store,
        pytest.raises(UserError, match=r"127.0.0.1:9.*is the server running"),
    ):
        list(ask([request("a")], endpoint, store, lambda _, text: text, Budget(Caps(), None, "m")))


def test_retry_after_is_followed_by_every_connection(server, tmp_path):
    prompts = ["wait:1 a", *(f"b{n}" for n in range(40))]
    assert all(outcome.value for outcome in run(server, prompts, tmp_path / "s", quick(connections=1)))
    first, second = server.times["wait:1 a"]
    assert second - first >= 0.4
    assert min(server.times[prompt][0] for prompt in prompts[1:]) - first >= 0.4


def test_retry_after_may_be_a_date(server, tmp_path):
    (outcome,) = run(server, ["date:1 a"], tmp_path / "s")
    first, second = server.times["date:1 a"]
    assert outcome.value == "DATE:1 A"
    assert second - first >= 1.9  # dates have whole seconds, both of them the server's own


def test_a_failed_request_leaves_its_connection_to_the_others(server, tmp_path):
    prompts = ["500:1 a", *(f"b{n}" for n in range(10))]
    assert all(
        outcome.value for outcome in run(server, prompts, tmp_path / "s", quick(connections=1, wait_s=1.0))
    )
    assert server.times["b0"][0] < server.times["500:1 a"][1]


def test_connections_are_used_again(server, tmp_path):
    server.delay_s = 0.01
    assert all(
        outcome.value
        for outcome in run(server, [str(n) for n in range(60)], tmp_path / "s", quick(connections=4))
    )
    assert server.connected <= 4


def test_connections_follow_a_server_that_has_room_for_few(server, tmp_path):
    server.room, server.delay_s = 6, 0.03
    outcomes = run(server, [str(n) for n in range(200)], tmp_path / "s", quick(connections=64, retries=20))
    assert all(outcome.value for outcome in outcomes)
    refused = sum(server.seen.values()) - 200
    assert refused < 100  # with 64 connections throughout, nine of ten attempts would be


def test_no_more_connections_are_open_than_allowed(server, tmp_path):
    server.delay_s = 0.02
    run(server, [str(n) for n in range(120)], tmp_path / "s", quick(connections=12))
    assert 9 <= server.most_busy <= 12


def test_a_cap_holds_to_within_the_open_connections(server, tmp_path):
    server.delay_s = 0.01
    outcomes = run(
        server, [str(n) for n in range(200)], tmp_path / "s", quick(connections=8), max_tokens=16 * 50
    )
    answered = sum(outcome.value is not None for outcome in outcomes)
    assert 50 <= answered <= 58
    assert Counter(outcome.reason for outcome in outcomes if outcome.value is None) == {
        "max_tokens": 200 - answered
    }


def test_the_request_says_all_that_its_key_holds(server, tmp_path):
    (tmp_path / "cell.jpg").write_bytes(b"\xff\xd8\xff rest of a JPEG")
    pictures = (
        Image(path=str(tmp_path / "cell.jpg"), width_px=1, height_px=1),
        Image(
            path="x",
            data=encode_png(PILImage.new("RGB", (3, 2))),
            width_px=3,
            height_px=2,
        ),
    )
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = Request(
        messages=(
            Message(role="system", text="be short"),
            Message(role="user", text="häm?", images=pictures),
        ),
        json_schema=schema,
        sampling=Sampling(temperature=0.2, top_p=0.9, max_tokens=33, seed=4),
    )
    endpoint = Endpoint(server.url, "m", api_key="secret", settings=quick())
    with AnswerStore(tmp_path / "s") as store:
        (outcome,) = ask([asked], endpoint, store, lambda _, text: text, Budget(Caps(), None, "m"))
    assert outcome.value == "HÄM?"
    body = server.bodies["häm?"]
    assert (body["path"], body["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert [body[name] for name in ("model", "temperature", "top_p", "max_tokens", "seed")] == [
        "m",
        0.2,
        0.9,
        33,
        4,
    ]
    assert body["response_format"]["json_schema"]["schema"] == schema
    system, user = body["messages"]
    assert system == {"role": "system", "content": "be short"}
    uris = [part["image_url"]["url"] for part in user["content"][:2]]
    assert uris[0].startswith("data:image/jpeg;base64,")
    assert uris[1].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("structured", "format"),
    [
        (
            "json_schema",
            {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
            },
        ),
        ("json_object", {"type": "json_object"}),
        ("none", None),
    ],
)
def test_json_is_asked_for_as_the_server_knows_it(server, structured, format):
    settings = EndpointSettings(structured=structured)
    endpoint = Endpoint(server.url, "m", settings=settings)
    list(endpoint.generate([("k", request("a", json_schema={"type": "object"})), ("l", request("b"))]))
    assert server.bodies["a"].get("response_format") == format
    assert "response_format" not in server.bodies["b"]


def test_what_a_server_says_of_a_bad_request_is_kept(server):
    endpoint = Endpoint(server.url, "m", settings=quick())
    (((_, answer),),) = endpoint.generate([("k", request("400:99 a", json_schema={"type": "object"}))])
    assert (answer.error, answer.detail) == ("http_400", '{"error": "400"}')
    assert server.seen["400:99 a"] == 1


@pytest.mark.parametrize(
    "wrong",
    [{"connections": 0}, {"timeout_s": float("inf")}, {"retries": -1}, {"wait_s": 0}, {"connectoins": 8}],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EndpointSettings.model_validate(wrong)


def test_a_tenth_of_failures_costs_nothing_but_those_requests(server, tmp_path):
    prompts = [f"500:1 {n}" if n % 10 == 0 else str(n) for n in range(300)]
    server.delay_s = 0.01
    outcomes = run(server, prompts, tmp_path / "s", quick(connections=16))
    assert all(outcome.value for outcome in outcomes)
    assert sum(server.seen.values()) == 330
    again = run(server, prompts, tmp_path / "s")
    assert all(outcome.value and not outcome.paid for outcome in again)
    assert sum(server.seen.values()) == 330
