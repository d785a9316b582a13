"""Rollouts: answers and their rewards, in groups of one prompt, out of TRL's padded batches and into new ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import pad, split_pixel_values_by_grid

from pathloom.stage import UserError
from pathloom.train.rewards import Reward

_EPSILON = 1e-6  # far below any difference between two rewards, far above rounding

PICTURES = ("pixel_values", "image_grid_thw")
_PER_TOKEN = (
    "completion_ids",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
)
_REBUILT = ("prompt_mask", "completion_mask", "num_items_in_batch")
_KNOWN = {"prompt_ids", "advantages", "num_images", "mm_token_type_ids", *PICTURES, *_PER_TOKEN, *_REBUILT}


@dataclass(frozen=True)
class Rollout:
    """One answer: its reward, whether it ended by itself, and its tensors without padding (`take_apart`)."""

    reward: Reward
    finished: bool
    tensors: Mapping[str, Any]


Group = list[Rollout]
"""The rollouts of one prompt."""


def teaches(group: Group, filter_by: str) -> bool:
    """Whether some rollouts are better than others: DAPO's 0 < #correct < G (arXiv 2503.14476, eq. 11).

    By accuracy, as verl does, and for graded accuracies too. The totals must differ as well: where format outweighs
    what is right, every advantage is 0.
    """
    totals = [rollout.reward.total for rollout in group]
    accuracies = [rollout.reward.accuracy for rollout in group]
    return _differ(totals) and (filter_by == "reward" or _differ(accuracies))


def _differ(values: Sequence[float]) -> bool:
    return max(values) - min(values) > _EPSILON


def take_apart(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A generation batch of TRL to its rollouts, without padding.

    Tensors (rows, tokens) become (tokens of the row,): mm_token_type_ids keeps the prompt's, the answer's are 0.
    pixel_values (patches, features) and image_grid_thw (pictures, 3) become those of the row. Raises UserError for
    what only other families than Qwen-VL give.
    """
    if unknown := set(batch) - _KNOWN:
        raise UserError(
            f"this model needs {', '.join(sorted(unknown))}: reinforce knows the Qwen-VL families"
        )
    batch = split_pixel_values_by_grid(batch)
    prompt, completion = batch["prompt_mask"].bool(), batch["completion_mask"].bool()
    rows = []
    for index in range(len(prompt)):
        row = {}
        for name, values in batch.items():
            if name in _REBUILT:
                continue
            value = values[index]
            if name in ("prompt_ids", "mm_token_type_ids"):
                value = value[: prompt.shape[1]][prompt[index]]
            elif name in _PER_TOKEN and values.shape[1] == completion.shape[1]:  # a ratio may be one a row
                value = value[completion[index]]
            row[name] = value
        rows.append(row)
    return rows


def put_together(rows: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """Rollouts, of one round or of several, to a batch as TRL makes it, all but num_items_in_batch.

    Prompts are padded on the left, answers on the right. Rows without pictures may stand among others.
    """
    prompts = [row["prompt_ids"] for row in rows]
    answers = [row["completion_ids"] for row in rows]
    batch: dict[str, Any] = {
        "prompt_ids": _pad(prompts, pad_id, "left"),
        "prompt_mask": _pad([torch.ones_like(ids) for ids in prompts], 0, "left"),
        "completion_ids": _pad(answers, pad_id, "right"),
        "completion_mask": _pad([torch.ones_like(ids) for ids in answers], 0, "right"),
        "advantages": torch.stack([row["advantages"] for row in rows]),
    }
    for name in _PER_TOKEN[1:]:
        if name in rows[0]:
            batch[name] = _pad([row[name] for row in rows], 0.0, "right")
    if any(row.get("num_images") for row in rows):
        batch["num_images"] = [row.get("num_images", 0) for row in rows]
        for name in PICTURES:
            batch[name] = torch.cat([row[name] for row in rows if name in row])
        types = [row.get("mm_token_type_ids", torch.zeros_like(row["prompt_ids"])) for row in rows]
        batch["mm_token_type_ids"] = torch.cat(
            [_pad(types, 0, "left"), torch.zeros_like(batch["completion_ids"])], dim=1
        )
    return batch


def _pad(tensors: Iterable[torch.Tensor], value: float, side: str) -> torch.Tensor:
    return pad(list(tensors), padding_value=value, padding_side=side)
