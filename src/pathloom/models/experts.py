"""A mixture of LoRA experts inside a frozen model: y = W0 x + s * sum over k of g_k B_k A_k x, with s = alpha / r.

hard    g is one for the expert that a rule names for the row
soft    g = softmax over the `top_k` largest logits of a gate, a table of scales plus a table of tasks, one gate a layer
        as in Poly (Ponti et al. 2022, arXiv 2202.13914, section 3); with `token_gate` each token's state adds its share
shared  one expert for all rows, always at work: plain LoRA

Scale and task of each row reach the layers by `with routed(model, routes):` around a forward or backward pass or
`generate`. Experts and gate stay in float32 whatever the frozen weights are, as PEFT keeps its adapters.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pathloom.models.experts_config import UNKNOWN, Mixture, Route, expert_of
from pathloom.stage import UserError

CONFIG_KEY = "experts"
"""Of the model's own config.json."""
LAYER_KEY = ".experts."
"""Stands in the name of every tensor of an expert or a gate."""

Kept = TypeVar("Kept")


class Routing:
    """Who is asked: the one place where the layers of a model look up the rows of a batch."""

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.routes: tuple[Route, ...] | None = None
        self.chosen: tuple[int, ...] | None = None
        """hard: the expert of each route."""
        self.recorded: list[Tensor] | None = None
        """Logits of each layer's gate, [rows, 1 or tokens, experts], while somebody wants them."""
        self._ids: Tensor | None = None
        self._kept: dict[tuple[int, int], Any] = {}

    def set(self, routes: tuple[Route, ...] | None) -> None:
        """The routes of the rows to come; None: nobody has said."""
        hard = self.mixture.routing == "hard"
        chosen = [expert_of(route, self.mixture.routes) for route in routes] if hard and routes else None
        self.routes, self.chosen = routes, tuple(chosen) if chosen else None
        self._ids = None
        self._kept.clear()

    def ids(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rows of the gate's tables for scale and task, [routes] each."""
        if self._ids is None or self._ids.device != device:
            pairs = [self.mixture.ids(route) for route in self.routes or (UNKNOWN,)]
            with torch.inference_mode(mode=False):  # a later pass may learn with them
                self._ids = torch.tensor(pairs, device=device).T
        scales, tasks = self._ids
        return scales, tasks

    def repeats(self, batch_size: int) -> int:
        """Rows of the batch to a route: 1, or more where `generate` writes several answers to a question.

        Raises UserError where the routes do not divide the batch.
        """
        num_routes = len(self.routes or (UNKNOWN,))
        if batch_size % num_routes:
            raise UserError(
                f"a batch of {batch_size} rows was given {num_routes} routes: give one route a row"
            )
        return batch_size // num_routes

    def keep(self, owner: nn.Module, batch_size: int, make: Callable[[], Kept]) -> Kept:
        """What `make` gives, worked out once for all tokens that are generated inside one context.

        Not while weights learn, and not without a context: nothing would say when they have changed since.
        """
        if self.routes is None or torch.is_grad_enabled():
            return make()
        key = (id(owner), batch_size)
        if key not in self._kept:
            self._kept[key] = make()
        found: Kept = self._kept[key]
        return found


class _Mixed:
    """The experts at work: `down` [experts x r, in], `up` [experts x r, out], `gates` [rows, 1 or tokens, experts]."""

    def __init__(self, down: Tensor, up: Tensor, gates: Tensor | None) -> None:
        self.down, self.up, self.gates = down, up, gates


class Gate(nn.Module):
    """Logits of the experts for each row, all zero at first: every expert has the same say."""

    def __init__(self, mixture: Mixture, width: int, device: torch.device) -> None:
        super().__init__()

        def table(rows: int, columns: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(rows, columns, device=device))

        on, num = mixture.gate_on, mixture.num_experts
        self.scale = table(len(mixture.scales) + 1, num) if "scale" in on else None
        self.task = table(len(mixture.tasks) + 1, num) if "task" in on else None
        self.token = table(num, width) if mixture.token_gate else None

    def forward(self, routing: Routing, states: Tensor) -> Tensor:
        """[rows, 1, experts]; [rows, tokens, experts] with a token gate, which reads `states` [rows, tokens, in]."""
        rows = routing.keep(self, len(states), lambda: self._told(routing, len(states)))
        return rows if self.token is None else rows + functional.linear(states.to(rows.dtype), self.token)

    def _told(self, routing: Routing, batch_size: int) -> Tensor:
        """[rows, 1, experts] from scale and task."""
        told = [
            table[ids]
            for table, ids in zip((self.scale, self.task), routing.ids(self._device), strict=True)
            if table is not None
        ]
        return sum(told[1:], told[0]).repeat_interleave(routing.repeats(batch_size), dim=0)[:, None]

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


def choose(logits: Tensor, top_k: int | None) -> Tensor:
    """Gates that sum to one over the last axis, not zero for exactly `top_k` experts, all of them for None."""
    if top_k is None or top_k >= logits.shape[-1]:
        return logits.softmax(dim=-1)
    values, places = logits.topk(top_k, dim=-1)
    return torch.zeros_like(logits).scatter(-1, places, values.softmax(dim=-1))


class Experts(nn.Module):
    """The experts of one linear layer: `down` is A, [experts, r, in], `up` is B transposed, [experts, r, out].

    Laid out so, all experts together are two matrix products without a copy.
    """

    def __init__(
        self, mixture: Mixture, routing: Routing, in_features: int, out_features: int, device: torch.device
    ) -> None:
        super().__init__()
        num, r = mixture.num_experts, mixture.r
        self.mixture, self.routing = mixture, routing
        self.down = nn.Parameter(torch.empty(num, r, in_features, device=device))
        self.up = nn.Parameter(torch.zeros(num, r, out_features, device=device))
        gated = mixture.routing == "soft" and num > 1
        self.gate = Gate(mixture, in_features, device) if gated else None

    def start(self) -> None:
        """As PEFT starts LoRA: A as a linear layer's weights, B zero."""
        for expert in self.down.data:
            nn.init.kaiming_uniform_(expert, a=math.sqrt(5))
        nn.init.zeros_(self.up.data)

    def forward(self, states: Tensor, base: Tensor) -> Tensor:
        """`base` [rows, tokens, out], what the frozen layer makes of `states` [rows, tokens, in], plus the experts'."""
        if self.mixture.token_gate or self.routing.recorded is not None:
            mixed = self.mix(states)
        else:
            mixed = self.routing.keep(self, len(states), lambda: self.mix(states))
        hidden = functional.linear(states.to(mixed.down.dtype), mixed.down)
        if mixed.gates is not None:
            hidden = (hidden.unflatten(-1, (-1, self.mixture.r)) * mixed.gates[..., None]).flatten(-2)
        if base.dtype != hidden.dtype:
            return base + (self.mixture.scaling * (hidden @ mixed.up)).to(base.dtype)
        flat = torch.addmm(base.flatten(0, -2), hidden.flatten(0, -2), mixed.up, alpha=self.mixture.scaling)
        return flat.view_as(base)

    def mix(self, states: Tensor) -> _Mixed:
        """Which experts are at work for a batch and how much: no product is made for one that no row asks."""
        if self.mixture.routing == "hard":
            return self._mix_by_rule(len(states))
        if self.gate is None:
            return _Mixed(self.down.flatten(0, 1), self.up.flatten(0, 1), None)
        logits = self.gate(self.routing, states)
        if self.routing.recorded is not None:
            self.routing.recorded.append(logits)
        gates = choose(logits, self.mixture.top_k)
        down: Tensor = self.down
        up: Tensor = self.up
        if not torch.is_grad_enabled() and not self.mixture.token_gate:  # looking costs a wait for the GPU
            used = gates.amax(dim=(0, 1)).nonzero()[:, 0]
            if len(used) < self.mixture.num_experts:
                down, up, gates = down[used], up[used], gates[..., used]
        return _Mixed(down.flatten(0, 1), up.flatten(0, 1), gates)

    def _mix_by_rule(self, batch_size: int) -> _Mixed:
        chosen = self.routing.chosen
        if chosen is None:
            raise UserError(
                "this mixture of experts routes by rule and nobody said scale and task of the rows: ask it inside "
                "`with routed(model, routes):`"
            )
        repeats = self.routing.repeats(batch_size)
        used = sorted(set(chosen))
        if len(used) == 1:
            return _Mixed(self.down[used[0]], self.up[used[0]], None)
        rows = torch.tensor([used.index(expert) for expert in chosen], device=self.down.device)
        gates = functional.one_hot(rows, len(used)).to(self.down.dtype)
        gates = gates.repeat_interleave(repeats, dim=0)[:, None]
        down, up = (self.down, self.up) if len(used) == len(self.down) else (self.down[used], self.up[used])
        return _Mixed(down.flatten(0, 1), up.flatten(0, 1), gates)


class MixtureLinear(nn.Linear):
    """A linear layer of the model with experts beside it; its own weights keep their names in the model's files."""

    experts: Experts

    def forward(self, input: Tensor) -> Tensor:
        """[rows, tokens, in] to [rows, tokens, out]."""
        return self.experts(input, functional.linear(input, self.weight, self.bias))


def attach_experts(model: Any, mixture: Mixture) -> None:
    """Give every linear layer that `target_modules` matches its experts, begun as plain LoRA, and freeze the layer.

    The model's config then holds the mixture, so that the folder it is saved in brings it back (`load_model`). Opened
    without pathloom, the folder is the frozen model: transformers leaves out tensors that it does not know.

    Raises UserError when nothing matches or when a layer's rows are not those of the batch.
    """
    routing = Routing(mixture)
    found = False
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear) or not re.fullmatch(mixture.target_modules, name):
            continue
        if ".visual." in f".{name}.":
            raise UserError(
                f"target_modules: {name} is of the vision tower, where pictures of all rows stand in one sequence; "
                "experts go into the language model"
            )
        found = True
        layer.__class__ = MixtureLinear
        layer.requires_grad_(False)
        experts = Experts(mixture, routing, layer.in_features, layer.out_features, layer.weight.device)
        if layer.weight.device.type != "meta":
            experts.start()
        layer.experts = experts
    if not found:
        raise UserError(f"target_modules: no linear layer's name matches {mixture.target_modules!r}")
    setattr(model.config, CONFIG_KEY, mixture.model_dump(mode="json"))


