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
    the global depthwise convolution.

    The stem averages 112 to 56 pixels before its first convolution: at this size of network the
    finest detail of generated faces is a shortcut that does not lead to photographs. Blocks are
    named by stage and place, so that a shallower network can start from a deeper one's weights.
    """

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
        self.stem = nn.Sequential(
            nn.AvgPool2d(2), conv_bn(3, widths[0], 3, 2), nn.ReLU(inplace=True)
        )
        inputs = (widths[0], *widths[:2])
        self.stages = nn.Sequential(
            *(
                _stage(inputs[place], widths[place], blocks[place], 1 if place == 0 else 2)
                for place in range(3)
            )
        )
        self.embedding = Embedding(widths[2], head, embedding_size, "relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.stages(self.stem(images)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))
