import base64
import hashlib
import io
import re
from pathlib import Path

import pytest
from PIL import Image as PILImage
from tests.curate.expert_cells import cell
from tests.curate.reviews import example_page, ids_of, labelled, line, page_of, write_lines
from tests.fixtures import make_image, make_sample, picture

from pathloom.cli import main
from pathloom.curate.decisions import DROP_REASONS, content_of
from pathloom.curate.expert import ExpertStep
from pathloom.curate.review import MAX_IMAGES_PER_SAMPLE, MAX_TEXT_CHARS, confidence_of, write_page
from pathloom.curate.words import ORGANS, SUBFIELDS
from pathloom.images import encode_png
from pathloom.schema import Attribute, Event, Image, Origin, Region, Sample, Turn, Vote
from pathloom.stage import UserError
from pathloom.store import write_samples

HOSTILE = '</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & "quoted" \u2028 \x00\x1b'


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return example_page(tmp_path)


def test_a_page_shows_all_that_a_sample_says(tmp_path):
    pixels = picture(3, width_px=1024, height_px=600)
    image = Image(path="wide.png", data=encode_png(pixels), width_px=1024, height_px=600, mpp=0.5)
    sample = make_sample(
        "s",
        task="choice",
        images=(image,),
        question="Which stain?",
        choices=("H&E", "PAS"),
        answer="PAS",
        earlier=(Turn(question="Which organ?", answer="Kidney."),),
        reasoning="Magenta.",
        context="The caption.",
        organ="urinary",
        regions=(Region(box_px=(512, 0, 1024, 300), label="vessel"),),
    )

    write_page([sample], tmp_path / "p.html", field="organ", title="T", confidence=lambda sample: 0.25)

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert item["question"] == "Which stain?"
    assert item["choices"] == [{"text": "H&E", "right": False}, {"text": "PAS", "right": True}]
    assert item["answer"] == "PAS"
    assert item["earlier"] == [["Which organ?", "Kidney."]]
    assert item["reasoning"] == "Magenta."
    assert item["context"] == "The caption."
    assert item["suggestion"] == "urinary"
    assert item["confidence"] == 0.25
    assert {("source", "made"), ("licence", "CC0-1.0")} <= {tuple(fact) for fact in item["facts"]}
    (shown,) = item["images"]
    assert shown["boxes"] == [{"label": "vessel", "at": [0.5, 0, 1, 0.5]}]
    kind, _, data = shown["src"].partition(",")
    thumbnail = PILImage.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg;base64"
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (512, 300))


def test_no_text_of_a_sample_leaves_the_data(tmp_path):
    sample = make_sample(
        f"id {HOSTILE}",
        question=HOSTILE,
        choices=(HOSTILE, "no"),
        answer=HOSTILE,
        context=HOSTILE,
        reasoning=HOSTILE,
        earlier=(Turn(question=HOSTILE, answer=HOSTILE),),
        images=(Image(path=HOSTILE.replace("\x00", ""), width_px=1, height_px=1),),
        regions=(Region(box_px=(0, 0, 1, 1), label=HOSTILE),),
        origin=Origin(source=HOSTILE, source_id=HOSTILE, licence=HOSTILE, group=HOSTILE),
    )

    write_page([sample], tmp_path / "p.html", field="keep", title=HOSTILE)

    text = (tmp_path / "p.html").read_text()
    assert "alert(1)</script>" not in text
    assert "<img src=x" not in text
    assert text.count("<script") == 2
    assert text.count("</script") == 2
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)
    item = page_of(tmp_path / "p.html")["items"][0]
    assert item["id"] == sample.id
    assert item["context"] == HOSTILE.translate({0: "\u2400", 0x1B: "\u241b", 0x2028: "\ufffd"})


def waiting(sample_id: str, **values: str) -> Sample:
    """A cell that the step `expert` sent to review."""
    after = ExpertStep(step="expert").prepare(lambda: iter(()), {}, 0).change(cell(sample_id, **values))
    assert isinstance(after, Sample)
    return after


