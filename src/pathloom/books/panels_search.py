"""Which of the possible cuts to make: every number of panels gets its best partition, then the evidence decides.

A recursive X-Y cut (Nagy & Seth 1984, Hierarchical representation of optically scanned documents, ICPR), kept as plans:
for each region the best way to take 0, 1, 2, ... panels out of it, with the summed weights of its cuts. A partition
into as many panels as the caption lists wins unless its cuts speak clearly against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from pathloom.books.panels_cuts import (
    LOOSE,
    PEEL_PX,
    SPARSE,
    STRONG,
    Cut,
    area,
    distinct,
    flank,
    gutters,
    image_gaps,
    length,
    part,
    runs,
    touching_edges,
    trimmed,
)
from pathloom.books.panels_view import Ground, Region, View

MAX_PANELS = 36
MAX_WEAK_CUTS = 5
MAX_REGIONS = 150
"""Regions looked at before weak cuts are left alone; figures of photographs need some dozens."""
LETTER_SHARE = 0.15
EMPTY = 0.3
"""Content below which a region without any larger connected piece is letters and text."""
DENSE = 0.5
"""Content above which a region is a photograph, whose edges mean something; a chart is full of lines."""
LEAST_WEIGHT = -1.6
"""Cuts below are not tried at all: no caption makes up for them."""

MIN_PANEL_SIDE_SHARE = 0.06
"""Shorter side of a panel over the figure's longer side, below which it is taken for an arrow, a letter or a scale."""
MIN_PANEL_SIDE_PX = 40

COUNT_WEIGHT = 1.6
"""What each panel more or less than the caption lists costs."""
LETTER_WEIGHT = 2.5
"""What each further letter within one panel costs."""


@dataclass(frozen=True)
class Leaf:
    """A panel: its region without margins and its cell, which reaches to the next cut; `weight` of its weakest cut."""

    region: Region
    cell: Region
    weight: float
    ground: Ground | None


@dataclass(frozen=True)
class Plan:
    """Panels out of a region and what speaks for them."""

    score: float
    leaves: tuple[Leaf, ...]


Plans = Mapping[int, Plan]


