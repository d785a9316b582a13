"""Source `cells`: fields or slides with a box around each cell; one Sample an anchor cell, its tile cut out and framed.

The boxes are given (`boxes: FOLDER or FILE`: Pascal VOC, COCO, CSV, QuPath's GeoJSON), found (`detector: nuclei`), or
each picture is one cell already (`boxes: whole`), which is then kept byte for byte and without a frame.

Tiles are PNG: annotators and models judge chromatin, and the fields were compressed once already.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pathloom.images import SUFFIXES, BadImage, encode_png, load_pixels, read_image
from pathloom.ingest.box_files import Fault
from pathloom.ingest.boxes import match_pictures
from pathloom.ingest.cell_detector import CELL_FACTOR, NUCLEUS_UM, cell_around, find_nuclei
from pathloom.ingest.cells_files import read_boxes
from pathloom.ingest.cells_tiles import Anchor, PictureField, SlideField, choose_anchors, cut_tile
from pathloom.ingest.cells_tiles import Field as AnyField
from pathloom.ingest.pictures import PicturesConfig, size_and_time
from pathloom.ingest.source import Source, fingerprint
from pathloom.schema import Box, Drop, Event, Image, Origin, Region, Sample
from pathloom.slides.find import find_slides, slide_size_and_time
from pathloom.slides.reader import need_slides_extra
from pathloom.stage import UserError

STEP = "ingest.cells"
WHOLE = "whole"
CELLS_PER_UNIT = 4
"""Given boxes are read so many at a time: a shard of 256 units then holds as many Samples as one of any other stage."""
MAX_DETECTED = 20
"""Cells taken of a field that was searched, for these are read in one unit."""
LEAST_NUCLEUS_PX = 2
"""Diameter below which a nucleus has no shape that the detector could test."""
_REGION_LABEL = "cell"
_FRAME_SHARE = 1 / 60
"""Of a tile's side, what the frame takes on both sides of a box (anchor.py)."""


class CellUnit(NamedTuple):
    """A picture and some of its cells, the `part`-th lot of them; or (`path` is "") a file that fits no picture."""

    name: str
    faults: tuple[Fault, ...] = ()
    path: str = ""
    group: str = ""
    split: str = ""
    finding: str | None = None
    size_px: tuple[int, int] | None = None
    boxes: tuple[tuple[str, Box], ...] = ()
    part: int = 0
    size_and_time: tuple[int, int] = (0, 0)


