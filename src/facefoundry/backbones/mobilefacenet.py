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
    """width: factor of all channels (1 is the paper's, 0.99 M parameters). activation_name: relu,
    prelu or hardswish. stem: 2 as in the paper, or 4, which starts with the average of each 2x2
    pixels and leaves out the first reduction of the paper's table: it trains about a fifth faster.
    """

    def __init__(
        self,
        width: float = 1.0,
        activation_name: str = "relu",
        stem: int = 2,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        if stem not in (2, 4):
            raise ValueError(f"stem {stem} is not one of 2, 4")
        act = activation_name
        channels = round(64 * width)
        layers: list[nn.Module] = [
            nn.Sequential(conv_bn(3, channels, 3, 2), activation(act, channels)),
            nn.Sequential(
                conv_bn(channels, channels, 3, groups=channels), activation(act, channels)
            ),
        ]
        for place, (expansion, base, repeats, stride) in enumerate(TABLE):
            for number in range(repeats):
                outputs = round(base * width)
                # After a stem of 4 the first row of the table starts at 28 pixels already.
                step = 1 if number or (place == 0 and stem == 4) else stride
                layers.append(Bottleneck(channels, outputs, step, expansion, act))
                channels = outputs
        self.trunk = nn.Sequential(*layers)
        self.reduce = nn.AvgPool2d(2) if stem == 4 else nn.Identity()
        self.embedding = Embedding(channels, round(512 * width), embedding_size, act)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.trunk(self.reduce(images)))
