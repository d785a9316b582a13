"""What an evaluation hands to its report: plain frozen records, checked where they are made."""

import math
from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pathloom.evaluate.metrics import Difference

CONTROLS = ("none", "no_image", "wrong_image", "shuffled_options", "shuffled_routes")

SHARE_REASONING = "share_reasoning"
"""The metric that a row of every benchmark and control has: the share of answers with reasoning before them."""

# JSON has no NaN: a number that could not be computed is written as null and read back as NaN.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
# Where None is the honest word for "makes no sense here", NaN means the same.
Known = Annotated[float | None, BeforeValidator(lambda value: None if value != value else value)]
ControlName = Annotated[str, Field(pattern=f"^({'|'.join(CONTROLS)})$")]
Box = tuple[float, float, float, float]
Point = tuple[float, float]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Model):
    """One metric of one stage on one benchmark; low and high bound its 95 % interval, all in its own unit."""

    stage: str
    benchmark: str
    task: str
    metric: str
    control: ControlName
    value: Number
    low: Number
    high: Number
    n: int
    chance: Known
    primary: bool = False


class Comparison(_Model):
    """The paired difference after minus before, on the samples both stages answered."""

    before: str
    after: str
    benchmark: str
    metric: str
    difference: Number
    low: Number
    high: Number
    n: int
    p_value: Known

    @classmethod
    def of(cls, before: str, after: str, benchmark: str, metric: str, found: Difference) -> "Comparison":
        """A paired difference between two sides, in the metric's own unit."""
        return cls(before=before, after=after, benchmark=benchmark, metric=metric, **asdict(found))


class Curve(_Model):
    """One quantity against the training step; repeat the same stage and name once per fold."""

    stage: str
    name: str
    steps: tuple[int, ...]
    values: tuple[Number, ...]

    @model_validator(mode="after")
    def _one_value_per_step(self) -> "Curve":
        if len(self.steps) != len(self.values):
            raise ValueError(f"curve {self.name}: {len(self.steps)} steps but {len(self.values)} values")
        return self


class Confusion(_Model):
    """Counts, truth in rows and prediction in columns; one extra column without a label is "no answer"."""

    stage: str
    benchmark: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @model_validator(mode="after")
    def _counts_fit_labels(self) -> "Confusion":
        columns = {len(row) for row in self.counts}
        if len(self.counts) > len(self.labels) or not columns <= {len(self.labels), len(self.labels) + 1}:
            raise ValueError(f"confusion of {self.benchmark}: counts do not fit {len(self.labels)} labels")
        if len(columns) > 1:
            raise ValueError(f"confusion of {self.benchmark}: rows differ in length")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        extra = bool(self.counts) and len(self.counts[0]) > len(self.labels)
        return (*self.labels, "no answer") if extra else self.labels


class Example(_Model):
    """One answered sample; boxes are (x0, y0, x1, y1) and points (x, y) in pixels of the first image, width_px by
    height_px. A slide is shown by a thumbnail; `outlines_png` are the true masks' outlines on nothing, over the image.
    """

    sample_id: str
    stage: str
    benchmark: str
    task: str
    control: ControlName
    images_png: tuple[bytes, ...] = ()
    outlines_png: bytes = b""
    is_slide: bool = False
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    true_boxes_px: tuple[Box, ...]
    predicted_boxes_px: tuple[Box, ...]
    predicted_points_px: tuple[Point, ...] = ()
    question: str
    options: tuple[str, ...]
    reasoning: str
    answer: str | None
    truth: str
    correct: Number
    completion: str

    @property
    def outcome(self) -> str:
        """ "right" at full credit, "wrong" at none, "partly" between."""
        if self.correct >= 0.9995:
            return "right"
        return "partly" if self.correct > 0 else "wrong"

    def names_option(self, given: str | None, index: int) -> bool:
        """whether `given` means option `index`: its text, its letter, or the letter it opens with."""
        if given is None:
            return False
        given, option = given.strip(), self.options[index].strip()
        letters = {chr(ord("A") + index), option[:1]} if _lettered(option) else {chr(ord("A") + index)}
        return given == option or (given not in self.options and given in letters)


