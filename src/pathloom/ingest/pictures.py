"""What sources of a person's own pictures share: the keys that name the data, their groups and the split.

Groups (patient, slide, near-duplicates) decide the split. They come from a CSV (`groups`), from the file name
(`group_pattern`), or, with neither, each picture is its own group: then intervals and split know of no patients.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import Field, field_validator

from pathloom.ingest.source import IngestConfig, split_by_group
from pathloom.stage import UserError


class PicturesConfig(IngestConfig):
    """Common keys of sources of pictures in folders."""

    dataset: str = Field(description="name under which the data are reported")
    licence: str = Field(
        default="unstated", description="licence of the images, kept in every Sample's origin"
    )
    groups: Path | None = Field(
        default=None, description="CSV with the columns file and group; class (the folder) if names recur"
    )
    group_columns: tuple[str, ...] = Field(
        default=("group",), description="columns that together name a group"
    )
    group_pattern: str | None = Field(
        default=None,
        description="regular expression on FOLDER/FILE; its brackets together name the group",
    )
    folds: int = Field(default=0, ge=0, description="k-fold cross-validation by group; 0: one test split")
    test_share: float = Field(default=0.2, gt=0, lt=0.6, description="of groups, held out as test")
    mpp: float | None = Field(default=None, gt=0, description="micrometres per pixel of the pictures")

    @field_validator("group_pattern")
    @classmethod
    def _pattern_has_a_bracket(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and re.compile(pattern).groups < 1:
                raise ValueError("needs one bracket pair around the part that names the group")
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return pattern

    def group_and_split(self, names: Sequence[str], labels: Sequence[str]) -> list[tuple[str, str]]:
        """(group, split) of each picture; a name is the file's path below the source's folder, with '/'.

        Sources that allow a `test_share` of 0 get training pictures only, unless `folds` are asked for.
        """
        groups = self._groups_of(names)
        if self.test_share == 0 and self.folds < 2:
            return [(group, "train") for group in groups]
        splits = split_by_group(groups, labels, test_share=self.test_share, folds=self.folds, seed=self.seed)
        return list(zip(groups, splits, strict=True))

    def _groups_of(self, names: Sequence[str]) -> list[str]:
        files = [PurePosixPath(name).name for name in names]
        if self.groups is not None:
            if not self.groups.is_file():
                raise UserError(f"{self.name}.groups: {self.groups} is not a file")
            table = _read_groups(self.groups, self.group_columns)
            found = [table.get(name, table.get(file)) for name, file in zip(names, files, strict=True)]
            missing = [file for file, group in zip(files, found, strict=True) if group is None]
            if missing:
                raise UserError(f"{self.groups}: no row for {missing[0]} (and {len(missing) - 1} more)")
            return [str(group) for group in found]
        if self.group_pattern is not None:
            groups = []
            for name, file in zip(names, files, strict=True):
                match = re.search(self.group_pattern, name)
                if match is None:
                    raise UserError(f"{self.name}.group_pattern {self.group_pattern!r} does not match {file}")
                groups.append("/".join(match.groups("")))
            return groups
        return list(names)


def size_and_time(path: Path) -> tuple[int, int]:
    """Bytes and time of last change, so that a replaced picture is read anew; zeros for a broken link."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _read_groups(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """File name, or class/file name if the table has the column class -> group."""
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
        file = row["file"] if row.get("class") is None else f"{row['class']}/{row['file']}"
        table[file] = "/".join(row[column] for column in columns)
    return table
