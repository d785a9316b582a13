"""What happens to one page in a worker process: it is read, and later its figures are cut and split into panels."""

import contextlib
import re
import struct
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import Field

from pathloom.books.assemble import Plate, with_panels
from pathloom.books.files import BookFile
from pathloom.books.geometry import area, covered, grown, union
from pathloom.books.page import Line, Page
from pathloom.books.pairs import CutFigure, Picture
from pathloom.books.pdf import (
    ASPECT_PAGE,
    BadBook,
    open_pdf,
    page_sizes_px,
    read_pdf_page,
    render,
    sizes_of_aspect,
)
from pathloom.figures import Figure
from pathloom.images import FORMATS, BadImage, decode
from pathloom.schema import Box, Record

SIDE_OF_IMAGE_PT = 842.0
"""The longer side of a page that is an image file: an A4 page's (books/page.py)."""
WHITE = 250
"""Of 255: at least this bright in all channels is paper. A scan's paper is darker, and stays."""
OTHER_SHAPE = 0.03
"""A page whose ratio of sides differs more than this from the book's has sizes of its own, not to be distorted."""


class ReadSettings(Record):
    """How pages are read; part of what the result depends on, but for `workers` and the caps."""

    ocr: Literal["auto", "never"] = Field(
        default="auto",
        description="auto: pages that are pictures, or whose fonts do not say what their letters are",
    )
    letters: bool = Field(
        default=False,
        description="read panel letters inside pictures by OCR, 2 s a figure: for panels lettered down columns",
    )
    render: Literal["figures", "all"] = Field(
        default="figures", description="pages that are kept as small pictures"
    )
    jpeg_quality: int = Field(default=95, ge=1, le=100, description="of pictures; Patho-R1's code takes 95")
    workers: int | None = Field(
        default=None, ge=0, description="processes; default: one a core, 0: this process"
    )
    seconds_a_page: float = Field(default=120.0, gt=0, description="a page that takes longer is given up")
    bytes_a_page: int = Field(default=3 * 2**30, gt=0, description="of memory, of a worker")


MAX_OBJECTS = 4000
"""Lines or graphics of a page; layout compares them with each other. A dense table has some hundreds."""
UNKEYED = ("workers",)
"""Settings that change nothing in what is found."""


class Survey(Record):
    """A file before its pages are read: how many there are, and the sizes of the small and the large rendering."""

    num_pages: int = 0
    small_px: tuple[int, int] = (0, 0)
    large_px: tuple[int, int] = (0, 0)
    problem: tuple[str, str] | None = Field(
        default=None, description="reason and detail of a file that does not open"
    )


class PageRead(Record):
    """A page's status: `read` from its text layer, `ocr`, `blank`, or a reason in one word; `page` is what it holds."""

    number: int
    status: str
    detail: str = ""
    seconds: float = 0.0
    page: Page | None = None

    @property
    def failed(self) -> bool:
        return self.status not in ("read", "ocr", "blank")

    def without_content(self) -> "PageRead":
        return self.model_copy(update={"page": None})


@dataclass(frozen=True, eq=False)
class FigureJob:
    """A bound figure to be cut, with the lines of text that lie in it."""

    plate: Plate
    lines: tuple[Line, ...]

    @property
    def is_one_drawing(self) -> bool:
        """A chart or scheme, whose white is no gutter: neither caption nor letters tell of parts."""
        letters = {line.text.strip(" ().").upper() for line in self.lines}
        return self.is_drawn and not self.plate.labels and not {"A", "B"} <= letters

    @property
    def is_drawn(self) -> bool:
        """Mostly charts and schemes, not photographs."""
        boxes = [g.box_pt for g in self.plate.graphics if g.kind == "drawing"]
        return bool(boxes) and area(union(boxes)) > 0.5 * area(self.plate.figure.box_pt)

    @staticmethod
    def of(plate: Plate, lines: Sequence[Line]) -> "FigureJob":
        near = grown(plate.figure.box_pt, 2.0)
        return FigureJob(plate, tuple(line for line in lines if covered(line.box_pt, near) > 0.5))


