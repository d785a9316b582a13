"""Suites: the plain mean over several benchmarks as one number of a stage, and how much of it later training loses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pathloom.benchmarks import find_benchmark
from pathloom.evaluate.config import Forgetting, ReportConfig
from pathloom.evaluate.metrics import Difference, Interval, Scored, bootstrap_p, interval_of, resampled_sums
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Comparison
from pathloom.evaluate.tallies import Floats, tallies
from pathloom.stage import UserError
from pathloom.tasks import find_task

Answered = Mapping[str, Sequence[Scored]]
"""Benchmark -> its answers without a control."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A number with its resamples [resample]."""

    value: float
    resampled: Floats

    @property
    def interval(self) -> Interval:
        return interval_of(self.value, self.resampled)

    def minus(self, other: "Drawn") -> "Drawn":
        """The paired difference: both were drawn from the same Samples."""
        return Drawn(self.value - other.value, self.resampled - other.resampled)


@dataclass(frozen=True, eq=False)
class Side:
    """One stage, or the runs that count as one: its benchmarks, and which Samples each of them asked, by id."""

    of: Mapping[str, Drawn]
    asked: Mapping[str, tuple[str, ...]]

    @property
    def mean(self) -> Drawn:
        """The plain mean over benchmarks, whatever their numbers of Samples."""
        return _mean(tuple(self.of.values()))

    @property
    def num_samples(self) -> int:
        return sum(map(len, self.asked.values()))

    def only(self, benchmarks: Sequence[str]) -> "Side":
        """The same of these benchmarks alone, in their order."""
        return Side(
            {name: self.of[name] for name in benchmarks}, {name: self.asked[name] for name in benchmarks}
        )


def boards_of_suites(
    config: ReportConfig, answered: Mapping[str, Answered]
) -> tuple[list[Board], list[Comparison]]:
    """A board and the paired differences of each suite, and a board for each entry of `forgetting`.

    `answered` are the answers of each stage that measured any. Every benchmark is resampled by itself, since the
    benchmarks are given and not drawn; the interval of the mean is that of the means of their resamples, groups drawn
    whole as in `metrics`. Benchmarks about the same pictures are taken as independent: the interval of their mean is
    then too narrow. Runs of `repeats` count as their mean. Raises UserError for a suite that nobody answered.
    """
    boards: list[Board] = []
    comparisons: list[Comparison] = []
    for name, benchmarks in config.suites.items():
        sides = _sides(config, benchmarks, answered)
        if not sides:
            raise UserError(
                f"{config.name}.suites.{name}: no stage of the report measured all of {', '.join(benchmarks)}"
            )
        boards.append(_board(config, name, benchmarks, sides))
        comparisons += _comparisons(config, name, sides)
        boards += [_forgotten(config, one, sides) for one in config.forgetting if one.suite == name]
    return boards, comparisons


def _sides(
    config: ReportConfig, benchmarks: Sequence[str], answered: Mapping[str, Answered]
) -> dict[str, Side]:
    """Every stage, and every set of repeats, that measured all of the benchmarks, in the report's order."""
    runs = {stage: (stage,) for stage in config.stages} | dict(config.repeats)
    return {
        name: draw_side(benchmarks, {one: [answered[stage] for stage in stages] for one in benchmarks})
        for name, stages in runs.items()
        if all(set(benchmarks) <= answered.get(stage, {}).keys() for stage in stages)
    }


def draw_side(benchmarks: Sequence[str], runs: Mapping[str, Sequence[Answered]]) -> Side:
    """What the `runs` of each benchmark reach as their mean; of `benchmarks`, those without runs are left out.

    Sides that are drawn of the same `benchmarks` are paired. Raises UserError for runs that answered different Samples.
    """
    drawn: dict[str, Drawn] = {}
    asked: dict[str, tuple[str, ...]] = {}
    for seed, name in enumerate(benchmarks):
        if name not in runs:
            continue
        # one order and one seed for all stages: the same groups are drawn, so differences are paired
        in_order = [sorted(run[name], key=lambda one: one.sample.id) for run in runs[name]]
        drawn[name] = _mean([_draw(name, run, seed) for run in in_order])
        ids = {tuple(one.sample.id for one in run) for run in in_order}
        if len(ids) > 1:
            raise UserError(f"repeats: runs that count as one answered different Samples of {name}")
        asked[name] = ids.pop()
    return Side(drawn, asked)


