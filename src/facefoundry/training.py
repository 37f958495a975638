"""One training loop for the recogniser and the distiller: Lightning, resumable, step by step.

An epoch is `validate_every` steps, whatever the size of the data set: that is the rhythm of
validation, of early stopping and of the checkpoint that a killed run goes on from.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch import nn

from facefoundry import __version__, manifest
from facefoundry.backbones import count_parameters
from facefoundry.benchmarks import Images, embed_images, held_out_pairs
from facefoundry.data import Batch, EpochSampler, PairSampler, TrainingData, normalise, train_loader
from facefoundry.errors import FoundryError
from facefoundry.evaluation import calibrate
from facefoundry.licences import merged
from facefoundry.model_dir import ModelSpec, save_model
from facefoundry.optim import build_optimizer, warmup_cosine
from facefoundry.precision import resolve_precision
from facefoundry.sharding import CACHE, cache_key
from facefoundry.verification import eer, pair_similarity, roc

LogMetrics = Callable[[Mapping[str, float], int], None]
LAST, BEST = "last.pt", "best.pt"
PER_IDENTITY = 4  # images of an identity in a batch, for losses that need pairs

Curves = list[dict[str, float]]
Chain = list[dict[str, str]]

# its device table and its advertisements; errors still come as exceptions
for _name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class TrainingModule(pl.LightningModule):
    """What both trainings share: schedule, NaN guard, validation by verification, curves.

    `options` are the values of conf/train.yaml or conf/distill.yaml.
    """

    def __init__(
        self,
        backbone: nn.Module,
        options: Mapping[str, Any],
        data: TrainingData,
        log_metrics: LogMetrics,
    ) -> None:
        super().__init__()
        self.backbone: nn.Module = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options = options
        self.data = data
        self.log_metrics = log_metrics
        self.cache: Path | None = None
        self.sampler: EpochSampler | None = None
        self.curves: Curves = []
        self._resumed: dict[str, Any] = {}
        self._losses: list[torch.Tensor] = []

    @property
    def step(self) -> int:
        """Steps done in all, those before a kill too."""
        return int(self._resumed.get("step", 0)) + self.global_step

    @abstractmethod
    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Loss of normalised images (B, 3, 112, 112) in [-1, 1]; the batch they are of."""

    def training_step(self, batch: Batch, _index: int) -> torch.Tensor:
        loss = self.batch_loss(normalise(batch["image"]), batch)
        if not torch.isfinite(loss):
            names = ", ".join(self.data.image_ids[i] for i in batch["index"][:8].tolist())
            raise FoundryError(
                f"the loss is {loss.item()} at step {self.step} (batch: {names}, ...);"
                " lower optimizer.lr or look at these images"
            )
        self._losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer([self], self.options["optimizer"])
        schedule = warmup_cosine(self.options["steps"], self.options["warmup"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_train_epoch_end(self) -> None:
        point = {
            "step": float(self.step),
            "loss": float(torch.stack(self._losses).mean()),
            "lr": float(self.trainer.optimizers[0].param_groups[0]["lr"]),
            "val_eer": self._validate(),
        }
        self._losses.clear()
        self.curves.append(point)
        self.log_metrics({k: v for k, v in point.items() if k != "step"}, self.step)
        if not sys.stderr.isatty():
            text = "  ".join(f"{key} {value:.4g}" for key, value in point.items())
            print(f"{type(self).__name__}: {text} of {self.options['steps']}", file=sys.stderr)

        if self.sampler:  # Lightning sets the epoch of samplers, not of batch samplers
            self.sampler.start_at(len(self.curves))
        if self.cache:
            self._save(self.cache)
        stale = self.step - self.curves[best_point(self.curves)]["step"]
        self.trainer.should_stop = stale >= self.options["patience"] * self.options["steps"]

    def on_fit_start(self) -> None:
        if self._resumed:
            self.trainer.optimizers[0].load_state_dict(self._resumed["optimizer"])
            scheduler = self.trainer.lr_scheduler_configs[0].scheduler
            scheduler.load_state_dict(self._resumed["schedule"])

    def resume(self, cache: Path) -> None:
        """Go on from what a killed training left in `cache`, and leave checkpoints there."""
        self.cache = cache
        if (cache / LAST).is_file():
            self._resumed = torch.load(cache / LAST, weights_only=True)
            self.load_state_dict(self._resumed["module"])
            self.curves = self._resumed["curves"]

    def _save(self, cache: Path) -> None:
        """By atomic rename: a kill leaves the checkpoint of before."""
        state = {
            "step": self.step,
            "module": self.state_dict(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "schedule": self.trainer.lr_scheduler_configs[0].scheduler.state_dict(),
            "curves": self.curves,
        }
        cache.mkdir(parents=True, exist_ok=True)
        best = best_point(self.curves) == len(self.curves) - 1
        for name, content in ((BEST, state["module"]), (LAST, state))[not best :]:
            torch.save(content, cache / f"{name}.tmp")
            (cache / f"{name}.tmp").replace(cache / name)

    def _validate(self) -> float:
        """Equal error rate on all pairs of the held-out identities."""
        embeddings = embed_images(embedder(self.backbone), self.data.val.crops, flip=False)
        self.backbone.train()
        pairs = held_out_pairs(self.data.val.identities, seed=0)
        return eer(roc(pair_similarity(embeddings, pairs.index), pairs.same))


def embedder(backbone: nn.Module) -> Callable[[Images], Any]:
    """(B, 112, 112, 3) uint8 RGB -> (B, D), in evaluation mode and without gradients."""
    backbone.eval()
    device = next(backbone.parameters()).device

    def embed(images: Images) -> Any:
        planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            return backbone(normalise(planes)).cpu().numpy()

    return embed


def train(
    module: TrainingModule, faces: Path, out: Path, architecture: Mapping[str, Any], chain: Chain
) -> dict[str, Any]:
    """Fit, calibrate on the val identities and write the model directory; return the metrics.

    architecture: arguments of `build_backbone`. chain: licences beyond the data's own.
    """
    options, data = module.options, module.data
    cache = CACHE / out.name / cache_key(options, faces / manifest.MANIFEST)
    curves = fit(module, cache)
    size, others = options["embedding_size"], dict(architecture)
    spec = ModelSpec(
        architecture=others.pop("architecture"),
        embedding_size=size,
        arguments=others,
        provenance=provenance(options, data),
        licences=merged(data.licences, chain),
        thresholds=calibrate(
            embedder(module.backbone), data.val.crops, data.val.identities, options["seed"]
        ),
    )
    save_model(out, module.backbone, spec)
    (out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    shutil.rmtree(cache)
    return {
        "steps": int(curves[-1]["step"]),
        "identities": data.identities,
        "images": len(data.train),
        "parameters": count_parameters(module.backbone),
        "loss": curves[-1]["loss"],
        "val_eer": min(point["val_eer"] for point in curves),
    }


def provenance(options: Mapping[str, Any], data: TrainingData) -> dict[str, Any]:
    """What made the weights: data by hash, and every option."""
    return {
        "data": {
            "manifest_sha256": data.manifest_sha256,
            "identities": data.identities,
            "images": len(data.train),
        },
        "options": dict(options) | {"precision": resolve_precision(options["precision"])},
        "facefoundry": __version__,
    }


def build_sampler(module: TrainingModule, steps: int) -> EpochSampler:
    """Random batches, or some images of each identity where the loss compares images."""
    dataset, size, seed = module.data.train, module.options["batch_size"], module.options["seed"]
    if getattr(getattr(module, "head", None), "needs_pairs", False):
        return PairSampler(dataset.labels, size, steps, seed, PER_IDENTITY)
    return EpochSampler(len(dataset), size, steps, seed)


def best_point(curves: Curves) -> int:
    """The place of the lowest validation error, the first of equals."""
    errors = [point["val_eer"] for point in curves]
    return errors.index(min(errors))


def fit(module: TrainingModule, cache: Path) -> Curves:
    """Train to the end, or until validation has not improved for the share `patience` of the
    steps; the best weights by validation win. Goes on from the checkpoint that a killed run left
    in `cache`, which must be named by a hash of everything that the result depends on."""
    options, dataset = module.options, module.data.train
    every = min(options["validate_every"], options["steps"])
    module.resume(cache)
    sampler = build_sampler(module, every)
    module.sampler = sampler
    sampler.start_at(len(module.curves))
    trainer = pl.Trainer(
        max_steps=options["steps"] - module.step,
        max_epochs=-1,
        accelerator="auto",
        devices=1,
        precision=resolve_precision(options["precision"]),  # type: ignore[arg-type]
        callbacks=[TQDMProgressBar()] if sys.stderr.isatty() else [],
        enable_progress_bar=sys.stderr.isatty(),
        enable_checkpointing=False,
        gradient_clip_val=options["gradient_clip"],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    warnings.filterwarnings("ignore", message=".*treespec", module="pytorch_lightning")
    trainer.fit(module, train_loader(dataset, sampler, options["loader_workers"]))
    module.load_state_dict(torch.load(cache / BEST, weights_only=True))
    return module.curves
