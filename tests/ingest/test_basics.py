"""Source `basics`: its truth agrees with what was drawn, nothing of a test leaks into training, no answer leaks out."""

import re
from collections import Counter, defaultdict
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pathloom.benchmarks import training_templates
from pathloom.images import load_pixels
from pathloom.ingest import basic_shapes, basic_words
from pathloom.ingest.basic_shapes import MAX_COUNT
from pathloom.ingest.basics import QUESTIONS, BasicsConfig
from pathloom.ingest.drawn import counted, options_around, sentences
from pathloom.phantom import words
from pathloom.phantom.shapes import (
    COLOURS,
    KINDS,
    SIZES,
    UNSEEN_KINDS,
    Scene,
    Shape,
    draw_scene,
    place,
)
from pathloom.phantom.words import HELD_OUT_GENERAL, is_held_out
from pathloom.schema import Sample
from pathloom.stage import UserError
from pathloom.tasks import TASKS, find_task
from pathloom.tasks.parsing import normalise
from pathloom.tasks.task import SYSTEM_PROMPTS

SIDE_PX = 56
WORD_QUESTIONS = ("word_choice", "phrase_choice", "blend_choice", "lookup", "match")
PICTURE_QUESTIONS = tuple(question.name for question in QUESTIONS if question.name not in WORD_QUESTIONS)
CHOICE_QUESTIONS = tuple(question.name for question in QUESTIONS if question.task == "choice")
YES_NO_QUESTIONS = ("match", "is_shape", "is_there")
PLACES = {f"{row} {column}" for row in ("upper", "middle", "lower") for column in ("left", "centre", "right")}


def basics(train: dict[str, int], test: dict[str, int], **fields: Any) -> BasicsConfig:
    given = {
        "name": "b",
        "kind": "ingest",
        "source": "basics",
        "size_px": SIDE_PX,
        "train": train,
        "test": test,
    }
    return BasicsConfig.model_validate({**given, **fields})


def read_all(config: BasicsConfig) -> list[Sample]:
    records = [record for unit in config.plan() for record in config.read(unit)]
    assert all(isinstance(record, Sample) for record in records)
    return [record for record in records if isinstance(record, Sample)]


@cache
def asked(name: str, split: str, count: int) -> tuple[Sample, ...]:
    counts = {name: count}
    return tuple(read_all(basics(counts if split == "train" else {}, counts if split == "test" else {})))


@cache
def training() -> tuple[Sample, ...]:
    """Some hundred of each question about words, less of pictures, which say less."""
    of_words = [sample for name in WORD_QUESTIONS for sample in asked(name, "train", 200)]
    return (*of_words, *(sample for name in PICTURE_QUESTIONS for sample in asked(name, "train", 60)))


@cache
def held_out() -> tuple[Sample, ...]:
    return tuple(sample for question in QUESTIONS for sample in asked(question.name, "test", 56))


def of(samples: tuple[Sample, ...], name: str) -> list[Sample]:
    return [sample for sample in samples if sample.origin.source == f"basics_{name}"]


def letters(text: str) -> set[str]:
    return set(re.findall("[a-z]+", text.lower()))


def words_of(sample: Sample) -> set[str]:
    """Every word of a Sample that a model reads or learns to write."""
    labels = [region.label or "" for region in sample.regions]
    texts = (sample.question, *sample.choices, sample.answer, sample.reasoning or "", *labels)
    return letters(" ".join((*texts, sample.finding or "", sample.asked_finding or "")))


MADE_UP = re.compile(
    rf"((?:{'|'.join(words._ONSETS)})(?:{'|'.join(words._VOWELS)})(?:{'|'.join(words._CODAS)})){{2,3}}"
)


def can_be_asked_in_a_test(word: str) -> bool:
    return is_held_out(word) and (word in HELD_OUT_GENERAL or MADE_UP.fullmatch(word) is not None)


def strata(sample: Sample) -> dict[str, str]:
    return dict(stratum.split("=") for stratum in sample.strata)


# What training holds and what tests hold


