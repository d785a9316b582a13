"""Synthetic H&E and IHC tissue at 1 um per pixel, with every nucleus, mitosis and structure known.

The stain model is Beer-Lambert absorption with the vectors of Ruifrok & Johnston 2001 (see phantom.stain). The mean
colour of an image says nothing about the stain and little about the diagnosis; contrast, texture and shape do.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathloom.phantom.architecture import BUILDERS, NEST, REFERENCE_PX, STROMA, VOID, Layout
from pathloom.phantom.nucleus import MITOSIS_ZONE_PX, STAMPS_PER_KIND, Canvas, stamps
from pathloom.phantom.stain import draw_mean_rgb, draw_stain_vectors, expose, to_pixels
from pathloom.phantom.texture import draw_window, mosaic_bank
from pathloom.phantom.wording import tissue_caption, tissue_observations

DIAGNOSES: tuple[str, ...] = (
    "benign glands",
    "adenocarcinoma",
    "squamous cell carcinoma",
    "chronic inflammation",
    "necrosis",
    "fibrosis",
)
STAINS = ("H&E", "IHC")
ORGANS = ("colon", "lung", "breast", "stomach")
CELLULARITIES = ("low", "moderate", "high")
MAX_MITOSES = 5
MIN_SIZE_PX = 64
MPP = 1.0

# Nuclei per field of 112 x 112 um. Fields are filled to a count inside the band; the level is read off the count.
_CELLULARITY_BELOW = (38, 66)
_FILL_TO = ((20, 34), (44, 60), (74, 104))
# Mean colour (0..255) of each stain before exposure, over 600 phantoms. Exposure takes the stain's own colour away
# and leaves each image its departure from it: a dense or a pale field keeps looking dense or pale.
_UNEXPOSED_MEAN_RGB = {"H&E": np.array([178.8, 119.7, 189.2]), "IHC": np.array([157.9, 151.9, 182.6])}
_MITOSIS_SHARES = (0.35, 0.20, 0.15, 0.12, 0.10, 0.08)


@dataclass(frozen=True, eq=False)
class Tissue:
    """One region with its truth. Boxes are x1 y1 x2 y2 in pixels, half-open, inside the image."""

    pixels_rgb: NDArray[np.uint8]  # [H, W, 3]
    nucleus_mask: NDArray[np.int32]  # [H, W], 0 is background, i is the nucleus of row i - 1 of the boxes
    nucleus_boxes_px: NDArray[np.float32]  # [n, 4], tight around the mask
    nucleus_kinds: tuple[str, ...]  # n of epithelial, tumour, lymphocyte, plasma, stromal, pyknotic, mitosis
    mitosis_boxes_px: NDArray[np.float32]  # [m, 4], the nucleus boxes of kind mitosis
    structure_name: str  # what structure_boxes_px frame; "" if there is none
    structure_boxes_px: NDArray[np.float32]  # [k, 4], k in 0..3
    diagnosis: str
    stain: str
    organ: str  # stated, not visible
    cellularity: str  # nuclei per area: see _CELLULARITY_BELOW
    num_mitoses: int
    mpp: float  # um per pixel
    chromogen: str  # where the IHC marker binds: "cytoplasm" or "nuclei"; "" in H&E
    features: tuple[str, ...]  # drawn extras: pearl, debris

    def observations(self) -> tuple[str, ...]:
        """Two to four short sentences that follow from the truth and do not name the diagnosis."""
        return tissue_observations(self)

    def caption(self, rng: np.random.Generator) -> str:
        """One or two sentences in varied wording that name diagnosis, stain and organ."""
        return tissue_caption(self, rng)


def _free_sites(
    rng: np.random.Generator, layout: Layout, wanted: int, margin_px: float
) -> list[tuple[float, float]]:
    """Centres for mitoses: apart from each other, on cellular ground where there is any, far from the border."""
    size = layout.ground.shape[0]
    tries = rng.uniform(margin_px, size - margin_px, (240, 2))
    ground = layout.ground[tries[:, 1].astype(int), tries[:, 0].astype(int)]
    tries = tries[np.argsort(ground == VOID, kind="stable")]
    # A grid is always wide enough from MIN_SIZE_PX on, so the last step cannot fail to seat MAX_MITOSES.
    lattice = np.linspace(margin_px, size - margin_px - 0.01, 3)
    grid = np.stack(np.meshgrid(lattice, lattice), -1).reshape(-1, 2)
    for apart, points in ((2 * MITOSIS_ZONE_PX + 2.0, tries), (0.0, rng.permutation(grid))):
        chosen: list[tuple[float, float]] = []
        for x, y in points:
            if len(chosen) < wanted and all(np.hypot(x - a, y - b) >= apart for a, b in chosen):
                chosen.append((float(x), float(y)))
        if len(chosen) == wanted:
            break
    return chosen


def _which(rng: np.random.Generator, kind: str, angle_rad: float | None) -> int:
    """A stamp of the kind: any, or one whose long axis points along the angle."""
    if angle_rad is None:
        return int(rng.integers(len(stamps(kind).mask)))
    wobble = rng.normal(0, 0.12)
    return round((angle_rad + wobble) / np.pi * STAMPS_PER_KIND) % STAMPS_PER_KIND


def _lay_mitoses(rng: np.random.Generator, canvas: Canvas, layout: Layout, wanted: int) -> None:
    margin = MITOSIS_ZONE_PX + 1.5
    for x, y in _free_sites(rng, layout, wanted, margin):
        canvas.lay("mitosis", x, y, _which(rng, "mitosis", None), (float(rng.uniform(0.9, 1.1)), 1.0, 0.0))


def _fill_candidates(rng: np.random.Generator, layout: Layout) -> list[tuple[str, float, float]]:
    """Nuclei that could fill the ground, in random order, their kinds by the shares of the ground they lie on."""
    mosaics = mosaic_bank(6.6)
    window = draw_window(rng, layout.ground.shape[0])
    points = rng.permutation(window.points(mosaics[int(rng.integers(len(mosaics)))].centres_px))
    ground = layout.ground[points[:, 1].astype(int), points[:, 0].astype(int)]
    kinds = np.full(len(points), "", dtype=object)
    for code in (STROMA, NEST):
        if code in layout.fill:
            names, shares = zip(*layout.fill[code], strict=True)
            here = ground == code
            kinds[here] = rng.choice(np.array(names, dtype=object), int(here.sum()), p=shares)
    return [(kind, float(x), float(y)) for kind, (x, y) in zip(kinds, points, strict=True) if kind]


def _lay_nuclei(
    rng: np.random.Generator, canvas: Canvas, layout: Layout, wanted: int, *, brown_nuclei: bool
) -> None:
    """The sites of the architecture first, then filling, until `wanted` nuclei lie on the canvas."""
    darkness = rng.uniform(0.88, 1.12)
    sites = layout.sites
    if len(sites) > wanted - len(canvas.kinds):
        sites = [sites[i] for i in sorted(rng.permutation(len(sites))[: max(wanted - len(canvas.kinds), 0)])]
    places = [(s.kind, s.x_px, s.y_px, s.angle_rad) for s in sites]
    # Nests fill before stroma: the stroma is large and would use up the count.
    candidates = _fill_candidates(rng, layout)
    candidates.sort(key=lambda c: -int(layout.ground[int(c[2]), int(c[1])]))
    for kind, x, y in candidates:
        along = None
        if kind == "stromal":
            along = float(layout.fibre_angle_rad[int(y), int(x)])
        places.append((kind, x, y, along))
    for kind, x, y, angle in places:
        if len(canvas.kinds) >= wanted:
            break
        ink = float(darkness * rng.uniform(0.9, 1.1))
        gains = (ink, 1.0, 0.0)
        if brown_nuclei and kind in layout.marked_kinds and rng.random() < 0.7:
            gains = (0.25 * ink, 1.0, float(rng.uniform(0.8, 1.2)))
        canvas.lay(kind, x, y, _which(rng, kind, angle), gains)


def _boxes(mask: NDArray[np.int32]) -> NDArray[np.float32]:
    """Tight half-open boxes [n, 4] of the ids 1..n of a mask."""
    found = ndimage.find_objects(mask)
    rows = [(x.start, y.start, x.stop, y.stop) for y, x in found]
    return np.array(rows, np.float32).reshape(-1, 4)


def _photograph(rng: np.random.Generator, planes: NDArray[np.float32], stain: str) -> NDArray[np.uint8]:
    """Pixels of the stain planes [3, H, W]: absorption, exposure to a drawn mean colour, focus and sensor noise."""
    density = np.tensordot(draw_stain_vectors(rng, stain).T, planes, 1)
    thinned = density[:, ::3, ::3]
    own = 255 * (10.0**-thinned).mean((1, 2)) - _UNEXPOSED_MEAN_RGB[stain]
    mean_rgb = np.clip(draw_mean_rgb(rng, "tissue") + own, 90, 235)
    light = expose(density, mean_rgb, gain_range=(0.55, 1.8))
    focus = float(rng.uniform(0.35, 0.75))
    for channel in light:
        ndimage.gaussian_filter(channel, focus, output=channel, truncate=2.5)
    return to_pixels(light, rng, noise_sd=float(rng.uniform(1.0, 3.0)))


def _choose(rng: np.random.Generator, options: tuple[str, ...], wanted: str | None) -> str:
    """The wanted option, or one drawn evenly; the generator advances equally in both cases."""
    drawn = options[int(rng.integers(len(options)))]
    if wanted is None:
        return drawn
    if wanted not in options:
        raise ValueError(f"{wanted!r} is none of {options}")
    return wanted


def _cellularity(num_nuclei: int, size_px: int) -> str:
    per_field = num_nuclei * (REFERENCE_PX / size_px) ** 2
    return CELLULARITIES[sum(per_field >= bound for bound in _CELLULARITY_BELOW)]


def populate(
    rng: np.random.Generator,
    layout: Layout,
    crowding: int,
    *,
    num_mitoses: int = 0,
    brown_nuclei: bool = False,
) -> Canvas:
    """The layout's stain planes with nuclei laid on them: as many as `crowding` (0, 1, 2) asks for."""
    canvas = Canvas(layout.planes)
    _lay_mitoses(rng, canvas, layout, num_mitoses)
    wanted = round(int(rng.integers(*_FILL_TO[crowding])) * (canvas.size_px / REFERENCE_PX) ** 2)
    _lay_nuclei(rng, canvas, layout, wanted, brown_nuclei=brown_nuclei)
    return canvas


