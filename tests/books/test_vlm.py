"""The VLM route: what is asked, how replies are read, and that no answer is paid for twice. No model is asked here."""

import json

import pytest
from pydantic import ValidationError
from tests.books.vlm_pages import HEIGHT_PX, ROUTE, WIDTH_PX, WRITER, entry, reply, view

from pathloom.books import prompts
from pathloom.books.pdf import MAX_PAGE_PIXELS, SIZE_STEP_PX, sizes_of_aspect
from pathloom.books.prompts import Language, align_prompt, language_of, prompts_hash, refer_prompt
from pathloom.books.vlm import (
    VlmRoute,
    figure_request,
    figures_of,
)
from pathloom.books.vlm_replies import Entry, read_alignment, read_references
from pathloom.generate.config import GeneratorRef
from pathloom.schema import Image
from pathloom.stage import UserError

LANGUAGES: tuple[Language, ...] = ("en", "zh")


def read(text: str, frame: prompts.Frame = "px") -> tuple[Entry, ...]:
    return read_alignment(text, WIDTH_PX, HEIGHT_PX, frame)


# ---- prompts


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("frame", prompts.FRAMES)
def test_each_clause_stands_once_in_the_prompt_and_no_clause_about_another_frame(language, frame):
    parts = prompts._parts()["align"]
    system, user = align_prompt(language, frame, 840, 1176)
    whole = f"{system}\n{user}"
    for name, part in parts.items():
        text = part[language].replace("{width_px}", "840").replace("{height_px}", "1176")
        other_frame = name.startswith("frame_") and name != f"frame_{frame}"
        assert whole.count(text) == (0 if other_frame else 1), name
    assert "{" not in whole.replace(parts["example"][language], "")
    system, user = refer_prompt(language)
    for name, part in prompts._parts()["refer"].items():
        assert f"{system}\n{user}".count(part[language]) == 1, name


def test_both_languages_have_every_clause_and_each_says_where_it_is_from():
    parts = [part for prompt in prompts._parts().values() for part in prompt.values()]
    assert all(set(part) == {"en", "zh", "source"} and all(part.values()) for part in parts)
    english = [part["en"] for part in parts]
    assert len(set(english)) == len(english), "no clause stands twice"
    assert all(sign < "\u4e00" for text in english for sign in text)
    han = [part for part in parts if any(sign >= "\u4e00" for sign in part["zh"])]
    assert [part["zh"] for part in parts if part not in han] == [prompts._parts()["align"]["example"]["zh"]]
    assert list(prompts._parts()) == ["align", "refer"]


def test_all_that_the_reader_reads_is_asked_for_by_its_name():
    for language in LANGUAGES:
        asked = align_prompt(language, "px", 1, 1)[1]
        assert all(key in asked for key in ("bbox", "caption", "number", "panel", "None"))
        assert "inline_ref" in refer_prompt(language)[1]


def test_prompt_lines_show_every_prompt_and_source():
    lines = list(prompts.prompt_lines())
    assert sum(line.startswith("## ") for line in lines) == 2 * 3 + 1
    assert "refer.task: " in "\n".join(lines)


def test_a_changed_part_changes_the_hash_of_the_prompts(monkeypatch):
    before = prompts_hash()
    changed = {**prompts._parts(), "refer": {}}
    monkeypatch.setattr(prompts, "_parts", lambda: changed)
    assert prompts_hash() != before


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("atlas", "Glands and stroma.", "en"),
        ("\u75c5\u7406\u5b66", "Glands and stroma.", "zh"),
        ("atlas", "\u817a\u4f53\u548c\u95f4\u8d28", "zh"),
        ("atlas", "Glands and stroma. " * 50 + "\u817a\u4f53", "en"),
        ("atlas", "", "en"),
    ],
)
def test_a_book_is_chinese_by_its_name_or_by_one_letter_in_a_hundred(name, text, language):
    assert language_of(name, text) == language


# ---- pictures and requests


def test_the_small_picture_is_that_of_the_published_pages():
    assert sizes_of_aspect(840 / 1176)[0] == (840, 1176)
    for width, height in (
        (595.3, 841.9),
        (842, 595),
        (612, 792),
        (1, 1),
        (100, 3000),
        (1, 10**6),
        (10**6, 1),
    ):
        width_px, height_px = sizes_of_aspect(width / height)[0]
        assert width_px % SIZE_STEP_PX == height_px % SIZE_STEP_PX == 0
        assert 0 < width_px * height_px <= MAX_PAGE_PIXELS
        if 0.3 < width / height < 3:
            assert width_px * height_px > 0.93 * MAX_PAGE_PIXELS
            assert width_px / height_px == pytest.approx(width / height, rel=0.04)


def test_a_picture_that_the_model_would_resize_is_refused_where_boxes_are_pixels():
    odd = Image(path="p", data=b"", width_px=113, height_px=168)
    with pytest.raises(ValueError, match="113x168 px"):
        figure_request(view(picture=odd), ROUTE)
    figure_request(view(picture=odd), ROUTE.model_copy(update={"frame": "norm1000"}))


