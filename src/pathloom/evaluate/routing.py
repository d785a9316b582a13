"""Which expert of a mixture answers what: mean gates by scale and task, as a board of the report."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pathloom.evaluate.report_records import BOARDS_FILE, Board, BoardRow, Cell, Measured
from pathloom.models.experts import choose, gates_of, mixture_of, recorded_logits, routed
from pathloom.models.experts_config import UNKNOWN, Mixture, Route
from pathloom.stage import write_json

ROWS_READ = 32
"""Questions of each scale and task that are read for a token gate; our own choice. Other gates need none."""

Asked = TypeVar("Asked")


def routing_board(
    stage: str,
    model: Any,
    asked: Mapping[Route, Sequence[Asked]],
    encode: Callable[[Sequence[Asked]], Mapping[str, Tensor]],
    title: str = "Routing",
) -> Board | None:
    """Mean gate of each expert and how often it has the largest, over the model's layers, for every route asked.

    `encode` makes the model's inputs for some of what is asked, over whose tokens a token gate is averaged. None for a
    plain model and for one LoRA that all share.
    """
    mixture = mixture_of(model)
    if mixture is None or mixture.routing == "shared":
        return None
    gates = {route: _gates(model, mixture, route, asked[route], encode) for route in sorted(asked)}
    if mixture.routing == "soft" and not mixture.token_gate:
        gates[UNKNOWN] = gates_of(model, UNKNOWN)
    names = [mixture.name_of(expert) for expert in range(mixture.num_experts)]
    return Board(
        stage=stage,
        title=title,
        of="scale/task",
        columns=(*(f"{name}: mean gate" for name in names), *(f"{name}: largest" for name in names)),
        rows=tuple(
            BoardRow(name=str(route), origin="measured", source=stage, cells=_cells(of_route))
            for route, of_route in gates.items()
        ),
        digits=2,
        notes=(
            f"{mixture.routing} routing, "
            + (f"the {mixture.top_k} largest of " if mixture.top_k else "")
            + f"{mixture.num_experts} experts of rank {mixture.r}; shares over the layers that have experts"
            + (f" and the tokens of up to {ROWS_READ} prompts" if mixture.token_gate else ""),
        ),
    )


@torch.inference_mode()
def _gates(
    model: Any,
    mixture: Mixture,
    route: Route,
    asked: Sequence[Asked],
    encode: Callable[[Sequence[Asked]], Mapping[str, Tensor]],
) -> Tensor:
    """Gates of a route, [layers, experts], or [layers and tokens, experts] of a gate that reads tokens."""
    if not mixture.token_gate:
        return gates_of(model, route)
    batch = encode(asked[:ROWS_READ])
    with routed(model, [route] * len(batch["input_ids"])), recorded_logits(model) as logits:
        model(**batch)
    read = batch["attention_mask"].bool()
    return torch.cat([choose(of_layer[read], mixture.top_k) for of_layer in logits])


def _cells(gates: Tensor) -> tuple[Cell, ...]:
    largest = (gates == gates.amax(dim=-1, keepdim=True)).float()
    largest /= largest.sum(dim=-1, keepdim=True)  # a tie is shared
    shares = (*gates.mean(dim=0).tolist(), *largest.mean(dim=0).tolist())
    return tuple(Cell(value=share) for share in shares)


def keep_board(board: Board | None, out: Path) -> None:
    """Put a board beside what the stage measured, in the place of one with its title: a resumed run makes it again."""
    if board is None:
        return
    path = out / BOARDS_FILE
    boards = Measured.model_validate_json(path.read_bytes()).boards if path.is_file() else ()
    kept = [one for one in boards if one.title != board.title]
    write_json(json.loads(Measured(boards=(*kept, board)).model_dump_json()), path)
