"""What the two models of the VLM route reply, read strictly: a reply that could be half of one is refused.

Every refusal is a ValueError with its reason, so that `pathloom.generate.ask` asks again.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from pathloom.books.geometry import covered
from pathloom.books.prompts import Frame
from pathloom.schema import Box, Record

NONE_REPLIES = frozenset({"", "none", "null", "[]", "{}", "[{}]", "无"})
"""Replies, and captions in one, that say that there is nothing; compared in lower case without quotes and full stop."""

MIN_ON_PAGE = 0.5
"""A box of which less than this share of the area lies on the page counts in another frame; our own choice."""

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)
_MAX_STARTS = 1000  # opening brackets that are tried; bounds the time on a reply that is nothing but brackets


class Entry(Record):
    """A figure without parts, or one panel, as the model gives it; the box in pixels of the picture it saw.

    `caption` has the description that all panels share in front; `number` and `panel` as printed, "" where unknown.
    """

    box_px: Box
    caption: str
    number: str = ""
    panel: str = ""


def read_alignment(text: str, width_px: int, height_px: int, frame: Frame) -> tuple[Entry, ...]:
    """The captioned figures and panels that a model found on a picture; none for the None token and empty forms.

    Boxes are clamped to the picture. Corners in another order are put right: two corners span one box. An entry that
    is given twice counts once; one whose caption is empty or None is no captioned figure. Other keys are passed over.
    Raises ValueError for no array or two, a box that is not four finite numbers with an area on the page, and a caption
    that is no text.
    """
    entries = [
        Entry(
            box_px=_box_px(place, item.get("bbox"), width_px, height_px, frame),
            caption=caption,
            # No float: 3.1 may stand for figure 3.10.
            number=_text(place, "number", item, str, int),
            panel=_text(place, "panel", item, str, int),
        )
        for place, item in enumerate(parse_array(text), start=1)
        if (caption := _caption(place, item))
    ]
    return tuple(dict.fromkeys(entries))


def read_references(text: str, numbers: Sequence[str]) -> tuple[str, ...]:
    """The `inline_ref` of each figure, in the order in which their `numbers` were sent; "" for none.

    Only this key is read. Raises ValueError for a list of another length or order, and for an entry without the key.
    """
    items = parse_array(text)
    if len(items) != len(numbers):
        raise ValueError(f"{len(items)} entries for {len(numbers)} figures")
    return tuple(
        _inline_ref(place, item, number)
        for place, (item, number) in enumerate(zip(items, numbers, strict=True), start=1)
    )


def parse_array(text: str) -> list[dict[str, Any]]:
    """The one array of JSON objects in a text; an empty list for NONE_REPLIES.

    A thought before it is passed over. Of a text with a fenced block only the block counts. Raises ValueError for no
    array, a second one, and one that is cut off: what is missing could be a figure.
    """
    _, closed, after = text.rpartition("</think>")
    if "<think>" in after or ("<think>" in text and not closed):
        raise ValueError("a thought that is never closed")
    fenced = _FENCE.search(after)
    content = fenced[1] if fenced else after
    if _says_none(content):
        return []
    decoder = json.JSONDecoder()
    found: list[list[dict[str, Any]]] = []
    start = content.find("[")
    for _ in range(_MAX_STARTS):
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(content, start)
        except (ValueError, RecursionError):
            # A bracket in prose, or an array that is cut off; the boxes in one are no arrays of objects.
            end = start + 1
        else:
            if value and all(isinstance(item, dict) for item in value):
                found.append(value)
        start = content.find("[", end)
    if len(found) != 1:
        raise ValueError("two arrays of JSON objects" if found else "no whole array of JSON objects")
    return found[0]


def _says_none(text: str) -> bool:
    return "".join(text.split()).strip("\"'`*。.").casefold() in NONE_REPLIES


def _caption(place: int, item: dict[str, Any]) -> str:
    """On one line; "" for an entry that says that it has none."""
    if item and "caption" not in item:
        raise ValueError(f"entry {place} has no caption")
    return " ".join(_text(place, "caption", item, str).split())


def _box_px(place: int, values: object, width_px: int, height_px: int, frame: Frame) -> Box:
    shown = str(values)[:80]
    if not (
        isinstance(values, list) and len(values) == 4 and all(type(each) in (int, float) for each in values)
    ):
        raise ValueError(f"entry {place}: bbox {shown} is not four numbers")
    try:
        x1, y1, x2, y2 = map(float, values)
    except OverflowError:  # a whole number beyond 1e308
        x1 = y1 = x2 = y2 = math.inf
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f"entry {place}: bbox {shown} is not finite")
    scale_x, scale_y = (1.0, 1.0) if frame == "px" else (width_px / 1000, height_px / 1000)
    left, right = sorted((x1 * scale_x, x2 * scale_x))
    top, bottom = sorted((y1 * scale_y, y2 * scale_y))
    if not (left < right and top < bottom):
        raise ValueError(f"entry {place}: bbox {shown} has no area")
    page = (0.0, 0.0, float(width_px), float(height_px))
    if covered((left, top, right, bottom), page) < MIN_ON_PAGE:
        raise ValueError(
            f"entry {place}: bbox {shown} lies off the page of {width_px}x{height_px} px ({frame})"
        )
    return (max(left, 0.0), max(top, 0.0), min(right, page[2]), min(bottom, page[3]))


def _inline_ref(place: int, item: dict[str, Any], number: str) -> str:
    if str(item.get("number", number)) != number:
        raise ValueError(f"entry {place} is of figure {item['number']}, and {number} was asked for")
    if "inline_ref" not in item:
        raise ValueError(f"entry {place} has no inline_ref")
    return _text(place, "inline_ref", item, str)


def _text(place: int, key: str, item: dict[str, Any], *types: type) -> str:
    """The value, of one of these types, as text; "" where it is missing or says none."""
    value = item.get(key)
    if value is None:
        return ""
    if type(value) not in types:
        raise ValueError(f"entry {place}: {key} {str(value)[:80]} is no text")
    text = str(value).strip()
    text.encode()  # raises a ValueError for half of a surrogate pair, which JSON can hold and no file can
    return "" if _says_none(text) else text
