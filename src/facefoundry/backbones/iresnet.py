"""Improved ResNet for faces, in the layout of InsightFace's arcface_torch.

Deng et al., "ArcFace", CVPR 2019, after Duta et al., "Improved Residual Networks", 2020. Modules
are named as there (conv1, bn1, prelu, layer1.0.bn1, ..., bn2, fc, features), so that a checkpoint
of arcface_torch loads by name and shape. Its activations are PReLU, and batch normalisation comes
before convolutions, where it cannot be folded away: a teacher, not a network for an edge device.
"""

from __future__ import annotations

import torch
from torch import nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
WIDTHS = (64, 128, 256, 512)


class IBasicBlock(nn.Module):
    """BN, 3x3, BN, PReLU, 3x3 with the stride, BN; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        body = self.prelu(self.bn2(self.conv1(self.bn1(features))))
        body = self.bn3(self.conv2(body))
        return body + (features if self.downsample is None else self.downsample(features))


class IResNet(nn.Module):
    """depth: 18, 34, 50 or 100. dropout: before the last linear layer, 0 as in arcface_torch."""

    def __init__(self, depth: int = 18, dropout: float = 0.0, embedding_size: int = 512) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth {depth} is not one of {', '.join(map(str, BLOCKS))}")
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        inputs = (64, *WIDTHS[:3])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _layer(*shape) for shape in zip(inputs, WIDTHS, BLOCKS[depth], strict=True)
        )
        self.bn2 = nn.BatchNorm2d(512)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * 7 * 7, embedding_size)
        self.features = nn.BatchNorm1d(embedding_size)
        # A learnt scale would fight the margin heads, which normalise: fixed, as in arcface_torch.
        self.features.weight.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.prelu(self.bn1(self.conv1(images)))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.features(self.fc(self.dropout(torch.flatten(self.bn2(features), 1))))


def _layer(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = IBasicBlock(inputs, outputs, 2)
    return nn.Sequential(first, *(IBasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
