"""A small typesetter for phantom books: lines broken, hyphenated and placed here, so that every box is known.

Frame of all coordinates: points from the top left corner of the page, y down. reportlab draws.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pathloom.schema import Box

Align = Literal["left", "center", "justify"]
Face = Literal["regular", "bold", "italic"]

ASCENT, DESCENT = 0.72, 0.21
"""Of the font's size, from the baseline: the height of capitals and the depth of descenders in Times and Helvetica."""
HAN_ASCENT, HAN_DESCENT = 0.86, 0.13
"""The same of Chinese characters, which fill their square."""
_FAMILIES = {
    "serif": ("Times-Roman", "Times-Bold", "Times-Italic"),
    "sans": ("Helvetica", "Helvetica-Bold", "Helvetica-Oblique"),
    "wide": ("Vera", "VeraBd", "VeraIt"),
}
_NO_LINE_STARTS = "，。；：、）》】！？,.;:)%"  # noqa: RUF001
_NO_LINE_ENDS = "（《【("  # noqa: RUF001
_VOWELS = "aeiouy"
_LEAST_HYPHENATED = 7


@dataclass(frozen=True)
class Token:
    """A word, or one Chinese character, with what may stand before it; `starts` is the sentence that begins here."""

    text: str
    font: str
    space: bool = False
    breakable: bool = False
    starts: int | None = None


@dataclass(frozen=True)
class SetLine:
    """Tokens of one line, its natural width and where it stands in its paragraph."""

    tokens: tuple[Token, ...]
    width_pt: float
    size_pt: float
    indent_pt: float = 0.0
    last: bool = False


def register_family(family: str, font: Path | None = None) -> tuple[str, str, str]:
    """Names of the regular, bold and italic font of a family: serif, sans, wide, or song for Chinese.

    song is the TrueType file `font`, embedded, or without one STSong-Light, which a viewer must supply.
    """
    from reportlab.pdfbase import pdfmetrics

    known = pdfmetrics.getRegisteredFontNames()
    if family == "song":
        name = f"Song{font.stem}" if font else "STSong-Light"
        if name not in known:
            pdfmetrics.registerFont(_song(font, name))
        return (name, name, name)
    if family == "wide":
        from reportlab.pdfbase.ttfonts import TTFont

        spec = find_spec("reportlab")
        assert spec is not None
        assert spec.origin is not None
        for name in _FAMILIES["wide"]:
            if name not in known:
                pdfmetrics.registerFont(TTFont(name, str(Path(spec.origin).parent / "fonts" / f"{name}.ttf")))
    return _FAMILIES[family]


def _song(font: Path | None, name: str) -> Any:
    if font is None:
        from reportlab.pdfbase.cidfonts import UnicodeCIDFont

        return UnicodeCIDFont(name)
    from reportlab.pdfbase.ttfonts import TTFont

    return TTFont(name, str(font))


@lru_cache(maxsize=200_000)
def text_width(text: str, font: str, size_pt: float) -> float:
    from reportlab.pdfbase import pdfmetrics

    return float(pdfmetrics.stringWidth(text, font, size_pt))


def _is_han(char: str) -> bool:
    return "\u2e80" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef" or char in "·—“”"


def tokenise(runs: Sequence[tuple[str, str]], *, starts: Sequence[int | None] = ()) -> list[Token]:
    """Runs of text and font as tokens: words split at spaces, Chinese between characters where a line may break.

    `starts` gives for each run the sentence that begins with it.
    """
    tokens: list[Token] = []
    space = False
    for number, (text, font) in enumerate(runs):
        mark = starts[number] if starts else None
        for place, word in enumerate(text.split(" ")):
            space = space or place > 0
            for piece in _pieces(word):
                breakable = space or (bool(tokens) and _may_break(tokens[-1].text, piece))
                tokens.append(Token(piece, font, space, breakable, mark))
                space, mark = False, None
    return tokens


