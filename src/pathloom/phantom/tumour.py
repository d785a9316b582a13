"""Fields at 1 um per pixel in which few large things stand out: giant tumour cells to find, and tumours of a grade.

`draw_tumour_field`: one to four tumour cells, well apart, among small lymphocytes and spindle cells on pale stroma,
each with its exact outline. Cells of 23 to 50 um are as large as the giant cells of anaplastic carcinomas; the size is
our choice, so that a small vision model can find them.

`draw_graded_field`: a tumour of grade 1 to 4 by what it builds: round glands with one open lumen, fused glands with
small lumina, solid nests without lumen, and loose large cells (after the order of the Gleason patterns 3 to 5, with
nuclei that grow and darken on the way). One grade is one way of building; size, number and stain vary freely.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pathloom.phantom.architecture import REFERENCE_PX, Blob, draw_blob
from pathloom.phantom.nucleus import STAMPS_PER_KIND, Canvas
from pathloom.phantom.stain import draw_mean_rgb, draw_stain_vectors, expose, to_pixels
from pathloom.phantom.texture import Plane, draw_noise, draw_window, fibre_bank, mosaic_bank

MPP = 1.0
MIN_SIZE_PX = 64
MAX_TUMOUR_CELLS = 4
GRADES: tuple[str, ...] = ("grade 1", "grade 2", "grade 3", "grade 4")
"""From the lowest to the highest."""

# Semi-axes of a giant tumour cell, um, and how much longer than wide it is.
_CELL_SHORT_UM = (11.5, 15.0)
_CELL_ELONGATION = (1.15, 1.75)
_GAP_UM = 7.0
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class TumourField:
    """One field with its truth. Boxes are x1 y1 x2 y2 in pixels, half-open, tight around the masks."""

    pixels_rgb: NDArray[np.uint8]  # [H, W, 3]
    masks: tuple[Bools, ...]  # n of [H, W], one a tumour cell, sharing no pixel
    boxes_px: NDArray[np.float32]  # [n, 4]
    num_small_cells: int
    mpp: float = MPP


@dataclass(frozen=True, eq=False)
class GradedField:
    """One field of tumour with its grade, one of GRADES."""

    pixels_rgb: NDArray[np.uint8]  # [H, W, 3]
    grade: str
    num_nuclei: int
    num_lumina: int
    mpp: float = MPP


def _scale(size_px: int) -> float:
    """Things are smaller in a field below 112 um, so that as many find room; in a larger one they keep their size."""
    return min(1.0, size_px / REFERENCE_PX)


def _ramp(values: Plane, start: float, stop: float) -> Plane:
    """0 up to `start`, 1 from `stop`, linear between; start may exceed stop."""
    return np.clip((values - np.float32(start)) / np.float32(stop - start), 0, 1)


def _pale_stroma(rng: np.random.Generator, size_px: int) -> tuple[Plane, Plane]:
    """Stain planes [3, size, size] of loose connective tissue, and the direction of its fibres."""
    bank = fibre_bank()
    fibres, window = bank[int(rng.integers(len(bank)))], draw_window(rng, size_px)
    cloud = draw_noise(rng, 12.0, size_px)
    planes = np.zeros((3, size_px, size_px), np.float32)
    planes[0] = 0.04 + 0.015 * cloud
    planes[1] = np.maximum(0.16 * (1 + 0.22 * window.of(fibres.density) + 0.18 * cloud), 0.02)
    return np.maximum(planes, 0.0), window.of(fibres.angle_rad)


def _photograph(rng: np.random.Generator, planes: Plane) -> NDArray[np.uint8]:
    """Pixels of the planes [3, H, W]: a drawn H&E stain, exposure, focus and sensor noise."""
    density = np.tensordot(draw_stain_vectors(rng, "H&E").T, np.maximum(planes, 0.0), 1)
    light = expose(density, draw_mean_rgb(rng, "tissue") + 12.0, gain_range=(0.7, 1.6))
    focus = float(rng.uniform(0.4, 0.8))
    for channel in light:
        ndimage.gaussian_filter(channel, focus, output=channel, truncate=2.5)
    return to_pixels(light, rng, noise_sd=float(rng.uniform(1.0, 3.0)))


def _apart(
    rng: np.random.Generator, size_px: int, reaches_px: list[float], gap_px: float
) -> list[tuple[float, float]]:
    """Centres for things of these reaches, inside the field and `gap_px` apart. Raises RuntimeError for no room."""
    for _ in range(400):
        centres: list[tuple[float, float]] = []
        for reach in reaches_px:
            for _ in range(30):
                x, y = rng.uniform(reach + 1, size_px - reach - 1, 2)
                if all(
                    np.hypot(x - a, y - b) > reach + r + gap_px
                    for (a, b), r in zip(centres, reaches_px, strict=False)
                ):
                    centres.append((float(x), float(y)))
                    break
        if len(centres) == len(reaches_px):
            return centres
    raise RuntimeError(f"no room for {len(reaches_px)} things in {size_px} px")


def _stretched(
    rng: np.random.Generator, size_px: int, centre: tuple[float, float], short_px: float, long_px: float
) -> Plane:
    """Relative radius of a wavy ellipse at any angle, [size, size]; below 1 inside, nowhere beyond `long_px`."""
    waves = rng.normal(0, 0.06, (4, 2)) / np.arange(2, 6)[:, None] ** 0.5
    waves *= min(1.0, 0.22 / max(float(np.abs(waves).sum()), 1e-6))
    swing = 1 + float(np.hypot(*waves.T).sum())
    turn = rng.uniform(0, np.pi)
    axis = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    z = ((axis[None, :] - centre[0]) + 1j * (axis[:, None] - centre[1])) * np.exp(-1j * turn)
    z = swing * (z.real / long_px + 1j * z.imag / short_px)
    distance = np.abs(z) + 1e-4
    wave, power = np.zeros_like(distance), z / distance
    unit = power
    for cosine, sine in waves:
        power = power * unit
        wave += cosine * power.real + sine * power.imag
    return (distance / (1 + wave)).astype(np.float32)


def _paint_tumour_cell(
    rng: np.random.Generator, planes: Plane, relative: Plane, centre: tuple[float, float], short_px: float
) -> None:
    """A dense granular cytoplasm, a large dark nucleus off the centre with cleared chromatin, one or two nucleoli."""
    size_px = planes.shape[1]
    amount = float(rng.uniform(0.42, 0.70))
    body = (1.0 + 0.16 * draw_noise(rng, 1.2, size_px) + 0.12 * draw_noise(rng, 3.0, size_px)) * amount
    cover = _ramp(relative, 1.05, 0.95)
    planes[1] += cover * (body - planes[1])
    planes[0] += cover * (float(rng.uniform(0.08, 0.22)) - planes[0])
    turn, off = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18) * short_px
    middle = (centre[0] + off * np.cos(turn), centre[1] + off * np.sin(turn))
    nucleus = _stretched(rng, size_px, middle, short_px * rng.uniform(0.5, 0.62), short_px * 0.72)
    ink = float(rng.uniform(0.7, 1.0)) * (1 + 0.3 * draw_noise(rng, 1.2, size_px))
    ink = np.maximum(ink + 0.25 * _ramp(nucleus, 0.8, 1.0), 0.2)
    inside = _ramp(nucleus, 1.06, 0.94)
    planes[0] += inside * (ink - planes[0])
    planes[1] *= 1 - 0.6 * inside


def draw_tumour_field(seed: int, *, size_px: int = 112, num_cells: int | None = None) -> TumourField:
    """A field with `num_cells` tumour cells (1 to 4; drawn from the seed if not given); deterministic.

    size_px is at least 64, and the field is size_px um wide. Raises ValueError for a smaller one.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px is {size_px}, at least {MIN_SIZE_PX} are needed")
    if num_cells is not None and not 1 <= num_cells <= MAX_TUMOUR_CELLS:
        raise ValueError(f"num_cells is {num_cells}, not in 1..{MAX_TUMOUR_CELLS}")
    rng = np.random.default_rng([seed, 4])
    drawn = int(rng.integers(1, MAX_TUMOUR_CELLS + 1))
    count = num_cells or drawn
    planes, fibre_angle_rad = _pale_stroma(rng, size_px)
    scale = _scale(size_px)
    shorts = [float(rng.uniform(*_CELL_SHORT_UM)) * scale for _ in range(count)]
    longs = [short * float(rng.uniform(*_CELL_ELONGATION)) for short in shorts]
    if count == MAX_TUMOUR_CELLS:  # four of the longest would find no room
        longs = [min(long, 18.5 * scale) for long in longs]
    centres = _apart(rng, size_px, longs, _GAP_UM * scale)
    masks: list[Bools] = []
    keep_free = np.zeros((size_px, size_px), bool)
    for centre, short, long in zip(centres, shorts, longs, strict=True):
        relative = _stretched(rng, size_px, centre, short, long)
        _paint_tumour_cell(rng, planes, relative, centre, short)
        masks.append(relative < 1)
        keep_free |= relative < 1.2
    canvas = Canvas(planes)
    canvas.taken |= keep_free
    _scatter_small_cells(rng, canvas, fibre_angle_rad)
    boxes = [_box(mask) for mask in masks]
    return TumourField(
        pixels_rgb=_photograph(rng, canvas.planes),
        masks=tuple(masks),
        boxes_px=np.array(boxes, np.float32),
        num_small_cells=len(canvas.kinds),
    )


