"""Which parts of a model learn: named by the recipe, whole or through adapters, counted for the manifest."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from pathloom.models.experts import LAYER_KEY
from pathloom.models.slide import SLIDE_PREFIX
from pathloom.train.config import MODULES, TrainConfig

_FROZEN_COPY = ".original_module."
"""In the name of what PEFT keeps of a part that learns whole beside adapters."""


def module_of(parameter_name: str) -> str:
    """The one of MODULES, `slide` or `experts` that a parameter of the Qwen-VL classes belongs to, by its name.

    The projector is the merger at the end of the vision tower and, in Qwen3-VL, the mergers of its deep features.
    """
    if LAYER_KEY in parameter_name:
        return "experts"
    if ".visual." not in f".{parameter_name}":
        return "language"
    if SLIDE_PREFIX in parameter_name:
        return "slide"
    return "projector" if "merger" in parameter_name else "vision"


def learns_whole(config: TrainConfig) -> frozenset[str]:
    """Names of the parts whose own weights learn; beside adapters only those that `trainable` was given for."""
    if config.trainable == MODULES:
        return frozenset() if config.lora is not None else frozenset((*MODULES, "slide"))
    return frozenset(config.trainable)


def freeze_the_rest(config: TrainConfig, model: Any) -> None:
    """Let only the parts learn that the recipe names.

    Parts that learn whole beside frozen ones of half precision do so in float32: AdamW loses small steps on bfloat16.
    """
    whole = learns_whole(config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = module_of(name) in whole
    for module in _whole_modules(config, model).values():
        if next(module.parameters()).dtype != torch.float32:
            module.float()
            module.register_forward_pre_hook(_in_float32)


def _in_float32(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs of a part in float32 inside a model of half precision, where no autocast does it: in generation."""
    return tuple(each.float() if isinstance(each, Tensor) else each for each in given)


def lora_config(config: TrainConfig, model: Any) -> LoraConfig | None:
    """PEFT's config for the recipe's `lora`, with the parts of the model that learn whole beside the adapters."""
    if config.lora is None:
        return None
    return LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=config.lora.target_modules,
        modules_to_save=list(_whole_modules(config, model)) or None,
        task_type="CAUSAL_LM",
    )


def _whole_modules(config: TrainConfig, model: Any) -> dict[str, nn.Module]:
    """Name -> module of what learns whole beside adapters: PEFT takes no lists of modules, but what is in them."""
    if not config.adapts:
        return {}
    whole = learns_whole(config)
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if module_of(f"{name}.") in whole and not inside and not isinstance(module, nn.ModuleList):
            found[name] = module
    return found


def count_trainable(model: Any) -> dict[str, dict[str, int]]:
    """Parameters of each module, all and trainable, for the manifest."""
    counts: dict[str, dict[str, int]] = {name: {"parameters": 0, "trainable": 0} for name in MODULES}
    for name, parameter in model.named_parameters():
        if _FROZEN_COPY in name:
            continue
        of_module = counts.setdefault(module_of(name), {"parameters": 0, "trainable": 0})
        of_module["parameters"] += parameter.numel()
        of_module["trainable"] += parameter.numel() * parameter.requires_grad
    return counts


def what_learns(config: TrainConfig, counts: Mapping[str, Mapping[str, int]]) -> str:
    """`sft learns projector 0.2 of 0.2 M, language 2.1 of 2.1 M; frozen: vision 1.9 M`, in millions of parameters."""

    def millions(count: int) -> str:
        return f"{count / 1e6:.1f}"

    learning = [
        f"{name} {millions(of['trainable'])} of {millions(of['parameters'])} M"
        for name, of in counts.items()
        if of["trainable"]
    ]
    if config.lora is not None:
        adapters = f"adapters of rank {config.lora.r}"
        learning = [adapters, *learning] if learning else [f"{adapters} alone"]
    elif config.adapts:  # the experts are put beside the model after this is said
        learning = ["its experts", *learning] if learning else ["its experts alone"]
    frozen = [f"{name} {millions(of['parameters'])} M" for name, of in counts.items() if not of["trainable"]]
    return f"{config.name} learns {', '.join(learning)}" + (
        f"; frozen: {', '.join(frozen)}" if frozen else ""
    )
