"""The features of slides' tiles as they lie on disk, and the shelf that models take them from.

STAGE/features/NAME.safetensors   features float16 [n, d]; places_l0 int32 [n, 2], x and y of each tile's upper left
                                  corner; written whole, so a slide that has one is done
STAGE/features/about.json         FeaturesAbout, written last
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import Field

from pathloom.schema import Record, Sample
from pathloom.stage import UserError, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEATURES_FOLDER = "features"
ABOUT_FILE = "about.json"
NO_SLIDE = ""
"""`Image.slide` of the slide without tiles, which a control shows in the place of another."""
_CACHE_BYTES = 2**30
"""Features that a shelf keeps in memory; our own choice: two hundred slides of 2000 tiles of EfficientNet-Lite0."""

Kept = TypeVar("Kept")


class TileKind(Record):
    """What tile features are of. Those of two kinds cannot be compared, and one model reads one kind."""

    encoder: str = Field(description="of the tiles, with the hash of its weights")
    dim: int = Field(ge=1, description="length of a tile's vector")
    mpp: float = Field(gt=0, description="of the tiles, micrometres per pixel")
    size_px: int = Field(gt=0, description="of a tile's edge, in pixels of `mpp`")

    def __str__(self) -> str:
        return f"tiles of {self.size_px} px at {self.mpp:g} um by {self.encoder}"


class SlideAbout(Record):
    """One slide's file in `features/` and the tiles in it."""

    file: str
    num_tiles: int = Field(ge=0)
    mpp: float = Field(gt=0, description="of the tiles, micrometres per pixel")
    size_px: int = Field(gt=0, description="of a tile's edge, in pixels of `mpp`")


class FeaturesAbout(Record):
    """What lies in `features/`: the encoder's name with the hash of its weights, slide id -> file, and what is missing.

    `missing` says of each slide that could not be encoded why.
    """

    encoder: str
    dim: int = Field(ge=1)
    slides: dict[str, SlideAbout]
    missing: dict[str, str] = Field(default={})


@dataclass(frozen=True)
class TileFeatures:
    """`features` float16 [n, d] and `places_l0` int32 [n, 2] of one slide's tiles, row by row."""

    features: "NDArray[np.float16]"
    places_l0: "NDArray[np.int32]"


def write_features(path: Path, tiles: TileFeatures, encoder: str) -> None:
    """One slide's file, whole or not at all, and who made it. Raises UserError for what half precision cannot hold."""
    import numpy as np
    from safetensors.numpy import save_file

    features = np.ascontiguousarray(tiles.features, dtype=np.float16)
    places = np.ascontiguousarray(tiles.places_l0, dtype=np.int32)
    if features.ndim != 2 or places.shape != (len(features), 2):
        raise ValueError(
            f"features {features.shape} and places {places.shape} are not those of the same tiles"
        )
    if not np.isfinite(features).all():
        raise UserError(f"{path.name}: features that are no finite numbers in half precision")
    unfinished = path.with_name(f"{path.name}.part")
    save_file({"features": features, "places_l0": places}, unfinished, {"encoder": encoder})
    unfinished.replace(path)


def read_features(path: Path) -> TileFeatures:
    """One slide's file. Raises UserError that names it where it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return TileFeatures(tensors["features"], tensors["places_l0"])
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: no file of tile features ({error}); run its stage again") from error


def encoder_of(path: Path) -> str | None:
    """Whose features a slide's file holds; None where it is not there or not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("encoder")
    except (OSError, SafetensorError):
        return None


def write_about(about: FeaturesAbout, stage: Path) -> None:
    write_json(about.model_dump(mode="json"), stage / FEATURES_FOLDER / ABOUT_FILE)


