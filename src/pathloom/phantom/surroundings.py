"""What lies around the cell in the middle of a smear: its group, bystander cells, inflammation and dirt."""

import numpy as np
from scipy import ndimage

from pathloom.phantom.cytology import INTERMEDIATE_NUCLEUS_UM2, CellPlan
from pathloom.phantom.smear import EOSINOPHIL, HEMATOXYLIN, MUCIN, Anchor, Smear, draw_dye, paint_cell, soft
from pathloom.phantom.texture import draw_noise


def _strip_places(rng: np.random.Generator, anchor: Anchor) -> list[tuple[float, float, float]]:
    """Side by side across the long axis: offsets in um and the angle of each cell."""
    step = 1.75 * anchor.radius_um / anchor.elongation**0.5
    across = anchor.angle_rad + np.pi / 2
    return [
        (
            n * step * float(np.cos(across)),
            n * step * float(np.sin(across)),
            anchor.angle_rad + float(rng.normal(0, 0.08)),
        )
        for n in (-2, -1, 1, 2)
    ]


def _rosette_places(anchor: Anchor) -> list[tuple[float, float, float]]:
    """Petals around a shared lumen that lies at the apical end of the anchor."""
    long = anchor.radius_um * anchor.elongation**0.5
    to_lumen, petals = anchor.angle_rad + np.pi, 7
    ring = 1.25 * long
    places = []
    for n in range(1, petals):
        turn = anchor.angle_rad + 2 * np.pi * n / petals
        x = ring * float(np.cos(to_lumen) + np.cos(turn))
        y = ring * float(np.sin(to_lumen) + np.sin(turn))
        places.append((x, y, turn))
    return places


def _places(rng: np.random.Generator, arrangement: str, anchor: Anchor) -> list[tuple[float, float, float]]:
    """Where neighbours of the same kind lie: offsets from the anchor in um, and the angle of each cell."""
    if arrangement == "strip":
        return _strip_places(rng, anchor)
    if arrangement == "rosette":
        return _rosette_places(anchor)
    count, near, far = {
        "flat sheet": (6, 1.9, 2.0),
        "small group": (2 + int(rng.random() < 0.5), 1.6, 1.8),
        "crowded group": (9, 1.15, 2.3),
        "three-dimensional group": (8, 0.95, 1.7),
    }.get(arrangement, (0, 0.0, 0.0))
    spread = 3.2 if arrangement == "small group" else 2 * np.pi
    start = rng.uniform(0, 2 * np.pi)
    places = []
    for n in range(count):
        turn = start + spread * (n + rng.uniform(-0.15, 0.15)) / max(count, 1)
        distance = anchor.radius_um * rng.uniform(near, far)
        places.append(
            (distance * float(np.cos(turn)), distance * float(np.sin(turn)), float(rng.uniform(0, 7)))
        )
    return places


def draw_neighbours(rng: np.random.Generator, smear: Smear, plan: CellPlan, anchor: Anchor) -> None:
    """Cells like the anchor, arranged as the plan says; in a three-dimensional group they lie out of focus."""
    places = _places(rng, plan.attributes["arrangement"], anchor)
    deep = plan.attributes["arrangement"] == "three-dimensional group"
    below = Smear(smear.size_px, smear.px_per_um)
    middle = smear.size_px / smear.px_per_um / 2
    for dx, dy, angle in places:
        like = CellPlan(
            plan.bethesda,
            plan.attributes,
            (),
            plan.nucleus_um2 * float(rng.uniform(0.85, 1.1)),
            plan.cell_um2 * float(rng.uniform(0.95, 1.1)),
        )
        centre = (middle + dx, middle + dy)
        paint_cell(rng, below, like, centre, elongation=anchor.elongation, angle_rad=angle, dye=anchor.dye)
    if places:
        if deep:
            for channel in below.density:
                ndimage.gaussian_filter(channel, 0.9 * smear.px_per_um, output=channel, truncate=2.5)
            # Undimmed under the anchor, they would hide its chromatin.
            cover = ndimage.gaussian_filter(anchor.mask.astype(np.float32), 1.2 * smear.px_per_um)
            below.density *= 0.8 - 0.5 * cover
        smear.density += below.density


