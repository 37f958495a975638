"""Vision transformer for faces, with the dimensions of InsightFace's vit_t and vit_s.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; An et al., "Killing Two Birds with
One Stone", CVPR 2022, for faces: no class token, and an embedding that sees every patch in its
place. Module names are this package's own.
"""

from __future__ import annotations

import torch
from torch import nn

# The patch of 9 leaves the last 4 rows and columns of 112 unseen, as in InsightFace.
PATCH = 9
TOKENS = (112 // PATCH) ** 2
DEPTH, HEADS = 12, 8
WIDTHS = {"tiny": 256, "small": 512}


class Attention(nn.Module):
    """Self-attention over (B, TOKENS, width). Written as plain matrix products and reshapes to
    constant sizes: ONNX opset 13 has no attention, and OpenCV no shape arithmetic."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.scale = width, (width // HEADS) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        heads = self.qkv(tokens).reshape(-1, TOKENS, 3, HEADS, self.width // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        weight = (self.scale * query @ key.transpose(-2, -1)).softmax(-1)
        return self.out((weight @ value).transpose(1, 2).reshape(-1, TOKENS, self.width))


class EncoderBlock(nn.Module):
    """Attention and a ReLU6 perceptron of ratio 4, each after a layer normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width))
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.ReLU6(inplace=True),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.perceptron(tokens)


class VisionTransformer(nn.Module):
    """size: tiny (width 256) or small (width 512)."""

    def __init__(self, size: str = "tiny", embedding_size: int = 512) -> None:
        super().__init__()
        if size not in WIDTHS:
            raise ValueError(f"size '{size}' is not one of {', '.join(WIDTHS)}")
        self.width = WIDTHS[size]
        self.patches = nn.Conv2d(3, self.width, PATCH, PATCH)
        self.position = nn.Parameter(torch.zeros(1, TOKENS, self.width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.blocks = nn.Sequential(*(EncoderBlock(self.width) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(self.width)
        self.embedding = nn.Sequential(
            nn.Linear(TOKENS * self.width, self.width, bias=False),
            nn.BatchNorm1d(self.width),
            nn.Linear(self.width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).reshape(-1, self.width, TOKENS).transpose(1, 2)
        tokens = self.norm(self.blocks(tokens + self.position))
        return self.embedding(tokens.reshape(-1, TOKENS * self.width))