def _pieces(word: str) -> list[str]:
    pieces: list[str] = []
    for char in word:
        if pieces and not _is_han(char) and not _is_han(pieces[-1][-1]):
            pieces[-1] += char
        else:
            pieces.append(char)
    return pieces


def _may_break(before: str, after: str) -> bool:
    """Whether a line may break between two pieces without a space: beside a Han character, by its usual rules."""
    beside_han = _is_han(before[-1]) or _is_han(after[0])
    return beside_han and after[0] not in _NO_LINE_STARTS and before[-1] not in _NO_LINE_ENDS


def _splits(word: str) -> list[int]:
    """Places where a word may be hyphenated: before a consonant that stands between two vowels."""
    if len(word) < _LEAST_HYPHENATED or not word.isalpha():
        return []
    inner = range(3, len(word) - 2)
    vowel = [char.lower() in _VOWELS for char in word]
    return [i for i in inner if vowel[i - 1] and not vowel[i] and vowel[i + 1]]


def break_lines(
    tokens: Sequence[Token],
    width_pt: float,
    size_pt: float,
    *,
    first_indent_pt: float = 0,
    hyphenate: bool = False,
) -> list[SetLine]:
    """Greedy lines of at most `width_pt`; a token that is wider alone has a line of its own."""
    lines: list[SetLine] = []
    current: list[Token] = []
    used = 0.0
    units = _units(tokens)
    index = 0
    while index < len(units):
        unit = units[index]
        room = width_pt - (first_indent_pt if not lines else 0)
        wide = _unit_width(unit, size_pt, first=not current)
        if not current or used + wide <= room:
            current += unit
            used += wide
            index += 1
            continue
        if hyphenate and len(unit) == 1:
            head = _hyphenated(unit[0], room - used, size_pt)
            if head:
                current.append(replace(unit[0], text=unit[0].text[:head] + "-"))
                used += _unit_width(current[-1:], size_pt, first=False)
                units[index] = [replace(unit[0], text=unit[0].text[head:], starts=None)]
        lines.append(SetLine(tuple(current), used, size_pt, first_indent_pt if not lines else 0))
        current, used = [], 0.0
    if current:
        lines.append(SetLine(tuple(current), used, size_pt, first_indent_pt if not lines else 0, last=True))
    return lines


def _units(tokens: Sequence[Token]) -> list[list[Token]]:
    """Tokens that stay together on a line."""
    units: list[list[Token]] = []
    for token in tokens:
        if token.breakable or not units:
            units.append([token])
        else:
            units[-1].append(token)
    return units


def _unit_width(unit: Sequence[Token], size_pt: float, *, first: bool) -> float:
    width = sum(text_width(token.text, token.font, size_pt) for token in unit)
    width += sum(
        text_width(" ", t.font, size_pt) for i, t in enumerate(unit) if t.space and not (first and i == 0)
    )
    return width


def _hyphenated(token: Token, room_pt: float, size_pt: float) -> int | None:
    """How many characters of the word fit with a hyphen after them; None if it cannot be split there."""
    room_pt -= text_width(" ", token.font, size_pt)
    for split in reversed(_splits(token.text)):
        if text_width(token.text[:split] + "-", token.font, size_pt) <= room_pt:
            return split
    return None


