"""What a stage of a recipe is made of: its typed entry, the folder it leaves, and references to earlier stages.

A stage is a folder made from folders. Each kind's entry (a StageConfig) stands beside the code that runs it and
imports neither torch nor transformers, so any recipe can be checked on any machine.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from pathloom.schema import Record

MANIFEST_FILE = "manifest.json"
FACTS_FILE = "facts.json"
"""What a stage learnt of its Samples: a list of mappings, each with the `step` that it is about. Reports show it."""


class UserError(Exception):
    """Something that the user can mend. The message names the file or key and the cure; the CLI prints only that."""


class StageConfig(Record):
    """One entry of a recipe. `version` is raised by hand when a kind's behaviour changes, which reruns it."""

    version: ClassVar[int] = 1
    added_later: ClassVar[tuple[str, ...]] = ()
    """Keys that are no part of the stage's key while they have their default: it is then the stage it was before."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    kind: str

    def needs(self) -> tuple[str, ...]:
        """Names of the earlier stages that this one reads, in order."""
        return ()

    def kinds_needed(self) -> Mapping[str, str]:
        """Earlier stage -> the kind that it must be, for those where only one will do."""
        return {}

    def check(self) -> None:
        """Anything that can be known before the first stage runs. Raises UserError."""

    def keyed(self) -> dict[str, Any]:
        """The part of this entry that the result depends on: all of it, unless a kind says otherwise."""
        unused = {
            name for name in self.added_later if getattr(self, name) == type(self).model_fields[name].default
        }
        return self.model_dump(mode="json", exclude=unused)

    def fingerprint(self) -> str:
        """What the result depends on besides this entry and the earlier stages; part of the stage's key."""
        return ""


class ModelRef(Record):
    """A model: one of `stage` (an earlier stage), `base` (a small one that pathloom ships), `folder` (a path) or
    `hub` (a published checkpoint's id).
    """

    stage: str | None = None
    base: str | None = None
    folder: str | None = None
    hub: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "ModelRef":
        if sum(value is not None for value in (self.stage, self.base, self.folder, self.hub)) != 1:
            raise ValueError("give exactly one of stage, base, folder and hub")
        if self.base is not None and self.base not in shipped_bases():
            raise ValueError(
                f"no base {self.base!r} is shipped; there is {', '.join(shipped_bases()) or 'none'}"
            )
        return self

    def needs(self) -> tuple[str, ...]:
        return (self.stage,) if self.stage else ()

    def fingerprint(self) -> str:
        """Names, sizes and times of a model folder's files, the hash of a shipped base; "" for a stage or a hub id."""
        if self.base is not None:
            weights = (_BASES / self.base / "model.safetensors").read_bytes()
            return hashlib.sha256(weights).hexdigest()
        return "" if self.folder is None else files_of(Path(self.folder))

    def locate(self, inputs: Mapping[str, Path]) -> str:
        """The folder or hub id that transformers loads."""
        if self.stage:
            return str(inputs[self.stage])
        if self.base:
            return str(_BASES / self.base)
        return self.folder or self.hub or ""


def files_of(place: Path) -> str:
    """Names, sizes and times of a folder's files, or of one file: part of a key that names a place of weights."""
    files = sorted(path for path in place.glob("*") if path.is_file()) if place.is_dir() else [place]
    return str([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.exists()])


_BASES = Path(__file__).parent / "models" / "base"


def shipped_bases() -> tuple[str, ...]:
    """Names of the small pretrained models inside the package."""
    return tuple(sorted(path.parent.name for path in _BASES.glob("*/model.safetensors")))


def find_stage(thing: str, runs: Path) -> Path | None:
    """A finished stage's folder: given as a path, by its name under `runs`, or as the stage's name, newest first."""
    for folder in (Path(thing), runs / thing):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    found = [
        path.parent
        for path in runs.glob(f"*/{MANIFEST_FILE}")
        if path.parent.name.rpartition("-")[0] == thing
    ]
    return max(found, key=lambda folder: (folder / MANIFEST_FILE).stat().st_mtime_ns, default=None)


def write_json(value: Any, path: Path) -> None:
    """Indented JSON, on the disk before this returns."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def write_jsonl(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """One JSON object a line, on the disk before this returns; gives the number of lines."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    return count


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line without its line break was cut off by a kill and is left out."""
    rows = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows
