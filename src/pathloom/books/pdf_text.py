"""The text layer of a PDF page as lines, from pdfium's characters.

A call into pdfium costs about 0.7 us from Python and a page has 2,000 to 7,000 characters. So all characters come in
one call, boxes are asked for once a word (of its first and last character), fonts and text objects once each.
"""

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pathloom.books.page import Line
from pathloom.books.pdf_letters import BLANKS, LINE_BREAKS, NOTHING, clean, letters, read_codes
from pathloom.schema import Box

# Distances in font sizes. Our own choices, checked by eye on pages of the three public PDFs in shared/data.
_WIDEST_SPACE = 1.2  # between words of a justified line; column gutters are wider
_WIDEST_OUT_OF_ORDER = 0.7  # the same where the file writes other text in between: may be another column
_WORD_GAP = 0.15  # at least this far apart: two words, even where pdfium saw none
_BACK_STEP = 0.5  # kerning and accents may step back
_SCRIPT_RATIO = 0.85  # smaller than this beside its neighbour: may be a sub- or superscript
_DROP_CAP_RATIO = 0.45  # still smaller: something else, such as the line beside an initial
_SCRIPT_SHIFT = 0.65
_LINE_SHIFT = 0.25
_SHADOW_PT = 1.0  # the same word again no further away than this is fake bold or a shadow

