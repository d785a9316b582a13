import pytest
from tests.fixtures import encoded, make_image, make_sample

from pathloom.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from pathloom.evaluate.config import EvaluateConfig
from pathloom.evaluate.select import apply_control, held_out
from pathloom.images import load_pixels, read_image
from pathloom.schema import Origin, Region, Sample
from pathloom.tasks.choice import CHOICE

OPTIONS = ("gland", "duct", "nerve", "vessel")


def of_source(sample_id: str, source: str, **fields: object) -> Sample:
    origin = Origin(source=source, source_id=sample_id, licence="CC0-1.0", group=sample_id)
    return make_sample(sample_id, origin=origin, **fields)


def choices(number: int) -> list[Sample]:
    return [
        make_sample(
            f"s{index}",
            task="choice",
            choices=OPTIONS,
            answer=OPTIONS[index % 4],
            images=(make_image(index),),
            split="test",
        )
        for index in range(number)
    ]


def test_a_benchmark_asks_held_out_samples_of_its_task_and_source_only():
    presence = find_benchmark("phantom_presence")
    samples = [
        of_source("right", "phantom_presence", split="test"),
        of_source("fold", "phantom_presence", split="fold-2"),
        of_source("training", "phantom_presence", split="train"),
        of_source("validation", "phantom_presence", split="val"),
        of_source("other source", "phantom_stain", split="test"),
        of_source("other task", "phantom_presence", split="test", task="count", answer="1"),
    ]

    assert [sample.id for sample in held_out(samples, presence, None)] == ["right", "fold"]


def test_a_benchmark_of_any_source_takes_all_sources():
    samples = [of_source(name, name, split="test", task="label") for name in "ab"]

    assert held_out(samples, find_benchmark("tiles_label"), None) == samples


def test_samples_made_for_a_benchmark_are_asked_by_that_one_alone():
    open_one = Benchmark("any", "*", "choice", "letter", 1, None, "", "")
    own = Benchmark("own", "*", "choice", "letter", 1, None, "", "", stratum="benchmark=own")
    plain, made, other = (
        make_sample(name, task="choice", choices=OPTIONS, answer="duct", split="test", strata=strata)
        for name, strata in (
            ("plain", ("wording=unseen",)),
            ("made", ("wording=unseen", "benchmark=own")),
            ("other", ("benchmark=other",)),
        )
    )

    assert held_out([plain, made, other], open_one, None) == [plain]
    assert held_out([plain, made, other], own, None) == [made]


@pytest.mark.parametrize(
    ("limit", "ids"), [(1, [0]), (4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))]
)
def test_a_limit_is_spread_evenly_over_the_samples(limit, ids):
    benchmark = Benchmark("b", "*", "choice", "letter", 1, None, "", "")

    chosen = held_out(choices(10), benchmark, limit)

    assert [sample.id for sample in chosen] == [f"s{index}" for index in ids]


def test_no_control_changes_nothing():
    assert apply_control(choices(3), "none", 0) == choices(3)


def test_without_image_a_grey_one_of_the_same_size_stands_in_its_place():
    blind = make_sample("never had one", images=())
    samples = choices(3)

    asked = apply_control([*samples, blind], "no_image", 0)

    assert [sample.id for sample in asked] == ["s0", "s1", "s2"]
    for before, after in zip(samples, asked, strict=True):
        (image,) = after.images
        pixels = load_pixels(image)
        assert pixels.size == (before.images[0].width_px, before.images[0].height_px)
        assert pixels.getcolors() == [(24 * 16, (128, 128, 128))]
        assert after.model_copy(update={"images": before.images}) == before, "nothing else is changed"


def test_a_picture_read_in_place_is_greyed_as_well(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(1))
    sample = make_sample(images=(read_image(tmp_path / "a.png"),))

    (asked,) = apply_control([sample], "no_image", 0)

    assert load_pixels(asked.images[0]).getcolors() == [(24 * 16, (128, 128, 128))]


def test_a_wrong_image_turns_the_answer_to_a_yes_no_question():
    def shown(name: str, finding: str, asked: str, seed: int) -> Sample:
        answer = "yes" if finding == asked else "no"
        image = (make_image(seed),)
        return make_sample(name, finding=finding, asked_finding=asked, answer=answer, images=image)

    samples = [
        shown(f"{finding} {asked}", finding, asked, index)
        for index, (finding, asked) in enumerate(
            (f, a) for f in ("scar", "gland", "duct") for a in ("scar", "gland")
        )
    ]
    finding_of = {sample.images: sample.finding for sample in samples}

    asked = apply_control(samples, "wrong_image", 0)

    assert len(asked) == len(samples)
    for sample in asked:
        right = "yes" if finding_of[sample.images] == sample.asked_finding else "no"
        assert right != sample.answer


