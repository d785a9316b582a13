"""What a stage that asks a Generator would ask, and about what it would cost: nothing is asked."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pathloom.attributes import load_schema
from pathloom.curate.annotate import annotation_requests
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.annotation_prompts import annotation_instructions
from pathloom.curate.annotator_health import is_han
from pathloom.curate.config import CurateConfig, ReasonConfig
from pathloom.curate.consensus import ConsensusStep
from pathloom.curate.curate import read_all
from pathloom.curate.organ import OrganStep
from pathloom.curate.prompts import EXPLAIN, instructions, organ_instructions
from pathloom.curate.reason import plan_requests
from pathloom.generate.config import Asking
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore, Usage, kind_of
from pathloom.images import BadImage
from pathloom.stage import StageConfig

CHARS_PER_TOKEN = 4.0
"""Of English text in the vocabularies of today's language models, roughly; a server's own count is used once there is
one."""
TOKENS_PER_HAN = 0.6
"""Of a Chinese character (DeepSeek's API documentation, "Token & Token Usage", read in 2026)."""
PIXELS_PER_TOKEN = 32 * 32
"""Of a picture in Qwen3-VL: patches of 16 px, merged two by two. Other models take more or fewer."""
_TYPICAL_CAPTION_TOKENS = 150
_TYPICAL_PICTURE_TOKENS = 512 * 512 / PIXELS_PER_TOKEN
_DISPUTE_TOKENS = 300 + _TYPICAL_PICTURE_TOKENS  # of a prompt about two attributes


@dataclass(frozen=True)
class Forecast:
    """Requests and what those that are left would take.

    what              which part of a stage asks; "" for all of it
    exact             whether the Samples are there, so that requests are counted; for a step of a `curate` stage those
                      that come into the stage
    measured          whether tokens and seconds are means of this model's answers of the same kind in the store; an
                      answer of a kind without any is taken to be as long as it may be, and seconds is None
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
        prompt_tokens = sum(map(_tokens, text)) + _TYPICAL_CAPTION_TOKENS
        return [_forecast("", config.teacher, requests, most * each, prompt_tokens, store)]
    if isinstance(config, AnnotateConfig):
        return list(_of_annotators(config, inputs, most, store))
    if not isinstance(config, CurateConfig):
        return []
    found = []
    for step in config.steps:
        if isinstance(step, OrganStep) and step.teacher is not None:
            asked = None if inputs is None else step.requests(read_all(config.samples, inputs))
            requests = None if asked is None else (request for _, request in asked)
            prompt_tokens = _tokens(organ_instructions()) + _TYPICAL_CAPTION_TOKENS
            found.append(_forecast("organ", step.teacher, requests, most, prompt_tokens, store))
        if isinstance(step, ConsensusStep) and step.arbiter is not None:
            disputable = most if inputs is None else _disputable(config, step, inputs)
            found.append(_forecast("arbiter", step.arbiter, None, disputable, _DISPUTE_TOKENS, store))
    return found


def _of_annotators(
    config: AnnotateConfig, inputs: Mapping[str, Path] | None, most: int, store: Path
) -> Iterator[Forecast]:
    text = annotation_instructions(load_schema(config.attributes), config.language, boxed=True)
    prompt_tokens = sum(map(_tokens, text)) + _TYPICAL_PICTURE_TOKENS
    for name, asking in config.annotators.items():
        requests = None if inputs is None else annotation_requests(config, inputs, asking)
        yield _forecast(f"annotator {name}", asking, requests, most, prompt_tokens, store)


def _disputable(config: CurateConfig, step: ConsensusStep, inputs: Mapping[str, Path]) -> int:
    """Samples that can be disputed, each one request to the arbiter at most: a vote alone is no dispute of a majority,
    but may be less probable than `min_confidence`.
    """
    fewest = max(step.min_votes, 2 if step.method == "majority" else 1)
    return sum(len(sample.annotations) >= fewest for sample in read_all(config.samples, inputs))


def _tokens(text: str) -> float:
    num_han = sum(map(is_han, text))
    return num_han * TOKENS_PER_HAN + (len(text) - num_han) / CHARS_PER_TOKEN


def _tokens_of(request: Request) -> float:
    """Of its words and pictures, where no server has counted those of its kind."""
    texts = sum(_tokens(message.text) for message in request.messages)
    pictures = (image for message in request.messages for image in message.images)
    return texts + sum(image.width_px * image.height_px / PIXELS_PER_TOKEN for image in pictures)


def _forecast(
    what: str,
    asking: Asking,
    requests: Iterable[Request] | None,
    most: int,
    prompt_tokens: float,
    store_path: Path,
) -> Forecast:
    """Of the requests or, where there are none yet, of `most` with prompts of so many tokens."""
    if requests is None:
        return _made(
            what, asking, most, 0, most * prompt_tokens, most * asking.sampling.max_tokens, None, exact=False
        )
    model = asking.generator.name()
    store = AnswerStore(store_path) if store_path.is_file() else None
    count = stored = 0
    prompts = completions = 0.0
    seconds: float | None = 0.0
    means: dict[str, Usage | None] = {}
    try:
        for request in requests:
            try:
                is_stored = store is not None and store.get(request.key(model)) is not None
            except BadImage:  # nobody is asked about it
                continue
            count += 1
            if is_stored:
                stored += 1
                continue
            kind = kind_of(request)
            if kind not in means:
                means[kind] = store.mean(model, request) if store is not None else None
            mean = means[kind]
            if mean is None:
                prompts += _tokens_of(request)
                completions += asking.sampling.max_tokens
                seconds = None
            else:
                prompts += mean.prompt_tokens
                completions += mean.completion_tokens
                seconds = None if seconds is None else seconds + mean.seconds / asking.generator.at_once
    finally:
        if store is not None:
            store.close()
    return _made(what, asking, count, stored, prompts, completions, seconds, exact=True)


def _made(
    what: str,
    asking: Asking,
    requests: int,
    stored: int,
    prompts: float,
    completions: float,
    seconds: float | None,
    *,
    exact: bool,
) -> Forecast:
    tokens = round(prompts), round(completions)
    return Forecast(
        what=what,
        asking=asking,
        requests=requests,
        stored=stored,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
        seconds=seconds,
        cost=asking.price.of(*tokens) if asking.price else None,
        exact=exact,
        measured=seconds is not None,
    )
