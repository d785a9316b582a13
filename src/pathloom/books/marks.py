# ruff: noqa: RUF001 (the signs that printers use are the matter here)
"""Panel labels in the text of a caption: every sign that may be one, and the one family of signs in sequence."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pathloom.books.letters import POSITION, order, position, roman

Style = Literal["bracket", "sign", "bare", "close", "panel", "circled", "prose", "place", "place bracket"]

_LABEL_STYLES: tuple[Style, ...] = ("bracket", "sign", "close", "panel", "circled", "prose")
_PLACE_STYLES: tuple[Style, ...] = ("place", "place bracket")

MIN_COVERAGE = 0.66
"""Share of the labels up to the highest that must occur: "D: ..., W: ..." is a key to a drawing. Our own choice."""


@dataclass(frozen=True)
class Mark:
    """One label as printed: the panels it names and its characters in the caption (half open).

    `opens` and `closes`: what stands before or behind says that it begins or ends a clause. `extra` is more text within
    the same brackets, "(A, arrow)". `prose`: the label is a word of its sentence, "the plots in C".
    """

    labels: tuple[str, ...]
    start: int
    end: int
    style: Style
    opens: bool
    closes: bool
    extra: tuple[int, int] | None = None
    prose: bool = False


_ONE = (
    r"(?:(?!H\s?&\s?E)[A-Za-z](?![A-Za-z0-9])['′]?|[0-9]{1,2}(?![0-9A-Za-z.%×])"
    r"|(?:[ivx]{2,5}|[IVX]{2,5})(?![A-Za-z0-9])|[①-⑫])"
)
_JOINT = r"\s*(?:[-–~]|[,;、]?\s?(?:\band\b|\bor\b|\bto\b|[&和及与至])|[,、/])\s*"
_LIST = rf"{_ONE}(?:{_JOINT}{_ONE})*"
_NOUN = r"(?:(?:panel|part|figure|image|photo|picture|row|column|side|micrograph|photograph|plot|graph)s?|half|inset)"
_EXTRA = r"(?:\s*[,;:]\s*(?P<extra>[^()\[\]]{1,60}))?"
_BRACKET = re.compile(
    rf"[(\[]\s*(?:(?:panel|part|image)s?\s+|图)?(?P<list>{_LIST})\s*图?{_EXTRA}\s*[)\]]",
    re.IGNORECASE,
)
_CLOSE = re.compile(rf"(?<![A-Za-z0-9(\[-])(?P<list>{_LIST})\)")
_BEHIND = (
    r"(?P<sign>\s?[.:=](?=\s|[\u3400-\u9fff(A-Z\"“0-9])|\s?[:,](?=\s|[A-Za-z\u3400-\u9fff])|\.(?=[a-z]{3})"
    r"|\s?[–-](?=\s|[A-Z\u3400-\u9fff])|、(?=[\u3400-\u9fff])|图?[为示](?=[\u3400-\u9fffA-Z])|图[:,]?"
    r"|\s+(?=[A-Za-z0-9(\u3400-\u9fff]))"
)
_LETTER = r"[A-Za-z](?![A-Za-z0-9'])"
_SINGLE = re.compile(rf"(?<![A-Za-z0-9(\[-])(?P<han>图)?(?P<list>{_LETTER}){_BEHIND}")
_SIGN = re.compile(
    rf"(?<![A-Za-z0-9(\[-])(?P<han>图)?(?P<list>{_LETTER}(?:{_JOINT}{_LETTER}){{0,11}}){_BEHIND}"
)
# "Figure 3A: Gland. Figure 3B: Duct."
_REPEATED = re.compile(
    rf"(?<![A-Za-z])Fig(?:ure)?\.?\s?[0-9]{{1,3}}(?:[-–.][0-9]{{1,3}})*\s?(?P<list>{_LETTER})\s?[.:](?=\s)",
    re.IGNORECASE,
)
_VERB = r"(?:\s+(?:shows?|depicts?|demonstrates?|illustrates?|displays?|represents?|is|are)(?=\s))?"
_PANEL = re.compile(
    rf"\b(?:panels?|parts?|images?)\s+(?P<list>{_LIST})(?:\s?[:.,)](?=\s)|{_VERB}(?=\s))", re.IGNORECASE
)
_CIRCLED = re.compile(r"(?P<list>[①-⑫](?:[-–~、,][①-⑫])*)")
_PROSE = re.compile(
    r"\b(?:in|and in|of|panels?|from)\s+(?:panels?\s+)?(?P<list>[A-Z](?![A-Za-z0-9'])(?!-(?![A-Z](?![A-Za-z])))(?:"
    + _JOINT
    + r"[A-Z](?![A-Za-z0-9'-]))*)(?!\s?(?:cells?|lymphocytes?)\b|\.\s?[a-z])"
)
_PLACE_BRACKET = re.compile(
    rf"[(\[]\s*(?:(?:on|at)\s+)?(?:the\s+)?(?P<place>{POSITION})(?:\s+{_NOUN})?{_EXTRA}\s*[)\]]"
    r"|[(\[]\s*(?P<han>左上|右上|左下|右下|[左右上下中])[图侧方]?\s*[)\]]",
    re.IGNORECASE,
)
_PLACE = re.compile(
    rf"(?:\b(?:on|in|at)\s+the\s+|\bthe\s+)?(?P<place>{POSITION})(?P<noun>\s+{_NOUN})?(?P<sign>\s?[:=,]|\s[–-](?=\s)|\)|{_VERB}(?=\s))"
    r"|(?P<han>左上|右上|左下|右下|[左右上下中])[图侧]?(?P<hansign>[:,]|[为示](?=\S))",
    re.IGNORECASE,
)
_FUNCTION = (
    r"(?:and|or|of|in|with|from|is|are|was|were|shows?|at|but|as|after|to|by|on|for|which|that|the"
    r"|(?:demonstrat|reveal|display)\w*)"
)
_BEFORE = re.compile(
    rf"(?:^|[.,;:!?|。；：，、—]|[)\]]\s*[.,]?|(?<![A-Za-z])(?:{_FUNCTION}|showing|[和及与示]))\s*$",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"(?:^|[.;:!?|。；：—–]|[)\]]|(?<![A-Za-z])and)\s*(?:\()?\s*$")
_SENTENCE = re.compile(r"(?:^|[.;:。；：])\s*$")
_AFTER = re.compile(rf"\s*(?:$|[.,;:)\]。，；：、]|(?:{_FUNCTION})\b|[和及与])", re.IGNORECASE)


def read_list(text: str) -> tuple[str, ...]:
    """ "A", "a-c", "B and C", "i, ii" as canonical labels; empty where it is no list of one alphabet."""
    tokens = re.findall(rf"{_ONE}|{_JOINT}", text)
    names = [token.strip("'′").upper() for token in tokens[::2]]
    if len({name.isdigit() for name in names}) > 1:
        return ()
    found = names[:1]
    for joint, name in zip(tokens[1::2], names[1:], strict=False):
        run = _run(found[-1], name) if re.fullmatch(r"\s*(?:[-–~至]|to)\s*", joint) else [name]
        found += run
    return tuple(found)


def _run(first: str, last: str) -> list[str]:
    """What a range adds to its first label."""
    one, two = order(first), order(last)
    if one is None or two is None or one[0] != two[0] or one[0] == "roman":
        return [last]
    if one[0] == "circled":
        return [chr(code) for code in range(ord(first) + 1, ord(last) + 1)]
    step = range(one[1] + 1, two[1] + 1)
    return [str(i) if one[0] == "digit" else chr(ord("A") + i - 1) for i in step] or [last]


def _opens(text: str, start: int, body: int) -> bool:
    return _BEFORE.search(text[max(body, start - 30) : start]) is not None


def _begins_clause(text: str, start: int, body: int) -> bool:
    return _CLAUSE.search(text[max(body, start - 12) : start]) is not None


def _brackets(text: str, body: int) -> Iterator[Mark]:
    for match in _BRACKET.finditer(text, body):
        extra = match.span("extra") if match["extra"] else None
        if extra and re.match(r"[A-Za-z]\)|\s*[0-9]{4}", match["extra"]):
            continue
        closes = _AFTER.match(text, match.end()) is not None
        opens = _opens(text, match.start(), body)
        yield Mark(read_list(match["list"]), *match.span(), "bracket", opens, closes, extra)


def _rises(letters: str) -> bool:
    listed = re.findall(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", letters)
    return listed == sorted(set(listed)) and listed[0].isupper() == listed[-1].isupper()


def _sign(text: str, body: int, match: re.Match[str]) -> Mark | None:
    """A letter with a sign or a blank behind it, where it may be a label."""
    letters, sign = match["list"], match["sign"]
    before, after = text[body : match.start()], text[match.end() : match.end() + 3]
    if re.match(r"\s?\.\s?[A-Z]\.", text[match.end("list") : match.end("list") + 6]):
        return None  # initials of a name
    clause = bool(match["han"]) or _begins_clause(text, match.start(), body)
    comma = before.rstrip().endswith(",")
    span = match.start(), match.end() - len(sign) + len(sign.rstrip())
    if sign.isspace():
        # An article or a pronoun opens a sentence as a label without a sign does: only a capital behind it tells.
        word = letters in ("A", "I") and not re.match(r"[A-Z][a-z]|[\u3400-\u9fff]", after)
        word = word or (letters.isupper() and re.match(r"[a-z]", after) is not None)
        word = word and not match["han"]
        in_row = comma and letters != "a" and re.match(r"[A-Z0-9]", after)
        return (
            Mark(read_list(letters), *span, "bare", clause, False)
            if (clause or in_row) and not word
            else None
        )
    han = bool(re.match(r"\s*[\u3400-\u9fff]", after) or re.search(r"[\u3400-\u9fff]\s?$", before))
    if han and sign.strip()[:1] in (".", ":", "图", "为", "示"):
        clause = clause or not re.search(r"[A-Za-z0-9、]$", before)
    # OCR and hurried authors leave out the stop before a label: its own sign and its turn must do.
    loose = ":" in sign if letters[0].isupper() else sign.strip() in (":", ",") and letters != "a"
    if clause or han or loose or (comma and letters[0].isupper()):
        return Mark(read_list(letters), *span, "sign", clause, False)
    return None


def _signs(text: str, body: int) -> Iterator[Mark]:
    for found in _SIGN.finditer(text, body):
        # "f, a follicle": the second letter is an article.
        match = found if _rises(found["list"]) else _SINGLE.match(text, found.start())
        mark = _sign(text, body, match) if match else None
        if mark:
            yield mark
    for match in _REPEATED.finditer(text, body):
        clause = _begins_clause(text, match.start(), body)
        yield Mark(read_list(match["list"]), *match.span(), "sign", clause, False)


def _simple(text: str, body: int) -> Iterator[Mark]:
    """Labels of the other styles that stand in front of what they describe."""
    for match in _CLOSE.finditer(text, body):
        yield Mark(
            read_list(match["list"]), *match.span(), "close", _begins_clause(text, match.start(), body), False
        )
    for match in _PANEL.finditer(text, body):
        clause = re.search(
            r"(?:^|[.;:,]|\band)\s*(?:the\s+)?$",
            text[max(body, match.start() - 12) : match.start()],
            re.IGNORECASE,
        )
        yield Mark(read_list(match["list"]), match.start(), match.end(), "panel", clause is not None, False)
    for match in _CIRCLED.finditer(text, body):
        yield Mark(read_list(match["list"]), *match.span(), "circled", True, False)


def _prose(text: str, body: int) -> Iterator[Mark]:
    for match in _PROSE.finditer(text, body):
        yield Mark(read_list(match["list"]), *match.span("list"), "prose", False, False, prose=True)


def _places(text: str, body: int) -> Iterator[Mark]:
    for match in _PLACE_BRACKET.finditer(text, body):
        extra = match.span("extra") if match["extra"] else None
        closes = _AFTER.match(text, match.end()) is not None or not _opens(text, match.start(), body)
        name = position(match["place"] or match["han"])
        yield Mark((name,), *match.span(), "place bracket", not closes, closes, extra)
    for match in _PLACE.finditer(text, body):
        before = text[max(body, match.start() - 12) : match.start()]
        clause = re.search(r"(?:^|[.;:。；：])\s*$", before) or (
            match["han"] and re.search(r"(?:^|[,\s])$", before)
        )
        joined = match["noun"] and re.search(r"(?:,|\band|\bwhile|\bwhereas)\s*(?:the\s+)?$", before)
        signed = match["han"] or match["noun"] or match["sign"].strip()
        capital = not signed and clause and re.match(r"\s[A-Z]", text[match.end() :])
        if (clause and signed) or joined or capital:
            yield Mark((position(match["place"] or match["han"]),), *match.span(), "place", True, False)


def _alphabet(mark: Mark, text: str) -> str:
    """Upper and lower case letters are alphabets of their own: "A, Liver with ducts (a)"."""
    first = order(mark.labels[0]) if mark.labels else None
    if first is None:
        return ""
    if first[0] in ("digit", "circled"):
        return first[0]
    printed = re.search(r"[A-Za-z]", text[mark.start : mark.end])
    kind = "roman" if first[0] == "roman" else "letter"
    return f"{'upper' if printed and printed[0].isupper() else 'lower'} {kind}"


def _values(mark: Mark, alphabet: str) -> list[int]:
    if alphabet.endswith("roman"):
        return [value for label in mark.labels if (value := roman(label))]
    return [found[1] for label in mark.labels if (found := order(label))]


def _sequence(marks: Sequence[Mark], alphabet: str) -> list[Mark]:
    """The marks that rise from the first label on; one that comes again counts where it opens or closes a clause."""
    taken: list[Mark] = []
    seen: set[int] = set()
    strays = 0
    for mark in sorted(marks, key=lambda mark: (mark.start, -mark.end)):
        values = _values(mark, alphabet)
        if not values or (taken and mark.start < taken[-1].end):
            continue
        top = max(seen, default=0)
        gap = 2 if mark.opens and alphabet.endswith("letter") else 1
        is_next = top < min(values) <= top + gap
        # "A Sheet of cells" after "A-D" is a label again, "a follicle" is not.
        word = mark.style == "bare" and alphabet.startswith("lower")
        repeats = bool(taken) and set(values) <= seen and not word
        again = repeats and (mark.opens or mark.prose or mark.closes)
        overlaps = bool(taken) and mark.opens and not set(values) <= seen and min(values) <= top + 1
        first = not taken and min(values) == 1 and (mark.opens or mark.style in ("bracket", "prose"))
        if first or (taken and (is_next or again or overlaps)):
            taken.append(mark)
            seen |= set(values)
        elif taken and mark.opens and mark.style in ("sign", "bare"):
            strays += min(values) > top + 2
    if len(taken) < 2 or len(seen) <= 2 * strays or len(seen) < 2 or len(seen) < MIN_COVERAGE * max(seen):
        return []
    return taken


def is_foreword(marks: Sequence[Mark]) -> bool:
    """Whether the labels of a sequence stand in front of what they describe, rather than behind."""
    return not marks[0].closes


def _direct(marks: list[Mark], text: str, body: int) -> list[Mark]:
    """Bracketed labels turned one way by a vote of what stands around them; repeated ones that misfit are dropped."""
    votes = 0
    fresh: list[Mark] = []
    for mark in marks:
        if not set(mark.labels) <= {label for other in fresh for label in other.labels}:
            fresh.append(mark)
            votes += (
                mark.opens
                - mark.closes
                + bool(_SENTENCE.search(text[max(body, mark.start - 6) : mark.start]))
            )
    if not re.search(r"\w", text[body : marks[0].start]):
        votes += 2
    tail = re.match(r"\s*(?:[A-Z]\.\s?)?\w[\w,]", text[fresh[-1].end :]) is not None
    votes += 1 if tail and not fresh[-1].closes else -1
    forward = votes > 0
    seen: set[str] = set()
    kept: list[Mark] = []
    for mark in marks:
        again = set(mark.labels) <= seen
        after = kept and kept[-1].labels[-1] < mark.labels[0]
        strong = _begins_clause(text, mark.start, body) or (mark.opens and after)
        if not forward or not again or strong:
            kept.append(replace(mark, opens=forward, closes=not forward))
            seen |= set(mark.labels)
    return kept


def _paired(marks: list[Mark]) -> list[Mark]:
    """Marks of places, where at least two places of one axis are named."""
    names = {name for mark in marks for name in mark.labels}
    pairs = ({"LEFT", "RIGHT"}, {"TOP", "BOTTOM"}, {"TOP LEFT", "TOP RIGHT"}, {"BOTTOM LEFT", "BOTTOM RIGHT"})
    crossed = ({"TOP LEFT", "BOTTOM LEFT"}, {"TOP RIGHT", "BOTTOM RIGHT"})
    enough = any(pair <= names for pair in (*pairs, *crossed)) or len(names) >= 3
    return sorted(marks, key=lambda mark: mark.start) if enough else []


def _is_strong(mark: Mark, text: str, body: int) -> bool:
    """Whether a mark opens a clause by itself; Chinese needs no sign before the bracket, unless a verb follows it."""
    after = {"bracket": r"(?![呈为见的和与及示是均可])[\u3400-\u9fff]", "sign": r"[\u3400-\u9fff]"}.get(
        mark.style
    )
    han = after is not None and re.match(after, text[mark.end : mark.end + 1])
    return bool(han) or _begins_clause(text, mark.start, body)


def _single_list(marks: Sequence[Mark]) -> list[Mark]:
    """One mark that opens the caption's body and names several panels: "(A, B) Liver."."""
    # "A-P view": a list without brackets or sign is a word.
    first = [mark for mark in marks[:1] if mark.labels[0] == "A" and mark.style not in ("bare", "prose")]
    return [
        replace(mark, opens=True, closes=False)
        for mark in first
        if len(mark.labels) > 1 and [*mark.labels] == sorted(set(mark.labels))
    ]


