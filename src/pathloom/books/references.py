# ruff: noqa: RUF001, RUF003 (the signs that printers use are the matter here)
"""Sentences of the body text that name figures: lines to text, text to sentences, sentences to references.

A figure of another work is no reference: "Figure 3 of Smith et al.", "Fig. 2 in ref. 4", "their Fig. 1" are dropped.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pathloom.books.letters import fold
from pathloom.books.numbers import Label, Named, labels
from pathloom.figures import Figure, Reference

_HAN = "\u3400-\u9fff\u3000-\u303f\uff00-\uffef"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FIRST_PARTS = _words(
    "well poorly moderately highly self low high mid short long half full cross double single two three four one all"
    " ill near so follow quasi small large thin thick round fine clear time dose age sex light dark red blue green"
    " brown white black"
)
"""First parts of compounds that keep their hyphen over a line end. Our own list."""
_LAST_PARTS = _words(
    "like based positive negative free rich poor induced associated related specific dependent derived shaped sized"
    " stained treated old up type grade power lined coated forming producing secreting containing mediated bound"
    " matched defined differentiated fold term year month week day cell layered staining blue eosin"
)
"""Last parts of compounds that keep it. Our own list."""
_BROKEN = re.compile(r"([A-Za-z0-9\u00c0-\u024f]+)[-‐‑]$")
_WORD_START = re.compile(r"[A-Za-z\u00c0-\u024f]+")


def _keeps_hyphen(first: str, second: str, words: Counter[str]) -> bool:
    """Whether "first-/second" is a compound; see `join_lines`."""
    compound, joined = words[f"{first}-{second}".casefold()], words[f"{first}{second}".casefold()]
    if compound != joined:
        return compound > joined
    if (
        not second.islower()
        or not first.isalpha()
        or (first.isupper() and len(first) < 5)
        or not first[1:].islower()
    ):
        return len(first) == 1 or not (first.isupper() and second.isupper())
    return second in _LAST_PARTS or first.casefold() in _FIRST_PARTS


def join_lines(lines: Sequence[str]) -> str:
    """The lines of a block as one running text.

    A hyphen at a line's end goes, unless it belongs to a compound. It does where the text has the compound elsewhere
    and the joined word less often; where either side is a numeral, an abbreviation or a name ("CD38-/positive",
    "Ziehl-/Neelsen", "3-/2A"); where the first part is one of a list ("well-", "self-") or the last is ("-like",
    "-positive"). Soft hyphens always go. Chinese joins without a blank, and so do a slash and a dash between numbers
    or panel letters.
    """
    stripped = [" ".join(line.split()) for line in lines if line.strip()]
    words = Counter(
        re.findall(r"[a-z\u00e0-\u024f0-9]+(?:-[a-z\u00e0-\u024f0-9]+)*", " ".join(stripped).casefold())
    )
    text = ""
    for line in stripped:
        text = _join(text, line, words)
    return text


def _join(text: str, line: str, words: Counter[str]) -> str:
    if not text:
        return line
    if text[-1] in "\u00ad\ufffe\u0002":
        return text[:-1] + line
    tail = text[-40:]  # a book is joined page by page: nothing may search all of it each time
    broken, start = _BROKEN.search(tail), _WORD_START.match(line)
    if broken and start and not broken[1][-1].isdigit():
        return (text if _keeps_hyphen(broken[1], start[0], words) else text[:-1]) + line
    if (
        broken
        or re.search(r"[0-9A-Za-z][–—/]$", tail)
        or re.match(rf"[{_HAN}]", line)
        or re.search(rf"[{_HAN}]$", tail)
    ):
        return text + line
    if re.search(r"(?:Fig|图)\s?\.?\s?[0-9]{1,3}\.$", tail) and re.match(r"[0-9]{1,3}[A-Za-z]?\b", line):
        return text + line
    return f"{text} {line}"


_NEVER_END = _words(
    "fig figs figure tab eq eqs ref refs no nos nr sec sect ch chap vol pp ed eds pl dr mr mrs ms prof st vs viz cf ca"
    " approx resp e.g i.e eg ie incl esp ave dept var subsp cv bp op"
)
"""Abbreviations after which a full stop ends no sentence. Our own list, and so are the next two."""
_SELDOM_END = _words(
    "al etc inc ltd co jr sr sp spp min max temp a.m p.m u.s u.k s.d s.e.m s.e m.d ph.d suppl"
)
_STARTERS = _words(
    "the this these those that there then thus therefore in on at as for from by with we our it its they their he she"
    " when while where whereas although however moreover furthermore if to of some most many several all both each no"
    " an after before during here such since because"
)
_TERMINATOR = re.compile(
    r"""
    (?P<han>[。！？]+[”’」』）)\]]*|(?<=[\u3400-\u9fff）)])[.!?](?=\s|[\u3400-\u9fff]|$))
    |(?P<latin>[.!?]+["'”’)\]]*(?:\s?\[[0-9,–\- ]+\]|(?<=[A-Za-z)\]][.])[0-9]{1,3}(?:[,–-][0-9]{1,3})*)?)
      (?=\s|$|\([A-Za-z]|(?<=[A-Za-z0-9)\]]\.)[A-Z](?:[a-z&]|\s[a-z])|(?<=[a-z)]\.)[\u3400-\u9fff])
    """,
    re.VERBOSE,
)
_NAMED_LETTER = re.compile(
    r"(?:(?:hepatitis|vitamin|type|group|stage|grade|panels?|and|influenza|factor|protein|[0-9])\s+"
    r"|[0-9][A-Za-z]?(?:,\s?[A-Za-z])*,\s?)\S$"
)
_SOMETHING = re.compile(r"\S")
_NEW = re.compile(r"""\s*["'“‘(\[]*(?P<word>[^\s,.;:()\[\]]+)""")


