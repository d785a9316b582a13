"""The report's part about data: what stages kept and dropped, their facts as tables, Samples as they were written."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample

from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.report import Report, write_report
from pathloom.evaluate.report_data import data_stage
from pathloom.evaluate.summary import run_report
from pathloom.schema import Drop, Event, Sample, Turn
from pathloom.stage import FACTS_FILE, MANIFEST_FILE, UserError, write_json
from pathloom.store import count_records, write_shard

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def stage(
    folder: Path,
    samples: list[Sample],
    drops: list[Drop] | None = None,
    facts: list[dict[str, Any]] | None = None,
) -> Path:
    write_shard(samples, drops or [], folder, 0)
    write_json(facts or [], folder / FACTS_FILE)
    write_json({"kind": "curate", "counts": count_records(folder), "seconds": 1.5}, folder / MANIFEST_FILE)
    return folder


def written(number: int, **fields: Any) -> Sample:
    given = {
        "task": "report",
        "answer": f"Fused glands {number}.",
        "context": "Colon.",
        "reasoning": "Glands are fused.",
        "subfield": "histopathology",
        "level": "easy",
        "history": (Event(step="reason", version=1, model="rules-phantom-1"),),
    }
    return make_sample(f"s{number}", **{**given, **fields})


def page(folder: Path, *stages: Path) -> str:
    data = tuple(data_stage(path.name, path, 3) for path in stages)
    write_report(Report(recipe="r", title="Data", created="2026-01-01", data=data), folder / "out")
    return (folder / "out" / "report.html").read_text()


def test_kept_and_dropped_are_counted_by_task_and_reason(tmp_path):
    drops = [Drop(sample_id=f"d{n}", step="curate.x", reason="too_short") for n in range(3)]
    found = data_stage("checked", stage(tmp_path / "checked", [written(1), written(2)], drops), 0)
    assert found.kept == {"report": 2}
    assert found.drops == {"too_short": 3}
    assert found.written == ()


def test_a_stage_that_makes_no_samples_shows_its_facts_alone(tmp_path):
    folder = tmp_path / "seen"
    folder.mkdir()
    write_json([{"step": "embed_slides", "slides": 2}], folder / FACTS_FILE)
    manifest = {"kind": "embed_slides", "counts": {"slides": 2}, "seconds": 1.5}
    write_json(manifest, folder / MANIFEST_FILE)

    found = data_stage("seen", folder, 3)

    assert (found.kept, found.drops, found.written) == ({}, {}, ())
    assert found.tables[0].rows == (("slides", "2"),)
    html = page(tmp_path, folder)
    assert "embed_slides" in html
    assert "Samples kept" not in html
    assert "Kept:" not in (tmp_path / "out" / "report.md").read_text()


def test_facts_become_tables(tmp_path):
    facts: list[dict[str, Any]] = [
        {"step": "organ", "organs": {"breast": 2, "skin": 1200}},
        {"step": "draw", "strata": {"ihc": {"at_hand": 9, "drawn": 3}}},
        {
            "step": "difficulty",
            "levels": [{"level": "easy", "n": 4, "nearest": ["a", "b"]}],
            "encoders": ["x"],
        },
        {"step": "reason", "asked": 7, "cost": 1.23456, "model": "m", "absent": None},
        {"step": "nothing", "failed": {}},
        {
            "step": "asked",
            "errors": {"size": {"n": 4, "fused": {"value": 0.12345, "low": 0, "high": 0.5}}},
            "cost": {"one": {"cost": None}},
        },
    ]
    tables = {
        table.title: table for table in data_stage("s", stage(tmp_path / "s", [], facts=facts), 0).tables
    }
    assert tables["organ: organs"].rows == (("breast", "2"), ("skin", "1,200"))
    assert tables["draw: strata"].columns == ("", "at_hand", "drawn")
    assert tables["draw: strata"].rows == (("ihc", "9", "3"),)
    assert tables["difficulty: levels"].rows == (("easy", "4", "a, b"),)
    assert tables["difficulty: encoders"].rows == (("x",),)
    assert tables["reason"].rows == (("asked", "7"), ("cost", "1.235"), ("model", "m"))
    assert tables["asked: errors"].rows == (("size", "4", "0.123 (0\u00a0to\u00a00.5)"),)
    assert tables["asked: cost"].rows == (("one", ""),)
    assert len(tables) == 7


def test_the_shown_samples_are_spread_over_the_set(tmp_path):
    found = data_stage("s", stage(tmp_path / "s", [written(n) for n in range(30)]), 3)
    assert [item.sample_id for item in found.written] == ["s0", "s10", "s20"]


def test_a_sample_is_shown_with_all_that_it_teaches_and_who_wrote_it(tmp_path):
    sample = written(
        1, task="dialogue", question="And now?", earlier=(Turn(question="What organ?", answer="The colon."),)
    )
    html = page(tmp_path, stage(tmp_path / "s", [sample]))
    for text in ("What organ?", "The colon.", "And now?", "Fused glands 1.", "Glands are fused.", "Colon."):
        assert text in html
    assert "histopathology, easy" in html
    assert "written by rules-phantom-1" in html
    assert "data:image/" in html


def test_who_labelled_or_reviewed_a_sample_did_not_write_it(tmp_path):
    history = (
        Event(step="curate.subfield", version=1, model="logistic regression"),
        Event(step="curate.reviewed", version=1, reviewer="Ada"),
    )
    by_model = Event(step="reason", version=1, model="m")
    samples = [written(1, history=history), written(2, history=(*history, by_model))]

    found = data_stage("s", stage(tmp_path / "s", samples), 2)

    assert [item.by for item in found.written] == ["", "m"]


def test_a_sample_without_a_readable_picture_is_shown_without(tmp_path):
    broken = make_image().model_copy(update={"data": b"no picture"})
    html = page(tmp_path, stage(tmp_path / "s", [written(1, images=()), written(2, images=(broken,))]))
    assert html.count("No image.") == 2


def test_what_somebody_wrote_is_text_and_never_markup(tmp_path):
    fields = {
        "question": HOSTILE,
        "answer": HOSTILE,
        "context": HOSTILE,
        "reasoning": HOSTILE,
        "organ": HOSTILE,
        "choices": (HOSTILE, "b"),
        "task": "choice",
    }
    drops = [Drop(sample_id="d", step="s", reason=HOSTILE)]
    html = page(
        tmp_path,
        stage(tmp_path / "s", [written(1, **fields)], drops, [{"step": HOSTILE, HOSTILE: {HOSTILE: 1}}]),
    )
    assert "<script>alert" not in html
    assert "<img src=x" not in html


def test_a_report_may_be_about_data_alone(tmp_path):
    folders = {"checked": stage(tmp_path / "checked", [written(1)])}
    config = ReportConfig(name="report", kind="report", stages=("checked",), samples=("checked",))
    run_report(config, folders, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["data"][0]["kept"] == {"report": 1}
    assert "Kept: 1 report. Dropped: none." in (tmp_path / "out" / "report.md").read_text()
    assert "No results were given" not in (tmp_path / "out" / "report.html").read_text()


def test_a_report_about_nothing_is_refused(tmp_path):
    folder = stage(tmp_path / "pairs", [written(1)])
    (folder / FACTS_FILE).unlink()
    config = ReportConfig(name="report", kind="report", stages=("pairs",), samples=("pairs",))
    with pytest.raises(UserError, match="none of pairs measured anything or left facts, as evaluate, probe"):
        run_report(config, {"pairs": folder}, tmp_path / "out")
