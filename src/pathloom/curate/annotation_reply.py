"""What an annotator replied, as the words it used; nothing is taken for a value here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pathloom.attributes import FLAG_JOIN, NO_FLAG, AttributeKind, AttributeSchema, Language
from pathloom.curate.annotation_prompts import ATTRIBUTES, CAPTION
from pathloom.curate.replies import parse_object
from pathloom.schema import Said

_LIST_JOIN: Mapping[Language, str] = {"en": FLAG_JOIN, "zh": "、"}


@dataclass(frozen=True)
class AnnotatorReply:
    """`said` in the order of the schema, without attributes that it left out; `extra_keys` that nobody asked for."""

    said: tuple[Said, ...]
    caption: str
    extra_keys: tuple[str, ...] = ()


def read_annotation(schema: AttributeSchema, language: Language, text: str) -> AnnotatorReply:
    """The first JSON object in a text. Models stray from a schema that their server does not hold them to, so

    - attributes may stand under `attributes` or beside the caption, by their name or by their title in any language;
      where two keys name one attribute the first counts and the other is extra;
    - a value is a string. null, an empty string and a missing key are no answer. A list is its items joined as the
      schema joins signs; an empty one is "none" where the attribute is a set of signs, and no answer elsewhere.
      Anything else (true, 3, an object) is its JSON: words, which the lexicon knows or does not;
    - further keys are noted and otherwise ignored.

    Our own choice. Raises ValueError for a text without an object, for an object that names no attribute, and for one
    that cannot be written down.
    """
    reply = parse_object(text)
    _check_writable(reply)
    nested = reply.get(ATTRIBUTES)
    given = nested if isinstance(nested, dict) else {k: v for k, v in reply.items() if k != CAPTION}
    found: dict[str, Any] = {}
    extra = [key for key in reply if key not in (ATTRIBUTES, CAPTION)] if given is nested else []
    for key, value in given.items():
        name = schema.name_of(key)
        if name is None or name in found:
            extra.append(key)
        else:
            found[name] = value
    if not found:
        raise ValueError(
            f"none of the attributes asked for, only {', '.join(given)[:200] or 'an empty object'}"
        )
    words = {name: _words(schema[name], language, found[name]) for name in schema.attributes if name in found}
    caption = reply.get(CAPTION)
    return AnnotatorReply(
        said=tuple(Said(name=name, text=said) for name, said in words.items() if said),
        caption=caption.strip() if isinstance(caption, str) else "",
        extra_keys=tuple(extra),
    )


def _check_writable(reply: Mapping[str, Any]) -> None:
    """Raises ValueError for half of a surrogate pair, which JSON can hold and no file can, and for a nest too deep."""
    try:
        json.dumps(reply, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _words(kind: AttributeKind, language: Language, value: Any) -> str:
    """A reply's value in words; "" where it is no answer."""
    if isinstance(value, list):
        if not value and kind.flags:
            return kind.say(NO_FLAG, language)
        return _LIST_JOIN[language].join(filter(None, map(_word, value)))
    return _word(value)


def _word(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
