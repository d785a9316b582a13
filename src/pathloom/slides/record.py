"""What `ingest slides` leaves of each slide, and where the stages after it find it.

    STAGE/slides/NAME/slide.json      a SlideRecord; written last, so a slide that has one is done
    STAGE/slides/NAME/tiles.parquet   a row for each tile: x_l0, y_l0, tissue in [0, 1], drop ("" or a reason)
    STAGE/slides/NAME/outcome.json    a row of the table; of a slide that is refused, its reason
    STAGE/slides/NAME/...             thumbnail, overlay, GeoJSON

NAME is the slide's name with all signs but letters, digits, "-", "_" and "." replaced, and a hash where that is needed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from pathloom.schema import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLIDES_FOLDER = "slides"
RECORD_FILE = "slide.json"
TILES_FILE = "tiles.parquet"


class SlideRecord(Record):
    """One slide that was read: `id` is what `Image.slide` names; `path` is the file, read in place."""

    id: str
    path: str
    file_bytes: int = Field(default=0, ge=0, description="of all its files; 0 where they were not counted")
    vendor: str
    width_l0: int = Field(gt=0)
    height_l0: int = Field(gt=0)
    mpp_l0: float = Field(gt=0, description="micrometres per pixel of level 0")
    stated_mpp: float | None = Field(
        default=None, description="what the recipe states for slides that say none; `mpp_l0` is what was used"
    )
    mpp: float = Field(gt=0, description="of the tiles")
    size_px: int = Field(gt=0, description="width and height of a tile, in pixels of `mpp`")
    num_tiles: int = Field(ge=0, description="kept, that is, without a reason in `drop`")
    tissue_share: float = Field(ge=0, le=1)


def read_records(stage: Path) -> Iterator[tuple[SlideRecord, Path]]:
    """Each finished slide of a stage with its folder, in order of the folders' names."""
    for path in sorted((stage / SLIDES_FOLDER).glob(f"*/{RECORD_FILE}")):
        yield SlideRecord.model_validate_json(path.read_text(encoding="utf-8")), path.parent


def read_tiles(folder: Path) -> "NDArray[np.int64]":
    """[num_tiles, 2] x_l0, y_l0 of the upper left corners of the tiles that were kept, in the grid's order."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / TILES_FILE).to_pandas()
    kept = table[table["drop"] == ""]
    return kept[["x_l0", "y_l0"]].to_numpy("int64")
