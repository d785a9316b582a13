"""Stage `export`: a model folder in the precision it is given away in, with its card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from pathloom.card import read_card, write_card
from pathloom.stage import ModelRef, StageConfig, UserError


class ExportConfig(StageConfig):
    """Entry of a recipe: `{name: base, kind: export, model: {stage: skills}, title: Nano base}`."""

    version: ClassVar[int] = 1

    kind: Literal["export"]
    model: ModelRef
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    title: str = Field(default="", description="the model's name in its card; default: the stage's name")

    def needs(self) -> tuple[str, ...]:
        return self.model.needs()

    def fingerprint(self) -> str:
        return self.model.fingerprint()


def run_export(config: ExportConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write weights, processor and card; returns the size of the weights. Raises UserError without a model folder."""
    from pathloom.models.load import load_model

    location = config.model.locate(inputs)
    if not Path(location).is_dir():
        raise UserError(f"{config.name}.model: a model folder is exported, and {location} is none")
    card = read_card(Path(location))
    model, processor = load_model(location, dtype=config.dtype)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    write_card(card.model_copy(update={"name": config.title or config.name}), out)
    return {"weight_bytes": sum(path.stat().st_size for path in out.glob("*.safetensors"))}
