"""Files of attribute schemas: their form, and what is refused in them."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from pathloom.attributes.kinds import FLAG_JOIN, NO_FLAG, AttributeKind, AttributeSchema, words_and_values
from pathloom.attributes.reading import BESIDE_SIGNS, Language, plain
from pathloom.schema import Record
from pathloom.stage import UserError

_SHIPPED = Path(__file__).parent.parent / "attribute_schemas"
_MOST_FLAGS = 8
"""Every set of signs is a value: 256 of eight. Our own choice."""


def shipped_schemas() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load_schema(name: str) -> AttributeSchema:
    """A shipped schema by its name, or a file. Raises UserError that names the file and the entry."""
    path = _SHIPPED / f"{name}.yaml" if name in shipped_schemas() else Path(name)
    if not path.is_file():
        raise UserError(
            f"attributes: {name} is neither a file nor a shipped schema; there is {', '.join(shipped_schemas())}"
        )
    return _load(path, path.stat().st_mtime_ns)


Words = Annotated[str, Field(strict=True, min_length=1)]


class _Both(Record):
    en: Words
    zh: Words

    def of_language(self) -> Mapping[Language, str]:
        return {"en": self.en, "zh": self.zh}


class _Many(Record):
    en: tuple[Words, ...] = Field(min_length=1)
    zh: tuple[Words, ...] = Field(min_length=1)

    def of_language(self) -> Mapping[Language, tuple[str, ...]]:
        return {"en": self.en, "zh": self.zh}


class _Value(Record):
    """Words of a value or sign besides its name, which is English: Chinese ones, the first is written, and `also`."""

    zh: tuple[Words, ...] = Field(min_length=1)
    also: tuple[Words, ...] = ()

    def of_language(self, name: str) -> Mapping[Language, tuple[str, ...]]:
        return {"en": (name, *self.also), "zh": self.zh}


class _Vague(Record):
    words: tuple[Words, ...] = Field(min_length=1)
    values: tuple[Words, ...] | None = Field(
        default=None, description="that stay open; left out: all, for words that say nothing; []: none fits"
    )


class _Kind(Record):
    title: _Both
    question: _Both
    sentence: _Both
    ordered: Annotated[bool, Field(strict=True)] = False
    values: dict[Words, _Value] = Field(default={})
    vague: tuple[_Vague, ...] = ()
    flags: dict[Words, _Value] = Field(default={})
    none: _Many | None = None

    @model_validator(mode="after")
    def _values_or_flags(self) -> Self:
        if bool(self.flags) != (self.none is not None) or bool(self.flags) == bool(self.values):
            raise ValueError("give either values, or flags with the words for none of them (`none`)")
        if len(self.values) == 1:
            raise ValueError("one value is no choice: give two or more")
        if len(self.flags) > _MOST_FLAGS:
            raise ValueError(f"{len(self.flags)} flags have too many sets: {_MOST_FLAGS} at most; split them")
        for flag in self.flags:
            if FLAG_JOIN.strip() in flag:
                raise ValueError(f"flags: {flag!r} holds the sign that joins signs; name it without a +")
        if self.flags and (self.vague or self.ordered):
            raise ValueError("vague and ordered go with values, not with flags")
        for language, sentence in self.sentence:
            if re.findall(r"[{}]+", sentence) != ["{}"]:
                raise ValueError(
                    f"sentence.{language}: needs {{}} once, where the words of the value are put"
                )
        return self

    def kind(self, name: str) -> AttributeKind:
        words = {value: of.of_language(value) for value, of in self.values.items()}
        every = tuple(self.values)
        vague = {w: every if one.values is None else one.values for one in self.vague for w in one.words}
        return AttributeKind(
            name=name,
            title=self.title.of_language(),
            question=self.question.of_language(),
            sentence=self.sentence.of_language(),
            words=words if self.none is None else _sets_of_flags(self.flags, self.none),
            vague=vague,
            ordered=self.ordered,
            flags=tuple(self.flags),
            signs={flag: of.of_language(flag) for flag, of in self.flags.items()},
        )


class _File(Record):
    name: Words
    version: int
    subject: _Both
    cannot_tell: _Many
    attributes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], _Kind] = Field(min_length=1)


def _sets_of_flags(flags: Mapping[str, _Value], none: _Many) -> dict[str, Mapping[Language, tuple[str, ...]]]:
    """Every set of signs as a value; the empty one first."""
    sets: dict[str, Mapping[Language, tuple[str, ...]]] = {NO_FLAG: none.of_language()}
    for size in range(1, len(flags) + 1):
        for chosen in itertools.combinations(flags, size):
            name = FLAG_JOIN.join(chosen)
            sets[name] = {"en": (name,), "zh": ("、".join(flags[flag].zh[0] for flag in chosen),)}
    return sets


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a value that stands twice is an error and not the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} stands twice in one mapping, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[Any, str]:
    """What a file holds, and its SHA-256. Raises UserError that names the file, also for a key that stands twice."""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.load(text, Loader=_Loader), hashlib.sha256(text.encode()).hexdigest()
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error


@cache
def _load(path: Path, _changed_ns: int) -> AttributeSchema:
    data, digest = read_yaml(path)
    try:
        file = _File.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {_fault(item)}" for item in error.errors())) from error
    schema = AttributeSchema(
        name=file.name,
        version=file.version,
        subject=file.subject.of_language(),
        cannot_tell=file.cannot_tell.of_language(),
        attributes={name: one.kind(name) for name, one in file.attributes.items()},
        digest=digest,
    )
    faults = list(dict.fromkeys(_ambiguities(schema)))
    if faults:
        raise UserError("\n".join(f"{path}: {fault}" for fault in faults))
    return schema


def _fault(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "[key]")
    hint = "; put it in quotes: YAML reads yes, no, 1 and null as something else"
    return f"{where}: {item['msg']}{hint if item['type'] == 'string_type' else ''}"


def _ambiguities(schema: AttributeSchema) -> Iterator[str]:
    """Words that would mean two things, or nothing that is there."""
    titles = [
        (words, kind.name)
        for kind in schema.attributes.values()
        for words in dict.fromkeys((kind.name, *kind.title.values()))
    ]
    yield from _said_twice("attributes", titles)
    cannot_tell = [(words, "cannot_tell") for many in schema.cannot_tell.values() for words in many]
    for kind in schema.attributes.values():
        vague = [(words, f"vague ({', '.join(values)})") for words, values in kind.vague.items()]
        yield from _said_twice(f"attributes.{kind.name}", [*cannot_tell, *words_and_values(kind), *vague])
        signs = [
            (words, f"the sign {sign}")
            for sign, of_language in kind.signs.items()
            for words in itertools.chain(*of_language.values())
        ]
        beside = [(words, state) for state, many in BESIDE_SIGNS.items() for words in many]
        yield from _said_twice(f"attributes.{kind.name}.flags", [*beside, *signs])
        for words, values in kind.vague.items():
            for value in values:
                if value not in kind.words:
                    yield f"attributes.{kind.name}.vague: {words!r} leaves {value!r} open, which is no value"


def _said_twice(where: str, meanings: Iterable[tuple[str, str]]) -> Iterator[str]:
    meant: dict[str, str] = {}
    for words, meaning in meanings:
        text = plain(words)
        if not text:
            yield f"{where}: {words!r} ({meaning}) has neither letters nor digits"
        elif meant.setdefault(text, meaning) != meaning:
            yield f"{where}: {words!r} means {meant[text]} and {meaning}: keep it in one place"
