"""What came of each slide, as `slides.csv`, as lines for the terminal, and as `gallery.html` to look at."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

TABLE_FILE = "slides.csv"
GALLERY_FILE = "gallery.html"
COLUMNS = ("slide", "vendor", "size_l0", "mpp_l0", "tissue", "tiles", "dropped", "seconds", "status")


def row_of(outcome: Mapping[str, Any]) -> dict[str, str]:
    """The row of one slide, every cell as text."""
    share, mpp = outcome["tissue_share"], outcome["mpp_l0"]
    return {
        "slide": outcome["name"],
        "vendor": outcome["vendor"],
        "size_l0": f"{outcome['width_l0']}x{outcome['height_l0']}" if outcome["width_l0"] else "",
        "mpp_l0": "" if mpp is None else f"{mpp:.4g}",
        "tissue": "" if share is None else f"{share:.3f}",
        "tiles": str(outcome["tiles"]),
        "dropped": " ".join(f"{reason}:{count}" for reason, count in outcome["dropped"].items()),
        "seconds": f"{outcome['seconds']:.1f}",
        "status": outcome["status"],
    }


def write_table(outcomes: Sequence[Mapping[str, Any]], out: Path) -> None:
    """`slides.csv`, a row a slide, with the detail of what is wrong in the last column."""
    with (out / TABLE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, "detail"))
        writer.writeheader()
        writer.writerows({**row_of(one), "detail": one["detail"]} for one in outcomes)


def table_lines(path: Path, limit: int = 40) -> list[str]:
    """The written table for people, and why slides were refused: columns aligned, at most `limit` slides."""
    with path.open(encoding="utf-8", newline="") as file:
        whole = list(csv.reader(file))
    rows = [row[: len(COLUMNS)] for row in whole]
    shown = rows[: limit + 1]
    widths = [max(len(row[column]) for row in shown) for column in range(len(COLUMNS))]
    left = {0, 1, COLUMNS.index("dropped"), len(COLUMNS) - 1}
    lines = [
        "  ".join(
            cell.ljust(size) if column in left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in shown
    ]
    why = [f"{row[0]}: {row[-1]}" for row in whole[1 : limit + 1] if row[-1]]
    return [
        *lines,
        *([f"... {len(rows) - len(shown)} more in {path}"] if len(rows) > len(shown) else []),
        *why,
    ]


def write_gallery(outcomes: Sequence[Mapping[str, Any]], out: Path, title: str) -> None:
    """A page of all slides with tissue and tiles drawn in. It needs no network and runs no script."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("slides_gallery.html.j2")
    shown = []
    for one in outcomes:
        folder = Path("slides") / one["folder"]
        pictures = [name for name in ("overlay.jpg", "thumbnail.jpg") if (out / folder / name).is_file()]
        shown.append(
            {
                "row": row_of(one),
                "detail": one["detail"],
                "notes": one["notes"],
                "picture": quote(f"{folder.as_posix()}/{pictures[0]}") if pictures else "",
            }
        )
    (out / GALLERY_FILE).write_text(page.render(title=title, columns=COLUMNS, slides=shown), encoding="utf-8")
