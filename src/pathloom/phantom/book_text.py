"""The words of phantom books: plain pathology prose from templates, captions with parts, sentences naming figures.

All of it is made up (book_words.yaml); a sentence means little and looks like one from a textbook.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import yaml

Language = Literal["en", "zh"]
PartStyle = Literal["paren", "comma", "colon", "dot", "sides"]
Role = Literal["label", "shared", "gap", "mark", "part"]
Target = tuple[str, tuple[str, ...]]
"""A figure that a sentence can name: its canonical number and the canonical labels of its panels."""

SIDES = (("Left", "Right"), ("Top", "Bottom"))
"""Names of two panels without letters, side by side or one above the other."""
DASH = "\N{EN DASH}"
_SLOTS = ("organ", "lesion", "cells", "trait", "place", "stain", "subject", "verb")
_SHARE_OUTSIDE = 0.03
"""Share of plain sentences that name a figure of another book."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a caption: its label, shared description, the mark of a part ("(A) "), a part, or a separator."""

    text: str
    role: Role
    panels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence of body text and the figures that it names, each with the panels named."""

    text: str
    mentions: tuple[Target, ...] = ()


@dataclass(frozen=True)
class RefStyle:
    """How a book names its figures: "Fig. 3-2A", "Figure 3.2, A", "Fig 3b"; `apart` stands before letters."""

    short: str = "Fig. "
    shorts: str = "Figs. "
    long: str = "Figure "
    longs: str = "Figures "
    separator: str = "-"
    lower: bool = False
    apart: str = ""


@lru_cache(maxsize=1)
def _lists() -> Mapping[Language, Mapping[str, list[str]]]:
    lists: Mapping[Language, Mapping[str, list[str]]] = yaml.safe_load(
        Path(__file__).with_name("book_words.yaml").read_text(encoding="utf-8")
    )
    return lists


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


class Prose:
    """Everything that is written in one book, drawn from one generator."""

    def __init__(self, rng: np.random.Generator, language: Language) -> None:
        self.rng = rng
        self.language = language
        self._words = _lists()[language]

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def one(self, name: str, **more: str) -> str:
        """One entry of a list of book_words.yaml with its slots filled; slots in capitals begin in upper case."""
        words = {slot: self.pick(self._words[slot]) for slot in _SLOTS}
        words["name"] = self.pick(self._words["surnames"])
        words |= {
            f"{slot}2": self.pick(self._words[slot]) for slot in ("lesion", "trait", "subject", "cells")
        }
        words = {**words, **{capital(slot): capital(word) for slot, word in words.items()}}
        table = f"{int(self.rng.integers(1, 9))}-{int(self.rng.integers(1, 6))}"
        elsewhere = f"{int(self.rng.integers(61, 90))}-{int(self.rng.integers(1, 20))}"
        numbers = {"n": str(int(self.rng.integers(4, 60))), "m": str(int(self.rng.integers(1, 9)))}
        numbers["yy"] = str(int(self.rng.integers(50, 99)))
        template = self.pick(self._words[name])
        return template.format(
            **{**words, **numbers, "t": table, "far": elsewhere, "O": words["Organ"], **more}
        )

    def plain_sentence(self) -> Sentence:
        """A sentence that names no figure of this book."""
        return Sentence(self.one("outside" if self.rng.random() < _SHARE_OUTSIDE else "sentences"))

    def bibliography_entry(self, number: int) -> str:
        initials = "ABCDEFGHK"
        count = int(self.rng.integers(1, 4))
        names = ", ".join(f"{self.pick(self._words['surnames'])} {self.pick(initials)}" for _ in range(count))
        year, volume, page = (int(self.rng.integers(*span)) for span in ((1971, 2024), (2, 90), (1, 900)))
        title = self.one("bibliography")
        return f"{number}. {names}. {title} J Phantom Pathol. {year};{volume}:{page}-{page + 9}."

    def panel_words(self, drawn: Sequence[str]) -> list[str]:
        """What the caption says of each panel: what was drawn, or in Chinese a finding of the list."""
        if self.language == "en":
            return list(drawn)
        findings = self._words["findings"]
        return [findings[int(i)] for i in self.rng.permutation(len(findings))[: len(drawn)]]

    # -- captions

    def _groups(self, count: int) -> list[tuple[int, ...]]:
        """Panels described one by one, or now and then two or three neighbours together."""
        groups: list[tuple[int, ...]] = []
        index = 0
        together = count >= 3 and self.rng.random() < 0.4
        while index < count:
            size = int(self.rng.choice((1, 2, 3), p=(0.6, 0.28, 0.12))) if together else 1
            groups.append(tuple(range(index, min(index + size, count))))
            index += size
        return groups

    def caption_parts(self, style: PartStyle, labels: Sequence[str], words: Sequence[str]) -> list[Segment]:
        """The parts of a caption; `labels` as the caption prints them (without brackets), `words` one a panel."""
        groups = [(i,) for i in range(len(labels))] if style == "sides" else self._groups(len(labels))
        stop, semicolon = ("。", "；") if self.language == "zh" else (".", "; ")  # noqa: RUF001
        sentences = self.language == "en" and style in ("paren", "dot", "sides")
        segments: list[Segment] = []
        for left, group in zip(range(len(groups) - 1, -1, -1), groups, strict=True):
            text = words[group[0]] + (self.one("several_fields") if len(group) > 1 else "")
            segments.append(Segment(_part_mark(style, labels, group, self.language), "mark", group))
            ends = sentences or not left
            segments.append(
                Segment((capital(text) if sentences else text) + (stop if ends else ""), "part", group)
            )
            if left and sentences:
                segments.append(Segment(" ", "gap"))
            elif left:
                also = left == 1 and style == "comma" and self.rng.random() < 0.3
                segments.append(Segment("; and " if also else semicolon, "gap"))
        return segments

    # -- sentences that name figures

    def _letters(self, labels: Sequence[str], style: RefStyle) -> tuple[str, tuple[str, ...]]:
        """Some of a figure's letters as a sentence names them ("A", "A, B", "A to C"), and their canonical labels."""
        count = int(self.rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15)))
        start = int(self.rng.integers(len(labels)))
        named = tuple(labels[start : start + count])
        shown = [label.lower() if style.lower else label for label in named]
        if len(named) == 3:
            return f"{shown[0]}{DASH}{shown[-1]}", named
        if self.language == "zh":
            return self.pick(("、", ",")).join(shown), named
        return self.pick((", ", " and ") if style.apart else (", ", ",")).join(shown), named

    def _named(self, word: str, target: Target, style: RefStyle) -> tuple[str, Target]:
        number, labels = target
        text = word + number.replace("-", style.separator)
        if not labels or self.rng.random() < 0.4:
            return text, (number, ())
        if labels[0] in ("LEFT", "TOP"):
            if word != style.short:  # a side is named in brackets only
                return text, (number, ())
            side = self.pick(labels)
            return f"{text}, {side.lower()}", (number, (side,))
        letters, named = self._letters(labels, style)
        return f"{text}{style.apart}{letters}", (number, named)

    def referring_sentence(self, targets: Sequence[Target], style: RefStyle) -> Sentence:
        """A sentence that names one figure, two, or three or more in a row."""
        at_start = self.rng.random() < 0.3
        short = not at_start and self.rng.random() < 0.65
        word, words = (style.short, style.shorts) if short else (style.long, style.longs)
        if len(targets) == 1:
            text, mention = self._named(word, targets[0], style)
            mentions: tuple[Target, ...] = (mention,)
        elif len(targets) > 2:
            first, last = (targets[at][0].replace("-", style.separator) for at in (0, -1))
            text = f"{words}{first}{'至' + word if self.language == 'zh' else ' to '}{last}"
            mentions = tuple((number, ()) for number, _ in targets)
        else:
            joint = self.pick(("、", "和")) if self.language == "zh" else " and "
            repeated = word if self.language == "zh" else ""
            lettered = self.rng.random() < 0.3
            named = [self._named("", target if lettered else (target[0], ()), style) for target in targets]
            text = words + (joint + repeated).join(part for part, _ in named)
            mentions = tuple(mention for _, mention in named)
        verbs = {verb: verb + ("s" if len(targets) == 1 else "") for verb in ("show", "give", "illustrate")}
        kind = "referring_start" if at_start else "referring_short" if short else "referring_long"
        return Sentence(self.one(kind, ref=text, see=self.one("see") if short else "", **verbs), mentions)


def _part_mark(style: PartStyle, labels: Sequence[str], group: tuple[int, ...], language: Language) -> str:
    run = [labels[i] for i in group]
    if len(run) > 2:
        names = f"{run[0]}{DASH}{run[-1]}"
    elif style == "colon":
        names = DASH.join(run)
    else:
        names = (" and " if style == "comma" else "、" if language == "zh" else ", ").join(run)
    if language == "zh":
        return {"paren": f"({names})", "colon": f"{names}:"}.get(style, f"{names}.")
    return {"paren": f"({names}) ", "comma": f"{names}, ", "dot": f"{names}. "}.get(style, f"{names}: ")
