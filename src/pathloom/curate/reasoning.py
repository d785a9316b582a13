"""Step `reasoning_filter`: rules for what a Generator wrote, each of them a small function of one Sample.

Patho-R1 (arXiv 2505.11404, section 3.3) names the purpose, mixed languages, endless repetition and hallucination, but
no rule; those here are ours. Rules see words, not meaning: what passes them is not thereby right.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from pathloom.curate.entities import Support, is_weighed, unsupported
from pathloom.curate.prompts import WRITTEN, levels
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.schema import Drop, Sample
from pathloom.tasks.parsing import normalise

MAX_DETAIL_CHARS = 200
"""Of the piece that a Drop quotes."""


class ReasoningFilterStep(StepConfig):
    """Entry of `steps`: `{step: reasoning_filter}`. A Sample that no Generator wrote, and without reasoning, is kept as
    it is."""

    version: ClassVar[int] = 1

    step: Literal["reasoning_filter"]
    max_foreign_ratio: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of letters of another script than Latin or single Greek letters (ours; at 1 % a few "
        "Han words in a long reasoning would pass)",
    )
    max_repeated_ngrams: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of 6-grams of words that occurred twice before in the text (ours); a second occurrence "
        "is free, since a conclusion repeats a finding",
    )
    max_repeated_chars: int = Field(
        default=200, ge=1, description="a piece this long may not occur twice (ours)"
    )
    max_loops: int = Field(
        default=3, ge=1, description="how often a piece of eight characters or more may stand in a row (ours)"
    )
    max_sentences_per_step: float = Field(
        default=2.0, gt=0, description="the prompt allows a step to be a sentence or two"
    )
    min_words_per_step: float = Field(default=4.0, ge=0, description="over all steps (ours)")
    max_words_per_step: float = Field(default=70.0, gt=0, description="over all steps (ours)")
    num_options: tuple[int, int] = Field(
        default=(4, 6), description="least and most (Patho-R1: options A to F)"
    )

    def fingerprint(self) -> str:
        """The bounds of the levels, which prompts.yaml sets."""
        return str({name: (bounds.least, bounds.most) for name, bounds in levels().items()})

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        return Prepared(self.change)  # its Drops by reason are counted in the manifest

    def change(self, sample: Sample) -> Sample | Drop:
        """The Sample itself, or a Drop with the first rule that it breaks and the piece that breaks it."""
        if sample.reasoning is None and _task(sample) is None:
            return sample
        written = Written(sample)
        for reason, rule in RULES:
            piece = rule(written, self)
            if piece is not None:
                return self.drop(sample, reason, " ".join(piece.split())[:MAX_DETAIL_CHARS])
        return sample


def _task(sample: Sample) -> str | None:
    """The task of the engine that wrote a Sample, from the note of its event; None for a Sample of another making."""
    notes = [event.note for event in sample.history if event.step == "reason"]
    return notes[-1].rpartition("/")[2] if notes else None


class Written:
    """What of a Sample a Generator wrote. Where it only explained a given answer, that is the reasoning alone."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.task = _task(sample)
        self.whole = self.task in WRITTEN
        self.reasoning = sample.reasoning or ""

    @cached_property
    def answers(self) -> list[str]:
        return [*(turn.answer for turn in self.sample.earlier), self.sample.answer] if self.whole else []

    @cached_property
    def texts(self) -> list[str]:
        """Reasoning first; then question, options and answers."""
        asked = [*(turn.question for turn in self.sample.earlier), self.sample.question] if self.whole else []
        choices = self.sample.choices if self.whole else ()
        return [self.reasoning, *asked, *choices, *self.answers]

    @cached_property
    def support(self) -> Support:
        """What the writer was given: caption and reference, organ and, to explain, question and answer."""
        given = [self.sample.context, self.sample.organ or ""]
        if not self.whole:
            given += [self.sample.question, *self.sample.choices, self.sample.answer]
        return Support("\n".join(given))


