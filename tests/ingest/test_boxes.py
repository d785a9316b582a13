import json
import pickle
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fixtures import encoded
from tests.ingest.test_tiles import write_csv

from pathloom.ingest import box_files
from pathloom.ingest.boxes import BoxesConfig
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.tasks.boxes import MAX_BOXES

WIDTH_PX, HEIGHT_PX = 24, 16
A_BOX = (2, 3, 10, 9)

Boxes = Sequence[tuple[str | None, Sequence[Any]]]


def boxes(root: Path, annotations: str = "annotations", **fields: Any) -> BoxesConfig:
    entry = {"images": root / "images", "annotations": root / annotations, **fields}
    return BoxesConfig.model_validate({"name": "cells", "kind": "ingest", "source": "boxes", **entry})


def write_picture(root: Path, name: str, seed: int = 0, width_px: int = WIDTH_PX) -> None:
    path = root / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed, width_px=width_px, height_px=HEIGHT_PX))


def write_xml(root: Path, name: str, text: str | bytes) -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / name).write_bytes(text.encode() if isinstance(text, str) else text)


def voc(found: Boxes, *, filename: str | None = None, size: str = "") -> str:
    objects = "".join(
        f"<object>{f'<name>{label}</name>' if label is not None else ''}<bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=False))
        + "</bndbox></object>"
        for label, edges in found
    )
    named = f"<filename>{filename}</filename>" if filename else ""
    return f"<annotation>{named}{size}{objects}</annotation>"


def write_voc(root: Path, pictures: Mapping[str, Boxes]) -> Path:
    """PNG pictures of 24x16 px and a VOC file each."""
    for seed, (stem, found) in enumerate(pictures.items()):
        write_picture(root, f"{stem}.png", seed)
        write_xml(root, f"{stem}.xml", voc(found, filename=f"{stem}.png"))
    return root


def write_coco(root: Path, names: Sequence[str], found: Sequence[Mapping[str, Any]], **parts: Any) -> Path:
    """Pictures, if not there yet, and annotations.json with the categories 1 (RBC) and 2 (WBC)."""
    for seed, name in enumerate(names):
        if not (root / "images" / name).exists():
            write_picture(root, name, seed)
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": list(found),
        "categories": [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}],
        **parts,
    }
    (root / "annotations.json").write_text(json.dumps(coco))
    return root


