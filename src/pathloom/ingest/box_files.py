"""Files of object boxes, Pascal VOC XML and COCO JSON, to one record a picture; no picture is opened here.

Numbers are taken as edges in pixels from the top left corner. VOC's own pixels count from 1 and include both ends,
but many tools write its files from 0, and none says which: at most 1 px is lost. VOC's `difficult` objects are
objects like all others. COCO's crowds (one box around many) are faults.
"""

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pathloom.schema import Box
from pathloom.stage import UserError

MAX_XML_BYTES = 4 * 2**20
"""Some ten thousand objects. Our own number, as the next one."""
MAX_JSON_BYTES = 2**30
"""COCO's own largest file, instances_train2017.json, has 0.45 GB."""


class Fault(NamedTuple):
    """Why a file or a box cannot be used; `label` is the box's, "" where it has none."""

    reason: str
    detail: str
    label: str = ""


class Marked(NamedTuple):
    """One picture as an annotation file describes it; nothing is checked against the picture yet.

    `names` are what it may be called, `boxes` (label, edges_px) as written, `fault` what spoils the whole file.
    """

    file: str
    names: tuple[str, ...]
    size_px: tuple[int, int] | None = None
    boxes: tuple[tuple[str, Box], ...] = ()
    faults: tuple[Fault, ...] = ()
    fault: Fault | None = None


# ------------------------------------------------------------------------------------------------ Pascal VOC
def read_voc(folder: Path) -> list[Marked]:
    """One record for each XML file of the folder, by name; a file that cannot be read has a `fault`."""
    return [_read_voc_file(path) for path in sorted(folder.iterdir()) if path.suffix.lower() == ".xml"]


def _read_voc_file(path: Path) -> Marked:
    root = parse_xml(path, "annotation", MAX_XML_BYTES)
    if isinstance(root, Fault):
        return Marked(path.name, (path.stem,), fault=root)
    # Only the last part: files were often marked in a folder of another machine.
    file = PureWindowsPath((root.findtext("filename") or "").strip()).name
    boxes: list[tuple[str, Box]] = []
    faults: list[Fault] = []
    for found in root.findall("object"):
        label = (found.findtext("name") or "").strip()
        edges = [_number(found.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        _sort_in(path.name, label, edges, boxes, faults)
    return Marked(
        file=path.name,
        names=tuple(dict.fromkeys([path.stem, *([file] if file else [])])),
        size_px=_stated_size(root.findtext("size/width"), root.findtext("size/height")),
        boxes=tuple(boxes),
        faults=tuple(faults),
    )


def parse_xml(path: Path, tag: str, max_bytes: int) -> ET.Element | Fault:
    """The root <tag> of a file. A document type is refused: its entities can make a small file fill the memory."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            return Fault("too_many_bytes", f"{path}: {size_bytes} bytes, at most {max_bytes} of XML are read")
        data = path.read_bytes()
        # Without NUL bytes it is no UTF-16, in which the parser would see words that the search does not. Other
        # encodings that the parser knows write these words as ASCII does.
        if b"\0" in data or re.search(rb"<!(DOCTYPE|ENTITY)", data, re.IGNORECASE):
            return Fault(
                "unsafe_xml", f"{path}: has a DOCTYPE or ENTITY, or is UTF-16; save it as plain UTF-8"
            )
        root = ET.fromstring(data)
    except (OSError, ET.ParseError, ValueError, LookupError) as error:  # the last two: unknown encodings
        return Fault("unreadable_xml", f"{path}: {error}")
    if root.tag != tag:
        return Fault("unreadable_xml", f"{path}: <{root.tag}> is not the <{tag}> that is needed")
    return root


# ------------------------------------------------------------------------------------------------------ COCO
class _CocoImage(BaseModel):
    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str
    bbox: Any = None
    iscrowd: bool | None = None


class _Coco(BaseModel):
    """The parts of a COCO file that are read; all others are passed over."""

    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory]


def read_coco(path: Path) -> list[Marked]:
    """One record for each image of the file, then one for each box of no image.

    Raises UserError for a file that is too large, no JSON or not built as COCO says.
    """
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UserError(f"{path}: more than {MAX_JSON_BYTES} bytes; split the file")
    try:
        coco = _Coco.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: not COCO JSON with images, annotations and categories: "
            f"{place}{': ' if place else ''}{first['msg']}"
        ) from error
    label_of = {category.id: category.name.strip() for category in coco.categories}
    images = {image.id: image for image in coco.images}
    if len(images) < len(coco.images):
        raise UserError(f"{path}: two images have the same id; give each its own")
    boxes: dict[int | str, list[tuple[str, Box]]] = {image_id: [] for image_id in images}
    faults: dict[int | str, list[Fault]] = {image_id: [] for image_id in images}
    orphans: list[Fault] = []
    for one in coco.annotations:
        label = label_of.get(one.category_id, "")
        if one.image_id not in images:
            orphans.append(Fault("missing_image", f"{path}: a box of the unknown image id {one.image_id!r}"))
        elif one.iscrowd:
            file = images[one.image_id].file_name
            faults[one.image_id].append(Fault("crowd", f"{file}: one box around many {label}", label))
        else:
            file, edges = images[one.image_id].file_name, _edges(one.bbox)
            _sort_in(file, label, edges, boxes[one.image_id], faults[one.image_id])
    return [
        Marked(
            file=image.file_name,
            names=(PurePosixPath(image.file_name.replace("\\", "/")).as_posix(),),
            size_px=_stated_size(image.width, image.height),
            boxes=tuple(boxes[image.id]),
            faults=tuple(faults[image.id]),
        )
        for image in coco.images
    ] + [Marked(path.name, (), fault=fault) for fault in orphans]


def _edges(bbox: Any) -> list[float]:
    """COCO's [x, y, width, height] to edges; NaN where it is none."""
    if not (isinstance(bbox, list) and len(bbox) == 4):
        return [math.nan]
    x, y, width, height = (_number(number) for number in bbox)
    return [x, y, x + width, y + height]


# ------------------------------------------------------------------------------------------------------ both
def _number(value: Any) -> float:
    """NaN for anything that is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _stated_size(width_px: Any, height_px: Any) -> tuple[int, int] | None:
    """None where a file says nothing: some tools write zeros."""
    sides_px = [_number(width_px), _number(height_px)]
    return (int(sides_px[0]), int(sides_px[1])) if all(0 < side < math.inf for side in sides_px) else None


def _sort_in(
    file: str, label: str, edges: Sequence[float], boxes: list[tuple[str, Box]], faults: list[Fault]
) -> None:
    """Put one object with the boxes, or with the faults."""
    if not label:
        faults.append(Fault("no_label", f"{file}: a box without the name of what it holds"))
    elif not all(map(math.isfinite, edges)):
        faults.append(Fault("unreadable_box", f"{file}: a box of {label} without four numbers", label))
    else:
        x1, y1, x2, y2 = edges
        boxes.append((label, (x1, y1, x2, y2)))
