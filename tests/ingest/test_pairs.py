"""The source `pairs`: tables of captions, good and bad."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fixtures import encoded

from pathloom.ingest.pairs import PairsConfig, clean
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples

CAPTION = "Colon, H&E: fused glands in a fibrous stroma."


def table(folder: Path, rows: Sequence[object], name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
    return path


def config(path: Path, **settings: object) -> PairsConfig:
    given = {"images": "ignored", **settings}
    made = PairsConfig(name="pairs", kind="ingest", source="pairs", table=path, **given)
    made.check()
    return made


def records(path: Path, **settings: object) -> list[Sample | Drop]:
    source = config(path, **settings)
    return [record for unit in source.plan() for record in source.read(unit)]


def samples(path: Path, **settings: object) -> list[Sample]:
    return [record for record in records(path, **settings) if isinstance(record, Sample)]


def reasons(path: Path, **settings: object) -> list[str]:
    return [r.reason if isinstance(r, Drop) else "kept" for r in records(path, **settings)]


def test_a_row_becomes_a_caption_with_all_that_the_table_says(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded())
    row = {
        "id": "f1",
        "image": "a.png",
        "caption": CAPTION,
        "reference": "Figure 1 shows <b>fused</b> glands.",
        "group": "book 3",
        "licence": "CC BY 4.0",
        "subfield": "histopathology",
        "organ": "digestive",
    }
    (sample,) = samples(table(tmp_path, [row]), images="required", dataset="book")
    assert (sample.id, sample.task, sample.split) == ("book/f1", "caption", "train")
    assert sample.answer == CAPTION
    assert sample.context == "Figure 1 shows fused glands."
    assert (sample.subfield, sample.organ) == ("histopathology", "digestive")
    assert (sample.origin.group, sample.origin.licence) == ("book 3", "CC BY 4.0")
    assert sample.images[0].width_px == 24


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"caption": "x" * 60_000}, "caption_too_long"),
        ({"caption": CAPTION, "reference": "x" * 60_000}, "caption_too_long"),
        ({"caption": "图1 结肠腺癌,腺体融合,间质纤维化。肿瘤细胞核大深染。"}, "not_english"),
        ({"caption": ""}, "caption_too_short"),
        ({}, "caption_too_short"),
        ({"caption": None}, "caption_too_short"),
        ({"caption": "<p>  </p>\x00\x01\x02"}, "caption_too_short"),
        ({"caption": "1234567890 1234567890"}, "no_words"),
        ("{half a row", "not_a_row"),
        ('["a", "list"]', "not_a_row"),
        ({"caption": CAPTION, "licence": "all rights reserved"}, "licence"),
        ({"caption": CAPTION, "licence": "CC BY 4.0"}, "kept"),
        ({"caption": f"<div class='c'>{CAPTION}</div>", "licence": "cc-by"}, "kept"),
    ],
)
def test_a_bad_row_is_a_drop_with_its_reason(tmp_path, row, reason):
    rows = [{"licence": "CC BY 4.0", **row} if isinstance(row, dict) else row]
    assert reasons(table(tmp_path, rows), licences=("^cc[ -]by",)) == [reason]


def test_chinese_is_kept_where_any_language_may_be(tmp_path):
    path = table(tmp_path, [{"caption": "图1 结肠腺癌,腺体融合,间质纤维化。肿瘤细胞核大深染。"}])
    assert reasons(path, language="any") == ["kept"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("<b>Liver</b>,<br/>H&amp;E", "Liver , H&E"),
        ("p<0.05 and <5 mitoses", "p<0.05 and <5 mitoses"),
        ("&lt;i&gt;H. pylori&lt;/i&gt;", "H. pylori"),
        ("a\x00b\tc\n\nd", "a b c d"),
        ("adeno\u00adcarcinoma", "adenocarcinoma"),
        ("Sj\u006f\u0308gren", "Sj\u00f6gren"),
        ("<!-- hidden -->seen", "seen"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("patient\ufffds", "patient s"),
        ("<" * 50_000, "<" * 50_000),
    ],
)
def test_markup_and_control_characters_go_and_the_text_stays(text, cleaned):
    assert clean(text) == cleaned


def test_a_picture_that_is_missing_or_broken_is_a_drop(tmp_path):
    (tmp_path / "broken.png").write_bytes(encoded()[:80])
    rows = [
        {"caption": CAPTION, "image": "nowhere.png"},
        {"caption": CAPTION, "image": "broken.png"},
        {"caption": CAPTION},
    ]
    path = table(tmp_path, rows)
    assert reasons(path, images="required") == ["unreadable", "truncated", "no_image"]
    assert reasons(path, images="optional") == ["unreadable", "truncated", "kept"]
    assert reasons(path, images="ignored") == ["kept"] * 3


@pytest.mark.parametrize(("name", "sign"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_a_table_with_other_names_and_quoted_line_breaks_is_read_the_same(tmp_path, name, sign):
    lines = [
        f"image_path{sign}text",
        f'a.png{sign}"{CAPTION}\nIt goes on, with a ""quote""."',
        "",
        f'b.png{sign}"{CAPTION}"',
        f"c.png{sign}d{sign}too much",
    ]
    path = tmp_path / name
    path.write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")
    found = records(path, columns={"image": "image_path", "caption": "text"})
    assert [r.reason if isinstance(r, Drop) else r.answer for r in found] == [
        f'{CAPTION} It goes on, with a "quote".',
        CAPTION,
        "not_a_row",
    ]


def test_rows_of_one_group_stand_on_one_side_and_stay_there_when_rows_are_added(tmp_path):
    rows = [{"id": str(n), "caption": CAPTION, "group": f"book {n % 25}"} for n in range(100)]
    first = {s.id: s.split for s in samples(table(tmp_path, rows), test_share=0.3)}
    sides: dict[int, set[str]] = {}
    for n in range(100):
        sides.setdefault(n % 25, set()).add(first[f"pairs/{n}"])
    assert all(len(side) == 1 for side in sides.values())
    assert set(first.values()) == {"train", "test"}
    more = samples(
        table(tmp_path, [*rows, {"id": "new", "caption": CAPTION, "group": "book 99"}]), test_share=0.3
    )
    assert {s.id: s.split for s in more if s.id != "pairs/new"} == first


def test_the_group_may_be_a_part_of_its_column(tmp_path):
    rows = [{"caption": CAPTION, "group": "book3/page12"}]
    (sample,) = samples(table(tmp_path, rows), group_pattern=r"^(\w+)/")
    assert sample.origin.group == "book3"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": Path("nowhere.jsonl")}, "not a file"),
        ({"columns": {"captoin": "x"}}, "columns.captoin: unknown"),
        ({"licences": ("(",)}, "not a regular expression"),
    ],
)
def test_a_wrong_entry_is_refused_before_anything_is_read(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        config(
            **{"path": table(tmp_path, [{}]), **settings}
            if "table" not in settings
            else {"path": settings["table"]}
        )


def test_a_csv_without_the_column_names_those_that_it_has(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("picture,legend\na.png,b\n")
    with pytest.raises(UserError, match=r"no column 'caption'; it has picture, legend"):
        config(path)


def test_a_table_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no row"):
        config(table(tmp_path, []))


def test_many_rows_are_read_in_shards_and_keep_their_order(tmp_path):
    rows = [{"id": str(n), "caption": f"{CAPTION} {n}"} for n in range(1000)]
    counts = run_ingest(config(table(tmp_path, rows)), tmp_path / "out")
    assert counts["samples"] == 1000
    assert [s.id for s in read_samples(tmp_path / "out")] == [f"pairs/{n}" for n in range(1000)]
