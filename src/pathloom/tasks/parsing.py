"""Text of a model to values. Nothing here raises on any text: what cannot be read is None.

Strict parsers read one answer block and refuse anything else; they serve training, reward and evaluation. The free
parsers at the end serve models that were never taught the tags, and only `pathloom score --parse free` uses them.
"""

import re
from dataclasses import dataclass

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_ANSWER_OPEN, _ANSWER_CLOSE = "<answer>", "</answer>"
_WELL_FORMED = re.compile(
    r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL
)
_TAGS = (_THINK_OPEN, _THINK_CLOSE, _ANSWER_OPEN, _ANSWER_CLOSE)


@dataclass(frozen=True)
class Blocks:
    """The two parts of a completion; `reasoning` is None when there is no whole think block before the answer."""

    reasoning: str | None
    answer: str


def split_completion(completion: str) -> Blocks | None:
    """The blocks of a completion with exactly one answer block; None for none, two, or one that is cut off.

    An answer block inside the think block is a quotation of the format, not an answer.
    """
    if completion.count(_ANSWER_OPEN) != 1 or completion.count(_ANSWER_CLOSE) != 1:
        return None
    before, _, rest = completion.partition(_ANSWER_OPEN)
    answer, close, after = rest.partition(_ANSWER_CLOSE)
    if not close or _THINK_CLOSE in after:
        return None
    head, think_close, _ = before.partition(_THINK_CLOSE)
    _, think_open, reasoning = head.partition(_THINK_OPEN)
    return Blocks(reasoning=reasoning.strip() if think_open and think_close else None, answer=answer.strip())


def is_well_formed(completion: str) -> bool:
    """Whether it is one think block, then one answer block, and nothing outside: Patho-R1's format reward."""
    if any(completion.count(tag) != 1 for tag in _TAGS):
        return False
    return _WELL_FORMED.fullmatch(completion) is not None


def has_reasoning(completion: str) -> bool:
    """Whether a think block with something in it stands before the one answer block."""
    blocks = split_completion(completion)
    return bool(blocks and blocks.reasoning)


def reasoning_of(completion: str) -> str:
    """What the model wrote before its answer, tags removed: the text in which a named finding is looked for."""
    before = completion.partition(_ANSWER_OPEN)[0]
    return before.replace(_THINK_OPEN, "").replace(_THINK_CLOSE, "").strip()


def normalise(text: str) -> str:
    """Lower case, one space between words, without a closing full stop or surrounding quotes."""
    return " ".join(text.casefold().split()).rstrip(".").strip("\"'` ")


def read_letter(text: str, num_options: int) -> int | None:
    """Index of the option when the text is one letter, alone or as `(B)`, `B.`, `B)`, `B:`; otherwise None."""
    match = re.fullmatch(r"\(?([A-Za-z])\)?[.:)]?", text.strip())
    if match is None:
        return None
    index = ord(match[1].upper()) - ord("A")
    return index if index < num_options else None


def read_integer(text: str) -> int | None:
    """A whole number of at most nine digits, nothing beside it; otherwise None."""
    match = re.fullmatch(r"(\d{1,9})\.?", text.strip(), re.ASCII)
    return int(match[1]) if match else None