Rule = Callable[[Written, ReasoningFilterStep], str | None]
"""The offending piece, or None."""


# --- characters, language, form -------------------------------------------------------------------------------------

# UTF-8 read as Latin-1 or Windows-1252: a lead byte C2, C3 or E2 and what its followers become.
_MOJIBAKE = re.compile(
    r"\u00c2[\u0080-\u00bf]|\u00c3[\u0080-\u00bf\u0192\u201a\u2013-\u203a]|\u00e2(?:\u20ac|[\u0080-\u00bf])|\ufffd"
)


def broken_text(written: Written, step: ReasoningFilterStep) -> str | None:
    for text in written.texts:
        match = _MOJIBAKE.search(text)
        if match:
            return _around(text, match.start())
        for place, char in enumerate(text):
            # Cc control, Cf format (zero width, direction), Co private, Cs half a surrogate, Cn not assigned
            if unicodedata.category(char)[0] == "C" and char not in "\n\t\u00ad":
                return f"U+{ord(char):04X} in {_around(text, place)}"
    return None


def _is_foreign(char: str) -> bool:
    if char.isascii() or not (char.isalpha() or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef"):
        return False
    return not unicodedata.name(char, "").startswith(
        ("LATIN", "GREEK", "MICRO", "MODIFIER", "FEMININE", "MASCULINE")
    )


def mixed_language(written: Written, step: ReasoningFilterStep) -> str | None:
    for text in written.texts:
        foreign = [place for place, char in enumerate(text) if _is_foreign(char)]
        greek_word = re.search(r"[\u0370-\u03ff]{3,}", text)
        if greek_word:
            return greek_word[0]
        if len(foreign) > step.max_foreign_ratio * max(len(text), 1):
            return _around(text, foreign[0])
    return None


_MARKUP = re.compile(
    r"</?[A-Za-z][\w-]*(?:\s[^<>]*)?/?>|\*\*|__\w|```|^\s{0,3}#{1,6}\s|^\s*(?:[-*\u2022]|\d{1,2}[.)])\s|"
    r"\]\(http|https?://"
    r"|[{\[]\s*\"\w+\"\s*[:,\]]|\"\s*:\s*[\"\[{]|\\n|\\boxed|&(?:amp|lt|gt|nbsp|quot);|\|\s*-{3,}|<\|",
    re.MULTILINE,
)


def markup(written: Written, step: ReasoningFilterStep) -> str | None:
    """Tags are written by the Task, so that none may stand in a Sample; markdown and JSON never may."""
    return _first(_MARKUP, written.texts)


# --- length and repetition ------------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(r"[.!?][\"')\]\u201d\u2019]*\s+(?=[\"'(\[\u201c]?[A-Z0-9])")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|cf|vs|approx|ca|Dr|Fig|No|St|[A-Z])\.\s*)$")


def sentences(text: str) -> list[str]:
    """Split at a full stop, exclamation or question mark before a capital; initials and `e.g.` end no sentence."""
    parts, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATED.search(text[: match.end()]):
            parts.append(text[start : match.end()].strip())
            start = match.end()
    return [part for part in (*parts, text[start:].strip()) if part]


def wrong_length(written: Written, step: ReasoningFilterStep) -> str | None:
    """Steps are joined by spaces, so that sentences stand for them: at least as many as the level's fewest steps, at
    most twice its most. A text without any full stop inside is judged by its words alone."""
    level = written.sample.level
    if level is None:
        return None
    bounds, num_words = levels()[level], len(written.reasoning.split())
    found = sentences(written.reasoning)
    most = bounds.most * step.max_sentences_per_step
    told = f"{len(found)} sentences of {num_words} words for {level} ({bounds.least} to {bounds.most} steps)"
    unpunctuated = len(found) == 1 and not _ends(written.reasoning)
    if len(found) > most or (len(found) < bounds.least and not unpunctuated):
        return told
    if not bounds.least * step.min_words_per_step <= num_words <= bounds.most * step.max_words_per_step:
        return told
    return None


def repetition(written: Written, step: ReasoningFilterStep) -> str | None:
    # A loop: a piece of eight characters or more, again and again without anything between.
    loop = re.compile(rf"(\b\w.{{7,150}}?)(?:\W*\1){{{step.max_loops},}}", re.DOTALL)
    for text in (written.reasoning, *written.answers):
        words = [word.casefold() for word in re.findall(r"\w+", text)]
        grams = Counter(zip(*(words[start:] for start in range(6)), strict=False))
        again = sum(max(count - 2, 0) for count in grams.values())
        if grams and again / grams.total() > step.max_repeated_ngrams:
            return " ".join(grams.most_common(1)[0][0])
        piece = _repeated(text, step.max_repeated_chars)
        if piece is not None:
            return piece
        match = loop.search(text) if again else None
        if match:
            return match[0]
    return None


def _repeated(text: str, num_chars: int) -> str | None:
    """A piece of `num_chars` that occurs twice."""
    seen = set()
    for start in range(len(text) - num_chars + 1):
        piece = text[start : start + num_chars]
        if piece in seen:
            return piece
        seen.add(piece)
    return None


_OPEN_END = re.compile(
    r"(?:\.\.\.|\u2026|[,;:(-]|\b(?:the|a|an|of|with|and|or|in|to|by|for|which|that|as|from)\.?)$",
    re.IGNORECASE,
)


def _ends(text: str) -> bool:
    return re.search(r"[.!?][\"')\]\u201d\u2019]*\s*$", text) is not None


def cut_off(written: Written, step: ReasoningFilterStep) -> str | None:
    """Prose ends with a full stop, where it has any: some writers close no step with one. A short answer need not."""
    prose = [
        written.reasoning,
        *(a for a in written.answers if written.sample.task in ("report", "dialogue")),
    ]
    for text in prose:
        open_end = _OPEN_END.search(text.strip())
        stops = _SENTENCE_END.search(text) is not None
        if text and (open_end or (stops and not _ends(text))):
            return text[-80:]
    return None


# --- what is talked about -------------------------------------------------------------------------------------------

_TELLING = (
    r"(?:stat|mention|not|describ|indicat|report|explain|sa[iy]|suggest|tell|specif|provid|giv|support|"
    r"confirm|leav|nam|list|refer|"
    r"point|highlight|record|emphasi[sz]|clarif|add|document|call|speak|do)\w*"
)
_SOURCE = (
    r"(?:caption|legend|text|passage|excerpt|description|reference|source|authors?|article|paper|chapter|textbook|"
    r"write-?up|annotation)"
)
_REVEALED = re.compile(
    rf"(?i:\bcaption|\bfigure legend|\bthe legend\b|\bpassage\b(?! of)|\bexcerpt\b|"
    rf"\bthe (?:\w+[ -]){{0,2}}{_SOURCE}s? (?:itself |also |does not )?{_TELLING}\b|"
    rf"\b(?:in|from|by|on|per|to|with) the (?:\w+[ -]){{0,3}}(?:caption|legend|text|passage|excerpt|reference|"
    rf"source|article|textbook)\b(?! range| value)|"
    r"\b(?:image|figure|given|provided|accompanying|in-?line|written|available|supplied|associated) "
    r"(?:(?!(?:the|a|an|this|these|his|her|their|its|your) )\w+ )?"
    r"(?:text|description|reference|information|context|caption|details?|statement|history)s?\b|"
    r"\b(?:information|context|details|text|description) (?:provided|given|supplied|above)\b|"
    rf"\bit (?:is|was|has been) (?:also |further |explicitly )?(?:stated|mentioned|noted|described|reported|"
    rf"said|indicated|specified) (?:that|in|as)\b|"
    r"\bas (?:\w+ )?(?:stated|mentioned|noted|described|reported|indicated|specified|labell?ed|marked|"
    r"shown) (?:in the|above|below|here)\b"
    r"(?! (?:disease|patients?|cases?|images?|sections?|field|x-ray|gross|specimen|inset))|"
    r"\bwe (?:are|were) (?:told|informed)|\b(?:I|we) (?:was|were|am|are) given\b|"
    r"\b(?:fig(?:ure)?s?\.?|tables?|plates?) ?(?:\d|[A-H]\b)|\b(?:this|the|in) figure\b|"
    r"\bpanels? \(?[A-H1-9]\b|\binset\b|"
    r"\b(?:left|right|upper|lower|top|bottom|other|first|second|third|this|each) panel\b|"
    r"\barrow(?:s|ed|heads?)?\b|\basterisks?\b)|\b(?:labell?ed|marked|designated|denoted|annotated) (?:as |"
    r"with |by )?(?:an? )?[\"'(\[]?(?:[A-Z]|\d|star|letter|X)\b|"
    r"(?<![A-Za-z0-9])\([A-Z](?:[,-] ?[A-Z])*\)|\[[A-Za-z]\]|\((?:top|bottom|left|right|inset)\)",
)


def reveals_source(written: Written, step: ReasoningFilterStep) -> str | None:
    """Talk of a caption, a text or a figure, or a mark that only the figure of the book has: the reader sees none."""
    return _first(_REVEALED, written.texts)


_META = re.compile(
    r"\bas an? (?:AI|artificial|(?:large )?language model|text[- ]based|assistant)|\blanguage model\b|"
    r"\bI(?:'m| am) (?:sorry|unable|not able|an AI|just)|"
    r"\bI (?:can ?not|can't|could not|do not|don't|won't|will|need|must|should|was|have to|hope|apologi[sz]e|"
    r"think|would|assume|want|recall|remember)\b|"
    r"\b(?:unable|not able|impossible|cannot|can't) (?:to )?(?:view|see|access|open|analy[sz]e|"
    r"inspect) (?:the |any |this )?(?:images?|pictures?|files?)|"
    r"\bno (?:image|picture|caption|text|information) (?:was|is|has been|were) (?:provided|given|available|"
    r"attached|supplied)|"
    r"^(?:sure|certainly|of course|okay|ok|alright|absolutely)[,!. ]|\b(?:wait|hmm+|okay|oh|alright),? (?:so|"
    r"I|let|but|no|actually|maybe|the)|"
    r"\blet(?:'s| me| us) (?:think|write|start|try|check|see|re-?read|craft|make|draft|begin|break|provide|"
    r"go)|\bhere(?:'s| is| are) (?:the|a|my|your) "
    r"(?:reasoning|answer|question|json|steps?|response|output|description|report)|\bthe (?:user|prompt|"
    r"instructions?|task|schema|json|requester|system)\b|"
    r"\b(?:follow|per) (?:the |these |your )?instructions?|\bhopes? this helps|\byou (?:asked|requested|"
    r"provided|wanted)|\bJSON\b|"
    r"\b(?:consult|seek|see|ask) (?:a |an |your |with a )?(?:doctor|physician|healthcare|medical (?:advice|"
    r"professional)|qualified)|\bmedical advice\b|"
    r"\b(?:I|we) (?:need|have|am asked|are asked) to (?:write|produce|come up|generate|create|output)",
    re.IGNORECASE | re.MULTILINE,
)


def meta_talk(written: Written, step: ReasoningFilterStep) -> str | None:
    """A refusal, a word to the user, or thinking aloud about the task."""
    return _first(_META, [text.replace("\u2019", "'") for text in written.texts])


# --- choices --------------------------------------------------------------------------------------------------------


def _bare(option: str) -> str:
    """An option without case, punctuation and spaces."""
    return re.sub(r"[\W_]+", "", normalise(option))


def _spaced(text: str) -> str:
    """The words alone, with a space at both ends."""
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])


