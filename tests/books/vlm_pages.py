"""Pages, replies and a Generator for the tests of the VLM route. No model is asked."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.fixtures import encoded

from pathloom.books.vlm import BookAsking, PageView, VlmRoute
from pathloom.figures import Figure
from pathloom.generate.config import GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.generator import Generation, Request
from pathloom.schema import Image

WIDTH_PX, HEIGHT_PX = 112, 168
ROUTE = VlmRoute(generator=GeneratorRef(rules="phantom"), max_failed=1.0, max_unreadable=1.0)
WRITER = BookAsking(generator=GeneratorRef(rules="phantom"), max_failed=1.0, max_unreadable=1.0)


def view(number: int = 1, **fields: Any) -> PageView:
    """A page of 224 x 336 points, two points a pixel."""
    data = encoded(number, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    picture = Image(path=f"atlas/{number}", data=data, width_px=WIDTH_PX, height_px=HEIGHT_PX)
    given = {"book": "atlas", "picture": picture, "width_pt": 224.0, "height_pt": 336.0, "language": "en"}
    return PageView(number=number, **{**given, **fields})


def entry(caption: Any = "Gland.", box: Any = (10, 20, 50, 60), **keys: Any) -> dict[str, Any]:
    return {"bbox": list(box) if isinstance(box, tuple) else box, "caption": caption, **keys}


def reply(*entries: dict[str, Any]) -> str:
    return json.dumps(entries, ensure_ascii=False)


class Asked:
    """An `echo` in the place of every generator; notes what it was asked, by page where a picture tells it."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Request], str | Generation]
    ) -> None:
        self.requests: list[Request] = []

        def noted(request: Request) -> str | Generation:
            self.requests.append(request)
            return answer(request)

        monkeypatch.setattr(GeneratorRef, "open", lambda ref, inputs: Echo(noted, "m"))
        monkeypatch.setattr(GeneratorRef, "name", lambda ref: "m")

    @property
    def pages(self) -> list[int]:
        return [page_of(request) for request in self.requests]


def page_of(request: Request) -> int:
    return int(request.messages[-1].images[0].path.split("/")[1])


def figure(number: str = "3-2", page: int = 2, caption: str = "Gland.", **fields: Any) -> Figure:
    return Figure(page=page, box_pt=(0, 0, 9, 9), number=number, caption=caption, **fields)
