"""Tileable noise fields, fibre fields and cell mosaics, built once per process from constant seeds.

Every field is periodic on TILE_PX x TILE_PX, so a window may start anywhere and be of any size. Fields are made in
the Fourier domain: white noise times an envelope, which is periodic by construction.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

Plane = NDArray[np.float32]

TILE_PX = 256
_BANK_SEED = 20_140_917
_FIELDS_PER_BANK = 6
_FIBRE_ANGLES = 16


def _spectral_noise(rng: np.random.Generator, envelope: NDArray[np.float64]) -> Plane:
    """A periodic field of mean 0 and standard deviation 1 whose amplitude spectrum is `envelope` [TILE, TILE]."""
    spectrum = np.fft.fft2(rng.standard_normal((TILE_PX, TILE_PX))) * envelope
    spectrum[0, 0] = 0.0
    field = np.fft.ifft2(spectrum).real
    return _sealed((field / field.std()).astype(np.float32))


def _sealed(field: Plane) -> Plane:
    """The field, made read only: windows are views of it, and a write would change every later image."""
    field.flags.writeable = False
    return field


def _frequencies() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Horizontal and vertical frequency, cycles per pixel, of every Fourier coefficient."""
    axis = np.asarray(np.fft.fftfreq(TILE_PX), np.float64)
    return axis[None, :], axis[:, None]


@cache
def noise_bank(blur_px: float) -> tuple[Plane, ...]:
    """Isotropic Gaussian noise smoothed with a Gaussian of `blur_px`, mean 0, standard deviation 1."""
    rng = np.random.default_rng([_BANK_SEED, 1, round(blur_px * 100)])
    fx, fy = _frequencies()
    envelope = np.exp(-2 * (np.pi * blur_px) ** 2 * (fx**2 + fy**2))
    return tuple(_spectral_noise(rng, envelope) for _ in range(_FIELDS_PER_BANK))


@dataclass(frozen=True, eq=False)
class Fibres:
    """A field of wavy parallel fibres and the direction they run in at every pixel."""

    density: Plane  # [TILE, TILE], mean 0, standard deviation 1
    angle_rad: Plane  # [TILE, TILE], from the x axis towards the y axis, which points down


def _wavy_fibres(rng: np.random.Generator, angle: float, wave_px: float) -> Fibres:
    """Straight streaks along `angle`, displaced across it by waves of standard deviation `wave_px`."""
    fx, fy = _frequencies()
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = -fx * np.sin(angle) + fy * np.cos(angle)
    envelope = np.exp(-2 * np.pi**2 * ((11.0 * along) ** 2 + (0.9 * across) ** 2))
    straight = _spectral_noise(rng, envelope)
    y, x = np.mgrid[0:TILE_PX, 0:TILE_PX].astype(np.float64)
    # Waves vary along the fibres over about 30 px and across them slowly, so that neighbours stay parallel.
    waves = np.exp(-2 * np.pi**2 * ((9.0 * along) ** 2 + (22.0 * across) ** 2))
    shift = wave_px * _spectral_noise(rng, waves).astype(np.float64)
    source = np.stack([y + shift * np.cos(angle), x - shift * np.sin(angle)])
    density = ndimage.map_coordinates(straight, source, order=1, mode="grid-wrap")
    by_row = (np.roll(shift, -1, 0) - np.roll(shift, 1, 0)) / 2
    by_column = (np.roll(shift, -1, 1) - np.roll(shift, 1, 1)) / 2
    slope = by_column * np.cos(angle) + by_row * np.sin(angle)
    direction = (angle - np.arctan(slope)).astype(np.float32)
    return Fibres(_sealed(density.astype(np.float32)), _sealed(direction))


