"""Prompt files of zero-shot classification: the names of each class and the sentences they stand in. No torch here.

The format is CONCH's (mahmoodlab/CONCH, conch/downstream/zeroshot_path.py and its prompts/*.json), which Patho-R1's
script reads too:

    {"0": {"classnames": {CLASS: [NAME, NAME, ...], ...}, "templates": ["a photograph of CLASSNAME.", ...]}}

CLASS is the name of a folder of pictures, or whatever a Sample answers. The order of the classes is the file's. The
files that pathloom ships (SHIPPED) are in its own words; only names that the makers of a set gave its classes recur.
"""

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pathloom.stage import UserError
from pathloom.tasks.parsing import normalise

PLACEHOLDER = "CLASSNAME"
SHIPPED = Path(__file__).parent / "zero_shot_prompts"
_SHAPE = '{"0": {"classnames": {CLASS: [NAME, ...]}, "templates": ["... CLASSNAME ..."]}}'


@dataclass(frozen=True)
class ClassPrompts:
    """A checked prompt file. `names` maps each class, in the file's order, to what it is called in prompts."""

    path: Path
    names: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.names)

    def texts(self, label: str) -> list[str]:
        """Every name of the class in every template, names outermost."""
        return [
            template.replace(PLACEHOLDER, name) for name in self.names[label] for template in self.templates
        ]

    def class_of(self, answer: str) -> str | None:
        """The class that an answer means: its own name in the file, or one of its names in prompts; else None.

        Letter case, spaces and a closing full stop do not count. One rule for all Samples: a folder of tiles answers
        with the folder's name, or with words of its `class_names`, which then stand among the names.
        """
        return self._meant.get(normalise(answer))

    @cached_property
    def _meant(self) -> dict[str, str]:
        return {normalise(text): label for label, names in self.names.items() for text in (label, *names)}


def prompts_path(name: str) -> Path:
    """The file of `name`: a shipped one's name, or a path, which ends with .json. Raises UserError for no such name."""
    if name.endswith(".json"):
        return Path(name)
    path = SHIPPED / f"{name}.json"
    if not path.is_file():
        raise UserError(
            f"no prompts {name!r} are shipped{nearest(name, shipped_prompts())}; `pathloom list prompts` shows them, "
            "and a file of your own is given by its path, which ends with .json"
        )
    return path


def shipped_prompts() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.json")))


def read_prompts(name: str) -> ClassPrompts:
    """Read and check a prompt file, shipped or by its path. Raises UserError that names file, key and cure."""
    path = prompts_path(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; `pathloom list prompts` shows the shipped files"
        ) from error
    except ValueError as error:  # what JSON and UTF-8 raise
        raise UserError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(data, dict) or list(data) != ["0"] or not isinstance(data["0"], dict):
        raise UserError(f'{path}: one set of prompts under the key "0" is needed: {_SHAPE}')
    if sorted(data["0"]) != ["classnames", "templates"]:
        raise UserError(f'{path}: "0" holds {", ".join(data["0"]) or "nothing"}; it must be {_SHAPE}')
    names = _checked_names(path, data["0"]["classnames"])
    return ClassPrompts(path, names, _checked_templates(path, data["0"]["templates"]))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for key, times in Counter(key for key, _ in pairs).items():
        if times > 1:
            raise ValueError(f"the key {key!r} stands {times} times; JSON would keep the last only")
    return dict(pairs)


def _checked_names(path: Path, given: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise UserError(f"{path}: classnames: a mapping of classes to lists of names is needed: {_SHAPE}")
    if len(given) < 2:
        raise UserError(
            f"{path}: classnames: {len(given)} class; at least two are needed to tell pictures apart"
        )
    owner: dict[str, str] = {}
    for label, names in given.items():
        if not label.strip() or not _is_texts(names):
            raise UserError(f"{path}: classnames.{label}: a list of names that are not empty is needed")
        if repeated := _repeated(names):
            raise UserError(f"{path}: classnames.{label}: {repeated!r} stands twice; leave it once")
        for text in (label, *names):
            other = owner.setdefault(normalise(text), label)
            if other != label:
                raise UserError(
                    f"{path}: {text!r} stands under the classes {other} and {label}; a name means one class only"
                )
    return {label: tuple(names) for label, names in given.items()}


def _checked_templates(path: Path, given: Any) -> tuple[str, ...]:
    if not _is_texts(given):
        raise UserError(f"{path}: templates: a list of sentences with the word {PLACEHOLDER} is needed")
    for place, template in enumerate(given):
        if PLACEHOLDER not in template:
            raise UserError(
                f"{path}: templates[{place}]: {template!r} lacks the word {PLACEHOLDER}, where a class's name goes"
            )
    if repeated := _repeated(given):
        raise UserError(f"{path}: templates: {repeated!r} stands twice; leave it once")
    return tuple(given)


def _is_texts(given: Any) -> bool:
    return (
        isinstance(given, list) and bool(given) and all(isinstance(one, str) and one.strip() for one in given)
    )


def _repeated(texts: Iterable[str]) -> str | None:
    """A text that stands twice would weigh double in the average."""
    return next((text for text, times in Counter(texts).items() if times > 1), None)


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'lung_aca'?)`, or "" where nothing is like it."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