def test_a_page_about_contradictions_shows_what_awaits_review_and_what_it_breaks(tmp_path):
    samples = [cell("fine"), waiting("a", chromatin="fine even"), waiting("corrected", nuclear_size="normal")]

    page = write_page(samples, tmp_path / "p.html", field="contradiction", title="T")

    assert (ids_of(tmp_path / "p.html"), page.num_samples) == (["a"], 1)
    data = page_of(tmp_path / "p.html")
    assert data["values"] == [
        "class is right",
        "attributes are right",
        "both are right",
        "neither is right",
    ]
    (item,) = data["items"]
    shown = item["contradiction"]
    assert shown["finding"] == "LSIL"
    assert [line.partition(":")[0] for line in shown["lines"]] == ["LSIL-chromatin"]
    of = {each["name"]: each for each in shown["attributes"]}
    assert of["chromatin"] == {
        "name": "chromatin",
        "value": "fine even",
        "by": "majority",
        "votes": "fine even: a; slightly dark: b; cannot tell: c",
        "broken": True,
    }
    assert [name for name, each in of.items() if each["broken"]] == ["chromatin"]
    assert item["suggestion"] is None
    with pytest.raises(UserError, match="no sample awaits review"):
        write_page([cell()], tmp_path / "none.html", field="contradiction", title="T")


def test_no_text_of_a_contradiction_leaves_the_data(tmp_path):
    vote = Vote(annotator=HOSTILE, value=HOSTILE)
    attribute = Attribute(name=HOSTILE, value=HOSTILE, resolver="majority", votes=(vote, vote))
    note = Event(step="curate.expert", version=1, note=f"review: {HOSTILE}")
    sample = cell().changed(note, finding=HOSTILE, attributes=(attribute,))

    write_page([sample], tmp_path / "p.html", field="contradiction", title="T")

    text = (tmp_path / "p.html").read_text()
    assert "alert(1)</script>" not in text
    assert text.count("<script") == text.count("</script") == 2
    (item,) = page_of(tmp_path / "p.html")["items"]
    shown = item["contradiction"]
    cleaned = HOSTILE.translate({0: "\u2400", 0x1B: "\u241b", 0x2028: "\ufffd"})
    assert (shown["finding"], shown["lines"]) == (cleaned, [cleaned])
    assert shown["attributes"][0]["name"] == shown["attributes"][0]["value"] == cleaned


def test_what_hides_or_reorders_text_is_made_visible_and_long_text_is_cut(tmp_path):
    sample = make_sample("s", context="a\u202eb\r\nc\td", question="x" * (MAX_TEXT_CHARS + 7))

    write_page([sample], tmp_path / "p.html", field="keep", title="T")

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert item["context"] == "a\ufffdb\nc\td"
    assert item["question"].endswith("x [7 more characters are not shown]")


def test_every_character_that_hides_or_reorders_text_is_made_visible(tmp_path):
    codes = [
        0x200B,
        0x200E,
        0x200F,
        0x061C,
        0x2060,
        0xFEFF,
        0xAD,
        0x2028,
        0x2029,
        0x202E,
        0x2067,
        0xE0041,
        0x85,
    ]
    text = "".join(f"{chr(code)}g" for code in codes)
    sample = make_sample(
        "s", context=text, question="\u00b5 \u03b2-catenin \u00d7 40, \u2265 3 \u4e2d\n\t\x7f"
    )

    write_page([sample], tmp_path / "p.html", field="keep", title="T")

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert item["context"] == "\ufffdg" * len(codes)
    assert item["question"] == sample.question.replace("\x7f", "\u2421")


def test_the_policy_allows_this_page_s_own_script_and_style_only(page):
    text = page.read_text()
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]+)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)

    def digest(inside: str) -> str:
        return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()

    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest(script)}';" in policy
    assert f"style-src 'sha256-{digest(style)}';" in policy
    assert "style=" not in text
    for way_out in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "XMLHttpRequest"):
        assert way_out not in script
    assert not re.search(r"(src|href)=.?(https?:)?//", text)


def test_every_element_that_the_script_names_is_on_the_page(page):
    text = page.read_text()

    named = set(re.findall(r'(?:\$|show|close|on)\("(\w+)"', text))

    assert "reason_dialog" in named
    assert {name for name in named if f'id="{name}"' not in text} == set()


def test_a_picture_that_cannot_be_read_says_why_and_more_than_eight_are_counted(tmp_path):
    gone = Image(path="gone.png", width_px=1, height_px=1)

    write_page(
        [make_sample("s", images=(gone, *(make_image(n) for n in range(8))))],
        tmp_path / "p.html",
        field="keep",
        title="T",
    )

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert item["images"][0]["src"] is None
    assert "gone.png: No such file" in item["images"][0]["fault"]
    assert len(item["images"]) == MAX_IMAGES_PER_SAMPLE
    assert item["images_left_out"] == 1


def test_the_keys_of_a_field_are_plain_and_clash_with_no_command(tmp_path):
    for field, values in (("subfield", SUBFIELDS), ("organ", tuple(ORGANS))):
        write_page([make_sample("s")], tmp_path / "p.html", field=field, title="T")
        data = page_of(tmp_path / "p.html")
        keys = [choice["key"] for choice in data["choices"]]

        assert [choice["value"] for choice in data["choices"]] == list(values)
        assert data["values"] == list(values)
        assert len(set(keys)) == len(keys)
        assert not set(keys) & set("hlunef?")
    write_page([make_sample("s")], tmp_path / "p.html", field="subfield", title="T")
    assert "".join(choice["key"] for choice in page_of(tmp_path / "p.html")["choices"]) == "1234567890"


def test_keep_asks_for_the_reason_of_a_drop_and_suggests_nothing(tmp_path):
    write_page([make_sample("s")], tmp_path / "p.html", field="keep", title="T")

    data = page_of(tmp_path / "p.html")
    assert [(choice["key"], choice["value"]) for choice in data["choices"]] == [("k", "keep"), ("d", None)]
    assert [reason["label"] for reason in data["reasons"]] == list(DROP_REASONS)
    assert data["values"] == ["keep", *(reason["value"] for reason in data["reasons"])]
    assert data["items"][0]["suggestion"] is None


@pytest.mark.parametrize("field", ["keep", "subfield"])
def test_an_item_names_what_is_judged(tmp_path, field):
    sample = make_sample("s", subfield="ihc")

    write_page([sample], tmp_path / "p.html", field=field, title="T")

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert item["content"] == content_of(sample, field)
    assert re.fullmatch("[0-9a-f]{16}", item["content"])


@pytest.mark.parametrize(
    ("change", "of_keep", "of_label"),
    [
        ({"question": "Which?"}, True, True),
        ({"answer": "no"}, True, True),
        ({"choices": ("yes", "no")}, True, False),
        ({"earlier": (Turn(question="Which organ?", answer="Kidney."),)}, True, False),
        ({"reasoning": "Magenta."}, True, False),
        ({"context": "The caption."}, False, True),
        ({"images": (make_image(1),)}, False, True),
        ({"images": (make_image(0).model_copy(update={"path": "/moved/0.png"}),)}, False, False),
        ({"organ": "breast", "subfield": "ihc"}, False, False),
    ],
)
def test_the_content_changes_with_what_the_field_is_judged_from(change, of_keep, of_label):
    before = make_sample("s")
    after = before.changed(Event(step="made", version=1), **change)

    assert (content_of(after, "keep") != content_of(before, "keep")) == of_keep
    assert (content_of(after, "organ") != content_of(before, "organ")) == of_label


def test_any_other_field_is_asked_with_its_choices(tmp_path):
    write_page(
        [make_sample("s")],
        tmp_path / "p.html",
        field="panel",
        title="T",
        choices=("fits", "does not fit"),
        suggested=lambda sample: "fits",
    )

    data = page_of(tmp_path / "p.html")
    assert [choice["key"] for choice in data["choices"]] == ["1", "2"]
    assert data["items"][0]["suggestion"] == "fits"


def test_a_label_that_is_no_choice_is_not_suggested(tmp_path):
    write_page([labelled("s", "histology", 0.4)], tmp_path / "p.html", field="subfield", title="T")

    (item,) = page_of(tmp_path / "p.html")["items"]
    assert (item["suggestion"], item["confidence"]) == (None, None)


def test_confidence_is_that_of_the_label_which_the_sample_still_has():
    assert confidence_of(labelled("a", "special stain", 0.62), "subfield") == 0.62
    assert confidence_of(labelled("a", "ihc", 1e-05), "subfield") == 1e-05
    assert confidence_of(labelled("a"), "subfield") is None
    assert confidence_of(labelled("a", "ihc", 0.62), "organ") is None
    corrected = labelled("a", "ihc", 0.62).changed(Event(step="curate.reviewed", version=1), subfield="fish")
    assert confidence_of(corrected, "subfield") is None


def test_uncertain_first_then_unknown_then_reviewed(tmp_path):
    seen = Event(step="curate.reviewed", version=1, note="subfield ihc, confirmed", reviewer="Ada")
    samples = [
        labelled("sure", probability=0.9),
        labelled("unknown"),
        labelled("seen", probability=0.1).changed(seen),
        labelled("unsure", probability=0.3),
    ]

    for given in (samples, samples[::-1]):
        write_page(given, tmp_path / "p.html", field="subfield", title="T", order="uncertain")
        assert ids_of(tmp_path / "p.html") == ["unsure", "sure", "unknown", "seen"]


