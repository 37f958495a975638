"""Loss heads: embeddings (B, D), not normalised, and labels (B,) int64 -> a scalar loss.

Classification heads score scaled cosines to one centre for each identity. They are written here
and not taken from pytorch-metric-learning: its ArcFace goes through arccos, whose gradient is not
finite for an embedding on its centre. Heads that compare images with each other: pair_losses.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.errors import FoundryError
from facefoundry.pair_losses import PAIR_HEADS


class CosineHead(nn.Module):
    """Softmax over `scale` times the cosine, with no margin; the base of the margin heads.

    `scale` and `margin` may be set during training, which is how the margin warms up; 0 gives
    plain softmax. sample_rate: share of the identities whose centres take part in a training step,
    those of the batch always (An et al., "Partial FC", CVPR 2022); drawn from torch's generator.
    """

    sampling: ClassVar[str | None] = None  # the only one of samplers.SAMPLERS it works with

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin: float = 0.0,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate {sample_rate} is not in (0, 1]")
        self.scale, self.margin, self.sample_rate = scale, margin, sample_rate
        self.centres = nn.Parameter(torch.empty(identities, embedding_size))
        nn.init.normal_(self.centres, std=0.01)

    def cosines(self, embeddings: Tensor, centres: Tensor) -> Tensor:
        """Cosines (B, K) in float32 of embeddings (B, D) and centres (K, D)."""
        return functional.linear(
            functional.normalize(embeddings.float()), functional.normalize(centres)
        )

    def logits(self, embeddings: Tensor) -> Tensor:
        """Cosines (B, K) of embeddings (B, D), in float32, without margin or scale."""
        return self.cosines(embeddings, self.centres)

    def sampled(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The centres of this step, and the labels as places among them."""
        total = len(self.centres)
        if self.sample_rate == 1 or not self.training:
            return self.centres, labels
        # by the batch, so that a training that goes on after a kill draws the same
        places = torch.arange(1, len(labels) + 1, device=labels.device)
        draw = torch.Generator(labels.device).manual_seed(int((labels * places).sum()))
        chance = torch.rand(total, device=labels.device, generator=draw)
        chance[labels] = 2.0  # above any draw: the identities of the batch come first
        count = max(math.ceil(self.sample_rate * total), int(torch.unique(labels).numel()))
        chosen = chance.topk(count).indices.sort().values
        return self.centres[chosen], torch.searchsorted(chosen, labels)

    def penalised(self, right: Tensor) -> Tensor:
        """The cosine (B, 1) to the right centre, made smaller by the margin."""
        return right

    def with_margin(self, cosine: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        """Cosines (B, K) as the softmax is to see them."""
        right = cosine.gather(1, labels[:, None])
        return cosine.scatter(1, labels[:, None], self.penalised(right))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        centres, places = self.sampled(labels)
        cosine = self.with_margin(self.cosines(embeddings, centres), places, embeddings)
        return functional.cross_entropy(self.scale * cosine, places)


class Softmax(CosineHead):
    """No margin (Wang et al., "NormFace", ACM MM 2017)."""

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, 0.0, sample_rate)


class CosFace(CosineHead):
    """cos(theta) - margin (Wang et al., CVPR 2018)."""

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin_cos: float = 0.3,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_cos, sample_rate)

    def penalised(self, right: Tensor) -> Tensor:
        return right - self.margin


class ArcFace(CosineHead):
    """cos(theta + margin); past theta = pi - margin, where that would rise again,
    cos(theta) - margin sin(margin), as in InsightFace (Deng et al., CVPR 2019)."""

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin_rad: float = 0.3,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_rad, sample_rate)

    def shifted(self, cosine: Tensor) -> Tensor:
        """cos(theta + margin) from cos(theta), with a finite gradient everywhere."""
        sine = (1.0 - cosine.square()).clamp_min(1e-9).sqrt()
        return cosine * math.cos(self.margin) - sine * math.sin(self.margin)

    def penalised(self, right: Tensor) -> Tensor:
        beyond = right - self.margin * math.sin(self.margin)
        return torch.where(right > math.cos(math.pi - self.margin), self.shifted(right), beyond)


class SubCenterArcFace(ArcFace):
    """ArcFace to the nearest of `sub_centres` centres of each identity, so that mislabelled images
    find one of their own (Deng et al., "Sub-center ArcFace", ECCV 2020)."""

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin_rad: float = 0.3,
        sub_centres: int = 3,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_rad, sample_rate)
        self.centres = nn.Parameter(torch.empty(identities, sub_centres, embedding_size))
        nn.init.normal_(self.centres, std=0.01)

    def cosines(self, embeddings: Tensor, centres: Tensor) -> Tensor:
        """Cosines (B, K) of embeddings (B, D) to the nearest of each row of centres (K, S, D)."""
        every = super().cosines(embeddings, centres.flatten(0, 1))
        return every.view(len(embeddings), *centres.shape[:2]).amax(2)


