"""Tables of rules as data: which values an attribute can have in a picture of a class, and who says so.

A table is a YAML file: the shipped `bethesda`, or a user's own for any attribute schema. One that contradicts itself is
refused when it is read, with the ids of the rules.
"""

import difflib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pathloom.attributes import FLAG_JOIN, NO_FLAG, AttributeKind, AttributeSchema, load_schema
from pathloom.attributes.files import read_yaml
from pathloom.schema import Record
from pathloom.stage import UserError

_SHIPPED = Path(__file__).parent / "rules"


class Rule(Record):
    """The values that `attribute` can have in the `classes`.

    severity   correct: another value is replaced; review: a person looks at the Sample
    to         what replaces it. Default: the only allowed value; of an attribute in order the nearest allowed one; of
               signs the allowed set that differs in the fewest signs
    """

    id: str = Field(min_length=1, pattern=r"^[^|,:]+$")
    classes: tuple[str, ...] = Field(min_length=1)
    attribute: str
    allowed: tuple[str, ...] = Field(min_length=1)
    severity: Literal["correct", "review"]
    to: str | None = None
    source: str = Field(min_length=1)
    note: str = ""

    @property
    def named(self) -> str | None:
        """The value that this rule puts in place of any other, where it names one."""
        return self.to or (self.allowed[0] if len(self.allowed) == 1 else None)

    @property
    def columns(self) -> dict[str, str]:
        """What tells rules apart in the tables of the report."""
        classes = ", ".join(self.classes)
        return {"rule": self.id, "classes": classes, "attribute": self.attribute, "severity": self.severity}


class _TableFile(Record):
    name: str
    version: int
    attributes: str
    classes: tuple[str, ...] = Field(min_length=1)
    status: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Break:
    """A value that rules for a class do not allow; `to` is what they put in its place, None where they name nothing."""

    attribute: str
    value: str
    rules: tuple[Rule, ...]
    allowed: tuple[str, ...]
    to: str | None

    @property
    def to_review(self) -> bool:
        return any(rule.severity == "review" for rule in self.rules)

    @property
    def rule_ids(self) -> str:
        return ", ".join(rule.id for rule in self.rules)

    @property
    def change(self) -> str:
        """What becomes of the value where the class is right."""
        return f"{self.attribute} {self.value} -> {self.to or 'left out'}"

    def told(self, finding: str) -> str:
        """One line for the history and the review page."""
        said = f"{self.rule_ids}: {self.attribute} is {self.value}, but for {finding} {' or '.join(self.allowed)}"
        became = f"becomes {self.to}" if self.to else "is left out"
        return f"{said}; if the class is right it {became}"


Reason = Literal["trusted", "many", "severity", "unanimous"]
REASONS: Mapping[Reason, str] = {
    "trusted": "truth, source or a reviewer gave the value",
    "many": "more than max_corrections attributes contradict the class",
    "severity": "a rule of severity review is broken",
    "unanimous": "all annotators gave the value",
}
"""Why a Sample goes to review: the first that holds."""


@dataclass(frozen=True)
class Judged:
    """What the rules say of one Sample; `reason` is why a person has to look, None where corrections are made."""

    breaks: tuple[Break, ...]
    reason: Reason | None

    @property
    def became(self) -> Literal["routed", "corrected", "unbroken"]:
        if self.reason:
            return "routed"
        return "corrected" if self.breaks else "unbroken"


@dataclass(frozen=True)
class RuleTable:
    """Rules of one attribute schema that do not contradict each other. `status` says who has confirmed them."""

    name: str
    version: int
    status: str
    classes: tuple[str, ...]
    rules: tuple[Rule, ...]
    schema: AttributeSchema
    digest: str

    def breaks(self, finding: str, values: Mapping[str, str]) -> tuple[Break, ...]:
        """What of an attribute -> value mapping the rules for a class do not allow, in the mapping's order."""
        broken = []
        for name, value in values.items():
            rules = self._of.get((finding, name), ())
            against = tuple(rule for rule in rules if value not in rule.allowed)
            if against:
                allowed = self._allowed(rules)
                to = next((rule.named for rule in against if rule.named), None)
                to = to or nearest(self.schema[name], value, allowed)
                broken.append(Break(name, value, against, allowed, to))
        return tuple(broken)

    def _allowed(self, rules: Iterable[Rule]) -> tuple[str, ...]:
        """The values that all the rules allow, as the first of them lists them."""
        first, *others = rules
        return tuple(value for value in first.allowed if all(value in rule.allowed for rule in others))

    @cached_property
    def _of(self) -> Mapping[tuple[str, str], tuple[Rule, ...]]:
        of: dict[tuple[str, str], tuple[Rule, ...]] = {}
        for rule in self.rules:
            for finding in rule.classes:
                of[finding, rule.attribute] = (*of.get((finding, rule.attribute), ()), rule)
        return of


def nearest(kind: AttributeKind, value: str, allowed: Iterable[str]) -> str | None:
    """The allowed value that is fewest steps of the order, or fewest signs, away; of equally near ones the one that the
    schema lists first. None for an attribute with neither order nor signs.
    """
    places = {each: place for place, each in enumerate(kind.values)}
    if kind.ordered:
        return min(allowed, key=lambda each: (abs(places[each] - places[value]), places[each]))
    if kind.flags:
        return min(allowed, key=lambda each: (len(_signs(each) ^ _signs(value)), places[each]))
    return None


