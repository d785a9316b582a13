"""Painting cells of a Papanicolaou smear: outlines of exact area, chromatin, cytoplasm, nucleoli, halos.

Sizes are in um until they meet the grid; `px_per_um` of the smear converts. Optical densities add up, as light
passes through every cell on its way.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pathloom.phantom.cytology import NUM_NUCLEI, CellPlan
from pathloom.phantom.texture import Plane, draw_noise

Bools = NDArray[np.bool_]

# Optical density (R, G, B) of a unit of dye, our estimate from the colours the Papanicolaou stain is described with
# (Papanicolaou 1942: blue nuclei; EA gives blue-green or pink cytoplasm, OG 6 orange keratin).
HEMATOXYLIN = np.array([0.78, 0.74, 0.36], np.float32)
_CYANOPHIL = np.array([0.80, 0.36, 0.28], np.float32)
EOSINOPHIL = np.array([0.16, 0.70, 0.42], np.float32)
_ORANGEOPHIL = np.array([0.08, 0.46, 0.98], np.float32)
MUCIN = np.array([0.48, 0.42, 0.16], np.float32)

# Amount of dye, contrast of clumps, blur of clumps in um, and how wide the nuclear edge fades (relative radius).
_CHROMATIN: dict[str, tuple[float, float, float, float]] = {
    "fine even": (0.50, 0.05, 0.4, 0.10),
    "slightly dark": (0.78, 0.07, 0.4, 0.10),
    "dark even": (1.15, 0.06, 0.4, 0.08),
    "dark smudged": (1.10, 0.03, 2.0, 0.45),
    "coarse dark": (1.00, 0.34, 0.7, 0.08),
    "coarse cleared": (0.72, 0.55, 1.1, 0.08),
}
_MEMBRANE_WAVES = {"smooth": 0.008, "mildly irregular": 0.045, "irregular": 0.10}
_NUCLEOLUS_UM = {"none": 0.0, "small": 0.75, "large": 1.5}
# Amount of dye, range of elongation, amplitude of the outline's waves.
_CYTOPLASM: dict[str, tuple[float, tuple[float, float], float]] = {
    "mature": (0.26, (1.0, 1.15), 0.045),
    "metaplastic": (0.52, (1.0, 1.2), 0.02),
    "immature": (0.34, (1.0, 1.25), 0.04),
    "keratinised": (0.62, (1.6, 2.8), 0.10),
    "columnar": (0.36, (1.9, 2.5), 0.03),
    "vacuolated": (0.34, (1.0, 1.25), 0.05),
}


@dataclass(frozen=True)
class Shape:
    """A star-shaped outline in an ellipse's own frame; `relative` is below 1 inside."""

    relative: Plane  # [h, w], the part of the grid it was asked for on
    rows: slice
    columns: slice


# A cell in the middle of the field of 56 um may reach this far.
_REACH_UM = 27.0
# Largest relative departure of an outline from its ellipse.
MAX_SWING = 0.36


