"""From bound pages to the figures of a book: captions over a page break, parts of captions to panels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pathloom.books.binding import Binding, Found
from pathloom.books.captions import CaptionParts, split_caption
from pathloom.books.geometry import area
from pathloom.books.layout import Block
from pathloom.books.page import Graphic
from pathloom.figures import Figure, Panel
from pathloom.schema import Box

MAX_CAPTION_CHARS = 10_000
"""A longer one is a page that was taken for a caption. Our own choice."""
PLATE_SHARE = 0.12
"""A figure whose caption may stand on the next or the previous page covers this share of its page. Our own choice."""


@dataclass(frozen=True, eq=False)
class Plate:
    """A figure with its caption, its panels not yet looked for: what the page's picture is asked about.

    `labels` are those that the caption lists, in their order.
    """

    figure: Figure
    graphics: tuple[Graphic, ...]
    parts: CaptionParts | None

    @property
    def labels(self) -> tuple[str, ...]:
        return (
            tuple(dict.fromkeys(label for part in self.parts.parts for label in part.labels))
            if self.parts
            else ()
        )


@dataclass(frozen=True, eq=False)
class BoundPage:
    """A page's figures, and the captions that have none on it nor on its neighbours."""

    number: int
    size_pt: tuple[float, float]
    plates: tuple[Plate, ...]
    lonely: tuple[Block, ...]


def join_pages(
    bindings: Mapping[int, Binding], sizes_pt: Mapping[int, tuple[float, float]]
) -> list[BoundPage]:
    """Bind captions that stand alone on a page to large figures without caption on the page before or after."""
    figures = {number: list(binding.figures) for number, binding in bindings.items()}
    lonely = {number: list(binding.lonely) for number, binding in bindings.items()}
    captions_on: dict[int, int] = {}  # id of a Found -> page of its caption
    for number in sorted(lonely):
        for caption in list(lonely[number]):
            for page in (number - 1, number + 1):
                free = [
                    (area(found.box_pt), index)
                    for index, found in enumerate(figures.get(page, ()))
                    if found.caption is None
                    and area(found.box_pt) >= PLATE_SHARE * sizes_pt[page][0] * sizes_pt[page][1]
                ]
                if not free:
                    continue
                index = max(free)[1]
                start = caption.start
                bound = replace(
                    figures[page][index],
                    caption=caption,
                    number=start.numbers[0] if start and start.numbers else "",
                )
                figures[page][index] = bound
                captions_on[id(bound)] = number
                lonely[number].remove(caption)
                break
    return [
        BoundPage(
            number,
            sizes_pt[number],
            tuple(_plate(found, number, captions_on.get(id(found), number)) for found in figures[number]),
            tuple(lonely[number]),
        )
        for number in sorted(bindings)
    ]


def _plate(found: Found, page: int, caption_page: int) -> Plate:
    if found.caption is None:
        return Plate(Figure(page=page, box_pt=found.box_pt), found.graphics, None)
    caption = found.caption.text[:MAX_CAPTION_CHARS]
    parts = split_caption(caption)
    figure = Figure(
        page=page,
        box_pt=found.box_pt,
        number=found.number,
        caption=caption,
        caption_page=caption_page,
        caption_box_pt=found.caption.box_pt,
        shared=parts.shared,
    )
    return Plate(figure, found.graphics, parts)


def with_panels(plate: Plate, panels: Sequence[tuple[str, Box, float]]) -> Figure:
    """The figure with its panels (label, box_pt, score), each with the parts of the caption that name its label.

    A single panel takes the whole description. A caption with parts whose labels no panel bears gives panels no text.
    """
    figure, parts = plate.figure, plate.parts
    if not panels:
        panels = [("", figure.box_pt, 1.0)]
    described: list[Panel] = []
    for label, box_pt, score in panels:
        mine = [part for part in parts.parts if label and label in part.labels] if parts else []
        described.append(
            Panel(
                box_pt=box_pt,
                label=label,
                text=" ".join(part.text for part in mine),
                caption_spans=tuple(span for part in mine for span in part.spans),
                score=score,
            )
        )
    return figure.model_copy(update={"panels": tuple(described)})
