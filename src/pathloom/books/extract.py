"""The way of a book through a folder: pages read, bound, panels split; after a kill it goes on from what is there.

    pages/BOOK.jsonl      a PageRead for each page: its text and graphics, or why there are none
    figures/BOOK.jsonl    a PageFigures for each page with figures: their captions and panels
    pictures/BOOK/        panels and figures, cut from the large rendering
    renderings/BOOK/      small renderings of pages with figures, for the gallery

Reading and splitting go through worker processes: a page that hangs or crashes there is a status, not the end. Binding
looks at neighbouring pages, takes milliseconds and is done here, again after a kill.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from pathloom.books.assemble import join_pages
from pathloom.books.binding import bind, habits
from pathloom.books.files import BookFile
from pathloom.books.journal import Journal
from pathloom.books.layout import Layout, lay_out
from pathloom.books.page import Page
from pathloom.books.profile import Profile, profile
from pathloom.books.reader import (
    FigureJob,
    PageFigures,
    PageJob,
    PageRead,
    Reader,
    ReadSettings,
    Survey,
    read_page,
    split_page,
    survey,
)
from pathloom.books.references import find_references
from pathloom.books.workers import Failure, run_each
from pathloom.figures import Book, Reference

T = TypeVar("T")

RETRIED = ("timed_out", "out_of_memory", "crashed")
"""What a busy machine may do to a page: it is read again when a killed run goes on."""

SAMPLED_PAGES = 48
"""So many pages, evenly spread, tell a book's type size, page furniture and habits. Our own choice."""


@dataclass(eq=False)
class Extracted:
    """What came of one file: `pages` and `figures` by page; `lonely` captions found no figure, with their page.

    `failure` is why the file as a whole could not be opened, in the words of its reader.
    """

    file: BookFile
    survey: Survey = field(default_factory=Survey)
    failure: tuple[str, str] | None = None
    pages: dict[int, PageRead] = field(default_factory=dict)
    figures: dict[int, PageFigures] = field(default_factory=dict)
    lonely: list[tuple[int, str]] = field(default_factory=list)
    named: tuple[Reference, ...] = ()

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """The sentences that name a figure which was found, once all are."""
        numbers = {cut.figure.number for page in self.figures.values() for cut in page.figures}
        return tuple(one for one in self.named if one.number in numbers)

    @property
    def book(self) -> Book:
        return Book(
            name=self.file.name,
            num_pages=self.survey.num_pages,
            figures=tuple(cut.figure for page in self.figures.values() for cut in page.figures),
            references=self.references,
        )


@dataclass(frozen=True, eq=False)
class Bound:
    """A book after layout: pages with figures, jobs to cut them, and the prose of every page."""

    jobs: tuple[PageJob, ...]
    prose: Mapping[int, str]


