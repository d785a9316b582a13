"""Source `masks`: pictures with masks of objects; one question a picture, or a tile of it, and kind of object.

`pathloom.ingest.masks_files` says which forms of files are read. With `tile_px` a picture is cut into tiles from its
top left corner, and objects with it; a strip at the right or lower edge is a tile of its own if it is half as wide
as the others, and is left out otherwise. Pieces under `min_area_px` are left out. The Sample's history counts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from pathloom.images import BadImage, encode_png, load_pixels, read_image
from pathloom.ingest.box_files import Fault
from pathloom.ingest.masks_files import Format, Thing, find_masked, read_things
from pathloom.ingest.pictures import PicturesConfig, size_and_time
from pathloom.ingest.source import Source, fingerprint
from pathloom.masks import CutMask, region_of_cut
from pathloom.schema import Drop, Event, Image, Origin, Region, Sample
from pathloom.stage import UserError
from pathloom.tasks.boxes import MAX_BOXES

if TYPE_CHECKING:
    from PIL.Image import Image as Pixels

STEP = "ingest.masks"
QUESTIONS: Mapping[str, str] = {"boxes": "Find each {what}.", "mask": "Segment each {what}."}

Corners = tuple[int, int, int, int]


class Unit(NamedTuple):
    """One picture with the files of its masks, or (`path` is "") what belongs to no picture."""

    name: str
    fault: Fault | None = None
    path: str = ""
    group: str = ""
    split: str = ""
    files: tuple[str, ...] = ()
    sizes_and_times: tuple[tuple[int, int], ...] = ()


class MasksConfig(PicturesConfig):
    """Entry of a recipe: `{name: nuclei, kind: ingest, source: masks, root: FOLDER, format: png_per_object}`."""

    version: ClassVar[int] = 1

    source: Literal["masks"]
    root: Path = Field(description="folder of the pictures and their masks")
    format: Format
    images: str = Field(default="images", description="folder of pictures below `root` (binary, label_png)")
    masks: str = Field(default="masks", description="folder of masks below `root` (binary, label_png)")
    dataset: str = Field(default="masks", description="name under which the data are reported")
    what: str = Field(default="object", min_length=1, description="the thing's word in the question")
    labels: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default={}, description="value in a label_png -> words asked about; other values are not asked about"
    )
    task: Literal["boxes", "mask", "both"] = "mask"
    tile_px: int | None = Field(
        default=None, ge=16, description="side of the tiles that pictures are cut into"
    )
    min_area_px: int = Field(default=16, ge=1, description="smaller pieces are left out")
    include_absent: bool = Field(
        default=False,
        description="also ask where there is no object; right only if every picture was searched",
    )

    @model_validator(mode="after")
    def _labels_are_of_label_files(self) -> "MasksConfig":
        if (self.format == "label_png") != bool(self.labels):
            raise ValueError(
                "labels: name the values to ask about for format label_png, and for no other format"
            )
        for value in self.labels:
            if not value.isdecimal() or not 0 < int(value) < 256:
                raise ValueError(
                    f"labels: {value!r} is no value of a mask; they are whole numbers from 1 to 255"
                )
        return self

    def check(self) -> None:
        self.plan()

    def fingerprint(self) -> str:
        return fingerprint(self.plan())

    def plan(self) -> Sequence[Unit]:
        return self._units

    @cached_property
    def _units(self) -> Sequence[Unit]:
        folders = [self.root]
        if self.format in ("binary", "label_png"):
            folders += [self.root / self.images, self.root / self.masks]
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{self.name}.root: {folder} is not a folder; format {self.format} needs it")
        masked = find_masked(self.root, self.format, self.images, self.masks)
        usable = [one for one in masked if one.path is not None]
        if not usable:
            first = next((f" ({one.fault.detail})" for one in masked if one.fault), "")
            raise UserError(
                f"{self.name}.root: {self.root} holds no picture with masks of format {self.format}{first}"
            )
        decided = self.group_and_split([one.name for one in usable], ["picture"] * len(usable))
        units = [Unit(one.name, one.fault) for one in masked if one.fault]
        for one, (group, split) in zip(usable, decided, strict=True):
            path = one.path or Path()
            stamps = tuple(size_and_time(file) for file in (path, *one.files))
            files = tuple(str(file.resolve()) for file in one.files)
            units.append(Unit(one.name, None, str(path.resolve()), group, split, files, stamps))
        return units

    def read(self, unit: Unit) -> list[Sample | Drop]:
        picture_id = f"{self.dataset}/{unit.name}"
        if unit.fault is not None:
            return [_drop(picture_id, unit.fault)]
        try:
            image = read_image(Path(unit.path), mpp=self.mpp)
            pixels = load_pixels(image)
        except BadImage as error:
            return [_drop(picture_id, Fault(error.reason, str(error)))]
        found = [
            (file, one)
            for file in unit.files
            for one in read_things(self.format, Path(file), (image.width_px, image.height_px))
        ]
        records: list[Sample | Drop] = [
            _drop(f"{picture_id}/{Path(file).name}", one) for file, one in found if isinstance(one, Fault)
        ]
        things = [one for _, one in found if isinstance(one, Thing)]
        tiles, num_left_out = _tiles(image.width_px, image.height_px, self.tile_px)
        if num_left_out:
            detail = f"{num_left_out} strips narrower than half a tile of {self.tile_px} px"
            records.append(_drop(picture_id, Fault("narrow_strip", detail)))
        samples = [record for tile in tiles for record in self._ask_of(unit, tile, image, pixels, things)]
        if not samples:
            detail = "no object of a kind that is asked about; include_absent would ask for what is not there"
            records.append(_drop(picture_id, Fault("nothing_to_ask", detail)))
        return [*records, *samples]

    def _ask_of(
        self, unit: Unit, tile: Corners, image: Image, pixels: "Pixels", things: Sequence[Thing]
    ) -> Iterator[Sample | Drop]:
        tile_id = f"{self.dataset}/{unit.name}"
        shown = image
        if tile != (0, 0, image.width_px, image.height_px):
            tile_id += f"/{tile[0]}_{tile[1]}"
            shown = _cut_picture(image, pixels, tile)
        for label, words in (self.labels or {"": self.what}).items():
            cuts = [_cut_thing(one.cut, tile) for one in things if one.label == label]
            kept = [cut for cut in cuts if cut is not None and cut.bits.sum() >= self.min_area_px]
            num_small = sum(cut is not None for cut in cuts) - len(kept)
            # Top to bottom, then left to right: a set has no order, so one is fixed for the answers taught.
            regions = sorted(
                dict.fromkeys(region_of_cut(cut, words) for cut in kept),
                key=lambda one: (one.box_px[1], one.box_px[0], one.box_px[3], one.box_px[2]),
            )
            notes = [f"{num_small} pieces under {self.min_area_px} px left out"] * bool(num_small)
            notes += [f"{len(kept) - len(regions)} identical masks merged"] * (len(regions) < len(kept))
            sample_id = f"{tile_id}/{label}" if label else tile_id
            if len(regions) > MAX_BOXES:
                detail = (
                    f"{len(regions)} objects; an answer has at most {MAX_BOXES}. Use smaller tiles (tile_px)"
                )
                yield _drop(sample_id, Fault("too_many_objects", detail))
            elif regions or self.include_absent:
                yield from self._samples(unit, sample_id, shown, words, tuple(regions), ", ".join(notes))

    def _samples(
        self, unit: Unit, sample_id: str, image: Image, words: str, regions: tuple[Region, ...], note: str
    ) -> Iterator[Sample]:
        for task in ("boxes", "mask") if self.task == "both" else (self.task,):
            yield Sample(
                id=f"{sample_id}/{task}" if self.task == "both" else sample_id,
                task=task,
                split=unit.split,
                images=(image,),
                question=QUESTIONS[task].replace("{what}", words),
                regions=regions,
                origin=Origin(
                    source=self.dataset, source_id=unit.path, licence=self.licence, group=unit.group
                ),
                history=(Event(step=STEP, version=self.version, note=note),),
            )


def _drop(sample_id: str, fault: Fault) -> Drop:
    return Drop(sample_id=sample_id, step=STEP, reason=fault.reason, detail=fault.detail)


def _tiles(width_px: int, height_px: int, tile_px: int | None) -> tuple[list[Corners], int]:
    """(x1, y1, x2, y2) of each tile, row by row, and how many strips along an edge were left out."""
    if tile_px is None:
        return [(0, 0, width_px, height_px)], 0
    sides, num_left_out = [], 0
    for length_px in (width_px, height_px):
        starts = range(0, length_px, tile_px)
        ends = [(start, min(start + tile_px, length_px)) for start in starts]
        if len(ends) > 1 and 2 * (ends[-1][1] - ends[-1][0]) < tile_px:
            ends.pop()
            num_left_out += 1
        sides.append(ends)
    return [(x1, y1, x2, y2) for y1, y2 in sides[1] for x1, x2 in sides[0]], num_left_out


def _cut_picture(image: Image, pixels: "Pixels", tile: Corners) -> Image:
    x1, y1, x2, y2 = tile
    return Image(
        path=f"{image.path}#{x1}_{y1}",
        data=encode_png(pixels.crop(tile)),
        width_px=x2 - x1,
        height_px=y2 - y1,
        mpp=image.mpp,
    )


def _cut_thing(cut: CutMask, tile: Corners) -> CutMask | None:
    """The part of an object that lies in the tile, counted from the tile's corner; None if there is none."""
    x1, y1, x2, y2 = tile
    left, top = max(x1 - cut.x_px, 0), max(y1 - cut.y_px, 0)
    bits = cut.bits[top : max(y2 - cut.y_px, 0), left : max(x2 - cut.x_px, 0)]
    return CutMask(cut.x_px + left - x1, cut.y_px + top - y1, bits) if bits.any() else None


MASKS = Source("masks", MasksConfig, "pictures with masks of objects: PNGs, label maps or Aperio outlines")
