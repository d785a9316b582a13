"""Source `cells`: files of boxes, slides, and real fields."""

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.ingest.test_boxes import coco_box, voc
from tests.ingest.test_cells import (
    A_BOX,
    cells,
    error_of,
    is_frame,
    of_field,
    read_all,
    reasons,
    tile_of,
    write_boxes,
    write_fields,
)

from pathloom.ingest.cells import CellsConfig
from pathloom.schema import Sample


# ------------------------------------------------------------------------------------------------ files of boxes
def test_voc_coco_csv_and_geojson_say_the_same(tmp_path):
    write_fields(tmp_path, "a.png,50,40,70,56,LSIL")
    found = {"csv": read_all(cells(tmp_path))[0]}
    for kind in ("voc", "geojson"):
        (tmp_path / kind).mkdir()
    ring = [[50, 40], [70, 40], [70, 56], [50, 56], [50, 40]]
    for name, label in (("a", "LSIL"), ("b", "none")):
        (tmp_path / "voc" / f"{name}.xml").write_text(voc([(label, A_BOX)]))
        feature = {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "cell", "classification": {"name": label, "color": [1, 2, 3]}},
        }
        collection = {"type": "FeatureCollection", "features": [feature]}
        (tmp_path / "geojson" / f"{name}.geojson").write_text(json.dumps(collection))
    coco = {
        "images": [{"id": 0, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],
        "annotations": [coco_box(0, 1, [50, 40, 20, 16]), coco_box(1, 2, [50, 40, 20, 16])],
        "categories": [{"id": 1, "name": "LSIL"}, {"id": 2, "name": "none"}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    for place in ("voc", "geojson", "coco.json"):
        found[place] = read_all(cells(tmp_path, boxes=tmp_path / place))[0]
    tiles = {kind: [(s.id, s.images[0].data, s.regions) for s in samples] for kind, samples in found.items()}
    assert tiles["csv"] == tiles["voc"] == tiles["geojson"] == tiles["coco.json"]
    assert len(tiles["csv"]) == 2


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        ({"type": "MultiPolygon", "coordinates": [[[[50, 40], [60, 56]]], [[[61, 41], [70, 50]]]]}, None),
        ({"type": "Point", "coordinates": [50, 40]}, "unreadable_box"),
        ({"type": "Polygon", "coordinates": [[[50, None], [1, 2]]]}, "unreadable_box"),
        ({"type": "Polygon", "coordinates": [[[10**400, 40], [1, 2]]]}, "unreadable_box"),
        (None, "unreadable_box"),
    ],
)
def test_a_geojson_feature_is_bounded_by_its_polygons_or_counted_as_unreadable(tmp_path, geometry, reason):
    write_fields(tmp_path)
    (tmp_path / "geo").mkdir()
    whole = {"type": "Polygon", "coordinates": [[[5, 5], [25, 5], [25, 25], [5, 25]]]}
    for name, found in (("a", geometry), ("b", whole)):
        features = [{"type": "Feature", "geometry": found, "properties": None}]
        (tmp_path / "geo" / f"{name}.geojson").write_text(json.dumps({"features": features}))
    config = cells(tmp_path, boxes=tmp_path / "geo")
    assert [sample.origin.box_l0 for sample in of_field(config)] == ([] if reason else [A_BOX])
    assert reasons(config) == ({reason: 1} if reason else {})


def test_a_broken_geojson_file_is_a_drop_and_a_picture_without_boxes_too(tmp_path):
    write_fields(tmp_path, names=("a.png", "b.png", "c.png"))
    (tmp_path / "geo").mkdir()
    ring = [[5, 5], [25, 5], [25, 25], [5, 25]]
    feature = {"geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "geo" / "b.geojson").write_text(json.dumps({"features": [feature]}))
    (tmp_path / "geo" / "a.geojson").write_text("{")
    config = cells(tmp_path, boxes=tmp_path / "geo", test_share=0)
    assert reasons(config) == {"unreadable_json": 1, "not_annotated": 1}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["picture,x1,y1,x2,y2", "a.png,1,1,9,9"], "no column file"),
        (["file,x1,y1,x2,y2", "gone.png,1,1,30,30"], "no gone.png in"),
        (["file,x1,y1,x2,y2", '"' + "a" * 140_000], "not a CSV table"),
    ],
)
def test_a_table_of_boxes_that_fits_nothing_is_refused_with_the_cure(tmp_path, lines, said):
    write_fields(tmp_path)
    write_boxes(tmp_path, lines)
    assert said in error_of(cells(tmp_path))