def wrong_choices(written: Written, step: ReasoningFilterStep) -> str | None:
    """Options of a written choice question: too few or many, two alike, the answer not among them."""
    sample = written.sample
    if not written.whole or sample.task != "choice":
        return None
    least, most = step.num_options
    if not least <= len(sample.choices) <= most:
        return f"{len(sample.choices)} options, {least} to {most} are asked for"
    bare = Counter(_bare(option) for option in sample.choices)
    alike = [option for option in sample.choices if bare[_bare(option)] > 1]
    if alike:
        return " = ".join(alike)
    return None if sample.answer in sample.choices else f"{sample.answer!r} is no option"


def answer_in_question(written: Written, step: ReasoningFilterStep) -> str | None:
    """The right option stands in the question and no other one does."""
    sample = written.sample
    if not written.whole or sample.task != "choice":
        return None
    asked = _spaced(sample.question)
    said = [option for option in sample.choices if _spaced(option) in asked]
    return sample.answer if said == [sample.answer] else None


# --- findings that nothing supports ---------------------------------------------------------------------------------

_ASKS_NEXT = re.compile(
    r"\bnext\b|confirm|further|additional|\b(?:which|what) (?:\w+ ){0,2}(?:stain|test|marker|antibod|study|"
    r"investigation)|should be done|work-?up",
    re.IGNORECASE,
)
_ASKS_OTHER = re.compile(
    r"differential|alternative|exclud|distinguish|ruled? out|mimic|confus", re.IGNORECASE
)


