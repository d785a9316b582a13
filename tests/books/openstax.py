"""Typesets the OpenStax sections of the public data in two layouts: real prose and real micrographs with exact truth.

The sections are CNXML (see documents/openstax/SOURCE.txt, CC BY-NC-SA 4.0); nothing of them is kept in the repository.
A link to a figure is empty in CNXML and prints as "Figure 4.12". Media descriptions (`alt`) are not printed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from reportlab.lib.utils import ImageReader
from reportlab.platypus import Flowable, Paragraph, Spacer, Table, TableStyle
from tests.books.openstax_pages import (
    COLUMN_GAP_PT,
    MARGIN_PT,
    PAGE_PT,
    FigureBlock,
    Float,
    styles_of,
    typeset,
)

from pathloom.figures import Book, Figure, Panel, Reference
from pathloom.schema import Box

LAYOUTS = ("one_column", "two_columns")

Fractions = tuple[float, float, float, float]

# Chapter, first figure and first table of each section, about where the printed books count.
_NUMBERS = {"m46049": (4, 12, 2), "m46057": (4, 19, 3), "m46684": (17, 17, 5), "m58788": (2, 31, 1)}
# Links to figures of sections that are not here.
_ELSEWHERE = {"fig-ch04_01_02": "4.3"}

# Composites inside one picture, read off the pixels and checked by eye: boxes as fractions of width and height, letters
# printed below or beside the parts left out; then how many sentences of the caption the last letter's part has, what
# follows them is shared. A drawing beside its micrograph without letters counts as one panel.
_COMPOSITES: dict[str, tuple[tuple[Fractions, ...], int]] = {
    "411_Reg_Dense-Irregular_Dense": (((0, 0, 1, 0.445), (0, 0.51, 1, 0.955)), 1),
    "412_Types_of_Cartilage-new": (
        ((0.003, 0.002, 0.998, 0.326), (0.003, 0.338, 0.998, 0.663), (0.003, 0.674, 0.998, 0.999)),
        1,
    ),
    "OSC_Microbio_02_04_CapsuStain": (((0, 0, 0.495, 0.861), (0.557, 0, 1, 0.861)), 2),
    "OSC_Microbio_02_04_Fixation": (
        ((0, 0, 0.165, 0.849), (0.222, 0, 0.552, 0.849), (0.61, 0, 1, 0.849)),
        2,
    ),
    "OSC_Microbio_02_04_Microtome": (((0, 0, 0.467, 0.854), (0.549, 0, 1, 0.854)), 1),
    "OSC_Microbio_02_04_Posnegstai": (
        ((0, 0, 0.428, 0.88), (0.485, 0, 0.703, 0.88), (0.761, 0, 1, 0.88)),
        1,
    ),
    "OSC_Microbio_02_04_Syphilis": (
        ((0, 0, 0.251, 0.871), (0.318, 0, 0.636, 0.871), (0.704, 0, 1, 0.871)),
        1,
    ),
}

# The end of a sentence, not of an abbreviated genus ("B. anthracis" at the head of a sentence stays whole).
_SENTENCE_END = re.compile(r"(?<![ (][A-Z])[.?!][”)]?\s+(?=[A-Z“(])")


@dataclass(frozen=True)
class Run:
    """Printed text in one style; `tags` are reportlab's inline tags: b, i, super."""

    text: str
    tags: tuple[str, ...] = ()
    figure: str = ""  # the number, where the run is a link to a figure