def test_a_table_from_windows_names_files_in_folders_too(tmp_path):
    write_fields(tmp_path, names=("s1/a.png", "b.png"))
    write_boxes(tmp_path, ["\ufefffile,x1,y1,x2,y2", "s1\\a.png,50,40,70,56", "b.png,50,40,70,56"])
    assert {sample.id.split("/5")[0] for sample in read_all(cells(tmp_path))[0]} == {
        "cells/s1/a.png",
        "cells/b.png",
    }


def test_folders_of_boxes_are_read_whatever_the_case_of_their_suffixes_or_refused(tmp_path):
    write_fields(tmp_path)
    feature = {"geometry": {"type": "Polygon", "coordinates": [[[50, 40], [70, 56]]]}}
    (tmp_path / "geo").mkdir()
    (tmp_path / "geo" / "a.GEOJSON").write_text(json.dumps({"features": [feature]}))
    (tmp_path / "geo" / "b.geojson").write_text(json.dumps([feature]))
    samples, drops = read_all(cells(tmp_path, boxes=tmp_path / "geo", test_share=0))
    assert [sample.origin.box_l0 for sample in samples] == [A_BOX]
    assert "QuPath's export has a box to tick" in drops[0].detail
    (tmp_path / "voc" / "below").mkdir(parents=True)
    (tmp_path / "voc" / "below" / "a.xml").write_text(voc([("cell", A_BOX)]))
    assert "Pascal VOC files lie in one folder; move" in error_of(cells(tmp_path, boxes=tmp_path / "voc"))
    assert "boxez.csv: there is no such file" in error_of(cells(tmp_path, boxes=tmp_path / "boxez.csv"))


# ------------------------------------------------------------------------------------------------ slides
def slides(root: Path, *rows: str, **keys: Any) -> CellsConfig:
    write_boxes(root, ["file,x1,y1,x2,y2", *rows])
    return cells(root, boxes=root / "boxes.csv", slides=True, test_share=0, **keys)


needs_openslide = pytest.mark.skipif(importlib.util.find_spec("openslide") is None, reason="no openslide")


def test_slides_without_openslide_say_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'pathloom[slides]'" in error_of(slides(tmp_path, "a.svs,1,1,9,9"))


@needs_openslide
def test_a_slide_and_the_same_slide_as_dicom_give_the_same_tiles(tmp_path, data_root):
    (tmp_path / "images").symlink_to(data_root / "slides")
    svs = "aperio_cmu1/CMU-1-Small-Region.svs"
    boxes = ("500,600,560,650", "1200,1500,1260,1570", "2,2,40,40")
    rows = [f"{name},{box}" for name in (svs, "dicom_cmu1") for box in boxes]
    config = slides(tmp_path, *rows, tile_um=112, out_px=112)
    samples = read_all(config)[0]
    by_slide = [samples[:3], samples[3:]]
    assert [sample.origin.box_l0 for sample in by_slide[0]] == [
        sample.origin.box_l0 for sample in by_slide[1]
    ]
    for one, other in zip(*by_slide, strict=True):
        assert one.images[0].mpp == pytest.approx(1.0, rel=0.01)
        assert one.regions == other.regions
        # the SVS is shrunk here, the DICOM by its writer; frames taken as RGB would differ by 75 levels
        assert np.abs(tile_of(one).astype(int) - tile_of(other)).mean() < 5


