"""Step `expert`: a table of rules between classes and attributes corrects Samples or sends them to reviewers."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.attributes import AttributeSchema, Language, load_schema
from pathloom.curate.expert_rules import REASONS, Break, Judged, Reason, Rule, RuleTable, load_rules
from pathloom.curate.expert_truth import measure
from pathloom.curate.step import Prepared, Read, StepConfig
from pathloom.routing import REVIEW_NOTE, is_settled, review_note
from pathloom.schema import Attribute, Drop, Resolver, Sample
from pathloom.stage import UserError
from pathloom.store import read_samples

BREAK_JOIN = " | "
SHOWN_CLASSES = 10

TRUSTED: tuple[Resolver, ...] = ("truth", "source", "reviewer")
"""Who outranks a rule about a class: a value of theirs that breaks one is shown to a person, never rewritten."""


class ExpertStep(StepConfig):
    """Entry of `steps`: `{step: expert}` checks each caption's attributes against the rules for its class.

    An attribute that its class does not allow is a fault of the attribute or of the class. One fault among nine that
    annotators disagree on is most likely the attribute's: it is corrected. Several at once, or a value that every
    annotator saw, are more likely a wrong class or a cell that is an exception: the Sample goes to review whole, as it
    is, and waits for the step `reviewed`. The caption is written from the attributes, unless all of them, and so the
    caption too, are of a source.
    """

    version: ClassVar[int] = 1

    step: Literal["expert"]
    rules: str = Field(default="bethesda", description="table of rules: a shipped name, or a file")
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    language: Language = Field(default="en", description="of the caption that is written from the attributes")
    # Both defaults chosen on 8,000 simulated cells of seed 1, as docs/log.md tells, with other values beside them.
    max_corrections: int = Field(
        default=2, ge=0, description="a Sample with more attributes against its class goes to review"
    )
    unanimous: Literal["review", "correct"] = Field(
        default="review", description="what becomes of a value that two or more annotators, and all, gave"
    )
    truth: str | None = Field(
        default=None,
        description="stage whose Samples hold true attributes and classes: corrections are measured",
    )

    def needs(self) -> tuple[str, ...]:
        return (self.truth,) if self.truth else ()

    def check(self, where: str) -> None:
        try:
            load_rules(self.rules, self.attributes)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def fingerprint(self) -> str:
        return load_schema(self.attributes).digest + load_rules(self.rules, self.attributes).digest

    def prepare(self, read: Read, inputs: Mapping[str, Path], seed: int) -> Prepared:
        table = load_rules(self.rules, self.attributes)
        facts = self._facts(table, read())
        if self.truth:
            truths = {sample.id: sample for sample in _without_pictures(read_samples(inputs[self.truth]))}
            cases = ((sample, self.judge(table, sample)) for sample in read())
            facts |= measure(
                ((sample, judged) for sample, judged in cases if judged), truths, table.rules, seed
            )
        return Prepared(lambda sample: self._apply(table, sample), facts)

    def judge(self, table: RuleTable, sample: Sample) -> Judged | None:
        """None for a Sample that the rules say nothing about: no caption, no attributes, no class of the table, or
        attributes of another schema.
        """
        if not _is_meant(sample, table) or foreign(sample, table.schema):
            return None
        held = {attribute.name: attribute for attribute in sample.attributes}
        breaks = table.breaks(str(sample.finding), values_of(sample))
        if is_settled(sample):
            breaks = tuple(each for each in breaks if held[each.attribute].resolver != "reviewer")
        return Judged(breaks, self._reason([(each, held[each.attribute]) for each in breaks]))

    def _reason(self, broken: Iterable[tuple[Break, Attribute]]) -> Reason | None:
        pairs = list(broken)
        if any(attribute.resolver in TRUSTED for _, attribute in pairs):
            return "trusted"
        if len(pairs) > self.max_corrections:
            return "many"
        if any(each.to_review for each, _ in pairs):
            return "severity"
        if self.unanimous == "review" and any(_is_unanimous(attribute) for _, attribute in pairs):
            return "unanimous"
        return None

    def _apply(self, table: RuleTable, sample: Sample) -> Sample | Drop:
        strange = foreign(sample, table.schema) if _is_meant(sample, table) else ""
        if strange:
            return self.drop(sample, "not_of_the_schema", f"{strange} is not of {table.schema.name}")
        judged = self.judge(table, sample)
        if judged is None:
            return sample
        attributes, note = sample.attributes, ""
        if judged.reason:
            note = routed_note(judged.breaks, sample)
        elif judged.breaks:
            attributes = corrected(sample.attributes, judged.breaks, "expert")
            note = "; ".join(f"{each.change} ({each.rule_ids})" for each in judged.breaks)
        # a rule never rewrites what a source states, and neither its own caption of it
        of_source = all(one.resolver == "source" for one in attributes)
        answer = sample.answer if of_source else caption_of(attributes, table.schema, self.language)
        if not note and answer == sample.answer:
            return sample
        event = self.event(note or "caption written from the attributes")
        return sample.changed(event, attributes=attributes, answer=answer)

    def _facts(self, table: RuleTable, samples: Iterable[Sample]) -> dict[str, Any]:
        """Counts of Samples and attributes, and a row for each rule."""
        counts: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        strange: Counter[str] = Counter()
        hits: dict[str, Counter[str]] = {rule.id: Counter() for rule in table.rules}
        for sample in samples:
            counts["samples"] += 1
            judged = self.judge(table, sample)
            if judged is None:
                counts["not_checked"] += 1
                if sample.finding is not None and sample.finding not in table.classes:
                    strange[sample.finding] += 1
                continue
            counts[judged.became] += 1
            reasons.update([judged.reason] if judged.reason else [])
            for each in judged.breaks:
                counts[f"attributes_{judged.became}"] += 1
                for rule in each.rules:
                    hits[rule.id].update(("hits", judged.became))
        totals = ("samples", "not_checked", "unbroken", "corrected", "routed")
        return {
            "rules": f"{table.name} version {table.version}",
            "status": table.status,
            **{name: counts[name] for name in (*totals, "attributes_corrected", "attributes_routed")},
            "classes_without_rules": dict(strange.most_common(SHOWN_CLASSES)),
            "routed_because": {REASONS[reason]: reasons[reason] for reason in REASONS},
            "hits": [_row(rule, hits[rule.id]) for rule in table.rules],
            "warnings": _told(counts["routed"], strange, table),
        }


def _told(routed: int, strange: Counter[str], table: RuleTable) -> list[str]:
    """What a person should do next, in words."""
    told = []
    if routed:
        told.append(
            f"{routed} Samples await review and are not learnt from: `pathloom review STAGE --field contradiction` "
            "shows them"
        )
    if strange:
        classes = ", ".join(name for name, _ in strange.most_common(SHOWN_CLASSES))
        told.append(
            f"{strange.total()} Samples were not checked: {table.name} has no rules for the class {classes}"
        )
    return told


def _is_meant(sample: Sample, table: RuleTable) -> bool:
    return sample.task == "caption" and bool(sample.attributes) and sample.finding in table.classes


def _row(rule: Rule, hits: Counter[str]) -> dict[str, Any]:
    return {**rule.columns, **{name: hits[name] for name in ("hits", "corrected", "routed")}}


def values_of(sample: Sample) -> dict[str, str]:
    return {attribute.name: attribute.value for attribute in sample.attributes}


def foreign(sample: Sample, schema: AttributeSchema) -> str:
    """The first attribute of a Sample that the schema does not have, with its value; "" where all are of the schema."""
    strange = (
        f"{name}: {value!r}"
        for name, value in values_of(sample).items()
        if name not in schema.attributes or value not in schema[name].values
    )
    return next(strange, "")


def caption_of(attributes: Iterable[Attribute], schema: AttributeSchema, language: Language) -> str:
    return schema.describe({attribute.name: attribute.value for attribute in attributes}, language)


def corrected(
    attributes: Iterable[Attribute], breaks: Iterable[Break], resolver: Resolver
) -> tuple[Attribute, ...]:
    """The attributes with every break mended; one for which the rules name no value is left out."""
    to = {each.attribute: each.to for each in breaks}
    written = {"resolver": resolver, "confidence": None, "text": None}
    return tuple(
        attribute.model_copy(update={**written, "value": to[attribute.name]})
        if attribute.name in to
        else attribute
        for attribute in attributes
        if to.get(attribute.name, "kept") is not None
    )


def confirmed(
    attributes: Iterable[Attribute], breaks: Iterable[Break], resolver: Resolver
) -> tuple[Attribute, ...]:
    """The attributes with their values, those that break a rule on another's word and no longer on that of a vote."""
    judged = {each.attribute for each in breaks}
    written = {"resolver": resolver, "confidence": None}
    return tuple(one.model_copy(update=written) if one.name in judged else one for one in attributes)


