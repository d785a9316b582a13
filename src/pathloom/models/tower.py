"""The vision tower of a Qwen-VL model as an encoder of pictures: what a model sees of a tile, as one vector."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pathloom.models.load import default_device, load_model

if TYPE_CHECKING:
    from PIL import Image as PILImage


def load_tower(location: str) -> tuple[Any, "Callable[[Sequence[PILImage.Image]], Tensor]"]:
    """(model, see) of a model folder; `see` gives [pictures, width of the language model].

    A picture's vector is the mean of its visual tokens after the projector, as the language model would read them.
    Each picture is resized as the model's own processor does.
    """
    model, processor = load_model(location)
    tower = model.model.visual.to(default_device()).eval()
    merged = model.config.vision_config.spatial_merge_size**2

    def see(pictures: "Sequence[PILImage.Image]") -> Tensor:
        batch = processor.image_processor(images=list(pictures), return_tensors="pt").to(default_device())
        tokens = tower(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
        counts = (batch["image_grid_thw"].prod(dim=1) // merged).tolist()
        return torch.stack([of_picture.mean(dim=0) for of_picture in tokens.split(counts)])

    return model, see