class Extraction:
    """One run over books in a folder. `name` stands at the progress bars."""

    def __init__(self, files: Sequence[BookFile], out: Path, settings: ReadSettings, name: str) -> None:
        self.books = [Extracted(file) for file in files]
        self.out, self.settings, self.name = out, settings, name
        self._pages = {file.name: Journal(out / "pages" / f"{file.name}.jsonl", PageRead) for file in files}

    def by_rule(self) -> list[Extracted]:
        """All books, in order; whatever cannot be read has a status."""
        self.cut([job for bound in self.bind() for job in bound.jobs])
        return self.books

    def bind(self) -> list[Bound]:
        """Read what has not been read and lay out every book, which also fills `lonely` and `named`."""
        self._survey()
        self._read()
        return [self._bind(book) for book in self.books]

    def cut(self, jobs: Sequence[PageJob]) -> None:
        """Fill the books' `figures` from the jobs; pages that were cut before are taken as they are."""
        books = {book.file.name: book for book in self.books}
        journals = {name: Journal(self.out / "figures" / f"{name}.jsonl", PageFigures) for name in books}
        for name, book in books.items():
            book.figures.update((page.number, page) for page in journals[name])
        done = sum(len(book.figures) for book in self.books)
        jobs = [job for job in jobs if job.number not in books[job.file.name].figures]
        for at, result in self.run(split_page, jobs, "panels", done):
            job = jobs[at]
            page = result
            if isinstance(result, Failure):
                page = PageFigures.failed(job, result.reason, result.detail)
            journals[job.file.name].append(page)
            books[job.file.name].figures[job.number] = page
        for book in self.books:
            book.figures = dict(sorted(book.figures.items()))

    def run(
        self, function: Callable[[Reader, Any], Any], items: Sequence[Any], label: str = "", done: int = 0
    ) -> Iterator[tuple[int, Any]]:
        """Results or Failures in the order of the items, so that a journal is in the order of its pages."""
        results = run_each(
            function,
            items,
            start=partial(Reader, self.settings),
            workers=os.cpu_count() or 1 if self.settings.workers is None else self.settings.workers,
            seconds_each=self.settings.seconds_a_page,
            bytes_each=self.settings.bytes_a_page,
        )
        if not label:
            yield from results
            return
        total = done + len(items)
        with tqdm(total=total, initial=done, desc=f"{self.name}: {label}", unit="page", leave=False) as bar:
            for result in results:
                yield result
                bar.update()

    def _survey(self) -> None:
        for index, result in self.run(survey, [book.file for book in self.books]):
            if isinstance(result, Failure):
                self.books[index].failure = (result.reason, result.detail)
            elif result.problem is not None:
                self.books[index].failure = result.problem
            else:
                self.books[index].survey = result

    def _read(self) -> None:
        for book in self.books:
            for page in self._pages[book.file.name]:
                if page.status not in RETRIED:  # a record that comes later stands for the page
                    book.pages[page.number] = page.without_content()
        done = sum(len(book.pages) for book in self.books)
        jobs = [
            (book, PageJob(book.file, number, book.survey, self.out))
            for book in self.books
            for number in range(1, book.survey.num_pages + 1)
            if number not in book.pages
        ]
        for at, result in self.run(read_page, [job for _, job in jobs], "pages", done):
            book, job = jobs[at]
            page = result
            if isinstance(result, Failure):
                page = PageRead(number=job.number, status=result.reason, detail=result.detail)
            self._pages[book.file.name].append(page)
            book.pages[job.number] = page.without_content()

    def _content(self, book: Extracted) -> Iterator[Page]:
        """The pages that could be read, in their order, a page in memory at a time."""
        return (read.page for read in self._pages[book.file.name] if read.page is not None)

    def _bind(self, book: Extracted) -> Bound:
        step = max(1, -(-book.survey.num_pages // SAMPLED_PAGES))
        sample = [page for page in self._content(book) if page.number % step == 0]
        known = profile(sample)
        layouts = {page.number: self._laid_out(book, page, known) for page in sample}
        tried = (
            self._guarded(book, number, partial(bind, layout, known))
            for number, layout in layouts.items()
            if layout is not None
        )
        usual = habits(binding for binding in tried if binding is not None)
        bindings, sizes_pt, prose, lines = {}, {}, {}, {}
        for page in self._content(book):
            layout = layouts.pop(page.number) if page.number in layouts else self._laid_out(book, page, known)
            if layout is None:
                continue
            binding = self._guarded(book, page.number, partial(bind, layout, known, usual))
            if binding is None:
                continue
            bindings[page.number] = binding
            sizes_pt[page.number] = (page.width_pt, page.height_pt)
            prose[page.number] = layout.prose
            if binding.figures:
                lines[page.number] = page.lines
        pages = join_pages(bindings, sizes_pt)
        book.lonely = [(page.number, block.text) for page in pages for block in page.lonely]
        book.named = find_references(prose)
        jobs = tuple(
            PageJob(
                book.file,
                page.number,
                book.survey,
                self.out,
                page.size_pt,
                tuple(FigureJob.of(plate, lines[page.number]) for plate in page.plates),
            )
            for page in pages
            if page.plates
        )
        return Bound(jobs, prose)

    def _laid_out(self, book: Extracted, page: Page, known: Profile) -> Layout | None:
        return self._guarded(book, page.number, lambda: lay_out(page, known))

    def _guarded(self, book: Extracted, number: int, work: Callable[[], T]) -> T | None:
        """What `work` gives; a page that breaks a rule has that as its status, and the others go on."""
        try:
            return work()
        except Exception as error:  # the page boundary
            failed = {"status": "layout_failed", "detail": f"{type(error).__name__}: {error}"}
            book.pages[number] = book.pages[number].model_copy(update=failed)
            return None
