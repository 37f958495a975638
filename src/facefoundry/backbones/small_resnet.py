"""A plain residual network that starts at 28 x 28: the most arithmetic for each CPU second.

Depthwise convolutions save multiplications and waste a CPU's time: they are bound by memory. At
equal training time this network does about three times the multiplications of a half-width
MobileFaceNet. Blocks as in He et al., "Deep Residual Learning", CVPR 2016, with ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from facefoundry.backbones.layers import Embedding, conv_bn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, outputs, 3, stride), nn.ReLU(inplace=True), conv_bn(outputs, outputs, 3)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class SmallResNet(nn.Module):
    """widths, blocks: channels and number of blocks at 28, 14 and 7 pixels. head: channels before
    the global depthwise convolution. The stem takes 112 to 28 in two strided convolutions."""

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        head: int = 256,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(blocks) != 3:
            raise ValueError("widths and blocks need three values, for 28, 14 and 7 pixels")
        layers: list[nn.Module] = [
            nn.Sequential(conv_bn(3, widths[0] // 2, 3, 2), nn.ReLU(inplace=True)),
            nn.Sequential(conv_bn(widths[0] // 2, widths[0], 3, 2), nn.ReLU(inplace=True)),
        ]
        channels = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                layers.append(Block(channels, width, 2 if stage and not number else 1))
                channels = width
        self.trunk = nn.Sequential(*layers)
        self.embedding = Embedding(channels, head, embedding_size, "relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.trunk(images))
