"""Masks of things in pictures: stored, measured, matched, and drawn from boxes or points without any weights.

A mask is bool [height, width] over the whole picture unless said otherwise. A prompt is a box (x1, y1, x2, y2) or a
point (x, y) in pixels of the picture, counted from the corner of its first pixel.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from pathloom.schema import Box, Region

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Pixels = NDArray[np.uint8]
    Floats = NDArray[np.float32]

CLASSICAL = "classical"
"""The segmenter that needs no weights."""

Point = tuple[float, float]
Prompt = Box | Point

Segmenter = Callable[["Pixels", Sequence[Prompt]], "Iterator[Mask]"]
"""Pixels [h, w, 3] and prompts to one mask [h, w] a prompt, in their order; an empty one where nothing is found.

Masks come one at a time, since hundreds of them over a large picture need not be held together.
"""


# ------------------------------------------------------------------------------------------------ stored
def encode_mask(bits: "Mask") -> bytes:
    """PNG of one bit a pixel. `bits` [h, w] covers a box rounded outwards. Raises ValueError when none is set."""
    import numpy as np

    if bits.ndim != 2 or not bits.any():
        raise ValueError(
            f"a mask of shape {bits.shape} with {np.count_nonzero(bits)} pixels has nothing to keep"
        )
    buffer = io.BytesIO()
    PILImage.fromarray(np.ascontiguousarray(bits, dtype=bool)).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class CutMask:
    """The part of a mask that lies in a box: `bits` [h, w] begin at pixel (x_px, y_px), and all around is unset."""

    x_px: int
    y_px: int
    bits: "Mask"

    def of(self, mask: "Mask") -> "Mask":
        """The same part of a mask over the whole picture."""
        height, width = self.bits.shape
        part: Mask = mask[self.y_px : self.y_px + height, self.x_px : self.x_px + width]
        return part

    def trimmed(self) -> "CutMask":
        """The same mask in the smallest box. Raises ValueError if nothing is set."""
        import numpy as np

        rows, columns = np.flatnonzero(self.bits.any(axis=1)), np.flatnonzero(self.bits.any(axis=0))
        if not len(rows):
            raise ValueError("an empty mask has no box")
        left, top = int(columns[0]), int(rows[0])
        bits = self.bits[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        return CutMask(self.x_px + left, self.y_px + top, bits)

    def deepest(self) -> Point:
        """Middle of the set pixel that is farthest from the outline, in pixels of the picture."""
        import numpy as np
        from scipy.ndimage import distance_transform_edt

        depth = distance_transform_edt(np.pad(self.bits, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
        return (self.x_px + int(column) + 0.5, self.y_px + int(row) + 0.5)


def region_of_cut(cut: CutMask, label: str | None = None, *, image: int = 0) -> Region:
    """The Region in the smallest box that holds what is set. Raises ValueError if nothing is."""
    cut = cut.trimmed()
    height, width = cut.bits.shape
    box = (cut.x_px, cut.y_px, cut.x_px + width, cut.y_px + height)
    return Region(box_px=box, label=label, mask_png=encode_mask(cut.bits), image=image)


def region_of(mask: "Mask", label: str | None = None, *, image: int = 0) -> Region:
    """`region_of_cut` of a mask over the whole picture."""
    return region_of_cut(CutMask(0, 0, mask), label, image=image)


def cut_mask_of(region: Region, size_px: tuple[int, int]) -> CutMask:
    """The Region's mask within its box; `size_px` is the picture's width and height.

    Raises ValueError when it has none, when it is unreadable or empty, of another size than the box rounded outwards,
    or when that reaches beyond the picture.
    """
    import numpy as np

    if region.mask_png is None:
        raise ValueError(f"the region at {region.box_px} has no mask")
    x1, y1, x2, y2 = (*map(math.floor, region.box_px[:2]), *map(math.ceil, region.box_px[2:]))
    if x1 < 0 or y1 < 0 or x2 > size_px[0] or y2 > size_px[1]:
        raise ValueError(
            f"the region at {region.box_px} reaches beyond the picture of {size_px[0]}x{size_px[1]} px"
        )
    try:
        picture = PILImage.open(io.BytesIO(region.mask_png), formats=("PNG",))
        if picture.size != (x2 - x1, y2 - y1):
            raise ValueError(
                f"a mask of another size: {picture.size[0]}x{picture.size[1]} px over a box of {x2 - x1}x{y2 - y1}"
            )
        bits = np.array(picture.convert("1"), dtype=bool)
    except (UnidentifiedImageError, PILImage.DecompressionBombError, OSError, SyntaxError) as error:
        raise ValueError(f"the mask of the region at {region.box_px} is no readable PNG: {error}") from error
    if not bits.any():
        raise ValueError(f"the mask of the region at {region.box_px} is empty")
    return CutMask(x1, y1, bits)


def mask_of(region: Region, size_px: tuple[int, int]) -> "Mask":
    """The Region's mask [height, width] over the picture of `size_px` (width, height); errors of `cut_mask_of`."""
    import numpy as np

    cut = cut_mask_of(region, size_px)
    mask: Mask = np.zeros((size_px[1], size_px[0]), dtype=bool)
    cut.of(mask)[:] = cut.bits
    return mask


