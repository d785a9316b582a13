"""What a Source is: a typed entry, the units it can be read in, and a pure reader of one unit.

A unit is the smallest thing that is read or fails on its own (a picture, a page, a slide). Splits are decided in
`plan`, by group, because only there all groups are known.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pathloom.schema import FOLD_PREFIX, Drop, Sample
from pathloom.stage import StageConfig, UserError


class IngestConfig(StageConfig):
    """Common keys of every source."""

    kind: Literal["ingest"]
    source: str
    seed: int = 0

    def __getstate__(self) -> dict[Any, Any]:
        """Without what is cached: the plan may be large, and readers in other processes get their units one by one."""
        state = super().__getstate__()
        kept = {name: value for name, value in state["__dict__"].items() if name in type(self).model_fields}
        return {**state, "__dict__": kept}

    def plan(self) -> Sequence[Any]:
        """The units to read, each a plain picklable value, in a fixed order."""
        raise UserError(f"{self.name}: source {self.source} cannot be read")

    def read(self, unit: Any) -> list[Sample | Drop]:
        """One unit to Samples and Drops. Pure: the same unit gives the same records."""
        raise UserError(f"{self.name}: source {self.source} cannot be read")


class WholeIngest(IngestConfig):
    """A source whose units hang together, as the pages of a book do: it fills the stage's folder itself."""

    def ingest(self, out: Path) -> dict[str, Any]:
        """Write Samples and Drops into `out`, going on from what a killed run left there; returns counts."""
        raise UserError(f"{self.name}: source {self.source} cannot be read")


@dataclass(frozen=True)
class Source:
    """A row of SOURCES: the word in recipes, the entry's type, one line for `pathloom list`."""

    name: str
    config: type[IngestConfig]
    summary: str


def fingerprint(units: Sequence[Any]) -> str:
    """Hash of a plan: a changed folder gives another stage key."""
    return hashlib.sha256(json.dumps(units, default=str).encode()).hexdigest()


def share_of(group: str, seed: int) -> float:
    """A number in [0, 1) that decides a group's side by its name alone, so that groups added later move no other."""
    return int(hashlib.sha256(f"{seed} {group}".encode()).hexdigest()[:12], 16) / 16**12


def split_by_group(
    groups: Sequence[str], labels: Sequence[str], *, test_share: float, folds: int, seed: int
) -> list[str]:
    """The split of each picture: "train" or "test", or "fold-0" ... when `folds` is 2 or more.

    scikit-learn's StratifiedGroupKFold keeps groups whole and label shares alike. A label that too few groups carry
    to stand on every side raises UserError.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num_parts = folds if folds >= 2 else max(2, round(1 / test_share))
    groups_of_label: dict[str, set[str]] = {}
    for group, label in zip(groups, labels, strict=True):
        groups_of_label.setdefault(label, set()).add(group)
    for label, members in sorted(groups_of_label.items()):
        if len(members) < 2:
            raise UserError(
                f"class {label!r} has 1 group, so it cannot be in training and in test: add images of another "
                "patient or slide, name groups in a `groups` file, or leave the class out"
            )
    smallest = min(len(members) for members in groups_of_label.values())
    if folds > smallest:
        raise UserError(
            f"folds: {folds} is more than the {smallest} groups of the smallest class; lower `folds`"
        )
    parts = StratifiedGroupKFold(min(num_parts, smallest), shuffle=True, random_state=seed)
    split = ["train"] * len(labels)
    for fold, (_, held_out) in enumerate(parts.split(labels, labels, groups)):
        for index in held_out:
            split[index] = f"{FOLD_PREFIX}{fold}" if folds >= 2 else ("test" if fold == 0 else "train")
    for label in sorted(groups_of_label):
        if len({side for side, one in zip(split, labels, strict=True) if one == label}) < 2:
            raise UserError(
                f"class {label!r}: its groups also hold other classes, and keeping them whole leaves it on one side "
                "of the split; add groups of this class, or try another `seed` or `test_share`"
            )
    return split