def test_a_request_has_the_sampling_of_the_published_code_and_the_picture():
    request = figure_request(view(language="zh"), ROUTE)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.3, 0.8, 8192)
    assert ROUTE.attempts == 3
    assert request.messages[1].images == (view().picture,)
    assert request.messages[1].text == align_prompt("zh", "px", WIDTH_PX, HEIGHT_PX)[1]


def test_what_a_route_decides_includes_frame_and_text_model():
    other = ROUTE.model_copy(update={"frame": "norm1000"})
    with_text = ROUTE.model_copy(update={"references": WRITER})
    assert len({str(route.decides()) for route in (ROUTE, other, with_text)}) == 3
    assert ROUTE.decides() == ROUTE.model_copy(update={"max_requests": 7}).decides()
    with pytest.raises(ValidationError):
        VlmRoute(generator=GeneratorRef(rules="phantom"), frame="percent")
    priceless = ROUTE.model_copy(update={"references": WRITER.model_copy(update={"max_cost": 1.0})})
    with pytest.raises(UserError, match=r"vlm\.references\.max_cost"):
        priceless.check("vlm")


# ---- replies


@pytest.mark.parametrize(
    "text",
    [
        "None",
        " none.\n",
        "**None**",
        '"None"',
        "",
        "[]",
        "[ {} ]",
        "{}",
        "null",
        "\u65e0\u3002",
        "```json\n[]\n```",
        "```\nNone\n```",
        "<think>A cover [1].</think>None",
        reply(entry("None")),
        reply(entry("", box=[])),
        reply(entry(None, box=None)),
    ],
)
def test_empty_forms_and_the_none_token_are_pages_without_figures(text):
    assert read(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        reply(entry()),
        f"```json\n{reply(entry())}\n```",
        f"```JSON\n{reply(entry())}```\nI hope that helps [1].",
        f"Here is the array [as asked]: {reply(entry())} It holds one figure, see [1].",
        f"```json\n{reply(entry())}",
        f"Boxes: {'[1, 2, 3, 4] ' * 500} and [] for the chart. {reply(entry())}",
        f"<think>[{{}}] or not</think>{reply(entry())}",
        reply(entry(), entry()),
        reply(entry(box=(50, 60, 10, 20))),
        reply(entry(caption=" Gland.\n", inline_ref="x", figure_path="y", number=None, panel="")),
    ],
)
def test_one_array_is_read_whatever_stands_around_it(text):
    assert read(text) == (Entry(box_px=(10, 20, 50, 60), caption="Gland."),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<html><body><h1>502 Bad Gateway</h1></body></html>", "no whole array"),
        ("I see no figure on this page.", "no whole array"),
        (reply(entry())[:-1], "no whole array"),
        (reply(entry(), entry("Duct."))[:-30], "no whole array"),
        (f"```json\n{reply(entry())[:40]}", "no whole array"),
        ("[" * 90_000, "no whole array"),
        (json.dumps(entry()), "no whole array"),
        ("[[10, 20, 50, 60]]", "no whole array"),
        (f"{reply(entry())} or {reply(entry('Duct.'))}", "two arrays"),
        (f"<think>{reply(entry())}", "never closed"),
        (reply({"bbox": [1, 2, 3, 4], "text": "Gland."}), "entry 1 has no caption"),
        (reply(entry(), entry(caption=["Gland."])), "entry 2: caption .* is no text"),
        (reply({"caption": "Gland."}), "bbox None is not four numbers"),
        (reply(entry(box=(10, 20, 50, 60, 70, 80))), "not four numbers"),
        (reply(entry(box=("10", "20", "50", "60"))), "not four numbers"),
        (reply(entry(box=(True, 20, 50, 60))), "not four numbers"),
        (reply(entry(box={"x1": 3})), "not four numbers"),
        (reply(entry(box=(float("nan"), 20, 50, 60))), "not finite"),
        (reply(entry(box=(0, 0, float("inf"), 60))), "not finite"),
        (reply(entry(box=(0, 0, 10**400, 60))), "not finite"),
        (reply(entry(box=(10, 20, 10, 60))), "no area"),
        (reply(entry(box=(200, 20, 300, 60))), "off the page of 112x168 px"),
        (reply(entry(box=(100, 20, 300, 60))), "off the page"),
        (reply(entry(number=3.1)), "number 3.1 is no text"),
        (reply(entry(panel=["A", "B"])), "panel .* is no text"),
        ('[{"bbox": [1, 2, 30, 40], "caption": "Gland \\ud800."}]', "surrogates not allowed"),
    ],
)
def test_a_reply_that_cannot_be_trusted_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        read(text)


def test_boxes_are_clamped_to_the_page():
    (found,) = read(reply(entry(box=(-5, -3.5, 90, 180))))
    assert found.box_px == (0, 0, 90, 168)


