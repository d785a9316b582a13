"""What every task must hold, whatever kind of question it is. A new entry in TASKS is covered on arrival."""

import itertools
import random
import time
from collections.abc import Sequence

import pytest
from tests.tasks.samples import TRUE_BOXES, WRONG_ANSWERS, make_sample

from pathloom.tasks import TASKS, find_task
from pathloom.tasks.task import SYSTEM_PROMPTS, Task, letter

HUNDRED_KB = 100_000
STUFFED = (
    "A B C D",
    "A or B",
    "B or A",
    "A, B",
    "B, C, D",
    "AB",
    "fibrosis necrosis mitosis apoptosis",
    "fibrosis, necrosis, mitosis, apoptosis",
    "necrosis or fibrosis",
    "B. fibrosis",
    "yes and no",
    "yes no",
    "yes or no",
    "lsil hsil normal",
    "lsil or hsil",
    "hsil\nlsil",
    "6 or 7",
    "6 7 8",
    "0 1 2 3 4 5 6 7 8 9",
    "5-9",
)
GARBAGE = (
    "\x00\x01\x02",
    "\ud800",
    "{" * 50,
    "[" * 5000,
    '{"answer": ',
    "[[nan,nan,nan,nan]]",
    "[[NaN,0,1,1]]",
    "[[0,0,Infinity,10]]",
    "[[-Infinity,0,1,1]]",
    "[[0,0,1e400,10]]",
    f"[[0,0,{'9' * 400},10]]",
    f"[[0,0,{'9' * 6000},10]]",
    "[[10,10,1,1]]",
    "[[1,1,1,1]]",
    "[[1,2,3]]",
    "[[1,2,3,4,5]]",
    '[["1","2","3","4"]]',
    "[[true,false,true,true]]",
    "[{}]",
    '{"bbox_2d":[1,2,3,4]}',
    "<bbox>[10,10,1,1]</bbox>",
    "<region>9 9 1 1</region>",
    "999999999999999999999",
    "-1",
    "7.5",
    "1e3",
    "\u0667",  # a digit in Arabic script
    "\uff17",  # a full-width digit
    "\u00b2",  # superscript two: isdigit() but not int()
)

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
each_rule_task = pytest.mark.parametrize(
    "task", [task for task in TASKS if task.checkable], ids=lambda task: task.name
)


def block(text: str) -> str:
    return f"<answer>{text}</answer>"


def correct(task: Task, completion: str, *, free: bool = False) -> float:
    """The best grade any template gives; also checks that a grade is a number in [0, 1]."""
    grades = []
    for template in task.templates:
        score = task.score(make_sample(task.name), completion, template, free=free)
        assert 0.0 <= score.correct <= 1.0
        assert all(value == value for value in score.parts.values())
        grades.append(score.correct)
    return max(grades)


@each_task
def test_the_target_parses_and_scores_one_in_every_template_and_style(task: Task):
    sample = make_sample(task.name, reasoning="The cells have lost their nuclei.")
    for template, style in itertools.product(task.templates, SYSTEM_PROMPTS):
        score = task.score(sample, task.target(sample, template, style), template)
        assert score.answer is not None
        assert score.correct == 1.0


@each_task
def test_the_free_parser_reads_the_target_as_the_strict_one_does(task: Task):
    sample = make_sample(task.name, reasoning="The cells have lost their nuclei.")
    for template in task.templates:
        target = task.target(sample, template, "direct")
        assert task.score(sample, target, template, free=True) == task.score(sample, target, template) or (
            not task.checkable  # any text is an answer then, so the free form keeps the tags
        )


@each_task
def test_a_wrong_answer_scores_zero(task: Task):
    for answer in WRONG_ANSWERS[task.name]:
        assert correct(task, block(answer)) == 0.0, answer


@each_task
def test_no_text_is_no_answer(task: Task):
    for completion in ("", " ", "\n", block(""), block(" \n ")):
        assert task.parse(make_sample(task.name), completion, task.templates[0]) is None, completion


@each_task
def test_two_answers_are_no_answer_even_when_they_agree(task: Task):
    sample = make_sample(task.name)
    for template in task.templates:
        target = task.target(sample, template, "direct")
        assert task.parse(sample, target + target, template) is None
        assert task.parse(sample, target + " then " + block("x"), template) is None


