"""Stage `release`: Samples as the records of a published corpus, in the form that source `cytotext` reads.

    cytotext.json  a list of records, one a line
    images/        their pictures, byte for byte
    README.md      the card: counts, licences, and who described the pictures
    drops.jsonl    Samples that are no such record, with the reason

A record that came from such a corpus is written as it was: every key, in its order, with its own words. Only what has
been changed since is written anew: an attribute whose value is no longer what the words mean, the caption, the label.
Other Samples get the schema's words.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image as PILImage
from tqdm import tqdm

from pathloom.attributes import LANGUAGES, AttributeSchema, UnknownWords, load_schema
from pathloom.curate.annotate_config import ReleaseConfig
from pathloom.curate.curate import read_all
from pathloom.curate.release_card import Tally, card
from pathloom.images import BadImage, load_pixels
from pathloom.ingest.cytotext import IMAGES_FOLDER, SOURCE_ANNOTATOR, JsonRecord, is_inside, record_of
from pathloom.routing import awaits_review, review_note
from pathloom.schema import Annotation, Attribute, Drop, Image, Sample
from pathloom.stage import UserError, write_jsonl

RECORDS_FILE = "cytotext.json"
CARD_FILE = "README.md"
DROPS_FILE = "drops.jsonl"
_SUFFIX_OF = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",  # what Pillow calls a JPEG with several views in it, as some cameras write
    "TIFF": ".tif",
    "BMP": ".bmp",
    "WEBP": ".webp",
}


class _Unfit(Exception):
    """A Sample that is no record; `reason` is a short constant word for counting."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def run_release(config: ReleaseConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write the corpus; returns counts. Raises UserError where no Sample is a record."""
    tally = Tally()
    with (out / RECORDS_FILE).open("w", encoding="utf-8") as file:
        file.write("[")
        for record in _records(config, inputs, out, tally):
            file.write("\n" if tally.num_records == 1 else ",\n")
            file.write(json.dumps(record, ensure_ascii=False, allow_nan=False))
        file.write("\n]\n")
    if not tally.num_records:
        first = f": {tally.drops[0].reason}, {tally.drops[0].detail}" if tally.drops else ""
        raise UserError(f"{config.name}.samples: none of the Samples can be a record{first}")
    write_jsonl((drop.model_dump() for drop in tally.drops), out / DROPS_FILE)
    (out / CARD_FILE).write_text(card(config, tally), encoding="utf-8")
    return {"samples": tally.num_records, "drops": tally.reasons()}


def _records(
    config: ReleaseConfig, inputs: Mapping[str, Path], out: Path, tally: Tally
) -> Iterator[JsonRecord]:
    """Each record, once its picture is on the disk."""
    schema = load_schema(config.attributes)
    names: set[str] = set()
    for sample in tqdm(read_all(config.samples, inputs), desc=config.name, unit="sample", leave=False):
        try:
            record = as_record(sample, schema, config)
            name = str(PurePosixPath(record[config.keys.image]))
            if name in names:
                raise _Unfit("name_seen_before", f"{name}: an earlier Sample has this picture's name too")
            data = _bytes_of(sample.images[0])
        except _Unfit as error:
            tally.drops.append(
                Drop(sample_id=sample.id, step="release", reason=error.reason, detail=str(error))
            )
            continue
        path = out / IMAGES_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        names.add(name)
        tally.add(sample)
        yield record


