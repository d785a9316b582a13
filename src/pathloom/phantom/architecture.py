"""How each diagnosis builds its tissue at 1 um per pixel: stain layers, framed structures, sites of nuclei."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pathloom.phantom.texture import Plane, Window, draw_noise, draw_window, fibre_bank, mosaic_bank

REFERENCE_PX = 112
# Kinds of ground a nucleus may lie on.
VOID, STROMA, NEST = 0, 1, 2


@dataclass(frozen=True)
class Site:
    """A nucleus that the architecture asks for."""

    kind: str
    x_px: float
    y_px: float
    angle_rad: float | None = None


@dataclass(eq=False)
class Layout:
    """Layers and sites of one image, before nuclei are laid."""

    planes: Plane  # [3, H, W]: hematoxylin, protein, and where a marker would bind (0..1)
    ground: NDArray[np.int8]  # [H, W]: VOID, STROMA or NEST
    fibre_angle_rad: Plane  # [H, W]
    fill: Mapping[int, tuple[tuple[str, float], ...]]  # kinds that fill each ground, with their shares
    marked_kinds: frozenset[str]  # kinds a nuclear marker binds in
    structure_name: str = ""
    structure_boxes_px: list[tuple[float, float, float, float]] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    features: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Blob:
    """A star-shaped region: relative radius of every pixel (below 1 inside) and its polar outline."""

    x_px: float
    y_px: float
    radius_px: float
    waves: NDArray[np.float64]  # [k, 2] cosine and sine amplitudes of the outline, k = 2, 3, ...
    relative: Plane  # [H, W]

    def edge(self, turn: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Distance in pixels from the centre to the outline in the direction `turn` (radians)."""
        turn = np.asarray(turn, np.float64)
        wave = np.zeros_like(turn)
        for k, (cosine, sine) in enumerate(self.waves, start=2):
            wave += cosine * np.cos(k * turn) + sine * np.sin(k * turn)
        return self.radius_px * (1 + wave)

    def box(self) -> tuple[float, float, float, float]:
        """Half-open box around the inside, clipped to the image."""
        inside = self.relative < 1
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def draw_blob(
    rng: np.random.Generator, size_px: int, centre: tuple[float, float], radius_px: float, irregularity: float
) -> Blob:
    """A blob whose outline waves have relative amplitude about `irregularity`, falling with their order."""
    waves = rng.normal(0, irregularity, (4, 2)) / np.arange(2, 6)[:, None] ** 0.7
    # Bounded, so that the outline can neither reach the centre nor leave the space kept for it.
    waves *= min(1.0, 0.3 / max(float(np.abs(waves).sum()), 1e-6))
    axis = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    z = (axis[None, :] - np.float32(centre[0])) + 1j * (axis[:, None] - np.float32(centre[1]))
    distance = np.abs(z) + np.float32(1e-3)
    unit = z / distance
    wave = np.zeros_like(distance)
    power = unit
    for cosine, sine in waves.astype(np.float32):
        power = power * unit
        wave += cosine * power.real + sine * power.imag
    return Blob(
        *centre, radius_px, waves, (distance / (np.float32(radius_px) * (1 + wave))).astype(np.float32)
    )


def draw_blobs(
    rng: np.random.Generator, size_px: int, count: int, irregularity: float, *, small: float = 0.0
) -> list[Blob]:
    """Up to `count` blobs that lie inside the image and do not overlap; more blobs are smaller."""
    scale = size_px / REFERENCE_PX
    low, high = {1: (33.0, 40.0), 2: (23.0, 27.0)}.get(count, (15.0, 19.0))
    placed: list[tuple[float, float, float]] = []
    for _ in range(60):
        if len(placed) == count:
            break
        radius = (rng.uniform(low, high) - small) * scale
        margin = radius * 1.12
        x, y = rng.uniform(margin, size_px - margin, 2)
        if all(np.hypot(x - a, y - b) > 1.16 * (radius + r) for a, b, r in placed):
            placed.append((float(x), float(y), float(radius)))
    return [draw_blob(rng, size_px, (x, y), radius, irregularity) for x, y, radius in placed]


def _ramp(values: Plane, start: float, stop: float) -> Plane:
    """0 up to `start`, 1 from `stop`, linear between; start may exceed stop."""
    return np.clip((values - np.float32(start)) / np.float32(stop - start), 0, 1)


