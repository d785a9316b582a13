"""Lets torchvision be imported beside a torch that was built without CUDA.

Why this exists
    The torchvision wheel for Linux is a CUDA build. Beside a CPU torch its two extension libraries, `_C.so`
    and `image.so`, do not find the CUDA libraries they are linked to. torchvision shrugs that off, but a
    few lines later it describes the operator `torchvision::nms`, which now nobody has defined, and `import
    torchvision` raises "operator torchvision::nms does not exist". transformers, trl, peft, timm and
    open_clip all import torchvision, so on a laptop none of them would work.

What it does
    The package declares `autoload` as an entry point of the group `torch.backends`, and torch calls it at
    the end of every `import torch`, in each worker process too. It wraps `torch.ops.load_library`. When,
    and only when, loading one of those two libraries raises OSError, it defines the operators that the rest
    of the stack needs: `torchvision::nms` and `qnms` in plain torch, `image::read_file` and `decode_image`
    on top of Pillow.

What it does not do
    Nothing at all with a CUDA or ROCm build of torch, and nothing where the libraries load. It does not
    make the other compiled operators work: `torchvision.ops.nms`, `roi_align` and video reading still raise
    torchvision's own message about missing C++ operators.

Turning it off
    Set TORCH_DEVICE_BACKEND_AUTOLOAD=0. torch then calls no such entry point, from this package or from any
    other.

This module stands beside the package and must not import it: `import torch` would load all of pathloom.
"""

from __future__ import annotations

import io
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage
    from torch import Tensor

# A Library takes its operators along when it is collected, so each is kept for the life of the process.
_LIBRARIES: list[torch.library.Library] = []

_NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# torchvision.io.ImageReadMode -> Pillow mode. 0, unchanged, depends on the file: see `_unchanged_mode`.
_PIL_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# Pillow reads dozens of formats; each is one more parser for hostile bytes. These are the formats of still
# images that torchvision reads.
_FORMATS = ("JPEG", "PNG", "WEBP")

# No honest file of these formats needs more than four bytes for each pixel that the pixel cap lets through.
_BYTES_PER_PIXEL_CAP = 4


def autoload() -> None:
    """Wrap `torch.ops.load_library`, once. Called by torch at the end of its own import."""
    import torch

    if torch.version.cuda is not None or getattr(torch.version, "hip", None) is not None:
        return
    real_load_library = torch.ops.load_library
    if getattr(real_load_library, "wrapped_by_pathloom", False):
        return

    def load_library(path: Any) -> None:
        try:
            real_load_library(path)  # type: ignore[no-untyped-call]
        except OSError:
            file = PurePath(path)
            if file.parent.name != "torchvision":
                raise
            if file.stem == "_C":
                _define_box_operators()
                # Raised again so that torchvision knows, and refuses its compiled operators by name.
                raise
            if file.stem != "image":
                raise
            # Not raised: otherwise torchvision.io would refuse to call the operators that are now there.
            _define_image_operators()

    load_library.wrapped_by_pathloom = True  # type: ignore[attr-defined]
    torch.ops.load_library = load_library  # type: ignore[method-assign]


def _define_box_operators() -> None:
    import torch

    if hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    _LIBRARIES.append(library)
    for name in ("nms", "qnms"):
        library.define(name + _NMS_SCHEMA)
        library.impl(name, nms, "CPU")


