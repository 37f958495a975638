"""How large a network is: parameters and multiply-accumulates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from facefoundry.backbones.vit import TOKENS, Attention


def count_parameters(module: nn.Module) -> int:
    """Weights, biases and normalisation scales, trainable or not; no running statistics."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, image_size: int = 112) -> int:
    """Multiply-accumulates for one (3, image_size, image_size) image.

    Counts convolutions, linear layers and the two products of our own attention, which is what
    papers report; attention inside other packages is not seen. The module is left as it was.
    """
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal total
        total += layer_macs(layer, output)

    counted = (nn.Conv2d, nn.Linear, Attention)
    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, counted)
    ]
    training = module.training
    example = next(module.parameters()).new_zeros(1, 3, image_size, image_size)
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return total


def layer_macs(layer: nn.Module, output: torch.Tensor) -> int:
    """Multiply-accumulates of one layer, apart from its children, that gave `output`."""
    if isinstance(layer, Attention):
        return 2 * TOKENS * TOKENS * layer.width
    if isinstance(layer, nn.Conv2d | nn.Linear):
        return output.numel() * layer.weight[0].numel()
    return 0
