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
    """Two 3x3 convolutions, with `inner` channels between them, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(inputs, inner, 3, stride), nn.ReLU(inplace=True), conv_bn(inner, outputs, 3)
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class SmallResNet(nn.Module):
    """widths, blocks: channels and number of blocks at 28, 14 and 7 pixels. head: channels before
    the global depthwise convolution. inner: channels between the two convolutions of each block,
    a list for each resolution; as many as outside where it is left out. Pruning sets it.

    The stem averages 112 to 56 pixels before its first convolution: at this size of network the
    finest detail of generated faces is a shortcut that does not lead to photographs. Blocks are
    named by stage and place, so that a shallower network can start from a deeper one's weights.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        head: int = 256,
        inner: Sequence[Sequence[int]] | None = None,
        embedding_size: int = 128,
    ) -> None:
        super().__init__()
        if len(widths) != 3 or len(blocks) != 3:
            raise ValueError("widths and blocks need three values, for 28, 14 and 7 pixels")
        if inner is None:
            inner = [[width] * count for width, count in zip(widths, blocks, strict=True)]
        if [len(stage) for stage in inner] != list(blocks):
            raise ValueError(f"inner needs a value for each block, {list(blocks)} of them")
        self.blocks = tuple(blocks)
        self.stem = nn.Sequential(
            nn.AvgPool2d(2), conv_bn(3, widths[0], 3, 2), nn.ReLU(inplace=True)
        )
        inputs = (widths[0], *widths[:2])
        self.stages = nn.Sequential(
            *(
                _stage(inputs[place], widths[place], inner[place], 1 if place == 0 else 2)
                for place in range(3)
            )
        )
        self.embedding = Embedding(widths[2], head, embedding_size, "relu")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.embedding(self.stages(self.stem(images)))


def _stage(inputs: int, outputs: int, inner: Sequence[int], stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride, inner[0])
    return nn.Sequential(first, *(Block(outputs, outputs, 1, count) for count in inner[1:]))
