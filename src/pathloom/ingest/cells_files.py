"""Files of cell boxes that people keep for slides: CSV tables and QuPath's GeoJSON, both in pixels of level 0."""

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ValidationError

from pathloom.ingest.box_files import MAX_JSON_BYTES, Fault, Marked, read_coco, read_voc
from pathloom.schema import Box
from pathloom.stage import UserError

GEOJSON = ".geojson"
EDGES = ("x1", "y1", "x2", "y2")


def read_boxes(place: Path) -> list[Marked]:
    """One record a picture, from a folder of Pascal VOC or GeoJSON files, or a COCO, CSV or GeoJSON file.

    Raises UserError for what is none of these.
    """
    if place.is_dir():
        files = [path for path in sorted(place.rglob("*")) if path.suffix.lower() in (".xml", GEOJSON)]
        suffixes = {path.suffix.lower() for path in files}
        if len(suffixes) != 1:
            found = "both .xml and .geojson files: keep one kind" if suffixes else "no .xml or .geojson file"
            raise UserError(f"{place}: holds {found}; give Pascal VOC or GeoJSON files, one a picture")
        if suffixes == {GEOJSON}:
            return [_read_geojson(path, place) for path in files]
        if below := [path for path in files if path.parent != place]:
            raise UserError(
                f"{place}: Pascal VOC files lie in one folder; move {below[0]} and its like there"
            )
        return read_voc(place)
    if not place.exists():
        raise UserError(f"{place}: there is no such file or folder of boxes")
    read = _READERS.get(place.suffix.lower())
    if read is None or not place.is_file():
        raise UserError(
            f"{place}: give a folder of Pascal VOC or GeoJSON files, or a .json (COCO), .csv or .geojson"
        )
    return read(place)


def _read_csv(path: Path) -> list[Marked]:
    """Columns file, x1, y1, x2, y2 and, if cells are named, label."""
    try:
        reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        missing = [column for column in ("file", *EDGES) if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"{path}: no column {', '.join(missing)}; file,x1,y1,x2,y2 and perhaps label are needed"
            )
        rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: save the table as CSV UTF-8") from error
    except csv.Error as error:  # a quote that never ends
        raise UserError(f"{path}: not a CSV table: {error}") from error
    boxes: dict[str, list[tuple[str, Box]]] = {}
    faults: dict[str, list[Fault]] = {}
    for line, row in rows:
        name, label = (row["file"] or "").strip(), (row.get("label") or "").strip()
        edges = [_number(row[edge]) for edge in EDGES]
        boxes.setdefault(name, [])
        if all(map(math.isfinite, edges)):
            boxes[name].append((label, (edges[0], edges[1], edges[2], edges[3])))
        else:
            fault = Fault("unreadable_box", f"{path}: line {line}: x1, y1, x2, y2 are not four numbers")
            faults.setdefault(name, []).append(fault)
    return [
        Marked(
            name,
            (PurePosixPath(name.replace("\\", "/")).as_posix(),),
            None,
            tuple(found),
            tuple(faults.get(name, ())),
        )
        for name, found in boxes.items()
    ]


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


class _Geometry(BaseModel):
    type: str
    coordinates: Any = None


class _Feature(BaseModel):
    geometry: _Geometry | None = None
    properties: Mapping[str, Any] | None = None


class _Collection(BaseModel):
    features: list[_Feature]


_DEPTH = {"Polygon": 1, "MultiPolygon": 2}
"""How many lists deep the rings of a geometry lie (RFC 7946, section 3.1)."""


def _read_geojson_file(path: Path) -> list[Marked]:
    return [_read_geojson(path, path.parent)]


def _read_geojson(path: Path, folder: Path) -> Marked:
    """Each polygon's bounding box; the label is QuPath's classification. The file is called as its picture is."""
    names = (path.relative_to(folder).as_posix().removesuffix(path.suffix),)
    if path.stat().st_size > MAX_JSON_BYTES:
        return Marked(
            path.name, names, fault=Fault("too_many_bytes", f"{path}: more than {MAX_JSON_BYTES} bytes")
        )
    try:
        collection = _Collection.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        detail = f"{path}: not a GeoJSON FeatureCollection (QuPath's export has a box to tick for it): {first['msg']}"
        return Marked(path.name, names, fault=Fault("unreadable_json", detail))
    boxes, faults = [], []
    for number, feature in enumerate(collection.features):
        box = _bounds(feature.geometry)
        if box is None:
            detail = f"{path}: feature {number} is no polygon of two or more points"
            faults.append(Fault("unreadable_box", detail))
        else:
            boxes.append((_classification(feature.properties or {}), box))
    return Marked(path.name, names, None, tuple(boxes), tuple(faults))


def _bounds(geometry: _Geometry | None) -> Box | None:
    depth = _DEPTH.get(geometry.type) if geometry else None
    if geometry is None or depth is None:
        return None
    try:
        points = [(float(point[0]), float(point[1])) for point in _points(geometry.coordinates, depth)]
    except (TypeError, ValueError, LookupError, OverflowError):
        return None
    if len(points) < 2 or not all(map(math.isfinite, chain.from_iterable(points))):
        return None
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _points(coordinates: Any, depth: int) -> Iterator[Sequence[Any]]:
    for part in coordinates:
        yield from _points(part, depth - 1) if depth else (part,)


def _classification(properties: Mapping[str, Any]) -> str:
    """QuPath 0.2 and later write {"classification": {"name": ...}}; others a plain word."""
    found = properties.get("classification") or ""
    name = found.get("name") if isinstance(found, Mapping) else found
    return str(name or "").strip()


_READERS: Mapping[str, Callable[[Path], list[Marked]]] = {
    ".json": read_coco,
    ".csv": _read_csv,
    GEOJSON: _read_geojson_file,
}
