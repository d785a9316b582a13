"""How a model reads a whole slide: the keys of a recipe and of the model's own config. No torch here."""

from typing import Literal

from pydantic import Field

from pathloom.schema import Record
from pathloom.slides.features import TileKind


class SlideTokens(Record):
    """A slide's tile features, any number of them, become side x side tokens of the language model.

    mean       tiles along a curve through the slide, cut into as many runs as there are tokens, each averaged: the
               adaptive average pooling of WSI-LLaVA, which published slide models use; nothing to learn before the
               projector
    attention  each token has a question of its own, by which it weighs all tiles of the slide: it finds the few that
               matter wherever they lie, and does not say where
    """

    pool: Literal["mean", "attention"] = "mean"
    side: int = Field(
        default=4, ge=2, le=32, description="tokens along each edge of the square they stand for"
    )
    hidden: int | None = Field(
        default=None, ge=1, description="width of the projector; default: the language model's"
    )


class SlideReading(SlideTokens):
    """What `config.slide_tokens` of a model that reads slides holds: also which tiles it reads."""

    tiles: TileKind