def _scatter_small_cells(rng: np.random.Generator, canvas: Canvas, fibre_angle_rad: Plane) -> None:
    """Lymphocytes and spindle cells where there is room, 8 to 30 in a field of 112 um."""
    wanted = round(int(rng.integers(8, 31)) * (canvas.size_px / REFERENCE_PX) ** 2)
    mosaics = mosaic_bank(6.6)
    window = draw_window(rng, canvas.size_px)
    points = rng.permutation(window.points(mosaics[int(rng.integers(len(mosaics)))].centres_px))
    share_round = float(rng.uniform(0.3, 0.8))
    ink = float(rng.uniform(0.85, 1.1))
    for x, y in points:
        if len(canvas.kinds) >= wanted:
            return
        if rng.random() < share_round:
            canvas.lay("lymphocyte", x, y, int(rng.integers(STAMPS_PER_KIND)), (ink, 1.0, 0.0))
        else:
            along = float(fibre_angle_rad[int(y), int(x)]) + rng.normal(0, 0.12)
            which = round(along / np.pi * STAMPS_PER_KIND) % STAMPS_PER_KIND
            canvas.lay("stromal", x, y, which, (ink, 1.0, 0.0))


def _box(mask: Bools) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw_graded_field(seed: int, *, size_px: int = 112, grade: str | None = None) -> GradedField:
    """A field of tumour of `grade` (one of GRADES; drawn from the seed if not given); deterministic.

    size_px is at least 64. Raises ValueError for a smaller one and for another grade.
    """
    if size_px < MIN_SIZE_PX:
        raise ValueError(f"size_px is {size_px}, at least {MIN_SIZE_PX} are needed")
    rng = np.random.default_rng([seed, 5])
    drawn = GRADES[int(rng.integers(len(GRADES)))]
    if grade is not None and grade not in GRADES:
        raise ValueError(f"{grade!r} is none of {GRADES}")
    grade = grade or drawn
    planes, fibre_angle_rad = _pale_stroma(rng, size_px)
    planes[1] *= 1.6
    growth = _GROWTHS[grade](rng, planes)
    canvas = Canvas(planes)
    canvas.taken |= growth.free
    ink = float(rng.uniform(0.9, 1.1))
    for kind, x, y, angle in growth.nuclei:
        which = round(angle / np.pi * STAMPS_PER_KIND) % STAMPS_PER_KIND
        canvas.lay(kind, x, y, which, (ink * growth.ink, 1.0, 0.0))
    canvas.taken |= growth.tumour
    num_tumour = len(canvas.kinds)
    _scatter_small_cells(rng, canvas, fibre_angle_rad)
    return GradedField(_photograph(rng, canvas.planes), grade, num_tumour, growth.num_lumina)


