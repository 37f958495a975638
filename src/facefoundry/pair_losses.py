"""Loss heads that compare the images of a batch: embeddings (B, D), labels (B,) int64 -> a scalar.

Mining and formulas come from pytorch-metric-learning where it has them; it is imported by the
heads that need it. Build them with `losses.build_head`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.errors import FoundryError


class PairHead(nn.Module):
    """Base of the heads that compare the images of a batch: it must hold at least two images of
    one identity, and two identities. Raises FoundryError for a batch that does not."""

    sampling: ClassVar[str | None] = "pairs"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        same = labels[:, None] == labels[None]
        if same.all() or int(same.sum()) == len(labels):
            identities = torch.unique(labels).numel()
            raise FoundryError(
                f"{type(self).__name__}: a batch of {len(labels)} images of {identities} identities"
                " holds no genuine or no impostor pair; sample P identities with K images each (K"
                " and P at least 2)"
            )
        return self.pair_loss(embeddings.float(), labels)

    def pair_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError


class Contrastive(PairHead):
    """Siamese training as logistic regression on the cosine of every pair of a batch.

    scale (positive) and bias are learnt from the given start; genuine and impostor pairs weigh one
    half each, however many there are of either.
    """

    def __init__(self, scale: float = 10.0, bias: float = -5.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def pair_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        unit = functional.normalize(embeddings)
        first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
        score = self.log_scale.exp() * (unit @ unit.T)[first, second] + self.bias
        same = labels[first] == labels[second]
        genuine, impostor = functional.softplus(-score[same]), functional.softplus(score[~same])
        return (genuine.mean() + impostor.mean()) / 2


class Triplet(PairHead):
    """mean of max(0, cos(anchor, negative) - cos(anchor, positive) + margin_cos) over the mined
    triplets that are above zero.

    margin_cos: FaceNet's 0.2 of squared distance is 0.1 of cosine. mining: batch_hard, the worst
    positive and negative of each anchor (Hermans et al., 2017), or semi_hard, every triplet in the
    right order but within the margin (Schroff et al., "FaceNet", CVPR 2015).
    """

    def __init__(self, margin_cos: float = 0.1, mining: str = "batch_hard") -> None:
        super().__init__()
        if mining not in ("batch_hard", "semi_hard"):
            raise ValueError(f"mining '{mining}' is not one of batch_hard, semi_hard")
        losses, miners, cosine = _metric_learning()
        self.loss = losses.TripletMarginLoss(margin_cos, distance=cosine())
        self.miner = (
            miners.BatchHardMiner(distance=cosine())
            if mining == "batch_hard"
            else miners.TripletMarginMiner(margin_cos, "semihard", distance=cosine())
        )

    @property
    def margin(self) -> float:
        return self.loss.margin

    @margin.setter
    def margin(self, value: float) -> None:
        self.loss.margin = value
        if hasattr(self.miner, "margin"):
            self.miner.margin = value

    def pair_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels, self.miner(embeddings, labels))


class SupCon(PairHead):
    """Softmax over the batch for every positive, mean of the log outside (Khosla et al.,
    "Supervised Contrastive Learning", NeurIPS 2020). Anchors without a positive do not count."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        losses, _, cosine = _metric_learning()
        self.loss = losses.SupConLoss(temperature, distance=cosine())

    def pair_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels)


class SimCLR(PairHead):
    """Two augmented views of an image are each other's only positives: no identity is used (Chen et
    al., "A Simple Framework for Contrastive Learning", ICML 2020). The loss sees a projection of
    the embedding to `projection_size`, which is dropped after training; labels: image numbers.
    """

    sampling: ClassVar[str | None] = "views"

    def __init__(
        self, embedding_size: int, projection_size: int = 128, temperature: float = 0.1
    ) -> None:
        super().__init__()
        losses, _, cosine = _metric_learning()
        self.loss = losses.NTXentLoss(temperature, distance=cosine())
        self.project = nn.Sequential(
            nn.Linear(embedding_size, embedding_size),
            nn.ReLU(),
            nn.Linear(embedding_size, projection_size),
        )

    def pair_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(self.project(embeddings), labels)


def _metric_learning() -> tuple[Any, Any, Any]:
    """Losses, miners and cosine of pytorch-metric-learning, which only these heads need."""
    try:
        from pytorch_metric_learning import losses, miners
        from pytorch_metric_learning.distances import CosineSimilarity
    except ImportError as error:
        raise FoundryError(
            "loss.loss: triplet, supcon and simclr need pytorch-metric-learning;"
            " pip install pytorch-metric-learning"
        ) from error
    return losses, miners, CosineSimilarity


PAIR_HEADS: dict[str, Callable[..., nn.Module]] = {
    "triplet": Triplet,
    "contrastive": Contrastive,
    "supcon": SupCon,
    "simclr": SimCLR,
}
