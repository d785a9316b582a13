"""How well found figures agree with known ones: boxes, captions, panels, caption parts and references.

Everything is counted per page and pooled over all pages of all books (micro average). Intervals are percentile
bootstrap over pages (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3): pages of one book are
alike, so an interval says how far other pages of the same books would move a number, not what another book gives.

Texts are compared as `folded`. A text of the truth that ends in an ellipsis is a beginning: it is compared with the
best fitting beginning of the found text (by_eye.json of the tests holds no whole texts of other people).
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pathloom.books.geometry import iou
from pathloom.figures import Book, Figure, Panel, Reference

BOX_IOU = 0.8
"""Overlap at which a figure's box counts as right, as for the regions of pdffigures2 (Clark & Divvala 2016)."""
SAME_FIGURE_IOU = 0.5
"""Overlap at which two boxes mean one thing (PASCAL VOC, Everingham et al. 2010); binding and texts start from it."""
SAME_CAPTION = 0.9
SAME_SENTENCE = 0.8
"""Edit similarities from which two texts count as one. Our own choice: OCR errors stay above, a neighbour's text falls
far below; sentences are cut less certainly than captions."""
PAGE_SLACK = 1
"""A sentence that runs over a page's end may be put on either page."""
BEGINNING = "…"

Floats = NDArray[np.float64]
PageKey = tuple[str, int]
_Item = TypeVar("_Item")


