"""The small twin of PathoCLIP as it is shipped, with few pictures and steps: every stage hands on what it should."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pathloom.cli import main
from pathloom.recipe import load_recipe
from pathloom.store import read_samples

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "pathoclip_small.yaml"
WRITERS = ("unseen", "reworded", "patch", "spoken", "legend")
LABELLED = tuple(load_recipe(RECIPE).stage("labelled").model_dump()["test"])
FEW = {
    "patches.train": "{patch_caption: 24}",
    "talk_and_legends.train": "{spoken_caption: 12, legend_caption: 12}",
    **{f"{writer}.test": f"{{{writer}_caption: 12}}" for writer in WRITERS},
    "labelled.test": "{" + ", ".join(f"{name}: 9" for name in LABELLED) + "}",
    **{
        f"{stage}.{key}": value
        for stage in ("stage_one", "stage_two", "stage_one_only")
        for key, value in {"batch_size": 8, "max_steps": 2, "warmup_steps": 1}.items()
    },
    **{f"{stage}.num_resamples": 100 for stage in ("retrieval", "zero_shot")},
    "report.num_examples": 1,
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("open_clip", "reportlab", "pypdfium2", "rapidocr"):
        pytest.importorskip(module, reason="needs the extras `embed` and `books`")
    folder = tmp_path_factory.mktemp("pathoclip")
    book = folder / "book.pdf"
    assert main(["phantom", "book", "--out", str(book), "--pages", "4", "--seed", "7"]) == 0
    changes = [
        word for key, value in {**FEW, "books.path": book}.items() for word in ("--set", f"{key}={value}")
    ]
    assert main(["run", str(RECIPE), "--runs", str(folder / "runs"), *changes]) == 0
    return folder / "runs"


def only(runs: Path, stage: str) -> Path:
    (folder,) = (path for path in runs.glob(f"{stage}-*") if path.name.rpartition("-")[0] == stage)
    return folder


def boards(runs: Path, stage: str) -> list[dict]:
    return json.loads((only(runs, stage) / "boards.json").read_text("utf-8"))["boards"]


def test_both_arms_start_from_the_same_model_and_see_as_many_pairs(runs):
    cards = [
        json.loads((only(runs, stage) / "pathloom_card.json").read_text("utf-8"))
        for stage in ("stage_two", "stage_one_only")
    ]
    assert cards[0]["base"] == cards[1]["base"]
    assert cards[0]["pairs_seen"] == cards[1]["pairs_seen"] > 0
    stages = {s.name: s for s in load_recipe(RECIPE).stages}
    same = ("batch_size", "max_steps", "learning_rate", "warmup_steps", "weight_decay", "seed", "model")
    two, one = (stages[name].model_dump() for name in ("stage_two", "stage_one_only"))
    assert {key: two[key] for key in same} == {key: one[key] for key in same}


def test_stage_two_reads_all_writers_and_the_book_and_the_other_arm_one(runs):
    read = {
        stage: json.loads((only(runs, stage) / "pathloom_card.json").read_text("utf-8"))["trained_on"]
        for stage in ("stage_one", "stage_two", "stage_one_only")
    }
    assert read["stage_one"] == read["stage_one_only"] == ["phantom_patch_caption"]
    assert set(read["stage_two"]) == {
        "books",
        "phantom_legend_caption",
        "phantom_patch_caption",
        "phantom_spoken_caption",
    }


def test_no_held_out_picture_and_no_held_out_caption_is_trained_on(runs):
    trained = [
        s for stage in ("patches", "talk_and_legends", "books") for s in read_samples(only(runs, stage))
    ]
    held = [s for stage in (*WRITERS, "labelled") for s in read_samples(only(runs, stage))]

    assert {s.images[0].data for s in trained} & {s.images[0].data for s in held} == set()
    unseen = {s.answer for s in held if "wording=unseen" in s.strata and s.task == "caption"}
    assert len(unseen) == 24
    assert unseen & {s.answer for s in trained} == set()


def test_retrieval_and_zero_shot_measure_every_set(runs):
    assert [board["title"].split(": ")[1].split(",")[0] for board in boards(runs, "retrieval")] == [
        "unseen wording",
        "words of stage I in new sentences",
        "wording of stage I",
        "talk",
        "legends",
    ]
    measured = json.loads((only(runs, "zero_shot") / "manifest.json").read_text("utf-8"))
    assert measured["counts"]["samples_measured"] == 9 * len(LABELLED)
    assert len(LABELLED) >= 8


def test_labels_are_of_one_question_each(runs):
    counts = Counter(sample.origin.source for sample in read_samples(only(runs, "labelled")))
    assert counts == {f"phantom_{name}": 9 for name in LABELLED}


def test_the_report_says_that_pictures_are_phantoms(runs):
    page = (only(runs, "report") / "report.html").read_text("utf-8")
    assert "drawn by pathloom" in page
    assert "stage I + II" in page
