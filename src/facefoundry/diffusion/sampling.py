"""Few-step sampling of a fitted model with guidance towards the identity."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from facefoundry.diffusion.nets import SHRINK, SIDE, FaceDiffuser, condition, decode
from facefoundry.diffusion.population import Floats
from facefoundry.images import Image


def noise(diffuser: FaceDiffuser, rng: np.random.Generator) -> Floats:
    """The start of one image: (C, h, w)."""
    side = SIDE // SHRINK
    return rng.standard_normal((diffuser.unet.config.in_channels, side, side), np.float32)


@torch.inference_mode()
def sample(
    diffuser: FaceDiffuser,
    embeddings: Floats,
    controls: Floats,
    start: Floats,
    steps: int,
    guidance: float,
    interval: Sequence[float] = (0, 1),
) -> list[Image]:
    """B images (64, 64, 3) uint8 RGB of the identities `embeddings` (B, D), unit.

    controls (B, C): in their own units. start (B, c, h, w): see `noise`. guidance: 1 is the plain
    model, more is truer to the identity and less varied (Ho and Salimans, "Classifier-Free
    Diffusion Guidance", 2021). interval: the times, 1 being noise and 0 the image, between which it
    guides; the plain model before and after costs half and keeps what guidance overdoes
    (Kynkaanniemi et al., "Applying Guidance in a Limited Interval", NeurIPS 2024). Euler steps from
    noise to data along the learnt velocity (Lipman et al., "Flow Matching", ICLR 2023).
    """
    device = next(diffuser.unet.parameters()).device
    who, wanted, latents = (
        torch.from_numpy(np.ascontiguousarray(array)).to(device)
        for array in (embeddings, diffuser.population.standardise(controls), start)
    )
    told = condition(who, wanted)
    untold = condition(torch.zeros_like(who), wanted)
    scheduler = copy.deepcopy(diffuser.scheduler)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=device)
    for time in scheduler.timesteps:
        strength = guidance if interval[0] <= float(time) / 1000 <= interval[1] else 1
        velocity = _guided(diffuser, latents, time, told, untold, strength)
        latents = scheduler.step(velocity, time, latents).prev_sample
    images = decode(diffuser.vae, latents).add(1).mul(127.5).round().clamp(0, 255)
    return list(images.byte().permute(0, 2, 3, 1).cpu().numpy())


def _guided(
    diffuser: FaceDiffuser,
    latents: torch.Tensor,
    time: torch.Tensor,
    told: torch.Tensor,
    untold: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    """The velocity, both branches of guidance in one batch."""
    if guidance == 1:
        return diffuser.unet(latents, time, None, class_labels=told).sample
    both = torch.cat([told, untold])
    doubled = diffuser.unet(latents.repeat(2, 1, 1, 1), time, None, class_labels=both).sample
    towards, plain = doubled.chunk(2)
    return plain + guidance * (towards - plain)
