import pytest
from pydantic import ValidationError
from tests.fixtures import make_image, make_sample

from pathloom.schema import Attribute, Event, Region, Sample


def test_a_misspelt_field_is_refused_where_it_is_written():
    with pytest.raises(ValidationError, match="findin"):
        make_sample(findin="necrosis")


def test_records_cannot_be_changed_in_place():
    with pytest.raises(ValidationError, match="frozen"):
        make_sample().answer = "no"  # type: ignore[misc]


@pytest.mark.parametrize("split", ["train", "val", "test", "fold-0", "fold-12"])
def test_known_splits_are_taken(split):
    assert make_sample(split=split).split == split


@pytest.mark.parametrize("split", ["", "training", "fold-", "fold-a", "tests", "fold-1 "])
def test_other_splits_are_refused(split):
    with pytest.raises(ValidationError, match="split"):
        make_sample(split=split)


@pytest.mark.parametrize(
    "box_px",
    [(5, 0, 5, 9), (0, 9, 5, 9), (6, 0, 5, 9), (0, 0, float("nan"), 9), (0, 0, float("inf"), 9)],
)
def test_a_box_needs_area(box_px):
    with pytest.raises(ValidationError, match="no area"):
        Region(box_px=box_px)


def test_a_region_names_a_picture_that_is_there():
    region = Region(box_px=(0, 0, 4, 4), image=1)

    with pytest.raises(ValidationError, match="image 1 of 1"):
        make_sample(regions=(region,))
    assert make_sample(images=(make_image(0), make_image(1)), regions=(region,)).regions == (region,)


def test_an_attribute_has_one_value():
    small = Attribute(name="nuclear_size", value="normal", resolver="majority")
    large = Attribute(name="nuclear_size", value="markedly enlarged", resolver="expert")

    assert make_sample(attributes=(small,)).attribute("nuclear_size") == "normal"
    assert make_sample(attributes=(small,)).attribute("chromatin") is None
    with pytest.raises(ValidationError, match="nuclear_size stands twice"):
        make_sample(attributes=(small, large))


def test_a_changed_sample_keeps_its_history_and_leaves_the_old_one_alone():
    old = make_sample(answer="yes")
    new = old.changed(Event(step="curate.expert", version=2), answer="no")

    assert (old.answer, new.answer) == ("yes", "no")
    assert [event.step for event in new.history] == ["ingest.made", "curate.expert"]
    assert len(old.history) == 1


def test_a_change_is_checked_like_a_new_sample():
    with pytest.raises(ValidationError, match="split"):
        make_sample().changed(Event(step="s", version=1), split="elsewhere")


def test_a_sample_survives_json_but_its_bytes_stay_out_of_its_repr():
    sample = make_sample(images=(make_image(mpp=0.25).model_copy(update={"data": None}),))

    assert Sample.model_validate_json(sample.model_dump_json()) == sample
    assert "PNG" not in repr(make_sample())
