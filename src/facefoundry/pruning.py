"""Structured magnitude pruning: a smaller dense network, faster in every runtime.

After Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017: in each residual block the
filters between its two convolutions with the smallest L1 norm go, and with them the input channels
of the second convolution. What the blocks pass on keeps its width, so that shortcuts still fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from facefoundry.backbones import build_backbone, count_macs
from facefoundry.backbones.small_resnet import SmallResNet
from facefoundry.errors import FoundryError

# Vector units compute in eights or more: a narrower cut would make nothing faster.
CHANNEL_STEP = 8
EPSILON = 1e-5

State = dict[str, torch.Tensor]


def pruned_student(
    student: nn.Module, options: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """A smaller network from a trained one, and the options of the distillation that mends it.

    options: the values of conf/distill.yaml with `embedding_size`.
    """
    state, inner = prune_blocks(student, options["prune"]["share"])
    architecture = options["backbone"] | {"inner": inner}
    smaller = build_backbone(**architecture, embedding_size=options["embedding_size"])
    smaller.load_state_dict(state)
    return smaller, dict(options) | {
        "backbone": architecture,
        "steps": options["prune"]["steps"],
    }


def pruning_cost(
    student: nn.Module, smaller: nn.Module, before: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """For the metrics: the share, the multiply-accumulates and what the student was before."""
    return {
        "share": options["prune"]["share"],
        "macs": count_macs(smaller),
        "before": {
            "macs": count_macs(student),
            "parameters": before["parameters"],
            "val_eer": before["val_eer"],
        },
    }


def prune_blocks(backbone: nn.Module, share: float) -> tuple[State, list[list[int]]]:
    """Weights without about the `share` (0 to 1, exclusive) of every block's inner channels.

    Returns the state and the argument `inner` with which `build_backbone` makes the network that
    it fits: by resolution and block the channels left, a multiple of eight. `backbone` is left as
    it was. Raises FoundryError for another share or for another architecture than small_resnet.
    """
    if not 0 < share < 1:
        raise FoundryError(f"prune.share: {share} is not between 0 and 1; 0.5 halves each block")
    if not isinstance(backbone, SmallResNet):
        raise FoundryError(
            f"prune.share: {type(backbone).__name__} cannot be pruned, only small_resnet can;"
            " set prune.share to 0"
        )
    state: State = dict(backbone.state_dict())
    inner = [
        [_prune_block(state, f"stages.{place}.{number}.body", share) for number in range(count)]
        for place, count in enumerate(backbone.blocks)
    ]
    return state, inner


def _prune_block(state: State, body: str, share: float) -> int:
    """Slice the tensors of one block of `state`; returns how many channels are left."""
    importance = filter_importance(state, body)
    wanted = round(len(importance) * (1 - share) / CHANNEL_STEP) * CHANNEL_STEP
    left = min(max(wanted, CHANNEL_STEP), len(importance))
    kept = torch.sort(torch.topk(importance, left).indices).values
    of_channel = ("0.0.weight", "0.1.weight", "0.1.bias", "0.1.running_mean", "0.1.running_var")
    for name in of_channel:
        state[f"{body}.{name}"] = state[f"{body}.{name}"][kept]
    state[f"{body}.2.0.weight"] = state[f"{body}.2.0.weight"][:, kept]
    return left


def filter_importance(state: State, body: str) -> torch.Tensor:
    """(C,) the L1 norm of each filter, as large as batch normalisation makes it."""
    scale = state[f"{body}.0.1.weight"] / (state[f"{body}.0.1.running_var"] + EPSILON).sqrt()
    return state[f"{body}.0.0.weight"].abs().sum(dim=(1, 2, 3)) * scale.abs()
