"""Published collections of pathology captions, as data (corpora.yaml): where each is had and how `pairs` reads it.

    {name: quilt, kind: ingest, source: pairs, corpus: quilt_1m, root: data/quilt_1m}

Nothing is downloaded: most collections ask for an agreement that only a person can give. What is not in `root` is told
before anything runs, with the address, the licence and what is to be done.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from pathloom.schema import Record


class Corpus(Record):
    """One collection. What is not known is None, and `unknown` says why.

    `table`, `image_folder`, `image_name`, `any_suffix`, `columns` and `group_pattern` are keys of source `pairs`; the
    first two are paths below `root`. `rows` and `pictures` are what a full copy has.
    """

    name: str
    title: str
    where: str
    licence: str
    gated: str | None = Field(description="what has to be agreed to, and where; None: nothing")
    first: str = Field(description="what a person does before it can be read; ROOT is the folder")
    table: str
    image_folder: str
    image_name: str | None = None
    any_suffix: bool = False
    columns: dict[str, str]
    group_pattern: str | None = None
    rows: int | None
    pictures: int | None
    unknown: dict[str, str] = Field(default={}, description="column -> why its name is not known")
    notes: str
    citation: str

    def entry(self, root: Path) -> dict[str, Any]:
        """The keys of source `pairs` that this collection fills."""
        return {
            "table": root / self.table,
            "image_folder": self.image_folder,
            "image_name": self.image_name,
            "any_suffix": self.any_suffix,
            "columns": dict(self.columns),
            "group_pattern": self.group_pattern,
            "dataset": self.name,
            "licence": self.licence,
        }

    def missing(self, stage: str, root: Path, path: Path) -> str:
        """What a person reads who has not fetched it yet, or not put it in its place."""
        gated = f"gated: {self.gated}" if self.gated else "not gated"
        return (
            f"{stage}.root: {self.title} is not in {root}: {path} is missing. It is had from {self.where} "
            f"({self.licence}; {gated}). {self.first.replace('ROOT', str(root))} Or say where it is with "
            f"--set {stage}.root=DIR, or leave the stage out."
        )

    def line(self) -> str:
        """One line for `pathloom list corpora`."""
        rows = f"{self.rows:,} pairs" if self.rows is not None else "number of pairs unknown"
        gated = f"gated ({self.gated})" if self.gated else "not gated"
        return f"{self.name}: {self.title}, {rows}, {self.licence}, {gated}, {self.where}"


@cache
def corpora() -> dict[str, Corpus]:
    """All collections by name, in the order of corpora.yaml."""
    table = yaml.safe_load(files("pathloom.ingest").joinpath("corpora.yaml").read_text(encoding="utf-8"))
    return {name: Corpus(name=name, **entry) for name, entry in table.items()}


def find_corpus(name: str) -> Corpus:
    """The collection of that name. Raises ValueError that lists those there are."""
    if name not in corpora():
        raise ValueError(f"corpus: there is no {name!r}; there is {', '.join(corpora())}")
    return corpora()[name]
