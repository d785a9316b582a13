"""Source `basics`: words and plain shapes, for the skills that every later training stands on.

Nothing in it is pathology. Test questions use words that training never holds (`words.is_held_out`), and half of the
counting and yes/no questions about pictures show kinds of shape that are never drawn for training.
"""

from typing import ClassVar, Literal

from pathloom.ingest.basic_shapes import (
    ask_all_shapes,
    ask_boxes,
    ask_count,
    ask_is_shape,
    ask_is_there,
    ask_one_box,
    ask_one_shape,
    ask_scene_caption,
    ask_shape,
)
from pathloom.ingest.basic_words import (
    ask_blend_choice,
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
    "What was found is {what}.",
    "What we see now is {what}.",
    "What is to be seen is {what}.",
    "Shown to us is {what}.",
    "Which it is we know, it is {what}.",
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
    Question("blend_choice", "choice", _CHOICE_SEEN, _CHOICE_UNSEEN, ask_blend_choice),
    Question(
        "lookup",
        "choice",
        ("{what} What is the {other}?", "What is the {other}? {what}", "{what} Which option is the {other}?"),
        ("Which option is the {other}? {what}", "{what} Which is the {other}?"),
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
        "shape",
        "choice",
        (
            "What is the {what} of the {other}?",
            "Which {what} is that of the {other}?",
            "Which {what} has the {other}?",
        ),
        ("Which is the {what} of the {other}?", "What {what} has the {other}?"),
        ask_shape,
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
        ("Describe the shape.",),
        ask_one_shape,
    ),
    Question(
        "scene_caption",
        "caption",
        ("Describe this image.",),
        ("Describe the image.",),
        ask_scene_caption,
    ),
)


class BasicsConfig(DrawnConfig):
    """Entry of a recipe: how many training and test Samples each kind of question gets."""

    version: ClassVar[int] = 6
    family: ClassVar[str] = "basics"
    questions: ClassVar[tuple[Question, ...]] = QUESTIONS

    source: Literal["basics"]


BASICS = Source(
    "basics", BasicsConfig, "questions about words and plain shapes, made here; nothing of pathology"
)
