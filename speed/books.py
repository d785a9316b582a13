"""Pages a second from books to cut panels, on two workers, and where the time and the memory go.

`OMP_NUM_THREADS=1 python speed/books.py [folder] [runs] [pages]`. In `folder` phantom books of `pages` pages (100) of
every house are drawn unless they are there; without one they are drawn anew. PDFs under PATHLOOM_DATA are read too. The
bar: 20 pages a second on two cores for born-digital PDFs, only pages with figures rendered.

Runs of all settings follow each other and medians are printed, so that what else runs here hits all alike; the load is
that of the last minute when a run begins. Three starts of the workers are in every number. Beside pages a second of the
clock stands what two free cores would allow by the seconds of CPU that were used, which a busy machine changes less.
Letters inside pictures take many times longer than all else, so that they are read in books of LETTER_PAGES only.
"""

import cProfile
import itertools
import multiprocessing
import os
import pstats
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

from pathloom.books.extract import Extraction
from pathloom.books.files import BookFile, find_books
from pathloom.books.reader import Reader, ReadSettings
from pathloom.ingest.books import BooksConfig
from pathloom.phantom.book import write_book
from pathloom.phantom.book_style import HOUSES
from pathloom.phantom.scan import scan_book

WORKERS = 2
SETTINGS: dict[str, dict[str, Any]] = {
    "whole, pages with figures rendered": {"render": "figures"},
    "whole, all pages rendered": {"render": "all"},
}
READING = "reading only"
SCANNED_PAGES = 10
LETTER_PAGES = 6
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

    def read(self) -> None:
        """Read all pages and do nothing with them."""
        self._survey()
        self._read()

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


@dataclass(frozen=True)
class Took:
    """Seconds of the clock and of the CPU, of this process and its workers."""

    clock: float
    cpu: float


def timed(work: Callable[[], Any]) -> Took:
    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start, cpu_before = time.perf_counter(), cpu()
    work()
    return Took(time.perf_counter() - start, cpu() - cpu_before)


def compare(name: str, files: Sequence[BookFile], letters: bool, runs: int) -> None:
    """Pages a second of reading and of every setting on one shelf."""
    took: dict[str, list[Took]] = {label: [] for label in (READING, *SETTINGS)}
    loads, kept, extraction = [], {}, None
    for _ in range(runs):
        loads.append(os.getloadavg()[0])
        for label in took:
            with tempfile.TemporaryDirectory() as out:
                extraction = Watched(files, Path(out), letters=letters, **SETTINGS.get(label, {}))
                work = extraction.read if label == READING else extraction.by_rule
                took[label].append(timed(work))
                kept[label] = sum(1 for _ in Path(out).glob("renderings/**/*.jpg"))
    assert extraction is not None
    pages = sum(book.survey.num_pages for book in extraction.books)
    figures = sum(len(book.book.figures) for book in extraction.books)
    statuses = Counter(page.status for book in extraction.books for page in book.pages.values())
    print(
        f"\n{name}, letters={letters}: {len(files)} books, {pages} pages {dict(statuses)}, {figures} figures"
    )
    print(f"  load {_list(loads)}")
    for label, found in took.items():
        speeds = [pages / one.clock for one in found]
        cpu = statistics.median(one.cpu for one in found) / pages
        print(
            f"  {label}: {statistics.median(speeds):.2f} pages/s ({_list(speeds)}), {1000 * cpu:.0f} ms of CPU a page: "
            f"{WORKERS / cpu:.1f} pages/s of {WORKERS} free cores; {kept[label]} renderings",
            flush=True,
        )


def compare_scans(runs: int) -> None:
    """Pages a second through OCR."""
    with tempfile.TemporaryDirectory() as work:
        book = write_book(Path(work) / "scan.pdf", num_pages=SCANNED_PAGES, seed=6, style="textbook")
        scan_book(Path(work) / "scan.pdf", Path(work) / "scan", book, seed=6)
        for letters in (False, True):
            compare("scans", find_books(Path(work) / "scan"), letters, runs)


def watch_memory(files: Sequence[BookFile], folder: Path) -> None:
    """Memory over a book of a thousand pages, the shelf's pages in one file."""
    import pypdfium2

    path = folder / "long.pdf"
    with pypdfium2.PdfDocument.new() as long:
        for file in itertools.cycle(files):
            with pypdfium2.PdfDocument(file.path) as part:
                long.import_pages(part, list(range(min(len(part), LONG_PAGES - len(long)))))
            if len(long) == LONG_PAGES:
                break
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


def draw_books(shelf: Path, pages: int) -> Path:
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
        pages = int(sys.argv[3]) if len(sys.argv) > 3 else 100
        houses = draw_books(folder / f"houses_{pages}", pages)
        print(f"{os.cpu_count()} cores, {WORKERS} workers, load {os.getloadavg()[0]:.1f}")
        watch_memory(find_books(houses), folder)  # before other work makes this process large
        real = Path(os.environ.get("PATHLOOM_DATA", "")) / "documents" / "pdfs"
        if real.is_dir():
            compare("public PDFs", find_books(real), False, runs)
        compare("phantom books", find_books(houses), False, runs)
        where_time_goes(houses)
        compare("phantom books", find_books(draw_books(folder / "letters", LETTER_PAGES)), True, runs)
        compare_scans(runs)


if __name__ == "__main__":
    main()
