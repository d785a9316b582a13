"""The VLM route: a model that sees a page pairs figures with captions. `vlm_references` finds the sentences about them.

It follows the released text parsing of Patho-R1 and gives the records of the rule route. Every answer is paid once: the
store is filled first and read then (docs/decisions/0009 and 0011), so a killed run asks nothing twice.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pydantic import Field

from pathloom.books.geometry import union
from pathloom.books.letters import POSITION, fold, position
from pathloom.books.numbers import Named, caption_start, labels
from pathloom.books.pdf import MAX_PAGE_PIXELS, SIZE_STEP_PX
from pathloom.books.prompts import Frame, Language, align_prompt
from pathloom.books.vlm_replies import Entry, read_alignment
from pathloom.figures import Book, Figure, Panel, Reference
from pathloom.generate.config import Asking
from pathloom.generate.fill import fill
from pathloom.generate.generator import Message, Request, Sampling
from pathloom.generate.store import AnswerStore
from pathloom.schema import Image, Record

PageKey = tuple[str, int]
"""Name of the book, number of the page from 1."""

_SENTENCE_END = re.compile(r"[.:;!?]\s+|[\u3002\uff1b\uff1a\uff01\uff1f]\s*")  # the second set is full width


class BookAsking(Asking):
    """Who is asked about a page. Sampling and attempts are those of Patho-R1's code for alignment."""

    sampling: Sampling = Sampling(temperature=0.3, top_p=0.8, max_tokens=8192)
    attempts: int = Field(
        default=3, ge=1, description="times that a page is asked about until its answer can be read"
    )


class VlmRoute(BookAsking):
    """Entry of a recipe: who aligns figures and captions.

    Without `references`, the sentences that name figures are left to the rules.
    """

    frame: Frame = Field(
        default="px", description="of the model's boxes: px for Qwen2.5-VL, norm1000 for Qwen3-VL"
    )
    references: BookAsking | None = Field(
        default=None, description="the text model that finds in-line references"
    )

    def check(self, where: str) -> None:
        super().check(where)
        if self.references is not None:
            self.references.check(f"{where}.references")

    def decides(self) -> dict[str, object]:
        references = None if self.references is None else self.references.decides()
        return {**super().decides(), "frame": self.frame, "references": references}


class PageView(Record):
    """A page as the model sees it. `picture` is the small rendering (`pdf.sizes_of_aspect`); sizes are the page's."""

    book: str
    number: int = Field(ge=1)
    picture: Image
    width_pt: float = Field(gt=0, allow_inf_nan=False)
    height_pt: float = Field(gt=0, allow_inf_nan=False)
    language: Language


@dataclass(frozen=True)
class Aligned:
    """Every page that was asked about is in one of the two: with its figures, maybe none, or with (reason, detail).

    `usage` is that of `fill`, with the counts of pages and figures.
    """

    figures: Mapping[PageKey, tuple[Figure, ...]]
    failures: Mapping[PageKey, tuple[str, str]]
    usage: Mapping[str, Any]


def ask_figures(
    pages: Callable[[], Iterable[PageView]], route: VlmRoute, store: AnswerStore, name: str
) -> Aligned:
    """Figures of all pages that `pages` gives, the same ones at each call; it is called three times, one page is held
    at a time. All books of a stage belong into one call, since caps and bounds on failures hold for a call.

    Only pages with a graphic are worth asking about. Raises UserError as `fill` does, and ValueError for a picture
    whose size the model would change, where its boxes count pixels.
    """

    def read(request: Request, text: str) -> tuple[Entry, ...]:
        picture = request.messages[-1].images[0]
        return read_alignment(text, picture.width_px, picture.height_px, route.frame)

    answers = fill(lambda: (figure_request(view, route) for view in pages()), route, store, read, name)
    figures: dict[PageKey, tuple[Figure, ...]] = {}
    failures: dict[PageKey, tuple[str, str]] = {}
    for index, view in enumerate(pages()):
        outcome = answers.of(index, figure_request(view, route))
        if outcome.value is None:
            failures[view.book, view.number] = (str(outcome.reason), outcome.detail)
        else:
            figures[view.book, view.number] = figures_of(view, outcome.value)
    counts = {"pages": len(figures) + len(failures), "figures": sum(map(len, figures.values()))}
    return Aligned(figures, failures, {**answers.usage, **counts})


def figure_request(view: PageView, route: VlmRoute) -> Request:
    """What is asked about one page. No JSON schema: the reply may be the None token.

    Raises ValueError, see `ask_figures`.
    """
    picture = view.picture
    if route.frame == "px" and (
        picture.width_px % SIZE_STEP_PX
        or picture.height_px % SIZE_STEP_PX
        or picture.width_px * picture.height_px > MAX_PAGE_PIXELS
    ):
        raise ValueError(
            f"{view.book}, page {view.number}: {picture.width_px}x{picture.height_px} px; a model whose boxes count "
            "pixels would resize it (see pdf.sizes_of_aspect)"
        )
    system, user = align_prompt(view.language, route.frame, picture.width_px, picture.height_px)
    messages = (Message(role="system", text=system), Message(role="user", text=user, images=(picture,)))
    return Request(messages=messages, sampling=route.sampling)


