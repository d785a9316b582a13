"""`pathloom plan`: requests, tokens and money before anything is asked, and what the store changes in them."""

import json
import re
from pathlib import Path

import pytest
from tests.fixtures import encoded

from pathloom.cli import main
from pathloom.forecast import plan_lines
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Generation, Request
from pathloom.recipe import load_recipe
from pathloom.run import run_recipe
from pathloom.stage import UserError

REPLY = json.dumps({"steps": ["a"], "question": "q", "description": "Fused glands."})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    table = tmp_path / "pairs.jsonl"
    rows = [{"id": str(n), "caption": f"Colon, H&E: fused glands, case {n}."} for n in range(10)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "engine.yaml"
    path.write_text(
        f"""
name: engine
description: Ten captions.
stages:
  - {{name: pairs, kind: ingest, source: pairs, table: {table}, images: ignored}}
  - name: reasoning
    kind: reason
    samples: [pairs]
    tasks: [report]
    subfield: histopathology
    level: easy
    teacher:
      generator: {{endpoint: {{url: "http://127.0.0.1:1/v1", model: m, settings: {{connections: 4}}}}}}
      sampling: {{max_tokens: 500}}
      prices: {{m: {{prompt: 1.0, completion: 10.0}}}}
"""
    )
    return path


def lines(recipe: Path, runs: Path, *overrides: str) -> list[str]:
    return list(plan_lines(load_recipe(recipe, overrides), runs))


def answer(request: Request) -> Generation:
    return Generation(model="m", text=REPLY, prompt_tokens=400, completion_tokens=100, seconds=2.0)


def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Echo(answer, "m"))


def test_before_anything_ran_it_gives_an_upper_bound_and_says_so(recipe, tmp_path):
    found = lines(recipe, tmp_path / "runs")
    assert found[1] == "  pairs (ingest): to do, 10 units"
    assert "at most 10 requests, some perhaps answered before" in found[2]
    assert "5,000 completion tokens (every answer as long as max_tokens allows)" in found[2]
    assert "time unknown until the first answers" in found[2]
    assert not (tmp_path / "runs").exists(), "a plan leaves nothing behind"


@pytest.mark.parametrize("source", ["boxes", "cells"])
def test_a_source_of_several_samples_a_picture_bounds_no_requests(recipe, tmp_path, source):
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "b.png"):
        (images / name).write_bytes(encoded(0))
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        json.dumps(
            {
                "images": [{"id": n, "file_name": f"{'ab'[n]}.png"} for n in (0, 1)],
                "annotations": [
                    {"image_id": n, "category_id": label, "bbox": [1, 1, 9, 9]}
                    for n in (0, 1)
                    for label in (0, 1)
                ],
                "categories": [{"id": 0, "name": "cell"}, {"id": 1, "name": "nucleus"}],
            }
        )
    )
    keys = {"boxes": f"annotations: {boxes}", "cells": f"boxes: {boxes}, tile_px: 32"}[source]
    text = recipe.read_text().replace(
        "source: pairs, table", f"source: {source}, images: {images}, {keys}, table"
    )
    recipe.write_text(re.sub(r", table: .*, images: ignored", "", text))

    found = lines(recipe, tmp_path / "runs")

    assert found[1] == "  pairs (ingest): to do, 2 units"
    assert found[2] == "  reasoning (reason): to do, requests unknown until its sources are read"


def test_with_some_answers_it_counts_what_is_left_in_their_measure(recipe, tmp_path, monkeypatch):
    asked(monkeypatch)
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="max_requests 4 is reached"):
        run_recipe(load_recipe(recipe, ["reasoning.teacher.max_requests=4"]), runs, say=lambda line: None)
    found = lines(recipe, runs)
    assert found[1] == "  pairs (ingest): done"
    assert "to do, 10 requests, 4 of them answered before" in found[2]
    assert "and 600 completion tokens;" in found[2]  # six of 100
    assert "about 3 s" in found[2]  # six of 2 s, four at once
    prompts = int(found[2].split("about ")[1].split(" ")[0].replace(",", ""))
    assert f"about {prompts / 1e6 + 600 * 10 / 1e6:,.2f} in money" in found[2]


def test_the_answers_of_another_kind_are_no_measure(recipe, tmp_path, monkeypatch):
    """A step that asks for one word must not make reports look cheap."""
    asked(monkeypatch)
    runs = tmp_path / "runs"
    with pytest.raises(UserError, match="max_requests"):
        run_recipe(load_recipe(recipe, ["reasoning.teacher.max_requests=4"]), runs, say=lambda line: None)
    found = lines(recipe, runs, "reasoning.tasks=[choice]")
    assert "and 5,000 completion tokens (every answer as long as max_tokens allows)" in found[2]


def test_a_cap_that_would_stop_the_stage_is_named(recipe, tmp_path):
    found = lines(
        recipe,
        tmp_path / "runs",
        "reasoning.teacher.max_requests=4",
        "reasoning.teacher.max_tokens=100",
        "reasoning.teacher.max_cost=0.001",
    )
    assert [line.split()[0] for line in found[3:]] == ["max_requests", "max_tokens", "max_cost"]
    assert "10 needed" in found[3]


def test_without_a_price_no_money_is_named(recipe, tmp_path):
    assert "no price" in lines(recipe, tmp_path / "runs", "reasoning.teacher.prices={}")[2]


def test_a_table_of_prices_without_the_model_is_said_when_money_is_capped(recipe, tmp_path, capsys):
    overrides = ["reasoning.teacher.prices={n: {prompt: 1, completion: 1}}", "reasoning.teacher.max_cost=1"]
    arguments = ["plan", str(recipe), "--runs", str(tmp_path / "runs")]
    assert main([*arguments, *(word for one in overrides for word in ("--set", one))]) == 0
    assert "no price for m" in capsys.readouterr().out.partition("before it can run:")[2]


def test_the_command_prints_the_plan(recipe, tmp_path, capsys):
    assert main(["plan", str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out.splitlines() == lines(recipe, tmp_path / "runs")


def test_two_asking_stages_are_summed_up(recipe, tmp_path):
    text = recipe.read_text()
    again = text[text.index("  - name: reasoning") :].replace("name: reasoning", "name: second")
    recipe.write_text(text + again)
    assert lines(recipe, tmp_path / "runs")[-1].startswith("  together: 20 requests, ")


def test_what_would_keep_it_from_running_is_said_and_the_rest_is_forecast(recipe, tmp_path):
    text = recipe.read_text().replace(
        "  - name: reasoning",
        """  - name: kept
    kind: curate
    samples: [pairs]
    steps: [{step: reviewed, files: [nowhere.jsonl]}]
  - name: reasoning""",
    )
    recipe.write_text(text)
    found = lines(recipe, tmp_path / "runs")
    assert any("at most 10 requests" in line for line in found)
    assert found[-2] == "before it can run:"
    assert "nowhere.jsonl is no file" in found[-1]


def test_without_its_table_a_recipe_is_listed_and_the_table_asked_for(recipe, tmp_path):
    found = lines(recipe, tmp_path / "runs", "pairs.table=nowhere.jsonl")
    assert found[1] == "  pairs (ingest): to do"
    assert found[-1] == "  pairs.table: nowhere.jsonl is not a file"


def test_a_key_that_is_not_set_is_said_before_anything_runs(recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("LAB_KEY", raising=False)
    found = lines(recipe, tmp_path / "runs", "reasoning.teacher.generator.endpoint.api_key_env=LAB_KEY")
    assert found[-2] == "before it can run:"
    assert "the environment variable LAB_KEY is not set" in found[-1]
