"""Optimisers and schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from facefoundry.errors import FoundryError


def build_optimizer(modules: list[nn.Module], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """options: name (adamw or sgd), lr, weight_decay, momentum (sgd).

    Biases and normalisation weights are not decayed (He et al., "Bag of Tricks", CVPR 2019).
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options["weight_decay"]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if options["name"] == "adamw":
        return torch.optim.AdamW(groups, lr=options["lr"])
    if options["name"] == "sgd":
        momentum = options.get("momentum", 0.9)
        return torch.optim.SGD(groups, lr=options["lr"], momentum=momentum, nesterov=True)
    raise FoundryError(f"optimizer.name: '{options['name']}' is not one of adamw, sgd")


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Factor of the learning rate: linear over the first `warmup` share, then a cosine to zero."""
    rise = max(int(steps * warmup), 1)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(steps - rise, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return factor
