"""One training loop for the recogniser and the distiller: Lightning, resumable, step by step.

An epoch is `validate_every` steps, whatever the size of the data set: that is the rhythm of
validation, of early stopping and of the checkpoint that a killed run goes on from.
"""

from __future__ import annotations

import copy
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from facefoundry.benchmarks import Images, embed_images, held_out_eer
from facefoundry.data import NOBODY, Batch, TrainingData, normalise, train_loader
from facefoundry.errors import FoundryError
from facefoundry.journal import record
from facefoundry.resumable import Curves, LogMetrics, ResumableModule
from facefoundry.samplers import SAMPLERS, EpochSampler, Labels, Shares, choose_sampling
from facefoundry.sharded import shard, whole_state
from facefoundry.streaming.loader import Pool, pool_loader
from facefoundry.trainers import build_trainer

BEST = "best.pt"
QUIET_SECONDS = 60.0  # without a word, where no terminal shows a bar

Chain = list[dict[str, str]]


class TrainingModule(ResumableModule):
    """What both trainings share: batches of faces, and validation by verification.

    `options` are the values of conf/train.yaml or conf/distill.yaml. needs: the sampling without
    which the loss has no meaning, None where any will do. pool: crops on the GPU, to be learnt from
    in place of the train crops and augmented there.
    """

    def __init__(
        self,
        backbone: nn.Module,
        options: Mapping[str, Any],
        data: TrainingData,
        log_metrics: LogMetrics,
        needs: str | None = None,
        pool: Pool | None = None,
    ) -> None:
        super().__init__(options, log_metrics)
        self.backbone = self.adopt(backbone)
        self._compiled: Callable[[torch.Tensor], torch.Tensor] | None = None
        if options["compile"]:
            self._compiled = torch.compile(self.backbone.forward)
        self._whole: list[nn.Module] = []  # in a list: it is no part of what is trained
        self.data, self.pool = data, pool
        labels = pool.labels.numpy() if pool else data.train.labels
        self.sampler = build_sampler(labels, options, needs)
        self._started = self._told = 0.0

    @property
    def steps_left(self) -> int:
        """0 too where validation has not improved for the share `patience` of the steps."""
        total, patience = int(self.options["steps"]), self.options["patience"]
        if patience is None or not self.curves:
            return total - self.step
        stale = self.step - self.curves[kept_point(self.curves, patience)]["step"]
        return 0 if stale >= patience * total else total - self.step

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 112, 112) in [-1, 1] -> (B, D), compiled where that is asked for."""
        return self._compiled(images) if self._compiled else self.backbone(images)

    @abstractmethod
    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Loss of normalised images (B, 3, 112, 112) in [-1, 1]; the batch they are of."""

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = self.batch_loss(normalise(batch["image"]), batch)

        def advice() -> str:
            known = self.data.image_ids
            places = [place for place in batch["index"].tolist() if place < len(known)]
            names = ", ".join(known[place] for place in places[:8])
            return f" (batch: {names}, ...); lower optimizer.lr or look at these images"

        return self.counted(loss, advice)

    def train_dataloader(self) -> Iterable[Batch]:
        options, trainer = self.options, self.trainer
        shares = Shares(
            self.sampler,
            options["batch_size"],
            trainer.global_rank,
            trainer.world_size,
            options["accumulate"],
        )
        if not self.pool:
            return train_loader(self.data.train, shares, options["loader_workers"])
        return pool_loader(self.pool, shares, options["augmentation"], options["seed"])

    def on_train_epoch_start(self) -> None:
        record("begun", path=self.cache, step=self.step)

    def on_train_epoch_end(self) -> None:
        strategy = self.trainer.strategy
        point = {
            "step": float(self.step),
            "loss": float(strategy.reduce(self.mean_loss())),
            "lr": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            # of the first process: statistics of normalisation may differ in the others
            "val_eer": strategy.broadcast(self._validate()),
        }
        self.curves.append(point)
        if self.trainer.is_global_zero:
            self._tell(point)
        self.sampler.start_at(len(self.curves))  # Lightning sets no epoch of batch samplers
        if self.cache:
            self.checkpoint(self.cache)
        self.trainer.should_stop = not self.steps_left

    def on_train_batch_end(self, *_: Any) -> None:
        quiet = time.monotonic() - self._told >= QUIET_SECONDS
        if quiet and self.global_step and self.trainer.is_global_zero:
            self._say(self._speed())

    def _tell(self, point: dict[str, float]) -> None:
        metrics, speed = {k: v for k, v in point.items() if k != "step"}, self._speed()
        record("point", path=self.cache, **point | speed)
        self._say(metrics | speed)
        self.log_metrics(metrics, self.step)

    def _speed(self) -> dict[str, float]:
        steps_per_second = self.global_step / (time.monotonic() - self._started)
        return {
            "images/s": steps_per_second * self.options["batch_size"],
            "s left": self.steps_left / steps_per_second,
        }

    def _say(self, told: Mapping[str, float]) -> None:
        """A line where no terminal shows a bar."""
        self._told = time.monotonic()
        if not sys.stderr.isatty():
            text = "  ".join(f"{key} {value:.4g}" for key, value in told.items())
            place = f"step {self.step} of {self.options['steps']}"
            print(f"{type(self).__name__}: {place}  {text}", file=sys.stderr, flush=True)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._started = self._told = time.monotonic()

    def resume(self, cache: Path) -> None:
        super().resume(cache)
        self.sampler.start_at(len(self.curves))

    def checkpoint(self, cache: Path) -> None:
        if kept_point(self.curves, self.options["patience"]) == len(self.curves) - 1:
            self.write(cache / BEST, self.weights())
        super().checkpoint(cache)
        if self.trainer.is_global_zero:
            record("done", path=cache, step=self.step)

    def configure_model(self) -> None:
        """Lightning's place to cut the weights into shards, where the trainer is for it; a whole
        copy of the network stays beside them, to be validated and kept."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy) and not self._whole:
            self._whole = [copy.deepcopy(self.backbone)]
            if strategy.root_device.type == "cuda":  # Lightning's sync_batchnorm leaves it out
                nn.SyncBatchNorm.convert_sync_batchnorm(self.backbone)  # type: ignore[no-untyped-call]
            self.backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            shard(self, strategy.root_device.type, strategy.world_size)

    @property
    def trained(self) -> nn.Module:
        return self._whole[0] if self._whole else super().trained

    def finish(self) -> None:
        """What is still done to the weights that are kept, before they are calibrated: nothing."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take the weights that a checkpoint kept."""
        if not self._whole:
            self.load_state_dict(state)
            return
        prefix = "backbone."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self._whole[0].load_state_dict(own)

    def _validate(self) -> float:
        """Equal error rate on all pairs of the held-out identities."""
        if self._whole:
            self._whole[0].load_state_dict(whole_state(self.backbone))
        embeddings = embed_images(embedder(self.trained), self.data.val.crops, flip=False)
        self.backbone.train()
        return held_out_eer(embeddings, self.data.val.identities)


