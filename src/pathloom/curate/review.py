"""The review page: one HTML file, without network, on which a person decides about Samples and exports the decisions.

What the page shows was written by books, models and annotators, so all of it is hostile text here: it travels as JSON
in which no tag can open or close, the page's script writes it as text only, and the page's policy runs no other script.
"""

import base64
import hashlib
import heapq
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image as PILImage

from pathloom.curate.decisions import (
    ATTRIBUTES_ARE_RIGHT,
    BOTH_ARE_RIGHT,
    CLASS_IS_RIGHT,
    DROP,
    DROP_REASONS,
    FIELDS,
    KEEP,
    KEPT,
    NEITHER_IS_RIGHT,
    PAGE_DATA,
    content_of,
    values_of,
)
from pathloom.curate.expert import BREAK_JOIN
from pathloom.images import BadImage, load_pixels
from pathloom.routing import CONTRADICTION, awaits_review, review_note
from pathloom.schema import Attribute, Event, Image, Sample
from pathloom.stage import UserError
from pathloom.store import read_samples

# All of our own choice. 200 pictures of drawn tissue made a page of 21 MB, which Chromium opened in half a second.
MAX_SIDE_PX = 512
JPEG_QUALITY = 85
MAX_IMAGES_PER_SAMPLE = 8
MAX_TEXT_CHARS = 20_000
MAX_PAGE_BYTES = 48_000_000

ORDERS = ("uncertain", "sample")

_ASKS: Mapping[str, str] = {
    "subfield": "Which sub-field is it?",
    "organ": "Which organ system is it?",
    "keep": "Is this sample right?",
    CONTRADICTION: "Class and attributes contradict each other. Which is right?",
}
_CONTRADICTION_LABELS: Mapping[str, str] = {
    CLASS_IS_RIGHT: "The class is right: correct the attributes",
    ATTRIBUTES_ARE_RIGHT: "The attributes are right: take the class away",
    BOTH_ARE_RIGHT: "Both are right: keep them",
    NEITHER_IS_RIGHT: "Neither is right: drop the sample",
}
_COMMAND_KEYS = "hlunef"


class _Unseen(dict[int, str]):
    """Code point -> what is shown: pictures of the controls, a mark for other characters that hide or reorder text
    (Unicode's categories Cc, Cf, Zl and Zp), the character itself otherwise.
    """

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp"):
            char = chr(0x2400 + code) if code < 0x20 else {0x7F: "\u2421"}.get(code, "\ufffd")
        self[code] = char
        return char


_UNSEEN = _Unseen()


@dataclass(frozen=True)
class WrittenPage:
    """What was written: `num_shown` of `num_samples` Samples; `full` where the bytes and not the limit ended it."""

    page_id: str
    num_shown: int
    num_samples: int
    num_bytes: int
    full: bool


def write_page(
    samples: Iterable[Sample],
    out: Path,
    *,
    field: str,
    title: str,
    choices: Sequence[str] = (),
    suggested: Callable[[Sample], str | None] | None = None,
    confidence: Callable[[Sample], float | None] | None = None,
    limit: int = 200,
    order: str = "uncertain",
    seed: int = 0,
    max_bytes: int = MAX_PAGE_BYTES,
) -> WrittenPage:
    """Write the page `out` that asks for `field` of at most `limit` Samples and at most `max_bytes` of data.

    `field` is one of FIELDS or any other word together with `choices`. `suggested` is the label that Enter accepts
    (default: the Sample's own), `confidence` in [0, 1] that of the suggestion (default: from the Sample's history).
    Order `uncertain`: lowest confidence first, then Samples without one, then those that the step `reviewed` has seen;
    `sample`: drawn by `seed`. Either is the same however the Samples are ordered. Memory holds `limit` Samples.
    The field `contradiction` shows the Samples that await review, no others.

    Raises UserError.
    """
    if order not in ORDERS:
        raise UserError(f"--order {order}: known orders are {', '.join(ORDERS)}")
    if limit < 1:
        raise UserError(f"--limit {limit}: at least 1 sample is needed")
    asked = _asked(field, choices)
    if field == CONTRADICTION:
        samples = filter(awaits_review, samples)
    suggest = suggested or (lambda sample: _own_label(sample, field))
    confide = confidence or (lambda sample: confidence_of(sample, field))
    num_samples = 0

    def key(sample: Sample) -> tuple[bool, float, str]:
        nonlocal num_samples
        num_samples += 1
        drawn = hashlib.sha256(f"{seed} {sample.id}".encode()).hexdigest()
        if order == "sample":
            return (False, 0.0, drawn)
        known = confide(sample)
        return (_is_reviewed(sample, field), 2.0 if known is None else known, drawn)

    items: list[dict[str, Any]] = []
    num_bytes, full, ids = 0, False, set()
    for sample in heapq.nsmallest(limit, samples, key=key):
        if sample.id in ids:
            raise UserError(f"two samples are named {sample.id!r}: a decision could not tell them apart")
        ids.add(sample.id)
        item = _item(sample, suggest(sample), confide(sample), asked["values"], content_of(sample, field))
        if field == CONTRADICTION:
            item["contradiction"] = _contradiction(sample)
        num_bytes += len(json.dumps(item))
        if full := (num_bytes > max_bytes and bool(items)):
            break
        items.append(item)
    if not items and field == CONTRADICTION:
        raise UserError("no sample awaits review: the step `expert` sent none, or reviewers have settled all")
    if not items:
        raise UserError("there are no samples to review; does the stage that should hold them hold any?")
    page_id = hashlib.sha256(json.dumps([asked, items], sort_keys=True).encode()).hexdigest()[:12]
    text = _html({"page_id": page_id, "title": title, **asked, "items": items})
    _write_whole(text, out)
    return WrittenPage(page_id, len(items), num_samples, len(text.encode()), full)


