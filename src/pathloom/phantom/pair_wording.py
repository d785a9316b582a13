"""Captions of one phantom by five writers: the corpora of the small twin of PathoCLIP, and two held-out wordings.

Patho-R1 trains on PathGen-1.6M first and then on a mixture with Quilt-1M, PathCap and textbooks (arXiv
2505.11404, section 3.2): many patches described by one language model, then the talk of teaching videos and the legends
of figures. Three writers stand for these three; how often each names a fact, and the share of talk that is about
nothing, are our own choice.
The words of all of them are in pair_words.yaml and are made up: no sentence of a published corpus is used.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import yaml

if TYPE_CHECKING:
    from pathloom.phantom.cell import Cell
    from pathloom.phantom.tissue import Tissue

Writer = Literal["patch", "spoken", "legend", "reworded", "unseen"]
Facts = Mapping[str, str]
"""What is true of a picture and can be said of it: a fact of pair_words.yaml -> its value there."""

WRITERS: tuple[Writer, ...] = get_args(Writer)
TRAINING_WRITERS: tuple[Writer, ...] = ("patch", "spoken", "legend")
HELD_OUT_WRITERS: tuple[Writer, ...] = ("reworded", "unseen")

_NUMBERS = ("none", "one", "two")
_NAMES_DIAGNOSIS: Mapping[Writer, float] = {
    "patch": 0.4,
    "spoken": 0.5,
    "legend": 0.8,
    "reworded": 0.4,
    "unseen": 0.5,
}
_NAMES_FACT: Mapping[Writer, float] = {
    "patch": 0.6,
    "spoken": 0.33,
    "legend": 0.4,
    "reworded": 0.45,
    "unseen": 0.38,
}
"""Few enough for the 64 tokens of clip-nano."""
_TIMES = "\N{MULTIPLICATION SIGN}"
_DIAGNOSES = ("diagnosis", "bethesda")
_FIRST = ("architecture", "nuclear_size")
"""A patch description always says what it shows; so do the held-out ones."""
_SHARE_IDLE_TALK = 0.05
"""Of spoken captions: nothing in them is about the picture."""
_SHARE_ASIDE = 0.1
"""Of the others: a remark that is not about the picture is added."""
_SHARE_MISHEARD = 0.15
"""Of the words of `misheard`, which a speech recogniser gets wrong."""

_Table = Mapping[str, Mapping[str, Sequence[str]]]
_FILE = Path(__file__).with_name("pair_words.yaml")


@lru_cache(maxsize=1)
def _loaded() -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return loaded


def _phrases(writer: Writer) -> _Table:
    """Fact -> value -> phrases."""
    table: _Table = _loaded()[writer]
    return table


def _talk(part: str) -> Sequence[str]:
    """What is said around the facts: openings, joints, asides."""
    said: Sequence[str] = _loaded()["talk"][part]
    return said


def tissue_facts(tissue: "Tissue") -> Facts:
    """Everything but the organ can be seen."""
    facts = {
        "architecture": tissue.diagnosis,
        "cellularity": tissue.cellularity,
        "mitoses": _NUMBERS[tissue.num_mitoses] if tissue.num_mitoses < len(_NUMBERS) else "several",
        "stain": tissue.stain,
        "organ": tissue.organ,
        "diagnosis": tissue.diagnosis,
    }
    if tissue.diagnosis == "squamous cell carcinoma":
        facts["extra"] = "pearl" if "pearl" in tissue.features else "no pearl"
    elif "debris" in tissue.features:
        facts["extra"] = "debris"
    if tissue.structure_name and 1 <= len(tissue.structure_boxes_px) <= 3:
        facts["count"] = ("one", "two", "three")[len(tissue.structure_boxes_px) - 1]
        facts["structure"] = tissue.structure_name
    if tissue.chromogen:
        facts["chromogen"] = tissue.chromogen
    return facts


def cell_facts(cell: "Cell") -> Facts:
    """The attributes as drawn, the background and the class."""
    said = (
        "nuclear_size",
        "nc_ratio",
        "chromatin",
        "nuclear_membrane",
        "nucleoli",
        "cytoplasm",
        "arrangement",
    )
    attributes = {key: cell.attributes[key] for key in said}
    return {**attributes, "background": cell.background, "bethesda": cell.bethesda}


def phrases(writer: Writer, fact: str, value: str) -> Sequence[str]:
    """The writer's ways to say one fact, with {structure} and {structures} still open."""
    table = _phrases(writer)[fact]
    return [phrase.replace("{value}", value) for phrase in table.get(value, table.get("_", ()))]


