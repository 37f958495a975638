"""The mean of two networks' weights, one of which went on from the other.

On faces of another kind than it was trained on it is often better than either: Wortsman et al.,
"Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from facefoundry.errors import FoundryError


def check_alike(network: nn.Module, other: nn.Module, directory: Path) -> None:
    """Raises FoundryError where the weights of `other`, read from `directory`, are of other shapes
    than those of `network`."""
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (network, other)]
    if shapes[0] != shapes[1]:
        raise FoundryError(
            f"distill.average_with: {directory} is no network like distill.backbone; choose a model"
            " of the same backbone, or null"
        )


@torch.no_grad()
def average(network: nn.Module, other: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give `network` the mean of its weights and the other's, and statistics of batch normalisation
    measured anew, as means over batches of images (B, 3, 112, 112) in [-1, 1] of its training:
    those of both would not be its own (Izmailov et al., "Averaging weights leads to wider optima",
    UAI 2018). It is left in evaluation mode."""
    for own, given in zip(network.parameters(), other.parameters(), strict=True):
        own.copy_((own + given.to(own.device)) / 2)
    update_bn(batches, network, next(network.parameters()).device)
    network.eval()
