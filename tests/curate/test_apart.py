"""The step `apart`: planted overlaps are found by each check, and what is left shares nothing."""

import io
import re
from collections import Counter
from itertools import combinations

import pytest
from tests.curate.written import real_captions
from tests.fixtures import encoded, make_image, make_sample, noting

from pathloom.curate.apart import ApartStep
from pathloom.curate.draw import DrawStep
from pathloom.curate.text_duplicates import MAX_BUCKET, NUM_BANDS, Shingles
from pathloom.images import load_pixels
from pathloom.schema import Drop, Image, Origin, Sample
from pathloom.store import write_samples

LONG = "The mucosa is lined by columnar cells whose nuclei are crowded and dark while the stroma holds few lymphocytes"


def item(name: str, number: int, **fields: object) -> Sample:
    given = {
        "task": "choice",
        "images": (make_image(number),),
        "question": f"What is shown in case {name}?",
        "choices": ("a", "b", "c", "d"),
        "answer": "a",
        "reasoning": f"{' '.join(f'{name}{place}' for place in range(30))}.",
        "context": " ".join(f"caption{name}{place}" for place in range(30)),
        "origin": Origin(source="books", source_id=name, licence="x", group=f"book of {name}"),
        "subfield": "histopathology",
    }
    return make_sample(name, **{**given, **fields})


def apart(tmp_path, ours: list[Sample], theirs: list[Sample], **settings: object):
    write_samples(theirs, tmp_path / "rl")
    step = ApartStep(step="apart", others=("rl",), **settings)
    prepared = step.prepare(lambda: iter(ours), {"rl": tmp_path / "rl"}, 0)
    return [prepared.change(sample) for sample in ours], prepared.facts


def as_tiff(image: Image) -> Image:
    """The same pixels in another file: TIFF, which loses nothing."""
    buffer = io.BytesIO()
    load_pixels(image).save(buffer, "TIFF")
    return image.model_copy(update={"data": buffer.getvalue(), "path": "another.tif"})