@dataclass(eq=False)
class _Growth:
    """What a tumour of one grade built: its ground, its lumina, and the nuclei it asks for."""

    tumour: Bools
    free: Bools  # where no nucleus may lie
    nuclei: list[tuple[str, float, float, float]]  # kind, x, y, direction of the long axis
    ink: float
    num_lumina: int = 0


def _bodies(
    rng: np.random.Generator, planes: Plane, radii_um: list[float], irregularity: float, protein: float
) -> list[Blob]:
    """Round or ragged bodies of tumour, apart from each other, painted over the stroma."""
    size_px = planes.shape[1]
    radii_px = [radius * _scale(size_px) for radius in radii_um]
    centres = _apart(rng, size_px, [1.05 * radius for radius in radii_px], 3.0 * _scale(size_px))
    granules = draw_noise(rng, 1.2, size_px)
    blobs = [
        draw_blob(rng, size_px, centre, radius, irregularity)
        for centre, radius in zip(centres, radii_px, strict=True)
    ]
    for blob in blobs:
        cover = _ramp(blob.relative, 1.03, 0.96)
        planes[1] += cover * (protein + 0.05 * granules - planes[1])
        planes[0] += cover * (0.14 - planes[0])
    return blobs


def _open(planes: Plane, hole: Blob) -> Bools:
    """An open lumen; returns the pixels on which no nucleus may lie."""
    cover = _ramp(hole.relative, 1.08, 0.95)
    planes *= 1 - 0.95 * cover
    return np.asarray(hole.relative < 1.1)


def _mosaic_nuclei(
    rng: np.random.Generator, size_px: int, inside: Bools, spacing_px: float, kind: str
) -> list[tuple[str, float, float, float]]:
    mosaics = mosaic_bank(spacing_px)
    points = draw_window(rng, size_px).points(mosaics[int(rng.integers(len(mosaics)))].centres_px)
    return [
        (kind, float(x), float(y), float(rng.uniform(0, np.pi))) for x, y in points if inside[int(y), int(x)]
    ]