def _define_image_operators() -> None:
    import torch

    if hasattr(torch.ops.image, "decode_image"):
        return
    library = torch.library.Library("image", "FRAGMENT")
    _LIBRARIES.append(library)
    library.define("decode_image(Tensor data, int mode, bool apply_exif_orientation=False) -> Tensor")
    library.impl("decode_image", decode_image, "CPU")
    library.define("read_file(str filename) -> Tensor")
    # It takes no tensor, so there is no device by which torch could choose an implementation.
    library.impl("read_file", read_file, "CompositeImplicitAutograd")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: keep the best box, drop all that overlap it too much, repeat.

    `boxes` is (N, 4), corners x1, y1, x2, y2; `scores` is (N,). As in torchvision, a box is dropped when its
    intersection over union with a kept one is above the threshold. Returns the kept indices, int64, best
    score first, equal scores in their given order. A pair without area has no overlap. Memory is O(N).
    Quantised boxes come as integers; overlap does not change with scale, so the same code serves them.
    """
    import torch

    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), not {tuple(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have shape ({boxes.shape[0]},), not {tuple(scores.shape)}")
    order = scores.argsort(descending=True, stable=True)
    # Halves and integers would overflow or lose the areas.
    sorted_boxes = boxes[order].to(torch.promote_types(boxes.dtype, torch.float32))
    top_left, bottom_right = sorted_boxes[:, :2], sorted_boxes[:, 2:]
    area = (bottom_right - top_left).prod(dim=1)
    alive = torch.ones(len(order), dtype=torch.bool)
    kept: list[int] = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        rest = slice(i + 1, None)
        low = torch.maximum(top_left[i], top_left[rest])
        high = torch.minimum(bottom_right[i], bottom_right[rest])
        intersection = (high - low).clamp(min=0).prod(dim=1)
        # 0 / 0 is nan and nan > threshold is False: boxes without area do not drop each other.
        alive[rest] &= ~(intersection / (area[i] + area[rest] - intersection) > iou_threshold)
    return order[torch.tensor(kept, dtype=torch.int64)]


def read_file(filename: str) -> Tensor:
    """The bytes of a file as a 1-D uint8 tensor."""
    import torch

    path = Path(filename)
    _check_byte_count(path.stat().st_size, filename)
    # A bytearray, because torch warns about memory that it may not write to.
    return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)


def decode_image(data: Tensor, mode: int, apply_exif_orientation: bool = False) -> Tensor:
    """Decode a JPEG, PNG or WebP file given as a 1-D uint8 tensor into a (C, H, W) uint8 tensor.

    `mode` is the value of torchvision's ImageReadMode: 0 unchanged, 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
    Raises ValueError for more bytes or pixels than the caps allow, before a pixel is decoded; for animations;
    and for greys of more than eight bits, which would be clipped. Pillow's MAX_IMAGE_PIXELS is the pixel cap.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

    if data.ndim != 1 or data.dtype != torch.uint8:
        raise ValueError(f"expected a 1-D uint8 tensor, not {data.ndim}-D {data.dtype}")
    _check_byte_count(data.numel(), "the image")
    try:
        image: PilImage = Image.open(io.BytesIO(data.numpy().tobytes()), formats=_FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not a readable image of the formats {', '.join(_FORMATS)}") from None
    with image:
        # Pillow itself only warns up to twice its cap; here the cap is the cap.
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels, the cap is {Image.MAX_IMAGE_PIXELS}")
        if getattr(image, "is_animated", False):
            raise ValueError("an animation, not an image")
        wanted = _PIL_MODES[mode] if mode else _unchanged_mode(image)
        if image.mode[0] in "IF":
            raise ValueError(f"more than eight bits a channel (Pillow mode {image.mode}) cannot become uint8")
        if apply_exif_orientation:
            image = ImageOps.exif_transpose(image)
        pixels = np.array(image if image.mode == wanted else image.convert(wanted))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _unchanged_mode(image: PilImage) -> str:
    """The mode that torchvision calls unchanged: palettes are resolved, and one bit becomes eight."""
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        return image.mode
    if image.mode == "1":
        return "L"
    return "RGBA" if "transparency" in image.info else "RGB"


def _check_byte_count(count: int, what: str) -> None:
    from PIL import Image

    if count == 0:
        raise ValueError(f"{what} is empty")
    if Image.MAX_IMAGE_PIXELS is None:
        return
    cap = _BYTES_PER_PIXEL_CAP * Image.MAX_IMAGE_PIXELS
    if count > cap:
        raise ValueError(f"{what} has {count} bytes, the cap is {cap}")
