"""MobileNetV3 (Howard et al., "Searching for MobileNetV3", ICCV 2019) for 112 x 112 faces.

The trunk is the published one; its stem has stride 1, so that the maps of a 112 image are those
that the paper's 224 image has (112 to 7 pixels), and its classifier is a face embedding. Hard
swish and squeeze-and-excitation stay in floating point when quantized: measure on the device
before preferring it to a plain network.
"""

from __future__ import annotations

import torch
from torch import nn

from facefoundry.backbones.layers import Embedding, activation, conv_bn

Row = tuple[int, int, int, bool, str, int]

# (kernel, expanded channels, channels, squeeze-and-excitation, activation, stride): tables 1 and 2.
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "hardswish", 2),
    (5, 240, 40, True, "hardswish", 1),
    (5, 240, 40, True, "hardswish", 1),
    (5, 120, 48, True, "hardswish", 1),
    (5, 144, 48, True, "hardswish", 1),
    (5, 288, 96, True, "hardswish", 2),
    (5, 576, 96, True, "hardswish", 1),
    (5, 576, 96, True, "hardswish", 1),
)
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hardswish", 2),
    (3, 200, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1),
    (3, 184, 80, False, "hardswish", 1),
    (3, 480, 112, True, "hardswish", 1),
    (3, 672, 112, True, "hardswish", 1),
    (5, 672, 160, True, "hardswish", 2),
    (5, 960, 160, True, "hardswish", 1),
    (5, 960, 160, True, "hardswish", 1),
)
# The rows, and the width of the last 1x1 convolution.
SIZES = {"small": (SMALL, 576), "large": (LARGE, 960)}


class SqueezeExcite(nn.Module):
    """Scale each channel by what the whole map says (Hu et al., CVPR 2018), a quarter inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inside = _to_multiple_of_8(channels / 4)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inside, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.scale(features)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 linear projection."""

    def __init__(self, inputs: int, row: Row) -> None:
        super().__init__()
        kernel, hidden, outputs, excite, act, stride = row
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers += [conv_bn(inputs, hidden), activation(act, hidden)]
        layers += [conv_bn(hidden, hidden, kernel, stride, groups=hidden), activation(act, hidden)]
        if excite:
            layers.append(SqueezeExcite(hidden))
        self.body = nn.Sequential(*layers, conv_bn(hidden, outputs))
        self.residual = inputs == outputs and stride == 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        body = self.body(features)
        return features + body if self.residual else body


class MobileNetV3(nn.Module):
    """size: small or large."""

    def __init__(self, size: str = "small", embedding_size: int = 128) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size '{size}' is not one of {', '.join(SIZES)}")
        rows, head = SIZES[size]
        inputs = (16, *(row[2] for row in rows[:-1]))
        self.trunk = nn.Sequential(
            conv_bn(3, 16, 3, 1),
            activation("hardswish", 16),
            *(InvertedResidual(channels, row) for channels, row in zip(inputs, rows, strict=True)),
        )
        self.embedding = Embedding(rows[-1][2], head, embedding_size, "hardswish")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.trunk(images))


def _to_multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