def _draw(name: str, scored: Sequence[Scored], seed: int) -> Drawn:
    benchmark = find_benchmark(name)
    metric = benchmark.primary_metric
    tally = tallies(find_task(benchmark.task), scored, metric)[metric]
    return Drawn(tally.value, tally.combine(resampled_sums(scored, tally.components, seed=seed)))


def _mean(many: Sequence[Drawn]) -> Drawn:
    values = [one.value for one in many]
    return Drawn(sum(values) / len(values), np.mean([one.resampled for one in many], axis=0))


def _board(config: ReportConfig, name: str, benchmarks: Sequence[str], sides: Mapping[str, Side]) -> Board:
    metrics = ", ".join(f"{one} {find_benchmark(one).primary_metric.replace('_', ' ')}" for one in benchmarks)
    return Board(
        stage=config.name,
        title=f"Suite {name}",
        of="stage",
        columns=("mean", *benchmarks),
        rows=tuple(
            BoardRow(
                name=name_of_side(side, config),
                origin="measured",
                source=f"{found.num_samples:,} answers" + (" each" if side in config.repeats else ""),
                cells=tuple(map(cell_of, (found.mean, *found.of.values()))),
            )
            for side, found in sides.items()
        ),
        notes=(f"The mean counts every benchmark the same: {metrics}.",),
    )


def _comparisons(config: ReportConfig, name: str, sides: Mapping[str, Side]) -> list[Comparison]:
    """Each side against every one before it, on the same Samples; runs of a set of repeats stand for it only."""
    repeated = {stage for stages in config.repeats.values() for stage in stages}
    comparisons = []
    for before, after in combinations([side for side in sides if side not in repeated], 2):
        if sides[before].asked != sides[after].asked:
            continue  # asked of other Samples: not a pair
        found = difference(sides[before], sides[after])
        comparisons.append(
            Comparison.of(
                name_of_side(before, config),
                name_of_side(after, config),
                name,
                f"mean of {len(sides[before].of)} benchmarks",
                found,
            )
        )
    return comparisons


def difference(before: Side, after: Side) -> Difference:
    """The paired difference of the means, after minus before; both answered the same Samples."""
    drawn = after.mean.minus(before.mean)
    interval = drawn.interval
    p_value = bootstrap_p(drawn.resampled[np.isfinite(drawn.resampled)])
    return Difference(drawn.value, interval.low, interval.high, before.num_samples, p_value)


def _forgotten(config: ReportConfig, wanted: Forgetting, sides: Mapping[str, Side]) -> Board:
    """The losses without and with replay, and the second over the first where there is a loss at all."""
    names = (wanted.before, wanted.without, wanted.replayed)
    for name in names:
        if name not in sides:
            raise UserError(
                f"{config.name}.forgetting: {name} did not measure all of the suite {wanted.suite}"
            )
    before, without, replayed = (sides[name] for name in names)
    if not before.asked == without.asked == replayed.asked:
        raise UserError(f"{config.name}.forgetting: {', '.join(names)} answered different Samples")
    lost, kept = before.mean.minus(without.mean), before.mean.minus(replayed.mean)
    shares = np.divide(
        kept.resampled,
        lost.resampled,
        out=np.full_like(lost.resampled, math.nan),
        where=lost.resampled > 0,
    )
    undefined = float(np.mean(~np.isfinite(shares)))
    remains = Drawn(kept.value / lost.value, shares) if lost.value > 0 else Drawn(math.nan, shares * math.nan)
    return Board(
        stage=config.name,
        title=f"What the suite {wanted.suite} lost",
        of="before",
        columns=("loss without replay", "loss with replay", "share of the loss that remains"),
        rows=(
            BoardRow(
                name=name_of_side(wanted.before, config),
                origin="measured",
                source=f"then {wanted.without} without replay, {wanted.replayed} with it",
                cells=tuple(map(cell_of, (lost, kept, remains))),
            ),
        ),
        notes=(
            "Losses are of the suite's mean; below 0 is a gain. All three columns are resampled together. "
            + (
                f"In {undefined:.1%} of the resamples nothing was lost without replay: their share has no meaning "
                "and is left out of its interval."
                if undefined
                else "Something was lost without replay in every resample."
            ),
        ),
    )


def cell_of(drawn: Drawn | None) -> Cell | None:
    """A number with its interval; None for what was not measured."""
    if drawn is None:
        return None
    interval = drawn.interval
    return Cell(value=interval.value, low=interval.low, high=interval.high)


def name_of_side(side: str, config: ReportConfig) -> str:
    """A stage by its name; a set of repeats with the number of its runs."""
    return f"{side} ({len(config.repeats[side])} runs)" if side in config.repeats else side