THEIRS = item("rl", 1)
PLANTED = {
    "image": item("same_picture", 1),
    "image_reencoded": item("other_file", 1, images=(as_tiff(make_image(1)),)),
    "image_second": item("second_picture", 2, images=(make_image(2), make_image(1))),
    "group": item("same_book", 3, origin=THEIRS.origin),
    "text_copied": item("copied", 4, question=THEIRS.question, reasoning=THEIRS.reasoning),
    "text_retouched": item(
        "retouched",
        5,
        question=THEIRS.question,
        reasoning=re.sub("rl29", "another", str(THEIRS.reasoning)),
    ),
    "text_caption": item("same_caption", 6, context=THEIRS.context),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_overlap_is_found_and_named(tmp_path, name):
    (record,), facts = apart(tmp_path, [PLANTED[name]], [THEIRS, item("another", 9)])
    assert isinstance(record, Drop)
    check = name.partition("_")[0]
    assert record.reason == f"overlap_{check}"
    assert "rl" in record.detail
    assert facts["others"] == 2


def test_what_shares_nothing_is_kept(tmp_path):
    ours = [item(f"s{number}", number) for number in range(10, 40)]
    records, _ = apart(tmp_path, ours, [THEIRS, item("another", 9)])
    assert records == ours


def test_only_the_named_checks_are_made(tmp_path):
    records, _ = apart(tmp_path, list(PLANTED.values()), [THEIRS], by=("group",))
    assert [r.sample_id for r in records if isinstance(r, Drop)] == ["same_book"]


def test_groups_of_two_sources_are_two_groups(tmp_path):
    other = Origin(source="slides", source_id="x", licence="x", group=THEIRS.origin.group)
    (record,), _ = apart(tmp_path, [item("slide", 7, origin=other)], [THEIRS])
    assert isinstance(record, Sample)


def test_a_picture_that_cannot_be_read_is_no_overlap_with_another(tmp_path):
    def broken(name: str) -> Image:
        return Image(path=name, data=encoded(1)[:60], width_px=24, height_px=16)

    (record,), _ = apart(
        tmp_path, [item("a", 1, images=(broken("a.png"),))], [item("b", 2, images=(broken("b.png"),))]
    )
    assert isinstance(record, Sample)


def test_nothing_to_stay_apart_from_keeps_all(tmp_path):
    records, facts = apart(tmp_path, [item("a", 1)], [])
    assert isinstance(records[0], Sample)
    assert facts["others"] == 0


def test_one_question_on_two_pictures_is_no_overlap_unless_both_reason(tmp_path):
    asked = {"question": f"{LONG}?", "reasoning": None, "context": ""}
    theirs = [item("a", 1, **asked), item("b", 2, **{**asked, "reasoning": f"{LONG} here."})]
    ours = [
        item("c", 3, **asked),
        item("d", 4, **{**asked, "context": LONG}),
        item("e", 5, **{**asked, "reasoning": f"{LONG} here."}),
        item("f", 6, **{**asked, "context": "x"}),
    ]
    records, _ = apart(tmp_path, ours, [*theirs, item("g", 7, **{**asked, "context": LONG})])

    assert [r.sample_id for r in records if isinstance(r, Drop)] == ["d", "e"]
    assert [r.detail for r in records if isinstance(r, Drop)] == ["as g", "as b"]


def from_template(number: int) -> str:
    """Two words of a hundred are free: Jaccard 0.81 with its like."""
    words = [f"word{place}" for place in range(100)]
    words[20], words[80] = f"free{number}", f"open{number}"
    return " ".join(words)


def test_a_copy_among_many_texts_of_one_template_is_found_and_few_are_measured(tmp_path, monkeypatch):
    measured: list[int] = []
    monkeypatch.setattr(Shingles, "of", noting(lambda _, row: measured.append(row), Shingles.of))
    theirs = [item(f"t{n}", n % 5, context=from_template(n), reasoning=None) for n in range(2500)]
    copy = item("copy", 6, context=from_template(2400).upper(), reasoning=None)
    like = item("like", 6, context=from_template(9999), reasoning=None)

    (found, kept), _ = apart(tmp_path, [copy, like], theirs, threshold=0.9, by=("text",))

    assert isinstance(found, Drop)
    assert found.detail == "as t2400"
    assert kept is like
    assert 0 < len(measured) <= NUM_BANDS * MAX_BUCKET < len(theirs)


def words(text: str) -> set[tuple[str, ...]]:
    """Five-word shingles as tuples: written anew here, so that the check does not check itself."""
    found = re.findall(r"\w+", text.lower())
    return {tuple(found[place : place + 5]) for place in range(max(len(found) - 4, 1))}


def test_a_draw_and_the_rest_of_real_captions_share_nothing_by_brute_force(tmp_path, data_root):
    """Reinforcement and SFT from real captions, each item written twice, some captions given to a second book."""
    captions = [caption.text for caption in real_captions(data_root)]
    samples = []
    for number, caption in enumerate(captions[:240]):
        book = Origin(source="books", source_id=str(number), licence="x", group=f"book {number % 40}")
        other = book.model_copy(update={"group": f"book {(number * 7 + 3) % 40}"})
        for copy, origin in enumerate((book, other) if number % 10 == 0 else (book,)):
            samples.append(
                item(
                    f"n{number}-{copy}",
                    number,
                    images=(make_image(number),),
                    question=f"What does case {number} show?",
                    reasoning=caption,
                    context=caption,
                    origin=origin,
                )
            )
    draw = DrawStep(step="draw", count=40, group_share=0.3, organs_of=())
    drawn = draw.prepare(lambda: iter(samples), {}, 0).change
    rl = [record for record in map(drawn, samples) if isinstance(record, Sample)]
    records, _ = apart(tmp_path, samples, rl)
    sft = [record for record in records if isinstance(record, Sample)]
    assert len(rl) == 40
    assert len(sft) > 80
    reasons = Counter(record.reason for record in records if isinstance(record, Drop))
    assert reasons["overlap_group"] >= len(rl)
    assert reasons["overlap_text"] > 0, "the captions given to a second book are found by their text"

    assert not {s.origin.cluster for s in rl} & {s.origin.cluster for s in sft}
    assert not {s.images[0].data for s in rl} & {s.images[0].data for s in sft}
    for ours, theirs in ((words(a.context), words(b.context)) for a in rl for b in sft):
        assert len(ours & theirs) / len(ours | theirs) < 0.8
    assert all(a.id != b.id for a, b in combinations(rl + sft, 2))
