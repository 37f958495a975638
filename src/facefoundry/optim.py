"""Optimisers and schedules by name, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

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


def build_schedule(options: Mapping[str, Any]) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear over the first `warmup` share of `steps`, then
    `schedule`: cosine to zero, or step, a factor of `step_decay` at each of the `milestones`
    (shares of the steps). Raises FoundryError for an unknown schedule.
    """
    name, steps = options["schedule"], options["steps"]
    if name not in ("cosine", "step"):
        raise FoundryError(f"schedule: '{name}' is not one of cosine, step")
    rise = max(int(steps * options["warmup"]), 1)

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        if name == "step":
            passed = sum(step >= share * steps for share in options["milestones"])
            return float(options["step_decay"] ** passed)
        done = (step - rise) / max(steps - rise, 1)
        return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return factor


def moving_average(module: nn.Module, decay: float) -> AveragedModel:
    """A copy whose weights and statistics follow those of `module`, call by call of
    `update_parameters`; the early ones count less, with (1 + n) / (10 + n) where that is below
    `decay`, or it would remember the random start (Tan and Le, "EfficientNet", ICML 2019)."""

    def blend(average: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> Any:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        return average + (1 - keep) * (value - average)

    averaged = AveragedModel(module, avg_fn=blend, use_buffers=True)
    return averaged.requires_grad_(False)
