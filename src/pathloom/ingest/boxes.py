"""Source `boxes`: pictures with object boxes in Pascal VOC XML or COCO JSON; one question a picture and label.

`annotations` is a folder of VOC files, one a picture, or one COCO file. A VOC file belongs to the picture directly
in `images` that has its stem or its <filename>; when these lead to two pictures, neither is taken. COCO's `file_name`
is a path below `images`.

An edge beyond the picture is cut at it, and identical boxes are merged; the Sample's history says so.
"""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from pathloom.images import SUFFIXES, BadImage, read_image
from pathloom.ingest.box_files import Fault, Marked, read_coco, read_voc
from pathloom.ingest.pictures import PicturesConfig, size_and_time
from pathloom.ingest.source import Source, fingerprint
from pathloom.schema import Box, Drop, Event, Image, Origin, Region, Sample
from pathloom.stage import UserError
from pathloom.tasks.boxes import MAX_BOXES

STEP = "ingest.boxes"


class Asked(NamedTuple):
    """A question about one picture: its id within the picture, the words, the boxes as written."""

    label: str
    words: str
    boxes: tuple[Box, ...]


class Unit(NamedTuple):
    """One picture with all that is asked about it, or (`path` is "") one file that fits no picture."""

    name: str
    faults: tuple[Fault, ...]
    path: str = ""
    group: str = ""
    split: str = ""
    size_px: tuple[int, int] | None = None
    asked: tuple[Asked, ...] = ()
    size_and_time: tuple[int, int] = (0, 0)


class BoxesConfig(PicturesConfig):
    """Entry of a recipe: `{name: cells, kind: ingest, source: boxes, images: FOLDER, annotations: FOLDER or FILE}`."""

    version: ClassVar[int] = 1

    source: Literal["boxes"]
    images: Path = Field(description="folder of the pictures")
    annotations: Path = Field(description="folder of Pascal VOC XML files, or one COCO JSON file")
    dataset: str = Field(default="boxes", description="name under which the data are reported")
    question: str = "Find each {what}."
    labels: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default={},
        description="label in the files -> words asked about; labels that share words are asked about together, "
        "others not at all. Empty: every label as it stands",
    )
    include_absent: bool = Field(
        default=False,
        description="also ask about labels that a picture has no box of; right only if every picture was searched "
        "for every label",
    )

    @field_validator("question")
    @classmethod
    def _question_says_what(cls, question: str) -> str:
        if "{what}" not in question:
            raise ValueError("needs the field {what}, where the words of a label are put")
        return question

    def check(self) -> None:
        self.plan()

    def fingerprint(self) -> str:
        return fingerprint(self.plan())

    def plan(self) -> Sequence[Unit]:
        return self._units

    @cached_property
    def _units(self) -> Sequence[Unit]:
        if not self.images.is_dir():
            raise UserError(f"{self.name}.images: {self.images} is not a folder; give that of the pictures")
        marked = self._marked()
        pictures = {
            path.relative_to(self.images).as_posix(): path
            for path in sorted(self.images.rglob("*"))
            if path.suffix.lower() in SUFFIXES
        }
        found, unusable = match_pictures(marked, pictures, self.images)
        if not found:
            first = f" ({unusable[0].faults[0].detail})" if unusable else ""
            raise UserError(
                f"{self.name}.annotations: no entry of {self.annotations} fits a picture in {self.images}{first}"
            )
        words_of = self._words_of(sorted({label for one in found.values() for label, _ in one.boxes}))
        # One label for all pictures: only their number is dealt evenly. A picture has many labels, and their
        # combinations are too rare to stand on every side of the split.
        decided = self.group_and_split(list(found), ["picture"] * len(found))
        return [
            *unusable,
            *(
                Unit(
                    name,
                    tuple(fault for fault in one.faults if fault.label in ("", *words_of)),
                    str(pictures[name].resolve()),
                    group,
                    split,
                    one.size_px,
                    tuple(self._asked(one, words_of)),
                    size_and_time(pictures[name]),
                )
                for (name, one), (group, split) in zip(found.items(), decided, strict=True)
            ),
        ]

    def _marked(self) -> list[Marked]:
        if self.annotations.is_dir():
            marked = read_voc(self.annotations)
            if not marked:
                raise UserError(
                    f"{self.name}.annotations: {self.annotations} holds no .xml file; give the folder of the Pascal "
                    "VOC files, or the COCO file itself"
                )
            return marked
        if self.annotations.is_file():
            return read_coco(self.annotations)
        raise UserError(
            f"{self.name}.annotations: {self.annotations} is neither a folder (of Pascal VOC files) nor a COCO file"
        )

    def _words_of(self, known: Sequence[str]) -> dict[str, str]:
        """Label -> words of all labels that are asked about."""
        if not known:
            raise UserError(f"{self.name}.annotations: {self.annotations} holds no box with a label")
        for label in self.labels:
            if label not in known:
                near = difflib.get_close_matches(label, known, n=1)
                raise UserError(
                    f"{self.name}.labels: no box is labelled {label!r}"
                    f"{f', did you mean {near[0]!r}?' if near else ''}; known: {', '.join(known)}"
                )
        return dict(self.labels) or {label: label for label in known}

    def _asked(self, one: Marked, words_of: Mapping[str, str]) -> Iterator[Asked]:
        doubtful = {fault.label for fault in one.faults}  # boxes left out: their labels are not absent
        for words in dict.fromkeys(words_of.values()):
            labels = [label for label in words_of if words_of[label] == words]
            boxes = tuple(box for label, box in one.boxes if label in labels)
            if boxes or (self.include_absent and doubtful.isdisjoint(("", *labels))):
                yield Asked("+".join(labels), words, boxes)

    def read(self, unit: Unit) -> list[Sample | Drop]:
        picture_id = f"{self.dataset}/{unit.name}"
        drops = [self._drop(f"{picture_id}/{f.label}" if f.label else picture_id, f) for f in unit.faults]
        if not unit.path:
            return [*drops]
        try:
            image = read_image(Path(unit.path), mpp=self.mpp)
        except BadImage as error:
            return [*drops, self._drop(picture_id, Fault(error.reason, str(error)))]
        size_px = (image.width_px, image.height_px)
        if unit.size_px not in (None, size_px):
            detail = "{}: {}x{} px, but its annotation says {}x{}".format(unit.path, *size_px, *unit.size_px)
            return [*drops, self._drop(picture_id, Fault("other_size", detail))]
        records: list[Sample | Drop] = [*drops]
        for asked in unit.asked:
            records += self._ask(unit, asked, image)
        if not records:
            detail = "no box of a label that is asked about; include_absent would ask what is not there"
            records.append(self._drop(picture_id, Fault("nothing_to_ask", detail)))
        return records

    def _ask(self, unit: Unit, asked: Asked, image: Image) -> Iterator[Sample | Drop]:
        sample_id = f"{self.dataset}/{unit.name}/{asked.label}"
        placed = [_place(box, image) for box in asked.boxes]
        yield from (self._drop(sample_id, fault) for fault in placed if isinstance(fault, Fault))
        whole = [box for box in placed if not isinstance(box, Fault)]
        # Top to bottom, then left to right: a set of boxes has no order, so one is fixed for the answers taught.
        boxes = sorted(set(whole), key=lambda box: (box[1], box[0], box[3], box[2]))
        if len(boxes) > MAX_BOXES:
            detail = f"{len(boxes)} boxes; an answer has at most {MAX_BOXES}"
            yield self._drop(sample_id, Fault("too_many_boxes", detail))
        elif boxes or not asked.boxes:
            merged, cut = len(whole) - len(boxes), len(set(boxes) - set(asked.boxes))
            notes = [f"{merged} identical boxes merged"] * bool(merged) + [f"{cut} boxes cut"] * bool(cut)
            yield Sample(
                id=sample_id,
                task="boxes",
                split=unit.split,
                images=(image,),
                question=self.question.replace("{what}", asked.words),
                regions=tuple(Region(box_px=box, label=asked.words) for box in boxes),
                origin=Origin(
                    source=self.dataset, source_id=unit.path, licence=self.licence, group=unit.group
                ),
                history=(Event(step=STEP, version=self.version, note=", ".join(notes)),),
            )

    def _drop(self, sample_id: str, fault: Fault) -> Drop:
        return Drop(sample_id=sample_id, step=STEP, reason=fault.reason, detail=fault.detail)