class Smear:
    """Optical density [3, size, size] of the field so far."""

    def __init__(self, size_px: int, px_per_um: float) -> None:
        self.size_px = size_px
        self.px_per_um = px_per_um
        self.density = np.zeros((3, size_px, size_px), np.float32)

    def window(self, x_um: float, y_um: float, reach_um: float) -> tuple[slice, slice] | None:
        """Rows and columns of the part of a square that lies inside the field, or None."""
        scale = self.px_per_um
        edges = [(c + side * reach_um) * scale for side in (-1, 1) for c in (y_um, x_um)]
        y1, x1, y2, x2 = (min(max(int(np.floor(e)), 0), self.size_px) for e in edges)
        return None if y2 - y1 < 2 or x2 - x1 < 2 else (slice(y1, y2), slice(x1, x2))

    def shape(
        self,
        rng: np.random.Generator,
        centre_um: tuple[float, float],
        area_um2: float,
        elongation: float,
        angle_rad: float,
        waves: float,
        margin: float = 1.0,
    ) -> Shape | None:
        """An outline of exactly this area; None where all of it (times `margin`) lies outside the field."""
        amplitudes = rng.normal(0, 1, (5, 2)) * (waves / np.arange(2, 7)[:, None] ** 0.4)
        swing = float(np.hypot(*amplitudes.T).sum())
        if swing > MAX_SWING:
            amplitudes, swing = amplitudes * (MAX_SWING / swing), MAX_SWING
        # Area of r(t) = 1 + w(t) in the ellipse's frame: pi * a * b * (1 + sum of squared amplitudes / 2).
        mean_axis = (area_um2 / np.pi / (1 + float((amplitudes**2).sum()) / 2)) ** 0.5
        long, short = mean_axis * elongation**0.5, mean_axis / elongation**0.5
        where = self.window(*centre_um, long * (1.04 + swing) * margin)
        if where is None:
            return None
        y = (np.arange(where[0].start, where[0].stop, dtype=np.float32) + 0.5) / self.px_per_um - centre_um[1]
        x = (np.arange(where[1].start, where[1].stop, dtype=np.float32) + 0.5) / self.px_per_um - centre_um[0]
        turned = (x[None, :] + 1j * y[:, None]).astype(np.complex64) * np.complex64(np.exp(-1j * angle_rad))
        z = turned.real / np.float32(long) + 1j * (turned.imag / np.float32(short))
        distance = np.abs(z) + np.float32(1e-4)
        unit = (z / distance).astype(np.complex64)
        wave, power = np.zeros_like(distance), unit
        for cosine, sine in amplitudes.astype(np.float32) if waves else ():
            power = power * unit
            wave += cosine * power.real + sine * power.imag
        return Shape((distance / (1 + wave)).astype(np.float32), *where)


@dataclass(eq=False)
class Anchor:
    """The cell in the middle, as drawn."""

    mask: Bools  # [H, W]
    nuclei: list[Bools]  # each [H, W]
    radius_um: float  # of a disk of the same area
    nucleus_radius_um: float
    elongation: float
    angle_rad: float
    dye: Plane  # [3], colour of the cytoplasm


def soft(relative: Plane, width: float) -> Plane:
    """1 inside, 0 outside, fading over `width` of relative radius around the outline."""
    return np.clip(0.5 + (1 - relative) / np.float32(width), 0, 1)


def draw_dye(rng: np.random.Generator, cytoplasm: str) -> Plane:
    """Colour of a cell's cytoplasm [3]. Mature cells stain blue-green or pink; the colour carries no class."""
    if cytoplasm == "keratinised":
        dye = _ORANGEOPHIL
    elif cytoplasm in ("columnar", "vacuolated"):
        dye = MUCIN if rng.random() < 0.5 else _CYANOPHIL
    elif cytoplasm == "mature":
        dye = EOSINOPHIL if rng.random() < 0.45 else _CYANOPHIL
    else:
        dye = _CYANOPHIL
    return np.maximum(dye + rng.normal(0, 0.03, 3).astype(np.float32), 0.03)


def _cytoplasm_dye_amount(rng: np.random.Generator, kind: str, shape: Shape, px_per_um: float) -> Plane:
    """Amount of dye over a cell's window for one kind of cytoplasm."""
    relative, amount = shape.relative, _CYTOPLASM[kind][0]
    high, wide = relative.shape
    side = max(high, wide)
    texture = draw_noise(rng, 1.2 if kind in ("immature", "columnar") else 3.0, side)[:high, :wide]
    contrast = {"mature": 0.10, "metaplastic": 0.06, "immature": 0.22, "columnar": 0.16}.get(kind, 0.08)
    dye = np.float32(amount) * (1 + contrast * texture)
    if kind == "metaplastic":  # denser towards the border
        dye *= 0.8 + 0.45 * np.clip(relative, 0, 1) ** 3
    elif kind == "keratinised":  # glassy, with refractile rings
        dye *= 1 + 0.12 * np.sin(relative * np.float32(16))
    elif kind == "mature":  # a thin, faintly folded border
        dye *= 1 + 0.35 * np.exp(-(((relative - 0.97) / 0.035) ** 2))
    cover = soft(relative, 0.06 if kind != "immature" else 0.16)
    if kind == "vacuolated":
        _blow_vacuoles(rng, dye, relative, px_per_um)
    return dye * cover


