# ruff: noqa: RUF001 (the signs that printers use are the matter here)
"""Labels of captions, and captions taken apart: wordings of our own, then public captions measured and covered."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.books.plos import read_articles

from pathloom.books.captions import CaptionParts, describe, normalise, split_caption
from pathloom.books.numbers import caption_start

# -- how blocks begin ------------------------------------------------------------------------------------------

CERTAIN = [
    ("Figure 3-2. Fat cells.", ("3-2",), ""),
    ("FIGURE 3–2 | Fat cells", ("3-2",), ""),
    ("Fig. 3.2 Adipose tissue", ("3-2",), ""),
    ("Fig 3: the lobule", ("3",), ""),
    ("Fig.3.The lobule", ("3",), ""),
    ("Figs. 3 and 4. Two lobules", ("3", "4"), ""),
    ("Figures 3-1 to 3-3. Three lobules", ("3-1", "3-2", "3-3"), ""),
    ("Figure 3 — Lobule", ("3",), ""),
    ("Fig. 3-2A. Lobule", ("3-2",), "A"),
    ("Fig. 3a–c. Lobule", ("3",), "ABC"),
    ("Fig. 3 (A) Lobule", ("3",), ""),
    ("Fig. 3 a Lobule. b Duct", ("3",), ""),
    ("FIGURE 3-2 A, Lobule. B, Duct", ("3-2",), ""),
    ("Figure 3-2, A, Lobule. B, Duct", ("3-2",), ""),
    ("Fig. 3-2", ("3-2",), ""),
    ("Fig . 3-2. Lobule", ("3-2",), ""),
    ("F1g. 3-2. Lobule", ("3-2",), ""),
    ("Fig. l. Lobule", ("1",), ""),
    ("Fig. l2. Lobule", ("12",), ""),
    ("Figure3-2 Lobule", ("3-2",), ""),
    ("Fig, 3 - 2. Lobule", ("3-2",), ""),
    ("Supplementary Fig. S1. Gating", ("S1",), ""),
    ("Supplementary Figure 2. Gating", ("S2",), ""),
    ("S1 Fig. Gating", ("S1",), ""),
    ("eFigure 2. Flow of patients", ("E2",), ""),
    ("Extended Data Fig. 4 | Gating", ("ED4",), ""),
    ("Plate IV. Skin", ("PLATE-IV",), ""),
    ("Photo 3. Gross specimen", ("PHOTO-3",), ""),
    ("图13-19 纤维腺瘤", ("13-19",), ""),
    ("图13-19纤维腺瘤", ("13-19",), ""),
    ("图 13 - 19 纤维腺瘤", ("13-19",), ""),
    ("图１３．１９　纤维腺瘤", ("13-19",), ""),
    ("圖3 腺體", ("3",), ""),
    ("附图2 腺体", ("S2",), ""),
    ("彩图5 腺体", ("PLATE-5",), ""),
    ("图3-1 A：低倍", ("3-1",), ""),
]
POSSIBLE = [
    "Figure 3 shows the lobule.",
    "Figs. 2 and 3 demonstrate two lobules.",
    "Figure 3 and the table agree.",
    "Figure 3A shows a duct.",
    "Fig. 3). The duct is lined by",
    "Fig. 3, the duct is",
    "Figure 3 is a sketch.",
    "图3显示导管上皮。",
    "图3为导管。",
    "图1和图2可见",
]
NO_START = [
    "The figure of 3 cases",
    "Figure eight",
    "Figures of speech",
    "Box 3. Risk",
    "Video 2. Gait",
    "Eq. 4",
    "心电图3例",
]


@pytest.mark.parametrize(("text", "numbers", "panels"), CERTAIN)
def test_a_block_that_begins_like_a_caption_is_certain(text: str, numbers: tuple[str, ...], panels: str):
    start = caption_start(text)
    assert start is not None
    assert (start.kind, start.numbers, "".join(start.panels), start.certain) == (
        "figure",
        numbers,
        panels,
        True,
    )


@pytest.mark.parametrize("text", POSSIBLE)
def test_a_sentence_that_begins_with_a_figure_is_only_possible(text: str):
    start = caption_start(text)
    assert start is not None
    assert not start.certain


@pytest.mark.parametrize("text", NO_START)
def test_what_names_no_figure_begins_no_caption(text: str):
    assert caption_start(text) is None


@pytest.mark.parametrize("text", ["Table 2. Risk", "TABLE 13-8 Grades", "表13-8 分级", "续表13-8 分级"])
def test_a_table_is_told_from_a_figure(text: str):
    start = caption_start(text)
    assert start is not None
    assert start.kind == "table"


# -- captions taken apart --------------------------------------------------------------------------------------

Case = tuple[str, str, dict[str, str]]

SPLIT: list[Case] = [
    (
        "Fig. 1. Fat. (A) One droplet. (B, C) Fibres. H&E, x200.",
        "Fat. H&E, x200.",
        {"A": "One droplet.", "BC": "Fibres."},
    ),
    ("Fig. 1. (a-c) Lobules. (d) A vessel.", "", {"ABC": "Lobules.", "D": "A vessel."}),
    ("Fig. 1. (A and B) Lobules; (C) a vessel", "", {"AB": "Lobules", "C": "a vessel"}),
    ("Fig. 1 [a] lobule [b] vessel", "", {"A": "lobule", "B": "vessel"}),
    (
        "Fig. 1 A, Normal gland. B, Tumour. C and D, Mitoses.",
        "",
        {"A": "Normal gland.", "B": "Tumour.", "CD": "Mitoses."},
    ),
    ("Fig. 1. A, gland; B, tumour; and C, stroma.", "", {"A": "gland", "B": "tumour", "C": "stroma."}),
    ("Fig. 1. Gland. A. Low power. B. High power.", "Gland.", {"A": "Low power.", "B": "High power."}),
    ("Fig. 1: A: Gland B: Tumour", "", {"A": "Gland", "B": "Tumour"}),
    ("Fig. 1 A–C: low power; D: high power.", "", {"ABC": "low power", "D": "high power."}),
    ("Fig. 1 Gland. a) low b) high", "Gland.", {"A": "low", "B": "high"}),
    ("Fig. 1 Gland. (i) low power; (ii) high power.", "Gland.", {"I": "low power", "II": "high power."}),
    ("Fig. 1 Gland. (1) Low power. (2) High power.", "Gland.", {"1": "Low power.", "2": "High power."}),
    (
        "Fig. 1 a Gland with bile. b, c Tumour. d Stain",
        "",
        {"A": "Gland with bile.", "BC": "Tumour.", "D": "Stain"},
    ),
    ("Fig. 1. a, gland; b, a duct; c, a follicle.", "", {"A": "gland", "B": "a duct", "C": "a follicle."}),
    ("Fig. 1. Panels A and B show glands. Panel C shows a duct.", "", {"AB": "glands.", "C": "a duct."}),
    ("Fig. 1-2A, B. Glands. C. A duct", "", {"AB": "Glands.", "C": "A duct"}),
    ("Fig. 1-2A. Glands of the skin.", "", {"A": "Glands of the skin."}),
    ("Fig. 1. (A, B) Two views of a gland.", "", {"AB": "Two views of a gland."}),
    ("Fig. 1. Left: gland. Right: duct.", "", {"LEFT": "gland.", "RIGHT": "duct."}),
    ("Fig. 1. Left, gland; right, duct.", "", {"LEFT": "gland", "RIGHT": "duct."}),
    (
        "Fig. 1. The left panel shows a gland, and the right panel shows a duct.",
        "",
        {"LEFT": "a gland", "RIGHT": "a duct."},
    ),
    ("Fig. 1. Skin. Top: gland. Bottom: duct.", "Skin.", {"TOP": "gland.", "BOTTOM": "duct."}),
    ("Fig. 1. Upper left: gland. Upper right: duct.", "", {"TOP LEFT": "gland.", "TOP RIGHT": "duct."}),
    (
        "Fig. 1. Skin. Left panel: gland. Centre: duct. Right: hair.",
        "Skin.",
        {"LEFT": "gland.", "CENTRE": "duct.", "RIGHT": "hair."},
    ),
    (
        "Fig. 1. Gross view (left) of a nodule. Histology (right) of it.",
        "",
        {"LEFT": "Gross view of a nodule.", "RIGHT": "Histology of it."},
    ),
    ("Fig. 1. Glands (A) and ducts (B)", "", {"A": "Glands", "B": "ducts"}),
    (
        "Fig. 1. Sections of lung (a), liver (b), and spleen (c) in silver.",
        "Sections of … in silver.",
        {"A": "lung", "B": "liver", "C": "spleen"},
    ),
    (
        "Fig. 1. Frontal (A) and lateral (B) films of a hip.",
        "… films of a hip.",
        {"A": "Frontal", "B": "lateral"},
    ),
    ("Fig. 1. Glands (A). Ducts (B). Bars are 5 um.", "Bars are 5 um.", {"A": "Glands", "B": "Ducts"}),
    ("Fig. 1. Glands (A, H&E, x100) and ducts (B, PAS).", "", {"A": "Glands H&E, x100", "B": "ducts PAS"}),
    (
        "Fig. 1. Species (a) E. coli (b) S. aureus (c) C. albicans",
        "Species",
        {"A": "E. coli", "B": "S. aureus", "C": "C. albicans"},
    ),
    ("Fig. 1. Skin.(A) Gland.(B) Duct seen in (A).", "Skin.", {"A": "Gland.", "B": "Duct seen in (A)."}),
    (
        "Fig. 1. (A) Liver, H&E x100. (B) Lung, H&E x200.",
        "",
        {"A": "Liver, H&E x100.", "B": "Lung, H&E x200."},
    ),
    (
        "Fig. 1. (A) Liver. (B) Lung. Scale bars, 20 um. (Courtesy of a friend.)",
        "Scale bars, 20 um. (Courtesy of a friend.)",
        {"A": "Liver.", "B": "Lung."},
    ),
    ("Fig. 1. A, liver; B, lung; H&E, ×200.", "H&E, ×200.", {"A": "liver", "B": "lung"}),
    (
        "Fig. 1. (A) Liver. (B) Lung. Both were stained with PAS.",
        "Both were stained with PAS.",
        {"A": "Liver.", "B": "Lung."},
    ),
    (
        "Fig. 1. A, A gland. B, A duct seen in A. (H&E; A, ×40; B, ×200.)",
        "(H&E; A, ×40; B, ×200.)",
        {"A": "A gland.", "B": "A duct seen in A."},
    ),
    (
        "Fig. 1. Skin. A–C Sheets. A Gland of a rat. B Duct. C Hair. (PAS, A ×200; B, C ×400)",
        "Skin. (PAS, A ×200; B, C ×400)",
        {"ABC": "Sheets.", "A": "Gland of a rat.", "B": "Duct.", "C": "Hair."},
    ),
    (
        "Fig. 1 Stains of CK7 (A) and CK20 (B) in a gland (×200 [A] and ×400 [B]).",
        "Stains of … in a gland (×200 [A] and ×400 [B]).",
        {"A": "CK7", "B": "CK20"},
    ),
    ("Fig. 1 Skin. a Gland, ×100, b Duct, c CK7", "Skin.", {"A": "Gland, ×100", "B": "Duct", "C": "CK7"}),
    ("Figure 3A: Gland. Figure 3B: Duct.", "", {"A": "Gland.", "B": "Duct."}),
    ("Figure 1.(A)Gland.(B)Duct.H&E,×200.", "H&E,×200.", {"A": "Gland.", "B": "Duct."}),
    ("图1-2 一例 图A CT平扫；图B 增强", "一例", {"A": "CT平扫", "B": "增强"}),
    (
        "Fig. 1. Skin. (A–D) Overview. (A) normal, (B) thin, (C) thick, (D) torn",
        "Skin.",
        {"ABCD": "Overview.", "A": "normal", "B": "thin", "C": "thick", "D": "torn"},
    ),
    (
        "图1-2 乳腺肿瘤 A.分叶状；B.衬覆上皮，间质温和。",
        "乳腺肿瘤",
        {"A": "分叶状", "B": "衬覆上皮，间质温和。"},
    ),
    ("图1-2 乳腺肿瘤。A：分叶状；B：上皮 HE×100", "乳腺肿瘤。 HE×100", {"A": "分叶状", "B": "上皮"}),
    ("图1-2 乳腺肿瘤（A）分叶状；（B、C）上皮。", "乳腺肿瘤", {"A": "分叶状", "BC": "上皮。"}),
    ("图1-2 腺瘤（A）和癌（B）", "", {"A": "腺瘤", "B": "癌"}),
    ("图1-2 乳腺。A、B.低倍；C.高倍。", "乳腺。", {"AB": "低倍", "C": "高倍。"}),
    ("图1-2 左：肝。右：肾。", "", {"LEFT": "肝。", "RIGHT": "肾。"}),
    ("图1-2 肝硬化 ①低倍；②高倍", "肝硬化", {"①": "低倍", "②": "高倍"}),
    ("图1-2 肝硬化。A为低倍，B为高倍。", "肝硬化。", {"A": "低倍", "B": "高倍。"}),
]
WHOLE = [
    "Fig. 1. Effect of vitamin A on hepatitis B, type A (H&E).",
    "Fig. 1. A gland with bile. A duct is near.",
    "Fig. 1. Liver (A).",
    "Fig. 1. (C) 2010 by the press. Stage I tumour.",
    "Fig. 1. Influenza A, hepatitis B, and hepatitis C.",
    "Fig. 1. Group B: treated. Group A: not.",
    "Fig. 1. Defect (D) and aorta (A) in a heart.",
    "Fig. 1. A-P view of a hip (arrow).",
    "Fig. 1. H and E sections of a liver.",
    "Fig. 1. Atheroma with rupture. (H and E, × 100)",
    "Fig. 1. Map of sites (1, 2) and of others (3).",
    "Fig. 1. The aims: 1) count cells, 2) weigh them, and 3) report.",
    "Fig. 1. A: crest; B: border; W: chin; X: ramus; Y: medial rim; Z: lateral rim.",
    "Fig. 1. The left ventricle and the right atrium.",
    "Fig. 1. SVC, superior vena cava; f, filament; st, stylet.",
    "Fig. 1. Grafts by A. B. Smith and C. Jones.",
    "图1-2 维生素A、维生素B缺乏。",
    "图1-2 B细胞淋巴瘤，A型。",
]


def _by_labels(parts: CaptionParts) -> dict[str, str]:
    return {("" if len(part.labels[0]) == 1 else " ").join(part.labels): part.text for part in parts.parts}


@pytest.mark.parametrize(("caption", "shared", "parts"), SPLIT)
def test_a_caption_is_split_into_its_parts(caption: str, shared: str, parts: dict[str, str]):
    found = split_caption(caption)
    assert _by_labels(found) == parts
    assert found.shared == shared


@pytest.mark.parametrize("caption", WHOLE)
def test_letters_that_are_no_panels_split_nothing(caption: str):
    found = split_caption(caption)
    assert found.parts == ()
    assert found.shared == caption.split(" ", 2)[2] if caption.startswith("Fig") else caption.split(" ", 1)[1]


def test_the_caption_of_a_panel_is_the_shared_text_and_its_own():
    assert describe("Adipose tissue.", "Cells with one droplet.") == "Adipose tissue. Cells with one droplet."
    assert describe("纤维腺瘤", "裂隙状管内型。") == "纤维腺瘤。裂隙状管内型。"
    assert describe("Sections of … were stained.", "lung") == "Sections of lung were stained."
    assert describe("", "(A) Cells (see Fig. 3-2).") == "Cells."
    assert describe("Figure 3-2. Fat", "") == "Fat"


def test_captions_are_compared_without_numbers_letters_width_case_and_punctuation():
    assert normalise("Fig. 3–2 (A) Adipose  TISSUE, mature.") == normalise("adipose tissue mature")
    assert normalise("图13-19 Ａ．分叶状，结构。") == normalise("分叶状结构")
    assert normalise("grade 1 tumour") != normalise("grade 2 tumour")


# -- public captions -------------------------------------------------------------------------------------------


def _roco(root: Path) -> Iterator[tuple[str, str]]:
    for line in (root / "questions/roco_captions/captions.txt").read_text("utf-8").splitlines():
        name, _, caption = line.partition("\t")
        yield name, caption.strip()


def _teaching(root: Path) -> Iterator[tuple[str, str]]:
    text = (root / "questions/teaching_captions/data.js").read_bytes().decode("utf-8", "replace")
    for match in re.finditer(r"^\s*\[\s*'[^']+'\s*,\s*'((?:[^'\\]|\\.)*)'", text, re.MULTILINE):
        yield match[1], re.sub(r"<[^>]+>", "", match[1]).strip()


def _openstax(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("documents/openstax/*/index.cnxml")):
        for element in ElementTree.fromstring(path.read_text("utf-8")).iter(
            "{http://cnx.rice.edu/cnxml}caption"
        ):
            yield " ".join("".join(element.itertext()).split())


def _uncovered(caption: str) -> list[str]:
    """Words that a split caption lost; fails where two spans overlap."""
    found = split_caption(caption)
    own = [span for part in found.parts for span in part.spans]
    covered = [0] * len(caption)
    for start, end in (found.label_span, *found.shared_spans, *found.mark_spans, *own):
        assert 0 <= start < end or start == end == 0
        for at in range(start, end):
            covered[at] += 1
    assert max(covered, default=0) <= 1, caption
    left = "".join("|" if count else sign for sign, count in zip(caption, covered, strict=True))
    words = [word.casefold() for word in re.findall(r"[^\W_]+", left)]
    return [
        word
        for word in words
        if word not in ("and", "or", "as", "well", "but", "while", "whereas", "和", "及", "与", "以及")
    ]


@pytest.mark.parametrize(("caption", "_shared", "_parts"), SPLIT)
def test_no_word_of_a_caption_is_lost(caption: str, _shared: str, _parts: dict[str, str]):
    assert _uncovered(caption) == []


def test_no_word_of_a_public_caption_is_lost(data_root: Path):
    captions = [caption for _, caption in (*_roco(data_root), *_teaching(data_root))] + [
        *_openstax(data_root)
    ]
    captions += [caption.text for article in read_articles(data_root) for caption in article.captions]
    for caption in captions:
        for printed in (caption, f"Figure 3-2. {caption}", f"Fig. 4A {caption}"):
            assert _uncovered(printed) == []


def test_the_parts_of_articles_agree_with_their_markup(data_root: Path):
    """Letters in bold and paragraphs that begin with a letter are the truth."""
    bold, named, right, parts = 0, 0, 0, 0
    for article in read_articles(data_root):
        for caption in article.captions:
            found = split_caption(f"{caption.label}. {caption.text}")
            assert found.numbers == (re.sub(r"\D", "", caption.label),)
            named += len(caption.bold & {label for part in found.parts for label in part.labels})
            bold += len(caption.bold)
            for letter, text in caption.parts.items():
                own = " ".join(part.text for part in found.parts if letter in part.labels)
                right += normalise(own) == normalise(text)
                parts += 1
    print(f"\nPLOS: {named} of {bold} letters in bold, {right} of {parts} parts word for word")
    assert (bold, parts) == (17, 11)
    assert named == bold
    assert right == parts


def test_the_parts_of_textbook_captions_are_found(data_root: Path):
    """A caption that begins "(a)" has a part for every letter at the start of a sentence, and credits are shared."""
    lettered = 0
    for caption in _openstax(data_root):
        truth = re.findall(r"(?:^|\. +)\(([a-h])\)", caption)
        found = split_caption(caption)
        assert [label for part in found.parts for label in part.labels] == [
            letter.upper() for letter in truth
        ]
        assert not any("credit" in part.text or "Regents" in part.text for part in found.parts)
        lettered += len(truth)
    print(f"\nOpenStax: {lettered} parts")
    assert lettered == 18


def _half(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2


# Captions with brackets "(a) ... (b)" or "A, ... B, ...", told by a rule that knows nothing of the grammar.
_LETTERED = re.compile(
    r"(?:^|[\s.(\[])[(\[]?[Aa](?:[,-][B-Db-d])?[)\].:,] ?.*[(\[. ;,][Bb](?:[,-][C-Ec-e])?[)\].:,]"
)


def test_both_halves_of_the_public_captions_are_split_alike(data_root: Path):
    """Tuned on half 0. Half 1, read afterwards: 28 of 35 splits right, 4 of 39 missed; 4 faults are mended since."""
    for half in (0, 1):
        captions = [text for name, text in (*_roco(data_root), *_teaching(data_root)) if _half(name) == half]
        lettered = [text for text in captions if _LETTERED.search(text)]
        split = [text for text in lettered if split_caption(text).parts]
        print(f"\nhalf {half}: {len(split)} of {len(lettered)} lettered captions split, {len(captions)} read")
        assert len(split) >= 0.8 * len(lettered)
