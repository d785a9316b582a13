"""Stage `embed_slides`: one vector a tile from a frozen encoder, kept with the tile's place.

What it leaves is described in slides/features.py. A killed run goes on at the slide where it stopped.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pathloom.curate.features import EncoderConfig
from pathloom.images import BadImage
from pathloom.models.embed import Encoder
from pathloom.slides.features import (
    FEATURES_FOLDER,
    FeaturesAbout,
    SlideAbout,
    TileFeatures,
    encoder_of,
    write_about,
    write_features,
)
from pathloom.slides.record import SlideRecord, read_records
from pathloom.slides.record import read_tiles as read_places
from pathloom.stage import FACTS_FILE, UserError, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as PILImage


class EmbedSlidesConfig(EncoderConfig):
    """Entry of a recipe: `{name: tiles_seen, kind: embed_slides, samples: [slides], encoder: efficientnet_lite0}`."""

    version: ClassVar[int] = 1

    kind: Literal["embed_slides"]

    def kinds_needed(self) -> dict[str, str]:
        """`samples` are stages of a source of slides."""
        return dict.fromkeys(self.samples, "ingest") | super().kinds_needed()


def run_embed_slides(config: EmbedSlidesConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write each slide's features that are not there yet, then what lies there; gives counts for the manifest.

    A slide that cannot be read is noted as missing, with the reason, and the others are done. Raises UserError where
    none can, and for a slide that stands in two stages.
    """
    from tqdm import tqdm

    from pathloom.models.embed import load_encoder

    encoder = load_encoder(config.encoder, inputs)
    found = _find(config, inputs)
    (out / FEATURES_FOLDER).mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    with tqdm(
        total=sum(one.record.num_tiles for one in found), desc=config.name, unit="tile", leave=False
    ) as bar:
        for one in found:
            path = out / FEATURES_FOLDER / one.file
            if encoder_of(path) == encoder.name:
                bar.update(one.record.num_tiles)
                continue
            done = bar.n
            try:
                write_features(path, _encode(one, encoder, config.batch_size, bar), encoder.name)
            except (
                Exception
            ) as error:  # the boundary of a slide: whatever is wrong with it, the others are done
                if _is_of_the_machine(error):
                    raise
                missing[one.record.id] = _reason(error)
                bar.update(done + one.record.num_tiles - bar.n)
    if found and len(missing) == len(found):
        slide, reason = next(iter(missing.items()))
        raise UserError(f"{config.name}: no slide could be encoded; {slide}: {reason}")
    about = _about(encoder, found, missing)
    write_about(about, out)
    counts: dict[str, Any] = {
        "slides": len(about.slides),
        "tiles": sum(slide.num_tiles for slide in about.slides.values()),
        "dim": about.dim,
        "encoder": about.encoder,
        "missing": missing,
    }
    write_json([{"step": config.kind, **counts}], out / FACTS_FILE)
    return counts


@dataclass(frozen=True)
class _Found:
    """A slide of an ingest stage, where its own folder is, and the name of the file of its features."""

    record: SlideRecord
    stage: Path
    folder: Path
    file: str


def _find(config: EmbedSlidesConfig, inputs: Mapping[str, Path]) -> list[_Found]:
    found: dict[str, _Found] = {}
    for name in config.samples:
        for record, folder in read_records(inputs[name]):
            if record.id in found:
                raise UserError(
                    f"{config.name}.samples: the slide {record.id} stands in {found[record.id].stage} and in "
                    f"{inputs[name]}; encode them by entries of their own"
                )
            prefix = "" if len(config.samples) == 1 else f"{name}."
            found[record.id] = _Found(record, inputs[name], folder, f"{prefix}{folder.name}.safetensors")
    if not found:
        raise UserError(
            f"{config.name}.samples: {', '.join(config.samples)} hold no slide that could be read; "
            "slides.csv in their folders says why"
        )
    return list(found.values())


def _encode(one: _Found, encoder: Encoder, batch_size: int, bar: Any) -> TileFeatures:
    """Read and encode the tiles of one slide, in the grid's order. Raises BadImage for a file that has changed."""
    from pathloom.slides.find import slide_size_and_time
    from pathloom.slides.reader import open_slide
    from pathloom.slides.tiles import read_tiles

    record = one.record
    places_l0 = read_places(one.folder)
    # a path inside the stage is kept relative to it; joining leaves an absolute one as it is
    path = one.stage / record.path
    with open_slide(path, stated_mpp=record.mpp_l0, overrides_file=True) as slide:
        if slide.size_l0 != (record.width_l0, record.height_l0):
            raise BadImage(
                "changed",
                f"{slide.size_l0[0]}x{slide.size_l0[1]} px, but {record.width_l0}x{record.height_l0} at ingest",
            )
        if record.file_bytes not in (0, slide_size_and_time(path)[0]):
            raise BadImage("changed", f"the file has another size than at ingest, {record.file_bytes} bytes")
        tiles = read_tiles(slide, places_l0, mpp=record.mpp, size_px=record.size_px)
        features = encoder.images(_pictures(tiles, bar), batch_size)
    return TileFeatures(features.astype("float16"), places_l0.astype("int32"))


def _pictures(tiles: "Iterable[NDArray[np.uint8]]", bar: Any) -> "Iterator[PILImage.Image]":
    from PIL import Image as PILImage

    for tile in tiles:
        yield PILImage.fromarray(tile)
        bar.update()


def _is_of_the_machine(error: Exception) -> bool:
    """A full disk or memory says nothing about the slide: the run ends, and goes on at this slide when it is mended."""
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    full = isinstance(error, OSError | SafetensorError) and "No space left on device" in str(error)
    return full or isinstance(error, MemoryError | OutOfMemoryError)


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, BadImage) else type(error).__name__
    return f"{reason}: {str(error).splitlines()[0] if str(error) else reason}"


def _about(encoder: Encoder, found: Sequence[_Found], missing: Mapping[str, str]) -> FeaturesAbout:
    slides = {
        one.record.id: SlideAbout(
            file=one.file,
            num_tiles=one.record.num_tiles,
            mpp=one.record.mpp,
            size_px=one.record.size_px,
        )
        for one in found
        if one.record.id not in missing
    }
    return FeaturesAbout(encoder=encoder.name, dim=encoder.image_dim, slides=slides, missing=dict(missing))
