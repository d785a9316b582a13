"""A model is asked about whole slides, and controls take the slide away or give it another one."""

from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import make_image, make_sample
from tests.slide_fixtures import slide_image, write_slides

from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.generative import PREDICTIONS, run_evaluate
from pathloom.evaluate.select import apply_control
from pathloom.models.load import load_model
from pathloom.models.slide import attach_slides
from pathloom.models.slide_config import SlideTokens
from pathloom.schema import Origin, Sample
from pathloom.slides.features import NO_SLIDE, Shelf
from pathloom.stage import UserError, read_jsonl
from pathloom.store import write_samples

SLIDES = {"one": 12, "two": 30, "three": 5}


def about(slide: str | None, answer: str = "yes", **fields: Any) -> Sample:
    name = slide or "region"
    origin = Origin(source="phantom_presence", source_id=name, licence="CC0-1.0", group=name)
    image = make_image() if slide is None else slide_image(slide)
    given = {"split": "test", "origin": origin, "images": (image,), "answer": answer}
    return make_sample(f"about {name}", **{**given, **fields})


@pytest.fixture(scope="module")
def inputs(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("asked")
    seen = write_slides(root / "seen", SLIDES, missing={"lost": "unreadable: cut off"})
    model, processor = load_model(str(model_folder))
    shelf = Shelf([seen])
    attach_slides(model, SlideTokens(side=2), shelf.kind, 0)
    for part in (model, processor):
        part.save_pretrained(root / "model")
    (root / "model" / "pathloom_card.json").write_bytes((model_folder / "pathloom_card.json").read_bytes())
    samples = [about("one"), about("two", "no"), about("three"), about("lost"), about(None, "no")]
    (root / "slides").mkdir()
    write_samples([*samples, about("unseen", split="train")], root / "slides")
    return {"slides": root / "slides", "seen": seen, "model": root / "model"}


def config(**fields: Any) -> EvaluateConfig:
    given = {
        "name": "after",
        "kind": "evaluate",
        "model": {"stage": "model"},
        "samples": ("slides",),
        "slides": ("seen",),
        "benchmarks": ("phantom_presence",),
        "controls": ("no_image", "wrong_image"),
        "max_new_tokens": 4,
        "num_resamples": 100,
    }
    return EvaluateConfig.model_validate({**given, **fields})


def test_slides_and_regions_are_asked_together_and_lost_ones_are_counted(inputs, tmp_path):
    counts = run_evaluate(config(), inputs, tmp_path)

    rows = read_jsonl(tmp_path / PREDICTIONS)
    asked = {(row["control"], row["sample_id"]) for row in rows}
    assert {name for control, name in asked if control == "none"} == {
        "about one",
        "about two",
        "about three",
        "about region",
    }
    assert {name for control, name in asked if control == "wrong_image"} == {
        "about one",
        "about two",
        "about three",
    }
    assert counts["without_slide_features"] == 1


def test_questions_about_slides_need_their_features(inputs, tmp_path):
    with pytest.raises(UserError, match=r"after\.slides"):
        run_evaluate(config(slides=()), inputs, tmp_path)


def test_without_its_image_a_slide_has_no_tiles():
    (asked,) = apply_control([about("one")], "no_image", 0)

    assert asked.images[0].slide == NO_SLIDE
    assert asked.scale == "slide"


def test_a_wrong_slide_is_another_slide_even_of_the_same_file_name():
    one, two = (
        about(slide, answer, images=(slide_image(slide).model_copy(update={"path": "slide.svs"}),))
        for slide, answer in (("one", "yes"), ("two", "no"))
    )

    swapped = apply_control([one, two, about(None, "no")], "wrong_image", 0)

    assert [sample.images[0].slide for sample in swapped] == ["two", "one"]  # the region has no other region
