import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest

from pathloom.generate.ask import UNREADABLE, Outcome, ask, recall, stored_attempts
from pathloom.generate.budget import Budget, Caps, Price
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Generation, Message, Request, Sampling
from pathloom.generate.store import AnswerStore
from pathloom.schema import Image
from pathloom.stage import UserError


def request(text: str, **changes: object) -> Request:
    return Request(messages=(Message(role="user", text=text),), **changes)


def free() -> Budget:
    return Budget(Caps(), None, "echo")


def number(asked: Request, text: str) -> int:
    return int(text)


def run(
    requests: list[Request], echo: Echo, path: Path, *, budget: Budget | None = None, attempts: int = 2
) -> list[Outcome[int]]:
    with AnswerStore(path) as store:
        outcomes = list(ask(requests, echo, store, number, budget or free(), attempts=attempts))
    assert sorted(outcome.index for outcome in outcomes) == list(range(len(requests))), (
        "one outcome a request"
    )
    return sorted(outcomes, key=lambda outcome: outcome.index)


class Asked(Echo):
    """Remembers what it was asked."""

    def __init__(self, reply=lambda request: str(len(request.messages[0].text)), **others):
        super().__init__(self.remember, **others)
        self.answer = reply
        self.texts: list[tuple[str, int]] = []

    def remember(self, request: Request) -> str | Generation:
        self.texts.append((request.messages[0].text, request.sampling.seed))
        return self.answer(request)


def test_an_answer_in_the_store_is_not_asked_again(tmp_path):
    first, second = Asked(), Asked()
    requests = [request(text) for text in ("a", "bb", "ccc")]
    assert [outcome.value for outcome in run(requests, first, tmp_path / "s")] == [1, 2, 3]
    again = run([*requests, request("dddd")], second, tmp_path / "s")
    assert [outcome.value for outcome in again] == [1, 2, 3, 4]
    assert [outcome.paid for outcome in again] == [False, False, False, True]
    assert second.texts == [("dddd", 0)]


def test_recall_gives_what_asking_gave_and_asks_nothing(tmp_path):
    requests = [request(text) for text in ("a", "not a number", "ccc")]
    echo = Echo(lambda asked: "x" if "not" in asked.messages[0].text else "7")
    outcomes = run(requests, echo, tmp_path / "s")
    with AnswerStore(tmp_path / "s") as store:

        def recalled(asked: Request, attempts: int) -> Outcome[int] | None:
            stored = [answer for _, answer in stored_attempts(asked, "echo", store, attempts)]
            return recall(asked, stored, number, attempts)

        for outcome, asked in zip(outcomes, requests, strict=True):
            again = recalled(asked, 2)
            assert again is not None
            assert again.value == outcome.value
            assert (again.reason, again.detail) == (outcome.reason, outcome.detail)
        assert recalled(request("never asked"), 2) is None
        assert recalled(requests[1], 3) is None, "one attempt more is still to be asked"


def test_equal_requests_are_asked_once(tmp_path):
    class Late(Asked):
        """Takes all requests before it answers, so that equal ones meet on their way."""

        def generate(self, requests):
            yield [pair for answers in super().generate(list(requests)) for pair in answers]

    late = Late()
    outcomes = run([request("aa"), request("b"), request("aa")], late, tmp_path / "s")
    assert [outcome.value for outcome in outcomes] == [2, 1, 2]
    assert [outcome.paid for outcome in outcomes] == [True, True, False]
    assert late.texts == [("aa", 0), ("b", 0)]


@pytest.mark.parametrize(
    "changed",
    [
        {"messages": (Message(role="system", text="aa"),)},
        {"messages": (Message(role="user", text="aa "),)},
        {"messages": (Message(role="user", text="aa"), Message(role="user", text="aa"))},
        {"sampling": Sampling(temperature=0)},
        {"sampling": Sampling(max_tokens=7)},
        {"sampling": Sampling(top_p=0.5)},
        {"sampling": Sampling(seed=1)},
        {"json_schema": {"type": "integer"}},
    ],
)
def test_a_key_changes_with_whatever_the_answer_depends_on(changed):
    plain = request("aa")
    assert plain.model_copy(update=changed).key("m") != plain.key("m")
    assert plain.key("m") != plain.key("n")


