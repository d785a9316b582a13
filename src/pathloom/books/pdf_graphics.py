"""The pictures and drawings of a PDF page, clipped as a viewer clips them and without what nobody sees.

Paths are drawn as outlines onto a coarse grid, and those that touch there are one drawing. An outline, not an area:
a frame or a tinted box around text stays apart from what stands inside it.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.books.page import Graphic
from pathloom.books.pdf_text import Frame
from pathloom.schema import Box

_CELL_PT = 2.0  # paths closer than one to two cells are connected: more than a hairline, less than a gap between panels
_MAX_CELLS_A_SIDE = 4096  # a page of 60,000 pt gets larger cells instead of a grid of gigabytes
_MAX_SEGMENTS = (
    64  # of one path; a longer one (a curve of measurements, an outlined word) counts with its box
)
_MAX_SAMPLES = 1_000_000  # at a time
_MIN_IMAGE_PT = 1.5  # a thinner image is a rule or a spacer
_TOUCH_PT = 0.6
_THIN_BAND = 0.2  # of its length
_VAST_PIXELS = 2**30  # pdfium does not load an image of more than 2**32 bytes
_COVERS = 0.85  # of the page: a scan has margins cut or not, a plate beside text is smaller
_WHITE = 250
_MAX_DEPTH = 12  # of forms in forms
_BEZIER, _MOVE = 1, 2  # FPDF_SEGMENT_*
_TEXT, _PATH, _IMAGE, _SHADING, _FORM = 1, 2, 3, 4, 5  # FPDF_PAGEOBJ_*

_Matrix = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class PageGraphics:
    """`covered_texts` are addresses of text objects below an opaque picture of the whole page.

    `too_large_px` is the size of an image that pdfium leaves out without a word.
    """

    graphics: tuple[Graphic, ...]
    images_cover_page: bool
    covered_texts: frozenset[int]
    too_large_px: tuple[int, int] | None


def read_graphics(page: Any, frame: Frame) -> PageGraphics:
    """What a loaded page shows besides text; images first, then drawings, each in the order of the file."""
    import pypdfium2.raw as pdfium

    collector = _Collector(pdfium, page, frame)
    collector.collect()
    page_box = (0.0, 0.0, frame.width_pt, frame.height_pt)
    images = [Graphic(box_pt=box, kind="image") for box in join_strips(collector.images)]
    return PageGraphics(
        graphics=(*images, *cluster(collector.pieces, collector.half_widths_pt, page_box)),
        images_cover_page=_share_covered(collector.images, page_box) > _COVERS,
        covered_texts=frozenset(collector.covered_texts),
        too_large_px=collector.too_large_px,
    )


@dataclass(slots=True)
class _Collector:
    """Walks the objects of a page and of its forms; everything it keeps is in the displayed frame."""

    pdfium: Any  # pypdfium2.raw
    page: Any
    frame: Frame
    images: list[Box] = field(default_factory=list)
    pieces: list[tuple[float, ...]] = field(default_factory=list)  # x1 y1 x2 y2, path, clip x1 y1 x2 y2
    half_widths_pt: list[float] = field(default_factory=list)  # of each path's stroke
    texts: list[int] = field(default_factory=list)
    covered_texts: list[int] = field(default_factory=list)
    too_large_px: tuple[int, int] | None = None

    def collect(self) -> None:
        for handle, matrix, clip in self.objects():
            kind = self.pdfium.FPDFPageObj_GetType(handle)
            if kind == _TEXT:
                self.texts.append(ctypes.addressof(handle.contents))
            elif kind == _PATH:
                self._path(handle, matrix, clip)
            elif kind == _IMAGE:
                self._image(handle, matrix, clip)
            elif kind == _SHADING:
                box = self._bounds(handle, matrix, self._clip(handle, matrix, clip))
                if box is not None:
                    self._outline(box, box)

    def objects(self) -> Iterator[tuple[Any, _Matrix, Box]]:
        """Every object that is no form, with the matrix to the displayed page and the clip of the forms around it."""
        frame, count = self.frame, self.pdfium.FPDFPage_CountObjects(self.page)
        page_box = (0.0, 0.0, frame.width_pt, frame.height_pt)
        return self._within(self.pdfium.FPDFPage_GetObject, self.page, count, frame[:6], page_box, 0)

    def _within(
        self, get: Any, parent: Any, count: int, matrix: _Matrix, clip: Box, depth: int
    ) -> Iterator[tuple[Any, _Matrix, Box]]:
        pdfium = self.pdfium
        for index in range(count):
            handle = get(parent, index)
            if pdfium.FPDFPageObj_GetType(handle) != _FORM:
                yield handle, matrix, clip
            elif depth < _MAX_DEPTH:
                own = pdfium.FS_MATRIX()
                pdfium.FPDFPageObj_GetMatrix(handle, own)
                inside = _times((own.a, own.b, own.c, own.d, own.e, own.f), matrix)
                yield from self._within(
                    pdfium.FPDFFormObj_GetObject,
                    handle,
                    pdfium.FPDFFormObj_CountObjects(handle),
                    inside,
                    self._clip(handle, matrix, clip),
                    depth + 1,
                )

    def _clip(self, handle: Any, matrix: _Matrix, clip: Box) -> Box:
        """The box that the object's clip paths leave of `clip`; may be empty (x2 < x1)."""
        pdfium = self.pdfium
        paths = pdfium.FPDFPageObj_GetClipPath(handle)
        x, y = ctypes.c_float(), ctypes.c_float()
        for path in range(pdfium.FPDFClipPath_CountPaths(paths) if paths else 0):
            count = pdfium.FPDFClipPath_CountPathSegments(paths, path)
            points = []
            for index in range(min(count, _MAX_SEGMENTS)):
                segment = pdfium.FPDFClipPath_GetPathSegment(paths, path, index)
                pdfium.FPDFPathSegment_GetPoint(segment, x, y)
                points.append(_apply(matrix, x.value, y.value))
            if 0 < count <= _MAX_SEGMENTS:
                xs, ys = [p[0] for p in points], [p[1] for p in points]
                clip = _meet(clip, (min(xs), min(ys), max(xs), max(ys)))
        return clip

    def _bounds(self, handle: Any, matrix: _Matrix, clip: Box) -> Box | None:
        left, bottom, right, top = (ctypes.c_float() for _ in range(4))
        if not self.pdfium.FPDFPageObj_GetBounds(handle, left, bottom, right, top):
            return None
        corners = [_apply(matrix, x, y) for x in (left.value, right.value) for y in (bottom.value, top.value)]
        xs, ys = [p[0] for p in corners], [p[1] for p in corners]
        box = _meet(clip, (min(xs), min(ys), max(xs), max(ys)))
        return box if box[2] >= box[0] and box[3] >= box[1] else None

    def _image(self, handle: Any, matrix: _Matrix, clip: Box) -> None:
        pdfium = self.pdfium
        width_px, height_px = ctypes.c_uint(), ctypes.c_uint()
        pdfium.FPDFImageObj_GetImagePixelSize(handle, width_px, height_px)
        if width_px.value * height_px.value >= _VAST_PIXELS and self._is_left_out(handle):
            self.too_large_px = (width_px.value, height_px.value)
        box = self._bounds(handle, matrix, self._clip(handle, matrix, clip))
        if box is None or min(box[2] - box[0], box[3] - box[1]) < _MIN_IMAGE_PT:
            return
        if min(width_px.value, height_px.value) <= 1:  # a flat tint, or a rule stretched from one pixel
            return
        page_box = (0.0, 0.0, self.frame.width_pt, self.frame.height_pt)
        if _share_covered([box], page_box) > _COVERS:
            if self._is_white(handle, width_px.value * height_px.value):
                return
            if not pdfium.FPDFPageObj_HasTransparency(handle):
                self.covered_texts.extend(self.texts)
                self.texts.clear()
        self.images.append(box)

    def _is_left_out(self, handle: Any) -> bool:
        """Whether pdfium will show nothing of an image; of one that it cannot load it does not know the bits."""
        facts = self.pdfium.FPDF_IMAGEOBJ_METADATA()
        self.pdfium.FPDFImageObj_GetImageMetadata(handle, self.page, facts)
        return bool(facts.bits_per_pixel == 0)

    def _is_white(self, handle: Any, num_pixels: int) -> bool:
        """Whether an image is a white sheet. Large ones are scans, and are not unpacked to find out."""
        if num_pixels > 1_000_000:
            return False
        import pypdfium2

        bitmap = self.pdfium.FPDFImageObj_GetBitmap(handle)
        if not bitmap:
            return False
        pixels = pypdfium2.PdfBitmap.from_raw(bitmap).to_numpy()
        colours = pixels[..., :3] if pixels.ndim == 3 else pixels  # the fourth is alpha, or nothing
        white = bool(np.all(colours >= _WHITE))
        return white

    def _path(self, handle: Any, matrix: _Matrix, clip: Box) -> None:
        pdfium = self.pdfium
        fill, stroke = ctypes.c_int(), ctypes.c_int()
        pdfium.FPDFPath_GetDrawMode(handle, fill, stroke)
        filled = fill.value and self._has_ink(pdfium.FPDFPageObj_GetFillColor, handle)
        stroked = stroke.value and self._has_ink(pdfium.FPDFPageObj_GetStrokeColor, handle)
        if not filled and not stroked:
            return
        clip = self._clip(handle, matrix, clip)
        if clip[2] < clip[0] or clip[3] < clip[1]:
            return
        count = pdfium.FPDFPath_CountSegments(handle)
        if not 1 < count <= _MAX_SEGMENTS:
            box = self._bounds(handle, matrix, clip)
            if box is not None:
                self._outline(box, clip, fill=True)
            return
        half_width_pt = 0.0
        if stroked:
            width = ctypes.c_float()
            pdfium.FPDFPageObj_GetStrokeWidth(handle, width)
            half_width_pt = width.value * abs(matrix[0] * matrix[3] - matrix[1] * matrix[2]) ** 0.5 / 2
        own = pdfium.FS_MATRIX()
        pdfium.FPDFPageObj_GetMatrix(handle, own)
        self._segments(handle, _times((own.a, own.b, own.c, own.d, own.e, own.f), matrix), clip, count)
        self.half_widths_pt.append(half_width_pt)

    def _segments(self, handle: Any, matrix: _Matrix, clip: Box, count: int) -> None:
        """The straight pieces of a path; a curve goes through its control points, half a point off at most in print."""
        pdfium = self.pdfium
        a, b, c, d, e, f = matrix
        path = len(self.half_widths_pt)
        x, y = ctypes.c_float(), ctypes.c_float()
        last: tuple[float, float] | None = None
        first = (0.0, 0.0)
        for index in range(count):
            segment = pdfium.FPDFPath_GetPathSegment(handle, index)
            pdfium.FPDFPathSegment_GetPoint(segment, x, y)
            point = (a * x.value + c * y.value + e, b * x.value + d * y.value + f)
            if pdfium.FPDFPathSegment_GetType(segment) == _MOVE or last is None:
                first = point
            else:
                self.pieces.append((*last, *point, path, *clip))
                if pdfium.FPDFPathSegment_GetClose(segment):
                    self.pieces.append((*point, *first, path, *clip))
            last = point

    def _outline(self, box: Box, clip: Box, fill: bool = False) -> None:
        x1, y1, x2, y2 = box
        path = len(self.half_widths_pt)
        corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
        for start, end in pairwise(corners):
            self.pieces.append((*start, *end, path, *clip))
        if fill:  # its diagonals: whatever crosses the box much touches one of them
            self.pieces.append((x1, y1, x2, y2, path, *clip))
            self.pieces.append((x1, y2, x2, y1, path, *clip))
        self.half_widths_pt.append(0.0)

    def _has_ink(self, get: Any, handle: Any) -> bool:
        red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
        if not get(handle, red, green, blue, alpha):
            return True  # a pattern
        return alpha.value > 2 and min(red.value, green.value, blue.value) < _WHITE


