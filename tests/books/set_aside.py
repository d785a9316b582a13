"""The set-aside book: a pathology atlas set by another typesetter (typst) in a style that no rule was tuned on.

It is scored once, at the end. Nobody who works on extraction reads this file or looks at its pages.
Positions come from typst's own layout (`here().position()` in marks placed at the corner of each picture and caption);
test_set_aside_truth.py holds them against what pypdfium2 finds in the PDF.
"""

import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from tests.books.set_aside_pictures import Shape, Stock, composed, draw_shape, plate_shape
from tests.books.set_aside_words import HEADS, ORGANS, Subject, Writer

from pathloom.figures import Book, Figure, Panel, Reference
from pathloom.schema import Box

_ENTITIES = (
    "adenocarcinoma",
    "squamous cell carcinoma",
    "chronic inflammation",
    "necrosis",
    "fibrosis",
    "benign glands",
    "squamous intraepithelial lesion",
)
_SECTIONS_PER_CHAPTER = 4
# Measured on seeds 1 and 2; only where the search for the number of sections starts.
_PAGES_PER_SECTION = 2.4
_PLATES = 2
_ROUNDS = 12
_FOOT_PT = 721.0
_MOVABLE = ("column", "inline", "case")  # within a column; moved, they span both
_STYLE = Path(__file__).with_name("set_aside.typ")

_Marks = dict[str, tuple[int, Box]]