def _family(marks: Sequence[Mark], style: Style, alphabet: str, text: str) -> list[Mark]:
    """The marks of one style and alphabet. Bare letters go with signed ones, words of a sentence with brackets."""

    def spelt(mark: Mark) -> bool:
        own = _alphabet(mark, text)
        one_of_many = alphabet.endswith("roman") and own.startswith(alphabet[:5]) and roman(mark.labels[0])
        return own == alphabet or bool(one_of_many)

    allies: dict[str, Style] = {"sign": "bare", "bracket": "prose"}
    return [mark for mark in marks if mark.style in (style, allies.get(style)) and spelt(mark)]


def _resolved(family: list[Mark], style: Style, alphabet: str, text: str, body: int) -> list[Mark]:
    """The sequence of a family, all marks turned one way; empty where it has none."""
    letters = alphabet.endswith("letter")
    strong = [mark for mark in family if _is_strong(mark, text, body)]
    if not letters and style in ("bracket", "close"):
        family = strong  # numbers in the middle of a clause count things in the picture
    single = _single_list(strong) if letters else []
    marks = _sequence(family, alphabet)
    if marks and style in ("bracket", "prose"):
        marks = _direct(marks, text, body)
        if marks[0].opens:
            marks = _sequence([mark for mark in marks if not mark.prose], alphabet)
        if all(mark.prose for mark in marks) != (style == "prose"):
            return []
    return marks or single