def test_a_random_order_depends_on_the_seed_alone_and_the_limit_holds(tmp_path):
    samples = [labelled(f"s{n}", probability=n / 100) for n in range(40)]

    def drawn(given: list[Sample], seed: int) -> list[str]:
        written = write_page(
            iter(given),
            tmp_path / "p.html",
            field="subfield",
            title="T",
            order="sample",
            seed=seed,
            limit=10,
        )
        assert (written.num_shown, written.num_samples, written.full) == (10, 40, False)
        return ids_of(tmp_path / "p.html")

    assert drawn(samples, 0) == drawn(samples[::-1], 0)
    assert drawn(samples, 0) != drawn(samples, 1)
    assert len(drawn(samples, 0)) == 10


def test_a_page_stops_at_its_bytes_but_holds_one_sample(tmp_path):
    samples = [make_sample(name, context="x" * 5000) for name in "abcd"]

    some = write_page(samples, tmp_path / "p.html", field="keep", title="T", max_bytes=16_000)
    one = write_page(samples, tmp_path / "q.html", field="keep", title="T", max_bytes=10)

    assert (some.num_shown, some.full) == (2, True)
    assert (one.num_shown, one.full) == (1, True)


def test_the_same_samples_make_the_same_page_and_changed_ones_another(tmp_path):
    def written(*samples: Sample, title: str = "T") -> str:
        return write_page(samples, tmp_path / "p.html", field="subfield", title=title).page_id

    first = written(labelled("a"), labelled("b"))

    assert written(labelled("b"), labelled("a"), title="Another title") == first
    assert written(labelled("a"), labelled("b", "fish")) != first


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "no samples to review"),
        (["a", "a"], {}, "two samples are named 'a'"),
        (["a"], {"field": "colour"}, "known fields are subfield, organ, contradiction, keep"),
        (["a"], {"order": "best"}, "known orders are uncertain, sample"),
        (["a"], {"limit": 0}, "at least 1"),
        (["a"], {"field": "keep", "choices": ("x",)}, "choices cannot be given"),
        (["a"], {"field": "contradiction", "choices": ("x",)}, "choices cannot be given"),
        (["a"], {"choices": tuple(map(str, range(30)))}, "30 choices, but the page has keys for at most 20"),
    ],
)
def test_what_cannot_be_asked_is_said_and_leaves_no_page(tmp_path, samples, options, message):
    given = {"field": "subfield", "title": "T", **options}

    with pytest.raises(UserError, match=message):
        write_page([labelled(name) for name in samples], tmp_path / "p.html", **given)

    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_page_and_takes_its_export_in(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/labelled-0")
    write_samples([labelled("a", probability=0.5), labelled("b", probability=0.2)], folder)

    assert main(["review", "labelled-0", "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    assert "review.html: 1 of 2 samples" in shown
    assert "pathloom review --apply EXPORT.jsonl --into reviews/subfield.jsonl --out review.html" in shown
    assert ids_of(Path("review.html")) == ["b"]
    assert "<title>subfield of labelled-0</title>" in Path("review.html").read_text()
    assert main(["review", str(folder), "--field", "keep", "--order", "sample", "--out", "k/p.html"]) == 0
    assert len(ids_of(Path("k/p.html"))) == 2

    capsys.readouterr()
    write_lines(Path("e.jsonl"), line(Path("review.html"), "b", "fish"))
    assert main(["review", "--apply", "e.jsonl", "--into", "reviews/subfield.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "reviews/subfield.jsonl: 1 new, 0 changed, 0 unchanged" in shown
    assert "{step: reviewed, files: [reviews/subfield.jsonl]}" in shown
    write_lines(Path("e.jsonl"), line(Path("review.html"), "b", "ihc", reviewer="Bo"), end="{")
    assert main(["review", "--apply", "e.jsonl", "--into", "reviews/subfield.jsonl"]) == 0
    shown = capsys.readouterr().out
    assert "notice: e.jsonl, line 2: cut off" in shown
    assert "reviewers disagree on 1: b (subfield)" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a stage folder to write a page, or --apply"),
        (["stage", "--into", "r.jsonl"], "give a stage folder"),
        (["--apply", "e.jsonl"], "give a stage folder"),
        (["nowhere"], "neither it nor runs/nowhere is a stage folder"),
    ],
)
def test_a_wrong_command_is_one_line_with_the_cure(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)

    assert main(["review", *arguments]) == 1

    shown = capsys.readouterr().err
    assert shown.startswith("pathloom: ")
    assert message in shown


def test_help_teaches_with_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["review", "--help"])

    shown = capsys.readouterr().out
    assert "pathloom review labelled --field subfield --limit 200" in shown
    assert "{step: reviewed, files: [reviews/subfield.jsonl]}" in shown
