"""What a stage that asks a Generator would ask, and about what it would cost: nothing is asked."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathloom.curate.config import CurateConfig, ReasonConfig
from pathloom.curate.curate import read_all
from pathloom.curate.organ import OrganStep
from pathloom.curate.prompts import EXPLAIN, instructions, organ_instructions
from pathloom.curate.reason import plan_requests
from pathloom.generate.config import Asking
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.stage import StageConfig

CHARS_PER_TOKEN = 4.0
"""Of English text in the vocabularies of today's language models, roughly; a server's own count is used once there is
one."""
_TYPICAL_CAPTION_TOKENS = 150


@dataclass(frozen=True)
class Forecast:
    """Requests and what those that are left would take.

    what              which part of a stage asks; "" for all of it
    exact             whether the Samples are there, so that requests are counted, not guessed
    measured          whether completion tokens and seconds are means of answers of this model in the store; without
                      them every answer is taken to be as long as it may be, and seconds is None
    seconds           of asking, at as many connections as the recipe allows
    cost              None without a price
    """

    what: str
    asking: Asking
    requests: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    cost: float | None
    exact: bool
    measured: bool


def forecasts(
    config: StageConfig, inputs: Mapping[str, Path] | None, most: int, store: Path
) -> list[Forecast]:
    """Of everything that a stage asks, in order. `inputs` are None while they are not there; `most` is then the most
    Samples that they can hold. Steps of a `curate` stage are counted on the Samples that come into the stage.
    """
    if isinstance(config, ReasonConfig):
        requests = None if inputs is None else plan_requests(config, inputs, Counter())
        written = [task for task in config.tasks if task != EXPLAIN]
        each = min(len(written), config.per_sample or len(written)) or 1
        text = instructions(config.subfield or "histopathology", config.level or "medium", config.tasks[0])
        return [_forecast("", config.teacher, requests, most * each, sum(map(len, text)), store)]
    if not isinstance(config, CurateConfig):
        return []
    found = []
    for step in config.steps:
        if isinstance(step, OrganStep) and step.teacher is not None:
            asked = None if inputs is None else step.requests(read_all(config.samples, inputs))
            requests = None if asked is None else (request for _, request in asked)
            found.append(_forecast("organ", step.teacher, requests, most, len(organ_instructions()), store))
    return found


def _forecast(
    what: str, asking: Asking, requests: Iterable[Request] | None, most: int, num_chars: int, store_path: Path
) -> Forecast:
    """Of the requests or, where there are none yet, of `most` with `num_chars` of instructions and a usual caption."""
    model = asking.generator.name()
    store = AnswerStore(store_path) if store_path.is_file() else None
    stored, count = 0, most
    prompt_chars = most * (num_chars + _TYPICAL_CAPTION_TOKENS * CHARS_PER_TOKEN)
    try:
        if requests is not None:
            count = 0
            prompt_chars = 0.0
            for request in requests:
                count += 1
                if store is not None and store.get(request.key(model)) is not None:
                    stored += 1
                else:
                    prompt_chars += sum(len(message.text) for message in request.messages)
        mean = store.mean(model) if store is not None else None
    finally:
        if store is not None:
            store.close()
    left = count - stored
    prompt_tokens = round(prompt_chars / CHARS_PER_TOKEN)
    completion_tokens = round(left * (mean.completion_tokens if mean else asking.sampling.max_tokens))
    return Forecast(
        what=what,
        asking=asking,
        requests=count,
        stored=stored,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        seconds=left * mean.seconds / asking.generator.at_once if mean else None,
        cost=asking.price.of(prompt_tokens, completion_tokens) if asking.price else None,
        exact=requests is not None,
        measured=mean is not None,
    )
