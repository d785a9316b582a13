"""A figure made ready for measuring: upright, its grounds told from its content, sums of any box in constant time.

A `Region` is x1, y1, x2, y2 in whole pixels of the upright working copy, half open. Axis 0 cuts between columns (panels
left and right of each other), axis 1 between rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pathloom.schema import Box

Region = tuple[int, int, int, int]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

WORKING_SIDE_PX = 1800
"""Longer side of the working copy; a page of 200 dpi is 1680 px wide and is measured as it is."""

MAX_SKEW_DEG = 1.2
SKEW_STEP_DEG = 0.05
NUM_SKEW_STRIPS = 24
MIN_SKEW_DEG = 0.1
"""Less moves the end of a gutter of 800 px by 1.4 px, which the tolerances of a gutter bear."""
MIN_SKEW_GAIN = 1.04
"""Projections must sharpen by this much before pixels are resampled: our own choice, measured on drawn composites."""

LEAST_NOISE = 1.0
"""Noise of the plainest parts, in levels, from which a figure is a scan and is smoothed; gutters of PDFs have none."""

MAX_GROUNDS = 3
NUM_SAMPLED_LINES = 48
GROUND_SPREAD = 10
"""Levels between the eighths of a line that counts as one colour: JPEG and scanner noise stay below."""

PIECE_GRID_PX = 3
PIECE_SIDE_PX = 50
"""A connected piece of content this wide and high is no text: 24 points at 200 dpi are 67 px from line to line."""


@dataclass(frozen=True, eq=False)
class Ground:
    """A colour that gutters and margins have, and where the figure shows something else.

    content_sums  [H + 1, W + 1] integral of the mask of pixels that are not of this colour
    pieces        [n, 4] boxes x1 y1 x2 y2 of the larger connected components of that mask
    """

    colour_rgb: tuple[int, int, int]
    content_sums: NDArray[np.int32]
    pieces: NDArray[np.int32]
    mask: Bytes = field(repr=False)

    @cached_property
    def _piece_of(self) -> NDArray[np.int32]:
        """The connected component that each pixel of content belongs to, 0 for ground [H, W]."""
        import cv2

        return cv2.connectedComponents(self.mask, connectivity=8)[1]

    def without(self, letters: Sequence[Region]) -> "Ground":
        """The same with letters that stand in the ground taken for ground."""
        import cv2

        height, width = self.mask.shape
        mask = self.mask.copy()
        for x1, y1, x2, y2 in letters:
            around = (max(0, x1 - 4), max(0, y1 - 4), min(width, x2 + 4), min(height, y2 + 4))
            inked = self.content((x1, y1, x2, y2)) * (x2 - x1) * (y2 - y1)
            spilt = self.content(around) * (around[2] - around[0]) * (around[3] - around[1]) - inked
            if x2 > x1 and y2 > y1 and spilt < 0.1 * inked:
                mask[around[1] : around[3], around[0] : around[2]] = 0
        if (mask == self.mask).all():
            return self
        return Ground(self.colour_rgb, cv2.integral(mask), _pieces(mask), mask)

    def are_joined(self, one: Region, other: Region) -> bool:
        """Whether a connected piece of content lies in both regions, each time with some body."""
        counts = [np.bincount(self._piece_of[y1:y2, x1:x2].ravel()) for x1, y1, x2, y2 in (one, other)]
        both = min(len(count) for count in counts)
        return bool((np.minimum(counts[0][1:both], counts[1][1:both]) > PIECE_SIDE_PX).any())

    @property
    def is_paper(self) -> bool:
        """Light and without much hue, as the page itself is; the background of a stained smear has more."""
        return min(self.colour_rgb) >= 215 and max(self.colour_rgb) - min(self.colour_rgb) <= 20

    def content(self, region: Region) -> float:
        """Share of the region that is not ground."""
        x1, y1, x2, y2 = region
        sums = self.content_sums
        total = int(sums[y2, x2]) - int(sums[y1, x2]) - int(sums[y2, x1]) + int(sums[y1, x1])
        return total / max(1, (x2 - x1) * (y2 - y1))

    def largest_piece(self, region: Region) -> int:
        """Area of the box that the largest connected piece has in the region; 0: text at most."""
        x1, y1, x2, y2 = region
        if not len(self.pieces):
            return 0
        pieces = np.clip(self.pieces, (x1, y1, x1, y1), (x2, y2, x2, y2))
        wide, high = pieces[:, 2] - pieces[:, 0], pieces[:, 3] - pieces[:, 1]
        return int((wide * high)[np.minimum(wide, high) >= PIECE_SIDE_PX].max(initial=0))

    def occupancy(self, region: Region, axis: int) -> Floats:
        """Share of content of each column (axis 0) or row (axis 1) of the region."""
        return _line_means(self.content_sums, region, axis)


def _line_means(sums: NDArray[np.int32], region: Region, axis: int) -> Floats:
    x1, y1, x2, y2 = region
    if axis == 0:
        edge = sums[y2, x1 : x2 + 1] - sums[y1, x1 : x2 + 1]
        return np.diff(edge) / (y2 - y1)
    edge = sums[y1 : y2 + 1, x2] - sums[y1 : y2 + 1, x1]
    return np.diff(edge) / (x2 - x1)


@dataclass(frozen=True, eq=False)
class View:
    """The working copy of a figure; `to_figure` is the affine map from its pixels to the figure's, [2, 3]."""

    pixels_rgb: Bytes
    to_figure: Floats
    grounds: tuple[Ground, ...]

    @property
    def whole(self) -> Region:
        height, width = self.pixels_rgb.shape[:2]
        return (0, 0, width, height)

    @cached_property
    def step_sums(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Integrals of the step of brightness over two pixels, in x and in y, at most 48 levels each."""
        import cv2

        grey = cv2.cvtColor(self.pixels_rgb, cv2.COLOR_RGB2GRAY)
        both = []
        for axis in (1, 0):
            step = np.zeros_like(grey)
            inner = cv2.absdiff(
                grey.take(range(2, grey.shape[axis]), axis), grey.take(range(grey.shape[axis] - 2), axis)
            )
            if axis == 1:
                step[:, 1:-1] = np.minimum(inner, 48)
            else:
                step[1:-1] = np.minimum(inner, 48)
            both.append(cv2.integral(step))
        return both[0], both[1]

    def without(self, letters: Sequence[Region]) -> "View":
        """The same view in which letters that stand in gutters are ground."""
        grounds = tuple(ground.without(letters) for ground in self.grounds)
        return View(self.pixels_rgb, self.to_figure, grounds)

    def steps(self, region: Region, axis: int) -> Floats:
        """Mean step of brightness across each column (axis 0) or row (axis 1) of the region."""
        return _line_means(self.step_sums[axis], region, axis)

    def box_in_figure(self, region: Region, width_px: int, height_px: int) -> Box:
        """The region as a box of the figure's own pixels, inside of the figure."""
        x1, y1, x2, y2 = region
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]], float) @ self.to_figure.T
        low, high = corners.min(axis=0), corners.max(axis=0)
        return (
            float(np.clip(low[0], 0, width_px - 1)),
            float(np.clip(low[1], 0, height_px - 1)),
            float(np.clip(high[0], 1, width_px)),
            float(np.clip(high[1], 1, height_px)),
        )

    def region_of(self, box_px: Box) -> Region:
        """A box of the figure's pixels in the working copy."""
        forth = self._from_figure
        x1, y1, x2, y2 = box_px
        corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]], float) @ forth.T
        low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
        _, _, width, height = self.whole
        return (
            int(np.clip(low[0], 0, width)),
            int(np.clip(low[1], 0, height)),
            int(np.clip(high[0], 0, width)),
            int(np.clip(high[1], 0, height)),
        )

    @cached_property
    def _from_figure(self) -> Floats:
        square = np.vstack([self.to_figure, [0.0, 0.0, 1.0]])
        return np.linalg.inv(square)[:2]


