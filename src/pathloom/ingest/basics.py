"""Source `basics`: words, plain shapes and fields of marks, for the skills that every later training stands on.

Nothing in it is pathology. Test questions use words that training never holds (`words.is_held_out`), and half of the
counting and yes/no questions about pictures show kinds of shape that are never drawn for training.
"""

from typing import ClassVar, Literal

from pathloom.ingest.basic_shapes import (
    ask_all_shapes,
    ask_background,
    ask_boxes,
    ask_count,
    ask_is_shape,
    ask_is_there,
    ask_marks,
    ask_marks_caption,
    ask_one_box,
    ask_one_shape,
    ask_scene_caption,
    ask_shape,
)
from pathloom.ingest.basic_words import (
    ask_copy,
    ask_lookup,
    ask_match,
    ask_phrase_choice,
    ask_word_choice,
)
from pathloom.ingest.drawn import DrawnConfig, Question
from pathloom.ingest.source import Source

# Every fact with every question, so that finding the answer does not hang on a wording.
_FACTS = (
    "It is {what}.",
    "The answer is {what}.",
    "We see {what}.",
    "This shows {what}.",
    "Someone found {what} here.",
    "Here is {what}.",
    "There is {what} in it.",
    "{what} is here.",
    "They say it is {what}.",
    "What you see is {what}.",
    "I think of {what}.",
    "It looks like {what} to me.",
)
_ASKED = (
    "Which option is it?",
    "What do we see?",
    "Which option is shown?",
    "What was found?",
    "What is it?",
    "Which is right?",
    "Which of these is it?",
    "",
)
_IS_IT = ("Is this {other}?", "Do we see {other}?", "Is {other} the answer?", "Is {other} shown?")
_WHAT_IS_IT = ("What is it?", "What was found?", "What do we see?", "What is here?")
_CHOICE_SEEN = (
    *(f"{fact} {asked}".strip() for fact in _FACTS for asked in _ASKED),
    *(f"{asked} {fact}" for fact in _FACTS for asked in _ASKED if asked),
    "What is {what}?",
)
_CHOICE_UNSEEN = (
    "We found {what} here. Which is the answer?",
    "What is shown here is {what}. What is it?",
    "Someone shows {what}. What do we see?",
)

QUESTIONS: tuple[Question, ...] = (
    Question("word_choice", "choice", _CHOICE_SEEN, _CHOICE_UNSEEN, ask_word_choice),
    Question("phrase_choice", "choice", _CHOICE_SEEN, _CHOICE_UNSEEN, ask_phrase_choice),
    Question(
        "lookup",
        "choice",
        ("{what} What is the {other}?", "What is the {other}? {what}", "{what} Which option is the {other}?"),
        ("Which option is the {other}? {what}", "{what} The {other} is what?"),
        ask_lookup,
    ),
    Question(
        "match",
        "yes_no",
        (
            *(f"{fact} {asked}" for fact in _FACTS for asked in _IS_IT),
            *(f"{asked} {fact}" for fact in _FACTS for asked in _IS_IT),
        ),
        ("It is {what}. Is it {other}?", "This is {what}. Do we see {other}?"),
        ask_match,
    ),
    Question(
        "copy",
        "short_answer",
        tuple(f"{fact} {asked}" for fact in _FACTS for asked in _WHAT_IS_IT),
        ("What we see here is {what}. What is this?", "What was found? Someone found {what}."),
        ask_copy,
    ),
    Question(
        "shape",
        "choice",
        (
            "What is the {what} of the {other}?",
            "Which {what} is that of the {other}?",
            "Which {what} has the {other}?",
        ),
        ("The {what} of the {other} is what?", "What {what} has the {other}?"),
        ask_shape,
    ),
    Question(
        "background",
        "choice",
        ("What is the background?", "Which background is this?", "The background is what?"),
        ("Which is the background?", "This background is what?"),
        ask_background,
    ),
    Question(
        "is_shape",
        "yes_no",
        ("Is this {what}?", "Does this show {what}?", "Is {what} shown here?"),
        ("Is {what} this?", "Is this shown here {what}?"),
        ask_is_shape,
    ),
    Question(
        "is_there",
        "yes_no",
        ("Is there a {what}?", "Does the image show a {what}?", "Is a {what} here?"),
        ("Is a {what} there?", "Is there a {what} here?"),
        ask_is_there,
    ),
    Question(
        "count",
        "count",
        ("How many {what} are there?", "Count the {what}.", "What is the number of {what}?"),
        ("Give the number of {what}.", "How many are the {what}?"),
        ask_count,
    ),
    Question(
        "one_box",
        "boxes",
        ("Find the {what}.", "Where is the {what}?", "Mark the {what}."),
        ("Where do we see the {what}?", "Where is the {what} here?"),
        ask_one_box,
    ),
    Question(
        "boxes",
        "boxes",
        ("Find each {what}.", "Where is each {what}?", "Mark every {what}."),
        ("Where is every {what}?", "Mark each {what} of this image."),
        ask_boxes,
    ),
    Question(
        "all_shapes",
        "boxes",
        ("Find each shape.", "Where is each shape?", "Mark every shape."),
        ("Where is every shape?", "Mark each shape of this image."),
        ask_all_shapes,
    ),
    Question(
        "one_shape",
        "caption",
        ("Describe this shape.",),
        ("This shape is what?",),
        ask_one_shape,
    ),
    Question(
        "scene_caption",
        "caption",
        ("Describe this image.",),
        ("This image shows what?",),
        ask_scene_caption,
    ),
    Question(
        "marks",
        "choice",
        (
            "What is the {what} of the marks?",
            "Which {what} is that of the marks?",
            "Which {what} has this image?",
        ),
        ("The {what} of the marks is what?", "What {what} has this image?"),
        ask_marks,
    ),
    Question(
        "marks_caption",
        "caption",
        ("Describe the marks.",),
        ("This image of marks shows what?",),
        ask_marks_caption,
    ),
)


class BasicsConfig(DrawnConfig):
    """Entry of a recipe: how many training and test Samples each kind of question gets."""

    version: ClassVar[int] = 3
    family: ClassVar[str] = "basics"
    questions: ClassVar[tuple[Question, ...]] = QUESTIONS

    source: Literal["basics"]


BASICS = Source(
    "basics", BasicsConfig, "questions about words and plain shapes, made here; nothing of pathology"
)
