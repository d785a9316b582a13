"""Which figures, tables and boxes the next page of a phantom book gets."""

from dataclasses import dataclass, replace

from pathloom.phantom.book_art import Art, ImageArt, draw_chart_art, draw_image_art, draw_scheme_art
from pathloom.phantom.book_block import Block, FigureBlock, LateCaption, RowBlock, table_block, text_box
from pathloom.phantom.book_caption import Caption, Draft, set_caption, write_caption
from pathloom.phantom.book_flow import Fonts
from pathloom.phantom.book_style import BookStyle
from pathloom.phantom.book_text import Prose
from pathloom.phantom.composite import CompositeStyle, draw_style

_FIGURES_A_PAGE = (0.24, 0.42, 0.24, 0.10)
_PANEL_SHARES = (0.36, 0.22, 0.1, 0.17, 0.04, 0.07, 0.01, 0.02, 0.01)
_SHARE_OWN_LOOK = 0.3
"""Of figures that are not set in the look of their book: pictures come from many hands."""
_MAX_ART_SHARE = 0.40
"""Of the page's height: taller figures are narrowed."""
_MIN_SIDE_CAPTION_PT = 110.0


@dataclass(frozen=True)
class Planned:
    """A block and where it may go: across the page, in a column, or alone on a page (with its caption overleaf)."""

    block: Block
    wide: bool
    plate_caption: LateCaption | None = None