def coco_box(image: Any, category: Any, bbox: Any, **further: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": bbox, **further}


def ordinary(root: Path) -> Path:
    """Two pictures in order beside the one that a test is about: a split needs two."""
    return write_voc(root, {"sound0": [("RBC", A_BOX)], "sound1": [("RBC", A_BOX)]})


def read_all(config: BoxesConfig) -> tuple[list[Sample], list[Drop]]:
    records = [record for unit in config.plan() for record in config.read(unit)]
    samples = [record for record in records if isinstance(record, Sample)]
    return samples, [record for record in records if isinstance(record, Drop)]


def error_of(config: BoxesConfig) -> str:
    with pytest.raises(UserError) as caught:
        config.check()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reasons(config: BoxesConfig) -> Counter[str]:
    return Counter(drop.reason for drop in read_all(config)[1])


def by_id(config: BoxesConfig) -> dict[str, Sample]:
    samples, _ = read_all(config)
    found = {sample.id: sample for sample in samples}
    assert len(found) == len(samples)
    return found


# ------------------------------------------------------------------------------------------------ what is asked
def test_each_label_of_a_voc_picture_is_one_question_with_its_boxes_in_reading_order(tmp_path):
    low, right, left, white = (3, 10, 9, 14), (12, 2, 20, 8), (1, 2, 9, 8), (4, 4, 8, 8)
    root = write_voc(
        tmp_path,
        {"a": [("RBC", low), ("WBC", white), ("RBC", right), ("RBC", left)], "b": [("RBC", A_BOX)]},
    )
    config = boxes(
        root,
        dataset="smears",
        licence="MIT",
        labels={"RBC": "red blood cell", "WBC": "white blood cell"},
        question="Where is each {what}?",
        mpp=0.5,
    )

    found = by_id(config)

    assert set(found) == {"smears/a.png/RBC", "smears/a.png/WBC", "smears/b.png/RBC"}
    red = found["smears/a.png/RBC"]
    assert red.question == "Where is each red blood cell?"
    assert [region.box_px for region in red.regions] == [left, right, low]
    assert {region.label for region in red.regions} == {"red blood cell"}
    assert [region.box_px for region in found["smears/a.png/WBC"].regions] == [white]
    assert (red.task, red.answer, red.images[0].mpp) == ("boxes", "", 0.5)
    assert (red.origin.source, red.origin.licence, red.origin.group) == ("smears", "MIT", "a.png")
    assert red.origin.source_id == red.images[0].path == str((root / "images" / "a.png").resolve())
    assert [(event.step, event.version, event.note) for event in red.history] == [("ingest.boxes", 1, "")]
    assert read_all(config)[1] == []


def test_coco_boxes_are_corner_width_and_height(tmp_path):
    root = write_coco(
        tmp_path,
        ["p1/a.png", "p2/a.png"],
        [coco_box(0, 1, [2, 3, 8, 6]), coco_box(0, 2, [0.5, 1, 2, 2]), coco_box(1, 1, [1, 1, 5, 5])],
    )

    found = by_id(boxes(root, "annotations.json"))

    assert set(found) == {"boxes/p1/a.png/RBC", "boxes/p1/a.png/WBC", "boxes/p2/a.png/RBC"}
    assert found["boxes/p1/a.png/RBC"].regions[0].box_px == (2, 3, 10, 9)
    assert found["boxes/p1/a.png/WBC"].regions[0].box_px == (0.5, 1, 2.5, 3)


def test_the_same_boxes_give_the_same_samples_from_either_format(tmp_path):
    shared: dict[str, Boxes] = {"a": [("RBC", A_BOX), ("WBC", (1, 1, 4, 4))], "b": [("RBC", (3, 3, 9, 9))]}
    write_voc(tmp_path, shared)
    write_coco(
        tmp_path,
        ["a.png", "b.png"],
        [coco_box(0, 1, [2, 3, 8, 6]), coco_box(0, 2, [1, 1, 3, 3]), coco_box(1, 1, [3, 3, 6, 6])],
    )

    assert read_all(boxes(tmp_path)) == read_all(boxes(tmp_path, "annotations.json"))


def test_labels_choose_what_is_asked(tmp_path):
    root = write_voc(tmp_path, {name: [("RBC", A_BOX), ("dirt", (1, 1, 3, 3))] for name in "ab"})

    assert set(by_id(boxes(root, labels={"RBC": "red cell"}))) == {"boxes/a.png/RBC", "boxes/b.png/RBC"}
    assert len(by_id(boxes(root))) == 4


def test_labels_that_share_words_are_one_question(tmp_path):
    root = write_voc(
        tmp_path, {"a": [("RBC", A_BOX), ("WBC", (1, 1, 3, 3)), ("WBC", A_BOX)], "b": [("WBC", A_BOX)]}
    )

    found = by_id(boxes(root, labels={"RBC": "cell", "WBC": "cell"}))

    assert set(found) == {"boxes/a.png/RBC+WBC", "boxes/b.png/RBC+WBC"}
    assert [r.box_px for r in found["boxes/a.png/RBC+WBC"].regions] == [(1, 1, 3, 3), A_BOX]


def test_absent_labels_are_asked_only_on_demand(tmp_path):
    root = write_voc(tmp_path, {"a": [("RBC", A_BOX)], "b": [("WBC", A_BOX)], "c": []})

    without, with_absent = by_id(boxes(root)), by_id(boxes(root, include_absent=True))

    assert set(without) == {"boxes/a.png/RBC", "boxes/b.png/WBC"}
    assert set(with_absent) == {f"boxes/{name}.png/{label}" for name in "abc" for label in ("RBC", "WBC")}
    assert {key for key, sample in with_absent.items() if sample.regions} == set(without)
    assert reasons(boxes(root)) == {"nothing_to_ask": 1}
    assert reasons(boxes(root, include_absent=True)) == {}


def test_a_label_whose_box_was_left_out_is_never_called_absent(tmp_path):
    spoilt: dict[str, Boxes] = {
        "flat": [("WBC", (4, 4, 4, 9))],
        "beyond": [("WBC", (40, 4, 50, 9))],
        "unread": [("WBC", ("four", 4, 5, 9))],
        "nameless": [(None, A_BOX)],
        "sound": [("RBC", A_BOX), ("WBC", A_BOX)],
    }
    found = by_id(boxes(write_voc(tmp_path, spoilt), include_absent=True))

    assert {key for key in found if key.endswith("WBC")} == {"boxes/sound.png/WBC"}
    assert "boxes/nameless.png/RBC" not in found
    assert found["boxes/flat.png/RBC"].regions == ()


# -------------------------------------------------------------------------------------------------- the split
def sides(samples: Sequence[Sample], key: str) -> dict[str, set[str]]:
    found = defaultdict(set)
    for sample in samples:
        found[getattr(sample.origin, key)].add(sample.split)
    return found


@pytest.mark.parametrize("folds", [0, 3])
def test_all_questions_about_a_picture_stand_on_one_side(tmp_path, folds):
    labels = ("RBC", "WBC", "platelet")
    root = write_voc(
        tmp_path,
        {
            f"{n:02d}": [(label, (1, 1 + i, 9, 9)) for i, label in enumerate(labels[: 1 + n % 3])]
            for n in range(15)
        },
    )

    samples, _ = read_all(boxes(root, folds=folds, include_absent=True))

    assert len(samples) == 45
    assert {len(splits) for splits in sides(samples, "source_id").values()} == {1}
    counts = Counter(next(iter(splits)) for splits in sides(samples, "source_id").values())
    assert counts == ({"fold-0": 5, "fold-1": 5, "fold-2": 5} if folds else {"train": 12, "test": 3})


def test_a_label_of_a_single_picture_does_not_stop_the_split(tmp_path):
    pictures: dict[str, Boxes] = {f"{n}": [("RBC", A_BOX)] for n in range(9)}
    root = write_voc(tmp_path, {**pictures, "rare": [("RBC", A_BOX), ("parasite", A_BOX)]})

    assert Counter(sample.split for sample in read_all(boxes(root))[0])["test"] in (2, 3)


@pytest.mark.parametrize("by", ["table", "pattern"])
def test_pictures_of_a_group_stand_on_one_side(tmp_path, by):
    names = [f"P{patient}_{n}" for patient in range(5) for n in range(3)]
    root = write_voc(tmp_path, {name: [("RBC", A_BOX), ("WBC", A_BOX)] for name in names})
    table = write_csv(tmp_path / "groups.csv", "file,group", *(f"{name}.png,{name[:2]}" for name in names))
    given = {"groups": table} if by == "table" else {"group_pattern": r"^(P\d)_"}

    samples, _ = read_all(boxes(root, **given))

    assert set(sides(samples, "group")) == {f"P{patient}" for patient in range(5)}
    assert {len(splits) for splits in sides(samples, "group").values()} == {1}
    assert Counter(sample.split for sample in samples) == {"train": 24, "test": 6}


def test_a_group_table_can_tell_folders_apart(tmp_path):
    root = write_coco(tmp_path, ["p1/a.png", "p2/a.png"], [coco_box(n, 1, [1, 1, 5, 5]) for n in range(2)])
    table = write_csv(tmp_path / "groups.csv", "class,file,group", "p1,a.png,one", "p2,a.png,two")

    samples, _ = read_all(boxes(root, "annotations.json", groups=table))

    assert {sample.id: sample.origin.group for sample in samples} == {
        "boxes/p1/a.png/RBC": "one",
        "boxes/p2/a.png/RBC": "two",
    }


def test_one_picture_under_two_names_is_left_out_with_both_entries(tmp_path):
    root = ordinary(tmp_path)
    (root / "images" / "again.png").symlink_to(root / "images" / "sound0.png")
    write_xml(root, "again.xml", voc([("RBC", (1, 1, 4, 4))]))
    write_voc(root, {"sound2": [("RBC", A_BOX)]})

    assert set(by_id(boxes(root))) == {"boxes/sound1.png/RBC", "boxes/sound2.png/RBC"}
    assert reasons(boxes(root)) == {"annotated_twice": 2}


# -------------------------------------------------------------------------------------- files and their pictures
def test_a_voc_file_finds_its_picture_by_stem_or_by_filename(tmp_path):
    root = ordinary(tmp_path)
    write_picture(root, "renamed.png", 7)
    write_xml(root, "renamed.xml", voc([("RBC", A_BOX)], filename="as_it_was_called_before.png"))
    write_picture(root, "IMG 1.png", 8)
    write_xml(root, "0001.xml", voc([("WBC", A_BOX)], filename="C:\\smears\\IMG 1.png"))

    assert {"boxes/renamed.png/RBC", "boxes/IMG 1.png/WBC"} < set(by_id(boxes(root)))
    assert reasons(boxes(root)) == {}


def test_a_voc_file_that_may_belong_to_two_pictures_is_dropped(tmp_path):
    root = ordinary(tmp_path)
    write_xml(root, "sound0.xml", voc([("RBC", A_BOX)], filename="sound1.png"))
    write_voc(root, {"sound2": [("RBC", A_BOX)]})
    write_picture(root, "sound2.jpg", 9)

    config = boxes(root)

    # sound2.xml names sound2.png, so sound2.jpg beside it is no second candidate
    assert set(by_id(config)) == {"boxes/sound1.png/RBC", "boxes/sound2.png/RBC"}
    (drop,) = [drop for drop in read_all(config)[1] if drop.reason == "several_images"]
    assert "sound0.xml: may belong to each of sound0.png, sound1.png" in drop.detail


def test_two_entries_for_one_picture_leave_it_out(tmp_path):
    root = write_coco(
        tmp_path,
        ["a.png", "a.png", "b.png", "./c.png"],
        [coco_box(n, 1, [1, 1, 5, 5]) for n in range(4)],
    )

    assert set(by_id(boxes(root, "annotations.json"))) == {"boxes/b.png/RBC", "boxes/c.png/RBC"}
    assert reasons(boxes(root, "annotations.json")) == {"annotated_twice": 2}


def test_a_path_out_of_the_image_folder_finds_nothing(tmp_path):
    write_picture(tmp_path / "elsewhere", "secret.png")
    root = write_coco(tmp_path, ["a.png", "b.png"], [coco_box(n, 1, [1, 1, 5, 5]) for n in range(3)])
    coco = json.loads((root / "annotations.json").read_text())
    coco["images"].append({"id": 2, "file_name": "../elsewhere/images/secret.png"})
    (root / "annotations.json").write_text(json.dumps(coco))

    assert set(by_id(boxes(root, "annotations.json"))) == {"boxes/a.png/RBC", "boxes/b.png/RBC"}
    assert reasons(boxes(root, "annotations.json")) == {"missing_image": 1}


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True))
    + "]><annotation><object><name>&i;</name></object></annotation>"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "unsafe_xml"),
        (BOMB.encode("utf-16"), "unsafe_xml"),
        (BOMB.replace("DOCTYPE", "doctype"), "unsafe_xml"),
        ('<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>', "unsafe_xml"),
        ("<annotation><object>", "unreadable_xml"),
        ("", "unreadable_xml"),
        ("<Annotations/>", "unreadable_xml"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "unreadable_xml"),
        ("<annotation>" + " " * 2000 + "</annotation>", "too_many_bytes"),
    ],
    ids=[
        "bomb",
        "UTF-16 bomb",
        "lower case",
        "external",
        "cut off",
        "empty",
        "other root",
        "encoding",
        "large",
    ],
)
def test_an_xml_file_that_cannot_be_read_costs_its_picture_only(tmp_path, monkeypatch, text, reason):
    monkeypatch.setattr(box_files, "MAX_XML_BYTES", 1900)
    root = ordinary(tmp_path)
    write_picture(root, "spoilt.png", 5)
    write_xml(root, "spoilt.xml", text)

    samples, drops = read_all(boxes(root))

    assert len(samples) == 2
    assert [(drop.sample_id, drop.reason) for drop in drops] == [("boxes/spoilt.xml", reason)]
    assert "spoilt.xml" in drops[0].detail


