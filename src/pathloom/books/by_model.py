"""The VLM route through an extraction: pages with figures are shown to a model in the place of the rules' binding.

Rules still read the pages, say which have a figure at all, and give the prose; the model pairs figures with captions
and, where one is asked, finds the sentences about them. Answers are kept in a store: nothing is paid for twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pathloom.books.extract import Bound, Extracted, Extraction
from pathloom.books.prompts import Language, language_of
from pathloom.books.reader import PageFigures, PageJob, view_page
from pathloom.books.vlm import Aligned, PageView, VlmRoute, ask_figures
from pathloom.books.vlm_references import PageText, ask_references, page_texts
from pathloom.books.workers import Failure
from pathloom.generate.store import AnswerStore
from pathloom.images import read_image


def extract_by_model(
    extraction: Extraction, route: VlmRoute, store: Path
) -> tuple[list[Extracted], Mapping[str, Any]]:
    """All books, in order, and what was asked and paid for: {"figures": usage, "references": usage}.

    Pages that could not be shown or whose answer could not be read have that as their status. Raises UserError for a
    cap that is reached and for a server that only fails, as `fill` does.
    """
    bound = extraction.bind()
    shown, failed = _render(extraction, [job for one in bound for job in one.jobs])
    languages = {
        book.file.name: language_of(book.file.name, "\n".join(one.prose.values()))
        for book, one in zip(extraction.books, bound, strict=True)
    }

    def views() -> Iterator[PageView]:
        for job, path in shown:
            picture = read_image(extraction.out / path, embed=True).model_copy(update={"path": path})
            width_pt, height_pt = job.size_pt
            yield PageView(
                book=job.file.name,
                number=job.number,
                picture=picture,
                width_pt=width_pt,
                height_pt=height_pt,
                language=languages[job.file.name],
            )

    with AnswerStore(store) as answers:
        aligned = ask_figures(views, route, answers, extraction.name)
        usage = {"figures": dict(aligned.usage)}
        extraction.cut(
            [
                replace(job, figures=(), given=aligned.figures[job.file.name, job.number])
                for job, _ in shown
                if aligned.figures.get((job.file.name, job.number))
            ]
        )
        for book in extraction.books:
            book.lonely = []
        _note(extraction.books, failed, aligned)
        if route.references is not None:
            texts = list(_texts(extraction.books, bound, languages))
            referred = ask_references(lambda: texts, route.references, answers, extraction.name)
            usage["references"] = dict(referred.usage)
            for book in extraction.books:
                pages = sorted(key for key in referred.references if key[0] == book.file.name)
                book.named = tuple(dict.fromkeys(one for key in pages for one in referred.references[key]))
    return extraction.books, usage


def _render(
    extraction: Extraction, jobs: Sequence[PageJob]
) -> tuple[list[tuple[PageJob, str]], list[tuple[PageJob, Failure]]]:
    """Pages with the path of their small rendering, and those that could not be rendered."""
    shown, failed = [], []
    for at, result in extraction.run(view_page, jobs, "views"):
        if isinstance(result, Failure):
            failed.append((jobs[at], result))
        else:
            shown.append((jobs[at], result))
    return shown, failed


def _note(books: Sequence[Extracted], failed: Sequence[tuple[PageJob, Failure]], aligned: Aligned) -> None:
    """A status for every page that has figures by rule and none by the model because something went wrong."""
    by_name = {book.file.name: book for book in books}
    for job, failure in failed:
        page = PageFigures(
            number=job.number, status=failure.reason, detail=failure.detail, size_pt=job.size_pt
        )
        by_name[job.file.name].figures[job.number] = page
    for (name, number), (reason, detail) in aligned.failures.items():
        by_name[name].figures[number] = PageFigures(number=number, status=f"vlm_{reason}", detail=detail)
    for book in books:
        book.figures = dict(sorted(book.figures.items()))


def _texts(
    books: Sequence[Extracted], bound: Sequence[Bound], languages: Mapping[str, Language]
) -> Iterator[PageText]:
    for book, one in zip(books, bound, strict=True):
        figures = {number: [cut.figure for cut in page.figures] for number, page in book.figures.items()}
        yield from page_texts(book.file.name, figures, one.prose, languages[book.file.name])