def mixture_of(model_or_config: Any) -> Mixture | None:
    """The mixture that a model or its config states; None for a plain model."""
    config = getattr(model_or_config, "config", model_or_config)
    stated = getattr(config, CONFIG_KEY, None)
    return None if stated is None else Mixture.model_validate(stated)


def class_with_experts(kind: type, mixture: Mixture) -> type:
    """A class for `from_pretrained`, which then fills in the experts too; what it makes is of the class `kind`."""

    def build(self: Any, config: Any, *arguments: Any, **options: Any) -> None:
        kind.__init__(self, config, *arguments, **options)  # type: ignore[misc]
        attach_experts(self, mixture)
        self._keep_in_fp32_modules_strict.add(CONFIG_KEY)
        self.__class__ = kind  # transformers finds the names of tensors on disk by the class

    return type(kind.__name__, (kind,), {"__init__": build})


def layers_with_experts(model: Any) -> dict[str, Experts]:
    """Name of each layer that has experts -> the experts, in the order of the forward pass's modules."""
    return {name: layer.experts for name, layer in model.named_modules() if isinstance(layer, MixtureLinear)}


def _routing_of(model: Any) -> Routing | None:
    layers = (layer for layer in model.modules() if isinstance(layer, MixtureLinear))
    first = next(layers, None)
    return None if first is None else first.experts.routing


