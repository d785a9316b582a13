# ruff: noqa: RUF001, RUF002 (the signs that printers use are the matter here)
"""Signs of captions made alike without moving them, and names of panels: letters, numbers and places."""

import re

_CENTRE = r"cent(?:er|re)|middle"
_TWO_WORDS = rf"(?:upper|lower|top|bottom|middle)[\s-]*(?:left|right|{_CENTRE})"
POSITION = rf"\b(?:{_TWO_WORDS}|left|right|{_CENTRE}|upper|lower|top|bottom)\b"
"""A place in a figure, as words."""

_SAME_LENGTH: dict[int, int | str] = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_SAME_LENGTH |= {ord(sign): "-" for sign in "‐‑−﹣\u00ad\ufffe"}
_SAME_LENGTH |= {ord(sign): "–" for sign in "‒—―─"}
_SAME_LENGTH |= {ord(sign): "~" for sign in "〜∼"}
_SAME_LENGTH |= {ord(sign): " " for sign in "\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\n\t\r"}
_SAME_LENGTH |= {ord("〔"): "(", ord("〕"): ")"}

_PLACES = {
    "upper": "TOP",
    "lower": "BOTTOM",
    "center": "CENTRE",
    "middle": "CENTRE",
    "左": "LEFT",
    "右": "RIGHT",
    "上": "TOP",
    "下": "BOTTOM",
    "中": "CENTRE",
}
_ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_CIRCLED = "①②③④⑤⑥⑦⑧⑨⑩⑪⑫"


def fold(text: str) -> str:
    """The text with fullwidth signs, dashes and spaces made plain, sign for sign: spans hold in both.

    Hyphens and minus become "-", longer dashes "–", every kind of white space one blank.
    """
    return text.translate(_SAME_LENGTH)


def letter_run(first: str, last: str) -> list[str]:
    """ "A" to "C" as A, B, C; just the two where they do not rise."""
    if len(first) == len(last) == 1 and first.isalpha() and first < last:
        return [chr(code) for code in range(ord(first), ord(last) + 1)]
    return [first, last] if first != last else [first]


def position(words: str) -> str:
    """The canonical name of a place: "upper left" and 左上 are "TOP LEFT", "middle" is "CENTRE"."""
    if words[0] in "左右上下中":
        names = sorted(
            (_PLACES[sign] for sign in words), key=("TOP", "CENTRE", "BOTTOM", "LEFT", "RIGHT").index
        )
        return " ".join(names)
    return " ".join(_PLACES.get(word, word.upper()) for word in re.split(r"[\s-]+", words.casefold()))


def order(label: str) -> tuple[str, int] | None:
    """The alphabet that a label belongs to and its place in it, from 1: ("letter", 3) for "C"; None for places.

    "I", "V" and "X" are letters here: `captions` tells them from numerals by the company they keep.
    """
    if label in _CIRCLED:
        return "circled", _CIRCLED.index(label) + 1
    if label.isdigit():
        return "digit", int(label)
    if len(label) == 1 and "A" <= label <= "Z":
        return "letter", ord(label) - ord("A") + 1
    return ("roman", _ROMANS.index(label) + 1) if label in _ROMANS else None


def roman(label: str) -> int | None:
    """The value of a small roman numeral, in any case."""
    return _ROMANS.index(label.upper()) + 1 if label.upper() in _ROMANS else None
