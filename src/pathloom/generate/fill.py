"""Fill the store with the answers to many requests, then give them in the order of the requests.

Asking comes first and keeps nothing but the store and the few failures. What follows reads the store, so the Samples of
a stage depend neither on the order of answers nor on how often the run was killed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from pathloom.generate.ask import UNREADABLE, Outcome, ask, recall, stored_attempts
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.config import Asking
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.images import BadImage
from pathloom.stage import UserError

T = TypeVar("T")

STORE_FILE = "answers.sqlite"
_CAPS = tuple(Caps.model_fields)
_FIRST = 100
"""Answers after which a share that is far too high stops the stage before its end; our own choice."""


def store_beside(inputs: Mapping[str, Path]) -> Path:
    """The store of the runs folder in which a stage's inputs lie."""
    return next(iter(inputs.values())).parent / STORE_FILE


@dataclass
class Answers(Generic[T]):
    """The answers to the requests of one `fill`, by request.

    failures  index of a request that got no answer -> (reason, detail)
    usage     requests, those asked now, those that the store or an equal request answered (`reused`), failures, and the
              tokens and money of all answers of the stage, whenever they were paid; for manifest and report
    """

    asking: Asking
    model: str
    store: AnswerStore
    read: Callable[[Request, str], T]
    failures: dict[int, tuple[str, str]] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    cap: str | None = None

    def of(self, index: int, request: Request) -> Outcome[T]:
        """How the request, the `index`-th of those filled, ended."""
        if index in self.failures:
            return Outcome(index, None, *self.failures[index])
        stored = stored_attempts(request, self.model, self.store, self.asking.attempts)
        outcome = recall(request, [answer for _, answer in stored], self.read, self.asking.attempts)
        if outcome is None:
            return Outcome(index, None, self.cap or "not_asked", "the cap was reached before it was asked")
        return outcome


def fill(
    requests: Callable[[], Iterable[Request]],
    asking: Asking,
    store: AnswerStore,
    read: Callable[[Request, str], T],
    name: str,
    inputs: Mapping[str, Path] = {},
) -> Answers[T]:
    """Ask what the store does not hold. `requests` gives the same ones at each call; `name` is the stage's, `inputs`
    hold what the Generator needs.

    Raises UserError when a cap is reached (unless `partial`), or too many requests fail or are answered unreadably;
    whatever was answered is kept.
    """
    generator = asking.generator.open(inputs)
    budget = Budget(asking, asking.price, generator.model)
    answers = Answers(asking, generator.model, store, read)
    total, still_open, unreadable = _look_up(requests(), answers, budget)
    reused, before, left = total - len(still_open) - len(answers.failures), budget.requests, 0
    watch = _Watch(asking, name, total, unreadable)

    def unanswered() -> Iterator[Request]:
        waiting = iter(still_open)
        wanted = next(waiting, None)
        for index, request in enumerate(requests()):
            if wanted is None:
                return
            if index == wanted and not watch.hopeless:
                wanted = next(waiting, None)
                yield request

    with tqdm(total=total, initial=total - len(still_open), desc=name, unit="answer", leave=False) as bar:
        for outcome in ask(unanswered(), generator, store, read, budget, attempts=asking.attempts):
            bar.update()
            bar.set_postfix_str(_spent(budget, asking), refresh=False)
            if outcome.generation is not None and outcome.generation.error is None and not outcome.paid:
                reused += 1
            if outcome.reason in _CAPS:
                answers.cap = outcome.reason
                left += 1
                continue
            if outcome.reason not in (None, UNREADABLE):
                answers.failures[still_open[outcome.index]] = (str(outcome.reason), outcome.detail)
            watch.saw(outcome)
        seconds = float(bar.format_dict["elapsed"])
    watch.judge()
    if answers.cap is not None and not asking.partial:
        raise UserError(_at_the_cap(answers.cap, asking, budget, left, total, name))
    answers.usage = {
        "model": generator.model,
        "requests": total,
        "asked": budget.requests - before,
        "reused": reused,
        "failed": dict(Counter(reason for reason, _ in answers.failures.values())),
        "prompt_tokens": budget.prompt_tokens,
        "completion_tokens": budget.completion_tokens,
        "cost": round(budget.cost, 6) if asking.price else None,
        "asking_s": round(seconds, 2),
    }
    return answers


