"""What is wrong with a tile or a slide, by its colours and its sharpness: rules, one threshold each.

All thresholds are our own choice, measured on the 31 tiles of histolab that are named by what they show
(tests/slides/test_quality.py), unless another source stands beside them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from pathloom.slides.tissue import MIN_COLOUR, colour_of, optical_density

Pixels = NDArray[np.uint8]

BLANK_SHARE = 0.001
"""A tile is blank with less stained area; dust may take as much."""
ALMOST_WHITE_SHARE = 0.03
"""A tile with less stained area is almost white: a corner of tissue in almost-white-2 takes 2.1 %."""
INK_SHARE = 0.02
"""A tile with more area under ink is dropped as pen: high-nuclei-score-red-pen has 3.4 %, others at most 0.5 %."""
MIN_SHARPNESS = 4.0
"""Variance of the Laplacian of grey values (Pech-Pacheco et al., ICPR 2000) below which a tile is blurred: out of focus
ink has 1.3, the smoothest tissue in focus 31.
"""
DARK_VALUE = 64
"""Light passes glass: where half of the pixels are darker than this in all colours, the slide is no brightfield one."""
NUCLEUS_DENSITY, NUCLEUS_CONTRAST = 0.1, 0.05
"""Chosen among 864 rules by the order of histolab's nuclei-score tiles of one level: 18 of 19 pairs."""
_INK_SHRINK = 4
"""Ink is looked for on means over 4 x 4 pixels, since it is even where tissue is not; quick besides."""


@dataclass(frozen=True)
class TileQuality:
    """Shares of a tile's area in [0, 1], and its sharpness (variance of the Laplacian of grey values)."""

    stained: float
    red_ink: float
    green_ink: float
    dark_ink: float
    sharpness: float

    @property
    def fault(self) -> str:
        """Why the tile is not used; "" where it can be."""
        if self.stained < BLANK_SHARE and self.dark_ink < INK_SHARE:
            return "blank"
        for name in ("red_ink", "green_ink", "dark_ink"):
            if getattr(self, name) > INK_SHARE:
                return f"pen_{name.removesuffix('_ink')}"
        if self.stained < ALMOST_WHITE_SHARE:
            return "almost_white"
        return "blurred" if self.sharpness < MIN_SHARPNESS else ""


def judge_tile(pixels_rgb: Pixels) -> TileQuality:
    """Of a tile [h, w, 3]."""
    red, green, dark = ink_masks(pixels_rgb)
    return TileQuality(
        stained=float((colour_of(_shrunk(pixels_rgb, 2)) > MIN_COLOUR).mean()),
        red_ink=float(red.mean()),
        green_ink=float(green.mean()),
        dark_ink=float(dark.mean()),
        sharpness=sharpness(pixels_rgb),
    )


def ink_masks(pixels_rgb: Pixels) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """[h / 4, w / 4] each (_INK_SHRINK): red, green, and blue or black ink.

    red    green and blue light are swallowed alike and more than any eosin does, red hardly
    green  red light is swallowed far more than green and blue, and green least: haematoxylin alone lets blue through
    dark   blue: red light is swallowed far more than blue and the tile is dense; black: all are, and alike
    """
    density = optical_density(_shrunk(pixels_rgb, _INK_SHRINK))
    r, g, b = density[..., 0], density[..., 1], density[..., 2]
    red = (g > 0.5) & (b > 0.45) & (r < 0.35 * g) & (b > 0.7 * g)
    green = (r > 0.15) & (r > 1.6 * g) & (r > 1.3 * b) & (b > g - 0.03)
    black = (density.min(axis=2) > 0.7) & (density.max(axis=2) - density.min(axis=2) < 0.15)
    blue = (r > 0.4) & (r > g + 0.05) & (g > b + 0.2)
    return red, green & ~blue, black | blue


def _shrunk(pixels_rgb: Pixels, by: int) -> Pixels:
    return np.asarray(PILImage.fromarray(pixels_rgb).reduce(by))


def nuclei_score(pixels_rgb: Pixels) -> float:
    """How much of a tile [h, w, 3] nuclei take, for ordering tiles of one resolution: in [0, 1].

    Haematoxylin is the stain that swallows red light. Counted are stained pixels, not under ink, whose red optical
    density is above NUCLEUS_DENSITY and NUCLEUS_CONTRAST above the tile's median of stained pixels; their share is
    weighted with the share that is stained, as histolab's NucleiScorer does (Marcolini et al., SoftwareX 2022).
    """
    density = optical_density(pixels_rgb)
    r, g, b = density[..., 0], density[..., 1], density[..., 2]
    red_ink = (r < 0.3 * g) & (g > 0.5) & (b > 0.45)
    green_ink = (r > g + 0.05) & (r > b + 0.05)
    stained = (density.max(axis=2) - density.min(axis=2) > MIN_COLOUR) & ~red_ink & ~green_ink
    if not stained.any():
        return 0.0
    nuclei = stained & (r > max(NUCLEUS_DENSITY, float(np.median(r[stained])) + NUCLEUS_CONTRAST))
    return float(nuclei.sum() / stained.sum() * stained.mean())


def sharpness(pixels_rgb: Pixels) -> float:
    """Variance of the Laplacian of the grey values; falls with the resolution that is lost, and on empty glass."""
    grey = pixels_rgb.mean(axis=2, dtype=np.float32)
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float((around - 4 * grey[1:-1, 1:-1]).var())


def slide_fault(pixels_rgb: Pixels) -> tuple[str, str]:
    """(reason, detail) why a whole slide, as its overview shows it, is not used; ("", "") where it can be.

    fluorescence      more than half of it is dark (DARK_VALUE): the background of fluorescence is black
    swapped_channels  YCbCr read as RGB makes white paper pink, (255, 128, 128), with all greys between; BGR read as RGB
                      turns eosin violet and nuclei reddish, so that dense tissue is redder than pale tissue
    """
    dark = float((pixels_rgb.max(axis=2) < DARK_VALUE).mean())
    if dark > 0.5:
        return (
            "fluorescence",
            f"{dark:.0%} is darker than {DARK_VALUE} in all colours: this is not brightfield",
        )
    flat = pixels_rgb.reshape(-1, 3)
    light = np.median(flat[flat[:, 0] >= np.percentile(flat[:, 0], 90)], axis=0)
    if light[0] > 200 and (np.abs(light[1:] - 128) < 16).all():
        colours = ", ".join(f"{value:.0f}" for value in light)
        return "swapped_channels", f"the paper has the colour {colours}: YCbCr was read as RGB"
    if _is_bgr(flat):
        return (
            "swapped_channels",
            "dense tissue is redder and pale tissue bluer than any stain makes them: BGR",
        )
    return "", ""


def _is_bgr(flat: Pixels) -> bool:
    """Haematoxylin swallows red more than blue, eosin blue more than red, and nuclei are the densest."""
    density = optical_density(flat)
    stained = density[density.max(axis=1) - density.min(axis=1) > MIN_COLOUR]
    if len(stained) < 100:
        return False
    total = stained.sum(axis=1)
    low, high = np.percentile(total, [40, 90])
    blue_minus_red = stained[:, 2] - stained[:, 0]
    pale, dense = np.median(blue_minus_red[total <= low]), np.median(blue_minus_red[total >= high])
    green_most = float((stained[:, 1] >= stained.max(axis=1) - 1e-6).mean())
    return bool(green_most > 0.8 and pale < -0.03 and dense > pale)
