"""Where things lie on a phantom slide: pieces of tissue, gaps in them, benign foci, and a lesion; all as polygons.

Everything but the lesion is drawn before and without regard to it, so tissue and foci say nothing about the label. All
slides, normal ones too, may hold benign foci of another kind: that something lies in the tissue is no sign of disease.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from PIL import ImageDraw
from scipy import ndimage

from pathloom.slides.geojson import polygon

Polygon = NDArray[np.float64]
"""[n, 2] x, y in pixels of level 0, not closed."""

NORMAL = "normal"
LESIONS: tuple[str, ...] = ("adenocarcinoma", "squamous cell carcinoma", "necrosis")
BENIGN: tuple[str, ...] = ("benign glands", "chronic inflammation", "fibrosis")
EXTENTS: tuple[str, ...] = ("none", "small", "larger")
"""How much of the tissue the lesion takes, from the lowest."""
EXTENT_SHARES: Mapping[str, tuple[float, float]] = {"small": (0.015, 0.025), "larger": (0.035, 0.05)}
"""Of the tissue's area; the gap keeps the two apart."""
MIN_SIDE_PX = 1024
MPP = 1.0

_TISSUE_SHARE = (0.38, 0.55)  # of the slide's area
_SMALLEST_STEP_PX = 6.0
_MAX_TRIES = 400
_GRID = 320


@dataclass(frozen=True, eq=False)
class Focus:
    """A part of the tissue that is of another kind than the rest."""

    kind: str
    outline_l0: Polygon


@dataclass(frozen=True, eq=False)
class SlidePlan:
    """A slide before it is drawn, with its whole truth. Areas are in pixels of level 0, gaps taken off."""

    seed: int
    width_px: int
    height_px: int
    label: str  # NORMAL or one of LESIONS
    extent: str  # one of EXTENTS
    background: str  # one of BENIGN
    tissue_l0: tuple[Polygon, ...]
    gaps_l0: tuple[Polygon, ...]
    benign_foci: tuple[Focus, ...]
    lesions: tuple[Focus, ...]
    mpp: float = MPP

    @property
    def tissue_area_px(self) -> float:
        return sum(map(area_px, self.tissue_l0)) - sum(map(area_px, self.gaps_l0))

    @property
    def lesion_share(self) -> float:
        """Of the tissue's area, 0 for a normal slide."""
        return sum(area_px(focus.outline_l0) for focus in self.lesions) / self.tissue_area_px

    def lesion_share_of_tile(self, x_l0: float, y_l0: float, side_l0: float, *, samples: int = 64) -> float:
        """Share of a square of level 0 that the lesion covers, counted on a grid of samples x samples points."""
        return self._covered(tuple(one.outline_l0 for one in self.lesions), x_l0, y_l0, side_l0, samples)

    def tissue_share_of_tile(self, x_l0: float, y_l0: float, side_l0: float, *, samples: int = 64) -> float:
        """Share of a square of level 0 that tissue covers."""
        pieces = self._covered(self.tissue_l0, x_l0, y_l0, side_l0, samples)
        return pieces - self._covered(self.gaps_l0, x_l0, y_l0, side_l0, samples)

    def _covered(
        self, polygons: tuple[Polygon, ...], x_l0: float, y_l0: float, side_l0: float, samples: int
    ) -> float:
        near = [one for one in polygons if _near(one, x_l0, y_l0, side_l0)]
        if not near:
            return 0.0
        mask = rasterise(near, x_l0, y_l0, samples, samples, side_l0 / samples)
        return float(np.count_nonzero(mask)) / samples**2

    def features(self) -> list[dict[str, Any]]:
        """Tissue, gaps, benign foci and lesion as annotations that QuPath opens."""
        named = [("tissue", one) for one in self.tissue_l0]
        named += [("gap", one) for one in self.gaps_l0]
        named += [(f"focus of {one.kind}", one.outline_l0) for one in self.benign_foci]
        named += [(one.kind, one.outline_l0) for one in self.lesions]
        return [polygon([np.round(outline, 1)], name) for name, outline in named]


