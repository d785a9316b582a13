"""The stage `report`: what it reads and holds."""

import json
from pathlib import Path

from tests.evaluate.test_report_data import stage
from tests.fixtures import make_sample

from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.encoders import write_measured
from pathloom.evaluate.report_records import Board, BoardRow, Cell, Comparison, Confusion, Measured
from pathloom.evaluate.summary import read_answered, run_report
from pathloom.schema import Origin
from pathloom.stage import MANIFEST_FILE, write_json
from pathloom.store import write_samples


def test_only_samples_that_an_evaluation_answers_are_held(tmp_path):
    samples = [make_sample(f"s{number}") for number in range(20)]
    other = Origin(source="books", source_id="b", licence="x", group="b")
    write_samples(samples, tmp_path / "pairs")
    write_samples([samples[3], make_sample("b", origin=other)], tmp_path / "more")

    held, sources = read_answered([tmp_path / "pairs", tmp_path / "more"], {"s3", "s7", "elsewhere"})

    assert list(held) == ["s3", "s7"]
    assert held["s7"] == samples[7]
    assert sources == ["books, licence x, 1 samples", "made, licence CC0-1.0, 20 samples"], "s3 counts once"


def test_a_report_counts_the_sources_of_samples_that_nobody_was_asked_about(tmp_path):
    folders = {"pairs": stage(tmp_path / "pairs", [make_sample("a"), make_sample("b")])}
    config = ReportConfig(name="report", kind="report", stages=("pairs",), samples=("pairs",))

    run_report(config, folders, tmp_path / "out")

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sources"] == ["made, licence CC0-1.0, 2 samples"]


def encoders_stage(folder: Path, name: str) -> Path:
    """What a stage such as zero_shot leaves: no Samples, a board, and what the board rests on."""
    folder.mkdir()
    row = BoardRow(name="ours", origin="measured", source="noise:8", cells=(Cell(value=50.0),))
    measured = Measured(
        boards=(Board(stage=name, title=f"Board of {name}", columns=("LC-Lung",), rows=(row,)),),
        confusions=(Confusion(stage="ours", benchmark=name, labels=("a", "b"), counts=((1, 0), (0, 1))),),
        comparisons=(
            Comparison(
                before="theirs", after="ours", benchmark=name, metric="accuracy",
                difference=0.1, low=0.0, high=0.2, n=2, p_value=None,
            ),
        ),
    )  # fmt: skip
    write_measured(measured, [], folder)
    counts = {"samples_measured": 2, "drops": {"unreadable": 3}}
    write_json({"kind": name, "counts": counts, "seconds": 2.5}, folder / MANIFEST_FILE)
    return folder


def test_a_report_takes_up_what_stages_of_encoders_left(tmp_path):
    names = ("zero_shot", "retrieval")
    folders = {name: encoders_stage(tmp_path / name, name) for name in names}
    folders["tiles"] = stage(tmp_path / "tiles", [make_sample("a")])
    config = ReportConfig(name="report", kind="report", stages=names, samples=("tiles",))

    counts = run_report(config, folders, tmp_path / "out")

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert counts == {"rows": 0, "boards": 2, "examples": 0}
    assert [board["title"] for board in report["boards"]] == ["Board of zero_shot", "Board of retrieval"]
    assert [one["benchmark"] for one in report["comparisons"]] == ["zero_shot", "retrieval"]
    assert [one["benchmark"] for one in report["confusions"]] == ["zero_shot", "retrieval"]
    assert "zero_shot: 3 records were dropped (3 unreadable)." in report["notes"]
    assert report["seconds"]["retrieval"] == 2.5


def test_boards_stand_beside_the_facts_of_data_stages(tmp_path):
    folders = {
        "zero_shot": encoders_stage(tmp_path / "zero_shot", "zero_shot"),
        "pairs": stage(tmp_path / "pairs", [make_sample("a")]),
    }
    config = ReportConfig(name="report", kind="report", stages=("pairs", "zero_shot"), samples=("pairs",))

    run_report(config, folders, tmp_path / "out")

    text = (tmp_path / "out" / "report.html").read_text()
    assert text.index("Board of zero_shot") < text.index("1 Samples kept")
