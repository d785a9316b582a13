"""Tissue and grid as GeoJSON (RFC 7946) as QuPath 0.5 imports it: pixels of level 0, annotations with a class name."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathloom.schema import Box
from pathloom.stage import write_json

Ring = list[list[float]]

TISSUE_COLOUR, GRID_COLOUR = (0, 130, 0), (30, 90, 200)


def tissue_features(mask: NDArray[np.bool_], size_l0: tuple[int, int]) -> list[dict[str, Any]]:
    """A Polygon for each piece of the mask [h, w] over the whole slide, its holes as inner rings."""
    height, width = mask.shape
    per_px = np.array([size_l0[0] / width, size_l0[1] / height])
    return [polygon([ring * per_px for ring in rings], "Tissue", TISSUE_COLOUR) for rings in outlines(mask)]


def grid_features(boxes_l0: Iterable[Box]) -> list[dict[str, Any]]:
    """A square Polygon for each tile."""
    return [
        polygon([np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)], "Tile", GRID_COLOUR)
        for x1, y1, x2, y2 in boxes_l0
    ]


def write_geojson(features: Sequence[dict[str, Any]], path: Path) -> None:
    write_json({"type": "FeatureCollection", "features": list(features)}, path)


def outlines(mask: NDArray[np.bool_]) -> list[list[NDArray[np.float64]]]:
    """Each 4-connected piece of the mask as rings [n, 2] of x, y along its pixels' edges: the outer one, then holes.

    Traced by hand, since contours of image libraries run through pixel centres and lose half a pixel on each side.
    Edges are directed with the tissue on their right in a picture (y down), so outer rings have a positive area.
    """
    from scipy.ndimage import label

    pieces, number = label(mask)
    rings: dict[int, list[NDArray[np.float64]]] = {piece: [] for piece in range(1, number + 1)}
    for ring in _rings(mask):
        x, y = ring[0]
        step_x, step_y = np.sign(ring[1] - ring[0]).astype(int)
        # the pixel on the right of the first edge
        column = int(x) + (0 if (step_x, step_y) in ((1, 0), (0, -1)) else -1)
        row = int(y) + (0 if (step_x, step_y) in ((1, 0), (0, 1)) else -1)
        rings[int(pieces[row, column])].append(ring)
    return [sorted(found, key=_area, reverse=True) for found in rings.values()]


def _rings(mask: NDArray[np.bool_]) -> Iterable[NDArray[np.float64]]:
    padded = np.pad(mask, 1)
    inside, up, down = padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    after: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edge, (x1, y1), (x2, y2) in (
        (inside & ~up, (0, 0), (1, 0)),
        (inside & ~right, (1, 0), (1, 1)),
        (inside & ~down, (1, 1), (0, 1)),
        (inside & ~left, (0, 1), (0, 0)),
    ):
        for row, column in np.argwhere(edge).tolist():
            after.setdefault((column + x1, row + y1), []).append((column + x2, row + y2))
    while after:
        start = next(iter(after))
        corners, here, before = [start], start, None
        while True:
            here, before = _step(after, here, before), here
            if here == start:
                break
            corners.append(here)
        yield _without_straight(np.array(corners, float))


def _step(
    after: dict[tuple[int, int], list[tuple[int, int]]], here: tuple[int, int], before: tuple[int, int] | None
) -> tuple[int, int]:
    """The next corner; where two pixels touch at a corner only, the right turn, which stays at the same pixel."""
    options = after[here]
    chosen = options[0]
    if len(options) > 1 and before is not None:
        dx, dy = here[0] - before[0], here[1] - before[1]
        turn_right = (here[0] - dy, here[1] + dx)
        chosen = turn_right if turn_right in options else chosen
    options.remove(chosen)
    if not options:
        del after[here]
    return chosen


def _without_straight(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    ahead, behind = np.roll(corners, -1, axis=0) - corners, corners - np.roll(corners, 1, axis=0)
    return corners[(ahead != behind).any(axis=1)]


def _area(ring: NDArray[np.float64]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _ring(corners: NDArray[np.floating]) -> Ring:
    """Closed: the first corner again at the end (RFC 7946, 3.1.6)."""
    return [[float(x), float(y)] for x, y in [*corners, corners[0]]]


def polygon(
    rings: Sequence[NDArray[np.floating]], name: str, colour: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    """An annotation of class `name`: the outer ring [n, 2] of x, y in pixels of level 0, then its holes.

    Without a colour QuPath gives the class one.
    """
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_ring(ring) for ring in rings]},
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name} | ({"color": list(colour)} if colour else {}),
            "isLocked": False,
        },
    }