def _ends_sentence(text: str, start: int, stop: int, match: re.Match[str]) -> bool:
    """Whether a full stop ends the sentence that begins at `start`, in a paragraph that ends at `stop`."""
    if match["han"] or _SOMETHING.search(text, match.end(), stop) is None:
        return True
    following = _NEW.match(text, match.end(), stop)
    word = following["word"] if following else ""
    bracketed = re.match(r"\s*[(\[]", text[match.end() : match.end() + 4]) is not None
    # "p53", "mRNA" and "α-SMA" open sentences too; other small letters do not.
    if not word or (
        not bracketed and word[0].islower() and not re.search(r"[A-Z0-9]", word) and word[0].isascii()
    ):
        return False
    if match["latin"][0] in "!?":
        return True
    before = text[max(start, match.start() - 80) : match.start()]
    last = re.search(r"[^\s(\[]+$", before)
    token = last[0].casefold() if last else ""
    if token[-1:].isdigit() and re.match(r"\s[0-9]", text[match.end() : match.end() + 2]):
        return False  # a decimal that a reader pulled apart
    starter = word.casefold() in _STARTERS
    if token in _NEVER_END:
        return token in ("no", "fig", "figure") and starter
    if token in _SELDOM_END:
        return starter or "[" in match["latin"]
    if re.fullmatch(r"[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]", token):
        named = _NAMED_LETTER.search(before)
        return starter or bracketed or named is not None
    # "2." alone numbers what follows.
    return re.fullmatch(r"\s*[(\[]?[0-9]{1,2}", before) is None


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Half-open spans of the sentences, without the blanks between them. An empty line always ends one."""
    folded = fold(text)
    spans: list[tuple[int, int]] = []
    for paragraph in re.finditer(r"(?:[^\n]|\n(?!\s*\n))+", text):
        start, stop = paragraph.span()
        for match in _TERMINATOR.finditer(folded, start, stop):
            if match.start() >= start and _ends_sentence(folded, start, stop, match):
                spans.append((start, match.end()))
                start = match.end()
        spans.append((start, stop))
    trimmed = ((a + len(text[a:b]) - len(text[a:b].lstrip()), a + len(text[a:b].rstrip())) for a, b in spans)
    return [(a, b) for a, b in trimmed if a < b]


def sentences(text: str) -> list[str]:
    """The sentences of English or Chinese scientific prose, in order."""
    return [text[start:end] for start, end in sentence_spans(text)]


_FOREIGN_AFTER = re.compile(
    r"[^.;()]{0,4}\s*(?:,|\()?\s*(?:of|in|from|by)\s+(?:the\s+)?(?:refs?\b|reference\b|\[[0-9]|[A-Z][\w'-]+(?:\s+(?:and|&)\s+[A-Z][\w'-]+)?"
    r"(?:\s+et\s+al|\s+and\s+colleagues|'s\b|\s*[\[(](?:[0-9]{4}|[0-9]{1,3}\])))"
)
_OTHER_WORK = re.compile(
    r"[^.;()]{0,4}\s*(?:of|in|from)\s+(?:the|their|that|his|her|an?)\s+(?:[\w-]+\s+){0,3}(?:atlas|paper|article|monograph|edition"
    r"|report|study|supplement|companion|website)\b"
)
_FOREIGN_BEFORE = re.compile(
    r"(?:\b[Rr]efs?\.?\s*[\[(]?[0-9]{1,3}[\])]?|\bet\s+al\.?,?\s*[\[(]?[0-9]{0,4}[\])]?|\[[0-9]{1,3}\]?|\btheir|\bhis|\bher"
    r"|(?:图谱|文献|专著|一书)(?:\[[0-9]+\])?[的中]?)\s*,?\s*(?:see\s+)?$"
)


def _is_foreign(sentence: str, label: Label) -> bool:
    before, after = sentence[max(0, label.start - 40) : label.start], sentence[label.end : label.end + 80]
    # "(... as reported [12]; Fig. 3)" is ours: a citation counts only right before the label.
    if _OTHER_WORK.match(after):
        return True
    return _FOREIGN_AFTER.match(after) is not None or _FOREIGN_BEFORE.search(before) is not None


def named_figures(sentence: str, *, composite: bool | None = None) -> tuple[Named, ...]:
    """The figures of this book that a sentence names, in order, each once with all panels named.

    A figure that is named whole in one place and by panels in another counts with its panels. `composite`: see
    `numbers.labels`.
    """
    merged: dict[str, list[str]] = {}
    for label in labels(sentence, composite=composite):
        if label.kind != "figure" or _is_foreign(fold(sentence), label):
            continue
        for named in label.named:
            panels = merged.setdefault(named.number, [])
            panels += [panel for panel in named.panels if panel not in panels]
    return tuple(Named(number, tuple(panels)) for number, panels in merged.items())


def numbers_by_chapter(texts: Iterable[str]) -> bool | None:
    """Whether a book numbers its figures by chapter ("3-2"): what most labels of one figure do; None without labels."""
    votes = Counter(
        "-" in label.named[0].number
        for text in texts
        for label in labels(text, composite=False)
        if label.kind == "figure" and len(label.named) == 1 and label.named[0].number[0].isdigit()
    )
    return votes[True] > votes[False] if votes else None


_ENDED = re.compile(r"[.!?。！？:：][\"'”’)\]）]*$")
_GOES_ON = re.compile(r"[a-z0-9(\[\u3400-\u9fff]|Fig")
_ITEM = re.compile(r"[\u2022\u2023\u25aa\u25cf\u25a0\u25e6\u2013\u2014*-]\s|\d{1,2}[.)]\s")


def _body(page: str) -> str:
    """The text of a page, lines joined; a paragraph that a figure or a column cut in two is mended, no list's item."""
    paragraphs: list[str] = []
    for part in re.split(r"\n\s*\n", page.strip()):
        text = join_lines(part.split("\n"))
        last = paragraphs[-1] if paragraphs else "."
        goes_on = not _ENDED.search(last[-4:]) and not _ITEM.match(last) and not _ITEM.match(text)
        if goes_on and _GOES_ON.match(text):
            paragraphs[-1] = _join(paragraphs[-1], text, Counter())
        elif text:
            paragraphs.append(text)
    return "\n\n".join(paragraphs)