def samples_of(stage: str, runs: Path) -> tuple[Path, Iterator[Sample]]:
    """The folder of a stage, given as a path or by its name under `runs`, and its Samples. Raises UserError."""
    for folder in (Path(stage), runs / stage):
        if any((folder / "samples").glob("*.parquet")):
            return folder, read_samples(folder)
    raise UserError(
        f"{stage}: neither it nor {runs / stage} is a stage folder with samples; `pathloom list runs` names them"
    )


def page_lines(page: WrittenPage, out: Path, field: str) -> list[str]:
    """What was written and what to do next, for the terminal."""
    of = f"{page.num_shown} of {page.num_samples} samples, {page.num_bytes / 1e6:.1f} MB, page {page.page_id}"
    full = [f"the page is full at {MAX_PAGE_BYTES / 1e6:.0f} MB, so it holds fewer samples than --limit"]
    return [
        f"{out}: {of}",
        *(full if page.full else []),
        "next: open it in a browser (it needs no network), decide, press E to export, then",
        f"  pathloom review --apply EXPORT.jsonl --into reviews/{field}.jsonl --out {out}",
    ]


def confidence_of(sample: Sample, field: str) -> float | None:
    """The probability of the label that a Sample holds, from the last event that gave it: "subfield ihc, probability
    0.62". None where no event tells it or the label was changed since.
    """
    label = _own_label(sample, field)
    told = re.compile(rf"{re.escape(field)} (.+), probability (\d+(?:\.\d+)?(?:[eE]-?\d+)?)")
    for event in reversed(sample.history):
        if event.step == f"curate.{field}" and (found := told.fullmatch(event.note)):
            probability = float(found[2])
            return probability if found[1] == label and probability <= 1 else None
    return None


def _is_reviewed(sample: Sample, field: str) -> bool:
    notes = [event.note for event in sample.history if event.step == "curate.reviewed"]
    return any(note == KEPT if field == "keep" else note.startswith(f"{field} ") for note in notes)


def _own_label(sample: Sample, field: str) -> str | None:
    return {"subfield": sample.subfield, "organ": sample.organ}.get(field)


def _asked(field: str, choices: Sequence[str]) -> dict[str, Any]:
    """What the page asks: `values` may be exported; a choice without a value opens the `reasons`."""
    if field in ("keep", CONTRADICTION) and choices:
        raise UserError(f"choices cannot be given for the field {field!r}")
    values = tuple(choices) or values_of(field)
    if not values:
        raise UserError(f"--field {field}: known fields are {', '.join(FIELDS)}")
    if field == "keep":
        first = [
            {"value": KEEP, "label": "Keep", "key": "k"},
            {"value": None, "label": "Drop \u2026", "key": "d"},
        ]
        reasons = [
            {"value": f"{DROP}: {reason}", "label": reason, "key": str(number)}
            for number, reason in enumerate(DROP_REASONS, start=1)
        ]
    else:
        labels = _CONTRADICTION_LABELS if field == CONTRADICTION else {}
        pairs = zip(values, _keys(values), strict=True)
        first = [{"value": v, "label": labels.get(v, v), "key": key} for v, key in pairs]
        reasons = []
    ask = _ASKS.get(field, f"{field}?")
    return {"field": field, "ask": ask, "values": list(values), "choices": first, "reasons": reasons}


def _keys(labels: Sequence[str]) -> list[str]:
    """A key for each choice: digits for up to ten, otherwise the first free letter of the label, else any free one."""
    if len(labels) <= 10:
        return list("1234567890"[: len(labels)])
    free = [letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in _COMMAND_KEYS]
    if len(labels) > len(free):
        raise UserError(f"{len(labels)} choices, but the page has keys for at most {len(free)}")
    keys = []
    for label in labels:
        letter = next((letter for letter in label.lower() if letter in free), free[0])
        free.remove(letter)
        keys.append(letter)
    return keys