# ---------------------------------------------------------------------------------------------- measured
def _share(part: float, whole: float, other: float) -> float:
    """part / whole; without a whole 1 if the other side is empty too, else 0."""
    return part / whole if whole else float(not other)


def _areas(predicted: "Mask", true: "Mask") -> tuple[int, int, int]:
    import numpy as np

    if predicted.shape != true.shape:
        raise ValueError(f"a predicted mask of another size: {predicted.shape}, the true one {true.shape}")
    return (
        int(np.count_nonzero(predicted & true)),
        int(np.count_nonzero(predicted)),
        int(np.count_nonzero(true)),
    )


def dice(predicted: "Mask", true: "Mask") -> float:
    """2 |P and T| / (|P| + |T|) (Dice 1945). Both empty is 1. Raises ValueError for masks of different sizes."""
    shared, of_predicted, of_true = _areas(predicted, true)
    return _share(2 * shared, of_predicted + of_true, 0)


def iou(predicted: "Mask", true: "Mask") -> float:
    """|P and T| / |P or T| (Jaccard). Both empty is 1. Raises ValueError for masks of different sizes."""
    shared, of_predicted, of_true = _areas(predicted, true)
    return _share(shared, of_predicted + of_true - shared, 0)


def precision(predicted: "Mask", true: "Mask") -> float:
    """|P and T| / |P|. Both empty is 1, one empty is 0. Raises ValueError for masks of different sizes."""
    shared, of_predicted, of_true = _areas(predicted, true)
    return _share(shared, of_predicted, of_true)


def recall(predicted: "Mask", true: "Mask") -> float:
    """|P and T| / |T|. Both empty is 1, one empty is 0. Raises ValueError for masks of different sizes."""
    shared, of_predicted, of_true = _areas(predicted, true)
    return _share(shared, of_true, of_predicted)


@dataclass(frozen=True)
class Overlaps:
    """Pixels that P predicted masks share with T true ones, and what all masks of a side cover together.

    shared      [P, T]
    predicted   [P] pixels of each predicted mask
    true        [T] pixels of each true mask
    union       (shared, predicted, true): pixels of the two unions and of what they share
    """

    shared: "NDArray[np.float64]"
    predicted: "NDArray[np.float64]"
    true: "NDArray[np.float64]"
    union: tuple[int, int, int]

    def iou(self) -> "NDArray[np.float64]":
        """[P, T]; 0 where both masks are empty."""
        import numpy as np

        either = self.predicted[:, None] + self.true[None] - self.shared
        return self.shared / np.maximum(either, 1.0)


