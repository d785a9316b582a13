"""The labels of the data engine, and the words by which a caption tells them (words.yaml).

Patho-R1 names five sub-fields and shows ten; the other five are our choice (docs/decisions/0010): what else stands in
pathology books, told apart because none of it may be taught as one of the five.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files

import yaml

TAUGHT = ("histopathology", "gross", "cytology", "ihc", "fish")
"""The five sub-fields that Patho-R1 keeps (figure 2 of the paper): reasoning is written for these only."""

SUBFIELDS = (
    *TAUGHT,
    "special stain",
    "immunofluorescence",
    "electron microscopy",
    "clinical image",
    "drawing",
)


_TABLE: Mapping[str, Mapping[str, list[str]]] = yaml.safe_load(
    files("pathloom.curate").joinpath("words.yaml").read_text(encoding="utf-8")
)

ORGANS: Mapping[str, str] = {name: "|".join(words) for name, words in _TABLE["organs"].items()}
"""Organ system -> the regular expression of the words that tell it."""

_ORGAN_PATTERNS = {name: re.compile(words, re.IGNORECASE) for name, words in ORGANS.items()}
_SUBFIELD_PATTERNS = {
    name: re.compile("|".join(words), re.IGNORECASE) for name, words in _TABLE["subfields"].items()
}


def words_hash() -> str:
    """SHA-256 of words.yaml: other words, other labels."""
    return hashlib.sha256(json.dumps(_TABLE, sort_keys=True).encode()).hexdigest()


def subfield_of(text: str) -> str | None:
    """The sub-field that a caption tells, or None."""
    return next((name for name, pattern in _SUBFIELD_PATTERNS.items() if pattern.search(text)), None)


def organ_of(text: str) -> str | None:
    """The organ system that a caption tells, or None."""
    counts = {name: len(pattern.findall(text)) for name, pattern in _ORGAN_PATTERNS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None