def _item(
    sample: Sample, suggestion: str | None, confidence: float | None, values: Sequence[str], content: str
) -> dict[str, Any]:
    """One Sample as the page shows it. `id`, `content` and `suggestion` are exact, all else is cleaned for the eye."""
    pictures = [_picture(sample, place) for place in range(min(len(sample.images), MAX_IMAGES_PER_SAMPLE))]
    return {
        "id": sample.id,
        "content": content,
        "name": _shown(sample.id),
        "suggestion": suggestion if suggestion in values else None,
        "confidence": confidence if suggestion in values else None,
        "images": pictures,
        "images_left_out": len(sample.images) - len(pictures),
        "question": _shown(sample.question),
        "choices": [{"text": _shown(choice), "right": choice == sample.answer} for choice in sample.choices],
        "answer_is": "Caption" if sample.task == "caption" else "Answer",
        "answer": _shown(sample.answer),
        "earlier": [[_shown(turn.question), _shown(turn.answer)] for turn in sample.earlier],
        "reasoning": _shown(sample.reasoning or ""),
        "context": _shown(sample.context),
        "facts": [[name, _shown(str(value))] for name, value in _facts(sample) if value not in (None, "")],
    }


def _contradiction(sample: Sample) -> dict[str, Any]:
    """The class, the rules that are broken, and every attribute with who gave it and what each annotator said."""
    lines = (review_note(sample) or "").split(BREAK_JOIN)
    attributes = [
        {
            "name": _shown(one.name.replace("_", " ")),
            "value": _shown(one.value),
            "by": one.resolver.replace("_", " "),
            "votes": _shown(_votes(one)),
            "broken": any(f": {one.name} is {one.value}, but " in line for line in lines),
        }
        for one in sample.attributes
    ]
    return {
        "finding": _shown(sample.finding or ""),
        "lines": list(map(_shown, lines)),
        "attributes": attributes,
    }


def _votes(attribute: Attribute) -> str:
    """Who said what: "all 3", or each value with those who said it."""
    said: dict[str, list[str]] = {}
    for vote in attribute.votes:
        said.setdefault(vote.value or "cannot tell", []).append(vote.annotator)
    if len(said) == 1 and attribute.value in said:
        return f"all {len(attribute.votes)}"
    return "; ".join(f"{value}: {', '.join(who)}" for value, who in said.items())


def _facts(sample: Sample) -> list[tuple[str, object]]:
    origin = sample.origin
    last: Event | None = next((event for event in reversed(sample.history) if event.model), None)
    return [
        ("source", origin.source),
        ("source id", origin.source_id),
        ("licence", origin.licence),
        ("group", origin.group),
        ("page", origin.page),
        ("panel", origin.panel),
        ("task", sample.task.replace("_", " ")),
        ("split", sample.split),
        ("sub-field", sample.subfield),
        ("organ", sample.organ),
        ("level", sample.level),
        ("finding", sample.finding),
        ("model", f"{last.model} ({last.step})" if last else None),
    ]


def _shown(text: str) -> str:
    """Text for the eye: what hides or reorders text is made visible, and what is over-long is cut with a mark."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n").translate(_UNSEEN)
    if len(plain) <= MAX_TEXT_CHARS:
        return plain
    return f"{plain[:MAX_TEXT_CHARS]} [{len(plain) - MAX_TEXT_CHARS} more characters are not shown]"


def _picture(sample: Sample, place: int) -> dict[str, Any]:
    """A thumbnail with its labelled boxes in fractions of its sides, or the reason why there is none."""
    image: Image = sample.images[place]
    size = f"{image.width_px} \u00d7 {image.height_px} px"
    about = size if image.mpp is None else f"{size}, {image.mpp:.3g} \u00b5m a pixel"
    try:
        pixels = load_pixels(image)
    except BadImage as error:
        return {"src": None, "about": about, "fault": _shown(str(error)), "boxes": []}
    pixels.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), PILImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    pixels.save(buffer, format="JPEG", quality=JPEG_QUALITY)
    sides = (image.width_px, image.height_px, image.width_px, image.height_px)
    boxes = [
        {
            "label": _shown(region.label or ""),
            "at": [round(min(max(x / side, 0), 1), 4) for x, side in zip(region.box_px, sides, strict=True)],
        }
        for region in sample.regions
        if region.image == place
    ]
    src = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"src": src, "width": pixels.width, "height": pixels.height, "about": about, "boxes": boxes}


def _html(data: Mapping[str, Any]) -> str:
    here = Path(__file__).parent
    script = (here / "review_page.js").read_text(encoding="utf-8")
    style = (here / "review_page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("review_page.html.j2").render(
        title=_shown(str(data["title"])),
        data=PAGE_DATA + _json_for_html(data) + "</script>",
        # The policy names the page's own script and style by their digests, so that no other can come in.
        script=script,
        script_digest=_digest(script),
        style=style,
        style_digest=_digest(style),
    )


def _json_for_html(data: Mapping[str, Any]) -> str:
    """JSON on one line that holds no `<`, `>` or `&`, so that nothing in it ends or opens a tag."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write_whole(text: str, out: Path) -> None:
    """Whole or not at all: an older page stays until the new one is complete."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(out)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
