"""Requests to values: from the store where they are paid for, otherwise from a Generator, within a Budget."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pathloom.generate.budget import Budget
from pathloom.generate.generator import Generation, Generator, Request
from pathloom.generate.store import AnswerStore
from pathloom.images import BadImage

T = TypeVar("T")

UNREADABLE = "unreadable_answer"
"""Reason of an Outcome whose every answer was refused by `read`; the last one's text is in its generation."""

_PILE = 1000
"""Outcomes held back before they are handed on: bounds the memory of a run that the store answers."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How one request ended: with a value, or without one and with a reason.

    index       the request's place among those given
    reason      None, `unreadable_answer`, the Generation's error, a BadImage's reason, or the cap that stopped the run
    detail      the reason in full
    generation  the last answer, None where there is none
    paid        whether this run asked for that answer; otherwise the store had it, or an equal request asked for it
    """

    index: int
    value: T | None
    reason: str | None = None
    detail: str = ""
    generation: Generation | None = None
    paid: bool = False


@dataclass
class _Work:
    """A request on its way, asked for the `attempt`-th time from 0; others that ask the same wait with it."""

    index: int
    request: Request
    attempt: int = 0
    asked: Request = field(init=False)
    same: list["_Work"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asked = self.request.again(self.attempt)


def ask(
    requests: Iterable[Request],
    generator: Generator,
    store: AnswerStore,
    read: Callable[[Request, str], T],
    budget: Budget,
    *,
    attempts: int = 2,
) -> Iterator[Outcome[T]]:
    """One Outcome for every request, in any order. Every answer is on disk before it is seen.

    read      a request and the text of its answer to a value; raises ValueError for a text that is none
    attempts  how often a request is asked until `read` takes an answer, each time with the next seed; answers that
              it refused are stored too and not asked again by the next run
    """
    new = (_Work(index, request) for index, request in enumerate(requests))
    again: deque[_Work] = deque()
    waiting: dict[str, _Work] = {}
    done: deque[Outcome[T]] = deque()
    more = True

    def settle(work: _Work, generation: Generation, *, paid: bool) -> None:
        """To an Outcome, or to the next attempt."""
        if generation.error is not None:
            done.append(Outcome(work.index, None, generation.error, generation.detail, generation, paid))
            return
        try:
            done.append(
                Outcome(work.index, read(work.request, generation.text), generation=generation, paid=paid)
            )
        except ValueError as error:
            if work.attempt + 1 < attempts:
                again.append(_Work(work.index, work.request, work.attempt + 1))
            else:
                done.append(Outcome(work.index, None, UNREADABLE, _why(error, generation), generation, paid))

    def unpaid() -> Iterator[tuple[str, Request]]:
        """What the store cannot answer, while the budget lasts; the rest is settled on the way."""
        nonlocal more
        while len(done) < _PILE:
            work = again.popleft() if again else next(new, None)
            if work is None:
                more = False
                return
            try:
                key = work.asked.key(generator.model)
            except BadImage as error:
                done.append(Outcome(work.index, None, error.reason, str(error)))
                continue
            if key in waiting:
                waiting[key].same.append(work)
            elif (stored := store.get(key)) is not None:
                settle(work, stored, paid=False)
            elif (cap := budget.spent()) is not None:
                done.append(Outcome(work.index, None, cap, "not asked"))
            else:
                budget.asked()
                waiting[key] = work
                yield key, work.asked

    while more or again:  # an answer may be refused when the generator has taken the last request already
        for batch in generator.generate(unpaid()):
            store.add((key, waiting[key].asked, generation) for key, generation in batch)
            for key, generation in batch:
                budget.answered(generation)
                work = waiting.pop(key)
                settle(work, generation, paid=True)
                for same in work.same:
                    settle(same, generation, paid=False)
            while done:
                yield done.popleft()
        while done:
            yield done.popleft()
        if waiting:
            raise RuntimeError(f"{generator.model} left {len(waiting)} requests without a Generation")


def stored_attempts(
    request: Request, model: str, store: AnswerStore, attempts: int
) -> list[tuple[str, Generation]]:
    """(key, answer) of the attempts that the store holds, from the first on without a gap.

    Raises BadImage for a picture that cannot be read.
    """
    found = []
    for attempt in range(attempts):
        key = request.again(attempt).key(model)
        stored = store.get(key)
        if stored is None:
            break
        found.append((key, stored))
    return found


def recall(
    request: Request, stored: Sequence[Generation], read: Callable[[Request, str], T], attempts: int
) -> Outcome[T] | None:
    """What `ask` would end with if it asked nothing: the first stored answer that `read` takes, or unreadable_answer
    where all attempts are stored and none can be read. None for a request that is still to be asked.
    """
    why = ""
    for generation in stored:
        try:
            return Outcome(0, read(request, generation.text), generation=generation)
        except ValueError as error:
            why = _why(error, generation)
    return Outcome(0, None, UNREADABLE, why, stored[-1]) if len(stored) == attempts else None


def _why(error: ValueError, generation: Generation) -> str:
    return f"{error}; it stopped at max_tokens" if generation.cut_off else str(error)
