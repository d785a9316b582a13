"""The gallery: pages with their boxes drawn in, beside the pairs that came of them, for people who would rather look.

`gallery.html` lists the files; each has its page below `gallery/`. They show the pictures of the stage's folder and
need no network. All text comes from strangers' files: the template escapes it, and the page's policy runs no script.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from pathloom.books.captions import describe
from pathloom.books.extract import Extracted
from pathloom.books.pairs import CutFigure
from pathloom.books.references import refer
from pathloom.books.table import COLUMNS, row_of
from pathloom.schema import Box

GALLERY_FILE = "gallery.html"


def write_gallery(books: Sequence[Extracted], out: Path, title: str) -> None:
    """The list of files and a page for each."""
    page = _template("gallery_book.html.j2")
    links = []
    for book in books:
        name = f"gallery/{book.file.name}.html"
        depth = name.count("/")
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * depth
        target.write_text(
            page.render(name=book.file.name, up=up, row=row_of(book), pages=list(_pages(book, up))),
            encoding="utf-8",
        )
        links.append((quote(name), book.file.name, row_of(book)))
    index = _template("gallery.html.j2").render(title=title, columns=COLUMNS, books=links)
    (out / GALLERY_FILE).write_text(index, encoding="utf-8")


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template(name)


def _pages(book: Extracted, up: str) -> Iterable[dict[str, Any]]:
    """Each page with figures: its picture, boxes in percent of its sides, and the figures with their pairs."""
    lonely: dict[int, list[str]] = {}
    for number, caption in book.lonely:
        lonely.setdefault(number, []).append(caption)
    for number, page in sorted(book.figures.items()):
        width_pt, height_pt = page.size_pt

        def place(box: Box, w: float = width_pt, h: float = height_pt) -> dict[str, float]:
            return {
                "left": 100 * box[0] / w,
                "top": 100 * box[1] / h,
                "width": 100 * (box[2] - box[0]) / w,
                "height": 100 * (box[3] - box[1]) / h,
            }

        boxes = []
        for cut in page.figures:
            figure = cut.figure
            boxes.append({"kind": "figure", "label": figure.number, **place(figure.box_pt)})
            if figure.caption_box_pt and figure.caption_page == number:
                boxes.append({"kind": "caption", "label": "", **place(figure.caption_box_pt)})
            if len(figure.panels) > 1:
                boxes += [{"kind": "panel", "label": p.label, **place(p.box_pt)} for p in figure.panels]
        yield {
            "number": number,
            "status": page.status,
            "detail": page.detail,
            "picture": up + quote(page.rendering) if page.rendering else "",
            "boxes": boxes,
            "figures": [_figure(cut, book, up) for cut in page.figures],
            "lonely": lonely.get(number, []),
        }


def _figure(cut: CutFigure, book: Extracted, up: str) -> dict[str, Any]:
    figure = cut.figure
    return {
        "number": figure.number,
        "caption": figure.caption,
        "caption_page": figure.caption_page if figure.caption_page != figure.page else None,
        "panels": [
            {
                "label": panel.label,
                "picture": up + quote(picture.path),
                "text": describe(figure.shared, panel.text) if panel.text else "",
                "score": panel.score,
            }
            for panel, picture in zip(figure.panels, cut.panels, strict=True)
        ],
        "references": [
            {"page": one.page, "panels": ", ".join(one.panels), "sentence": one.sentence}
            for one in refer(figure, book.references)
        ],
    }