def test_bad_pictures_and_boxes_are_dropped_and_counted_by_reason(tmp_path):
    root = ordinary(tmp_path)
    size = "<size><width>{}</width><height>{}</height></size>"
    write_xml(root, "gone.xml", voc([("RBC", A_BOX)]))
    write_picture(root, "alone.png")
    write_picture(root, "cut_off.png")
    (root / "images" / "cut_off.png").write_bytes(encoded(1)[:-300])
    write_xml(root, "cut_off.xml", voc([("RBC", A_BOX)]))
    write_picture(root, "resized.png", 2)
    write_xml(root, "resized.xml", voc([("RBC", A_BOX)], size=size.format(48, 32)))
    write_picture(root, "sized.png", 3)
    write_xml(root, "sized.xml", voc([("RBC", A_BOX)], size=size.format(WIDTH_PX, HEIGHT_PX)))
    write_picture(root, "unsized.png", 4)
    spoilt: Boxes = [
        ("RBC", A_BOX),
        ("RBC", (9, 4, 3, 8)),  # inside out
        ("RBC", (5, 16, 9, 20)),  # below the picture
        ("RBC", (5, 5, "nan", 9)),
        ("RBC", (5, 5)),
        (" ", A_BOX),
    ]
    write_xml(root, "unsized.xml", voc(spoilt, size=size.format(0, 0)))

    config = boxes(root)
    config.check()
    counts = run_ingest(config, tmp_path / "out")

    assert counts["drops"] == {
        "missing_image": 1,
        "not_annotated": 1,
        "truncated": 1,
        "other_size": 1,
        "no_area": 1,
        "outside": 1,
        "unreadable_box": 2,
        "no_label": 1,
    }
    samples = {sample.id: sample for sample in read_samples(tmp_path / "out")}
    assert set(samples) == {f"boxes/{name}.png/RBC" for name in ("sound0", "sound1", "sized", "unsized")}
    assert [region.box_px for region in samples["boxes/unsized.png/RBC"].regions] == [A_BOX]
    (resized,) = [drop for drop in read_all(config)[1] if drop.reason == "other_size"]
    assert "24x16 px, but its annotation says 48x32" in resized.detail