def unsupported_finding(written: Written, step: ReasoningFilterStep) -> str | None:
    """An entity that is claimed and of which caption and reference say nothing.

    Claimed is what an answer says, and what a sentence of the reasoning says without weighing it: sentences with
    `would`, `alternative`, `unlike` and the like are passed over, since longer reasoning has to name what it is not.
    Wrong options may hold anything. An answer about a next step may name a test, one about alternatives a diagnosis.
    """
    for sentence in sentences(written.reasoning):
        if not is_weighed(sentence):
            found = unsupported(sentence, written.support)
            if found:
                return f"{found.words!r} in: {sentence}"
    for question, answer in _turns(written):
        allowed = [*(("marker", "stain") if _ASKS_NEXT.search(question) else ())]
        allowed += ["diagnosis"] if _ASKS_OTHER.search(question) else []
        for sentence in sentences(answer):
            found = unsupported(sentence, written.support, allowed)
            if found:
                return f"{found.words!r} in the answer: {sentence}"
    return None


def _turns(written: Written) -> Iterator[tuple[str, str]]:
    if written.whole:
        yield from ((turn.question, turn.answer) for turn in written.sample.earlier)
        yield written.sample.question, written.sample.answer


# --- the table ------------------------------------------------------------------------------------------------------

RULES: tuple[tuple[str, Rule], ...] = (
    ("broken_text", broken_text),
    ("markup", markup),
    ("mixed_language", mixed_language),
    ("meta_talk", meta_talk),
    ("repetition", repetition),
    ("wrong_length", wrong_length),
    ("cut_off", cut_off),
    ("reveals_source", reveals_source),
    ("wrong_choices", wrong_choices),
    ("answer_in_question", answer_in_question),
    ("unsupported_finding", unsupported_finding),
)
"""(reason, rule), in the order in which they are tried: the first that is broken is the reason of the Drop."""


def _first(pattern: re.Pattern[str], texts: Sequence[str]) -> str | None:
    for text in texts:
        match = pattern.search(text)
        if match:
            return _around(text, match.start())
    return None


def _around(text: str, place: int) -> str:
    """A hundred characters that hold the place."""
    return text[max(place - 30, 0) : place + 70]
