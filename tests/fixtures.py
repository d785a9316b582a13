"""What several test files share: plain records, a small set of phantoms, an untrained nano model of each family.

Session fixtures are read-only: a test that writes works on its own tmp_path.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage

from pathloom.schema import Event, Image, Origin, Sample

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
PRESET_OF = {"qwen2_5_vl": "qwen2.5-vl-nano", "qwen3_vl": "qwen3-vl-nano"}
SIDE_PX = 64
VOCAB_SIZE = 600


def picture(seed: int = 0, width_px: int = 24, height_px: int = 16) -> PILImage.Image:
    """Noise: no two seeds look alike, and no compression hides a cut-off file."""
    rng = np.random.default_rng(seed)
    return PILImage.fromarray(rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8))


def encoded(seed: int = 0, file_format: str = "PNG", **size: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed, **size).save(buffer, file_format)
    return buffer.getvalue()


def make_image(seed: int = 0, *, mpp: float | None = None) -> Image:
    return Image(path=f"{seed}.png", data=encoded(seed), width_px=24, height_px=16, mpp=mpp)


def make_sample(sample_id: str = "a", **fields: Any) -> Sample:
    """A yes/no Sample with one picture; any field can be given."""
    given: Mapping[str, Any] = {
        "task": "yes_no",
        "split": "train",
        "images": (make_image(),),
        "question": "Is this necrosis?",
        "answer": "yes",
        "origin": Origin(
            source="made", source_id=sample_id, licence="CC0-1.0", group=f"group of {sample_id}"
        ),
        "history": (Event(step="ingest.made", version=1),),
    }
    return Sample(id=sample_id, **{**given, **fields})


def noting(note: Callable[..., object], function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, with `note` called before it on the same arguments."""

    def noted(*arguments: Any, **options: Any) -> Any:
        note(*arguments, **options)
        return function(*arguments, **options)

    return noted


def grouped(sample_id: str, group: str, **fields: Any) -> Sample:
    origin = Origin(source="made", source_id=sample_id, licence="CC0-1.0", group=group)
    return make_sample(sample_id, origin=origin, **fields)


def write_tiles(root: Path, classes: Mapping[str, int]) -> Path:
    """A folder of labelled tiles: that many different PNGs in each class folder."""
    for position, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            (root / name / f"{index:02d}.png").write_bytes(encoded(1000 * position + index))
    return root


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ingest stage: 20 training and 15 test phantoms of five tasks, 64 px a side."""
    from pathloom.ingest.phantom import PhantomConfig
    from pathloom.shards import run_ingest

    config = PhantomConfig(
        name="phantoms",
        kind="ingest",
        source="phantom",
        size_px=SIDE_PX,
        train={"diagnosis": 6, "presence": 4, "mitoses": 4, "structures": 4, "caption": 2},
        test={"diagnosis": 8, "presence": 4, "structures": 3},
    )
    folder = tmp_path_factory.mktemp("phantoms")
    run_ingest(config, folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> the folder of an untrained nano model, as the stage `init` writes it."""
    from pathloom.models.init import InitConfig, run_init

    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        config = InitConfig(
            name="untrained",
            kind="init",
            preset=PRESET_OF[family],
            samples=("phantoms",),
            vocab_size=VOCAB_SIZE,
            max_pixels=SIDE_PX**2,
        )
        run_init(config, {"phantoms": phantom_folder}, folders[family])
    return folders


@pytest.fixture(scope="session")
def model_folder(model_folders: dict[str, Path]) -> Path:
    """The untrained Qwen2.5-VL nano model."""
    return model_folders["qwen2_5_vl"]
