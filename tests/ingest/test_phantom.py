from collections import Counter, defaultdict
from typing import Any

import pytest
from pydantic import ValidationError

from pathloom.images import load_pixels
from pathloom.ingest.phantom import MAX_MITOSES, NUM_OPTIONS, QUESTIONS, PhantomConfig
from pathloom.ingest.phantom_pairs import CAPTION_WORDING, PAIR_QUESTIONS, UNSEEN_CAPTIONS
from pathloom.phantom.cell import BETHESDA
from pathloom.phantom.shapes import reading_order
from pathloom.phantom.tissue import DIAGNOSES, STAINS
from pathloom.schema import Sample
from pathloom.tasks import find_task


def phantoms(train: dict[str, int], test: dict[str, int], **fields: Any) -> PhantomConfig:
    given = {"name": "p", "kind": "ingest", "source": "phantom", "size_px": 64, "train": train, "test": test}
    return PhantomConfig.model_validate({**given, **fields})


def read_all(config: PhantomConfig) -> list[Sample]:
    records = [record for unit in config.plan() for record in config.read(unit)]
    assert all(isinstance(record, Sample) for record in records)
    return [record for record in records if isinstance(record, Sample)]


@pytest.fixture(scope="module")
def every_question() -> list[Sample]:
    """Eight of each question on both sides; captions in a held-out wording are for test alone."""
    counts = {question.name: 8 for question in QUESTIONS}
    trained = {name: count for name, count in counts.items() if name not in UNSEEN_CAPTIONS}
    return read_all(phantoms(trained, counts))


def letter_of(sample: Sample) -> str:
    task = find_task(sample.task)
    return task.write(sample, task.truth(sample), task.templates[0])


def even(counts: Counter[str], values: int) -> bool:
    return len(counts) == values and len(set(counts.values())) == 1


def test_every_diagnosis_and_every_letter_is_right_equally_often():
    samples = read_all(phantoms({}, {"diagnosis": len(DIAGNOSES) * NUM_OPTIONS}))

    assert even(Counter(sample.answer for sample in samples), len(DIAGNOSES))
    assert even(Counter(map(letter_of, samples)), NUM_OPTIONS)
    assert all(len(set(sample.choices)) == NUM_OPTIONS for sample in samples)
    pairs = {(sample.answer, letter_of(sample)) for sample in samples}
    assert len(pairs) == len(samples), "a diagnosis does not keep to a letter"


def test_yes_and_no_are_right_equally_often():
    samples = read_all(
        phantoms({}, {"presence": 2 * len(DIAGNOSES) * (len(DIAGNOSES) - 1), "stain": 4 * len(STAINS)})
    )

    for source in ("phantom_presence", "phantom_stain"):
        ours = [sample for sample in samples if sample.origin.source == source]
        assert even(Counter(sample.answer for sample in ours), 2)
        # Nor does the thing asked about give the answer away.
        sides = Counter((s.asked_finding, s.answer) for s in ours)
        assert all(sides[thing, "yes"] == sides[thing, "no"] for thing, _ in sides)
        assert all((sample.answer == "yes") == (sample.asked_finding == sample.finding) for sample in ours)


def test_every_count_and_every_cell_class_is_right_equally_often():
    samples = read_all(phantoms({}, {"mitoses": 3 * (MAX_MITOSES + 1), "bethesda": 2 * len(BETHESDA)}))

    by_task = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample.answer)
    assert even(Counter(by_task["count"]), MAX_MITOSES + 1)
    assert even(Counter(by_task["label"]), len(BETHESDA))


def test_half_of_the_test_questions_are_worded_as_no_training_question_is():
    questions = {"diagnosis": 24, "presence": 24, "stain": 24, "mitoses": 24}
    test = read_all(phantoms({}, questions))

    for name in questions:
        ours = [sample for sample in test if sample.origin.source == f"phantom_{name}"]
        assert Counter(sample.strata[0] for sample in ours) == {"wording=seen": 12, "wording=unseen": 12}


def test_the_wording_does_not_give_the_answer_away():
    test = read_all(phantoms({}, {"presence": 48, "stain": 48}))

    counts = Counter((sample.origin.source, sample.strata[0], sample.answer) for sample in test)
    assert set(counts.values()) == {12}


def test_no_training_question_is_worded_like_an_unseen_one(every_question):
    # The stratum of a pair is its caption's wording, not its question's.
    asked = [s for s in every_question if s.origin.source.removeprefix("phantom_") not in CAPTION_WORDING]
    training = {sample.question for sample in asked if sample.split == "train"}
    unseen = {sample.question for sample in asked if "wording=unseen" in sample.strata}

    assert training
    assert unseen
    assert training & unseen == set()
    assert all("wording=seen" in sample.strata for sample in every_question if sample.split == "train")
    for question in QUESTIONS:
        assert set(question.seen) & set(question.unseen) == set()