def test_no_word_of_a_test_occurs_in_any_training_text():
    read = {word for sample in training() for word in words_of(sample)}

    assert len(read) > 1000
    assert {word for word in read if can_be_asked_in_a_test(word)} == set()
    assert {word for word in read if len(word) > 2 and is_held_out(word)} == set(), "blended words"


def test_no_word_of_a_test_occurs_in_a_wording_a_template_or_a_system_prompt():
    wordings = [wording for question in QUESTIONS for wording in (*question.seen, *question.unseen)]
    templates = [template.text for task in TASKS for template in task.templates]
    fixed = letters(" ".join((*SYSTEM_PROMPTS.values(), *templates, *wordings)))

    assert {"pathology", "option", "describe"} <= fixed
    assert {word for word in fixed if can_be_asked_in_a_test(word)} == set()


@pytest.mark.parametrize("name", WORD_QUESTIONS)
def test_a_test_question_about_words_uses_held_out_words_only(name):
    question = next(question for question in QUESTIONS if question.name == name)
    fixed = letters(re.sub(r"\{\w+\}", "", " ".join((*question.seen, *question.unseen))))
    fixed |= {"the", "is", "this", "asked", "yes", "no"}
    found: set[str] = set()
    for sample in of(held_out(), name):
        content = words_of(sample) - fixed
        assert content
        may_stand = is_held_out if name == "blend_choice" else can_be_asked_in_a_test
        assert all(map(may_stand, content)), sample.question
        found |= content

    if name == "blend_choice":  # neither plain nor made-up
        return
    assert found & set(HELD_OUT_GENERAL), "plain words"
    assert found - set(HELD_OUT_GENERAL), "made-up words"


def test_half_of_the_test_questions_are_worded_as_no_training_question_is():
    for question in QUESTIONS:
        ours = of(held_out(), question.name)
        assert Counter(strata(sample)["wording"] for sample in ours) == {"seen": 28, "unseen": 28}
        assert set(question.seen) & set(question.unseen) == set()
    assert all(strata(sample)["wording"] == "seen" for sample in training())

    trained = {sample.question for sample in training()}
    assert not any(s.question in trained for s in held_out() if strata(s)["wording"] == "unseen")


def test_an_unseen_wording_is_made_of_words_that_training_reads():
    """Words as tokens are: in the same case, with the space before them or without."""
    read: set[str] = set()
    for sample in training():
        task = find_task(sample.task)
        for template in training_templates(sample.task):
            text = task.render(sample, template, "cot").user + "\n" + task.target(sample, template, "cot")
            read |= set(re.findall(" ?[A-Za-z]+", text))

    for question in QUESTIONS:
        for wording in question.unseen:
            pieces = re.findall(" ?[A-Za-z]+", re.sub(r"\{\w+\}", "", wording))
            assert pieces
            assert [piece for piece in pieces if piece not in read] == [], wording


def test_the_wording_does_not_give_the_answer_away():
    for name in YES_NO_QUESTIONS:
        counts = Counter((strata(s)["wording"], s.answer) for s in of(held_out(), name))
        assert set(counts.values()) == {14}
    counts = Counter((strata(s)["wording"], s.answer) for s in of(held_out(), "count"))
    assert len(counts) == 2 * (MAX_COUNT + 1)
    assert set(counts.values()) == {4}
    boxes = Counter((strata(s)["wording"], len(s.regions)) for s in asked("boxes", "test", 64))
    assert len(boxes) == 2 * 4
    assert set(boxes.values()) == {8}
    shapes = Counter((strata(s)["wording"], len(s.regions)) for s in asked("all_shapes", "test", 80))
    assert set(shapes) == set(product(("seen", "unseen"), range(1, 6)))
    assert set(shapes.values()) == {8}


# What was drawn