def _bracketed(text: str) -> list[bool]:
    """Of each sign, whether it stands within brackets that close; a bracket itself does not."""
    inside = [False] * (len(text) + 1)
    opened: list[int] = []
    for at, sign in enumerate(text):
        if sign in "([":
            opened.append(at)
        elif sign in ")]" and opened:
            start = opened.pop()
            inside[start + 1 : at] = [True] * (at - start - 1)
    return inside


def _ranked(text: str, body: int) -> Iterator[tuple[tuple[int, int, int], list[Mark]]]:
    """Every family of labels that makes a sequence, with its rank: letters before numerals, many labels before few."""
    found = [*_brackets(text, body), *_signs(text, body), *_simple(text, body), *_prose(text, body)]
    inside = _bracketed(text)
    candidates = [mark for mark in found if mark.labels and not inside[mark.start]]
    for alphabet in ("upper letter", "lower letter", "upper roman", "lower roman", "circled", "digit"):
        for style in _LABEL_STYLES:
            family = _family(candidates, style, alphabet, text)
            marks = _resolved(family, style, alphabet, text, body)
            if marks:
                first = not re.search(r"\w", text[body : marks[0].start])
                num_labels = len({label for mark in marks for label in mark.labels})
                yield (int(alphabet.endswith("letter")), num_labels + 2 * first, -marks[0].start), marks
    places = [mark for mark in _places(text, body) if not inside[mark.start]]
    for style in _PLACE_STYLES:
        marks = _paired([mark for mark in places if mark.style == style])
        if marks:
            turned = [replace(mark, closes=style != "place") for mark in marks]
            yield (-1, len(marks), -marks[0].start), turned


def find_marks(text: str, body: int) -> tuple[Mark, ...]:
    """The panel labels of a folded caption from `body` on, in order; none where it does not describe panels singly."""
    text = " " * body + text[body:]  # what the label ends with is no neighbour of the first mark
    ranked = sorted(_ranked(text, body), key=lambda found: found[0])
    return tuple(ranked[-1][1]) if ranked else ()
