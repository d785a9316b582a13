"""What floats among the columns of a phantom book: figures with captions in every arrangement, tables, text boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pathloom.phantom.book_art import Art
from pathloom.phantom.book_caption import CaptionLines, Draft
from pathloom.phantom.book_style import BookStyle
from pathloom.phantom.book_text import Prose, capital
from pathloom.phantom.typeset import SetLine, Sheet, break_lines, register_family, text_width, tokenise
from pathloom.schema import Box


class Block(Protocol):
    """Something of known size that is placed whole."""

    @property
    def height_pt(self) -> float: ...

    @property
    def drafts(self) -> tuple[Draft, ...]: ...

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None: ...


@dataclass(frozen=True, eq=False)
class FigureBlock:
    """A figure and its caption. `art_width_pt` is at most `width_pt`; `place` says where the caption stands."""

    draft: Draft
    art: Art
    width_pt: float
    art_width_pt: float
    caption: CaptionLines | None
    place: Literal["below", "above", "left", "right"] = "below"
    gap_pt: float = 6.0
    caption_at_bottom: bool = False

    @property
    def drafts(self) -> tuple[Draft, ...]:
        return (self.draft,)

    @property
    def art_height_pt(self) -> float:
        return self.art_width_pt / self.art.aspect

    @property
    def height_pt(self) -> float:
        if self.caption is None:
            return self.art_height_pt
        if self.place in ("left", "right"):
            return max(self.art_height_pt, self.caption.height_pt)
        return self.art_height_pt + self.gap_pt + self.caption.height_pt

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None:
        caption, art_top = self.caption, top
        art_x = x + (self.width_pt - self.art_width_pt) / 2
        if caption and self.place == "above":
            self._note_caption(caption.draw(sheet, x, top), page)
            art_top = top + caption.height_pt + self.gap_pt
        elif caption and self.place == "below":
            self._note_caption(caption.draw(sheet, x, top + self.art_height_pt + self.gap_pt), page)
        elif caption:
            art_x = x if self.place == "right" else x + self.width_pt - self.art_width_pt
            caption_x = x + self.width_pt - caption.width_pt if self.place == "right" else x
            spare = max(self.art_height_pt - caption.height_pt, 0) if self.caption_at_bottom else 0
            self._note_caption(caption.draw(sheet, caption_x, top + spare), page)
        drawn = self.art.draw(sheet, art_x, art_top, self.art_width_pt)
        self.draft.page, self.draft.box_pt, self.draft.panels_pt = page, drawn.box_pt, drawn.panels_pt

    def _note_caption(self, box: Box, page: int) -> None:
        self.draft.caption_page, self.draft.caption_box_pt = page, box


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Two figures side by side, their tops on one line, each with its own caption below; or two under one caption."""

    parts: tuple[FigureBlock, FigureBlock]
    gap_pt: float
    joint: CaptionLines | None = None
    joint_gap_pt: float = 6.0

    @property
    def drafts(self) -> tuple[Draft, ...]:
        return tuple(part.draft for part in self.parts)

    @property
    def height_pt(self) -> float:
        tallest = max(part.height_pt for part in self.parts)
        return tallest + (self.joint_gap_pt + self.joint.height_pt if self.joint else 0)

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None:
        at = x
        for part in self.parts:
            part.draw(sheet, at, top, page)
            at += part.width_pt + self.gap_pt
        if self.joint:
            box = self.joint.draw(
                sheet, x, top + max(part.height_pt for part in self.parts) + self.joint_gap_pt
            )
            for draft in self.drafts:
                draft.caption_page, draft.caption_box_pt = page, box


@dataclass(frozen=True, eq=False)
class LateCaption:
    """The caption of a figure that fills the page before."""

    draft: Draft
    caption: CaptionLines
    drafts: tuple[Draft, ...] = ()

    @property
    def height_pt(self) -> float:
        return self.caption.height_pt

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None:
        self.draft.caption_page, self.draft.caption_box_pt = page, self.caption.draw(sheet, x, top)


