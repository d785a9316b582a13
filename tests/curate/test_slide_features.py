"""The stage `embed_slides`: tiles of real files to features, slide by slide."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import ValidationError

from pathloom.curate.slide_features import EmbedSlidesConfig, run_embed_slides
from pathloom.models import embed
from pathloom.models.embed import Encoder
from pathloom.slides.features import FEATURES_FOLDER, Shelf, encoder_of
from pathloom.slides.record import RECORD_FILE, SLIDES_FOLDER, TILES_FILE, SlideRecord
from pathloom.slides.write import write_pyramid
from pathloom.stage import FACTS_FILE, UserError

pytest.importorskip("openslide")

SIZE_PX = (512, 384)
MPP = 0.5
TILE_PX = 128
SEEN: list[int] = []
"""Sizes of the batches that the encoder was given."""


def colours(pictures: Sequence[PILImage.Image]) -> torch.Tensor:
    SEEN.append(len(pictures))
    return torch.tensor(np.stack([np.asarray(picture).mean(axis=(0, 1)) for picture in pictures]))


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile's mean colour."""
    SEEN.clear()
    use(monkeypatch, "colours (weights 1)")


def use(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(embed, "load_encoder", lambda *given: Encoder(name, image_dim=3, see=colours))


def patchwork(seed: int) -> NDArray[np.uint8]:
    """Squares of one tile's size, each of a colour of its own."""
    rows, columns = SIZE_PX[1] // TILE_PX, SIZE_PX[0] // TILE_PX
    drawn = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    return drawn.repeat(TILE_PX, axis=0).repeat(TILE_PX, axis=1)


def write_slide(path: Path, pixels: NDArray[np.uint8]) -> None:
    height_px, width_px = pixels.shape[:2]
    write_pyramid(path, lambda top, height: pixels[top : top + height], (width_px, height_px), MPP)


def make_stage(folder: Path, *names: str) -> Path:
    """What an ingest leaves of slides: the first tile was dropped, the others are kept."""
    for seed, name in enumerate(names):
        pixels = patchwork(seed)
        own = folder / SLIDES_FOLDER / name
        own.mkdir(parents=True)
        write_slide(own / "slide.tif", pixels)
        rows, columns = np.divmod(np.arange(12), 4)
        tiles = pd.DataFrame({"x_l0": columns * TILE_PX, "y_l0": rows * TILE_PX, "tissue": 1.0, "drop": ""})
        tiles.loc[0, "drop"] = "blank"
        tiles.to_parquet(own / TILES_FILE)
        record = SlideRecord(
            id=f"id of {name}",
            path=f"{SLIDES_FOLDER}/{name}/slide.tif",
            file_bytes=(own / "slide.tif").stat().st_size,
            vendor="made",
            width_l0=SIZE_PX[0],
            height_l0=SIZE_PX[1],
            mpp_l0=MPP,
            mpp=MPP,
            size_px=TILE_PX,
            num_tiles=11,
            tissue_share=1.0,
        )
        (own / RECORD_FILE).write_text(record.model_dump_json())
    return folder


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    return {"slides": make_stage(tmp_path / "slides", "a", "b")}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "seen").mkdir()
    return tmp_path / "seen"


def config(**fields: Any) -> EmbedSlidesConfig:
    given = {
        "name": "seen",
        "kind": "embed_slides",
        "samples": ("slides",),
        "encoder": "noise:3",
        "batch_size": 4,
    }
    return EmbedSlidesConfig.model_validate({**given, **fields})


def test_each_kept_tile_is_seen_where_it_lies(inputs, out):
    counts = run_embed_slides(config(), inputs, out)

    assert (counts["slides"], counts["tiles"], counts["missing"]) == (2, 22, {})
    assert set(SEEN) == {4, 3}
    shelf = Shelf([out])
    assert (shelf.ids, shelf.kind.dim, shelf.kind.encoder) == (
        ("id of a", "id of b"),
        3,
        "colours (weights 1)",
    )
    for seed, slide in enumerate(shelf.ids):
        tiles = shelf.read(slide)
        truth = [patchwork(seed)[y + 5, x + 5] for x, y in tiles.places_l0]
        assert tiles.places_l0.tolist() == [[x, y] for y in (0, 128, 256) for x in (0, 128, 256, 384)][1:]
        assert np.abs(tiles.features - np.array(truth, np.float32)).max() < 4  # JPEG
    assert (out / FACTS_FILE).is_file()


def test_a_run_goes_on_at_the_slide_where_it_was_killed(inputs, out):
    run_embed_slides(config(), inputs, out)
    first = {path.name: path.read_bytes() for path in (out / FEATURES_FOLDER).iterdir()}
    (out / FEATURES_FOLDER / "b.safetensors").unlink()
    (out / FEATURES_FOLDER / "b.safetensors.part").write_bytes(b"cut off")
    (out / FEATURES_FOLDER / "about.json").unlink()
    SEEN.clear()

    run_embed_slides(config(), inputs, out)

    assert sum(SEEN) == 11  # those of b alone
    assert {path.name: path.read_bytes() for path in (out / FEATURES_FOLDER).iterdir()} == first