def find_references(pages: Mapping[int, str]) -> tuple[Reference, ...]:
    """All sentences of the body text that name figures, by page number and place; one Reference a figure.

    `pages` holds the running text of each page, paragraphs parted by empty lines, without captions and headings. A
    sentence that runs on over a page break belongs to the page where it begins. It runs on over a page without text,
    but not over one that is missing.
    """
    composite = numbers_by_chapter(pages.values())
    text, before = "", 0
    starts: list[int] = []
    numbers: list[int] = []
    for number in sorted(pages):
        body = _body(pages[number])
        runs_on = text and before == number - 1 and not _ENDED.search(text[-4:])
        before = number
        if body:
            text = _join(text, body, Counter()) if runs_on else f"{text}\n\n{body}"
            starts.append(len(text) - len(body))
            numbers.append(number)
    found: list[Reference] = []
    for start, end in sentence_spans(text):
        page = numbers[bisect_right(starts, start) - 1]
        sentence = text[start:end]
        found += [
            Reference(page=page, sentence=sentence, number=one.number, panels=one.panels)
            for one in named_figures(sentence, composite=composite)
        ]
    return tuple(found)


def refer(figure: Figure, references: Iterable[Reference], window: int = 1) -> tuple[Reference, ...]:
    """The references to a figure from its page, its caption's page and `window` pages to either side, each once.

    A set union: a figure of the first or last page has neighbours too. Their order is that of `references`.
    """
    homes = {figure.page, figure.caption_page or figure.page}
    near = {home + shift for home in homes for shift in range(-window, window + 1)}
    fitting = (one for one in references if one.number == figure.number != "" and one.page in near)
    return tuple(dict.fromkeys(fitting))


def refer_panel(references: Iterable[Reference], label: str) -> tuple[Reference, ...]:
    """Those that speak of a panel: they name it, or they name no panel."""
    return tuple(one for one in references if label in one.panels or not one.panels)