def write_caption(writer: Writer, facts: Facts, rng: np.random.Generator) -> str:
    """One caption by that writer: some of the facts, in the writer's order and form."""
    return _WRITE[writer](_said(writer, facts, rng), rng)


Said = Mapping[str, str]
"""Fact -> the phrase chosen for it, in the order of the facts."""


def _said(writer: Writer, facts: Facts, rng: np.random.Generator) -> Said:
    """At least two facts, each by its share."""
    named = [name for name in _phrases(writer) if name in facts]
    kept = [
        name
        for name in named
        if rng.random() < (_NAMES_DIAGNOSIS if name in _DIAGNOSES else _NAMES_FACT)[writer]
        or (name in _FIRST and writer not in ("spoken", "legend"))
    ]
    if len(kept) < 2:
        kept = [named[i] for i in sorted(rng.permutation(len(named))[:2])]
    structure = facts.get("structure", "")
    return {
        name: _pick(phrases(writer, name, facts[name]), rng)
        .replace("{structures}", f"{structure}s")
        .replace("{structure}", structure)
        for name in kept
    }


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _patch(said: Said, rng: np.random.Generator) -> str:
    """Whole sentences in one order, as a language model writes them."""
    return " ".join(f"{sentence}." for sentence in said.values())


def _spoken(said: Said, rng: np.random.Generator) -> str:
    """Talk without stops: an opening, facts in any order, words that a recogniser misheard."""
    if rng.random() < _SHARE_IDLE_TALK:
        return _pick(_talk("asides"), rng)
    text = _pick(_talk("openings"), rng)
    clauses = list(said.values())
    for index in rng.permutation(len(clauses)):
        text += (_pick(_talk("joints"), rng) if text else "") + clauses[index]
    if rng.random() < _SHARE_ASIDE:
        text += _pick(_talk("joints"), rng) + _pick(_talk("asides"), rng)
    for right, wrong in _loaded()["talk"]["misheard"].items():
        if rng.random() < _SHARE_MISHEARD:
            text = text.replace(right, wrong)
    return text


def _legend(said: Said, rng: np.random.Generator) -> str:
    """A letter, the diagnosis with the organ, findings, stain and magnification, as far as they are said."""
    text = {**said}
    head = ", ".join(text.pop(name) for name in ("diagnosis", "bethesda", "organ") if name in text)
    stain = text.pop("stain", "")
    findings = list(text.values())
    body = ", ".join(findings[index] for index in rng.permutation(len(findings)))
    scale = f"original magnification {_TIMES}{int(rng.choice((100, 200, 400)))}" if rng.random() < 0.4 else ""
    parts = [head, body, ", ".join(part for part in (stain, scale) if part)]
    letter = f"({'ABCDEF'[int(rng.integers(6))]}) " if rng.random() < 0.4 else ""
    return letter + " ".join(f"{part[0].upper()}{part[1:]}." for part in parts if part)


Form = tuple[str, str, str, str]
"""What stands before the phrases, between them, before the last, and after it."""
_REWORDED: tuple[Form, ...] = (
    ("With ", ", ", " and ", ""),
    ("Many features: ", "; ", "; ", ""),
    ("", ". ", ". In this image, ", " is present"),
)
_UNSEEN: tuple[Form, ...] = (
    ("What we have in this field: ", "; ", "; ", ""),
    ("Regular features are ", ", ", ", with ", " on top"),
    ("", ", ", " here, and ", " again"),
    ("Look at ", " and at ", ", not just ", ""),
)


def _noted(forms: Sequence[Form]) -> Callable[[Said, np.random.Generator], str]:
    """Noun phrases in any order within one of the forms."""

    def write(said: Said, rng: np.random.Generator) -> str:
        phrases = list(said.values())
        before, between, before_last, after = forms[int(rng.integers(len(forms)))]
        *others, last = [phrases[index] for index in rng.permutation(len(phrases))]
        text = before + between.join(others) + before_last + last + after
        return text[0].upper() + text[1:]

    return write


_WRITE: Mapping[Writer, Callable[[Said, np.random.Generator], str]] = {
    "patch": _patch,
    "spoken": _spoken,
    "legend": _legend,
    "reworded": _noted(_REWORDED),
    "unseen": _noted(_UNSEEN),
}
