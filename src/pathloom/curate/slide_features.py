"""Stage `embed_slides`: one vector a tile from a frozen encoder, kept with the tile's place. (Helper D owns this file.)"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pathloom.models.embed import (
    BATCH_SIZE,
    check_encoder,
    encoder_fingerprint,
    encoder_stages,
    parse_encoder,
)
from pathloom.stage import StageConfig


class EmbedSlidesConfig(StageConfig):
    """Entry of a recipe: `{name: tiles_seen, kind: embed_slides, samples: [slides], encoder: efficientnet_lite0}`."""

    version: ClassVar[int] = 1

    kind: Literal["embed_slides"]
    samples: tuple[str, ...] = Field(min_length=1, description="stages of a source of slides")
    encoder: str = Field(description="of pictures, as models/embed.py names them")
    batch_size: int = Field(default=BATCH_SIZE, ge=1)

    @field_validator("encoder")
    @classmethod
    def _encoder_is_known(cls, name: str) -> str:
        return parse_encoder(name).text

    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.samples, *encoder_stages(self.encoder))))

    def kinds_needed(self) -> dict[str, str]:
        return dict.fromkeys(self.samples, "ingest") | dict.fromkeys(
            encoder_stages(self.encoder), "contrastive"
        )

    def check(self) -> None:
        check_encoder(self.encoder, "image")

    def keyed(self) -> dict[str, Any]:
        """The batch changes the last bits of a vector at most."""
        return {key: value for key, value in super().keyed().items() if key != "batch_size"}

    def fingerprint(self) -> str:
        return encoder_fingerprint(self.encoder)


def run_embed_slides(config: EmbedSlidesConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    raise NotImplementedError
