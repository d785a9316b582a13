"""How experts begin: what earlier stages have learnt since a common base, cut to the rank of an expert.

The difference of a stage's weights from the base's is what it has learnt, whatever way: adapters merged, several one
after the other, or full training. Task vectors (Ilharco et al. 2022, arXiv 2212.04089) at the layers that have experts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pathloom.models.experts import Experts
from pathloom.models.experts_config import Mixture, Route
from pathloom.stage import UserError
from pathloom.train.parts import module_of

State = Mapping[str, Tensor]

EXACT_SVD_UP_TO = 1024
"""Shorter edge of the largest matrix whose whole SVD is computed; our own choice, above those of a nano model. A larger
one has a randomised SVD (Halko et al. 2011, arXiv 0909.4061, algorithm 5.1, 4 power iterations), exact where its rank
is low.
"""
_OVERSAMPLING = 16
_FAINT = 1e-3
"""Of the largest strength: a direction below it holds less than a millionth of the squared norm, and is mostly the
rounding of the weights whose difference it is of. Our own choice.
"""


@dataclass(frozen=True)
class Learnt:
    """What a stage has learnt since the base: `changes` [out, in] by layer, the tensors of whole `parts` by name."""

    stage: str
    changes: Mapping[str, Tensor]
    parts: Mapping[str, Mapping[str, Tensor]]


def learnt_since(stage: str, base: State, after: State, target_modules: str) -> Learnt:
    """The difference of two states of one model: that of layers with experts apart from that of all other tensors.

    A stage that trained adapters on a GPU began at the base rounded to half precision, and is compared with that: what
    rounding changed is not learnt.

    Raises UserError where `target_modules` matches no layer, and where the stage cannot have begun at the base: a
    tensor is missing or of another shape.
    """
    if not any(re.fullmatch(target_modules, name.removesuffix(".weight")) for name in base):
        raise UserError(f"target_modules: no layer's name matches {target_modules!r}")
    changes: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, before in base.items():
        if name not in after or after[name].shape != before.shape:
            raise UserError(
                f"start_from: {stage} did not begin at `model`: {name} is missing or has another shape"
            )
    for name, now in after.items():
        began = base[name].to(now.dtype) if name in base else None
        if began is not None and torch.equal(now, began):
            continue
        layer, _, leaf = name.rpartition(".")
        if began is not None and leaf == "weight" and re.fullmatch(target_modules, layer):
            changes[layer] = now.float() - began.float()
        else:
            parts.setdefault(module_of(name), {})[name] = now
    return Learnt(stage, changes, parts)


def taken_over(stages: Sequence[Learnt]) -> dict[str, Tensor]:
    """Tensors of whole parts that one stage alone has changed. Raises UserError for a part that two have changed."""
    taken: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for learnt in stages:
        for part, tensors in learnt.parts.items():
            if part in owner:
                raise UserError(
                    f"start_from: {owner[part]} and {learnt.stage} have both changed {min(tensors)} or another tensor "
                    f"of the part {part}, and a mixture has one {part}: let one of them learn it, or none"
                    + (", or name its layers in target_modules" if part == "language" else "")
                )
            owner[part] = learnt.stage
            taken |= tensors
    return taken


def cut(change: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """(down [found, in], up [found, out], share) of a change [out, in]: change is about up.T @ down.

    The truncated SVD, the best there is at this rank (Eckart and Young 1936), its strengths on both sides alike;
    `share` of the squared norm is kept. `found` is `rank`, or less where the change has no more directions.
    """
    if min(change.shape) <= EXACT_SVD_UP_TO:
        left, strengths, right = torch.linalg.svd(change, full_matrices=False)
        right = right.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            left, strengths, right = torch.svd_lowrank(
                change, q=min(rank + _OVERSAMPLING, *change.shape), niter=4
            )
    found = min(rank, int((strengths > _FAINT * strengths[0]).sum()))
    roots = strengths[:found].sqrt()
    down, up = (right[:, :found] * roots).T, (left[:, :found] * roots).T
    total = float(change.square().sum())
    return down, up, float(strengths[:found].square().sum()) / total if total else 1.0


@torch.no_grad()
def begin(layers: Mapping[str, Experts], stages: Sequence[Learnt], rank: int, seed: int) -> dict[str, float]:
    """Write what each stage has learnt into an expert, in order; returns stage -> share of the squared norm kept.

    In `shared`, one place for all, they stand side by side, divided by their number: the average of the stages, which
    is what a soft gate that knows nothing yet makes of them. Ranks that nobody fills begin as LoRA.
    """
    kept: dict[str, float] = {}
    for place, learnt in enumerate(stages):
        total = kept_norm = 0.0
        for name, experts in layers.items():
            if name not in learnt.changes:
                continue
            down, up, share = cut(learnt.changes[name], rank, seed)
            norm = float(learnt.changes[name].square().sum())
            total, kept_norm = total + norm, kept_norm + share * norm
            shared = experts.mixture.routing == "shared"
            expert, first = (0, place * rank) if shared else (place, 0)
            scaled = 1 / experts.mixture.scaling / (len(stages) if shared else 1)
            ranks = slice(first, first + len(down))
            experts.down[expert, ranks] = down * scaled**0.5
            experts.up[expert, ranks] = up * scaled**0.5
        kept[learnt.stage] = kept_norm / total if total else 1.0
    return kept


@torch.no_grad()
def begin_gates(layers: Mapping[str, Experts], mixture: Mixture, share: float) -> None:
    """Let the expert that `mixture.routes` names for a scale or a task begin with `share` of a row's gate.

    softmax of a logit a against num_experts - 1 zeros is `share` at a = log(share (num_experts - 1) / (1 - share)).
    """
    ahead = float(torch.tensor(share * (mixture.num_experts - 1) / (1 - share)).log())
    for experts in layers.values():
        if experts.gate is None:
            continue
        for key, expert in mixture.routes.items():
            rows = mixture.ids(Route(key, key))  # a name is a scale's or a task's
            for table, row in zip((experts.gate.scale, experts.gate.task), rows, strict=True):
                if table is not None and row:
                    table[row, expert] = ahead
