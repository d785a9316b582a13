"""The stage `report`: what it reads and holds."""

import json

from tests.evaluate.test_report_data import stage
from tests.fixtures import make_sample

from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.summary import read_answered, run_report
from pathloom.schema import Origin
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
