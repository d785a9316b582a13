"""Stage `export`: a model folder in the precision it is given away in, with its card; or one expert of a mixture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pathloom.card import read_card, write_card
from pathloom.stage import ModelRef, StageConfig, UserError


class ExportConfig(StageConfig):
    """Entry of a recipe: `{name: base, kind: export, model: {stage: skills}, title: Nano base}`.

    With `expert` one expert of a mixture is given away: as a PEFT adapter, which is two small files and goes onto the
    mixture's own folder opened as a plain model; or merged, as a plain model of its own.
    """

    version: ClassVar[int] = 1
    added_later: ClassVar[tuple[str, ...]] = ("expert", "form")

    kind: Literal["export"]
    model: ModelRef
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    title: str = Field(default="", description="the model's name in its card; default: the stage's name")
    expert: int | None = Field(default=None, ge=0, description="of a mixture: which one to give away")
    form: Literal["adapter", "merged"] = Field(default="adapter", description="of an expert")

    @model_validator(mode="after")
    def _form_is_of_an_expert(self) -> "ExportConfig":
        if self.form != "adapter" and self.expert is None:
            raise ValueError("form: only an expert is merged; give `expert` too")
        return self

    def needs(self) -> tuple[str, ...]:
        return self.model.needs()

    def fingerprint(self) -> str:
        return self.model.fingerprint()


def run_export(config: ExportConfig, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Write weights, processor and card; returns the size of the weights. Raises UserError without a model folder."""
    import torch

    from pathloom.models.experts_adapter import merge_expert, write_adapter
    from pathloom.models.load import load_model

    location = config.model.locate(inputs)
    if not Path(location).is_dir():
        raise UserError(f"{config.name}.model: a model folder is exported, and {location} is none")
    card = read_card(Path(location))
    if config.expert is None:
        model, processor = load_model(location, dtype=config.dtype)
    else:
        model, processor = load_model(location, dtype="float32")  # what is added is rounded once, at the end
        if config.form == "adapter":
            return {"weight_bytes": write_adapter(model, config.expert, location, out)}
        merge_expert(model, config.expert)
        model.to(getattr(torch, config.dtype))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    write_card(card.model_copy(update={"name": config.title or config.name}), out)
    return {"weight_bytes": sum(path.stat().st_size for path in out.glob("*.safetensors"))}
