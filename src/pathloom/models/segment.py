"""Segmenters by name: what draws the masks that boxes or points prompt.

classical           `pathloom.masks.segment_classically`: no weights, nothing to load
sam:HUB_OR_FOLDER   a SAM of transformers (Kirillov et al. 2023). MedSAM (Ma et al. 2024), SAM ViT-B trained on medical
                    pictures, is sam:wanglab/medsam-vit-base; its model card states Apache-2.0, as SAM's own does
"""

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathloom.masks import CLASSICAL, Prompt, Segmenter, segment_classically
from pathloom.stage import UserError, files_of

if TYPE_CHECKING:
    from pathloom.masks import Mask, Pixels

SAM = "sam"
FORMS = f"{CLASSICAL}, {SAM}:FOLDER, {SAM}:ORG/NAME"
PROMPTS_AT_ONCE = 16
"""Each is drawn at the picture's own size, so this bounds the memory."""
KEPT_EMBEDDINGS = 8
"""Pictures whose embedding is kept: the answers to one question are drawn one after the other."""


def check_segmenter(name: str) -> None:
    """What can be known without loading: the form and the folder. Raises UserError."""
    if name == CLASSICAL:
        return
    family, colon, place = name.partition(":")
    if family != SAM or not colon or not place:
        raise UserError(f"no segmenter {name!r}; known: {FORMS}")
    folder = Path(place)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"segmenter {name}: {folder} holds no config.json; give the folder of a saved SamModel"
            )
    elif folder.exists() or place.startswith((".", "/", "~")) or place.count("/") != 1:
        raise UserError(f"segmenter {name}: {place} is no folder; known: {FORMS}")


def segmenter_fingerprint(name: str) -> str:
    """Names, sizes and times of a folder's files, so that a changed model draws anew; "" for what has no folder."""
    folder = Path(name.partition(":")[2])
    return files_of(folder) if name != CLASSICAL and folder.is_dir() else ""


def load_segmenter(name: str) -> Segmenter:
    """The segmenter of that name, ready to draw. Raises UserError when there is none or it cannot be had.

    A SAM embeds each picture once for all its prompts and for the next calls with it. Weights are read from
    safetensors only, and no code that comes with them runs.
    """
    check_segmenter(name)
    return segment_classically if name == CLASSICAL else _Sam(name)


class _Sam:
    """Draws with a SamModel, one mask a prompt.

    Of a box the single mask is taken that SAM was trained to give where a prompt is not ambiguous, as MedSAM does; of a
    point the one of three that the model itself rates highest (Kirillov et al. 2023, section 3).
    """

    def __init__(self, name: str) -> None:
        from safetensors import SafetensorError
        from transformers import AutoConfig, SamModel, SamProcessor

        from pathloom.models.load import default_device

        place = name.removeprefix(f"{SAM}:")
        try:
            config = AutoConfig.from_pretrained(place, trust_remote_code=False)
            if config.model_type != SAM:
                raise UserError(f"segmenter {name}: a model of type {config.model_type}, not {SAM}")
            self.processor: Any = SamProcessor.from_pretrained(place)
            model: Any
            model, loaded = SamModel.from_pretrained(
                place, use_safetensors=True, dtype="float32", output_loading_info=True
            )
        except (
            OSError,
            ValueError,
            RuntimeError,
            SafetensorError,
        ) as error:  # RuntimeError: weights of other sizes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(
                f"segmenter {name}: cannot be loaded ({reason}). A hub model needs network or a filled cache; a folder "
                "needs config.json, processor files and model.safetensors"
            ) from error
        if missing := sorted(loaded["missing_keys"]):  # transformers would draw them at random
            raise UserError(
                f"segmenter {name}: has no weights for {missing[0]} (and {len(missing) - 1} more)"
            )
        self.model = model.to(default_device()).eval()
        self._embeddings: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def __call__(self, pixels: "Pixels", prompts: Sequence[Prompt]) -> "Iterator[Mask]":
        import numpy as np

        height, width = pixels.shape[:2]
        within = [_cut(prompt, width, height) for prompt in prompts]
        for numbers, group in itertools.groupby(within, key=len):
            alike = list(group)
            for start in range(0, len(alike), PROMPTS_AT_ONCE):
                batch = alike[start : start + PROMPTS_AT_ONCE]
                if numbers:
                    yield from self._draw(pixels, batch)
                else:
                    yield from (np.zeros((height, width), dtype=bool) for _ in batch)

    def _draw(self, pixels: "Pixels", prompts: Sequence[tuple[float, ...]]) -> "Iterator[Mask]":
        """Prompts of one kind, all within the picture."""
        import torch

        embedded = self._embed(pixels)
        (height, width), (fed_height, fed_width) = embedded["original_sizes"], embedded["fed_sizes"]
        places = torch.tensor(prompts, dtype=torch.float32, device=self.model.device)
        fed = places * torch.tensor([fed_width / width, fed_height / height] * (places.shape[1] // 2)).to(
            places
        )
        is_point = places.shape[1] == 2
        asked = {"input_points": fed[None, :, None]} if is_point else {"input_boxes": fed[None]}
        with torch.inference_mode():
            found = self.model(image_embeddings=embedded["embedding"], multimask_output=is_point, **asked)
            best = found.iou_scores[0].argmax(dim=-1)
            drawn = found.pred_masks[0][torch.arange(len(prompts), device=best.device), best][:, None]
            masks = self.processor.image_processor.post_process_masks(
                [drawn.cpu()], [(height, width)], [(fed_height, fed_width)]
            )
        yield from (mask[0].numpy() for mask in masks[0])

    def _embed(self, pixels: "Pixels") -> dict[str, Any]:
        import torch

        key = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        if key not in self._embeddings:
            read = self.processor(images=pixels, return_tensors="pt", input_data_format="channels_last")
            with torch.inference_mode():
                embedding = self.model.get_image_embeddings(read["pixel_values"].to(self.model.device))
            self._embeddings[key] = {
                "embedding": embedding,
                "original_sizes": tuple(read["original_sizes"][0].tolist()),
                "fed_sizes": tuple(read["reshaped_input_sizes"][0].tolist()),
            }
            if len(self._embeddings) > KEPT_EMBEDDINGS:
                self._embeddings.popitem(last=False)
        self._embeddings.move_to_end(key)
        return self._embeddings[key]


def _cut(prompt: Prompt, width: int, height: int) -> tuple[float, ...]:
    """The prompt within the picture; () for a point beyond it or a box that has no area in it."""
    if len(prompt) == 2:
        return prompt if 0 <= prompt[0] <= width and 0 <= prompt[1] <= height else ()
    x1, y1, x2, y2 = prompt
    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else ()
