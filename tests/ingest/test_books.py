"""Source `books`: a phantom book to Samples, pairs, table and gallery, by rule and by a model."""

import csv
import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image as PILImage
from tests.books.odd_pdfs import encrypted, without_pages
from tests.books.vlm_pages import Asked, entry, reply

from pathloom.books.files import find_books
from pathloom.books.references import named_figures
from pathloom.cli import main
from pathloom.figures import Book
from pathloom.generate.fill import STORE_FILE
from pathloom.generate.generator import Request
from pathloom.ingest.books import BooksConfig
from pathloom.listing import explain_lines
from pathloom.phantom.book import write_book
from pathloom.recipe import load_entry
from pathloom.run import run_into
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError
from pathloom.store import read_samples

PAGES = 8
ROUTE = {"generator": {"endpoint": {"url": "http://localhost:9/v1", "model": "m"}}}
HOSTILE = "Figure 6-1. <script>alert(1)</script> glands."


@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """A folder with a phantom book, a book that needs a password and one without pages."""
    folder = tmp_path_factory.mktemp("shelf")
    truth = write_book(folder / "atlas.pdf", num_pages=PAGES, seed=3, style="textbook")
    (folder / "locked.pdf").write_bytes(encrypted())
    (folder / "empty.pdf").write_bytes(without_pages())
    truths = [
        truth.model_copy(update={"name": "atlas"}),
        *(Book(name=n, num_pages=0) for n in ("empty", "locked")),
    ]
    (folder / "truth.jsonl").write_text("".join(book.model_dump_json() + "\n" for book in truths))
    return folder


@pytest.fixture(scope="module")
def ingested(shelf, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ingested") / "pairs"
    settings = ["pages.workers=0", f"truth={shelf / 'truth.jsonl'}", "licence=phantom"]
    run_into(books(shelf, *settings), out, lambda line: None)
    return out


def books(path: Path, *settings: str) -> BooksConfig:
    config = load_entry({"name": "books", "kind": "ingest", "source": "books", "path": str(path)}, settings)
    assert isinstance(config, BooksConfig)
    return config


def pairs_in(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "pairs.jsonl").read_text("utf-8").splitlines()]


def drops_in(out: Path) -> list[Drop]:
    lines = (line for path in (out / "drops").glob("*.jsonl") for line in path.read_bytes().splitlines())
    return [Drop.model_validate_json(line) for line in lines]


def test_every_pair_is_a_sample_with_its_picture_and_its_place(ingested):
    samples, pairs = list(read_samples(ingested)), pairs_in(ingested)
    assert len(samples) > 5
    assert [sample.id for sample in samples] == [f"books/{pair['id']}" for pair in pairs]
    for sample, pair in zip(samples, pairs, strict=True):
        assert (sample.answer, sample.context) == (pair["caption"], pair["reference"])
        assert (sample.origin.page, sample.origin.box_pt) == (pair["page"], tuple(pair["bbox_pt"]))  # type: ignore[arg-type]
        assert sample.origin.group == "atlas"
        assert sample.origin.licence == "phantom"
        assert sample.images[0].data == (ingested / str(pair["image"])).read_bytes()


def test_captions_carry_no_number_and_spans_lead_back_to_print(ingested):
    for sample, pair in zip(read_samples(ingested), pairs_in(ingested), strict=True):
        assert not sample.answer.startswith("Fig")
        start, end = sample.origin.caption_span or (0, 0)
        assert end > start
        assert end <= len(str(pair["printed"]))


def test_a_panel_has_the_sentences_that_name_it_or_the_whole_figure(ingested):
    panels = [pair for pair in pairs_in(ingested) if pair["panel"] and pair["inline_refs"]]
    assert panels
    for pair in panels:
        for sentence in pair["inline_refs"]:  # type: ignore[attr-defined]
            named = {p for one in named_figures(sentence) if one.number == pair["number"] for p in one.panels}
            assert not named or pair["panel"] in named


def test_what_cannot_be_used_is_a_drop_with_its_reason(ingested):
    reasons = {drop.sample_id: drop.reason for drop in drops_in(ingested)}
    assert reasons["books/locked"] == "book_encrypted"
    assert reasons["books/empty"] == "book_no_pages"


def test_the_table_has_a_row_for_every_file(ingested):
    with (ingested / "books.csv").open(encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"atlas", "locked", "empty"}
    assert (rows["atlas"]["pages"], rows["atlas"]["read"], rows["atlas"]["failed"]) == (
        str(PAGES),
        str(PAGES),
        "0",
    )
    assert rows["locked"]["failures"] == "encrypted:1"
    assert int(rows["atlas"]["bound"]) <= int(rows["atlas"]["figures"])


def test_the_gallery_shows_pages_boxes_and_pairs_and_no_markup_of_theirs(ingested):
    page = (ingested / "gallery" / "atlas.html").read_text("utf-8")
    assert 'href="gallery/atlas.html"' in (ingested / "gallery.html").read_text("utf-8")
    assert page.count("<section") == len(list((ingested / "renderings" / "atlas").iterdir()))
    for pair in pairs_in(ingested):
        if pair["panel"]:
            assert f'src="../{pair["image"]}"' in page
    assert "<script" not in page


