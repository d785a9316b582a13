import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.curate.expert_cells import attribute, cell, drawn_cells, put, stage_of

from pathloom.curate.expert import ExpertStep
from pathloom.curate.intervals import bootstrap_mean, ratio_intervals
from pathloom.schema import Sample
from pathloom.stage import UserError


def measured(
    known: Sequence[Sample], truths: Sequence[Sample], folder: Path, **keys: Any
) -> Mapping[str, Any]:
    step = ExpertStep(step="expert", truth="cells", **keys)
    assert step.needs() == ("cells",)
    return step.prepare(lambda: iter(known), {"cells": stage_of(truths, folder)}, 0).facts


def test_each_correction_and_each_review_is_held_against_the_truth(tmp_path):
    exception = cell("exception", nuclear_size="normal")
    truths = [*map(cell, ("mended", "other", "label", "needless", "rightly")), exception]
    truths[1] = put(truths[1], attribute("nuclear_size", "mildly enlarged"))
    truths[2] = truths[2].model_copy(update={"finding": "HSIL"})
    truths[3] = cell("needless", chromatin="fine even")
    known = [
        cell("mended", nuclear_size="normal"),
        cell("other", nuclear_size="normal"),
        cell("label", nuclear_size="normal", nucleoli="large", nc_ratio="high"),
        cell("needless", chromatin="fine even"),
        cell("rightly", chromatin="fine even"),
        exception,
    ]

    facts = measured(known, truths, tmp_path)

    became = {key.removeprefix("breaks_"): count for key, count in facts.items() if key.startswith("breaks_")}
    assert became == {
        "wrong_to_true": 1,
        "true_to_wrong": 1,
        "wrong_to_wrong": 1,
        "routed_rightly": 4,
        "routed_needlessly": 1,
    }
    rules = {row["rule"]: row for row in facts["rules_against_truth"]}
    size = rules["LSIL-size"]
    assert [size[key] for key in ("wrong_to_true", "true_to_wrong", "wrong_to_wrong", "routed_rightly")] == [
        *(1, 1, 1, 1)
    ]
    assert (size["checked"], size["error_change"]) == (6, 0)
    assert "error_change" not in rules["NILM-size"]
    assert facts["labels"] == {
        "wrong class": {"samples": 1, "routed": 1, "corrected": 0, "unbroken": 0, "routed_share": 1.0},
        "right class": {"samples": 5, "routed": 2, "corrected": 3, "unbroken": 0, "routed_share": 0.4},
    }
    json.dumps(facts, allow_nan=False)


def test_a_stage_that_knows_the_truth_of_nothing_here_is_said(tmp_path):
    with pytest.raises(UserError, match=r"expert\.truth: that stage has true attributes of none"):
        measured([cell("a")], [cell("b")], tmp_path)
    assert measured([cell("a"), cell("c")], [cell("a")], tmp_path / "c")["without_truth"] == 1


def test_a_stage_of_which_nothing_is_left_is_measured_without_a_crash(tmp_path):
    facts = measured([], [cell("a")], tmp_path)
    assert (facts["samples"], facts["breaks_wrong_to_true"], facts["errors"]["all"]) == (0, 0, {})
    assert measured([cell("a", finding=None)], [cell("a")], tmp_path / "c")["not_checked"] == 1


@pytest.fixture(scope="module")
def cells() -> tuple[list[Sample], list[Sample]]:
    """Truth and fused votes of cells of which a tenth breaks its profile and a tenth has a wrong label."""
    return drawn_cells(1200, seed=7)


def test_the_rules_take_errors_away_from_simulated_annotators_and_find_wrong_labels(cells, tmp_path):
    truths, known = cells

    facts = measured(known, truths, tmp_path)

    errors = facts["errors"]
    assert errors["all"]["high"] < 0
    assert errors["all"]["error_after"] < 0.8 * errors["all"]["error_before"]
    assert errors["learnt_from"]["error_after"] < errors["all"]["error_after"]
    assert facts["breaks_wrong_to_true"] > 4 * facts["breaks_true_to_wrong"]
    assert facts["labels"]["wrong class"]["routed_share"] > 0.85
    assert facts["labels"]["right class"]["routed_share"] < 0.12
    assert facts["corrected"] + facts["routed"] + facts["unbroken"] == facts["samples"] == 1200


def test_without_review_the_rules_do_more_harm_than_with_it(cells, tmp_path):
    truths, known = cells

    bold = measured(known, truths, tmp_path, max_corrections=9, unanimous="correct")

    assert bold["breaks_true_to_wrong"] > bold["breaks_wrong_to_true"]
    assert bold["errors"]["all"]["error_change"] > 0


def test_what_is_left_to_reviewers_changes_no_error(cells, tmp_path):
    truths, known = cells

    timid = measured(known, truths, tmp_path, max_corrections=0)

    assert timid["errors"]["all"]["error_change"] == timid["corrected"] == 0


def test_an_interval_covers_the_mean_and_resamples_whole_groups():
    rng = np.random.default_rng(0)
    of_group = rng.normal(size=50)
    values, groups = np.repeat(of_group, 20), np.repeat(np.arange(50), 20).tolist()

    value, low, high = bootstrap_mean(values, groups, seed=1)
    alone = bootstrap_mean(values, list(range(1000)), seed=1)

    assert value == pytest.approx(values.mean())
    assert (high - low) / 4 == pytest.approx(of_group.std() / 50**0.5, rel=0.1)
    assert alone[2] - alone[1] < 0.5 * (high - low)
    assert bootstrap_mean(values, groups, seed=1) == (value, low, high)
    assert bootstrap_mean([1.0, 2.0], ["a", "a"], seed=1)[0] == 1.5


def test_draws_in_which_nothing_is_counted_are_no_zeros():
    counts = np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    low, high = ratio_intervals(counts, counts, seed=1)
    assert (low[0], high[0]) == (1, 1), "the one Sample that counts is wrong in every draw that holds it"
    assert np.isnan([low[1], high[1]]).all()


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="0 values of 0 groups"):
        bootstrap_mean([], [], seed=1)
