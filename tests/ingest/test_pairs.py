"""The source `pairs`: tables of captions, good and bad."""

import csv
import json
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.fixtures import encoded

from pathloom.ingest import pairs_text
from pathloom.ingest.pairs import PairsConfig, clean
from pathloom.schema import Drop, Sample
from pathloom.shards import run_ingest
from pathloom.stage import UserError
from pathloom.store import read_samples

CAPTION = "Colon, H&E: fused glands in a fibrous stroma."
PLAIN = "Colon with fused glands in a fibrous stroma."


def table(folder: Path, rows: Sequence[object], name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
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


def lines(folder: Path, name: str, *texts: str) -> Path:
    """A table of these lines, whatever ends them."""
    path = folder / name
    path.write_bytes("".join(texts).encode())
    return path


def answers(path: Path, **settings: object) -> list[str]:
    return [r.reason if isinstance(r, Drop) else r.answer for r in records(path, **settings)]


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
        ("Ratio CD4&lt;CD8 and CK7&gt;CK20 in the lung", "Ratio CD4<CD8 and CK7>CK20 in the lung"),
        ("pT1a<pT1b; Ki-67 >20%", "pT1a<pT1b; Ki-67 >20%"),
        ("a<b and c>d, p<a or q>r", "a<b and c>d, p<a or q>r"),
        ("<P ALIGN=center nowrap>Liver<BR />, <h2 id='x' class=\"y z\">H&amp;E</h2 >", "Liver , H&E"),
        ('<a href=http://x.org/?q=1&amp;r=2/>Fig. 1</a> <img\nsrc="a.png"/>', "Fig. 1"),
        (
            "<italic>H. pylori</italic><xref ref-type='bibr' rid='B1'>1</xref><ext-link>x</ext-link>",
            "H. pylori 1 x",
        ),
        ("<mml:math><mml:mi>p</mml:mi></mml:math><o:p></o:p>", "p"),
    ],
)
def test_markup_and_control_characters_go_and_the_text_stays(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    "part", ["<a ", "<a x=", "<a x=1 ", "<a x='", "<b" + " " * 1000, "<a x=y" + "=y" * 1000]
)
def test_no_text_takes_long_to_clean(part):
    text = part * (400_000 // len(part))
    start = time.process_time()
    clean(text)
    assert time.process_time() - start < 2


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


def test_a_csv_with_other_names_and_quoted_line_breaks_is_read_the_same(tmp_path):
    path = lines(
        tmp_path,
        "pairs.csv",
        "\ufeffimage_path,text\n",
        f'a.png,"{CAPTION}\nIt goes on, with a ""quote""."\n',
        "\n",
        f'b.png,"{CAPTION}"\n',
        "c.png,d,too much\n",
    )
    assert answers(path, columns={"image": "image_path", "caption": "text"}) == [
        f'{CAPTION} It goes on, with a "quote".',
        CAPTION,
        "not_a_row",
    ]


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.txt"])
def test_a_quote_in_a_tsv_is_a_sign_like_any_other(tmp_path, name):
    rows = [f"{n}\t{CAPTION} {n}\r\n" for n in range(1000)]
    path = lines(tmp_path, name, "\ufeffid\tcaption\r\n", '"x\t"Owl eye cells of a lung\r\n', "\r\n", *rows)
    assert answers(path) == ['"Owl eye cells of a lung', *(f"{CAPTION} {n}" for n in range(1000))]


def test_a_csv_with_an_open_quote_is_refused_by_the_row_where_it_opens(tmp_path):
    rows = [f"{n},{PLAIN}\n" for n in range(1000)]
    path = lines(tmp_path, "t.csv", "id,caption\n", '"a","two\nlines of text"\n', 'b,"Owl eye\n', *rows)
    with pytest.raises(UserError, match=r"t\.csv, line 4 \(row 2\): .* not closed within 200 line breaks"):
        config(path)


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ([f"c,{PLAIN}\n"] * 5, "unexpected end of data"),
        ([f"c,{PLAIN}\n", f'd,"{PLAIN}"\n', f"e,{PLAIN}\n"], "expected after"),
    ],
)
def test_an_open_quote_swallows_no_row_either_where_the_table_ends_or_another_closes_it(tmp_path, rest, why):
    path = lines(tmp_path, "t.csv", "id,caption\n", f"a,{PLAIN}\n", 'b,"Owl eye\n', *rest)
    with pytest.raises(UserError, match=rf"t\.csv, line 3 \(row 2\): .*{why}"):
        config(path)


def test_a_quoted_value_may_hold_200_line_breaks(tmp_path):
    caption = "\n".join([PLAIN] * 201)
    path = lines(tmp_path, "t.csv", "caption\n", f'"{caption}"\n', f"{PLAIN}\n")
    assert answers(path, max_chars=20_000) == [" ".join([PLAIN] * 201), PLAIN]


