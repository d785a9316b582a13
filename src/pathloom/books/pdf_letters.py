"""From the character codes of a PDF's text layer to text that can be searched and quoted."""

import ctypes
import re
import unicodedata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.books.page import Line

_HYPHENS = (0x02, 0xFFFE, 0xAD)  # pdfium's two marks for a hyphen at a line's end, and the soft hyphen
BLANKS = np.array([0, 9, 10, 13, 32, 0xA0, *range(0x2000, 0x200C), 0x202F, 0x205F, 0x3000, 0xFEFF])
LINE_BREAKS = (10, 13)
NOTHING = "\0"
"""Stands for a character that says nothing, until `clean` takes it out."""
_JOINER = "\u2060"
_UNSEEN = re.compile(f"[{NOTHING}{_JOINER}\u200c-\u200f\ufe00-\ufe0f]")
# Bitmap fonts of TeX come without a map. Their codes are ASCII but for ligatures, at these places of its two encodings,
# OT1 and T1: ff, fi, (fl is the code of a line break, below), ffi, ffl.
_TEX_LIGATURES = {0x0B: 0xFB00, 0x0C: 0xFB01, 0x0E: 0xFB03, 0x0F: 0xFB04}
_TEX_LIGATURES |= {0x1B + i: 0xFB00 + i for i in range(5)}
_TEX_FL = (0x0D, 0xFB02)
_COMMON_WORDS = frozenset(
    ("the", "of", "and", "in", "to", "is", "for", "with", "by", "on", "as", "are", "that")
)
_MIN_COMMON_SHARE = 0.04  # of words; running English has 0.25, a title page 0.05, a wrong alphabet none
# Ligatures, full-width letters and digits, radicals that stand for whole characters, letters of mathematics.
# Elsewhere NFKC does harm: it makes "2" of a superscript and a Latin comma of a Chinese one.
_FOLDED = re.compile(
    "[\ufb00-\ufb06\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\u2e80-\u2fdf\U0001d400-\U0001d7ff]"
)


def read_codes(text_page: Any) -> NDArray[np.int64]:
    """[n] code points of a text page, pdfium's own blanks and line breaks included."""
    import pypdfium2.raw as pdfium

    count = max(0, pdfium.FPDFText_CountChars(text_page))
    units = np.zeros(count + 1, np.uint16)
    pointer = units.ctypes.data_as(ctypes.POINTER(ctypes.c_ushort))
    # The text has no entry for a character without meaning, and two for one beyond 16 bits: then one by one.
    if pdfium.FPDFText_GetText(text_page, 0, count, pointer) == count + 1:
        codes = units[:count].astype(np.int64)
    else:
        codes = np.array([pdfium.FPDFText_GetUnicode(text_page, i) for i in range(count)], np.int64)
    lone = (codes == _TEX_FL[0]) & (np.append(codes[1:], 0) != LINE_BREAKS[0])  # pdfium's own has a line feed
    return np.where(lone, _TEX_FL[1], codes)


def letters(codes: NDArray[np.int64]) -> str:
    """One character for each code: hyphens as "-", and NOTHING for controls, private use and replacements."""
    codes = np.where(np.isin(codes, _HYPHENS), ord("-"), codes)
    # Beyond 16 bits pdfium gives two codes for one character: it takes the first's place, and nothing the second's.
    high = np.flatnonzero((codes[:-1] & ~0x3FF == 0xD800) & (codes[1:] & ~0x3FF == 0xDC00))
    codes[high] = 0x10000 + ((codes[high] & 0x3FF) << 10) + (codes[high + 1] & 0x3FF)
    codes[high + 1] = ord(_JOINER)
    for code in np.intersect1d(codes, list(_TEX_LIGATURES)):
        codes = np.where(codes == code, _TEX_LIGATURES[int(code)], codes)
    nothing = (
        (codes < 0x20)
        | ((codes >= 0x7F) & (codes < 0xA0))
        | ((codes >= 0xD800) & (codes < 0xF900))
        | (codes >= 0xF0000)
        | np.isin(codes, (0xFFFD, 0xFFFF))
    )
    return np.where(nothing, ord(NOTHING), codes).astype("<u4").tobytes().decode("utf-32-le")


def reads_as_english(lines: tuple[Line, ...]) -> bool:
    """Whether text of unmapped characters is right all the same, because its codes happen to be ASCII."""
    words = [word for line in lines for word in re.findall("[a-z]+", line.text.lower())]
    return sum(word in _COMMON_WORDS for word in words) > _MIN_COMMON_SHARE * len(words)


def clean(text: str) -> str:
    """Without characters that say nothing; ligatures spelt out, accents joined to their letters."""
    text = _UNSEEN.sub("", text)
    text = _FOLDED.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return unicodedata.normalize("NFC", text)
