"""Entry of the stage `benchmark`: a set of single-choice questions made from Samples. No torch here."""

from typing import ClassVar, Literal

from pydantic import Field

from pathloom.attributes import Language, load_schema
from pathloom.phantom.cytology import BETHESDA
from pathloom.schema import Resolver
from pathloom.stage import StageConfig, UserError
from pathloom.tasks.parsing import normalise


class BenchmarkConfig(StageConfig):
    """Entry of a recipe: a benchmark made from the held-out Samples of other stages, with a card.

    morphopercept  one question for each picture and attribute, its options drawn from the attribute's values
    cytocell       one question for each picture: which of `classes` its `finding` is
    """

    version: ClassVar[int] = 1

    kind: Literal["benchmark"]
    family: Literal["morphopercept", "cytocell"]
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages whose held-out Samples are asked about"
    )
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    accept: tuple[Resolver, ...] = Field(
        default=("truth", "source", "reviewer"),
        min_length=1,
        description="whose attributes are the truth; neither a vote of models nor a rule is one to test models against",
    )
    language: Language = "en"
    num_options: int = Field(
        default=4, ge=2, le=26, description="options of a morphopercept question at most"
    )
    per_value: int | None = Field(
        default=None,
        ge=1,
        description="items of each value, or class, at most: a commonest one no longer wins",
    )
    classes: tuple[str, ...] = Field(
        default=BETHESDA, min_length=2, max_length=26, description="of cytocell, in their usual order"
    )
    question: str = Field(default="", description="of cytocell; which Bethesda class, where it is empty")
    release: int = Field(
        default=1, ge=1, description="raise it when the set changes: older numbers no longer compare"
    )
    seed: int = 0

    def needs(self) -> tuple[str, ...]:
        return self.samples

    def check(self) -> None:
        load_schema(self.attributes)
        if len({normalise(name) for name in self.classes}) < len(self.classes):
            raise UserError(f"{self.name}.classes: one class stands there twice: {', '.join(self.classes)}")

    def fingerprint(self) -> str:
        return load_schema(self.attributes).digest
