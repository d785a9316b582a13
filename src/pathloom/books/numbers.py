# ruff: noqa: RUF001, RUF002 (the signs that printers use are the matter here)
"""Figure numbers and the labels that carry them: the one place of their patterns, in English and Chinese.

A canonical number joins its parts by "-" whatever dash or dot was printed, and its letters are upper case: "3.2", "3–2"
and "3-2" are "3-2". A panel letter behind it is no part of it. Series of their own keep apart by a prefix: "S2"
(supplementary, 附图), "ED2" (extended data), "E2" (eFigure), "PLATE-IV" (also 彩图), "PHOTO-3", "SCHEME-1". Tables are
read only so that they are not taken for figures; boxes, charts, equations, videos and chapters are not read at all.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pathloom.books.letters import POSITION, fold, letter_run, position

MAX_RANGE = 30
"""Figures that one range may name; "Figs. 2-400" is a misreading. Our own choice."""

Kind = Literal["figure", "table"]
Cue = Literal["delimiter", "capital", "han", "bare", "prose", "none"]


@dataclass(frozen=True)
class Named:
    """A figure and the panels of it that are named; no panels: the whole figure."""

    number: str
    panels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Label:
    """ "Figs. 2A–C and 3" within a text: what it names, and where it stands (half open)."""

    kind: Kind
    named: tuple[Named, ...]
    start: int
    end: int


@dataclass(frozen=True)
class CaptionStart:
    """How a block of text begins that begins with a label.

    `end` is where the description starts, behind the delimiter; `number_end` where the number ends and panel letters
    may start. `cue` is the textual evidence and `certain` its verdict: a delimiter behind the number, a capital or Han
    description, or nothing but the label. Not certain are "prose" ("Figure 3 shows", "Figs. 2 and 3", "图3显示") and
    "none" (a small letter or a sign that says nothing): position and font decide.
    """

    kind: Kind
    numbers: tuple[str, ...]
    panels: tuple[str, ...]
    start: int
    number_end: int
    end: int
    cue: Cue

    @property
    def certain(self) -> bool:
        return self.cue not in ("prose", "none")


_INT = r"(?:[0-9]{1,3}|[lI][0-9]{1,2})"
_PREFIX = r"(?:[A-Z]{1,2}[-.]?(?=[0-9]))?"
_VERB = (
    r"(?:show|demonstrat|illustrat|depict|represent|display|present|indicat|summari|provid|compar|give|gave|reveal"
    r"|document)[a-z]*"
)
# One kind of separator within a number, so that "3.1-3.3" is a range of two; OCR spaces a hyphen, rarely a dash.
_NUMBER = re.compile(
    rf"(?P<number>{_PREFIX}{_INT}(?:(?P<sep>[-–.·])(?:{_INT})(?:(?P=sep){_INT}){{0,2}}"
    rf"|\ ?-\ {_INT}(?!\ ?[a-zµ%])|\ -{_INT}"
    # "Fig. 3. 2" with a blank too many, where no words for two or more things follow.
    rf"|\.\ {_INT}(?=[A-Za-z](?![A-Za-z])|\s?(?:[).,;:\]]|$)|\s(?:[A-Z(]|(?:and|to)\b|{_VERB}\b)))?)(?![0-9])"
    r"|(?P<roman>(?=[IVXL])X{0,3}(?:IX|IV|V?I{0,3}|L?X{0,2})(?![A-Za-z0-9]))|(?P<ell>l(?=[.:,)\s]|$))"
)
_HAN_NUMBER = re.compile(rf"(?P<number>{_PREFIX}{_INT}(?:\ ?(?P<sep>[-–.·])\ ?{_INT}){{0,2}})(?![0-9])")
_COUNTED = re.compile(
    r"\s*(?:[%例个張张幅岁名次种年月日倍]|(?:[µμnmck]?m|patients?|cases?|specimens?|samples?|of\s+the|out\s+of)\b"
    r"|[×x]\s?[0-9])"
)
_WORD = re.compile(
    r"""
    (?<![A-Za-z0-9])(?P<series>(?:supp(?:l(?:ement(?:ary|al)?)?)?\.?|supporting|appendix|extended\ data|online)\s+)?
      (?P<figure>e?-?F[i1l|!]g(?:u[a-z]{2}|ur)?(?P<plural>s)?)(?![A-Za-z])\s{0,2}[.,]?\s{0,2}
      (?:(?:nos?\.|nr\.|\#)\s{0,2})?
    |(?<![A-Za-z0-9])(?P<other>(?-i:Plate|PLATE|Photo(?:graph)?|PHOTO|Scheme|SCHEME)(?P<others>s|S)?)\s{0,2}\.?\s{0,2}
    |(?<![A-Za-z0-9])(?P<table>Tab(?:le|\.)(?P<tables>s)?)\s{0,2}\.?\s{0,2}
    |(?P<han>(?:附|补充|補充|彩|插)?[图圖])(?<![电電企试試地版]图)(?<![^示]意图)\s{0,2}
    |(?P<hantable>(?:附|续)?表)\s{0,2}
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Where a word may be: cheap to find, since most of a book's text names nothing.
_HINT = re.compile(r"F[i1l|!]g|Plate|Photo|Scheme|Tab|[图圖表]", re.IGNORECASE)
_SERIES_CHARACTERS = 24  # "Supplementary e-"
_NUMBER_FIRST = re.compile(r"(?<![A-Za-z0-9])(S[0-9]{1,2})\s+Fig(?:ure)?s?(?![A-Za-z])\.?(?!\s?[0-9])")
_RANGE = re.compile(r"(?:\s*(?:-|–|~|至|到)\s*|\s+(?:to|through)\s+)(?:图\s?|[Ff]ig(?:ure|s)?\.?\s)?")
_AND = re.compile(r"\s*(?:[,;、]\s*)?(?:\b(?:and|or)\b|[&+和及与與或])\s*|\s*[、]\s*")
_COMMA = re.compile(r"\s*[,;/]\s*")
_ENDS = re.compile(rf"\s*(?:$|[.,;:)\]、。]|(?:and|or|to|through|are|is|was|were|{_VERB})\b|[&和及与])")
_PREPOSITION = re.compile(r"\s+(?:with|for|from|in|at|by|as|but|where|which|than|of|on)\b")
_LETTER = r"[A-Za-z](?![A-Za-z0-9])"
_ASIDE = re.compile(r"\s?\((?:arrow|asterisk|star|box|circle|inset|\*)[^()0-9]{0,30}\)(?=\s*(?:,|and|&))")
_CELLS = re.compile(r"[ -](?:cells?|lymphocytes?)\b")
_BRACKET_PANELS = re.compile(rf"\s?\((?P<list>{_LETTER}[^()]{{0,20}}|[ivx]{{1,4}})\)")
_PANEL_WORD = re.compile(r"\s*[,(]?\s*(?:panels?|parts?)\s+(?=[A-Za-z](?![A-Za-z]))")
_POSITION = re.compile(
    rf"\s?[,(]?\s?(?P<words>{POSITION}(?:(?:,\s|\s?/\s?|\sand\s){POSITION})*)(?:\s+(?:panels?|columns?|rows?|images?))?"
    r"(?=\s*(?:$|[).,;:]|and\b))|\s?[,(]?(?P<han>左上|右上|左下|右下|[左右上下中])(?:图|侧)?(?=[),，。、；]|$)",
    re.IGNORECASE,
)
_PANELS_BEFORE = re.compile(
    rf"(?:panels?\s+(?P<list>[A-Za-z](?![A-Za-z])[^.()]{{0,20}})|(?P<words>{POSITION})\s+(?:panel|image|sub-?\s?figure|part|side)s?)"
    r"\s+(?:of|in|from)\s+(?:the\s+)?$",
    re.IGNORECASE,
)


def canonical_number(number: str) -> str:
    """The form that numbers are compared by; see the module."""
    joined = re.sub(r"\s*[-–.·]\s*", "-", fold(number).strip(" .:"))
    return re.sub(r"(?<![A-Z0-9])[lI](?=[0-9])", "1", joined).upper()


def read_panels(text: str, at: int, *, ascending: bool = True) -> tuple[tuple[str, ...], int]:
    """The list of panel letters that starts at `at` of a folded text ("A", "a-c", "A, B and D"), and its end."""
    first = re.compile(r"[A-Za-z](?![A-Za-z])").match(text, at)
    if first is None or _CELLS.match(text, first.end()):
        return (), at
    panels, end, case = [first[0].upper()], first.end(), first[0].isupper()
    while True:
        aside = _ASIDE.match(text, end)
        after = aside.end() if aside else end
        dash = _RANGE.match(text, after)
        joint = dash or _AND.match(text, after) or _COMMA.match(text, after)
        letter = joint and re.compile(_LETTER).match(text, joint.end())
        if joint is None or letter is None or letter[0].isupper() != case or _CELLS.match(text, letter.end()):
            return tuple(panels), end
        label = letter[0].upper()
        pronoun = letter[0] == "I" and panels[-1] != "H" and re.match(r"\s+[a-z]", text[letter.end() :])
        if pronoun or (ascending and label <= panels[-1]):
            return tuple(panels), end
        panels += letter_run(panels[-1], label)[1:] if dash else [label]
        end = letter.end()


def _attached(text: str, at: int) -> tuple[tuple[str, ...], int]:
    """Panels printed against the number: "2A", "2ab", "2-A", "2A–C"."""
    run = re.compile(r"[A-Za-z]{1,4}(?![A-Za-z])").match(text, at)
    if run and len(run[0]) > 1:
        letters = letter_run(run[0][0].upper(), run[0][-1].upper())
        same = "".join(letters) == run[0].upper() and (run[0].isupper() or run[0].islower())
        return (tuple(letters), run.end()) if same else ((), at)
    dashed = re.compile(r"[-–.](?=[A-Z](?![A-Za-z0-9])(?!\s[a-z]))").match(text, at)
    if run is None and dashed is None:
        return (), at
    panels, end = read_panels(text, dashed.end() if dashed and not run else at)
    prime = re.compile(r"['′]").match(text, end)
    return (panels, prime.end() if prime else end) if panels else ((), at)


def _trailing(text: str, at: int, *, had: bool) -> tuple[tuple[str, ...], int]:
    """Panels set apart from the number: " (A, B)", ", A and B", " d,e)", ", left", ", panel A"."""
    bracket = None if had else _BRACKET_PANELS.match(text, at)
    if bracket:
        panels, end = read_panels(text, bracket.start("list"))
        if panels and (end == bracket.end("list") or text[end] in ",;"):
            return panels, bracket.end()
        if re.fullmatch(r"[ivx]{1,4}", bracket["list"]):
            return (bracket["list"].upper(),), bracket.end()
    words = _PANEL_WORD.match(text, at)
    if words:
        return read_panels(text, words.end())
    place = _POSITION.match(text, at)
    if place:
        found = place["words"] or place["han"]
        names = re.findall(rf"{POSITION}|左上|右上|左下|右下|[左右上下中]", found, re.IGNORECASE)
        return tuple(position(name) for name in names), place.end()
    joint = None if had else re.compile(r"(?:,\s?|\s)(?=[A-Za-z](?![A-Za-z]))").match(text, at)
    if joint:
        panels, end = read_panels(text, joint.end())
        comma = joint[0].startswith(",") and text[joint.end()].isupper() and _PREPOSITION.match(text, end)
        ends = len(panels) > 1 or _ENDS.match(text, end) or comma
        if panels and ends and not _COUNTED.match(text, end):
            return panels, end
    return (), at


@dataclass(frozen=True)
class _Item:
    raw: str
    panels: tuple[str, ...]
    joint: str  # how it hangs on the item before: "", "and", "range"
    start: int
    end: int


def _item(text: str, at: int, joint: str, *, han: bool, caption: bool) -> _Item | None:
    match = (_HAN_NUMBER if han else _NUMBER).match(text, at)
    if match is None or match.end() == at or _COUNTED.match(text, match.end()):
        return None
    raw = match["number"] or ("1" if not han and match["ell"] else match[0])
    panels, end = _attached(text, match.end())
    if not caption:
        more, end = _trailing(text, end, had=bool(panels))
        panels += more
    return _Item(raw, panels, joint, match.end(), end)


def _may_follow(before: _Item, item: _Item, text: str, joint: str, *, plural: bool, han: bool) -> bool:
    """Whether a number behind a joint is one more figure and not a count: "Fig. 3 and 4 patients"."""
    if before.panels and item.panels and item.end > item.start:
        return before.panels[0].isupper() and not re.match(r"[a-z]", text[item.end :])
    if han or (plural and joint in ("and", "range")):
        return True
    first, second = canonical_number(before.raw).split("-"), canonical_number(item.raw).split("-")
    if len(first) == len(second) == 2 and first[0] == second[0]:  # "figure 4.1, 4.2 and 4.3": of one chapter
        return True
    closed = re.match(r"\s*(?:\)|,?\s*and\b)", text[item.end :]) is not None
    return _ENDS.match(text, item.end) is not None and (plural or closed or joint in ("and", "range"))


def _items(text: str, at: int, *, plural: bool, han: bool, caption: bool) -> list[_Item]:
    first = _item(text, at, "", han=han, caption=caption)
    items = [first] if first else []
    while items:
        end = items[-1].end
        kinds = ((_RANGE, "range"), (_AND, "and"), (_COMMA, "comma"))
        joints = ((pattern.match(text, end), kind) for pattern, kind in kinds)
        match, kind = next(((match, kind) for match, kind in joints if match), (None, ""))
        item = _item(text, match.end(), kind, han=han, caption=caption) if match else None
        if item is None or not _may_follow(items[-1], item, text, kind, plural=plural, han=han):
            break
        items.append(item)
    return items


def _run(number: str, to: str) -> list[str]:
    """The numbers from one to the other, both included; empty where they do not rise."""
    head, _, first = number.rpartition("-")
    to_head, _, last = to.rpartition("-")
    split_first, split_last = re.fullmatch(r"([A-Z]*)(\d+)", first), re.fullmatch(r"([A-Z]*)(\d+)", last)
    if not split_first or not split_last or to_head not in (head, ""):
        return []
    low, high = int(split_first[2]), int(split_last[2])
    if not 0 < high - low < MAX_RANGE or split_last[1] not in (split_first[1], ""):
        return []
    stem = (f"{head}-" if head else "") + split_first[1]
    return [f"{stem}{i}" for i in range(low, high + 1)]


def _expand(items: list[_Item], *, plural: bool, han: bool, composite: bool | None) -> Iterator[Named]:
    """Ranges counted out, chapters handed on: "Figs. 2-4", "Figs. 3-1 and 2", "Figs. 3-1-3-3"."""
    simple = all("-" not in canonical_number(item.raw) for item in items[1:])
    pairs = plural and simple and not han and not composite
    before = Named("")
    for item in items:
        number = canonical_number(item.raw)
        parts = number.split("-")
        printed: list[str] = []
        if len(parts) == 4 and parts[0] == parts[2]:
            printed = _run("-".join(parts[:2]), "-".join(parts[2:]))
        elif len(parts) == 2 and pairs and not (item.joint or item.panels or "." in item.raw):
            printed = _run(*parts)
        elif item.joint == "range" and number != before.number:
            printed = _run(before.number, number)[1:]
        elif "-" in before.number and number.isdigit():
            number = f"{before.number.rpartition('-')[0]}-{number}"
        yield from map(Named, printed[:-1])
        panels = item.panels
        if item.joint == "range" and number == before.number and before.panels and panels:
            panels = (*letter_run(before.panels[-1], panels[0])[1:], *panels[1:])
        before = Named(printed[-1] if printed else number, panels)
        yield before


def _prefix(match: re.Match[str]) -> str:
    series = (match["series"] or "").casefold()
    if series.startswith("extended"):
        return "ED"
    if series or (match["han"] or "")[:1] in ("附", "补", "補"):
        return "S"
    if match["figure"] and match["figure"][0] == "e":
        return "E"
    if match["other"]:
        word = match["other"].upper().removesuffix("S")
        return "PHOTO-" if word.startswith("PHOTO") else f"{word}-"
    return "PLATE-" if (match["han"] or "").startswith("彩") else ""


def _merge(named: Iterator[Named], prefix: str) -> tuple[Named, ...]:
    """One entry a figure with all its panels, in the order of first mention."""
    merged: dict[str, list[str]] = {}
    for one in named:
        number = one.number if prefix.isalpha() and one.number[:1].isalpha() else prefix + one.number
        panels = merged.setdefault(number, [])
        panels += [panel for panel in one.panels if panel not in panels]
    return tuple(Named(number, tuple(panels)) for number, panels in merged.items())


def _label(text: str, match: re.Match[str], composite: bool | None, *, caption: bool = False) -> Label | None:
    han = bool(match["han"] or match["hantable"])
    plural = bool(match["plural"] or match["others"] or match["tables"])
    items = _items(text, match.end(), plural=plural, han=han, caption=caption)
    if not items:
        return None
    kind: Kind = "table" if match["table"] or match["hantable"] else "figure"
    named = _merge(_expand(items, plural=plural, han=han, composite=composite), _prefix(match))
    before = None if caption else _PANELS_BEFORE.search(text, max(0, match.start() - 60), match.start())
    if before and len(named) == 1 and not named[0].panels:
        listed = read_panels(before["list"], 0)[0] if before["list"] else (position(before["words"]),)
        named = (Named(named[0].number, listed),)
    return Label(kind, named, match.start(), items[-1].end)


def labels(text: str, *, composite: bool | None = None) -> list[Label]:
    """All figures and tables that a text names, in its order.

    `composite` says whether the book numbers its figures by chapter: then "Figs. 3-5" is one figure, else three.
    Unknown, a plural word makes a range of a single rising pair.
    """
    folded = fold(text)
    found: list[Label] = []
    for hint in _HINT.finditer(folded):
        free = max(found[-1].end if found else 0, hint.start() - _SERIES_CHARACTERS)
        near = _WORD.finditer(folded, free, hint.end() + _SERIES_CHARACTERS)
        match = next((word for word in near if word.start() <= hint.start() < word.end()), None)
        label = _label(folded, match, composite) if match else None
        if label:
            found.append(label)
    for match in _NUMBER_FIRST.finditer(folded):
        found.append(Label("figure", (Named(match[1]),), match.start(), match.end()))
    return sorted(found, key=lambda label: label.start)


_DELIMITER = re.compile(r"\s?(?:[.:|]|[)](?=\s)|\s[-–](?=\s)|–(?=[A-Z\s]))+(?=\s|$|[^0-9])")
_PROSE = re.compile(
    r"\s*(?:[,;)]|(?:and|or|to|in|of|from|is|are|was|were|has|have|can|also|we|the|which|that|for|as|with)\b"
    rf"|{_VERB}"
    r"|[、和及与與中所是为及]|显示|顯示|可见|可見|表明|说明|表示|展示|给出|提示|示)",
    re.IGNORECASE,
)
_UNSURE_CAPITAL = re.compile(r"\s+(?:A|I|We|The)\s+[a-z]")
_CAPITAL = re.compile(
    r"\s*(?:[(\[\"“'‘]\s*)*(?:[A-Z]|[A-Za-z]{1,6}[0-9]|[a-hi]{1,3}[).:]|[a-h](?:[,–-][a-h])*\s+[A-Z]|[0-9]+-)"
)
_HAN = re.compile(r"\s*[(\[【]?\s*(?:[A-Za-z][.:、]?\s?)?[\u3400-\u9fff]")


def caption_start(text: str) -> CaptionStart | None:
    """How a block begins that begins with a label of a figure or a table; None where it does not."""
    folded = fold(text)
    lead = len(folded) - len(folded.lstrip(" \t\n*•■▲►◆【[<"))
    match = _WORD.match(folded, lead)
    label = _label(folded, match, None, caption=True) if match else None
    if match is None or label is None:
        first = _NUMBER_FIRST.match(folded, lead)
        if first is None:
            return None
        label, number_end = Label("figure", (Named(first[1]),), lead, first.end()), first.end()
    else:
        number = (_HAN_NUMBER if match["han"] or match["hantable"] else _NUMBER).match(folded, match.end())
        single = len(label.named) == 1 and number is not None
        number_end = number.end() if single and number is not None else label.end
    delimiter = _DELIMITER.match(folded, label.end)
    end = delimiter.end() if delimiter else label.end
    panels = label.named[0].panels if len(label.named) == 1 else ()
    numbers = tuple(named.number for named in label.named)
    cue = _cue(folded, label.end, delimiter)
    return CaptionStart(label.kind, numbers, panels, label.start, number_end, end, cue)


def _cue(text: str, at: int, delimiter: re.Match[str] | None) -> Cue:
    rest = text[at:]
    if not rest.strip(" .:|]】>。"):
        return "bare"
    if delimiter:
        # "... is seen in / Fig. 3). The tumour": a bracket that the block did not open.
        return "prose" if delimiter[0].strip().startswith(")") and "(" not in text[:at] else "delimiter"
    # "3-2, A, Normal gland. B, ...": the panels of a caption stand behind a comma in some books.
    if re.match(r"[,;]?\s+[A-H](?:,|:|\.|-[A-H]|\s+and\s+[A-H][,:.])\s", rest):
        return "capital"
    if _HAN.match(rest) and not _PROSE.match(rest):
        return "han"
    if _PROSE.match(rest):
        return "prose"
    return "capital" if _CAPITAL.match(rest) and not _UNSURE_CAPITAL.match(rest) else "none"
