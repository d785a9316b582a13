"""The model card: what a model folder expects of its input and what it saw. Training writes it, evaluation reads it."""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from pathloom.schema import Record
from pathloom.stage import UserError

CARD_FILE = "pathloom_card.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class ModelCard(Record):
    """Input contract of a model folder. `min_pixels` and `max_pixels` are areas after resizing, per picture."""

    name: str
    base: str
    style: Literal["cot", "cod", "direct"]
    tasks: tuple[str, ...] = ()
    templates: dict[str, tuple[str, ...]] = Field(default={})
    min_pixels: int
    max_pixels: int
    mpp_range: tuple[float, float] | None = None
    trained_on: tuple[str, ...] = ()
    num_train_samples: int = 0
    num_replayed: int = Field(default=0, description="of the training Samples")
    num_parameters: int
    seed: int = 0
    pathloom_version: str


class EncoderCard(Record):
    """What a trained pair of image and text encoder takes and what it saw.

    `trained_on` and `licences` include those of the encoder that training began from. `num_pairs`, the different pairs
    of the shards, `pairs_seen` and `steps` are the last stage's own.
    """

    name: str
    base: str
    loss: Literal["clip", "siglip"]
    image_px: int
    context_length: int
    embed_dim: int
    trained_on: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    num_pairs: int
    pairs_seen: int
    steps: int
    num_parameters: int
    seed: int = 0
    pathloom_version: str


class BadModelFolder(UserError):
    """A folder that cannot be used as a model; the message names the file and the cure."""


def write_card(card: ModelCard | EncoderCard, folder: Path) -> None:
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_card(folder: Path) -> ModelCard:
    """The card of a model folder. Raises BadModelFolder also for folders whose weights are pickles."""
    refuse_pickles(folder)
    path = folder / CARD_FILE
    if not path.is_file():
        raise BadModelFolder(f"{path} is missing: a folder written by a `sft` or `init` stage has one")
    try:
        return ModelCard.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, json.JSONDecodeError) as error:
        raise BadModelFolder(f"{path} is not a model card: {error}") from error


def refuse_pickles(folder: Path) -> None:
    """Raise BadModelFolder when the folder holds pickled weights and no safetensors: loading a pickle runs its code."""
    if any(folder.glob("*.safetensors")):
        return
    for pattern in _PICKLES:
        for path in sorted(folder.glob(pattern)):
            raise BadModelFolder(
                f"{path} is a pickle and is not loaded; save the weights as safetensors "
                "(model.save_pretrained writes them) and point to that folder"
            )
