"""What makes a Qwen-VL model read slides: an encoder of tile features inside its vision tower.

A slide comes as a ticket among the pictures (models/slide_ticket.py). The tower takes tickets out, reads the slides'
features from the shelf that the model was given, and puts the slide encoder's tokens in their place; all other pictures
go the usual way. Positions, masks and the language model see pictures of side x side tokens.
"""

import copy
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from pathloom.models.slide_config import SlideReading, SlideTokens
from pathloom.models.slide_runs import along_curve, cells_along_curve, runs
from pathloom.models.slide_ticket import MERGE, read_tickets, slide_numbers
from pathloom.slides.features import Recent, Shelf, TileFeatures, TileKind
from pathloom.stage import UserError

_ATTENTION_WIDTH = 64
"""Of the gated attention; Ilse et al. take 128 for vectors of 500 numbers. Our own choice."""
_STATISTICS_SLIDES = 256
_STATISTICS_TILES = 128
"""Of each slide at most, evenly spread; both our own choice."""
_LEAST_SPREAD = 0.1
"""Of the mean spread: features that hardly differ are not blown up. Our own choice."""
_LEAST_SPREAD_AT_ALL = 0.01
"""Where all tiles are alike; normalised features have a mean square of 1. Half precision then holds them all."""
_PREPARED_BYTES = 2**29