# ------------------------------------------------------------------------------------------------- results
@dataclass(frozen=True)
class Interval:
    """A measure and its 95 % interval; NaN where there is nothing to measure."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "nothing to measure"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Rates:
    """Precision, recall and F1, with the counts they are made of."""

    precision: Interval
    recall: Interval
    f1: Interval
    right: int
    found: int
    true: int


@dataclass(frozen=True)
class Measured:
    """All measures of found against true books.

    figure_box           boxes matched one to one on their page at IoU 0.8; `figure_iou` is the mean IoU of the matches
    caption_binding      pairs of figure and caption: the figure matches at IoU 0.5, number and text are the true ones
    caption_distance     mean edit distance / longer length, over figures matched at IoU 0.5 whose number is the true
                         one and that have a caption on both sides: how well captions are read, not how they are bound
    panel_ap50, ..75     average precision over all panels, all-point interpolated (VOC 2010), one class
    caption_part         panels with a text: box at IoU 0.5 and text
    reference            sentences: number, page within one, text; `reference_panels`: the set of panels too
    """

    figure_box: Rates
    figure_iou: Interval
    caption_binding: Rates
    caption_distance: Interval
    panel_ap50: Interval
    panel_ap75: Interval
    caption_part: Rates
    reference: Rates
    reference_panels: Rates
    num_books: int
    num_pages: int
    num_panels: int

    def table(self) -> list[str]:
        """Lines of a markdown table that also reads well in a terminal."""
        rows = [("measure", "value [95 % over pages]", "right / found / true")]
        for field_name, one in vars(self).items():
            name = field_name.replace("_", " ")
            if isinstance(one, Rates):
                counts = f"{one.right} / {one.found} / {one.true}"
                parts = ("f1", one.f1, counts), ("precision", one.precision, ""), ("recall", one.recall, "")
                rows += [(f"{name} {part}", str(interval), at_end) for part, interval, at_end in parts]
            elif isinstance(one, Interval):
                rows += [(name, str(one), "")]
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
        return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the fields by name, intervals as {value, low, high}; NaN becomes None."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(inner) for key, inner in value.items()}
            return None if isinstance(value, float) and math.isnan(value) else value

        return {name: plain(value) for name, value in asdict(self).items()}


# ------------------------------------------------------------------------------------------------- public
def measure(
    found: Sequence[Book], truth: Sequence[Book], *, seed: int = 0, num_resamples: int = 1000
) -> Measured:
    """Compare the books of the same name. A true book that was not found counts as all missed.

    The same seed gives the same intervals. Raises ValueError for no truth, for a found book without truth and
    for a name that stands twice on one side.
    """
    pairs = _paired(found, truth)
    marks = _judge(pairs)
    pages = [(true.name, page + 1) for book, true in pairs for page in range(_num_pages(book, true))]
    resampled = _Resampled(pages, seed, num_resamples)
    return Measured(
        figure_box=resampled.rates(marks.figure_box),
        figure_iou=resampled.mean(marks.figure_box),
        caption_binding=resampled.rates(marks.caption_binding),
        caption_distance=resampled.mean(marks.caption_binding),
        panel_ap50=resampled.average_precision(marks.panel_50),
        panel_ap75=resampled.average_precision(marks.panel_75),
        caption_part=resampled.rates(marks.caption_part),
        reference=resampled.rates(marks.reference),
        reference_panels=resampled.rates(marks.reference_panels),
        num_books=len(pairs),
        num_pages=len(pages),
        num_panels=sum(mark.true for mark in marks.panel_50),
    )


def mistakes(found: Sequence[Book], truth: Sequence[Book]) -> list[str]:
    """A line for each thing missed, invented or wrong: book, page, what was expected, what was found.

    In the order of books and pages. Panels are judged at IoU 0.5. A reference with wrong panels makes two lines.
    """
    marks = _judge(_paired(found, truth))
    order = {book.name: place for place, book in enumerate(truth)}
    boxes, texts = marks.figure_box + marks.panel_50, marks.caption_binding + marks.caption_part
    judged = boxes + texts + marks.reference_panels
    wrong = sorted((mark for mark in judged if not mark.right), key=lambda m: (order[m.page[0]], m.page[1]))
    return [f"{mark.page[0]} p. {mark.page[1]}: {mark.says}" for mark in wrong]


def folded(text: str) -> str:
    """The form in which texts are compared: NFKC, case folded; no white space, quotes or control characters."""
    categories = ((char, unicodedata.category(char)) for char in unicodedata.normalize("NFKC", text))
    kept = (
        "-" if category == "Pd" else char
        for char, category in categories
        if category[0] not in "CZ" and category not in ("Pi", "Pf") and char not in "'\""
    )
    return "".join(kept).casefold()


@lru_cache(maxsize=100_000)
def similarity(found: str, true: str) -> float:
    """1 - edit distance / length of the longer, as folded; a beginning against the best beginning of `found`."""
    start = true.endswith(BEGINNING)
    one, other = folded(true.removesuffix(BEGINNING)), folded(found)
    if one == other:
        return 1.0
    last_row = _edit_distances(one, other)
    if start:
        return 1 - float(last_row.min()) / max(len(one), 1)
    return 1 - float(last_row[-1]) / max(len(one), len(other))


def _edit_distances(one: str, other: str) -> NDArray[np.int64]:
    """Levenshtein distance of `one` to each beginning of `other` [len(other) + 1]."""
    places = np.arange(len(other) + 1)
    codes = np.array([ord(char) for char in other], dtype=np.int64)
    row = places.copy()
    for char in one:
        stepped = row + 1
        stepped[1:] = np.minimum(stepped[1:], row[:-1] + (codes != ord(char)))
        # Insertions run along the row: the least of (value at j + distance from j).
        row = np.minimum.accumulate(stepped - places) + places
    return row


# ------------------------------------------------------------------------------------------------ judging
@dataclass(frozen=True)
class _Mark:
    """One thing that is found, true or both (then matched); `right` where the match holds.

    `value` is what a mean is of, NaN left out; `score` orders detections; `says` explains a wrong one.
    """

    page: PageKey
    found: bool
    true: bool
    right: bool = False
    value: float = math.nan
    score: float = 1.0
    says: str = ""


@dataclass(frozen=True)
class _Marks:
    figure_box: list[_Mark] = field(default_factory=list)
    caption_binding: list[_Mark] = field(default_factory=list)
    panel_50: list[_Mark] = field(default_factory=list)
    panel_75: list[_Mark] = field(default_factory=list)
    caption_part: list[_Mark] = field(default_factory=list)
    reference: list[_Mark] = field(default_factory=list)
    reference_panels: list[_Mark] = field(default_factory=list)


def _judge(pairs: Sequence[tuple[Book, Book]]) -> _Marks:
    marks = _Marks()
    for book, true in pairs:
        for page in sorted({figure.page for figure in (*book.figures, *true.figures)}):
            key = (true.name, page)
            here = [[figure for figure in side.figures if figure.page == page] for side in (book, true)]
            panels = [[panel for figure in side for panel in figure.panels] for side in here]
            marks.figure_box.extend(_judge_boxes(key, *here))
            marks.caption_binding.extend(_judge_binding(key, *here))
            marks.panel_50.extend(_judge_panels(key, *panels, at_iou=SAME_FIGURE_IOU))
            marks.panel_75.extend(_judge_panels(key, *panels, at_iou=0.75))
            marks.caption_part.extend(_judge_parts(key, *panels))
        marks.reference.extend(_judge_references(book, true, panels_count=False))
        marks.reference_panels.extend(_judge_references(book, true, panels_count=True))
    return marks


def _matched(
    found: Sequence[_Item], true: Sequence[_Item], worth: Callable[[_Item, _Item], float]
) -> list[tuple[_Item | None, _Item | None, float]]:
    """One-to-one: as many pairs of positive worth as possible, then the greatest sum. Then what is left."""
    from scipy.optimize import linear_sum_assignment

    worths = np.array([[worth(one, other) for other in true] for one in found]).reshape(len(found), len(true))
    # Worth is at most 1: one more pair outweighs any gain in worth.
    rows, columns = linear_sum_assignment(np.where(worths > 0, worths + len(worths) + 1, 0), maximize=True)
    chosen = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if worths[i, j] > 0]
    paired: list[tuple[_Item | None, _Item | None, float]] = [
        (found[i], true[j], float(worths[i, j])) for i, j in chosen
    ]
    taken, met = {i for i, _ in chosen}, {j for _, j in chosen}
    paired += [(one, None, 0.0) for i, one in enumerate(found) if i not in taken]
    paired += [(None, other, 0.0) for j, other in enumerate(true) if j not in met]
    return paired


def _overlap_from(least: float) -> Callable[[Figure | Panel, Figure | Panel], float]:
    def worth(one: Figure | Panel, other: Figure | Panel) -> float:
        overlap = iou(one.box_pt, other.box_pt)
        return overlap if overlap >= least else 0.0

    return worth


def _judge_boxes(key: PageKey, found: list[Figure], true: list[Figure]) -> Iterable[_Mark]:
    for one, other, overlap in _matched(found, true, _overlap_from(BOX_IOU)):
        if one and other:
            yield _Mark(key, True, True, right=True, value=overlap)
        elif other:
            says = f"figure {other.number} at {_at(other)} missed; {_near(other, found)} is found"
            yield _Mark(key, False, True, says=says)
        elif one:
            says = f"no figure at {_at(one)}, found as {one.number!r}; {_near(one, true)} is true"
            yield _Mark(key, True, False, says=says)


def _judge_binding(key: PageKey, found: list[Figure], true: list[Figure]) -> Iterable[_Mark]:
    for one, other, _ in _matched(found, true, _overlap_from(SAME_FIGURE_IOU)):
        has = bool(one and one.caption)
        should = bool(other and other.caption)
        alike = math.nan
        if one and other and has and should and one.number == other.number:
            alike = similarity(one.caption, other.caption)
        if has or should:
            says = f"caption of {_at(other or one)}: expected {_cited(other)}, found {_cited(one)}"
            yield _Mark(key, has, should, right=alike >= SAME_CAPTION, value=1 - alike, says=says)


def _judge_panels(key: PageKey, found: list[Panel], true: list[Panel], *, at_iou: float) -> Iterable[_Mark]:
    """Greedy by score as COCO does; among equal scores the better overlap goes first, so file order says nothing."""
    overlaps = {i: [iou(one.box_pt, other.box_pt) for other in true] for i, one in enumerate(found)}
    free = set(range(len(true)))
    for i in sorted(overlaps, key=lambda i: (-found[i].score, -max(overlaps[i], default=0.0))):
        best = max(free, key=lambda j: (overlaps[i][j], -j), default=None)
        if best is not None and overlaps[i][best] >= at_iou:
            free.remove(best)
            yield _Mark(key, True, True, right=True, score=found[i].score)
        else:
            says = f"no panel at {_at(found[i])}; {_near(found[i], true)} is true"
            yield _Mark(key, True, False, score=found[i].score, says=says)
    for j in sorted(free):
        says = f"panel {true[j].label!r} at {_at(true[j])} missed; {_near(true[j], found)} is found"
        yield _Mark(key, False, True, says=says)


def _judge_parts(key: PageKey, found: list[Panel], true: list[Panel]) -> Iterable[_Mark]:
    def worth(one: Panel, other: Panel) -> float:
        overlap = iou(one.box_pt, other.box_pt)
        same = overlap >= SAME_FIGURE_IOU and similarity(one.text, other.text) >= SAME_CAPTION
        return overlap if same else 0.0

    told, to_tell = ([panel for panel in side if panel.text] for side in (found, true))
    for one, other, _ in _matched(told, to_tell, worth):
        if one and other:
            yield _Mark(key, True, True, right=True)
        elif other:
            near = max(found, key=lambda panel: iou(panel.box_pt, other.box_pt), default=None)
            says = f"part {other.label!r}: expected {other.text[:60]!r}, there is {near and near.text[:60]!r}"
            yield _Mark(key, False, True, says=says)
        elif one:
            says = f"part {one.label!r} at {_at(one)} has the text {one.text[:60]!r}, which is not its own"
            yield _Mark(key, True, False, says=says)


def _judge_references(book: Book, true: Book, *, panels_count: bool) -> Iterable[_Mark]:
    def worth(one: Reference, other: Reference) -> float:
        if one.number != other.number or abs(one.page - other.page) > PAGE_SLACK:
            return 0.0
        if panels_count and set(one.panels) != set(other.panels):
            return 0.0
        alike = similarity(one.sentence, other.sentence)
        return alike if alike >= SAME_SENTENCE else 0.0

    def cited(one: Reference) -> str:
        return f"{one.number} {'/'.join(one.panels)}".strip() + f" in {one.sentence[:60]!r}"

    for number in sorted({one.number for one in (*book.references, *true.references)}):
        told, to_tell = ([one for one in side.references if one.number == number] for side in (book, true))
        for one, other, _ in _matched(told, to_tell, worth):
            if one and other:
                yield _Mark((true.name, other.page), True, True, right=True)
            elif other:
                yield _Mark((true.name, other.page), False, True, says=f"reference to {cited(other)} missed")
            elif one:
                yield _Mark((true.name, one.page), True, False, says=f"no such reference: {cited(one)}")


def _near(thing: Figure | Panel, others: Sequence[Figure | Panel]) -> str:
    """The closest of the others and how close it is."""
    best = max(others, key=lambda other: iou(thing.box_pt, other.box_pt), default=None)
    return "nothing" if best is None else f"{_at(best)}, IoU {iou(thing.box_pt, best.box_pt):.2f},"


def _at(thing: Figure | Panel | None) -> str:
    return "nowhere" if thing is None else "(" + ", ".join(f"{edge:.0f}" for edge in thing.box_pt) + ")"


def _cited(figure: Figure | None) -> str:
    if figure is None:
        return "no such figure"
    return f"{figure.number} {figure.caption[:60]!r}" if figure.caption else "no caption"


def _paired(found: Sequence[Book], truth: Sequence[Book]) -> list[tuple[Book, Book]]:
    if not truth:
        raise ValueError("no books to measure against")
    by_name = {book.name: book for book in found}
    names = {book.name for book in truth}
    if len(by_name) < len(found) or len(names) < len(truth):
        raise ValueError("a name stands twice among the books of one side; it must tell them apart")
    if unknown := sorted(by_name.keys() - names):
        raise ValueError(f"no truth for {len(unknown)} found books, first {unknown[0]!r}")
    return [(by_name.get(true.name, Book(name=true.name, num_pages=0)), true) for true in truth]


def _num_pages(*books: Book) -> int:
    figures = [figure.page for book in books for figure in book.figures]
    references = [reference.page for book in books for reference in book.references]
    return max([*(book.num_pages for book in books), *figures, *references])


# --------------------------------------------------------------------------------------------- resampling
class _Resampled:
    """Sums over pages, and over pages drawn again; row 0 of `_weights` [resample, page] is every page once."""

    def __init__(self, pages: Sequence[PageKey], seed: int, num_resamples: int) -> None:
        self._place = {page: place for place, page in enumerate(pages)}
        share = np.full(len(pages), 1 / len(pages))
        drawn = np.random.default_rng(seed).multinomial(len(pages), share, size=num_resamples)
        self._weights = np.vstack([np.ones((1, len(pages))), drawn]).astype(np.float64)

    def _sums(self, marks: Iterable[tuple[PageKey, float]]) -> Floats:
        by_page = np.zeros(len(self._place))
        for page, amount in marks:
            by_page[self._place[page]] += amount
        return self._weights @ by_page

    def rates(self, marks: Sequence[_Mark]) -> Rates:
        right = self._sums((mark.page, float(mark.right)) for mark in marks)
        found = self._sums((mark.page, float(mark.found)) for mark in marks)
        true = self._sums((mark.page, float(mark.true)) for mark in marks)
        return Rates(
            precision=_interval(_ratio(right, found)),
            recall=_interval(_ratio(right, true)),
            f1=_interval(_ratio(2 * right, found + true)),
            right=int(right[0]),
            found=int(found[0]),
            true=int(true[0]),
        )

    def mean(self, marks: Sequence[_Mark]) -> Interval:
        valued = [mark for mark in marks if not math.isnan(mark.value)]
        total = self._sums((mark.page, mark.value) for mark in valued)
        return _interval(_ratio(total, self._sums((mark.page, 1.0) for mark in valued)))

    def average_precision(self, marks: Sequence[_Mark]) -> Interval:
        """Area under the upper envelope of precision over recall; equal scores make one point of the curve."""
        num_true = self._sums((mark.page, float(mark.true)) for mark in marks)
        detections = sorted((mark for mark in marks if mark.found), key=lambda mark: -mark.score)
        if not detections:
            return _interval(np.where(num_true > 0, 0.0, math.nan))
        scores = np.array([mark.score for mark in detections])
        right = np.array([mark.right for mark in detections], dtype=np.float64)
        last_of_score = np.flatnonzero(np.append(np.diff(scores) != 0, True))
        places = [self._place[mark.page] for mark in detections]
        values = []
        for weights, true in zip(self._weights, num_true, strict=True):
            hits = np.cumsum(right * weights[places])[last_of_score]
            precision = _ratio(hits, np.cumsum(weights[places])[last_of_score])
            envelope = np.maximum.accumulate(np.nan_to_num(precision)[::-1])[::-1]
            gained = np.diff(hits, prepend=0.0)
            values.append(float((gained * envelope).sum()) / true if true else math.nan)
        return _interval(np.array(values))


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), math.nan)


def _interval(values: Floats) -> Interval:
    """The first value with the 2.5 % and 97.5 % points of the others that are defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, (2.5, 97.5)) if len(drawn) else (math.nan, math.nan)
    return Interval(float(values[0]), float(low), float(high))