def test_training_and_test_pictures_have_nothing_in_common(every_question):
    pictures = defaultdict(set)
    for sample in every_question:
        pictures[sample.split].add(sample.images[0].data)
        assert sample.origin.group == sample.id

    assert len(pictures["train"]) + len(pictures["test"]) == len(every_question), (
        "every picture is drawn anew"
    )
    assert pictures["train"] & pictures["test"] == set()


def test_the_same_seed_gives_the_same_bytes_and_another_one_other_pictures():
    counts = {"diagnosis": 2, "structures": 2, "cell_caption": 2}

    assert read_all(phantoms(counts, {})) == read_all(phantoms(counts, {}))
    other = read_all(phantoms(counts, {}, seed=1))
    for one, another in zip(read_all(phantoms(counts, {})), other, strict=True):
        assert one.id == another.id
        assert one.images != another.images


def test_a_sample_does_not_depend_on_how_many_others_are_asked_for():
    few = read_all(phantoms({"presence": 2}, {"mitoses": 1}))
    many = {sample.id: sample for sample in read_all(phantoms({"presence": 4, "stain": 1}, {"mitoses": 2}))}

    assert all(many[sample.id] == sample for sample in few)


def test_every_sample_can_be_asked_answered_and_graded(every_question):
    assert Counter(sample.origin.source for sample in every_question) == {
        f"phantom_{question.name}": 8 if question.name in UNSEEN_CAPTIONS else 16 for question in QUESTIONS
    }
    for sample in every_question:
        task = find_task(sample.task)
        assert "{" not in sample.question
        assert load_pixels(sample.images[0]).size == (64, 64)
        for template in task.templates:
            target = task.target(sample, template, "cot")
            # A box or a point answers for a mask only as well as the segmenter draws it.
            least = {"box": 0.8, "point": 0.2}[template.place_as] if sample.task == "mask" else 1.0
            assert task.score(sample, target, template).correct >= least


def test_boxes_lie_within_their_picture_in_reading_order(every_question):
    for sample in every_question:
        boxes = [region.box_px for region in sample.regions]
        assert boxes == sorted(boxes, key=lambda box: reading_order(box, sample.images[0].width_px))
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 64
            assert 0 <= y1 < y2 <= 64
        assert boxes or sample.task != "boxes"
        if sample.origin.source == "phantom_structure_count":
            assert len(boxes) == int(sample.answer)
        if sample.origin.source in ("phantom_bethesda", "phantom_cell_caption"):
            assert not boxes


LABELS = tuple(q for q in PAIR_QUESTIONS if q.task == "label")


@pytest.mark.parametrize("question", LABELS, ids=lambda question: question.name)
def test_every_visible_value_is_dealt_equally_often_and_is_true(question):
    samples = read_all(phantoms({}, {question.name: 21}))

    values = samples[0].choices
    counts = Counter(sample.answer for sample in samples)
    assert set(counts) == set(values)
    assert max(counts.values()) - min(counts.values()) <= 1
    said = {
        "stain_label": "{} stain",
        "cellularity": "Cellularity is {}",
        "nc_ratio": "The nuclear-cytoplasmic ratio is {}.",
        "nuclear_size": "Nuclear size: {}.",
        "cytoplasm": "The cytoplasm is {}.",
        "arrangement": "Arrangement: {}.",
        "background": "The background is {}.",
    }.get(question.name)
    for sample in samples:
        if question.name == "pearl":
            assert ("keratin pearl" in sample.context) == (sample.answer == "present")
        elif question.name == "chromogen":
            assert ("marks many nuclei" in sample.context) == (sample.answer == "nuclei")
        elif question.name == "mitoses_label":
            assert ("mitos" in sample.context) == (sample.answer == "present")
        elif question.name != "cellularity" or "Cellularity" in sample.context:
            assert said is not None
            assert said.format(sample.answer) in sample.context


def test_the_wording_of_a_pair_is_that_of_its_caption():
    counts = dict.fromkeys(("patch_caption", "unseen_caption", "reworded_caption"), 12)
    wordings: dict[str, set[str]] = defaultdict(set)
    for sample in read_all(phantoms({"patch_caption": 12}, counts)):
        wordings[sample.origin.source].update(sample.strata)

    assert wordings == {
        "phantom_patch_caption": {"wording=seen"},
        "phantom_unseen_caption": {"wording=unseen"},
        "phantom_reworded_caption": {"wording=unseen"},
    }


def test_pairs_show_every_diagnosis_and_every_cell_class():
    samples = read_all(phantoms({}, {"unseen_caption": 3 * 24}))

    found = Counter(sample.finding for sample in samples)
    assert set(found) == {*DIAGNOSES, *BETHESDA}
    assert {sample.subfield for sample in samples} == {"histopathology", "ihc", "cytology"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": {"unseen_caption": 3}}, "unseen_caption: its wording is held out"),
        ({"train": {"diagnose": 3}}, "no phantom question 'diagnose'; known: diagnosis"),
        ({"test": {"diagnosis": -1}}, "not negative"),
        ({"size_px": 63}, "size_px"),
        ({"size_px": 5000}, "size_px"),
    ],
)
def test_a_wrong_entry_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        phantoms(**{"train": {"diagnosis": 1}, "test": {}, **fields})