def cluster(pieces: list[tuple[float, ...]], half_widths_pt: list[float], page_box: Box) -> list[Graphic]:
    """Drawings from the straight pieces of paths: rows of x1 y1 x2 y2, number of the path, and its clip box."""
    if not pieces:
        return []
    from scipy import ndimage

    rows = _clipped(np.array(pieces, np.float64))
    widths = np.array(half_widths_pt, np.float64)
    cell_pt = max(_CELL_PT, page_box[2] / _MAX_CELLS_A_SIDE, page_box[3] / _MAX_CELLS_A_SIDE)
    columns, lines = int(page_box[2] / cell_pt) + 1, int(page_box[3] / cell_pt) + 1
    ink = np.zeros(lines * columns, bool)
    # Sampled twice, because a dense page's samples would not fit in memory.
    for points, _ in _samples(rows, cell_pt):
        ink[_cells(points, cell_pt, columns)] = True
    labels, count = ndimage.label(ink.reshape(lines, columns), structure=np.ones((3, 3), int))
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    members = []
    for points, of_row in _samples(rows, cell_pt):
        drawing = labels.reshape(-1)[_cells(points, cell_pt, columns)] - 1
        path = rows[of_row, 4].astype(np.int64)
        run = np.abs(rows[of_row, 2:4] - rows[of_row, 0:2])
        across = (run < run[:, ::-1]) * widths[path][:, None]  # a stroke is as wide as its pen across its run
        np.minimum.at(low, drawing, np.maximum(points - across, page_box[:2]))
        np.maximum.at(high, drawing, np.minimum(points + across, page_box[2:]))
        members.append(np.unique(drawing * len(widths) + path))
    drawings, paths = np.divmod(np.unique(np.concatenate(members or [np.empty(0, np.int64)])), len(widths))
    num_paths = np.bincount(drawings, minlength=count)
    first_path = np.full(count, len(widths))
    np.minimum.at(first_path, drawings, paths)
    return [
        Graphic(box_pt=(*low[i].tolist(), *high[i].tolist()), kind="drawing", num_paths=int(num_paths[i]))
        for i in np.argsort(first_path, kind="stable")
    ]


