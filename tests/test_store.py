import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fixtures import make_image, make_sample, noting, picture

from pathloom import store
from pathloom.schema import Annotation, Attribute, Drop, Event, Origin, Region, Said, Vote
from pathloom.store import (
    SCHEMA,
    count_records,
    read_outlines,
    read_samples,
    shard_is_written,
    write_samples,
    write_shard,
)


def full_sample():
    return make_sample(
        "full",
        task="boxes",
        split="fold-3",
        images=(make_image(1, mpp=0.25), make_image(2)),
        question="Wo ist 核分裂?",
        choices=("a", "b"),
        regions=(Region(box_px=(1.5, 2, 3, 4.25), label="gland", image=1),),
        reasoning="Because.",
        finding="gland",
        asked_finding="duct",
        strata=("wording=unseen",),
        annotations=(
            Annotation(annotator="a", said=(Said(name="核仁", text="未见"),), caption="A cell."),
            Annotation(annotator="b"),
        ),
        attributes=(
            Attribute(
                name="nucleoli",
                value="none",
                text="未见",
                resolver="majority",
                confidence=0.5,
                votes=(Vote(annotator="a", value="none"), Vote(annotator="b")),
            ),
            Attribute(name="chromatin", value="fine even", resolver="truth"),
        ),
        origin=Origin(
            source="book",
            source_id="p. 7",
            licence="CC0-1.0",
            group="book",
            page=7,
            box_pt=(0, 1, 2, 3),
            box_l0=(4, 5, 6, 7),
            panel="B",
            caption_span=(3, 90),
        ),
        history=(Event(step="s", version=2, note="n", model="m", reviewer="r"),),
    )


def empty_sample(sample_id: str = "empty"):
    """Every field that may be empty is empty: a schema taken from the data would call these columns null."""
    return make_sample(sample_id, images=(), answer="", history=())


def test_samples_come_back_as_they_were(tmp_path):
    samples = [full_sample(), empty_sample(), make_sample("plain")]

    assert write_samples(samples, tmp_path) == 3
    assert list(read_samples(tmp_path)) == samples


def test_the_schema_does_not_depend_on_the_data(tmp_path):
    write_shard([empty_sample()], [], tmp_path, 0)
    write_shard([full_sample()], [], tmp_path, 1)

    tables = [pq.read_table(path) for path in sorted((tmp_path / "samples").glob("*.parquet"))]

    assert tables[0].schema == tables[1].schema == SCHEMA
    assert pa.concat_tables(tables).num_rows == 2


def test_shards_are_cut_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SAMPLES_PER_SHARD", 2)
    samples = [empty_sample(str(index)) for index in range(5)]

    assert write_samples(iter(samples), tmp_path) == 5
    assert len(list((tmp_path / "samples").iterdir())) == 3
    assert [sample.id for sample in read_samples(tmp_path)] == ["0", "1", "2", "3", "4"]


def test_no_samples_are_one_empty_shard(tmp_path):
    assert write_samples([], tmp_path) == 0
    assert list(read_samples(tmp_path)) == []


def test_a_folder_without_samples_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        list(read_samples(tmp_path))


def test_hugging_face_datasets_open_a_folder_with_decoded_pictures(tmp_path):
    from datasets import load_dataset

    write_samples([full_sample(), empty_sample()], tmp_path / "stage")

    dataset = load_dataset(
        "parquet",
        data_files=str(tmp_path / "stage" / "samples" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )

    pixels = dataset[0]["images"][0]["pixels"]
    assert np.array_equal(np.asarray(pixels), np.asarray(picture(1)))
    assert dataset[0]["regions"][0]["box_px"] == [1.5, 2, 3, 4.25]
    assert dataset[1]["images"] == []


@pytest.mark.parametrize("at_write", [1, 2])
def test_a_kill_during_a_shard_leaves_no_half_shard(tmp_path, monkeypatch, at_write):
    class Killed(BaseException):
        pass

    synced = []

    def killed(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == at_write:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(Killed):
            write_shard([make_sample()], [Drop(sample_id="b", step="s", reason="r")], tmp_path, 0)

    assert not shard_is_written(tmp_path, 0)
    assert count_records(tmp_path)["samples"] == 0
    write_shard([make_sample()], [Drop(sample_id="b", step="s", reason="r")], tmp_path, 0)
    assert count_records(tmp_path) == {
        "samples": 1,
        "by_split_and_task": {"train/yes_no": 1},
        "drops": {"r": 1},
    }


def test_a_shard_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    happened: list[str] = []
    monkeypatch.setattr(os, "fsync", noting(lambda fd: happened.append("fsync"), os.fsync))
    monkeypatch.setattr(Path, "replace", noting(lambda path, to: happened.append("rename"), Path.replace))

    write_shard([make_sample()], [], tmp_path, 0)

    assert happened == ["fsync", "rename"] * 2


def test_counts_are_by_split_task_and_reason(tmp_path):
    drops = [Drop(sample_id=str(i), step="s", reason=reason) for i, reason in enumerate("xxy")]
    write_shard([make_sample("a"), make_sample("b", split="test")], drops, tmp_path, 0)
    write_shard([make_sample("c")], [], tmp_path, 1)

    assert count_records(tmp_path) == {
        "samples": 3,
        "by_split_and_task": {"test/yes_no": 1, "train/yes_no": 2},
        "drops": {"x": 2, "y": 1},
    }


def test_outlines_tell_who_stands_where_without_the_pictures(tmp_path):
    sample = make_sample("a", split="test")
    write_samples([sample], tmp_path)

    (outline,) = read_outlines(tmp_path)

    assert (outline.id, outline.task, outline.split) == ("a", sample.task, "test")
    assert outline.origin.cluster == sample.origin.cluster
    assert not outline.images
