"""A model folder or hub id to a model and its processor; safetensors only, no remote code."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
)
from transformers.utils.logging import disable_progress_bar

from pathloom.card import ModelCard, read_card, refuse_pickles
from pathloom.models.experts import LAYER_KEY, class_with_experts, mixture_of
from pathloom.models.slide import SLIDE_PREFIX, load_slides, reads_slides
from pathloom.stage import UserError


def load_card(location: str) -> ModelCard | None:
    """The card of a model folder; None for a hub checkpoint, which has none. Raises BadModelFolder."""
    return read_card(Path(location)) if Path(location).is_dir() else None


def load_model(location: str, *, dtype: str | None = None) -> tuple[Any, Any]:
    """(model, processor) of a folder or a hub id. Raises UserError that names the place when it cannot be had.

    `dtype` is a torch type's name or "auto" (as stored); by default as stored on a GPU and float32 on a CPU, where
    bfloat16 is slower for small models. A model that reads slides needs `models.slide.give_shelf` before it can.
    """
    dtype = dtype or ("float32" if default_device().type == "cpu" else "auto")
    disable_progress_bar()
    if Path(location).is_dir():
        refuse_pickles(Path(location))
    try:
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
        model = _from_pretrained(location, dtype)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {location}: cannot be loaded ({reason}). A hub model needs network or a filled cache; "
            "a folder needs config.json, processor files and *.safetensors"
        ) from error
    tower = getattr(getattr(model, "model", None), "visual", None)
    projection = getattr(getattr(tower, "patch_embed", None), "proj", None)
    if isinstance(projection, nn.Conv3d):  # as in the classes of Qwen2.5-VL and Qwen3-VL
        projection.__class__ = PatchProjection
    if reads_slides(model):
        load_slides(model, _folder(location))
    return model, processor


def _from_pretrained(location: str, dtype: str) -> Any:
    """The model of a folder or hub id, with its experts where its config states a mixture."""
    config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    options = {"config": config, "dtype": dtype, "use_safetensors": True}
    mixture = mixture_of(config)
    with _slides_are_expected(config):
        if mixture is None:
            return AutoModelForImageTextToText.from_pretrained(location, trust_remote_code=False, **options)
        kind = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        model, found = class_with_experts(kind, mixture).from_pretrained(  # type: ignore[attr-defined]
            location, output_loading_info=True, **options
        )
    if missing := sorted(name for name in found["missing_keys"] if LAYER_KEY in name):
        raise UserError(
            f"model {location}: config.json states a mixture of experts, but {missing[0]} is missing"
        )
    return model


def _folder(location: str) -> Path:
    """Where the weights of a folder or of a hub id that was just loaded lie."""
    if Path(location).is_dir():
        return Path(location)
    return Path(snapshot_download(location, allow_patterns=["*.safetensors"], local_files_only=True))


@contextmanager
def _slides_are_expected(config: Any) -> Iterator[None]:
    """Keep transformers from reporting a slide encoder's weights as unexpected: its class has no place for them."""
    if getattr(config, "slide_tokens", None) is None:
        yield
        return
    kind: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    before = kind._keys_to_ignore_on_load_unexpected
    kind._keys_to_ignore_on_load_unexpected = [*(before or ()), re.escape(SLIDE_PREFIX)]
    try:
        yield
    finally:
        kind._keys_to_ignore_on_load_unexpected = before


class PatchProjection(nn.Conv3d):
    """The convolution of Qwen-VL's patch embedding as the matrix product that it is, as each patch is one kernel.

    A training step of the nano towers takes 0.74 to 0.88 of the time on a CPU (speed/).
    """

    def forward(self, input: Tensor) -> Tensor:
        """[patches, channels, frames, height, width] to [patches, width of the tower, 1, 1, 1]."""
        projected = functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return projected[..., None, None, None]


def default_device() -> torch.device:
    """CUDA where there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
