"""Free words to values: how the text of an annotator or a source is read by a lexicon. Knows no schema and no file."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

# The lists below are our own. They hold in every schema, so they stand here and not in its file.

_TURNING_EN = """
    no not non none nor neither never without lack lacks lacking absent absence cannot can't isn't aren't free negative
    except unlikely possible possibly probable probably perhaps maybe may might could or either versus vs likely
    suspicious suspected questionable equivocal borderline difficult hard instead rather
    slight slightly mild mildly moderate moderately marked markedly severe severely strong strongly significant
    significantly considerable considerably extreme extremely very highly greatly minimal minimally minor somewhat
    partly partial partially focal focally almost near nearly relatively quite fairly less more least most at up too
    only than
"""
_TURNING_ZH = (
    "不 未 无 没 非 否 缺 欠 难 疑 或 似 轻 中 重 略 稍 较 微 极 偏 很 近 比 可能 显著 明显 部分 局灶"
)
_TURNING = re.compile(
    rf"(?<![a-z0-9])(?:{'|'.join(_TURNING_EN.split())})(?![a-z0-9])|{'|'.join(_TURNING_ZH.split())}|\?"
)
"""A no, a doubt, a degree, a comparison: they turn what they stand beside, unless words of the lexicon hold them."""

PRESENT, ABSENT = "present", "absent"
SAID: Mapping[str, Mapping[Language, str]] = {
    PRESENT: {"en": "present", "zh": "有"},
    ABSENT: {"en": "absent", "zh": "无"},
}
_OTHERS, _NOTHING = "others", ""
_SEEN = ("present", "seen", "visible", "observed", "identified", "detected", "found")
BESIDE_SIGNS: Mapping[str, Collection[str]] = {
    PRESENT: (*_SEEN, "yes", "true", "有", "可见", "存在", "阳性", "是", "见", "见到"),
    ABSENT: (
        *(f"not {word}" for word in _SEEN),
        *("absent", "no", "none", "without", "negative", "false", "no evidence of", "free of"),
        *("无", "未见", "没有", "不存在", "阴性", "否", "未见到", "未发现", "未观察到", "不可见"),
    ),
    _OTHERS: (
        *("others", "the others", "all others", "other signs", "the rest"),
        *("其余", "其他", "其它", "余"),
    ),
    _NOTHING: (
        *("is", "are", "was", "were", "the", "a", "an", "of", "and", "or", "both", "all", "there"),
        *("cell", "nucleus", "with", "also"),
        *("slight", "mild", "moderate", "marked", "severe", "obvious", "clear", "definite"),
        *("均", "都", "和", "及", "与", "或", "该", "细胞", "为", "也"),
        *("轻度", "中度", "重度", "明显", "显著"),
    ),
}
"""What may stand beside the name of a sign: that it is there, that it is not, "the others", words without weight."""
_PIECES = re.compile(r"[;；,，、。+\n]|\.(?=\s|$)|但|(?<![a-z])but(?![a-z])", re.IGNORECASE)  # noqa: RUF001

_HAN = "[\u3400-\u9fff]"
_MARKS = " .。,，、;；:：!！\"'“”‘’`*()（）[]{}"  # noqa: RUF001
CANNOT_TELL = ""
"""Stands for "cannot tell" among values while words are read."""

Lexicon = tuple[tuple[re.Pattern[str], frozenset[str]], ...]
"""Words and what they leave open: the values that they are compatible with."""


def plain(words: str) -> str:
    """Words as they are compared: letter case, width of signs, hyphens, spaces and marks around them do not matter."""
    text = unicodedata.normalize("NFKC", words).casefold().replace("’", "'")  # noqa: RUF001
    text = re.sub(r"(?<=\w)[-\u2010-\u2014](?=\w)|_", " ", text)
    text = " ".join(re.sub(r"(?<=\d)(?=[a-z])", " ", text).split())
    return re.sub(rf"(?<={_HAN}) | (?={_HAN})", "", text).lstrip("-•").strip(_MARKS)


def as_lexicon(meanings: Mapping[str, frozenset[str]]) -> Lexicon:
    """Patterns that find the words in running text: English ones as whole words, Chinese ones anywhere."""

    def pattern(words: str) -> re.Pattern[str]:
        start = r"(?<![a-z0-9])" if re.match(r"[a-z0-9]", words) else ""
        end = r"(?![a-z0-9])" if re.search(r"[a-z0-9]$", words) else ""
        return re.compile(start + re.escape(words) + end)

    return tuple((pattern(words), meaning) for words, meaning in meanings.items())


def _find(text: str, lexicon: Lexicon) -> tuple[list[tuple[int, int, frozenset[str]]], str]:
    """(start, end, meaning) of the longest words of the lexicon in the text, in order, and what they do not cover."""
    spans = [(*match.span(), meaning) for pattern, meaning in lexicon for match in pattern.finditer(text)]
    longest = sorted(
        (start, end, meaning)
        for start, end, meaning in spans
        if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
    )
    rest = list(text)
    for start, end, _ in longest:
        rest[start:end] = "\n" * (end - start)
    return longest, "".join(rest)


def read_running(text: str, lexicon: Lexicon, values: Iterable[str]) -> str | None:
    """What all words of a plain text together leave open, if that is one value or CANNOT_TELL; else None.

    A word of one sign ("1", "高") may stand in too many places to decide anything, but it may not disagree.
    """
    spans, rest = _find(text, lexicon)
    if _TURNING.search(rest):
        return None
    every = frozenset((*values, CANNOT_TELL))
    left = every.intersection(*(meaning for start, end, meaning in spans if end - start > 1))
    agreed = left.intersection(*(meaning for _, _, meaning in spans))
    return next(iter(left)) if left == agreed and len(left) == 1 else None


def sign_lexicon(signs: Mapping[str, Collection[str]], titles: Iterable[str]) -> Lexicon:
    """Sign -> its words, with the words that may stand beside a sign; `titles` say nothing."""
    return as_lexicon(
        {
            **dict.fromkeys(map(plain, titles), frozenset({_NOTHING})),
            **{plain(words): frozenset({state}) for state, many in BESIDE_SIGNS.items() for words in many},
            **{plain(words): frozenset({sign}) for sign, many in signs.items() for words in many},
        }
    )


def read_signs(words: str, lexicon: Lexicon) -> frozenset[str] | None:
    """The signs that are there, by the pieces of the text; None where a piece is not understood or two disagree.

    A sign that is only named is there if all are only named: in "atypia, koilocytes absent" it is not clear.
    """
    pieces = [piece for piece in map(plain, _PIECES.split(words)) if piece]
    bare: set[str] = set()
    stated: dict[str, str] = {}
    denied = False
    for piece in pieces:
        readings = _read_piece(piece, lexicon)
        if readings is None:
            return None
        for signs, state in readings:
            if state == _NOTHING:
                bare.update(signs)
            elif any(stated.setdefault(sign, state) != state for sign in signs):
                return None
            denied |= state == ABSENT and not signs
    if (bare and stated) or (denied and len(pieces) > 1) or not (bare or stated or denied):
        return None
    return frozenset(bare | {sign for sign, state in stated.items() if state == PRESENT})


def _read_piece(piece: str, lexicon: Lexicon) -> list[tuple[list[str], str]] | None:
    """(signs, whether they are there) of one piece; None where something in it is not understood.

    One state goes for several signs if it stands behind them ("atypia and koilocyte: absent"), or before them where
    that leaves no doubt: not in "no atypia and koilocytes".
    """
    spans, rest = _find(piece, lexicon)
    if re.fullmatch(r"[\s:()]*", rest) is None:
        return None
    items = [item for _, _, (item,) in spans if item != _NOTHING]
    signs = [item for item in items if item not in BESIDE_SIGNS]
    states = [item for item in items if item in (PRESENT, ABSENT)]
    if len(set(states)) > 1:
        parts = [part for part in re.split(r"\band\b|和|及|与", piece) if part]
        readings = [_read_piece(plain(part), lexicon) for part in parts] if len(parts) > 1 else [None]
        return None if None in readings else [one for some in readings for one in some or ()]
    if _OTHERS in items:
        return [] if not signs and states == [ABSENT] else None
    if ABSENT not in states and re.search(r"\bor\b|或", piece):
        return None
    if not states:
        return [(signs, _NOTHING)]
    if len(signs) > 1 and len(states) != len(signs):
        before = items[0] == states[0] and re.search(r"\band\b", piece) is None
        if len(states) > 1 or not (before or items[-1] == states[0]):
            return None
    return [(signs, states[0])] if signs or states[0] == ABSENT else None
