# ruff: noqa: RUF001 (the signs that printers use are the matter here)
"""The grammar of captions: label, shared description, and the parts that speak of one panel each.

A caption is split only by a consistent sequence of panel labels (`marks`): it starts at A, a, 1 or i, rises, and names
at least two panels; places ("Left: ... Right: ...") need two of a kind. So "vitamin A", "(H&E)" and a lone "(A)" split
nothing. What follows the last part for all panels ("H&E, x200.", "Scale bars, 20 um.", credits, abbreviations) is
shared, unless an earlier part has a remark of the same kind: then each part has its own.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pathloom.books.letters import fold
from pathloom.books.marks import Mark, find_marks, is_foreword
from pathloom.books.numbers import caption_start, labels
from pathloom.books.references import sentence_spans

Span = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """What a caption says of the panels `labels`, made of the characters `spans` of the caption (half open)."""

    labels: tuple[str, ...]
    text: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class CaptionParts:
    """A caption taken apart. Label, shared spans, parts and marks are disjoint and leave only separators uncovered.

    `numbers` holds two where one caption serves two figures. `mark_spans` are the panel labels as printed.
    """

    numbers: tuple[str, ...]
    label_span: Span
    shared: str
    shared_spans: tuple[Span, ...]
    parts: tuple[Part, ...]
    mark_spans: tuple[Span, ...]


_STAIN = (
    r"(?:ha?ematoxylin|H\s?&\s?E|(?-i:HE|LM|TEM|SEM)\b|H-E|PAS\b|giemsa|papanicolaou|masson|gram stain|wright"
    r"|immuno(?:histo|peroxid)|(?:original )?magnif|[×x]\s?[0-9]{2,4}\b|[0-9]{2,4}\s?[×x](?![a-z])|×"
    r"|EnVision|SP法|免疫组化|苏木|HE染色)"
)
_BAR = r"(?:scale ?bars?|bars?\b|标尺|比例尺)"
_CREDIT = (
    r"(?:credit|courtesy|(?:reproduced|reprinted|adapted|modified|redrawn|used|taken)\b|source|copyright|©|引自|图片由|来源"
    r"|(?:photo|micro)?(?:graph|micrograph|image|figure|photo)s?(?::| (?:provided|courtesy|by))"
    r"|from\b.{0,60}(?:ed\b|press|[12][0-9]{3}))"
)
_KEY = (
    r"(?:abbreviations?|abbr?\.|notes?:|data are|error bars|values|statistic|\*+\s?p|p\s?[<=]|n\s?="
    r"|(?-i:[A-Z][A-Za-z0-9-]{1,6})[,:=] [a-z]|注[：:]|缩写)"
)
_ALL = (
    r"(?:all (?:panels|images|figures|pictures|sections|micrographs|micro|stain)|in (?:all|both)|both|each panel"
    r"|from (?:top|left)|results (?:are|were)|for (?:all|details)|see (?:also |text|table|fig)|以上|均|各图)"
)
_REMARKS = {"stain": _STAIN, "bar": _BAR, "credit": _CREDIT, "key": _KEY, "all": _ALL}
_FOR_PANELS = r"(?:[A-H](?:\s?[,–-]\s?[A-H])*[,:;]\s*)?"  # "(B, courtesy of a friend.)"
_REMARK = {
    kind: re.compile(rf"\s*[(\[]?\s*{_FOR_PANELS}{pattern}", re.IGNORECASE)
    for kind, pattern in _REMARKS.items()
}
_STAIN_ONLY = re.compile(
    rf"\s*(?:(?:{_STAIN}|{_BAR}|stain(?:ing|ed)?|and|eosin|original|染色|法|µm|um|μm|at|of|with|=|[0-9.]+"
    r"|[\s,;:.()×x/&-])+)$",
    re.IGNORECASE,
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_GAP = "…"
_LEFT_OVER = " \t\n,;:|、；，：=–-"
_JOINT_END = re.compile(r"(?:[\s,;:、；，：(\[]|(?<![A-Za-z])(?:and|or)|[和及与])+$", re.IGNORECASE)
_JOINT_START = re.compile(
    r"(?:[\s,;:.|、；，：。)\]=–-]|(?:and|or|as\ well\ as|but|while|whereas)(?![A-Za-z])|以及|[和及与])+",
    re.IGNORECASE,
)


def _trim(text: str, span: Span, *, joint: bool = False) -> Span:
    """The span without blanks and separators at its ends; with `joint`, without "and" before the next label."""
    start, end = span
    if joint:
        head = _JOINT_END.search(text, max(start, end - 60), end)
        end = head.start() if head else end
    while start < end and text[start] in _LEFT_OVER + ".。)]" and not re.match(r"[.-][0-9]", text[start:end]):
        start += 1
    while end > start and text[end - 1] in _LEFT_OVER:
        end -= 1
    return start, end


def _join(caption: str, spans: Iterable[Span]) -> str:
    text = ""
    for start, end in spans:
        piece = " ".join(caption[start:end].split())
        text += piece if not text or re.match(r"[\u3400-\u9fff]", piece) else f" {piece}"
    return text


def _part(caption: str, panel_labels: Sequence[str], spans: Iterable[Span]) -> Part:
    kept = tuple((start, end) for start, end in spans if start < end)
    return Part(tuple(dict.fromkeys(panel_labels)), _join(caption, kept), kept)


def _kinds(text: str) -> set[str]:
    """The kinds of remark that the text holds anywhere."""
    return {
        kind
        for kind, pattern in _REMARKS.items()
        if re.search(rf"(?<![A-Za-z]){pattern}", text, re.IGNORECASE)
    }


def _tail(caption: str, span: Span, earlier: str) -> Span:
    """Where the remarks for all panels begin within the span of the last part, as the span of the remarks."""
    start, end = span
    had = _kinds(earlier)
    pieces = [(start + a, start + b) for a, b in sentence_spans(caption[start:end])]
    cut = end
    for at, stop in reversed(pieces[1:]):
        kind = next((kind for kind, pattern in _REMARK.items() if pattern.match(caption, at, stop)), None)
        if kind is None or (kind in had and kind not in ("all", "credit", "key")):
            break
        cut = at
    if cut == end and not had & {"stain", "bar"}:
        joints = r"[;；，\s（(]\s*" if _HAN.search(caption[start:end]) else r";\s*"
        ends = (start + found.end() for found in re.finditer(joints, caption[start:end]))
        cut = next((at for at in ends if _STAIN_ONLY.match(caption[at:end])), end)
    return cut, end


def _leading(caption: str, body: Span, marks: Sequence[Mark]) -> tuple[list[Span], list[Part]]:
    """Labels in front of what they describe: a part reaches to the next label, the last one to the shared remarks."""
    shared = [_trim(caption, (body[0], marks[0].start), joint=True)]
    ends = [mark.start for mark in marks[1:]] + [body[1]]
    spans = [
        _trim(caption, (mark.end, end), joint=end != body[1]) for mark, end in zip(marks, ends, strict=True)
    ]
    extras = [[mark.extra] if mark.extra else [] for mark in marks]
    last = spans[-1]
    cut, end = _tail(caption, last, " ".join(caption[start:stop] for start, stop in spans[:-1]))
    if last[0] < cut < end:
        spans[-1] = _trim(caption, (last[0], cut))
        shared.append(_trim(caption, (cut, end)))
    parts = [
        _part(caption, mark.labels, [*extra, span])
        for mark, extra, span in zip(marks, extras, spans, strict=True)
    ]
    return shared, parts


_PREPOSITION = re.compile(
    r"\b(?:of|in|from|on|for|by|at|into|with|using|between|through|after|before|during|to|within|under|as|including"
    r"|without|showing|shows?)\s+(?:(?:the|an?|its)\s+)?",
    re.IGNORECASE,
)


MAX_MEMBER_WORDS = 6
"""Longer members of a list are sentences of their own and share no head. Our own choice, from 60 real captions."""


def _head_end(first: str, second: str) -> int:
    """Where the shared head of a list ends in its first member: "Sections of | lung (A) and liver (B)".

    A word that opens the second member opens the first too, and a colon ends a head. Else a short second member, with
    no head, tells how many prepositions a member holds; the one before those closes the head.
    """
    opening = re.match(r"(?:the\s+|an?\s+)?([a-z]{4,})\b", second)
    same = [*re.finditer(rf"\b{opening[1]}\b", first)] if opening else []
    if same:
        return same[-1].start()
    colon = [*re.finditer(r"[:;：；]\s|\s[-–]\s", first)]
    if colon:
        return colon[-1].end()
    if len(second.split()) > MAX_MEMBER_WORDS:
        return 0
    inner = len(_PREPOSITION.findall(second))
    found = list(_PREPOSITION.finditer(first))
    return found[-inner - 1].end() if len(found) > inner else 0


def _chunks(
    caption: str, sentence: Span, marks: Sequence[Mark], *, alone: bool
) -> tuple[list[Span], list[Part]]:
    """A sentence whose labels follow what they describe. `alone`: no other has labels, so its frame is shared."""
    starts = [sentence[0], *(mark.end for mark in marks[:-1])]
    spans = []
    for start, mark in zip(starts, marks, strict=True):
        joint = _JOINT_START.match(caption, start, mark.start) if start != sentence[0] else None
        spans.append(_trim(caption, (joint.end() if joint else start, mark.start)))
    shared: list[Span] = []
    if alone and len(marks) > 1:
        head = _head_end(caption[slice(*spans[0])], caption[slice(*spans[1])])
        shared = [_trim(caption, (spans[0][0], spans[0][0] + head))] if head else []
        spans[0] = _trim(caption, (spans[0][0] + head, spans[0][1]))
    rest = _trim(caption, (marks[-1].end, sentence[1]))
    extras: list[list[Span]] = [[mark.extra] if mark.extra else [] for mark in marks]
    if alone and len(marks) > 1:
        shared.append(rest)
    else:
        extras[-1].append(rest)
    found = zip(marks, spans, extras, strict=True)
    return shared, [_part(caption, mark.labels, [span, *extra]) for mark, span, extra in found]


def _trailing(caption: str, body: Span, marks: Sequence[Mark]) -> tuple[list[Span], list[Part], list[Mark]]:
    """Labels behind what they describe, sentence by sentence; third, the marks that were cut out.

    A sentence that names panels in its grammar ("the plots in C and D") belongs to them whole. Sentences without a
    label before the first and after the last are shared; between, they continue the part before.
    """
    sentences = [(body[0] + a, body[0] + b) for a, b in sentence_spans(caption[slice(*body)])]
    held = [[mark for mark in marks if start <= mark.start < end] for start, end in sentences]
    everything = {label for mark in marks for label in mark.labels}
    seen: set[str] = set()
    plans: list[
        str
    ] = []  # of each sentence: "list" of members with labels, about its panels as a "whole", or "none"
    for found in held:
        named = {label for mark in found for label in mark.labels}
        again = named <= seen
        if not found or (named == everything and seen and (again or found[0].prose)):
            plans.append("none")
        else:
            plans.append("whole" if again or any(mark.prose for mark in found) else "list")
        seen |= named
    about = [i for i, plan in enumerate(plans) if plan != "none"]
    shared: list[Span] = []
    parts: list[Part] = []
    cut: list[Mark] = []
    for i, (sentence, found, plan) in enumerate(zip(sentences, held, plans, strict=True)):
        if plan == "list":
            more, new = _chunks(caption, sentence, found, alone=len(about) == 1)
            shared, parts, cut = shared + more, parts + new, cut + found
        elif plan == "whole":
            first = found[0] if found[0].start - sentence[0] < 2 and not found[0].prose else None
            cut += [first] if first else []
            span = _trim(caption, (first.end if first else sentence[0], sentence[1]))
            parts.append(_part(caption, sorted({label for mark in found for label in mark.labels}), [span]))
        elif about[0] < i < about[-1] and not found:
            before = parts.pop()
            parts.append(_part(caption, before.labels, [*before.spans, sentence]))
        else:
            shared.append(sentence)
    return shared, parts, cut


def _frame(caption: str, shared: Sequence[Span], marks: Sequence[Mark]) -> str:
    """The shared text, with a gap where the members of a list stood in a sentence that frames them.

    "Sections of lung (A) and liver (B) were stained." leaves "Sections of … were stained.", which `describe` fills.
    """
    first, last = marks[0].start, marks[-1].end
    before = [span for span in shared if span[1] <= first]
    after = [span for span in shared if span[0] >= last]
    rest = after and not caption[last : after[0][0]].strip()
    framed = rest or (before and not re.search(r"[.!?。；;:：]\s*$", caption[slice(*before[-1])]))
    if not framed or len(before) + len(after) != len(shared):
        return _join(caption, shared)
    gap = _GAP if rest else f"{_GAP}."
    return " ".join(filter(None, (_join(caption, before), gap, _join(caption, after))))


def split_caption(caption: str) -> CaptionParts:
    """Label, shared description and parts of a caption; a caption that has no panels has no parts.

    A panel letter of the label itself ("Fig. 3-2A. ...") makes one part of the whole, or, where the text goes on with
    B, is the first mark.
    """
    text = fold(caption)
    start = caption_start(caption)
    numbers = start.numbers if start else ()
    label_end = start.end if start else 0
    marks: tuple[Mark, ...] = ()
    if start and start.panels:
        marks = find_marks(text, start.number_end)
        label_end = start.number_end if marks else start.end
    marks = marks or find_marks(text, label_end)
    label_span = (0, label_end)
    body = (label_end, len(caption))
    if not marks:
        span = _trim(text, body)
        if start and start.panels:
            return CaptionParts(numbers, label_span, "", (), (_part(caption, start.panels, [span]),), ())
        return CaptionParts(
            numbers, label_span, _join(caption, [span]), (span,) if span[0] < span[1] else (), (), ()
        )
    if is_foreword(marks):
        shared, parts = _leading(caption, body, marks)
        cut: Sequence[Mark] = marks
    else:
        shared, parts, cut = _trailing(caption, body, marks)
    kept = tuple((begin, end) for begin, end in shared if begin < end)
    shared_text = _join(caption, kept) if is_foreword(marks) or not cut else _frame(caption, kept, cut)
    mark_spans = tuple((mark.start, mark.extra[0] if mark.extra else mark.end) for mark in cut)
    return CaptionParts(numbers, label_span, shared_text, kept, tuple(parts), mark_spans)


_BRACKETED_LETTERS = re.compile(
    r"\s?[(\[](?:[A-Ha-h](?:\s?(?:-|–|,|and|&|、|和)\s?[A-Ha-h])*)[)\]](?=[\s.,;:。，；：]|$|[\u3400-\u9fff])"
)
_FIRST_LETTER = re.compile(
    r"^\s*(?:[(\[][A-Ha-h][)\]]|[A-Ha-h](?:[-–,][A-Ha-h])?[.):](?=\s|[\u3400-\u9fff]))\s*"
)


def _without_labels(text: str) -> str:
    """The text without figure labels and panel letters."""
    for label in reversed(labels(text)):
        if label.kind == "figure":
            before, after = text[: label.start], text[label.end :]
            closed = re.search(r"\(\s*(?:see\s+)?$", before, re.IGNORECASE) and re.match(r"\s*\)", after)
            if closed:
                before, after = (
                    re.sub(r"\s*\(\s*(?:see\s+)?$", "", before, flags=re.IGNORECASE),
                    after.lstrip()[1:],
                )
            text = before + (after if before.strip() else after.lstrip(" .:|"))
    return _BRACKETED_LETTERS.sub("", _without_first_letter(text)).strip()


def _without_first_letter(text: str) -> str:
    """The text without the panel letter that it begins with."""
    found = _FIRST_LETTER.match(fold(text))
    return text[found.end() :] if found else text


def describe(shared: str, text: str) -> str:
    """The caption of one panel: the shared description in front of its own, without figure numbers and panel letters.

    A gap in the shared description ("Sections of … were stained.") takes the panel's text instead.
    """
    head, own = _without_labels(shared), _without_labels(text)
    if _GAP in head:
        own = own.rstrip(".。") if re.search(rf"{_GAP}\s*[.。]", head) else own
        return " ".join(head.replace(_GAP, own, 1).split())
    if not head or not own:
        return head or own
    han = re.search(r"[\u3400-\u9fff]", head + own) is not None
    if head[-1] in ".。!?！？;；:：,，":
        return head + own if han else f"{head} {own}"
    return f"{head}。{own}" if han else f"{head}. {own}"


def normalise(text: str) -> str:
    """The form in which captions are compared: words in lower case, without labels, panel letters and punctuation.

    Full width and compatibility forms are folded (NFKC), blanks next to Chinese signs go.
    """
    plain = unicodedata.normalize("NFKC", _without_labels(fold(text))).casefold()
    words = " ".join(re.findall(r"\w+|[%&+<>=×]", plain))
    return re.sub(r"(?<=[\u3400-\u9fff]) | (?=[\u3400-\u9fff])", "", words)
