"""What reviewers decided: one JSON object a line, as the review page exports it and as a review file keeps it.

A review file holds one line for each (Sample, field, reviewer), the latest. `apply_export` merges an export of the page
into it; the step `reviewed` reads it. Each line says by a digest what it judged, since a Sample of the same id may hold
other text after a changed setting.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from pathloom.curate.words import ORGANS, SUBFIELDS
from pathloom.routing import CONTRADICTION, review_note
from pathloom.schema import Record, Sample
from pathloom.stage import UserError, write_jsonl

KEEP, DROP = "keep", "drop"
KEPT = "kept"
"""Note of the event in the history of a Sample that reviewers kept."""

DROP_REASONS = ("wrong answer", "not supported by the text", "reveals the text", "bad language", "other")
"""Our own list: what a pathologist can find wrong with a written sample."""

CLASS_IS_RIGHT, ATTRIBUTES_ARE_RIGHT = "class is right", "attributes are right"
BOTH_ARE_RIGHT, NEITHER_IS_RIGHT = "both are right", "neither is right"

FIELDS = ("subfield", "organ", CONTRADICTION, "keep")
"""What reviewers can be asked and the step `reviewed` can act on."""

SHOWN_CONFLICTS = 10

CONTENT_DIGITS = 16
"""Hexadecimal digits of SHA-256 that name a content: 64 bits, our own choice."""

PAGE_DATA = '<script type="application/json" id="data">'
"""Opens the data of a page; the end tag follows the only line of JSON, in which every `<` is written as an escape."""


def values_of(field: str) -> tuple[str, ...]:
    """The values that a reviewer chooses among; () for a field that is none of FIELDS."""
    if field == "subfield":
        return SUBFIELDS
    if field == "organ":
        return tuple(ORGANS)
    if field == CONTRADICTION:
        return (CLASS_IS_RIGHT, ATTRIBUTES_ARE_RIGHT, BOTH_ARE_RIGHT, NEITHER_IS_RIGHT)
    return (KEEP, *(f"{DROP}: {reason}" for reason in DROP_REASONS)) if field == "keep" else ()


def content_of(sample: Sample, field: str) -> str:
    """Digest of what a decision about `field` judges; a decision holds for a Sample only while this stays the same.

    `keep` judges what was written: question, options, answer, earlier turns and reasoning. `contradiction` judges class
    and attributes against the pictures, known by their names. Every other field is a label, judged from the pictures
    and what is told of them: question, answer (or caption), context and the file names of the pictures, without their
    folder, so that a moved source voids no review. A Sample's labels are no part of it.
    """
    names = [Path(image.path).name for image in sample.images]
    if field == "keep":
        earlier = [[turn.question, turn.answer] for turn in sample.earlier]
        judged: list[Any] = [sample.question, sample.choices, sample.answer, earlier, sample.reasoning]
    elif field == CONTRADICTION:
        held = [[attribute.name, attribute.value] for attribute in sample.attributes]
        judged = [sample.finding, held, review_note(sample), names]
    else:
        judged = [sample.question, sample.answer, sample.context, names]
    return hashlib.sha256(json.dumps(judged).encode()).hexdigest()[:CONTENT_DIGITS]


class Decision(Record):
    """One line: what one reviewer said about one field of one Sample. The page fills in everything.

    `content` is `content_of` the Sample that the reviewer saw.
    """

    sample_id: str
    field: str
    value: str
    reviewer: str = Field(min_length=1)
    note: str = ""
    page_id: str
    content: str = Field(pattern=f"^[0-9a-f]{{{CONTENT_DIGITS}}}$")
    decided_at: AwareDatetime

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.sample_id, self.field, self.reviewer)

    @property
    def verdict(self) -> str:
        """What reviewers agree or disagree on: the value, without the reason of a drop."""
        return self.value.partition(":")[0] if self.field == "keep" else self.value


@dataclass(frozen=True)
class PageCard:
    """What a page asked: the values that could be chosen and the Samples on it, id -> content."""

    page_id: str
    field: str
    values: tuple[str, ...]
    contents: Mapping[str, str]


@dataclass(frozen=True)
class Merged:
    """What an export did to a review file, counted in lines; `conflicts` are those of the whole file afterwards."""

    new: int
    changed: int
    unchanged: int
    conflicts: tuple[tuple[str, str], ...]
    notices: tuple[str, ...] = ()


def read_card(page: Path) -> PageCard:
    """The card of a review page, from the data inside it. Raises UserError where the file is none."""
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{page}: {error.strerror}; name with --out the page that the export came from"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{page} is not a review page of pathloom") from error
    found = re.search(f"{re.escape(PAGE_DATA)}(.*?)</script>", text, re.DOTALL)
    if found is None:
        raise UserError(f"{page} is not a review page of pathloom")
    data = json.loads(found[1])
    if not all("content" in item for item in data["items"]):
        raise UserError(
            f"{page} does not say what text it showed; write the page anew and review on that one"
        )
    contents = {item["id"]: item["content"] for item in data["items"]}
    return PageCard(data["page_id"], data["field"], tuple(data["values"]), contents)


def read_decisions(path: Path) -> list[Decision]:
    """All lines of a review file. Raises UserError naming file and line."""
    return [decision for _, decision in _read(path, [])]


def latest(decisions: Iterable[Decision]) -> dict[tuple[str, str, str], Decision]:
    """One decision a key, the latest; of two at the same time the one that comes later."""
    kept: dict[tuple[str, str, str], Decision] = {}
    for decision in decisions:
        old = kept.get(decision.key)
        if old is None or decision.decided_at >= old.decided_at:
            kept[decision.key] = decision
    return kept


def majority(decisions: Sequence[Decision]) -> str | None:
    """The verdict of more than half of the reviewers of one field of one Sample, or None."""
    verdict, votes = Counter(decision.verdict for decision in decisions).most_common(1)[0]
    return verdict if 2 * votes > len(decisions) else None


def conflicts(decisions: Iterable[Decision]) -> tuple[tuple[str, str], ...]:
    """The (sample id, field) on which reviewers of the same content disagree, whether or not there is a majority."""
    verdicts: dict[tuple[str, str, str], set[str]] = {}
    for decision in decisions:
        judged = (decision.sample_id, decision.field, decision.content)
        verdicts.setdefault(judged, set()).add(decision.verdict)
    return tuple(sorted({judged[:2] for judged, said in verdicts.items() if len(said) > 1}))


def apply_export(export: Path, into: Path, page: Path) -> Merged:
    """Merge what `page` exported into the review file `into`, which is made where it is missing and written whole.

    The latest decision of a (Sample, field, reviewer) wins, so the same export can be applied twice. Raises UserError
    naming file and line where a line is not one of this page; `into` is then as it was. A last line that was cut off
    becomes a notice.
    """
    card, notices = read_card(page), list[str]()
    lines = _read(export, notices, whole=False)
    for number, decision in lines:
        if fault := _fault(decision, card, page):
            raise UserError(f"{export}, line {number}: {fault}")
    if not lines:
        raise UserError(
            f"{export} holds no whole decision; export again from the page, which keeps what was decided"
        )
    kept = latest(read_decisions(into)) if into.exists() else {}
    counts: Counter[str] = Counter()
    for key, decision in latest(decision for _, decision in lines).items():
        old = kept.get(key)
        if old is None:
            counts["new"] += 1
        elif _said(old) == _said(decision) or decision.decided_at < old.decided_at:
            counts["unchanged"] += 1
            continue
        else:
            counts["changed"] += 1
        kept[key] = decision
    _write(kept, into)
    return Merged(
        new=counts["new"],
        changed=counts["changed"],
        unchanged=counts["unchanged"],
        conflicts=conflicts(kept.values()),
        notices=tuple(notices),
    )


def merge_lines(merged: Merged, into: Path) -> list[str]:
    """What an export changed and on what reviewers disagree, for the terminal."""
    lines = [f"notice: {notice}" for notice in merged.notices]
    lines.append(f"{into}: {merged.new} new, {merged.changed} changed, {merged.unchanged} unchanged")
    if merged.conflicts:
        named = ", ".join(f"{sample_id} ({field})" for sample_id, field in merged.conflicts[:SHOWN_CONFLICTS])
        more = len(merged.conflicts) - SHOWN_CONFLICTS
        lines.append(
            f"reviewers disagree on {len(merged.conflicts)}: {named}{f' and {more} more' if more > 0 else ''}"
        )
    lines.append(f"next: {{step: reviewed, files: [{into}]}} in a curate stage uses it")
    return lines


def _said(decision: Decision) -> tuple[str, str, str]:
    """What makes a decision another one: the same verdict on a changed text is."""
    return (decision.value, decision.note, decision.content)


def _fault(decision: Decision, card: PageCard, page: Path) -> str | None:
    if decision.page_id != card.page_id:
        return f"it is of page {decision.page_id}, but {page} is page {card.page_id}; name its own page with --out"
    if decision.field != card.field:
        return f"unknown field {decision.field!r}; {page} asks for {card.field!r}"
    if decision.value not in card.values:
        return f"unknown value {decision.value!r} of {card.field!r}; known: {', '.join(card.values)}"
    if decision.sample_id not in card.contents:
        return f"no sample {decision.sample_id!r} on {page}"
    if decision.content != card.contents[decision.sample_id]:
        return (
            f"content {decision.content} of {decision.sample_id!r}, but {page} shows "
            f"{card.contents[decision.sample_id]}; export again from that page"
        )
    return None


def _read(path: Path, notices: list[str], *, whole: bool = True) -> list[tuple[int, Decision]]:
    """(line number from 1, decision) of each line that is not blank.

    Unless the file has to be `whole`, a last line that is no JSON becomes a notice. Raises UserError.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    decisions = []
    for position, (number, line) in enumerate(numbered, start=1):
        try:
            decisions.append((number, Decision.model_validate_json(line)))
        except ValidationError as error:
            (first, *_) = error.errors(include_url=False)
            if first["type"] == "json_invalid" and not whole and position == len(numbered):
                notices.append(f"{path}, line {number}: cut off, left out; export again to have it")
                continue
            if (first["type"], first["loc"]) == ("missing", ("content",)):
                raise UserError(
                    f"{path}, line {number}: no `content`, so it does not say what text was judged; review again on "
                    "a new page of `pathloom review`"
                ) from error
            where = "".join(f"{place}: " for place in first["loc"])
            raise UserError(f"{path}, line {number}: {where}{first['msg']}") from error
    return decisions


def _write(kept: Mapping[tuple[str, str, str], Decision], into: Path) -> None:
    """Sorted by Sample, so that two states of a review file compare line by line; whole or as it was."""
    rows: Iterable[dict[str, Any]] = (kept[key].model_dump(mode="json") for key in sorted(kept))
    into.parent.mkdir(parents=True, exist_ok=True)
    partial = into.with_name(f".{into.name}.partial")
    try:
        write_jsonl(rows, partial)
        partial.replace(into)
    finally:
        partial.unlink(missing_ok=True)
