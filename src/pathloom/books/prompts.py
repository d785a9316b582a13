"""The prompts by which models read a book, composed from the parts in prompts.yaml."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Language = Literal["en", "zh"]
Frame = Literal["px", "norm1000"]
"""What a model's boxes count in: pixels of the picture as sent (Qwen2.5-VL), or thousandths of its width and height
(Qwen3-VL)."""

FRAMES: tuple[Frame, ...] = ("px", "norm1000")
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_HAN_SHARE = 0.01
"""More Han signs than this among its letters make a text Chinese, as for captions (`ingest pairs`): an English book may
quote a Chinese name."""


@cache
def _parts() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    text = files("pathloom.books").joinpath("prompts.yaml").read_text(encoding="utf-8")
    parts: dict[str, Any] = yaml.safe_load(text)
    return parts


def prompts_hash() -> str:
    """SHA-256 of all parts, for the key of a stage that asks with them."""
    return hashlib.sha256(json.dumps(_parts(), sort_keys=True).encode()).hexdigest()


def language_of(name: str, text: str) -> Language:
    """Chinese for a book with any Han sign in its name, or with more than 1 % of them among the letters of its text."""
    num_letters = sum(map(str.isalpha, text))
    return "zh" if _HAN.search(name) or len(_HAN.findall(text)) > _HAN_SHARE * num_letters else "en"


def align_prompt(language: Language, frame: Frame, width_px: int, height_px: int) -> tuple[str, str]:
    """(system, user) of the alignment of figures and captions on a picture of this size."""
    role, *clauses = (part[language] for part in _chosen("align", frame))
    sized = "\n".join(clauses).replace("{width_px}", str(width_px)).replace("{height_px}", str(height_px))
    return role, sized


def refer_prompt(language: Language) -> tuple[str, str]:
    """(system, user) of the search for in-line references, without captions and texts."""
    role, *clauses = (part[language] for part in _chosen("refer", None))
    return role, "\n".join(clauses)


def prompt_lines() -> Iterator[str]:
    """Every prompt as it is sent, for a page of 840 x 1176 pixels, then where each part is from."""
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        prompts = {f"align / {frame}": align_prompt(language, frame, 840, 1176) for frame in FRAMES}
        for name, (system, user) in {**prompts, "refer": refer_prompt(language)}.items():
            yield f"## {name} / {language}"
            yield from (f"system: {system}", f"user: {user}", "")
    yield "## sources of the parts"
    for prompt, parts in _parts().items():
        yield from (f"{prompt}.{name}: {part['source']}" for name, part in parts.items())


def _chosen(prompt: str, frame: Frame | None) -> list[Mapping[str, str]]:
    """The parts of a prompt in their order, of those about a frame only the one that is asked for."""
    others = {f"frame_{other}" for other in FRAMES if other != frame}
    return [part for name, part in _parts()[prompt].items() if name not in others]
