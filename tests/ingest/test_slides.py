"""Source `slides`: slides to tiles, tables and Samples; one that cannot be used costs no other."""

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tests.slides.array_slide import glass, stained

from pathloom.ingest import slides_read
from pathloom.ingest.slides import SlidesConfig
from pathloom.ingest.slides_read import folder_name, read_slides_into
from pathloom.schema import Drop
from pathloom.slides import quality, reader
from pathloom.slides.record import read_records, read_tiles
from pathloom.slides.write import write_pyramid
from pathloom.stage import UserError
from pathloom.store import read_samples

pytest.importorskip("openslide")

SIDE_PX = 1024
TILE_PX = 128


def make_slide(path: Path, *, empty: bool = False, mpp: float = 0.5) -> Path:
    """512 um of glass, with stain on its left half that has structure enough to be in focus."""
    pixels = glass(SIDE_PX, SIDE_PX)
    if not empty:
        pixels[:, : SIDE_PX // 2] = stained(SIDE_PX // 2, SIDE_PX)
        pixels[::16, : SIDE_PX // 2] = (120, 60, 120)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pyramid(path, lambda top, height: pixels[top : top + height], (SIDE_PX, SIDE_PX), mpp)
    return path


def break_tile(path: Path, index: int) -> None:
    """Overwrite one tile of level 0 in the file."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        page = tif.series[0].levels[0].keyframe
        offset, size = page.dataoffsets[index], page.databytecounts[index]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = b"\xff" * size
    path.write_bytes(bytes(data))


def config(root: Path, **keys: object) -> SlidesConfig:
    entry = {"name": "slides", "kind": "ingest", "source": "slides", "root": root, "size_px": TILE_PX}
    return SlidesConfig.model_validate({**entry, **keys})


def drops_of(out: Path) -> list[Drop]:
    return [
        Drop.model_validate_json(line) for line in (out / "drops" / "00000.jsonl").read_text().splitlines()
    ]


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "slides.csv").open(newline="") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def test_a_slide_becomes_one_sample_and_the_tiles_on_its_tissue(tmp_path):
    make_slide(tmp_path / "in" / "a.tiff")

    counts = config(tmp_path / "in", licence="CC0").ingest(tmp_path / "out")

    (sample,) = read_samples(tmp_path / "out")
    ((record, folder),) = read_records(tmp_path / "out")
    assert (sample.scale, sample.task, sample.images[0].slide) == ("slide", "caption", record.id)
    assert sample.images[0].width_px == SIDE_PX
    assert sample.images[0].mpp == pytest.approx(0.5)
    assert sample.origin.licence == "CC0"
    places = read_tiles(folder)
    assert len(places) == record.num_tiles == counts["tiles"] == 32
    assert places[:, 0].max() < SIDE_PX // 2
    assert record.tissue_share == pytest.approx(0.5, abs=0.03)
    for name in ("thumbnail.jpg", "overlay.jpg", "tissue.geojson", "grid.geojson"):
        assert (folder / name).is_file()
    assert len(json.loads((folder / "grid.geojson").read_text())["features"]) == 32
    assert "a.tiff" in (tmp_path / "out" / "gallery.html").read_text()


def test_slides_that_cannot_be_used_are_dropped_with_their_reason_and_the_rest_is_done(tmp_path):
    make_slide(tmp_path / "in" / "good.tiff")
    make_slide(tmp_path / "in" / "empty.tiff", empty=True)
    make_slide(tmp_path / "in" / "coarse.tiff", mpp=4.0)
    make_slide(tmp_path / "in" / "absurd.tiff", mpp=350.0)
    (tmp_path / "in" / "text.svs").write_text("not a slide")

    counts = config(tmp_path / "in").ingest(tmp_path / "out")

    assert counts["slides"] == 1
    assert {(drop.sample_id, drop.reason) for drop in drops_of(tmp_path / "out")} == {
        ("slides/empty.tiff", "no_tissue"),
        ("slides/coarse.tiff", "too_coarse"),
        ("slides/absurd.tiff", "absurd_mpp"),
        ("slides/text.svs", "not_a_slide"),
    }
    assert {name: row["status"] for name, row in rows_of(tmp_path / "out").items()}["good.tiff"] == "read"


def test_a_tile_that_cannot_be_read_in_mid_slide_is_counted_and_the_others_are_kept(tmp_path):
    break_tile(make_slide(tmp_path / "in" / "a.tiff"), 4)  # 256 px: four tiles of the grid

    counts = config(tmp_path / "in").ingest(tmp_path / "out")

    assert counts["dropped_tiles"] == {"unreadable_region": 4}
    assert counts["warnings"] == ["a.tiff: 4 of 32 tiles on tissue cannot be read"]
    ((record, folder),) = read_records(tmp_path / "out")
    assert record.num_tiles == len(read_tiles(folder)) == 28
    assert rows_of(tmp_path / "out")["a.tiff"]["dropped"] == "unreadable_region:4"


def test_what_breaks_a_reader_costs_only_that_slide(tmp_path, monkeypatch):
    for name in "ab":
        make_slide(tmp_path / "in" / f"{name}.tiff")
    judge = quality.slide_fault
    called = []

    def breaks_first(pixels: np.ndarray) -> tuple[str, str]:
        called.append(1)
        if len(called) == 1:
            raise RuntimeError("boom")
        return judge(pixels)

    monkeypatch.setattr(slides_read, "slide_fault", breaks_first)
    config(tmp_path / "in").ingest(tmp_path / "out")

    (drop,) = drops_of(tmp_path / "out")
    assert (drop.sample_id, drop.reason, drop.detail) == ("slides/a.tiff", "failed", "RuntimeError: boom")
    assert [sample.id for sample in read_samples(tmp_path / "out")] == ["slides/b.tiff"]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_full_disk_or_memory_is_no_fault_of_the_slide(tmp_path, monkeypatch, error):
    slides = {"a": make_slide(tmp_path / "a.tiff")}

    def full(pixels: np.ndarray) -> tuple[str, str]:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(slides_read, "slide_fault", full)
        with pytest.raises(type(error)):
            read_slides_into(slides, tmp_path / "out", size_px=TILE_PX)

    assert read_slides_into(slides, tmp_path / "out", size_px=TILE_PX)["slides"] == 1


def test_a_killed_run_goes_on_at_the_slide_where_it_stopped(tmp_path, monkeypatch):
    slides = {name: make_slide(tmp_path / f"{name}.tiff") for name in "abc"}
    opened = []
    open_slide = reader.open_slide

    def killed_at_b(path: Path, **keys: object) -> object:
        opened.append(path.stem)
        if opened == ["a", "b"]:
            raise KeyboardInterrupt
        return open_slide(path, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(slides_read, "open_slide", killed_at_b)
    with pytest.raises(KeyboardInterrupt):
        read_slides_into(slides, tmp_path / "out", size_px=TILE_PX)
    counts = read_slides_into(slides, tmp_path / "out", size_px=TILE_PX)

    assert opened == ["a", "b", "b", "c"]
    assert counts["slides"] == 3


def test_labels_name_slides_groups_and_splits(tmp_path):
    for name in "abcd":
        make_slide(tmp_path / "in" / f"{name}.tiff")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label,group\na,tumour,p1\nb.tiff,normal,p2\nc,tumour,p3\nd,normal,p4\n")

    config(tmp_path / "in", labels=labels, test_share=0.5).ingest(tmp_path / "out")

    samples = {sample.id: sample for sample in read_samples(tmp_path / "out")}
    assert {name: one.answer for name, one in samples.items()} == {
        "slides/a.tiff": "tumour",
        "slides/b.tiff": "normal",
        "slides/c.tiff": "tumour",
        "slides/d.tiff": "normal",
    }
    assert samples["slides/a.tiff"].choices == ("normal", "tumour")
    assert samples["slides/b.tiff"].origin.group == "p2"
    assert {one.split for one in samples.values()} == {"train", "test"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("slide,class\na,x\n", "no column 'label'"),
        ("slide,label\na,x\na,y\n", "stands twice"),
        ("slide,label\na,\n", "line 2: slide or label is empty"),
        ("slide,label\na,x\nz,y\n", "no slide z"),
        ("slide,label\nz,y\n", "names none of the slides"),
        ("slide,label,split\na,x,left\n", "split 'left'"),
        ("slide,label,group,split\na,x,p,train\nb,x,p,test\n", "the group p stands in train and in test"),
        ("slide,label\na," + "x" * 200_000 + "\n", "no CSV table: field larger"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_refused_with_the_cure(tmp_path, table, said):
    make_slide(tmp_path / "in" / "a.tiff")
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(UserError, match=said):
        config(tmp_path / "in", labels=tmp_path / "labels.csv").check()


def test_a_row_that_fits_two_slides_is_refused_and_their_paths_tell_them_apart(tmp_path):
    for name in ("p/a.tiff", "q/a.tiff"):
        make_slide(tmp_path / "in" / name)
    labels = tmp_path / "labels.csv"

    labels.write_text("slide,label\na,tumour\n")
    with pytest.raises(UserError, match=r"a could be p/a.tiff or q/a.tiff; name slides by their path"):
        config(tmp_path / "in", labels=labels).check()
    labels.write_text("slide,label,split\np/a.tiff,tumour,train\nq/a.tiff,normal,test\n")
    config(tmp_path / "in", labels=labels).check()


def test_a_split_that_cannot_be_made_is_told_before_any_slide_is_read(tmp_path):
    for name in "abc":
        make_slide(tmp_path / "in" / f"{name}.tiff")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label\na,tumour\nb,normal\nc,normal\n")

    with pytest.raises(UserError, match="class 'tumour' has 1 group"):
        config(tmp_path / "in", labels=labels).check()


def test_a_slide_that_cannot_be_read_moves_no_other_to_another_split(tmp_path):
    for name in "abcdefgh":
        make_slide(tmp_path / "in" / f"{name}.tiff")
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "slide,label\n" + "".join(f"{name},{'xy'[k % 2]}\n" for k, name in enumerate("abcdefgh"))
    )
    before = config(tmp_path / "in", labels=labels, test_share=0.5, check_tiles=False)
    before.ingest(tmp_path / "before")
    splits = {sample.id: sample.split for sample in read_samples(tmp_path / "before")}

    for name in "acg":  # all but one slide of a class: what is left could not be split
        (tmp_path / "in" / f"{name}.tiff").write_text("broken")
    before.ingest(tmp_path / "after")

    after = {sample.id: sample.split for sample in read_samples(tmp_path / "after")}
    assert len(after) == 5
    assert after.items() <= splits.items()


def test_splits_in_the_table_and_folds_of_the_entry_exclude_each_other(tmp_path):
    make_slide(tmp_path / "in" / "a.tiff")
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,label,split\na,tumour,test\n")

    config(tmp_path / "in", labels=labels).check()
    with pytest.raises(UserError, match=r"folds: .* names the splits"):
        config(tmp_path / "in", labels=labels, folds=3).check()


@pytest.mark.parametrize("mpp", ["inf", "nan"])
def test_a_resolution_is_a_finite_number(tmp_path, mpp):
    with pytest.raises(ValidationError, match="finite number"):
        config(tmp_path, mpp=mpp)


def test_a_folder_without_slides_and_an_absurd_stated_mpp_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match="holds no slide"):
        config(tmp_path).check()
    with pytest.raises(UserError, match="nowhere does not exist"):
        config(tmp_path / "nowhere").check()
    with pytest.raises(UserError, match="mpp: 100; tiles have"):
        config(tmp_path, mpp=100).check()
    with pytest.raises(UserError, match="stated_mpp: 300"):
        config(tmp_path, stated_mpp=300).check()


def test_names_of_folders_are_plain_and_no_two_are_the_same():
    assert folder_name("a.tiff") == "a.tiff"
    names = [folder_name(name) for name in ("x/a b.svs", "x/a_b.svs", "x_a_b.svs", "../a", ".a")]
    assert len(set(names)) == 5
    assert all("/" not in name and not name.startswith(".") for name in names)


def test_every_real_slide_is_read_or_refused_with_its_reason(data_root, tmp_path):
    root = data_root / "slides"
    config(root, size_px=224, licence="see SOURCE.txt").ingest(tmp_path)

    status = {Path(name).name: row["status"] for name, row in rows_of(tmp_path).items()}
    assert status["CMU-1-Small-Region.svs"] == status["dicom_cmu1"] == "read"
    assert {status[name] for name in status if name.startswith("images_OS")} == {"read"}
    assert status["test3-DAPI-2-(387).ndpi"] == "fluorescence"
    assert status["boxes.tiff"] == "absurd_mpp"
    assert status["unreadable.svs"] == "unreadable_region"
    assert {status["unopenable.tiff"], status["histolab_broken.svs"]} == {"not_a_slide"}
    assert len(drops_of(tmp_path)) + len(list(read_samples(tmp_path))) == len(status)