def drawn_with(
    name: str, split: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Sample, Scene]]:
    """Samples, each with the scene that its picture was made from."""
    scenes: list[Scene] = []

    def noted(*arguments: Any, **options: Any) -> Scene:
        scenes.append(draw_scene(*arguments, **options))
        return scenes[-1]

    monkeypatch.setattr(basic_shapes, "draw_scene", noted)
    counts = {name: count}
    config = basics(counts if split == "train" else {}, counts if split == "test" else {})
    pairs = []
    for unit in config.plan():
        scenes.clear()
        (sample,) = config.read(unit)
        assert isinstance(sample, Sample)
        assert len(scenes) == 1
        assert (np.asarray(load_pixels(sample.images[0])) == scenes[0].pixels_rgb).all()
        pairs.append((sample, scenes[0]))
    return pairs


def meant(question: str, scene: Scene) -> list[Shape]:
    """The shapes that the words of a question mean, read from the question itself."""
    asked_words = re.findall("[a-z]+", question.lower())
    colours = [word for word in asked_words if word in COLOURS]
    kinds = [kind for kind in KINDS if {kind, f"{kind}s", f"{kind}es"} & set(asked_words)]
    assert len(colours) <= 1
    assert len(kinds) <= 1
    assert colours or kinds, question
    return [s for s in scene.shapes if s.colour in (colours or COLOURS) and s.kind in (kinds or (s.kind,))]


def said_places(sample: Sample) -> list[str]:
    return re.findall(r"(?:upper|middle|lower) (?:left|centre|right)", sample.reasoning or "")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["count", "is_there", "boxes", "one_box"])
