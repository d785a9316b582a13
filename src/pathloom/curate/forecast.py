"""What a stage that asks a Generator would ask, and about what it would cost: nothing is asked."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pathloom.curate.config import ReasonConfig
from pathloom.curate.prompts import EXPLAIN, instructions
from pathloom.curate.reason import plan_requests
from pathloom.generate.store import AnswerStore

CHARS_PER_TOKEN = 4.0
"""Of English text in the vocabularies of today's language models, roughly; a server's own count is used once there is
one."""
_TYPICAL_CAPTION_TOKENS = 150


@dataclass(frozen=True)
class Forecast:
    """Requests and what those that are left would take.

    exact             whether the Samples are there, so that requests are counted, not guessed
    measured          whether completion tokens and seconds are means of answers of this model in the store; without
                      them every answer is taken to be as long as it may be, and seconds is None
    seconds           of asking, at as many connections as the recipe allows
    cost              None without a price
    """

    requests: int
    stored: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    cost: float | None
    exact: bool
    measured: bool


def forecast(
    config: ReasonConfig, inputs: Mapping[str, Path], store_path: Path, num_samples: int | None
) -> Forecast:
    """`num_samples` is the most that the inputs can hold where they are not there yet; otherwise None."""
    asking = config.teacher
    model = asking.generator.name()
    stored = prompt_chars = requests = 0
    store = AnswerStore(store_path) if store_path.is_file() else None
    try:
        if num_samples is None:
            for request in plan_requests(config, inputs, Counter()):
                requests += 1
                if store is not None and store.get(request.key(model)) is not None:
                    stored += 1
                else:
                    prompt_chars += sum(len(message.text) for message in request.messages)
        else:
            written = [task for task in config.tasks if task != EXPLAIN]
            requests = num_samples * (min(len(written), config.per_sample or len(written)) or 1)
            text = instructions(
                config.subfield or "histopathology", config.level or "medium", config.tasks[0]
            )
            chars = sum(map(len, text)) + _TYPICAL_CAPTION_TOKENS * CHARS_PER_TOKEN
            prompt_chars = round(requests * chars)
        mean = store.mean(model) if store is not None else None
    finally:
        if store is not None:
            store.close()
    left = requests - stored
    prompt_tokens = round(prompt_chars / CHARS_PER_TOKEN)
    completion_tokens = round(left * (mean.completion_tokens if mean else asking.sampling.max_tokens))
    return Forecast(
        requests,
        stored,
        prompt_tokens,
        completion_tokens,
        left * mean.seconds / asking.generator.at_once if mean else None,
        asking.price.of(prompt_tokens, completion_tokens) if asking.price else None,
        num_samples is None,
        mean is not None,
    )