class Sheet:
    """The page being drawn: a reportlab canvas in the frame of this project."""

    def __init__(self, canvas: Any, width_pt: float, height_pt: float) -> None:
        self.canvas = canvas
        self.width_pt = width_pt
        self.height_pt = height_pt

    def line(
        self,
        line: SetLine,
        x: float,
        top: float,
        width: float,
        *,
        align: Align = "left",
        colours: Mapping[str, str] | None = None,
    ) -> Box:
        """Set a line whose capitals begin at `top`; gives the box of its ink, ascent and descent included.

        `colours` are those of fonts that are not printed in black.
        """
        size = line.size_pt
        ascent, descent = extent(line)
        baseline = top + ascent * size
        slack = width - line.indent_pt - line.width_pt
        spaces = sum(token.space for token in line.tokens[1:])
        chars = sum(len(token.text) for token in line.tokens) + spaces
        x += line.indent_pt + (slack / 2 if align == "center" else 0)
        stretch = slack if align == "justify" and not line.last and 0 < slack < 0.3 * width else 0.0
        text = self.canvas.beginText(x, self.height_pt - baseline)
        by_word = not any(_is_han(token.text[0]) for token in line.tokens) and _has_word_space(line.tokens)
        if stretch and by_word and spaces:
            text.setWordSpace(stretch / spaces)
        elif stretch and chars > 1:
            text.setCharSpace(stretch / (chars - 1))
        for run, font in _runs(line.tokens):
            text.setFont(font, size)
            text.setFillColor((colours or {}).get(font, "black"))
            text.textOut(run)
        text.setWordSpace(0)  # both would last beyond this text object
        text.setCharSpace(0)
        self.canvas.drawText(text)
        return (x, top, x + line.width_pt + stretch, baseline + descent * size)

    def words(
        self,
        text: str,
        font: str,
        size: float,
        x: float,
        top: float,
        *,
        anchor: str = "left",
        colour: str = "black",
    ) -> Box:
        """Set a few words on one line, their capitals beginning at `top`; anchor left, center or right."""
        ascent, descent = (HAN_ASCENT, HAN_DESCENT) if any(map(_is_han, text)) else (ASCENT, DESCENT)
        wide = text_width(text, font, size)
        x -= {"left": 0.0, "center": wide / 2, "right": wide}[anchor]
        self.canvas.setFillColor(colour)
        self.canvas.setFont(font, size)
        self.canvas.drawString(x, self.height_pt - top - ascent * size, text)
        return (x, top, x + wide, top + (ascent + descent) * size)

    def image(self, pixels: NDArray[np.uint8], box: Box, *, quality: int = 90) -> None:
        from reportlab.lib.utils import ImageReader

        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=quality, subsampling=0)
        data.seek(0)
        x1, y1, x2, y2 = box
        self.canvas.drawImage(ImageReader(data), x1, self.height_pt - y2, x2 - x1, y2 - y1)

    def rect(
        self, box: Box, *, fill: Any = None, stroke: Any = None, width: float = 0.6, radius: float = 0
    ) -> None:
        x1, y1, x2, y2 = box
        if fill is not None:
            self.canvas.setFillColor(fill)
        if stroke is not None:
            self.canvas.setStrokeColor(stroke)
            self.canvas.setLineWidth(width)
        place = (x1, self.height_pt - y2, x2 - x1, y2 - y1)
        paint = {"fill": int(fill is not None), "stroke": int(stroke is not None)}
        if radius:
            self.canvas.roundRect(*place, radius, **paint)
        else:
            self.canvas.rect(*place, **paint)

    def rule(
        self, x1: float, y1: float, x2: float, y2: float, *, width: float = 0.5, colour: Any = "black"
    ) -> None:
        self.canvas.setStrokeColor(colour)
        self.canvas.setLineWidth(width)
        self.canvas.line(x1, self.height_pt - y1, x2, self.height_pt - y2)


def extent(line: SetLine) -> tuple[float, float]:
    """Ascent and descent of a line over its size."""
    han = any(_is_han(char) for token in line.tokens for char in token.text)
    return (HAN_ASCENT, HAN_DESCENT) if han else (ASCENT, DESCENT)


def _has_word_space(tokens: Sequence[Token]) -> bool:
    """Whether PDF's word spacing works: it acts on single-byte spaces, which the base fonts have."""
    return all(token.font.startswith(("Times", "Helvetica")) for token in tokens)


def _runs(tokens: Sequence[Token]) -> list[tuple[str, str]]:
    """Text and font of stretches that share a font."""
    runs: list[tuple[str, str]] = []
    for number, token in enumerate(tokens):
        text = " " + token.text if token.space and number else token.text
        if runs and runs[-1][1] == token.font:
            runs[-1] = (runs[-1][0] + text, token.font)
        else:
            runs.append((text, token.font))
    return runs
