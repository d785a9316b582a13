"""Figures of a book: one set of records for what extraction finds, what a phantom knows and what an annotator lists.

Pages count from 1. A box in points (1/72 inch) starts at the top left corner of the page as a viewer shows it, rotation
and crop box applied; y grows downwards.
"""

from pydantic import Field

from pathloom.schema import Box, Record


class Panel(Record):
    """One part of a composite figure; a figure without parts has exactly one panel, unlabelled, of the same box.

    `label` as the caption would name it, in upper case ("A", "II", "LEFT"), "" without one. `text` is the panel's
    own part of the caption, without its label and without the shared description; "" where there is none.
    """

    box_pt: Box
    label: str = ""
    text: str = ""
    caption_spans: tuple[tuple[int, int], ...] = Field(
        default=(), description="characters of Figure.caption that `text` is made of, half open"
    )
    score: float = Field(default=1.0, ge=0, le=1, description="how sure the finder is; orders detections")


class Figure(Record):
    """A figure with its caption.

    `number` is canonical: "3-2" for "Fig. 3.2", "Figure 3-2" (any dash) and "图3-2" alike; "" where it has none.
    `caption` is the whole text as printed, with its label ("Figure 3-2. ..."), lines joined; "" where there is none.
    `shared` is the description that all panels share, without the label. A caption of two figures stands in both.
    """

    page: int = Field(ge=1)
    box_pt: Box
    number: str = ""
    caption: str = ""
    caption_page: int | None = None
    caption_box_pt: Box | None = None
    shared: str = ""
    panels: tuple[Panel, ...] = ()
    score: float = Field(default=1.0, ge=0, le=1)


class Reference(Record):
    """A sentence of the body text that names a figure, and the panels that it names; none: the whole figure.

    A sentence that names two figures is two References.
    """

    page: int = Field(ge=1)
    sentence: str
    number: str
    panels: tuple[str, ...] = ()


class Book(Record):
    """All figures of a file and all sentences that name them."""

    name: str
    num_pages: int
    figures: tuple[Figure, ...] = ()
    references: tuple[Reference, ...] = ()
