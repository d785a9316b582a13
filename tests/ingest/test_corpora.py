"""Descriptors of published corpora, over miniatures made here in the layout that each is published in."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures import encoded

from pathloom.ingest import corpora as corpora_module
from pathloom.ingest import pairs
from pathloom.ingest.corpora import Corpus, corpora, find_corpus
from pathloom.listing import list_lines
from pathloom.recipe import load_entry, load_recipe
from pathloom.run import run_recipe
from pathloom.schema import Drop, Sample
from pathloom.stage import UserError

CAPTION = "A miniature: colon with fused glands in a fibrous stroma."


def entry(corpus: str, root: Path, **settings: Any) -> pairs.PairsConfig:
    given = {
        "name": "it",
        "kind": "ingest",
        "source": "pairs",
        "corpus": corpus,
        "root": str(root),
        **settings,
    }
    made = load_entry(given)
    assert isinstance(made, pairs.PairsConfig)
    return made


def records(config: pairs.PairsConfig) -> list[Sample | Drop]:
    config.check()
    return [record for unit in config.plan() for record in config.read(unit)]


def kept(found: list[Sample | Drop]) -> list[Sample]:
    return [record for record in found if isinstance(record, Sample)]


def reasons(found: list[Sample | Drop]) -> list[str]:
    return [record.reason for record in found if isinstance(record, Drop)]


@pytest.fixture
def small(monkeypatch):
    """Sets the numbers that a corpus is expected to have to those of a miniature."""

    def expect(name: str, rows: int | None, pictures: int | None) -> None:
        made = find_corpus(name).model_copy(update={"rows": rows, "pictures": pictures})
        table = {**corpora(), name: made}
        monkeypatch.setattr(corpora_module, "corpora", lambda: table)

    return expect


def picture(root: Path, name: str, seed: int = 0) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(seed, "PNG" if name.endswith("png") else "JPEG"))


def arch_books_miniature(root: Path) -> Path:
    """Figures 1 (three panels), 2 and 3 (one each); the picture of 3 is lost, as 35 are in the published set."""
    rows = {}
    for key, figure, letter in ((10, 1, "C"), (2, 1, "B"), (1, 1, "A"), (3, 2, None), (4, 3, None)):
        rows[key] = {"figure_id": str(figure), "letter": letter, "caption": CAPTION, "uuid": f"u-{key}"}
        if figure != 3:
            picture(root, f"images/u-{key}.{'jpg' if key % 2 else 'png'}", key)
    root.joinpath("captions.json").write_text(json.dumps(rows))
    return root


def arch_pubmed_miniature(root: Path) -> Path:
    rows = {n: {"caption": f"{CAPTION} {n // 2}", "uuid": f"u-{n}"} for n in range(4)}
    for n in range(4):
        picture(root, f"images/u-{n}.jpg", n)
    root.joinpath("captions.json").write_text(json.dumps(rows))
    return root


QUILT_COLUMNS = (
    *("", "caption", "image_path", "subset", "split", "pathology", "roi_text", "noisy_text"),
    *("corrected_text", "med_umls_ids", "magnification", "height", "width"),
)


def quilt_miniature(root: Path) -> Path:
    names = [f"_b_M_sOb4ZI_image_{n}.jpg" for n in (0, 0, 1)] + ["7M7Ol5StU7U_roi_2.jpg", "pmc_x.jpg"]
    root.mkdir()
    with (root / "quilt_1M_lookup.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(QUILT_COLUMNS)
        for n, name in enumerate(names):
            writer.writerow([n, f"{CAPTION}\nIt says {n}.", name, "quilt", "train", *[""] * 8])
            picture(root, f"quilt_1m/{name}", n)
    return root


def pathcap_miniature(root: Path) -> Path:
    rows = [
        {"caption": f"{CAPTION} {n}", "pmc_id": f"PMC{n // 2}", "figure_fn": "f", "file": f"{n}.jpg"}
        for n in range(4)
    ]
    for n in range(4):
        picture(root, f"images/{n}.jpg", n)
    root.joinpath("data.json").write_text(json.dumps(rows))
    return root


def pathgen_miniature(root: Path) -> Path:
    slides = ("TCGA-AA-3844-01Z-00-DX1.bf88", "TCGA-AA-3844-01Z-00-DX2.cafe", "TCGA-22-5474-01Z-00-DX1.8736")
    rows = [
        {"wsi_id": slide, "position": [str(n), "64"], "caption": f"{CAPTION} {n}", "file_id": "f"}
        for n, slide in enumerate(slides)
    ]
    for row in rows:
        picture(root, f"patches/{row['wsi_id']}_{row['position'][0]}_64.png")
    root.joinpath("PathGen-1.6M.json").write_text(json.dumps(rows))
    return root


def test_books_of_arch_come_as_bags_in_the_order_of_their_numbers(tmp_path, small):
    small("arch_books", 5, 4)
    found = records(entry("arch_books", arch_books_miniature(tmp_path / "books_set")))
    assert [s.id for s in kept(found)] == [f"arch_books/u-{n}" for n in (1, 2, 3, 10)]
    assert [(s.origin.group, s.origin.panel) for s in kept(found)] == [
        *(("1", "A"), ("1", "B"), ("2", None), ("1", "C"))
    ]
    assert [Path(s.images[0].path).suffix for s in kept(found)] == [".jpg", ".png", ".jpg", ".png"]
    assert {s.origin.licence for s in kept(found)} == {"CC BY-NC-SA 4.0"}
    assert reasons(found) == ["unreadable"]


def test_figures_of_one_picture_are_the_retrieval_set_of_arch(tmp_path, small):
    small("arch_books", 5, 4)
    found = records(entry("arch_books", arch_books_miniature(tmp_path / "books_set"), bags="single"))
    assert [s.id for s in kept(found)] == ["arch_books/u-3"]
    assert sorted(reasons(found)) == [*["bag_of_several"] * 3, "unreadable"]


def test_articles_of_arch_are_bags_by_their_caption(tmp_path, small):
    small("arch_pubmed", 4, 4)
    found = records(entry("arch_pubmed", arch_pubmed_miniature(tmp_path / "pubmed_set")))
    assert [s.origin.group for s in kept(found)] == [f"{CAPTION} {n}" for n in (0, 0, 1, 1)]


def test_pictures_of_quilt_are_grouped_by_video(tmp_path, small):
    small("quilt_1m", 5, 4)
    found = kept(records(entry("quilt_1m", quilt_miniature(tmp_path / "quilt"))))
    assert [s.origin.group for s in found] == [*["_b_M_sOb4ZI"] * 3, "7M7Ol5StU7U", "pmc_x.jpg"]
    assert [s.answer for s in found] == [f"{CAPTION} It says {n}." for n in range(5)]
    assert len({s.id for s in found}) == 5


def test_patches_of_pathgen_are_named_by_slide_and_place_and_grouped_by_patient(tmp_path, small):
    small("pathgen_1_6m", 3, 3)
    found = kept(records(entry("pathgen_1_6m", pathgen_miniature(tmp_path / "pathgen"))))
    assert [s.origin.group for s in found] == ["TCGA-AA-3844", "TCGA-AA-3844", "TCGA-22-5474"]
    assert Path(found[0].images[0].path).name == "TCGA-AA-3844-01Z-00-DX1.bf88_0_64.png"


def test_a_column_that_is_not_known_is_asked_for_and_then_read(tmp_path, small):
    small("pathcap", 4, None)
    root = pathcap_miniature(tmp_path / "pathcap")
    with pytest.raises(UserError, match=r"it\.columns\.image: the name of the column .*was not found"):
        entry("pathcap", root).check()
    found = kept(records(entry("pathcap", root, columns={"image": "file"})))
    assert [s.origin.group for s in found] == ["PMC0", "PMC0", "PMC1", "PMC1"]


def test_keys_of_the_recipe_win(tmp_path, small):
    small("arch_books", 5, 4)
    root = arch_books_miniature(tmp_path / "books_set")
    config = entry("arch_books", root, dataset="mine", licence="asked", columns={"group": "caption"})
    found = kept(records(config))
    assert {(s.id.partition("/")[0], s.origin.licence, s.origin.group) for s in found} == {
        ("mine", "asked", CAPTION)
    }
    assert config.columns["image"] == "uuid"
    assert type(config).model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("rows", r"captions\.json: 5 rows of the 4,305 of ARCH, books_set; fetch the rest.*it\.part=true"),
        ("images", r"images: 3 pictures of the 4 of ARCH, books_set; fetch the rest.*it\.part=true"),
        ("column", r"no column 'figure_id'; it has key, letter, caption, uuid"),
        ("folder", r"ARCH, books_set is not in .*images is missing"),
    ],
)
def test_a_part_of_a_corpus_is_told_before_anything_runs(tmp_path, small, lost, message):
    root = arch_books_miniature(tmp_path / "books_set")
    if lost != "rows":
        small("arch_books", 5, 4)
    if lost == "images":
        (root / "images/u-1.jpg").unlink()
    if lost == "column":
        text = (root / "captions.json").read_text().replace("figure_id", "figure")
        (root / "captions.json").write_text(text)
        message = r"no column 'figure_id'; it has .*figure, letter, caption, uuid"
    if lost == "folder":
        (root / "images").rename(root / "pictures")
    with pytest.raises(UserError, match=message):
        entry("arch_books", root).check()
    if lost in ("rows", "images"):
        found = records(entry("arch_books", root, part=True))
        assert len(kept(found)) == (4 if lost == "rows" else 3)


def test_another_version_of_a_corpus_is_told(tmp_path, small):
    small("arch_books", 3, 3)
    with pytest.raises(UserError, match=r"5 rows, and ARCH, books_set has 3: it is another version"):
        entry("arch_books", arch_books_miniature(tmp_path / "books_set")).check()


def test_all_corpora_that_are_missing_are_told_at_once_with_address_licence_and_cure(tmp_path):
    stages = "".join(
        f"  - {{name: c{index}, kind: ingest, source: pairs, corpus: {name}, root: {tmp_path}/{name}}}\n"
        for index, name in enumerate(corpora())
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: all\nstages:\n{stages}")
    with pytest.raises(UserError) as told:
        run_recipe(load_recipe(recipe), tmp_path / "runs")
    text = str(told.value)
    assert text.startswith(f"{len(corpora())} things are to be mended before anything runs:\n")
    for index, corpus in enumerate(corpora().values()):
        first = corpus.first.replace("ROOT", f"{tmp_path}/{corpus.name}")
        for part in (corpus.title, corpus.where, corpus.licence, first, f"--set c{index}.root=DIR"):
            assert part in text
    assert not (tmp_path / "runs").exists()


def test_one_refusal_alone_reads_as_before(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: one\nstages:\n  - {name: p, kind: ingest, source: pairs, table: nowhere.csv}\n")
    with pytest.raises(UserError, match=r"^p\.table: nowhere\.csv is not a file"):
        run_recipe(load_recipe(recipe), tmp_path / "runs")


def test_an_unknown_corpus_and_one_without_a_root_are_refused_by_the_recipe(tmp_path):
    with pytest.raises(UserError, match="there is no 'quilt'; there is pathgen_1_6m, quilt_1m"):
        entry("quilt", tmp_path)
    with pytest.raises(UserError, match="corpus arch_books: give `root`"):
        load_entry({"name": "it", "kind": "ingest", "source": "pairs", "corpus": "arch_books"})


def test_what_is_known_of_arch_agrees_with_its_published_counts():
    books, articles = find_corpus("arch_books"), find_corpus("arch_pubmed")
    assert (books.rows, books.pictures, articles.rows, articles.pictures) == (4305, 4270, 3309, 3309)


@pytest.mark.parametrize("corpus", corpora().values(), ids=list(corpora()))
def test_every_descriptor_can_be_used_and_says_what_it_does_not_know(corpus: Corpus):
    made = entry(corpus.name, Path("/nowhere"))
    assert set(made.columns) <= set(pairs.COLUMNS)
    assert corpus.where.startswith("https://")
    assert "ROOT" in corpus.first
    assert corpus.pictures is not None or "not known" in corpus.notes
    assert "image" in made.columns or made.image_name or "image" in corpus.unknown


def test_corpora_can_be_listed(tmp_path):
    lines = list_lines("corpora", tmp_path)
    assert len(lines) == len(corpora())
    assert lines[0].startswith("pathgen_1_6m: PathGen-1.6M, 1,620,876 pairs, CC BY-NC 2.0, gated")
