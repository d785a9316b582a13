"""One slide after another to its tissue, its tiles and pictures to look at; a slide that fails costs no other.

    STAGE/slides/NAME/   slide.json, tiles.parquet (slides/record.py), thumbnail.jpg, overlay.jpg, tissue.geojson,
                         grid.geojson, outcome.json (a row of the table)

A slide is done when it has slide.json, or an outcome.json that says why it is refused; a killed run goes on with the
others.
"""

import errno
import hashlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage
from PIL import ImageDraw
from pydantic import Field
from tqdm import tqdm

from pathloom.images import BadImage
from pathloom.ingest.slides_table import write_gallery, write_table
from pathloom.schema import Record
from pathloom.slides.find import slide_size_and_time
from pathloom.slides.geojson import grid_features, outlines, tissue_features, write_geojson
from pathloom.slides.grid import Grid, boxes_l0, tile_grid, tissue_shares
from pathloom.slides.quality import judge_tile, slide_fault
from pathloom.slides.reader import Slide, open_slide
from pathloom.slides.record import RECORD_FILE, SLIDES_FOLDER, TILES_FILE, SlideRecord
from pathloom.slides.tiles import THREADS, try_tiles
from pathloom.slides.tissue import Overview, TissueMask, find_tissue, read_overview

OUTCOME_FILE = "outcome.json"
THUMBNAIL_FILE, OVERLAY_FILE = "thumbnail.jpg", "overlay.jpg"
READ = "read"
PICTURE_PX = 1024
"""Longer side of the pictures to look at."""
NO_TISSUE = "no_tissue"


class TileSettings(Record):
    """How slides are cut into tiles."""

    mpp: float = Field(
        default=0.5, gt=0, allow_inf_nan=False, description="micrometres per pixel of the tiles"
    )
    size_px: int = Field(default=224, ge=16, le=4096, description="width and height of a tile")
    overlap_px: int = Field(default=0, ge=0, description="by which neighbours overlap")
    min_tissue: float = Field(default=0.25, ge=0, le=1, description="share of a tile that must be tissue")
    stated_mpp: float | None = Field(
        default=None, gt=0, description="micrometres per pixel of level 0, for slides that say none"
    )
    check_tiles: bool = Field(
        default=True,
        description="read every tile once: pen, blur and blank ones and unreadable ones are left out",
    )


class Outcome(Record):
    """What came of one slide: `status` is "read" or a reason. Sizes are 0 where it was not opened."""

    name: str
    folder: str
    path: str
    status: str
    detail: str = ""
    vendor: str = ""
    width_l0: int = 0
    height_l0: int = 0
    mpp_l0: float | None = None
    tissue_share: float | None = None
    tiles: int = 0
    dropped: dict[str, int] = Field(default={}, description="tiles on tissue that are left out, by reason")
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def read_slides_into(
    slides: Mapping[str, Path],
    out: Path,
    *,
    mpp: float = 0.5,
    size_px: int = 224,
    title: str = "slides",
    **settings: Any,
) -> dict[str, Any]:
    """Read slides (id -> file) into `out`/slides with table and gallery, going on from a killed run.

    `settings` are further keys of TileSettings. Returns counts for a manifest: slides, tiles, refused slides by reason,
    warnings for slides of which some tiles cannot be read.
    """
    tiles = TileSettings(mpp=mpp, size_px=size_px, **settings)
    return counts_of(read_slides(slides, out, tiles, title=title))


def read_slides(
    slides: Mapping[str, Path], out: Path, settings: TileSettings, *, title: str
) -> list[Outcome]:
    """`read_slides_into`, with what came of each slide in their order."""
    outcomes = []
    for name, path in tqdm(slides.items(), desc=title, unit="slide", leave=False):
        folder = out / SLIDES_FOLDER / folder_name(name)
        outcome = _done(folder)
        if outcome is None:
            folder.mkdir(parents=True, exist_ok=True)
            outcome = _read_one(name, path, out, folder, settings)
        outcomes.append(outcome)
    write_table([outcome.model_dump() for outcome in outcomes], out)
    write_gallery([outcome.model_dump() for outcome in outcomes], out, title)
    return outcomes