def draw_tissue(
    seed: int,
    *,
    size_px: int = 112,
    diagnosis: str | None = None,
    stain: str | None = None,
    organ: str | None = None,
    num_mitoses: int | None = None,
) -> Tissue:
    """Draw one region. What is not given is drawn from the seed; the same arguments give the same pixels anywhere.

    size_px is at least 64; num_mitoses is 0..5. The number of mitoses is independent of the diagnosis.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px is {size_px}, at least {MIN_SIZE_PX} are needed")
    if num_mitoses is not None and not 0 <= num_mitoses <= MAX_MITOSES:
        raise ValueError(f"num_mitoses is {num_mitoses}, not in 0..{MAX_MITOSES}")
    plan = np.random.default_rng([seed, 0])
    diagnosis = _choose(plan, DIAGNOSES, diagnosis)
    stain = _choose(plan, STAINS, stain)
    organ = _choose(plan, ORGANS, organ)
    crowding = int(plan.integers(3))
    drawn_mitoses = int(plan.choice(MAX_MITOSES + 1, p=_MITOSIS_SHARES))
    mitoses = drawn_mitoses if num_mitoses is None else num_mitoses
    chromogen = ("cytoplasm", "nuclei")[int(plan.integers(2))] if stain == "IHC" else ""

    rng = np.random.default_rng([seed, 1])
    layout = BUILDERS[diagnosis](rng, size_px, crowding)
    layout.planes[2] *= chromogen == "cytoplasm"
    canvas = populate(rng, layout, crowding, num_mitoses=mitoses, brown_nuclei=chromogen == "nuclei")
    boxes = _boxes(canvas.mask)
    kinds = tuple(canvas.kinds)
    return Tissue(
        pixels_rgb=_photograph(rng, np.maximum(canvas.planes, 0), stain),
        nucleus_mask=canvas.mask,
        nucleus_boxes_px=boxes,
        nucleus_kinds=kinds,
        mitosis_boxes_px=boxes[[kind == "mitosis" for kind in kinds]].reshape(-1, 4),
        structure_name=layout.structure_name,
        structure_boxes_px=np.array(layout.structure_boxes_px, np.float32).reshape(-1, 4),
        diagnosis=diagnosis,
        stain=stain,
        organ=organ,
        cellularity=_cellularity(len(kinds), size_px),
        num_mitoses=kinds.count("mitosis"),
        mpp=MPP,
        chromogen=chromogen,
        features=tuple(layout.features),
    )
