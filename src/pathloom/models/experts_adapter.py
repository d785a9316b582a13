"""One expert of a mixture for programs that know LoRA only: a plain PEFT adapter, or merged into a plain model."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathloom.models.experts import CONFIG_KEY, Experts, layers_with_experts, mixture_of
from pathloom.stage import UserError

_PEFT_PREFIX = "base_model.model."


def write_adapter(model: Any, expert: int, base: str, out: Path) -> int:
    """Write adapter_config.json and adapter_model.safetensors of an expert; returns the size of the weights in bytes.

    `base` is where the frozen model lies: the mixture's own folder, which transformers opens without its experts.
    Raises UserError for a model that has no such expert.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    layers = _layers(model, expert)
    mixture = next(iter(layers.values())).mixture
    tensors: dict[str, Tensor] = {}
    for name, experts in layers.items():
        tensors[f"{_PEFT_PREFIX}{name}.lora_A.weight"] = experts.down[expert].detach().clone()
        tensors[f"{_PEFT_PREFIX}{name}.lora_B.weight"] = experts.up[expert].detach().T.contiguous()
    LoraConfig(
        r=mixture.r,
        lora_alpha=mixture.alpha,
        target_modules=mixture.target_modules,
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
    ).save_pretrained(out)
    path = out / "adapter_model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    return path.stat().st_size


@torch.no_grad()
def merge_expert(model: Any, expert: int) -> None:
    """Make a mixture the plain model that answers as one expert does, in place. Raises UserError without that one."""
    layers = _layers(model, expert)
    for name, experts in layers.items():
        layer = model.get_submodule(name)
        change = experts.mixture.scaling * experts.up[expert].T @ experts.down[expert]
        layer.weight += change.to(layer.weight.dtype)
        del layer.experts
        layer.__class__ = nn.Linear
    delattr(model.config, CONFIG_KEY)


def _layers(model: Any, expert: int) -> dict[str, Experts]:
    mixture = mixture_of(model)
    if mixture is None:
        raise UserError("expert: the model is no mixture of experts; leave the key out")
    if expert >= mixture.num_experts:
        raise UserError(f"expert: there is no expert {expert}; there are 0 to {mixture.num_experts - 1}")
    return layers_with_experts(model)