def test_a_key_holds_the_content_of_a_picture_and_not_its_place(tmp_path):
    def of(path: Path) -> str:
        image = Image(path=str(path), width_px=1, height_px=1)
        return Request(messages=(Message(role="user", text="?", images=(image,)),)).key("m")

    for name, content in {"a": b"one", "b": b"one", "c": b"two"}.items():
        (tmp_path / name).write_bytes(content)
    assert of(tmp_path / "a") == of(tmp_path / "b") != of(tmp_path / "c")
    held = Image(path="elsewhere", data=b"one", width_px=1, height_px=1)
    assert Request(messages=(Message(role="user", text="?", images=(held,)),)).key("m") == of(tmp_path / "a")


def test_a_picture_that_is_gone_is_an_outcome_with_its_reason(tmp_path):
    gone = Image(path=str(tmp_path / "gone.png"), width_px=1, height_px=1)
    asked = Asked()
    lost, kept = run(
        [Request(messages=(Message(role="user", text="?", images=(gone,)),)), request("a")],
        asked,
        tmp_path / "s",
    )
    assert (lost.value, lost.reason, kept.value) == (None, "unreadable", 1)
    assert "gone.png" in lost.detail
    assert asked.texts == [("a", 0)]


def test_a_refused_answer_is_asked_with_the_next_seed_and_never_paid_twice(tmp_path):
    asked = Asked(lambda request: "7" if request.sampling.seed == 1 else "seven")
    assert run([request("x")], asked, tmp_path / "s")[0].value == 7
    assert asked.texts == [("x", 0), ("x", 1)]
    afterwards = Asked()
    outcome = run([request("x")], afterwards, tmp_path / "s")[0]
    assert (outcome.value, outcome.paid, afterwards.texts) == (7, False, [])


def test_an_answer_refused_at_every_attempt_is_kept_raw(tmp_path):
    asked = Asked(lambda request: f"no {request.sampling.seed}")
    outcome = run([request("x")], asked, tmp_path / "s", attempts=3)[0]
    assert (outcome.value, outcome.reason) == (None, UNREADABLE)
    assert outcome.generation is not None
    assert outcome.generation.text == "no 2"
    with AnswerStore(tmp_path / "s") as store:
        texts = [store.get(request("x").again(attempt).key("echo")) for attempt in range(3)]
    assert [stored and stored.text for stored in texts] == ["no 0", "no 1", "no 2"]
    # one more attempt allowed: only that one is asked
    more = Asked(lambda request: "5")
    assert run([request("x")], more, tmp_path / "s", attempts=4)[0].value == 5
    assert more.texts == [("x", 3)]


def test_an_error_is_an_outcome_and_is_asked_again_by_the_next_run(tmp_path):
    broken = Asked(lambda request: Generation(model="echo", error="http_500", detail="try later"))
    outcome = run([request("x")], broken, tmp_path / "s")[0]
    assert (outcome.value, outcome.reason, outcome.detail) == (None, "http_500", "try later")
    assert run([request("x")], Asked(), tmp_path / "s")[0].value == 1


@pytest.mark.parametrize(
    ("caps", "num_asked"),
    [
        ({"max_requests": 0}, 0),
        ({"max_requests": 3}, 3),
        ({"max_tokens": 7}, 4),  # two tokens an answer: the fourth goes over, the fifth is not asked
        ({"max_cost": 5.9}, 2),  # a prompt token 1, a completion token 2: 3 an answer
    ],
)
def test_a_cap_stops_the_asking_by_its_name_and_not_what_is_free(tmp_path, caps, num_asked):
    requests = [request("x" * length) for length in range(1, 11)]
    run(requests[-1:], Asked(), tmp_path / "s")
    asked = Asked()
    budget = Budget(Caps(**caps), Price(prompt=1e6, completion=2e6), "echo")
    outcomes = run(requests, asked, tmp_path / "s", budget=budget)
    assert len(asked.texts) == budget.requests == num_asked
    assert {outcome.reason for outcome in outcomes[num_asked:-1]} == set(caps)
    assert outcomes[-1].value == 10
    assert budget.cost == 3 * num_asked


