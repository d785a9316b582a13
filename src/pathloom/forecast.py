"""`pathloom plan`: what a recipe would do and what its Generators would ask and cost, before anything is run."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.config import ReasonConfig
from pathloom.curate.forecast import Forecast, forecasts
from pathloom.generate.fill import STORE_FILE
from pathloom.ingest.boxes import BoxesConfig
from pathloom.ingest.cells import CellsConfig
from pathloom.ingest.source import IngestConfig, WholeIngest
from pathloom.recipe import Recipe
from pathloom.run import PlannedStage, plan
from pathloom.stage import StageConfig, UserError


def plan_lines(recipe: Recipe, runs: Path) -> Iterator[str]:
    """A line for each stage, then what `run` would refuse, and a total where more than one asks."""
    stages = plan(recipe, runs)
    refused = dict.fromkeys(refusal for config in recipe.stages if (refusal := _refusal(config)))
    planned = {stage.config.name: stage for stage in stages}
    asked: list[Forecast] = []
    yield f"{recipe.name}: {recipe.description}"
    for stage in stages:
        config = stage.config
        head = f"  {config.name} ({config.kind}): {'done' if stage.done else 'to do'}"
        if stage.done:
            yield head
        elif isinstance(config, IngestConfig):
            units = _units(config)
            yield head if units is None else f"{head}, {units:,} units"
        else:
            found = _forecasts(config, planned, runs)
            if found and not found[0].what:
                head = f"{head}, {_in_words(found[0])}"
            elif not found and isinstance(config, ReasonConfig | AnnotateConfig):
                head = f"{head}, requests unknown until its sources are read"
            yield head
            for each in found:
                if each.what:
                    yield f"    {each.what}: {_in_words(each)}"
                yield from _caps(each)
            asked += found
    if refused:
        yield "before it can run:"
        yield from (f"  {refusal}" for refusal in refused)
    if len(asked) > 1:
        costs = [each.cost for each in asked if each.cost is not None]
        tokens = sum(each.prompt_tokens + each.completion_tokens for each in asked)
        money = f", {sum(costs):,.2f} in money" if len(costs) == len(asked) else ""
        yield f"  together: {sum(each.requests - each.stored for each in asked):,} requests, {tokens:,} tokens{money}"


def _refusal(config: StageConfig) -> str:
    """Why a stage cannot run yet; "" where it can. What it would cost can be told all the same."""
    try:
        config.check()
    except UserError as error:
        return str(error)
    return ""


def _forecasts(config: StageConfig, planned: Mapping[str, PlannedStage], runs: Path) -> list[Forecast]:
    names = getattr(config, "samples", ())
    if all(planned[name].done for name in names):
        inputs = {name: planned[name].folder for name in names}
        return forecasts(config, inputs, 0, runs / STORE_FILE)
    counts = [_most_samples(planned[name].config, planned) for name in names]
    known = [count for count in counts if count is not None]
    return forecasts(config, None, sum(known), runs / STORE_FILE) if len(known) == len(counts) else []


def _units(config: IngestConfig) -> int | None:
    """None where a source cannot be read yet."""
    return None if _refusal(config) else len(config.plan())


def _most_samples(config: StageConfig, planned: Mapping[str, PlannedStage]) -> int | None:
    """Units of the sources behind a stage. None where one cannot be read yet, or has several Samples in a unit."""
    if isinstance(config, IngestConfig):
        return None if isinstance(config, BoxesConfig | CellsConfig | WholeIngest) else _units(config)
    counts = [_most_samples(planned[name].config, planned) for name in getattr(config, "samples", ())]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _in_words(each: Forecast) -> str:
    left = f"{each.requests:,} requests, {each.stored:,} of them answered before"
    if not each.exact:
        left = f"at most {each.requests:,} requests, some perhaps answered before"
    bound = "" if each.measured else " (every answer as long as max_tokens allows)"
    tokens = f"about {each.prompt_tokens:,} prompt and {each.completion_tokens:,} completion tokens{bound}"
    time = "time unknown until the first answers" if each.seconds is None else f"about {_time(each.seconds)}"
    money = "no price" if each.cost is None else f"about {each.cost:,.2f} in money"
    return f"{left}; {tokens}; {time}; {money}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _caps(each: Forecast) -> Iterator[str]:
    """A line for each cap that would stop the stage before its end."""
    left = each.requests - each.stored
    needed = {
        "max_requests": left,
        "max_tokens": each.prompt_tokens + each.completion_tokens,
        "max_cost": each.cost or 0.0,
    }
    for name, amount in needed.items():
        cap = getattr(each.asking, name)
        if cap is not None and amount > cap:
            yield f"    {name} {cap:g} would stop it: {amount:,.10g} needed"
