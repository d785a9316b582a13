"""The step `organ`: words first, a Generator for the rest, and a label that is there stays."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_sample

from pathloom.curate.config import CurateConfig
from pathloom.curate.curate import run_curate
from pathloom.curate.words import ORGANS, SUBFIELDS, organ_of, subfield_of
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Request
from pathloom.schema import Sample
from pathloom.stage import FACTS_FILE
from pathloom.store import read_samples, write_samples

TEACHER = {"generator": {"endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}}}


@pytest.mark.parametrize(
    ("text", "organ"),
    [
        ("Colon, H&E: fused glands.", "digestive"),
        ("The gallbladder wall is thick.", "liver, bile ducts and pancreas"),
        ("Urinary bladder with papillary fronds.", "urinary"),
        ("Bone marrow with blasts of leukemia.", "blood and lymph nodes"),
        ("Metastasis of a colonic adenocarcinoma to the colon and the liver: colon.", "digestive"),
        ("A slide.", None),
        ("", None),
    ],
)
def test_the_words_of_a_caption_tell_its_organ(text, organ):
    assert organ_of(text) == organ
    assert organ is None or organ in ORGANS


@pytest.mark.parametrize(
    ("text", "subfield"),
    [
        ("Colon, H&E: fused glands.", "histopathology"),
        ("Immunohistochemistry for CD20 in a lymph node.", "ihc"),
        ("Ki-67 positive nuclei.", "ihc"),
        ("FISH with a break-apart probe.", "fish"),
        ("The fish tank disease is a granuloma.", None),
        ("Pap smear with koilocytes.", "cytology"),
        ("Gram stain of sputum.", "special stain"),
        ("Cut surface of the spleen, 12 cm.", "gross"),
        ("CT of the chest.", "clinical image"),
        ("Schematic of the nephron.", "drawing"),
        ("Transmission electron micrograph of a podocyte.", "electron microscopy"),
        ("Direct immunofluorescence for IgA.", "immunofluorescence"),
        ("Nothing is told here.", None),
    ],
)
def test_the_words_of_a_caption_tell_its_sub_field(text, subfield):
    assert subfield_of(text) == subfield
    assert subfield is None or subfield in SUBFIELDS


def captions(*texts: str, **fields: Any) -> list[Sample]:
    return [
        make_sample(f"s{n}", task="caption", answer=text, question="Describe.", **fields)
        for n, text in enumerate(texts)
    ]


def run(folder: Path, samples: list[Sample], **step: Any) -> tuple[list[Sample], dict[str, Any]]:
    write_samples(samples, folder / "pairs")
    config = CurateConfig(
        name="labelled", kind="curate", samples=("pairs",), steps=({"step": "organ", **step},)
    )
    run_curate(config, {"pairs": folder / "pairs"}, folder / "out")
    (facts,) = json.loads((folder / "out" / FACTS_FILE).read_text())
    return list(read_samples(folder / "out")), facts


def test_a_sample_that_has_an_organ_keeps_it_and_one_that_tells_none_has_none(tmp_path):
    kept = make_sample("kept", answer="Colon.", organ="breast")
    samples, facts = run(tmp_path, [kept, *captions("Colon, H&E.", "Pink.")])
    assert [sample.organ for sample in samples] == ["breast", "digestive", None]
    assert samples[0] == kept
    assert samples[1].history[-1].note == "organ digestive"
    assert facts["organs"] == {"breast": 1, "digestive": 1, "untold": 1}


def test_a_generator_is_asked_only_where_the_words_tell_nothing(tmp_path, monkeypatch):
    asked: list[Request] = []
    replies = {"Pink.": '{"organ": "breast"}', "Blue.": '{"organ": "none"}', "Red.": "the moon"}

    def reply(request: Request) -> str:
        asked.append(request)
        return next(text for word, text in replies.items() if word in request.messages[-1].text)

    monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Echo(reply, "m"))
    texts = captions("Colon, H&E.", *replies)
    samples, facts = run(tmp_path, texts, teacher=TEACHER)
    assert [sample.organ for sample in samples] == ["digestive", "breast", None, None]
    assert samples[1].history[-1].model == "m"
    assert samples[0].history[-1].model is None
    assert len(asked) == 4, "the unreadable one twice"
    assert (facts["asked"]["requests"], facts["asked"]["reused"]) == (3, 0)
    _, facts = run(tmp_path, texts, teacher={**TEACHER, "max_requests": 99})
    assert len(asked) == 4, "and nothing a second time"
    assert facts["asked"]["reused"] == 3


def test_caps_and_prices_of_a_step_are_no_part_of_the_key():
    def keyed(**teacher: Any) -> dict[str, Any]:
        steps = ({"step": "organ", "teacher": {**TEACHER, **teacher}},)
        return CurateConfig(name="l", kind="curate", samples=("pairs",), steps=steps).keyed()

    assert keyed(max_requests=3) == keyed()
    assert keyed(sampling={"temperature": 0}) != keyed()
