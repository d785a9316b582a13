"""Masks of objects in the four forms of files, what is wrong with them, and the public data that have them."""

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from pydantic import ValidationError

from pathloom.images import load_pixels
from pathloom.ingest.masks import MasksConfig
from pathloom.ingest.masks_files import outlined_mask
from pathloom.masks import dice, fill_boxes, mask_of, segment_classically
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks.boxes import MAX_BOXES

WIDTH_PX, HEIGHT_PX = 60, 40


def config(root: Path, form: str, **fields: Any) -> MasksConfig:
    entry = {
        "name": "nuclei",
        "kind": "ingest",
        "source": "masks",
        "root": root,
        "format": form,
        "what": "nucleus",
    }
    return MasksConfig.model_validate({**entry, "min_area_px": 4, **fields})


def records(entry: MasksConfig) -> tuple[dict[str, Sample], dict[str, Drop]]:
    found = [record for unit in entry.plan() for record in entry.read(unit)]
    return (
        {one.id: one for one in found if isinstance(one, Sample)},
        {one.sample_id: one for one in found if isinstance(one, Drop)},
    )


def write(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(pixels).save(path, **options)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)


def rectangle(x1: int, y1: int, x2: int, y2: int, value: int = 255) -> np.ndarray:
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    mask[y1:y2, x1:x2] = value
    return mask


def boxes_of(sample: Sample) -> list[tuple[float, ...]]:
    return [region.box_px for region in sample.regions]


def masks_of(sample: Sample) -> list[np.ndarray]:
    size_px = (sample.images[0].width_px, sample.images[0].height_px)
    return [mask_of(region, size_px) for region in sample.regions]


def per_object(root: Path, names: Sequence[str] = ("a", "b")) -> Path:
    for seed, name in enumerate(names):
        write(root / name / "images" / f"{name}.png", picture(seed))
        write(root / name / "masks" / "2.png", rectangle(2, 3, 10, 9))
        write(root / name / "masks" / "1.png", rectangle(30, 20, 50, 40))
    return root


def outlines(*regions: Sequence[tuple[object, object]]) -> str:
    written = "".join(
        f'<Region Id="{k}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices)
        + "</Vertices></Region>"
        for k, vertices in enumerate(regions, start=1)
    )
    inner = f"<Annotation><Regions>{written}</Regions></Annotation>"
    return f'<Annotations MicronsPerPixel="0.25">{inner}</Annotations>'


# ---------------------------------------------------------------------------------------------- the forms
def test_one_file_an_object_gives_one_question_a_picture_with_the_masks_as_they_were(tmp_path: Path):
    samples, drops = records(config(per_object(tmp_path), "png_per_object"))

    assert drops == {}
    assert set(samples) == {"masks/a", "masks/b"}
    sample = samples["masks/a"]
    assert (sample.task, sample.question) == ("mask", "Segment each nucleus.")
    assert boxes_of(sample) == [(2, 3, 10, 9), (30, 20, 50, 40)]
    assert [mask.sum() for mask in masks_of(sample)] == [48, 400]
    assert sample.images[0].data is None
    assert {one.split for one in samples.values()} == {"train", "test"}


def test_both_tasks_ask_about_the_same_regions(tmp_path: Path):
    samples, _ = records(config(per_object(tmp_path), "png_per_object", task="both"))

    assert set(samples) == {"masks/a/boxes", "masks/a/mask", "masks/b/boxes", "masks/b/mask"}
    assert samples["masks/a/boxes"].question == "Find each nucleus."
    assert samples["masks/a/boxes"].regions == samples["masks/a/mask"].regions
    assert samples["masks/a/boxes"].split == samples["masks/a/mask"].split