def test_coco_crowds_and_boxes_of_nothing_are_dropped_and_counted(tmp_path):
    root = write_coco(
        tmp_path,
        ["a.png", "b.png", "c.png"],
        [
            coco_box(0, 1, [1, 1, 5, 5], iscrowd=0),
            coco_box(0, 1, [0, 0, 20, 10], iscrowd=1),
            coco_box(0, 2, [0, 0, 20, 10], iscrowd=1),
            coco_box(1, 1, [1, 1, 5, 0]),
            coco_box(1, 2, [1, 1, 5]),
            coco_box(1, 2, None),
            coco_box(1, 7, [1, 1, 5, 5]),
            coco_box(9, 1, [1, 1, 5, 5]),
            coco_box(2, 2, [1, 1, 5, 5]),
        ],
    )

    config = boxes(root, "annotations.json", include_absent=True)

    found = by_id(config)
    assert {key: len(sample.regions) for key, sample in found.items()} == {
        "boxes/a.png/RBC": 1,
        "boxes/c.png/RBC": 0,
        "boxes/c.png/WBC": 1,
    }
    expected = {"crowd": 2, "no_area": 1, "unreadable_box": 2, "no_label": 1, "missing_image": 1}
    assert reasons(config) == expected
    only_red = boxes(root, "annotations.json", labels={"RBC": "red cell"})
    assert reasons(only_red)["crowd"] == 1  # a box of a label that nobody asks about is nobody's loss


