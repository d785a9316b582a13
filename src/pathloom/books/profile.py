"""What the pages of a book have in common: the size of its type, its running heads, its ornaments."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pathloom.books.geometry import area, center_y, overlap_y, width
from pathloom.books.numbers import caption_start
from pathloom.books.page import Line, Page
from pathloom.schema import Box

MARGIN_SHARE = 0.12
"""Running heads and feet stand in this share of the page's height at its top and bottom."""
SAME_SIZE = 0.06
"""Font sizes that differ by less than this share are one size. On scans it is more, by how much their lines differ."""
SAME_SIZE_ON_SCANS = (0.1, 0.3)
"""From pages of 200 dpi to pages of 72 dpi, where a line's height is guessed to the pixel."""
MIN_REPEATS = 3
"""On so many of the sampled pages a line or a graphic stands before it counts as furniture of the page."""


@dataclass(frozen=True)
class Profile:
    """What pages of a book have in common. Without pages: nothing known, and each page speaks for itself."""

    body_size_pt: float = 0.0
    column_pt: float = 0.0
    margin_texts: frozenset[str] = frozenset()
    margin_tops_pt: tuple[float, ...] = ()
    decorations_pt: tuple[Box, ...] = ()


def profile(pages: Sequence[Page]) -> Profile:
    """What the given pages, a sample of a book, have in common."""
    sizes: Counter[float] = Counter()
    widths: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            sizes[round(line.size_pt * 4) / 4] += len(line.text)
    body_size_pt = sizes.most_common(1)[0][0] if sizes else 0.0
    for page in pages:
        slack = size_slack(page)
        for line in page.lines:
            if same_size(line.size_pt, body_size_pt, slack) and len(line.text) > 20:
                widths[round(width(line.box_pt) / 4) * 4] += 1
    texts: Counter[str] = Counter()
    tops: Counter[float] = Counter()
    decorations: Counter[Box] = Counter()
    for page in pages:
        outer = [line for line in page.lines if _in_margin(line.box_pt, page)]
        texts.update({_furniture(line.text) for line in outer})
        tops.update(set(_lone_tops(page, outer)))
        decorations.update({_snapped(g.box_pt) for g in page.graphics if not _may_be_plate(g.box_pt, page)})
    enough = max(MIN_REPEATS, 0.15 * len(pages))
    return Profile(
        body_size_pt=body_size_pt,
        column_pt=widths.most_common(1)[0][0] if widths else 0.0,
        margin_texts=frozenset(text for text, count in texts.items() if count >= enough),
        margin_tops_pt=tuple(top for top, count in tops.items() if count >= enough),
        decorations_pt=tuple(box for box, count in decorations.items() if count >= enough),
    )


def _furniture(text: str) -> str:
    """A running head or foot without its numbers, so that "12 Chapter 3" on page 12 equals itself on page 14."""
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", text.strip().casefold())


def _in_margin(box: Box, page: Page) -> bool:
    return (
        center_y(box) < MARGIN_SHARE * page.height_pt or center_y(box) > (1 - MARGIN_SHARE) * page.height_pt
    )


def _lone_tops(page: Page, outer: Iterable[Line]) -> Iterable[float]:
    """Tops, to 2 pt, of lines in the margin that stand apart from the text by two lines' height."""
    for line in outer:
        others = [other for other in page.lines if overlap_y(other.box_pt, line.box_pt) <= 0]
        top = center_y(line.box_pt) < page.height_pt / 2
        inner = [o for o in others if (o.box_pt[1] > line.box_pt[1]) == top]
        if all(abs(center_y(o.box_pt) - center_y(line.box_pt)) > 2 * line.size_pt for o in inner):
            yield round(line.box_pt[1] / 2) * 2


def _may_be_plate(box: Box, page: Page) -> bool:
    """An atlas has plates of one size at one place; a logo is smaller, a background covers the page."""
    return 0.05 < area(box) / (page.width_pt * page.height_pt) < 0.9 and not _in_margin(box, page)


def _snapped(box: Box) -> Box:
    x1, y1, x2, y2 = (round(value / 3) * 3.0 for value in box)
    return (x1, y1, x2, y2)


def is_decoration(box: Box, book: Profile) -> bool:
    """A logo or a line of the page's furniture: it stands at the same place on many pages."""
    return _snapped(box) in book.decorations_pt


def margin_lines(page: Page, book: Profile) -> list[Line]:
    """Running heads and feet: from the page's edges inwards, up to the first line that is neither."""
    found: list[Line] = []
    for sign in (1, -1):
        ordered = sorted(page.lines, key=lambda line: sign * center_y(line.box_pt))
        for line in ordered:
            if not _in_margin(line.box_pt, page) or not _is_furniture(line, page, book):
                beside = [one for one in found if overlap_y(one.box_pt, line.box_pt) > 0]
                found = [one for one in found if one not in beside]
                break
            found.append(line)
    return found


def _is_furniture(line: Line, page: Page, book: Profile) -> bool:
    if caption_start(line.text) is not None:
        return False
    if re.fullmatch(r"[-\u2013\u2014 |]*(\d{1,4}|[ivxlc]{1,6})[-\u2013\u2014 |]*", line.text.strip()):
        return True
    if _furniture(line.text) in book.margin_texts:
        return True
    top = round(line.box_pt[1] / 2) * 2
    return any(abs(top - known) <= 2 for known in book.margin_tops_pt) and bool(
        list(_lone_tops(page, [line]))
    )


def size_slack(page: Page) -> float:
    """The share by which sizes of one font may differ on a page: of long lines, half differ by a third of it."""
    if page.text_from != "ocr":
        return SAME_SIZE
    sizes = sorted(line.size_pt for line in page.lines if len(line.text) > 30)
    low, high = SAME_SIZE_ON_SCANS
    if len(sizes) < 8:
        return high
    quarter = len(sizes) // 4
    spread = (sizes[-1 - quarter] - sizes[quarter]) / sizes[len(sizes) // 2]
    return min(max(low, 1.5 * spread), high)


def same_size(one_pt: float, other_pt: float, slack: float) -> bool:
    return abs(one_pt - other_pt) <= slack * max(one_pt, other_pt)
