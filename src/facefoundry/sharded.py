"""Weights, gradients and optimiser state in shards over the processes: PyTorch's FSDP2 (Zhao et
al., "PyTorch FSDP", VLDB 2023), which unlike Lightning's own FSDP runs on CPUs too.

What is kept on disk is always whole, so that a model directory does not know how it was trained.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

WHOLE = StateDictOptions(full_state_dict=True)


def shard(module: nn.Module, device: str, processes: int) -> None:
    """Cut each part of the module that has weights into one shard for each process."""
    mesh = init_device_mesh(device, (processes,))
    for part in module.children():
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(part, FSDPModule) for part in module.children())


def whole_state(module: nn.Module) -> dict[str, Any]:
    """The state dict with whole tensors. All processes must call it."""
    return get_model_state_dict(module, options=WHOLE)


def whole_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state with whole tensors, by parameter name. All processes must call it."""
    return get_optimizer_state_dict(module, optimizer, options=WHOLE)


def load_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Take from what `whole_optimizer` gave the shards of this process."""
    set_optimizer_state_dict(module, optimizer, state, options=WHOLE)
