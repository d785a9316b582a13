"""How phantom books look: eight houses, each with its page, type, captions and way of naming figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pathloom.phantom.book_text import DASH, Language, PartStyle, RefStyle
from pathloom.phantom.typeset import Align

A4, LETTER, CROWN = (595.3, 841.9), (612.0, 792.0), (504.0, 720.0)

Header = Literal["rule", "logo", "band", "plain", "none"]
CaptionPlace = Literal["below", "above", "beside"]


@dataclass(frozen=True)
class CaptionStyle:
    """`label` and `labels` (of two figures) hold {n}; `after` stands between label and text.

    With `own_line` the label, or in Chinese label and title, has a line of its own.
    """

    label: str = "Figure {n}"
    labels: str = "Figures {n}"
    after: str = ". "
    label_bold: bool = True
    label_colour: str = "black"
    marks_bold: bool = False
    family: str = "serif"
    italic: bool = False
    size_pt: float = 8.5
    align: Align = "justify"
    own_line: bool = False
    hyphenate: bool = False
    parts: tuple[PartStyle, ...] = ("paren",)
    places: tuple[CaptionPlace, ...] = ("below",)


@dataclass(frozen=True)
class BookStyle:
    """One house. `running` numbers figures through the book ("7") instead of by chapter ("3-2")."""

    name: str
    page_pt: tuple[float, float] = A4
    margins_pt: tuple[float, float, float, float] = (62, 64, 62, 64)  # left, top, right, bottom
    columns: int = 2
    column_gap_pt: float = 18
    family: str = "serif"
    size_pt: float = 9.5
    leading: float = 1.22
    align: Align = "justify"
    hyphenate: bool = True
    indent_pt: float = 12
    heading_family: str = "sans"
    heading_colour: str = "black"
    accent: str = "#4a6fa5"
    header: Header = "rule"
    number_place: Literal["footer", "header"] = "footer"
    separator: str = "-"
    running: bool = False
    caption: CaptionStyle = field(default_factory=CaptionStyle)
    refs: RefStyle = field(default_factory=RefStyle)
    letter_form: str = "A"
    language: Language = "en"
    one_image_share: float = 0.55
    """Share of composites that are one image object; the others place every panel as an image of its own."""


_HOUSES = (
    BookStyle("textbook", caption=CaptionStyle(parts=("paren", "dot"))),
    BookStyle(
        "journal",
        page_pt=LETTER,
        margins_pt=(50, 60, 50, 54),
        size_pt=9,
        header="logo",
        accent="#8c2f39",
        running=True,
        letter_form="a",
        caption=CaptionStyle(
            label="Fig {n}",
            labels="Figs {n}",
            after=f" {DASH} ",
            family="sans",
            size_pt=7.5,
            align="left",
            parts=("comma", "colon"),
            marks_bold=True,
        ),
        refs=RefStyle("Fig ", "Figs ", "Figure ", "Figures ", lower=True),
    ),
    BookStyle(
        "atlas",
        columns=1,
        size_pt=10.5,
        family="sans",
        align="left",
        hyphenate=False,
        indent_pt=0,
        header="band",
        accent="#2e7d6b",
        number_place="header",
        separator=".",
        caption=CaptionStyle(
            label="Fig. {n}",
            labels="Figs. {n}",
            after=" ",
            family="sans",
            align="left",
            size_pt=9,
            parts=("colon", "sides"),
            places=("below", "beside"),
        ),
        refs=RefStyle("Fig. ", "Figs. ", "Figure ", "Figures ", separator="."),
    ),
    BookStyle(
        "handbook",
        page_pt=CROWN,
        columns=1,
        margins_pt=(58, 60, 58, 60),
        size_pt=10,
        header="plain",
        heading_family="serif",
        caption=CaptionStyle(
            label="FIGURE {n}",
            labels="FIGURES {n}",
            after=" | ",
            family="sans",
            size_pt=8,
            align="left",
            label_colour="#a0522d",
            parts=("comma",),
            places=("below", "above"),
            marks_bold=True,
        ),
        refs=RefStyle("Figure ", "Figures ", "Figure ", "Figures ", apart=", "),
    ),
    BookStyle(
        "review",
        page_pt=LETTER,
        columns=3,
        column_gap_pt=14,
        margins_pt=(42, 58, 42, 50),
        size_pt=8.5,
        header="band",
        accent="#5b4b8a",
        running=True,
        caption=CaptionStyle(
            label="Figure {n}",
            after=": ",
            family="sans",
            size_pt=7.2,
            align="left",
            parts=("dot", "paren"),
            hyphenate=True,
        ),
        refs=RefStyle("Figure ", "Figures ", "Figure ", "Figures "),
    ),
    BookStyle(
        "lecture",
        page_pt=A4,
        columns=1,
        margins_pt=(90, 76, 90, 80),
        size_pt=11,
        header="none",
        heading_family="serif",
        letter_form="(a)",
        caption=CaptionStyle(
            label="Figure {n}",
            after=". ",
            label_bold=False,
            italic=True,
            size_pt=9.5,
            align="center",
            parts=("paren", "sides"),
        ),
        refs=RefStyle("fig. ", "figs. ", "Figure ", "Figures ", lower=True),
    ),
    BookStyle(
        "manual",
        page_pt=CROWN,
        columns=2,
        margins_pt=(46, 56, 46, 52),
        family="wide",
        size_pt=7.6,
        leading=1.35,
        align="left",
        hyphenate=False,
        header="rule",
        separator=DASH,
        number_place="header",
        caption=CaptionStyle(
            label="FIGURE {n}",
            labels="FIGURES {n}",
            after=" ",
            own_line=True,
            label_colour="#1f5fa8",
            family="wide",
            size_pt=7,
            align="left",
            parts=("dot",),
            places=("below", "above", "beside"),
        ),
        refs=RefStyle("Fig. ", "Figs. ", "Figure ", "Figures ", separator=DASH),
    ),
    BookStyle(
        "chinese",
        columns=1,
        margins_pt=(76, 80, 54, 80),
        family="song",
        heading_family="song",
        heading_colour="#3a8fc4",
        size_pt=10.5,
        leading=1.5,
        indent_pt=21,
        header="band",
        accent="#9bb3bf",
        language="zh",
        caption=CaptionStyle(
            label="图{n}",
            labels="图{n}",
            after=" ",
            label_bold=False,
            label_colour="#3a8fc4",
            family="song",
            size_pt=9,
            align="center",
            own_line=True,
            parts=("dot", "colon", "paren"),
        ),
        refs=RefStyle("图", "图", "图", "图"),
    ),
)
HOUSES: Mapping[str, BookStyle] = {house.name: house for house in _HOUSES}
"""The styles by name; "chinese" takes a font to embed (see typeset.register_family)."""
