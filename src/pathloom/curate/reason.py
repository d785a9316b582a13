"""Stage `reason`: questions with reasoning, written by a Generator from what is said about pictures."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pathloom.curate.config import ReasonConfig
from pathloom.curate.curate import read_all, write_records
from pathloom.curate.prompts import EXPLAIN, WrittenTask, write_request
from pathloom.curate.replies import (
    REPLIES,
    ChoiceReply,
    DialogueReply,
    ExplainReply,
    Reply,
    ReportReply,
    ShortAnswerReply,
    read_reply,
)
from pathloom.curate.words import TAUGHT
from pathloom.generate.fill import Answers, fill, store_beside
from pathloom.generate.generator import Request
from pathloom.generate.store import AnswerStore
from pathloom.schema import Drop, Event, Sample, Turn
from pathloom.stage import FACTS_FILE, write_json
from pathloom.store import count_records
from pathloom.tasks.parsing import normalise


def run_reason(config: ReasonConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Ask for every training Sample, then write what came of it. Nothing that is in the store is asked again."""
    passed: Counter[str] = Counter()

    with AnswerStore(store_beside(inputs)) as store:
        answers = fill(
            lambda: plan_requests(config, inputs, Counter()),
            config.teacher,
            store,
            _read,
            config.name,
            inputs,
        )
        write_records(_records(config, inputs, answers, passed), out, config.name)
    write_json([{"step": "reason", **answers.usage}], out / FACTS_FILE)
    return {**count_records(out), "passed_over": dict(passed), **answers.usage}


def plan_requests(
    config: ReasonConfig, inputs: Mapping[str, Path], passed: Counter[str]
) -> Iterator[Request]:
    """Every request of the stage, in the order of its Samples; `passed` counts Samples that are not asked about."""
    for work in _plan(config, inputs, passed):
        if not isinstance(work, Drop):
            yield _request(config, *work)


def _plan(
    config: ReasonConfig, inputs: Mapping[str, Path], passed: Counter[str]
) -> Iterator[tuple[Sample, str] | Drop]:
    """Every (Sample, task) to ask about; Samples that cannot be asked about as Drops; `passed` counts the others."""
    for sample in read_all(config.samples, inputs):
        if sample.split != "train":
            passed["held_out"] += 1
            continue
        tasks = _tasks_of(config, sample)
        if not tasks:
            passed[f"not_asked_for_{sample.task}"] += 1
            continue
        ready = _ready(config, sample)
        if isinstance(ready, Drop):
            yield ready
        else:
            yield from ((ready, task) for task in tasks)


def _tasks_of(config: ReasonConfig, sample: Sample) -> list[WrittenTask]:
    """Explaining is for questions, writing for captions; which tasks a caption gets depends on its id alone."""
    if sample.task != "caption":
        return [EXPLAIN] if EXPLAIN in config.tasks else []
    written = [task for task in config.tasks if task != EXPLAIN]
    if not written:
        return []
    start = int(hashlib.sha256(sample.id.encode()).hexdigest(), 16) % len(written)
    turned = written[start:] + written[:start]
    return turned[: config.per_sample]


def _ready(config: ReasonConfig, sample: Sample) -> Sample | Drop:
    """With sub-field and level, or the reason why no prompt fits."""
    subfield, level = sample.subfield or config.subfield, sample.level or config.level
    num_chars = len(sample.question) + len(sample.answer) + len(sample.context)
    if subfield not in TAUGHT:
        return _drop(sample.id, "no_prompt_for_subfield", f"{subfield}; prompts are for {', '.join(TAUGHT)}")
    if level is None:
        return _drop(sample.id, "no_level", "run the step `difficulty` before, or set `level`")
    if num_chars > config.max_chars:
        return _drop(sample.id, "text_too_long", f"{num_chars} characters, at most {config.max_chars}")
    return sample.model_copy(update={"subfield": subfield, "level": level})


def _drop(sample_id: str, reason: str, detail: str) -> Drop:
    return Drop(sample_id=sample_id, step="reason", reason=reason, detail=detail[:500])


def _request(config: ReasonConfig, sample: Sample, task: str) -> Request:
    return write_request(sample, task, config.teacher.sampling)


def _read(request: Request, text: str) -> Reply:
    return read_reply(text, _BY_TITLE[str((request.json_schema or {})["title"])])


_BY_TITLE = {reply.__name__: reply for reply in REPLIES.values()}


def _records(
    config: ReasonConfig, inputs: Mapping[str, Path], answers: Answers[Reply], passed: Counter[str]
) -> Iterator[Sample | Drop]:
    index = 0
    for work in _plan(config, inputs, passed):
        if isinstance(work, Drop):
            yield work
            continue
        sample, task = work
        outcome = answers.of(index, _request(config, sample, task))
        index += 1
        new_id = sample.id if task == EXPLAIN else f"{sample.id}/{task}"
        if outcome.value is None:
            answer = f": {outcome.generation.text}" if outcome.generation else ""
            yield _drop(new_id, str(outcome.reason), outcome.detail + answer)
        else:
            event = Event(
                step="reason",
                version=config.version,
                note=f"{sample.subfield}/{sample.level}/{task}",
                model=answers.model,
            )
            yield _sample(sample, outcome.value, new_id, event)


def _sample(sample: Sample, reply: Reply, new_id: str, event: Event) -> Sample:
    reasoning = " ".join(reply.steps)
    if isinstance(reply, ExplainReply):
        return sample.changed(event, reasoning=reasoning)
    return sample.changed(
        event,
        id=new_id,
        reasoning=reasoning,
        context="\n".join(text for text in (sample.answer, sample.context) if text),
        **_asked(reply, new_id),
    )


def _asked(reply: Reply, new_id: str) -> dict[str, Any]:
    """Task, question and answer of a new Sample."""
    match reply:
        case ChoiceReply():
            answer = next(o for o in reply.options if normalise(o) == normalise(reply.answer))
            # Language models like to put the right option first; the order is drawn from the id instead.
            rng = np.random.default_rng(list(hashlib.sha256(new_id.encode()).digest()))
            return {
                "task": "choice",
                "question": reply.question,
                "choices": tuple(reply.options[place] for place in rng.permutation(len(reply.options))),
                "answer": answer,
                "finding": answer,
            }
        case ReportReply():
            return {"task": "report", "question": reply.question, "answer": reply.description}
        case ShortAnswerReply():
            return {"task": "short_answer", "question": reply.question, "answer": reply.answer}
        case DialogueReply():
            *earlier, last = reply.turns
            return {
                "task": "dialogue",
                "earlier": tuple(Turn(question=turn.question, answer=turn.answer) for turn in earlier),
                "question": last.question,
                "answer": last.answer,
            }
    raise TypeError(f"no Sample is made from a {type(reply).__name__}")