class Planner:
    """Draws blocks in the style of one book and numbers figures and tables as it goes."""

    def __init__(
        self, prose: Prose, style: BookStyle, fonts: Fonts, column_pt: float, measure_pt: float
    ) -> None:
        self._prose, self._style, self._fonts = prose, style, fonts
        self._column_pt, self._measure_pt = column_pt, measure_pt
        self._look = self._draw_look()
        self._tables = 0
        self._figures = 0
        self.chapter = 0

    def start_chapter(self, chapter: int) -> None:
        self.chapter = chapter
        self._tables = 0
        if not self._style.running:
            self._figures = 0

    def plan_page(self, *, plates: bool) -> list[Planned]:
        """Blocks for a page; `plates` allows a figure that fills it."""
        rng = self._prose.rng
        if plates and rng.random() < 0.035:
            return [self._plate()]
        planned = [self._figure() for _ in range(int(rng.choice(4, p=_FIGURES_A_PAGE)))]
        width, wide = self._width()
        if rng.random() < 0.14:
            self._tables += 1
            number = f"{self.chapter}-{self._tables}"
            planned.append(
                Planned(table_block(self._prose, self._style, width, number, self._fonts.caption), wide)
            )
        elif rng.random() < 0.1:
            number = f"{self.chapter}-{int(rng.integers(1, 6))}"
            planned.append(Planned(text_box(self._prose, self._style, width, number, self._fonts.body), wide))
        return planned

    def opening_photo(self) -> FigureBlock:
        """A photograph without number and caption, at the head of a chapter."""
        art = draw_image_art(self._prose.rng, self._style, self._look, 1, charts=False)
        width = self._measure_pt * float(self._prose.rng.uniform(0.5, 1.0))
        width = min(width, 0.3 * self._style.page_pt[1] * art.aspect)
        return FigureBlock(Draft("", None, ("",)), art, self._measure_pt, width, None)

    def _width(self) -> tuple[float, bool]:
        if self._style.columns == 1:
            return self._measure_pt, True
        wide = self._prose.rng.random() < 0.4
        return (self._measure_pt if wide else self._column_pt), wide

    def _number(self) -> str:
        self._figures += 1
        return self._named(self._figures)

    def _named(self, count: int) -> str:
        return f"{count}" if self._style.running else f"{self.chapter}-{count}"

    def _figure(self) -> Planned:
        draw = self._prose.rng.random()
        if draw < 0.05:
            return self._photo()
        if draw < 0.14:
            return Planned(self._row(), wide=True)
        if draw < 0.19:
            return Planned(self._joint(), wide=True)
        width, wide = self._width()
        art = self._art(wide)
        if wide and "beside" in self._style.caption.places and self._prose.rng.random() < 0.4:
            return Planned(self._beside(art), wide=True)
        return Planned(self._single(art, width), wide)

    def _art(self, wide: bool) -> Art:
        rng = self._prose.rng
        draw = rng.random()
        if draw < 0.12:
            return draw_chart_art(rng, self._look, int(rng.integers(1, 4)) if wide else 1)
        if draw < 0.16:
            return draw_scheme_art(rng)
        count = 1 + int(rng.choice(9, p=_PANEL_SHARES))
        return self._pictures(count if wide else min(count, 6))

    def _draw_look(self) -> CompositeStyle:
        """A look in the book's form of letters; single figures may go without letters, not the book."""
        look = replace(draw_style(self._prose.rng), letter_form=self._style.letter_form)
        return replace(look, letter_place="inside") if look.letter_place == "none" else look

    def _pictures(self, count: int) -> ImageArt:
        rng = self._prose.rng
        own = self._draw_look() if rng.random() < _SHARE_OWN_LOOK else self._look
        bare = rng.random() < (0.3 if "sides" in self._style.caption.parts and count == 2 else 0.08)
        look: CompositeStyle = replace(own, letter_place="none") if bare else own
        return draw_image_art(rng, self._style, look, count)

    def _caption_of(self, art: Art, numbers: list[str]) -> Caption:
        side_by_side = True
        if isinstance(art, ImageArt) and len(art.composite.panels) == 2:
            first, second = (panel.box_px for panel in art.composite.panels)
            side_by_side = second[0] >= first[2]
        return write_caption(
            self._prose,
            self._style,
            numbers,
            art.labels,
            art.words,
            side_by_side=side_by_side,
            earlier=self._named(self._figures - 1) if self._figures > 1 else "",
        )

    def _art_width(self, art: Art, width: float, share: float = _MAX_ART_SHARE) -> float:
        full = width if self._prose.rng.random() < 0.75 else width * float(self._prose.rng.uniform(0.7, 1.0))
        return min(full, share * self._style.page_pt[1] * art.aspect)

    def _single(
        self, art: Art, width: float, *, share: float = _MAX_ART_SHARE, full: bool = False
    ) -> FigureBlock:
        rng = self._prose.rng
        number = self._number()
        caption = self._caption_of(art, [number])
        art_width = (
            min(width, share * self._style.page_pt[1] * art.aspect) if full else self._art_width(art, width)
        )
        places = [place for place in self._style.caption.places if place != "beside"]
        return FigureBlock(
            Draft(number, caption, art.labels),
            art,
            width,
            art_width,
            set_caption(caption, self._style, width, self._fonts.caption),
            "above" if places[int(rng.integers(len(places)))] == "above" and rng.random() < 0.6 else "below",
            gap_pt=float(rng.uniform(4, 9)),
        )

    def _beside(self, art: Art) -> FigureBlock:
        """The caption left or right of the figure, in what is left of the measure."""
        rng = self._prose.rng
        number = self._number()
        caption = self._caption_of(art, [number])
        gap = 12.0
        art_width = min(
            self._measure_pt * float(rng.uniform(0.55, 0.72)),
            self._measure_pt - gap - _MIN_SIDE_CAPTION_PT,
            _MAX_ART_SHARE * self._style.page_pt[1] * art.aspect,
        )
        lines = set_caption(caption, self._style, self._measure_pt - gap - art_width, self._fonts.caption)
        return FigureBlock(
            Draft(number, caption, art.labels),
            art,
            self._measure_pt,
            art_width,
            lines,
            "right" if rng.random() < 0.6 else "left",
            caption_at_bottom=bool(rng.random() < 0.4),
        )

    def _row(self) -> RowBlock:
        gap = max(self._style.column_gap_pt, 16.0)
        width = (self._measure_pt - gap) / 2
        first, second = (
            self._single(self._pictures(int(self._prose.rng.choice((1, 1, 2)))), width, share=0.3, full=True)
            for _ in range(2)
        )
        return RowBlock((replace(first, place="below"), replace(second, place="below")), gap)

    def _joint(self) -> RowBlock:
        """Two figures side by side under one caption."""
        gap = max(self._style.column_gap_pt, 16.0)
        width = (self._measure_pt - gap) / 2
        arts = [self._pictures(1) for _ in range(2)]
        numbers = [self._number() for _ in arts]
        caption = write_caption(self._prose, self._style, numbers, ("",), (arts[0].words[0],))
        height = min(width / max(art.aspect for art in arts), 0.3 * self._style.page_pt[1])
        parts = tuple(
            FigureBlock(Draft(number, caption, art.labels), art, width, min(width, height * art.aspect), None)
            for number, art in zip(numbers, arts, strict=True)
        )
        lines = set_caption(caption, self._style, self._measure_pt, self._fonts.caption)
        return RowBlock((parts[0], parts[1]), gap, lines)

    def _photo(self) -> Planned:
        width, wide = self._width()
        art = draw_image_art(self._prose.rng, self._style, self._look, 1, charts=False)
        return Planned(
            FigureBlock(Draft("", None, ("",)), art, width, self._art_width(art, width, 0.3), None), wide
        )

    def _plate(self) -> Planned:
        """A figure that fills a page; its caption stands on the next."""
        count = int(self._prose.rng.choice((4, 6, 6, 8)))
        block = self._single(self._pictures(count), self._measure_pt, share=0.78, full=True)
        assert block.caption is not None
        return Planned(replace(block, caption=None), True, LateCaption(block.draft, block.caption))


def targets_of(drafts: list[Draft]) -> list[tuple[str, tuple[str, ...]]]:
    """Figures with a number, as sentences can name them."""
    return [(draft.number, draft.named_labels) for draft in drafts if draft.number]