def overlaps(predicted: Iterable["Mask"], true: Sequence[CutMask], size_px: tuple[int, int]) -> Overlaps:
    """Count once what every measure needs. One predicted mask is held at a time.

    Raises ValueError for a predicted mask of another size than the picture.
    """
    import numpy as np

    shape = (size_px[1], size_px[0])
    covered, truth = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for cut in true:
        cut.of(truth)[:] |= cut.bits
    shared, areas = [], []
    for mask in predicted:
        if mask.shape != shape:
            raise ValueError(f"a predicted mask of another size: {mask.shape}, the picture {shape}")
        shared.append([np.count_nonzero(cut.of(mask) & cut.bits) for cut in true])
        areas.append(np.count_nonzero(mask))
        covered |= mask
    return Overlaps(
        np.array(shared, dtype=np.float64).reshape(len(areas), len(true)),
        np.array(areas, dtype=np.float64),
        np.array([np.count_nonzero(cut.bits) for cut in true], dtype=np.float64),
        _areas(covered, truth),
    )


def match_overlaps(overlap: "NDArray[np.float64]") -> list[tuple[int, int]]:
    """Greedy one-to-one pairs (predicted, true) of an overlap matrix [P, T], the largest overlap first.

    Equal overlaps go in the order of the predicted and then of the true ones. Any overlap above 0 makes a pair: a
    poor pair is paid its poor overlap, so no threshold decides, and the order of writing does not matter.
    """
    import numpy as np

    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(overlap)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    taken: tuple[set[int], set[int]] = (set(), set())
    for place in order:
        pair = (int(rows[place]), int(columns[place]))
        if pair[0] not in taken[0] and pair[1] not in taken[1]:
            taken[0].add(pair[0])
            taken[1].add(pair[1])
            pairs.append(pair)
    return pairs


# ------------------------------------------------------------------------------------------------- drawn
def fill_boxes(pixels: "Pixels", prompts: Sequence[Prompt]) -> "Iterator[Mask]":
    """The baseline of every segmenter: each box filled, its edges rounded to whole pixels; a point fills nothing."""
    import numpy as np

    for prompt in prompts:
        mask: Mask = np.zeros(pixels.shape[:2], dtype=bool)
        if len(prompt) == 4:
            x1, y1, x2, y2 = (max(0, round(edge)) for edge in prompt)
            mask[y1:y2, x1:x2] = True
        yield mask


WINDOW_MARGIN = 0.25
"""How far the window reaches beyond each side of the box, in its width or height: there lies what surely is around."""
MIN_MARGIN_PX = 3
WORK_SIDE_PX = 128
"""Larger windows are read at every second, third ... pixel, which bounds the time of a box and the mask's precision."""
INNER_RADIUS, OUTER_RADIUS = 0.7, 1.15
"""Of the ellipse that touches the box (radius 1): within the first lies the thing, beyond the second what is around."""
COLOUR_GAIN = 0.5
"""Weight of the colours' log-odds: neighbouring pixels are no independent witnesses."""
PRIOR_SLOPE, PRIOR_LIMIT, COLOUR_LIMIT = 6.0, 4.0, 6.0
"""Log-odds by place fall with this slope from the middle of the box, 0 on the ellipse; both are held in bounds."""
NOISE_OD = 0.02
"""Scatter of optical density that every side is granted: a picture without noise would make any difference certain."""
MIN_CONTRAST_OD = 0.003
"""Sides that differ less in their mean colour are one: nothing stands out."""
NUM_ROUNDS = 3
POINT_SIDES_PX = (10, 16, 24, 36, 54, 80)
"""Sizes that are tried around a point, as its thing's is not known."""