def _place(box: Box, image: Image) -> Box | Fault:
    """The box cut at the picture's edges."""
    x1, y1, x2, y2 = box
    if not (x1 < x2 and y1 < y2):
        return Fault("no_area", f"{box} px has no area: x1 < x2 and y1 < y2 are needed")
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, image.width_px), min(y2, image.height_px)
    if not (x1 < x2 and y1 < y2):
        return Fault("outside", f"{box} px lies outside the picture of {image.width_px}x{image.height_px} px")
    return x1, y1, x2, y2


def match_pictures(
    marked: Sequence[Marked], pictures: Mapping[str, Path], folder: Path
) -> tuple[dict[str, Marked], list[Unit]]:
    """Picture name -> its annotation, and a Unit of faults for all that has no partner, or more than one."""
    named: dict[str, set[str]] = {}
    for name in pictures:
        for key in (name, str(PurePosixPath(name).with_suffix(""))):
            named.setdefault(key, set()).add(name)
    unusable: list[Unit] = []
    claims: list[tuple[str, Marked]] = []
    mentioned: set[str] = set()
    for one in marked:
        candidates = [named[name] for name in one.names if name in named]
        mentioned.update(*candidates)
        fitting = set.intersection(*candidates) if candidates else set()
        fault = one.fault
        if not candidates:
            fault = fault or Fault("missing_image", f"{one.file}: no {' or '.join(one.names)} in {folder}")
        elif len(fitting) != 1:
            several = ", ".join(sorted(set.union(*candidates)))
            fault = fault or Fault("several_images", f"{one.file}: may belong to each of {several}")
        if fault:
            unusable.append(Unit(one.file, (fault,)))
        else:
            claims.append((fitting.pop(), one))
    times = Counter(pictures[name].resolve() for name, _ in claims)
    found = {}
    for name, one in claims:
        if times[pictures[name].resolve()] == 1:
            found[name] = one
        else:
            detail = f"{one.file}: {pictures[name]} has more than one entry, and none may be all of it"
            unusable.append(Unit(one.file, (Fault("annotated_twice", detail),)))
    for name in pictures:
        if name not in mentioned:
            unusable.append(Unit(name, (Fault("not_annotated", f"{pictures[name]}: in no annotation file"),)))
    return found, unusable


BOXES = Source("boxes", BoxesConfig, "pictures with object boxes in Pascal VOC XML or COCO JSON")
