# ruff: noqa: RUF001 (the signs that printers use are the matter here)
"""Lines to text, text to sentences, sentences to the figures they name; then the markup of public articles as truth."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.books.plos import Article, read_articles

from pathloom.books.numbers import canonical_number
from pathloom.books.references import (
    find_references,
    join_lines,
    named_figures,
    numbers_by_chapter,
    refer,
    refer_panel,
    sentence_spans,
    sentences,
)
from pathloom.figures import Figure, Reference

NAMED = [
    ("The cells (Fig. 3-2A) are large.", "3-2:A"),
    ("The cells (Fig. 3) are large.", "3"),
    ("(Figs. 2A–C and 3).", "2:ABC 3"),
    ("Figures 4 and 5 show cells.", "4 5"),
    ("FIGURES 4 & 5 show cells.", "4 5"),
    ("Fig. 3-2, A and B, shows cells.", "3-2:AB"),
    ("Figure 3-2, B gives an example.", "3-2:B"),
    ("compare Figure 3-2,B with the normal skin.", "3-2:B"),
    ("(Fig. 3. 12) and Fig. 3. 12 patients", "3-12 3"),
    ("Figures 3-1 to 3-3 show cells.", "3-1 3-2 3-3"),
    ("Figures 3.1 - 3.3 show cells.", "3-1 3-2 3-3"),
    ("(Figs. 13-19–13-21)", "13-19 13-20 13-21"),
    ("(Fig. 1A, B and 2C)", "1:AB 2:C"),
    ("(Fig 1B and 1D)", "1:BD"),
    ("(Fig 2A–2D)", "2:ABCD"),
    ("(Figs. 7-1A and 7-1B)", "7-1:AB"),
    ("(Figs 1 and 2A)", "1 2:A"),
    ("(Figures 5 and 2C)", "5 2:C"),
    ("(Fig. 4a; Fig. 5b)", "4:A 5:B"),
    ("(see Fig. 3 d,e)", "3:DE"),
    ("(see Fig. 3 a). Then", "3:A"),
    ("(Fig. 3ab)", "3:AB"),
    ("(Fig. 3 (A, B))", "3:AB"),
    ("(Fig. 3A+B)", "3:AB"),
    ("(Fig. 3A (arrow) and B (arrowhead))", "3:AB"),
    ("(Fig. 3-A)", "3:A"),
    ("(Fig. 3(ii))", "3:II"),
    ("(Fig. 4, panels A to C)", "4:ABC"),
    ("(see panels A and B of Figure 4)", "4:AB"),
    ("as in the left panel of Fig. 5.", "5:LEFT"),
    ("(Fig. 3-2, left)", "3-2:LEFT"),
    ("(Fig. 3, lower right)", "3:BOTTOM RIGHT"),
    ("(Fig. 1 (center)), at each level", "1:CENTRE"),
    ("(Fig. 2, 3)", "2 3"),
    ("(Figs. 2, 4, and 6)", "2 4 6"),
    ("(Figs. 3-5)", "3 4 5"),
    ("(Figs. 3-5 and 3-6)", "3-5 3-6"),
    ("(Figs. 2-4 and 6)", "2 3 4 6"),
    ("(figs. 3 to 5)", "3 4 5"),
    ("(fig. 3)", "3"),
    ("(Fig. 3-5)", "3-5"),
    ("(Supplementary Figs. 4–6)", "S4 S5 S6"),
    ("(Supplementary Fig. S1)", "S1"),
    ("(Figures 2 and S1)", "2 S1"),
    ("as S1 Fig shows", "S1"),
    ("(Extended Data Fig. 3b)", "ED3:B"),
    ("(eFigure 2)", "E2"),
    ("(Plate IV)", "PLATE-IV"),
    ("(Fig . 3-2) and (F1g. 4) and (Figure5)", "3-2 4 5"),
    ("如图13-19A、B所示。", "13-19:AB"),
    ("（图13-19A,B）", "13-19:AB"),
    ("见图1和图2。", "1 2"),
    ("（图13-19A和13-19B）", "13-19:AB"),
    ("（图13-19、13-20）", "13-19 13-20"),
    ("（图13-19、20）", "13-19 13-20"),
    ("（图3~5）", "3 4 5"),
    ("（图3至图5）", "3 4 5"),
    ("(Fig. 3 to Fig. 5)", "3 4 5"),
    ("（图 13 - 19 左）", "13-19:LEFT"),
    ("（图１３．１９Ａ）", "13-19:A"),
    ("（附图2）", "S2"),
    ("Table 2 and Fig. 3 agree.", "3"),
    ("In Fig. 3, 45 % of cells", "3"),
    ("Fig. 3 and 4 patients were", "3"),
    ("Fig. 3A, B cells were", "3:A"),
    ("(Fig. 3A and I think so)", "3:A"),
    ("Figure 3 a lot of cells", "3"),
    ("Fig. 3, right ventricle", "3"),
    ("Fig. 2 in human tissue", "2"),
    ("As reported [12] (Fig. 3)", "3"),
    ("Fig. 3 of this chapter", "3"),
]
NAMES_NONE = [
    "Table 2 lists them.",
    "The figure of 3-2 cases is low.",
    "In 2012, the figures rose by 3 to 5 %.",
    "Fig. 2012 is a year.",
    "as in Figure 3 of Smith et al. [12]",
    "as in Fig. 1 of Jones (2004)",
    "in ref. 4, Fig. 2",
    "Fig. 3 in [12]",
    "Figure 1 of reference 5",
    "their Fig. 3 shows",
    "(Smith et al., Fig. 2)",
    "see Fig. 7-3 of the companion atlas",
    "见表13-8。",
    "心电图3例，脑电图2例。",
    "图书3册，图3例。",
]


def _spell(sentence: str) -> str:
    named = named_figures(sentence)
    short = (
        "".join(one.panels) if all(len(p) == 1 for p in one.panels) else ",".join(one.panels) for one in named
    )
    return " ".join(
        f"{one.number}:{panels}" if panels else one.number for one, panels in zip(named, short, strict=True)
    )


@pytest.mark.parametrize(("sentence", "named"), NAMED)
def test_a_sentence_names_figures_and_panels(sentence: str, named: str):
    assert _spell(sentence) == named


@pytest.mark.parametrize("sentence", NAMES_NONE)
def test_a_sentence_that_names_no_figure_of_this_book_names_none(sentence: str):
    assert named_figures(sentence) == ()


def test_a_book_that_counts_by_chapter_reads_a_dash_as_one_number():
    assert [one.number for one in named_figures("(Figs. 3-5)", composite=True)] == ["3-5"]
    assert numbers_by_chapter(["(Fig. 3-2) and (Fig. 3-4)", "Fig. 5"]) is True
    assert numbers_by_chapter(["(Fig. 2) and (Fig. 4A)"]) is False
    assert numbers_by_chapter(["no labels"]) is None


@pytest.mark.parametrize("printed", ["3.2", "3-2", "3–2", "3—2", "３．２", " 3 - 2 "])
def test_a_number_has_one_canonical_form(printed: str):
    assert canonical_number(printed) == "3-2"


SENTENCES = [
    ["Cells (Fig. 3) grew.", "Smith et al. saw them in 2004."],
    ["Dr. A. B. Smith, e.g. of St. Ives, disagreed vs. others.", "Approx. 5.2 mm were cut."],
    ["See No. 5 of Figs. 2 and 3.", "It ends."],
    ["As shown [12].", "The end."],
    ["The cells grew.[12]", "They died.13,14", "The end."],
    ["It was hepatitis B.", "Patients of type A.", "The C. albicans grew."],
    ["It is seen in Fig. 3-2A, B.", "Cells follow."],
    ["It is seen (Fig. 3).", "See A.", "(It is there.)"],
    ["The marker was absent.", "p53 was mutated.", "mRNA was found."],
    ["Stains of H&E.", "(Original magnification, x200.)"],
    ["Is it?", "Yes!", "No."],
    ["图13-19A显示腺瘤。", "可见核分裂象（图13-20）。", "约占3.5%。"],
    ["肿瘤细胞呈实性.", "其中有纤维轴心；另有腺体。"],
]


def test_a_blank_that_a_reader_lost_still_ends_a_sentence():
    assert sentences("It is seen (Fig. 3-2A).Cells follow.A duct ends.") == [
        "It is seen (Fig. 3-2A).",
        "Cells follow.",
        "A duct ends.",
    ]


@pytest.mark.parametrize("expected", SENTENCES)
def test_text_is_split_into_sentences(expected: list[str]):
    han = any("\u3400" <= sign <= "\u9fff" for sign in expected[0])
    assert sentences(("" if han else " ").join(expected)) == expected


LINES = [
    (["carci-", "noma"], "carcinoma"),
    (["well-", "differentiated cells"], "well-differentiated cells"),
    (["CD38-", "positive"], "CD38-positive"),
    (["Ziehl-", "Neelsen"], "Ziehl-Neelsen"),
    (["a follow-", "up of cells"], "a follow-up of cells"),
    (["a T-", "cell of a MUL-", "TIPLE kind"], "a T-cell of a MULTIPLE kind"),
    (["the auto-", "immune and auto-immune kind"], "the auto-immune and auto-immune kind"),
    (["soft\u00ad", "ware and detail\ufffe", "ed"], "software and detailed"),
    (["as in Fig.", "3-2 and Fig. 3-", "2A"], "as in Fig. 3-2 and Fig. 3-2A"),
    (["(Figs. 2A–", "C)"], "(Figs. 2A–C)"),
    (["and/", "or"], "and/or"),
    (["见图", "13-19A和", "HER2", "阳性"], "见图13-19A和HER2阳性"),
    (["one  two", "", "three "], "one two three"),
]


@pytest.mark.parametrize(("lines", "text"), LINES)
def test_lines_are_joined(lines: list[str], text: str):
    assert join_lines(lines) == text


def test_a_sentence_over_a_page_break_belongs_to_the_page_where_it_begins():
    found = find_references(
        {
            1: "A first one. The carci-\nnoma is shown in",
            2: "Fig. 3-2A and B. It is large.\n\nFigs. 3-4 shows more, and so do",
            4: "Fig. 3-6 and others. See Fig. 3-1 (Fig. 3-1C).",
        }
    )
    assert [(one.page, one.number, one.panels) for one in found] == [
        (1, "3-2", ("A", "B")),
        (2, "3-4", ()),
        (4, "3-6", ()),
        (4, "3-1", ("C",)),
    ]
    assert found[0].sentence == "The carcinoma is shown in Fig. 3-2A and B."


def test_a_sentence_over_a_paragraph_break_by_a_figure_is_mended():
    (found,) = find_references({1: "The duct is seen\n\nat high power in Fig. 2."})
    assert found.sentence == "The duct is seen at high power in Fig. 2."


def _reference(page: int, number: str, *panels: str) -> Reference:
    return Reference(page=page, sentence=f"Page {page} on {number}{panels}.", number=number, panels=panels)


def test_references_come_from_the_pages_around_the_figure_and_its_caption():
    figure = Figure(page=5, box_pt=(0, 0, 1, 1), number="3-2", caption_page=6)
    around = [_reference(page, "3-2") for page in (3, 4, 5, 6, 7, 8)]
    other = [_reference(5, "3-3"), _reference(5, "")]
    assert refer(figure, [*around, *other, around[2]]) == tuple(around[1:5])
    assert refer(figure, around, window=0) == tuple(around[2:4])
    assert refer(figure.model_copy(update={"number": ""}), [*around, *other]) == ()


def test_a_panel_takes_the_references_that_name_it_or_no_panel():
    all_of_it, one, another = _reference(1, "2"), _reference(1, "2", "A", "B"), _reference(1, "2", "C")
    assert refer_panel([all_of_it, one, another], "A") == (all_of_it, one)


# -- public articles -------------------------------------------------------------------------------------------

Found = set[tuple[int, int, str, str]]


def _compare(article: Article) -> tuple[Found, Found]:
    """(found, marked up): paragraph, sentence, number and panel, "" for the figure itself."""
    found, truth = set(), set()
    for at, paragraph in enumerate(article.paragraphs):
        spans = sentence_spans(paragraph.text)
        for mention in paragraph.mentions:
            index = next(i for i, (start, end) in enumerate(spans) if start <= mention.start < end)
            truth |= {(at, index, mention.number, panel) for panel in ("", *mention.panels)}
        for index, (start, end) in enumerate(spans):
            for one in named_figures(paragraph.text[start:end]):
                letters = [panel for panel in one.panels if len(panel) == 1]
                found |= {(at, index, one.number, panel) for panel in ("", *letters)}
    return found, truth


def test_the_references_of_articles_are_those_of_their_markup(data_root: Path):
    for article in read_articles(data_root):
        found, truth = _compare(article)
        for kind, is_panel in (("figures", False), ("panels", True)):
            got = {one for one in found if bool(one[3]) == is_panel}
            want = {one for one in truth if bool(one[3]) == is_panel}
            precision, recall = len(got & want) / len(got), len(got & want) / len(want)
            print(f"\n{article.name} {kind}: precision {precision:.3f}, recall {recall:.3f}, n = {len(want)}")
            assert len(want) >= 17
            assert min(precision, recall) >= 0.97


def test_the_links_of_textbooks_are_found_when_printed(data_root: Path):
    """A link to a figure is empty in CNXML: printed as a label, it is read back, and nothing else is."""
    right = 0
    for path in sorted(data_root.glob("documents/openstax/*/index.cnxml")):
        tree = ElementTree.fromstring(path.read_text("utf-8"))
        space = "{http://cnx.rice.edu/cnxml}"
        figures = [figure.get("id") for figure in tree.iter(f"{space}figure")]
        for paragraph in tree.iter(f"{space}para"):
            links = [link for link in paragraph.iter(f"{space}link") if link.get("target-id") in figures]
            for link in links:
                link.text = f"Figure 4.{figures.index(link.get('target-id')) + 1}"
            text = " ".join("".join(paragraph.itertext()).split())
            numbers = {one.number for one in named_figures(text)}
            assert numbers == {(link.text or "").removeprefix("Figure ").replace(".", "-") for link in links}
            right += len(numbers)
    print(f"\nOpenStax: {right} figures named in paragraphs")
    assert right >= 20
