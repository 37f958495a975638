"""Fitting of the two networks: Lightning, resumable, the same for the same seed.

A batch is the number of its step: rows, noise and times are drawn from (seed, step), so that a
killed fit goes on as if nothing had happened.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from facefoundry.data import normalise
from facefoundry.diffusion.nets import condition, decode, encode
from facefoundry.errors import DivergedError
from facefoundry.keeping import atomic
from facefoundry.optim import build_optimizer, build_schedule, moving_average
from facefoundry.trainers import build_trainer
from facefoundry.training import LAST, Curves, LogMetrics

Draw = torch.Generator


class Fitting(pl.LightningModule):
    """Schedule, NaN guard, moving average, curves and checkpoints of one network.

    options: the part of conf/fit_generator.yaml that is the network's, with `seed`, `precision`
    and the like. rows: how many images there are.
    """

    name: str

    def __init__(
        self, net: nn.Module, rows: int, options: Mapping[str, Any], log_metrics: LogMetrics
    ) -> None:
        super().__init__()
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = moving_average(net, options["ema"])
        self.rows, self.options, self.log_metrics = rows, options, log_metrics
        self.curves: Curves = []
        self._resumed: dict[str, Any] = {}
        self._losses: list[torch.Tensor] = []
        self._cache = Path()

    @property
    def step(self) -> int:
        """Steps done in all, those before a kill too."""
        return int(self._resumed.get("step", 0)) + self.global_step

    @abstractmethod
    def batch_loss(self, rows: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Loss of the images of `rows` (B,); all randomness comes from `draw`, on the CPU."""

    def training_step(self, step: int, _index: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(self.options["seed"] * 1_000_003 + step)
        rows = torch.randint(self.rows, (self.options["batch_size"],), generator=draw)
        loss = self.batch_loss(rows, draw)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"{self.name}: the loss is {loss.item()} at step {step}; lower"
                f" {self.name}.optimizer.lr"
            )
        self._losses.append(loss.detach())
        return loss

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(self.step, self.options["steps"]), batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer([self.net], self.options["optimizer"])
        schedule = build_schedule(self.options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.average.update_parameters(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.step % self.options["checkpoint_every"] == 0 or self.step == self.options["steps"]:
            self._tell()
            self._save()

    def _tell(self) -> None:
        point = {"step": float(self.step), "loss": float(torch.stack(self._losses).mean())}
        self._losses.clear()
        self.curves.append(point)
        if not sys.stderr.isatty():
            text = f"{self.name}: {self.step} of {self.options['steps']}, loss {point['loss']:.4g}"
            print(text, file=sys.stderr, flush=True)
        self.log_metrics({f"{self.name}.loss": point["loss"]}, self.step)

    def on_fit_start(self) -> None:
        if self._resumed:
            self.trainer.optimizers[0].load_state_dict(self._resumed["optimizer"])
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            scheduler.load_state_dict(self._resumed["schedule"])

    def fit(self, cache: Path) -> nn.Module:
        """Train to the end, going on from what a killed fit left in `cache`; the average's net."""
        self._cache = cache / self.name
        if (self._cache / LAST).is_file():
            self._resumed = torch.load(self._cache / LAST, weights_only=True)
            self.load_state_dict(self._resumed["module"])
            self.curves = self._resumed["curves"]
        if self.step < self.options["steps"]:
            build_trainer(self.options, self.options["steps"] - self.step).fit(self)
        return self.average.module.cpu().eval()

    def _save(self) -> None:
        """By atomic rename: a kill leaves the checkpoint of before."""
        state = {
            "step": self.step,
            "module": self.state_dict(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "schedule": self.trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "curves": self.curves,
        }
        self._cache.mkdir(parents=True, exist_ok=True)
        with atomic(self._cache / LAST) as temporary, temporary.open("wb") as file:
            torch.save(state, file)


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
        velocity = self.net(
            mixed.to(self.device),
            (1000 * time).to(self.device),
            None,
            class_labels=conditions.to(self.device),
        ).sample
        return functional.mse_loss(velocity, (noise - data).to(self.device))