class SlideEncoder(nn.Module):
    """Tile features of slides, any number each, to side x side tokens of the language model each.

    Each tile's vector is normalised by itself (LayerNorm without weights), then each feature by its mean and spread
    over the training slides (`centre`, `spread`).

    mean       tiles stand along a Hilbert curve, which is cut into as many runs as there are tokens; each run is
               averaged (WSI-LLaVA's adaptive average pooling to a fixed number of tokens)
    attention  each token weighs all tiles of the slide by gated attention (Ilse et al. 2018, arXiv 1802.04712, eq. 9)
               with a query of its own

    Two linear layers with GELU project into the language model (LLaVA-1.5, arXiv 2310.03744). A slide without tiles
    has one learnt vector in the place of every token.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, reading: SlideReading, width: int) -> None:
        super().__init__()
        self.reading = reading
        self.width = width
        dim = reading.tiles.dim
        hidden = reading.hidden or width
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.empty = nn.Parameter(torch.zeros(dim))
        if reading.pool == "attention":
            self.values = nn.Linear(dim, _ATTENTION_WIDTH)
            self.gates = nn.Linear(dim, _ATTENTION_WIDTH)
            self.queries = nn.Linear(_ATTENTION_WIDTH, reading.side**2, bias=False)
        self.up = nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, width)

    @torch.no_grad()
    def prepare(self, tiles: TileFeatures) -> Tensor:
        """What of a slide does not change while the encoder learns, on the CPU: its features, normalised.

        mean: float32 [side * side, dim] averages of the runs, row by row, [0, dim] without tiles; attention: float16
        [n, dim].
        """
        features = _normal(torch.from_numpy(tiles.features).float())
        features = (features - self.centre.float().cpu()) / self.spread.float().cpu()
        if self.reading.pool == "attention":
            return features.half()
        if len(features) == 0:
            return features
        side = self.reading.side
        features = features[along_curve(tiles.places_l0)]
        pooled = torch.stack([features[first:end].mean(dim=0) for first, end in runs(len(features), side**2)])
        return pooled[np.argsort(cells_along_curve(side))]

    def forward(self, prepared: Sequence[Tensor]) -> Tensor:
        """[slides, side * side, width] of what `prepare` gave for each slide."""
        weight = self.up.weight
        tokens = torch.stack([self._pooled(slide.to(weight.device, weight.dtype)) for slide in prepared])
        return self.down(functional.gelu(self.up(tokens)))

    def _pooled(self, tiles: Tensor) -> Tensor:
        """[side * side, dim]."""
        if len(tiles) == 0:
            return self.empty.expand(self.reading.side**2, -1)
        if self.reading.pool == "mean":
            return tiles
        seen = torch.tanh(self.values(tiles)) * torch.sigmoid(self.gates(tiles))  # [n, attention width]
        weights = self.queries(seen).float().softmax(dim=0)  # [n, tokens]
        return weights.T.to(tiles.dtype) @ tiles


def _normal(features: Tensor) -> Tensor:
    return functional.layer_norm(features, features.shape[-1:])


class ReadsSlides:
    """Mixed into the class of a vision tower: tickets become slides."""

    slide: Any  # a SlideEncoder, or PEFT's wrapper around one
    open_shelf: "OpenShelf | None" = None
    training: bool

    def forward(self, hidden_states: Tensor, grid_thw: Tensor, **options: Any) -> Any:
        """`hidden_states` [patches, numbers of a patch], `grid_thw` [pictures, 3], as of the tower without slides."""
        grids = grid_thw.tolist()
        numbers = read_tickets(hidden_states, grids, self.slide.reading.side)
        if all(number is None for number in numbers):
            output = super().forward(hidden_states, grid_thw=grid_thw, **options)  # type: ignore[misc]
            if self.training and torch.is_grad_enabled():
                output.pooler_output = output.pooler_output + _nothing_learnt(self.slide)
            return output
        slides = iter(self.slide([self._prepared(number) for number in numbers if number is not None]))
        plain = [place for place, number in enumerate(numbers) if number is None]
        num_patches = [frames * rows * columns for frames, rows, columns in grids]
        if plain:
            pictures = hidden_states.split(num_patches)
            output = super().forward(  # type: ignore[misc]
                torch.cat([pictures[place] for place in plain]), grid_thw=grid_thw[plain], **options
            )
        else:
            output = self._nothing_seen(hidden_states)
        sizes = [num_patches[place] // MERGE**2 for place in plain]
        merged = iter(output.pooler_output.split(sizes))
        tokens = [next(merged if number is None else slides) for number in numbers]
        output.pooler_output = torch.cat([each.to(tokens[0].dtype) for each in tokens])
        if hasattr(self, "deepstack_merger_list"):  # a slide adds nothing to the deeper layers
            output.deepstack_features = [
                _between(layer.split(sizes), tokens, numbers) for layer in output.deepstack_features
            ]
        return output

    def _nothing_seen(self, hidden_states: Tensor) -> Any:
        """What the tower would give for no picture at all, which it does not take."""
        none = hidden_states.new_zeros(0, self.slide.width)
        if hasattr(self, "deepstack_merger_list"):
            return BaseModelOutputWithDeepstackFeatures(
                last_hidden_state=none,
                pooler_output=none,
                deepstack_features=[none for _ in self.deepstack_merger_list],
            )
        return BaseModelOutputWithPooling(last_hidden_state=none, pooler_output=none)

    def _prepared(self, number: int) -> Tensor:
        """Raises UserError without a shelf, and for a slide that is not on it."""
        if self.open_shelf is None:
            raise UserError(
                "this model reads slides and was given none: name a stage `embed_slides` in `slides`"
            )
        return self.open_shelf.prepared(number, self.slide)


def _nothing_learnt(slide: nn.Module) -> Tensor | float:
    """Zero that depends on the encoder's weights: a batch without slides has gradients for them too, which are zero.

    Several processes could not add up theirs otherwise, and a step that learns nothing else would fail.
    """
    return sum(each.flatten()[0] * 0.0 for each in slide.parameters() if each.requires_grad)


def _between(seen: Sequence[Tensor], tokens: Sequence[Tensor], numbers: Sequence[int | None]) -> Tensor:
    """[all tokens, width] of one deep layer: what it saw of each picture, zeros for each slide."""
    pictures = iter(seen)
    return torch.cat(
        [
            next(pictures) if number is None else torch.zeros_like(slide)
            for number, slide in zip(numbers, tokens, strict=True)
        ]
    )


class OpenShelf:
    """A shelf as the tower of one model asks it: by the numbers on its tickets."""

    def __init__(self, shelf: Shelf, reading: SlideReading) -> None:
        """Raises UserError for tiles of another kind, and where two slides have one number."""
        if shelf.kind != reading.tiles:
            raise UserError(
                f"slides: their features are of {shelf.kind}, and this model reads those of {reading.tiles}; "
                "cut and encode them like that, or train a model on these"
            )
        self.shelf = shelf
        self.reading = reading
        self.slides = slide_numbers(shelf.ids, reading.side)
        self._recent = Recent[Tensor](_PREPARED_BYTES, lambda tensor: tensor.nbytes)

    def prepared(self, number: int, encoder: Any) -> Tensor:
        """What `SlideEncoder.prepare` gives for the slide of that number; 0 is the one without tiles."""
        if number and number not in self.slides:
            raise UserError(
                f"a ticket has the number {number}, and no slide of `slides` has: they hold no features of that slide"
            )
        return self._recent.get(number, lambda: encoder.prepare(self._read(number)))

    def _read(self, number: int) -> TileFeatures:
        if number == 0:
            return TileFeatures(np.zeros((0, self.reading.tiles.dim), np.float16), np.zeros((0, 2), np.int32))
        return self.shelf.read(self.slides[number])

    def __deepcopy__(self, memo: object) -> "OpenShelf":
        """A copied model takes from the same shelf."""
        return self


def attach_slides(
    model: Any,
    tokens: SlideTokens,
    tiles: TileKind,
    seed: int,
    *,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Make a Qwen-VL model read slides: a fresh SlideEncoder in its tower, `slide_tokens` in its config.

    Its tokens begin around the mean of the language model's embeddings, as far from it as those are: what helped the
    other projectors of small models (models/nano.py). `statistics` are those of `tile_statistics`.
    """
    if reads_slides(model):
        raise UserError("slide_tokens: the model reads slides already; remove the key")
    reading = SlideReading(**tokens.model_dump(), tiles=tiles)
    embeddings = model.get_input_embeddings().weight.detach().float().cpu()
    mean = embeddings.mean(dim=0)
    distance = (embeddings - mean).norm(dim=1).mean()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        slide = SlideEncoder(reading, embeddings.shape[1])
        inner = functional.gelu(slide.up(torch.randn(512, tiles.dim)))
        slide.down.weight *= distance / functional.linear(inner - inner.mean(dim=0), slide.down.weight).norm(
            dim=1
        ).mean().clamp(min=1e-6)
        slide.down.bias.copy_(mean - slide.down.weight @ inner.mean(dim=0))
        if statistics is not None:
            slide.centre.copy_(statistics[0])
            slide.spread.copy_(statistics[1])
    _put(model, slide)
    model.config.slide_tokens = reading.model_dump()