def write_openstax_books(root: Path, folder: Path, layout: str) -> list[tuple[Path, Book]]:
    """Typeset each section below `root` (PATHLOOM_DATA) to `folder`/<layout>_<section>.pdf, in the order of the names.

    `layout` is one of LAYOUTS, else ValueError. The one link to a figure of another section is printed but is no
    Reference, as that figure is not in the file.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"{layout!r} is none of {LAYOUTS}")
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for source in sorted((root / "documents/openstax").glob("*/index.cnxml")):
        path = folder / f"{layout}_{source.parent.name}.pdf"
        made.append((path, _Section(source, layout).write(path)))
    return made


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _fold(runs: list[Run]) -> tuple[Run, ...]:
    """Runs with each stretch of white space as one blank, none at the ends."""
    folded: list[Run] = []
    for run in runs:
        # Helvetica and Times as every viewer has them know the micro sign and not the letter mu.
        text = re.sub(r"\s+", " ", run.text).replace("μ", "µ")
        if not folded or folded[-1].text.endswith(" "):
            text = text.lstrip(" ")
        if text:
            folded.append(replace(run, text=text))
    if folded:
        folded[-1] = replace(folded[-1], text=folded[-1].text.rstrip(" "))
    return tuple(folded)


def _text(runs: tuple[Run, ...]) -> str:
    return "".join(run.text for run in runs)


def _markup(runs: tuple[Run, ...], marks: dict[int, str]) -> str:
    """Reportlab's markup of the runs; `marks` are zero-width tags and the characters that they stand before."""
    pieces, start = [], 0
    for run in runs:
        stop = start + len(run.text)
        cuts = [start, *(at for at in sorted(marks) if start < at < stop), stop]
        inner = "".join(marks.get(a, "") + escape(run.text[a - start : b - start]) for a, b in pairwise(cuts))
        for tag in run.tags:
            inner = f"<{tag}>{inner}</{tag}>"
        pieces.append(inner)
        start = stop
    return "".join(pieces)


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a paragraph start and end, blanks between them left out."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    return [(a, a + len(text[a:b].rstrip())) for a, b in pairwise(starts) if b > a]


def caption_parts(caption: str, label: str, last_sentences: int) -> tuple[dict[str, tuple[int, int]], str]:
    """The spans of the parts "(a) ...", "(b) ..." without their letters, and what all parts share without the label.

    A caption is lettered in order; the part of its last letter is `last_sentences` sentences long.
    """
    marks: list[re.Match[str]] = []
    for match in re.finditer(r"\(([a-z])\) ", caption):
        if match[1] == "abcdefgh"[len(marks)]:
            marks.append(match)
    tail = marks[-1].end()
    stop = tail + sentences(caption[tail:])[last_sentences - 1][1]
    ends = [*(match.start() for match in marks[1:]), stop]
    spans = {
        match[1].upper(): (match.end(), match.end() + len(caption[match.end() : end].rstrip()))
        for match, end in zip(marks, ends, strict=True)
    }
    lead = caption[len(label) : marks[0].start()].strip()
    return spans, f"{lead} {caption[stop:].strip()}".strip()


