"""The command `ingest slides`: what it adds to the options of `ingest`, and the table that it prints."""

import argparse
import json
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


def print_slides(out: Path) -> int:
    """The table that stands at the end; returns the exit status, 1 where no slide could be read."""
    from pathloom.ingest.slides_table import GALLERY_FILE, TABLE_FILE, table_lines
    from pathloom.stage import MANIFEST_FILE

    manifest = json.loads((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    config, counts = manifest["config"], manifest["counts"]
    print("\n".join(table_lines(out / TABLE_FILE)))
    print(f"tiles of {config['size_px']} px at {config['mpp']:g} um per pixel; look: {out / GALLERY_FILE}")
    return 0 if counts["samples"] else 1