@dataclass(frozen=True, eq=False)
class PageJob:
    """A page to be read or cut: `figures` are split into panels, `given` ones have theirs.

    `out` is the stage's folder, below which pictures go.
    """

    file: BookFile
    number: int
    survey: Survey
    out: Path
    size_pt: tuple[float, float] = (0.0, 0.0)
    figures: tuple[FigureJob, ...] = ()
    given: tuple[Figure, ...] = ()


class PageFigures(Record):
    """The figures of a page with their panels and pictures; of a page that could not be rendered, without pictures."""

    number: int
    status: str = "cut"
    detail: str = ""
    seconds: float = 0.0
    rendering: str = Field(default="", description="the small picture of the page, below the stage's folder")
    size_pt: tuple[float, float] = (0.0, 0.0)
    figures: tuple[CutFigure, ...] = ()
    uncut: tuple[Figure, ...] = ()

    @staticmethod
    def failed(job: PageJob, status: str, detail: str) -> "PageFigures":
        figures = (*(one.plate.figure for one in job.figures), *job.given)
        return PageFigures(
            number=job.number, status=status, detail=detail, size_pt=job.size_pt, uncut=figures
        )


class Reader:
    """What a worker keeps between pages: the settings and the PDF that is open."""

    def __init__(self, settings: ReadSettings) -> None:
        self.settings = settings
        self._path: Path | None = None
        self._document: Any = None

    def document(self, path: Path) -> Any:
        """The open PDF. Raises BadBook."""
        if path != self._path:
            if self._document is not None:
                self._document.close()
            self._document, self._path = None, None
            self._document = open_pdf(path)
            self._path = path
        return self._document

    def find_letters(self, pixels: NDArray[np.uint8]) -> Sequence[tuple[str, Box, float]]:
        """Panel letters in a picture: (letter, box_px, score)."""
        from pathloom.books.ocr import read_letters

        return read_letters(PILImage.fromarray(pixels))

    def picture(self, job: PageJob, size_px: tuple[int, int] | None) -> PILImage.Image:
        """The page as RGB of this size; for a page image None keeps its own. Raises BadBook and BadImage."""
        if job.file.kind == "pdf":
            return render(self.document(job.file.path), job.number, *(size_px or job.survey.large_px))
        path = job.file.page_images()[job.number - 1]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadImage("unreadable", f"{path}: {error.strerror}") from error
        pixels = decode(data, str(path))
        return (
            pixels
            if size_px is None or pixels.size == size_px
            else pixels.resize(size_px, PILImage.Resampling.LANCZOS)
        )


def survey(reader: Reader, file: BookFile) -> Survey:
    """Opens a file and counts its pages; a file that does not open is a Survey with its problem."""
    try:
        if file.kind == "pdf":
            document = reader.document(file.path)
            small, large = page_sizes_px(document)
            return Survey(num_pages=len(document), small_px=small, large_px=large)
        images = file.page_images()
        middle = min(len(images) - 1, ASPECT_PAGE)
        small, large = sizes_of_aspect(_aspect([*images[middle:], *images[:middle]]))
        return Survey(num_pages=len(images), small_px=small, large_px=large)
    except (BadBook, BadImage) as error:
        return Survey(problem=(error.reason, str(error)))


def _aspect(images: Sequence[Path]) -> float:
    """Width over height of the first image whose header can be read; an A4 page's where there is none."""
    for path in images:
        with (
            contextlib.suppress(
                OSError, ValueError, SyntaxError, struct.error, PILImage.DecompressionBombError
            ),
            warnings.catch_warnings(action="ignore", category=PILImage.DecompressionBombWarning),
            path.open("rb") as file,
            PILImage.open(file, formats=FORMATS) as picture,
        ):
            return picture.width / picture.height
    return 595 / 842


