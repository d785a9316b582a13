"""The running text of a phantom book: paragraphs, headings, lists and equations as lines, asked for one by one."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pathloom.figures import Reference
from pathloom.phantom.book_style import BookStyle
from pathloom.phantom.book_text import Prose, Sentence, Target
from pathloom.phantom.typeset import Align, SetLine, break_lines, tokenise

_SHARE_REFERRING = 0.42
"""Share of sentences that name a figure while some near the page is not yet named."""


def _in_a_row(targets: Sequence[Target]) -> bool:
    """Whether three figures have neighbouring numbers, so that a range names them all and no other."""
    last = [int(number.rpartition("-")[2]) for number, _ in targets]
    chapters = {number.rpartition("-")[0] for number, _ in targets}
    return len(targets) == 3 and len(chapters) == 1 and last == list(range(last[0], last[0] + 3))


@dataclass(frozen=True)
class Fonts:
    """Regular, bold and italic of the body, of headings and of captions."""

    body: tuple[str, str, str]
    heading: tuple[str, str, str]
    caption: tuple[str, str, str]


@dataclass(frozen=True)
class FlowLine:
    """A line of running text; `keep` forbids a column to end with it."""

    line: SetLine
    step_pt: float
    align: Align
    space_before_pt: float = 0.0
    keep: bool = False
    colours: Mapping[str, str] | None = None
    bibliography: bool = False


class Flow:
    """Lines of running text in one measure. `targets` are the figures near the page, for sentences to name."""

    def __init__(self, prose: Prose, style: BookStyle, width_pt: float, fonts: Fonts) -> None:
        self._prose = prose
        self._style = style
        self._width_pt = width_pt
        self._fonts = fonts
        self._sentences: list[Sentence] = []
        self._pages: list[int | None] = []
        self._unset: set[int] = set()
        self._queue: deque[FlowLine] = deque()
        self._named: set[str] = set()
        self._entries = 0
        self._since_heading = 99
        self.targets: list[Target] = []
        self.far_targets: list[Target] = []
        self.closing = False

    def peek(self) -> FlowLine:
        while not self._queue:
            self._write()
        return self._queue[0]

    def take(self, page: int) -> FlowLine:
        """The next line, which now stands on `page`."""
        flow = self.peek()
        self._queue.popleft()
        for token in flow.line.tokens:
            if token.starts is not None:
                self._pages[token.starts] = page
        return flow

    def start_chapter(self) -> None:
        """The next line begins a chapter: what is left of a bibliography is dropped."""
        self._queue = deque(flow for flow in self._queue if not flow.bibliography)
        self.closing, self._entries, self._since_heading = False, 0, 99

    def references(self, numbers: frozenset[str]) -> tuple[Reference, ...]:
        """A Reference for each figure of `numbers` that a whole sentence in the book names."""
        cut = {token.starts for flow in self._queue for token in flow.line.tokens}
        last_cut = bool(self._queue)
        placed = [i for i, page in enumerate(self._pages) if page is not None and i not in cut]
        if last_cut and placed:
            placed.pop()  # the sentence that the end of the book cuts off
        return tuple(
            Reference(page=page, sentence=self._sentences[i].text, number=number, panels=panels)
            for i in placed
            for page in (self._pages[i],)
            if page is not None
            for number, panels in self._sentences[i].mentions
            if number in numbers
        )

    # -- writing

    def _write(self) -> None:
        rng = self._prose.rng
        if self.closing:
            self._write_bibliography()
            return
        self._since_heading += 1
        if self._since_heading > 3 and rng.random() < 0.4:
            self._write_heading()
            self._since_heading = 0
        elif self._since_heading > 0 and rng.random() < 0.07:
            self._write_list()
        elif rng.random() < 0.03 and self._style.language == "en":
            self._write_equation()
        self._write_paragraph()

    def _write_paragraph(self) -> None:
        rng, style = self._prose.rng, self._style
        glue = "" if style.language == "zh" else " "
        runs, starts = [], []
        for number in range(int(rng.integers(3, 8))):
            sentence = self._sentence()
            self._sentences.append(sentence)
            self._pages.append(None)
            runs.append(((glue if number else "") + sentence.text, self._fonts.body[0]))
            starts.append(len(self._sentences) - 1)
        indent = 0.0 if self._since_heading == 0 and style.language == "en" else style.indent_pt
        lines = break_lines(
            tokenise(runs, starts=starts),
            self._width_pt,
            style.size_pt,
            first_indent_pt=indent,
            hyphenate=style.hyphenate,
        )
        space = 0.0 if style.indent_pt else 0.5 * style.size_pt
        self._queue.extend(
            FlowLine(line, style.leading * style.size_pt, style.align, space if not number else 0.0)
            for number, line in enumerate(lines)
        )

    def _sentence(self) -> Sentence:
        rng = self._prose.rng
        fresh = [target for target in self.targets if target[0] not in self._named]
        if fresh and rng.random() < _SHARE_REFERRING:
            count = int(rng.choice((1, 2, 3), p=(0.75, 0.18, 0.07)))
            targets = fresh[: count if count < 3 or _in_a_row(fresh[:3]) else 2]
        elif self.targets and rng.random() < 0.06:
            targets = [self.targets[int(rng.integers(len(self.targets)))]]
        elif self.far_targets and rng.random() < 0.01:
            targets = [self.far_targets[int(rng.integers(len(self.far_targets)))]]
        else:
            return self._prose.plain_sentence()
        self._named |= {number for number, _ in targets}
        return self._prose.referring_sentence(targets, self._style.refs)

    def _write_heading(self) -> None:
        style, title = self._style, self._prose.one("sections")
        size = style.size_pt * 1.2
        lines = break_lines(tokenise([(title, self._fonts.heading[1])]), self._width_pt, size)
        colours = {self._fonts.heading[1]: style.heading_colour}
        self._queue.extend(
            FlowLine(line, 1.35 * size, "left", 0.8 * size if not number else 0.0, keep=True, colours=colours)
            for number, line in enumerate(lines)
        )

    def _write_list(self) -> None:
        style, rng = self._style, self._prose.rng
        numbered = rng.random() < 0.4
        for item in range(int(rng.integers(3, 7))):
            mark = f"{item + 1}. " if numbered else "• "
            tokens = tokenise([(mark + self._prose.one("list_items"), self._fonts.body[0])])
            lines = break_lines(tokens, self._width_pt - 10, style.size_pt)
            self._queue.extend(
                FlowLine(line, style.leading * style.size_pt, "left", 3.0 if not number and not item else 0.0)
                for number, line in enumerate(lines)
            )

    def _write_equation(self) -> None:
        style, rng = self._style, self._prose.rng
        left = self._prose.pick(("N/C", "I", "S", "H"))
        text = (
            f"{left} = {self._prose.pick('abkn')} / ({self._prose.pick('ABCF')} + {int(rng.integers(2, 9))})"
        )
        text += f"     ({int(rng.integers(1, 30))})"
        lines = break_lines(tokenise([(text, self._fonts.body[2])]), self._width_pt, style.size_pt)
        self._queue.extend(FlowLine(line, 2 * style.size_pt, "center", 4.0) for line in lines)

    def _write_bibliography(self) -> None:
        style = self._style
        size = 0.84 * style.size_pt
        if not self._entries:
            title = "参考文献" if style.language == "zh" else "References"
            tokens = tokenise([(title, self._fonts.heading[1])])
            heading = break_lines(tokens, self._width_pt, 1.1 * style.size_pt)
            self._queue.append(FlowLine(heading[0], 18, "left", 10, keep=True, bibliography=True))
        self._entries += 1
        entry = self._prose.bibliography_entry(self._entries)
        lines = break_lines(tokenise([(entry, self._fonts.body[0])]), self._width_pt, size)
        self._queue.extend(FlowLine(line, 1.2 * size, "left", bibliography=True) for line in lines)
