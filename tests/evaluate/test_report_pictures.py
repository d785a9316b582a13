"""Slides by their thumbnails, masks by their outlines, points as points: what stands beside an answered question."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.tasks.samples import HEIGHT_PX, WIDTH_PX, make_sample

from pathloom.benchmarks import BENCHMARKS
from pathloom.evaluate.config import ReportConfig
from pathloom.evaluate.measure import Prediction, read_predictions, write_measurements
from pathloom.evaluate.report_data import data_stage
from pathloom.evaluate.report_pictures import OUTLINE_RGB, find_thumbnails, outlines_png, shown_png
from pathloom.evaluate.summary import run_report
from pathloom.images import BadImage
from pathloom.masks import region_of
from pathloom.schema import Image, Origin, Region, Sample
from pathloom.slides.record import RECORD_FILE, SlideRecord
from pathloom.stage import FACTS_FILE, MANIFEST_FILE, write_json
from pathloom.store import write_samples
from pathloom.tasks import find_task

SLIDE = Image(path="one.tif", width_px=40_000, height_px=30_000, mpp=0.5, slide="slide 1")
MASKS = "phantom_tumour_masks"


def leave_slide(stage: Path, thumbnail: bytes | None) -> Path:
    """A stage folder with one slide that was read."""
    folder = stage / "slides" / "one"
    folder.mkdir(parents=True)
    record = SlideRecord(
        id="slide 1", path="one.tif", vendor="generic-tiff", width_l0=40_000, height_l0=30_000, mpp_l0=0.5, mpp=1.0,
        size_px=224, num_tiles=9, tissue_share=0.3,
    )  # fmt: skip
    if thumbnail is not None:
        (folder / "thumbnail.jpg").write_bytes(thumbnail)
    (folder / RECORD_FILE).write_text(record.model_dump_json())
    return stage


def jpeg(colour: tuple[int, int, int] = (180, 90, 150)) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (80, 60), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_slide_is_shown_by_its_thumbnail_and_never_decoded(tmp_path):
    thumbnails = find_thumbnails([leave_slide(tmp_path, jpeg())])
    shown = PILImage.open(io.BytesIO(shown_png(SLIDE, thumbnails)))
    assert shown.size == (80, 60)
    assert np.abs(np.array(shown)[30, 40].astype(int) - (180, 90, 150)).max() < 6


@pytest.mark.parametrize("left", [None, b"", b"no picture", jpeg()[:200]])
def test_a_slide_without_a_good_thumbnail_is_shown_as_nothing(tmp_path, left: bytes | None):
    thumbnails = find_thumbnails([leave_slide(tmp_path, left)])
    assert shown_png(SLIDE, thumbnails) == b""
    assert shown_png(SLIDE, {}) == b""


def test_a_picture_that_is_gone_is_still_an_error():
    with pytest.raises(BadImage):
        shown_png(Image(path="gone.png", width_px=4, height_px=4), {})


def test_outlines_lie_on_the_masks_edge_and_leave_the_rest_clear():
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=bool)
    mask[20:60, 30:90] = True
    drawn = PILImage.open(io.BytesIO(outlines_png([region_of(mask)], (WIDTH_PX, HEIGHT_PX)))).convert("RGBA")
    pixels = np.array(drawn)
    line = pixels[..., 3] > 0
    expected = mask.copy()
    expected[21:59, 31:89] = False
    assert (line == expected).all()
    assert (pixels[line][:, :3] == OUTLINE_RGB).all()


def test_larger_pictures_get_thicker_outlines_and_no_masks_get_none():
    mask = np.zeros((600, 1000), dtype=bool)
    mask[100:300, 100:400] = True
    line = np.array(PILImage.open(io.BytesIO(outlines_png([region_of(mask)], (1000, 600)))).convert("RGBA"))
    assert (line[200, 100:110, 3] > 0).sum() == 4
    assert outlines_png([Region(box_px=(1, 1, 5, 5))], (10, 10)) == b""
    assert outlines_png([], (10, 10)) == b""


def asked(task: str, benchmark: str, **fields: Any) -> Sample:
    source = next(row.source for row in BENCHMARKS if row.name == benchmark)
    sample = make_sample(task, **fields)
    origin = Origin(source=source, source_id="", licence="CC0-1.0", group="g")
    return sample.model_copy(update={"origin": origin})


@pytest.fixture
def page(tmp_path: Path) -> str:
    """A report on boxes and points for masks, and on a question about a slide."""
    masks, task = asked("mask", MASKS), find_task("mask")
    slide = asked("label", "phantom_bethesda", name="s2", images=(SLIDE,))
    data, stage, out = (tmp_path / name for name in ("data", "model", "report"))
    leave_slide(data, jpeg())
    write_samples([masks, slide], data)
    write_json({"seconds": 1.0, "counts": {}}, data / MANIFEST_FILE)
    stage.mkdir()
    predictions = []
    for sample, template, text in (
        (masks, task.template("points_pixels"), "<answer>[[50,35],[150,60]]</answer>"),
        (slide, find_task("label").templates[0], "<answer>lsil</answer>"),
    ):
        benchmark = MASKS if sample is masks else "phantom_bethesda"
        score = find_task(sample.task).score(sample, text, template)
        predictions.append(Prediction(benchmark, "none", sample, text, score))
    write_measurements("model", predictions, stage, num_resamples=100, seed=0)
    write_json({"seconds": 1.0, "counts": {}}, stage / MANIFEST_FILE)
    config = ReportConfig(name="report", kind="report", stages=("model",), samples=("data",))
    run_report(config, {"data": data, "model": stage}, out)
    return (out / "report.html").read_text()


def test_points_and_true_outlines_are_drawn_over_the_picture(page: str):
    article = next(part for part in re.findall(r"<article.*?</article>", page, re.S) if MASKS in part)
    key = re.search(r'<use href="#outlines-(\w+)"', article)
    assert key is not None
    assert f'<symbol id="outlines-{key[1]}"' in page
    assert article.count('<circle class="said"') == 2
    assert "truth (2 masks)" in article
    assert "2 points" in article
    assert '<rect class="true"' not in article.split('<p class="key">')[0]


def test_the_page_shows_a_slides_thumbnail_and_the_size_of_level_0(page: str):
    article = next(part for part in re.findall(r"<article.*?</article>", page, re.S) if "bethesda" in part)
    assert "40,000 &times; 30,000 px at level 0 of the slide, shown as a thumbnail" in article
    assert '<use href="#image-' in article
    assert "could not be shown" not in article


def test_samples_of_a_stage_that_reads_slides_have_thumbnails_too(tmp_path):
    sample = asked("label", "phantom_bethesda", images=(SLIDE,))
    leave_slide(tmp_path, jpeg())
    write_samples([sample], tmp_path)
    write_json({"kind": "ingest", "counts": {"by_split_and_task": {"test/label": 1}, "drops": {}}},
               tmp_path / MANIFEST_FILE)  # fmt: skip
    write_json([], tmp_path / FACTS_FILE)
    (written,) = data_stage("slides", tmp_path, 3).written
    assert written.image_png is not None
    assert PILImage.open(io.BytesIO(written.image_png)).size == (80, 60)


def test_points_come_back_from_the_file_of_scores(tmp_path):
    sample, task = asked("mask", MASKS), find_task("mask")
    score = task.score(sample, "<answer>[[50,35]]</answer>", task.template("points_pixels"))
    write_measurements(
        "m", [Prediction(MASKS, "none", sample, "", score)], tmp_path, num_resamples=100, seed=0
    )
    (found,) = read_predictions(tmp_path, {sample.id: sample})
    assert found.score.answer == score.answer
