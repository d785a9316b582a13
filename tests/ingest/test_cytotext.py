import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import encoded

from pathloom.ingest.cytotext import CytotextConfig, CytotextKeys, annotation_of, record_of
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples

# As far as it is at hand, word for word: Singpath_CytoText, commit 182dc7b. Caption and label follow the card's prose.
EXAMPLE: dict[str, Any] = {
    "image_name": "dEPhZAhdwBFttBzk_2363_130_280_244.jpg",
    "structured description": {
        "核大小": "增大",
        "核染色质": "不均匀,颗粒粗,聚集明显",
        "核数量": "单核",
        "核质比": "增高",
        "核膜": "不规则",
        "核仁": "未见",
        "胞质状态": "胞浆量少,着色浅,无特殊结构",
        "异常病理指征": "细胞核异型性:存在;角化异常:未见,不存在挖空细胞",
        "细胞空间构型": "未见聚集成团",
    },
    "caption": "细胞核增大,核膜不规则。",
    "label": "ASC-H",
}


def record(name: str, **changes: Any) -> dict[str, Any]:
    return {**EXAMPLE, "image_name": name, **changes}


def corpus(folder: Path, records: Sequence[Any], *, lines: bool = False) -> Path:
    """A file of records with a different tile for each name that they give."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for seed, one in enumerate(records):
        name = one.get("image_name") if isinstance(one, dict) else None
        if isinstance(name, str) and name.endswith(".jpg") and ".." not in name:
            (folder / "images" / name).write_bytes(encoded(seed, "JPEG"))
    path = folder / ("records.jsonl" if lines else "records.json")
    if lines:
        path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), "utf-8")
    else:
        path.write_text(json.dumps(records, ensure_ascii=False), "utf-8")
    return path


def source(path: Path, **fields: Any) -> CytotextConfig:
    entry = {"name": "cells", "kind": "ingest", "source": "cytotext", "records": path, "test_share": 0}
    return CytotextConfig.model_validate({**entry, **fields})


def read(config: CytotextConfig) -> tuple[list[Sample], list[Drop]]:
    config.check()
    found = [one for unit in config.plan() for one in config.read(unit)]
    return [one for one in found if isinstance(one, Sample)], [one for one in found if isinstance(one, Drop)]


def test_the_cards_example_becomes_a_caption_sample_with_its_attributes(tmp_path):
    (sample,), drops = read(source(corpus(tmp_path, [EXAMPLE]), licence="Apache-2.0"))

    assert drops == []
    assert (sample.task, sample.finding, sample.answer) == ("caption", "ASC-H", EXAMPLE["caption"])
    assert {one.name: one.value for one in sample.attributes} == {
        "nuclear_size": "moderately enlarged",
        "chromatin": "coarse dark",
        "num_nuclei": "one",
        "nc_ratio": "increased",
        "nuclear_membrane": "irregular",
        "nucleoli": "none",
        "abnormal_signs": "nuclear atypia",
        "arrangement": "single",
    }
    assert {one.resolver for one in sample.attributes} == {"source"}
    assert sample.attributes[1].text == "不均匀,颗粒粗,聚集明显"
    assert sample.history[-1].note == "words of no one value: 胞质状态"
    assert sample.origin.group == "dEPhZAhdwBFttBzk"
    assert sample.images[0].data is None
    assert [(one.annotator, one.caption) for one in sample.annotations] == [("source", EXAMPLE["caption"])]


def test_a_record_is_kept_in_every_field_and_order():
    odd = {
        "label": "NILM",
        "seen by": {"who": ["A", None, 1.5], "when": {}},
        "structured description": {
            "核膜": "光滑",
            "/a~b": "x",
            "核仁": ["未见"],
            "新键": "",
            "核大小": "正常",
        },
        "a/b~c": "",
        "image_name": "x.jpg",
        "": {},
        "caption": "一\n二 \u2028三",
        "n": -0.1e-7,
        "yes": True,
    }
    for given in (
        odd,
        EXAMPLE,
        {**EXAMPLE, "structured description": {}},
        {"structured description": {"": "a"}},
    ):
        again = record_of(annotation_of(given, CytotextKeys()))
        assert json.dumps(again) == json.dumps(given)


def test_lines_and_a_list_are_read_alike(tmp_path):
    records = [record(f"a_{index}.jpg") for index in range(3)]

    as_list, _ = read(source(corpus(tmp_path / "list", records)))
    as_lines, _ = read(source(corpus(tmp_path / "lines", records, lines=True)))

    assert [one.annotations for one in as_list] == [one.annotations for one in as_lines]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("a_1.jpg", label="dubious"), "unknown_label"),
        (record("gone_1.png"), "missing_image"),
        (record("../a_0.jpg"), "outside_root"),
        (record("/etc/passwd"), "outside_root"),
        (record("x" * 300), "outside_root"),
        (record("/".join(["x" * 200] * 30)), "outside_root"),
        (record("a_0.jpg"), "name_seen_before"),
        (record(""), "broken_record"),
        (record("b_1.jpg", label=3), "broken_record"),
        (record("b_1.jpg", caption=None), "broken_record"),
        (record("b_1.jpg", **{"structured description": "增大"}), "broken_record"),
        (record("b_1.jpg", weight=float("inf")), "broken_record"),
        (record("b_1.jpg", note="\ud800"), "broken_record"),
        (["no", "record"], "broken_record"),
    ],
)
def test_a_bad_record_is_dropped_with_the_reason_and_the_others_stay(tmp_path, bad, reason):
    path = corpus(tmp_path, [record("a_0.jpg"), record("b_0.jpg")])
    path.write_text(json.dumps([record("a_0.jpg"), bad, record("b_0.jpg")]), "utf-8")
    (tmp_path / "images" / "a_1.jpg").write_bytes(encoded(7, "JPEG"))

    samples, drops = read(source(path))

    assert [one.id for one in samples] == ["cytotext/a_0.jpg", "cytotext/b_0.jpg"]
    assert [one.reason for one in drops] == [reason]
    assert drops[0].detail


def test_a_tile_that_is_no_picture_and_a_line_that_is_no_json_are_dropped(tmp_path):
    path = corpus(tmp_path, [record("a_0.jpg"), record("b_0.jpg")], lines=True)
    (tmp_path / "images" / "b_0.jpg").write_bytes(b"no picture")
    path.write_text(
        path.read_text("utf-8") + '{"image_name": \n{"image_name": "c", "image_name": "d"}\n', "utf-8"
    )

    samples, drops = read(source(path))

    assert len(samples) == 1
    assert [one.reason for one in drops] == ["not_an_image", "broken_record", "broken_record"]
    assert "a key stands twice" in drops[-1].detail


def test_two_keys_of_one_attribute_are_kept_and_not_read(tmp_path):
    description = {"核大小": "增大", "nuclear size": "normal", "核膜": "光滑", "核仁": "无法判断"}

    (sample,), _ = read(
        source(corpus(tmp_path, [record("a_0.jpg", **{"structured description": description})]))
    )

    assert [one.name for one in sample.attributes] == ["nuclear_membrane"]
    assert sample.history[-1].note == "words of no one value: 核大小, nuclear size"
    assert record_of(sample.annotations[0])["structured description"] == description


def test_records_without_caption_or_label_are_cells_without_them(tmp_path):
    bare = {key: EXAMPLE[key] for key in ("image_name", "structured description")}

    (sample,), _ = read(source(corpus(tmp_path, [bare])))

    assert (sample.answer, sample.finding) == ("", None)


def test_groups_are_the_names_before_the_underscore_and_stay_on_one_side(tmp_path):
    labels = ("NILM", "HSIL")
    records = [record(f"slide{i % 10}_{i}.jpg", label=labels[i % 2]) for i in range(30)]

    samples, _ = read(source(corpus(tmp_path, records), test_share=0.2))

    sides = {(one.origin.group, one.split) for one in samples}
    assert len(sides) == 10
    assert {split for _, split in sides} == {"train", "test"}


def test_a_pattern_of_ones_own_names_the_groups(tmp_path):
    config = source(corpus(tmp_path, [record("a_7_1.jpg"), record("b_7_2.jpg")]), group_pattern=r"_(\d)_")

    samples, _ = read(config)

    assert {one.origin.group for one in samples} == {"7"}


def test_the_keys_can_have_other_names(tmp_path):
    keys = {"image": "file", "description": "描述", "caption": "说明", "label": "诊断"}
    renamed = dict(zip(keys.values(), EXAMPLE.values(), strict=True))
    path = corpus(tmp_path, [renamed])
    (tmp_path / "images" / EXAMPLE["image_name"]).write_bytes(encoded(0, "JPEG"))

    (sample,), _ = read(source(path, keys=keys))

    assert (sample.finding, sample.answer, len(sample.attributes)) == ("ASC-H", EXAMPLE["caption"], 8)
    assert record_of(sample.annotations[0]) == renamed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"records": "nowhere.json"}, "cells.records: nowhere.json is not a file"),
        ({"images": "nowhere"}, "cells.images: nowhere is not a folder"),
        ({"keys": {"label": "diagnosis"}}, "cells.keys.label: no record"),
        ({"keys": {"caption": "text"}}, "cells.keys.caption: no record"),
        ({"keys": {"image": "file"}}, "holds no record that can be read: broken_record"),
        ({"attributes": "glands"}, "glands is neither a file nor a shipped schema"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_key(tmp_path, fields, message):
    config = source(corpus(tmp_path, [EXAMPLE]), **fields)
    with pytest.raises(UserError, match=message):
        config.check()


@pytest.mark.parametrize("text", ["{}", "[", "", "\ufeff3"])
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path, text):
    path = corpus(tmp_path, [EXAMPLE])
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=r"records\.json"):
        source(path).check()


def test_a_changed_tile_or_record_gives_another_fingerprint(tmp_path):
    path = corpus(tmp_path, [EXAMPLE])
    before = source(path).fingerprint()
    (tmp_path / "images" / EXAMPLE["image_name"]).write_bytes(encoded(5, "JPEG", width_px=40))
    tile = source(path).fingerprint()
    corpus(tmp_path, [{**EXAMPLE, "label": "HSIL"}])

    assert len({before, tile, source(path).fingerprint()}) == 3
    assert source(tmp_path / "gone.json").fingerprint()


def test_a_stage_holds_every_record_once(tmp_path):
    records = [record(f"slide{index}_1.jpg") for index in range(100)]
    (tmp_path / "out").mkdir()

    counts = run_ingest(source(corpus(tmp_path, records)), tmp_path / "out")

    assert counts["samples"] == 100
    stored = [record_of(one.annotations[0]) for one in read_samples(tmp_path / "out")]
    assert stored == records


def test_readers_in_other_processes_do_not_carry_the_plan(tmp_path):
    config = source(corpus(tmp_path, [record(f"slide{index}_1.jpg") for index in range(100)]))
    unit = config.plan()[3]

    packed = pickle.dumps(config)

    assert len(packed) < 4000
    assert pickle.loads(packed).read(unit) == config.read(unit)