def join_strips(boxes: list[Box]) -> list[Box]:
    """Images that a printer driver cut into bands, made whole; of several at one place the first.

    Bands are as long as each other, touch, and are thin; two panels that touch are not thin. Images without bands
    keep their order.
    """
    whole = list(dict.fromkeys(boxes))
    if len(whole) < 2:
        return whole
    for run, across in ((0, 1), (1, 0)):
        by_place = sorted(whole, key=lambda box: (round(box[run]), round(box[run + 2]), box[across]))
        joined: list[Box] = []
        last_pt = np.inf  # how thick the band before was
        for box in by_place:
            length_pt, thick_pt = box[run + 2] - box[run], box[across + 2] - box[across]
            before = joined[-1] if joined else box
            touches = abs(box[across] - before[across + 2]) < _TOUCH_PT
            level = all(abs(box[side] - before[side]) < _TOUCH_PT for side in (run, run + 2))
            if joined and touches and level and min(thick_pt, last_pt) < _THIN_BAND * length_pt:
                joined[-1] = (*before[:2], *box[2:])
            else:
                joined.append(box)
            last_pt = thick_pt
        if len(joined) < len(whole):
            whole = joined
    return whole


def _clipped(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows that their clip boxes leave, cut to them (Liang and Barsky 1984)."""
    rows = rows[np.isfinite(rows).all(axis=1)]
    start, delta = rows[:, 0:2], rows[:, 2:4] - rows[:, 0:2]
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = (rows[:, 5:7] - start) / delta, (rows[:, 7:9] - start) / delta
    inside = (start >= rows[:, 5:7]) & (start <= rows[:, 7:9])
    still = delta == 0
    enter = np.where(still, np.where(inside, -np.inf, np.inf), np.minimum(to_low, to_high))
    leave = np.where(still, np.where(inside, np.inf, -np.inf), np.maximum(to_low, to_high))
    begin, end = np.maximum(enter.max(axis=1), 0), np.minimum(leave.min(axis=1), 1)
    kept = begin <= end
    cut = rows[kept].copy()
    cut[:, 0:2] = start[kept] + begin[kept, None] * delta[kept]
    cut[:, 2:4] = start[kept] + end[kept, None] * delta[kept]
    return cut


def _samples(
    rows: NDArray[np.float64], step_pt: float
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Points [n, 2] along the pieces, both ends and one a step, with the row [n] of each; _MAX_SAMPLES at a time."""
    counts = (np.abs(rows[:, 2:4] - rows[:, 0:2]).max(axis=1, initial=0) / step_pt).astype(np.int64) + 2
    batch_of = np.cumsum(counts) // _MAX_SAMPLES
    for batch in np.unique(batch_of):
        some = np.flatnonzero(batch_of == batch)
        of_row = np.repeat(some, counts[some])
        firsts = np.repeat(np.cumsum(counts[some]) - counts[some], counts[some])
        share = (np.arange(len(of_row)) - firsts) / (counts[of_row] - 1)
        yield rows[of_row, 0:2] + share[:, None] * (rows[of_row, 2:4] - rows[of_row, 0:2]), of_row


def _cells(points: NDArray[np.float64], cell_pt: float, columns: int) -> NDArray[np.int64]:
    at = (points / cell_pt).astype(np.int64)
    return at[:, 1] * columns + at[:, 0]


def _share_covered(boxes: list[Box], page_box: Box) -> float:
    """The part of the page under any of the boxes, to a hundredth: a scan may come in strips."""
    side = 100
    grid = np.zeros((side, side), bool)
    for x1, y1, x2, y2 in boxes:
        left, right = round(x1 / page_box[2] * side), round(x2 / page_box[2] * side)
        top, bottom = round(y1 / page_box[3] * side), round(y2 / page_box[3] * side)
        grid[top:bottom, left:right] = True
    return float(grid.mean())


def _times(first: _Matrix, second: _Matrix) -> _Matrix:
    """The matrix that applies `first`, then `second`."""
    a, b, c, d, e, f = first
    p, q, r, s, t, u = second
    return a * p + b * r, a * q + b * s, c * p + d * r, c * q + d * s, e * p + f * r + t, e * q + f * s + u


def _apply(matrix: _Matrix, x: float, y: float) -> tuple[float, float]:
    a, b, c, d, e, f = matrix
    return a * x + c * y + e, b * x + d * y + f


def _meet(box: Box, other: Box) -> Box:
    return max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])