def test_thousandths_become_pixels_of_the_picture():
    (found,) = read(reply(entry(box=(0, 250, 500, 1000))), "norm1000")
    assert found.box_px == (0, 42, 56, 168)
    with pytest.raises(ValueError, match="off the page"):
        read(reply(entry(box=(0, 900, 500, 1700))), "norm1000")


def test_markup_and_signs_in_a_caption_stay_as_they_are():
    text = 'p < 0.05, <i>H. pylori</i> [arrow] \u817a\u4f53\u3002 "quoted"'
    assert read(reply(entry(text)))[0].caption == text


def test_published_output_is_read_as_it_was_published(data_root):
    folder = data_root / "documents" / "patho_r1_pages" / "images"
    if not folder.is_dir():
        pytest.skip(f"no published pages at {folder}")
    for path, count in ((folder / "0001_ali.json", 2), (folder / "0002_ali.json", 4)):
        text = path.read_text("utf-8")
        found = read_alignment(text, 840, 1176, "px")
        published = json.loads(text)
        assert [list(each.box_px) for each in found] == [each["bbox"] for each in published]
        assert [each.caption for each in found] == [each["caption"] for each in published]
        refs = read_references(text, [""] * count)
        assert list(refs) == [each["inline_ref"] for each in published]
        figures = figures_of(view(language="zh"), found)
        assert [each.caption for each in figures] == [each["caption"] for each in published]


# ---- figures


def test_entries_of_one_number_are_panels_of_one_figure():
    entries = read(
        reply(
            entry("Colon, H&E. Crypts.", (10, 10, 40, 40), number="Fig. 3.2", panel="(a)"),
            entry("Liver.", (10, 100, 50, 150), number="3-3", panel=""),
            entry("Colon, H&E. Goblet cells.", (50, 10, 80, 40), number="3\u20132b"),
        )
    )
    colon, liver = figures_of(view(7), entries)
    assert (colon.number, colon.page, colon.caption_page) == ("3-2", 7, 7)
    assert colon.box_pt == (20, 20, 160, 80)
    assert colon.shared == "Colon, H&E."
    assert colon.caption == "Fig. 3.2. Colon, H&E. (a) Crypts. B Goblet cells."
    assert [(panel.label, panel.text) for panel in colon.panels] == [("A", "Crypts."), ("B", "Goblet cells.")]
    for panel in colon.panels:
        ((start, end),) = panel.caption_spans
        assert colon.caption[start:end] == panel.text
    assert (liver.number, liver.shared, liver.caption) == ("3-3", "Liver.", "Figure 3-3. Liver.")
    assert [(panel.label, panel.text, panel.box_pt) for panel in liver.panels] == [("", "", liver.box_pt)]


def test_a_number_within_a_sentence_does_not_end_the_shared_description():
    entries = [
        Entry(box_px=(1, 1, 9, 9), caption=f"Kidney. At 3.{part} mm.", number="1", panel=label)
        for part, label in ((5, "A"), (7, "B"))
    ]
    (found,) = figures_of(view(), entries)
    assert (found.shared, [panel.text for panel in found.panels]) == ("Kidney.", ["At 3.5 mm.", "At 3.7 mm."])


def test_panels_of_one_text_share_it_all():
    entries = [Entry(box_px=(x, 1, x + 9, 9), caption="Two glands", number="1") for x in (1, 20)]
    (found,) = figures_of(view(), entries)
    assert (found.shared, [panel.text for panel in found.panels]) == ("Two glands", ["", ""])


def test_entries_without_number_are_figures_of_their_own():
    first, second = figures_of(view(), read(reply(entry("Gland. A duct."), entry("Gland. An acinus."))))
    assert [each.number for each in (first, second)] == ["", ""]
    assert len(first.panels) == len(second.panels) == 1


def test_labels_that_the_model_left_in_a_caption_are_taken_out_of_it():
    left = read(
        reply(
            entry("\u56fe13-19A \u7ea4\u7ef4\u817a\u7624", (10, 10, 40, 40)),
            entry("Figure 4. Gland.", (10, 60, 40, 90)),
            entry("Figure 4 shows a gland.", (10, 100, 40, 130), number="5"),
        )
    )
    chinese, plain, prose = figures_of(view(language="zh"), left)
    assert (chinese.number, chinese.panels[0].label) == ("13-19", "A")
    assert chinese.panels[0].text == "\u7ea4\u7ef4\u817a\u7624"
    assert chinese.caption == "\u56fe13-19 A \u7ea4\u7ef4\u817a\u7624"
    assert (plain.number, plain.shared, plain.caption) == ("4", "Gland.", "\u56fe4 Gland.")
    assert (prose.number, prose.shared) == ("5", "Figure 4 shows a gland.")


def test_places_are_labels_as_the_rules_write_them():
    names = {"upper left": "TOP LEFT", "\u5de6": "LEFT", "Panel b.": "B", "ii": "II", "[C]": "C"}
    entries = [Entry(box_px=(1, 1, 9, 9), caption="x", number="1", panel=name) for name in names]
    (found,) = figures_of(view(), entries)
    assert [panel.label for panel in found.panels] == list(names.values())