def test_a_coco_picture_of_another_size_is_dropped(tmp_path):
    root = write_coco(
        tmp_path,
        ["a.png", "b.png"],
        [coco_box(n, 1, [1, 1, 5, 5]) for n in range(2)],
        images=[
            {"id": 0, "file_name": "a.png", "width": WIDTH_PX, "height": HEIGHT_PX},
            {"id": 1, "file_name": "b.png", "width": HEIGHT_PX, "height": WIDTH_PX},
        ],
    )

    assert set(by_id(boxes(root, "annotations.json"))) == {"boxes/a.png/RBC"}
    assert reasons(boxes(root, "annotations.json")) == {"other_size": 1}


def test_edges_beyond_the_picture_are_cut_and_identical_boxes_merged(tmp_path):
    found: Boxes = [("RBC", (-3, -1, 6, 6)), ("RBC", (20, 10, 25, 17)), ("RBC", A_BOX), ("RBC", A_BOX)]
    root = write_voc(tmp_path, {"a": found, "b": [("RBC", A_BOX)]})

    sample = by_id(boxes(root))["boxes/a.png/RBC"]

    assert [r.box_px for r in sample.regions] == [(0, 0, 6, 6), A_BOX, (20, 10, WIDTH_PX, HEIGHT_PX)]
    assert sample.history[0].note == "1 identical boxes merged, 2 boxes cut"