def area_px(outline: Polygon) -> float:
    """Area of a simple polygon (shoelace formula)."""
    x, y = outline.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def _near(outline: Polygon, x_l0: float, y_l0: float, side_l0: float) -> bool:
    (x1, y1), (x2, y2) = outline.min(0), outline.max(0)
    return bool(x1 < x_l0 + side_l0 and x2 > x_l0 and y1 < y_l0 + side_l0 and y2 > y_l0)


def rasterise(
    outlines: list[Polygon] | tuple[Polygon, ...],
    x_l0: float,
    y_l0: float,
    width: int,
    height: int,
    step_l0: float = 1.0,
) -> NDArray[np.uint8]:
    """[height, width] of 0 and 255: which cells of a grid that begins at x_l0, y_l0, `step_l0` wide, lie inside."""
    mask = PILImage.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for outline in outlines:
        draw.polygon([(x, y) for x, y in (outline - (x_l0, y_l0)) / step_l0 - 0.5], fill=255)
    return np.array(mask)


def _outline(
    rng: np.random.Generator,
    centre: tuple[float, float],
    area: float,
    roughness: float,
    elongation: float,
    num_waves: int = 24,
) -> Polygon:
    """A star-shaped polygon of exactly this area around a centre, waves falling with their order."""
    count = int(np.clip(3.6 * math.sqrt(area) / _SMALLEST_STEP_PX, 96, 4096))
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    orders = np.arange(2, num_waves + 2)
    waves = rng.normal(0, roughness, (2, num_waves)) / orders**1.1
    reach = 1 + waves[0] @ np.cos(np.outer(orders, turn)) + waves[1] @ np.sin(np.outer(orders, turn))
    reach = np.maximum(reach, 0.3)
    angle = rng.uniform(0, np.pi)
    x, y = reach * np.cos(turn) * math.sqrt(elongation), reach * np.sin(turn) / math.sqrt(elongation)
    points = np.stack(
        [x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)], 1
    )
    return np.asarray(points * math.sqrt(area / area_px(points)) + centre)


class _Free:
    """Where in the tissue something may still be placed, on a grid of _GRID cells along the slide's longer side."""

    def __init__(self, pieces: list[Polygon], width_px: int, height_px: int) -> None:
        self.step_px = max(width_px, height_px) / _GRID
        self.width, self.height = math.ceil(width_px / self.step_px), math.ceil(height_px / self.step_px)
        self.mask = ndimage.binary_erosion(self._cells(pieces), iterations=2)

    def _cells(self, outlines: list[Polygon]) -> NDArray[np.bool_]:
        return rasterise(outlines, 0, 0, self.width, self.height, self.step_px) > 0

    def place(
        self, rng: np.random.Generator, area: float, roughness: float, elongation: tuple[float, float]
    ) -> Polygon | None:
        """An outline of this area that lies on free ground, which is taken then; None where none was found."""
        rows, columns = np.nonzero(self.mask)
        for _ in range(_MAX_TRIES if len(rows) else 0):
            index = int(rng.integers(len(rows)))
            centre = ((columns[index] + 0.5) * self.step_px, (rows[index] + 0.5) * self.step_px)
            found = _outline(rng, centre, area, roughness, float(rng.uniform(*elongation)))
            if self._reaches_beyond(found):
                continue
            cells = ndimage.binary_dilation(self._cells([found]), iterations=2)
            if not (cells & ~self.mask).any():
                self.mask &= ~ndimage.binary_dilation(cells, iterations=2)
                return found
        return None

    def _reaches_beyond(self, outline: Polygon) -> bool:
        """The quick answer for most: whether a corner lies on ground that is not free."""
        cells = np.floor(outline / self.step_px).astype(int)
        if cells.min() < 0 or (cells.max(0) >= (self.width, self.height)).any():
            return True
        return not self.mask[cells[:, 1], cells[:, 0]].all()


def _pieces(rng: np.random.Generator, width_px: int, height_px: int) -> list[Polygon]:
    """One piece of tissue, or two side by side, within the slide's border."""
    margin = 0.015 * min(width_px, height_px)
    while True:
        area = rng.uniform(*_TISSUE_SHARE) * width_px * height_px
        share = float(rng.uniform(0.42, 0.58)) if rng.random() < 0.5 else 1.0
        pieces = []
        left = 0.0
        for part in (share, 1 - share):
            if part > 0:
                sides = ((left + part) * width_px, height_px)
                pieces.append(_piece(rng, (left * width_px, 0), sides, area * part, margin))
                left += part
        found = [piece for piece in pieces if piece is not None]
        if len(found) == len(pieces):
            return found