def _ring_nuclei(
    rng: np.random.Generator, blob: Blob, depth: float, spacing_px: float, kind: str
) -> list[tuple[str, float, float, float]]:
    count = max(int(2 * np.pi * blob.radius_px * depth / spacing_px), 5)
    turns = (np.arange(count) + rng.uniform(0, 1) + rng.normal(0, 0.06, count)) * 2 * np.pi / count
    reach = blob.edge(turns) * depth
    return [
        (kind, float(blob.x_px + r * np.cos(t)), float(blob.y_px + r * np.sin(t)), float(t))
        for r, t in zip(reach, turns, strict=True)
    ]


def _count(rng: np.random.Generator, size_px: int, low: int, high: int) -> int:
    """A number of things for a field of 112 um, and as many more as a larger field holds."""
    return round(int(rng.integers(low, high + 1)) * max(1.0, size_px / REFERENCE_PX) ** 2)


def _open_glands(rng: np.random.Generator, planes: Plane) -> _Growth:
    """Grade 1: round glands, each with one wide lumen and a single row of small nuclei."""
    size_px = planes.shape[1]
    free = np.zeros(planes.shape[1:], bool)
    tumour = free.copy()
    nuclei = []
    radii = [float(rng.uniform(17, 22)) for _ in range(_count(rng, size_px, 2, 3))]
    blobs = _bodies(rng, planes, radii, 0.05, 0.46)
    for blob in blobs:
        hole = draw_blob(rng, size_px, (blob.x_px, blob.y_px), blob.radius_px * rng.uniform(0.48, 0.6), 0.05)
        free |= _open(planes, hole)
        tumour |= blob.relative < 1.1
        nuclei += _ring_nuclei(rng, blob, 0.84, 6.4, "epithelial")
    return _Growth(tumour, free, nuclei, 1.0, len(blobs))


def _fused_glands(rng: np.random.Generator, planes: Plane) -> _Growth:
    """Grade 2: larger ragged bodies with several small lumina and crowded nuclei around them."""
    size_px = planes.shape[1]
    free = np.zeros(planes.shape[1:], bool)
    tumour, nuclei, num_lumina = free.copy(), [], 0
    radii = [float(rng.uniform(20, 25)) for _ in range(_count(rng, size_px, 1, 2))]
    for blob in _bodies(rng, planes, radii, 0.10, 0.48):
        turns = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(int(rng.integers(3, 5))) / 3.5
        for turn in turns:
            reach = 0.45 * blob.radius_px
            centre = (blob.x_px + reach * np.cos(turn), blob.y_px + reach * np.sin(turn))
            free |= _open(
                planes, draw_blob(rng, size_px, centre, blob.radius_px * rng.uniform(0.15, 0.21), 0.1)
            )
            num_lumina += 1
        inside = blob.relative < 0.94
        nuclei += _mosaic_nuclei(rng, size_px, inside, 7.6, "epithelial")
        tumour |= blob.relative < 1.1
    return _Growth(tumour, free, nuclei, 1.1, num_lumina)


def _solid_nests(rng: np.random.Generator, planes: Plane) -> _Growth:
    """Grade 3: solid nests without a lumen, full of large nuclei."""
    size_px = planes.shape[1]
    tumour = np.zeros(planes.shape[1:], bool)
    nuclei = []
    radii = [float(rng.uniform(20, 26)) for _ in range(_count(rng, size_px, 1, 2))]
    for blob in _bodies(rng, planes, radii, 0.13, 0.52):
        nuclei += _mosaic_nuclei(rng, size_px, blob.relative < 0.94, 9.8, "tumour")
        tumour |= blob.relative < 1.1
    return _Growth(tumour, np.zeros_like(tumour), nuclei, 1.1)


def _loose_sheets(rng: np.random.Generator, planes: Plane) -> _Growth:
    """Grade 4: no bodies at all; large dark nuclei in thin bodies all over the stroma."""
    size_px = planes.shape[1]
    everywhere = np.ones(planes.shape[1:], bool)
    nuclei = _mosaic_nuclei(rng, size_px, everywhere, 11.0, "tumour")
    share = float(rng.uniform(0.55, 0.95))
    nuclei = [one for one in nuclei if rng.random() < share]
    axis = np.arange(size_px, dtype=np.float32) + np.float32(0.5)
    for _, x, y, _ in nuclei:  # a thin rim of cytoplasm around each
        away = np.hypot(axis[None, :] - np.float32(x), axis[:, None] - np.float32(y))
        cover = _ramp(away, 7.0, 5.5)
        planes[1] += cover * (0.5 - planes[1])
    return _Growth(np.zeros_like(everywhere), np.zeros_like(everywhere), nuclei, 1.35)


_GROWTHS: Mapping[str, Callable[[np.random.Generator, Plane], _Growth]] = dict(
    zip(GRADES, (_open_glands, _fused_glands, _solid_nests, _loose_sheets), strict=True)
)
