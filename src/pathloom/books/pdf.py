"""PDF files: opened with checks, read page by page, rendered within caps. pdfium does the work.

pdfium is C++ and is given files from strangers: a page may crash it, hang or fill the memory. Whoever reads a book that
is not their own does so in pathloom.books.workers. It is not thread-safe.
"""

import contextlib
import ctypes
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from pathloom.books.page import Page
from pathloom.books.pdf_text import Frame
from pathloom.images import LIMITS
from pathloom.stage import UserError

MAX_PAGE_PIXELS = 1280 * 28 * 28
"""Of a page image that a model reads; with SIZE_STEP_PX and ASPECT_PAGE from Patho-R1's released code."""
SIZE_STEP_PX = 28
ASPECT_PAGE = 49  # this page index, or the last one: covers and front matter differ in size

MAX_UNMAPPED_SHARE = 0.3
"""Above this share of characters without meaning the text is of no use. Ours: mathematics reaches a tenth."""
_HIDDEN_OVER_SEEN = 5  # a library stamps a line on a scan; OCR text is far more
_TAIL_BYTES = 2048  # where a whole file has its %%EOF
_HEAD_BYTES = 1024  # where it has its %PDF-, by Adobe's implementation notes
_FILE, _PASSWORD, _SECURITY = 2, 4, 5  # FPDF_ERR_*


class BadBook(UserError):
    """A file or page that cannot be read; `reason` is a short constant word for counting, str() says it in full."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadBook"], tuple[str, str]]:
        return type(self), (self.reason, str(self))


def open_pdf(path: Path, password: str | None = None) -> Any:
    """A pypdfium2.PdfDocument, which closes itself after `with`; len() is the number of pages.

    Raises BadBook: unreadable, not_a_pdf, encrypted, damaged, truncated, no_pages.
    """
    import pypdfium2
    import pypdfium2.raw as pdfium

    head, tail = _ends_of(path)
    if b"%PDF-" not in head:
        raise BadBook("not_a_pdf", f"{path}: not a PDF file (it does not start with %PDF-)")
    # pdfium sets no error for a book without pages and would tell the one before; this sets one that cannot come up.
    pdfium.FPDF_LoadDocument(b"", None)
    try:
        document = pypdfium2.PdfDocument(path, password=password)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (_PASSWORD, _SECURITY):
            wanted = "needs a password" if password is None else "does not open with this password"
            raise BadBook("encrypted", f"{path}: encrypted, {wanted}") from error
        if error.err_code == _FILE and b"%%EOF" in tail:
            raise BadBook("no_pages", f"{path}: a PDF without pages") from error
        reason = "damaged" if b"%%EOF" in tail else "truncated"
        raise BadBook(reason, f"{path}: {reason}, no table of its objects is found") from error
    problem = None
    if b"%%EOF" not in tail and not pdfium.FPDF_DocumentHasValidCrossReferenceTable(document):
        problem = BadBook("truncated", f"{path}: cut off, its end is missing; fetch it again")
    elif len(document) < 1:
        problem = BadBook("no_pages", f"{path}: a PDF without pages")
    if problem is not None:
        document.close()
        raise problem
    return document


def _ends_of(path: Path) -> tuple[bytes, bytes]:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            return head, file.read()
    except OSError as error:
        raise BadBook("unreadable", f"{path}: {error.strerror}") from error


def read_pdf_page(document: Any, number: int) -> Page:
    """Lines and graphics of a page, counted from 1.

    Raises BadBook: bad_page when pdfium cannot load it, too_many_pixels for an image that pdfium leaves out.
    """
    import pypdfium2.raw as pdfium

    from pathloom.books.pdf_graphics import read_graphics
    from pathloom.books.pdf_letters import reads_as_english
    from pathloom.books.pdf_text import read_text

    with _loaded(document, number) as page:
        frame = _frame(page, number)
        pictured = read_graphics(page, frame)
        if pictured.too_large_px is not None:
            width_px, height_px = pictured.too_large_px
            raise BadBook("too_many_pixels", f"page {number}: an image of {width_px}x{height_px} px")
        text_page = pdfium.FPDFText_LoadPage(page)
        if not text_page:
            raise BadBook("bad_page", f"page {number}: its text cannot be read")
        try:
            text = read_text(text_page, frame, pictured.covered_texts)
        finally:
            pdfium.FPDFText_ClosePage(text_page)
    is_scan = pictured.images_cover_page and (
        text.num_seen == 0 or text.num_hidden > _HIDDEN_OVER_SEEN * text.num_seen
    )
    is_unmapped = text.unmapped_share > MAX_UNMAPPED_SHARE and not reads_as_english(text.seen + text.hidden)
    lines = () if is_unmapped else text.hidden + text.seen if is_scan else text.seen
    return Page(
        number=number,
        width_pt=frame.width_pt,
        height_pt=frame.height_pt,
        lines=lines,
        graphics=pictured.graphics,
        text_from="layer" if lines else "none",
        kind="scan" if is_scan else "unmapped" if is_unmapped else "digital",
    )


@contextlib.contextmanager
def _loaded(document: Any, number: int) -> Iterator[Any]:
    """The raw page handle."""
    import pypdfium2.raw as pdfium

    page = pdfium.FPDF_LoadPage(document, number - 1)
    if not page:
        raise BadBook("bad_page", f"page {number}: damaged, pdfium cannot load it")
    try:
        yield page
    finally:
        pdfium.FPDF_ClosePage(page)


def _frame(page: Any, number: int) -> Frame:
    """From the page's own frame, y up, to the displayed one: crop box and rotation applied."""
    import pypdfium2.raw as pdfium

    box = pdfium.FS_RECTF()
    pdfium.FPDF_GetPageBoundingBox(page, box)
    left, bottom, right, top = box.left, box.bottom, box.right, box.top
    width_pt, height_pt = right - left, top - bottom
    if not (0 < width_pt < math.inf and 0 < height_pt < math.inf):
        raise BadBook("bad_page", f"page {number}: damaged, it has no size")
    turns = pdfium.FPDFPage_GetRotation(page) % 4
    if turns == 1:
        return Frame(0, 1, 1, 0, -bottom, -left, height_pt, width_pt)
    if turns == 2:
        return Frame(-1, 0, 0, 1, right, -bottom, width_pt, height_pt)
    if turns == 3:
        return Frame(0, -1, -1, 0, top, right, height_pt, width_pt)
    return Frame(1, 0, 0, -1, -left, top, width_pt, height_pt)


