"""Source `tiles`: a folder of labelled tiles, one sub-folder a class.

    root/
      adenocarcinoma/ a.png b.png ...
      normal/         c.jpeg ...

Groups (patient, slide, near-duplicates) decide the split. They come from a CSV (`groups`), from the file name
(`group_pattern`), or, with neither, each picture is its own group: then intervals and split know of no patients.
"""

import csv
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.images import SUFFIXES, BadImage, read_image
from pathloom.ingest.source import IngestConfig, Source, fingerprint, split_by_group
from pathloom.schema import Drop, Event, Origin, Sample
from pathloom.stage import UserError


class TilesConfig(IngestConfig):
    """Entry of a recipe: `{name: tiles, kind: ingest, source: tiles, root: FOLDER}`."""

    version: ClassVar[int] = 1

    source: Literal["tiles"]
    root: Path = Field(description="folder with one sub-folder for each class")
    dataset: str = Field(default="tiles", description="name under which the data are reported")
    licence: str = Field(
        default="unstated", description="licence of the images, kept in every Sample's origin"
    )
    question: str = "Which class is this tissue?"
    class_names: dict[str, str] = Field(
        default={}, description="folder name -> the words that the model answers"
    )
    groups: Path | None = Field(
        default=None, description="CSV with the columns file and group, class if names recur"
    )
    group_columns: tuple[str, ...] = Field(
        default=("group",), description="columns that together name a group"
    )
    group_pattern: str | None = Field(
        default=None,
        description="regular expression on CLASS/FILE; its brackets together name the group",
    )
    folds: int = Field(default=0, ge=0, description="k-fold cross-validation by group; 0: one test split")
    test_share: float = Field(default=0.2, gt=0, lt=0.6)
    mpp: float | None = Field(default=None, gt=0)

    @field_validator("group_pattern")
    @classmethod
    def _pattern_has_a_bracket(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("needs one bracket pair around the part that names the group")
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return pattern

    def check(self) -> None:
        if not self.root.is_dir():
            raise UserError(
                f"{self.name}.root: {self.root} is not a folder; give the folder that holds the classes"
            )
        if self.groups is not None and not self.groups.is_file():
            raise UserError(f"{self.name}.groups: {self.groups} is not a file")
        self.plan()

    def fingerprint(self) -> str:
        return fingerprint(self.plan())

    @cached_property
    def _units(self) -> Sequence[Any]:
        files = self._files()
        groups = self._group_of(files)
        labels = [label for _, label in files]
        splits = split_by_group(groups, labels, test_share=self.test_share, folds=self.folds, seed=self.seed)
        return [
            (str(path.resolve()), label, group, split, *_size_and_time(path))
            for (path, label), group, split in zip(files, groups, splits, strict=True)
        ]

    def plan(self) -> Sequence[Any]:
        return self._units

    def _files(self) -> list[tuple[Path, str]]:
        folders = sorted(folder for folder in self.root.iterdir() if folder.is_dir())
        if len(folders) < 2:
            raise UserError(
                f"{self.name}.root: {self.root} needs a sub-folder for each of at least two classes"
            )
        files: list[tuple[Path, str]] = []
        for folder in folders:
            inside = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(
                    f"class folder {folder} holds no image ({', '.join(SUFFIXES)}): fill it or remove it"
                )
            files += [(path, folder.name) for path in inside]
        unknown = set(self.class_names) - {folder.name for folder in folders}
        if unknown:
            raise UserError(
                f"{self.name}.class_names: no class folder is called {', '.join(sorted(unknown))}"
            )
        return files

    def _group_of(self, files: Sequence[tuple[Path, str]]) -> list[str]:
        if self.groups is not None:
            table = _read_groups(self.groups, self.group_columns)
            missing = [path for path, label in files if _look_up(table, path.name, label) is None]
            if missing:
                raise UserError(f"{self.groups}: no row for {missing[0].name} (and {len(missing) - 1} more)")
            return [str(_look_up(table, path.name, label)) for path, label in files]
        if self.group_pattern is not None:
            groups = []
            for path, label in files:
                match = re.search(self.group_pattern, f"{label}/{path.name}")
                if match is None:
                    raise UserError(
                        f"{self.name}.group_pattern {self.group_pattern!r} does not match {path.name}"
                    )
                groups.append("/".join(match.groups("")))
            return groups
        return [f"{label}/{path.name}" for path, label in files]

    def read(self, unit: Any) -> list[Sample | Drop]:
        path, label, group, split, *_ = unit
        sample_id = f"{self.dataset}/{label}/{Path(path).name}"
        try:
            image = read_image(Path(path), mpp=self.mpp)
        except BadImage as error:
            return [Drop(sample_id=sample_id, step="ingest.tiles", reason=error.reason, detail=str(error))]
        answers = {folder: self.class_names.get(folder, folder) for folder in self._class_folders}
        return [
            Sample(
                id=sample_id,
                task="label",
                split=split,
                images=(image,),
                question=self.question,
                choices=tuple(dict.fromkeys(answers.values())),  # two folders may hold one class
                answer=answers[label],
                finding=answers[label],
                origin=Origin(source=self.dataset, source_id=path, licence=self.licence, group=group),
                history=(Event(step="ingest.tiles", version=self.version),),
            )
        ]

    @cached_property
    def _class_folders(self) -> list[str]:
        return sorted({unit[1] for unit in self._units})


def _size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and time of last change, so that a replaced picture is read anew; zeros for a broken link."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _read_groups(path: Path, columns: Sequence[str]) -> dict[tuple[str, str | None], str]:
    """(file name, class if the table has that column) -> group."""
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: save the table as CSV UTF-8") from error
    names = reader.fieldnames or []
    for column in ("file", *columns):
        if column not in names:
            raise UserError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    table = {}
    for row in reader:
        for column in columns:
            if not row[column]:
                raise UserError(
                    f"{path}: line {reader.line_num}, {row['file']}: the column {column!r} is empty"
                )
        table[row["file"], row.get("class")] = "/".join(row[column] for column in columns)
    return table


def _look_up(table: dict[tuple[str, str | None], str], file: str, label: str) -> str | None:
    return table.get((file, label), table.get((file, None)))


TILES = Source("tiles", TilesConfig, "a folder of labelled tiles, one sub-folder a class")
