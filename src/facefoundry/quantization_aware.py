"""Quantization-aware fine-tuning, for where calibration alone loses too much.

The network learns to give its own FP32 embeddings from rounded weights and activations; rounding
passes gradients through as if it were not there (Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018). Only the weights change:
what comes out is an ordinary backbone, exported and calibrated as any other.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

from facefoundry.data import Crops, normalise
from facefoundry.export import to_input
from facefoundry.heap import keep_freed_memory
from facefoundry.progress import track

RANGE_MEMORY = 0.9  # of the running minimum and maximum of an activation, for each batch


class RoundedWeight(nn.Module):
    """Symmetric signed 8 bits with a scale for each output channel, as in the INT8 files."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        largest = weight.detach().abs().flatten(1).amax(dim=1).clamp_min(1e-8)
        zeros = torch.zeros_like(largest, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, largest / 127, zeros, 0, -127, 127)


class RoundedInput:
    """A forward pre-hook: unsigned 8 bits over the running range of what the layer reads."""

    def __init__(self) -> None:
        self.low, self.high = 0.0, 0.0

    def __call__(self, _layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        low, high = (float(value) for value in torch.aminmax(inputs[0].detach()))
        memory = RANGE_MEMORY if self.high > self.low else 0.0
        # zero must be a level of its own, for padding and for what ReLU cut off
        self.low = min(memory * self.low + (1 - memory) * low, 0.0)
        self.high = max(memory * self.high + (1 - memory) * high, 1e-6)
        scale = (self.high - self.low) / 255
        return torch.fake_quantize_per_tensor_affine(
            inputs[0], scale, round(-self.low / scale), 0, 255
        )


def finetune_quantized(
    backbone: nn.Module, crops: Crops, steps: int, lr: float, batch_size: int, seed: int
) -> nn.Module:
    """A copy of `backbone`, fine-tuned for INT8 on crops (N, 112, 112, 3) uint8 RGB.

    `steps` of Adam, its rate falling to zero along a cosine, on random batches, half of the images
    mirrored; batch normalisation keeps its statistics. Loss: 1 - cosine to the embeddings of
    `backbone`, which is left as it was.
    """
    teacher = copy.deepcopy(backbone).eval().requires_grad_(False)
    student = copy.deepcopy(backbone).eval()
    layers = [m for m in student.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    hooks = [layer.register_forward_pre_hook(RoundedInput()) for layer in layers]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
    rng = np.random.default_rng(seed)
    keep_freed_memory()
    for _ in track(range(steps), "fine-tuning for INT8", unit="steps"):
        images = _batch(crops, batch_size, rng)
        loss = (1 - functional.cosine_similarity(student(images), teacher(images))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for layer, hook in zip(layers, hooks, strict=True):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        hook.remove()
    return student


def _batch(crops: Crops, size: int, rng: np.random.Generator) -> torch.Tensor:
    """(size, 3, 112, 112) in [-1, 1]: crops drawn with replacement, half of them mirrored."""
    chosen = crops[rng.integers(0, len(crops), size)]
    mirrored = rng.random(size) < 0.5
    chosen[mirrored] = chosen[mirrored][:, :, ::-1]
    return normalise(torch.from_numpy(to_input(chosen)))