def read_page(reader: Reader, job: PageJob) -> PageRead:
    """One page: its text layer and graphics, by OCR where it is a picture."""
    start = time.monotonic()
    try:
        page = _page(reader, job)
        if reader.settings.render == "all":
            view_page(reader, replace(job, size_pt=(page.width_pt, page.height_pt)))
    except (BadBook, BadImage) as error:
        return PageRead(number=job.number, status=error.reason, detail=str(error))
    most = max(len(page.lines), len(page.graphics))
    if most > MAX_OBJECTS:
        detail = f"{most} lines or graphics, at most {MAX_OBJECTS} are laid out"
        return PageRead(number=job.number, status="too_many_objects", detail=detail)
    status = "blank" if not page.lines and not page.graphics else "ocr" if page.text_from == "ocr" else "read"
    if page.kind == "unmapped" and page.text_from == "none":
        status = "fonts_without_letters"
    return PageRead(number=job.number, status=status, seconds=round(time.monotonic() - start, 4), page=page)


def _page(reader: Reader, job: PageJob) -> Page:
    if job.file.kind == "images" and reader.settings.ocr == "never":
        raise BadBook("ocr_is_off", f"{job.file.path}: a picture, and pages.ocr is never")
    if job.file.kind == "images":
        from pathloom.books.scan import read_scan

        pixels = reader.picture(job, None)
        scale = SIDE_OF_IMAGE_PT / max(pixels.size)
        return read_scan(pixels, job.number, pixels.width * scale, pixels.height * scale)
    page = read_pdf_page(reader.document(job.file.path), job.number)
    if page.kind == "digital" or reader.settings.ocr == "never":
        return page
    from pathloom.books.scan import read_scan

    pixels = reader.picture(job, _size_px((page.width_pt, page.height_pt), job.survey.large_px))
    return read_scan(pixels, job.number, page.width_pt, page.height_pt)


def _size_px(page_pt: tuple[float, float], book_px: tuple[int, int]) -> tuple[int, int]:
    """The large rendering's size: the book's, unless the page has another shape."""
    aspect, usual = page_pt[0] / page_pt[1], book_px[0] / book_px[1]
    return book_px if abs(aspect / usual - 1) <= OTHER_SHAPE else sizes_of_aspect(aspect)[1]


@dataclass(frozen=True, eq=False)
class _Sheet:
    """The large rendering of a page, from which pictures are cut."""

    large: PILImage.Image
    job: PageJob
    quality: int

    def to_px(self, box_pt: Box) -> tuple[int, int, int, int]:
        """In pixels of the rendering, inside it and never empty."""

        def sides(first_pt: float, last_pt: float, length_pt: float, length_px: int) -> tuple[int, int]:
            first = min(max(0, round(first_pt * length_px / length_pt)), length_px - 1)
            return first, min(max(first + 1, round(last_pt * length_px / length_pt)), length_px)

        x1, x2 = sides(box_pt[0], box_pt[2], self.job.size_pt[0], self.large.width)
        y1, y2 = sides(box_pt[1], box_pt[3], self.job.size_pt[1], self.large.height)
        return (x1, y1, x2, y2)

    def to_pt(self, box_px: tuple[int, int, int, int]) -> Box:
        x_pt, y_pt = self.job.size_pt[0] / self.large.width, self.job.size_pt[1] / self.large.height
        return (box_px[0] * x_pt, box_px[1] * y_pt, box_px[2] * x_pt, box_px[3] * y_pt)

    def cut(self, number: int, figure: Figure) -> CutFigure:
        """Write the picture of a figure and, of several panels, one of each."""
        stem = f"pictures/{self.job.file.name}/p{self.job.number:04d}-f{number}"
        whole = self._write(f"{stem}.jpg", figure.box_pt)
        if len(figure.panels) == 1:
            return CutFigure(index=number, figure=figure, whole=whole, panels=(whole,))
        panels = tuple(
            self._write(f"{stem}-{at:02d}{panel.label and '-' + _file_name(panel.label)}.jpg", panel.box_pt)
            for at, panel in enumerate(figure.panels, start=1)
        )
        return CutFigure(index=number, figure=figure, whole=whole, panels=panels)

    def _write(self, path: str, box_pt: Box) -> Picture:
        box_px = self.to_px(box_pt)
        _save(self.large.crop(box_px), self.job.out / path, self.quality)
        return Picture(path=path, bbox_px=box_px, page_px=self.large.size)


