"""The prompts by which a Generator writes reasoning: 5 sub-fields x 3 levels x 4 tasks of Patho-R1, and one task ours.

They are composed from the parts in prompts.yaml, so that no sentence stands twice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

from pathloom.curate.replies import REPLIES
from pathloom.curate.words import TAUGHT
from pathloom.generate.generator import Message, Request, Sampling
from pathloom.schema import Sample
from pathloom.tasks.task import write_options

WrittenTask = Literal["choice", "report", "short_answer", "dialogue", "explain"]

WRITTEN: tuple[WrittenTask, ...] = ("choice", "report", "short_answer", "dialogue")
"""The four tasks of the paper, each written from a caption: multiple choice, detailed description, complex reasoning,
multi-turn conversation."""

EXPLAIN: WrittenTask = "explain"
"""Our fifth: the reasoning for a question whose answer is known."""


@dataclass(frozen=True)
class Level:
    """How long a reasoning is, in steps; both bounds are allowed."""

    least: int
    most: int


@cache
def _parts() -> Mapping[str, Any]:
    text = files("pathloom.curate").joinpath("prompts.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def prompts_hash() -> str:
    """SHA-256 of the parts that the stage `reason` asks with."""
    parts = {name: part for name, part in _parts().items() if name != "organ"}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def levels() -> Mapping[str, Level]:
    """Level -> bounds of its reasoning, as the prompts state them and the filter checks them."""
    return {name: Level(part["least"], part["most"]) for name, part in _parts()["levels"].items()}


@cache
def _schema(task: str) -> dict[str, Any]:
    """Of the replies to a task; read only."""
    return REPLIES[task].model_json_schema()


def instructions(subfield: str, level: str, task: str) -> tuple[str, str]:
    """(system, user) without the texts about a picture. Raises KeyError for a name that prompts.yaml does not have."""
    parts = _parts()
    bounds = levels()[level]
    system = [parts[name]["text"] for name in ("role", "evidence", "hidden")]
    user = [
        parts["subfields"][subfield]["text"],
        parts["tasks"][task]["text"],
        parts["levels"][level]["text"].format(least=bounds.least, most=bounds.most),
        parts["format"]["text"],
        json.dumps(_schema(task), separators=(",", ":")),
    ]
    return " ".join(system), "\n".join(user)


def organ_instructions() -> str:
    """What the step `organ` asks."""
    return str(_parts()["organ"]["text"])


def write_request(sample: Sample, task: str, sampling: Sampling) -> Request:
    """What is asked about one Sample. Its sub-field and level must be set.

    A task of WRITTEN reads a caption Sample: its answer is the caption, its context the in-line reference. EXPLAIN
    reads a question with its answer.
    """
    system, user = instructions(str(sample.subfield), str(sample.level), task)
    texts = {"organ": sample.organ, "reference": sample.context}
    if task == EXPLAIN:
        answer = sample.answer or str([list(region.box_px) for region in sample.regions])
        texts |= {"question": sample.question, "options": write_options(sample.choices), "answer": answer}
    else:
        texts = {"caption": sample.answer, **texts}
    given = [f"<{name}>{text}</{name}>" for name, text in texts.items() if text]
    return Request(
        messages=(
            Message(role="system", text=system),
            Message(role="user", text="\n".join([user, *given])),
        ),
        json_schema=_schema(task),
        sampling=sampling,
    )


def all_prompts() -> Iterator[tuple[str, str, str]]:
    """(sub-field, level, task) of the 60 prompts of the paper, then of ours."""
    for tasks in (WRITTEN, (EXPLAIN,)):
        for subfield in TAUGHT:
            for level in levels():
                for task in tasks:
                    yield subfield, level, task


def prompt_lines() -> Iterator[str]:
    """What `pathloom show prompts` prints: every prompt as it is sent, then where each part is from."""
    for subfield, level, task in all_prompts():
        system, user = instructions(subfield, level, task)
        yield f"## {subfield} / {level} / {task}"
        yield from (f"system: {system}", f"user: {user}", "")
    yield "## sources of the parts"
    for name, part in _parts().items():
        parts = {name: part} if "text" in part else {f"{name}.{key}": each for key, each in part.items()}
        yield from (f"{key}: {each['source']}" for key, each in parts.items())
