"""Pages a second from books to cut panels, on two workers, and where the time and the memory go.

`OMP_NUM_THREADS=1 python speed/books.py [folder] [runs] [pages]`. In `folder` phantom books of `pages` pages (100) of
every house are drawn unless they are there; without one they are drawn anew. PDFs under PATHLOOM_DATA are read too. The
bar: 20 pages a second on two cores for born-digital PDFs, only pages with figures rendered.

Runs of all settings follow each other and medians are printed, so that what else runs here hits all alike; the load is
that of the last minute when a run begins. Three starts of the workers are in every number.
"""

import cProfile
import multiprocessing
import os
import pstats
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

from pathloom.books.extract import Extracted, Extraction
from pathloom.books.files import BookFile, find_books
from pathloom.books.reader import Reader, ReadSettings
from pathloom.ingest.books import BooksConfig
from pathloom.phantom.book import write_book
from pathloom.phantom.book_style import HOUSES
from pathloom.phantom.scan import scan_book

WORKERS = 2
SETTINGS = {
    "whole, pages with figures rendered": {"render": "figures", "letters": "auto"},
    "whole, all pages rendered": {"render": "all", "letters": "auto"},
    "whole, pages with figures rendered, letters=never": {"render": "figures", "letters": "never"},
    "whole, all pages rendered, letters=never": {"render": "all", "letters": "never"},
}
READING = "reading only"
SCANNED_PAGES = 20
LONG_PAGES = 1000
SHOWN = 14  # functions of a profile


class Watched(Extraction):
    """An Extraction that notes the seconds of each phase and, when asked, the memory at each quarter of it."""

    def __init__(
        self, files: Sequence[BookFile], out: Path, say: Callable[[str], None] | None = None, **settings: Any
    ):
        super().__init__(files, out, ReadSettings.model_validate({"workers": WORKERS} | settings), "speed")
        self.seconds: dict[str, float] = {}
        self._say = say

    def run(
        self, function: Callable[[Reader, Any], Any], items: Sequence[Any], label: str = "", done: int = 0
    ) -> Iterator[tuple[int, Any]]:
        start = time.perf_counter()
        marks = {len(items) * quarter // 4 for quarter in (1, 2, 3, 4)} if label and self._say else set()
        for count, result in enumerate(super().run(function, items, label, done), start=1):
            if count in marks and self._say:
                self._say(f"  {label}, {count:4d} of {len(items)}: {memory()}")
            yield result
        self.seconds[label or "survey"] = time.perf_counter() - start


def memory() -> str:
    """Resident MB of this process and its workers: now, and their peaks."""
    workers = sorted(_resident_mb(child.pid) for child in multiprocessing.active_children())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    now = " and ".join(f"{size:.0f}" for size in workers)
    return f"parent {_resident_mb(os.getpid()):.0f} MB (peak {peak:.0f}), workers {now} MB"


def _resident_mb(process: int | None) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def extract(files: Sequence[BookFile], **settings: Any) -> tuple[float, list[Extracted], int]:
    """Seconds of the whole extraction, what came of it, and how many small renderings were kept."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        books = Watched(files, Path(out), **settings).by_rule()
        seconds = time.perf_counter() - start
        return seconds, books, sum(1 for _ in Path(out).glob("renderings/**/*.jpg"))


def read_only(files: Sequence[BookFile]) -> tuple[float, int]:
    """Seconds of opening and reading, and the number of pages."""
    with tempfile.TemporaryDirectory() as out:
        extraction = Watched(files, Path(out))
        extraction.bind()
        pages = sum(len(book.pages) for book in extraction.books)
        return extraction.seconds["survey"] + extraction.seconds["pages"], pages


def compare(name: str, files: Sequence[BookFile], runs: int) -> None:
    """Pages a second of every setting on one shelf."""
    speeds: dict[str, list[float]] = {label: [] for label in (READING, *SETTINGS)}
    loads, kept = [], {}
    pages = figures = 0
    for _ in range(runs):
        loads.append(os.getloadavg()[0])
        seconds, pages = read_only(files)
        speeds[READING].append(pages / seconds)
        for label, settings in SETTINGS.items():
            seconds, books, kept[label] = extract(files, **settings)
            speeds[label].append(pages / seconds)
            figures = sum(len(book.book.figures) for book in books)
    print(f"\n{name}: {len(files)} books, {pages} pages, {figures} figures; load {_list(loads)}")
    for label, found in speeds.items():
        renderings = f", {kept[label]} renderings" if label in kept else ""
        print(f"  {label}: {statistics.median(found):.1f} pages/s ({_list(found)}{renderings})")


def compare_scans(folder: Path, runs: int) -> None:
    """Pages a second through OCR."""
    with tempfile.TemporaryDirectory() as work:
        book = write_book(Path(work) / "scan.pdf", num_pages=SCANNED_PAGES, seed=6, style="textbook")
        scan_book(Path(work) / "scan.pdf", Path(work) / "scan", book, seed=6)
        files = find_books(Path(work) / "scan")
        for letters in ("auto", "never"):
            loads, found = [], []
            for _ in range(runs):
                loads.append(os.getloadavg()[0])
                seconds, books, _ = extract(files, letters=letters)
                found.append(SCANNED_PAGES / seconds)
            statuses = {page.status for page in books[0].pages.values()}
            speed = f"{statistics.median(found):.2f} pages/s ({_list(found, 2)}; load {_list(loads)})"
            print(f"scans of {SCANNED_PAGES} pages, letters={letters}: {speed}, statuses {sorted(statuses)}")


def watch_memory(files: Sequence[BookFile], folder: Path) -> None:
    """Memory over a book of a thousand pages, the shelf's pages in one file."""
    import pypdfium2

    path = folder / "long.pdf"
    with pypdfium2.PdfDocument.new() as long:
        while len(long) < LONG_PAGES:
            for file in files:
                with pypdfium2.PdfDocument(file.path) as part:
                    long.import_pages(part, list(range(min(len(part), LONG_PAGES - len(long)))))
        long.save(path)
    print(
        f"\nmemory over {LONG_PAGES} pages, {path.stat().st_size / 2**20:.0f} MB of file; at first {memory()}"
    )
    with tempfile.TemporaryDirectory() as out:
        Watched([BookFile(name="long", path=path, kind="pdf")], Path(out), print).by_rule()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"  at the end: {memory()}; the largest worker ever had {children:.0f} MB")
    path.unlink()


