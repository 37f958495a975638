"""Faces between two faces: new ones, for a teacher that embeds whatever it is shown.

Aligned crops share where eyes, nose and mouth are, so that a blend of two, or parts of the one in
the other, is a face of somebody else; it costs a fiftieth of a StyleGAN image. Blending as in
mixup (Zhang et al., ICLR 2018), but with the teacher's own answer for the blend in place of a blend
of labels (Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", CVPR
2022).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facefoundry.data import Crops
from facefoundry.images import Image
from facefoundry.progress import track

Plane = NDArray[np.float32]
Random = np.random.Generator

FACE = (slice(20, 100), slice(20, 92))  # rows and columns whose colours are matched
KNOTS = 4  # of the smooth random planes, along each side
STEEPNESS = 4.0  # of the borders between the parts
BEND = 4.0  # standard deviation of displacements in pixels, at most


def morph(first: Image, second: Image, rng: Random) -> Image:
    """A face (112, 112, 3) uint8 RGB between two aligned ones of that shape.

    One in three is a blend, the others take soft-edged parts of each; mostly in the colours of the
    first. Then the whole is bent a little, which changes the proportions of the face.
    """
    own, other = _lab(first), _lab(second)
    if rng.random() < 0.7:
        other = match_colours(other, own)
    if rng.random() < 0.35:
        share = np.full(own.shape[:2], rng.uniform(0.3, 0.7), np.float32)
    else:
        share = 1 / (1 + np.exp(-STEEPNESS * (smooth(rng, own.shape[:2]) + 0.3 * rng.normal())))
    mixed = own + share[..., None] * (other - own)
    image = cv2.cvtColor(np.clip(mixed, 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
    return bend(np.asarray(image), rng, rng.uniform(0, BEND))


def morphs(crops: Crops, among: NDArray[np.int64], count: int, seed: int) -> Crops:
    """`count` morphs of pairs of crops (N, 112, 112, 3) uint8 RGB, drawn from those at the places
    `among`."""
    found = np.empty((count, *crops.shape[1:]), np.uint8)
    for number in track(range(count), "morphing faces", unit="images"):
        rng = np.random.default_rng([seed, number])
        first, second = rng.choice(among, 2, replace=False)
        found[number] = morph(crops[first], crops[second], rng)
    return found


def match_colours(lab: Plane, like: Plane) -> Plane:
    """(H, W, 3) with the mean and the deviation of `like` in each channel, by the face's own."""
    mean, deviation = _statistics(lab)
    target_mean, target_deviation = _statistics(like)
    return (lab - mean) / deviation * target_deviation + target_mean


def bend(image: Image, rng: Random, pixels: float) -> Image:
    """Displaced by two smooth planes with a standard deviation of so many pixels."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.asarray(
        cv2.remap(
            image,
            columns + pixels * smooth(rng, (height, width)),
            rows + pixels * smooth(rng, (height, width)),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    )


def smooth(rng: Random, size: tuple[int, int]) -> Plane:
    """A plane through normal numbers at a few knots."""
    knots = rng.normal(size=(KNOTS, KNOTS)).astype(np.float32)
    plane = cv2.resize(knots, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(plane, np.float32)


def _lab(image: Image) -> Plane:
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)


def _statistics(lab: Plane) -> tuple[NDArray[Any], NDArray[Any]]:
    face = lab[FACE].reshape(-1, 3)
    return face.mean(0), face.std(0) + 1
