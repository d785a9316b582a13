"""A page that hangs, crashes or eats memory costs that page alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathloom.books.workers import Failure, run_each

GIB = 2**30


def open_nothing() -> dict[str, int]:
    return {"calls": 0}


def refuse_to_open() -> dict[str, int]:
    raise ValueError("no such book")


def behave(state: dict[str, int], item: str | int) -> Any:
    """What the item says: misbehave in one of the known ways, or answer."""
    state["calls"] += 1
    if item == "abort":
        os.abort()
    elif item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif item == "hang":
        while True:
            pass
    elif item == "sleep":
        time.sleep(600)
    elif item == "eat":
        meals = []
        while True:
            meals.append(np.ones(2**22))
            time.sleep(0.01)
    elif item == "gulp":
        np.ones(2**33)
    elif item == "raise":
        raise KeyError("page")
    elif item == "lambda":
        return lambda: None
    elif item == "calls":
        return state["calls"]
    elif item == "environment":
        return os.environ["OMP_NUM_THREADS"]
    elif item == "nap":
        time.sleep(0.3)
    elif item == "process":
        return os.getpid()
    return item


def run(items: list[Any], **options: Any) -> list[tuple[int, Any]]:
    settings = {"workers": 2, "seconds_each": 20.0, "bytes_each": GIB} | options
    return list(run_each(behave, items, start=open_nothing, **settings))


def failure(result: Any) -> str:
    assert isinstance(result, Failure), result
    return result.reason


def test_a_page_that_crashes_costs_that_page_alone():
    results = run([1, "abort", 2, "killed", 3])
    assert [index for index, _ in results] == [0, 1, 2, 3, 4]
    assert [results[i][1] for i in (0, 2, 4)] == [1, 2, 3]
    assert failure(results[1][1]) == "crashed"
    assert "SIGABRT" in results[1][1].detail
    assert failure(results[3][1]) == "out_of_memory"  # the kernel kills so


def test_a_page_that_hangs_is_given_up_and_the_others_are_done():
    begin = time.monotonic()
    results = run(["hang", 1, 2, "sleep", 3], seconds_each=1.0)
    assert [result if isinstance(result, int) else failure(result) for _, result in results] == [
        "timed_out",
        1,
        2,
        "timed_out",
        3,
    ]
    assert time.monotonic() - begin < 30


@pytest.mark.skipif(sys.platform != "linux", reason="memory is watched on Linux only")
@pytest.mark.parametrize("meal", ["eat", "gulp"])
def test_a_page_that_eats_memory_is_stopped_at_the_cap(meal: str):
    results = run([1, meal, 2], bytes_each=GIB // 2)
    assert [index for index, _ in results] == [0, 1, 2]
    assert failure(results[1][1]) == "out_of_memory"
    assert (results[0][1], results[2][1]) == (1, 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_is_a_failure_with_its_type_and_place(workers: int):
    (_, first), (_, second) = run(["raise", 7], workers=workers)
    assert failure(first) == "error"
    assert first.detail.startswith("KeyError: 'page' (test_workers.py:")
    assert second == 7


def test_a_result_that_cannot_travel_is_a_failure():
    (_, first), (_, second) = run(["lambda", 7])
    assert failure(first) == "error"
    assert second == 7


def test_results_come_in_order_unless_the_first_may_wait():
    items = ["nap", *range(20)]
    assert [index for index, _ in run(items)] == list(range(21))
    free = [index for index, _ in run(items, in_order=False)]
    assert sorted(free) == list(range(21))
    assert free[0] != 0


def test_a_worker_starts_once_and_has_one_thread():
    results = run(["calls", "calls", "environment"], workers=1)
    assert [result for _, result in results] == [1, 2, "1"]


def test_without_workers_all_happens_here():
    assert run(["process"], workers=0) == [(0, os.getpid())]
    assert run(["process"], workers=1) != [(0, os.getpid())]


def test_an_exception_of_the_start_is_raised_here():
    with pytest.raises(ValueError, match="no such book"):
        list(run_each(behave, [1], start=refuse_to_open, workers=1, seconds_each=5, bytes_each=GIB))


def test_no_items_need_no_workers():
    assert run([]) == []


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(map(is_alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_whoever_stops_early_leaves_no_process():
    results = run_each(
        behave, ["process", *["sleep"] * 9], start=open_nothing, workers=1, seconds_each=600, bytes_each=GIB
    )
    pid: Any = next(results)[1]
    assert is_alive(pid)
    results.close()
    assert gone_within([pid], 2)


PARENT = """
import signal
from tests.books.test_workers import behave, open_nothing
from pathloom.books.workers import run_each

if __name__ == "__main__":
    # Whoever runs the tests in the background of a shell hands on that Ctrl-C is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    items = ["process", "process", *["{deed}"] * 9]
    for _, result in run_each(
        behave, items, start=open_nothing, workers=1, seconds_each=600, bytes_each=2**30, in_order=False
    ):
        print(result, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path: Path, end: signal.Signals):
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(deed="hang"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(end)
        parent.wait(timeout=20)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert gone_within([pid], 5)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_five_thousand_items_leave_the_parents_memory_flat():
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    class Pages:
        """Items that take 1.2 GB when they are all kept."""

        def __len__(self) -> int:
            return 5000

        def __getitem__(self, index: int) -> bytes:
            if index >= 5000:
                raise IndexError
            return bytes(2**18)

    begin, most = resident(), 0
    items: Any = Pages()
    for index, result in run_each(
        behave, items, start=open_nothing, workers=2, seconds_each=20, bytes_each=GIB
    ):
        assert isinstance(result, bytes)
        if index % 100 == 0:
            most = max(most, resident())
    assert most - begin < 100 * 2**20
