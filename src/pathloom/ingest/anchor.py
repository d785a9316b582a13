"""The anchor cell of a tile: the one that is asked about, framed by a box that is drawn on the picture."""

from math import ceil, floor

from PIL import Image as PILImage
from PIL import ImageDraw

from pathloom.schema import Box

FRAME_RGB = (0, 200, 0)
"""A green that no Papanicolaou stain gives. Our own choice: the colour of the published corpus is not known."""


def mark_anchor(picture: PILImage.Image, box_px: Box) -> PILImage.Image:
    """An RGB copy with the box framed by a line as wide as a 120th of the longer side, at least one pixel.

    The line runs outside the box, so that it hides nothing of the cell. A side that would fall off the picture lies on
    its edge: a cell that is cut by the edge still has a closed frame.
    """
    width_px = max(1, round(max(picture.size) / 120))
    x1, y1, x2, y2 = box_px
    frame = (
        max(floor(x1) - width_px, 0),
        max(floor(y1) - width_px, 0),
        min(ceil(x2) - 1 + width_px, picture.width - 1),
        min(ceil(y2) - 1 + width_px, picture.height - 1),
    )
    marked = picture.convert("RGB")
    if marked is picture:
        marked = picture.copy()
    ImageDraw.Draw(marked).rectangle(frame, outline=FRAME_RGB, width=width_px)
    return marked
