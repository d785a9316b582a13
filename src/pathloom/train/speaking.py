"""Visual tokens as words: the projector's last layer refitted, in closed form, to what the vision tower has learnt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.vision_utils import get_vision_window_index

from pathloom.models.nano import number_ids, projector_layer
from pathloom.models.wiring import NUMBER_WAVES
from pathloom.train.sights import Batches, Picture, pool

_NUM_FITTED = 1000
"""Pictures of a source at most; our choice."""
_FITTED_AT_ONCE = 50
_RIDGE = 1e-3
"""Of the mean square of an input; our choice."""
_LEAST_REST = 1e-3
"""Share of its weights that a layer must keep beside the words for what it gave before to be more than noise."""


@torch.no_grad()
def speak(
    model: Any, tokenizer: Any, batches: Batches, pictures: Sequence[Picture], seed: int
) -> dict[str, Any]:
    """Refit the projector's last layer so that a visual token is the sum of the embeddings of the words that it shows.

    A language model that has learnt to copy and to compare words can then do so with what it sees. Where the tokenizer
    has all numbers from 0 to 1000 and the words leave room, the four sides of the box are added, each as the place of
    its number among the numbers' embeddings, turned into directions of its own. Ridge regression on up to a thousand
    pictures of each source, drawn by `seed`, from the layer's inputs: each word on those tokens that are told about it,
    over a picture's mean where that is about the whole. What the layer gave before is added in the directions that are
    left, as long as an embedding. Gives the number of words and whether sides are told.
    """
    model.eval()
    embeddings = model.get_input_embeddings().weight
    mean = embeddings.mean(dim=0)
    said = torch.stack([_embedding(word, tokenizer, embeddings) for word in batches.vocabulary.shares]) - mean
    sides = side_embeddings(embeddings, number_ids(tokenizer), said)  # [4, numbers, width]
    layers = [projector_layer(merger) for merger in projectors(model)]
    inputs, targets = _inputs(model, layers, batches, _drawn(pictures, seed))
    fits = [  # which tokens, and what they mean [tokens, width]
        (targets["told"][:, alike[0]], targets["words"][:, alike] @ said[alike])
        for alike in _told_alike(targets["told"])
    ]
    for side, places in zip(targets["boxes"].T, sides, strict=False):
        meant = places[(side * (len(places) - 1)).round().long()]
        fits.append((~targets["whole"], targets["shows"][:, None] * meant))
    used = torch.linalg.qr(
        torch.cat([said, *(places[:: len(places) // NUMBER_WAVES] for places in sides)]).T
    )[0]
    length = (embeddings - mean).norm(dim=1).mean()
    for layer in layers:
        centre = inputs[layer].mean(dim=0)
        weight = layer.weight - used @ (used.T @ layer.weight)
        if weight.norm() < _LEAST_REST * layer.weight.norm():
            weight = torch.zeros_like(weight)
        weight *= length / functional.linear(inputs[layer] - centre, weight).norm(dim=1).mean().clamp(
            min=1e-6
        )
        bias = -weight @ centre
        if layer is layers[0]:
            bias += mean
            pooled = pool(inputs[layer], targets["whole"], targets["num_tokens"])
            for rows, meant in fits:
                if rows.any():
                    slope, offset = _ridge(pooled[rows], meant[rows])
                    weight += slope
                    bias += offset
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return {"spoken_words": len(said), "spoken_sides": bool(sides)}


def _embedding(word: str, tokenizer: Any, embeddings: Tensor) -> Tensor:
    """Of the word inside a sentence, the mean over its tokens; a number has no space in its token."""
    text = word if word[0].isdigit() else f" {word}"
    return embeddings[tokenizer.encode(text, add_special_tokens=False)].mean(dim=0)


def _drawn(pictures: Sequence[Picture], seed: int) -> list[Picture]:
    of_source: dict[str, list[Picture]] = {}
    for position in torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed)).tolist():
        of_source.setdefault(pictures[position].source, []).append(pictures[position])
    return [picture for drawn in of_source.values() for picture in drawn[:_NUM_FITTED]]


def _inputs(
    model: Any, layers: Sequence[nn.Linear], batches: Batches, pictures: Sequence[Picture]
) -> tuple[dict[nn.Linear, Tensor], dict[str, Tensor]]:
    """Each layer's inputs [tokens, width] in float32, with the targets of the same tokens, in reading order.

    "num_tokens" [pictures] counts the tokens of each picture.
    """
    visual = model.model.visual
    seen: dict[nn.Linear, list[Tensor]] = {layer: [] for layer in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, given: seen[layer].append(given[0].float()))
        for layer in layers
    ]
    shown: list[dict[str, Tensor]] = []
    for start in range(0, len(pictures), _FITTED_AT_ONCE):
        batch = batches([(picture,) for picture in pictures[start : start + _FITTED_AT_ONCE]])
        batch = {name: values.to(model.device) for name, values in batch.items()}
        grids = batch.pop("image_grid_thw")
        visual(batch.pop("pixel_values"), grid_thw=grids)
        if hasattr(visual, "window_size"):
            # Qwen2.5-VL turns its windows back into reading order only after the merger
            order = get_vision_window_index(
                grids, visual.spatial_merge_size, visual.window_size, visual.patch_size
            )[0].argsort()
            for given in seen.values():
                given[-1] = given[-1][order.to(model.device)]
        shown.append(batch)
    for hook in hooks:
        hook.remove()
    targets = {name: torch.cat([batch[name] for batch in shown]) for name in shown[0]}
    return {layer: torch.cat(given) for layer, given in seen.items()}, targets


def _told_alike(told: Tensor) -> list[list[int]]:
    """Positions of the words, those together that are told about in the same tokens; `told` is [tokens, words]."""
    groups: dict[bytes, list[int]] = {}
    for position, column in enumerate(told.T.contiguous().cpu().numpy()):
        groups.setdefault(column.tobytes(), []).append(position)
    return list(groups.values())


def _ridge(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """(slope [outputs, inputs], offset [outputs]) of least squares with _RIDGE on the slope."""
    centre, mean = inputs.mean(dim=0), outputs.mean(dim=0)
    gram = (inputs - centre).T @ (inputs - centre)
    # more than nothing where all inputs are alike
    strength = (_RIDGE * gram.diagonal().mean()).clamp(min=1e-6)
    ridge = strength * torch.eye(len(gram), device=gram.device)
    slope = torch.linalg.solve(gram + ridge, (inputs - centre).T @ (outputs - mean)).T
    return slope, mean - slope @ centre


def side_embeddings(embeddings: Tensor, numbers: Mapping[int, int], said: Tensor) -> list[Tensor]:
    """For left, top, right and bottom: number -> the place that its embedding tells, in directions of that side alone.

    Each [numbers, width]; empty without number tokens or without directions enough. The place is what numbers have in
    common with their neighbours: the leading directions of their embeddings. Sides are orthogonal to each other and to
    the words.
    """
    width = embeddings.shape[1]
    if not numbers or len(said) + 4 * NUMBER_WAVES > width:
        return []
    line = embeddings[[numbers[number] for number in sorted(numbers)]]
    line = line - line.mean(dim=0)
    leading = torch.linalg.svd(line, full_matrices=False).Vh[:NUMBER_WAVES]  # [waves, width]
    place = line @ leading.T
    free = torch.linalg.qr(torch.cat([said.T, torch.eye(width, device=said.device)], dim=1))[0][
        :, len(said) :
    ]
    return [place @ free[:, side * NUMBER_WAVES : (side + 1) * NUMBER_WAVES].T for side in range(4)]


def projectors(model: Any) -> list[nn.Module]:
    """The merger at the end of the vision tower, then those of Qwen3-VL's deep features."""
    return [model.model.visual.merger, *getattr(model.model.visual, "deepstack_merger_list", ())]
