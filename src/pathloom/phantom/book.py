"""Phantom books: whole synthetic textbooks and journals as PDF, with the exact truth of their figures and references.

Every figure, caption, panel and naming sentence is known because this code placed it. A figure's box is the union of
its panels, outside letters and tick labels; a caption's box is tight around its lines. A sentence that runs over a page
break counts on the page where it begins. A sentence that names a figure the book does not have is no Reference.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pathloom.figures import Book
from pathloom.phantom.book_block import Block, LateCaption
from pathloom.phantom.book_caption import Draft
from pathloom.phantom.book_flow import Flow, Fonts
from pathloom.phantom.book_plan import Planned, Planner, targets_of
from pathloom.phantom.book_style import HOUSES, BookStyle
from pathloom.phantom.book_text import Prose
from pathloom.phantom.typeset import Sheet, break_lines, register_family, tokenise

_BLOCK_GAP_PT = 15.0
_LEAST_LINES = 4
"""A stretch of column between blocks that would hold fewer lines stays white."""
_CHAPTER_PAGES = (7, 13)
_MIN_TEXT_SHARE = 0.22
"""Blocks that would leave less than this share of the page to text wait for the next page."""


@dataclass
class _Column:
    x: float
    spans: list[tuple[float, float]] = field(default_factory=list)  # free stretches, top to bottom

    def take(self, height: float, place: int) -> float | None:
        """Cut room for a block at the top, bottom or middle of the last stretch; None if it does not fit.

        Only the last stretch is below all blocks placed so far, and figures stand in the order of their numbers.
        """
        index = len(self.spans) - 1
        top, bottom = self.spans[index]
        if bottom - top < height:
            return None
        need = height + _BLOCK_GAP_PT
        if place == 0 or bottom - top < 3 * need:
            self.spans[index] = (min(top + need, bottom), bottom)
            return top
        if place == 1:
            self.spans[index:] = [(top, bottom - need), (bottom, bottom)]
            return bottom - height
        start = top + 0.4 * (bottom - top - need)
        self.spans[index : index + 1] = [(top, start - _BLOCK_GAP_PT), (start + need, bottom)]
        return start


def write_book(
    path: Path, *, num_pages: int, seed: int, style: str | BookStyle = "textbook", font: Path | None = None
) -> Book:
    """Typeset a phantom book at `path` and give its truth; the same arguments give the same book.

    `style` is a name of HOUSES or a style. `font` is a TrueType file for the Chinese house; without one its glyphs are
    not embedded: the text layer is right, but a page may render without its characters. Raises KeyError for an
    unknown name.
    """
    house = HOUSES[style] if isinstance(style, str) else style
    writer = _Writer(path, house, np.random.default_rng([seed, 50, *house.name.encode()]), num_pages, font)
    return writer.write()


class _Writer:
    def __init__(
        self, path: Path, style: BookStyle, rng: np.random.Generator, num_pages: int, font: Path | None
    ) -> None:
        from reportlab.pdfgen.canvas import Canvas

        self._path, self._style, self._rng, self._num_pages = path, style, rng, num_pages
        self._prose = Prose(rng, style.language)
        self._fonts = Fonts(
            register_family(style.family, font),
            register_family(style.heading_family, font),
            register_family(style.caption.family, font),
        )
        width, height = style.page_pt
        canvas = Canvas(str(path), pagesize=style.page_pt, invariant=1)
        canvas.setTitle(f"Phantom book, {style.name}")
        self._sheet = Sheet(canvas, width, height)
        left, top, right, bottom = style.margins_pt
        self._left, self._top, self._bottom = left, top, height - bottom
        self._measure = width - left - right
        self._column_pt = (self._measure - style.column_gap_pt * (style.columns - 1)) / style.columns
        self._planner = Planner(self._prose, style, self._fonts, self._column_pt, self._measure)
        self._flow = Flow(self._prose, style, self._column_pt, self._fonts)
        self._drafts: list[Draft] = []
        self._waiting: deque[Planned] = deque()
        self._late: LateCaption | None = None
        self._chapter = int(rng.integers(1, 15))
        self._title = ""
        self._offset = int(rng.integers(0, 400))
        self._starts = self._chapter_starts()
        self._column = (
            -1
        )  # of the last block on the page, in columns: figures stand in the order of their numbers

    def _chapter_starts(self) -> frozenset[int]:
        starts, page = [], 1
        while page <= self._num_pages:
            starts.append(page)
            page += int(self._rng.integers(*_CHAPTER_PAGES))
        if len(starts) > 1 and self._num_pages - starts[-1] < 2:
            starts.pop()
        return frozenset(starts)

    def write(self) -> Book:
        for page in range(1, self._num_pages + 1):
            self._write_page(page)
            self._sheet.canvas.showPage()
        self._sheet.canvas.save()
        figures = tuple(draft.figure() for draft in self._drafts)
        numbers = frozenset(figure.number for figure in figures if figure.number)
        return Book(
            name=self._path.stem,
            num_pages=self._num_pages,
            figures=figures,
            references=self._flow.references(numbers),
        )

    def _write_page(self, page: int) -> None:
        ends_chapter = page + 1 in self._starts or page == self._num_pages
        columns = self._columns()
        self._column = -1
        if page in self._starts:
            self._start_chapter(page, columns)
        self._draw_furniture(page)
        if self._late:
            self._place_wide(self._late, columns, page, place=int(self._rng.integers(2)))
            self._late = None
        before = [draft for draft in self._drafts if page - 1 <= draft.page < page]
        if self._waiting and self._waiting[0].plate_caption:
            self._place_plate(self._waiting.popleft(), page)
            columns = []
        else:
            self._place_waiting(columns, page)
        here = [draft for draft in self._drafts if draft.page == page]
        if not ends_chapter and len(self._waiting) < 3:
            plates = page + 2 not in self._starts and page + 2 <= self._num_pages and not self._waiting
            self._waiting.extend(self._planner.plan_page(plates=plates))
        coming = [draft for planned in self._waiting for draft in planned.block.drafts]
        self._flow.targets = targets_of([*before, *here, *coming])
        self._flow.far_targets = targets_of(self._drafts)
        self._flow.closing = ends_chapter
        for column in columns:
            self._fill(column, page)
        if ends_chapter:
            self._waiting.clear()

    def _columns(self) -> list[_Column]:
        step = self._column_pt + self._style.column_gap_pt
        return [
            _Column(self._left + i * step, [(self._top, self._bottom)]) for i in range(self._style.columns)
        ]

    # -- blocks

    def _place_waiting(self, columns: list[_Column], page: int) -> None:
        """Place blocks in their order until one does not fit; it and those after it wait."""
        while self._waiting and not self._waiting[0].plate_caption:
            planned = self._waiting[0]
            placed = self._place(planned, columns, page)
            if not placed:
                return
            self._waiting.popleft()

    def _place(self, planned: Planned, columns: list[_Column], page: int) -> bool:
        place = int(self._rng.integers(3))
        block = planned.block
        area = (self._bottom - self._top) * len(columns)
        free = sum(bottom - top for column in columns for top, bottom in column.spans)
        used = block.height_pt * (len(columns) if planned.wide else 1)
        if free - used < _MIN_TEXT_SHARE * area and free < 0.95 * area:
            return False
        if planned.wide:
            return self._place_wide(block, columns, page, place)
        order = range(max(self._column, 0), len(columns))
        skip = int(self._rng.integers(len(order))) if order else 0
        for index in (*order[skip:], *order[:skip]):
            top = columns[index].take(block.height_pt, place)
            if top is not None:
                self._draw(block, columns[index].x, top, page)
                self._column = index
                return True
        return False

    def _place_wide(self, block: Block, columns: list[_Column], page: int, place: int) -> bool:
        if len(columns) == 1:
            top = columns[0].take(block.height_pt, place)
        else:  # across all columns only at the head or foot of what is free in all of them
            upper = max(column.spans[0][0] for column in columns)
            lower = min(column.spans[-1][1] for column in columns)
            whole = all(len(column.spans) == 1 for column in columns)
            if not whole or lower - upper < block.height_pt + _BLOCK_GAP_PT:
                return False
            level_top = max(upper - column.spans[0][0] for column in columns) < 1
            level_foot = max(column.spans[0][1] - lower for column in columns) < 1
            may_top = level_top and self._column < 0
            if self._column > len(columns) or not (may_top or level_foot):
                return False
            if (place == 1 or not may_top) and level_foot:
                self._column = len(columns) + 1  # nothing comes after the foot of the page
                top = lower - block.height_pt
                for column in columns:
                    column.spans = [(column.spans[0][0], top - _BLOCK_GAP_PT)]
            else:
                top = upper
                for column in columns:
                    column.spans = [(top + block.height_pt + _BLOCK_GAP_PT, column.spans[-1][1])]
        if top is None:
            return False
        self._draw(block, self._left, top, page)
        return True

    def _place_plate(self, planned: Planned, page: int) -> None:
        spare = self._bottom - self._top - planned.block.height_pt
        self._draw(planned.block, self._left, self._top + spare / 3, page)
        if spare > 40 and self._style.language == "en" and self._rng.random() < 0.5:
            note = f"(Legend on next page{self._prose.pick(('', '.'))})"
            size = self._style.caption.size_pt
            at = self._left + self._measure
            self._sheet.words(note, self._fonts.caption[2], size, at, self._bottom - size, anchor="right")
        self._late = planned.plate_caption

    def _draw(self, block: Block, x: float, top: float, page: int) -> None:
        block.draw(self._sheet, x, top, page)
        self._drafts.extend(block.drafts)

    # -- text and furniture

    def _fill(self, column: _Column, page: int) -> None:
        """Set running text in the free stretches of a column."""
        for top, bottom in column.spans:
            y = top
            if bottom - top < _LEAST_LINES * self._style.leading * self._style.size_pt:
                continue
            while True:
                flow = self._flow.peek()
                space = flow.space_before_pt if y > top else 0.0
                room = 3 * flow.step_pt if flow.keep else flow.step_pt
                if y + space + room > bottom + 1:
                    break
                self._flow.take(page)
                y += space
                self._sheet.line(
                    flow.line, column.x, y, self._column_pt, align=flow.align, colours=flow.colours
                )
                y += flow.step_pt

    def _start_chapter(self, page: int, columns: list[_Column]) -> None:
        style, sheet, rng = self._style, self._sheet, self._rng
        if page > 1:
            self._chapter += 1
        self._planner.start_chapter(self._chapter)
        self._flow.start_chapter()
        self._title = self._prose.one("chapters")
        y, size = self._top + 6.0, 2.1 * style.size_pt
        head = f"第{self._chapter}章" if style.language == "zh" else f"CHAPTER {self._chapter}"
        sheet.words(head, self._fonts.heading[0], style.size_pt * 1.1, self._left, y, colour=style.accent)
        y += 2.4 * style.size_pt
        for line in break_lines(tokenise([(self._title, self._fonts.heading[1])]), self._measure, size):
            sheet.line(line, self._left, y, self._measure)
            y += 1.2 * size
        if style.language == "en" and rng.random() < 0.6:
            names = ", ".join(
                self._prose.one("surnames") + f" {self._prose.pick('ABCDEF')}." for _ in range(3)
            )
            sheet.words(names, self._fonts.body[2], style.size_pt, self._left, y, colour="#333333")
            y += 1.6 * style.size_pt
        sheet.rule(self._left, y, self._left + self._measure, y, width=1.2, colour=style.accent)
        y += 16
        for column in columns:
            column.spans = [(y, self._bottom)]
        if rng.random() < 0.4:
            self._place_wide(self._planner.opening_photo(), columns, page, place=0)

    def _draw_furniture(self, page: int) -> None:
        """Running header and page number; even pages mirror odd ones."""
        style, sheet = self._style, self._sheet
        left, right = self._left, self._left + self._measure
        number, odd = f"{page + self._offset}", page % 2 == 1
        plain = self._fonts.heading[0]
        y, size = self._top - 26, 0.85 * style.size_pt
        outer, anchor = (right, "right") if odd else (left, "left")
        if style.header == "band":
            sheet.rect((left, y - 4, right, y + size + 4), fill=style.accent)
        elif style.header == "rule":
            sheet.rule(left, y + size + 5, right, y + size + 5, colour=style.accent)
        elif style.header == "logo":
            sheet.rect((left, y - 6, left + 14, y + 8), fill=style.accent, radius=3)
            sheet.words("JPP", self._fonts.heading[1], 6, left + 7, y - 1, anchor="center", colour="white")
        if style.header != "none" and page not in self._starts:
            # beside the number in the foot the title stands on the outer side, in the head opposite to it
            at_right = style.header == "logo" or odd == (style.number_place == "footer")
            inner, side = (right, "right") if at_right else (left, "left")
            inset = {"left": 6.0, "right": -6.0}[side] if style.header == "band" else 0.0
            colour = "white" if style.header == "band" else "#333333"
            chapter = f"{self._chapter}  {self._title}" if not style.running else self._title
            sheet.words(chapter, plain, size, inner + inset, y, anchor=side, colour=colour)
        if style.number_place == "header" and style.header != "none":
            inset = (-6.0 if odd else 6.0) if style.header == "band" else 0.0
            colour = "white" if style.header == "band" else "black"
            sheet.words(number, plain, size, outer + inset, y, anchor=anchor, colour=colour)
            return
        foot = self._bottom + 22
        if style.header == "logo":
            sheet.rule(left, foot - 6, right, foot - 6, colour="#999999")
            sheet.words("J Phantom Pathol 2019; 12", plain, 6.5, left, foot)
            sheet.words(number, plain, size, right, foot, anchor="right")
        elif style.header == "none":
            sheet.words(number, plain, size, (left + right) / 2, foot, anchor="center")
        else:
            sheet.words(number, plain, size, outer, foot, anchor=anchor)


def draw_house(rng: np.random.Generator, name: str) -> BookStyle:
    """A house with its type sizes and margins varied a little, so that books of one house differ."""
    house = HOUSES[name]
    caption = replace(house.caption, size_pt=round(house.caption.size_pt * float(rng.uniform(0.95, 1.08)), 1))
    return replace(
        house,
        size_pt=round(house.size_pt * float(rng.uniform(0.96, 1.06)), 1),
        leading=float(rng.uniform(0.98, 1.06)) * house.leading,
        caption=caption,
    )
