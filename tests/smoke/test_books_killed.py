"""`pathloom ingest books` is killed with SIGKILL while it reads and goes on from the pages it has."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAGES = 300


@pytest.mark.slow
def test_finished_pages_of_a_book_of_300_are_not_repeated_after_kill_9(tmp_path):
    book = tmp_path / "book.pdf"
    _write_many_pages(book)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pathloom.cli", "ingest", "books", str(book), "--out", str(out)]
    seen: list[dict[int, float]] = []
    for wanted in (40, 120, 220):
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(_pages(tmp_path)) < wanted and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen.append(_pages(tmp_path))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = (out / "pages" / "book.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["number"] for record in records] == list(range(1, PAGES + 1))
    last = {record["number"]: record["seconds"] for record in records}
    for earlier in seen:  # a page that was read again would have another time
        assert earlier
        assert all(last[number] == seconds for number, seconds in earlier.items())
    print(f"\npages on the disk at each kill: {[len(one) for one in seen]}, none of them read again")


def _pages(folder: Path) -> dict[int, float]:
    """Whole lines of the journal so far: page -> seconds it took."""
    found = list(folder.glob("**/pages/book.jsonl"))
    text = found[0].read_text("utf-8") if found else ""
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {record["number"]: record["seconds"] for record in records}


def _write_many_pages(path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path), pagesize=(595, 842))
    for number in range(1, PAGES + 1):
        for row in range(60):
            canvas.drawString(
                60, 780 - 12 * row, f"Line {row} of page {number}: glands of one layer of cells."
            )
        canvas.showPage()
    canvas.save()
