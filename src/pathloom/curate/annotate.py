"""Stage `annotate`: each annotator describes every picture; the answers stay as they are until they are fused."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pathloom.attributes import AttributeSchema, load_schema
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.annotation_prompts import AnnotationPrompt
from pathloom.curate.annotation_reply import AnnotatorReply, read_annotation
from pathloom.curate.annotator_health import MANY, Checkup
from pathloom.curate.curate import read_all, write_records
from pathloom.generate.ask import Outcome
from pathloom.generate.config import Asking
from pathloom.generate.fill import Answers, fill, store_beside
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.images import BadImage, load_pixels
from pathloom.schema import Annotation, Drop, Event, Sample
from pathloom.stage import FACTS_FILE, write_json
from pathloom.store import count_records

Replies = Mapping[str, Outcome[AnnotatorReply]]
"""Annotator -> how its request about one Sample ended."""


def run_annotate(config: AnnotateConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Ask one annotator after the other, then write what they said, in the order of `annotators`.

    An annotator without an answer for a Sample has no Annotation there. Nothing that is in the store is asked again.
    Raises UserError for an annotator that fails too often, or is unreadable, as `fill` does.
    """
    schema = load_schema(config.attributes)
    read = partial(_read, schema, config)
    with AnswerStore(store_beside(inputs)) as store:
        answers = {
            name: fill(
                _requests_of(config, inputs, asking), asking, store, read, f"{config.name}.{name}", inputs
            )
            for name, asking in config.annotators.items()
        }
        checkup = Checkup(schema, config.language, {name: each.model for name, each in answers.items()})
        missing: dict[str, Counter[str]] = {name: Counter() for name in answers}
        write_records(_records(config, inputs, answers, checkup, missing), out, config.name)
    warnings = [*_about_missing(answers, missing), *checkup.warnings()]
    asked = {name: _asked(answers[name].usage, missing[name]) for name in answers}
    told = {name: checkup.of(name) for name in answers}
    facts = {"annotators": asked, "answers": told, "pairs": checkup.pairs(), "warnings": warnings}
    write_json([{"step": "annotate", **facts}], out / FACTS_FILE)
    return {**count_records(out), "annotators": asked, "warnings": warnings}


def annotation_requests(
    config: AnnotateConfig, inputs: Mapping[str, Path], asking: Asking
) -> Iterator[Request]:
    """What one annotator is asked, in the order of the Samples; those without a picture are passed over."""
    prompt = _prompt(config)
    for sample in read_all(config.samples, inputs):
        if sample.images:
            yield prompt.about(sample, asking.sampling)


def _prompt(config: AnnotateConfig) -> AnnotationPrompt:
    return AnnotationPrompt(load_schema(config.attributes), config.language)


def _requests_of(
    config: AnnotateConfig, inputs: Mapping[str, Path], asking: Asking
) -> Callable[[], Iterator[Request]]:
    return lambda: annotation_requests(config, inputs, asking)


def _read(schema: AttributeSchema, config: AnnotateConfig, request: Request, text: str) -> AnnotatorReply:
    return read_annotation(schema, config.language, text)


def _records(
    config: AnnotateConfig,
    inputs: Mapping[str, Path],
    answers: Mapping[str, Answers[AnnotatorReply]],
    checkup: Checkup,
    missing: Mapping[str, Counter[str]],
) -> Iterator[Sample | Drop]:
    prompt = _prompt(config)
    index = 0
    for sample in read_all(config.samples, inputs):
        if not sample.images:
            yield _drop(sample, "no_picture", "annotators describe pictures")
            continue
        outcomes = {
            name: each.of(index, prompt.about(sample, each.asking.sampling)) for name, each in answers.items()
        }
        index += 1
        for name, outcome in outcomes.items():
            if outcome.value is None:
                missing[name][str(outcome.reason)] += 1
        replies = {name: outcome.value for name, outcome in outcomes.items() if outcome.value is not None}
        checkup.saw(replies)
        yield _annotated(config, sample, replies, answers) if replies else _unanswered(sample, outcomes)


def _annotated(
    config: AnnotateConfig,
    sample: Sample,
    replies: Mapping[str, AnnotatorReply],
    answers: Mapping[str, Answers[AnnotatorReply]],
) -> Sample:
    """With what was said, and without the attributes and the caption that were held to be true."""
    *earlier, last = (
        Event(step="annotate", version=config.version, note=name, model=answers[name].model)
        for name in replies
    )
    return sample.model_copy(update={"history": (*sample.history, *earlier)}).changed(
        last,
        annotations=tuple(
            Annotation(annotator=name, said=reply.said, caption=reply.caption)
            for name, reply in replies.items()
        ),
        attributes=(),
        **({"answer": ""} if sample.task == "caption" else {}),
    )


def _unanswered(sample: Sample, outcomes: Replies) -> Drop:
    """Where no picture can be read it is the picture's fault and not the annotators'."""
    try:
        for image in sample.images:
            load_pixels(image)
    except BadImage as error:
        return _drop(sample, error.reason, str(error))
    said = "; ".join(f"{name}: {outcome.reason}, {outcome.detail}" for name, outcome in outcomes.items())
    return _drop(sample, "no_annotation", said)


def _drop(sample: Sample, reason: str, detail: str) -> Drop:
    return Drop(sample_id=sample.id, step="annotate", reason=reason, detail=detail[:500])


def _asked(usage: Mapping[str, Any], missing: Mapping[str, int]) -> dict[str, Any]:
    """What asking one annotator took; `failed` are all pictures without its answer, by reason."""
    return {**usage, "failed": dict(missing), "answered": usage["requests"] - sum(missing.values())}


def _about_missing(
    answers: Mapping[str, Answers[AnnotatorReply]], missing: Mapping[str, Counter[str]]
) -> Iterator[str]:
    for name, reasons in missing.items():
        asked, lost = answers[name].usage["requests"], reasons.total()
        if lost and lost >= MANY * asked:
            counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            yield f"annotator {name} has no answer for {lost} of {asked} pictures ({counts})"
