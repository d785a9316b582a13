"""The records that stages hand to each other on disk.

All records are frozen and refuse unknown keys, so a misspelt field fails where it is written. Code never
reads a free-form bag: a fact that code needs has a field here.
"""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEST_SPLIT = "test"
FOLD_PREFIX = "fold-"

Level = Literal["easy", "medium", "hard"]
"""Patho-R1's three levels of difficulty, each with a longer reasoning than the one before."""

Scale = Literal["region", "slide"]
"""SmartPath-R1's two scales: a picture of a region, or a whole slide."""

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 < x2 and y1 < y2; the unit and frame stand in the name of the field that holds it."""


class Record(BaseModel):
    """Base of all records: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Image(Record):
    """One picture: its bytes (`data`) or, when read in place, only the `path` of its file.

    `path` names the picture for people in either case. Sizes are those of the file's header, in pixels.

    With `slide` it stands for a whole slide, the id of which that is: sizes and mpp are those of level 0, and nothing
    reads its pixels as one picture. A stage `embed_slides` holds what a model sees of it.
    """

    path: str
    data: bytes | None = Field(default=None, repr=False)
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    mpp: float | None = Field(default=None, gt=0, description="micrometres per pixel")
    slide: str | None = None


class Region(Record):
    """A labelled box in pixels of `Sample.images[image]`, with the outline of the thing in it where that is known.

    `mask_png` is a one-bit PNG over the box rounded outwards to whole pixels (`pathloom.masks`).
    """

    box_px: Box
    label: str | None = None
    mask_png: bytes | None = Field(default=None, repr=False)
    image: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _box_has_area(self) -> "Region":
        x1, y1, x2, y2 = self.box_px
        if not (all(map(math.isfinite, self.box_px)) and x1 < x2 and y1 < y2):
            raise ValueError(f"box_px {self.box_px} has no area: x1 < x2 and y1 < y2 are needed")
        return self


class Origin(Record):
    """Where a Sample came from, down to the pixel or the character.

    `group` is the patient, slide, book or near-duplicate group: what must never stand on both sides of a split.
    """

    source: str
    source_id: str
    licence: str
    group: str
    page: int | None = None
    box_pt: Box | None = None
    box_l0: Box | None = Field(default=None, description="pixels of the slide's level 0")
    panel: str | None = None
    caption_span: tuple[int, int] | None = Field(default=None, description="characters, half open")

    @property
    def cluster(self) -> tuple[str, str]:
        """What is kept on one side of a split and resampled whole: group names mean something within a source only."""
        return (self.source, self.group)


class Event(Record):
    """One thing that happened to a Sample: the step, its version, and the model or person behind it."""

    step: str
    version: int
    note: str = ""
    model: str | None = None
    reviewer: str | None = None


class Turn(Record):
    """One earlier exchange of a conversation."""

    question: str
    answer: str


Resolver = Literal["truth", "source", "majority", "dawid_skene", "arbiter", "expert", "reviewer"]
"""Who gave an attribute its value: a phantom's drawing, what the source states, a vote, a weighted vote, the Generator
that was asked about a dispute, a rule of experts, a person.
"""


class Said(Record):
    """What an annotator said about one attribute, in its own words under the attribute's name."""

    name: str
    text: str


class Annotation(Record):
    """What one annotator said about a Sample's pictures, before any of it is compared or corrected."""

    annotator: str
    said: tuple[Said, ...] = ()
    caption: str = ""


class Vote(Record):
    """One annotator's answer about one attribute as a value of the attribute schema; None where it could not tell."""

    annotator: str
    value: str | None = None


class Attribute(Record):
    """One property of what a picture shows, as the size of a nucleus: a value of an attribute schema and who says so.

    `text` keeps the words of a source where they are not the value itself. `confidence` in [0, 1] is that of a vote.
    """

    name: str
    value: str
    text: str | None = None
    resolver: Resolver
    confidence: float | None = Field(default=None, ge=0, le=1)
    votes: tuple[Vote, ...] = ()


class Drop(Record):
    """A record that could not be used, with the reason; counted in the manifest and kept beside the Samples."""

    sample_id: str
    step: str
    reason: str
    detail: str = ""


class Sample(Record):
    """One question about pictures, its answer, where it came from and what happened to it.

    The answer to a choice question is the option's text; a letter exists only in a rendered prompt. Boxes are
    `regions`. `finding` is what the reasoning should name (a diagnosis, a stain); for a yes/no question
    `asked_finding` is what the question asks about, so that a named finding implies an answer.
    `strata` are subgroups that evaluation may report apart, for example "wording=unseen".

    `annotations` are what weak annotators said of the pictures, `attributes` what is held to be true of them.

    `context` is what the source says about the pictures beyond question and answer: a caption's in-line reference, the
    caption that a question was written from, the truth of a phantom. Teachers, filters and reviewers read it; no prompt
    to the model holds it. `earlier` are the turns of a conversation that `question` and `answer` end.
    """

    id: str
    task: str
    split: Annotated[str, Field(pattern=r"^(train|val|test|fold-\d+)$")]
    images: tuple[Image, ...] = ()
    question: str
    choices: tuple[str, ...] = ()
    answer: str = ""
    regions: tuple[Region, ...] = ()
    earlier: tuple[Turn, ...] = ()
    reasoning: str | None = None
    context: str = ""
    finding: str | None = None
    asked_finding: str | None = None
    subfield: str | None = None
    organ: str | None = None
    level: Level | None = None
    strata: tuple[str, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    origin: Origin
    history: tuple[Event, ...] = ()

    @model_validator(mode="after")
    def _regions_name_their_image(self) -> "Sample":
        for region in self.regions:
            if region.image >= len(self.images):
                raise ValueError(
                    f"sample {self.id}: a region names image {region.image} of {len(self.images)}"
                )
        return self

    @model_validator(mode="after")
    def _an_attribute_has_one_value(self) -> "Sample":
        names = [one.name for one in self.attributes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sample {self.id}: the attribute {name} stands twice")
        return self

    @property
    def scale(self) -> Scale:
        """Whether the question is about whole slides or about pictures of regions."""
        return "slide" if any(image.slide is not None for image in self.images) else "region"

    def attribute(self, name: str) -> str | None:
        """The value of the attribute called `name`; None where nothing is held to be true of it."""
        return next((one.value for one in self.attributes if one.name == name), None)

    def changed(self, event: Event, **fields: object) -> "Sample":
        """A checked copy with `fields` replaced and `event` added to its history."""
        return Sample(**{**dict(self), **fields, "history": (*self.history, event)})
