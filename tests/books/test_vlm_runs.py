"""The VLM route as a run: pages in, a Book out, over HTTP too, and no answer is paid for twice."""

import base64
import io
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image as PILImage
from tests.books.vlm_pages import ROUTE, WRITER, Asked, entry, figure, page_of, reply, view
from tests.generate import served

from pathloom.books.geometry import union
from pathloom.books.measure import measure, mistakes
from pathloom.books.quotes import Quoted
from pathloom.books.vlm import (
    Aligned,
    PageView,
    VlmRoute,
    ask_figures,
    to_book,
)
from pathloom.books.vlm_references import (
    PageText,
    Referred,
    ask_references,
    neighbours,
    page_texts,
    reference_request,
)
from pathloom.books.vlm_replies import read_references
from pathloom.figures import Book, Figure, Panel
from pathloom.generate.config import Asking, EndpointRef, GeneratorRef
from pathloom.generate.echo import Echo
from pathloom.generate.endpoint import EndpointSettings
from pathloom.generate.generator import Generation, Message, Request, Sampling
from pathloom.generate.local import Local
from pathloom.generate.store import AnswerStore
from pathloom.schema import Image
from pathloom.stage import UserError

PAGES = (1, 2, 3)


def aligned(folder: Path, views: Sequence[PageView] | None = None, route: VlmRoute = ROUTE) -> Aligned:
    with AnswerStore(folder / "answers.sqlite") as store:
        return ask_figures(lambda: views or [view(number) for number in PAGES], route, store, "books")


def referred(folder: Path, pages: Sequence[PageText], asking: Asking = WRITER) -> Referred:
    with AnswerStore(folder / "answers.sqlite") as store:
        return ask_references(lambda: pages, asking, store, "books")


def by_page(request: Request) -> str:
    return reply(entry(f"Gland {page_of(request)}.", number=str(page_of(request))))


# ---- alignment


def test_every_page_ends_with_figures_or_with_a_reason(monkeypatch, tmp_path):
    def answer(request: Request) -> str | Generation:
        match page_of(request):
            case 1:
                return by_page(request)
            case 2:
                return "None"
            case 3:
                return "the page shows a gland"
            case _:
                return Generation(model="m", error="http_400", detail="too large")

    asked = Asked(monkeypatch, answer)
    gone = Image(path=str(tmp_path / "gone.png"), width_px=112, height_px=168)
    views = [*map(view, range(1, 5)), view(5, picture=gone), view(1, book="other")]
    result = aligned(tmp_path, views)
    assert set(result.figures) == {("atlas", 1), ("atlas", 2), ("other", 1)}
    assert result.figures["atlas", 1][0].caption == "Figure 1. Gland 1."
    assert result.figures["atlas", 2] == ()
    assert {key: reason for key, (reason, _) in result.failures.items()} == {
        ("atlas", 3): "unreadable_answer",
        ("atlas", 4): "http_400",
        ("atlas", 5): "unreadable",
    }
    assert result.failures["atlas", 3][1] == "no whole array of JSON objects"
    assert (result.usage["pages"], result.usage["figures"]) == (6, 2)
    assert Counter(asked.pages) == {1: 1, 2: 1, 3: 3, 4: 1}, "three attempts, and equal pages are asked once"


def test_a_second_run_asks_nothing(monkeypatch, tmp_path):
    asked = Asked(monkeypatch, lambda request: "?" if page_of(request) == 2 else by_page(request))
    first = aligned(tmp_path)
    num_asked = len(asked.requests)
    assert num_asked == 1 + 3 + 1
    again = aligned(tmp_path)
    assert len(asked.requests) == num_asked
    assert (again.figures, again.failures) == (first.figures, first.failures)
    assert (first.usage["asked"], again.usage["asked"], again.usage["reused"]) == (5, 0, 3)


def test_a_killed_run_goes_on_with_the_pages_that_are_left(monkeypatch, tmp_path):
    killed = True

    def answer(request: Request) -> str:
        if killed and page_of(request) == 3:
            raise KeyboardInterrupt
        return by_page(request)

    asked = Asked(monkeypatch, answer)
    with pytest.raises(KeyboardInterrupt):
        aligned(tmp_path)
    killed = False
    result = aligned(tmp_path)
    assert asked.pages == [1, 2, 3, 3]
    assert len(result.figures) == 3


def test_another_frame_is_another_question_and_prices_are_none(monkeypatch, tmp_path):
    asked = Asked(monkeypatch, by_page)
    aligned(tmp_path)
    aligned(tmp_path, route=ROUTE.model_copy(update={"max_tokens": 10**6}))
    assert len(asked.requests) == 3
    aligned(tmp_path, route=ROUTE.model_copy(update={"frame": "norm1000"}))
    assert len(asked.requests) == 6


