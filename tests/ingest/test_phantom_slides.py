"""Source `phantom_slides`: evenly dealt questions about slides that are drawn once and kept in one split."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pathloom.benchmarks import find_benchmark
from pathloom.ingest.phantom_slides import LABELS, QUESTIONS, PhantomSlidesConfig
from pathloom.phantom.slide import EXTENTS, LESIONS, NORMAL
from pathloom.schema import Sample
from pathloom.slides.reader import open_slide
from pathloom.slides.record import read_records, read_tiles
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks import find_task


def slides(**fields: Any) -> PhantomSlidesConfig:
    given = {"name": "s", "kind": "ingest", "source": "phantom_slides", "train": 4, "side_px": 1024}
    return PhantomSlidesConfig.model_validate({**given, **fields})


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("slides")
    slides(train=4, test=6).ingest(out)
    return out


def asked(out: Path, question: str) -> list[Sample]:
    return [one for one in read_samples(out) if one.origin.source == f"phantom_{question}"]


def test_labels_extents_and_answers_are_dealt_evenly_and_independently() -> None:
    dealt = slides(train=72).slides()
    assert Counter(one.label for one in dealt) == dict.fromkeys(LABELS, 18)
    assert Counter(one.extent for one in dealt) == {"none": 18, "small": 27, "larger": 27}
    answers = Counter((one.asked, one.asked == one.label) for one in dealt)
    assert answers == {(lesion, truth): 12 for lesion in LESIONS for truth in (True, False)}
    told = Counter((one.extent, one.asked == one.label) for one in dealt if one.label != NORMAL)
    assert told["small", True] == told["larger", True] == 18


def test_each_slide_is_asked_three_things_in_one_split(ingested: Path) -> None:
    samples = list(read_samples(ingested))
    assert Counter(sample.origin.group for sample in samples) == {
        **{f"phantom-0-train-{index:05d}": len(QUESTIONS) for index in range(4)},
        **{f"phantom-0-test-{index:05d}": len(QUESTIONS) for index in range(6)},
    }
    for sample in samples:
        assert sample.scale == "slide"
        assert f"-{sample.split}-" in sample.origin.group
        assert sample.images[0].slide == sample.origin.group
        benchmark = find_benchmark(sample.origin.source)
        task = find_task(benchmark.task)
        assert benchmark.asks(sample)
        assert (
            task.score(sample, task.target(sample, task.templates[0], "direct"), task.templates[0]).correct
            == 1
        )


def test_the_answers_are_what_the_slide_holds(ingested: Path) -> None:
    plans = {one.name: one.plan(1024) for one in slides(train=4, test=6).slides()}
    for question in QUESTIONS:
        for sample in asked(ingested, question):
            plan = plans[sample.origin.group]
            if question == "slide_label":
                assert sample.answer == plan.label
            elif question == "slide_extent":
                assert sample.answer == plan.extent
                assert sample.choices == EXTENTS
            else:
                assert (sample.answer == "yes") == (sample.asked_finding == plan.label)
                assert str(sample.asked_finding) in sample.question
            assert sample.context.endswith(f"This is {plan.label}.")


def test_the_lesion_is_in_the_file_where_the_plan_says(ingested: Path) -> None:
    well, ill = (
        next(one for one in slides(test=6).slides() if one.label == label and one.split == "test")
        for label in (NORMAL, "necrosis")
    )
    for dealt in (well, ill):
        with open_slide(ingested / "files" / f"{dealt.name}.tiff") as slide:
            assert slide.size_l0 == (1024, 1024)
            assert slide.mpp_l0 == pytest.approx(1.0)
    plan = ill.plan(1024)
    x, y = plan.lesions[0].outline_l0.mean(0).astype(int)
    with open_slide(ingested / "files" / f"{ill.name}.tiff") as slide:
        lesion = slide.read_level(x - 8, y - 8, 0, 16, 16)
    assert np.mean(lesion) < 220


def test_a_run_that_was_killed_draws_only_what_is_missing(tmp_path: Path) -> None:
    config = slides(train=2)
    config.ingest(tmp_path)
    kept, gone = sorted((tmp_path / "files").glob("*.tiff"))
    when, bytes_of_gone = kept.stat().st_mtime_ns, gone.read_bytes()
    gone.unlink()
    config.ingest(tmp_path)
    assert kept.stat().st_mtime_ns == when
    assert gone.read_bytes() == bytes_of_gone


def test_another_seed_draws_other_slides_under_other_names() -> None:
    one, other = slides().slides()[1], slides(seed=1).slides()[1]
    assert one.name != other.name
    assert not np.array_equal(one.plan(1024).tissue_l0[0], other.plan(1024).tissue_l0[0])


def test_no_slide_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="no slide at all"):
        slides(train=0).check()


def test_every_slide_is_read_into_tiles_on_its_tissue(ingested: Path) -> None:
    plans = {one.name: one.plan(1024) for one in slides(train=4, test=6).slides()}
    assert {record.id for record, _ in read_records(ingested)} == set(plans)
    for record, folder in read_records(ingested):
        plan = plans[record.id]
        assert record.mpp_l0 == pytest.approx(1.0)
        assert record.tissue_share == pytest.approx(plan.tissue_area_px / 1024**2, abs=0.06)
        places = read_tiles(folder)
        assert len(places) == record.num_tiles
        assert all(plan.tissue_share_of_tile(x, y, record.size_px) > 0.05 for x, y in places)