@each_task
def test_an_answer_cut_anywhere_before_its_closing_tag_is_no_answer(task: Task):
    sample = make_sample(task.name, reasoning="No nuclei.")
    target = task.target(sample, task.templates[0], "cot")
    for length in range(len(target)):
        assert task.parse(sample, target[:length], task.templates[0]) is None, target[:length]


@each_task
def test_nested_and_crossed_tags_are_no_answer(task: Task):
    sample = make_sample(task.name)
    text = task.write(sample, task.truth(sample), task.templates[0])
    for completion in (
        f"<answer><answer>{text}</answer></answer>",
        f"<answer>{text}</answer></think>",
        f"<think><answer>{text}</think></answer>x</answer>",
        f"</answer>{text}<answer>",
        f"<answer>{text}",
        f"{text}</answer>",
        text,
    ):
        assert task.parse(sample, completion, task.templates[0]) is None, completion


@each_rule_task
def test_naming_several_answers_never_pays(task: Task):
    for stuffed in STUFFED:
        assert correct(task, block(stuffed)) == 0.0, stuffed


@each_rule_task
def test_every_part_that_may_be_rewarded_is_graded_between_none_and_one(task: Task):
    sample, template = make_sample(task.name), task.templates[0]
    assert "correct" in task.rewards
    for answer in (task.target(sample, template, "direct"), *map(block, WRONG_ANSWERS[task.name])):
        score = task.score(sample, answer, template)
        graded = {"correct": score.correct, **score.parts}
        if score.answer is not None:
            assert set(task.rewards) <= set(graded)
        values = [graded.get(name, 0.0) for name in task.rewards]
        if answer == task.target(sample, template, "direct"):
            assert set(values) == {1.0}
        else:  # credit for a part of the truth is never full
            assert all(0.0 <= value < 1.0 for value in values), answer


@each_rule_task
@pytest.mark.parametrize("free", [False, True], ids=["strict", "free"])
def test_garbage_neither_raises_nor_pays(task: Task, free: bool):
    for garbage in GARBAGE:
        assert correct(task, block(garbage), free=free) == 0.0, garbage
        assert correct(task, garbage, free=free) == 0.0, garbage


