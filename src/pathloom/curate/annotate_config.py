"""Entries of the stages that make a cytology corpus: `annotate`, `instruct`, `release`. No torch here."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.attributes import Language, load_schema
from pathloom.curate.annotation_prompts import annotation_prompts_hash
from pathloom.generate.config import Asking
from pathloom.ingest.cytotext import CytotextKeys
from pathloom.phantom.cytology import BETHESDA
from pathloom.stage import StageConfig

InstructionKind = Literal["attribute", "sign", "class", "description", "dialogue"]
INSTRUCTIONS: tuple[InstructionKind, ...] = ("attribute", "sign", "class", "description", "dialogue")


class AnnotateConfig(StageConfig):
    """Entry of a recipe: several vision-language models each describe every picture by the attributes of a schema.

    Nothing is fused here: each Sample leaves with what each annotator said (`annotations`), in their order. The step
    `consensus` of a `curate` stage makes attributes of it. Bounds and caps of an annotator are its own: raise its
    `max_failed` to go on with the others where it is down.
    """

    version: ClassVar[int] = 1

    kind: Literal["annotate"]
    samples: tuple[str, ...] = Field(min_length=1, description="stages whose Samples are described")
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    language: Language = Field(default="en", description="in which annotators are asked and answer")
    annotators: dict[str, Asking] = Field(
        min_length=1, description="name -> who is asked; three or more are meant"
    )

    @field_validator("annotators")
    @classmethod
    def _names_are_plain(cls, annotators: dict[str, Asking]) -> dict[str, Asking]:
        for name in annotators:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r}: a name has letters, digits, '_' and '-'")
        return annotators

    def needs(self) -> tuple[str, ...]:
        truths = (name for asking in self.annotators.values() for name in asking.needs())
        return tuple(dict.fromkeys((*self.samples, *truths)))

    def check(self) -> None:
        load_schema(self.attributes)
        for name, asking in self.annotators.items():
            asking.check_sees_pictures(f"{self.name}.annotators.{name}", "annotator", self.attributes)

    def keyed(self) -> dict[str, Any]:
        decides = [[name, asking.decides()] for name, asking in self.annotators.items()]
        return {**super().keyed(), "annotators": decides}

    def fingerprint(self) -> str:
        return f"{load_schema(self.attributes).digest} {annotation_prompts_hash(self.language)}"


class InstructConfig(StageConfig):
    """Entry of a recipe: questions to learn from, made from the attributes and the class of every training Sample.

    attribute    choice: which value an attribute has
    sign         yes/no: whether an attribute has a value
    class        choice: which class of `classes` the Sample's `finding` is
    description  caption: all attributes in words
    dialogue     a conversation over some attributes that ends in the class
    """

    version: ClassVar[int] = 1

    kind: Literal["instruct"]
    samples: tuple[str, ...] = Field(
        min_length=1, description="stages whose training Samples have attributes"
    )
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    language: Language = "en"
    questions: dict[InstructionKind, int] = Field(
        default={"attribute": 3, "sign": 1, "class": 1, "description": 1, "dialogue": 1},
        min_length=1,
        description="kind -> how many for each Sample",
    )
    classes: tuple[str, ...] = Field(
        default=BETHESDA, min_length=2, max_length=26, description="that are told apart, in their usual order"
    )
    class_name: str = Field(
        default="", description="what a class is called; Bethesda class, where it is empty"
    )
    num_options: int = Field(default=4, ge=2, le=26, description="options of an attribute question at most")
    reasoning: Literal["none", "attributes"] = Field(
        default="none",
        description="attributes: choices and yes/no questions say what is seen before they answer, a class all of it",
    )
    seed: int = 0

    def needs(self) -> tuple[str, ...]:
        return self.samples

    def check(self) -> None:
        load_schema(self.attributes)

    def fingerprint(self) -> str:
        return load_schema(self.attributes).digest


class ReleaseConfig(StageConfig):
    """Entry of a recipe: Samples with attributes as records of a published corpus, with their pictures beside them."""

    version: ClassVar[int] = 1

    kind: Literal["release"]
    samples: tuple[str, ...] = Field(min_length=1)
    format: Literal["cytotext"] = Field(
        default="cytotext", description="Singpath-CytoText: one JSON file and tiles"
    )
    attributes: str = Field(
        default="cervical_cell", description="attribute schema: a shipped name, or a file"
    )
    language: Language = Field(
        default="zh", description="of words that no source gave; the corpus is Chinese"
    )
    keys: CytotextKeys = Field(default=CytotextKeys(), description="as of source cytotext")

    def needs(self) -> tuple[str, ...]:
        return self.samples

    def check(self) -> None:
        load_schema(self.attributes)

    def fingerprint(self) -> str:
        return load_schema(self.attributes).digest