def _paint(planes: Plane, cover: Plane, stains: tuple[Plane | float, Plane | float, Plane | float]) -> None:
    """Lay a layer of the given stain amounts over the planes, opaque where `cover` is 1."""
    for plane, amount in zip(planes, stains, strict=True):
        plane += cover * (amount - plane)


def _stroma(
    rng: np.random.Generator, size_px: int, *, protein: float, contrast: float, clefts: float
) -> Layout:
    """Connective tissue: wavy fibres, uneven density, and clefts where fibres have parted."""
    bank = fibre_bank()
    fibres = bank[int(rng.integers(len(bank)))]
    window = draw_window(rng, size_px)
    streaks = window.of(fibres.density)
    cloud = draw_noise(rng, 12.0, size_px)
    loose = draw_noise(rng, 2.0, size_px)
    planes = np.empty((3, size_px, size_px), np.float32)
    planes[1] = np.maximum(protein * (1 + contrast * (streaks + 0.5 * loose) + 0.18 * cloud), 0.03)
    planes[0] = 0.09 + 0.03 * cloud + 0.03 * loose
    planes[2] = 0.0
    open_cleft = _ramp(streaks + 0.5 * loose + 0.4 * cloud, clefts - 1.9, clefts - 2.5)
    planes *= 1 - 0.85 * open_cleft
    ground = np.full((size_px, size_px), STROMA, np.int8)
    return Layout(planes, ground, window.of(fibres.angle_rad), {}, frozenset())


def _ring_sites(
    rng: np.random.Generator, blob: Blob, kind: str, depth: float, spacing_px: float
) -> list[Site]:
    """Nuclei side by side along the outline at relative radius `depth`, long axes towards the centre."""
    round_px = 2 * np.pi * blob.radius_px * depth
    count = max(int(round_px / spacing_px), 5)
    turns = (np.arange(count) + rng.uniform(0, 1) + rng.normal(0, 0.07, count)) * 2 * np.pi / count
    reach = blob.edge(turns) * (depth + rng.normal(0, 0.02, count))
    return [
        Site(kind, blob.x_px + r * np.cos(t), blob.y_px + r * np.sin(t), float(t))
        for r, t in zip(reach, turns, strict=True)
    ]


def _benign_glands(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.30, contrast=0.20, clefts=0.1)
    count = int(rng.integers(1, 3)) if crowding else 1
    granules = draw_noise(rng, 1.2, size_px)
    for blob in draw_blobs(rng, size_px, count + (crowding == 2), 0.05, small=1.5 if not crowding else 0.0):
        radius, lumen = blob.relative, rng.uniform(0.30, 0.45)
        _paint(layout.planes, _ramp(radius, 1.10, 1.02), (0.10, 0.55, 0.0))
        mucin = _ramp(radius, 0.75, 0.6) * 0.16
        _paint(layout.planes, _ramp(radius, 1.02, 0.97), (0.10, 0.40 - mucin + 0.04 * granules, 0.75))
        _paint(layout.planes, _ramp(radius, lumen + 0.05, lumen), (0.01, 0.02, 0.0))
        layout.ground[radius < 1.08] = VOID
        layout.sites += _ring_sites(rng, blob, "epithelial", 0.80, (8.0, 6.4, 5.8)[crowding])
        layout.structure_boxes_px.append(blob.box())
    layout.structure_name = "gland"
    layout.fill = {STROMA: (("stromal", 0.6), ("lymphocyte", 0.3), ("plasma", 0.1))}
    layout.marked_kinds = frozenset({"epithelial"})
    return layout


