"""What an annotator is asked about a picture: parts of annotate_prompts.yaml with the words of an attribute schema."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from pathloom.attributes import (
    ANNOTATION_TITLE,
    LANGUAGES,
    AttributeSchema,
    Language,
    load_schema,
    shipped_schemas,
)
from pathloom.generate.generator import Message, Request, Sampling
from pathloom.schema import Sample

ATTRIBUTES, CAPTION = "attributes", "caption"
"""The two keys of an annotator's reply."""

_BETWEEN: Mapping[Language, str] = {"en": "; ", "zh": "；"}  # noqa: RUF001
_COLON: Mapping[Language, str] = {"en": ": ", "zh": "："}  # noqa: RUF001


@cache
def _parts() -> Mapping[str, Mapping[str, str]]:
    text = files("pathloom.curate").joinpath("annotate_prompts.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def annotation_prompts_hash(language: Language) -> str:
    """SHA-256 of the parts that the stage `annotate` asks with in this language."""
    parts = {name: part[language] for name, part in _parts().items()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def annotation_schema(schema: AttributeSchema, language: Language) -> dict[str, Any]:
    """The JSON schema of a reply: a string for each attribute, under its name in every language, and a caption.

    Values are not listed in it: what a model says in words of its own is a finding about the model, or about the list.
    """
    names = list(schema.attributes)
    return {
        "title": ANNOTATION_TITLE,
        "description": f"{schema.name} {language}",
        "type": "object",
        "properties": {
            ATTRIBUTES: {
                "type": "object",
                "properties": {name: {"type": "string"} for name in names},
                "required": names,
                "additionalProperties": False,
            },
            CAPTION: {"type": "string"},
        },
        "required": [ATTRIBUTES, CAPTION],
        "additionalProperties": False,
    }


def annotation_instructions(schema: AttributeSchema, language: Language, *, boxed: bool) -> tuple[str, str]:
    """(system, user) that go with a picture; `boxed` where a box on it marks what is asked about."""
    parts = {name: part[language] for name, part in _parts().items()}
    place = parts["boxed" if boxed else "whole"].format(subject=schema.subject[language])
    user = [
        place,
        parts["attributes"],
        *_value_lists(schema, language),
        parts["abstain"].format(cannot_tell=schema.cannot_tell[language][0]),
        parts["caption"],
        parts["format"],
        json.dumps(annotation_schema(schema, language), separators=(",", ":")),
    ]
    return parts["role"], "\n".join(user)


def _value_lists(schema: AttributeSchema, language: Language) -> Iterator[str]:
    """A line for each attribute: its key, its title and its values."""
    for kind in schema.attributes.values():
        values = _BETWEEN[language].join(kind.say(value, language) for value in kind.values)
        yield f"- `{kind.name}` ({kind.title[language]}){_COLON[language]}{values}"


class AnnotationPrompt:
    """The question that one stage asks about every picture, written once."""

    def __init__(self, schema: AttributeSchema, language: Language) -> None:
        self._json_schema = annotation_schema(schema, language)
        self._instructions = {
            boxed: annotation_instructions(schema, language, boxed=boxed) for boxed in (True, False)
        }

    def about(self, sample: Sample, sampling: Sampling) -> Request:
        """The Sample's pictures with the question. Nothing else of it is told: neither its class nor its answer."""
        system, user = self._instructions[is_boxed(sample)]
        return Request(
            messages=(
                Message(role="system", text=system),
                Message(role="user", text=user, images=sample.images),
            ),
            json_schema=self._json_schema,
            sampling=sampling,
        )


def is_boxed(sample: Sample) -> bool:
    """Whether a region is less than its picture: sources of cells draw it. A picture of one cell is a region whole."""
    whole = [(0, 0, image.width_px, image.height_px) for image in sample.images]
    return any(region.box_px != whole[region.image] for region in sample.regions)


def annotation_prompt_lines() -> Iterator[str]:
    """What `pathloom show prompts` prints of them: each as it is sent about a box, then where each part is from."""
    for name in shipped_schemas():
        for language in LANGUAGES:
            system, user = annotation_instructions(load_schema(name), language, boxed=True)
            yield f"## annotate / {name} / {language}"
            yield from (f"system: {system}", f"user: {user}", "")
    yield "## sources of the parts of annotate"
    yield from (f"{name}: {part['source']}" for name, part in _parts().items())