def look_at(pixels: Bytes) -> View:
    """The view of a figure [H, W, 3]."""
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, WORKING_SIDE_PX / max(height, width))
    work = pixels
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        work = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    skew_deg = skew_of(work)
    centre = (work.shape[1] / 2, work.shape[0] / 2)
    turn = cv2.getRotationMatrix2D(centre, skew_deg, 1.0)
    if skew_deg:
        size = (work.shape[1], work.shape[0])
        work = cv2.warpAffine(work, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    back = cv2.invertAffineTransform(turn) / scale
    if _noise_of(work) > LEAST_NOISE:
        work = cv2.medianBlur(work, 3)
    work = np.ascontiguousarray(work)
    return View(work, back, tuple(_ground(work, seen) for seen in _ground_colours(work)))


def _noise_of(pixels: Bytes) -> float:
    """Standard deviation of brightness where the figure is plainest, in blocks of 8 x 8 px."""
    height, width = pixels.shape[0] // 16 * 16, pixels.shape[1] // 8 * 8
    if not height or not width:
        return 0.0
    green = pixels[:height, :width, 1].reshape(height // 16, 16, width // 8, 8)[:, :8].astype(np.float32)
    return float(np.percentile(green.std(axis=(1, 3)), 5))


def _ground(pixels: Bytes, seen: "_Seen") -> Ground:
    import cv2

    red, green, blue = seen.colour_rgb
    distance = cv2.absdiff(pixels, np.array([red, green, blue, 0], np.float64))
    channels = cv2.split(distance)
    furthest = cv2.max(cv2.max(channels[0], channels[1]), channels[2])
    threshold = float(np.clip(2 * np.median(seen.spreads) + 5, 5, 28))
    mask = cv2.threshold(furthest, threshold, 1, cv2.THRESH_BINARY)[1]
    return Ground(seen.colour_rgb, cv2.integral(mask), _pieces(mask), mask)


def _pieces(mask: Bytes) -> NDArray[np.int32]:
    """Boxes of the connected components, to PIECE_GRID_PX, that are at least PIECE_SIDE_PX wide and high."""
    import cv2

    height, width = mask.shape
    wide, high = -(-width // PIECE_GRID_PX), -(-height // PIECE_GRID_PX)
    below, right = high * PIECE_GRID_PX - height, wide * PIECE_GRID_PX - width
    padded = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
    kernel = np.ones((PIECE_GRID_PX, PIECE_GRID_PX), np.uint8)
    coarse = np.ascontiguousarray(cv2.dilate(padded, kernel)[1::PIECE_GRID_PX, 1::PIECE_GRID_PX])
    _, _, stats, _ = cv2.connectedComponentsWithStats(coarse, connectivity=8)
    boxes = stats[1:, :4] * PIECE_GRID_PX
    boxes = boxes[(boxes[:, 2:] >= PIECE_SIDE_PX).all(axis=1)]
    boxes[:, 2:] += boxes[:, :2]
    return boxes


@dataclass(eq=False)
class _Seen:
    """A colour that lines of the figure have throughout, how often, and how far their pixels spread around it."""

    colour_rgb: tuple[int, int, int]
    votes: float
    spreads: list[float]


def _ground_colours(pixels: Bytes) -> list[_Seen]:
    """Colours of the margin and of lines of one colour, most frequent first."""
    height, width = pixels.shape[:2]
    found: list[_Seen] = []
    across = pixels[:: max(1, height // NUM_SAMPLED_LINES)]
    down = pixels[:, :: max(1, width // NUM_SAMPLED_LINES)].transpose(1, 0, 2)
    for lines in (across, down):
        eighth = max(1, len(lines) // 8)
        ranks = (eighth, len(lines) // 2, len(lines) - 1 - eighth)
        low, middle, high = np.partition(lines, ranks, axis=0)[list(ranks)]
        spread = (high.astype(int) - low).max(axis=1)
        for at in np.flatnonzero(spread <= GROUND_SPREAD):
            _vote(found, middle[at], 1.0, float(spread[at]))
    ring = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    light = ring[ring.min(axis=1) >= 225]
    if len(light) > 0.1 * len(ring):
        low, middle, high = np.sort(light, axis=0)[[len(light) // 8, len(light) // 2, 7 * len(light) // 8]]
        _vote(found, middle, 4.0, float((high.astype(int) - low).max()))
    return sorted(found, key=lambda seen: -seen.votes)[:MAX_GROUNDS]


def _vote(found: list[_Seen], colour: NDArray[np.generic], weight: float, spread: float) -> None:
    red, green, blue = (int(level) for level in colour)
    for seen in found:
        known = seen.colour_rgb
        if max(abs(known[0] - red), abs(known[1] - green), abs(known[2] - blue)) <= 12:
            seen.votes += weight
            seen.spreads.append(spread)
            return
    found.append(_Seen((red, green, blue), weight, [spread]))


def skew_of(pixels: Bytes) -> float:
    """Degrees to turn the figure by (counter-clockwise) so that its long edges stand upright; 0 where they do.

    The angle whose summed projections of edges are sharpest (Postl 1986, Detection of linear oblique structures and
    skew scan in digitized documents, ICPR), over strips that shift against each other instead of turned pixels.
    """
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    shrink = max(1, round(max(grey.shape) / 900))
    if shrink > 1:
        size = (grey.shape[1] // shrink, grey.shape[0] // shrink)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    angles = np.arange(-MAX_SKEW_DEG, MAX_SKEW_DEG + SKEW_STEP_DEG / 2, SKEW_STEP_DEG)
    sharpness = np.zeros(len(angles))
    for sign, turned in ((1, grey), (-1, np.ascontiguousarray(grey.T))):
        sharpness += _projection_sharpness(turned, angles * sign)
    best = int(sharpness.argmax())
    upright = sharpness[len(angles) // 2]
    angle = float(angles[best])
    if abs(angle) < MIN_SKEW_DEG or sharpness[best] < MIN_SKEW_GAIN * upright:
        return 0.0
    return angle


def _projection_sharpness(grey: Bytes, angles_deg: Floats) -> Floats:
    """Sum of squares of the projected edges in x for each angle."""
    import cv2

    height, width = grey.shape
    if height < 2 * NUM_SKEW_STRIPS or width < 32:
        return np.zeros(len(angles_deg))
    step = np.minimum(cv2.absdiff(grey[:, 1:], grey[:, :-1]), 40)
    bounds = np.linspace(0, height, NUM_SKEW_STRIPS + 1).astype(int)
    strips = np.add.reduceat(step, bounds[:-1], axis=0, dtype=np.int32).astype(np.float32)
    strips -= strips.mean(axis=1, keepdims=True)
    offsets = (bounds[:-1] + bounds[1:]) / 2 - height / 2
    scores = []
    for angle in angles_deg:
        shifts = np.rint(np.tan(math.radians(angle)) * offsets).astype(int)
        total = np.zeros(step.shape[1], np.float32)
        for strip, shift in zip(strips, shifts, strict=True):
            if shift > 0:
                total[shift:] += strip[:-shift]
            elif shift < 0:
                total[:shift] += strip[-shift:]
            else:
                total += strip
        scores.append(float((total**2).sum()))
    return np.array(scores)