# Mean optical density from which on no bystander is added.
_COVERED = 0.13
# What lies around: an ordinary intermediate cell.
_BYSTANDER = {
    "nuclear_size": "normal",
    "chromatin": "fine even",
    "num_nuclei": "one",
    "nc_ratio": "low",
    "nuclear_membrane": "smooth",
    "nucleoli": "none",
    "cytoplasm": "mature",
    "abnormal_signs": "none",
    "arrangement": "single",
}


def draw_context(rng: np.random.Generator, smear: Smear, anchor: Anchor, background: str) -> None:
    """Bystander cells at the rim of the field, inflammatory cells, and the film of a dirty background."""
    field_um = smear.size_px / smear.px_per_um
    for attempt in range(6):
        if attempt >= 1 and float(smear.density[:, ::4, ::4].mean()) > _COVERED:
            break
        turn = float(rng.uniform(0, 2 * np.pi))
        area = float(rng.uniform(500, 900))
        # Clear of the anchor.
        reach = anchor.radius_um * anchor.elongation**0.5 + (area / np.pi) ** 0.5 + float(rng.uniform(0.5, 4))
        centre = (field_um / 2 + reach * float(np.cos(turn)), field_um / 2 + reach * float(np.sin(turn)))
        nucleus = INTERMEDIATE_NUCLEUS_UM2 * float(rng.uniform(0.8, 1.0))
        paint_cell(
            rng,
            smear,
            CellPlan("NILM", _BYSTANDER, (), nucleus, area),
            centre,
            elongation=float(rng.uniform(1.0, 1.3)),
            angle_rad=turn,
            dye=draw_dye(rng, "mature"),
        )
    count = {"clean": int(rng.integers(0, 2)), "inflammatory": int(rng.integers(5, 10))}.get(background, 4)
    for _ in range(count):
        _draw_neutrophil(rng, smear, anchor)
    if background == "dirty":
        _draw_diathesis(rng, smear, anchor)


def _draw_neutrophil(rng: np.random.Generator, smear: Smear, anchor: Anchor) -> None:
    """Two or three small dark lobes; not on the anchor."""
    x, y = rng.uniform(0, smear.size_px / smear.px_per_um, 2)
    column, row = int(x * smear.px_per_um), int(y * smear.px_per_um)
    if anchor.mask[row, column]:
        return
    for _ in range(int(rng.integers(2, 4))):
        lobe = (float(x + rng.normal(0, 1.3)), float(y + rng.normal(0, 1.3)))
        shape = smear.shape(rng, lobe, float(rng.uniform(3, 5)), 1.2, float(rng.uniform(0, 3)), 0.0, 1.2)
        if shape is not None:
            ink = 0.95 * soft(shape.relative, 0.3) * ~anchor.mask[shape.rows, shape.columns]
            smear.density[:, shape.rows, shape.columns] += ink * HEMATOXYLIN[:, None, None]


def _draw_diathesis(rng: np.random.Generator, smear: Smear, anchor: Anchor) -> None:
    """Granular film of blood and debris around the cells."""
    film = draw_noise(rng, 6.0, smear.size_px) + 0.6
    grains = draw_noise(rng, 1.2, smear.size_px)
    amount = np.clip(0.14 * film + 0.16 * np.maximum(grains - 0.4, 0), 0, 0.6)
    amount *= np.where(anchor.mask, np.float32(0.15), np.float32(1))
    mixture = 0.5 * EOSINOPHIL + 0.5 * MUCIN
    smear.density += amount.astype(np.float32) * mixture[:, None, None]