def _piece(
    rng: np.random.Generator,
    low_px: tuple[float, float],
    high_px: tuple[float, float],
    area: float,
    margin_px: float,
) -> Polygon | None:
    """A piece of this area within a rectangle, stretched as that is; None where its waves leave it too often."""
    wide, high = high_px[0] - low_px[0], high_px[1] - low_px[1]
    for _ in range(20):
        centre = (low_px[0] + wide / 2, low_px[1] + high * rng.uniform(0.48, 0.52))
        stretch = (wide / high) ** 0.4
        piece = (_outline(rng, centre, area, 0.11, 1.0) - centre) * (stretch, 1 / stretch) + centre
        if (piece.min(0) > np.add(low_px, margin_px)).all() and (
            piece.max(0) < np.subtract(high_px, margin_px)
        ).all():
            return np.asarray(piece)
    return None


def plan_slide(
    seed: int,
    *,
    label: str = NORMAL,
    extent: str = "none",
    width_px: int = 3200,
    height_px: int = 3200,
) -> SlidePlan:
    """A slide with this label and extent; deterministic. Both sides are at least MIN_SIDE_PX.

    The tissue takes 38 to 55 % of the slide, up to three gaps 0.2 to 1 % of the tissue each, none to two benign foci
    1.5 to 5 % each, and the lesion, in one or two foci, EXTENT_SHARES of it. Raises ValueError for what does not fit
    together.
    """
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise ValueError(f"a slide of {width_px} x {height_px} px is too small, {MIN_SIDE_PX} are needed")
    if label not in (NORMAL, *LESIONS) or extent not in EXTENTS or (label == NORMAL) != (extent == "none"):
        raise ValueError(f"label {label!r} with extent {extent!r}: a lesion of {LESIONS} is small or larger")
    for attempt in range(40):
        rng = np.random.default_rng([seed, 6, attempt])
        background = BENIGN[int(rng.integers(len(BENIGN)))]
        pieces = _pieces(rng, width_px, height_px)
        whole = sum(map(area_px, pieces))
        free = _Free(pieces, width_px, height_px)
        gaps: list[Polygon] = []
        for _ in range(int(rng.integers(0, 4))):
            gap = free.place(rng, whole * rng.uniform(0.002, 0.01), 0.15, (1.5, 5.0))
            gaps += [] if gap is None else [gap]
        tissue = whole - sum(map(area_px, gaps))
        foci: list[Focus] = []
        for _ in range(int(rng.integers(0, 3))):
            kind = [one for one in BENIGN if one != background][int(rng.integers(2))]
            outline = free.place(rng, tissue * rng.uniform(0.015, 0.05), 0.13, (1.0, 1.8))
            foci += [] if outline is None else [Focus(kind, outline)]
        lesions = _lesions(np.random.default_rng([seed, 7]), label, extent, tissue, free)
        if lesions is not None:
            return SlidePlan(
                seed=seed,
                width_px=width_px,
                height_px=height_px,
                label=label,
                extent=extent,
                background=background,
                tissue_l0=tuple(pieces),
                gaps_l0=tuple(gaps),
                benign_foci=tuple(foci),
                lesions=lesions if label != NORMAL else (),
            )
    raise RuntimeError(f"no room for a lesion on slide {seed}")


def _lesions(
    rng: np.random.Generator, label: str, extent: str, tissue_px: float, free: _Free
) -> tuple[Focus, ...] | None:
    """One focus or two that together are of the wanted extent; None where one found no place.

    A normal slide is asked for room too: else those drawn again for want of it would tell the label.
    """
    drawn = EXTENTS[int(rng.integers(1, len(EXTENTS)))]
    area = tissue_px * rng.uniform(*EXTENT_SHARES[drawn if label == NORMAL else extent])
    first = float(rng.uniform(0.4, 0.7)) if rng.random() < 0.4 else 1.0
    lesions = []
    for share in (first, 1 - first):
        if share > 0:
            outline = free.place(rng, area * share, 0.13, (1.0, 1.8))
            if outline is None:
                return None
            lesions.append(Focus(label, outline))
    return tuple(lesions)