def _long_texts() -> list[str]:
    pieces = (
        "A ", "B) ", "yes ", "7 ", " ", "\n", "\t", "<answer>", "</answer>", "<think>", "</think>", "[", "[[1,2,3,4],",
        "[1,2,", "<region>1 ", "<region>1 2 3 4</region>", "<bbox>[1,", '{"answer": "', '"answer"', "answer: ",
        "\nanswer\n", "## Question\n", "\\boxed{", "```json\n", "necrosis ", "not ", "\\", "*", "#", "twenty ", ",",
    )  # fmt: skip
    texts = [piece * (HUNDRED_KB // len(piece)) for piece in pieces]
    texts += [
        f"{start}{' ' * HUNDRED_KB}x" for start in ("<region>1", "<bbox>[1", "answer", '"answer"', "[1", "A")
    ]
    mixed = random.Random(0)
    texts.append("".join(mixed.choices(pieces, k=HUNDRED_KB // 6)))
    return texts


@each_rule_task
@pytest.mark.parametrize("free", [False, True], ids=["strict", "free"])
def test_a_hundred_kilobytes_of_garbage_take_time_in_proportion(task: Task, free: bool):
    sample, template = make_sample(task.name), task.templates[-1]
    for text in _long_texts():
        for completion in (text, block(text)):
            started = time.process_time()
            task.score(sample, completion, template, free=free)
            # Milliseconds when linear, minutes when quadratic: the bound lies far from both.
            assert time.process_time() - started < 5.0, completion[:40]


@each_task
def test_random_mixtures_of_tags_and_answers_never_raise(task: Task):
    dice = random.Random(1)
    sample = make_sample(task.name)
    text = r"""<answer> </answer> <think> </think> B yes 7 [[1,2,3,4]] [ ] , answer: {"answer": "B" } necrosis lsil"""
    pieces = [*text.split(), "-", ".", "1e9", "\\boxed{", "\x00", "\n", "answer is "]
    for _ in range(400):
        completion = "".join(dice.choices(pieces, k=dice.randrange(1, 12)))
        for free in (False, True):
            score = task.score(sample, completion, task.templates[-1], free=free)
            assert 0.0 <= score.correct <= 1.0


def test_shuffled_options_get_the_same_grade_for_the_same_text():
    task = find_task("choice")
    options = make_sample("choice").choices
    for order in itertools.permutations(options):
        sample = make_sample("choice", choices=order)
        for given in options:
            for answer in (given, letter(order.index(given))):
                score = task.score(sample, block(answer), task.templates[0])
                assert score.answer == given
                assert score.correct == float(given == "necrosis")


def test_labels_in_another_order_get_the_same_grade():
    task = find_task("label")
    for order in itertools.permutations(make_sample("label").choices):
        sample = make_sample("label", choices=order)
        assert [task.score(sample, block(given), task.templates[0]).correct for given in order] == [
            float(given == "lsil") for given in order
        ]


def _write_boxes(boxes: Sequence[Sequence[float]]) -> str:
    return block(str([[round(edge) for edge in box] for box in boxes]))


def test_repeated_and_needless_boxes_lower_the_score():
    task, sample = find_task("boxes"), make_sample("boxes")
    template = task.template("pixels")
    true = [list(box) for box in TRUE_BOXES]

    def f1(boxes: list[list[float]]) -> float:
        return task.score(sample, _write_boxes(boxes), template).correct

    assert f1(true) == 1.0
    assert f1([*true, true[0]]) < 1.0
    assert f1([*true, *true]) == pytest.approx(2 * 2 / (4 + 2))
    assert f1([true[0]] * 5) < f1([true[0]])
    assert f1([*true, [0, 0, 200, 100]]) < 1.0


def test_a_thousand_boxes_are_no_answer_and_as_many_as_allowed_do_not_pay():
    task, sample = find_task("boxes"), make_sample("boxes")
    template = task.template("pixels")
    tiling = [[x, y, x + 10, y + 10] for x in range(0, 200, 5) for y in range(0, 100, 4)]
    assert task.parse(sample, _write_boxes(tiling), template) is None
    assert task.score(sample, _write_boxes([*map(list, TRUE_BOXES), *tiling[:254]]), template).correct < 0.02


@each_task
def test_every_task_has_two_templates_or_more_with_their_own_names(task: Task):
    names = [template.name for template in task.templates]
    assert len(names) >= 2
    assert len(set(names)) == len(names)
    assert [task.template(name) for name in names] == list(task.templates)
    assert any(template.frame == "px" for template in task.templates)
    with pytest.raises(ValueError, match=names[0]):
        task.template("nobody called it this")


@each_task
def test_a_rendered_prompt_is_the_same_each_time_and_differs_between_templates(task: Task):
    sample = make_sample(task.name)
    prompts = [task.render(sample, template, "cot") for template in task.templates]
    assert prompts == [task.render(sample, template, "cot") for template in task.templates]
    assert len({prompt.user for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert sample.question in prompt.user
        assert prompt.num_images == 1
        if task.name == "label":
            assert "; ".join(sample.choices) in prompt.user
        if task.name == "choice":
            assert all(f"{letter(k)}. {text}" in prompt.user for k, text in enumerate(sample.choices))


@each_task
def test_a_question_with_braces_is_rendered_as_it_stands(task: Task):
    sample = make_sample(task.name, question="Is {this} a {0} cell?")
    for template in task.templates:
        assert "Is {this} a {0} cell?" in task.render(sample, template, "direct").user


@each_task
def test_chance_is_a_share_and_no_samples_have_none(task: Task):
    samples = [make_sample(task.name, name=f"s{k}") for k in range(3)]
    assert 0.0 <= task.chance(samples) <= 1.0
    assert task.chance([]) == 0.0


def test_names_of_tasks_are_their_own_and_an_unknown_one_lists_them():
    names = [task.name for task in TASKS]
    assert len(set(names)) == len(names)
    assert [find_task(name) for name in names] == list(TASKS)
    with pytest.raises(ValueError, match="short_answer"):
        find_task("segmentation")