def test_text_of_a_book_cannot_become_markup(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr("pathloom.books.layout.join_lines", lambda lines: HOSTILE)
    config = books(shelf / "atlas.pdf", "pages.workers=0")
    run_into(config, tmp_path / "out", lambda line: None)
    page = (tmp_path / "out" / "gallery" / "atlas.html").read_text("utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_with_truth_the_errors_are_measured(ingested):
    measured = json.loads((ingested / "measured.json").read_text())
    assert measured["caption_binding"]["f1"]["value"] > 0.9
    assert (ingested / "mistakes.txt").is_file()


def test_the_source_pairs_reads_what_this_one_writes(ingested, tmp_path):
    entry = {"name": "again", "kind": "ingest", "source": "pairs", "table": str(ingested / "pairs.jsonl")}
    run_into(load_entry(entry), tmp_path / "again", lambda line: None)
    again = {sample.answer: sample for sample in read_samples(tmp_path / "again")}
    for sample in read_samples(ingested):
        assert again[sample.answer].context == sample.context


def test_explain_tells_the_page_and_the_file(ingested):
    sample = next(iter(read_samples(ingested)))
    text = "\n".join(explain_lines(sample.id, ingested.parent))
    assert "atlas.pdf" in text
    assert f"page {sample.origin.page}" in text


def test_the_command_reads_a_book_and_says_where_to_look(shelf, tmp_path, capsys):
    out = tmp_path / "atlas"
    command = ["ingest", "books", str(shelf / "atlas.pdf"), "--out", str(out), "--set", "pages.workers=0"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"look: {out / 'gallery.html'}" in printed
    assert "atlas" in printed
    assert main(command) == 0
    assert "done before" in capsys.readouterr().out
    assert main([*command, "--set", "licence=other"]) == 1
    assert "choose another --out" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["atlas"]


def test_settings_that_change_only_time_do_not_change_the_key(shelf):
    assert books(shelf, "pages.workers=0").keyed() == books(shelf, "pages.workers=2").keyed()
    assert books(shelf, "pages.seconds_a_page=9").keyed() != books(shelf).keyed()  # a page may be given up
    assert books(shelf, "pages.letters=true").keyed() != books(shelf).keyed()


def test_a_wrong_key_is_named(shelf):
    with pytest.raises(UserError, match=r"pages\.orc"):
        books(shelf, "pages.orc=never")


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pdf"):
        books(tmp_path / "nowhere.pdf").check()


def by_half(request: Request) -> str:
    """A simulated model: one figure with two panels, the upper and the lower half of the page."""
    picture = request.messages[-1].images[0]
    w, h = picture.width_px, picture.height_px
    upper = entry("Glands of the colon.", (0, 0, w, h // 2), number="6-1", panel="A")
    return reply(upper, entry("Stroma of the colon.", (0, h // 2, w, h), number="6-1", panel="B"))


def test_the_vlm_route_gives_the_same_files_from_a_models_boxes(shelf, tmp_path, monkeypatch):
    asked = Asked(monkeypatch, by_half)
    config = books(shelf / "atlas.pdf", "pages.workers=0", f"vlm={json.dumps(ROUTE)}")
    run_into(config, tmp_path / "out", lambda line: None)
    samples: list[Sample] = list(read_samples(tmp_path / "out"))
    assert len(samples) == 2 * len(asked.requests) > 0
    assert {sample.origin.panel for sample in samples} == {"A", "B"}
    assert {sample.answer for sample in samples} == {"Glands of the colon.", "Stroma of the colon."}
    with PILImage.open(io.BytesIO(samples[0].images[0].data or b"")) as upper:
        assert abs(upper.width / upper.height - 1.41) < 0.02
    assert (tmp_path / STORE_FILE).is_file()
    before = len(asked.requests)
    run_into(config.model_copy(update={"licence": "other"}), tmp_path / "again", lambda line: None)
    assert len(asked.requests) == before


def test_a_page_whose_answer_cannot_be_read_has_a_status(shelf, tmp_path, monkeypatch):
    Asked(monkeypatch, lambda request: "a gland, I think")
    route = {**ROUTE, "max_unreadable": 1.0}
    run_into(
        books(shelf / "atlas.pdf", "pages.workers=0", f"vlm={json.dumps(route)}"),
        tmp_path / "out",
        lambda line: None,
    )
    assert list(read_samples(tmp_path / "out")) == []
    assert any(drop.reason.startswith("figure_vlm_") for drop in drops_in(tmp_path / "out"))


def test_a_book_of_another_name_is_another_key(shelf, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        os.link(shelf / "atlas.pdf", tmp_path / name / f"{name}.pdf")
    assert books(tmp_path / "a").fingerprint() != books(tmp_path / "b").fingerprint()


def test_truth_that_does_not_fit_is_refused_before_anything_is_read(shelf, tmp_path):
    truth = tmp_path / "truth.jsonl"
    truth.write_text(Book(name="other", num_pages=3).model_dump_json() + "\n")
    with pytest.raises(UserError, match="no book 'other'; there is atlas"):
        books(shelf, f"truth={truth}").check()
    truth.write_text('{"name": "atlas"}\n')
    with pytest.raises(UserError, match="line 1: not a book"):
        books(shelf, f"truth={truth}").check()


def test_what_an_ingest_made_is_no_book_of_the_next(shelf, tmp_path):
    os.link(shelf / "atlas.pdf", tmp_path / "atlas.pdf")
    run_into(books(tmp_path, "pages.workers=0"), tmp_path / "out", lambda line: None)
    assert [book.name for book in find_books(tmp_path)] == ["atlas"]