def _file_name(label: str) -> str:
    """A label may be any word that a caption holds."""
    return re.sub(r"[^A-Za-z0-9]+", "_", label)


def view_page(reader: Reader, job: PageJob) -> str:
    """Write the small rendering of a page; its path below the stage's folder. Raises BadBook and BadImage."""
    path = f"renderings/{job.file.name}/{job.number:04d}.jpg"
    width_px, height_px = _size_px(job.size_pt, job.survey.large_px)
    _save(reader.picture(job, (width_px // 2, height_px // 2)), job.out / path, reader.settings.jpeg_quality)
    return path


def split_page(reader: Reader, job: PageJob) -> PageFigures:
    """Cut the figures of a page from its large rendering, split them into panels, and write all pictures."""
    start = time.monotonic()
    try:
        large = reader.picture(job, _size_px(job.size_pt, job.survey.large_px))
    except (BadBook, BadImage) as error:
        return PageFigures.failed(job, error.reason, str(error))
    sheet = _Sheet(large, job, reader.settings.jpeg_quality)
    split = [_split(reader, sheet, number, one) for number, one in enumerate(job.figures, start=1)]
    given = [sheet.cut(number, one) for number, one in enumerate(job.given, start=1)]
    rendering = f"renderings/{job.file.name}/{job.number:04d}.jpg"
    if not (job.out / rendering).is_file():
        _save(large.reduce(2), job.out / rendering, quality=80)
    return PageFigures(
        number=job.number,
        seconds=round(time.monotonic() - start, 4),
        rendering=rendering,
        size_pt=job.size_pt,
        figures=(*split, *given),
    )


def _split(reader: Reader, sheet: _Sheet, number: int, job: FigureJob) -> CutFigure:
    from pathloom.books.panels import FoundPanel, split_panels
    from pathloom.books.panels_letters import letters_of, split_by_letters

    figure = job.plate.figure
    whole_px = _without_white(sheet.large, sheet.to_px(figure.box_pt))
    left, top = whole_px[:2]

    def inside(box_pt: Box) -> Box:
        x1, y1, x2, y2 = sheet.to_px(box_pt)
        return (x1 - left, y1 - top, x2 - left, y2 - top)

    plate = replace(job.plate, figure=figure.model_copy(update={"box_pt": sheet.to_pt(whole_px)}))
    if job.is_one_drawing:
        return sheet.cut(number, with_panels(plate, []))
    pixels = np.asarray(sheet.large.crop(whole_px))
    found: tuple[FoundPanel, ...] = ()
    if job.is_drawn and (letters := letters_of(job.lines, plate.labels)):
        found = split_by_letters(pixels, {label: inside(box_pt) for label, box_pt in letters.items()})
    found = found or split_panels(
        pixels,
        image_boxes_px=[inside(g.box_pt) for g in plate.graphics if g.kind == "image"],
        text_boxes=[(line.text, inside(line.box_pt)) for line in job.lines],
        labels=plate.labels,
        find_letters=reader.find_letters if reader.settings.letters else None,
    )
    panels = []
    for panel in found:
        x1, y1, x2, y2 = map(round, panel.box_px)
        box_px = (x1 + left, y1 + top, x2 + left, y2 + top) if len(found) > 1 else whole_px
        panels.append((panel.label, sheet.to_pt(box_px), panel.score))
    return sheet.cut(number, with_panels(plate, panels))


def _without_white(page: PILImage.Image, box_px: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The box without white at its sides: pictures and drawings bring margins that nobody sees."""
    ink: NDArray[np.bool_] = np.any(np.asarray(page.crop(box_px)) < WHITE, axis=2)
    columns, rows = np.flatnonzero(ink.any(axis=0)), np.flatnonzero(ink.any(axis=1))
    if not len(columns):
        return box_px
    left, top = box_px[:2]
    return (left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1)


def _save(picture: PILImage.Image, path: Path, quality: int) -> None:
    """Whole or not at all: a kill may come at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    picture.save(part, format="JPEG", quality=quality)
    part.replace(path)
