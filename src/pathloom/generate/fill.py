"""Fill the store with the answers to many requests, then give them in the order of the requests.

Asking comes first and keeps nothing but the store and the few failures. What follows reads the store, so the result of
a stage depends neither on the order of answers nor on how often the run was killed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from pathloom.generate.ask import Outcome, ask, recall
from pathloom.generate.budget import Budget, Caps
from pathloom.generate.config import Asking
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.stage import UserError

T = TypeVar("T")

STORE_FILE = "answers.sqlite"
_CAPS = tuple(Caps.model_fields)


def store_beside(inputs: Mapping[str, Path]) -> Path:
    """The store of the runs folder in which a stage's inputs lie."""
    return next(iter(inputs.values())).parent / STORE_FILE


@dataclass
class Answers(Generic[T]):
    """The answers to the requests of one `fill`, by request.

    failures  index of a request that got no answer -> (reason, detail)
    usage     requests, those that the store or an equal request answered (`reused`), tokens, money, seconds
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
        outcome = recall(request, self.model, self.store, self.read, self.asking.attempts)
        if outcome is None:
            return Outcome(index, None, self.cap or "not_asked", "the cap was reached before it was asked")
        return outcome


def fill(
    requests: Callable[[], Iterable[Request]],
    asking: Asking,
    store: AnswerStore,
    read: Callable[[Request, str], T],
    name: str,
) -> Answers[T]:
    """Ask what the store does not hold. `requests` gives the same ones at each call; `name` is the stage's.

    Raises UserError when a cap is reached (unless `partial`) or too many requests fail; whatever was answered is kept.
    """
    generator = asking.generator.open()
    budget = Budget(asking, asking.price, generator.model)
    answers = Answers(asking, generator.model, store, read)
    total = sum(1 for _ in requests())
    reused = left = 0
    with tqdm(total=total, desc=name, unit="answer", leave=False) as bar:
        for outcome in ask(requests(), generator, store, read, budget, attempts=asking.attempts):
            bar.update()
            bar.set_postfix_str(_spent(budget, asking), refresh=False)
            if outcome.generation is not None and not outcome.paid:
                reused += 1
            if outcome.reason in _CAPS:
                answers.cap = outcome.reason
                left += 1
            elif outcome.reason is not None and (outcome.generation is None or outcome.generation.error):
                answers.failures[outcome.index] = (outcome.reason, outcome.detail)
        seconds = float(bar.format_dict["elapsed"])
    if answers.cap is not None and not asking.partial:
        raise UserError(_at_the_cap(answers.cap, asking, budget, left, total, name))
    _refuse_many_failures(answers, total, name)
    answers.usage = {
        "model": generator.model,
        "requests": total,
        "asked": budget.requests,
        "reused": reused,
        "failed": dict(Counter(reason for reason, _ in answers.failures.values())),
        "prompt_tokens": budget.prompt_tokens,
        "completion_tokens": budget.completion_tokens,
        "cost": round(budget.cost, 6) if asking.price else None,
        "asking_s": round(seconds, 2),
    }
    return answers


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


def _refuse_many_failures(answers: Answers[Any], total: int, name: str) -> None:
    """A server that is down must not turn a whole set into Drops."""
    failures = {index: each for index, each in answers.failures.items() if each[0] != "unreadable"}
    if len(failures) <= answers.asking.max_failed * total:
        return
    counts = ", ".join(
        f"{reason} {count}" for reason, count in Counter(reason for reason, _ in failures.values()).items()
    )
    reason, detail = next(iter(failures.values()))
    raise UserError(
        f"{name}: {len(failures)} of {total} requests failed ({counts}; {reason}: {detail[:200]}), more than "
        f"max_failed {answers.asking.max_failed:g} allows. Run again to ask them again: the answers that came are kept"
    )