def test_a_cap_on_money_needs_a_price():
    with pytest.raises(UserError, match=r"max_cost: no price for big-model; add `prices.big-model`"):
        Budget(Caps(max_cost=1), None, "big-model")


def test_a_generator_that_forgets_a_request_is_found_out(tmp_path):
    class Forgetful(Echo):
        def generate(self, requests):
            yield from list(super().generate(requests))[1:]

    with pytest.raises(RuntimeError, match="1 requests without a Generation"):
        run([request("a"), request("b")], Forgetful(lambda request: "1"), tmp_path / "s")


def test_outcomes_of_a_full_store_come_in_bounded_piles(tmp_path):
    requests = [request(str(index)) for index in range(2500)]
    run(requests, Asked(), tmp_path / "s")
    pulled = 0

    def counted():
        nonlocal pulled
        for each in requests:
            pulled += 1
            yield each

    with AnswerStore(tmp_path / "s") as store:
        outcomes = ask(counted(), Asked(), store, number, free())
        next(outcomes)
        assert pulled <= 1001
        assert sum(1 for _ in outcomes) == 2499


def test_a_request_is_kept_beside_its_answer_without_the_bytes_of_its_pictures(tmp_path):
    picture = Image(path="cell.png", data=b"\x00secret", width_px=1, height_px=1)
    with AnswerStore(tmp_path / "s") as store:
        asked = Request(messages=(Message(role="user", text="häm", images=(picture,)),))
        store.add([("k", asked, Generation(model="m", text="ok"))])
    (kept,) = sqlite3.connect(tmp_path / "s").execute("SELECT request FROM answers").fetchone()
    (message,) = json.loads(kept)["messages"]
    assert (message["text"], message["images"][0]["path"]) == ("häm", "cell.png")
    assert "data" not in message["images"][0]


def test_the_first_of_two_answers_to_one_key_stays(tmp_path):
    with AnswerStore(tmp_path / "s") as one, AnswerStore(tmp_path / "s") as two:
        one.add([("k", request("x"), Generation(model="m", text="first"))])
        two.add([("k", request("x"), Generation(model="m", text="second"))])
        assert len(one) == len(two) == 1
        assert two.get("k") == Generation(model="m", text="first")


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(UserError, match=r"notes.txt: no store of answers"):
        AnswerStore(tmp_path / "notes.txt")
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(UserError, match="version 9"):
        AnswerStore(tmp_path / "newer")


ASKING = """
import os, sys, time
from pathlib import Path
from pathloom.generate.ask import ask
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Message, Request
from pathloom.generate.store import AnswerStore

asked = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def reply(request):
    time.sleep(0.002)
    os.write(asked, (request.messages[0].text + "\\n").encode())  # the moment at which it is paid for
    return "1"

requests = [Request(messages=(Message(role="user", text=str(n)),)) for n in range(600)]
with AnswerStore(Path(sys.argv[1])) as store:
    list(ask(requests, Echo(reply), store, lambda _, text: text, Budget(Caps(), None, "echo")))
"""


def test_five_kills_lose_at_most_the_answer_on_its_way(tmp_path):
    script = tmp_path / "asking.py"
    script.write_text(textwrap.dedent(ASKING))
    command = [sys.executable, str(script), str(tmp_path / "s"), str(tmp_path / "asked")]
    rng = random.Random(0)
    kills = 0
    while kills < 5:
        before = (tmp_path / "asked").stat().st_size if (tmp_path / "asked").exists() else 0
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        while not (tmp_path / "asked").exists() or (tmp_path / "asked").stat().st_size == before:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.005)
        time.sleep(rng.uniform(0.05, 0.2))
        assert process.poll() is None, "ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    times = Counter((tmp_path / "asked").read_text().split())
    assert set(times) == {str(n) for n in range(600)}
    assert sum(times.values()) - 600 <= kills
    with AnswerStore(tmp_path / "s") as store:
        assert len(store) == 600
