"""The source `pairs` in formats other than text: JSON, Parquet, WebDataset. Rules that all share are in test_pairs."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.curate.real_pairs import write_table
from tests.fixtures import encoded
from tests.test_webdataset import pair, tar

from pathloom.ingest import pairs_tables
from pathloom.ingest.pairs import PairsConfig
from pathloom.recipe import load_entry
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples
from pathloom.webdataset import ShardWriter

CAPTION = "Colon, H&E: fused glands in a fibrous stroma."


def config(path: Path, **settings: Any) -> PairsConfig:
    made = PairsConfig(name="pairs", kind="ingest", source="pairs", table=path, **settings)
    made.check()
    return made


def records(path: Path, **settings: Any) -> list[Sample | Drop]:
    source = config(path, **settings)
    return [record for unit in source.plan() for record in source.read(unit)]


def outcomes(path: Path, **settings: Any) -> list[str]:
    """The id of each Sample, the reason of each Drop."""
    return [r.reason if isinstance(r, Drop) else r.id for r in records(path, **settings)]


def as_json(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), "utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return path


# JSON


def test_a_list_of_objects_is_read_in_its_order(tmp_path):
    rows = [{"id": str(n), "caption": f'{CAPTION} No. {n}, {{a}} ["b"] \\ "ü"'} for n in range(20)]
    found = records(as_json(tmp_path / "t.json", rows), images="ignored")
    assert [r.answer for r in found if isinstance(r, Sample)] == [row["caption"] for row in rows]


def test_objects_under_integer_keys_come_in_the_order_of_their_numbers(tmp_path):
    rows = {key: {"caption": CAPTION} for key in ("10", "9", "-1", "100", "2")}
    path = as_json(tmp_path / "t.json", rows)
    ids = ["pairs/-1", "pairs/2", "pairs/9", "pairs/10", "pairs/100"]
    assert outcomes(path, images="ignored", columns={"id": "key"}) == ids


def test_objects_under_other_keys_come_as_they_stand(tmp_path):
    rows = {key: {"caption": CAPTION} for key in ("10", "b", "9")}
    path = as_json(tmp_path / "t.json", rows)
    assert outcomes(path, images="ignored", columns={"id": "key"}) == ["pairs/10", "pairs/b", "pairs/9"]


def test_what_is_no_object_is_a_drop_and_costs_no_other_row(tmp_path):
    text = f'[{{"caption": "{CAPTION}"}}, 7, "a, b", [1, {{}}], {{broken}}, {{"caption": "{CAPTION}"}}]'
    path = as_json(tmp_path / "t.json", text)
    assert outcomes(path, images="ignored") == ["pairs/row-1", *["not_a_row"] * 4, "pairs/row-6"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([{"caption": CAPTION}] * 3)[:100], r"ends within row 2: it is cut off; fetch it again"),
        (json.dumps([{"caption": CAPTION}] * 3)[:40], r"ends within row 1"),
        (
            f'{{"caption": "{CAPTION}"}}\n{{"caption": "{CAPTION}"}}\n',
            r"if each line is one, name it \.jsonl",
        ),
        ('{"data": 1}', "neither a list of objects nor an object of objects"),
        ("not json at all", "neither a list"),
        ("", "neither a list"),
        ("[]", "neither a list"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_cure(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"t\.json: .*{message}"):
        config(as_json(tmp_path / "t.json", text), images="ignored")


def test_a_column_that_no_row_has_is_refused_if_the_recipe_names_it(tmp_path):
    path = as_json(tmp_path / "t.json", [{"caption": CAPTION, "figure_id": 3}])
    assert outcomes(path, images="ignored", columns={"group": "figure_id"}) == ["pairs/row-1"]
    with pytest.raises(UserError, match=r"no column 'figureid'; it has caption, figure_id; .*group"):
        config(path, images="ignored", columns={"group": "figureid"})


# Names of pictures, and bags


def test_a_path_can_be_made_of_columns_and_its_suffix_found(tmp_path):
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/S1_10_20.png").write_bytes(encoded())
    (tmp_path / "patches/S1_30_40.JPEG").write_bytes(encoded(file_format="JPEG"))
    rows = [
        {"slide": "S1", "at": at, "caption": CAPTION} for at in ([10, 20], ["30", "40"], [5, 5], [7], None)
    ]
    settings = {"image_name": "{slide}_{at[0]}_{at[1]}", "any_suffix": True, "image_folder": "patches"}
    found = records(as_json(tmp_path / "t.json", rows), **settings, columns={"group": "slide"})
    assert [r.reason if isinstance(r, Drop) else Path(r.images[0].path).name for r in found] == [
        "S1_10_20.png",
        "S1_30_40.JPEG",
        "unreadable",
        "no_image",
        "no_image",
    ]
    first = found[0]
    assert isinstance(first, Sample)
    assert first.id == "pairs/S1_10_20#row-1"


def test_a_column_that_only_the_pattern_names_must_be_there(tmp_path):
    path = as_json(tmp_path / "t.json", [{"slide": "S1", "caption": CAPTION}])
    with pytest.raises(UserError, match=r"no column 'wsi'; it has slide, caption; .* or image_name"):
        config(path, image_name="{wsi}.png")


def test_two_files_that_differ_in_their_suffix_are_a_drop(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "a.jpg").write_bytes(encoded(file_format="JPEG"))
    (drop,) = records(as_json(tmp_path / "t.json", [{"image": "a", "caption": CAPTION}]), any_suffix=True)
    assert isinstance(drop, Drop)
    assert drop.reason == "two_images"


@pytest.mark.parametrize("pattern", ["{a.__class__}", "{a[x]}", "{", "{}", "{a:{b.c}}", "{0.d}"])
def test_a_pattern_reaches_columns_only(pattern):
    entry = {"name": "pairs", "kind": "ingest", "source": "pairs", "table": "t.json", "image_name": pattern}
    with pytest.raises(UserError, match=r"pairs\.image_name"):
        load_entry(entry)


def test_only_figures_of_one_picture_are_read_where_bags_are_single(tmp_path):
    rows = [{"id": str(n), "group": group, "caption": CAPTION} for n, group in enumerate("abacda")]
    path = as_json(
        tmp_path / "t.json", [*rows, {"id": "x", "caption": CAPTION}, {"id": "y", "caption": CAPTION}]
    )
    several = "bag_of_several"
    assert outcomes(path, images="ignored", bags="single") == [
        *(several, "pairs/1", several, "pairs/3", "pairs/4", several, "pairs/x", "pairs/y")
    ]
    drops = [r for r in records(path, images="ignored", bags="single") if isinstance(r, Drop)]
    assert "its figure, a, has 3 pictures" in drops[0].detail


def test_the_letter_of_a_panel_is_kept(tmp_path):
    (sample,) = records(as_json(tmp_path / "t.json", [{"caption": CAPTION, "panel": "B"}]), images="ignored")
    assert isinstance(sample, Sample)
    assert sample.origin.panel == "B"


# Parquet


@pytest.mark.parametrize("kind", ["path", "bytes", "struct", "struct of a path"])
def test_parquet_holds_pictures_as_paths_bytes_or_both(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(encoded(5))
    value = {
        "path": "a.png",
        "bytes": encoded(5),
        "struct": {"bytes": encoded(5), "path": "x.png"},
        "struct of a path": {"bytes": None, "path": "a.png"},
    }[kind]
    path = write_parquet(tmp_path / "t.parquet", [{"image": value, "caption": CAPTION, "group": "g"}])
    (sample,) = records(path)
    assert isinstance(sample, Sample)
    assert (sample.answer, sample.origin.group, sample.images[0].width_px) == (CAPTION, "g", 24)
    assert sample.images[0].data == (None if "path" in kind else encoded(5))


def test_a_folder_of_parquet_is_one_table_read_by_row_groups(tmp_path):
    def row(n: int) -> dict[str, Any]:
        return {"id": f"{n % 12}", "picture": {"bytes": encoded(n), "path": None}, "text": f"{CAPTION} {n}"}

    for part in range(2):
        rows = [row(n) for n in range(7 * part, 7 * part + 7)]
        write_parquet(tmp_path / f"t/{part}.parquet", rows, row_group_size=3)
    columns = {"image": "picture", "caption": "text"}
    found = records(tmp_path / "t", columns=columns)
    kept = [r for r in found if isinstance(r, Sample)]
    assert [r.answer for r in kept] == [f"{CAPTION} {n}" for n in range(12)]
    assert [r.images[0].data for r in kept] == [encoded(n) for n in range(12)]
    assert [r.reason for r in found if isinstance(r, Drop)] == ["id_seen_before"] * 2
    assert outcomes(tmp_path / "t", columns=columns) == outcomes(tmp_path / "t/*.parquet", columns=columns)


def test_pictures_are_not_read_while_rows_are_listed(tmp_path):
    rows = [{"image": {"bytes": encoded(), "path": "p.png"}, "caption": CAPTION}]
    table = pairs_tables.open_table(
        write_parquet(tmp_path / "t.parquet", rows), ["id", "image"], ["image", "caption"]
    )
    assert [row for _, row in table.rows()] == [{"image": "p.png"}]


def test_rows_without_a_picture_or_caption_and_broken_bytes_are_drops(tmp_path):
    rows: list[dict[str, Any]] = [
        {"image": None, "caption": CAPTION},
        {"image": encoded()[:70], "caption": CAPTION},
        {"image": b"", "caption": CAPTION},
        {"image": encoded(), "caption": None},
        {"image": encoded(), "caption": "word " * 5000},
        {"image": encoded(), "caption": CAPTION},
    ]
    assert outcomes(write_parquet(tmp_path / "t.parquet", rows)) == [
        *("no_image", "truncated", "not_an_image", "caption_too_short", "caption_too_long", "pairs/row-6")
    ]


def test_parquet_that_cannot_be_read_is_refused_with_the_cure(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "t.parquet", [{"caption": CAPTION}] * 100)
    with pytest.raises(UserError, match=r"no column 'text'; it has caption"):
        config(path, columns={"caption": "text"})
    monkeypatch.setattr(pairs_tables, "MAX_GROUP_BYTES", 10)
    with pytest.raises(UserError, match=r"t\.parquet: row group 0 has .* row_group_size=1000"):
        config(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"t\.parquet: not readable as Parquet .*Fetch it again"):
        config(path)


def test_files_of_different_columns_are_no_table(tmp_path):
    write_parquet(tmp_path / "t/0.parquet", [{"caption": CAPTION}])
    write_parquet(tmp_path / "t/1.parquet", [{"text": CAPTION}])
    with pytest.raises(UserError, match=r"1\.parquet: has other columns than .*0\.parquet"):
        config(tmp_path / "t")


# WebDataset


def test_tars_are_read_pair_by_pair_with_the_fields_of_their_json(tmp_path):
    with ShardWriter(tmp_path, 2) as writer:
        for n in range(3):
            facts = {"group": f"book {n}", "licence": "CC BY 4.0", "number": n}
            writer.add(encoded(n), "png", f"{CAPTION} {n}", facts)
    found = records(tmp_path)
    assert [r.id for r in found if isinstance(r, Sample)] == [
        *("pairs/00000/000000000", "pairs/00000/000000001", "pairs/00001/000010000")
    ]
    last = found[2]
    assert isinstance(last, Sample)
    assert (last.answer, last.images[0].data) == (f"{CAPTION} 2", encoded(2))
    assert (last.images[0].path, last.origin.group) == ("00001/000010000.png", "book 2")
    assert (last.origin.licence, last.origin.source_id) == (
        "CC BY 4.0",
        f"{tmp_path}/00001.tar, key 000010000",
    )


def test_the_same_key_in_two_tars_is_two_pairs_and_twice_in_one_a_drop(tmp_path):
    members = [*pair("a", CAPTION), *pair("a", CAPTION)]
    tar(tmp_path / "0.tar", *members)
    tar(tmp_path / "1.tar", *pair("a", CAPTION))
    assert outcomes(tmp_path) == ["pairs/0/a", "id_seen_before", "pairs/1/a"]


def test_a_tar_cut_in_half_gives_its_whole_pairs_and_a_drop_for_the_rest(tmp_path):
    path = tar(tmp_path / "0.tar", *(member for n in range(10) for member in pair(f"{n}", CAPTION)))
    tar(tmp_path / "1.tar", *pair("a", CAPTION))
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    found = records(tmp_path)
    reasons = [r.reason if isinstance(r, Drop) else r.id for r in found]
    kept = len(found) - 2
    assert 3 <= kept <= 6
    assert reasons == [*(f"pairs/0/{n}" for n in range(kept)), "cut_off", "pairs/1/a"]
    drop = found[kept]
    assert isinstance(drop, Drop)
    assert f"0.tar, key {kept}: {kept}: the tar ends there" in drop.detail


def test_a_key_in_half_characters_leaves_a_pair_that_can_be_written(tmp_path):
    tar(tmp_path / "t.tar", *pair("a\udcff", CAPTION), *pair("b", CAPTION))
    counts = run_ingest(config(tmp_path / "t.tar"), tmp_path / "out")
    assert counts["samples"] == 2
    assert [s.id for s in read_samples(tmp_path / "out")] == ["pairs/t/a", "pairs/t/b"]


def test_what_is_no_pair_in_a_tar_is_a_drop_with_its_reason(tmp_path):
    members = [
        *[("a.txt", b"x"), ("b.png", encoded()), ("c.png", encoded()), ("c.jpg", b"x"), ("c.txt", b"x")],
        *[("d.png", encoded()[:60]), ("d.txt", CAPTION.encode())],
        *[("e.png", encoded()), ("e.txt", b"word " * 5000)],
        *[("f.png", encoded()), ("f.txt", CAPTION.encode()), ("f.json", b"[half")],
        *pair("g", CAPTION),
    ]
    assert sorted(outcomes(tar(tmp_path / "t.tar", *members))) == [
        *("caption_too_long", "no_caption", "no_image", "not_a_row", "pairs/t/g", "truncated", "two_images")
    ]


def test_packed_tars_an_empty_folder_and_a_mixture_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"pairs\.table: .*no \.parquet or \.tar file is there"):
        config(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(UserError, match=r"its tars are packed; unpack each"):
        config(tmp_path)
    tar(tmp_path / "a.tar", *pair("a", CAPTION))
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b" + bytes(2000))
    with pytest.raises(UserError, match=r"b\.tar: packed with gzip"):
        config(tmp_path)
    write_parquet(tmp_path / "t.parquet", [{"caption": CAPTION}])
    with pytest.raises(UserError, match=r"several formats \(\.parquet, \.tar\); name one"):
        config(tmp_path)
    with pytest.raises(UserError, match=r"0-\*\.tar: no \.parquet or \.tar file"):
        config(tmp_path / "0-*.tar")


@pytest.mark.parametrize("name", ["t.json", "t.parquet", "t.tar"])
def test_workers_read_the_same_as_one_process(tmp_path, name):
    path = tmp_path / name
    rows = [{"id": str(n), "image": f"{n}.png", "caption": f"{CAPTION} {n}"} for n in range(20)]
    if name == "t.json":
        as_json(path, rows)
    elif name == "t.parquet":
        write_parquet(path, rows, row_group_size=7)
    else:
        tar(path, *(member for n in range(20) for member in pair(str(n), f"{CAPTION} {n}")))
    source = config(path, images="ignored")
    units = list(source.plan())
    sent = pickle.loads(pickle.dumps(source))
    there = [record for unit in reversed(units) for record in sent.read(unit)]
    assert there[::-1] == [record for unit in units for record in source.read(unit)]
    assert len(pickle.dumps(source)) < 3000
    assert sent.fingerprint() == source.fingerprint()


# Real captions


def test_real_captions_are_the_same_in_every_format_and_their_figures_are_found(tmp_path, data_root):
    rows = write_table(data_root, tmp_path / "t.jsonl")
    rows = [row for row in rows if row["id"].startswith(("teaching-", "openstax-"))]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    as_json(tmp_path / "t.json", rows)
    columns = sorted({name for row in rows for name in row})
    write_parquet(tmp_path / "t.parquet", [{name: row.get(name) for name in columns} for row in rows])

    def texts(suffix: str, images: str) -> list[tuple[str, ...]]:
        read = records(tmp_path / f"t.{suffix}", images=images, root=data_root)
        samples = [record for record in read if isinstance(record, Sample)]
        assert sum(len(sample.images) for sample in samples) == (23 if images == "optional" else 0)
        return [(s.id, s.answer, s.context, s.origin.licence) for s in samples]

    found = texts("jsonl", "ignored")
    assert len(found) > 400
    assert found == texts("json", "ignored") == texts("parquet", "optional")