@pytest.mark.parametrize(
    ("name", "odd", "said"),
    [
        ("t.csv", f"a,{PLAIN}\r{PLAIN}", "not_a_row"),
        ("t.csv", f"a,{PLAIN}\x00{PLAIN}", f"{PLAIN} {PLAIN}"),
        ("t.csv", f"a,{PLAIN * 100}", "not_a_row"),
        ("t.tsv", f"a\t{PLAIN}\r{PLAIN}", f"{PLAIN} {PLAIN}"),
        ("t.jsonl", '{"caption": ' + "[" * 100_000 + "]" * 100_000 + "}", "not_a_row"),
        ("t.jsonl", '{"id": ' + "1" * 5000 + "}", "not_a_row"),
    ],
    ids=["return", "zero", "long", "return in a tsv", "deep", "many digits"],
)
def test_one_odd_row_costs_no_other(tmp_path, monkeypatch, name, odd, said):
    monkeypatch.setattr(pairs_text, "_MAX_VALUE_CHARS", 1000)
    sign = "\t" if name == "t.tsv" else ","
    if name == "t.jsonl":
        rows = [json.dumps({"id": one, "caption": PLAIN}) + "\n" for one in "xy"]
    else:
        rows = [f"{one}{sign}{PLAIN}\n" for one in "xy"]
        rows[0] = f"id{sign}caption\n{rows[0]}"
    before = csv.field_size_limit()
    try:
        assert answers(lines(tmp_path, name, rows[0], f"{odd}\n", rows[1])) == [PLAIN, said, PLAIN]
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_table_whose_lines_end_in_carriage_returns_is_refused(tmp_path, name):
    sign = "," if name == "t.csv" else "\t"
    path = lines(tmp_path, name, f"id{sign}caption\r", f"a{sign}{CAPTION}\r", f"b{sign}{CAPTION}\r")
    with pytest.raises(UserError, match=r"line 1: no header .*LF line ends"):
        config(path)


def test_half_a_character_in_any_column_leaves_a_row_that_can_be_written(tmp_path):
    half = "\ud83d"
    names = ("id", "organ", "group", "licence", "subfield", "reference")
    rows = [{"caption": f"{CAPTION} {name}", name: f"{name}{half}"} for name in names]
    rows += [{"caption": f"{half}{CAPTION}"}, {"caption": half}, {"caption": CAPTION, "image": f"{half}.png"}]
    path = table(tmp_path, rows)
    settings = {"images": "optional", "test_share": 0.5}
    counts = run_ingest(config(path, **settings), tmp_path / "out")
    assert counts["drops"] == {"caption_too_short": 1, "no_file_name": 1}
    kept = list(read_samples(tmp_path / "out"))
    assert len(kept) == 7
    assert kept[0].id == "pairs/id"
    assert (kept[1].organ, kept[2].origin.group, kept[3].origin.licence) == ("organ", "group", "licence")


@pytest.mark.parametrize("name", ["a\0.png", "\ud83d.png", "circle.png"])
def test_a_name_that_no_file_can_have_is_a_drop(tmp_path, name):
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (drop,) = records(table(tmp_path, [{"caption": CAPTION, "image": name}]), images="required")
    assert isinstance(drop, Drop)
    assert drop.reason == "no_file_name"
    assert Drop.model_validate_json(drop.model_dump_json()) == drop


def test_a_byte_order_mark_costs_no_row(tmp_path):
    row = json.dumps({"caption": CAPTION})
    assert reasons(lines(tmp_path, "t.jsonl", f"\ufeff{row}\n{row}\n")) == ["kept", "kept"]


def test_a_picture_outside_the_root_is_not_followed(tmp_path):
    (tmp_path / "out.png").write_bytes(encoded())
    rows = [
        {"caption": CAPTION, "image": name} for name in ("../out.png", str(tmp_path / "out.png"), "l.png")
    ]
    path = table(tmp_path / "tables", [*rows, {"caption": CAPTION, "image": "../../../../etc/passwd"}])
    (path.parent / "l.png").symlink_to(tmp_path / "out.png")

    found = records(path, images="optional")

    assert [r.reason for r in found if isinstance(r, Drop)] == ["outside_root"] * 4
    assert all("--set pairs.root=DIR" in r.detail for r in found if isinstance(r, Drop))
    absolute = table(
        tmp_path / "tables", [{"caption": CAPTION, "image": str(tmp_path / "out.png")}], "b.jsonl"
    )
    assert reasons(absolute, images="required", root=tmp_path) == ["kept"]


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"pairs\.root: .*nowhere is not a folder"):
        config(table(tmp_path, [{"caption": CAPTION}]), images="required", root=tmp_path / "nowhere")


def test_two_captions_of_one_figure_have_two_ids_and_one_group(tmp_path):
    (tmp_path / "f.png").write_bytes(encoded())
    rows = [{"caption": CAPTION, "image": "f.png"}, {"caption": f"{CAPTION} Again."}]
    rows += [{"caption": f"{CAPTION} B.", "image": "f.png"}]
    found = samples(table(tmp_path, rows), images="optional")
    assert [s.id for s in found] == ["pairs/f.png#row-1", "pairs/row-2", "pairs/f.png#row-3"]
    assert found[0].origin.group == found[2].origin.group == "f.png"


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_a_repeated_id_is_a_drop_that_names_the_first_row(tmp_path, name):
    ids = ["a", "b", " <b>a</b> ", "c", "b"]
    if name == "t.csv":
        path = lines(tmp_path, name, "id,caption\n", *(f"{one},{PLAIN}\n" for one in ids))
    else:
        path = table(tmp_path, [{"id": one, "caption": CAPTION} for one in ids])
    found = records(path)
    assert [s.id for s in found if isinstance(s, Sample)] == ["pairs/a", "pairs/b", "pairs/c"]
    drops = [(r.sample_id, r.reason, r.detail) for r in found if isinstance(r, Drop)]
    assert [drop[:2] for drop in drops] == [
        ("pairs/a#row-3", "id_seen_before"),
        ("pairs/b#row-5", "id_seen_before"),
    ]
    assert "row 3: its id stood first in row 1" in drops[0][2]
    assert "row 5: its id stood first in row 2" in drops[1][2]


def test_a_plan_is_not_sent_with_the_configuration(tmp_path):
    source = config(table(tmp_path, [{"id": str(n), "caption": CAPTION} for n in range(2000)]))
    sent = pickle.dumps(source)
    assert len(sent) < 2000
    assert pickle.loads(sent) == PairsConfig(**source.model_dump())
    assert pickle.loads(sent).plan() == source.plan()


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