def _adenocarcinoma(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.38, contrast=0.22, clefts=0.0)
    granules = draw_noise(rng, 1.2, size_px)
    debris = False
    for blob in draw_blobs(rng, size_px, int(rng.integers(1, 3 + (crowding == 2))), 0.15):
        radius = blob.relative
        _paint(layout.planes, _ramp(radius, 1.03, 0.96), (0.20, 0.46 + 0.07 * granules, 0.80))
        layout.ground[radius < 1.0] = NEST
        dirty = rng.random() < 0.4
        debris |= dirty
        for _ in range(int(rng.integers(1, 4))):  # several small lumina: fused, cribriform glands
            turn, reach = rng.uniform(0, 2 * np.pi), blob.radius_px * rng.uniform(0.1, 0.5)
            centre = (blob.x_px + reach * np.cos(turn), blob.y_px + reach * np.sin(turn))
            hole = draw_blob(rng, size_px, centre, blob.radius_px * rng.uniform(0.16, 0.3), 0.16).relative
            _paint(layout.planes, _ramp(hole, 1.1, 0.9), (0.02, 0.03, 0.0))
            if dirty:
                _paint(layout.planes, 0.7 * _ramp(hole, 0.7, 0.4), (0.15, 0.45 + 0.2 * granules, 0.0))
            layout.ground[hole < 1.25] = VOID
        layout.sites += _ring_sites(rng, blob, "tumour", 0.84, (11.5, 9.6, 9.0)[crowding])
        layout.structure_boxes_px.append(blob.box())
    layout.structure_name = "tumour gland"
    layout.fill = {NEST: (("tumour", 1.0),), STROMA: (("stromal", 0.75), ("lymphocyte", 0.25))}
    layout.marked_kinds = frozenset({"tumour"})
    layout.features += ["debris"] if debris else []
    return layout


def _pearl(rng: np.random.Generator, layout: Layout, blob: Blob, size_px: int) -> None:
    """A keratin pearl: concentric, strongly eosinophilic lamellae without nuclei."""
    turn, reach = rng.uniform(0, 2 * np.pi), blob.radius_px * rng.uniform(0.0, 0.35)
    centre = (blob.x_px + reach * np.cos(turn), blob.y_px + reach * np.sin(turn))
    pearl = draw_blob(rng, size_px, centre, blob.radius_px * rng.uniform(0.36, 0.48), 0.07).relative
    lamellae = 0.95 + 0.38 * np.sin(pearl * np.float32(blob.radius_px * 0.95))
    _paint(layout.planes, _ramp(pearl, 1.08, 0.95), (0.03, lamellae, 0.5))
    layout.ground[pearl < 1.1] = VOID


def _squamous(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.32, contrast=0.22, clefts=0.1)
    mosaics = mosaic_bank(9.8)
    mosaic, window = mosaics[int(rng.integers(len(mosaics)))], draw_window(rng, size_px)
    borders = window.of(mosaic.border)
    pearls = rng.random() < 0.6
    for index, blob in enumerate(draw_blobs(rng, size_px, int(rng.integers(1, 3 + (crowding == 2))), 0.11)):
        cells = (0.12, 0.62 - 0.30 * borders, 0.55 + 0.45 * borders)
        _paint(layout.planes, _ramp(blob.relative, 1.05, 0.97), cells)
        layout.ground[blob.relative < 1.0] = NEST
        if pearls and index == 0:
            _pearl(rng, layout, blob, size_px)
        layout.structure_boxes_px.append(blob.box())
    layout.sites += _mosaic_sites(
        rng, layout, mosaic.centres_px, window, "tumour", (0.75, 0.95, 1.0)[crowding]
    )
    layout.structure_name = "tumour nest"
    layout.fill = {STROMA: (("stromal", 0.5), ("lymphocyte", 0.5))}
    layout.marked_kinds = frozenset({"tumour"})
    layout.features += ["pearl"] if pearls else []
    return layout


def _mosaic_sites(
    rng: np.random.Generator,
    layout: Layout,
    centres_px: NDArray[np.float32],
    window: Window,
    kind: str,
    share: float,
) -> list[Site]:
    """A nucleus in the middle of that share of the mosaic's cells whose centre lies on NEST ground."""
    points = window.points(centres_px)
    on_nest = layout.ground[points[:, 1].astype(int), points[:, 0].astype(int)] == NEST
    chosen = points[on_nest & (rng.random(len(points)) < share)]
    return [Site(kind, float(x), float(y)) for x, y in chosen]


def _inflammation(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.26, contrast=0.18, clefts=0.3)
    for blob in draw_blobs(rng, size_px, 1 + int(rng.random() < 0.35 and crowding > 0), 0.09, small=2.0):
        soft = _ramp(blob.relative + 0.12 * draw_noise(rng, 3.0, size_px), 1.1, 0.8)
        _paint(layout.planes, 0.8 * soft, (0.16, 0.16, 0.30))
        layout.ground[blob.relative < 0.97] = NEST
        points = draw_window(rng, size_px).points(mosaic_bank(6.6)[0].centres_px)
        inside = blob.relative[points[:, 1].astype(int), points[:, 0].astype(int)] < 0.9
        share = (0.42, 0.8, 1.0)[crowding]
        layout.sites += [
            Site("lymphocyte", float(x), float(y))
            for x, y in points[inside & (rng.random(len(points)) < share)]
        ]
        layout.structure_boxes_px.append(blob.box())
    layout.structure_name = "lymphoid aggregate"
    layout.fill = {STROMA: (("plasma", 0.45), ("lymphocyte", 0.45), ("stromal", 0.10))}
    layout.marked_kinds = frozenset({"lymphocyte"})
    return layout


