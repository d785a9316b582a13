"""Phantom question `cell`: a framed cell that keeps its neighbours, its truth in attributes and in no words."""

import io
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.attributes import load_schema
from pathloom.ingest.anchor import FRAME_RGB, mark_anchor
from pathloom.ingest.phantom import PhantomConfig
from pathloom.phantom.cytology import BETHESDA, PROFILES
from pathloom.schema import Sample

SCHEMA = load_schema("cervical_cell")


def cells(count: int, *, size_px: int = 64, seed: int = 0) -> list[Sample]:
    config = PhantomConfig(
        name="p", kind="ingest", source="phantom", size_px=size_px, seed=seed, train={"cell": count}
    )
    return [record for unit in config.plan() for record in config.read(unit) if isinstance(record, Sample)]


@pytest.fixture(scope="module")
def many() -> list[Sample]:
    return cells(80)


def is_frame(sample: Sample) -> NDArray[np.bool_]:
    assert sample.images[0].data is not None
    pixels_rgb = np.asarray(PILImage.open(io.BytesIO(sample.images[0].data)))
    return np.asarray((pixels_rgb == FRAME_RGB).all(axis=-1))


def test_classes_are_dealt_evenly_and_the_answer_says_the_true_attributes(many):
    assert Counter(sample.finding for sample in many) == dict.fromkeys(BETHESDA, 10)
    for sample in many:
        truth = {one.name: one.value for one in sample.attributes}
        assert list(truth) == list(SCHEMA.attributes)
        assert {one.resolver for one in sample.attributes} == {"truth"}
        assert sample.answer == SCHEMA.describe(truth)
        assert (sample.task, sample.context, sample.subfield) == ("caption", "", "cytology")
        assert sample.origin.source == "phantom_cell"


def test_a_broken_profile_is_said_in_the_strata(many):
    for sample in many:
        profile = PROFILES[str(sample.finding)]
        broken = any(one.value not in profile[one.name] for one in sample.attributes)
        assert f"profile={'broken' if broken else 'kept'}" in sample.strata
    assert 0 < sum("profile=broken" in sample.strata for sample in many) < 30


@pytest.mark.parametrize("size_px", [64, 112, 160])
def test_the_frame_lies_around_the_cell_and_hides_nothing_of_it(size_px):
    for sample in cells(8, size_px=size_px):
        x1, y1, x2, y2 = (int(edge) for edge in sample.regions[0].box_px)
        frame = is_frame(sample)
        assert not frame[y1:y2, x1:x2].any()
        assert frame[y1 - 1, x1:x2].all()
        assert frame[y2, x1:x2].all()
        assert frame[y1:y2, x1 - 1].all()
        assert frame[y1:y2, x2].all()


def test_what_is_around_the_cell_is_kept():
    for sample in cells(8, size_px=112):
        x1, y1, x2, y2 = sample.regions[0].box_px
        assert (x2 - x1) * (y2 - y1) < 0.8 * 112**2
        assert is_frame(sample).mean() < 0.05


def test_the_frame_of_a_cell_at_the_edge_is_closed_on_the_edge():
    marked = np.asarray(mark_anchor(PILImage.new("L", (60, 40), 255), (-3.0, 5.5, 20.2, 40.0)))
    frame = (marked == FRAME_RGB).all(axis=-1)
    assert frame[4, :22].all()  # above 5.5, rounded down to 5
    assert frame[39, :22].all()
    assert frame[4:40, 0].all()
    assert frame[4:40, 21].all()  # right of 20.2, rounded up to 21
    assert frame.sum() == 2 * 22 + 2 * 34


def test_marking_leaves_the_picture_that_was_given_alone():
    picture = PILImage.new("RGB", (40, 40), (255, 255, 255))
    mark_anchor(picture, (10, 10, 30, 30))
    assert picture.getcolors() == [(1600, (255, 255, 255))]