class CellsConfig(PicturesConfig):
    """Entry of a recipe: `{name: cells, kind: ingest, source: cells, images: FOLDER, boxes: FOLDER, tile_px: 224}`."""

    version: ClassVar[int] = 1

    source: Literal["cells"]
    images: Path = Field(description="folder of fields, of slides or of pictures of one cell each")
    dataset: str = Field(default="cells", description="name under which the data are reported")
    boxes: Literal["whole"] | Path | None = Field(
        default=None,
        description="folder of Pascal VOC or GeoJSON files, or a COCO, CSV or GeoJSON file; whole: each picture is one "
        "cell",
    )
    detector: Literal["nuclei"] | None = Field(
        default=None, description="finds cells in fields without boxes"
    )
    slides: bool = Field(default=False, description="`images` holds slides (extra `slides`)")
    tile_um: float | None = Field(default=None, gt=0, description="side of a tile in micrometres; needs mpp")
    tile_px: int | None = Field(default=None, ge=16, description="side of a tile in pixels of the field")
    out_px: int | None = Field(default=None, ge=16, le=4096, description="side of the tile as it is kept")
    max_cells: int | None = Field(
        default=None,
        ge=1,
        description=f"most cells of a field, spread over it; unset: all given ones, {MAX_DETECTED} detected ones",
    )
    min_box_px: float = Field(default=8, ge=1, description="least shorter side of a box in the field")
    max_box_px: float | None = Field(
        default=None, gt=0, description="largest longer side; unset: what the tile holds"
    )
    nucleus_px: tuple[float, float] | None = Field(
        default=None, description="least and largest diameter for the detector; unset: 4 and 24 um by mpp"
    )
    cell_factor: float = Field(default=CELL_FACTOR, ge=1, le=10, description="cell's box by its nucleus'")
    classes: dict[str, str] = Field(default={}, description="label in the files -> class; others have none")
    class_names: dict[str, str] = Field(
        default={}, description="with boxes: whole, folder -> class; others have none"
    )
    question: str | None = Field(default=None, description="unset: one that fits")
    test_share: float = Field(
        default=0.2, ge=0, lt=0.6, description="0: all in training, as one slide must be"
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> "CellsConfig":
        if (self.boxes is None) == (self.detector is None):
            raise ValueError("give boxes (a folder, a file or whole) or detector: nuclei")
        if self.slides and (self.detector or self.boxes == WHOLE):
            raise ValueError("slides: true needs boxes: the detector reads fields, and no slide is one cell")
        tiled = self.boxes != WHOLE
        if tiled and (self.tile_um is None) == (self.tile_px is None):
            raise ValueError("give tile_um or tile_px, the side of a tile")
        if not tiled and (self.tile_um or self.tile_px or self.out_px):
            raise ValueError("boxes: whole keeps pictures as they are; leave out tile_um, tile_px and out_px")
        if self.class_names and tiled:
            raise ValueError(
                "class_names are of single cells, boxes: whole; for labels in box files use classes"
            )
        if self.classes and (self.detector or not tiled):
            raise ValueError("classes are those of labels in box files, and there are none")
        if self.tile_um and self.mpp is None and not self.slides:
            raise ValueError("tile_um needs mpp, micrometres per pixel of the fields; or give tile_px")
        if self.detector and self.nucleus_px is None and self.mpp is None:
            raise ValueError("detector: nuclei needs mpp, or nucleus_px: [least, largest] diameter in pixels")
        if self.nucleus_px and not LEAST_NUCLEUS_PX <= self.nucleus_px[0] < self.nucleus_px[1]:
            raise ValueError(
                f"nucleus_px: least and largest diameter, the least at least {LEAST_NUCLEUS_PX}, are needed"
            )
        if self.detector and not self.nucleus_px and NUCLEUS_UM[0] / (self.mpp or 1) < LEAST_NUCLEUS_PX:
            raise ValueError(
                f"mpp {self.mpp:g}: a nucleus of {NUCLEUS_UM[0]:g} um is narrower than {LEAST_NUCLEUS_PX} pixels, too "
                "few to find; read fields of a higher magnification, or give nucleus_px for larger nuclei"
            )
        return self

    def check(self) -> None:
        if self.slides:
            need_slides_extra()
        self.plan()

    def fingerprint(self) -> str:
        """ "" for folders that `check` refuses: a recipe can be shown where its data are not."""
        there = self.images.is_dir() and (not isinstance(self.boxes, Path) or self.boxes.exists())
        return fingerprint(self._fields) if there else ""

    def plan(self) -> Sequence[CellUnit]:
        return [
            field._replace(part=part)
            for field in self._fields
            for part in range(
                max(1, -(-min(len(field.boxes), self._most(len(field.boxes))) // CELLS_PER_UNIT))
            )
        ]

    def _most(self, num_boxes: int) -> int:
        return self.max_cells or (MAX_DETECTED if self.detector else max(num_boxes, 1))

    # ------------------------------------------------------------------------------------------------ plan
    @cached_property
    def _fields(self) -> list[CellUnit]:
        """One unit for each picture with all its boxes, after one for each file that fits no picture."""
        pictures = self._pictures()
        if isinstance(self.boxes, Path):
            fields, unusable = self._with_boxes(self.boxes, pictures)
        else:
            fields, unusable = [CellUnit(name) for name in pictures], []
        names = [field.name for field in fields]
        findings = self._findings_of(names)
        if self.test_share and len(set(self._groups_of(names))) < 2:
            raise UserError(
                f"{self.name}: the pictures are of 1 group, so none can be held out; test_share: 0 reads all into "
                "training, and groups or group_pattern name patients or slides"
            )
        decided = self.group_and_split(names, [finding or "picture" for finding in findings])
        return [
            *unusable,
            *(
                field._replace(
                    path=str(pictures[field.name].resolve()),
                    group=group,
                    split=split,
                    finding=finding,
                    size_and_time=(slide_size_and_time if self.slides else size_and_time)(
                        pictures[field.name]
                    ),
                )
                for field, finding, (group, split) in zip(fields, findings, decided, strict=True)
            ),
        ]

    def _pictures(self) -> dict[str, Path]:
        """Name below `images` -> file."""
        if not self.images.is_dir():
            raise UserError(f"{self.name}.images: {self.images} is not a folder; give that of the pictures")
        found = (
            find_slides(self.images)
            if self.slides
            else {
                path.relative_to(self.images).as_posix(): path
                for path in sorted(self.images.rglob("*"))
                if path.suffix.lower() in SUFFIXES
            }
        )
        if not found:
            kind = "slide" if self.slides else f"picture ({', '.join(SUFFIXES)}); for slides set slides: true"
            raise UserError(f"{self.name}.images: {self.images} holds no {kind}")
        return found

    def _with_boxes(self, place: Path, pictures: Mapping[str, Path]) -> tuple[list[CellUnit], list[CellUnit]]:
        found, unusable = match_pictures(read_boxes(place), pictures, self.images)
        if not found:
            first = f" ({unusable[0].faults[0].detail})" if unusable else ""
            raise UserError(f"{self.name}.boxes: no entry of {place} fits a picture in {self.images}{first}")
        known = sorted({label for one in found.values() for label, _ in one.boxes if label})
        self._refuse_unknown("classes", self.classes, known, "no box is labelled")
        fields = [
            CellUnit(name, one.faults, size_px=one.size_px, boxes=one.boxes) for name, one in found.items()
        ]
        return fields, [CellUnit(one.name, one.faults) for one in unusable]

    def _findings_of(self, names: Sequence[str]) -> list[str | None]:
        """The class of each picture by its folder."""
        if self.boxes != WHOLE:
            return [None] * len(names)
        folders = [name.rpartition("/")[0].partition("/")[0] for name in names]
        self._refuse_unknown("class_names", self.class_names, sorted(set(folders)), "no folder is called")
        return [self.class_names.get(folder) for folder in folders]

    def _refuse_unknown(self, key: str, given: Mapping[str, str], known: Sequence[str], what: str) -> None:
        for label in given:
            if label not in known:
                near = difflib.get_close_matches(label, known, n=1)
                raise UserError(
                    f"{self.name}.{key}: {what} {label!r}{f', did you mean {near[0]!r}?' if near else ''}; "
                    f"known: {', '.join(known)}"
                )

    # ------------------------------------------------------------------------------------------------ read
    def read(self, unit: CellUnit) -> list[Sample | Drop]:
        field_id = f"{self.dataset}/{unit.name}"
        drops = [self._drop(field_id, fault) for fault in unit.faults if unit.part == 0]
        if not unit.path:
            return [*drops]
        try:
            if self.boxes == WHOLE:
                return [self._whole(unit)]
            return [*drops, *self._tiles(unit)]
        except BadImage as error:  # of the field: said once
            fault = Fault(error.reason, str(error))
            return [*drops, self._drop(field_id, fault)] if unit.part == 0 else []

    def _whole(self, unit: CellUnit) -> Sample:
        image = read_image(Path(unit.path), mpp=self.mpp, embed=True)
        box_px = (0.0, 0.0, float(image.width_px), float(image.height_px))
        question = self.question or "Describe this cell."
        return self._sample(
            unit, f"{self.dataset}/{unit.name}", image, box_px, box_px, question, unit.finding
        )

    def _tiles(self, unit: CellUnit) -> Iterator[Sample | Drop]:
        """This unit's tiles, and in its field's first unit all that is refused. Raises BadImage for the field."""
        field = _open_field(unit.path, unit.size_and_time, self.slides)
        if unit.size_px not in (None, field.size_px):
            assert unit.size_px is not None
            detail = "{}: {}x{} px, but its boxes say {}x{}".format(unit.path, *field.size_px, *unit.size_px)
            raise BadImage("other_size", detail)
        mpp = self.mpp or field.mpp
        if self.tile_um and not mpp:
            raise BadImage("no_mpp", f"{unit.path}: says no micrometres per pixel; give mpp, or tile_px")
        side_px = self.tile_px or round(float(self.tile_um or 0) / float(mpp or 1))
        largest_px = side_px * (1 - _FRAME_SHARE)
        boxes = unit.boxes if self.detector is None else self._detected(field)
        anchors, refused = _choose_anchors(
            boxes,
            field.size_px,
            sides_px=(self.min_box_px, min(self.max_box_px or largest_px, largest_px)),
            most=self._most(len(boxes)),
            seed=self.seed,
        )
        if unit.part == 0:
            yield from (self._drop(self._cell_id(unit, anchor), fault) for anchor, fault in refused)
            if not boxes and not unit.faults:
                found = "the detector found no cell" if self.detector else "no box"
                yield self._drop(f"{self.dataset}/{unit.name}", Fault("no_cell", f"{unit.path}: {found}"))
        if self.detector is None:
            anchors = anchors[unit.part * CELLS_PER_UNIT :][:CELLS_PER_UNIT]
        for anchor in anchors:
            yield self._tile(unit, field, anchor, side_px, mpp)

    def _detected(self, field: AnyField) -> tuple[tuple[str, Box], ...]:
        """The detector's cells; `check` and the type see to it that only decoded fields come here."""
        diameter_px = self.nucleus_px or (NUCLEUS_UM[0] / (self.mpp or 1), NUCLEUS_UM[1] / (self.mpp or 1))
        pixels = np.asarray(field.crop(0, 0, *field.size_px, 1.0))
        return tuple(("", cell_around(box, self.cell_factor)) for box in find_nuclei(pixels, diameter_px))

    def _tile(
        self, unit: CellUnit, field: AnyField, anchor: Anchor, side_px: int, mpp: float | None
    ) -> Sample | Drop:
        sample_id = self._cell_id(unit, anchor)
        out_px = self.out_px or side_px
        try:
            tile, box_px = cut_tile(field, anchor, side_px, out_px)
        except BadImage as error:
            return self._drop(sample_id, Fault(error.reason, str(error)))
        image = Image(
            path=f"{PurePosixPath(unit.name).with_suffix('')}_{_numbers(anchor)}.png",
            data=encode_png(tile),
            width_px=out_px,
            height_px=out_px,
            mpp=mpp and mpp * side_px / out_px,
        )
        x1, y1, x2, y2 = anchor.box_px
        notes = [f"label {anchor.label}"] * bool(anchor.label) + [
            "box cut at the field's edge"
        ] * anchor.is_cut
        notes += ["found by the detector nuclei"] * bool(self.detector)
        question = self.question or "Describe the cell in the box."
        finding = self.classes.get(anchor.label)
        box_l0 = (float(x1), float(y1), float(x2), float(y2))
        return self._sample(unit, sample_id, image, box_px, box_l0, question, finding, ", ".join(notes))

    def _sample(
        self,
        unit: CellUnit,
        sample_id: str,
        image: Image,
        box_px: Box,
        box_l0: Box,
        question: str,
        finding: str | None,
        note: str = "",
    ) -> Sample:
        return Sample(
            id=sample_id,
            task="caption",
            split=unit.split,
            images=(image,),
            question=question,
            regions=(Region(box_px=box_px, label=_REGION_LABEL),),
            finding=finding,
            subfield="cytology",
            origin=Origin(
                source=self.dataset,
                source_id=unit.path,
                licence=self.licence,
                group=unit.group,
                box_l0=box_l0,
            ),
            history=(Event(step=STEP, version=self.version, note=note),),
        )

    def _cell_id(self, unit: CellUnit, anchor: Anchor) -> str:
        return f"{self.dataset}/{unit.name}/{_numbers(anchor)}"

    def _drop(self, sample_id: str, fault: Fault) -> Drop:
        return Drop(sample_id=sample_id, step=STEP, reason=fault.reason, detail=fault.detail)


def _numbers(anchor: Anchor) -> str:
    """Four integers, as the published corpus of cervical cells names its tiles."""
    return "_".join(map(str, anchor.box_px))


@lru_cache(maxsize=1)
def _open_field(path: str, size_and_time: tuple[int, int], is_slide: bool) -> AnyField:
    """One at a time: the units of a field follow each other. Raises BadImage."""
    if is_slide:
        return SlideField(Path(path))
    image = read_image(Path(path), embed=True)
    return PictureField(load_pixels(image), image.mpp)


_choose_anchors = lru_cache(maxsize=1)(choose_anchors)
"""Once for all units of a field: a slide has thousands."""

CELLS = Source("cells", CellsConfig, "cells of fields or slides, by given boxes or a simple detector")