def segment_classically(pixels: "Pixels", prompts: Sequence[Prompt]) -> "Iterator[Mask]":
    """A mask for each prompt from colour and place alone; `pixels` are uint8 [h, w, 3]. Empty where nothing stands out.

    Box. Its window reaches WINDOW_MARGIN beyond it. Colours are optical densities (Ruifrok and Johnston 2001; white is
    0). The pixels in the inner ellipse and those around the box are the first guess of the two sides. Then NUM_ROUNDS
    times: Fisher's linear discriminant between the sides gives each pixel log-odds by colour, the ellipse that touches
    the box gives log-odds by place, and their sum says how far a pixel belongs to each side. So any stain, bright or
    dark, is separated by what sets it apart here. The largest piece by the middle, with its holes filled, is the mask;
    it never leaves the box. This is GrabCut (Rother et al. 2004) with one Gaussian a side and a prior of place in the
    stead of its graph. OpenCV's GrabCut, three rounds in the same windows, took 2 to 3 times the time for nuclei and 90
    times for cells of 200 px; among crowded nuclei it loses the thing (Dice 0.30 on dsb2018 where this reaches 0.86).

    Point. Boxes of POINT_SIDES_PX around it are tried; of the pieces that hold the point, the one is taken whose colour
    differs most from the two pixels around it. That is much rougher than a box, more so off a thing's middle. A point
    beyond the picture prompts nothing.

    The constants of boxes were chosen on regions/monuseg and cytology/herlev_masks, the sizes around a point also on
    regions/dsb2018. Things that are no compact spot of their own colour, as regions of a tumour, are drawn worse than
    by filling the box.
    """
    import numpy as np

    density = (-np.log10((np.arange(256) + 1.0) / 256.0)).astype(np.float32)[pixels]
    for prompt in prompts:
        mask: Mask = np.zeros(pixels.shape[:2], dtype=bool)
        piece = _piece_in_box(density, prompt) if len(prompt) == 4 else _piece_at_point(density, prompt)
        if piece is not None:
            piece.of(mask)[:] = piece.bits
        yield mask


@dataclass(frozen=True)
class _Window:
    """The surroundings of a box, read at every `step`-th pixel; arrays are [rows, columns] of what is read."""

    box: Box
    x_px: int
    y_px: int
    step: int
    full_shape: tuple[int, int]
    density: "Floats"
    radius: "Floats"
    inside: "Mask"


def _window(density: "Floats", box: Box) -> _Window | None:
    """None for a box that no pixel's middle lies in."""
    import numpy as np

    height, width = density.shape[:2]
    half_x, half_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    if half_x <= 0 or half_y <= 0:
        return None
    reach_x = max(MIN_MARGIN_PX, 2 * half_x * WINDOW_MARGIN)
    reach_y = max(MIN_MARGIN_PX, 2 * half_y * WINDOW_MARGIN)
    left, top = max(0, int(box[0] - reach_x)), max(0, int(box[1] - reach_y))
    right, bottom = min(width, math.ceil(box[2] + reach_x)), min(height, math.ceil(box[3] + reach_y))
    step = max(1, math.ceil(max(right - left, bottom - top) / WORK_SIDE_PX))
    # Middles of the pixels, in half widths and half heights from the middle of the box.
    across = (np.arange(left, right, step, dtype=np.float32) + step / 2 - (box[0] + box[2]) / 2) / half_x
    down = (np.arange(top, bottom, step, dtype=np.float32) + step / 2 - (box[1] + box[3]) / 2) / half_y
    inside = (np.abs(down)[:, None] <= 1) & (np.abs(across)[None] <= 1)
    if not inside.any():
        return None
    radius = np.sqrt(down[:, None] ** 2 + across[None] ** 2)
    part = density[top:bottom:step, left:right:step]
    return _Window(box, left, top, step, (bottom - top, right - left), part, radius, inside)


