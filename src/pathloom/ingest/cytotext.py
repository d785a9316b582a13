"""Source `cytotext`: tiles of cells with descriptions in the form in which Singpath-CytoText is published.

    [{"image_name": "dEPhZAhdwBFttBzk_2363_130_280_244.jpg",
      "structured description": {"核大小": "增大", "核膜": "不规则", ...}, "caption": "...", "label": "ASC-H"}, ...]

The form is that of the data card (huggingface.co/datasets/zqiu96/Singpath_CytoText, commit 182dc7b): a JSON list of
records, or one record a line (*.jsonl), beside a folder of tiles on which the box of the anchor cell is drawn. The
example record at hand breaks off before the caption; `caption` and `label` are what the card's prose calls them, and
`keys` can name others.

- Nothing of a record is lost. Its words stand as they are in the annotation of annotator `source`: those of the
  description under their own keys, every other key as a JSON Pointer (RFC 6901) with its value as JSON, all in the
  record's order. The stage `release` writes the record from it.
- Words that the attribute schema can read also become attributes (resolver `source`, `text` the words). The Sample's
  history names the keys that it could not read.
- `group` is by default what stands before the first underscore of the file name. The card does not say what that part
  is; a slide is our guess. `groups` and `group_pattern` (pictures.py) name others.
- Drops: broken_record, name_seen_before, unknown_label, missing_image, outside_root, and what is wrong with pictures.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from pathloom.attributes import AttributeSchema, UnknownWords, load_schema
from pathloom.images import BadImage, read_image
from pathloom.ingest.pictures import PicturesConfig, size_and_time
from pathloom.ingest.source import Source, fingerprint
from pathloom.phantom.cytology import BETHESDA
from pathloom.schema import Annotation, Attribute, Drop, Event, Origin, Record, Said, Sample
from pathloom.stage import UserError

STEP = "ingest.cytotext"
SOURCE_ANNOTATOR = "source"
"""Who said the words of a record."""
IMAGES_FOLDER = "images"
MAX_NAME_BYTES = 1024
"""Of an image's name with its folders: our own choice, a quarter of Linux's PATH_MAX; a part has NAME_MAX, 255."""

JsonRecord = dict[str, Any]


class CytotextKeys(Record):
    """What the keys of a record are called."""

    image: str = "image_name"
    description: str = "structured description"
    caption: str = "caption"
    label: str = "label"


class Unit(NamedTuple):
    """One record as JSON with its picture, or (`reason` is not "") what is wrong with it."""

    name: str
    record: str = ""
    reason: str = ""
    detail: str = ""
    path: str = ""
    group: str = ""
    split: str = "train"
    size_and_time: tuple[int, int] = (0, 0)


class CytotextConfig(PicturesConfig):
    """Entry of a recipe: `{name: cells, kind: ingest, source: cytotext, records: FILE, images: FOLDER}`."""

    version: ClassVar[int] = 1

    source: Literal["cytotext"]
    records: Path = Field(description="*.json, a list of records, or *.jsonl, one a line")
    images: Path | None = Field(
        default=None, description="folder of the tiles; default: images/ beside the records"
    )
    dataset: str = Field(default="cytotext", description="name under which the data are reported")
    keys: CytotextKeys = CytotextKeys()
    labels: tuple[str, ...] = Field(
        default=BETHESDA, min_length=1, description="classes that a record may have"
    )
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    question: str = Field(default="请描述框中的细胞。", description="what the caption answers")
    group_pattern: str | None = Field(
        default=r"([^/_]+)[^/]*$",
        description="regular expression on the image's name; its brackets together name the group",
    )
    test_share: float = Field(default=0.2, ge=0, lt=0.6, description="0: all records are training data")

    def check(self) -> None:
        load_schema(self.attributes)
        if not self.records.is_file():
            raise UserError(
                f"{self.name}.records: {self.records} is not a file; give the JSON file of the records"
            )
        if not self._root.is_dir():
            raise UserError(f"{self.name}.images: {self._root} is not a folder; give the folder of the tiles")
        self.plan()

    def fingerprint(self) -> str:
        """ "" for files that `check` refuses: a recipe can be shown where its data are not."""
        there = self.records.is_file() and self._root.is_dir()
        return load_schema(self.attributes).digest + (fingerprint(self.plan()) if there else "")

    def plan(self) -> Sequence[Unit]:
        return self._units

    @property
    def _root(self) -> Path:
        return self.images or self.records.parent / IMAGES_FOLDER

    @cached_property
    def _units(self) -> Sequence[Unit]:
        units: list[Unit] = []
        labels: list[str] = []
        seen: set[str] = set()
        found: set[str] = set()
        for number, record in enumerate(_read_records(self.records), start=1):
            unit = self._unit(number, record)
            if not unit.reason and unit.name in seen:
                detail = f"{self.records}: record {number}: an earlier record has this picture too"
                unit = Unit(unit.name, reason="name_seen_before", detail=detail)
            if not unit.reason:
                assert isinstance(record, dict), "a record without a fault"
                seen.add(unit.name)
                labels.append(record.get(self.keys.label, "(no label)"))
                found |= record.keys()
            units.append(unit)
        if not labels:
            first = f": {units[0].reason}, {units[0].detail}" if units else ""
            raise UserError(f"{self.name}.records: {self.records} holds no record that can be read{first}")
        for field in self.keys.model_fields_set:
            if (key := getattr(self.keys, field)) not in found:
                raise UserError(f"{self.name}.keys.{field}: no record of {self.records} has the key {key!r}")
        return list(self._split(units, labels))

    def _unit(self, number: int, record: Any) -> Unit:
        fault = record if isinstance(record, _Fault) else _fault_of(record, self.keys)
        if fault is not None:
            detail = f"{self.records}: record {number}: {fault.detail}"
            return Unit(f"record-{number}", reason="broken_record", detail=detail)
        name = record[self.keys.image]
        label = record.get(self.keys.label)
        if label is not None and label not in self.labels:
            detail = f"{self.records}: record {number}: {label!r} is none of {', '.join(self.labels)}; see `labels`"
            return Unit(name, reason="unknown_label", detail=detail)
        path = self._root / name
        if not is_inside(name):
            return Unit(name, reason="outside_root", detail=f"{name}: leads out of {self._root}")
        if not path.is_file():
            return Unit(name, reason="missing_image", detail=f"{path}: not there")
        return Unit(name, _json(record), path=str(path.resolve()), size_and_time=size_and_time(path))

    def _split(self, units: Sequence[Unit], labels: Sequence[str]) -> Iterator[Unit]:
        names = [unit.name for unit in units if not unit.reason]
        rest = iter(self.group_and_split(names, labels))
        for unit in units:
            if unit.reason:
                yield unit
            else:
                group, split = next(rest)
                yield unit._replace(group=group, split=split)

    def read(self, unit: Unit) -> list[Sample | Drop]:
        sample_id = f"{self.dataset}/{unit.name}"
        if unit.reason:
            return [Drop(sample_id=sample_id, step=STEP, reason=unit.reason, detail=unit.detail)]
        try:
            image = read_image(Path(unit.path), mpp=self.mpp)
        except BadImage as error:
            return [Drop(sample_id=sample_id, step=STEP, reason=error.reason, detail=str(error))]
        record: JsonRecord = json.loads(unit.record)
        attributes, unread = _read_description(record[self.keys.description], load_schema(self.attributes))
        note = f"words of no one value: {', '.join(unread)}" if unread else ""
        return [
            Sample(
                id=sample_id,
                task="caption",
                split=unit.split,
                images=(image,),
                question=self.question,
                answer=record.get(self.keys.caption, ""),
                finding=record.get(self.keys.label),
                subfield="cytology",
                annotations=(annotation_of(record, self.keys),),
                attributes=attributes,
                origin=Origin(
                    source=self.dataset, source_id=unit.path, licence=self.licence, group=unit.group
                ),
                history=(Event(step=STEP, version=self.version, note=note),),
            )
        ]


CYTOTEXT = Source(
    "cytotext", CytotextConfig, "tiles of cells with descriptions, as Singpath-CytoText is published"
)


def annotation_of(record: JsonRecord, keys: CytotextKeys) -> Annotation:
    """All of a record, in its order; `record_of` gives it back.

    Words of the description stand under their own keys. Every other key, and what is no text or begins with "/" in the
    description, stands as a JSON Pointer with its value as JSON. Raises ValueError for what JSON cannot say.
    """
    said = []
    for key, value in record.items():
        said.append(Said(name=_pointer(key), text="{}" if key == keys.description else _json(value)))
        for name, words in value.items() if key == keys.description else ():
            if isinstance(words, str) and not name.startswith("/"):
                said.append(Said(name=name, text=words))
            else:
                said.append(Said(name=_pointer(key, name), text=_json(words)))
    return Annotation(annotator=SOURCE_ANNOTATOR, said=tuple(said), caption=record.get(keys.caption, ""))


def record_of(annotation: Annotation) -> JsonRecord:
    """The record that `annotation_of` was given."""
    record: JsonRecord = {}
    description: JsonRecord = {}
    for said in annotation.said:
        if not said.name.startswith("/"):
            description[said.name] = said.text
            continue
        key, *inner = (part.replace("~1", "/").replace("~0", "~") for part in said.name[1:].split("/"))
        if inner:
            record[key][inner[0]] = json.loads(said.text)
        else:
            record[key] = json.loads(said.text)
            description = record[key] if record[key] == {} else description
    return record


def is_inside(name: str) -> bool:
    """Whether a name can be that of a file below a folder."""
    path = PurePosixPath(name)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name
    fits = len(name.encode()) <= MAX_NAME_BYTES and all(len(part.encode()) <= 255 for part in path.parts)
    return bool(path.name) and not leaves and fits


def _pointer(*keys: str) -> str:
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Fault(NamedTuple):
    detail: str


class _Repeated(dict[str, Any]):
    """A JSON object in which a key stands twice: which of its values is meant nobody knows."""


def _object(pairs: list[tuple[str, Any]]) -> JsonRecord:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else _Repeated(pairs)


def _read_records(path: Path) -> Iterator[Any]:
    """Each record as JSON has it, or a _Fault for a line that is none. Raises UserError for a file that is no list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        for line in text.split("\n"):
            if line.strip():
                try:
                    yield json.loads(line, object_pairs_hook=_object)
                except (ValueError, RecursionError) as error:
                    yield _Fault(f"not JSON: {error}")
        return
    try:
        records = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}; one record a line needs the suffix .jsonl") from error
    if not isinstance(records, list):
        raise UserError(f"{path}: a list of records is needed, [{{...}}, {{...}}]")
    yield from records


