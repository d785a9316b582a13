"""Layout by rule: lines to blocks, blocks to roles, and the order in which the prose is read.

Distances are measured in the page's own type (line pitch, font size), since a pocket guide and an atlas share no number
of points. Shares without a source are our own choices, made on drawn books and on three real documents.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from pathloom.books.geometry import (
    height,
    overlap_y,
    union,
    width,
)
from pathloom.books.numbers import CaptionStart, caption_start
from pathloom.books.page import Line, Page
from pathloom.books.paragraphs import ENDS, paragraphs
from pathloom.books.profile import Profile, margin_lines, same_size, size_slack
from pathloom.books.references import join_lines
from pathloom.schema import Box

Role = Literal["body", "title", "caption", "margin", "other"]
"""What a block is: running prose, a heading, a caption, a running head or foot, or else a label, table or list."""

SMALL_PROSE = 0.75
"""Methods and notes are set in smaller type, down to this share of the body's."""


@dataclass(frozen=True, eq=False)
class Block:
    """Lines that belong together, in their order; `start` where the first line begins like a caption."""

    lines: tuple[Line, ...]
    role: Role
    start: CaptionStart | None = None

    @property
    def box_pt(self) -> Box:
        return union(line.box_pt for line in self.lines)

    @property
    def size_pt(self) -> float:
        return median(line.size_pt for line in self.lines)

    @property
    def text(self) -> str:
        return join_lines([line.text for line in self.lines])


@dataclass(frozen=True, eq=False)
class Layout:
    """A page with its blocks; body and titles first in reading order, then the others as they stand."""

    page: Page
    blocks: tuple[Block, ...]

    def of(self, *roles: Role) -> list[Block]:
        return [block for block in self.blocks if block.role in roles]

    @property
    def prose(self) -> str:
        """The running prose in reading order, paragraphs parted by empty lines."""
        return "\n\n".join("\n".join(line.text for line in block.lines) for block in self.of("body"))


def lay_out(page: Page, book: Profile) -> Layout:
    """Blocks with their roles; body and titles in reading order, before all others."""
    margin = margin_lines(page, book)
    furniture = set(map(id, margin))
    groups = paragraphs([line for line in page.lines if id(line) not in furniture], page, book)
    slack = size_slack(page)
    blocks = [_assign(group, book, slack) for group in groups]
    blocks = _with_paragraph_ends(_without_lists_of_figures(blocks, page), book, slack)
    prose = [block for block in blocks if block.role in ("body", "title")]
    others = [block for block in blocks if block.role not in ("body", "title")]
    margins = [Block((line,), "margin") for line in margin]
    return Layout(page, (*reading_order(prose), *others, *margins))


def _assign(lines: Sequence[Line], book: Profile, slack: float) -> Block:
    start = caption_start(lines[0].text)
    block = Block(tuple(lines), "other", start)
    body_size_pt = book.body_size_pt or block.size_pt
    is_body_size = same_size(block.size_pt, body_size_pt, slack)
    if all(height(line.box_pt) > 2 * line.size_pt > width(line.box_pt) for line in lines):
        return block  # set upright: the name of an axis, a note along the page's edge
    if start is not None and (start.certain or _set_apart(block, body_size_pt, slack)):
        return replace(block, role="caption")
    chars = sum(len(line.text) for line in lines)
    letters = sum(char.isalpha() for line in lines for char in line.text)
    wordy = letters > 0.55 * chars
    if block.size_pt > 1.1 * body_size_pt and len(lines) <= 4 and wordy and 3 < chars < 200:
        return replace(block, role="title")
    wide = width(block.box_pt) > 0.6 * book.column_pt if book.column_pt else chars > 40
    ends = bool(ENDS.search(lines[-1].text.rstrip())) and chars > 12
    if is_body_size and wordy and (ends or (wide and (len(lines) >= 2 or chars > 30))):
        return replace(block, role="body")
    small = SMALL_PROSE * body_size_pt <= block.size_pt < body_size_pt and len(lines) >= 3
    if small and wordy and wide and chars > 40 * (len(lines) - 1):
        return replace(block, role="body")
    if is_body_size and wordy and lines[0].bold and len(lines) <= 2 and 3 < chars < 120:
        return replace(block, role="title")
    return block


def _with_paragraph_ends(blocks: Sequence[Block], book: Profile, slack: float) -> list[Block]:
    """A short line in the body's type, right above or below the body's left edge, is the end of a paragraph."""
    body = [block for block in blocks if block.role == "body"]

    def is_end(block: Block) -> bool:
        if (
            block.role != "other"
            or len(block.lines) > 1
            or not same_size(block.size_pt, book.body_size_pt, 2.5 * slack)
        ):
            return False
        line = block.lines[0]
        return any(
            -1.5 * line.size_pt < overlap_y(line.box_pt, other.box_pt) <= 0.3 * line.size_pt
            and abs(line.box_pt[0] - other.box_pt[0]) < 0.5 * line.size_pt
            and not line.bold
            for other in body
        )

    return [replace(block, role="body") if is_end(block) else block for block in blocks]


def _set_apart(block: Block, body_size_pt: float, slack: float) -> bool:
    """Set otherwise than the body: smaller, italic or bold."""
    smaller = block.size_pt < 0.95 * body_size_pt and not same_size(block.size_pt, body_size_pt, slack)
    return smaller or all(line.italic for line in block.lines) or block.lines[0].bold


_LEADER = re.compile(r"(\. ?){4,}")
_LEADER_OR_NUMBER = re.compile(r"(\. ?){4,}|\s\d{1,3}$")


def _without_lists_of_figures(blocks: Sequence[Block], page: Page) -> list[Block]:
    """A list of figures has captions with leaders or, on a page without graphics, with page numbers."""
    leader = _LEADER if page.graphics else _LEADER_OR_NUMBER

    def entries(block: Block) -> int:
        return sum(bool(leader.search(line.text.rstrip())) for line in block.lines) if block.start else 0

    if sum(entries(block) for block in blocks) < 3:
        return list(blocks)
    return [replace(b, role="other") if b.role == "caption" and entries(b) else b for b in blocks]


def reading_order(blocks: Sequence[Block]) -> list[Block]:
    """Columns from left to right, each from top to bottom; a block across columns parts what is above and below it."""
    if len(blocks) <= 1:
        return list(blocks)
    columns = _cut(blocks, 0)
    if len(columns) > 1:
        return [block for column in columns for block in reading_order(column)]
    rows = _cut(blocks, 1)
    if len(rows) == 1:
        return sorted(blocks, key=lambda block: (block.box_pt[1], block.box_pt[0]))
    bands: list[list[Block]] = []
    for row in rows:  # rows that stand in the same columns are read column by column
        if bands and len(_cut(bands[-1] + row, 0)) > 1:
            bands[-1] = bands[-1] + row
        else:
            bands.append(row)
    if len(bands) == 1:
        return reading_order(bands[0])
    return [block for band in bands for block in (reading_order(band) if len(band) < len(blocks) else band)]


def _cut(blocks: Sequence[Block], axis: int) -> list[list[Block]]:
    """Groups that an empty strip separates, in order along the axis (0: x, 1: y)."""
    ordered = sorted(blocks, key=lambda block: block.box_pt[axis])
    groups = [[ordered[0]]]
    end = ordered[0].box_pt[axis + 2]
    for block in ordered[1:]:
        if block.box_pt[axis] > end + (3.0 if axis == 0 else 0.0):
            groups.append([])
        groups[-1].append(block)
        end = max(end, block.box_pt[axis + 2])
    return groups
