"""Figures of a book to pairs of picture and description: one a panel, or one a figure that has no parts."""

from collections.abc import Iterator, Sequence

from pathloom.books.captions import describe
from pathloom.books.references import refer, refer_panel
from pathloom.figures import Figure, Reference
from pathloom.schema import Box, Record


class Pair(Record):
    """A line of `pairs.jsonl`, and a row that source `pairs` reads as it is.

    `image` is a path below the stage's folder; `page_px` the size of the large rendering it was cut from, whose pixels
    `bbox_px` counts. `caption_spans` are the characters of the printed caption, `printed`, that `caption` is made of.
    `reference` joins `inline_refs`.
    """

    id: str
    image: str
    group: str
    licence: str
    file: str
    page: int
    number: str
    panel: str
    bbox_pt: Box
    bbox_px: tuple[int, int, int, int]
    page_px: tuple[int, int]
    caption: str
    printed: str
    caption_page: int | None
    caption_spans: tuple[tuple[int, int], ...]
    inline_refs: tuple[str, ...]
    reference: str


class Unpaired(Record):
    """A figure or panel that gives no pair, and the reason."""

    id: str
    reason: str
    detail: str


class Picture(Record):
    """Where the picture of a figure or panel is, relative to the stage's folder, and what was cut."""

    path: str
    bbox_px: tuple[int, int, int, int]
    page_px: tuple[int, int]


class CutFigure(Record):
    """A figure with its panels, the picture of the whole and of each panel; `index` counts the figures of the page."""

    index: int
    figure: Figure
    whole: Picture
    panels: tuple[Picture, ...]


def pairs_of(
    cut: CutFigure, references: Sequence[Reference], *, book: str, file: str, licence: str
) -> Iterator[Pair | Unpaired]:
    """The pairs of one figure. `references` are those of the whole book.

    A composite whose caption names its parts gives a pair a panel; one whose caption does not, or a figure without
    parts, gives one pair of the whole.
    """
    figure = cut.figure
    name = f"{book}/p{figure.page}-f{cut.index}"
    mine = refer(figure, references)
    if not figure.caption:
        yield Unpaired(
            id=name, reason="no_caption", detail=f"{file}, page {figure.page}: box_pt {figure.box_pt}"
        )
        return

    def pair(
        key: str, picture: Picture, box_pt: Box, panel: str, caption: str, spans: tuple[tuple[int, int], ...]
    ) -> Pair:
        meant = refer_panel(mine, panel) if panel else mine
        inline_refs = tuple(dict.fromkeys(reference.sentence for reference in meant))
        return Pair(
            id=key,
            image=picture.path,
            group=book,
            licence=licence,
            file=file,
            page=figure.page,
            number=figure.number,
            panel=panel,
            bbox_pt=box_pt,
            bbox_px=picture.bbox_px,
            page_px=picture.page_px,
            caption=caption,
            printed=figure.caption,
            caption_page=figure.caption_page,
            caption_spans=spans,
            inline_refs=inline_refs,
            reference=" ".join(inline_refs),
        )

    described = [panel for panel in figure.panels if panel.text]
    if len(figure.panels) == 1 or not described:
        yield pair(
            name, cut.whole, figure.box_pt, "", describe("", figure.caption), ((0, len(figure.caption)),)
        )
        return
    for number, (panel, picture) in enumerate(zip(figure.panels, cut.panels, strict=True)):
        key = f"{name}-{number + 1:02d}{panel.label and '-' + panel.label}"
        if not panel.text and not figure.shared:
            detail = f"{file}, page {figure.page}, figure {figure.number}: panel {panel.label or number + 1}"
            yield Unpaired(id=key, reason="panel_not_described", detail=detail)
            continue
        yield pair(
            key, picture, panel.box_pt, panel.label, describe(figure.shared, panel.text), panel.caption_spans
        )
