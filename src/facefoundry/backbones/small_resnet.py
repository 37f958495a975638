"""A plain residual network that starts at 28 x 28: the most arithmetic for each CPU second.

Depthwise convolutions save multiplications and waste a CPU's time: they are bound by memory. At
equal training time this network does about three times the multiplications of a half-width
MobileFaceNet. Blocks as in He et al., "Deep Residual Learning", CVPR 2016, with ReLU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from facefoundry.backbones.layers import Embedding, conv_bn

Layer = TypeVar("Layer", bound=nn.Module)


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
    finest detail of generated faces is a shortcut that does not lead to photographs. fine: in its
    place, a convolution to so many channels, for a network that has seen many; 0: the average.
    Blocks are named by stage and place, so that a shallower network can start from a deeper one's
    weights.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128),
        blocks: Sequence[int] = (2, 2, 2),
        head: int = 256,
        inner: Sequence[Sequence[int]] | None = None,
        fine: int = 0,
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
        self.fine = fine
        half = [conv_bn(3, fine, 3, 2), nn.ReLU(inplace=True)] if fine else [nn.AvgPool2d(2)]
        self.stem = nn.Sequential(*half, conv_bn(fine or 3, widths[0], 3, 2), nn.ReLU(inplace=True))
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

    @torch.no_grad()
    def grow_from(self, smaller: SmallResNet) -> None:
        """Let what a smaller network lacks change nothing at first (Chen et al., "Net2Net", ICLR
        2016), where all that they share is its own already.

        Blocks that come after its last are nothing beside their shortcut. Of a fine stem six
        channels are the average, of each colour above and below zero, and the others wait.
        """
        for stage, given in zip(self.stages, smaller.blocks, strict=True):
            for block in list(stage.children())[given:]:
                nn.init.zeros_(_layers(block, nn.BatchNorm2d)[-1].weight)
        *half, conv = _layers(self.stem, nn.Conv2d)
        colours = _layers(smaller.stem, nn.Conv2d)[-1].weight
        if smaller.fine or self.fine < 6 or len(conv.weight) != len(colours):
            return
        average = torch.zeros(3, 3, 3, 3)
        average[range(3), range(3), 1:, 1:] = 1 / 4
        half[0].weight[:6] = torch.cat([average, -average])
        conv.weight.zero_()[:, :6] = torch.cat([colours, -colours], 1)
        norms = [_layers(net.stem, nn.BatchNorm2d)[-1] for net in (self, smaller)]
        norms[0].load_state_dict(norms[1].state_dict())


def _layers(module: nn.Module, kind: type[Layer]) -> list[Layer]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def _stage(inputs: int, outputs: int, inner: Sequence[int], stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride, inner[0])
    return nn.Sequential(first, *(Block(outputs, outputs, 1, count) for count in inner[1:]))
