"""The error that a majority of independent annotators leaves, worked out exactly, to check simulations against."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import factorial, perm, prod


@dataclass(frozen=True)
class ExpectedFusion:
    """What becomes of one attribute of one picture, on average.

    error     share that is wrong of those that get a value
    disputed  share without a majority
    left_out  share without a value: nobody could tell, or disputed without an arbiter
    """

    error: float
    disputed: float
    left_out: float


def expected_error(
    num_values: int,
    errors: Sequence[float],
    arbiter_error: float | None = None,
    cannot_tell: float = 0.0,
) -> ExpectedFusion:
    """Of the rule of `consensus`: the value of more than half of the answering votes; otherwise all values given are in
    dispute, and go to the arbiter or, without one, are left out.

    Annotators are independent: each cannot tell with probability `cannot_tell`, and otherwise is wrong with its error
    of `errors`, each wrong value alike. The arbiter takes the truth where one of them gave it, but for `arbiter_error`.
    Exact: how many are right and wrong is counted annotator by annotator (the Poisson binomial distribution), and how
    the wrong ones fall on the num_values - 1 wrong values goes over the partitions of their number.
    """
    if num_values < 2:
        raise ValueError(f"num_values is {num_values}: with fewer than two values nobody can err")
    wrong = disputed = left_out = 0.0
    for (num_right, num_wrong), chance in _right_and_wrong(errors, cannot_tell).items():
        for sizes in _partitions(num_wrong):
            weight = chance * _chance_of(sizes, num_values - 1)
            answering = num_right + num_wrong
            if answering == 0:
                left_out += weight
            elif 2 * max(num_right, *sizes, 0) > answering:
                wrong += weight * (2 * num_right <= answering)
            else:
                disputed += weight
                if arbiter_error is None:
                    left_out += weight
                else:
                    wrong += weight * (arbiter_error if num_right else 1.0)
    return ExpectedFusion(wrong / (1 - left_out) if left_out < 1 else 0.0, disputed, left_out)


def _right_and_wrong(errors: Sequence[float], cannot_tell: float) -> dict[tuple[int, int], float]:
    """(how many are right, how many are wrong) -> probability."""
    chances: dict[tuple[int, int], float] = {(0, 0): 1.0}
    for error in errors:
        steps = (
            ((0, 0), cannot_tell),
            ((1, 0), (1 - cannot_tell) * (1 - error)),
            ((0, 1), (1 - cannot_tell) * error),
        )
        grown: Counter[tuple[int, int]] = Counter()
        for (right, wrong), chance in chances.items():
            for (more_right, more_wrong), step in steps:
                grown[right + more_right, wrong + more_wrong] += chance * step  # type: ignore[assignment]
        chances = dict(grown)
    return chances


def _partitions(number: int, largest: int | None = None) -> Iterator[tuple[int, ...]]:
    """The ways to write `number` as a sum of positive numbers that do not grow; one, the empty sum, for 0."""
    if number == 0:
        yield ()
        return
    for first in range(min(number, largest or number), 0, -1):
        for rest in _partitions(number - first, first):
            yield (first, *rest)


def _chance_of(sizes: Sequence[int], num_wrong_values: int) -> float:
    """Probability that sum(sizes) annotators who each draw one of the wrong values fall into groups of these sizes."""
    number = sum(sizes)
    groupings = factorial(number) // prod(map(factorial, sizes))
    groupings //= prod(factorial(count) for count in Counter(sizes).values())
    return groupings * perm(num_wrong_values, len(sizes)) / num_wrong_values**number