def test_a_cap_stops_and_partial_leaves_a_reason_for_every_page(monkeypatch, tmp_path):
    Asked(monkeypatch, by_page)
    with pytest.raises(UserError, match=r"max_requests 2 is reached; 2 of 3 requests are done"):
        aligned(tmp_path, route=ROUTE.model_copy(update={"max_requests": 2}))
    part = aligned(tmp_path, route=ROUTE.model_copy(update={"max_requests": 2, "partial": True}))
    assert set(part.figures) == {("atlas", 1), ("atlas", 2)}
    assert part.failures["atlas", 3][0] == "max_requests"


def test_pages_of_two_books_share_one_cap_and_stay_apart(monkeypatch, tmp_path):
    Asked(monkeypatch, by_page)
    result = aligned(tmp_path, [view(2), view(10), view(1), view(3, book="other")])
    book = to_book("atlas", 12, result, ())
    assert [figure.page for figure in book.figures] == [1, 2, 10]
    assert to_book("other", 3, result, ()).figures == result.figures["other", 3]


# ---- over HTTP


class Batches(Echo):
    """In the place of the local model behind the test server."""

    batch_size = 4


class SeenBody:
    """What the test server reads of a request with pictures: sent as data URLs."""

    def __init__(self, sent: dict[str, Any]) -> None:
        self.sent = sent

    @staticmethod
    def model_validate_json(body: bytes) -> "SeenBody":
        return SeenBody(json.loads(body))

    def request(self) -> Request:
        messages = []
        for turn in self.sent["messages"]:
            parts = turn["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
            images = tuple(self.image(url) for url in urls)
            text = "".join(part["text"] for part in parts if part["type"] == "text")
            messages.append(Message(role=turn["role"], text=text, images=images))
        sampling = {name: self.sent[name] for name in Sampling.model_fields}
        return Request(messages=tuple(messages), sampling=Sampling(**sampling))

    @staticmethod
    def image(url: str) -> Image:
        data = base64.b64decode(url.partition("base64,")[2])
        width_px, height_px = PILImage.open(io.BytesIO(data)).size
        return Image(path="sent", data=data, width_px=width_px, height_px=height_px)


def test_a_book_goes_through_a_server_and_comes_back(monkeypatch, tmp_path):
    monkeypatch.setattr(served, "Body", SeenBody)
    pictures = {view(number).picture.data: number for number in PAGES}
    texts = {1: "As Fig. 1 shows, glands are fused.", 2: "No word of it.", 3: "Crypts (Fig. 3) are straight."}

    def answer(request: Request) -> str:
        assert (request.sampling.temperature, request.sampling.top_p) == (0.3, 0.8)
        (image,) = request.messages[-1].images or (None,)
        if image is not None:
            number = pictures[image.data]
            return f"```json\n{reply(entry(f'Gland {number}.', number=str(number)))}\n```"
        rows = json.loads(request.messages[-1].text.split("<captions>")[1].split("</captions>")[0])
        return reply(*({**row, "inline_ref": texts[int(row["number"])]} for row in rows))

    with served.serving(cast(Local, Batches(answer, "vlm")), gather_s=0.01) as server:
        settings = EndpointSettings(connections=2, retries=0)
        ref = GeneratorRef(endpoint=EndpointRef(url=server.url, model="vlm", settings=settings))
        found = aligned(tmp_path, route=ROUTE.model_copy(update={"generator": ref}))
        pages = list(page_texts("atlas", {page: found.figures["atlas", page] for page in PAGES}, texts, "en"))
        named = referred(tmp_path, pages, WRITER.model_copy(update={"generator": ref}))
    assert not found.failures
    assert not named.failures
    references = [each for page in PAGES for each in named.references["atlas", page]]
    book = to_book("atlas", 3, found, references)
    assert [(each.number, each.page) for each in book.figures] == [("1", 1), ("2", 2), ("3", 3)]
    assert [(each.number, each.page) for each in book.references] == [("1", 1), ("2", 2), ("3", 3)]


# ---- references


def test_neighbours_are_a_set_with_both_ends():
    assert neighbours([1, 5, 6, 9], 9) == (1, 2, 4, 5, 6, 7, 8, 9)
    pages = [3]
    assert neighbours(pages, 3) == (2, 3)
    assert pages == [3]


def test_a_page_is_asked_about_with_its_neighbours_texts_and_numbered_figures_only():
    figures = {
        1: (figure(number="", page=1),),
        2: (figure("3-2", caption="p </captions> q"), figure(number="")),
        4: (),
    }
    (page,) = page_texts("atlas", figures, {1: "before", 2: "here", 3: "after", 4: "far"}, "en")
    request = reference_request(page, WRITER)
    text = request.messages[1].text
    assert "<previous>\nbefore\n</previous>\n<current>\nhere\n</current>\n<next>\nafter\n</next>" in text
    assert "far" not in text.partition("<captions>")[2]
    assert '[{"number": "3-2", "panels": [], "caption": "p <\\/captions> q"}]' in text
    (first,) = page_texts("atlas", {1: (figure(page=1),)}, {1: "here", 2: ""}, "en")
    assert first.texts == ((1, "here"),)
    assert not list(page_texts("atlas", {1: (figure(page=1),)}, {}, "en"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "0 entries for 2"),
        (reply({"inline_ref": ""}), "1 entries for 2"),
        (reply({"inline_ref": ""}, {"ref": ""}), "entry 2 has no inline_ref"),
        (reply({"inline_ref": ""}, {"inline_ref": ["a"]}), "is no text"),
        ('[{"inline_ref": ""}, {"inline_ref": "\\ud800"}]', "surrogates not allowed"),
        (reply({"number": "3-3", "inline_ref": ""}, {"number": "3-2", "inline_ref": ""}), "of figure 3-3"),
    ],
)
def test_a_list_of_another_length_or_order_is_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_references(text, ["3-2", "3-3"])


