"""Stamps of nuclei for tissue at 1 um per pixel: a bank per kind, drawn once per process from constant seeds.

A stamp is laid over the stain planes: `keep` fades what lies below, `ink` adds hematoxylin, `body` adds cytoplasm.
Sizes are semi-axes in um and follow general histology texts: lymphocyte 6-7 um across, glandular nucleus about
5 x 9 um, tumour nucleus 8-13 um, spindle nucleus 3 x 12 um, pyknotic body 4-6 um.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Plane = NDArray[np.float32]

_BANK_SEED = 20_010_823
_SUPERSAMPLE = 3
STAMPS_PER_KIND = 160
# A mitosis is always at least this wide and this high, so that it can be found and framed.
MITOSIS_MIN_PX = 8
MITOSIS_ZONE_PX = 9


@dataclass(frozen=True)
class _Look:
    """How nuclei of one kind look; ranges are uniform."""

    short_um: tuple[float, float]  # short semi-axis
    elongation: tuple[float, float]  # long over short semi-axis
    irregularity: float  # relative amplitude of the outline's waves
    ink: tuple[float, float]  # hematoxylin inside, 1 is a dark nucleus
    clumps: float  # amplitude of the chromatin texture
    rim: float  # extra ink at the membrane; a vesicular nucleus has a pale centre
    nucleolus: float  # extra ink of a nucleolus, 0 for none


_LOOKS: Mapping[str, _Look] = {
    "epithelial": _Look((2.2, 2.8), (1.5, 1.9), 0.03, (0.65, 0.85), 0.10, 0.10, 0.0),
    "tumour": _Look((3.0, 4.3), (1.0, 1.45), 0.09, (0.50, 0.95), 0.22, 0.22, 0.7),
    "lymphocyte": _Look((2.6, 3.2), (1.0, 1.1), 0.02, (1.05, 1.25), 0.10, 0.05, 0.0),
    "plasma": _Look((2.6, 3.1), (1.0, 1.15), 0.02, (0.85, 1.05), 0.30, 0.10, 0.0),
    "stromal": _Look((1.2, 1.7), (3.4, 4.6), 0.05, (0.75, 1.00), 0.08, 0.05, 0.0),
    "pyknotic": _Look((1.7, 2.4), (1.0, 1.2), 0.04, (1.45, 1.70), 0.00, 0.00, 0.0),
}
KINDS = (*_LOOKS, "mitosis")


@dataclass(frozen=True, eq=False)
class Stamps:
    """The bank of one kind: n stamps on squares of `side` pixels, centred."""

    keep: Plane  # [n, side, side], share of the layer below that stays
    ink: Plane  # [n, side, side], hematoxylin
    body: Plane  # [n, side, side], cytoplasm
    mask: NDArray[np.bool_]  # [n, side, side], the nucleus itself
    claim: NDArray[np.bool_]  # [n, side, side], pixels no other nucleus may enter
    angle_rad: Plane  # [n] ascending, direction of the long axis in 0..pi


def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Supersampled x and y in pixels from the stamp's centre, each [side * s, side * s]."""
    axis = (np.arange(side * _SUPERSAMPLE) + 0.5) / _SUPERSAMPLE - side / 2
    return np.meshgrid(axis, axis)


def _pool(fine: NDArray[np.float64]) -> Plane:
    """Means over supersampled blocks: [n, side * s, side * s] to [n, side, side]."""
    count, high, _ = fine.shape
    side = high // _SUPERSAMPLE
    blocks = fine.reshape(count, side, _SUPERSAMPLE, side, _SUPERSAMPLE)
    return blocks.mean((2, 4)).astype(np.float32)


def _fine_noise(rng: np.random.Generator, shape: tuple[int, ...], blur_px: float) -> NDArray[np.float64]:
    blur = blur_px * _SUPERSAMPLE
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), (0, blur, blur))
    return np.asarray(noise / noise.std())


