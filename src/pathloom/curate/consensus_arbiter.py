"""The arbiter of a consensus: one request for each Sample in dispute, about all its disputed attributes at once."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pathloom.attributes import DISPUTE_TITLE, AttributeSchema, Language
from pathloom.curate.annotation_prompts import is_boxed
from pathloom.curate.replies import parse_object
from pathloom.generate.generator import Message, Request, Sampling
from pathloom.schema import Sample

Competing = Mapping[str, Mapping[str, int]]
"""Disputed attribute -> each value that the dispute is between -> how many annotators gave it."""


@cache
def _prompt() -> Mapping[str, Any]:
    text = files("pathloom.curate").joinpath("arbiter_prompt.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def prompt_text() -> str:
    """All that an arbiter may be asked with, for the key of the stage."""
    return json.dumps(_prompt(), sort_keys=True)


def dispute_request(
    sample: Sample, competing: Competing, schema: AttributeSchema, language: Language, sampling: Sampling
) -> Request:
    """The Sample's pictures and the competing values with their numbers of votes; who gave them is not said.

    Values stand in the schema's order, so that no place is the majority's.
    """
    words = {
        name: [schema[name].say(value, language) for value in values] for name, values in competing.items()
    }
    json_schema = {
        "title": DISPUTE_TITLE,
        "description": f"{schema.name} {language}",
        "type": "object",
        "properties": {name: {"type": "string", "enum": said} for name, said in words.items()},
        "required": list(words),
        "additionalProperties": False,
    }
    parts = _prompt()[language]
    points = [
        parts["point"].format(
            name=name,
            title=schema[name].title[language],
            said="; ".join(
                parts["given"].format(value=value, count=count)
                for value, count in zip(words[name], values.values(), strict=True)
            ),
        )
        for name, values in competing.items()
    ]
    text = "\n".join(
        [
            parts["task"].format(subject=schema.subject[language]),
            *([parts["boxed"].format(subject=schema.subject[language])] if is_boxed(sample) else []),
            *points,
            parts["format"],
            json.dumps(json_schema, ensure_ascii=False),
        ]
    )
    return Request(
        messages=(Message(role="user", text=text, images=sample.images),),
        json_schema=json_schema,
        sampling=sampling,
    )


def read_ruling(schema: AttributeSchema, request: Request, text: str) -> dict[str, str]:
    """Attribute -> the value chosen. Raises ValueError where one is missing or is none of those in dispute."""
    said = parse_object(text)
    properties: Mapping[str, Mapping[str, Any]] = (request.json_schema or {})["properties"]
    ruling = {}
    for name, allowed in properties.items():
        words = said.get(name)
        if not isinstance(words, str):
            raise ValueError(f"{name}: no value")
        value = schema.read(name, words)
        if value is None or value not in {schema.read(name, each) for each in allowed["enum"]}:
            raise ValueError(f"{name}: {words!r} is none of {', '.join(allowed['enum'])}")
        ruling[name] = value
    return ruling


def requests_of(
    samples: Iterator[Sample],
    disputes: Mapping[str, Competing],
    schema: AttributeSchema,
    language: Language,
    sampling: Sampling,
) -> Iterator[tuple[str, Request]]:
    """(Sample id, request) of the Samples in dispute, in their order."""
    for sample in samples:
        if sample.id in disputes:
            yield sample.id, dispute_request(sample, disputes[sample.id], schema, language, sampling)
