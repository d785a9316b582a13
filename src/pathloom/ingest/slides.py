"""Source `slides`: whole slides to tissue and tiles, and one Sample a slide.

    {name: slides, kind: ingest, source: slides, root: FILE_OR_FOLDER, mpp: 0.5, size_px: 224, labels: labels.csv}
    pathloom ingest slides FILE_OR_FOLDER --mpp 0.5 --size_px 224 --out DIR

The stage's folder holds `slides/` (ingest/slides_read.py), slides.csv and gallery.html. A slide that cannot be used is
a Drop with its reason; the others are done. Slides that a table of labels does not name are Drops too.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.ingest.slides_read import READ, Outcome, TileSettings, counts_of, read_slides
from pathloom.ingest.slides_read import read_slides_into as read_slides_into
from pathloom.ingest.source import Source, WholeIngest, fingerprint, split_by_group
from pathloom.schema import Drop, Event, Image, Origin, Sample
from pathloom.slides.find import find_slides, slide_size_and_time
from pathloom.slides.reader import MPP_RANGE, need_slides_extra
from pathloom.stage import UserError
from pathloom.store import count_records, write_shard

STEP = "ingest.slides"
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Labelled:
    """A row of the table of labels; `split` is "" where the table names none."""

    label: str
    group: str
    split: str


class SlidesConfig(WholeIngest, TileSettings):
    """Entry of a recipe, and what `pathloom ingest slides` runs: the keys of TileSettings, and these."""

    version: ClassVar[int] = 1

    source: Literal["slides"]
    root: Path = Field(description="a slide, or a folder with slides in it")
    labels: Path | None = Field(
        default=None, description="CSV with the columns slide and label, and where known group and split"
    )
    question: str = Field(
        default="Which class is this slide?", description="asked about each slide, answered by its label"
    )
    dataset: str = Field(default="slides", description="name under which the data are reported")
    licence: str = Field(default="unstated", description="of the slides, kept in every Sample's origin")
    test_share: float = Field(default=0.2, gt=0, lt=0.6, description="of groups, held out as test")
    folds: int = Field(default=0, ge=0, description="k-fold cross-validation by group; 0: one test split")

    def check(self) -> None:
        need_slides_extra()
        if self.stated_mpp is not None and not MPP_RANGE[0] <= self.stated_mpp <= MPP_RANGE[1]:
            raise UserError(
                f"{self.name}.stated_mpp: {self.stated_mpp:g}; a slide has {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} um"
            )
        if self.overlap_px >= self.size_px:
            raise UserError(
                f"{self.name}.overlap_px: {self.overlap_px} is a whole tile; give less than size_px"
            )
        if not MPP_RANGE[0] <= self.mpp <= MPP_RANGE[1]:
            raise UserError(
                f"{self.name}.mpp: {self.mpp:g}; tiles have {MPP_RANGE[0]:g} to {MPP_RANGE[1]:g} um per pixel, 0.5 "
                "where a microscope says 20x"
            )
        if not self.root.exists():
            raise UserError(f"{self.name}.root: {self.root.absolute()} does not exist")
        if not self._found():
            raise UserError(f"{self.name}.root: {self.root} holds no slide; name a slide or a folder of them")
        if self.labels is not None:
            labelled = self._labelled(list(self._found()))
            if self.folds and any(row.split for row in labelled.values()):
                raise UserError(
                    f"{self.name}.folds: {self.labels} names the splits; leave out one of the two"
                )
            self._splits(labelled)

    def fingerprint(self) -> str:
        """Names, sizes and times of the slides and the table; "" where `root` is not there."""
        if not self.root.exists():
            return ""
        files: list[Any] = [(name, *slide_size_and_time(path)) for name, path in self._found().items()]
        if self.labels is not None and self.labels.is_file():
            files.append(self.labels.read_text(encoding="utf-8-sig"))
        return fingerprint(files)

    def _found(self) -> dict[str, Path]:
        return find_slides(self.root)

    def _labelled(self, names: list[str]) -> dict[str, Labelled]:
        """Slide -> its row. A slide is named as in the table printed, by its file's name, or without the ending."""
        assert self.labels is not None
        rows = _read_labels(self.labels)
        by_name: dict[str, Labelled] = {}
        name_of: dict[str, str] = {}
        for name in names:
            file = Path(name).name
            key = next((key for key in (name, file, Path(file).stem) if key in rows), None)
            if key is None:
                continue
            if key in name_of:
                raise UserError(
                    f"{self.labels}: {key} could be {name_of[key]} or {name}; name slides by their path below "
                    f"{self.root}"
                )
            by_name[name] = rows[key]
            name_of[key] = name
        if not by_name:
            raise UserError(
                f"{self.labels}: names none of the slides of {self.root}; there is {', '.join(names[:5])}"
            )
        missing = sorted(set(rows) - set(name_of))
        if missing:
            raise UserError(
                f"{self.labels}: no slide {missing[0]} in {self.root}"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
            )
        return by_name

    def ingest(self, out: Path) -> dict[str, Any]:
        """Read every slide, then write Samples and Drops."""
        found = self._found()
        labelled = None if self.labels is None else self._labelled(list(found))
        wanted = (
            found if labelled is None else {name: path for name, path in found.items() if name in labelled}
        )
        outcomes = read_slides(wanted, out, self, title=self.dataset)
        drops = [self._drop(one.name, one.status, one.detail) for one in outcomes if one.status != READ] + [
            self._drop(name, "no_label", f"{self.labels} does not name it")
            for name in found
            if name not in wanted
        ]
        kept = [one for one in outcomes if one.status == READ]
        write_shard(self._samples(kept, labelled), drops, out, 0)
        return {**count_records(out), **counts_of(outcomes)}

    def _samples(self, kept: list[Outcome], labelled: Mapping[str, Labelled] | None) -> list[Sample]:
        if labelled is None:
            return [self._sample(one, None, "train", ()) for one in kept]
        split_of = self._splits(labelled)
        choices = tuple(sorted({row.label for row in labelled.values()}))
        return [self._sample(one, labelled[one.name], split_of[one.name], choices) for one in kept]

    def _splits(self, labelled: Mapping[str, Labelled]) -> dict[str, str]:
        """Slide -> its split; of those that cannot be read too, so that it is known before any is. Raises UserError."""
        rows = labelled.values()
        splits = [row.split for row in rows]
        if not all(splits):
            splits = split_by_group(
                [row.group for row in rows],
                [row.label for row in rows],
                test_share=self.test_share,
                folds=self.folds,
                seed=self.seed,
            )
        return dict(zip(labelled, splits, strict=True))

    def _sample(self, one: Outcome, row: Labelled | None, split: str, choices: tuple[str, ...]) -> Sample:
        image = Image(
            path=Path(one.path).name,
            width_px=one.width_l0,
            height_px=one.height_l0,
            mpp=one.mpp_l0,
            slide=one.name,
        )
        return Sample(
            id=f"{self.dataset}/{one.name}",
            task="caption" if row is None else "label",
            split=split,
            images=(image,),
            question="Describe this slide." if row is None else self.question,
            choices=choices,
            answer="" if row is None else row.label,
            finding=None if row is None else row.label,
            origin=Origin(
                source=self.dataset,
                source_id=one.path,
                licence=self.licence,
                group=one.name if row is None else row.group,
            ),
            history=(Event(step=STEP, version=self.version, note="; ".join(one.notes)),),
        )

    def _drop(self, name: str, reason: str, detail: str) -> Drop:
        return Drop(sample_id=f"{self.dataset}/{name}", step=STEP, reason=reason, detail=detail[:500])


