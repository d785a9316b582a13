"""The card of a released corpus: what is in it, under which licences, and who described the pictures."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from pathloom import __version__
from pathloom.attributes import load_schema
from pathloom.curate.annotate_config import ReleaseConfig
from pathloom.ingest.cytotext import SOURCE_ANNOTATOR
from pathloom.schema import Drop, Event, Sample

_SIMULATING = "simulated"
"""In the names of models that are none (pathloom.generate.simulated) and of steps that corrupt labels on purpose."""

_TEXT = """\
# {name}

{num} records in the form of Singpath-CytoText, written by pathloom {version} with the attribute schema `{schema}`
(version {schema_version}, sha256 {digest}). {num_own} of them keep the words of the corpus that they came from.

`cytotext.json` is a list of records with the keys {keys}.
`images/` holds the pictures, byte for byte. A split is no part of the form: the last table says how many records stood
on which side. The first part of a picture's name, before the underscore, tells its group, which must never stand on two
sides.

{simulated}## Classes

{classes}

## Attributes

{attributes}

## Who gave the values

`truth`: a phantom as it was drawn. `source`: what the source states. `majority`, `dawid_skene`: a vote of annotators.
`arbiter`: the model that was asked about a dispute. `expert`: a rule of experts. `reviewer`: a person.

{resolvers}

## Annotators, models and reviewers

{people}

## Sources and licences

{sources}

## Left out

{drops}

## Splits

{splits}
"""


@dataclass
class Tally:
    """What is counted while records are written, and the Samples that are none."""

    num_records: int = 0
    num_own: int = 0
    values: Counter[tuple[str, ...]] = field(default_factory=Counter)
    resolvers: Counter[tuple[str, ...]] = field(default_factory=Counter)
    people: Counter[tuple[str, ...]] = field(default_factory=Counter)
    classes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sources: Counter[tuple[str, ...]] = field(default_factory=Counter)
    splits: Counter[tuple[str, ...]] = field(default_factory=Counter)
    drops: list[Drop] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.num_records += 1
        self.num_own += any(one.annotator == SOURCE_ANNOTATOR for one in sample.annotations)
        self.values.update((one.name, one.value) for one in sample.attributes)
        self.resolvers.update((one.resolver,) for one in sample.attributes)
        self.people.update({_who(event) for event in sample.history if any(_who(event)[1:])})
        self.classes[(sample.finding or "none",)] += 1
        self.sources[sample.origin.source, sample.origin.licence] += 1
        self.splits[(sample.split,)] += 1

    def reasons(self) -> dict[str, int]:
        return dict(sorted(Counter(drop.reason for drop in self.drops).items()))


def _who(event: Event) -> tuple[str, ...]:
    """(step, annotator's name in the recipe, model or person); a simulating step stands for itself."""
    simulated_step = event.step if _SIMULATING in event.step else ""
    annotator = event.note if event.step == "annotate" and event.model else ""
    return event.step, annotator, event.model or event.reviewer or simulated_step


def card(config: ReleaseConfig, tally: Tally) -> str:
    """The card in Markdown."""
    schema = load_schema(config.attributes)
    in_order = [(name, value) for name in schema.attributes for value in schema[name].values]
    return _TEXT.format(
        name=config.name,
        num=tally.num_records,
        version=__version__,
        schema=schema.name,
        schema_version=schema.version,
        digest=schema.digest[:12],
        num_own=tally.num_own,
        keys=", ".join(f"`{key}`" for key in config.keys.model_dump().values()),
        simulated=_about_simulated({name for *_, name in tally.people if _SIMULATING in name}),
        classes=_table(("class", "records"), tally.classes.most_common()),
        attributes=_table(
            ("attribute", "value", "records"),
            [(pair, tally.values[pair]) for pair in in_order if tally.values[pair]],
        ),
        resolvers=_table(("resolver", "values"), tally.resolvers.most_common()),
        people=_table(("step", "annotator", "model or person", "records"), sorted(tally.people.items())),
        sources=_table(("source", "licence", "records"), tally.sources.most_common()),
        drops=_table(("reason", "Samples"), [((reason,), n) for reason, n in tally.reasons().items()]),
        splits=_table(("split", "records"), tally.splits.most_common()),
    )


def _about_simulated(names: Collection[str]) -> str:
    if not names:
        return ""
    return (
        f"**Simulated: {', '.join(sorted(names))}.** Here no model or person looked at a picture: a program corrupted "
        "what was known of it. Such words measure a pipeline and describe nothing.\n\n"
    )


def _table(heads: Sequence[str], counts: Iterable[tuple[Sequence[str], int]]) -> str:
    """A Markdown table; "none" where nothing was counted."""
    rows = [[*names, str(count)] for names, count in counts]
    cells = [heads, ["---"] * len(heads), *rows]
    return (
        "\n".join(f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in cells) if rows else "none"
    )