def test_more_boxes_than_an_answer_can_hold_are_dropped(tmp_path):
    many: Boxes = [("RBC", (0, 0, 1 + n / 100, 5)) for n in range(MAX_BOXES + 1)]
    root = write_voc(tmp_path, {"a": [*many, ("WBC", A_BOX)], "b": many[1:]})

    assert set(by_id(boxes(root))) == {"boxes/a.png/WBC", "boxes/b.png/RBC"}
    assert reasons(boxes(root)) == {"too_many_boxes": 1}


# ---------------------------------------------------------------------------------------------- user's mistakes
@pytest.mark.parametrize("folder", ["nowhere", "images/sound0.png"])
def test_images_that_are_no_folder_are_named(tmp_path, folder):
    root = ordinary(tmp_path)

    assert f"cells.images: {root / folder} is not a folder" in error_of(boxes(root, images=root / folder))


def test_annotations_that_are_not_there_are_named(tmp_path):
    assert "cells.annotations" in error_of(boxes(ordinary(tmp_path), "nowhere"))
    assert "neither a folder" in error_of(boxes(tmp_path, "nowhere"))


def test_a_folder_without_xml_is_named_with_the_cure(tmp_path):
    message = error_of(boxes(ordinary(tmp_path), "images"))

    assert "images holds no .xml file; give the folder of the Pascal VOC files, or the COCO file" in message


def test_annotations_of_other_pictures_are_named_with_the_first(tmp_path):
    root = ordinary(tmp_path)
    write_picture(root / "other", "else.png")

    message = error_of(boxes(root, images=root / "other" / "images"))

    assert "cells.annotations: no entry of" in message
    assert "sound0.xml: no sound0 or sound0.png in" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RBC 1 2 3 4", "Invalid JSON"),
        ("[]", "not COCO JSON"),
        ('{"images": [], "annotations": []}', "categories: Field required"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "images.0.file_name: Field required",
        ),
        ("[" * 100_000, "not COCO JSON"),
        (
            '{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],'
            ' "annotations": [], "categories": []}',
            "two images have the same id",
        ),
        (
            '{"images": [{"id": 1, "file_name": "sound0.png"}, {"id": 2, "file_name": "sound1.png"}],'
            ' "annotations": [], "categories": []}',
            "holds no box with a label",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no entry of"),
    ],
    ids=["text", "list", "missing part", "missing name", "deep", "same id", "no boxes", "no images"],
)
def test_a_json_file_that_is_not_coco_is_named(tmp_path, text, message):
    root = ordinary(tmp_path)
    (root / "cells.json").write_text(text)

    found = error_of(boxes(root, "cells.json"))

    assert message in found
    assert "cells.json" in found