def _read_labels(path: Path) -> dict[str, Labelled]:
    """Slide as the table names it -> its row. Raises UserError."""
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        names = reader.fieldnames or []
        table = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"labels: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: save the table as CSV UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{path}: no CSV table: {error}") from error
    for column in ("slide", "label"):
        if column not in names:
            raise UserError(f"{path}: no column {column!r}; it has {', '.join(names)}")
    rows: dict[str, Labelled] = {}
    for line, row in table:
        slide, label = (row["slide"] or "").strip(), (row["label"] or "").strip()
        split = (row.get("split") or "").strip()
        if not slide or not label:
            raise UserError(f"{path}, line {line}: slide or label is empty")
        if slide in rows:
            raise UserError(f"{path}, line {line}: the slide {slide} stands twice")
        if split and split not in _SPLITS:
            raise UserError(f"{path}, line {line}: split {split!r}; give {', '.join(_SPLITS)} or nothing")
        rows[slide] = Labelled(label, (row.get("group") or "").strip() or slide, split)
    if len({bool(row.split) for row in rows.values()}) > 1:
        raise UserError(f"{path}: some rows name a split and some do not; fill the column or leave it out")
    split_of: dict[str, str] = {}
    for one in rows.values():
        if split_of.setdefault(one.group, one.split) != one.split:
            raise UserError(
                f"{path}: the group {one.group} stands in {split_of[one.group]} and in {one.split}, so that slides of "
                "one patient would be learned and tested; give a group one split"
            )
    return rows


SLIDES = Source(
    "slides", SlidesConfig, "whole slides: tissue, tiles at a stated resolution, one question a slide"
)