def counts_of(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """For a manifest."""
    every = list(outcomes)
    dropped: Counter[str] = Counter()
    for one in every:
        dropped.update(one.dropped)
    return {
        "slides": sum(one.status == READ for one in every),
        "tiles": sum(one.tiles for one in every),
        "refused_slides": dict(sorted(Counter(one.status for one in every if one.status != READ).items())),
        "dropped_tiles": dict(sorted(dropped.items())),
        "warnings": [
            f"{one.name}: {one.dropped['unreadable_region']} of {one.tiles + sum(one.dropped.values())} tiles on "
            "tissue cannot be read"
            for one in every
            if one.dropped.get("unreadable_region")
        ],
    }


def folder_name(name: str) -> str:
    """A slide's name as one of a folder: other signs replaced, and then a hash, so that no two slides share one."""
    plain = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII).lstrip(".")[:100]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _done(folder: Path) -> Outcome | None:
    path = folder / OUTCOME_FILE
    if not path.is_file():
        return None
    outcome = Outcome.model_validate_json(path.read_text(encoding="utf-8"))
    return outcome if outcome.status != READ or (folder / RECORD_FILE).is_file() else None


def _read_one(name: str, path: Path, out: Path, folder: Path, settings: TileSettings) -> Outcome:
    """The boundary of a slide: whatever is wrong with it is noted, and the next one is read."""
    start = time.monotonic()
    about: dict[str, Any] = {"name": name, "folder": folder.name, "path": _kept_path(path, out)}
    record: SlideRecord | None = None
    try:
        with open_slide(path, stated_mpp=settings.stated_mpp) as slide:
            about |= {
                "vendor": slide.vendor,
                "width_l0": slide.size_l0[0],
                "height_l0": slide.size_l0[1],
                "mpp_l0": slide.mpp_l0,
                "notes": slide.notes,
            }
            record = _cut(slide, about, folder, settings)
        about["status"] = READ
    except BadImage as error:
        about |= {"status": error.reason, "detail": str(error)}
    except Exception as error:  # a file that breaks its reader must not cost the others
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOSPC:
            raise  # says nothing about the slide, which is read again when the run goes on
        about |= {"status": "failed", "detail": f"{type(error).__name__}: {error}"[:500]}
    outcome = Outcome(**about, seconds=round(time.monotonic() - start, 2))
    _write_whole(folder / OUTCOME_FILE, outcome.model_dump_json(indent=2))
    if record is not None:
        _write_whole(folder / RECORD_FILE, record.model_dump_json(indent=2))
    return outcome


def _cut(slide: Slide, about: dict[str, Any], folder: Path, settings: TileSettings) -> SlideRecord:
    """Everything of one slide but its record, which is written last. Fills `about`; raises BadImage."""
    overview = read_overview(slide, slide.size_l0)
    _save(PILImage.fromarray(overview.pixels_rgb), folder / THUMBNAIL_FILE)
    reason, detail = slide_fault(overview.pixels_rgb)
    if reason:
        raise BadImage(reason, f"{slide.path}: {detail}")
    tissue = find_tissue(overview)
    about["tissue_share"] = round(tissue.share, 4)
    if not tissue.mask.any():
        raise BadImage(NO_TISSUE, f"{slide.path}: no stained piece of tissue was found")
    grid = tile_grid(
        slide.size_l0,
        slide.mpp_l0,
        mpp=settings.mpp,
        size_px=settings.size_px,
        overlap_px=settings.overlap_px,
    )
    shares = tissue_shares(grid, tissue.mask, slide.size_l0)
    drops = np.where(shares >= max(settings.min_tissue, 1e-9), "", NO_TISSUE).astype(object)
    if settings.check_tiles:
        chosen = np.flatnonzero(drops == "")
        drops[chosen] = _faults(slide, grid, chosen, settings)
    kept = np.flatnonzero(drops == "")
    about["tiles"] = len(kept)
    about["dropped"] = dict(
        sorted(Counter(reason for reason in drops if reason not in ("", NO_TISSUE)).items())
    )
    _write_tiles(grid, shares, drops, folder)
    boxes = boxes_l0(grid, kept)
    write_geojson(tissue_features(tissue.mask, slide.size_l0), folder / "tissue.geojson")
    write_geojson(grid_features(boxes), folder / "grid.geojson")
    _save(_overlay(overview, tissue, slide.size_l0, boxes), folder / OVERLAY_FILE)
    if not len(kept):
        reasons = ", ".join(f"{reason} {count}" for reason, count in about["dropped"].items()) or NO_TISSUE
        unreadable = set(about["dropped"]) == {"unreadable_region"}
        raise BadImage(
            "unreadable_region" if unreadable else "no_tiles", f"{slide.path}: no tile can be used: {reasons}"
        )
    return SlideRecord(
        id=about["name"],
        path=about["path"],
        file_bytes=slide_size_and_time(slide.path)[0],
        vendor=slide.vendor,
        width_l0=slide.size_l0[0],
        height_l0=slide.size_l0[1],
        mpp_l0=slide.mpp_l0,
        stated_mpp=settings.stated_mpp,
        mpp=settings.mpp,
        size_px=settings.size_px,
        num_tiles=len(kept),
        tissue_share=tissue.share,
    )