def _signs(value: str) -> set[str]:
    return set() if value == NO_FLAG else set(value.split(FLAG_JOIN))


def shipped_rules() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load_rules(name: str, attributes: str) -> RuleTable:
    """A shipped table by its name, or a file, for an attribute schema. Raises UserError that names file and rule.

    Refused are, with the ids of both rules: the same id twice; for one class and attribute no value that all rules
    allow, a correction to a value that another rule forbids, two different corrections.
    """
    path = _SHIPPED / f"{name}.yaml" if name in shipped_rules() else Path(name)
    if not path.is_file():
        raise UserError(
            f"rules: {name} is neither a file nor a shipped table; there is {', '.join(shipped_rules())}"
        )
    schema, (table, digest) = load_schema(attributes), _read(path, path.stat().st_mtime_ns)
    if table.attributes != schema.name:
        raise UserError(
            f"{path}: its rules are for the attributes {table.attributes!r}, not for {schema.name!r}; change "
            "`attributes` of the step or of the table"
        )
    for fault in itertools.chain(_faults(table, schema), _contradictions(table)):
        raise UserError(f"{path}: {fault}")
    return RuleTable(table.name, table.version, table.status, table.classes, table.rules, schema, digest)


def rule_lines(name: str) -> Iterator[str]:
    """A shipped table in words: a line about it, then one for each rule."""
    path = _SHIPPED / f"{name}.yaml"
    table, _ = _read(path, path.stat().st_mtime_ns)
    status = f"; {table.status}" if table.status else ""
    yield f"{name}: {len(table.rules)} rules about {table.attributes}, version {table.version}{status}"
    for rule in table.rules:
        to = f", to {rule.named}" if rule.named else ""
        values = " or ".join(rule.allowed)
        yield f"    {rule.id}: {', '.join(rule.classes)}: {rule.attribute} {values} ({rule.severity}{to})"


@cache
def _read(path: Path, _changed_ns: int) -> tuple[_TableFile, str]:
    """What a file holds, and its digest."""
    data, digest = read_yaml(path)
    try:
        return _TableFile.model_validate(data), digest
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        where = [str(place) for place in first["loc"]]
        if where[:1] == ["rules"] and len(where) > 1:
            entry = data["rules"][int(where[1])]
            named = entry.get("id") if isinstance(entry, dict) else None
            where[:2] = [f"rule {named}" if named else f"rule number {int(where[1]) + 1}"]
        raise UserError(f"{path}: {', '.join(where) or 'the table'}: {first['msg']}") from error


def _faults(table: _TableFile, schema: AttributeSchema) -> Iterator[str]:
    """What is wrong with one rule by itself."""
    seen: set[str] = set()
    for number, rule in enumerate(table.rules, start=1):
        if rule.id in seen:
            yield f"two rules are called {rule.id}; the second is number {number}"
        seen.add(rule.id)
        for finding in rule.classes:
            if finding not in table.classes:
                yield f"rule {rule.id}: {_unknown('class', finding, table.classes)}"
        if rule.attribute not in schema.attributes:
            yield f"rule {rule.id}: {_unknown('attribute', rule.attribute, schema.attributes)}"
            continue
        kind = schema[rule.attribute]
        for value in (*rule.allowed, *([rule.to] if rule.to else [])):
            if value not in kind.values:
                yield f"rule {rule.id}: {_unknown(f'value of {kind.name}', value, kind.values)}"
        if rule.to is not None and rule.to not in rule.allowed:
            yield f"rule {rule.id}: `to` is {rule.to!r}, which the rule does not allow"
        if rule.severity == "correct" and not (rule.named or kind.ordered or kind.flags):
            yield f"rule {rule.id}: several values are allowed and {kind.name} has no order; name one as `to`"


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
    return f"{word!r} is no {what}; {hint}"


def _contradictions(table: _TableFile) -> Iterator[str]:
    """What is wrong with two rules, or with more, for one class and attribute."""
    of: dict[tuple[str, str], list[Rule]] = {}
    for rule in table.rules:
        for finding in rule.classes:
            of.setdefault((finding, rule.attribute), []).append(rule)
    for (finding, attribute), rules in of.items():
        for one, other in itertools.combinations(rules, 2):
            both = f"rules {one.id} and {other.id} contradict each other about {attribute} of {finding}"
            if not set(one.allowed) & set(other.allowed):
                yield f"{both}: no value is allowed by both"
            for by, against in ((one, other), (other, one)):
                if by.named and by.named not in against.allowed:
                    yield f"{both}: {by.id} corrects to {by.named!r}, which {against.id} forbids"
            if one.named and other.named and one.named != other.named:
                yield f"{both}: they correct to {one.named!r} and to {other.named!r}"
        if not set.intersection(*(set(rule.allowed) for rule in rules)):
            ids = ", ".join(rule.id for rule in rules)
            yield f"rules {ids} contradict each other about {attribute} of {finding}: no value is allowed by all"
