"""From stain concentrations to camera pixels: Beer-Lambert absorption, then exposure to a drawn mean colour.

The mean colour of an image is drawn from ONE distribution for all stains of a preparation, and the densities and the
white balance are moved until the image has it. So the mean colour does not tell one stain from another; how colour
varies inside the image does.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pathloom.phantom.texture import Plane, draw_noise

# Optical density per channel (R, G, B), unit length up to rounding: Ruifrok AC, Johnston DA, "Quantification of
# histochemical staining by color deconvolution", Anal Quant Cytol Histol 2001;23:291-299, table 1.
HEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DAB = (0.27, 0.57, 0.78)
# Eosin at working dilution, with the little red and blue absorption that a section's thickness adds.
_DILUTE_EOSIN = (0.11, 0.62, 0.21)
# The protein counterstain of an IHC slide is the faint blue-grey of weakly bound hematoxylin, not eosin.
_FAINT_HEMATOXYLIN = (0.24, 0.22, 0.13)

# Rows: nuclear stain, protein stain, chromogen.
_VECTORS: Mapping[str, tuple[tuple[float, float, float], ...]] = {
    "H&E": (HEMATOXYLIN, _DILUTE_EOSIN, DAB),
    "IHC": (HEMATOXYLIN, _FAINT_HEMATOXYLIN, DAB),
}

# Mean colour of an image: a pale mauve that both stains reach, spread widely enough to cover scanner differences.
_MEAN_RGB: Mapping[str, tuple[float, float, float]] = {
    "tissue": (196.0, 158.0, 190.0),
    "Papanicolaou": (194.0, 192.0, 200.0),
}
_BRIGHTNESS_SD = 11.0
_CHANNEL_SD = 6.0
_HUE_RANGE = (0.88, 1.14)
_LN10 = float(np.log(10))


def draw_stain_vectors(rng: np.random.Generator, stain: str) -> Plane:
    """Optical density per unit of stain [3 stains, 3 channels], jittered as between laboratories."""
    vectors = np.array(_VECTORS[stain], np.float32)
    jitter = rng.normal(0, 0.035, vectors.shape).astype(np.float32)
    return np.maximum(vectors + jitter * np.linalg.norm(vectors, axis=1, keepdims=True), 0.02)


def draw_mean_rgb(rng: np.random.Generator, preparation: str) -> NDArray[np.float64]:
    """The mean colour [3] (0..255) an image is exposed to; one distribution for all classes of a preparation."""
    brightness = rng.normal(0, _BRIGHTNESS_SD)
    return np.clip(np.array(_MEAN_RGB[preparation]) + brightness + rng.normal(0, _CHANNEL_SD, 3), 120, 222)


def _solve_gain(density: Plane, wanted: float, bounds: tuple[float, float]) -> float:
    """The factor on the density, inside `bounds`, at which the mean transmittance is nearest to `wanted`."""
    gain = (bounds[0] * bounds[1]) ** 0.5
    for _ in range(3):
        transmitted = np.exp(np.float32(-_LN10 * gain) * density)
        slope = -_LN10 * float((transmitted * density).mean()) - 1e-6
        gain = min(max(gain + (wanted - float(transmitted.mean())) / slope, bounds[0]), bounds[1])
    return gain


def expose(density: Plane, mean_rgb: NDArray[np.float64], *, gain_range: tuple[float, float]) -> Plane:
    """Transmitted light [3, H, W] (0..255) of optical density [3, H, W], with the given mean per channel.

    Beer-Lambert: light = 255 * 10 ** -(gain * density + offset). One gain for the three channels (stain strength) is
    found by Newton's method on every third pixel; then each channel may depart from it by HUE_RANGE, so that a hue
    shifts but does not turn into another; what remains, the offset (white balance) does.
    """
    light = np.empty_like(density)
    sample = density[:, ::3, ::3]
    common = _solve_gain(sample, float(mean_rgb.mean()) / 255, gain_range)
    for channel in range(3):
        wanted = mean_rgb[channel] / 255
        gain = _solve_gain(sample[channel], wanted, (common * _HUE_RANGE[0], common * _HUE_RANGE[1]))
        plane = np.exp(np.float32(-_LN10 * gain) * density[channel])
        # Two rounds, because light that would exceed white is lost to clipping.
        for _ in range(2):
            plane = np.minimum(plane * np.float32(wanted / float(plane.mean())), 1.0)
        light[channel] = plane * np.float32(255)
    return light


def to_pixels(light: Plane, rng: np.random.Generator, *, noise_sd: float) -> NDArray[np.uint8]:
    """Light [3, H, W] (0..255) with sensor noise of `noise_sd` grey levels, as pixels [H, W, 3]."""
    pixels = np.empty((*light.shape[1:], 3), np.uint8)
    for channel, plane in enumerate(light):
        noisy = plane + np.float32(noise_sd) * draw_noise(rng, 0.0, len(plane)) + np.float32(0.5)
        pixels[:, :, channel] = np.clip(noisy, 0, 255)
    return pixels
