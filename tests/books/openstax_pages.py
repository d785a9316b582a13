"""Pages for tests.books.openstax: styles, figures that know where they were drawn, columns and floats in reportlab."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from reportlab import rl_config
from reportlab.lib.enums import TA_JUSTIFY, TA_LEFT
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import BaseDocTemplate, Flowable, Frame, PageTemplate, Paragraph, Spacer

from pathloom.schema import Box

PAGE_PT = (612.0, 792.0)
MARGIN_PT = 60.0
COLUMN_GAP_PT = 20.0

Drawn = Callable[[int, Box, Box], None]
"""Page, and in points from its top left corner the box of the picture and that of the caption."""


def styles_of(layout: str) -> dict[str, ParagraphStyle]:
    """Body in Times; captions in the body's face, or small and sans serif in two columns."""
    wide = layout == "one_column"
    size = 10.5 if wide else 9.2
    body = ParagraphStyle(
        "body",
        fontName="Times-Roman",
        fontSize=size,
        leading=size * 1.28,
        alignment=TA_LEFT if wide else TA_JUSTIFY,
        spaceAfter=6 if wide else 3,
        firstLineIndent=0 if wide else 10,
        allowWidows=0,
        allowOrphans=0,
    )
    plain = ParagraphStyle("plain", body, firstLineIndent=0)
    head = ParagraphStyle(
        "head", plain, fontName="Helvetica-Bold", alignment=TA_LEFT, spaceBefore=8, keepWithNext=1
    )
    caption = ParagraphStyle("caption", plain, fontSize=9, leading=11.2, alignment=TA_LEFT, spaceAfter=0)
    if not wide:
        caption = ParagraphStyle("caption", caption, fontName="Helvetica", fontSize=7, leading=8.8)
    return {
        "body": body,
        "plain": plain,
        "item": ParagraphStyle("item", plain, leftIndent=18, bulletIndent=6, spaceAfter=2),
        "note": ParagraphStyle(
            "note", plain, leftIndent=8, rightIndent=8, backColor="#eef3f8", borderPadding=(1, 4, 1, 4)
        ),
        "title": ParagraphStyle("title", head, fontSize=20 if wide else 17, leading=24, spaceAfter=10),
        "head1": ParagraphStyle("head1", head, fontSize=14 if wide else 11.5, leading=17 if wide else 14),
        "head2": ParagraphStyle("head2", head, fontSize=11.5 if wide else 9.5, leading=14 if wide else 12),
        "cell": ParagraphStyle("cell", plain, fontSize=8, leading=9.6, alignment=TA_LEFT, spaceAfter=0),
        "caption": caption,
    }


class FigureBlock(Flowable):
    """A picture with its caption below, or beside it where `share` says how much of the width the picture takes.

    When drawn it tells `drawn(page, box_pt of the picture, box_pt of the caption)`.
    """

    def __init__(self, picture: Path, markup: str, style: ParagraphStyle, share: float, drawn: Drawn) -> None:
        super().__init__()
        self.picture, self.share, self.drawn = picture, share, drawn
        self.caption = Paragraph(markup, style)
        self.pixels = ImageReader(str(picture)).getSize()
        self.spaceBefore = self.spaceAfter = 9

    def wrap(self, available_width: float, available_height: float) -> tuple[float, float]:
        beside = self.share < 1
        # At 150 pixels an inch a small picture would not fill the measure.
        self.picture_width = min(available_width * self.share, self.pixels[0] * 72 / 150)
        self.picture_height = self.picture_width * self.pixels[1] / self.pixels[0]
        room = available_width - self.picture_width - 9 if beside else available_width
        _, self.caption_height = self.caption.wrap(room, available_height)
        self.width = available_width
        heights = (self.picture_height, self.caption_height)
        self.height = max(heights) if beside else sum(heights) + 6
        return self.width, self.height

    def draw(self) -> None:
        beside = self.share < 1
        x, top = self.canv.absolutePosition(0, self.height)
        page_height = self.canv._pagesize[1]
        self.canv.drawImage(
            str(self.picture), 0, self.height - self.picture_height, self.picture_width, self.picture_height
        )
        left = self.picture_width + 9 if beside else 0
        down = 0 if beside else self.picture_height + 6
        self.caption.drawOn(self.canv, left, self.height - down - self.caption_height)
        y = page_height - top
        caption_width = max(self.caption.getActualLineWidths0())
        self.drawn(
            self.canv.getPageNumber(),
            (x, y, x + self.picture_width, y + self.picture_height),
            (x + left, y + down, x + left + caption_width, y + down + self.caption_height),
        )