def _outline(
    rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64], look: _Look, angle: float
) -> NDArray[np.float64]:
    """Relative radius of every fine pixel: below 1 is inside the nucleus."""
    short = rng.uniform(*look.short_um)
    long = short * rng.uniform(*look.elongation)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    if look.elongation[0] > 2:  # spindle nuclei bend
        across = across + rng.uniform(-0.04, 0.04) * along**2
    turn = np.arctan2(across, along)
    wave = sum(
        rng.normal(0, look.irregularity / k**0.5) * np.cos(k * turn + rng.uniform(0, 7)) for k in (2, 3, 4, 5)
    )
    return np.hypot(along / long, across / short) / (1 + wave)


def _interphase_bank(kind: str, rng: np.random.Generator) -> Stamps:
    look = _LOOKS[kind]
    reach = look.short_um[1] * look.elongation[1] * (1 + 2 * look.irregularity) + 2
    side = 2 * int(np.ceil(reach)) + 1
    x, y = _grid(side)
    angles = np.pi * np.arange(STAMPS_PER_KIND) / STAMPS_PER_KIND
    radius = np.stack([_outline(rng, x, y, look, float(angle)) for angle in angles])
    clumps = _fine_noise(rng, radius.shape, 0.8)
    inside = radius < 1
    ink = rng.uniform(*look.ink, (STAMPS_PER_KIND, 1, 1)) + look.clumps * clumps
    ink = ink + look.rim * np.clip((radius - 0.7) / 0.3, 0, 1)
    if look.nucleolus:
        spot = rng.normal(0, 1.2, (2, STAMPS_PER_KIND, 1, 1))
        ink = ink + look.nucleolus * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 1.1)
    body = np.zeros_like(radius)
    if kind == "plasma":  # the cytoplasm lies to one side of the nucleus
        side_way = np.where(rng.random(STAMPS_PER_KIND) < 0.5, 0, np.pi) + angles
        east = x - 2.6 * np.cos(side_way)[:, None, None]
        south = y - 2.6 * np.sin(side_way)[:, None, None]
        body = 0.45 * np.clip(4.4 - np.hypot(east, south), 0, 1)
    elif kind == "pyknotic":  # a shrunken, strongly eosinophilic cell
        body = 0.55 * np.clip(3.4 - np.hypot(x, y), 0, 1)
    alpha = _pool(inside.astype(np.float64))
    mask = alpha > 0.5
    return Stamps(
        keep=1 - alpha * np.float32(0.9),
        ink=_pool(np.maximum(ink, 0.2) * inside),
        body=_pool(body * ~inside),
        mask=mask,
        claim=np.stack([ndimage.binary_dilation(one) for one in mask]),
        angle_rad=angles.astype(np.float32),
    )