class Table(_Model):
    """Facts about a set of Samples; cells are shown as they are written."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Written(_Model):
    """A Sample to learn from, as a stage that makes data left it; `by` is what or who wrote it."""

    sample_id: str
    task: str
    labels: str
    by: str
    image_png: bytes | None = None
    context: str
    earlier: tuple[tuple[str, str], ...] = ()
    question: str
    options: tuple[str, ...] = ()
    answer: str
    reasoning: str


class Cell(_Model):
    """A number of a board with its 95 % interval where one was computed; in the column's own unit."""

    value: Number
    low: Known = None
    high: Known = None


class BoardRow(_Model):
    """One encoder, or what the board is `of`. Published rows are what a paper printed, shown apart from those here."""

    name: str
    origin: Literal["measured", "published"]
    source: str = Field(
        description="the encoder with the hash of its weights, or where the numbers are printed"
    )
    cells: tuple[Cell | None, ...] = Field(description="None: not measured, not printed")

    @property
    def values(self) -> tuple[float | None, ...]:
        """Of the cells, without their intervals."""
        return tuple(cell.value if cell else None for cell in self.cells)


class BoxPlot(_Model):
    """Runs as boxes: `series` maps a name to the values of its runs at each of `x`."""

    title: str
    x_label: str
    y_label: str
    x: tuple[str, ...]
    series: dict[str, tuple[tuple[Number, ...], ...]]
    chance: Known = None

    @model_validator(mode="after")
    def _one_box_an_x(self) -> "BoxPlot":
        for name, boxes in self.series.items():
            if len(boxes) != len(self.x):
                raise ValueError(
                    f"plot {self.title}, series {name}: {len(boxes)} boxes, {len(self.x)} places"
                )
        return self


class Board(_Model):
    """Encoders, or other things that `of` names, side by side: a row each, columns of measures.

    `digits` after the point are shown. In every column of several rows more is better.
    """

    stage: str
    title: str
    of: str = "encoder"
    columns: tuple[str, ...]
    rows: tuple[BoardRow, ...]
    digits: int = Field(default=3, ge=0)
    notes: tuple[str, ...] = ()
    plots: tuple[BoxPlot, ...] = ()
    columns_compared: int = Field(
        default=0, ge=0, description="first columns that stand side by side; 0: the rows do"
    )

    @model_validator(mode="after")
    def _one_cell_a_column(self) -> "Board":
        for row in self.rows:
            if len(row.cells) != len(self.columns):
                raise ValueError(
                    f"board {self.title}, row {row.name}: {len(row.cells)} cells, {len(self.columns)} columns"
                )
        return self

    def best(self) -> frozenset[tuple[int, int]]:
        """(row, column) of the highest measured values as they are shown: of each column or, where columns stand side
        by side, of each row; none where there is one value alone.
        """
        among: dict[int, dict[tuple[int, int], float]] = {}
        for place, row in enumerate(self.rows):
            for at, cell in enumerate(row.cells[: self.columns_compared or None]):
                if row.origin == "measured" and cell and math.isfinite(cell.value):
                    values = among.setdefault(place if self.columns_compared else at, {})
                    values[place, at] = round(cell.value, self.digits)
        return frozenset(
            place
            for values in among.values()
            for place, value in values.items()
            if len(values) > 1 and value == max(values.values())
        )


class Measured(_Model):
    """What a stage that measures encoders leaves in BOARDS_FILE."""

    boards: tuple[Board, ...]
    confusions: tuple[Confusion, ...] = ()
    comparisons: tuple[Comparison, ...] = ()


BOARDS_FILE = "boards.json"


class DataStage(_Model):
    """What a stage that makes or sorts data left: Samples by task, Drops by reason, facts, some Samples."""

    stage: str
    kind: str
    kept: dict[str, int]
    drops: dict[str, int]
    tables: tuple[Table, ...] = ()
    written: tuple[Written, ...] = ()


class Report(_Model):
    """All that a page shows; `created` is an ISO 8601 time, `seconds` the wall-clock time of each stage."""

    recipe: str
    title: str
    created: str
    rows: tuple[Row, ...] = ()
    data: tuple[DataStage, ...] = ()
    boards: tuple[Board, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    examples: tuple[Example, ...] = ()
    seconds: dict[str, Number] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def _lettered(option: str) -> bool:
    return len(option) > 1 and option[0].isalpha() and option[1] in ".):"