def test_a_json_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(box_files, "MAX_JSON_BYTES", 10)
    root = write_coco(tmp_path, ["a.png"], [])

    assert "more than 10 bytes" in error_of(boxes(root, "annotations.json"))


def test_an_unknown_label_is_named_with_the_nearest(tmp_path):
    root = write_voc(tmp_path, {name: [("RBC", A_BOX), ("WBC", A_BOX)] for name in "ab"})

    message = error_of(boxes(root, labels={"RBC": "red cell", "WBCs": "white cell"}))

    assert "cells.labels: no box is labelled 'WBCs', did you mean 'WBC'?; known: RBC, WBC" in message


def test_a_single_picture_cannot_be_split(tmp_path):
    assert "has 1 group" in error_of(boxes(write_voc(tmp_path, {"a": [("RBC", A_BOX)]})))


def test_a_group_table_without_a_picture_is_named(tmp_path):
    table = write_csv(tmp_path / "groups.csv", "file,group", "sound0.png,1")

    assert "no row for sound1.png" in error_of(boxes(ordinary(tmp_path), groups=table))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": "Find each cell."}, r"needs the field \{what\}"),
        ({"labels": {"RBC": ""}}, "at least 1 character"),
        ({"labels": {"RBC": None}}, "valid string"),
    ],
)
def test_an_entry_that_asks_nothing_is_refused(tmp_path, fields, message):
    with pytest.raises(ValidationError, match=message):
        boxes(tmp_path, **fields)


# ------------------------------------------------------------------------------------------------------ the key
def test_a_changed_box_or_picture_changes_the_fingerprint(tmp_path):
    root = ordinary(tmp_path)
    before = boxes(root).fingerprint()
    assert boxes(root).fingerprint() == before

    write_xml(root, "sound0.xml", voc([("RBC", (2, 3, 10, 10))]))
    moved = boxes(root).fingerprint()
    write_picture(root, "sound1.png", 99, width_px=25)

    assert len({before, moved, boxes(root).fingerprint()}) == 3


def test_readers_in_other_processes_do_not_carry_the_plan(tmp_path):
    config = boxes(ordinary(tmp_path))
    units = config.plan()
    sent = pickle.dumps(config)
    shutil.rmtree(tmp_path / "annotations")

    received = pickle.loads(sent)

    assert received == boxes(tmp_path)
    assert b"sound0" not in sent
    assert [received.read(unit) for unit in units] == [config.read(unit) for unit in units]


# --------------------------------------------------------------------------------------------------- real smears
def test_blood_smears_give_a_question_a_picture_and_label(data_root):
    root = data_root / "cytology" / "bccd"
    labels = {"RBC": "red blood cell", "WBC": "white blood cell", "Platelets": "platelet"}

    samples, drops = read_all(boxes(root, labels=labels, dataset="bccd", licence="MIT"))

    assert drops == []
    assert len(sides(samples, "source_id")) == 80
    assert Counter(sample.id.rpartition("/")[2] for sample in samples) == {
        "RBC": 78,
        "WBC": 79,
        "Platelets": 58,
    }
    assert Counter(region.label for sample in samples for region in sample.regions) == {
        "red blood cell": 1003,
        "white blood cell": 85,
        "platelet": 104,
    }
    for sample in samples:
        assert (sample.images[0].width_px, sample.images[0].height_px) == (640, 480)
        for x1, y1, x2, y2 in (region.box_px for region in sample.regions):
            assert 0 <= x1 < x2 <= 640
            assert 0 <= y1 < y2 <= 480
    assert {len(splits) for splits in sides(samples, "source_id").values()} == {1}
    assert Counter(next(iter(s)) for s in sides(samples, "source_id").values()) == {"train": 64, "test": 16}
