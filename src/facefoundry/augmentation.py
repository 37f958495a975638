"""Augmentation as part of the data: what a camera, a lens and a scarf do to an aligned crop.

Synthetic faces are cleaner than photographs; DigiFace-1M (Bae et al., WACV 2023) gained 12 points
on LFW by augmentation alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network at import

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from facefoundry.alignment import TEMPLATE
from facefoundry.images import Image
from facefoundry.turning import turned

SENSOR_NOISE = (0.01, 0.08)  # standard deviation as a share of full scale
MASK_HEIGHT = (0.0, 8.0)  # of the edge above the tip of the nose, in pixels of the crop
LENS_WIDTH, LENS_HEIGHT = (13.0, 18.0), (8.0, 13.0)  # from the pupil to the rim
LEAST_SHRUNK = 0.7  # of the side
PITCH_SHARE = 1 / 3  # of the yaw
TURN_STEP = 5.0  # degrees, so that few turns are computed
CURVE = 0.25  # standard deviation of a tone curve's two inner points, as a share of full scale
DISTORTION = (-0.2, 0.2)  # k of r (1 + k r^2) with r = 1 in the corner: pincushion to barrel
Outline = NDArray[np.floating[Any]]  # (N, 2) x, y in pixels


def build_augmentation(options: Mapping[str, Any]) -> A.Compose:
    """Compose (112, 112, 3) uint8 RGB -> the same shape from the values of conf/augmentation/."""
    side = 112
    turn = Turn(options["turn_degrees"], p=options["turn"])
    lens = A.OpticalDistortion(
        DISTORTION,
        mode="fisheye",
        border_mode=cv2.BORDER_REPLICATE,
        p=options["lens_distortion"],
    )
    return A.Compose(
        [
            A.HorizontalFlip(p=options["flip"]),
            *acting(turn),
            SurgicalMask(p=options["mask"]),
            Sunglasses(p=options["sunglasses"]),
            A.Affine(
                scale=tuple(options["scale"]),
                rotate=(-options["rotate_degrees"], options["rotate_degrees"]),
                translate_percent=(-options["shift"], options["shift"]),
                border_mode=cv2.BORDER_REPLICATE,
                p=options["affine"],
            ),
            *acting(lens),
            *acting(A.RandomToneCurve(CURVE, p=options["tone_curve"])),
            *acting(A.PlanckianJitter(p=options["white_balance"])),
            A.RandomBrightnessContrast(
                options["brightness"], options["contrast"], p=options["tone"]
            ),
            A.HueSaturationValue(12, 60, 20, p=options["hue_saturation"]),
            A.ToGray(p=options["grey"]),
            A.OneOf([A.GaussianBlur(blur_limit=(3, 7)), A.MotionBlur((3, 9))], p=options["blur"]),
            A.GaussNoise(std_range=SENSOR_NOISE, p=options["noise"]),
            A.Downscale(
                scale_range=(options["low_resolution_min"], LEAST_SHRUNK),
                interpolation_pair={"downscale": cv2.INTER_AREA, "upscale": cv2.INTER_LINEAR},
                p=options["low_resolution"],
            ),
            A.ImageCompression(quality_range=tuple(options["jpeg_quality"]), p=options["jpeg"]),
            A.CoarseDropout(
                num_holes_range=(1, 1),
                hole_height_range=(side // 8, side // 2),
                hole_width_range=(side // 8, side // 2),
                fill="random_uniform",
                p=options["erase"],
            ),
        ]
    )


def acting(transform: A.BasicTransform) -> list[A.BasicTransform]:
    """The transform; none that never acts, which would draw a number all the same, and change every
    training from before there was one."""
    return [transform] if transform.p else []


def augment(transform: A.Compose, image: Image, seed: int) -> Image:
    """The augmented image: the same for the same image and seed, whoever runs it and when."""
    transform.set_random_seed(seed)
    return np.asarray(transform(image=image)["image"])


class Turn(A.ImageOnlyTransform):
    """The head turned by up to `degrees` to either side, and up or down by a third of that."""

    def __init__(self, degrees: float, p: float) -> None:
        super().__init__(p=p)
        self.degrees = degrees

    def apply(self, img: Image, **params: Any) -> Image:
        return turned(img, *draw_turn(self.degrees, self.random_generator))


def draw_turn(degrees: float, rng: np.random.Generator) -> tuple[float, float]:
    """A yaw of up to `degrees` and a pitch of up to a third of that, in whole steps."""
    limits = np.array([degrees, degrees * PITCH_SHARE])
    yaw, pitch = TURN_STEP * np.round(rng.uniform(-limits, limits) / TURN_STEP)
    return float(yaw), float(pitch)


class SurgicalMask(A.ImageOnlyTransform):
    """A mask from cheek to cheek over nose and chin, in a random colour."""

    def apply(self, img: Image, **params: Any) -> Image:
        rng = self.random_generator
        outline = mask_outline(rng.uniform(*MASK_HEIGHT))
        outline = outline + rng.normal(0, 1.5, outline.shape)
        return paint(img, [outline], rng.integers(0, 256, 3))


class Sunglasses(A.ImageOnlyTransform):
    """Two dark lenses and a bridge."""

    def apply(self, img: Image, **params: Any) -> Image:
        rng = self.random_generator
        outlines = sunglasses_outlines(rng.uniform(*LENS_WIDTH), rng.uniform(*LENS_HEIGHT))
        return paint(img, outlines, rng.integers(0, 50, 3))


def mask_outline(height: float) -> Outline:
    """A mask whose edge lies `height` pixels above the tip of the nose, on an aligned crop."""
    nose, left, right = TEMPLATE[2], TEMPLATE[3], TEMPLATE[4]
    top = nose[1] - height
    return np.array(
        [
            (left[0] - 22, top + 2),
            (nose[0], top - 5),
            (right[0] + 22, top + 2),
            (right[0] + 14, 104),
            (nose[0], 112),
            (left[0] - 14, 104),
        ]
    )


def sunglasses_outlines(width: float, height: float) -> list[Outline]:
    """Two lenses, `width` and `height` from the pupil to the rim in pixels, and a bridge."""
    circle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    lens = np.stack([width * np.cos(circle), height * np.sin(circle)], axis=1)
    (lx, ly), (rx, ry) = TEMPLATE[0], TEMPLATE[1]
    bridge = np.array([(lx, ly - 2), (rx, ry - 2), (rx, ry + 1), (lx, ly + 1)])
    return [lens + TEMPLATE[0], lens + TEMPLATE[1], bridge]


def paint(image: Image, outlines: Sequence[Outline], colour: NDArray[np.integer[Any]]) -> Image:
    """Fill polygons (N, 2) in pixels with one colour, RGB 0..255."""
    painted = image.copy()
    polygons = [np.round(line).astype(np.int32) for line in outlines]
    cv2.fillPoly(painted, polygons, colour.tolist())
    return painted
