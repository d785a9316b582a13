"""Lenient parsers for published models that were never taught answer tags.

What is searched: what follows the first </think>; a thought that is never closed holds no answer. The rest is
cut into turns wherever a line opens a new question, example, instruction or user turn, because such models
often answer and then invent the next exercise with an answer of its own. The first turn that gives an answer is
the reply; later turns are not looked at. Within a turn the forms below are tried in order, and the last
readable statement of the first form that has one wins, so that a model may correct itself:
1. a whole <answer> block;
2. a JSON field with an answer key (`answer` before weaker keys such as `label` or `quality_score`); the
   object may be cut off as long as the field itself is complete;
3. a phrase: "final answer: X", "the answer is X", "**Answer:** X", "## Answer" with X below, \\boxed{X};
4. the turn's last line, then its first, when it is nothing but an answer. A list of options is not an answer.
A statement that names two options, or both yes and no, is no answer.

Nothing here raises on any text. Every pattern is bounded and at most MAX_STATEMENTS statements of a form are
read, so the time grows in proportion to the text.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from pathloom.tasks.parsing import normalise, read_integer, read_letter

MAX_STATEMENTS = 64
MAX_WORDS = 32
"""A longer reply without a statement is an essay, not a short answer; the strict parser has the same bound."""

T = TypeVar("T")

_TURN = re.compile(
    r"""^[ \t]{0,8}(?:
      (?:[#>*_]{1,8}[ \t]{0,4})?
      (?:(?:medical|clinical|next|new|second|another|sample|practice|follow-up)[ ])?
      (?:question|example|problem|exercise|instructions?|input)
      (?:[ \t]{1,4}\#?\d{1,4})?[ \t]{0,4}[*_]{0,4}(?:[:.)]|$)
    | (?:[#>*_]{1,8}[ \t]{0,4})?(?:user|human|student|q)[*_]{0,4}(?:[ \t]{0,4}:|[ \t]{0,4}$)
    | <\|im_start\|>user | <\|user\|> | <start_of_turn>user | \[INST\]
    )""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_STRONG_KEYS = r"answer|final_?answer|correct_?answer|answer_?letter"
_WEAK_KEYS = (
    r"label|class|category|prediction|choice|option|diagnosis|result|count|score|"
    r"\w{1,30}_(?:score|label|class)"
)
_FIELD_VALUE = (
    r"""\s{0,20}:\s{0,20}(?:"((?:[^"\\]|\\.){0,400})"|'((?:[^'\\]|\\.){0,400})'"""
    r"""|(-?\d{1,12}(?:\.\d{1,12})?|true|false)(?=[\s,}\]]))"""
)
_FIELDS = tuple(
    re.compile(rf"""["'](?:{keys})["']{_FIELD_VALUE}""", re.IGNORECASE | re.DOTALL)
    for keys in (_STRONG_KEYS, _WEAK_KEYS)
)
_PHRASE = re.compile(
    r"""\banswer (?:[ \t]to[ \t](?:the|this|your)[ \t](?:\w{1,20}[ \t])?question)?
        (?:[ \t](?:choice|option|letter))?
        [ \t*_]{0,8} (?::|=|\bis\b)
    | \b(?:final|correct|right|best|likely)[ \t](?:option|choice|diagnosis|label|class|count)
        [ \t*_]{0,8} (?::|=|\bis\b)
    | ^[ \t]{0,8}[#*_]{0,8}[ \t]{0,4}(?:(?:final|your|my)[ \t])?answer[ \t*_]{0,8}$
    | (?=\\boxed\{)""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_PHRASE_VALUE = re.compile(r"[ \t*_:`]{0,16}(?:\r?\n[ \t]{0,16}){0,3}([^\n]{0,400})")
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]{1,200})\}")
_JSON_LINE = re.compile(r"""[ \t]{0,16}(?:\{|["']\w{1,40}["'][ \t]{0,8}:)""")
"""A line of an object whose answer could not be read: what is left of it must not pass for a bare answer."""
_ANSWER_CLOSE, _THINK_CLOSE = "</answer>", "</think>"


def free_choice(text: str, choices: Sequence[str]) -> str | None:
    """The option a completion settles on, as its text, or None. Without texts, `choices` are the letters."""
    options = tuple(choices)

    def state(value: str) -> str | None:
        return (
            _exact_option(value, options) or _leading_letter(value, options) or _named_option(value, options)
        )

    def alone(lines: list[str]) -> str | None:
        if len(lines) == 1:
            return state(lines[0])
        if _lists_options(lines):
            return (
                _exact_option(lines[-1], options) if read_letter(_strip(lines[-1]), 26) is not None else None
            )
        return (
            _exact_option(lines[-1], options)
            or _exact_option(lines[0], options)
            or _leading_letter(lines[0], options)
            or _named_option(lines[-1], options)
        )

    return _search(text, state, alone)


def free_yes_no(text: str) -> str | None:
    """`yes` or `no`, or None; a reply without either is no answer (Quilt-LLaVA's scorer calls it yes)."""

    def alone(lines: list[str]) -> str | None:
        last = normalise(_strip(lines[-1]))
        return last if last in ("yes", "no") else _opening_yes_no(lines[0])

    return _search(text, _opening_yes_no, alone)


def free_count(text: str) -> int | None:
    """The one whole number stated, in digits or as an English word below a hundred; None when two differ."""

    def alone(lines: list[str]) -> int | None:
        for line in (lines[-1], lines[0]):
            bare = read_integer(_strip(line))
            if bare is not None:
                return bare
        return None if _lists_options(lines) else _only_number(lines[-1])

    return _search(text, _only_number, alone)


def free_text(text: str, choices: Sequence[str]) -> str | None:
    """A label of `choices`; without choices the stated text, or a whole reply of at most MAX_WORDS words."""
    if choices:
        return free_choice(text, choices)

    def state(value: str) -> str | None:
        value = _strip(value)
        return value if 0 < len(value.split()) <= MAX_WORDS else None

    return _search(text, state, lambda lines: state(" ".join(lines)))


def free_boxes(text: str) -> list[list[float]] | None:
    """All boxes written as [x1,y1,x2,y2] (in a list, <bbox> or bbox_2d) or <region>x1 y1 x2 y2</region>.

    Where a phrase announces the answer, only those after the last such phrase, if there are any. Rows hold
    four numbers in whatever frame the completion uses. A box that is cut off or misspelt is left out, `[]` says
    that there are none, and None means that nothing was said about boxes.
    """
    return _free_rows(text, _BOXES)


def free_points(text: str) -> list[list[float]] | None:
    """All points written as [x,y], by the rules of `free_boxes`; rows hold two numbers."""
    return _free_rows(text, _POINTS)


def _free_rows(text: str, patterns: Sequence[re.Pattern[str]]) -> list[list[float]] | None:
    def state(value: str) -> list[list[float]] | None:
        for pattern in patterns:
            rows = [[float(number) for number in row] for row in pattern.findall(value)]
            if rows:
                return rows
        return [] if _NO_BOXES.search(value) else None

    for turn in _turns(text):
        phrases = [match.end() for match in _PHRASE.finditer(turn)]
        # A list may run over many lines, so all that follows the last phrase is its value.
        conclusion = turn[phrases[-1] :] if phrases else turn
        for value in (*reversed(list(_blocks(turn))[-MAX_STATEMENTS:]), conclusion, turn):
            rows = state(value)
            if rows is not None:
                return rows
    return None


def _search(text: str, state: Callable[[str], T | None], alone: Callable[[list[str]], T | None]) -> T | None:
    """The rule of this module: `state` reads one statement, `alone` the lines of a turn without any."""
    for turn in _turns(text):
        for find in (_blocks, *(_fields(pattern) for pattern in _FIELDS), _phrases):
            for value in reversed(list(find(turn))[-MAX_STATEMENTS:]):
                answer = state(value)
                if answer is not None:
                    return answer
        lines = [
            line.strip()
            for line in turn.split("\n")
            if line.strip(" \t\r`*#-") and not _JSON_LINE.match(line)
        ]
        answer = alone(lines) if lines else None
        if answer is not None:
            return answer
    return None


def _turns(text: str) -> Iterator[str]:
    """The completion after its thought, cut before every line that opens a new turn."""
    head, close, rest = text.partition(_THINK_CLOSE)
    if close:
        body = rest
    elif "<think>" in text:
        body = "".join(text.partition("<answer>")[1:])
    else:
        body = head
    starts = [0, *(match.start() for match in _TURN.finditer(body)), len(body)]
    for start, end in itertools.pairwise(starts):
        if body[start:end].strip():
            yield body[start:end]


def _blocks(turn: str) -> Iterator[str]:
    for part in turn.split("<answer>")[1:]:
        inside, close, _ = part.partition(_ANSWER_CLOSE)
        if close:
            yield inside.strip()


def _fields(pattern: re.Pattern[str]) -> Callable[[str], Iterator[str]]:
    def find(turn: str) -> Iterator[str]:
        for match in pattern.finditer(turn):
            value = next(group for group in match.groups() if group is not None)
            yield value.replace('\\"', '"').replace("\\n", " ")

    return find


def _phrases(turn: str) -> Iterator[str]:
    for match in _PHRASE.finditer(turn):
        value = _PHRASE_VALUE.match(turn, match.end())
        if value is not None:
            yield value[1]


def _strip(value: str) -> str:
    """A statement without its markup: what stands in \\boxed{}, or all but quotes, stars and dollars."""
    boxed = _BOXED.search(value)
    return (boxed[1] if boxed else value).replace("**", "").strip(" \t\r\n*_`$#\"'")


# ------------------------------------------------------------------------------------------------ options
_LEAD = re.compile(
    r"(?:(?:option|choice|letter)[ \t]{1,4})?[(\[]{0,2}([A-Za-z])([)\].:,;]{1,4}|(?=[ \t]|$))[ \t]{0,8}(.*)",
    re.IGNORECASE | re.DOTALL,
)
_SECOND_LETTER = re.compile(r"(?:(?:or|and|/|,|&)[ \t]{0,4})?[(\[]?([A-Z])(?![\w'])")
_GOES_ON = re.compile(r"(?:because|since|as|is|which|due|given|based|for|with)\b|[(\-]", re.IGNORECASE)
_LISTED = re.compile(r"[\s>#*_\-]{0,12}\(?([A-Z])[).:]")
_NEGATION = re.compile(
    r"\b(?:not|no|without|never|unlikely|less likely|excludes?|excluded|rather than|cannot)\b"
)


def _exact_option(value: str, options: tuple[str, ...]) -> str | None:
    """An option when the value is its letter, its text, or its letter and its text."""
    value = _strip(value)
    index = read_letter(value, len(options))
    if index is not None:
        return options[index]
    plain = normalise(value)
    for index, option in enumerate(options):
        if plain == normalise(option):
            return option
        lead = _LEAD.fullmatch(value)
        if (
            lead
            and lead[1].upper() == chr(ord("A") + index)
            and normalise(_strip(lead[3])) == normalise(option)
        ):
            return option
    return None


def _leading_letter(value: str, options: tuple[str, ...]) -> str | None:
    """An option when the value opens with its letter and goes on; a second letter or other text is none."""
    lead = _LEAD.fullmatch(_strip(value))
    if lead is None:
        return None
    letter, close, rest = lead[1], lead[2], _strip(lead[3])
    index = ord(letter.upper()) - ord("A")
    if index >= len(options) or (letter.islower() and rest and not set(close) & set(").:")):
        return None
    second = _SECOND_LETTER.match(rest)
    if second and second[1] != letter.upper() and ord(second[1]) - ord("A") < len(options):
        return None
    if any(normalise(rest) == normalise(other) for k, other in enumerate(options) if k != index and other):
        return None
    return options[index] if close or not rest or _GOES_ON.match(rest) else None


@lru_cache(maxsize=256)
def _option_pattern(options: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any option's text as whole words, the longest first; None where options are bare letters or digits."""
    texts = sorted((text for text in map(normalise, options) if len(text) > 1), key=len, reverse=True)
    if not texts:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, texts))})(?!\w)")


def _named_option(value: str, options: tuple[str, ...]) -> str | None:
    """The only option whose text stands in the value, unless the value denies something or opens with a letter."""
    pattern, plain, lead = (
        _option_pattern(options),
        normalise(value[:2000]),
        _LEAD.match(_strip(value[:2000])),
    )
    if pattern is None or (lead is not None and lead[2]):
        return None
    named = set(pattern.findall(plain))
    if len(named) != 1 or _NEGATION.search(pattern.sub(" ", plain)):
        return None
    text = named.pop()
    return next(option for option in options if normalise(option) == text)


def _lists_options(lines: list[str]) -> bool:
    """Whether at least two lines open with different letters: the question repeated, or options weighed."""
    return len({match[1] for line in lines if (match := _LISTED.match(line))}) > 1


# ------------------------------------------------------------------------------------------- yes/no, counts
_WORD = re.compile(r"[a-z]+")
_SENTENCE_YES_NO = re.compile(r"(?:^|[.!?][ \t]{1,4})(yes|no)\b")


def _opening_yes_no(value: str) -> str | None:
    """The yes or no that opens a sentence of the value: one of them only, and not as `yes or no`."""
    plain = normalise(_strip(value[:2000]))
    if plain in ("true", "false"):
        return "yes" if plain == "true" else "no"
    opening = set(_SENTENCE_YES_NO.findall(plain))
    first_words = _WORD.findall(plain)[:3]
    if (
        len(opening) != 1
        or not plain.startswith(tuple(opening))
        or first_words[1:] in (["or", "no"], ["and", "no"])
    ):
        return None
    return None if {"yes", "no"} <= set(first_words[:2]) else opening.pop()


# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on
_NUMBER_WORDS = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_NUMBER_WORD = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(_ONES[1:10])}))?|({'|'.join(_ONES)}))\b", re.IGNORECASE
)
_DIGITS = re.compile(r"[-+]?\d[\d.,]{0,30}", re.ASCII)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3}){1,2}", re.ASCII)