class Float(Flowable):
    """Stands where a spanning figure was met; the figure itself comes at the head of the next page that has room."""

    width = height = 0

    def __init__(self, figure: FigureBlock) -> None:
        super().__init__()
        self.figure = figure

    def wrap(self, available_width: float, available_height: float) -> tuple[float, float]:
        return 0, 0

    def draw(self) -> None:
        self.canv.waiting.append(self.figure)


class _Pages(PageTemplate):
    """Running head, page number, waiting figures at the head of the page, and the columns below them."""

    def __init__(self, layout: str, title: str, first_page: int) -> None:
        self.columns = 1 if layout == "one_column" else 2
        self.title, self.first_page = title, first_page
        self.measure = PAGE_PT[0] - 2 * MARGIN_PT
        width = (self.measure - (self.columns - 1) * COLUMN_GAP_PT) / self.columns
        lefts = [MARGIN_PT + i * (width + COLUMN_GAP_PT) for i in range(self.columns)]
        super().__init__(
            "pages", [Frame(x, MARGIN_PT, width, 1, 0, 0, 0, 0) for x in lefts], pagesize=PAGE_PT
        )

    def beforeDrawPage(self, canvas: Any, doc: Any) -> None:  # noqa: N802
        top = PAGE_PT[1] - MARGIN_PT
        while canvas.waiting:
            _, height = canvas.waiting[0].wrap(self.measure, top)
            if top - height < MARGIN_PT:
                break
            canvas.waiting.pop(0).drawOn(canvas, MARGIN_PT, top - height)
            top -= height + 12
        for frame in self.frames:
            # Less than a few lines under a float stays empty: a frame of one point takes nothing.
            frame.height = top - MARGIN_PT if top - MARGIN_PT > 60 else 1.0
        self._furniture(canvas, self.first_page + doc.page - 1)

    def _furniture(self, canvas: Any, number: int) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 8)
        y = PAGE_PT[1] - 40
        if number % 2:
            canvas.drawRightString(PAGE_PT[0] - MARGIN_PT, y, f"{self.title}    {number}")
        else:
            canvas.drawString(MARGIN_PT, y, f"{number}    {self.title}")
        canvas.restoreState()


class _Document(BaseDocTemplate):
    """Ends only when no figure is waiting; a column shortened by a float may refuse what a later one takes."""

    frame: Any = None

    def handle_flowable(self, flowables: list[Any]) -> None:
        if self.frame and self.frame._height < PAGE_PT[1] - 2 * MARGIN_PT:
            # Otherwise a second refusal counts as "too large for any page".
            vars(flowables[0]).pop("_postponed", None)
        super().handle_flowable(flowables)

    def afterFlowable(self, flowable: Any) -> None:  # noqa: N802
        if isinstance(flowable, _End):
            while self.canv.waiting:
                self.handle_pageBreak()


class _End(Spacer):
    """The end of the story."""


def typeset(
    path: Path,
    story: list[Any],
    layout: str,
    *,
    title: str,
    first_page: int,
    drawn_sentence: Callable[[int, int], None],
) -> int:
    """Write the PDF and return its number of pages; `first_page` is the printed number of the first.

    A paragraph's tag <onDraw name="sentence" label="7"/> calls `drawn_sentence(7, page)` when it is drawn.
    """

    def canvas(*args: Any, **options: Any) -> Any:
        made = Canvas(*args, **options)
        made.waiting = []
        made.setNamedCB("sentence", lambda canv, _kind, i: drawn_sentence(int(i), canv.getPageNumber()))
        return made

    doc = _Document(str(path), pagesize=PAGE_PT, invariant=1, title=title)
    doc.addPageTemplates(_Pages(layout, title, first_page))
    # Ascii 85 in plain Python takes four fifths of the time and stands in no book from a press.
    with patch.object(rl_config, "useA85", 0):
        doc.build([*story, _End(0, 0)], canvasmaker=canvas)
    return int(doc.page)
