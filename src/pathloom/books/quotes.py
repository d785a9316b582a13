"""Whether pages hold a sentence, up to what OCR and a model's copying change."""

import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MIN_SIMILARITY = 0.8
"""1 - edits / length, from which on a sentence counts as quoted; our own choice."""


class Quoted:
    """The texts of some pages as one, in which sentences are looked up. Only letters and digits count, in any case."""

    def __init__(self, texts: Iterable[tuple[int, str]]) -> None:
        """`texts` are (page, text) in reading order; a sentence may go on over a page break."""
        folded = [(page, _fold(text)) for page, text in texts]
        self._text = "".join(text for _, text in folded)
        self._codes = _codes(self._text)
        self._pages = [page for page, text in folded for _ in text]

    def page_of(self, sentence: str) -> int | None:
        """The page on which the sentence begins; None where nothing is similar enough or nothing can be compared."""
        wanted = _fold(sentence)
        if not wanted or not self._text:
            return None
        exact = self._text.find(wanted)
        if exact >= 0:
            return self._pages[exact]
        edits, end = self._closest(wanted)
        if edits > (1 - MIN_SIMILARITY) * len(wanted) + 1e-9:
            return None
        return self._pages[min(max(0, end - len(wanted)), len(self._pages) - 1)]

    def _closest(self, wanted: str) -> tuple[int, int]:
        """(edits to the closest part of the text, where that ends): Sellers 1980, one row a sign of `wanted`."""
        columns = np.arange(len(self._codes) + 1)
        row = np.zeros(len(self._codes) + 1, dtype=np.int64)  # a part may begin anywhere
        for code in _codes(wanted):
            changed = row[:-1] + (self._codes != code)
            row = np.concatenate([row[:1] + 1, np.minimum(row[1:] + 1, changed)])
            row = np.minimum.accumulate(row - columns) + columns  # signs of the text that are passed over
        end = int(row.argmin())
        return int(row[end]), end


def _fold(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