def test_masks_with_the_noise_of_jpeg_are_cut_at_half_and_specks_are_left_out(tmp_path: Path):
    mask = rectangle(10, 8, 40, 32)
    mask[36:38, 50:52] = 255
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.png", picture())
        write(tmp_path / "masks" / f"{name}.jpg", mask, quality=80)
    with PILImage.open(tmp_path / "masks" / "a.jpg") as stored:
        assert len(np.unique(np.array(stored))) > 2

    samples, drops = records(config(tmp_path, "binary", min_area_px=20))

    assert drops == {}
    (found,) = masks_of(samples["masks/a.png"])
    assert dice(found, rectangle(10, 8, 40, 32) > 0) > 0.98
    assert "1 pieces under 20 px left out" in samples["masks/a.png"].history[0].note


def test_values_of_a_label_map_are_asked_about_one_by_one_and_a_region_is_a_connected_piece(tmp_path: Path):
    values = rectangle(0, 0, 10, 10, 3) + rectangle(10, 10, 20, 20, 3) + rectangle(40, 5, 50, 15, 4)
    values += rectangle(30, 30, 40, 38, 3) + rectangle(50, 30, 55, 35, 1)
    for name in ("a", "b"):
        write(tmp_path / "img" / f"{name}.jpg", picture())
        write(tmp_path / "mask" / f"{name}.png", values)
    entry = config(
        tmp_path,
        "label_png",
        images="img",
        masks="mask",
        labels={"3": "grade 3", "4": "grade 4", "5": "grade 5"},
    )

    samples, drops = records(entry)

    assert drops == {}
    assert {key for key in samples if key.startswith("masks/a")} == {"masks/a.jpg/3", "masks/a.jpg/4"}
    # Two squares that meet at a corner are one piece.
    assert boxes_of(samples["masks/a.jpg/3"]) == [(0, 0, 20, 20), (30, 30, 40, 38)]
    assert samples["masks/a.jpg/4"].question == "Segment each grade 4."


def test_the_values_of_a_palette_are_its_indices_not_its_colours(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.png", picture())
        paletted = PILImage.new("P", (WIDTH_PX, HEIGHT_PX))
        paletted.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 255, 0, 0])
        paletted.paste(3, (5, 5, 20, 20))
        (tmp_path / "masks").mkdir(exist_ok=True)
        paletted.save(tmp_path / "masks" / f"{name}.png")

    samples, _ = records(config(tmp_path, "label_png", labels={"3": "gland"}))

    assert boxes_of(samples["masks/a.png/3"]) == [(5, 5, 20, 20)]


def test_outlines_become_the_pixels_whose_middles_they_enclose(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.png", picture())
        (tmp_path / f"{name}.xml").write_text(
            outlines([(2, 3), (10, 3), (10, 9), (2, 9)], [(20.2, 20.2), (30.2, 20.2), (20.2, 30.2)]), "utf-8"
        )

    samples, drops = records(config(tmp_path, "aperio_xml"))

    assert drops == {}
    square, triangle = masks_of(samples["masks/a.png"])
    assert np.array_equal(square, rectangle(2, 3, 10, 9) > 0)
    assert triangle.sum() == pytest.approx(50, abs=6)


def test_an_outline_that_crosses_itself_follows_the_even_odd_rule():
    bow_tie = outlined_mask([(0, 0), (10, 10), (10, 0), (0, 10)], (20, 20))

    assert bow_tie is not None
    assert not bow_tie.bits[0, 5]
    assert bow_tie.bits[5, 1]
    assert bow_tie.bits[5, 8]


# ------------------------------------------------------------------------------------------------- tiles
def test_tiles_cut_objects_and_together_hold_all_of_them(tmp_path: Path):
    entry = config(per_object(tmp_path), "png_per_object", tile_px=20, min_area_px=1)
    samples, drops = records(entry)

    assert drops == {}
    together = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=bool)
    for key, sample in samples.items():
        if key.startswith("masks/a/"):
            x, y = map(int, key.rpartition("/")[2].split("_"))
            (image,) = sample.images
            assert (image.width_px, image.height_px) == (20, 20)
            assert np.array_equal(np.array(load_pixels(image)), picture(0)[y : y + 20, x : x + 20])
            for mask in masks_of(sample):
                together[y : y + 20, x : x + 20] |= mask
    assert np.array_equal(together, (rectangle(2, 3, 10, 9) | rectangle(30, 20, 50, 40)) > 0)
    assert {sample.split for key, sample in samples.items() if key.startswith("masks/a/")} in (
        {"train"},
        {"test"},
    )


