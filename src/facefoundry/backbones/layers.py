"""Layers that every convolutional backbone here shares, all friendly to INT8 and TensorRT."""

from __future__ import annotations

import torch
from torch import nn

from facefoundry.errors import FoundryError


def activation(name: str, channels: int) -> nn.Module:
    """relu fuses into INT8 convolutions; prelu (the papers' choice) and hardswish do not."""
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "prelu":
        return nn.PReLU(channels)
    if name == "hardswish":
        return nn.Hardswish(inplace=True)
    raise FoundryError(f"backbone.activation: '{name}' is not one of relu, prelu, hardswish")


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and batch normalisation, no activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Embedding(nn.Module):
    """(B, C, side, side) -> (B, D): 1x1 expansion, global depthwise convolution, linear layer.

    Global depthwise convolution weighs the places of a face, which average pooling would treat
    alike (Chen et al., "MobileFaceNets", 2018).
    """

    def __init__(
        self, channels: int, width: int, embedding_size: int, act: str, side: int = 7
    ) -> None:
        super().__init__()
        self.expand = nn.Sequential(conv_bn(channels, width), activation(act, width))
        self.pool = nn.Sequential(
            nn.Conv2d(width, width, side, groups=width, bias=False), nn.BatchNorm2d(width)
        )
        self.linear = nn.Linear(width, embedding_size, bias=False)
        self.normalise = nn.BatchNorm1d(embedding_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pooled = self.pool(self.expand(features)).flatten(1)
        return self.normalise(self.linear(pooled))