class Recent(Generic[Kept]):
    """What was made lately, up to a number of bytes; the oldest goes first, and what is larger is not kept at all."""

    def __init__(self, max_bytes: int, size: Callable[[Kept], int]) -> None:
        self.max_bytes = max_bytes
        self.size = size
        self.num_bytes = 0
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What stands under `key`, made where nothing does."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        if self.size(made) <= self.max_bytes:
            self._kept[key] = made
            self.num_bytes += self.size(made)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self.size(self._kept.popitem(last=False)[1])
        return made


class Shelf:
    """Slide id -> its tile features, from stages `embed_slides`; read when asked for, the last ones kept.

    `kind` is of all slides; `missing` says why a slide has no features.
    """

    def __init__(self, stages: Sequence[Path], *, max_bytes: int = _CACHE_BYTES) -> None:
        """Raises UserError for a folder without features, for tiles of several kinds, for a slide in two stages."""
        if not stages:
            raise ValueError("a shelf needs at least one stage")
        self._files: dict[str, Path] = {}
        self.missing: dict[str, str] = {}
        abouts = {stage: _read_about(stage) for stage in stages}
        kinds = {kind: stage for stage, about in abouts.items() for kind in _kinds(about)}
        if not kinds:
            raise UserError(f"slides: {', '.join(map(str, stages))} hold features of no slide")
        if len(kinds) > 1:
            (one, first), (other, second), *_ = kinds.items()
            raise UserError(
                f"slides: {first} holds features of {one}, {second} of {other}; one model reads one kind of tiles"
            )
        (self.kind,) = kinds
        for stage, about in abouts.items():
            if twice := sorted(about.slides.keys() & self._files.keys()):
                raise UserError(
                    f"slides: the slide {twice[0]} has features in {stage} and in a stage before it"
                )
            self._files |= {slide: stage / FEATURES_FOLDER / one.file for slide, one in about.slides.items()}
            self.missing |= about.missing
        self._recent = Recent[TileFeatures](
            max_bytes, lambda tiles: tiles.features.nbytes + tiles.places_l0.nbytes
        )

    def __contains__(self, slide: object) -> bool:
        return slide in self._files

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._files)

    def read(self, slide: str) -> TileFeatures:
        """Raises UserError for a slide that is not here."""
        if slide not in self._files:
            reason = self.missing.get(slide)
            raise UserError(
                f"slide {slide}: no features on the shelf"
                + (f" ({reason})" if reason else "; name the stage `embed_slides` that made them in `slides`")
            )
        return self._recent.get(slide, lambda: read_features(self._files[slide]))

    def __deepcopy__(self, memo: object) -> "Shelf":
        """A copied model takes from the same shelf."""
        return self


def open_shelf(stages: Sequence[str], inputs: Mapping[str, Path]) -> Shelf | None:
    """The shelf over the stages of an entry's `slides`; None where it names none."""
    return Shelf([inputs[name] for name in stages]) if stages else None


def lacks_features(sample: Sample, shelf: Shelf | None, where: str) -> bool:
    """Whether a slide of the Sample could not be encoded, so that nobody can be asked about it.

    Raises UserError for a slide that no stage of `slides` was asked to encode; `where` names the entry of the recipe.
    """
    slides = [image.slide for image in sample.images if image.slide is not None]
    for slide in slides:
        if shelf is None or (slide not in shelf and slide not in shelf.missing):
            raise UserError(
                f"{where}.slides: sample {sample.id} is about the slide {slide}, "
                + ("and `slides` is not given" if shelf is None else "which has no features there")
                + "; name the stage `embed_slides` that encoded it"
            )
    return shelf is not None and any(slide not in shelf for slide in slides)


def _read_about(stage: Path) -> FeaturesAbout:
    path = stage / FEATURES_FOLDER / ABOUT_FILE
    try:
        return FeaturesAbout.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no features of slides ({str(error).splitlines()[0]})") from error


def _kinds(about: FeaturesAbout) -> list[TileKind]:
    return [
        TileKind(encoder=about.encoder, dim=about.dim, mpp=slide.mpp, size_px=slide.size_px)
        for slide in about.slides.values()
    ]
