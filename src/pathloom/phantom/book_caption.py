"""Captions of phantom books: their words with the span of every part, and their lines as set."""

from collections.abc import Sequence
from dataclasses import dataclass

from pathloom.figures import Figure, Panel
from pathloom.phantom.book_art import union
from pathloom.phantom.book_style import BookStyle
from pathloom.phantom.book_text import SIDES, PartStyle, Prose, Segment
from pathloom.phantom.typeset import SetLine, Sheet, break_lines, extent, register_family, tokenise
from pathloom.schema import Box

_LEADING, _HAN_LEADING = 1.2, 1.4
_SHARE_WITHOUT_PARTS, _SHARE_REMARK, _SHARE_SAME_CASE = 0.08, 0.4, 0.05


@dataclass(frozen=True)
class Caption:
    """`sides` are the names that the parts give to panels without letters ("LEFT", "RIGHT"); () otherwise."""

    segments: tuple[Segment, ...]
    sides: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)

    @property
    def shared(self) -> str:
        return " ".join(segment.text for segment in self.segments if segment.role == "shared")

    def part(self, index: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        """A panel's own text and its characters in the caption."""
        start = 0
        for segment in self.segments:
            if segment.role == "part" and index in segment.panels:
                return segment.text, ((start, start + len(segment.text)),)
            start += len(segment.text)
        return "", ()


def printed_number(number: str, style: BookStyle) -> str:
    return number.replace("-", style.separator)


def write_caption(
    prose: Prose,
    style: BookStyle,
    numbers: Sequence[str],
    labels: Sequence[str],
    words: Sequence[str],
    *,
    side_by_side: bool = True,
    earlier: str = "",
) -> Caption:
    """The caption of one figure, or of two that share it; parts where the panels carry letters or stand in pairs.

    `earlier` is the number of a figure that the caption may mention as the same case.
    """
    rules, rng = style.caption, prose.rng
    glue = "" if style.language == "zh" else " "
    joint = "、" if style.language == "zh" else " and "
    template = rules.label if len(numbers) == 1 else rules.labels
    label = template.replace("{n}", joint.join(printed_number(number, style) for number in numbers))
    title = prose.one("figure_titles" if len(numbers) == 1 else "both")
    segments = [Segment(label, "label"), Segment(rules.after, "gap"), Segment(title, "shared")]
    sides = _sides(prose, style, labels, numbers, side_by_side=side_by_side)
    lettered = len(labels) > 1 and bool(labels[0]) and rng.random() > _SHARE_WITHOUT_PARTS
    said = prose.panel_words(words)
    if lettered or sides:
        shown = (
            [label.lower() if style.refs.lower else label for label in labels] if lettered else list(sides)
        )
        manners = tuple(manner for manner in rules.parts if manner != "sides") or ("paren",)
        manner: PartStyle = "sides" if sides else manners[int(rng.integers(len(manners)))]
        segments += [Segment(" ", "gap"), *prose.caption_parts(manner, shown, said)]
    elif style.language == "en" and len(numbers) == 1 and rng.random() < 0.7:
        segments += [Segment(" ", "gap"), Segment(f"{said[0][:1].upper()}{said[0][1:]}.", "shared")]
    parted = any(segment.role == "part" for segment in segments)
    if rng.random() < _SHARE_REMARK:
        # a stain named for one part or in brackets after the last one could be that part's own
        only_bars = parted and any("(" in part for part in said)
        remark = prose.one("bar_remarks" if only_bars else "remarks")
        segments += [Segment(glue if parted else " ", "gap"), Segment(remark, "shared")]
    if earlier and not parted and style.language == "en" and rng.random() < _SHARE_SAME_CASE:
        remark = f"Same case as in {style.refs.long}{printed_number(earlier, style)}."
        segments += [Segment(" ", "gap"), Segment(remark, "shared")]
    return Caption(tuple(segments), tuple(side.upper() for side in sides))


def _sides(
    prose: Prose, style: BookStyle, labels: Sequence[str], numbers: Sequence[str], *, side_by_side: bool
) -> tuple[str, ...]:
    """Names of the sides for two panels without letters, in houses that use them."""
    fits = "sides" in style.caption.parts and len(labels) == 2 and not any(labels) and len(numbers) == 1
    return SIDES[0 if side_by_side else 1] if fits and prose.rng.random() < 0.8 else ()


@dataclass(frozen=True)
class CaptionLines:
    """A caption as set in a width."""

    lines: tuple[SetLine, ...]
    width_pt: float
    style: BookStyle

    @property
    def height_pt(self) -> float:
        size = self.style.caption.size_pt
        return ((len(self.lines) - 1) * self._leading + sum(extent(self.lines[-1]))) * size

    @property
    def _leading(self) -> float:
        return _HAN_LEADING if self.style.language == "zh" else _LEADING

    def draw(self, sheet: Sheet, x: float, top: float) -> Box:
        rules = self.style.caption
        align = rules.align
        if align == "center" and len(self.lines) > 3:  # long captions are not centred
            align = "justify"
        boxes = []
        for number, line in enumerate(self.lines):
            y = top + number * self._leading * rules.size_pt
            boxes.append(sheet.line(line, x, y, self.width_pt, align=align, colours=self._colours()))
        return union(boxes)

    def _colours(self) -> dict[str, str]:
        bold = register_family(self.style.caption.family)[1]
        return {} if self.style.language == "zh" else {bold: self.style.caption.label_colour}


def set_caption(
    caption: Caption, style: BookStyle, width: float, fonts: tuple[str, str, str]
) -> CaptionLines:
    """Break a caption into lines; `fonts` are the regular, bold and italic font of the captions' family."""
    rules = style.caption
    plain = fonts[2] if rules.italic else fonts[0]
    bold_label = fonts[1] if rules.label_bold else plain
    runs: list[tuple[str, str]] = []
    for segment in caption.segments:
        bold = segment.role == "label" or (segment.role == "gap" and len(runs) == 1)
        marked = segment.role == "mark" and rules.marks_bold
        runs.append((segment.text, bold_label if bold else fonts[1] if marked else plain))
    blocks = [runs]
    if rules.own_line:
        cut = 3 if style.language == "zh" else 1
        blocks = [runs[:cut], runs[cut:]]
    lines = [
        line
        for block in blocks
        for line in break_lines(tokenise(block), width, rules.size_pt, hyphenate=rules.hyphenate)
    ]
    return CaptionLines(tuple(lines), width, style)


@dataclass
class Draft:
    """A figure on its way into the book: what is known of it when it is planned, then where it was placed."""

    number: str
    caption: Caption | None
    labels: tuple[str, ...]
    page: int = 0
    box_pt: Box | None = None
    panels_pt: tuple[Box, ...] = ()
    caption_page: int | None = None
    caption_box_pt: Box | None = None

    @property
    def named_labels(self) -> tuple[str, ...]:
        """Labels by which sentences may name its panels."""
        labels = self.caption.sides if self.caption and self.caption.sides else self.labels
        return labels if len(labels) > 1 and labels[0].isalpha() and labels[0] != "I" else ()

    def figure(self) -> Figure:
        assert self.box_pt is not None
        caption = self.caption
        if len(self.panels_pt) == 1:
            panels: tuple[Panel, ...] = (Panel(box_pt=self.box_pt),)
        else:
            labels = caption.sides if caption and caption.sides else self.labels
            panels = tuple(
                Panel(box_pt=box, label=label, text=text, caption_spans=spans)
                for index, (box, label) in enumerate(zip(self.panels_pt, labels, strict=True))
                for text, spans in ((caption.part(index) if caption else ("", ())),)
            )
        return Figure(
            page=self.page,
            box_pt=self.box_pt,
            number=self.number,
            caption=caption.text if caption else "",
            caption_page=self.caption_page,
            caption_box_pt=self.caption_box_pt,
            shared=caption.shared if caption else "",
            panels=panels,
        )