def test_what_another_encoder_left_is_made_anew(inputs, out, monkeypatch):
    run_embed_slides(config(), inputs, out)
    use(monkeypatch, "colours (weights 2)")

    run_embed_slides(config(), inputs, out)

    assert sum(SEEN) == 4 * 11
    assert encoder_of(out / FEATURES_FOLDER / "a.safetensors") == "colours (weights 2)"


def break_file(inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (inputs["slides"] / SLIDES_FOLDER / "a" / "slide.tif").write_bytes(b"II*\0 and nothing else")


def lose_file(inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (inputs["slides"] / SLIDES_FOLDER / "a" / "slide.tif").unlink()


def exchange_file(inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    other = np.zeros((200, 256, 3), np.uint8)
    path = inputs["slides"] / SLIDES_FOLDER / "a" / "slide.tif"
    write_slide(path, other)


def exchange_pixels(inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Another slide of the same width and height."""
    write_slide(inputs["slides"] / SLIDES_FOLDER / "a" / "slide.tif", patchwork(7) // 2)


def break_in_mid_slide(inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from pathloom.slides import tiles

    read_tiles = tiles.read_tiles

    def until_the_fifth(slide: Any, *given: Any, **options: Any) -> Iterator[Any]:
        for number, tile in enumerate(read_tiles(slide, *given, **options)):
            if number == 5 and "/a/" in str(slide.path):
                raise OSError("a tile that cannot be decoded")
            yield tile

    monkeypatch.setattr(tiles, "read_tiles", until_the_fifth)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (break_file, ""),
        (lose_file, "not_a_slide"),
        (exchange_file, "changed: 256x200"),
        (exchange_pixels, "changed: the file has another size than at ingest"),
        (break_in_mid_slide, "OSError: a tile"),
    ],
)
def test_a_slide_that_cannot_be_read_is_noted_and_the_rest_done(inputs, out, monkeypatch, damage, said):
    damage(inputs, monkeypatch)

    counts = run_embed_slides(config(), inputs, out)

    assert counts["slides"] == 1
    assert counts["missing"]["id of a"].startswith(said)
    shelf = Shelf([out])
    assert shelf.ids == ("id of b",)
    assert shelf.missing == counts["missing"]
    assert not (out / FEATURES_FOLDER / "a.safetensors").exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), MemoryError(), torch.OutOfMemoryError("CUDA")]
)
def test_a_full_disk_or_memory_ends_the_run_and_is_blamed_on_no_slide(inputs, out, monkeypatch, error):
    def fails(*given: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pathloom.curate.slide_features.write_features", fails)
        with pytest.raises(type(error)):
            run_embed_slides(config(), inputs, out)
    assert not (out / FEATURES_FOLDER / "about.json").exists()

    assert run_embed_slides(config(), inputs, out)["missing"] == {}


def test_no_slide_that_can_be_read_is_an_error(tmp_path, out, monkeypatch):
    inputs = {"slides": make_stage(tmp_path / "one", "a")}
    lose_file(inputs, monkeypatch)

    with pytest.raises(UserError, match=r"seen: no slide could be encoded; id of a: not_a_slide"):
        run_embed_slides(config(), inputs, out)


def test_slides_of_two_stages_are_kept_apart_and_none_is_twice(tmp_path, out):
    inputs = {"slides": make_stage(tmp_path / "one", "a"), "more": make_stage(tmp_path / "two", "a")}
    with pytest.raises(UserError, match="id of a"):
        run_embed_slides(config(samples=("slides", "more")), inputs, out)

    path = tmp_path / "two" / SLIDES_FOLDER / "a" / RECORD_FILE
    path.write_text(path.read_text().replace("id of a", "another"))
    counts = run_embed_slides(config(samples=("slides", "more")), inputs, out)

    assert counts["slides"] == 2
    assert set(Shelf([out]).ids) == {"id of a", "another"}


def test_a_stage_without_slides_is_named(tmp_path, out):
    with pytest.raises(UserError, match=r"seen\.samples: slides hold no slide"):
        run_embed_slides(config(), {"slides": tmp_path}, out)


def test_the_encoder_is_checked_when_the_recipe_is_read_and_the_batch_is_no_part_of_the_key():
    with pytest.raises((UserError, ValidationError), match="no encoder"):
        config(encoder="nothing")
    assert config(batch_size=3).keyed() == config().keyed()
    assert config(encoder="stage:ours").kinds_needed() == {"slides": "ingest", "ours": "contrastive"}