@needs_openslide
def test_a_slides_tile_is_its_region_at_level_0(tmp_path, data_root):
    import openslide

    name = "aperio_cmu1/CMU-1-Small-Region.svs"
    (tmp_path / "images").symlink_to(data_root / "slides")
    (sample,) = read_all(slides(tmp_path, f"{name},500,600,560,650", tile_px=200))[0]
    with openslide.OpenSlide(data_root / "slides" / name) as slide:
        region = np.asarray(slide.read_region((430, 525), 0, (200, 200)).convert("RGB"))
    tile = tile_of(sample)
    assert (tile[~is_frame(tile)] == region[~is_frame(tile)]).all()
    assert sample.regions[0].box_px == (70, 75, 130, 125)
    assert sample.images[0].mpp == pytest.approx(0.499)


@needs_openslide
def test_broken_slides_are_drops_with_the_readers_reason(tmp_path, data_root):
    (tmp_path / "images").symlink_to(data_root / "slides" / "openslide_fixtures")
    names = ("histolab_broken.svs", "unopenable.tiff", "unreadable.svs", "boxes.tiff")
    config = slides(tmp_path, *(f"{name},1,1,12,12" for name in names), tile_px=16)
    samples, drops = read_all(config)
    assert [sample.origin.box_l0 for sample in samples] == [(1, 1, 12, 12)]
    assert {
        drop.sample_id.split("/")[1]: drop.reason for drop in drops if drop.reason != "not_annotated"
    } == {
        "histolab_broken.svs": "not_a_slide",
        "unopenable.tiff": "not_a_slide",
        "unreadable.svs": "unreadable_region",
    }


# ------------------------------------------------------------------------------------------------ real fields
HERLEV = {
    "normal_superficiel": "NILM",
    "normal_intermediate": "NILM",
    "normal_columnar": "NILM",
    "light_dysplastic": "LSIL",
    "moderate_dysplastic": "HSIL",
    "severe_dysplastic": "HSIL",
    "carcinoma_in_situ": "HSIL",
}


def test_herlevs_280_cells_are_read_by_smear(tmp_path, data_root):
    (tmp_path / "images").symlink_to(data_root / "cytology" / "herlev" / "cells")
    config = cells(tmp_path, boxes="whole", class_names=HERLEV, group_pattern="^[^/]+/([^-]+)-", folds=5)
    samples, drops = read_all(config)
    assert (len(samples), drops) == (280, [])
    assert Counter(sample.finding for sample in samples) == {"NILM": 120, "LSIL": 40, "HSIL": 120}
    assert len({sample.origin.group for sample in samples}) == 173


def test_three_liquid_based_slides_are_210_fields_with_cells(tmp_path, data_root):
    (tmp_path / "images").symlink_to(data_root / "cytology" / "cervical_lbc")
    config = cells(tmp_path, detector="nuclei", nucleus_px=(8, 40), tile_px=96, group_pattern="^([^/]+)/")
    assert (len(config.plan()), len({unit.group for unit in config.plan()})) == (210, 3)
    records = [record for unit in config.plan()[::30] for record in config.read(unit)]
    assert sum(isinstance(record, Sample) for record in records) > 10


def test_the_white_cells_of_blood_smears_are_anchors_with_their_class(tmp_path, data_root):
    bccd = data_root / "cytology" / "bccd"
    (tmp_path / "images").symlink_to(bccd / "images")
    config = cells(
        tmp_path, boxes=bccd / "annotations", classes={"WBC": "white blood cell"}, tile_px=320, out_px=64
    )
    labels = Counter(label for unit in config.plan() if not unit.part for label, _ in unit.boxes)
    assert labels == {"RBC": 1003, "Platelets": 104, "WBC": 85}
    records = [record for unit in config.plan()[:6] for record in config.read(unit)]
    assert "white blood cell" in {record.finding for record in records if isinstance(record, Sample)}