def _blow_vacuoles(rng: np.random.Generator, dye: Plane, relative: Plane, px_per_um: float) -> None:
    """Clear bubbles with a dense edge, inside the cell."""
    spots = np.argwhere((relative > 0.45) & (relative < 0.85))
    if not len(spots):
        return
    for row, column in spots[rng.integers(len(spots), size=int(rng.integers(4, 8)))]:
        radius = float(rng.uniform(1.2, 2.6)) * px_per_um
        reach = int(1.6 * radius) + 1
        top, left = max(row - reach, 0), max(column - reach, 0)
        here = (slice(top, row + reach + 1), slice(left, column + reach + 1))
        high, wide = dye[here].shape
        y, x = np.ogrid[top - row : top - row + high, left - column : left - column + wide]
        away = np.hypot(y, x).astype(np.float32) / np.float32(radius)
        dye[here] *= 1 - 0.85 * np.clip((1 - away) * 3, 0, 1)
        dye[here] += 0.14 * np.exp(-(((away - 1) / 0.22) ** 2))


def _nucleus_dye_amount(rng: np.random.Generator, chromatin: str, relative: Plane, px_per_um: float) -> Plane:
    """Amount of hematoxylin over a nucleus's window."""
    amount, contrast, clump_um, fade = _CHROMATIN[chromatin]
    high, wide = relative.shape
    clumps = draw_noise(rng, round(clump_um * px_per_um, 1), max(high, wide))[:high, :wide]
    dye = amount + contrast * clumps
    if chromatin == "coarse cleared":  # emptied areas between clumps
        dye = np.where(clumps < -0.3, 0.30, dye)
    if fade < 0.2:
        dye = dye + 0.25 * np.clip((relative - 0.8) / 0.2, 0, 1)
    return np.maximum(dye, 0.12).astype(np.float32) * soft(relative, fade)


def _add_nucleolus(
    rng: np.random.Generator,
    smear: Smear,
    centre_um: tuple[float, float],
    radius_um: float,
    nucleus_um: float,
) -> None:
    """A dark reddish spot a little off the centre."""
    x, y = (c + rng.uniform(-0.3, 0.3) * nucleus_um for c in centre_um)
    shape = smear.shape(rng, (x, y), np.pi * radius_um**2, 1.0, 0.0, 0.02, 1.5)
    if shape is not None:
        spot = soft(shape.relative, 0.4)
        pale = np.clip(soft(shape.relative / 1.7, 0.5) - spot, 0, 1)
        here = smear.density[:, shape.rows, shape.columns]
        here *= 1 - 0.45 * pale
        here += spot * (0.35 * HEMATOXYLIN + 0.9 * EOSINOPHIL)[:, None, None]


def _nucleus_places(
    rng: np.random.Generator,
    count: int,
    radius_um: float,
    elongation: float,
    angle: float,
    kind: str,
    reach_um: float,
) -> list[tuple[float, float]]:
    """Centres of the nuclei relative to the cell's, um."""
    if count == 1:
        off = 0.0
        if kind == "columnar":  # basal: towards one end, as far as the nucleus still fits
            off = max(reach_um * elongation**0.5 * 0.84 - radius_um, 0.0) * 0.85
        else:
            angle += rng.uniform(0, 2 * np.pi)
            off = max(reach_um / elongation**0.5 * 0.9 - radius_um, 0.0) * rng.uniform(0, 0.22)
        return [(off * float(np.cos(angle)), off * float(np.sin(angle)))]
    distance = radius_um * (1.08 if count == 2 else 1.28)
    turns = angle + 2 * np.pi * np.arange(count) / count
    return [(distance * float(np.cos(t)), distance * float(np.sin(t))) for t in turns]


def _elongation(rng: np.random.Generator, plan: CellPlan) -> float:
    """Elongation of the cell: that of its cytoplasm, as far as the nuclei still fit across."""
    low, high = _CYTOPLASM[plan.attributes["cytoplasm"]][1]
    count = NUM_NUCLEI[plan.attributes["num_nuclei"]]
    if count == 3:
        return 1.05
    wanted = float(rng.uniform(max(low, 1.25), max(high, 1.4)) if count == 2 else rng.uniform(low, high))
    # The anchor must lie inside the field, long axis and waves included.
    within = (_REACH_UM / (1 + 0.6 * MAX_SWING)) ** 2 / (plan.cell_um2 / np.pi)
    return float(np.clip(min(plan.cell_um2 / (1.3 * plan.nucleus_um2), within), 1.0, wanted))


