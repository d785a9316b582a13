"""Source `cells`: from a field's boxes to tiles."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from tests.fixtures import noting

from pathloom.cli import main
from pathloom.images import load_pixels, read_image
from pathloom.ingest import cells as module
from pathloom.ingest.anchor import FRAME_RGB
from pathloom.ingest.cells import CellsConfig
from pathloom.ingest.cells_tiles import choose_anchors
from pathloom.phantom.cell import draw_cell
from pathloom.recipe import load_entry
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples

WIDTH_PX, HEIGHT_PX = 120, 90
A_BOX = (50, 40, 70, 56)


def cells(root: Path, **keys: Any) -> CellsConfig:
    entry = {"images": root / "images", **({"tile_px": 48} if keys.get("boxes") != "whole" else {}), **keys}
    if "boxes" not in keys and "detector" not in keys:
        entry["boxes"] = root / "boxes.csv"
    if entry.get("tile_um"):
        del entry["tile_px"]
    return CellsConfig.model_validate({"name": "cells", "kind": "ingest", "source": "cells", **entry})


def marked_field(seed: int = 0) -> np.ndarray:
    """[90, 120, 3]: red is the column, green the row, so each pixel says where it was."""
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    return np.stack([columns + 100, rows + 100, np.full_like(rows, 100 + seed)], -1).astype(np.uint8)


def write_field(root: Path, name: str, seed: int = 0) -> None:
    path = root / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.fromarray(marked_field(seed)).save(path)


def write_fields(root: Path, *rows: str, names: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    """Fields and boxes.csv; b.png has one ordinary cell, for a split needs two fields."""
    for seed, name in enumerate(names):
        write_field(root, name, seed)
    write_boxes(root, ["file,x1,y1,x2,y2,label", *rows, "b.png,50,40,70,56,"])
    return root


def write_boxes(root: Path, lines: Sequence[str]) -> None:
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")


def error_of(config: CellsConfig) -> str:
    with pytest.raises(UserError) as caught:
        config.check()
    return str(caught.value)


def read_all(config: CellsConfig) -> tuple[list[Sample], list[Drop]]:
    records = [record for unit in config.plan() for record in config.read(unit)]
    samples = [record for record in records if isinstance(record, Sample)]
    return samples, [record for record in records if isinstance(record, Drop)]


def reasons(config: CellsConfig) -> Counter[str]:
    return Counter(drop.reason for drop in read_all(config)[1])


def of_field(config: CellsConfig, name: str = "a.png") -> list[Sample]:
    return [sample for sample in read_all(config)[0] if f"/{name}" in sample.id]


def tile_of(sample: Sample) -> np.ndarray:
    return np.asarray(load_pixels(sample.images[0]))


def is_frame(pixels: np.ndarray) -> np.ndarray:
    return (pixels == FRAME_RGB).all(-1)


# ------------------------------------------------------------------------------------------------ tiles
def test_one_anchor_cell_is_one_caption_sample_with_its_box_and_where_it_was(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,lsil")
    config = cells(tmp_path, classes={"lsil": "LSIL"}, dataset="smears", licence="CC0", mpp=0.5)

    (sample,) = of_field(config)

    assert sample.id == "smears/a.png/50_40_70_56"
    assert (sample.task, sample.answer, sample.finding, sample.subfield) == (
        "caption",
        "",
        "LSIL",
        "cytology",
    )
    assert sample.question == "Describe the cell in the box."
    assert (sample.attributes, sample.annotations, sample.context) == ((), (), "")
    image = sample.images[0]
    assert (image.path, image.width_px, image.height_px, image.mpp) == ("a_50_40_70_56.png", 48, 48, 0.5)
    assert image.data is not None
    assert [(region.box_px, region.label) for region in sample.regions] == [((14, 16, 34, 32), "cell")]
    origin = sample.origin
    assert (origin.source, origin.licence, origin.group) == ("smears", "CC0", "a.png")
    assert origin.box_l0 == A_BOX
    assert origin.source_id == str((tmp_path / "images" / "a.png").resolve())
    assert [(event.step, event.note) for event in sample.history] == [("ingest.cells", "label lsil")]


@pytest.mark.parametrize(
    ("box", "corner"),
    [
        (A_BOX, (36, 24)),  # in the middle of its tile
        ((2, 3, 12, 14), (0, 0)),  # near the edge: the tile is shifted, not filled
        ((100, 70, 118, 88), (WIDTH_PX - 48, HEIGHT_PX - 48)),
    ],
)
def test_a_tile_holds_the_very_pixels_of_its_field_and_the_region_says_where_the_cell_is(
    tmp_path, box, corner
):
    write_fields(tmp_path, "a.png,{},{},{},{},".format(*box))
    (sample,) = of_field(cells(tmp_path))
    tile, field = tile_of(sample), marked_field()

    expected = field[corner[1] : corner[1] + 48, corner[0] : corner[0] + 48]
    untouched = ~is_frame(tile)
    assert (tile[untouched] == expected[untouched]).all()
    assert untouched.mean() > 0.9
    x1, y1, x2, y2 = (int(edge) for edge in sample.regions[0].box_px)
    assert (tile[y1:y2, x1:x2] == field[box[1] : box[3], box[0] : box[2]]).all()


def test_the_frame_runs_around_the_box_and_never_over_it(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,")
    (sample,) = of_field(cells(tmp_path))
    frame = is_frame(tile_of(sample))
    x1, y1, x2, y2 = (int(edge) for edge in sample.regions[0].box_px)
    assert not frame[y1:y2, x1:x2].any()
    assert frame[y1 - 1, x1 - 1 : x2 + 1].all()
    assert frame[y2, x1 - 1 : x2 + 1].all()
    assert frame[y1 - 1 : y2 + 1, x1 - 1].all()
    assert frame[y1 - 1 : y2 + 1, x2].all()
    assert frame.sum() == 2 * (x2 - x1 + y2 - y1) + 4


def test_boxes_between_pixels_are_widened_to_whole_ones(tmp_path):
    write_fields(tmp_path, "a.png,50.4,40.2,69.3,55.9,")
    (sample,) = of_field(cells(tmp_path))
    assert sample.origin.box_l0 == A_BOX


def test_a_resized_tile_has_a_resized_box_and_its_own_resolution(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,")
    (sample,) = of_field(cells(tmp_path, out_px=72, mpp=0.5))
    assert sample.images[0].width_px == 72
    assert sample.images[0].mpp == pytest.approx(0.5 / 1.5)
    assert sample.regions[0].box_px == (21, 24, 51, 48)
    tile = tile_of(sample)
    assert not is_frame(tile[24:48, 21:51]).any()
    assert tile[36, 36, 0] == pytest.approx(100 + 36 + 36 / 1.5, abs=1.5)


def test_a_tile_in_micrometres_has_the_same_field_of_view_at_any_resolution(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,")
    for mpp, side_px in ((1.0, 40), (0.5, 80)):
        (sample,) = of_field(cells(tmp_path, tile_um=40, mpp=mpp))
        assert sample.images[0].width_px == side_px
        assert sample.images[0].mpp == mpp


def test_a_field_smaller_than_the_tile_is_filled_with_the_colour_of_its_edge(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,")
    (sample,) = of_field(cells(tmp_path, tile_px=100))
    tile = tile_of(sample)
    assert sample.regions[0].box_px == (40, 45, 60, 61)  # 5 rows above, 10 columns cut off on the left
    assert len(np.unique(tile[:5].reshape(-1, 3), axis=0)) == 1
    assert (tile[45:61, 40:60] == marked_field()[40:56, 50:70]).all()


def test_a_box_across_the_edge_is_cut_there_and_the_history_says_so(tmp_path):
    write_fields(tmp_path, "a.png,-5,40,15,56,")
    (sample,) = of_field(cells(tmp_path))
    assert sample.origin.box_l0 == (0, 40, 15, 56)
    assert sample.history[-1].note == "box cut at the field's edge"


def test_the_same_entry_gives_the_same_records_whatever_order_units_are_read_in(tmp_path):
    rows = [f"a.png,{x},{y},{x + 10},{y + 10}," for x in range(0, 100, 12) for y in range(0, 70, 12)]
    write_fields(tmp_path, *rows)
    config, again = (cells(tmp_path, max_cells=20, seed=3) for _ in range(2))
    backwards = [record for unit in reversed(again.plan()) for record in again.read(unit)]
    samples, drops = read_all(config)
    assert {record.id for record in samples} == {r.id for r in backwards if isinstance(r, Sample)}
    assert samples == sorted((r for r in backwards if isinstance(r, Sample)), key=samples.index)
    assert len(drops) == len(backwards) - len(samples)


# ------------------------------------------------------------------------------------------------ which cells
def test_boxes_that_cannot_be_cells_are_drops_with_their_reason(tmp_path):
    write_fields(
        tmp_path,
        "a.png,50,40,70,56,",
        "a.png,51,40,70,56,",  # the same cell again
        "a.png,200,10,220,30,",
        "a.png,10,10,14,30,",
        "a.png,30,30,20,40,",
        "a.png,5,5,60,50,",
        "a.png,x,5,60,50,",
        "gone.png,1,1,20,20,",
    )
    assert reasons(cells(tmp_path)) == {
        "marked_twice": 1,
        "outside": 1,
        "too_small": 1,
        "no_area": 1,
        "too_large": 1,
        "unreadable_box": 1,
        "missing_image": 1,
    }
    assert [sample.origin.box_l0 for sample in of_field(cells(tmp_path))] == [A_BOX]


def test_a_cell_that_was_marked_with_two_labels_is_left_out(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,LSIL", "a.png,50,40,70,57,HSIL", "a.png,10,10,30,30,LSIL")
    config = cells(tmp_path, classes={"LSIL": "LSIL"})
    assert [sample.finding for sample in of_field(config)] == ["LSIL"]
    assert reasons(config) == {"labels_disagree": 2}


def test_overlapping_cells_are_different_cells(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,", "a.png,55,44,75,60,")
    assert len(of_field(cells(tmp_path))) == 2


def test_of_too_many_cells_those_far_apart_are_taken_and_the_others_counted(tmp_path):
    crowd = [f"a.png,{x},{y},{x + 10},{y + 10}," for x in (0, 11, 22) for y in (0, 11, 22)]
    write_fields(tmp_path, *crowd, "a.png,105,75,116,86,")
    samples = of_field(cells(tmp_path, max_cells=2))
    assert len(samples) == 2
    assert samples[-1].origin.box_l0 == (105, 75, 116, 86)
    assert reasons(cells(tmp_path, max_cells=2)) == {"over_max_cells": 8}


def test_two_marks_of_one_cell_are_found_among_many_cells_of_any_size():
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 4000, (300, 2)), rng.uniform(10, 120, (300, 1))
    boxes = [
        ("", (x, y, x + s, y + s)) for (x, y), (s,) in zip(corners.tolist(), sides.tolist(), strict=True)
    ]
    again = [("", (x1 + 0.03 * (x2 - x1), y1, x2, y2)) for _, (x1, y1, x2, y2) in boxes]
    once, _ = choose_anchors(boxes, (5000, 5000), sides_px=(1, 999), most=1000, seed=0)
    twice, refused = choose_anchors(boxes + again, (5000, 5000), sides_px=(1, 999), most=1000, seed=0)
    assert twice == once
    assert len(refused) == 600 - len(once)


def test_a_label_without_a_class_gives_a_cell_without_one(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,odd", "a.png,10,10,30,30,LSIL")
    config = cells(tmp_path, classes={"LSIL": "LSIL"})
    assert {sample.finding for sample in of_field(config)} == {None, "LSIL"}
    assert error_of(cells(tmp_path, classes={"LSIl": "LSIL"})) == (
        "cells.classes: no box is labelled 'LSIl', did you mean 'LSIL'?; known: LSIL, odd"
    )


def test_a_field_that_cannot_be_read_is_one_drop_however_many_cells_it_has(tmp_path):
    rows = [f"a.png,{x},10,{x + 10},20," for x in range(0, 100, 12)]
    write_fields(tmp_path, *rows)
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    assert reasons(cells(tmp_path)) == {"not_an_image": 1}
    assert of_field(cells(tmp_path)) == []


def test_fields_are_decoded_once_and_one_is_held_at_a_time(tmp_path, monkeypatch):
    rows = [f"{name},{x},10,{x + 10},20," for name in ("a.png", "c.png") for x in range(0, 100, 12)]
    write_fields(tmp_path, *rows, names=("a.png", "b.png", "c.png"))
    config = cells(tmp_path)
    module._open_field.cache_clear()
    read: list[str] = []
    reader = noting(lambda path, **_: read.append(path.name), read_image)
    monkeypatch.setattr(module, "read_image", reader)
    assert len(config.plan()) == 3 + 1 + 3  # four cells a unit, so that a shard stays small
    assert len(read_all(config)[0]) == 19
    assert sorted(read) == ["a.png", "b.png", "c.png"]
    assert module._open_field.cache_info().maxsize == 1


# ------------------------------------------------------------------------------------------------ groups, classes
def test_the_group_is_the_smear_and_stays_on_one_side(tmp_path):
    names = tuple(f"{smear}/{field}.png" for smear in ("s1", "s2", "s3") for field in ("x", "y"))
    for name in names:
        write_field(tmp_path, name)
    write_boxes(tmp_path, ["file,x1,y1,x2,y2", *(f"{name},50,40,70,56" for name in names)])
    samples, _ = read_all(cells(tmp_path, group_pattern="^([^/]+)/", folds=3))
    assert {(s.origin.group, s.split) for s in samples} == {("s1", s.split) for s in samples[:2]} | {
        ("s2", s.split) for s in samples[2:4]
    } | {("s3", s.split) for s in samples[4:]}
    assert {s.split for s in samples} == {"fold-0", "fold-1", "fold-2"}


def test_fields_of_one_name_in_two_folders_give_tiles_of_two_names(tmp_path):
    for seed, name in enumerate(("s1/x.png", "s2/x.png")):
        write_field(tmp_path, name, seed)
    write_boxes(tmp_path, ["file,x1,y1,x2,y2", "s1/x.png,50,40,70,56", "s2/x.png,50,40,70,56"])
    samples, _ = read_all(cells(tmp_path))
    assert [s.images[0].path for s in samples] == ["s1/x_50_40_70_56.png", "s2/x_50_40_70_56.png"]


def test_one_field_can_be_read_when_nothing_is_held_out(tmp_path):
    write_field(tmp_path, "a.png")
    write_boxes(tmp_path, ["file,x1,y1,x2,y2", "a.png,50,40,70,56"])
    assert "1 group, so none can be held out; test_share: 0 reads all" in error_of(cells(tmp_path))
    for folds in (0, 1):
        assert [s.split for s in of_field(cells(tmp_path, test_share=0, folds=folds))] == ["train"]


def test_pictures_of_one_cell_are_kept_byte_for_byte_with_the_class_of_their_folder(tmp_path):
    for name in ("light/s1-1.png", "light/s2-1.png", "odd/s3-1.png", "odd/s4-1.png"):
        write_field(tmp_path, name)
    config = cells(tmp_path, boxes="whole", class_names={"light": "LSIL"}, group_pattern="/([^-]+)-")
    samples, drops = read_all(config)
    assert drops == []
    assert [(s.id, s.finding, s.origin.group) for s in samples] == [
        ("cells/light/s1-1.png", "LSIL", "s1"),
        ("cells/light/s2-1.png", "LSIL", "s2"),
        ("cells/odd/s3-1.png", None, "s3"),
        ("cells/odd/s4-1.png", None, "s4"),
    ]
    assert samples[0].images[0].data == (tmp_path / "images" / "light" / "s1-1.png").read_bytes()
    assert samples[0].regions[0].box_px == (0, 0, WIDTH_PX, HEIGHT_PX)
    assert samples[0].question == "Describe this cell."
    said = error_of(cells(tmp_path, boxes="whole", class_names={"lihgt": "LSIL"}))
    assert said == "cells.class_names: no folder is called 'lihgt', did you mean 'light'?; known: light, odd"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"boxes": "boxes.csv", "detector": "nuclei"}, "give boxes"),
        ({"boxes": "whole", "tile_px": 48}, "leave out tile_um"),
        ({"boxes": "boxes.csv"}, "give tile_um or tile_px"),
        ({"boxes": "boxes.csv", "tile_um": 40}, "tile_um needs mpp"),
        ({"detector": "nuclei", "tile_px": 48}, "needs mpp, or nucleus_px"),
        ({"boxes": "boxes.csv", "tile_px": 48, "class_names": {"a": "b"}}, "use classes"),
        ({"boxes": "whole", "slides": True}, "slides: true needs boxes"),
        ({"detector": "nuclei", "tile_um": 80, "mpp": 2.5}, "narrower than 2 pixels"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(keys, said):
    with pytest.raises(UserError, match=said):
        load_entry({"name": "cells", "kind": "ingest", "source": "cells", "images": "images", **keys})


# ------------------------------------------------------------------------------------------------ detector, shards
def test_cells_are_found_in_fields_without_boxes_and_an_empty_field_is_a_drop(tmp_path):
    cell = draw_cell(11, size_px=224, bethesda="NILM")
    (tmp_path / "images").mkdir()
    PILImage.fromarray(cell.pixels_rgb).save(tmp_path / "images" / "a.png")
    PILImage.new("RGB", (224, 224), (240, 240, 240)).save(tmp_path / "images" / "b.png")
    config = cells(tmp_path, detector="nuclei", mpp=cell.mpp, tile_um=40, out_px=112)
    samples = of_field(config)
    middles = [((s.origin.box_l0[0] + s.origin.box_l0[2]) / 2, (s.origin.box_l0[1] + s.origin.box_l0[3]) / 2)
               for s in samples if s.origin.box_l0]  # fmt: skip
    assert any(cell.nucleus_mask[int(y), int(x)] for x, y in middles)
    assert {s.history[-1].note.split(", ")[-1] for s in samples} == {"found by the detector nuclei"}
    assert [drop.sample_id for drop in read_all(config)[1] if drop.reason == "no_cell"] == ["cells/b.png"]


def test_a_plan_of_many_units_is_read_by_shards_into_a_folder(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,", "a.png,10,10,14,30,")
    counts = run_ingest(cells(tmp_path), tmp_path / "out")
    assert (counts["samples"], counts["drops"]) == (2, {"too_small": 1})
    assert [sample.task for sample in read_samples(tmp_path / "out")] == ["caption", "caption"]


def test_a_changed_box_changes_the_stage(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,")
    before = cells(tmp_path).fingerprint()
    assert cells(tmp_path).fingerprint() == before
    write_fields(tmp_path, "a.png,50,40,70,57,")
    assert cells(tmp_path).fingerprint() not in (before, "")
    assert cells(tmp_path, boxes=tmp_path / "gone.csv").fingerprint() == ""


def test_the_command_line_reads_cells_into_a_folder(tmp_path, capsys):
    write_fields(tmp_path, "a.png,50,40,70,56,", "a.png,10,10,14,30,")
    out = tmp_path / "out"
    command = ["ingest", "cells", str(tmp_path / "images"), "--out", str(out)]
    assert main([*command, "--set", f"boxes={tmp_path / 'boxes.csv'}", "--set", "tile_px=48"]) == 0
    assert "2 kept, 1 dropped (too_small 1)" in capsys.readouterr().out
    assert len(list(read_samples(out))) == 2
    assert main([*command[:-1], str(tmp_path / "other")]) == 1
    assert "give boxes (a folder, a file or whole) or detector: nuclei" in capsys.readouterr().err
