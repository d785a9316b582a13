"""Completions in the styles of published models, and what the lenient parsers make of them."""

import pytest

from pathloom.tasks.free import MAX_STATEMENTS, free_boxes, free_choice, free_count, free_text, free_yes_no

TEXTS = ("carcinoma", "carcinoma in situ", "adenoma", "necrosis")
LETTERS = ("A", "B", "C", "D")

INVENTED_NEXT_QUESTIONS = (
    "\n### Example 4\n\nA 30-year-old man ...\n\n**Answer:** A",
    "\n## Medical Question\n\nA 30-year-old man ...\nFinal Answer: A",
    "\n## Instructions\n\nAnswer with a letter.\nFinal Answer: A",
    "\n**Question 2:** Which one?\nAnswer: A",
    "\nQuestion: Which one?\nAnswer: A",
    "\nQ: Which one?\nThe answer is A",
    "\nuser\nWhich one?\nassistant\nFinal answer: A",
    "\nHuman: Which one?\nFinal answer: A",
    "\n<|im_start|>user\nWhich one?<|im_start|>assistant\n<answer>A</answer>",
    '\nQuestion: Which one?\n```json\n{"answer": "A"}\n```',
)


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "(B)",
        "b.",
        "B) adipose tissue",
        "Final answer: B",
        "**Final Answer:** B",
        "**Final Answer: B**",
        "## Final Answer\n\nB",
        "**Answer:** B",
        "Answer: (B)",
        "Answer: B. It has no nuclei.",
        "The answer is B because A lacks nuclei.",
        "The answer to the question is option B.",
        "The correct option is B, as said.",
        "The best answer is **B**.",
        r"Final Answer: The final answer is $\boxed{B}$",
        r"\boxed{B}",
        '{"answer": "B"}',
        '```json\n{"answer": "B", "reasoning": "the answer is A"}\n```',
        '```json\n{"answer": "B", "reasoning": "cut off in the mid',
        '{"reasoning": "not \\"answer\\": \\"A\\"", "answer": "B"}',
        "{'answer': 'B'}",
        '{"final_answer": "b"}',
        "A looks likely. <answer>B</answer>",
        "<answer>A</answer> no, <answer>B</answer>",
        "<think>The answer is A. Wait.</think>\nB",
        "<think>Final answer: A</think>Final answer: B",
        "Final answer: A\nOn reflection that is wrong.\nFinal answer: B",
        "Both A and C fail.\n\nB",
        "A) fat: no.\nB) nerve: yes.\nC) bone: no.\n\nFinal answer: B",
        "B\nThe nuclei are gone.",
    ],
)
def test_a_letter_is_found_in_the_ways_models_state_it(text: str):
    assert free_choice(text, LETTERS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n ",
        "I cannot tell.",
        "A benign lesion",
        "A or B",
        "A and B",
        "A, B",
        "A/B",
        "A B C D",
        "Final answer: A or B",
        "The answer is not B",
        "Final answer: E",
        "Final answer: [letter]",
        "A) fat\nB) nerve\nC) bone\nD) skin",
        "Let us see.\n*   **A) fat:** no.\n*   **B) nerve:** cut off in the",
        "State your final answer as a single letter (A",
        "<think>The answer is B",
        "<answer>B",
        '{"answer": "B',
        '{"answer": 1',
        "Because",
        "B-cells are",
    ],
)
def test_no_clear_letter_is_no_answer(text: str):
    assert free_choice(text, LETTERS) is None


@pytest.mark.parametrize("rest", INVENTED_NEXT_QUESTIONS)
@pytest.mark.parametrize(
    "answer", ["Reasons.\nFinal Answer: B", '```json\n{"answer": "B"}\n```', "B", "<answer>B</answer>"]
)
def test_a_question_that_the_model_invents_afterwards_does_not_count(answer: str, rest: str):
    assert free_choice(answer + rest, LETTERS) == "B"