@dataclass(frozen=True)
class _Planned:
    key: str
    number: str  # as printed; "" for one without caption
    subject: Subject
    shape: Shape
    burned: bool  # drawn into one picture
    pieces: tuple[tuple[str, bool], ...] = ()  # text and whether it is bold
    spans: tuple[tuple[str, tuple[int, int]], ...] = ()  # letter and the characters of its part
    shared: str = ""

    @property
    def caption(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass
class _Manuscript:
    """What the writing leaves: typst source, and what is to be found on the pages."""

    source: list[str] = field(default_factory=list)
    figures: list[_Planned] = field(default_factory=list)
    sentences: list[tuple[str, list[tuple[str, tuple[str, ...]]]]] = field(default_factory=list)


def write_set_aside_book(path: Path, *, num_pages: int, seed: int) -> Book:
    """Write a PDF of about `num_pages` pages (at least 8) to `path` and return its truth; the same seed, the same book.

    The number of pages is met within the length of two sections; Book.num_pages has it exactly. ValueError below 8.
    """
    if num_pages < 8:
        raise ValueError(f"num_pages is {num_pages}, at least 8 are needed")
    num_sections = max(1, round((num_pages - 3) / _PAGES_PER_SECTION))
    stock = Stock(seed)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            manuscript, marks = _settled(stock, num_sections, Path(folder) / str(num_sections), path)
            made_pages = marks["end"][0]
            better = max(1, round(num_sections * (num_pages - 2) / max(made_pages - 2, 1)))
            if better == num_sections or abs(made_pages - num_pages) <= 2:
                break
            num_sections = better
    return Book(
        name=path.stem,
        num_pages=made_pages,
        figures=tuple(_figure(planned, marks) for planned in manuscript.figures),
        references=tuple(
            Reference(
                page=marks[f"s{i}"][0], sentence=sentence, number=number.replace(".", "-"), panels=letters
            )
            for i, (sentence, named) in enumerate(manuscript.sentences)
            for number, letters in named
        ),
    )


def _settled(stock: Stock, num_sections: int, folder: Path, path: Path) -> tuple[_Manuscript, _Marks]:
    """Typeset until nothing lies on anything else, moving figures as an editor would. RuntimeError if that fails."""
    folder.mkdir(exist_ok=True)
    spanning: set[str] = set()
    for _ in range(_ROUNDS):
        manuscript = _Author(stock, folder, spanning).write(num_sections)
        marks = _typeset(manuscript, folder, path)
        offenders = _offenders(manuscript, marks) + _run_over(manuscript, marks, path)
        if not offenders:
            return manuscript, marks
        spanning |= {planned.key for planned in offenders}
    raise RuntimeError(f"figures still overlap after {_ROUNDS} rounds with seed {stock.seed}")


def _offenders(manuscript: _Manuscript, marks: _Marks) -> list[_Planned]:
    """The figures of one column that overlap another figure or run out of the page's foot.

    typst lets what does not fit the rest of a page's last column run over it when that column is short.
    """
    taken: list[tuple[int, Box, _Planned]] = []
    for planned in manuscript.figures:
        taken += [(*marks[key], planned) for key in (planned.key, f"{planned.key}/caption") if key in marks]
    found = {planned.key: planned for _, box, planned in taken if box[3] > _FOOT_PT}
    for (page, a, one), (other_page, b, other) in combinations(taken, 2):
        across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        if page == other_page and across > 0.5 and down > 0.5:
            moved = other if other.shape.place in _MOVABLE else one
            found[moved.key] = moved
    return list(found.values())


def _run_over(manuscript: _Manuscript, marks: _Marks, path: Path) -> list[_Planned]:
    """The figures that may be moved on pages where a picture has other text on it than its letters."""
    import pypdfium2

    pdf = pypdfium2.PdfDocument(path)
    texts = [page.get_textpage() for page in pdf]
    height = pdf[0].get_height()
    pages = set()
    for planned in manuscript.figures:
        page, (left, top, right, bottom) = marks[planned.key]
        text = texts[page - 1].get_text_bounded(left + 2, height - bottom + 2, right - 2, height - top - 2)
        if "".join(text.split()) not in ("", "".join(_letters(planned))):
            pages.add(page)
    return [p for p in manuscript.figures if marks[p.key][0] in pages and p.shape.place in _MOVABLE]


def _typeset(manuscript: _Manuscript, folder: Path, path: Path) -> _Marks:
    """Compile; page and box in points of each mark by its key."""
    import reportlab
    import typst

    source = folder / "book.typ"
    source.write_text(_STYLE.read_text("utf-8") + "\n".join(manuscript.source), encoding="utf-8")
    # typst brings no sans serif; reportlab brings Bitstream Vera.
    fonts = [str(Path(reportlab.__file__).parent / "fonts")]
    compiler = typst.Compiler(str(source), root=str(folder), font_paths=fonts, ignore_system_fonts=True)
    compiler.compile(output=str(path), format="pdf", timestamp=0)
    values = json.loads(compiler.query("<truth>", field="value"))
    marks = {}
    for value in values:
        x, y, width, height = (float(value[key]) for key in ("x", "y", "w", "h"))
        marks[value["key"]] = (int(value["page"]), (x, y, x + width, y + height))
    return marks


def _figure(planned: _Planned, marks: _Marks) -> Figure:
    page, box_pt = marks[planned.key]
    x, y = box_pt[:2]
    texts = dict(planned.spans)
    panels = tuple(
        Panel(
            box_pt=(x + cell[0], y + cell[1], x + cell[0] + cell[2], y + cell[1] + cell[3]),
            label=letter,
            text=planned.caption[slice(*texts[letter])] if letter else "",
            caption_spans=(texts[letter],) if letter else (),
        )
        for letter, cell in zip(_letters(planned), planned.shape.cells, strict=True)
    )
    caption_page, caption_box_pt = marks.get(f"{planned.key}/caption", (None, None))
    return Figure(
        page=page,
        box_pt=box_pt,
        number=planned.number.replace(".", "-"),
        caption=planned.caption,
        caption_page=caption_page,
        caption_box_pt=caption_box_pt,
        shared=planned.shared,
        panels=panels,
    )


def _letters(planned: _Planned) -> tuple[str, ...]:
    count = len(planned.shape.cells)
    return tuple("ABCDEFGH"[:count]) if count > 1 else ("",)


def _quoted(text: str) -> str:
    """Text as a typst expression inside markup, nothing in it read as markup."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'#"{escaped}";'


class _Author:
    """Writes the book section by section; what stands in a section depends on the seed and not on the length."""

    def __init__(self, stock: Stock, folder: Path, spanning: set[str]) -> None:
        self.seed, self.stock, self.folder, self.spanning = stock.seed, stock, folder, spanning
        self.made = _Manuscript()
        self.rng = random.Random(self.seed)
        self.chapter = self.in_chapter = self.plates = 0
        self.tabled = False

    def write(self, num_sections: int) -> _Manuscript:
        self._front(num_sections)
        for i in range(num_sections):
            self.rng = random.Random(f"{self.seed}/{i}")
            self.writer = Writer(self.rng)
            if i % _SECTIONS_PER_CHAPTER == 0:
                self._chapter(i // _SECTIONS_PER_CHAPTER + 1)
            self._section(_ENTITIES[(i + self.chapter) % len(_ENTITIES)])
            last = i % _SECTIONS_PER_CHAPTER == _SECTIONS_PER_CHAPTER - 1 or i == num_sections - 1
            if last:
                self._close_chapter()
        self.made.source.append('#mark("end", 0pt, 0pt)')
        return self.made

    def _put(self, *lines: str) -> None:
        self.made.source.extend(lines)

    def _front(self, num_sections: int) -> None:
        num_chapters = -(-num_sections // _SECTIONS_PER_CHAPTER)
        self._put('#title-page("Atlas of Surgical Pathology", "Second edition")')
        for i in range(num_chapters):
            self._put(f'#contents-line({i + 1}, "{self._organ(i + 1).capitalize()}")')

    def _organ(self, chapter: int) -> str:
        return ORGANS[(chapter - 1) % len(ORGANS)]

    def _chapter(self, chapter: int) -> None:
        self.chapter, self.in_chapter, self.tabled = chapter, 0, False
        self.organ = self._organ(chapter)
        opener = self._plan(Shape(150.0, 100.0, ((0, 0, 150.0, 100.0),), "opener"), captioned=False)
        self._put(f'#chapter({chapter}, "{self.organ.capitalize()}", [{self._picture(opener)}])')

    def _subject(self, entity: str) -> Subject:
        return Subject(entity, self.organ, f"{self.chapter}.1")

    def _plan(self, shape: Shape, *, captioned: bool = True, entity: str = "necrosis") -> _Planned:
        """Plan a figure and take it into the list; captioned ones get the chapter's next number and a caption."""
        subject = self._subject(entity)
        key = f"f{len(self.made.figures)}"
        burned = len(shape.cells) > 1 and self.rng.random() < 0.4
        planned = _Planned(key, "", subject, shape, burned)
        if captioned:
            self.in_chapter += 1
            number = f"{self.chapter}.{self.in_chapter}"
            planned = self._captioned(_Planned(key, number, subject, shape, burned))
        self.made.figures.append(planned)
        return planned

    def _captioned(self, planned: _Planned) -> _Planned:
        title = self.writer.title(planned.subject)
        pieces, spans = [(f"Fig. {planned.number}", True), (f" {title}", False)], []
        shared = title
        if len(planned.shape.cells) == 1:
            for _ in range(self.rng.randint(0, 3)):
                more = " " + self.writer.more(planned.subject)
                pieces.append((more, False))
                shared += more
        else:
            for letters, text in self._parts(_letters(planned), planned.subject):
                pieces += [(" ", False), (",".join(letters), True), (" ", False)]
                start = sum(len(piece) for piece, _ in pieces)
                pieces.append((text, False))
                spans += [(letter, (start, start + len(text))) for letter in letters]
        return _Planned(
            planned.key,
            planned.number,
            planned.subject,
            planned.shape,
            planned.burned,
            tuple(pieces),
            tuple(spans),
            shared,
        )

    def _parts(self, letters: tuple[str, ...], subject: Subject) -> Iterator[tuple[tuple[str, ...], str]]:
        """Letters with their text; now and then the first two pictures share one part."""
        groups: list[tuple[str, ...]] = [(letter,) for letter in letters]
        if len(letters) > 2 and self.rng.random() < 0.12:
            groups = [tuple(letters[:2]), *groups[2:]]
        return zip(groups, self.writer.parts(subject, len(groups)), strict=True)

    def _picture(self, planned: _Planned) -> str:
        """Typst for the picture or pictures of a figure, in a marked box of its size."""
        shape, letters = planned.shape, _letters(planned)
        rng = random.Random(f"{self.seed}/{planned.key}")
        stems = [planned.key] if planned.burned else [f"{planned.key}{letter}" for letter in letters]
        # Most pictures as JPEG, as a press would.
        names = [stem + (".png" if rng.random() < 0.2 else ".jpg") for stem in stems]
        if not (self.folder / names[0]).exists():
            pictures = [self.stock.draw(rng, planned.subject.entity, cell[2:]) for cell in shape.cells]
            if planned.burned:
                pictures = [composed(pictures, shape.cells, letters, (shape.width_pt, shape.height_pt))]
            for name, picture in zip(names, pictures, strict=True):
                picture.save(self.folder / name, quality=88)
        whole = (0.0, 0.0, shape.width_pt, shape.height_pt)
        parts = [(whole, "")] if planned.burned else list(zip(shape.cells, letters, strict=True))
        inner = "".join(
            f'#picture("{name}", {", ".join(f"{v:.2f}pt" for v in cell)}, "{letter}")'
            for name, (cell, letter) in zip(names, parts, strict=True)
        )
        return f'#spot("{planned.key}", {shape.width_pt:.2f}pt, {shape.height_pt:.2f}pt)[{inner}]'

    def _figure(self, planned: _Planned) -> str:
        """The typst call that sets a figure with its caption."""
        caption = "".join(
            f"#strong[{_quoted(text)}]" if bold else _quoted(text) for text, bold in planned.pieces
        )
        width = f"{planned.shape.width_pt:.2f}pt"
        key = f'"{planned.key}/caption"'
        place = "beside" if planned.key in self.spanning else planned.shape.place
        return f"#{place}-figure({width}, {key}, [{self._picture(planned)}], [{caption}])"

    def _section(self, entity: str) -> None:
        subject = self._subject(entity)
        self._put(f"= {entity[0].upper()}{entity[1:]}")
        figures = [self._plan(draw_shape(self.rng), entity=entity) for _ in range(self.rng.randint(3, 5))]
        waiting = list(figures)
        for head in HEADS:
            self._put(f"== {head}")
            for _ in range(self.rng.randint(1, 2)):
                named = waiting[: self.rng.randint(0, 2)]
                self._paragraph(head, subject, named or self._earlier())
                self._put(*(self._figure(planned) for planned in named))
                del waiting[: len(named)]
            if head == "Histopathology" and not self.tabled:
                self.tabled = True
                self._table(subject)
            if head == "Clinical features" and self.rng.random() < 0.5:
                self._case(subject)
        for planned in waiting:
            self._paragraph("Prognosis", subject, [planned])
            self._put(self._figure(planned))

    def _earlier(self) -> list[_Planned]:
        """Sometimes a figure that was named before."""
        known = [f for f in self.made.figures if f.number.startswith(f"{self.chapter}.")][:-3]
        return [self.rng.choice(known)] if known and self.rng.random() < 0.25 else []

    def _paragraph(self, head: str, subject: Subject, named: list[_Planned]) -> None:
        """A paragraph in which some sentence names the figures."""
        said = [(sentence, -1) for sentence in self.writer.paragraph(head, subject)]
        if named:
            at = self.rng.randint(1, len(said))
            together = len(named) == 2 and self.rng.random() < 0.3
            for group in [named] if together else [[planned] for planned in named]:
                printed, meant = self._reference(group)
                said.insert(at, (self.writer.referring(subject, printed), len(self.made.sentences)))
                self.made.sentences.append((said[at][0], meant))
                at = self.rng.randint(at + 1, len(said))
        texts = []
        for text, i in said:
            # The mark stands after the first word: before it, it could stay behind at the end of the last line.
            first, blank, rest = text.partition(" ")
            mark = f'#mark("s{i}", 0pt, 0pt);' if i >= 0 else ""
            texts.append(_quoted(first) + mark + _quoted(f"{blank}{rest} "))
        self._put("", "".join(texts), "")

    def _reference(self, group: list[_Planned]) -> tuple[str, list[tuple[str, tuple[str, ...]]]]:
        """How figures are named in the body: "Fig. 3.2A", "Fig. 3.2B,C", "Figs. 3.2A and 3.3"."""
        printed, meant = [], []
        for planned in group:
            letters = _letters(planned)
            picked: tuple[str, ...] = ()
            suffix = ""
            if len(letters) > 1 and self.rng.random() < 0.65:
                first = self.rng.randrange(len(letters))
                picked = letters[first : first + self.rng.choice((1, 1, 2, 3))]
                suffix = ",".join(picked) if len(picked) < 3 else f"{picked[0]}\u2013{picked[-1]}"
            printed.append(planned.number + suffix)
            meant.append((planned.number, picked))
        return ("Figs. " if len(group) > 1 else "Fig. ") + " and ".join(printed), meant

    def _table(self, subject: Subject) -> None:
        rows = [[head, *self.writer.paragraph(head, subject)[:2]] for head in self.rng.sample(HEADS, 4)]
        cells = ", ".join(f"[{_quoted(cell)}]" for row in rows for cell in row)
        self._put(
            f'#decoy-table("Table {subject.table}", [{_quoted(self.writer.title(subject))}], ({cells}))'
        )

    def _case(self, subject: Subject) -> None:
        """A box in the column with a small picture that has no caption."""
        planned = self._plan(
            Shape(78.0, 58.0, ((0, 0, 78.0, 58.0),), "case"), captioned=False, entity=subject.entity
        )
        text = " ".join(self.writer.paragraph("Clinical features", subject)[:2])
        where = "across-case-box" if planned.key in self.spanning else "case-box"
        self._put(f"#{where}([{self._picture(planned)}], [{_quoted(text)}])")

    def _close_chapter(self) -> None:
        """Literature, and in the first chapters a full-page plate with its caption on the facing page."""
        if self.plates < _PLATES:
            self.plates += 1
            planned = self._plan(plate_shape(self.rng), entity="adenocarcinoma")
            self._paragraph("Prognosis", self._subject("adenocarcinoma"), [planned])
            self._put(self._figure(planned))
        entries = [self.writer.citation(i + 1) for i in range(self.rng.randint(8, 18))]
        self._put(f"#literature(({', '.join(f'[{_quoted(entry)}]' for entry in entries)},))")