def test_a_narrow_strip_is_left_out_with_its_reason_and_a_wide_one_is_a_tile(tmp_path: Path):
    per_object(tmp_path)

    _, drops = records(config(tmp_path, "png_per_object", tile_px=32))  # 60 = 32 + 28 and 40 = 32 + 8
    samples, _ = records(config(tmp_path, "png_per_object", tile_px=32, include_absent=True))

    assert drops["masks/a"].reason == "narrow_strip"
    assert {(one.images[0].width_px, one.images[0].height_px) for one in samples.values()} == {
        (32, 32),
        (28, 32),
    }


def test_what_is_left_of_an_object_in_a_tile_may_be_too_small_to_ask_about(tmp_path: Path):
    for name in ("a", "b"):
        write(tmp_path / name / "images" / "p.png", picture())
        write(tmp_path / name / "masks" / "1.png", rectangle(5, 5, 21, 11))

    samples, _ = records(config(tmp_path, "png_per_object", tile_px=20, min_area_px=7))

    assert [key for key in samples if key.startswith("masks/a")] == ["masks/a/0_0"]


# --------------------------------------------------------------------------------------------- bad input
def test_each_bad_mask_is_told_and_the_rest_of_its_picture_is_used(tmp_path: Path):
    per_object(tmp_path)
    folder = tmp_path / "a" / "masks"
    write(folder / "empty.png", rectangle(0, 0, 0, 0))
    write(folder / "other.png", np.full((10, 10), 255, np.uint8))
    (folder / "cut.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "text.png").write_text("no picture", "utf-8")
    (folder / "folder.png").mkdir()
    (folder / "linked.png").symlink_to(folder / "gone.png")

    samples, drops = records(config(tmp_path, "png_per_object"))

    assert {Path(key).name: drop.reason for key, drop in drops.items()} == {
        "empty.png": "empty_mask",
        "other.png": "other_size",
        "cut.png": "truncated",
        "text.png": "not_an_image",
    }
    assert len(samples["masks/a"].regions) == 2
    assert len(samples["masks/b"].regions) == 2


def test_a_picture_without_masks_or_that_cannot_be_read_is_told(tmp_path: Path):
    per_object(tmp_path, ("a", "b", "c", "d", "e"))
    for path in (tmp_path / "c" / "masks").glob("*"):
        path.unlink()
    (tmp_path / "d" / "images" / "d.png").write_bytes(b"\x89PNG")
    write(tmp_path / "e" / "images" / "second.png", picture())

    samples, drops = records(config(tmp_path, "png_per_object"))

    assert set(samples) == {"masks/a", "masks/b"}
    assert {key: drop.reason for key, drop in drops.items()} == {
        "masks/c": "no_masks",
        "masks/d": "not_an_image",
        "masks/e": "no_one_picture",
    }


def test_bad_outlines_are_told_one_by_one(tmp_path: Path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / f"{name}.png", picture())
    good = [(2, 3), (10, 3), (10, 9), (2, 9)]
    far = [(200, 200), (210, 200), (210, 210)]
    half = [(50, 30), (80, 30), (80, 60), (50, 60)]
    (tmp_path / "a.xml").write_text(
        outlines(good, far, half, [(1, 1), (2, 2)], [("x", 1), (2, 2), (3, 3)], [("nan", 1), (2, 2), (3, 3)]),
        "utf-8",
    )
    (tmp_path / "b.xml").write_text(outlines(good), "utf-8")
    (tmp_path / "c.xml").write_text("<!DOCTYPE x><Annotations/>", "utf-8")
    (tmp_path / "lost.xml").write_text(outlines(good), "utf-8")

    entry = config(tmp_path, "aperio_xml")
    found = [one for unit in entry.plan() for one in entry.read(unit)]

    reasons = Counter(one.reason for one in found if isinstance(one, Drop))
    assert reasons == {
        "outside": 1, "bad_outline": 3, "unsafe_xml": 1, "nothing_to_ask": 1, "no_masks": 1, "missing_image": 1
    }  # fmt: skip
    samples = {one.id: one for one in found if isinstance(one, Sample)}
    assert boxes_of(samples["masks/a.png"]) == [(2, 3, 10, 9), (50, 30, 60, 40)]  # cut at the picture's edge


def test_label_maps_of_several_channels_and_masks_without_a_picture_are_told(tmp_path: Path):
    for name in ("a", "b", "c"):
        write(tmp_path / "images" / f"{name}.png", picture())
        write(tmp_path / "masks" / f"{name}.png", rectangle(5, 5, 20, 20, 2))
    write(tmp_path / "masks" / "c.png", picture())
    write(tmp_path / "masks" / "lost.png", rectangle(5, 5, 20, 20, 2))

    samples, drops = records(config(tmp_path, "label_png", labels={"2": "gland"}))

    assert set(samples) == {"masks/a.png/2", "masks/b.png/2"}
    assert {drop.reason for drop in drops.values()} == {"no_label_values", "missing_image", "nothing_to_ask"}


def test_two_pictures_or_two_masks_of_one_name_are_told_and_none_of_them_is_chosen(tmp_path: Path):
    for name in ("a", "b", "c", "d"):
        write(tmp_path / "images" / f"{name}.png", picture())
        write(tmp_path / "masks" / f"{name}.png", rectangle(5, 5, 20, 20))
    write(tmp_path / "images" / "a.jpg", picture(1))
    write(tmp_path / "masks" / "b.tif", rectangle(5, 5, 40, 20))

    samples, drops = records(config(tmp_path, "binary"))

    assert set(samples) == {"masks/c.png", "masks/d.png"}
    assert {key: drop.reason for key, drop in drops.items()} == {
        "masks/a.jpg": "ambiguous_name",
        "masks/b.png": "ambiguous_name",
    }
    assert "a.png" in drops["masks/a.jpg"].detail


def test_more_objects_than_an_answer_may_have_are_told_with_the_cure(tmp_path: Path):
    dots = np.zeros((HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    dots[::2, ::2] = 255
    assert (dots > 0).sum() > MAX_BOXES
    for name in ("a", "b"):
        write(tmp_path / "images" / f"{name}.png", picture())
        write(tmp_path / "masks" / f"{name}.png", dots)

    samples, drops = records(config(tmp_path, "binary", min_area_px=1))

    assert samples == {}
    assert drops["masks/a.png"].reason in ("too_many_objects", "nothing_to_ask")
    assert len(records(config(tmp_path, "binary", min_area_px=1, tile_px=20))[0]) == 12


@pytest.mark.parametrize(
    ("form", "fields", "fault"),
    [
        ("label_png", {}, "labels"),
        ("binary", {"labels": {"3": "gland"}}, "labels"),
        ("label_png", {"labels": {"0": "ground"}}, "no value of a mask"),
        ("label_png", {"labels": {"gland": "gland"}}, "no value of a mask"),
        ("svg", {}, "format"),
    ],
)
def test_a_wrong_entry_is_told(tmp_path: Path, form: str, fields: dict[str, Any], fault: str):
    with pytest.raises(ValidationError, match=fault):
        config(tmp_path, form, **fields)


def test_a_folder_without_what_the_format_needs_is_told(tmp_path: Path):
    with pytest.raises(UserError, match="is not a folder"):
        config(tmp_path / "gone", "png_per_object").check()
    with pytest.raises(UserError, match="is not a folder"):
        config(tmp_path, "binary").check()
    with pytest.raises(UserError, match="no picture with masks"):
        config(tmp_path, "png_per_object").check()


def test_the_stage_writes_what_is_read_and_its_key_follows_the_files(tmp_path: Path):
    entry = config(per_object(tmp_path / "data"), "png_per_object", task="both")
    out = tmp_path / "out"
    run_ingest(entry, out)

    assert [sample.id for sample in read_samples(out)] == sorted(records(entry)[0])
    assert pickle.loads(pickle.dumps(entry)).root == entry.root
    before = entry.fingerprint()
    write(tmp_path / "data" / "a" / "masks" / "3.png", rectangle(20, 3, 25, 9))
    assert config(tmp_path / "data", "png_per_object", task="both").fingerprint() != before


# --------------------------------------------------------------------------------------------- real data
def test_dsb2018_has_a_mask_for_each_of_its_nuclei(data_root: Path):
    samples, drops = records(config(data_root / "regions" / "dsb2018", "png_per_object", min_area_px=1))

    assert drops == {}
    assert len(samples) == 24
    assert sum(len(sample.regions) for sample in samples.values()) == 865


@pytest.mark.slow
def test_monuseg_has_the_nuclei_that_its_files_outline(data_root: Path):
    entry = config(data_root / "regions" / "monuseg", "aperio_xml", min_area_px=1)
    _, drops = records(entry)  # whole fields have more nuclei than an answer may
    tiles, tile_drops = records(entry.model_copy(update={"tile_px": 250}))

    assert {drop.detail.split(" ")[0] for drop in drops.values() if drop.reason == "too_many_objects"} == {
        "359", "294"
    }  # fmt: skip
    assert tile_drops == {}
    assert len(tiles) == 32
    assert sum(len(sample.regions) for sample in tiles.values()) > 359 + 294


def test_gleason_grades_are_asked_about_apart(data_root: Path):
    labels = {"3": "Gleason 3 region", "4": "Gleason 4 region"}
    entry = config(
        data_root / "regions" / "gleason",
        "label_png",
        images="img",
        masks="mask",
        labels=labels,
        min_area_px=500,
    )
    samples, drops = records(entry)

    assert drops == {}
    assert set(samples) == {
        f"masks/{key}" for key in ("test10.jpg/3", "test10.jpg/4", "test100.jpg/4", "test101.jpg/4")
    }
    assert all(1 <= len(sample.regions) < 40 for sample in samples.values())


def test_herlev_masks_are_one_cell_each_in_spite_of_their_jpeg_noise(data_root: Path):
    samples, drops = records(config(data_root / "cytology" / "herlev_masks", "binary", min_area_px=100))

    assert drops == {}
    assert len(samples) == 20
    assert {len(sample.regions) for sample in samples.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "form", "fields", "least", "margin"),
    [
        ("regions/dsb2018", "png_per_object", {}, 0.85, 0.03),
        ("regions/monuseg", "aperio_xml", {"tile_px": 250}, 0.88, 0.03),
        ("cytology/herlev_masks", "binary", {"min_area_px": 100}, 0.92, 0.05),
    ],
)
def test_from_the_true_boxes_real_objects_are_drawn_better_than_boxes_filled(
    data_root: Path, folder: str, form: str, fields: dict[str, Any], least: float, margin: float
):
    samples, _ = records(config(data_root / folder, form, **fields))
    drawn: list[float] = []
    filled: list[float] = []
    for sample in samples.values():
        pixels, true = np.array(load_pixels(sample.images[0])), masks_of(sample)
        for segment, into in ((segment_classically, drawn), (fill_boxes, filled)):
            found = segment(pixels, [region.box_px for region in sample.regions])
            into.append(float(np.mean([dice(mask, one) for mask, one in zip(found, true, strict=True)])))

    assert np.mean(drawn) > least
    assert np.mean(drawn) > np.mean(filled) + margin