def paint_cell(
    rng: np.random.Generator,
    smear: Smear,
    plan: CellPlan,
    centre_um: tuple[float, float],
    *,
    elongation: float,
    angle_rad: float,
    dye: Plane,
) -> tuple[Shape | None, list[Shape]]:
    """Paint one cell as planned; returns its outline and those of its nuclei that lie in the field."""
    look = plan.attributes
    kind = look["cytoplasm"]
    tightness = plan.nucleus_um2 / plan.cell_um2
    waves = _CYTOPLASM[kind][2] * (1.0 if tightness < 0.4 else 0.4)
    body = smear.shape(rng, centre_um, plan.cell_um2, elongation, angle_rad, waves)
    radius_um = (plan.nucleus_um2 / np.pi) ** 0.5
    reach_um = (plan.cell_um2 / np.pi) ** 0.5
    count = NUM_NUCLEI[look["num_nuclei"]]
    places = _nucleus_places(rng, count, radius_um, elongation, angle_rad, kind, reach_um)
    nuclei: list[Shape] = []
    layer = None
    if body is not None:
        layer = _cytoplasm_dye_amount(rng, kind, body, smear.px_per_um)
        smear.density[:, body.rows, body.columns] += layer * dye[:, None, None]
    for dx, dy in places:
        centre = (centre_um[0] + dx, centre_um[1] + dy)
        nucleus_waves = _MEMBRANE_WAVES[look["nuclear_membrane"]] * (1.0 if tightness < 0.55 else 0.75)
        shape = smear.shape(
            rng, centre, plan.nucleus_um2, float(rng.uniform(1.0, 1.12)), angle_rad, nucleus_waves, 1.0
        )
        if shape is None:
            continue
        if plan.koilocyte:
            _clear_halo(rng, smear, centre, radius_um * (1.55 if count == 1 else 1.4))
        amount = _nucleus_dye_amount(rng, look["chromatin"], shape.relative, smear.px_per_um)
        smear.density[:, shape.rows, shape.columns] += amount * HEMATOXYLIN[:, None, None]
        spot_um = _NUCLEOLUS_UM[look["nucleoli"]]
        if spot_um:
            _add_nucleolus(rng, smear, centre, min(spot_um, radius_um * 0.35), radius_um)
        nuclei.append(shape)
    return body, nuclei


def _clear_halo(
    rng: np.random.Generator, smear: Smear, centre_um: tuple[float, float], radius_um: float
) -> None:
    """A sharply bordered clear zone around the nucleus with a condensed border: the koilocyte's halo."""
    halo = smear.shape(rng, centre_um, np.pi * radius_um**2, 1.1, float(rng.uniform(0, 3)), 0.06, 1.2)
    if halo is not None:
        here = smear.density[:, halo.rows, halo.columns]
        here *= 1 + 0.5 * np.exp(-(((halo.relative - 1.1) / 0.1) ** 2))
        here *= 1 - 0.80 * soft(halo.relative, 0.16)


def _full(smear: Smear, shape: Shape) -> Bools:
    mask = np.zeros((smear.size_px, smear.size_px), bool)
    mask[shape.rows, shape.columns] = shape.relative < 1
    return mask


def draw_anchor(rng: np.random.Generator, smear: Smear, plan: CellPlan) -> Anchor:
    """The cell in the middle of the field."""
    middle = smear.size_px / smear.px_per_um / 2
    elongation, angle = _elongation(rng, plan), float(rng.uniform(0, 2 * np.pi))
    dye = draw_dye(rng, plan.attributes["cytoplasm"])
    centre = (middle + float(rng.uniform(-1, 1)), middle + float(rng.uniform(-1, 1)))
    body, nuclei = paint_cell(rng, smear, plan, centre, elongation=elongation, angle_rad=angle, dye=dye)
    assert body is not None
    masks = [_full(smear, nucleus) for nucleus in nuclei]
    for earlier, mask in enumerate(masks):  # nuclei that touch share no pixel
        for other in masks[:earlier]:
            mask &= ~other
    whole = np.logical_or.reduce([_full(smear, body), *masks])
    radius, nucleus_radius = (plan.cell_um2 / np.pi) ** 0.5, (plan.nucleus_um2 / np.pi) ** 0.5
    return Anchor(whole, masks, radius, nucleus_radius, elongation, angle, dye)
