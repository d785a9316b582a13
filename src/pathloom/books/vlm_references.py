"""The sentences that name a book's figures, as a text model finds them: the second half of the VLM route.

The model copies sentences, and every one is looked up in the text that it was given.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from pathloom.books.prompts import Language, refer_prompt
from pathloom.books.quotes import Quoted
from pathloom.books.references import named_figures, sentences
from pathloom.books.vlm import PageKey
from pathloom.books.vlm_replies import read_references
from pathloom.figures import Figure, Reference
from pathloom.generate.config import Asking
from pathloom.generate.fill import fill
from pathloom.generate.generator import Message, Request
from pathloom.generate.store import AnswerStore
from pathloom.schema import Record


class PageText(Record):
    """A page with figures, and `texts` of it and its neighbours: (page, body text), in the order of the pages."""

    book: str
    number: int = Field(ge=1)
    figures: tuple[Figure, ...]
    texts: tuple[tuple[int, str], ...]
    language: Language


@dataclass(frozen=True)
class Referred:
    """As `vlm.Aligned`, for the sentences that name the figures of a page. `usage` also counts what was dropped."""

    references: Mapping[PageKey, tuple[Reference, ...]]
    failures: Mapping[PageKey, tuple[str, str]]
    usage: Mapping[str, Any]


def neighbours(pages: Iterable[int], num_pages: int) -> tuple[int, ...]:
    """These pages and the ones before and after each: those whose body text `page_texts` wants."""
    wanted = {near for page in pages for near in (page - 1, page, page + 1)}
    return tuple(sorted(page for page in wanted if 1 <= page <= num_pages))


def page_texts(
    book: str, figures: Mapping[int, Sequence[Figure]], body: Mapping[int, str], language: Language
) -> Iterator[PageText]:
    """What `ask_references` asks about one book. `body` is the main text of pages, captions apart; some may be missing.

    Only figures with a number are asked about: no sentence names another one.
    """
    for page in sorted(figures):
        numbered = tuple(figure for figure in figures[page] if figure.number)
        texts = tuple((near, body[near]) for near in (page - 1, page, page + 1) if body.get(near))
        if numbered and texts:
            yield PageText(book=book, number=page, figures=numbered, texts=texts, language=language)


def ask_references(
    pages: Callable[[], Iterable[PageText]], asking: Asking, store: AnswerStore, name: str
) -> Referred:
    """The sentences that name each page's figures. `pages` and errors are as for `ask_figures`.

    A sentence that the texts do not hold (see `quotes`) is `invented`; a line that names other figures only, or is part
    of the caption, is `misplaced`. Both are left out and counted. Where a line names no figure that rules can read, the
    model is believed.
    """

    def read(request: Request, text: str) -> tuple[str, ...]:
        return read_references(text, [str(figure["number"]) for figure in _sent_figures(request)])

    answers = fill(lambda: (reference_request(page, asking) for page in pages()), asking, store, read, name)
    references: dict[PageKey, tuple[Reference, ...]] = {}
    failures: dict[PageKey, tuple[str, str]] = {}
    dropped: Counter[str] = Counter()
    for index, page in enumerate(pages()):
        outcome = answers.of(index, reference_request(page, asking))
        if outcome.value is None:
            failures[page.book, page.number] = (str(outcome.reason), outcome.detail)
        else:
            references[page.book, page.number], not_held = _found(page, outcome.value)
            dropped += not_held
    counts = {
        "pages": len(references) + len(failures),
        "references": sum(map(len, references.values())),
        "invented": dropped["invented"],
        "misplaced": dropped["misplaced"],
    }
    return Referred(references, failures, {**answers.usage, **counts})


def reference_request(page: PageText, asking: Asking) -> Request:
    """What is asked about the figures of one page."""
    system, user = refer_prompt(page.language)
    figures = [
        {
            "number": figure.number,
            "panels": [panel.label for panel in figure.panels if panel.label],
            "caption": figure.caption,
        }
        for figure in page.figures
    ]
    # "<\/" is "</" to JSON, so that no caption can close the tag that `_sent_figures` looks for.
    captions = json.dumps(figures, ensure_ascii=False).replace("</", "<\\/")
    names = {-1: "previous", 0: "current", 1: "next"}
    texts = [
        f"<{names[near - page.number]}>\n{text}\n</{names[near - page.number]}>" for near, text in page.texts
    ]
    parts = [user, f"<captions>{captions}</captions>", *texts]
    return Request(
        messages=(Message(role="system", text=system), Message(role="user", text="\n".join(parts))),
        sampling=asking.sampling,
    )


def _sent_figures(request: Request) -> list[dict[str, Any]]:
    sent = re.search(r"<captions>(.*?)</captions>", request.messages[-1].text, re.DOTALL)
    figures: list[dict[str, Any]] = json.loads(sent[1]) if sent else []
    return figures


def _found(page: PageText, inline_refs: Sequence[str]) -> tuple[tuple[Reference, ...], Counter[str]]:
    """References of the sentences that hold, and how many do not: `invented` or `misplaced`."""
    quoted = Quoted(page.texts)
    found: dict[Reference, None] = {}
    dropped: Counter[str] = Counter()
    for figure, inline_ref in zip(page.figures, inline_refs, strict=True):
        for line in filter(None, map(str.strip, inline_ref.splitlines())):
            naming = _sentences_naming(figure, line)
            dropped["misplaced"] += not naming
            for sentence, panels in naming:
                on_page = quoted.page_of(sentence)
                if on_page is None:
                    dropped["invented"] += 1
                    continue
                found[Reference(page=on_page, sentence=sentence, number=figure.number, panels=panels)] = None
    return tuple(found), dropped


def _sentences_naming(figure: Figure, line: str) -> list[tuple[str, tuple[str, ...]]]:
    """The sentences of a line that name the figure, with the panels they name.

    Of a line that names no figure the whole, unless it is part of the caption.
    """
    named = {sentence: named_figures(sentence) for sentence in sentences(line)}
    if not any(named.values()):
        of_caption = Quoted([(figure.page, figure.caption)]).page_of(line) is not None
        return [] if of_caption else [(line, ())]
    return [
        (sentence, each.panels)
        for sentence, figures in named.items()
        for each in figures
        if each.number == figure.number
    ]
