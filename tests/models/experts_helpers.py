"""Mixtures whose experts and gates are not at their quiet start, on the untrained nano models."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathloom.models.experts import attach_experts, layers_with_experts
from pathloom.models.experts_config import UNKNOWN, Mixture, Route
from pathloom.models.load import load_model
from pathloom.train.config import LoraSettings

LANGUAGE: str = LoraSettings.model_fields["target_modules"].default
SLIDE_CHOICE, REGION_BOXES, REGION_CHOICE = (
    Route("slide", "choice"),
    Route("region", "boxes"),
    Route("region", "choice"),
)
ROUTES = (SLIDE_CHOICE, REGION_BOXES, UNKNOWN, REGION_CHOICE)


def mixture(**fields: Any) -> Mixture:
    given = {
        "routing": "soft",
        "num_experts": 3,
        "r": 4,
        "alpha": 8,
        "gate_on": ("scale", "task"),
        "tasks": ("boxes", "choice"),
        "routes": {"region": 0, "slide": 1, "boxes": 2},
        "target_modules": LANGUAGE,
    }
    return Mixture.model_validate({**given, **fields})


def stir(model: Any, seed: int = 0) -> Any:
    """Random experts and gates, as after a training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers_with_experts(model).values():
        for name, parameter in layer.named_parameters():
            spread = {"up": 0.05, "gate.token": 0.1}.get(name, 1.0 if name.startswith("gate") else 0.1)
            parameter.data = spread * torch.randn(parameter.shape, generator=generator)
    return model


def mixed(folder: Path, **fields: Any) -> Any:
    """The model of a folder with stirred experts, ready to be asked."""
    model, _ = load_model(str(folder))
    attach_experts(model, mixture(**fields))
    return stir(model).eval()


def prompts(rows: int = 4, tokens: int = 12) -> dict[str, Tensor]:
    """Rows of different lengths, padded on the left."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 400, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens)[None] >= torch.arange(rows)[:, None] * 2).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def row(batch: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One row of `prompts` without its padding."""
    read = batch["attention_mask"][index].bool()
    return {name: tensor[index : index + 1, read] for name, tensor in batch.items()}
