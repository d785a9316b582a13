"""What the tests of the review page and of its decisions share."""

import json
import re
from pathlib import Path
from typing import Any

from tests.fixtures import make_sample

from pathloom.curate.decisions import content_of, read_card
from pathloom.curate.review import write_page
from pathloom.schema import Event, Sample

NOON = "2026-01-02T12:00:00.000Z"


def labelled(sample_id: str, subfield: str | None = "ihc", probability: float | None = None) -> Sample:
    note = f"subfield {subfield}, probability {probability}"
    events = () if probability is None else (Event(step="curate.subfield", version=1, note=note, model="m"),)
    return make_sample(sample_id, task="caption", subfield=subfield, history=events)


def page_of(path: Path) -> dict[str, Any]:
    """The data of a page as a browser reads them: the text of the element up to the first end tag."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def ids_of(path: Path) -> list[str]:
    return [item["id"] for item in page_of(path)["items"]]


def example_page(folder: Path) -> Path:
    """A page that asks for the sub-field of samples a, b and c."""
    write_page([labelled(name) for name in "abc"], folder / "page.html", field="subfield", title="A page")
    return folder / "page.html"


def line(page: Path, sample_id: str = "a", value: str = "gross", **fields: Any) -> dict[str, Any]:
    card = read_card(page)
    given = {"reviewer": "Ada", "note": "", "page_id": card.page_id, "decided_at": NOON, "field": card.field}
    given["content"] = card.contents.get(sample_id, "0" * 16)
    return {"sample_id": sample_id, "value": value, **given, **fields}


def write_lines(path: Path, *lines: dict[str, Any], end: str = "") -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + end)
    return path


def decided(
    sample_id: str, value: str, reviewer: str = "Ada", field: str = "subfield", note: str = ""
) -> Any:
    """A line about `labelled(sample_id)`."""
    return {
        "sample_id": sample_id,
        "field": field,
        "value": value,
        "reviewer": reviewer,
        "note": note,
        "page_id": "0",
        "content": content_of(labelled(sample_id), field),
        "decided_at": NOON,
    }