def test_counts_yes_and_no_and_boxes_are_those_of_the_shapes_that_the_question_means(
    name, split, monkeypatch
):
    for sample, scene in drawn_with(name, split, 56, monkeypatch):
        right = meant(sample.question, scene)
        assert said_places(sample) == [place(shape.box_px, SIDE_PX) for shape in scene.shapes]
        numbered = re.findall(r"(\w+ \w+): (\d+)\.", (sample.reasoning or "").partition("Number")[0])
        assert numbered == [
            (place(shape.box_px, SIDE_PX), str(number)) for number, shape in enumerate(right, start=1)
        ]
        if name == "count":
            assert sample.answer == str(len(right))
        elif name == "is_there":
            assert sample.answer == ("yes" if right else "no")
        else:
            assert [region.box_px for region in sample.regions] == [shape.box_px for shape in right]
            assert [region.label for region in sample.regions] == [
                f"{shape.size} {shape.name}" for shape in right
            ]
            assert right
        if name in ("count", "is_there"):
            numbers = re.findall(r"\d+", sample.reasoning or "")
            assert [int(number) for number in numbers] == [*range(1, len(right) + 1), len(right)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_shape_is_boxed_and_labelled_with_its_size_colour_kind_and_place(split, monkeypatch):
    for sample, scene in drawn_with("all_shapes", split, 40, monkeypatch):
        assert [(region.box_px, region.label) for region in sample.regions] == [
            (shape.box_px, f"{shape.size} {shape.colour} {shape.kind} {place(shape.box_px, SIDE_PX)}")
            for shape in scene.shapes
        ]
        assert said_places(sample) == [place(shape.box_px, SIDE_PX) for shape in scene.shapes]
        assert not letters(sample.question) & {*SIZES, *COLOURS, *KINDS}


def test_a_question_about_a_shape_is_answered_by_what_was_drawn(monkeypatch):
    attributes: Counter[str] = Counter()
    for sample, scene in drawn_with("shape", "train", 72, monkeypatch):
        (shape,) = meant(sample.question, scene)
        attribute = next(word for word in ("colour", "place", "size", "kind") if word in sample.question)
        told = {"colour": shape.colour, "place": place(shape.box_px, SIDE_PX), "size": shape.size}
        assert sample.answer == {**told, "kind": shape.kind}[attribute]
        assert sample.finding == sample.answer
        known = {"colour": set(COLOURS), "place": PLACES, "size": set(SIZES), "kind": set(KINDS)}[attribute]
        assert set(sample.choices) <= known
        attributes[attribute] += 1
    assert attributes == dict.fromkeys(("colour", "place", "size", "kind"), 18)


def test_a_question_whether_it_is_a_shape_is_answered_by_what_was_drawn(monkeypatch):
    wrong: Counter[tuple[bool, bool]] = Counter()
    for sample, scene in drawn_with("is_shape", "test", 48, monkeypatch):
        (shape,) = scene.shapes
        assert sample.finding == shape.name
        assert (sample.asked_finding or "") in sample.question
        assert (sample.answer == "yes") == (sample.asked_finding == shape.name)
        colour, kind = (sample.asked_finding or "").split()
        wrong[colour == shape.colour, kind == shape.kind] += 1
    assert wrong == {(True, True): 24, (True, False): 12, (False, True): 12}, "half right is still wrong"


def test_a_caption_tells_all_that_was_drawn(monkeypatch):
    for sample, scene in drawn_with("scene_caption", "train", 24, monkeypatch):
        places = [
            f"{shape.size.capitalize()} {shape.name} {place(shape.box_px, SIDE_PX)}."
            for shape in scene.shapes
        ]
        assert sample.answer == " ".join([*places, f"The background is {scene.background}."])
    for sample, scene in drawn_with("one_shape", "train", 24, monkeypatch):
        (shape,) = scene.shapes
        assert sample.answer == f"{shape.size.capitalize()} {shape.name} {place(shape.box_px, SIDE_PX)}."


@pytest.mark.parametrize("name", PICTURE_QUESTIONS)
def test_a_kind_of_shape_kept_for_tests_is_never_drawn_or_named_in_training(name, monkeypatch):
    for sample, scene in drawn_with(name, "train", 24, monkeypatch):
        assert words_of(sample) & {f"{kind}{end}" for kind in UNSEEN_KINDS for end in ("", "s")} == set()
        assert {shape.kind for shape in scene.shapes} <= set(KINDS)


@pytest.mark.parametrize("name", ["count", "is_there", "boxes"])
def test_half_of_the_tests_show_unseen_kinds_and_ask_for_them_by_colour(name, monkeypatch):
    kinds: defaultdict[str, set[str]] = defaultdict(set)
    numbers: Counter[str] = Counter()
    for sample, scene in drawn_with(name, "test", 56, monkeypatch):
        kinds_are = strata(sample)["shapes"]
        kinds[kinds_are] |= {shape.kind for shape in scene.shapes}
        numbers[kinds_are] += 1
        assert not letters(sample.question) & set(UNSEEN_KINDS)
        if kinds_are == "unseen":
            assert "shape" in sample.question
    assert numbers == {"seen": 28, "unseen": 28}
    assert kinds["unseen"] == set(UNSEEN_KINDS)
    assert kinds["seen"] == set(KINDS)
    assert all(strata(sample)["shapes"] == "seen" for sample in of(training(), name))


# No answer is more likely than another, and nothing gives it away


@pytest.mark.parametrize("name", YES_NO_QUESTIONS)
def test_yes_and_no_are_right_equally_often(name):
    for samples in (of(held_out(), name), of(training(), name)):
        counts = Counter(sample.answer for sample in samples)
        assert counts == {"yes": len(samples) // 2, "no": len(samples) // 2}


def test_every_count_from_none_to_six_is_right_equally_often():
    counts = Counter((strata(s)["shapes"], s.answer) for s in of(held_out(), "count"))

    assert set(counts) == set(product(("seen", "unseen"), map(str, range(MAX_COUNT + 1))))
    assert set(counts.values()) == {4}


@pytest.mark.parametrize("name", CHOICE_QUESTIONS)
def test_the_right_option_stands_at_each_letter_as_often_as_chance_has_it(name):
    samples = asked(name, "train", 720 if name in WORD_QUESTIONS else 144)
    expected: defaultdict[int, float] = defaultdict(float)
    for sample in samples:
        for position in range(len(sample.choices)):
            expected[position] += 1 / len(sample.choices)
    positions = Counter(sample.choices.index(sample.answer) for sample in samples)

    assert set(positions) == set(expected)
    for position, number in expected.items():
        assert positions[position] == pytest.approx(number, abs=0.08 * len(samples))


def best_guess(pairs: list[tuple[object, object]]) -> float:
    """Share of right answers of whoever knows only the first of each pair."""
    by_clue: defaultdict[object, Counter[object]] = defaultdict(Counter)
    for clue, answer in pairs:
        by_clue[clue][answer] += 1
    return sum(max(answers.values()) for answers in by_clue.values()) / len(pairs)


def test_the_number_of_shapes_does_not_say_whether_one_is_there(monkeypatch):
    pairs = [
        (len(scene.shapes), sample.answer)
        for sample, scene in drawn_with("is_there", "train", 240, monkeypatch)
    ]

    assert {number for number, _ in pairs} == {2, 3, 4}
    assert best_guess([*pairs]) < 0.6


def test_the_number_of_shapes_does_not_say_which_letter_is_right(monkeypatch):
    sizes = [
        (len(scene.shapes), sample.choices.index(sample.answer))
        for sample, scene in drawn_with("shape", "train", 72, monkeypatch)
        if "size" in sample.question
    ]

    assert Counter(sizes) == dict.fromkeys(product((1, 2, 3), (0, 1, 2)), 2)


def test_the_length_of_what_is_asked_does_not_say_whether_it_is_that():
    samples = asked("match", "train", 1000)

    assert best_guess([(len((s.asked_finding or "").split()), s.answer) for s in samples]) < 0.545


# Truth and form


def test_questions_about_words_are_answered_by_their_text():
    for sample in (*of(training(), "lookup"), *of(held_out(), "lookup")):
        facts = dict(re.findall(r"The (\w+) is (\w+)\.", sample.question))
        left = re.sub(r"The \w+ is \w+\.", "", sample.question)
        (name,) = (name for name in facts if name in letters(left))
        assert sample.answer == facts[name]
        assert set(sample.choices) == set(facts.values())
    for sample in (*of(training(), "match"), *of(held_out(), "match")):
        assert (sample.answer == "yes") == (sample.finding == sample.asked_finding)
        assert str(sample.finding) in sample.question
        assert str(sample.asked_finding) in sample.question
    for name, most_words in (("word_choice", 1), ("phrase_choice", 3), ("blend_choice", 2)):
        for sample in (*of(training(), name), *of(held_out(), name)):
            assert re.search(rf"\b{sample.answer}\b", sample.question)
            assert sample.reasoning == f"This is {sample.answer}."
            assert 1 <= len(sample.answer.split()) <= most_words


def test_no_two_options_are_alike():
    for sample in (*training(), *held_out()):
        options = [normalise(option) for option in sample.choices]
        assert len(set(options)) == len(options)
        if find_task(sample.task).name == "choice":
            assert 2 <= len(options) <= 6


def test_no_two_options_are_alike_where_words_are_few(monkeypatch):
    few = ("ant", "bee", "cow", "dog")
    monkeypatch.setattr(
        basic_words, "pick_words", lambda rng, count, held_out: [*map(str, rng.permutation(few)[:count])]
    )
    for sample in read_all(basics({"phrase_choice": 200}, {})):
        assert len(set(sample.choices)) == len(sample.choices)


def test_phrases_share_words_so_that_one_word_is_not_enough():
    choices = [sample.choices for sample in of(training(), "phrase_choice")]
    shared = [any(set(a.split()) & set(b.split()) for a in c for b in c if a != b) for c in choices]

    assert sum(shared) > 0.5 * len(shared)


def test_every_sample_can_be_asked_answered_and_graded():
    for sample in (*training(), *held_out()):
        task = find_task(sample.task)
        truth = task.truth(sample)
        assert "{" not in sample.question
        assert not re.search(r"\s\s|\.\.|\s[.?]", sample.question)
        assert bool(sample.images) == bool(sample.origin.source.removeprefix("basics_") in PICTURE_QUESTIONS)
        for template in task.templates:
            target = task.target(sample, template, "cot")
            score = task.score(sample, target, template)
            assert score.correct == 1.0, (sample.id, template.name)
            if sample.task == "boxes":
                assert len(score.answer) == len(truth)  # type: ignore[arg-type]
            else:
                assert score.answer == truth
        if sample.task != "caption":
            assert sample.reasoning
            assert f"<think>{sample.reasoning}</think>" in task.target(sample, task.templates[0], "cot")


def test_every_question_gets_the_samples_asked_for_under_its_own_name():
    for question in QUESTIONS:
        ours = of(held_out(), question.name)
        assert len(ours) == 56
        assert {sample.task for sample in ours} == {question.task}
        assert len({sample.id for sample in ours}) == 56
    for sample in held_out():
        assert sample.split == "test"
        assert sample.origin.group == sample.id
        for image in sample.images:
            assert load_pixels(image).size == (image.width_px, image.height_px) == (SIDE_PX, SIDE_PX)


FEW = {"word_choice": 2, "match": 1, "shape": 2, "boxes": 1, "scene_caption": 1}


def test_the_same_seed_gives_the_same_samples_and_another_one_others():
    assert read_all(basics(FEW, {})) == read_all(basics(FEW, {}))
    for one, other in zip(read_all(basics(FEW, {})), read_all(basics(FEW, {}, seed=1)), strict=True):
        assert one.id == other.id
        if one.images:
            assert one.images != other.images
        else:
            assert one.question != other.question


def test_training_and_test_samples_have_nothing_in_common():
    for one, other in zip(read_all(basics(FEW, {})), read_all(basics({}, FEW)), strict=True):
        assert (one.split, other.split) == ("train", "test")
        assert one.id != other.id
        assert (one.images != other.images) if one.images else (one.question != other.question)


def test_a_sample_does_not_depend_on_how_many_others_are_asked_for():
    few = read_all(basics({"match": 2}, {"count": 1}))
    many = {sample.id: sample for sample in read_all(basics({"match": 4, "lookup": 1}, {"count": 2}))}

    assert all(many[sample.id] == sample for sample in few)


# The parts of `drawn` that every such source shares


@pytest.mark.parametrize("position", range(8))
def test_options_stand_around_the_answer_at_the_place_asked_for(position):
    others = ("a", "b", "c", "d", "e")

    options = options_around("c", others, 4, position, np.random.default_rng(0))

    assert options[position % 4] == "c"
    assert len(set(options)) == 4
    assert set(options) <= set(others)


def test_options_are_fewer_where_there_are_fewer_others():
    options = options_around("b", ("a", "b"), 6, 5, np.random.default_rng(0))

    assert options == ("a", "b")
    assert options_around("x", (), 3, 2, np.random.default_rng(0)) == ("x",)


def test_options_are_drawn_at_random():
    rng = np.random.default_rng(0)

    assert len({options_around("a", "abcdefgh", 3, 0, rng) for _ in range(50)}) > 20


def test_sentences_end_in_one_full_stop():
    assert sentences("Two rings", "This is red.") == "Two rings. This is red."
    assert sentences() == ""


def test_what_is_counted_is_numbered_and_the_last_number_is_how_many():
    boxes = [(0.0, 0.0, 10.0, 10.0), (70.0, 70.0, 80.0, 80.0)]

    assert counted("rings", boxes, 90) == "1 upper left. 2 lower right. Number of rings: 2."
    assert counted("rings", [], 90) == "Number of rings: 0."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": {"shapes": 3}}, "no basics question 'shapes'; known: word_choice, phrase_choice"),
        ({"test": {"diagnosis": 3}}, "no basics question 'diagnosis'"),
        ({"test": {"count": -1}}, "count: a number of Samples is not negative"),
        ({"size_px": 55}, "size_px"),
        ({"size_px": 1025}, "size_px"),
        ({"trian": {}}, "trian"),
    ],
)
def test_a_wrong_entry_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        basics(**{"train": {"shape": 1}, "test": {}, **fields})


def test_an_entry_that_asks_for_nothing_is_refused():
    with pytest.raises(UserError, match="b: train and test ask for no Sample at all"):
        basics({"lookup": 0}, {}).check()
    basics({}, {"lookup": 1}).check()
    assert basics({}, {}).plan() == []
