"""JATS articles as truth: captions with their panels, and paragraphs with the figures that their markup names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

Element = ElementTree.Element


@dataclass(frozen=True)
class Mention:
    """A cross-reference: where it starts in its paragraph, the figure's number, and the letters behind it."""

    start: int
    number: str
    panels: tuple[str, ...]


@dataclass(frozen=True)
class Paragraph:
    text: str
    mentions: tuple[Mention, ...]


@dataclass(frozen=True)
class Caption:
    """`bold` are the letters set in bold; `parts` the paragraphs that begin with a letter in brackets, by letter."""

    label: str
    title: str
    text: str
    bold: frozenset[str]
    parts: dict[str, str]


@dataclass(frozen=True)
class Article:
    name: str
    captions: tuple[Caption, ...]
    paragraphs: tuple[Paragraph, ...]


def _flat(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def _letters(text: str) -> tuple[str, ...]:
    """ "A", "A-C" and "A, B" at the start of a text as letters."""
    found = re.match(
        r"([A-Z])(?![a-z])(?:[\u2013-]([A-Z])(?![a-z]))?((?:,? (?:and )?[A-Z](?![a-zA-Z0-9]))*)", text
    )
    if found is None:
        return ()
    last = found[2] or found[1]
    run = [chr(code) for code in range(ord(found[1]), ord(last) + 1)]
    return (*run, *re.findall(r"[A-Z]", found[3]))


def _number(rid: str) -> str | None:
    """ "...g003" is figure 3 and "...sg001" figure S1; tables and videos are no figures."""
    found = re.search(r"[.-](s?)g0*([1-9][0-9]*)$", rid)
    return f"{found[1].upper()}{found[2]}" if found else None


def _run(element: Element, pieces: list[str], marks: list[tuple[int, int, str]]) -> None:
    """Collects text, and start, end and number of every cross-reference to a figure; figures are left out."""
    pieces.append(element.text or "")
    for child in element:
        start = sum(map(len, pieces))
        number = _number(child.get("rid", "")) if child.tag == "xref" else None
        if child.tag not in ("fig", "table-wrap", "supplementary-material"):
            _run(child, pieces, marks)
        if number:
            marks.append((start, sum(map(len, pieces)), number))
        pieces.append(child.tail or "")


def _paragraph(element: Element) -> Paragraph:
    pieces: list[str] = []
    marks: list[tuple[int, int, str]] = []
    _run(element, pieces, marks)
    raw = "".join(pieces)
    mentions: list[Mention] = []
    for start, end, number in marks:
        inside = re.search(r"[0-9]([A-Z].*)$", raw[start:end])
        panels = _letters(re.sub(r"[0-9]", "", inside[1]) if inside else raw[end : end + 12])
        # "Figure 9A-9D" is marked up as two: the letters between belong to it too.
        if (
            mentions
            and mentions[-1].number == number
            and re.fullmatch(r".*[A-Z]\u2013", raw[mentions[-1].start : start])
        ):
            first = ord(mentions[-1].panels[-1])
            panels = tuple(chr(code) for code in range(first + 1, ord(panels[0]) + 1))
        mentions.append(Mention(start, number, panels))
    return Paragraph(raw.replace("\n", " "), tuple(mentions))


def _caption(element: Element) -> Caption:
    caption = element.find("caption")
    assert caption is not None
    title, paragraphs = caption.find("title"), [_flat(p) for p in caption.findall("p")]
    head = "" if title is None else _flat(title)
    bold = {letter for mark in caption.iter("bold") for letter in _letters(_flat(mark).strip("( "))}
    lettered = (re.match(r"\(([A-Z])\) (.*)", text) for text in paragraphs)
    return Caption(
        label=_flat(element.find("label")) if element.find("label") is not None else "",  # type: ignore[arg-type]
        title=head,
        text=" ".join([*filter(None, [head]), *paragraphs]),
        bold=frozenset(bold),
        parts={found[1]: found[2] for found in lettered if found},
    )


def read_articles(root: Path) -> Iterator[Article]:
    """The articles below `root` (PATHLOOM_DATA), by name."""
    for path in sorted(root.glob("documents/plos_jats/*.xml")):
        tree = ElementTree.fromstring(path.read_text("utf-8"))
        body = tree.find("body")
        assert body is not None
        captions = tuple(_caption(figure) for figure in body.iter("fig"))
        within = {
            id(p)
            for tag in ("fig", "table-wrap", "supplementary-material")
            for one in body.iter(tag)
            for p in one.iter("p")
        }
        paragraphs = tuple(_paragraph(p) for p in body.iter("p") if id(p) not in within)
        yield Article(path.stem, captions, paragraphs)