def _fault_of(record: Any, keys: CytotextKeys) -> _Fault | None:
    """What keeps a value of JSON from being a record; None where nothing does."""
    if not isinstance(record, dict):
        return _Fault("not an object with keys")
    if _has_repeated_key(record):
        return _Fault("a key stands twice in it")
    if not isinstance(record.get(keys.image), str) or not record[keys.image].strip():
        return _Fault(f"no image name under {keys.image!r}")
    if not isinstance(record.get(keys.description), dict):
        return _Fault(f"no description, an object, under {keys.description!r}")
    for key in (keys.caption, keys.label):
        if not isinstance(record.get(key, ""), str):
            return _Fault(f"{key!r} is no text")
    try:
        _json(record).encode()
    except ValueError as error:  # infinite numbers, halves of surrogate pairs
        return _Fault(f"cannot be kept as it is: {error}")
    return None


def _has_repeated_key(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value, _Repeated) or any(map(_has_repeated_key, value.values()))
    return isinstance(value, list) and any(map(_has_repeated_key, value))


def _read_description(
    description: Mapping[str, Any], schema: AttributeSchema
) -> tuple[tuple[Attribute, ...], list[str]]:
    """The attributes that can be read, and the keys that cannot: unknown, in unknown words, or given twice.

    Words of somebody who cannot tell make neither.
    """
    names = [schema.name_of(key) for key in description]
    attributes, unread = [], []
    for (key, words), name in zip(description.items(), names, strict=True):
        if name is None or names.count(name) > 1 or not isinstance(words, str):
            unread.append(key)
            continue
        try:
            value = schema.read(name, words)
        except UnknownWords:
            unread.append(key)
            continue
        if value is not None:
            attributes.append(Attribute(name=name, value=value, text=words, resolver="source"))
    return tuple(attributes), unread
