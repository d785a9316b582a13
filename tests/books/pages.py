"""Pages made by hand for tests of layout and binding: lines of prose, captions and pictures at given places."""

from collections.abc import Sequence

from pathloom.books.page import Graphic, Line, Page
from pathloom.schema import Box

SIZE_PT = 10.0
PITCH_PT = 12.0
FILLER = "The glands are lined by a single layer of cells with round nuclei and pale cytoplasm throughout"


def line(text: str, x: float, y: float, width: float, size: float = SIZE_PT, *, bold: bool = False) -> Line:
    return Line(text=text, box_pt=(x, y, x + width, y + size), size_pt=size, bold=bold)


def prose(x: float, y: float, width: float, count: int, size: float = SIZE_PT) -> list[Line]:
    """A paragraph of full lines and a shorter last one, which ends a sentence."""
    full = [
        line(FILLER[: int(width / 4.5)], x, y + i * PITCH_PT * size / SIZE_PT, width, size)
        for i in range(count - 1)
    ]
    return [
        *full,
        line("and nothing more.", x, y + (count - 1) * PITCH_PT * size / SIZE_PT, width * 0.4, size),
    ]


def caption(text: str, x: float, y: float, width: float) -> list[Line]:
    """A caption in smaller type, `text` a line."""
    return [line(part, x, y + i * 10, width, 8.0) for i, part in enumerate(text.split("\n"))]


def image(*box_pt: float) -> Graphic:
    x1, y1, x2, y2 = box_pt
    return Graphic(box_pt=(x1, y1, x2, y2), kind="image")


def drawing(box_pt: Box, num_paths: int = 30) -> Graphic:
    return Graphic(box_pt=box_pt, kind="drawing", num_paths=num_paths)


def page(lines: Sequence[Line], graphics: Sequence[Graphic] = (), number: int = 1) -> Page:
    return Page(number=number, width_pt=600, height_pt=800, lines=tuple(lines), graphics=tuple(graphics))