class _Section:
    """One section on its way to paper: the story of flowables, and what they tell when they are drawn."""

    def __init__(self, source: Path, layout: str) -> None:
        self.media = source.parent / "media"
        self.layout = layout
        self.name = f"{layout}_{source.parent.name}"
        self.root = ElementTree.fromstring(source.read_text("utf-8"))
        self.chapter, figure, table = _NUMBERS[source.parent.name.rpartition("_")[2]]
        self.labels = {key: f"Figure {number}" for key, number in _ELSEWHERE.items()}
        self.own: set[str] = set()
        for element in self.root.iter():
            key = element.get("id", "")
            if _name(element) == "figure":
                self.labels[key] = f"Figure {self.chapter}.{figure}"
                self.own.add(self.labels[key])
                figure += 1
            elif _name(element) == "table":
                self.labels[key] = f"Table {self.chapter}.{table}"
                table += 1
        self.styles = styles_of(layout)
        self.named: list[
            tuple[str, list[str]]
        ] = []  # sentences with the numbers of the figures that they name
        self.page_of: dict[int, int] = {}  # of the sentence at the index
        self.figures: dict[str, Figure] = {}  # by label

    def write(self, path: Path) -> Book:
        story = [*self._front(), *self._children(self._one(self.root, "content"), 1), *self._glossary()]
        num_pages = typeset(
            path,
            story,
            self.layout,
            title=_text(self._runs(self._one(self.root, "title"))),
            first_page=40 * self.chapter,
            drawn_sentence=self.page_of.__setitem__,
        )
        references = tuple(
            Reference(page=self.page_of[i], sentence=sentence, number=number)
            for i, (sentence, numbers) in enumerate(self.named)
            for number in numbers
        )
        figures = tuple(self.figures[label] for label in self.labels.values() if label in self.figures)
        return Book(name=self.name, num_pages=num_pages, figures=figures, references=references)

    def _one(self, element: ElementTree.Element, name: str) -> ElementTree.Element:
        return next(child for child in element if _name(child) == name)

    def _runs(self, element: ElementTree.Element, tags: tuple[str, ...] = ()) -> tuple[Run, ...]:
        """The printed text of an element of running text, block elements inside left out."""
        return _fold(list(self._raw_runs(element, tags)))

    def _raw_runs(self, element: ElementTree.Element, tags: tuple[str, ...]) -> Iterator[Run]:
        yield Run(element.text or "", tags)
        for child in element:
            name, more = _name(child), tags
            if name == "emphasis":
                more = (*tags, "b" if child.get("effect") == "bold" else "i")
            elif name == "term" and child.get("class") != "no-emphasis":
                more = (*tags, "b")
            elif name == "sup":
                more = (*tags, "super")
            if name == "link" and child.get("target-id") in self.labels and not child.text:
                label = self.labels[child.get("target-id", "")]
                kind, _, number = label.partition(" ")
                yield Run(label, tags, number.replace(".", "-") if kind == "Figure" else "")
            elif name == "newline":
                yield Run(" ", tags)
            elif name not in ("list", "figure", "title", "label"):
                yield from self._raw_runs(child, more)
            yield Run(child.tail or "", tags)

    def _paragraph(self, element: ElementTree.Element, style: str, bullet: str | None = None) -> Paragraph:
        """A paragraph whose sentences with links to figures are noted, and their page when they are drawn."""
        runs = self._runs(element)
        text, marks = _text(runs), {}
        starts = [sum(len(run.text) for run in runs[:i]) for i in range(len(runs))]
        for first, last in sentences(text):
            numbers = [
                run.figure
                for run, at in zip(runs, starts, strict=True)
                if run.figure and first <= at < last and run.text in self.own
            ]
            if numbers:
                marks[first] = f'<onDraw name="sentence" label="{len(self.named)}"/>'
                self.named.append((text[first:last], list(dict.fromkeys(numbers))))
        return Paragraph(_markup(runs, marks), self.styles[style], bulletText=bullet)

    def _front(self) -> Iterator[Any]:
        yield Paragraph(_markup(self._runs(self._one(self.root, "title")), {}), self.styles["title"])
        yield from self._children(self._one(self._one(self.root, "metadata"), "abstract"), 2)

    def _glossary(self) -> Iterator[Any]:
        for glossary in self.root:
            if _name(glossary) == "glossary":
                for definition in glossary:
                    yield self._paragraph(definition, "plain")

    def _children(self, element: ElementTree.Element, depth: int, para: str = "body") -> Iterator[Any]:
        """Flowables of the block elements, in order; `depth` is that of a heading, `para` the style of paragraphs."""
        for child in element:
            name = _name(child)
            if name == "title":
                yield Paragraph(
                    _markup(self._runs(child), {}), self.styles["head1" if depth < 3 else "head2"]
                )
            elif name == "para":
                yield self._paragraph(child, para)
                yield from self._children(child, depth, para)
            elif name == "list":
                yield from self._list(child)
            elif name == "figure":
                yield self._figure(child)
            elif name == "table":
                yield from self._table(child)
            elif name == "note":
                yield Spacer(0, 4)
                yield from self._children(child, 3, "note")
                yield Spacer(0, 6)
            elif name in ("section", "exercise", "problem"):
                yield from self._children(child, depth + (name == "section"), para)

    def _list(self, element: ElementTree.Element) -> Iterator[Any]:
        first = {"lower-alpha": "a", "upper-alpha": "A"}.get(element.get("number-style", ""), "1")
        for i, item in enumerate(element):
            bullet = f"{chr(ord(first) + i)}." if element.get("list-type") == "enumerated" else "\u2022"
            yield self._paragraph(item, "item", bullet)

    def _table(self, element: ElementTree.Element) -> Iterator[Any]:
        """A ruled table; a row whose only entry spans the columns is its title."""
        rows = [
            [self._cell(entry) for entry in row if _name(entry) == "entry"]
            for row in element.iter()
            if _name(row) == "row"
        ]
        title, body = rows[0][0], rows[1:]
        label = self.labels[element.get("id", "")]
        yield Paragraph(f"<b>{label}</b> {title}", self.styles["caption"])
        room = (PAGE_PT[0] - 2 * MARGIN_PT - (0 if self.layout == "one_column" else COLUMN_GAP_PT)) * 0.98
        width = room / len(body[0]) / (1 if self.layout == "one_column" else 2)
        table = Table(
            [[Paragraph(cell, self.styles["cell"]) for cell in row] for row in body], [width] * len(body[0])
        )
        table.setStyle(
            TableStyle([("GRID", (0, 0), (-1, -1), 0.5, "#888888"), ("VALIGN", (0, 0), (-1, -1), "TOP")])
        )
        table.spaceBefore, table.spaceAfter = 4, 10
        yield table

    def _cell(self, entry: ElementTree.Element) -> str:
        """Markup of a table's cell, each item of its lists on a line of its own."""
        lines = [_markup(_fold([Run(entry.text or "")]), {})]
        for child in entry:
            if _name(child) == "list":
                lines += ["\u2022 " + _markup(self._runs(item), {}) for item in child]
            elif _name(child) != "newline":
                lines[-1] += _markup(self._runs(child, ("super",) if _name(child) == "sup" else ()), {})
            tail = _markup(_fold([Run(child.tail or "")]), {})
            if _name(child) == "sup":
                lines[-1] += " " * bool(tail) + tail
            else:
                lines.append(tail)
        return "<br/>".join(line for line in lines if line)

    def _figure(self, element: ElementTree.Element) -> Flowable:
        image = next(child for child in element.iter() if _name(child) == "image")
        picture = self.media / Path(image.get("src", "")).name
        label = self.labels[element.get("id", "")]
        parts = [Run(label, ("b",))]
        for child in element:
            if _name(child) in ("title", "caption"):
                parts += [Run(" "), *self._runs(child, ("b",) if _name(child) == "title" else ())]
        caption = _fold(parts)

        def drawn(page: int, box_pt: Box, caption_box_pt: Box) -> None:
            self.figures[label] = _truth(picture.stem, label, _text(caption), page, box_pt, caption_box_pt)

        pixels_across, pixels_down = ImageReader(str(picture)).getSize()
        share, wide = 1.0, False
        if self.layout == "two_columns":
            wide = pixels_across >= 1000
            share = (
                0.58 if wide and pixels_across < 1.6 * pixels_down else 0.55 if pixels_across < 600 else 1.0
            )
        block = FigureBlock(picture, _markup(caption, {}), self.styles["caption"], share, drawn)
        return Float(block) if wide else block


def _truth(stem: str, label: str, caption: str, page: int, box_pt: Box, caption_box_pt: Box) -> Figure:
    """The figure as drawn; panels of a composite from _COMPOSITES."""
    shared = caption[len(label) :].strip()
    panels: tuple[Panel, ...] = (Panel(box_pt=box_pt),)
    if stem in _COMPOSITES:
        fractions, last_sentences = _COMPOSITES[stem]
        spans, shared = caption_parts(caption, label, last_sentences)
        x, y, width, height = box_pt[0], box_pt[1], box_pt[2] - box_pt[0], box_pt[3] - box_pt[1]
        panels = tuple(
            Panel(
                box_pt=(x + a * width, y + b * height, x + c * width, y + d * height),
                label=letter,
                text=caption[slice(*span)],
                caption_spans=(span,),
            )
            for (a, b, c, d), (letter, span) in zip(fractions, spans.items(), strict=True)
        )
    return Figure(
        page=page,
        box_pt=box_pt,
        number=label.rpartition(" ")[2].replace(".", "-"),
        caption=caption,
        caption_page=page,
        caption_box_pt=caption_box_pt,
        shared=shared,
        panels=panels,
    )
