"""A small embedder and crops for the tests of the deployment modules."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from facefoundry.export import Crops
from facefoundry.model_dir import ModelSpec

SIZE = 32
SPEC = ModelSpec(
    architecture="tiny",
    embedding_size=SIZE,
    provenance={"seed": 0, "data": "noise"},
    licences=[{"name": "weights", "licence": "Apache-2.0", "source": "made here"}],
    thresholds=[{"fmr": 0.01, "threshold": 0.3, "tar": 0.9}],
)


class Block(nn.Module):
    """Inverted residual: 1x1 out, depthwise 3x3, 1x1 back, and the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def tiny_backbone(seed: int = 0) -> nn.Module:
    """Every kind of layer of a MobileFaceNet, with batch statistics that are not the defaults."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 4, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            Block(16),
            nn.Conv2d(16, 32, 3, 4, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            Block(32),
            nn.Conv2d(32, 32, 7, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.Flatten(),
            nn.Linear(32, SIZE, bias=False),
            nn.BatchNorm1d(SIZE),
        )
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(16, 3, 112, 112))
    return net.eval()


def crops(count: int, seed: int = 0) -> Crops:
    """Blocky colour noise, (count, 112, 112, 3) uint8: every crop embeds differently."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)
