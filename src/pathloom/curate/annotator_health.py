"""Whether annotators can be trusted to be several: who is silent, always says the same, or says what another says.

Nothing is dropped for it. A vote of three in which two are one model looks like any other vote, so it must be said.
All thresholds are our own choice; a user reads the shares beside them.
"""

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pathloom.attributes import AttributeSchema, Language, UnknownWords
from pathloom.curate.annotation_reply import AnnotatorReply

ENOUGH = 10
"""Answers from which anything is concluded."""
NEARLY_ALL = 0.9
"""Share of an annotator's answers that are one and the same, or of its attributes that it cannot tell."""
IDENTICAL = 0.8
"""Share of pictures on which two annotators used the same words, with the caption or for all attributes."""
SURE = 0.985
"""Two annotators that are right about each attribute with this probability, independently, use the same words for all n
attributes on a share of SURE^(2n), 76 % for nine: with few attributes that is the higher bound."""
MANY = 0.1
"""Share of answers that are missing or in another language, or of words that the lexicon does not know."""
_EXAMPLES = (
    1000  # different words that are counted one by one; bounds the memory for an annotator that writes prose
)


def is_han(letter: str) -> bool:
    """A Chinese character: CJK Unified Ideographs, their extension A and the compatibility ideographs of Unicode."""
    return "\u3400" <= letter <= "\u9fff" or "\uf900" <= letter <= "\ufaff"


def is_in(language: Language, text: str) -> bool:
    """Whether at least half of a text's letters are Chinese (zh), or Latin (en: up to U+024F). True without letters.

    A German answer passes for English: the rule is there to tell the two languages that are asked in.
    """
    letters = [letter for letter in text if letter.isalpha()]
    right = sum(is_han(letter) if language == "zh" else letter <= "\u024f" for letter in letters)
    return 2 * right >= len(letters)


@dataclass
class Tally:
    """What is remembered of one annotator's answers: numbers, about 100 bytes for each different answer."""

    answered: int = 0
    abstained: int = 0
    unknown: int = 0
    foreign: int = 0
    told: int = 0
    extra: Counter[str] = field(default_factory=Counter)
    unknown_words: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)

    @property
    def most_common(self) -> int:
        return max(self.answers.values(), default=0)


@dataclass
class Checkup:
    """Sees every Sample's replies once; afterwards it knows what is wrong with the annotators.

    models  annotator -> the model behind it, in the order of the recipe
    """

    schema: AttributeSchema
    language: Language
    models: Mapping[str, str]

    def __post_init__(self) -> None:
        self.tallies = {name: Tally() for name in self.models}
        self.both: Counter[tuple[str, str]] = Counter()
        self.alike: Counter[tuple[str, str]] = Counter()
        self.same: Counter[tuple[str, str]] = Counter()

    def saw(self, replies: Mapping[str, AnnotatorReply]) -> None:
        """The replies about one Sample by annotator, without those that there are not; order as in `models`."""
        said = {name: _digest(reply, with_caption=False) for name, reply in replies.items()}
        whole = {name: _digest(reply, with_caption=True) for name, reply in replies.items()}
        for name, reply in replies.items():
            self._count(self.tallies[name], reply, whole[name])
        for pair in itertools.combinations(replies, 2):
            self.both[pair] += 1
            self.alike[pair] += said[pair[0]] == said[pair[1]]
            self.same[pair] += whole[pair[0]] == whole[pair[1]]

    def _count(self, tally: Tally, reply: AnnotatorReply, digest: int) -> None:
        tally.answered += 1
        tally.answers[digest] += 1
        for key in reply.extra_keys:
            _note(tally.extra, key)
        words = " ".join([*(each.text for each in reply.said), reply.caption])
        tally.foreign += not is_in(self.language, words)
        tally.abstained += len(self.schema.attributes) - len(reply.said)
        for each in reply.said:
            try:
                value = self.schema.read(each.name, each.text)
            except UnknownWords:
                tally.unknown += 1
                _note(tally.unknown_words, f"{each.name}: {each.text}"[:100])
                value = each.text
            tally.abstained += value is None
            tally.told += value is not None

    def of(self, name: str) -> dict[str, Any]:
        """Shares of one annotator's answers, a row of the report; none without answers."""
        tally = self.tallies[name]
        if not tally.answered:
            return {}
        asked = tally.answered * len(self.schema.attributes)
        return {
            "cannot_tell": round(tally.abstained / asked, 4),
            "unknown_words": round(tally.unknown / max(tally.told, 1), 4),
            "other_language": round(tally.foreign / tally.answered, 4),
            "different_answers": len(tally.answers),
            "extra_keys": dict(tally.extra.most_common(5)),
        }

    def pairs(self) -> list[dict[str, Any]]:
        """How often two annotators used the same words; "same" includes the caption."""
        return [
            {
                "annotators": f"{first}, {second}",
                "both_answered": count,
                "same_attributes": round(self.alike[first, second] / count, 4),
                "same": round(self.same[first, second] / count, 4),
            }
            for (first, second), count in sorted(self.both.items())
        ]

    def warnings(self) -> list[str]:
        """What somebody should look at before these votes are counted, a sentence each."""
        return [
            *itertools.chain.from_iterable(self._about(name) for name in self.models),
            *self._about_pairs(),
        ]

    def _about(self, name: str) -> Iterator[str]:
        tally = self.tallies[name]
        answered = tally.answered
        if answered < ENOUGH:
            return
        asked = answered * len(self.schema.attributes)
        if tally.abstained >= NEARLY_ALL * asked:
            yield f"annotator {name} is silent: it cannot tell {tally.abstained} of {asked} attributes"
        if tally.most_common >= NEARLY_ALL * answered:
            yield f"annotator {name} gave the same answer for {tally.most_common} of {answered} pictures"
        if tally.foreign >= MANY * answered:
            yield (
                f"annotator {name} answered {tally.foreign} of {answered} pictures in another language than "
                f"{self.language}"
            )
        if tally.told and tally.unknown >= MANY * tally.told:
            ((example, times),) = tally.unknown_words.most_common(1)
            yield (
                f"annotator {name}: {tally.unknown} of {tally.told} values are in no list of {self.schema.name} "
                f"(most often {example!r}, {times} times); they count as abstentions until the schema has them"
            )

    def _about_pairs(self) -> Iterator[str]:
        alike_by_chance = max(IDENTICAL, SURE ** (2 * len(self.schema.attributes)))
        for first, second in itertools.combinations(self.models, 2):
            pair = (first, second)
            both, same, alike = self.both[pair], self.same[pair], self.alike[pair]
            if self.models[first] == self.models[second]:
                yield (
                    f"annotators {first} and {second} are one model, {self.models[first]}: their votes are not "
                    "independent"
                )
            elif both >= ENOUGH and same >= IDENTICAL * both:
                yield (
                    f"annotators {first} and {second} gave the same answer, word for word, for {same} of {both} "
                    "pictures: they may be one model"
                )
            elif both >= ENOUGH and alike > alike_by_chance * both:
                yield (
                    f"annotators {first} and {second} used the same words for all attributes of {alike} of {both} "
                    "pictures: they may be one model, or hardly ever wrong"
                )


def _note(examples: Counter[str], words: str) -> None:
    if words in examples or len(examples) < _EXAMPLES:
        examples[words] += 1


def _digest(reply: AnnotatorReply, *, with_caption: bool) -> int:
    """Of an answer's words; case and spaces do not matter."""
    words = [f"{each.name}={each.text}" for each in reply.said] + ([reply.caption] if with_caption else [])
    plain = "\n".join(" ".join(text.casefold().split()) for text in words)
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest())