def where_time_goes(shelf: Path) -> None:
    """Milliseconds a page of each phase, of the workers' own clocks, and profiles of the parent and of a worker."""
    files = find_books(shelf)
    with tempfile.TemporaryDirectory() as out:
        extraction = Watched(files, Path(out))
        start = time.perf_counter()
        bound, bind = profiled(extraction.bind)
        bound_at = time.perf_counter()
        jobs = [job for one in bound for job in one.jobs]
        _, cut = profiled(lambda: extraction.cut(jobs))
        end = time.perf_counter()
        pages = sum(len(book.pages) for book in extraction.books)
        phases = extraction.seconds | {
            "layout and binding": bound_at
            - start
            - extraction.seconds["survey"]
            - extraction.seconds["pages"],
            "all": end - start,
            "in workers: reading": sum(
                page.seconds for book in extraction.books for page in book.pages.values()
            ),
            "in workers: panels": sum(
                page.seconds for book in extraction.books for page in book.figures.values()
            ),
        }
        start = time.perf_counter()
        BooksConfig(
            name="books", kind="ingest", source="books", path=shelf, pages=extraction.settings
        ).ingest(Path(out))
        phases["again with all pages done: layout, binding, Samples, table, gallery"] = (
            time.perf_counter() - start
        )
    print(f"\nms a page of {pages} pages, {len(jobs)} of them with figures:")
    print("\n".join(f"  {name}: {1000 * seconds / pages:.1f}" for name, seconds in phases.items()))
    print(f"\nparent while it reads and binds:\n{bind}\nparent while panels are cut:\n{cut}")
    with tempfile.TemporaryDirectory() as out:
        alone = Watched(files[:2], Path(out), workers=0)
        bound, reading = profiled(alone.bind)
        _, cutting = profiled(lambda: alone.cut([job for one in bound for job in one.jobs]))
    print(f"\none process, two books, reading and binding:\n{reading}\none process, panels:\n{cutting}")


def profiled(work: Callable[[], Any]) -> tuple[Any, str]:
    """What `work` gives, and the functions that took most, with their callees and alone, in seconds."""
    profile = cProfile.Profile()
    result = profile.runcall(work)
    stats: Any = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    lines = []
    for order, title in ((3, "with callees"), (2, "alone")):
        rows = sorted(stats.items(), key=lambda item: -item[1][order])[: 2 * SHOWN if order == 3 else SHOWN]
        lines.append(f"  {title}:")
        lines += [
            f"    {row[order]:7.2f} s {row[1]:8d} calls  {Path(place[0]).name}:{place[1]} {place[2]}"
            for place, row in rows
        ]
    return result, "\n".join(lines)


def draw_books(folder: Path, pages: int) -> Path:
    shelf = folder / "houses"
    shelf.mkdir(parents=True, exist_ok=True)
    for house in HOUSES:
        if not (shelf / f"{house}.pdf").is_file():
            write_book(shelf / f"{house}.pdf", num_pages=pages, seed=5, style=house)
    return shelf


def _list(values: Sequence[float], digits: int = 1) -> str:
    return " ".join(f"{value:.{digits}f}" for value in values)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        runs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
        shelf = draw_books(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 100)
        print(f"{os.cpu_count()} cores, {WORKERS} workers, load {os.getloadavg()[0]:.1f}")
        real = Path(os.environ.get("PATHLOOM_DATA", "")) / "documents" / "pdfs"
        if real.is_dir():
            compare("public PDFs", find_books(real), runs)
        compare("phantom books", find_books(shelf), runs)
        compare_scans(folder, runs)
        where_time_goes(shelf)
        watch_memory(find_books(shelf), folder)


if __name__ == "__main__":
    main()