def as_record(sample: Sample, schema: AttributeSchema, config: ReleaseConfig) -> JsonRecord:
    """The record of one Sample: its own words where they still hold, the schema's words in `language` elsewhere.

    Raises _Unfit for a Sample that is no description of one picture, and UserError where `keys` are not the source's.
    """
    keys = config.keys
    if sample.task != "caption":
        raise _Unfit("not_a_caption", f"a Sample of task {sample.task} asks something, and describes nothing")
    if awaits_review(sample):
        raise _Unfit("awaits_review", review_note(sample) or "")
    if len(sample.images) != 1:
        raise _Unfit("not_one_picture", f"{len(sample.images)} pictures; a record has one")
    source = next(
        (one for one in sample.annotations if one.annotator == SOURCE_ANNOTATOR), Annotation(annotator="")
    )
    if not sample.attributes and not source.said:
        raise _Unfit("nothing_described", "no attributes, and no words of a source")
    record = record_of(source) or {keys.image: _name_of(sample), keys.description: {}}
    label = sample.finding
    label_elsewhere = label is not None and keys.label not in record and label in record.values()
    if not {keys.image, keys.description} <= record.keys() or label_elsewhere:
        raise UserError(
            f"{config.name}.keys: the record of {sample.id} has the keys {', '.join(record)}; give those that "
            "it was read with"
        )
    if not is_inside(record[keys.image]):
        raise _Unfit("outside_root", f"{record[keys.image]}: leads out of the folder of pictures")
    record[keys.description] = _description(record[keys.description], sample, schema, config)
    if sample.answer != source.caption:
        record[keys.caption] = _caption(sample, schema, config)
    if sample.finding is None:
        record.pop(keys.label, None)
    else:
        record[keys.label] = sample.finding
    return record


def _description(
    given: Mapping[str, Any], sample: Sample, schema: AttributeSchema, config: ReleaseConfig
) -> dict[str, Any]:
    """Keys as the source gave them, then those of attributes that it did not have.

    Words that mean a value which the Sample no longer holds are left out.
    """
    held = {attribute.name: attribute for attribute in sample.attributes}
    schema.describe({name: one.value for name, one in held.items()})  # UserError for values of another schema
    names = [schema.name_of(key) for key in given]
    written: dict[str, Any] = {}
    for (key, words), name in zip(given.items(), names, strict=True):
        if name is None or names.count(name) > 1 or not isinstance(words, str):
            written[key] = words
            continue
        value = _read(schema, name, words)
        now = held.pop(name, None)
        if now is not None and now.value != value:
            written[key] = _words(now, schema, config)
        elif now is not None or value is None:
            written[key] = words
    added = {schema[one.name].title[config.language]: _words(one, schema, config) for one in held.values()}
    return {**written, **added}


def _caption(sample: Sample, schema: AttributeSchema, config: ReleaseConfig) -> str:
    """The Sample's own; in `language` if it is the one that the schema writes in any language."""
    values = {attribute.name: attribute.value for attribute in sample.attributes}
    written = sample.answer in [schema.describe(values, language) for language in LANGUAGES]
    return schema.describe(values, config.language) if written else sample.answer


def _words(attribute: Attribute, schema: AttributeSchema, config: ReleaseConfig) -> str:
    if attribute.text is not None and _read(schema, attribute.name, attribute.text) == attribute.value:
        return attribute.text
    return schema[attribute.name].say_each(attribute.value, config.language)


def _read(schema: AttributeSchema, name: str, words: str) -> str | None:
    try:
        return schema.read(name, words)
    except UnknownWords:
        return None


def _name_of(sample: Sample) -> str:
    """GROUP_SAMPLE.suffix, so that source `cytotext` finds the groups again; as hashes, because ids may name people."""
    group = "\0".join(sample.origin.cluster)
    return f"{_digest(group)}_{_digest(sample.id)}{_suffix(sample.images[0])}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _suffix(image: Image) -> str:
    with PILImage.open(io.BytesIO(_bytes_of(image))) as picture:
        return _SUFFIX_OF[str(picture.format)]


def _bytes_of(image: Image) -> bytes:
    """The picture's file as it is, decoded once to see that it is whole and still the one of ingest. Raises _Unfit."""
    try:
        data = image.data if image.data is not None else Path(image.path).read_bytes()
        load_pixels(image.model_copy(update={"data": data}))
    except OSError as error:
        raise _Unfit("unreadable", f"{image.path}: {error.strerror}; was the source moved?") from error
    except BadImage as error:
        raise _Unfit(error.reason, str(error)) from error
    return data
