"""A training step of the nano vision tower with the patch embedding as matrix product and as convolution.

`OMP_NUM_THREADS=1 python speed/patches.py [repeats]` prints the median seconds of each, measured in turns.
"""

import statistics
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from pathloom.models.load import PatchProjection, load_model
from pathloom.stage import ModelRef, shipped_bases

_BATCH = 32  # pictures of 112 px, as in the quickstart


def step_seconds(visual: Any, patches: Tensor, grids: Tensor) -> float:
    start = time.perf_counter()
    visual(patches, grid_thw=grids).pooler_output.sum().backward()
    return time.perf_counter() - start


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    for name in shipped_bases():
        model, processor = load_model(ModelRef(base=name).locate({}))
        of_pictures = processor.image_processor
        given = of_pictures(
            images=[torch.zeros(3, 112, 112, dtype=torch.uint8)] * _BATCH, return_tensors="pt"
        )
        projection = model.model.visual.patch_embed.proj
        seconds: dict[type[nn.Conv3d], list[float]] = {PatchProjection: [], nn.Conv3d: []}
        for _ in range(repeats):
            for kind, taken in seconds.items():
                projection.__class__ = kind
                taken.append(step_seconds(model.model.visual, given["pixel_values"], given["image_grid_thw"]))
        product, convolution = (statistics.median(taken) for taken in seconds.values())
        print(
            f"{name}: {product:.3f} s, with the convolution {convolution:.3f} s, ratio {product / convolution:.2f}"
        )


if __name__ == "__main__":
    main()
