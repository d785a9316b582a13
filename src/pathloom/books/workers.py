"""A function over many items in worker processes that may hang, crash or fill the memory without ending the run.

A worker is a fresh process (spawn) with one pipe and one item at a time. What goes wrong with an item is that item's
Failure; the worker is replaced and the others do not notice.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, Literal, TypeVar

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")

_POLL_SECONDS = 0.1  # between looks at clocks and memory; a process fills about 0.2 GB in this time
_START_SECONDS = 120.0  # for imports and `start`, on a busy machine
_WINDOW = 16  # items a worker that may be ahead of the oldest unfinished one: bounds what waits for its turn
_TIRED_ITEMS = (
    100  # after so many, a worker that holds half its memory is replaced: pdfium and Python keep pages
)


@dataclass(frozen=True)
class Failure:
    """What an item came to instead of a result. `error` is a Python exception of the function, type and message."""

    reason: Literal["timed_out", "out_of_memory", "crashed", "error"]
    detail: str


def run_each(
    function: Callable[[State, Item], Result],
    items: Sequence[Item],
    *,
    start: Callable[[], State],
    workers: int,
    seconds_each: float,
    bytes_each: int,
    in_order: bool = True,
) -> Generator[tuple[int, Result | Failure], None, None]:
    """Yields (index, result) for every item, in order or as completed.

    `function` and `start` are picklable, that is functions of a module or partials of them; `start` runs once a worker
    and what it returns is handed to each call. `bytes_each` is resident memory, watched on Linux only. An exception of
    `start` is raised here. With workers=0 all happens in this process, without caps.
    """
    if workers == 0:
        state = start()
        for index, item in enumerate(items):
            yield index, _call(function, state, item)
        return
    pool = _Pool(items, (function, start, seconds_each, bytes_each), min(workers, len(items)))
    waiting: dict[int, Result | Failure] = {}
    num_yielded = 0
    try:
        while num_yielded < len(items):
            waiting.update(pool.collect())
            due = [] if in_order else list(waiting)
            while in_order and num_yielded + len(due) in waiting:
                due.append(num_yielded + len(due))
            num_yielded += len(due)
            # Before the caller gets its results: what it does with them takes time.
            pool.hand_out(before=num_yielded + _WINDOW * workers if in_order else len(items))
            yield from ((index, waiting.pop(index)) for index in due)
    finally:
        pool.close()


class _Worker:
    """One process. `index` is the item it works on; `since` is when it got that, or was started."""

    def __init__(self, job: tuple[Any, ...]) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *job), daemon=True)
        # One thread a worker, and from the first import on: libraries read this when they are loaded.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            self.process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        theirs.close()
        self.ready = False
        self.index: int | None = None
        self.since = time.monotonic()

    def resident_bytes(self) -> int:
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # not Linux, or just gone
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> int:
        """Kills the process, if it still lives, and gives its exit code: of a signal, its negative number."""
        if self.process.is_alive() and self.process.exitcode is None:
            self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode or 0


class _Pool:
    def __init__(self, items: Sequence[Any], job: tuple[Any, ...], size: int) -> None:
        self.items, self.job = items, job
        self.seconds_each, self.bytes_each = job[2], job[3]
        self.next_item = 0
        self.workers: list[_Worker] = []
        try:
            for _ in range(size):
                self.workers.append(_Worker(job))
        except BaseException:
            self.close()
            raise

    def hand_out(self, before: int) -> None:
        """An item below the index `before` to every idle worker."""
        for worker in self.workers:
            if self.next_item >= min(before, len(self.items)):
                return
            if not worker.ready or worker.index is not None:
                continue
            worker.index, worker.since = self.next_item, time.monotonic()
            self.next_item += 1
            with contextlib.suppress(OSError):  # it died between two items: collect() sees that too
                worker.pipe.send(self.items[worker.index])

    def collect(self) -> list[tuple[int, Any]]:
        """Results and failures, after at most _POLL_SECONDS."""
        found: list[tuple[int, Any]] = []
        ready = connection.wait([worker.pipe for worker in self.workers], _POLL_SECONDS)
        for worker in tuple(self.workers):
            failure = self._receive(worker, found) if worker.pipe in ready else self._check(worker)
            if failure is None:
                continue
            if not worker.ready:
                raise RuntimeError(f"a worker could not start: {failure.reason}, {failure.detail}")
            if worker.index is not None:
                found.append((worker.index, failure))
            self.workers.remove(worker)
            if self.next_item < len(self.items):
                self.workers.append(_Worker(self.job))
        return found

    def _receive(self, worker: _Worker, found: list[tuple[int, Any]]) -> Failure | None:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(timeout=1)  # the pipe closes a moment before the process has ended
            code = worker.end()
            if code == -signal.SIGKILL:  # not by us: the kernel, which was short of memory
                return Failure("out_of_memory", "the system killed the worker")
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return Failure("crashed", f"the worker died of {name}")
        if kind == "broken":
            raise value
        if kind == "done" and worker.index is not None:
            found.append((worker.index, value))
        worker.ready, worker.index = True, None
        return None

    def _check(self, worker: _Worker) -> Failure | None:
        if worker.ready and worker.index is None:
            return None
        limit = self.seconds_each if worker.ready else _START_SECONDS
        if time.monotonic() - worker.since > limit:
            worker.end()
            return Failure("timed_out", f"given up after {limit:g} s")
        resident = worker.resident_bytes()
        if resident > self.bytes_each:
            worker.end()
            return Failure("out_of_memory", f"{resident} bytes, at most {self.bytes_each} are allowed")
        return None

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers = []


def _call(function: Callable[[State, Item], Result], state: State, item: Item) -> Result | Failure:
    try:
        return function(state, item)
    except MemoryError as error:
        return Failure("out_of_memory", str(error) or "MemoryError")
    except Exception as error:  # the page boundary: whatever a page does, the others go on
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(
            "error", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        )


def _work(pipe: Any, function: Any, start: Any, seconds_each: float, bytes_each: int) -> None:
    """The life of a worker: ready, then an item and its result in turn, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _set_limits(bytes_each)
    try:
        state = start()
    except Exception as error:
        pipe.send(("broken", error))
        return
    pipe.send(("ready", None))
    with Path(os.devnull).open("w") as nowhere:
        while True:
            try:
                item = pipe.recv()
            except (EOFError, OSError):
                return
            # Should the parent be gone and this process hang in C code, its thread above never runs; this clock does.
            faulthandler.dump_traceback_later(2 * seconds_each + 60, exit=True, file=nowhere)
            result = _call(function, state, item)
            faulthandler.cancel_dump_traceback_later()
            try:
                pipe.send(("done", result))
            except BrokenPipeError:
                return
            except Exception as error:  # a result that cannot be pickled
                pipe.send(("done", Failure("error", f"{type(error).__name__}: {error}")))


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _set_limits(bytes_each: int) -> None:
    """A net below the parent's watch, for memory that grows faster than it looks; and no core dumps.

    RLIMIT_DATA counts what is written to, unlike RLIMIT_AS, which the address space that libraries only reserve breaks.
    """
    if sys.platform != "linux":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (2 * bytes_each, 2 * bytes_each))
