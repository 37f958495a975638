"""Identity classification with a margin: the thin Lightning module around backbone and head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from facefoundry.backbones import build_backbone
from facefoundry.data import Batch, TrainingData
from facefoundry.licences import enforce
from facefoundry.losses import build_head
from facefoundry.training import LogMetrics, TrainingModule, train


class RecognizerModule(TrainingModule):
    """Trains `backbone` and `head` (see `losses.build_head`); the margin grows over the first
    `margin_warmup` share of the steps, since a full margin on random weights stalls."""

    def __init__(self, backbone: nn.Module, head: nn.Module, **common: Any) -> None:
        super().__init__(backbone, **common)
        self.head = head
        self._margin = getattr(head, "margin", None)

    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        embeddings = self.backbone(images).float()
        with torch.autocast(images.device.type, enabled=False):  # a margin needs all its digits
            return self.head(embeddings, batch["label"])

    def on_train_batch_start(self, _batch: Any, _index: int) -> None:
        rise = self.options["margin_warmup"] * self.options["steps"]
        if self._margin is not None:
            self.head.margin = self._margin * min(1.0, (self.step + 1) / max(rise, 1))


def train_recognizer(
    options: dict[str, Any], faces: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Train by the values of conf/train.yaml, write the model directory, return the metrics."""
    data = TrainingData.read(faces, options["augmentation"], options["seed"])
    enforce(options["policy"], data.licences)
    pl.seed_everything(options["seed"], verbose=False)
    size = options["embedding_size"]
    module = RecognizerModule(
        build_backbone(**options["backbone"], embedding_size=size),
        build_head(**options["loss"], identities=data.identities, embedding_size=size),
        options=options,
        data=data,
        log_metrics=log_metrics,
    )
    return train(module, faces, out, options["backbone"], chain=[])
