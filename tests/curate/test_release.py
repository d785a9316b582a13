import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PILImage
from tests.fixtures import encoded, make_image, make_sample
from tests.ingest.test_cytotext import EXAMPLE, corpus, record, source

from pathloom.attributes import load_schema
from pathloom.curate.annotate_config import ReleaseConfig
from pathloom.curate.release import run_release
from pathloom.schema import Attribute, Event, Image, Origin, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError, read_jsonl
from pathloom.store import read_samples, write_samples

ODD: dict[str, Any] = {
    "label": "NILM",
    "structured description": {
        "核膜": "光滑",
        "/新": "一",
        "核仁": ["未见"],
        "核大小": "怪",
        "核质比": "无法判断",
    },
    "reviewed": {"by": ["A", None], "at": 1.50, "empty": {}},
    "image_name": "odd_1.jpg",
    "caption": "",
    "remark": "a\u2028b ",
}


def release(
    samples: list[Sample] | Path, out: Path, **fields: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records and counts of a stage `release` over Samples, which pass through Parquet."""
    out.mkdir(exist_ok=True)
    if isinstance(samples, list):
        write_samples(samples, out / "cells")
        samples = out / "cells"
    config = ReleaseConfig.model_validate(
        {"name": "corpus", "kind": "release", "samples": ["cells"], **fields}
    )
    config.check()
    counts = run_release(config, {"cells": samples}, out)
    return json.loads((out / "cytotext.json").read_text("utf-8")), counts


def cell(sample_id: str = "a", **fields: Any) -> Sample:
    attributes = (
        Attribute(name="nuclear_size", value="normal", resolver="majority"),
        Attribute(name="abnormal_signs", value="nuclear atypia", resolver="expert"),
    )
    values = {one.name: one.value for one in fields.get("attributes", attributes)}
    given = {
        "task": "caption",
        "answer": load_schema("cervical_cell").describe(values),
        "finding": "LSIL",
        "attributes": attributes,
    }
    return make_sample(sample_id, **{**given, **fields})


def ingested(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    (tmp_path / "stage").mkdir()
    run_ingest(source(corpus(tmp_path, records)), tmp_path / "stage")
    return tmp_path / "stage"


def with_source(tmp_path: Path) -> Sample:
    return next(iter(read_samples(ingested(tmp_path, [EXAMPLE]))))


def test_a_published_record_survives_the_round_trip_in_every_field(tmp_path):
    given = [EXAMPLE, ODD, record("c_1.jpg", **{"structured description": {}, "更多": "键"})]

    records, counts = release(ingested(tmp_path, given), tmp_path / "out")

    assert json.dumps(records) == json.dumps(given)
    assert counts == {"samples": 3, "drops": {}}
    for one in given:
        name = one["image_name"]
        assert (tmp_path / "out/images" / name).read_bytes() == (tmp_path / "images" / name).read_bytes()


def test_what_was_released_is_read_and_released_again_alike(tmp_path):
    first, _ = release([cell("a"), cell("b", images=(make_image(3),))], tmp_path / "one")
    (tmp_path / "stage").mkdir()
    run_ingest(source(tmp_path / "one/cytotext.json"), tmp_path / "stage")
    second, _ = release(tmp_path / "stage", tmp_path / "two")

    assert second == first
    again = list(read_samples(tmp_path / "stage"))
    assert [{one.name: one.value for one in sample.attributes} for sample in again] == [
        {"nuclear_size": "normal", "abnormal_signs": "nuclear atypia"}
    ] * 2
    assert {sample.finding for sample in again} == {"LSIL"}
    assert len({sample.origin.group for sample in again}) == 2


def test_samples_without_a_source_get_the_schemas_words_in_the_language_asked_for(tmp_path):
    (chinese,), _ = release([cell()], tmp_path / "zh")
    (english,), _ = release([cell()], tmp_path / "en", language="en")

    assert list(chinese) == ["image_name", "structured description", "caption", "label"]
    assert chinese["structured description"] == {
        "核大小": "正常",
        "异常病理指征": "核异型性：有；挖空细胞：无；角化异常：无",  # noqa: RUF001
    }
    assert chinese["caption"] == "核大小：正常。异常病理指征：核异型性。"  # noqa: RUF001
    assert chinese["label"] == "LSIL"
    assert english["caption"] == cell().answer
    assert english["structured description"]["nuclear size"] == "normal"


def test_a_caption_that_somebody_else_wrote_stays(tmp_path):
    (one,), _ = release([cell(answer="A lonely cell.")], tmp_path)

    assert one["caption"] == "A lonely cell."


def test_only_what_was_changed_is_written_anew(tmp_path):
    sample = with_source(tmp_path)
    attributes = tuple(
        one.model_copy(update={"value": "normal", "resolver": "expert"})
        if one.name == "nuclear_size"
        else one
        for one in sample.attributes
        if one.name != "nucleoli"
    )
    cytoplasm = Attribute(name="cytoplasm", value="metaplastic", resolver="reviewer")
    changed = sample.changed(
        Event(step="curate.expert", version=1),
        attributes=(*attributes, cytoplasm),
        finding="HSIL",
        answer="新说明",
    )

    (one,), _ = release([changed], tmp_path / "out")

    description = {**EXAMPLE["structured description"], "核大小": "正常", "胞质状态": "化生"}
    del description["核仁"]
    assert one == {**EXAMPLE, "structured description": description, "caption": "新说明", "label": "HSIL"}
    assert list(one["structured description"]) == list(description)


def test_a_sample_that_is_no_record_is_dropped_with_the_reason(tmp_path):
    gone = Image(path=str(tmp_path / "gone.png"), width_px=24, height_px=16)
    other_size = Image(path="x.png", data=encoded(1), width_px=9, height_px=9)
    samples = [
        cell("good"),
        cell("asks", task="yes_no", answer="yes"),
        cell("none", images=()),
        cell("two", images=(make_image(), make_image(1))),
        cell("silent", attributes=()),
        cell("gone", images=(gone,)),
        cell("changed", images=(other_size,)),
        cell("good"),
    ]

    records, counts = release(samples, tmp_path)

    assert len(records) == 1
    assert counts["drops"] == {
        "changed": 1,
        "name_seen_before": 1,
        "not_a_caption": 1,
        "not_one_picture": 2,
        "nothing_described": 1,
        "unreadable": 1,
    }
    assert [row["sample_id"] for row in read_jsonl(tmp_path / "drops.jsonl")] == [
        one.id for one in samples[1:]
    ]


def test_a_record_without_a_label_may_hold_null_elsewhere(tmp_path):
    bare = {key: value for key, value in EXAMPLE.items() if key != "label"} | {"remark": None}
    (written,), _ = release(ingested(tmp_path, [bare]), tmp_path / "out")
    assert written == bare


def test_a_jpeg_of_a_camera_that_writes_two_views_is_a_jpeg(tmp_path):
    file, view = io.BytesIO(), PILImage.new("RGB", (24, 16))
    view.save(file, "MPO", save_all=True, append_images=[view])
    picture = Image(path="x.jpg", data=file.getvalue(), width_px=24, height_px=16)
    (written,), _ = release([cell(images=(picture,))], tmp_path)
    assert written["image_name"].endswith(".jpg")
    assert (tmp_path / "images" / written["image_name"]).read_bytes() == file.getvalue()


def test_a_corpus_of_nothing_is_refused_with_the_first_reason(tmp_path):
    with pytest.raises(UserError, match="none of the Samples can be a record: nothing_described"):
        release([cell(attributes=())], tmp_path)


@pytest.mark.parametrize("keys", [{"image": "file"}, {"label": "诊断"}, {"description": "描述"}])
def test_other_keys_than_those_of_the_source_are_refused(tmp_path, keys):
    with pytest.raises(UserError, match=r"corpus.keys: the record of .* has the keys image_name"):
        release([with_source(tmp_path)], tmp_path / "out", keys=keys)


def test_attributes_of_another_schema_are_refused(tmp_path):
    with pytest.raises(UserError, match="lumen = 'wide' is not of the schema cervical_cell"):
        release(
            [cell(attributes=(Attribute(name="lumen", value="wide", resolver="truth"),), answer="x")],
            tmp_path,
        )


def test_a_second_run_into_a_folder_that_a_kill_left_gives_the_same_files(tmp_path):
    release([cell("a"), cell("b")], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (tmp_path / "cytotext.json").write_text("[\n{", "utf-8")
    next((tmp_path / "images").iterdir()).write_bytes(b"half")

    release([cell("a"), cell("b")], tmp_path)

    assert {path: path.read_bytes() for path in before} == before


def test_the_card_counts_records_and_names_licences_people_and_simulated_annotators(tmp_path):
    history = (
        Event(step="annotate", version=1, note="careful", model="simulated-a"),
        Event(step="annotate", version=1, note="second", model="qwen3-vl-32b"),
        Event(step="annotate", version=1, note="language=en"),
        Event(step="curate.simulated_labels", version=1),
        Event(step="curate.reviewed", version=1, reviewer="Ada"),
    )
    origin = Origin(source="herlev", source_id="b", licence="by request | only", group="s1")
    release([cell("a"), cell("b", history=history, origin=origin, split="test")], tmp_path)

    card = (tmp_path / "README.md").read_text("utf-8")

    assert "2 records" in card
    assert "| LSIL | 2 |" in card
    assert "| nuclear_size | normal | 2 |" in card
    assert "| made | CC0-1.0 | 1 |" in card
    assert "| herlev | by request / only | 1 |" in card
    assert "| annotate | second | qwen3-vl-32b | 1 |" in card
    assert "| curate.reviewed |  | Ada | 1 |" in card
    assert "| test | 1 |" in card
    assert "**Simulated: curate.simulated_labels, simulated-a.**" in card


def test_the_card_of_real_annotators_speaks_of_no_simulation(tmp_path):
    release([cell("a")], tmp_path)

    assert "imulated" not in (tmp_path / "README.md").read_text("utf-8")