@dataclass(frozen=True)
class _Told:
    """An Entry with number and panel both in canonical form and as they stand in front of the text."""

    entry: Entry
    caption: str
    number: str
    panel: str
    printed: str


def figures_of(view: PageView, entries: Sequence[Entry]) -> tuple[Figure, ...]:
    """Entries of one number are the panels of one figure; an entry without number is a figure of its own.

    Labels that the model left in a caption are taken out of it, and count where it gave none apart.
    """
    groups: dict[object, list[_Told]] = defaultdict(list)
    for place, entry in enumerate(entries):
        told = _told(entry, "图" if view.language == "zh" else "Figure ")
        groups[told.number or place].append(told)
    return tuple(_figure(view, group) for group in groups.values())


def _told(entry: Entry, word: str) -> _Told:
    """`word` stands in front of a number that the model gave without one, or with a panel."""
    start = caption_start(entry.caption)
    caption, left = entry.caption, Named("")
    if start is not None and start.kind == "figure" and start.certain and len(start.numbers) == 1:
        caption = entry.caption[start.end :].strip()
        left = Named(start.numbers[0], start.panels)
    with_word = _named(entry.number)
    named = with_word if with_word.number else _named(f"Figure {entry.number}")
    number = named.number or left.number
    panels = (_panel_label(entry.panel), *named.panels[:1], *left.panels[:1])
    as_given = with_word.number and not with_word.panels
    return _Told(
        entry=entry,
        caption=caption,
        number=number,
        panel=next(filter(None, panels), ""),
        printed=entry.number if as_given else f"{word}{number}" if number else "",
    )


def _named(printed: str) -> Named:
    """ "Fig. 3.2" and "图3-2A" as a figure with its panels; Named("") for what is no figure's number."""
    figures = [label.named[0] for label in labels(printed) if label.kind == "figure"]
    return figures[0] if figures else Named("")


def _panel_label(printed: str) -> str:
    """ "(a)", "Panel A." and "A" are "A", "upper left" is "TOP LEFT"."""
    text = re.sub(r"^panel\s+", "", fold(printed).strip(" ().:[]"), flags=re.IGNORECASE)
    is_place = re.fullmatch(rf"{POSITION}|[左右上下中]{{1,2}}", text, re.IGNORECASE)
    return position(text) if is_place else text.upper()


def _figure(view: PageView, group: Sequence[_Told]) -> Figure:
    """`caption` is put together from what the model gave: number, shared description, then each panel's label and text.

    It is as printed but for the signs around labels, which the model was not asked for.
    """
    scale_x, scale_y = view.width_pt / view.picture.width_px, view.height_pt / view.picture.height_px
    shared = _shared([told.caption for told in group])
    if len(group) == 1:
        shared = "" if group[0].panel else group[0].caption
    number = group[0].printed
    if number and not number.endswith((".", ":")):
        number += "." if view.language == "en" else ""
    caption = " ".join(filter(None, (number, shared.strip())))
    panels = []
    for told in group:
        text = told.caption[len(shared) :].strip()
        caption = " ".join(filter(None, (caption, told.entry.panel or told.panel, text)))
        x1, y1, x2, y2 = told.entry.box_px
        panel = Panel(
            box_pt=(x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y),
            label=told.panel,
            text=text,
            caption_spans=((len(caption) - len(text), len(caption)),) if text else (),
        )
        panels.append(panel)
    return Figure(
        page=view.number,
        box_pt=union(panel.box_pt for panel in panels),
        number=group[0].number,
        caption=caption,
        caption_page=view.number if caption else None,
        shared=shared.strip(),
        panels=tuple(panels),
    )


def _shared(captions: Sequence[str]) -> str:
    """The whole sentences with which all captions begin."""
    if len(set(captions)) == 1:
        return captions[0]
    alike = takewhile(
        lambda signs: len(set(signs)) == 1, zip(*(f"{each} " for each in captions), strict=False)
    )
    common = "".join(signs[0] for signs in alike)
    ends = [match.end() for match in _SENTENCE_END.finditer(common)]
    return common[: ends[-1]] if ends else ""


def to_book(name: str, num_pages: int, aligned: Aligned, references: Iterable[Reference]) -> Book:
    """One book of those that were aligned. A sentence found from two pages (of a figure that goes on) counts once."""
    figures = [
        figure for (book, _), on_page in sorted(aligned.figures.items()) if book == name for figure in on_page
    ]
    return Book(
        name=name, num_pages=num_pages, figures=tuple(figures), references=tuple(dict.fromkeys(references))
    )