def test_only_the_sentences_are_copied_back_by_position():
    text = reply({"caption": "changed", "inline_ref": " See Fig. 3. "}, {"number": "4", "inline_ref": None})
    assert read_references(text, ["3", "4"]) == ("See Fig. 3.", "")


def test_a_sentence_that_the_text_does_not_hold_is_dropped_and_counted(monkeypatch, tmp_path):
    body = {
        1: "Crypts are straight. Glands fuse, as in Figure 3.2a and b and Fig. 3.3, near the",
        2: "muscle. The stroma is loose.",
    }
    told = [
        "Glands fuse, as in Figure 3.2a and b and Fig. 3.3, near the rnuscle.\nTumour cells fill Fig. 3-2.",
        "Crypts are straight. Glands fuse, as in Figure 3.2a and b and Fig. 3.3, near the muscle. It is loose.\n",
    ]

    def answer(request: Request) -> str:
        return reply(*({"inline_ref": each} for each in told))

    Asked(monkeypatch, answer)
    pages = list(page_texts("atlas", {2: (figure("3-2"), figure("3-3"))}, body, "en"))
    result = referred(tmp_path, pages)
    first, second = result.references["atlas", 2]
    assert (first.number, first.panels, first.page) == ("3-2", ("A", "B"), 1)
    assert (second.number, second.panels, second.page) == ("3-3", (), 1)
    assert (result.usage["invented"], result.usage["references"]) == (1, 2)


def test_a_page_whose_references_stay_unreadable_has_a_reason(monkeypatch, tmp_path):
    asked = Asked(monkeypatch, lambda request: "no idea")
    pages = list(page_texts("atlas", {2: (figure(),)}, {2: "Glands."}, "en"))
    for _ in range(2):
        result = referred(tmp_path, pages)
        assert result.failures["atlas", 2][0] == "unreadable_answer"
        assert result.references == {}
    assert len(asked.requests) == 3


def test_lines_about_other_figures_and_captions_are_dropped_and_what_no_rule_reads_is_believed(
    monkeypatch, tmp_path
):
    lines = ["Glands fuse (Fig. 3.4).", "The picture above shows crypts.", "A. Fused glands in the colon."]
    Asked(monkeypatch, lambda request: reply({"inline_ref": "\n".join(lines)}))
    captioned = figure("3-2", caption="Figure 3-2. Colon. A Fused glands in the colon.")
    result = referred(tmp_path, list(page_texts("atlas", {2: (captioned,)}, {2: " ".join(lines)}, "en")))
    (kept,) = result.references["atlas", 2]
    assert (kept.sentence, kept.panels) == ("The picture above shows crypts.", ())
    assert (result.usage["misplaced"], result.usage["invented"]) == (2, 0)