def _thing_in(window: _Window) -> "Mask | None":
    """[rows, columns] of the window: pixels in the box that rather are the thing than its surroundings."""
    import numpy as np

    colours = window.density.reshape(-1, 3)
    radius, inside = window.radius.ravel(), window.inside.ravel()
    by_place = np.clip(PRIOR_SLOPE * (1 - radius), -PRIOR_LIMIT, PRIOR_LIMIT)
    thing = (inside & (radius < INNER_RADIUS)).astype(np.float32)
    around = (~inside | (radius > OUTER_RADIUS)).astype(np.float32)
    noise = np.eye(3, dtype=np.float32) * NOISE_OD**2
    log_odds = by_place
    for _ in range(NUM_ROUNDS):
        sums = (thing.sum(), around.sum())
        if min(sums) < 1:
            return None
        middles = (thing @ colours / sums[0], around @ colours / sums[1])
        difference = middles[0] - middles[1]
        if np.linalg.norm(difference) < MIN_CONTRAST_OD:
            return None
        off_thing, off_around = colours - middles[0], colours - middles[1]
        spread = (off_thing * thing[:, None]).T @ off_thing + (off_around * around[:, None]).T @ off_around
        direction = np.linalg.solve(spread / sum(sums) + noise, difference)
        by_colour = COLOUR_GAIN * ((colours - (middles[0] + middles[1]) / 2) @ direction)
        log_odds = np.clip(by_colour, -COLOUR_LIMIT, COLOUR_LIMIT) + by_place
        thing = np.where(inside, 1 / (1 + np.exp(-log_odds)), 0.0).astype(np.float32)
        around = 1 - thing
    return ((log_odds > 0) & inside).reshape(window.inside.shape)


def _piece_in_box(density: "Floats", box: Any) -> CutMask | None:
    """The largest piece, where a pixel counts the less the farther it lies from the middle of the box."""
    import numpy as np
    from scipy.ndimage import binary_fill_holes, label

    window = _window(density, box)
    found = None if window is None else _thing_in(window)
    if window is None or found is None or not found.any():
        return None
    pieces, number = label(found)
    if number > 1:
        weights = np.bincount(pieces.ravel(), weights=np.exp(-(window.radius.ravel() ** 2)))
        found = pieces == 1 + int(np.argmax(weights[1:]))
    return _at_full_size(binary_fill_holes(found), window)


def _at_full_size(found: "Mask", window: _Window) -> CutMask:
    """Each pixel that was read stands for step x step pixels of the picture, as far as they lie in the box."""
    height, width = window.full_shape
    bits = found.repeat(window.step, axis=0).repeat(window.step, axis=1)[:height, :width]
    if window.step > 1:
        x1, y1, x2, y2 = window.box
        bits[: max(0, round(y1) - window.y_px)] = bits[max(0, round(y2) - window.y_px) :] = False
        bits[:, : max(0, round(x1) - window.x_px)] = bits[:, max(0, round(x2) - window.x_px) :] = False
    return CutMask(window.x_px, window.y_px, bits)


def _piece_at_point(density: "Floats", point: Any) -> CutMask | None:
    """The piece that holds the point and stands out most from the two pixels around it, of all sizes tried."""
    import numpy as np
    from scipy.ndimage import binary_dilation, binary_fill_holes, label

    height, width = density.shape[:2]
    x, y = point
    if not (0 <= x <= width and 0 <= y <= height):
        return None
    column, row = min(int(x), width - 1), min(int(y), height - 1)
    best, found = 0.0, None
    for side in POINT_SIDES_PX:
        window = _window(density, (x - side / 2, y - side / 2, x + side / 2, y + side / 2))
        thing = None if window is None else _thing_in(window)
        if window is None or thing is None:
            continue
        pieces, _ = label(thing)
        number = pieces[(row - window.y_px) // window.step, (column - window.x_px) // window.step]
        if not number:
            continue
        piece = binary_fill_holes(pieces == number)
        ring = binary_dilation(piece, iterations=2) & ~piece
        if not ring.any():
            continue
        contrast = np.linalg.norm(window.density[piece].mean(axis=0) - window.density[ring].mean(axis=0))
        if contrast > best:
            best, found = float(contrast), _at_full_size(piece, window)
    return found