def tile_statistics(shelf: Shelf, slides: Iterable[str]) -> tuple[Tensor, Tensor]:
    """(centre, spread) [dim] of the normalised tiles of these slides, for `attach_slides`: give training slides only.

    A part of the slides, evenly spread, and of each a part of its tiles, weighs the same.
    """
    chosen = sorted(set(slides))
    chosen = chosen[:: -(-len(chosen) // _STATISTICS_SLIDES) or 1]
    parts = []
    for slide in chosen:
        features = shelf.read(slide).features
        step = -(-len(features) // _STATISTICS_TILES) or 1
        parts.append(_normal(torch.from_numpy(features[::step]).float()))
    tiles = torch.cat(parts) if parts else torch.zeros(0, shelf.kind.dim)
    if len(tiles) < 2:
        return torch.zeros(shelf.kind.dim), torch.ones(shelf.kind.dim)
    spread = tiles.std(dim=0)
    return tiles.mean(dim=0), spread.clamp(
        min=max(float(spread.mean()) * _LEAST_SPREAD, _LEAST_SPREAD_AT_ALL)
    )


def give_shelf(model: Any, shelf: Shelf) -> None:
    """Let the model read the shelf's slides from now on. Raises UserError where it cannot."""
    if not reads_slides(model):
        raise UserError(
            "slides: this model reads no slides yet; give `slide_tokens` beside `slides` in the entry `sft` that "
            "teaches it to, or remove `slides`"
        )
    tower = _tower(model)
    tower.open_shelf = OpenShelf(shelf, SlideReading.model_validate(model.config.slide_tokens))


def copy_slides(model: Any, other: Any) -> None:
    """Let another model of the same base read slides as this one does now; nothing for a model that reads none."""
    if reads_slides(model):
        _put(other, copy.deepcopy(_tower(model).slide))
        _tower(other).open_shelf = _tower(model).open_shelf
        _tower(other).slide.requires_grad_(False)
        other.config.slide_tokens = model.config.slide_tokens


def reads_slides(model: Any) -> bool:
    return getattr(model.config, "slide_tokens", None) is not None


def load_slides(model: Any, folder: Path) -> None:
    """Bring back the slide encoder of a model that was saved with one; `model` is loaded without it.

    Raises UserError for a folder whose config and weights do not agree.
    """
    from safetensors import safe_open

    try:
        reading = SlideReading.model_validate(model.config.slide_tokens)
    except ValidationError as error:
        raise UserError(
            f"{folder}: the `slide_tokens` of its config.json are not those of this pathloom; train it again ({error})"
        ) from error
    slide = SlideEncoder(reading, model.get_input_embeddings().weight.shape[1])
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                _, found, key = name.partition(SLIDE_PREFIX)
                if found:
                    tensors[key] = file.get_tensor(name)
    try:
        slide.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"{folder}: config.json says that the model reads slides, but its weights are not those of that encoder "
            f"({str(error).splitlines()[-1].strip()})"
        ) from error
    _put(model, slide)


SLIDE_PREFIX = "visual.slide."
"""What the names of a slide encoder's weights begin with, after the model's own prefix."""


def _put(model: Any, slide: SlideEncoder) -> None:
    tower = _tower(model)
    weight = next(tower.parameters())
    tower.slide = slide.to(weight.device, weight.dtype)
    kind: Any = type(tower)
    if not issubclass(kind, ReadsSlides):
        tower.__class__ = _reading_class(kind)


def _tower(model: Any) -> Any:
    """Of the model itself or inside PEFT's."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.model.visual


@cache
def _reading_class(kind: Any) -> Any:
    """The class of a tower with ReadsSlides mixed in, one for each family."""
    return type(f"{kind.__name__}WithSlides", (ReadsSlides, kind), {})
