"""Functions in the place of annotators, and the stage `annotate` run on made cells: for tests."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample

from pathloom.attributes import Language, load_schema
from pathloom.curate.annotate import run_annotate
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Generation, Request
from pathloom.schema import Attribute, Drop, Region, Sample
from pathloom.stage import FACTS_FILE
from pathloom.store import read_samples, write_samples

SCHEMA = load_schema("cervical_cell")
CANNOT_TELL = json.dumps(
    {"attributes": dict.fromkeys(SCHEMA.attributes, "cannot tell"), "caption": "Blurred."}
)
Reply = Callable[[Request], str | Generation]


def cell(number: int, **fields: Any) -> Sample:
    given = {
        "task": "caption",
        "question": "",
        "answer": "the truth in words",
        "finding": "HSIL",
        "context": "a secret",
        "images": (make_image(number),),
        "regions": (Region(box_px=(2, 2, 12, 12), label="cell"),),
        "attributes": (Attribute(name="nuclear_size", value="normal", resolver="truth"),),
    }
    return make_sample(f"c{number}", **{**given, **fields})


def number_of(request: Request) -> int:
    return int(Path(request.messages[-1].images[0].path).stem)


def values_of(number: int, language: Language = "en", who: str = "") -> dict[str, str]:
    """Another set of values for each picture and annotator, in words."""
    shift = sum(map(ord, who)) + number
    return {
        kind.name: kind.say(kind.values[(shift + place) % len(kind.values)], language)
        for place, kind in enumerate(SCHEMA.attributes.values())
    }


def sound(who: str, language: Language = "en") -> Callable[[Request], str]:
    """An annotator that says something else about every picture, in sentences of its own."""
    sentence = {"en": "{who} sees cell {number}.", "zh": "{who}看到细胞{number}，核大。"}[language]  # noqa: RUF001

    def reply(request: Request) -> str:
        number = number_of(request)
        caption = sentence.format(who=who, number=number)
        return json.dumps(
            {"attributes": values_of(number, language, who), "caption": caption}, ensure_ascii=False
        )

    return reply


class Annotators:
    """Functions in the place of endpoints, by the endpoint's model; `asked` counts the requests of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **replies: Reply) -> None:
        self.replies = replies
        self.asked: Counter[str] = Counter()
        self.requests: list[Request] = []
        monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Echo(self._of(ref.model), ref.model))

    def _of(self, model: str) -> Reply:
        def answer(request: Request) -> str | Generation:
            self.asked[model] += 1
            self.requests.append(request)
            return self.replies[model](request)

        return answer


def asking(model: str, **settings: Any) -> dict[str, Any]:
    return {"generator": {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": model}}, **settings}


def configured(annotators: Mapping[str, Any], **settings: Any) -> AnnotateConfig:
    given = {"name": "described", "kind": "annotate", "samples": ("cells",), "annotators": annotators}
    return AnnotateConfig.model_validate({**given, **settings})


def run(root: Path, samples: Iterable[Sample], config: AnnotateConfig):
    """The stage on these Samples; the store of answers is that of `root`. Returns Samples, Drops, facts."""
    write_samples(samples, root / "cells")
    out = root / ".partial" / config.name
    run_annotate(config, {"cells": root / "cells"}, out)
    drops = [
        Drop.model_validate_json(line)
        for path in sorted((out / "drops").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    (facts,) = json.loads((out / FACTS_FILE).read_text())
    return list(read_samples(out)), drops, facts


def run_with(
    root: Path, monkeypatch: pytest.MonkeyPatch, replies: Mapping[str, Reply], num: int = 12, **settings: Any
):
    """`num` cells asked of annotators that are named as their models; settings are those of every Asking."""
    Annotators(monkeypatch, **replies)
    return run(root, map(cell, range(num)), configured({name: asking(name, **settings) for name in replies}))