class CurricularFace(ArcFace):
    """ArcFace whose hard negatives weigh more as training goes on (Huang et al., CVPR 2020).

    A negative closer than the penalised right centre gets cos (t + cos), where t, the moving mean
    of the right cosines (momentum 0.99), grows from 0. Where theta + margin passes pi the right
    cosine is cos(theta) - margin sin(margin), as in the authors' code.
    """

    hardness: Tensor

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin_rad: float = 0.3,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_rad, sample_rate)
        self.register_buffer("hardness", torch.zeros(()))

    def with_margin(self, cosine: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        right = cosine.gather(1, labels[:, None])
        if self.training:
            self.hardness.lerp_(right.detach().mean(), 0.01)
        hard = cosine > self.shifted(right)
        weighted = torch.where(hard, cosine * (self.hardness + cosine), cosine)
        return weighted.scatter(1, labels[:, None], self.penalised(right))


class AdaFace(CosineHead):
    """Margin by image quality, read from the embedding's length (Kim et al., CVPR 2022).

    With q = (length - mean) / (std / concentration) clipped to [-1, 1], the right cosine becomes
    cos(theta - margin q) - (margin + margin q). The paper's one margin serves as an angle in
    radians and as a cosine. mean and std of the length move with `momentum`.
    """

    length_mean: Tensor
    length_std: Tensor

    def __init__(
        self,
        identities: int,
        embedding_size: int,
        scale: float = 24.0,
        margin_rad: float = 0.4,
        concentration: float = 0.333,
        momentum: float = 0.01,
        sample_rate: float = 1.0,
    ) -> None:
        super().__init__(identities, embedding_size, scale, margin_rad, sample_rate)
        self.concentration, self.momentum = concentration, momentum
        # The start of the authors' code; the first batches move it to the network's own lengths.
        self.register_buffer("length_mean", torch.tensor(20.0))
        self.register_buffer("length_std", torch.tensor(100.0))

    def quality(self, embeddings: Tensor) -> Tensor:
        """(B, 1) in [-1, 1]; no gradient, or the network would learn to please the measure."""
        length = embeddings.detach().float().norm(dim=1, keepdim=True).clamp(0.001, 100)
        if self.training and len(length) > 1:
            self.length_mean.lerp_(length.mean(), self.momentum)
            self.length_std.lerp_(length.std(), self.momentum)
        deviation = (length - self.length_mean) / (self.length_std + 1e-3)
        return (self.concentration * deviation).clamp(-1, 1)

    def with_margin(self, cosine: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        edge = 1e-3  # of the authors' code: keeps arccos and its gradient finite
        quality = self.quality(embeddings)
        cosine = cosine.clamp(edge - 1, 1 - edge)
        theta = cosine.gather(1, labels[:, None]).arccos()
        theta = (theta - self.margin * quality).clamp(edge, math.pi - edge)
        right = theta.cos() - self.margin * (1 + quality)
        return cosine.scatter(1, labels[:, None], right)


CLASSIFICATION_HEADS: dict[str, Callable[..., nn.Module]] = {
    "softmax": Softmax,
    "cosface": CosFace,
    "arcface": ArcFace,
    "adaface": AdaFace,
    "curricularface": CurricularFace,
    "subcenter_arcface": SubCenterArcFace,
}


def build_head(loss: str, *, identities: int, embedding_size: int, **arguments: Any) -> nn.Module:
    """Build a head. Raises FoundryError for an unknown loss or argument, listing the valid, or
    fewer than two identities where the loss tells identities apart."""
    heads = CLASSIFICATION_HEADS | PAIR_HEADS
    if loss not in heads:
        raise FoundryError(f"loss.loss: '{loss}' is not one of {', '.join(heads)}")
    if identities < 2 and getattr(heads[loss], "sampling", None) != "views":
        raise FoundryError(f"{identities} training identity leaves nothing to tell apart; add more")
    parameters = set(inspect.signature(heads[loss]).parameters)
    sizes = {"identities": identities, "embedding_size": embedding_size}
    known = parameters - set(sizes)
    if unknown := sorted(set(arguments) - known):
        raise FoundryError(
            f"loss.{unknown[0]}: {loss} has no such argument; it has {', '.join(sorted(known))}"
        )
    try:
        return heads[loss](**{k: v for k, v in sizes.items() if k in parameters}, **arguments)
    except (TypeError, ValueError) as error:
        raise FoundryError(f"loss: {loss} cannot be built: {error}") from error