def _only_number(value: str) -> int | None:
    """The only whole number in the value. Words are read where there are no digits: `12 (twelve)` is 12."""
    value = _strip(value[:2000])
    found: set[int | None] = set()
    for match in _DIGITS.finditer(value):
        digits = match[0].rstrip(".,")
        found.add(read_integer(digits.replace(",", "") if _GROUPED.fullmatch(digits) else digits))
    if not found:
        for tens, unit, ones in _NUMBER_WORD.findall(value):
            found.add(sum(_NUMBER_WORDS[word.lower()] for word in (tens, unit, ones) if word))
    return found.pop() if len(found) == 1 else None


# ------------------------------------------------------------------------------------------------- boxes
_EDGE = r"(-?\d{1,9}(?:\.\d{1,12})?)"
_BOXES = (
    re.compile(r"<region>\s{0,8}" + r"\s{1,8}".join([_EDGE] * 4) + r"\s{0,8}</region>", re.ASCII),
    re.compile(r"\[\s{0,8}" + r"\s{0,8},\s{0,8}".join([_EDGE] * 4) + r"\s{0,8}\]", re.ASCII),
)
_POINTS = (re.compile(rf"\[\s{{0,8}}{_EDGE}\s{{0,8}},\s{{0,8}}{_EDGE}\s{{0,8}}\]", re.ASCII),)
_NO_BOXES = re.compile(r"\[\s{0,8}\]")
