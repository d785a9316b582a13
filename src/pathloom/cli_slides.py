"""The command `ingest slides`: what it adds to the options of `ingest`, and the table that it prints."""

import argparse
from pathlib import Path
from typing import Any

_TILE_KEYS = ("mpp", "size_px")


def add_tile_options(ingest: argparse.ArgumentParser) -> None:
    """Options that only slides have; recipes have them as keys."""
    ingest.add_argument(
        "--mpp", type=float, metavar="M", help="slides: micrometres per pixel of the tiles (default: 0.5)"
    )
    ingest.add_argument(
        "--size_px", type=int, metavar="N", help="slides: width and height of a tile (default: 224)"
    )


def tile_keys(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of an entry that the options give. Raises UserError where another source is read."""
    from pathloom.stage import UserError

    given = {key: getattr(arguments, key) for key in _TILE_KEYS if getattr(arguments, key) is not None}
    if given and arguments.source != "slides":
        raise UserError(
            f"--{next(iter(given))} is for slides; give --set {next(iter(given))}=... where a source has it"
        )
    return given


def slide_lines(out: Path) -> list[str]:
    """What is printed at the end."""
    from pathloom.ingest.slides_table import GALLERY_FILE, TABLE_FILE, table_lines

    return [*table_lines(out / TABLE_FILE), f"look: {out / GALLERY_FILE}"]