def _necrosis(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.34, contrast=0.12, clefts=-0.6)
    mosaics = mosaic_bank(11.0)
    borders = draw_window(rng, size_px).of(mosaics[int(rng.integers(len(mosaics)))].border)
    granular, coarse = draw_noise(rng, 0.9, size_px), draw_noise(rng, 2.6, size_px)
    layout.planes[0] += 0.10
    layout.planes[1] += 0.10 - 0.10 * borders
    layout.planes[2] = 0.45
    layout.ground[:] = NEST
    for blob in draw_blobs(rng, size_px, 1 + int(rng.random() < 0.4), 0.13, small=-1.0):
        ragged = blob.relative + 0.06 * coarse
        ghost = 0.72 + 0.22 * granular + 0.16 * coarse - 0.14 * borders
        _paint(
            layout.planes, _ramp(ragged, 1.05, 0.92), (0.07, np.maximum(ghost, 0.04), 0.35 + 0.25 * granular)
        )
        _paint(layout.planes, _ramp(ragged, 1.0, 0.9) * _ramp(coarse, 1.5, 2.0), (0.02, 0.05, 0.0))
        layout.ground[blob.relative < 1.1] = VOID
        count = int((4, 9, 15)[crowding] * (size_px / REFERENCE_PX) ** 2)
        turns, reaches = (
            rng.uniform(0, 2 * np.pi, count),
            np.sqrt(rng.uniform(0, 0.8, count)) * blob.radius_px,
        )
        layout.sites += [
            Site("pyknotic", blob.x_px + r * np.cos(t), blob.y_px + r * np.sin(t))
            for r, t in zip(reaches, turns, strict=True)
        ]
        layout.structure_boxes_px.append(blob.box())
    layout.structure_name = "necrotic area"
    layout.fill = {NEST: (("tumour", 0.8), ("pyknotic", 0.2))}
    layout.marked_kinds = frozenset({"tumour"})
    return layout


def _fibrosis(rng: np.random.Generator, size_px: int, crowding: int) -> Layout:
    layout = _stroma(rng, size_px, protein=0.52, contrast=0.42, clefts=0.5)
    layout.planes[2] = np.clip(0.9 * (layout.planes[1] - 0.45), 0, 0.8)
    for blob in draw_blobs(rng, size_px, int(rng.integers(0, 3)), 0.05, small=4.0):
        _paint(layout.planes, _ramp(blob.relative, 1.04, 0.96), (0.12, 0.50, 0.7))
        _paint(layout.planes, _ramp(blob.relative, 0.66, 0.6), (0.01, 0.03, 0.0))
        layout.ground[blob.relative < 1.05] = VOID
        layout.sites += _lining_sites(rng, blob)
        layout.structure_boxes_px.append(blob.box())
    layout.structure_name = "vessel" if layout.structure_boxes_px else ""
    layout.fill = {STROMA: (("stromal", 0.92), ("lymphocyte", 0.08))}
    layout.marked_kinds = frozenset({"stromal"})
    return layout


def _lining_sites(rng: np.random.Generator, blob: Blob) -> list[Site]:
    """Flat nuclei along a vessel wall, long axes along the wall."""
    ring = _ring_sites(rng, blob, "stromal", 0.82, 19.0)
    return [Site(s.kind, s.x_px, s.y_px, (s.angle_rad or 0.0) + np.pi / 2) for s in ring]


BUILDERS: Mapping[str, Callable[[np.random.Generator, int, int], Layout]] = {
    "benign glands": _benign_glands,
    "adenocarcinoma": _adenocarcinoma,
    "squamous cell carcinoma": _squamous,
    "chronic inflammation": _inflammation,
    "necrosis": _necrosis,
    "fibrosis": _fibrosis,
}