@pytest.mark.parametrize(
    ("sentence", "page"),
    [
        ("The crypts are straight (Fig. 3.2).", 4),
        ("the  CRYPTS are\nstraight (fig 3-2)", 4),
        ("The crpyts are straigt (Fig. 3.2).", 4),
        ("Goblet cells are few, see Fig. 3.3.", 5),
        ("Nuclei lie at the base of the cells.", 4),
        ("The crypts are branched and fused.", None),
        ("\u817a\u4f53\u89c1\u56fe3-2", 5),
        ("...", None),
        ("", None),
    ],
)
def test_a_sentence_is_found_up_to_one_sign_in_five(sentence, page):
    texts = [
        (4, "In health the crypts are straight (Fig. 3.2). Nuclei lie at the ba-"),
        (5, "se of the cells. Goblet cells are few, see Fig. 3.3. \u817a\u4f53\u89c1\u56fe3\uff0d2\u3002"),
    ]
    assert Quoted(texts).page_of(sentence) == page
    assert Quoted([]).page_of(sentence) is None


def test_the_closest_part_has_the_edit_distance_of_the_plain_algorithm():
    rng = random.Random(5)
    for _ in range(40):
        text = "".join(rng.choices("abc", k=rng.randint(1, 30)))
        wanted = "".join(rng.choices("abc", k=rng.randint(1, 8)))
        edits, end = Quoted([(1, text)])._closest(wanted)
        distances = {
            (start, stop): plain_distance(wanted, text[start:stop])
            for start in range(len(text) + 1)
            for stop in range(start, len(text) + 1)
        }
        assert edits == min(distances.values())
        assert edits == min(distance for (_, stop), distance in distances.items() if stop == end)


def plain_distance(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for count, sign in enumerate(one, start=1):
        last, row[0] = row[0], count
        for place, against in enumerate(other, start=1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (sign != against))
    return row[-1]


# ---- a simulated model, so that both routes can be compared


def simulated_vlm(book: Book, views: Sequence[PageView], route: VlmRoute, noise_px: float) -> Any:
    """Answers from a known Book: boxes off by up to `noise_px`, captions as the prompt wants them. Not a model."""
    by_path = {view.picture.path: view for view in views}
    rng = random.Random(0)

    def answer(request: Request) -> str:
        seen = by_path[request.messages[-1].images[0].path]
        rows = [
            entry(
                f"{figure.shared} {panel.text}".strip(),
                told_box(panel.box_pt, seen, route, rng, noise_px),
                number=figure.number,
                panel=panel.label,
            )
            for figure in book.figures
            if figure.page == seen.number
            for panel in figure.panels
        ]
        return reply(*rows) if rows else "None"

    return answer


def told_box(
    box_pt: tuple[float, ...], seen: PageView, route: VlmRoute, rng: random.Random, noise_px: float
) -> list[int]:
    sides_px = (seen.picture.width_px, seen.picture.height_px) * 2
    box_px = [
        value * side_px / side_pt + rng.uniform(-noise_px, noise_px)
        for value, side_px, side_pt in zip(box_pt, sides_px, (seen.width_pt, seen.height_pt) * 2, strict=True)
    ]
    if route.frame == "norm1000":
        return [round(1000 * value / side_px) for value, side_px in zip(box_px, sides_px, strict=True)]
    return [round(value) for value in box_px]


@pytest.mark.parametrize("frame", ["px", "norm1000"])
def test_a_simulated_model_gives_the_book_that_it_was_told(monkeypatch, tmp_path, frame):
    parts = [
        Panel(box_pt=(20, 150, 100, 240), label="A", text="Crypts of even width, in rows."),
        Panel(box_pt=(120, 150, 200, 240), label="B", text="Goblet cells hold most of the mucus."),
    ]
    told = Book(
        name="atlas",
        num_pages=3,
        figures=(
            told_figure("3-1", "Liver.", [Panel(box_pt=(20, 20, 200, 120))], "Figure 3-1. Liver."),
            told_figure(
                "3-2", "Colon, H&E.", parts, f"Figure 3-2. Colon, H&E. A, {parts[0].text} B, {parts[1].text}"
            ),
        ),
    )
    views = [view(number) for number in PAGES]
    route = ROUTE.model_copy(update={"frame": frame})
    Asked(monkeypatch, simulated_vlm(told, views, route, noise_px=1.5))
    found = to_book("atlas", 3, aligned(tmp_path, views, route), ())
    measured = measure([found], [told], num_resamples=10)
    rates = (measured.figure_box, measured.caption_binding, measured.caption_part)
    assert [rate.f1.value for rate in rates] == [1, 1, 1], mistakes([found], [told])
    assert measured.panel_ap50.value == 1
    assert [[panel.label for panel in each.panels] for each in found.figures] == [[""], ["A", "B"]]


def told_figure(number: str, shared: str, panels: Sequence[Panel], caption: str) -> Figure:
    box_pt = union(panel.box_pt for panel in panels)
    return Figure(
        page=2,
        box_pt=box_pt,
        number=number,
        caption=caption,
        shared=shared,
        panels=tuple(panels),
        caption_page=2,
    )
