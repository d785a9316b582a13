"""Labels made wrong on purpose: as many as asked, known as simulated, the same at every run."""

from collections.abc import Iterator
from typing import Any

import pytest
from scipy.stats import binomtest
from tests.fixtures import make_sample

from pathloom.curate.simulated_labels import SimulatedLabelsStep
from pathloom.curate.step import Prepared
from pathloom.phantom.cytology import BETHESDA
from pathloom.schema import Sample
from pathloom.stage import UserError

NUM_CELLS = 2000
CELLS = [
    make_sample(f"c{number}", images=(), finding=BETHESDA[number % len(BETHESDA)])
    for number in range(NUM_CELLS)
]


def prepared(samples: list[Sample], error: float = 0.1, seed: int = 0) -> Prepared:
    def read() -> Iterator[Sample]:
        return iter(samples)

    return SimulatedLabelsStep(step="simulated_labels", error=error).prepare(read, {}, seed)


def changed(samples: list[Sample], **settings: Any) -> list[Sample]:
    step = prepared(samples, **settings)
    records = [step.change(sample) for sample in samples]
    return [record for record in records if isinstance(record, Sample)]


def test_the_share_of_wrong_labels_is_the_one_asked_for_and_no_class_is_spared():
    wrong = [(a, b) for a, b in zip(CELLS, changed(CELLS), strict=True) if a.finding != b.finding]
    interval = binomtest(len(wrong), NUM_CELLS).proportion_ci(0.999)
    assert interval.low < 0.1 < interval.high
    assert {a.finding for a, _ in wrong} == {b.finding for _, b in wrong} == set(BETHESDA)


def test_an_error_of_one_leaves_no_label_right():
    assert all(a.finding != b.finding for a, b in zip(CELLS, changed(CELLS, error=1), strict=True))


def test_a_wrong_label_is_named_as_simulated_with_what_it_was_and_counted():
    step = prepared(CELLS)
    told = []
    for sample in CELLS:
        after = step.change(sample)
        assert isinstance(after, Sample)
        if after.finding != sample.finding:
            told.append(f"{sample.finding} as {after.finding}")
            assert after.history[-1].note == f"simulated label error: was {sample.finding}"
        else:
            assert after == sample
    assert step.facts["simulated"] is True
    assert step.facts["labelled"] == NUM_CELLS
    assert step.facts["made_wrong"] == len(told) > 0
    assert step.facts["mistaken"] == {pair: told.count(pair) for pair in set(told)}


def test_a_sample_without_a_finding_stays_as_it_is():
    unlabelled = make_sample("u", images=(), finding=None)
    step = prepared([*CELLS[:8], unlabelled], error=1)
    assert step.change(unlabelled) == unlabelled
    assert step.facts["unlabelled"] == 1


def test_which_labels_are_wrong_depends_on_the_seed_and_not_on_the_order():
    once = {sample.id: sample.finding for sample in changed(CELLS)}
    assert once == {sample.id: sample.finding for sample in changed(CELLS[::-1])}
    assert once != {sample.id: sample.finding for sample in changed(CELLS, seed=1)}


def test_a_set_of_one_class_is_refused():
    with pytest.raises(UserError, match="leave the step out"):
        prepared(CELLS[::8])
