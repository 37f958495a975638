"""Optimisers and schedules by name, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from facefoundry.errors import FoundryError


class Muon(torch.optim.AdamW):
    """AdamW, but for groups with `orthogonal`: their weights, as matrices of a row for each output,
    move along the orthogonal matrix nearest to their momentum (Jordan et al., "Muon", 2024), by
    steps as long as AdamW's, so that one lr serves both (Liu et al., "Muon is Scalable for LLM
    Training", 2025). Every direction of a layer learns at once, not the strongest first.
    """

    MOMENTUM = 0.95
    AS_ADAMW = 0.2  # root mean square of AdamW's steps over lr

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["orthogonal"]:
                for weight in group["params"]:
                    self._turn(weight, group["lr"], group["weight_decay"])
        super().step()
        return loss

    def _turn(self, weight: torch.Tensor, lr: float, decay: float) -> None:
        """Move one weight by its gradient, and forget that, so that AdamW passes it over."""
        if weight.grad is None:
            return
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # or AdamW could not load the state
        momentum = state["momentum"]
        momentum.mul_(self.MOMENTUM).add_(weight.grad)
        ahead = weight.grad.add(momentum, alpha=self.MOMENTUM).flatten(1)
        length = self.AS_ADAMW * max(ahead.shape) ** 0.5
        weight.mul_(1 - lr * decay)
        weight.add_(orthogonal(ahead).reshape(weight.shape), alpha=-lr * length)
        weight.grad = None


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """About U V' of the matrix U S V' (M, N): its singular values all between 0.7 and 1.2, by five
    steps of Newton and Schulz with Jordan's coefficients.

    The steps are polynomials of X X' and commute, so they are taken there, at the shorter side, and
    X is multiplied once.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    product = step = _polynomial(gram)
    for _ in range(4):
        gram = step @ gram @ step
        step = _polynomial(gram)
        product = step @ product
    found = product @ wide
    return found.T if found.shape != matrix.shape else found


def _polynomial(gram: torch.Tensor) -> torch.Tensor:
    """What one step multiplies by: Jordan's coefficients of 1, X X' and its square."""
    one = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return 3.4445 * one - 4.7750 * gram + 2.0315 * gram @ gram


def build_optimizer(modules: list[nn.Module], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """options: name (adamw, muon or sgd), lr, weight_decay, momentum (sgd).

    Biases and normalisation weights are not decayed (He et al., "Bag of Tricks", CVPR 2019). Muon
    is for convolutions over all channels and linear layers; what is no such layer's, class centres
    among it, follows AdamW beside it.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    matrices, vectors = (
        [p for p in parameters if (p.ndim > 1) == several] for several in (True, False)
    )
    decayed = {"params": matrices, "weight_decay": options["weight_decay"]}
    free = {"params": vectors, "weight_decay": 0.0}
    if options["name"] == "adamw":
        return torch.optim.AdamW([decayed, free], lr=options["lr"])
    if options["name"] == "muon":
        inner = {id(weight) for module in modules for weight in _inner(module)}
        turned = decayed | {"params": [p for p in matrices if id(p) in inner], "orthogonal": True}
        decayed = decayed | {"params": [p for p in matrices if id(p) not in inner]}
        rest = [group | {"orthogonal": False} for group in (decayed, free)]
        return Muon([turned, *rest], lr=options["lr"])
    if options["name"] == "sgd":
        momentum = options.get("momentum", 0.9)
        return torch.optim.SGD([decayed, free], lr=options["lr"], momentum=momentum, nesterov=True)
    raise FoundryError(f"optimizer.name: '{options['name']}' is not one of adamw, muon, sgd")


def _inner(module: nn.Module) -> Iterator[torch.Tensor]:
    """Weights of linear layers, and of convolutions that see all channels."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            yield layer.weight


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

    def blend(averages: Any, values: Any, count: torch.Tensor | int) -> None:
        keep = min(decay, (1 + int(count)) / (10 + int(count)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - keep)
        else:  # a count of batches
            torch._foreach_copy_(averages, values)

    averaged = AveragedModel(module, multi_avg_fn=blend, use_buffers=True)
    return averaged.requires_grad_(False)