def test_a_reply_that_repeats_the_question_first_is_read_all_the_same():
    repeated = "Question: What is it?\nA) fat\nB) nerve\n\n## Instructions\nPick one.\n\nAnswer: B"
    assert free_choice(repeated, LETTERS) == "B"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Carcinoma in situ.", "carcinoma in situ"),
        ("carcinoma", "carcinoma"),
        ("The lesion is a carcinoma in situ of the cervix", "carcinoma in situ"),
        ("B", "carcinoma in situ"),
        ("B. carcinoma in situ", "carcinoma in situ"),
        ("Final answer: adenoma", "adenoma"),
        ("The answer is an adenoma.", "adenoma"),
        ('{"diagnosis": "Adenoma"}', "adenoma"),
        ('{"answer": "C", "diagnosis": "necrosis"}', "adenoma"),
        ("The cells have no nuclei.\nThis must be necrosis.", "necrosis"),
        ("D. The nuclei are gone, unlike in adenoma", "necrosis"),
        ("B. necrosis", None),
        ("carcinoma or adenoma", None),
        ("There is no necrosis", None),
        ("adenocarcinoma", None),
        ("carcinoma, carcinoma in situ, adenoma, necrosis", None),
        ("an adenoma is less likely", None),
    ],
)
def test_an_options_own_text_is_an_answer_when_it_stands_alone_or_named_once(text: str, answer: str | None):
    assert free_choice(text, TEXTS) == answer
    assert free_text(text, TEXTS) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("**Yes**, there is necrosis.", "yes"),
        ("No, there is none.", "no"),
        ("The answer is yes.", "yes"),
        ("Yes at first sight.\nFinal answer: no", "no"),
        ('{"answer": "No"}', "no"),
        ('{"answer": true}', "yes"),
        ("<answer>no</answer>", "no"),
        ("The nuclei are gone.\n\nYes", "yes"),
        ("yes\nQuestion: Is it?\nAnswer: no", "yes"),
        ("Yes, there is no necrosis.", "yes"),
        ("yes or no", None),
        ("Yes and no.", None),
        ("yes no", None),
        ("No. Yes.", None),
        ("It is not.", None),
        ("Note the nuclei.", None),
        ("", None),
    ],
)
def test_yes_and_no_are_words_and_silence_is_neither(text: str, answer: str | None):
    assert free_yes_no(text) == answer


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7", 7),
        ("There are 7 cells.", 7),
        ("There are seven cells.", 7),
        ("twenty-one", 21),
        ("Ninety nine", 99),
        ("12 (twelve)", 12),
        ("1,234 cells", 1234),
        ("Row one has 3, row two has 4.\nFinal answer: 7", 7),
        ("I see 3 and 4.\nIn total 7", 7),
        ("7\nThree on the left and four on the right.", 7),
        ('{"count": 7}', 7),
        ('{"answer": "7 cells"}', 7),
        ("<answer>B. 7</answer>", 7),
        ("Answer: 7\n\nQuestion: How many?\nAnswer: 9", 7),
        ("Final answer: zero", 0),
        ("7.5", None),
        ("-7", None),
        ("5-9", None),
        ("6 or 7", None),
        ("3 on the left, 4 on the right", None),
        ("A. 7\nB. 8", None),
        ("someone", None),
        ('{"count": 7', None),
        ("9999999999", None),
        ("", None),
    ],
)
def test_one_number_in_digits_or_words_is_a_count(text: str, count: int | None):
    assert free_count(text) == count


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("clear cell carcinoma", "clear cell carcinoma"),
        ("**Answer:** clear cell carcinoma", "clear cell carcinoma"),
        ('```json\n{"quality_score": 2, "reasoning": "the answer', "2"),
        ('{"tumour_label": "hsil"}', "hsil"),
        ("<answer>hsil</answer>", "hsil"),
        ("word " * 33, None),
        ("", None),
    ],
)
def test_an_open_answer_is_what_is_stated_or_the_whole_short_reply(text: str, answer: str | None):
    assert free_text(text, ()) == answer


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("[[1,2,3,4],[5,6,7,8.5]]", [[1, 2, 3, 4], [5, 6, 7, 8.5]]),
        ("A cell at [1, 2, 3, 4] and one at [5, 6, 7, 8.5].", [[1, 2, 3, 4], [5, 6, 7, 8.5]]),
        ("<bbox>[1,2,3,4]</bbox>", [[1, 2, 3, 4]]),
        ("hsil 1 is located at <region>1 2.5 3 4</region>. hsil 2 is located at <region>5 6", [[1, 2.5, 3, 4]]),
        ("<region>1 2 3 4</region> <region>5 6 and 8</region> <region>5 6 7 8</region>", [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ('```json\n[{"bbox_2d": [1,2,3,4], "label": "x"},\n{"bbox_2d": [5,6,7', [[1, 2, 3, 4]]),
        ("First [1,2,3,4].\nFinal answer: [[5,6,7,8]]", [[5, 6, 7, 8]]),
        ("[1,2,3,4]. That is the answer: all of it.", [[1, 2, 3, 4]]),
        ("First [1,2,3,4].\nFinal answer: []", []),
        ("[[1,2,3,4]]\nQuestion: Where?\n[[5,6,7,8]]", [[1, 2, 3, 4]]),
        ("[]", []),
        ("[1,2,3]", None),
        ("none", None),
        ("", None),
    ],
)  # fmt: skip
def test_boxes_are_found_in_four_forms_without_a_cut_off_tail(text: str, boxes: list[list[float]] | None):
    assert free_boxes(text) == boxes


def test_only_the_last_statements_of_a_turn_are_read_which_bounds_the_work():
    for num_unreadable, answer in ((MAX_STATEMENTS - 1, "B"), (MAX_STATEMENTS, None)):
        assert free_choice("Final answer: B\n" + "Final answer: ?\n" * num_unreadable, LETTERS) == answer