def _faults(
    slide: Slide, grid: Grid, chosen: "np.typing.NDArray[np.int64]", settings: TileSettings
) -> list[str]:
    tiles = try_tiles(
        slide, grid.places_l0[chosen], mpp=settings.mpp, size_px=settings.size_px, threads=THREADS
    )
    shown = tqdm(tiles, total=len(chosen), desc=slide.path.name, unit="tile", leave=False)
    return [tile.reason if isinstance(tile, BadImage) else judge_tile(tile).fault for _, tile in shown]


def _write_tiles(
    grid: Grid, shares: "np.typing.NDArray[np.float64]", drops: "np.typing.NDArray[np.object_]", folder: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "x_l0": pa.array(grid.places_l0[:, 0], pa.int64()),
            "y_l0": pa.array(grid.places_l0[:, 1], pa.int64()),
            "tissue": pa.array(shares.round(4), pa.float32()),
            "drop": pa.array(list(drops), pa.string()),
        }
    )
    pq.write_table(table, folder / TILES_FILE, compression="zstd")


def _overlay(
    overview: Overview, tissue: TissueMask, size_l0: tuple[int, int], boxes: list[tuple[int, int, int, int]]
) -> PILImage.Image:
    """The overview with the tiles that are kept (blue) and the outline of the tissue (green) drawn in."""
    picture = PILImage.fromarray(overview.pixels_rgb)
    scale = min(1.0, PICTURE_PX / max(picture.size)) if max(picture.size) > PICTURE_PX else 1.0
    grow = max(1, PICTURE_PX // (2 * max(picture.size)))
    width, height = (max(1, round(length * scale)) * grow for length in picture.size)
    picture = picture.resize((width, height))
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in boxes:
        corners = [
            x1 * width / size_l0[0],
            y1 * height / size_l0[1],
            x2 * width / size_l0[0],
            y2 * height / size_l0[1],
        ]
        draw.rectangle(corners, outline=(30, 90, 200))
    per_px = np.array([width / tissue.mask.shape[1], height / tissue.mask.shape[0]])
    for rings in outlines(tissue.mask):
        for ring in rings:
            draw.line([*map(tuple, ring * per_px), tuple(ring[0] * per_px)], fill=(0, 130, 0), width=2)
    return picture


def _save(picture: PILImage.Image, path: Path) -> None:
    small = picture.copy()
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    small.save(path, quality=85)


def _kept_path(path: Path, out: Path) -> str:
    """Relative to the stage where the file lies inside it, since the stage's folder is renamed when it is whole."""
    whole = path.resolve()
    inside = out.resolve()
    return whole.relative_to(inside).as_posix() if whole.is_relative_to(inside) else str(whole)


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