def routed_note(breaks: Iterable[Break], sample: Sample) -> str:
    """What the history says of a Sample that waits for a person: each break in full, so that a page needs no table."""
    return REVIEW_NOTE + BREAK_JOIN.join(each.told(str(sample.finding)) for each in breaks)


def awaited_breaks(sample: Sample, table: RuleTable) -> tuple[Break, ...]:
    """The breaks for which the step `expert` sent the Sample to review. Raises UserError where the table is another."""
    told = review_note(sample) or ""
    breaks = () if foreign(sample, table.schema) else table.breaks(str(sample.finding), values_of(sample))
    breaks = tuple(each for each in breaks if each.told(str(sample.finding)) in told)
    if routed_note(breaks, sample) != REVIEW_NOTE + told:
        raise UserError(
            f"sample {sample.id} was sent to review by other rules than those of {table.name}; give the step "
            "`reviewed` the `rules` and `attributes` of the step `expert`"
        )
    return breaks


def _is_unanimous(attribute: Attribute) -> bool:
    """Whether two or more annotators could tell, and all of them gave this value."""
    said = [vote.value for vote in attribute.votes if vote.value is not None]
    return len(said) > 1 and set(said) == {attribute.value}


def _without_pictures(samples: Iterable[Sample]) -> Iterator[Sample]:
    """A whole set of truths is held in memory, its pictures are not."""
    return (sample.model_copy(update={"images": (), "regions": ()}) for sample in samples)