def page_sizes_px(document: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of a book's page images, small and large, as Patho-R1's released code has them.

    One page gives the aspect ratio of all; the small size is the largest of MAX_PAGE_PIXELS at most, floored to
    multiples of 28; the large one is twice that.
    """
    import pypdfium2.raw as pdfium

    size = pdfium.FS_SIZEF()
    index = min(ASPECT_PAGE, len(document) - 1)
    if not pdfium.FPDF_GetPageSizeByIndexF(document, index, size) or not size.width * size.height > 0:
        raise BadBook("bad_page", f"page {index + 1}: damaged, it has no size")
    return sizes_of_aspect(size.width / size.height)


def sizes_of_aspect(aspect: float) -> tuple[tuple[int, int], tuple[int, int]]:
    """The sizes of page_sizes_px for a page that is `aspect` times as wide as high."""
    width, height = math.sqrt(MAX_PAGE_PIXELS * aspect), math.sqrt(MAX_PAGE_PIXELS / aspect)
    # A ratio such as 1 must not lose a step to rounding.
    width_px, height_px = (max(SIZE_STEP_PX, int((side + 1e-6) / 28) * 28) for side in (width, height))
    longest_px = MAX_PAGE_PIXELS // SIZE_STEP_PX  # of a strip, whose short side was raised
    width_px, height_px = min(width_px, longest_px), min(height_px, longest_px)
    return (width_px, height_px), (2 * width_px, 2 * height_px)


def render(document: Any, number: int, width_px: int, height_px: int) -> PILImage.Image:
    """The page as displayed, RGB on white, stretched to this size; without comments and form fields.

    pdfium unpacks a plain image line by line: 26,000 x 26,000 px take 4 s and 80 MB. A JPEG 2000 of that size takes
    more of both, and the worker's caps end it. Raises BadBook: too_many_pixels, bad_page.
    """
    import pypdfium2.raw as pdfium

    if width_px * height_px > LIMITS.max_pixels:
        raise BadBook(
            "too_many_pixels",
            f"page {number}: {width_px}x{height_px} px, at most {LIMITS.max_pixels} are made",
        )
    with _loaded(document, number) as page:
        pixels = ctypes.create_string_buffer(width_px * height_px * 3)
        bitmap = pdfium.FPDFBitmap_CreateEx(width_px, height_px, pdfium.FPDFBitmap_BGR, pixels, width_px * 3)
        try:
            pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, width_px, height_px, 0xFFFFFFFF)
            flags = pdfium.FPDF_REVERSE_BYTE_ORDER
            pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, width_px, height_px, 0, flags)
        finally:
            pdfium.FPDFBitmap_Destroy(bitmap)
    return PILImage.frombytes("RGB", (width_px, height_px), pixels.raw)
