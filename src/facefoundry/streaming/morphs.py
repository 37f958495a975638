"""What `facefoundry.morphs` makes, for many pairs of crops at once on a device."""

from __future__ import annotations

import torch
from kornia.color import lab_to_rgb, rgb_to_lab
from torch import Tensor
from torch.nn import functional

from facefoundry.morphs import BEND, FACE, KNOTS, STEEPNESS


def morphs(first: Tensor, second: Tensor) -> Tensor:
    """Faces (N, 3, H, W) uint8 RGB between two aligned ones each, drawn from torch's generator.

    See `facefoundry.morphs.morph`.
    """
    own, other = (rgb_to_lab(images.float() / 255) for images in (first, second))
    coloured = _match_colours(other, own)
    other = torch.where(_chance(own, 0.7), coloured, other)
    shares = torch.rand(len(own), 1, 1, 1, device=own.device) * 0.4 + 0.3
    tilt = 0.3 * torch.randn_like(shares)
    parts = torch.sigmoid(STEEPNESS * (_smooth(own, 1) + tilt))
    share = torch.where(_chance(own, 0.35), shares, parts)
    return bend(lab_to_rgb(own + share * (other - own)) * 255).round().clamp(0, 255).byte()


def bend(images: Tensor) -> Tensor:
    """(N, C, H, W), each displaced by smooth planes of up to BEND pixels' standard deviation."""
    count, _, height, width = images.shape
    strength = BEND * torch.rand(count, 1, 1, 1, device=images.device)
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device),
        torch.arange(width, device=images.device),
        indexing="ij",
    )
    moved = torch.stack([x, y]) + strength * _smooth(images, 2)
    size = torch.tensor([width - 1, height - 1], device=images.device)
    grid = moved.permute(0, 2, 3, 1) * 2 / size - 1
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def _smooth(images: Tensor, planes: int) -> Tensor:
    """(N, planes, H, W) through normal numbers at a few knots."""
    knots = torch.randn(len(images), planes, KNOTS, KNOTS, device=images.device)
    return functional.interpolate(knots, images.shape[2:], mode="bicubic")


def _chance(images: Tensor, share: float) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, device=images.device) < share


def _match_colours(lab: Tensor, like: Tensor) -> Tensor:
    (mean, deviation), (target_mean, target_deviation) = _statistics(lab), _statistics(like)
    return (lab - mean) / deviation * target_deviation + target_mean


def _statistics(lab: Tensor) -> tuple[Tensor, Tensor]:
    face = lab[:, :, FACE[0], FACE[1]]
    deviation = face.std((2, 3), keepdim=True) + 0.4  # a hundredth of the range, as in uint8
    return face.mean((2, 3), keepdim=True), deviation