def _look_up(
    requests: Iterable[Request], answers: Answers[Any], budget: Budget
) -> tuple[int, list[int], int]:
    """(number of requests, places of those that are still to be asked, how many stored answers cannot be read).

    What the store holds is counted in the budget, once for each answer; pictures that cannot be read are failures.
    """
    total = unreadable = 0
    still_open: list[int] = []
    counted: set[str] = set()
    for total, request in enumerate(requests, start=1):
        try:
            stored = stored_attempts(request, answers.model, answers.store, answers.asking.attempts)
        except BadImage as error:
            answers.failures[total - 1] = (error.reason, str(error))
            continue
        for key, generation in stored:
            if key not in counted:
                counted.add(key)
                budget.paid_before(generation)
        outcome = recall(request, [answer for _, answer in stored], answers.read, answers.asking.attempts)
        if outcome is None:
            still_open.append(total - 1)
        elif outcome.reason is not None:
            unreadable += 1
    return total, still_open, unreadable


class _Watch:
    """Whether a stage is worth going on with: a server that is down must not turn a whole set into Drops, nor a wrong
    setting be paid for to the end.
    """

    def __init__(self, asking: Asking, name: str, total: int, unreadable: int) -> None:
        """`unreadable` answers were in the store."""
        self._asking, self._name, self._total = asking, name, total
        self._failed: Counter[str] = Counter()
        self._unreadable, self._new_unreadable, self._seen = unreadable, 0, 0
        self._example = ""

    def saw(self, outcome: Outcome[Any]) -> None:
        self._seen += 1
        if outcome.reason == UNREADABLE:
            self._unreadable += 1
            self._new_unreadable += 1
            text = outcome.generation.text if outcome.generation else ""
            self._example = f"{outcome.detail}: {text[:200]!r}"
        elif outcome.reason is not None:
            self._failed[outcome.reason] += 1
            self._example = f"{outcome.reason}: {outcome.detail[:200]}"

    @property
    def hopeless(self) -> bool:
        """The bound is passed for certain, or by far by now."""
        failed, asking = self._failed.total(), self._asking
        early = self._seen >= _FIRST
        return (
            failed > asking.max_failed * self._total
            or self._unreadable > asking.max_unreadable * self._total
            or (early and failed > max(asking.max_failed, 0.5) * self._seen)
            or (early and self._new_unreadable > asking.max_unreadable * self._seen)
        )

    def judge(self) -> None:
        """Raises UserError that says what is wrong and what it cost."""
        if not self.hopeless:
            return
        counts = ", ".join(f"{reason} {count}" for reason, count in self._failed.items())
        if counts and self._failed.total() >= self._unreadable:
            raise UserError(
                f"{self._name}: {self._failed.total()} of {self._total} requests failed ({counts}; {self._example}), "
                f"more than max_failed {self._asking.max_failed:g} allows. Run again to ask them again (what came is "
                "kept), or raise max_failed to drop them"
            )
        raise UserError(
            f"{self._name}: {self._unreadable} answers cannot be read ({self._example}), more than max_unreadable "
            f"{self._asking.max_unreadable:g} of {self._total} allows. Answers are kept and not asked again: give "
            "another model or more max_tokens, or raise max_unreadable to drop them"
        )


def _spent(budget: Budget, asking: Asking) -> str:
    tokens = budget.prompt_tokens + budget.completion_tokens
    return f"{tokens} tokens" + (f", {budget.cost:.2f} spent" if asking.price else "")


def _at_the_cap(cap: str, asking: Asking, budget: Budget, left: int, total: int, name: str) -> str:
    estimate = ""
    if budget.requests:
        mean = (budget.prompt_tokens + budget.completion_tokens) / budget.requests
        estimate = f" (about {left * mean:,.0f} tokens"
        estimate += f", {left * budget.cost / budget.requests:,.2f} in money)" if asking.price else ")"
    return (
        f"{name}: {cap} {getattr(asking, cap):g} is reached; {total - left} of {total} requests are done and kept, "
        f"{left} are left{estimate}. Raise the cap and run again, or set `partial: true` to go on without them"
    )
