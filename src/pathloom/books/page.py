"""What is on a page, before anyone asks what it means: lines of text and graphics, from a PDF or from a scan.

All boxes are points from the top left corner of the page as displayed (see pathloom.figures). An image file has no
points: its longer side counts as 842, an A4 page's, so that one set of distances serves both.
"""

from typing import Literal

from pydantic import Field

from pathloom.schema import Box, Record


class Line(Record):
    """A run of text on one baseline within one column; `size_pt` is the font's size, estimated for scans."""

    text: str
    box_pt: Box
    size_pt: float
    bold: bool = False
    italic: bool = False
    score: float = Field(default=1.0, description="the reader's confidence; 1 for a text layer")


class Graphic(Record):
    """An image object or a group of connected vector drawings of `num_paths` paths.

    A box around text, filled or not, is a drawing of one path: what stands inside it, apart from its outline, is not
    connected with it. A rule is a drawing that is thin.
    """

    box_pt: Box
    kind: Literal["image", "drawing"]
    num_paths: int = 1


class Page(Record):
    """`lines` in the order of the file, `graphics` likewise; reading order is layout's work.

    `text_from`: the PDF's text layer, OCR, or nowhere where the page holds no text. `kind`: "scan" is a picture of a
    page, whose lines, if any, somebody else's OCR put behind it; "unmapped" is a page whose fonts do not say what
    their letters are, so that it has no lines until it is read by OCR.
    """

    number: int = Field(ge=1)
    width_pt: float
    height_pt: float
    lines: tuple[Line, ...] = ()
    graphics: tuple[Graphic, ...] = ()
    text_from: Literal["layer", "ocr", "none"] = "layer"
    kind: Literal["digital", "scan", "unmapped"] = "digital"
