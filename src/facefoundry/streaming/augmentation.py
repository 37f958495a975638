"""What `facefoundry.augmentation` does to crops, on a GPU, by Kornia.

The same options and the same chances; the effects are Kornia's and so are not equal in every pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.alignment import SIZE
from facefoundry.augmentation import (
    CURVE,
    DISTORTION,
    LEAST_SHRUNK,
    LENS_HEIGHT,
    LENS_WIDTH,
    MASK_HEIGHT,
    SENSOR_NOISE,
    Outline,
    draw_turn,
    mask_outline,
    sunglasses_outlines,
)
from facefoundry.turning import sources

SHAPES = 64  # of turns, of masks and of sunglasses, from which each image's is drawn
SIDES = 8  # to which images are reduced at most in one batch


class Augmentation(nn.Module):
    """Batches (N, 3, 112, 112) uint8 RGB on any device -> the same shape, drawn from torch's
    generator; options: the values of conf/augmentation."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        masks = [[mask_outline(rng.uniform(*MASK_HEIGHT))] for _ in range(SHAPES)]
        masks = [[line + rng.normal(0, 1.5, line.shape) for line in lines] for lines in masks]
        glasses = [
            sunglasses_outlines(rng.uniform(*LENS_WIDTH), rng.uniform(*LENS_HEIGHT))
            for _ in range(SHAPES)
        ]
        turns = [draw_turn(options["turn_degrees"], rng) for _ in range(SHAPES)]
        curve, balance = options["tone_curve"], options["white_balance"]
        tone, degrees, shift = options["tone"], options["rotate_degrees"], options["shift"]
        self.effects = nn.Sequential(
            K.RandomHorizontalFlip(p=options["flip"]),
            *([Turned(turns, options["turn"])] if options["turn"] else []),
            Covered(masks, 1.0, options["mask"]),
            Covered(glasses, 0.2, options["sunglasses"]),
            K.RandomAffine(
                degrees,
                (shift, shift),
                tuple(options["scale"]),
                padding_mode="border",
                p=options["affine"],
            ),
            LensDistortion(options["lens_distortion"]),
            *([ToneCurve(curve)] if curve else []),
            *([K.RandomPlanckianJitter(p=balance)] if balance else []),
            K.ColorJiggle(options["brightness"], options["contrast"], p=tone),
            K.ColorJiggle(0.08, 0.0, 0.4, 12 / 180, p=options["hue_saturation"]),
            K.RandomGrayscale(p=options["grey"]),
            K.RandomGaussianBlur((7, 7), (0.6, 1.6), p=options["blur"] / 2),
            K.RandomMotionBlur((3, 9), 180.0, 0.5, p=options["blur"] / 2),
            SensorNoise(options["noise"]),
            LowResolution(options["low_resolution_min"], LEAST_SHRUNK, options["low_resolution"]),
            K.RandomJPEG(tuple(map(float, options["jpeg_quality"])), p=options["jpeg"]),
            K.RandomErasing(scale=(1 / 64, 1 / 4), ratio=(0.25, 4.0), p=options["erase"]),
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """In an order of its own, so that what falls to the first rows falls to any."""
        order = torch.randperm(len(images), device=images.device)
        shuffled = self.effects(images[order].float() / 255)
        augmented = torch.empty_like(images)
        augmented[order] = (shuffled * 255).round().clamp(0, 255).to(torch.uint8)
        return augmented


class Effect(nn.Module):
    """Changes a fixed share `p` of the rows of a batch: a draw for each would halt the GPU."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, images: Tensor) -> Tensor:
        count = round(self.p * len(images))
        chosen = torch.randperm(len(images), device=images.device)[:count]
        if count:
            images = images.index_copy(0, chosen, self.change(images[chosen]))
        return images

    def change(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class Turned(Effect):
    """Heads turned by (yaw, pitch) in degrees, one of `turns` for each."""

    grids: Tensor

    def __init__(self, turns: list[tuple[float, float]], p: float) -> None:
        super().__init__(p)
        places = np.stack([np.stack(sources(*turn), axis=-1) for turn in turns])
        self.register_buffer("grids", torch.from_numpy(2 * places / (SIZE - 1) - 1))

    def change(self, images: Tensor) -> Tensor:
        which = torch.randint(len(self.grids), (len(images),), device=images.device)
        grid = self.grids[which]
        return functional.grid_sample(images, grid, padding_mode="border", align_corners=True)


class Covered(Effect):
    """Polygons in one random colour, no channel brighter than `brightest` (0..1)."""

    planes: Tensor

    def __init__(self, shapes: list[list[Outline]], brightest: float, p: float) -> None:
        super().__init__(p)
        self.brightest = brightest
        self.register_buffer("planes", torch.stack([_filled(outlines) for outlines in shapes]))

    def change(self, images: Tensor) -> Tensor:
        which = torch.randint(len(self.planes), (len(images),), device=images.device)
        colour = torch.rand(len(images), 3, 1, 1, device=images.device) * self.brightest
        return images.lerp(colour.expand_as(images), self.planes[which])


class LensDistortion(Effect):
    """Every point is taken from r (1 + k r^2), r = 1 in the corner; beyond the edge, its colour."""

    def change(self, images: Tensor) -> Tensor:
        count, least, most = len(images), *DISTORTION
        k = torch.rand(count, 1, 1, 1, device=images.device) * (most - least) + least
        still = torch.eye(2, 3, device=images.device).expand(count, 2, 3)
        grid = functional.affine_grid(still, list(images.shape), align_corners=False)
        bent = grid * (1 + k * grid.square().sum(3, keepdim=True) / 2)
        return functional.grid_sample(images, bent, padding_mode="border", align_corners=False)


class ToneCurve(Effect):
    """A cubic Bezier curve from 0 to 1 over an image's values, its inner points moved at random."""

    def change(self, images: Tensor) -> Tensor:
        moved = torch.randn(2, len(images), 1, 1, 1, device=images.device) * CURVE
        low, high = (0.25 + moved[0]).clamp(0, 1), (0.75 + moved[1]).clamp(0, 1)
        rest = 1 - images
        return 3 * rest**2 * images * low + 3 * rest * images**2 * high + images**3


class SensorNoise(Effect):
    def change(self, images: Tensor) -> Tensor:
        least, most = SENSOR_NOISE
        strength = torch.rand(len(images), 1, 1, 1, device=images.device) * (most - least) + least
        return (images + strength * torch.randn_like(images)).clamp(0, 1)


class LowResolution(Effect):
    """Reduced to between `least` and `most` of the side and enlarged again."""

    def __init__(self, least: float, most: float, p: float) -> None:
        super().__init__(p)
        self.sides = [round(side) for side in np.linspace(least * SIZE, most * SIZE, SIDES)]

    def change(self, images: Tensor) -> Tensor:
        parts = images.chunk(SIDES)
        return torch.cat(
            [_reduced(part, side) for part, side in zip(parts, self.sides, strict=False)]
        )


def _reduced(images: Tensor, side: int) -> Tensor:
    small = functional.interpolate(images, side, mode="area")
    return functional.interpolate(small, images.shape[2:], mode="bilinear")


def _filled(outlines: list[Outline]) -> Tensor:
    """(1, 112, 112), 1 inside the polygons."""
    plane = np.zeros((SIZE, SIZE), np.float32)
    cv2.fillPoly(plane, [np.round(line).astype(np.int32) for line in outlines], 1.0)
    return torch.from_numpy(plane)[None]
