"""MobileFaceNet (Chen et al., "MobileFaceNets", CCBR 2018), with a width and a choice of stem."""

from __future__ import annotations

import torch
from torch import nn

from facefoundry.backbones.layers import Embedding, activation, conv_bn

# (expansion, channels, repeats, stride) of the paper's table 1, after the stem.
TABLE = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection, and a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, act: str) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.body = nn.Sequential(
            conv_bn(inputs, hidden),
            activation(act, hidden),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            activation(act, hidden),
            conv_bn(hidden, outputs),
        )
        self.residual = inputs == outputs and stride == 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        body = self.body(features)
        return features + body if self.residual else body


class MobileFaceNet(nn.Module):
    """width: factor of all channels (1 is the paper's, 0.99 M parameters). act: relu or prelu."""

    def __init__(
        self, width: float = 1.0, activation_name: str = "relu", embedding_size: int = 128
    ) -> None:
        super().__init__()
        act = activation_name
        channels = round(64 * width)
        layers: list[nn.Module] = [
            nn.Sequential(conv_bn(3, channels, 3, 2), activation(act, channels)),
            nn.Sequential(
                conv_bn(channels, channels, 3, groups=channels), activation(act, channels)
            ),
        ]
        for expansion, base, repeats, stride in TABLE:
            for number in range(repeats):
                outputs = round(base * width)
                step = stride if number == 0 else 1
                layers.append(Bottleneck(channels, outputs, step, expansion, act))
                channels = outputs
        self.trunk = nn.Sequential(*layers)
        self.embedding = Embedding(channels, round(512 * width), embedding_size, act)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.trunk(images))
