"""The records of an attribute schema: its attributes, what they are called, how words are read and values said."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pathloom.attributes.reading import (
    ABSENT,
    CANNOT_TELL,
    PRESENT,
    SAID,
    Language,
    Lexicon,
    as_lexicon,
    plain,
    read_running,
    read_signs,
    sign_lexicon,
)
from pathloom.stage import UserError

NO_FLAG = "none"
FLAG_JOIN = " + "


class UnknownWords(ValueError):
    """Words that mean no value of an attribute, or of which it is not clear which one they mean."""


@dataclass(frozen=True)
class AttributeKind:
    """One attribute: its values in order and, for each language, its title, its question and the words of each value.

    words     value -> language -> its words, the ones that are written first
    vague     words -> the values they leave open: several; all where they say nothing; none where none of them fits
    ordered   values rise from the first to the last
    flags     for an attribute whose values are sets of signs: the signs; values are those present, joined by " + "
    signs     each sign -> language -> its words
    """

    name: str
    title: Mapping[Language, str]
    question: Mapping[Language, str]
    sentence: Mapping[Language, str]
    words: Mapping[str, Mapping[Language, tuple[str, ...]]]
    vague: Mapping[str, tuple[str, ...]]
    ordered: bool = False
    flags: tuple[str, ...] = ()
    signs: Mapping[str, Mapping[Language, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(self.words)

    def say(self, value: str, language: Language = "en") -> str:
        """The words of a value."""
        return self.words[value][language][0]

    def say_each(self, value: str, language: Language = "en") -> str:
        """The words of a value; of a set of signs each sign with whether it is there, as released records pack them."""
        if not self.signs:
            return self.say(value, language)
        colon, joint = (": ", "; ") if language == "en" else ("：", "；")  # noqa: RUF001
        there = value.split(FLAG_JOIN)
        return joint.join(
            f"{words[language][0]}{colon}{SAID[PRESENT if sign in there else ABSENT][language]}"
            for sign, words in self.signs.items()
        )


@dataclass(frozen=True)
class AttributeSchema:
    """A named set of attributes. `cannot_tell` are the words of an annotator that abstains."""

    name: str
    version: int
    subject: Mapping[Language, str]
    cannot_tell: Mapping[Language, tuple[str, ...]]
    attributes: Mapping[str, AttributeKind]
    digest: str

    def __getitem__(self, name: str) -> AttributeKind:
        return self.attributes[name]

    def name_of(self, words: str) -> str | None:
        """The attribute that is called so, by its name or its title in any language; None where none is."""
        return self._names.get(plain(words))

    def read(self, name: str, words: str) -> str | None:
        """The value that the words mean; None for words of an annotator that cannot tell. Raises UnknownWords.

        Words that the schema lists are taken at once. In other text the longest listed words count, English ones as
        whole words; a word of one sign ("1", "高") decides only where it is all that is said. Each leaves the values
        open that it is listed for, and all together must leave one. A no, a doubt, a degree or a comparison that no
        listed words hold ("not markedly enlarged", "mild to moderate") makes the text unknown: a wrong reading is worse
        than none. Packed signs ("atypia: present; koilocyte: absent") are read piece by piece; signs that are not
        mentioned are absent.
        """
        text = plain(words)
        if text in self._abstentions:
            return None
        found = self._exact[name].get(text)
        if found is None:
            found = self._read_text(name, text, words)
        if found is None:
            raise UnknownWords(f"{name}: {words!r} is none of {', '.join(self[name].values)}")
        return found or None

    def describe(self, values: Mapping[str, str], language: Language = "en") -> str:
        """A caption that says these values and nothing else, in the schema's order.

        Raises UserError for names and values that the schema lacks.
        """
        for name in values:
            if name not in self.attributes or values[name] not in self[name].words:
                raise UserError(
                    f"attributes: {name} = {values[name]!r} is not of the schema {self.name}, which has "
                    f"{', '.join(self[name].values if name in self.attributes else self.attributes)}; "
                    "name the schema that the Samples were made with"
                )
        said = (
            kind.sentence[language].format(kind.say(values[kind.name], language))
            for kind in self.attributes.values()
            if kind.name in values
        )
        return (" " if language == "en" else "").join(said)

    def _read_text(self, name: str, text: str, words: str) -> str | None:
        kind = self[name]
        if not kind.signs:
            return read_running(text, self._lexicons[name], kind.values)
        there = read_signs(words, self._lexicons[name])
        return None if there is None else FLAG_JOIN.join(s for s in kind.flags if s in there) or NO_FLAG

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {
            plain(words): kind.name
            for kind in self.attributes.values()
            for words in (kind.name, *kind.title.values())
        }

    @cached_property
    def _abstentions(self) -> frozenset[str]:
        return frozenset(plain(words) for many in self.cannot_tell.values() for words in many)

    @cached_property
    def _exact(self) -> Mapping[str, Mapping[str, str]]:
        return {
            kind.name: {plain(words): value for words, value in words_and_values(kind)}
            for kind in self.attributes.values()
        }

    @cached_property
    def _lexicons(self) -> Mapping[str, Lexicon]:
        """Of each attribute, the words that are looked for in running text. Titles say nothing of a value."""
        titles = [
            words
            for kind in self.attributes.values()
            for words in (kind.name, *kind.title.values(), *self.subject.values())
        ]
        return {
            name: sign_lexicon({s: [*itertools.chain(*of.values())] for s, of in kind.signs.items()}, titles)
            if kind.signs
            else self._values_lexicon(kind, titles)
            for name, kind in self.attributes.items()
        }

    def _values_lexicon(self, kind: AttributeKind, titles: Sequence[str]) -> Lexicon:
        return as_lexicon(
            {
                **dict.fromkeys(map(plain, titles), frozenset((*kind.values, CANNOT_TELL))),
                **dict.fromkeys(self._abstentions, frozenset({CANNOT_TELL})),
                **{plain(words): frozenset(values) for words, values in kind.vague.items()},
                **{words: frozenset({value}) for words, value in self._exact[kind.name].items()},
            }
        )


def words_and_values(kind: AttributeKind) -> Iterator[tuple[str, str]]:
    """All words of all values of an attribute, each with its value; the value's name comes first."""
    for value, of_language in kind.words.items():
        for words in dict.fromkeys((value, *itertools.chain(*of_language.values()))):
            yield words, value
