"""What a mixture of LoRA experts is made of and who is asked what: the part of it that needs no torch."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

from pydantic import Field

from pathloom.schema import Record, Sample, Scale
from pathloom.stage import UserError

SCALES: tuple[Scale, ...] = get_args(Scale)

Routing = Literal["hard", "soft", "shared"]
GateOn = Literal["scale", "task"]


class Route(NamedTuple):
    """What the gate may know of a row; None for what nobody has said."""

    scale: str | None = None
    task: str | None = None

    def __str__(self) -> str:
        return f"{self.scale or 'unknown'}/{self.task or 'unknown'}"


UNKNOWN = Route()


def route_of(sample: Sample) -> Route:
    """The route of a Sample: the scale of its pictures and its task."""
    return Route(sample.scale, sample.task)


class Mixture(Record):
    """A mixture of LoRA experts as `config.json` of a model folder states it, under the key `experts`.

    `scales` and `tasks` give the rows of the gate's tables in order, after the row of the unknown.
    """

    routing: Routing
    num_experts: int = Field(ge=1)
    r: int = Field(ge=1, description="rank of each expert")
    alpha: int = Field(ge=1, description="experts are scaled by alpha / r, as in PEFT")
    top_k: int | None = Field(default=None, ge=1)
    gate_on: tuple[GateOn, ...] = ()
    token_gate: bool = False
    routes: dict[str, int] = Field(default={})
    target_modules: str
    scales: tuple[str, ...] = SCALES
    tasks: tuple[str, ...] = ()
    names: tuple[str, ...] = Field(default=(), description="of the experts, where they began as a stage's")

    @property
    def scaling(self) -> float:
        return self.alpha / self.r

    def name_of(self, expert: int) -> str:
        """`expert 0`, with the stage that it began as."""
        began = f" ({self.names[expert]})" if expert < len(self.names) else ""
        return f"expert {expert}{began}"

    def ids(self, route: Route) -> tuple[int, int]:
        """Rows of the gate's tables for scale and task: 0 for what is unknown or was never learnt."""
        return _place(self.scales, route.scale), _place(self.tasks, route.task)

    def route(self, scale_id: int, task_id: int) -> Route:
        """The inverse of `ids`."""
        return Route(
            self.scales[scale_id - 1] if scale_id else None, self.tasks[task_id - 1] if task_id else None
        )


def _place(names: tuple[str, ...], name: str | None) -> int:
    return names.index(name) + 1 if name in names else 0


def default_routes(num_experts: int) -> dict[str, int]:
    """One expert a scale, in the order of `Scale`; a single expert answers both."""
    return {scale: min(place, num_experts - 1) for place, scale in enumerate(SCALES)}


def expert_of(route: Route, routes: Mapping[str, int]) -> int:
    """The expert that hard routing gives a row to: by `scale/task`, else by the task, else by the scale.

    Raises UserError that names the missing key.
    """
    for key in filter(None, (str(route), route.task, route.scale)):
        if key in routes:
            return routes[key]
    raise UserError(
        f"routes: no expert for {route}; add the key {route}, {route.task or 'a task'} or "
        f"{route.scale or 'a scale'} (there are {', '.join(routes)})"
    )