@cache
def fibre_bank() -> tuple[Fibres, ...]:
    """Wavy fibres in evenly spaced directions."""
    rng = np.random.default_rng([_BANK_SEED, 2])
    angles = np.pi * np.arange(_FIBRE_ANGLES) / _FIBRE_ANGLES
    return tuple(_wavy_fibres(rng, float(angle), float(rng.uniform(2.0, 4.0))) for angle in angles)


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Cells that tile the plane: their centres and how close each pixel is to a border between two cells."""

    centres_px: NDArray[np.float32]  # [n, 2], x y, inside the tile
    border: Plane  # [TILE, TILE], 1 on a border, 0 from two pixels on


def spaced_points(rng: np.random.Generator, spacing_px: float, side_px: int) -> NDArray[np.float32]:
    """Random points [n, 2] on a periodic square, no two closer than `spacing_px` (dart throwing)."""
    tries = rng.uniform(0, side_px, (int(12 * (side_px / spacing_px) ** 2), 2))
    tree = cKDTree(tries, boxsize=side_px)
    barred = np.zeros(len(tries), bool)
    kept = []
    for index, close in enumerate(tree.query_ball_point(tries, spacing_px)):
        if not barred[index]:
            kept.append(index)
            barred[close] = True
    return tries[kept].astype(np.float32)


@cache
def mosaic_bank(spacing_px: float) -> tuple[Mosaic, ...]:
    """Voronoi mosaics of points at least `spacing_px` apart."""
    rng = np.random.default_rng([_BANK_SEED, 3, round(spacing_px * 100)])
    rows, columns = np.divmod(np.arange(TILE_PX**2, dtype=np.float64), TILE_PX)
    pixels = np.stack([columns, rows], -1)
    mosaics = []
    for _ in range(_FIELDS_PER_BANK):
        centres = spaced_points(rng, spacing_px, TILE_PX)
        tree = cKDTree(np.minimum(centres.astype(np.float64), TILE_PX - 1e-3), boxsize=TILE_PX)
        distances, _ = tree.query(pixels, k=2)
        gap = (distances[:, 1] - distances[:, 0]).reshape(TILE_PX, TILE_PX)
        mosaics.append(Mosaic(centres, _sealed(np.clip(1 - gap / 2.0, 0, 1).astype(np.float32))))
    return tuple(mosaics)


@dataclass(frozen=True)
class Window:
    """A square window of `size_px` at an offset into a periodic tile."""

    x_px: int
    y_px: int
    size_px: int

    def of(self, field: Plane) -> Plane:
        """The window's pixels, [size, size]; read only, as it may be a view of the bank."""
        right, bottom = self.x_px + self.size_px, self.y_px + self.size_px
        if right <= TILE_PX and bottom <= TILE_PX:
            return field[self.y_px : bottom, self.x_px : right]
        columns, rows = np.arange(self.x_px, right) % TILE_PX, np.arange(self.y_px, bottom) % TILE_PX
        return field[rows[:, None], columns]

    def points(self, points_px: NDArray[np.float32]) -> NDArray[np.float32]:
        """Those of a tile's points [n, 2] that lie in the window, in the window's own frame."""
        copies = -(-self.size_px // TILE_PX)
        found = []
        for row in range(copies):
            for column in range(copies):
                moved = (points_px - np.array([self.x_px, self.y_px], np.float32)) % TILE_PX
                found.append(moved + np.array([column * TILE_PX, row * TILE_PX], np.float32))
        everything = np.concatenate(found)
        return everything[(everything < self.size_px).all(1)]


def draw_window(rng: np.random.Generator, size_px: int) -> Window:
    """A window at a random offset, one that does not wrap where the tile is large enough."""
    offsets = TILE_PX - size_px + 1 if size_px < TILE_PX else TILE_PX
    x, y = rng.integers(offsets, size=2)
    return Window(int(x), int(y), size_px)


def draw_noise(rng: np.random.Generator, blur_px: float, size_px: int) -> Plane:
    """A random window [size, size] of noise with mean about 0 and standard deviation about 1."""
    bank = noise_bank(blur_px)
    return draw_window(rng, size_px).of(bank[int(rng.integers(len(bank)))])
