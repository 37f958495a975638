"""What goes wrong between a face and its photograph, by degrees, on aligned crops.

Each function takes (112, 112, 3) uint8 RGB, a level and a random generator, and gives the same
shape; the same level and generator give the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from facefoundry.augmentation import mask_outline, paint, sunglasses_outlines
from facefoundry.benchmarks import Images
from facefoundry.images import Image, decode_image, encode_jpeg
from facefoundry.turning import turned

Degrade = Callable[[Image, float, np.random.Generator], Image]

PHOTONS = 600.0  # that a white pixel receives in full light


@dataclass(frozen=True)
class Factor:
    """A degradation with its levels from mild to hard and what they are measured in."""

    apply: Degrade
    unit: str
    levels: Sequence[float]


def mask(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: how far above the tip of the nose the mask's edge lies."""
    return paint(image, [mask_outline(level)], rng.integers(0, 256, 3))


def sunglasses(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: half the width of a lens."""
    return paint(image, sunglasses_outlines(level, 0.72 * level), rng.integers(0, 50, 3))


def low_light(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: share of the light that is left, in %; the camera's gain makes up for it, so that
    what remains is the noise of fewer photons (and of rounding)."""
    linear = (image / 255.0) ** 2.2
    seen = rng.poisson(linear * PHOTONS * level / 100) / (PHOTONS * level / 100)
    return np.asarray(255 * np.clip(seen, 0, 1) ** (1 / 2.2)).round().astype(np.uint8)


def blur(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: standard deviation of the Gaussian."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), level))


def low_resolution(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: side of the square that the crop is reduced to before it is enlarged again."""
    side, full = round(level), image.shape[0]
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (full, full), interpolation=cv2.INTER_CUBIC))


def jpeg(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: JPEG quality."""
    return decode_image(encode_jpeg(image, round(level)), "a crop as JPEG")


def yaw(image: Image, level: float, rng: np.random.Generator) -> Image:
    """level: degrees by which the head turns further, left or right (see `turned`)."""
    return turned(image, level * rng.choice([-1.0, 1.0]))


FACTORS = {
    "mask": Factor(mask, "edge above the tip of the nose, pixels", (-14, -4, 6, 14)),
    "sunglasses": Factor(sunglasses, "half a lens, pixels", (8, 12, 16, 20)),
    "low light": Factor(low_light, "light left, %", (50, 20, 8, 3)),
    "blur": Factor(blur, "standard deviation, pixels", (1, 2, 3, 5)),
    "low resolution": Factor(low_resolution, "side, pixels", (56, 40, 28, 16)),
    "JPEG": Factor(jpeg, "quality", (50, 25, 10, 4)),
    "yaw": Factor(yaw, "degrees further", (15, 30, 45)),
}


def degrade_all(images: Images, factor: Factor, level: float, seed: int) -> Images:
    """(N, 112, 112, 3): each image with randomness of its own, from (seed, row)."""
    return np.stack(
        [
            factor.apply(image, level, np.random.default_rng([seed, row]))
            for row, image in enumerate(images)
        ]
    )