def _mitotic_figure(
    rng: np.random.Generator, x: NDArray[np.float64], y: NDArray[np.float64], form: str
) -> NDArray[np.float64]:
    """Signed extent of condensed chromosomes: above 0 is chromatin. Forms: plate, ring, anaphase, clump."""
    angle = rng.uniform(0, np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    if form == "plate":
        return 1 - np.hypot(along / rng.uniform(5.6, 6.6), across / rng.uniform(2.2, 2.8))
    if form == "anaphase":
        bend = 0.06 * along**2
        apart = rng.uniform(3.2, 4.0)
        lower = np.hypot(along / 5.2, (across - apart + bend) / 1.6)
        upper = np.hypot(along / 5.2, (across + apart - bend) / 1.6)
        return 1 - np.minimum(lower, upper)
    if form == "ring":
        radius = np.hypot(along / 1.1, across)
        return (rng.uniform(1.6, 1.9) - np.abs(radius - rng.uniform(3.7, 4.3))) / 2
    return 1 - np.hypot(along / rng.uniform(4.6, 5.4), across / rng.uniform(3.6, 4.4))


def _mitosis_bank(rng: np.random.Generator) -> Stamps:
    """Dark, shaggy chromatin without a membrane, in a cleared and rounded cell."""
    side = 2 * MITOSIS_ZONE_PX + 5
    x, y = _grid(side)
    shaggy = 0.55 * _fine_noise(rng, (STAMPS_PER_KIND * 4, *x.shape), 0.55)
    zone_radius = np.hypot(x, y)
    kept: list[tuple[Plane, Plane, Plane, NDArray[np.bool_]]] = []
    for index in range(STAMPS_PER_KIND * 4):
        form = ("plate", "ring", "anaphase", "clump")[index % 4]
        extent = _mitotic_figure(rng, x, y, form)
        chromatin = extent + (0.42 if form in ("clump", "plate") else 0.28) * shaggy[index] > 0.0
        chromatin &= zone_radius < MITOSIS_ZONE_PX - 1
        alpha = _pool(chromatin[None].astype(np.float64))[0]
        mask = alpha > 0.5
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if min(np.ptp(rows), np.ptp(columns)) + 1 < MITOSIS_MIN_PX:
            continue
        outline = np.exp(-((zone_radius - MITOSIS_ZONE_PX) ** 2) / 0.8)
        zone = np.clip((MITOSIS_ZONE_PX + 0.5 - zone_radius) / 2, 0, 1)
        keep = (1 - 0.72 * _pool(zone[None])[0]) * (1 - alpha)
        body = _pool((0.10 * zone + 0.14 * outline)[None])[0] * (1 - alpha)
        kept.append((keep, alpha * np.float32(1.9), body, mask))
        if len(kept) == STAMPS_PER_KIND:
            break
    keep, ink, body, mask = (np.stack(part) for part in zip(*kept, strict=True))
    claim = np.broadcast_to(_pool(zone_radius[None])[0] < MITOSIS_ZONE_PX, mask.shape)
    return Stamps(keep, ink, body, mask, claim, np.zeros(len(mask), np.float32))


@cache
def stamps(kind: str) -> Stamps:
    """The bank of a kind; the first call in a process builds it."""
    rng = np.random.default_rng([_BANK_SEED, KINDS.index(kind)])
    return _mitosis_bank(rng) if kind == "mitosis" else _interphase_bank(kind, rng)


class Canvas:
    """Stain planes [3, size, size] (hematoxylin, protein, chromogen) on which nuclei are laid without overlap."""

    def __init__(self, planes: Plane) -> None:
        self.planes = planes
        self.size_px = planes.shape[1]
        self.mask = np.zeros(planes.shape[1:], np.int32)
        self.taken = np.zeros(planes.shape[1:], bool)
        self.kinds: list[str] = []

    def lay(
        self,
        kind: str,
        x_px: float,
        y_px: float,
        which: int,
        gains: tuple[float, float, float],
        min_area_px: int = 9,
    ) -> bool:
        """Lay stamp `which` of `kind` centred at a point, or refuse (False) where another nucleus claims a pixel.

        `gains` scale the stamp's ink as hematoxylin, its body as protein, and its ink as chromogen.
        """
        bank = stamps(kind)
        side = bank.mask.shape[1]
        left, top = int(x_px) - side // 2, int(y_px) - side // 2
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + side, self.size_px), min(top + side, self.size_px)
        if x2 <= x1 or y2 <= y1:
            return False
        # One index for the four arrays of the bank: the part of the stamp that lies inside the image.
        part = (which, slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
        mask = bank.mask[part]
        taken = self.taken[y1:y2, x1:x2]
        if (taken & mask).any() or np.count_nonzero(mask) < min_area_px:
            return False
        taken |= bank.claim[part]
        below, ink = self.planes[:, y1:y2, x1:x2], bank.ink[part]
        below *= bank.keep[part]
        below[0] += ink * gains[0]
        below[1] += bank.body[part] * gains[1]
        if gains[2]:
            below[2] += ink * gains[2]
        self.kinds.append(kind)
        self.mask[y1:y2, x1:x2][mask] = len(self.kinds)
        return True