@contextmanager
def routed(model: Any, routes: Sequence[Route]) -> Iterator[None]:
    """Scale and task of the rows that the model is given inside; does nothing for a plain model.

    One route a row; with several answers a row (`num_return_sequences`) still one a question. The backward pass belongs
    inside too where activations are computed again. A model is asked in one context at a time, so by one thread.

    Raises UserError for a route that hard routing has no expert for.
    """
    routing = _routing_of(model)
    if routing is None:
        yield
        return
    before = routing.routes
    routing.set(tuple(routes))
    try:
        yield
    finally:
        routing.set(before)


@contextmanager
def recorded_logits(model: Any) -> Iterator[list[Tensor]]:
    """The gates' logits of every layer that is run inside, [rows, 1 or tokens, experts], in a list that fills."""
    routing = _routing_of(model)
    logits: list[Tensor] = []
    if routing is not None:
        routing.recorded = logits
    try:
        yield logits
    finally:
        if routing is not None:
            routing.recorded = None


@torch.no_grad()
def gates_of(model: Any, route: Route) -> Tensor:
    """What each expert has to say in each layer for a route, [layers, experts], without what a token gate would add."""
    layers = layers_with_experts(model)
    mixture = next(iter(layers.values())).mixture
    if mixture.routing == "hard":
        expert = torch.tensor(expert_of(route, mixture.routes))
        return functional.one_hot(expert, mixture.num_experts).float().expand(len(layers), -1)
    found = []
    with routed(model, [route]):
        for layer in layers.values():
            if layer.gate is None:
                return torch.ones(len(layers), 1)
            nothing = layer.down.new_zeros(1, 1, layer.down.shape[-1])
            found.append(choose(layer.gate(layer.routing, nothing), mixture.top_k)[0, 0])
    return torch.stack(found)


def balance_loss(logits: Sequence[Tensor], top_k: int | None, mask: Tensor | None = None) -> Tensor:
    """N * sum over experts of f_i P_i, mean over layers: 1 when every expert has the same say, N when one has all.

    Equation 4 of the Switch Transformer (Fedus et al. 2021, arXiv 2101.03961): P_i is the mean probability of expert i.
    f_i, there the share of tokens sent to i, is here its mean gate after top-k, without a gradient: the same for one
    expert a token, and for gates that use all experts a number without ties. Over rows; over the tokens that `mask`
    [rows, tokens] leaves where the gate reads tokens.
    """
    losses = []
    for of_layer in logits:
        kept = of_layer[mask.bool()] if mask is not None and of_layer.shape[:2] == mask.shape else of_layer
        kept = kept.reshape(-1, of_layer.shape[-1])
        share = choose(kept, top_k).detach().mean(dim=0)
        losses.append(kept.shape[-1] * (share * kept.softmax(dim=-1).mean(dim=0)).sum())
    return torch.stack(losses).mean()