@dataclass(frozen=True, eq=False)
class TableBlock:
    """A table under its caption: three rules, or a grid, or shaded rows. Never a figure."""

    caption: Sequence[SetLine]
    rows: Sequence[Sequence[str]]
    width_pt: float
    look: Literal["rules", "grid", "shaded"]
    style: BookStyle
    drafts: tuple[Draft, ...] = ()

    @property
    def _row_pt(self) -> float:
        return 1.7 * self.style.caption.size_pt

    @property
    def _head_pt(self) -> float:
        return 1.2 * self.style.caption.size_pt * len(self.caption) + 4

    @property
    def height_pt(self) -> float:
        return self._head_pt + self._row_pt * len(self.rows)

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None:
        size = self.style.caption.size_pt
        for number, line in enumerate(self.caption):
            sheet.line(line, x, top + number * 1.2 * size, self.width_pt)
        top += self._head_pt
        plain, bold, _ = register_family(self.style.caption.family if self.style.language == "en" else "sans")
        bottom = top + self._row_pt * len(self.rows)
        across = self.width_pt / len(self.rows[0])
        for number, row in enumerate(self.rows):
            y = top + number * self._row_pt
            if self.look == "shaded" and number % 2:
                sheet.rect((x, y, x + self.width_pt, y + self._row_pt), fill="#eceff3")
            if self.look == "grid":
                sheet.rule(x, y, x + self.width_pt, y)
            for column, words in enumerate(row):
                font = plain if number else bold
                while text_width(words, font, size) > across - 6 and " " in words:
                    words = words.rpartition(" ")[0]
                sheet.words(words, font, size, x + column * across + 3, y + 0.5 * size)
        if self.look == "grid":
            for column in range(len(self.rows[0]) + 1):
                sheet.rule(x + column * across, top, x + column * across, bottom)
        else:
            sheet.rule(x, top + self._row_pt, x + self.width_pt, top + self._row_pt)
            sheet.rule(x, top, x + self.width_pt, top, width=1)
        sheet.rule(x, bottom, x + self.width_pt, bottom, width=1)


def table_block(
    prose: Prose, style: BookStyle, width: float, number: str, fonts: tuple[str, str, str]
) -> TableBlock:
    rng = prose.rng
    chinese = style.language == "zh"
    title = prose.one("figure_titles")
    label = f"表{number} " if chinese else f"Table {number}. "
    size = style.caption.size_pt
    lines = break_lines(tokenise([(label, fonts[1]), (title, fonts[0])]), width, size)
    columns = int(rng.integers(2, 4)) if width < 260 else int(rng.integers(3, 6))
    if chinese:
        rows = [
            [f"{int(rng.integers(1, 90))}" for _ in range(columns)] for _ in range(int(rng.integers(4, 9)))
        ]
        rows[0] = ["n", *("ABCDE"[: columns - 1])]
    else:
        rows = [
            [capital(prose.one("table_cells")) for _ in range(columns)]
            for _ in range(int(rng.integers(4, 9)))
        ]
    looks: tuple[Literal["rules", "grid", "shaded"], ...] = ("rules", "grid", "shaded")
    return TableBlock(lines, rows, width, looks[int(rng.integers(3))], style)


@dataclass(frozen=True, eq=False)
class TextBox:
    """A coloured or framed box with a heading and a few points; no figure, and no sentence that names one."""

    heading: str
    lines: Sequence[SetLine]
    width_pt: float
    fill: str | None
    style: BookStyle
    font: str
    drafts: tuple[Draft, ...] = ()

    @property
    def _step_pt(self) -> float:
        return self.style.leading * self.style.size_pt

    @property
    def height_pt(self) -> float:
        return (len(self.lines) + 1.6) * self._step_pt + 14

    def draw(self, sheet: Sheet, x: float, top: float, page: int) -> None:
        box = (x, top, x + self.width_pt, top + self.height_pt)
        sheet.rect(box, fill=self.fill, stroke=None if self.fill else self.style.accent)
        size = self.style.size_pt
        sheet.words(self.heading, self.font, size * 1.05, x + 8, top + 9, colour=self.style.accent)
        for number, line in enumerate(self.lines):
            sheet.line(line, x + 8, top + 9 + (number + 1.6) * self._step_pt, self.width_pt - 16)


def text_box(
    prose: Prose, style: BookStyle, width: float, number: str, fonts: tuple[str, str, str]
) -> TextBox:
    items = [prose.one("list_items") for _ in range(int(prose.rng.integers(3, 7)))]
    bullet = "• "
    lines = [
        line
        for item in items
        for line in break_lines(tokenise([(bullet + item, fonts[0])]), width - 16, style.size_pt)
    ]
    heading = f"{number} " + prose.one("sections") if style.language == "zh" else f"Box {number}  Key points"
    fill = (None, "#eef3f8", "#f8f1e4", "#edf5ee")[int(prose.rng.integers(4))]
    return TextBox(heading, lines, width, fill, style, fonts[1])