_CJK = re.compile("[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_BOLD = re.compile(r"bold|black|heavy|demi|cmbx|cmssbx|(?<=[-,])bd", re.IGNORECASE)
_NOT_BOLD = re.compile(r"regular|roman|light|book|medium", re.IGNORECASE)
_ITALIC = re.compile(r"ital|obli|cmti|cmsl|cmmi|(?<=[-,a-z])It$|(?<=[-,])it\b", re.IGNORECASE)
_FLAG_ITALIC, _FLAG_FORCE_BOLD = 1 << 6, 1 << 18  # font descriptor flags, PDF 32000-1 table 123
_BOLD_WEIGHT = 650  # pdfium's guess from the stems: 400 is regular, 700 bold
_INVISIBLE_MODE = 3


class Frame(NamedTuple):
    """From the PDF's user space to the displayed page in points, y down: X = a x + c y + e, Y = b x + d y + f."""

    a: float
    b: float
    c: float
    d: float
    e: float
    f: float
    width_pt: float
    height_pt: float

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        """Upright boxes stay upright: pages turn by quarters only."""
        x1, x2 = self.a * left + self.c * bottom + self.e, self.a * right + self.c * top + self.e
        y1, y2 = self.b * left + self.d * bottom + self.f, self.b * right + self.d * top + self.f
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


class _Font(NamedTuple):
    bold: bool
    italic: bool
    ascent: float  # in font sizes
    descent: float
    size_factor: float  # 1, except where a bitmap font is set at a nominal size


class _Style(NamedTuple):
    """What a text object says of all its characters.

    (ux, uy) is where its line runs to on the displayed page; (-uy, ux) points down from the line. A place along the
    line is pa x + pb y + pc of the PDF's own x and y.
    """

    size_pt: float
    ux: float
    uy: float
    baseline_pt: float
    top_pt: float
    bottom_pt: float
    pa: float
    pb: float
    pc: float
    font: _Font
    hidden: bool
    unmapped: bool  # pdfium finds no meaning for its first character; fonts are good or bad as a whole


@dataclass(slots=True)
class _Piece:
    """A word or a part of one. `start_pt` and `end_pt` are along its line's direction."""

    text: str
    start_pt: float
    end_pt: float
    style: _Style
    after: str  # "" where it follows without a gap, " " after a space, "\n" after a line break that pdfium guessed


@dataclass(slots=True)
class _Run:
    """Pieces on one line, from left to right; `main` is the style of the largest."""

    pieces: list[_Piece]
    main: _Style

    @property
    def start_pt(self) -> float:
        return self.pieces[0].start_pt

    @property
    def end_pt(self) -> float:
        return self.pieces[-1].end_pt


@dataclass(frozen=True)
class TextLayer:
    """`seen` is what a viewer shows, `hidden` what stands behind a picture or is written invisibly.

    `unmapped_share` is the share of characters that the file gives no meaning to.
    """

    seen: tuple[Line, ...]
    hidden: tuple[Line, ...]
    num_seen: int
    num_hidden: int
    unmapped_share: float


def read_text(text_page: Any, frame: Frame, covered: frozenset[int] = frozenset()) -> TextLayer:
    """All lines of a loaded text page. `covered` are addresses of text objects that a picture lies upon."""
    reader = _Reader(text_page, frame, covered)
    pieces = list(reader.pieces())
    seen = [piece for piece in pieces if not piece.style.hidden]
    hidden = [piece for piece in pieces if piece.style.hidden]
    return TextLayer(
        seen=_lines(seen),
        hidden=_lines(hidden),
        num_seen=sum(len(piece.text) for piece in seen),
        num_hidden=sum(len(piece.text) for piece in hidden),
        unmapped_share=reader.num_unmapped / max(1, reader.num_chars),
    )


class _Reader:
    def __init__(self, text_page: Any, frame: Frame, covered: frozenset[int]) -> None:
        import pypdfium2.raw as pdfium

        self.pdfium = pdfium
        self.text_page = text_page
        self.frame = frame
        self.covered = covered
        self.num_chars = 0
        self.num_unmapped = 0
        self.styles: dict[int, _Style] = {}  # by address of the text object
        self.fonts: dict[int, _Font] = {}  # by address of the font
        self.written: dict[str, list[tuple[float, float]]] = {}
        self.box = pdfium.FS_RECTF()
        # The two functions that are called for each word, with bare addresses: two thirds of the time.
        page, index, address = ctypes.cast(text_page, ctypes.c_void_p), ctypes.c_int, ctypes.c_void_p
        find = ctypes.cast(pdfium.FPDFText_GetTextObject, address).value or 0
        self.object_at: Callable[[int], int | None] = partial(
            ctypes.CFUNCTYPE(address, address, index)(find), page
        )
        measure = ctypes.cast(pdfium.FPDFText_GetLooseCharBox, address).value or 0
        self.char_box: Callable[[int, Any], int] = partial(
            ctypes.CFUNCTYPE(ctypes.c_int, address, index, address)(measure), page
        )
        self.box_at = ctypes.byref(self.box)

    def pieces(self) -> Iterator[_Piece]:
        """Words in the order of the file, split where the text object changes."""
        codes = read_codes(self.text_page)
        text = letters(codes)
        blank = np.isin(codes, BLANKS)
        dark = np.concatenate([[False], ~blank, [False]])
        edges = np.flatnonzero(dark[1:] != dark[:-1]).tolist()
        spaces = np.concatenate([[0], np.cumsum(blank & ~np.isin(codes, LINE_BREAKS))]).tolist()
        previous_end = 0
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            after = "" if start == previous_end else " " if spaces[start] > spaces[previous_end] else "\n"
            previous_end = end
            for first, last, address in self._objects(start, end):
                piece = self._piece(text[first:last], first, last - 1, address, after)
                after = ""
                if piece is not None:
                    yield piece

    def _objects(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """The parts [first, last) of a word by text object, with the object's address."""
        first = self.object_at(start) or 0
        if end == start + 1 or self.object_at(end - 1) == first:
            return [(start, end, first)] if first else []
        parts = []
        begin, current = start, first
        for index in range(start + 1, end + 1):
            address = (self.object_at(index) or 0) if index < end else 0
            if address != current or index == end:
                if current:
                    parts.append((begin, index, current))
                begin, current = index, address
        return parts

    def _piece(self, text: str, first: int, last: int, address: int, after: str) -> _Piece | None:
        """None for what is off the page, what was written before at this place, and for nothing but controls."""
        style = self.styles.get(address)
        if style is None:
            style = self.styles[address] = self._style(first, address)
        box, pa, pb, pc = self.box, style.pa, style.pb, style.pc
        self.char_box(first, self.box_at)
        start_pt, end_pt = pa * box.left + pb * box.bottom + pc, pa * box.right + pb * box.top + pc
        if last != first:
            self.char_box(last, self.box_at)
            one_pt, other_pt = pa * box.left + pb * box.bottom + pc, pa * box.right + pb * box.top + pc
            start_pt, end_pt = (
                min(start_pt, end_pt, one_pt, other_pt),
                max(start_pt, end_pt, one_pt, other_pt),
            )
        elif end_pt < start_pt:
            start_pt, end_pt = end_pt, start_pt
        middle_pt, across_pt = (start_pt + end_pt) / 2, style.baseline_pt - style.size_pt / 3
        if not (
            0 <= middle_pt * style.ux - across_pt * style.uy <= self.frame.width_pt
            and 0 <= middle_pt * style.uy + across_pt * style.ux <= self.frame.height_pt
        ):
            return None
        self.num_chars += len(text)
        self.num_unmapped += len(text) if style.unmapped else text.count(NOTHING)
        if not text.isascii() or NOTHING in text:
            text = clean(text)
        if not text or self._again(text, start_pt, style.baseline_pt):
            return None
        return _Piece(text, start_pt, end_pt, style, after)

    def _again(self, text: str, x_pt: float, y_pt: float) -> bool:
        if text not in self.written:
            self.written[text] = [(x_pt, y_pt)]
            return False
        places = self.written[text]
        # Only the last ones: a shadow is drawn soon after, and a page of one word must not take for ever.
        again = any(abs(x - x_pt) <= _SHADOW_PT and abs(y - y_pt) <= _SHADOW_PT for x, y in places[-50:])
        places.append((x_pt, y_pt))
        return again

    def _style(self, index: int, address: int) -> _Style:
        pdfium, page, frame = self.pdfium, self.text_page, self.frame
        handle = pdfium.FPDFText_GetTextObject(page, index)
        matrix = pdfium.FS_MATRIX()
        pdfium.FPDFText_GetMatrix(page, index, matrix)
        a, b, c, d = matrix.a, matrix.b, matrix.c, matrix.d
        length = (a * a + b * b) ** 0.5 or 1.0
        ux, uy = (frame.a * a + frame.c * b) / length, (frame.b * a + frame.d * b) / length
        # Straight text is kept exactly straight, so that rounding does not part a line.
        ux, uy = (round(ux), round(uy)) if abs(ux * uy) < 1e-3 else (round(ux, 3), round(uy, 3))
        # Height across the line: a slanted or stretched font is as large as it is high.
        size_pt = pdfium.FPDFText_GetFontSize(page, index) * abs(a * d - b * c) / length
        x, y = ctypes.c_double(), ctypes.c_double()
        pdfium.FPDFText_GetCharOrigin(page, index, x, y)
        left_pt = frame.a * x.value + frame.c * y.value + frame.e
        top_pt = frame.b * x.value + frame.d * y.value + frame.f
        font = self._font(pdfium.FPDFTextObj_GetFont(handle), index, size_pt, abs(ux) < abs(uy))
        size_pt *= font.size_factor
        baseline_pt = -uy * left_pt + ux * top_pt
        return _Style(
            size_pt=size_pt,
            ux=ux,
            uy=uy,
            baseline_pt=baseline_pt,
            top_pt=baseline_pt - font.ascent * size_pt,
            bottom_pt=baseline_pt + font.descent * size_pt,
            pa=ux * frame.a + uy * frame.b,
            pb=ux * frame.c + uy * frame.d,
            pc=ux * frame.e + uy * frame.f,
            font=font,
            hidden=address in self.covered or pdfium.FPDFTextObj_GetTextRenderMode(handle) == _INVISIBLE_MODE,
            unmapped=pdfium.FPDFText_HasUnicodeMapError(page, index) == 1,
        )

    def _font(self, handle: Any, index: int, size_pt: float, upright: bool) -> _Font:
        pdfium = self.pdfium
        address = ctypes.addressof(handle.contents) if handle else 0
        if address in self.fonts:
            return self.fonts[address]
        name_buffer = ctypes.create_string_buffer(256)
        pdfium.FPDFFont_GetBaseFontName(handle, name_buffer, 256)
        name = name_buffer.value.decode("utf-8", "replace").rpartition("+")[2]
        flags = max(0, pdfium.FPDFFont_GetFlags(handle))
        heavy = bool(flags & _FLAG_FORCE_BOLD) or pdfium.FPDFFont_GetWeight(handle) >= _BOLD_WEIGHT
        ascent, descent = ctypes.c_float(), ctypes.c_float()
        pdfium.FPDFFont_GetAscent(handle, 1.0, ascent)
        pdfium.FPDFFont_GetDescent(handle, 1.0, descent)
        box = self.box
        pdfium.FPDFText_GetLooseCharBox(self.text_page, index, box)
        x1, y1, x2, y2 = self.frame.box(box.left, box.bottom, box.right, box.top)
        height_pt = x2 - x1 if upright else y2 - y1
        plausible = height_pt <= 0 or size_pt <= 0 or 0.2 * size_pt < height_pt < 4 * size_pt
        self.fonts[address] = _Font(
            bold=bool(_BOLD.search(name)) or (heavy and not _NOT_BOLD.search(name)),
            italic=bool(_ITALIC.search(name)) or bool(flags & _FLAG_ITALIC),
            # Fonts of mathematics claim several sizes, Type 3 none; letters stay within these.
            ascent=min(max(ascent.value, 0.7), 0.9),
            descent=min(max(-descent.value, 0.15), 0.3),
            size_factor=1.0 if plausible else height_pt / size_pt,
        )
        return self.fonts[address]


def _follows(run: _Run, start_pt: float, style: _Style, widest: float) -> bool:
    """Whether text of `style` that starts at `start_pt` goes on with the line that `run` began."""
    main = run.main
    if style.ux != main.ux or style.uy != main.uy:
        return False
    larger_pt = max(main.size_pt, style.size_pt)
    ratio = min(main.size_pt, style.size_pt) / larger_pt if larger_pt > 0 else 1.0
    shift_pt = abs(style.baseline_pt - main.baseline_pt)
    gap_pt = start_pt - run.end_pt
    if ratio < _DROP_CAP_RATIO or not -_BACK_STEP * larger_pt <= gap_pt <= widest * larger_pt:
        return False
    if shift_pt <= _LINE_SHIFT * min(main.size_pt, style.size_pt):
        return True
    return ratio < _SCRIPT_RATIO and shift_pt <= _SCRIPT_SHIFT * larger_pt and gap_pt <= 0.35 * larger_pt


def _joined(left: _Run, right: _Run) -> _Run:
    main = left.main if left.main.size_pt >= right.main.size_pt else right.main
    return _Run(left.pieces + right.pieces, main)


def _lines(pieces: list[_Piece]) -> tuple[Line, ...]:
    """Pieces in the order of the file to lines in the order of their first piece."""
    runs: list[_Run] = []
    for piece in pieces:
        if runs and _follows(runs[-1], piece.start_pt, piece.style, _WIDEST_SPACE):
            runs[-1].pieces.append(piece)
            if piece.style.size_pt > runs[-1].main.size_pt:
                runs[-1].main = piece.style
        else:
            runs.append(_Run([piece], piece.style))
    return tuple(_line(run) for run in _mend(runs))


def _mend(runs: list[_Run]) -> list[_Run]:
    """Joins parts of one line that the file writes apart, each to its nearest on the right."""
    by_baseline = sorted(range(len(runs)), key=lambda i: runs[i].main.baseline_pt)
    next_of: dict[int, int] = {}
    for at, i in enumerate(by_baseline):
        reach_pt = runs[i].main.baseline_pt + _SCRIPT_SHIFT * runs[i].main.size_pt
        for j in by_baseline[at + 1 : at + 1 + 200]:  # a page of single letters must not take for ever
            if runs[j].main.baseline_pt > reach_pt:
                break
            left, right = (i, j) if runs[i].start_pt <= runs[j].start_pt else (j, i)
            if _follows(runs[left], runs[right].start_pt, runs[right].main, _WIDEST_OUT_OF_ORDER) and (
                left not in next_of or runs[right].start_pt < runs[next_of[left]].start_pt
            ):
                next_of[left] = right
    if not next_of:
        return runs
    taken: set[int] = set()
    for left, right in list(next_of.items()):  # a part has one place only
        if right in taken:
            del next_of[left]
        taken.add(right)
    whole: dict[int, _Run] = {}
    inner = set(next_of.values())
    for start in (i for i in range(len(runs)) if i not in inner):
        run, order, at_run = runs[start], start, start
        while at_run in next_of:
            at_run = next_of[at_run]
            run, order = _joined(run, runs[at_run]), min(order, at_run)
        whole[order] = run
    return [whole[order] for order in sorted(whole)]


def _line(run: _Run) -> Line:
    main = run.main
    text, before_pt = "", run.start_pt
    start_pt, end_pt, top_pt, bottom_pt = np.inf, -np.inf, np.inf, -np.inf
    num_bold = num_italic = num_all = 0
    for piece in run.pieces:
        style, gap_pt = piece.style, piece.start_pt - before_pt
        if text and (piece.after == " " or gap_pt > _WORD_GAP * main.size_pt):
            chinese = _CJK.match(text[-1]) and _CJK.match(piece.text[0])
            text += "" if chinese and gap_pt < 0.5 * main.size_pt else " "
        text += piece.text
        before_pt = piece.end_pt
        start_pt, end_pt = min(start_pt, piece.start_pt), max(end_pt, before_pt)
        top_pt, bottom_pt = min(top_pt, style.top_pt), max(bottom_pt, style.bottom_pt)
        num_all += len(piece.text)
        num_bold += len(piece.text) * style.font.bold
        num_italic += len(piece.text) * style.font.italic
    x1, y1 = start_pt * main.ux - top_pt * main.uy, start_pt * main.uy + top_pt * main.ux
    x2, y2 = end_pt * main.ux - bottom_pt * main.uy, end_pt * main.uy + bottom_pt * main.ux
    return Line(
        text=text,
        box_pt=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)),
        size_pt=main.size_pt,
        bold=2 * num_bold > num_all,
        italic=2 * num_italic > num_all,
    )
