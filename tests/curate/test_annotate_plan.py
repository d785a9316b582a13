"""What `pathloom plan` tells of annotators and arbiters, and `pathloom explain` of what they said."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.curate.annotators import Annotators, cell, sound
from tests.fixtures import encoded

from pathloom.attributes import load_schema
from pathloom.curate.annotate import run_annotate
from pathloom.curate.annotate_config import AnnotateConfig
from pathloom.curate.annotation_prompts import annotation_instructions
from pathloom.curate.annotator_health import is_han
from pathloom.forecast import plan_lines
from pathloom.generate.fill import STORE_FILE
from pathloom.generate.store import AnswerStore
from pathloom.listing import explain_lines
from pathloom.recipe import load_recipe
from pathloom.schema import Attribute, Image, Sample, Vote
from pathloom.stage import MANIFEST_FILE
from pathloom.store import read_samples, write_samples

RECIPE = """
name: cells
stages:
  - {{name: cells, kind: ingest, source: pairs, table: {table}, images: ignored}}
  - name: described
    kind: annotate
    samples: [cells]
    annotators:
      a: {{generator: {{endpoint: {{url: "http://127.0.0.1:1/v1", model: m}}}}, sampling: {{max_tokens: 300}}}}
      b: {{generator: {{endpoint: {{url: "http://127.0.0.1:1/v1", model: n}}}}, max_requests: 4}}
  - name: fused
    kind: curate
    samples: [described]
    steps:
      - {{step: consensus, arbiter: {{generator: {{endpoint: {{url: "http://127.0.0.1:1/v1", model: o}}}}}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps({"id": str(n), "caption": f"Cell {n}."}) + "\n" for n in range(10)))
    path = tmp_path / "cells.yaml"
    path.write_text(RECIPE.format(table=table))
    return path


def finished(folder: Path, samples: Iterable[Sample]) -> Path:
    write_samples(samples, folder)
    (folder / MANIFEST_FILE).write_text("{}")
    return folder


def test_the_plan_tells_what_each_annotator_and_the_arbiter_would_be_asked(recipe, tmp_path):
    found = list(plan_lines(load_recipe(recipe), tmp_path / "runs"))
    place = found.index("  described (annotate): to do")
    assert found[place + 1].startswith("    annotator a: at most 10 requests")
    assert "and 3,000 completion tokens" in found[place + 1]
    assert found[place + 2].startswith("    annotator b: at most 10 requests")
    assert found[place + 3] == "    max_requests 4 would stop it: 10 needed"
    assert found[place + 4] == "  fused (curate): to do"
    assert found[place + 5].startswith("    arbiter: at most 10 requests")


def test_with_cells_there_annotators_are_counted_and_the_arbiter_is_bounded(recipe, tmp_path, monkeypatch):
    runs, plan = tmp_path / "runs", load_recipe(recipe, ["described.annotators.b.max_requests=7"])
    monkeypatch.setattr("pathloom.run._key", lambda config, inputs: "0")
    finished(runs / "cells-0", map(cell, range(7)))
    Annotators(monkeypatch, m=sound("a"), n=sound("b"))
    described = plan.stages[1]
    assert isinstance(described, AnnotateConfig)
    run_annotate(described, {"cells": runs / "cells-0"}, tmp_path / "elsewhere")
    (runs / "answers.sqlite").rename(tmp_path / "kept.sqlite")
    found = [line for line in plan_lines(plan, runs) if line.startswith("    ")]
    assert found[0].startswith("    annotator a: 7 requests, 0 of them answered before")
    (tmp_path / "kept.sqlite").rename(runs / "answers.sqlite")
    found = [line for line in plan_lines(plan, runs) if line.startswith("    ")]
    assert found[0].startswith("    annotator a: 7 requests, 7 of them answered before")
    assert found[2].startswith("    arbiter: at most 10 requests")
    first, *others = read_samples(tmp_path / "elsewhere")
    alone = first.model_copy(update={"annotations": first.annotations[:1]})
    finished(runs / "described-0", [alone, *others])
    (arbiter,) = (line for line in plan_lines(plan, runs) if line.startswith("    "))
    assert arbiter.startswith("    arbiter: at most 6 requests"), "one annotator alone disputes nothing"
    recipe.write_text(recipe.read_text().replace("step: consensus,", "step: consensus, method: dawid_skene,"))
    (arbiter,) = (line for line in plan_lines(load_recipe(recipe), runs) if line.startswith("    "))
    assert arbiter.startswith("    arbiter: at most 7 requests"), "but may be too improbable"


def test_of_fields_with_many_cells_no_bound_is_made_up(recipe, tmp_path):
    text = recipe.read_text()
    start = text.index("  - {name: cells")
    fields = tmp_path / "fields"
    fields.mkdir()
    for number in range(2):
        (fields / f"{number}.png").write_bytes(encoded(number, width_px=200, height_px=200))
    source = f"source: cells, images: {fields}, detector: nuclei, nucleus_px: [8, 40], tile_px: 64"
    entry = f"  - {{name: cells, kind: ingest, {source}, test_share: 0}}\n"
    recipe.write_text(text[:start] + entry + text[text.index("  - name: described") :])
    found = list(plan_lines(load_recipe(recipe), tmp_path / "runs"))
    assert "  cells (ingest): to do, 2 units" in found
    assert "  described (annotate): to do, requests unknown until its sources are read" in found


def test_a_larger_picture_is_forecast_to_take_more_tokens(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("pathloom.run._key", lambda config, inputs: "0")

    def prompt_tokens(side_px: int) -> int:
        image = Image(path="0.png", data=b"", width_px=side_px, height_px=side_px)
        runs = tmp_path / str(side_px)
        finished(runs / "cells-0", [cell(0, images=(image,))])
        line = next(
            line for line in plan_lines(load_recipe(recipe), runs) if line.startswith("    annotator a")
        )
        return int(line.split("about ")[1].split(" ")[0].replace(",", ""))

    assert prompt_tokens(1024) - prompt_tokens(512) == 1024 - 256


def test_a_picture_that_is_gone_is_asked_about_by_nobody(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("pathloom.run._key", lambda config, inputs: "0")
    runs = tmp_path / "runs"
    gone = Image(path=str(tmp_path / "gone.png"), width_px=24, height_px=16)
    finished(runs / "cells-0", [cell(0), cell(1, images=(gone,))])
    AnswerStore(runs / STORE_FILE).close()
    found = [line for line in plan_lines(load_recipe(recipe), runs) if line.startswith("    annotator a")]
    assert found[0].startswith("    annotator a: 1 requests, 0 of them answered before")


def test_a_chinese_sign_is_forecast_as_more_than_a_latin_letter(recipe, tmp_path):
    def line(language: str) -> str:
        plan = load_recipe(recipe, [f"described.language={language}"])
        return next(each for each in plan_lines(plan, tmp_path / "runs") if "annotator a" in each)

    text = "".join(annotation_instructions(load_schema("cervical_cell"), "zh", boxed=True))
    num_han = sum(map(is_han, text))
    expected = round(10 * (0.6 * num_han + (len(text) - num_han) / 4 + 256))
    assert num_han > 100
    assert f"about {expected:,} prompt" in line("zh")
    assert line("en") != line("zh")


def test_explain_tells_what_was_said_and_who_voted(tmp_path):
    annotated = cell(
        0,
        annotations=[
            {"annotator": "a", "said": [{"name": "nucleoli", "text": "not seen"}], "caption": "A cell."},
            {"annotator": "b"},
        ],
        attributes=(
            Attribute(
                name="nucleoli",
                value="none",
                resolver="majority",
                confidence=2 / 3,
                votes=(Vote(annotator="a", value="none"), Vote(annotator="b")),
            ),
        ),
    )
    finished(tmp_path / "fused-0", [annotated])
    found = list(explain_lines("c0", tmp_path))
    assert "  annotator a: nucleoli: not seen; caption: A cell." in found
    assert "  annotator b: nothing" in found
    assert "  nucleoli: none (majority; confidence 0.67; votes: a none, b cannot tell)" in found
