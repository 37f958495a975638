"""Identity classification heads: embeddings (B, D) and labels (B,) -> a scalar loss.

Logits are scaled cosines to one centre for each identity. ArcFace: Deng et al., CVPR 2019;
CosFace: Wang et al., CVPR 2018; both with the numbers of this package's conf/loss/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from facefoundry.errors import FoundryError


class CosineHead(nn.Module):
    """Softmax over `scale` times the cosine, with no margin; the base of the margin heads.

    margin: may be set during training, which is how the margin warms up; 0 gives plain softmax.
    """

    def __init__(
        self, identities: int, embedding_size: int, scale: float = 24.0, margin: float = 0.0
    ) -> None:
        super().__init__()
        self.scale, self.margin = scale, margin
        self.centres = nn.Parameter(torch.empty(identities, embedding_size))
        nn.init.normal_(self.centres, std=0.01)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosines (B, K) of embeddings (B, D), in float32, without margin or scale."""
        return functional.linear(
            functional.normalize(embeddings.float()), functional.normalize(self.centres)
        )

    def penalised(self, cosine: torch.Tensor) -> torch.Tensor:
        """The cosine (B,) to the right centre, made smaller by the margin."""
        return cosine

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosine = self.logits(embeddings)
        right = cosine.gather(1, labels[:, None])
        cosine = cosine.scatter(1, labels[:, None], self.penalised(right))
        return functional.cross_entropy(self.scale * cosine, labels)


class CosFace(CosineHead):
    """cos(theta) - margin."""

    def __init__(
        self, identities: int, embedding_size: int, scale: float = 24.0, margin_cos: float = 0.3
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_cos)

    def penalised(self, cosine: torch.Tensor) -> torch.Tensor:
        return cosine - self.margin


class ArcFace(CosineHead):
    """cos(theta + margin); past theta = pi - margin, where that would rise again, its tangent-free
    continuation cos(theta) - margin sin(margin), as in InsightFace."""

    def __init__(
        self, identities: int, embedding_size: int, scale: float = 24.0, margin_rad: float = 0.3
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_rad)

    def penalised(self, cosine: torch.Tensor) -> torch.Tensor:
        sine = (1.0 - cosine.square()).clamp_min(1e-9).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, beyond)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "softmax": CosineHead,
    "cosface": CosFace,
    "arcface": ArcFace,
}


def build_head(loss: str, *, identities: int, embedding_size: int, **arguments: Any) -> nn.Module:
    """Build a head. Raises FoundryError for an unknown loss or fewer than two identities."""
    if loss not in HEADS:
        raise FoundryError(f"loss.loss: '{loss}' is not one of {', '.join(HEADS)}")
    if identities < 2:
        raise FoundryError(f"{identities} training identity leaves nothing to tell apart; add more")
    try:
        return HEADS[loss](identities=identities, embedding_size=embedding_size, **arguments)
    except TypeError as error:
        raise FoundryError(f"loss: {loss} cannot be built: {error}") from error