def embedder(backbone: nn.Module) -> Callable[[Images], Any]:
    """(B, 112, 112, 3) uint8 RGB -> (B, D), in evaluation mode and without gradients."""
    backbone.eval()
    device = next(backbone.parameters()).device

    def embed(images: Images) -> Any:
        planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            return backbone(normalise(planes)).cpu().numpy()

    return embed


def build_sampler(labels: Labels, options: Mapping[str, Any], needs: str | None) -> EpochSampler:
    """The batches of an epoch, which is `validate_every` steps, or all of fewer."""
    sampling = choose_sampling(options["sampling"], needs)
    if sampling != "uniform" and NOBODY in labels:
        raise FoundryError(
            f"sampling: '{sampling}' leaves out faces that are no identity's; set morphs: 0 in"
            " conf/sface.yaml"
        )
    every = min(options["validate_every"], options["steps"])
    return SAMPLERS[sampling](labels, options["batch_size"], every, options["seed"])


def kept_point(curves: Curves, patience: float | None) -> int:
    """The place of the validation whose weights are kept: the lowest error's, the first of equals;
    the last where `patience` is None and validation chooses nothing."""
    errors = [point["val_eer"] for point in curves]
    return len(curves) - 1 if patience is None else errors.index(min(errors))


def fit(module: TrainingModule, cache: Path) -> Curves:
    """Train to the end, or until validation has not improved for the share `patience` of the
    steps; the best weights by validation win, or the last where `patience` is None. Goes on from
    the checkpoint that a killed run left in `cache`, which must be named by a hash of everything
    that the result depends on."""
    module.resume(cache)
    trainer = build_trainer(module.options, module.steps_left)
    try:
        trainer.fit(module)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if trainer.is_global_zero:
        module.restore(torch.load(cache / BEST, weights_only=True))
    return module.curves
