"""Source `books`: textbooks and articles, PDF or scanned, to caption Samples, one a panel.

    {name: books, kind: ingest, source: books, path: FILE_OR_FOLDER}       or   pathloom ingest books PATH --out DIR

Pages are read, figures bound to captions, composites split and references found by rule (pathloom.books); nothing is
sent anywhere. The stage's folder also holds `pairs.jsonl`, which source `pairs` reads, `books.csv`, `gallery.html`, and
every page's status in `pages/`. What could not be used is a Drop: pages that could not be read, captions without figure
and figures without caption among them.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO

from pydantic import Field

from pathloom.books.by_model import extract_by_model
from pathloom.books.extract import Extracted, Extraction
from pathloom.books.files import find_books
from pathloom.books.gallery import write_gallery
from pathloom.books.pairs import Pair, pairs_of
from pathloom.books.prompts import prompts_hash
from pathloom.books.reader import UNKEYED, ReadSettings
from pathloom.books.table import totals, write_table
from pathloom.books.vlm import VlmRoute
from pathloom.figures import Book
from pathloom.generate.fill import STORE_FILE
from pathloom.images import BadImage, read_image
from pathloom.ingest.pictures import size_and_time
from pathloom.ingest.source import Source, WholeIngest, share_of
from pathloom.schema import Drop, Event, Origin, Sample
from pathloom.stage import UserError, write_json
from pathloom.store import SAMPLES_PER_SHARD, count_records, write_shard

PAIRS_FILE = "pairs.jsonl"
MEASURED_FILE = "measured.json"
MISTAKES_FILE = "mistakes.txt"
_HAN = re.compile(r"[\u3400-\u9fff]")


class BooksConfig(WholeIngest):
    """Entry of a recipe, and what `pathloom ingest books` runs."""

    version: ClassVar[int] = 1

    source: Literal["books"]
    path: Path = Field(description="a PDF, a page image, or a folder of PDFs and of folders of page images")
    dataset: str = Field(default="books", description="name under which the data are reported")
    pages: ReadSettings = ReadSettings()
    vlm: VlmRoute | None = Field(
        default=None, description="a model that pairs figures with captions, in the place of the rules"
    )
    question: str = Field(default="Describe this image.", description="what the caption answers")
    licence: str = Field(default="unstated", description="of the books; reports show it")
    test_share: float = Field(default=0.0, ge=0, lt=1, description="of books, by their hash")
    min_chars: int = Field(
        default=15, ge=1, description="a shorter description is a Drop; a Han sign counts three"
    )
    truth: Path | None = Field(
        default=None, description="JSON lines of books as pathloom.figures has them: errors are measured"
    )

    def check(self) -> None:
        if any(find_spec(name) is None for name in ("pypdfium2", "rapidocr")):
            raise UserError(f"{self.name}: books need PDF and OCR readers: pip install 'pathloom[books]'")
        if not self.path.exists():
            raise UserError(
                f"{self.name}.path: {self.path} is not there; name a PDF or a folder of them, or typeset a "
                "phantom book: pathloom phantom book --out FILE.pdf"
            )
        find_books(self.path)
        if self.vlm is not None:
            self.vlm.check(f"{self.name}.vlm")
        if self.truth is not None:
            self._true_books()

    def fingerprint(self) -> str:
        """Names, sizes and times of the files, and the prompts if any are sent; "" where `check` refuses the path."""
        if not self.path.exists():
            return ""
        files = [(file.name, path) for file in find_books(self.path) for path in file.paths()]
        if self.truth is not None:
            files.append(("truth", self.truth))
        prompts = prompts_hash() if self.vlm is not None else ""
        read = [prompts, *((name, path.name, *size_and_time(path)) for name, path in files)]
        return hashlib.sha256(repr(read).encode()).hexdigest()

    def _true_books(self) -> list[Book]:
        """The books of `truth`. Raises UserError for a file that does not fit the books at `path`."""
        assert self.truth is not None
        names = {file.name for file in find_books(self.path)}
        books = []
        try:
            for number, line in enumerate(self.truth.read_text("utf-8").splitlines(), start=1):
                if line.strip():
                    books.append(Book.model_validate_json(line))
                    if books[-1].name not in names:
                        known = ", ".join(sorted(names)[:5])
                        raise UserError(
                            f"{self.truth}, line {number}: no book {books[-1].name!r}; there is {known}"
                        )
        except OSError as error:
            raise UserError(f"{self.name}.truth: {self.truth}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{self.truth}, line {number}: not a book as books are found: {error}") from error
        return books

    def keyed(self) -> dict[str, Any]:
        """Without what changes only time and memory."""
        entry = self.model_dump(mode="json")
        for name in UNKEYED:
            entry["pages"].pop(name)
        if self.vlm is not None:
            entry["vlm"] = self.vlm.decides()
        return entry

    def ingest(self, out: Path) -> dict[str, Any]:
        """Read what a killed run has not read yet, then write Samples, pairs, table and gallery."""
        extraction = Extraction(find_books(self.path), out, self.pages, self.name)
        usage: Mapping[str, Any] = {}
        if self.vlm is None:
            books = extraction.by_rule()
        else:  # paid answers lie beside the runs, and outlive this folder
            books, usage = extract_by_model(extraction, self.vlm, out.parent.parent / STORE_FILE)
        with (out / PAIRS_FILE).open("w", encoding="utf-8") as pairs:
            records = (record for book in books for record in self._records(book, out, pairs))
            for index, shard in enumerate(iter(lambda: list(islice(records, SAMPLES_PER_SHARD)), [])):
                samples = [record for record in shard if isinstance(record, Sample)]
                write_shard(samples, [record for record in shard if isinstance(record, Drop)], out, index)
        if not any((out / "samples").glob("*.parquet")):
            write_shard([], [], out, 0)
        write_table(books, out)
        write_gallery(books, out, title=self.dataset)
        counts = {**count_records(out), **totals(books), **usage}
        if self.truth is not None:
            from pathloom.books.measure import measure, mistakes

            true = self._true_books()
            listed = {book.name for book in true}
            found = [book.book for book in books if book.file.name in listed]
            measured = measure(found, true)
            counts["measured_lines"] = measured.table()
            write_json(measured.to_dict(), out / MEASURED_FILE)
            (out / MISTAKES_FILE).write_text("".join(f"{line}\n" for line in mistakes(found, true)), "utf-8")
        return counts

    def _records(self, book: Extracted, out: Path, pairs: TextIO) -> Iterator[Sample | Drop]:
        """Samples and Drops of a book; its pairs go to the open file on the way."""
        yield from self._unread(book)
        for page in book.figures.values():
            for cut in page.figures:
                found = pairs_of(
                    cut,
                    book.references,
                    book=book.file.name,
                    file=str(book.file.path),
                    licence=self.licence,
                )
                for one in found:
                    if isinstance(one, Pair):
                        pairs.write(one.model_dump_json() + "\n")
                        yield self._sample(one, out)
                    else:
                        yield self._drop(one.id, one.reason, one.detail)

    def _unread(self, book: Extracted) -> Iterator[Drop]:
        """What could not be read or bound: files, pages, figures of pages, captions."""
        name, path = book.file.name, book.file.path
        if book.failure is not None:
            yield self._drop(name, f"book_{book.failure[0]}", book.failure[1])
        for page in book.pages.values():
            if page.failed:
                yield self._drop(f"{name}/p{page.number}", f"page_{page.status}", f"{path}: {page.detail}")
        for cut in book.figures.values():
            for index, figure in enumerate(cut.uncut, start=1):
                detail = f"{path}, page {cut.number}, figure {figure.number}: {cut.detail}"
                yield self._drop(f"{name}/p{cut.number}-f{index}", f"figure_{cut.status}", detail)
            if cut.status != "cut" and not cut.uncut:  # nobody knows how many there are
                yield self._drop(f"{name}/p{cut.number}", f"figure_{cut.status}", f"{path}: {cut.detail}")
        for index, (number, caption) in enumerate(book.lonely, start=1):
            yield self._drop(
                f"{name}/p{number}-caption{index}", "caption_without_figure", f"{path}: {caption[:200]}"
            )

    def _sample(self, pair: Pair, out: Path) -> Sample | Drop:
        if len(pair.caption) + 2 * len(_HAN.findall(pair.caption)) < self.min_chars:
            return self._drop(pair.id, "caption_too_short", pair.caption)
        spans = pair.caption_spans
        try:
            image = read_image(out / pair.image, embed=True)
        except BadImage as error:
            return self._drop(pair.id, f"picture_{error.reason}", str(error))
        return Sample(
            id=f"{self.dataset}/{pair.id}",
            task="caption",
            split="test" if share_of(pair.group, self.seed) < self.test_share else "train",
            images=(image.model_copy(update={"path": pair.image}),),
            question=self.question,
            answer=pair.caption,
            context=pair.reference,
            origin=Origin(
                source=self.dataset,
                source_id=pair.file,
                licence=pair.licence,
                group=pair.group,
                page=pair.page,
                box_pt=pair.bbox_pt,
                panel=pair.panel or None,
                caption_span=(min(a for a, _ in spans), max(b for _, b in spans)) if spans else None,
            ),
            history=(Event(step="ingest.books", version=self.version),),
        )

    def _drop(self, name: str, reason: str, detail: str) -> Drop:
        return Drop(
            sample_id=f"{self.dataset}/{name}", step="ingest.books", reason=reason, detail=detail[:500]
        )


BOOKS = Source(
    "books", BooksConfig, "textbooks and articles, PDF or scanned: figures, captions, panels, references"
)