@dataclass(eq=False)
class Search:
    """Plans of one figure; `letters` are middles of panel letters, `texts` and `images` regions of PDF objects."""

    view: View
    letters: Sequence[tuple[float, float]] = ()
    texts: Sequence[Region] = ()
    images: Sequence[Region] = ()
    _thorough: bool = False
    _least_weight: float = 0.0
    _known: dict[tuple[Region, tuple[int, int, int] | None], Plans] = field(default_factory=dict)
    _cuts: dict[tuple[Region, int, bool], list[Cut]] = field(default_factory=dict)

    def best(self, expected: int, *, at_least: bool = False) -> Plan:
        """The plan that the weights of its cuts and the expected number of panels (0: unknown) agree on best.

        Where plain gutters give another number than expected, or none is known, edges of pictures that touch are tried
        and strong gutters left out; at last, for panels still missing, cuts that the picture speaks against.
        `at_least`: more panels than expected are as good.
        """
        total = _Total(expected, at_least)
        best = self._chosen(total, thorough=False, least_weight=0.0)
        if len(best.leaves) == expected and not at_least:
            return best
        best = max(best, self._chosen(total, thorough=True, least_weight=0.0), key=total)
        if len(best.leaves) < expected:
            best = max(best, self._chosen(total, thorough=True, least_weight=LEAST_WEIGHT), key=total)
        return best

    def _chosen(self, total: "_Total", *, thorough: bool, least_weight: float) -> Plan:
        self._thorough, self._least_weight = thorough, least_weight
        self._known.clear()
        region, around = self.view.whole, None
        for ground in self.view.grounds:
            inner = trimmed(ground, region)
            if inner and (around is None or inner != region):
                region, around = inner, ground
        plans = self.of(region, around, 9.0)
        return max((plan for k, plan in plans.items() if k), key=total)

    def of(self, cell: Region, ground: Ground | None, weight: float) -> Plans:
        """Plans of a cell that a cut of this weight set apart, with the ground that the cut ran along."""
        key = (cell, ground.colour_rgb if ground else None)
        if key not in self._known:
            self._known[key] = self._plan(cell, ground, weight)
        return self._known[key]

    def _plan(self, cell: Region, ground: Ground | None, weight: float) -> Plans:
        region = trimmed(ground, cell) if ground else cell
        if region is None:
            return {0: Plan(0.0, ())}
        leaf = Leaf(region, cell, weight, ground)
        if self._is_trifle(region):
            return {0: Plan(0.0, ()), 1: Plan(-4.0, (leaf,))}
        if self._is_empty(region):
            return {0: Plan(0.0, ()), 1: Plan(-3.0, (leaf,))}
        plans: dict[int, Plan] = {1: Plan(self._letter_cost(cell), (leaf,))}
        if self._is_text(region):
            plans[0] = Plan(0.0, ())
        for cuts in self._ways(region):
            _keep_best(plans, self._divided(cell, ground, cuts))
        return plans

    def _is_trifle(self, region: Region) -> bool:
        longer = max(self.view.whole[2:])
        return min(length(region, 0), length(region, 1)) < max(
            MIN_PANEL_SIDE_PX, MIN_PANEL_SIDE_SHARE * longer
        )

    def _is_empty(self, region: Region) -> bool:
        """Whether nothing but letters and lines of text stands there."""
        return any(
            ground.content(region) < EMPTY and ground.largest_piece(region) == 0
            for ground in self.view.grounds
        )

    def _is_text(self, region: Region) -> bool:
        inked = sum(_overlap(region, text) for text in self.texts)
        return inked > 0.4 * area(region)

    def _letter_cost(self, cell: Region) -> float:
        if not self.letters:
            return 0.0
        inside = sum(cell[0] <= x < cell[2] and cell[1] <= y < cell[3] for x, y in self.letters)
        return -LETTER_WEIGHT * max(0, inside - 1) - 0.5 * (inside == 0)

    def _ways(self, region: Region) -> list[tuple[Cut, ...]]:
        """Cuts to make together: all strong ones of an axis, otherwise each one by itself."""
        both = [self._gutters(region, axis) for axis in (0, 1)]
        strong = [tuple(cut for cut in cuts if cut.weight >= STRONG) for cuts in both]
        if any(strong):
            best = max(strong, key=lambda cuts: (min((cut.weight for cut in cuts), default=0), len(cuts)))
            together = tuple(sorted(best, key=lambda cut: cut.start))
            alone = [(cut,) for cut in together] if self._thorough and len(together) > 1 else []
            return [together, *alone]
        if len(self._known) > MAX_REGIONS:
            return []
        if self._thorough and self._is_dense(region):
            both += [self._edges(region, axis) for axis in (0, 1)]
        weak = [cut for cuts in both for cut in cuts if cut.weight > self._least_weight]
        return [(cut,) for cut in sorted(weak, key=lambda cut: -cut.weight)[:MAX_WEAK_CUTS]]

    def _gutters(self, region: Region, axis: int) -> list[Cut]:
        key = (region, axis, False)
        if key not in self._cuts:
            cuts = gutters(self.view, region, axis)
            self._cuts[key] = (
                distinct([*image_gaps(self.images, region, axis), *cuts]) if self.images else cuts
            )
        return self._cuts[key]

    def _edges(self, region: Region, axis: int) -> list[Cut]:
        key = (region, axis, True)
        if key not in self._cuts:
            self._cuts[key] = touching_edges(self.view, region, axis, min_part_px=self._least_side())
        return self._cuts[key]

    def _is_dense(self, region: Region) -> bool:
        return all(ground.content(region) > DENSE for ground in self.view.grounds[:1])

    def _least_side(self) -> int:
        return int(max(MIN_PANEL_SIDE_PX, MIN_PANEL_SIDE_SHARE * max(self.view.whole[2:])))

    def _divided(self, cell: Region, ground: Ground | None, cuts: tuple[Cut, ...]) -> Plans:
        axis = cuts[0].axis
        middles = [(cut.start + cut.stop) // 2 for cut in cuts]
        bounds = [cell[axis], *middles, cell[axis + 2]]
        weights = [9.0, *(cut.weight for cut in cuts), 9.0]
        total: Plans = {0: Plan(sum(cut.weight for cut in cuts), ())}
        for index, (start, stop) in enumerate(pairwise(bounds)):
            around = cuts[min(index, len(cuts) - 1)].ground or ground
            child = self.of(part(cell, axis, start, stop), around, min(weights[index], weights[index + 1]))
            total = _joined(total, child)
        return total


def regions_of(plan: Plan, view: View, images: Sequence[Region]) -> list[Region]:
    """The panels' regions: outside letters cut off, faded borders put back, image objects taken at their word."""
    regions = [refined(leaf) for leaf in plan.leaves]
    regions = [
        _aligned(leaf, region, [other for other in regions if other is not region])
        for leaf, region in zip(plan.leaves, regions, strict=True)
    ]
    for index, leaf in enumerate(plan.leaves):
        inside = [image for image in images if _overlap(image, leaf.cell) > 0.9 * area(image)]
        if len(inside) == 1 and _overlap(inside[0], regions[index]) > 0.6 * area(regions[index]):
            regions[index] = inside[0]
    return regions


def refined(leaf: Leaf) -> Region:
    """The leaf without letters that stand before its straight edges, or above or below a chart."""
    region, ground = leaf.region, leaf.ground
    if ground is None:
        return region
    if ground.content(region) < SPARSE:
        return _without_letter_rows(ground, region)
    for axis in (1, 0):
        ends = [flank(ground, region, axis, last=last) for last in (False, True)]
        start, stop = (
            end.at if end.solidity >= LOOSE else plain
            for end, plain in zip(ends, (region[axis], region[axis + 2]), strict=True)
        )
        if stop - start > 0.5 * length(region, axis):
            region = part(region, axis, start, stop)
    return region


def _without_letter_rows(ground: Ground, region: Region) -> Region:
    """The region of a chart without a first or last row of ink that is as narrow as a letter; numbers go across."""
    rows = runs(ground.occupancy(region, 1) > 0)
    for end in (0, -1):
        if len(rows) < 2:
            break
        start, stop = region[1] + rows[end][0], region[1] + rows[end][1]
        inked = trimmed(ground, part(region, 1, start, stop))
        if inked and stop - start <= PEEL_PX and length(inked, 0) < LETTER_SHARE * length(region, 0):
            rows = rows[1:] if end == 0 else rows[:-1]
    kept = part(region, 1, region[1] + rows[0][0], region[1] + rows[-1][1]) if rows else region
    return trimmed(ground, kept) or region


def _aligned(leaf: Leaf, region: Region, others: Sequence[Region]) -> Region:
    """The region drawn out to the edges of its neighbours in the grid where its own border fades into the ground."""
    if leaf.ground is None or leaf.ground.content(region) < SPARSE:
        return region
    sides = list(region)
    for side in range(4):
        axis, last = side % 2, side >= 2
        if flank(leaf.ground, region, axis, last=last).solidity >= LOOSE:
            continue
        low, high = (region[side], leaf.cell[side]) if last else (leaf.cell[side], region[side])
        edges = sorted(other[side] for other in others if low <= other[side] <= high)
        if edges:
            sides[side] = edges[-1] if last else edges[0]
    return (sides[0], sides[1], sides[2], sides[3])


def _overlap(one: Region, other: Region) -> int:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0


def _joined(one: Plans, other: Plans) -> Plans:
    total: dict[int, Plan] = {}
    for k, left in one.items():
        for m, right in other.items():
            if k + m <= MAX_PANELS:
                _keep_best(total, {k + m: Plan(left.score + right.score, left.leaves + right.leaves)})
    return total


def _keep_best(plans: dict[int, Plan], others: Plans) -> None:
    for k, plan in others.items():
        if k not in plans or plan.score > plans[k].score:
            plans[k] = plan


@dataclass(frozen=True)
class _Total:
    """What speaks for a plan in all: its cuts, and its number of panels where one is expected (0: none is)."""

    expected: int
    at_least: bool

    def __call__(self, plan: Plan) -> float:
        missing = self.expected - len(plan.leaves)
        if not self.expected or (self.at_least and missing < 0):
            return plan.score
        return plan.score - COUNT_WEIGHT * abs(missing)
