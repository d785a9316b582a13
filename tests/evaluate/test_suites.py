"""Suites of benchmarks, what of them is forgotten, and their place in a report."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.fixtures import make_sample

from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.measure import Prediction, write_measurements
from pathloom.evaluate.metrics import Scored, compare, measure
from pathloom.evaluate.report_records import BoardRow
from pathloom.evaluate.suites import boards_of_suites
from pathloom.evaluate.summary import run_report, terminal_summary
from pathloom.schema import Origin
from pathloom.stage import MANIFEST_FILE, UserError, write_json
from pathloom.store import write_samples
from pathloom.tasks import find_task
from pathloom.tasks.task import Score

CHOICE = find_task("choice")
GENERAL = ("basics_word_choice", "basics_lookup")


def answers(benchmark: str, right: Sequence[bool]) -> list[Scored]:
    """Each question about a picture of its own."""
    return [
        Scored(
            make_sample(
                f"{benchmark}/{k:03d}",
                task="choice",
                split="test",
                choices=("this", "that"),
                answer="this",
                origin=Origin(source=benchmark, source_id="", licence="CC0-1.0", group=f"{benchmark} {k}"),
            ),
            Score("this" if ok else "that", float(ok)),
        )
        for k, ok in enumerate(right)
    ]


def stage(words: Sequence[bool], lookups: Sequence[bool]) -> dict[str, list[Scored]]:
    return dict(zip(GENERAL, (answers(GENERAL[0], words), answers(GENERAL[1], lookups)), strict=True))


def drawn(seed: int, share: float, count: int = 200) -> list[bool]:
    """Which questions a made-up model gets right. Models of one seed differ only where their shares do."""
    return list(np.random.default_rng(seed).random(count) < share)


def report(stages: Sequence[str], **keys: Any) -> ReportConfig:
    given = {"suites": {"general": GENERAL}, **keys}
    return ReportConfig(name="report", kind="report", stages=tuple(stages), samples=("basics",), **given)


def forgetting(**keys: Any) -> dict[str, str]:
    return {"suite": "general", "before": "base", "without": "plain", "replayed": "replay", **keys}


def shown(row: BoardRow) -> tuple[Any, ...]:
    """Cells of which none is empty; their bounds may still be, so they are of any type here."""
    assert all(row.cells)
    return row.cells


def test_the_mean_of_a_suite_counts_benchmarks_and_not_samples():
    (board,), _ = boards_of_suites(report(["base"]), {"base": stage([True] * 2, [True, False] * 20)})

    (row,) = board.rows
    assert board.columns == ("mean", *GENERAL)
    assert row.values == pytest.approx((0.75, 1.0, 0.5))
    assert row.source == "42 answers"


def test_the_interval_of_each_benchmark_is_that_of_its_own_samples():
    scored = stage(drawn(0, 0.7), drawn(1, 0.4))
    (board,), _ = boards_of_suites(report(["base"]), {"base": scored})

    mean, words, lookups = shown(board.rows[0])
    for cell, name in ((words, GENERAL[0]), (lookups, GENERAL[1])):
        alone = measure(CHOICE, scored[name])["accuracy"]
        assert (cell.low, cell.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    half = 1.96 * math.sqrt((0.7 * 0.3 + 0.4 * 0.6) / 200) / 2
    assert mean.high - mean.low == pytest.approx(2 * half, rel=0.1), "benchmarks vary apart"


def test_a_difference_of_suites_is_paired():
    base, worse = stage(drawn(0, 0.8), drawn(1, 0.8)), stage(drawn(0, 0.7), drawn(1, 0.8))

    _, (found,) = boards_of_suites(report(["base", "plain"]), {"base": base, "plain": worse})

    alone = compare(CHOICE, base[GENERAL[0]], worse[GENERAL[0]])
    assert (found.before, found.after, found.benchmark) == ("base", "plain", "general")
    assert found.metric == "mean of 2 benchmarks"
    assert found.difference == pytest.approx(alone.difference / 2)
    assert (found.low, found.high) == pytest.approx((alone.low / 2, alone.high / 2), abs=0.004)
    assert found.n == 400


def test_a_stage_that_measured_a_part_of_the_suite_is_left_out():
    whole = stage([True] * 4, [False] * 4)
    part = {GENERAL[0]: whole[GENERAL[0]]}

    (board,), pairs = boards_of_suites(report(["base", "part"]), {"base": whole, "part": part})

    assert [row.name for row in board.rows] == ["base"]
    assert pairs == []


def test_a_suite_that_nobody_measured_is_refused():
    with pytest.raises(UserError, match=r"report\.suites\.general: no stage .* all of basics_word_choice"):
        boards_of_suites(report(["base"]), {"base": {}})


def test_stages_that_were_asked_other_samples_are_no_pair():
    answered = {"base": stage([True] * 4, [True] * 4), "limited": stage([True] * 3, [True] * 4)}

    (board,), pairs = boards_of_suites(report(["base", "limited"]), answered)

    assert len(board.rows) == 2
    assert pairs == []


def test_repeats_count_as_their_mean():
    answered = {
        "base": stage([True] * 4, [True] * 4),
        "run_0": stage([True, True, True, False], [True] * 4),
        "run_1": stage([True, False, False, False], [True] * 4),
    }
    config = report(list(answered), repeats={"run": ("run_0", "run_1")})

    (board,), (pair,) = boards_of_suites(config, answered)

    assert [row.name for row in board.rows] == ["base", "run_0", "run_1", "run (2 runs)"]
    assert board.rows[3].values == pytest.approx((0.75, 0.5, 1.0))
    assert (pair.before, pair.after) == ("base", "run (2 runs)")
    assert pair.difference == pytest.approx(-0.25)


def test_the_share_of_a_loss_that_remains_is_resampled_with_both_losses():
    answered = {
        "base": stage(drawn(0, 0.9), drawn(1, 0.9)),
        "plain": stage(drawn(0, 0.5), drawn(1, 0.5)),
        "replay": stage(drawn(0, 0.8), drawn(1, 0.8)),
    }
    config = report(list(answered), forgetting=(forgetting(),))

    (_, board), _ = boards_of_suites(config, answered)

    ((lost, kept, remains),) = map(shown, board.rows)
    assert remains.value == pytest.approx(kept.value / lost.value)
    assert remains.value == pytest.approx(0.25, abs=0.06)
    assert 0 < remains.low < remains.value < remains.high < 0.5
    apart = (kept.high / lost.low) - (kept.low / lost.high)
    assert remains.high - remains.low < apart, "resampled together, not one by one"
    assert board.notes[0].endswith("Something was lost without replay in every resample.")


def test_nothing_lost_has_no_share_and_the_board_says_so():
    same = stage(drawn(0, 0.5), drawn(1, 0.5))
    answered = {"base": same, "plain": same, "replay": same}

    (_, board), _ = boards_of_suites(report(list(answered), forgetting=(forgetting(),)), answered)

    assert math.isnan(shown(board.rows[0])[2].value)
    assert "In 100.0% of the resamples nothing was lost" in board.notes[0]


def test_a_gain_has_no_share_of_a_loss_and_no_interval_of_one():
    answered = {
        "base": stage(drawn(0, 0.5), drawn(1, 0.5)),
        "plain": stage(drawn(2, 0.5), drawn(3, 0.52)),
        "replay": stage(drawn(4, 0.5), drawn(5, 0.5)),
    }
    (_, board), _ = boards_of_suites(report(list(answered), forgetting=(forgetting(),)), answered)

    lost, _, share = shown(board.rows[0])
    assert lost.value < 0 < lost.high, "in some resamples something is lost"
    assert math.isnan(share.value)
    assert share.low is share.high is None
    assert "of the resamples nothing was lost" in board.notes[0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"suites": {"general": ("basics_wordchoice",)}}, "no benchmark 'basics_wordchoice'"),
        ({"suites": {"general": ()}}, "general: name at least one benchmark"),
        ({"suites": {"general": (GENERAL[0], GENERAL[0])}}, "none twice"),
        ({"forgetting": (forgetting(suite="other"),)}, "'other' is none of suites: general"),
        (
            {"forgetting": (forgetting(replayed="sft"),)},
            "sft is neither among the report's stages nor in repeats",
        ),
    ],
)
def test_suites_that_name_what_is_not_there_are_refused_when_the_recipe_is_read(keys, message):
    with pytest.raises(ValidationError, match=message):
        report(["base", "plain", "replay"], **keys)


def written(folder: Path, name: str, scored: Mapping[str, Sequence[Scored]]) -> Path:
    """The folder of an evaluate stage."""
    folder.mkdir(exist_ok=True)
    predictions = [
        Prediction(benchmark, "none", one.sample, "", one.score)
        for benchmark, many in scored.items()
        for one in many
    ]
    write_measurements(name, predictions, folder, num_resamples=100, seed=0)
    write_json({"kind": "evaluate", "counts": {}, "seconds": 1.0}, folder / MANIFEST_FILE)
    return folder


def test_a_report_shows_suites_first_on_the_page_and_in_the_terminal(tmp_path):
    answered = {
        "base": stage(drawn(0, 0.9, 30), drawn(1, 0.9, 30)),
        "plain": stage(drawn(0, 0.4, 30), drawn(1, 0.4, 30)),
        "replay": stage(drawn(0, 0.8, 30), drawn(1, 0.8, 30)),
    }
    folders = {name: written(tmp_path / name, name, scored) for name, scored in answered.items()}
    folders["basics"] = tmp_path / "basics"
    write_samples([one.sample for many in answered["base"].values() for one in many], folders["basics"])
    write_json({"kind": "ingest", "counts": {}, "seconds": 1.0}, folders["basics"] / MANIFEST_FILE)

    run_report(report(list(answered), forgetting=(forgetting(),)), folders, tmp_path / "out")

    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [board["title"] for board in found["boards"]] == ["Suite general", "What the suite general lost"]
    assert [pair["benchmark"] for pair in found["comparisons"][:4]] == ["general"] * 3 + ["basics_lookup"]
    lines = terminal_summary(tmp_path / "out" / "report.json").splitlines()
    at = lines.index("Suite general (* highest of its column)")
    assert lines[at + 1].split() == ["stage", "mean", *GENERAL]
    assert [line.split()[0] for line in lines[at + 2 : at + 5]] == ["base", "plain", "replay"]
    paired = lines[lines.index("Paired differences, after minus before") + 2]
    assert paired.split()[:7] == ["general", "mean", "of", "2", "benchmarks", "base", "plain"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Side by side</h2>" in page
    assert "share of the loss that remains" in page
    assert "share of the loss that remains" in (tmp_path / "out" / "report.md").read_text()
