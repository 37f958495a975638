"""Fitting of the two networks: Lightning, resumable, the same for the same seed.

A batch is the number of its step: rows, noise and times are drawn from (seed, step), so that a
killed fit goes on as if nothing had happened.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from facefoundry.data import normalise
from facefoundry.diffusion.nets import condition, decode, encode
from facefoundry.resumable import LogMetrics, ResumableModule
from facefoundry.trainers import build_trainer

Draw = torch.Generator


class Fitting(ResumableModule):
    """One network, trained by batches of rows.

    options: the part of conf/fit_generator.yaml that is the network's, with `seed`, `precision`
    and the like. rows: how many images there are.
    """

    name: str

    def __init__(
        self, net: nn.Module, rows: int, options: Mapping[str, Any], log_metrics: LogMetrics
    ) -> None:
        super().__init__(options, log_metrics)
        self.net = self.adopt(net)
        self.rows = rows

    @abstractmethod
    def batch_loss(self, rows: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Loss of the images of `rows` (B,); all randomness comes from `draw`, on the CPU."""

    def training_step(self, step: int, _index: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(self.options["seed"] * 1_000_003 + step)
        rows = torch.randint(self.rows, (self.options["batch_size"],), generator=draw)
        loss = self.batch_loss(rows, draw)
        return self.counted(loss, lambda: f" of {self.name}; lower {self.name}.optimizer.lr")

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self.step, self.options["steps"]), batch_size=None)  # type: ignore[arg-type]

    def on_train_batch_end(self, *_: Any) -> None:
        if self.step % self.options["checkpoint_every"] == 0 or self.step == self.options["steps"]:
            self._tell()
            if self.cache:
                self.checkpoint(self.cache)

    def _tell(self) -> None:
        point = {"step": float(self.step), "loss": float(self.mean_loss())}
        self.curves.append(point)
        if not sys.stderr.isatty():
            text = f"{self.name}: {self.step} of {self.options['steps']}, loss {point['loss']:.4g}"
            print(text, file=sys.stderr, flush=True)
        self.log_metrics({f"{self.name}.loss": point["loss"]}, self.step)

    def fit(self, cache: Path) -> nn.Module:
        """Train to the end, going on from what a killed fit left in `cache`; the net to keep."""
        self.resume(cache / self.name)
        if self.step < self.options["steps"]:
            build_trainer(self.options, self.options["steps"] - self.step).fit(self)
        return self.trained.cpu().eval()


class AutoencoderFitting(Fitting):
    """Pixels and edges in L1, through latents with a little noise, so that the decoder forgives
    what the diffusion gets a little wrong. images: (N, S, S, 3) uint8 RGB on the CPU."""

    name = "autoencoder"

    def __init__(self, net: nn.Module, images: torch.Tensor, *arguments: Any) -> None:
        super().__init__(net, len(images), *arguments)
        self.images = images

    def batch_loss(self, rows: torch.Tensor, draw: Draw) -> torch.Tensor:
        images = normalise(self.images[rows].permute(0, 3, 1, 2).to(self.device))
        if torch.rand((), generator=draw) < 0.5:
            images = images.flip(3)
        latents = encode(self.net, images)
        jitter = torch.randn(latents.shape, generator=draw).to(self.device)
        rebuilt = decode(self.net, latents + self.options["latent_noise"] * jitter)
        edges = sum(functional.l1_loss(rebuilt.diff(dim=d), images.diff(dim=d)) for d in (2, 3))
        return functional.l1_loss(rebuilt, images) + self.options["edges"] * edges


class FlowFitting(Fitting):
    """The velocity from data to noise on the straight line between them (Lipman et al., ICLR 2023),
    at logit-normal times (Esser et al., ICML 2024). latents: (N, C, h, w) of unit variance;
    embeddings: (N, D) of each image's identity, unit; controls: (N, K), standardised."""

    name = "flow"
    # group normalisation is slow on a CPU in channels_last
    memory_format = torch.contiguous_format

    def __init__(
        self,
        net: nn.Module,
        latents: torch.Tensor,
        embeddings: torch.Tensor,
        controls: torch.Tensor,
        *arguments: Any,
    ) -> None:
        super().__init__(net, len(latents), *arguments)
        self.latents, self.embeddings, self.controls = latents, embeddings, controls

    def batch_loss(self, rows: torch.Tensor, draw: Draw) -> torch.Tensor:
        data = self.latents[rows]
        noise = torch.randn(data.shape, generator=draw)
        time = torch.randn(len(rows), generator=draw).sigmoid()
        told = torch.rand((len(rows), 1), generator=draw) >= self.options["dropout"]
        conditions = condition(self.embeddings[rows] * told, self.controls[rows])
        mixed = torch.lerp(data, noise, time[:, None, None, None])
        # fused attention on a CPU: a slow backward pass where places are few
        cpu = self.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if cpu else nullcontext():
            velocity = self.net(
                mixed.to(self.device),
                (1000 * time).to(self.device),
                None,
                class_labels=conditions.to(self.device),
            ).sample
        return functional.mse_loss(velocity, (noise - data).to(self.device))