def test_a_wrong_image_belongs_to_a_sample_with_another_answer():
    samples = choices(9)
    answer_of_picture = {sample.images: sample.answer for sample in samples}

    asked = apply_control(samples, "wrong_image", 0)

    assert [sample.id for sample in asked] == [sample.id for sample in samples]
    for before, after in zip(samples, asked, strict=True):
        assert answer_of_picture[after.images] != before.answer
        assert (after.question, after.choices, after.answer) == (
            before.question,
            before.choices,
            before.answer,
        )


def test_a_wrong_image_needs_another_answer_to_be_there():
    alike = [sample for sample in choices(9) if sample.answer == "gland"]

    assert apply_control(alike, "wrong_image", 0) == []


def test_a_count_stays_right_where_as_many_lie_elsewhere():
    boxes = [(Region(box_px=(at, 0, at + 4, 4), label="gland"),) for at in (0, 2)]
    samples = [
        make_sample(name, task="count", answer="1", regions=regions, images=(make_image(index),))
        for index, (name, regions) in enumerate(zip("ab", boxes, strict=True))
    ]

    assert apply_control(samples, "wrong_image", 0) == []


def test_a_wrong_image_for_boxes_has_other_boxes():
    samples = [
        make_sample(name, task="boxes", answer="", images=(make_image(index),), regions=(Region(box_px=box),))
        for index, (name, box) in enumerate({"a": (0, 0, 4, 4), "b": (0, 0, 4, 4), "c": (5, 5, 9, 9)}.items())
    ]

    asked = {sample.id: sample.images[0] for sample in apply_control(samples, "wrong_image", 0)}

    assert asked["a"] == asked["b"] == samples[2].images[0]


def test_a_picture_with_two_questions_is_no_wrong_picture_for_either():
    one = make_sample("a", answer="yes")
    same_picture = make_sample("b", answer="no")

    assert apply_control([one, same_picture], "wrong_image", 0) == []


def test_shuffled_options_give_every_option_another_letter_and_keep_the_answer():
    for seed in range(5):
        for before, after in zip(
            choices(12), apply_control(choices(12), "shuffled_options", seed), strict=True
        ):
            assert sorted(after.choices) == sorted(before.choices)
            assert all(one != other for one, other in zip(before.choices, after.choices, strict=True))
            template = CHOICE.templates[0]
            assert after.answer == before.answer
            assert CHOICE.target(after, template, "direct") != CHOICE.target(before, template, "direct")


def test_questions_without_options_are_left_out_of_the_shuffle():
    assert apply_control([make_sample("yes or no")], "shuffled_options", 0) == []


def test_a_scale_is_never_shuffled_and_the_wrong_picture_has_another_grade():
    scale = ("low", "moderate", "high")
    graded = [one.model_copy(update={"task": "ordinal", "choices": scale, "answer": scale[k % 3]})
              for k, one in enumerate(choices(9))]  # fmt: skip
    assert apply_control(graded, "shuffled_options", 0) == []
    answer_of = {one.images[0].path: one.answer for one in graded}
    swapped = apply_control(graded, "wrong_image", 0)
    assert len(swapped) == 9
    assert all(answer_of[one.images[0].path] != one.answer for one in swapped)


@pytest.mark.parametrize("control", ["wrong_image", "shuffled_options"])
def test_a_control_is_the_same_for_the_same_seed_whatever_the_order(control):
    samples = choices(12)

    first = apply_control(samples, control, 0)
    backwards = apply_control(samples[::-1], control, 0)

    assert first == apply_control(samples, control, 0) == backwards[::-1]
    assert first != apply_control(samples, control, 1)


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="no control 'blur'"):
        apply_control(choices(1), "blur", 0)


def test_every_control_that_a_recipe_may_name_is_there():
    named = EvaluateConfig.model_fields["controls"].annotation.__args__[0].__args__  # type: ignore[union-attr]

    for control in named:
        apply_control(choices(3), control, 0)
    assert len(named) == 4


def test_every_benchmark_pins_a_template_of_its_task():
    for benchmark in BENCHMARKS:
        assert benchmark.pinned_template().name == benchmark.template
    with pytest.raises(ValueError, match="no benchmark 'x'; known: phantom_diagnosis"):
        find_benchmark("x")


def test_a_wrong_picture_is_one_that_was_asked_about_in_the_same_dimension():
    """Of another dimension nothing is known but its own answer: its picture may show the very same."""
    asked = [
        make_sample(
            f"{dimension} {index}",
            task="choice",
            choices=("low", "high"),
            answer=("low", "high")[(index + turn) % 2],
            images=(make_image(index),),
            strata=(f"dimension={dimension}",),
        )
        for index in range(6)
        for turn, dimension in enumerate(("size", "rim"))
    ]

    swapped = apply_control(asked, "wrong_image", seed=0)

    assert len(swapped) == len(asked)
    truth = {(sample.strata, sample.images[0].path): sample.answer for sample in asked}
    assert all(truth[sample.strata, sample.images[0].path] != sample.answer for sample in swapped)
