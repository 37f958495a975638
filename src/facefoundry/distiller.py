"""Embedding distillation: the student learns where the teacher puts each face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

from facefoundry.backbones import build_backbone
from facefoundry.backbones.transfer import start_from
from facefoundry.data import Batch, TrainingData
from facefoundry.errors import FoundryError
from facefoundry.licences import SFACE_TEACHER, enforce, merged
from facefoundry.model_dir import WEIGHTS, load_model
from facefoundry.pruning import pruned_student, pruning_cost
from facefoundry.trained_model import train
from facefoundry.training import LogMetrics, TrainingModule
from facefoundry.weights import sface_path

TEACHERS = ("own", "sface")
Targets = Callable[[torch.Tensor, Batch], torch.Tensor]


class DistillerModule(TrainingModule):
    """Trains `backbone` to the directions of a teacher's embeddings.

    targets: (images (B, 3, 112, 112) in [-1, 1], their batch) -> the teacher's (B, D).
    Loss: 1 - cosine, mean over the batch (Shi et al., "ShrinkTeaNet", 2019, angular loss).
    No labels are used.
    """

    def __init__(self, backbone: nn.Module, targets: Targets, **common: Any) -> None:
        super().__init__(backbone, **common)
        self.targets = targets

    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            target = self.targets(images, batch).float()
        return (1 - functional.cosine_similarity(self.embed(images).float(), target)).mean()


def of_the_same_images(teacher: nn.Module) -> Targets:
    """A frozen teacher that sees what the student sees, augmentation and all."""
    teacher.eval().requires_grad_(False)
    return lambda images, _batch: teacher.to(images.device)(images)


def of_the_clean_crops(embeddings: Path, image_ids: Sequence[str]) -> Targets:
    """A teacher's embeddings by image id, made once from the faces as they are: the student also
    learns to see through the augmentation. Raises FoundryError where one is missing."""
    table = pq.read_table(embeddings)
    places = {name: place for place, name in enumerate(table["image_id"].to_pylist())}
    missing = [name for name in image_ids if name not in places]
    if missing:
        raise FoundryError(
            f"{embeddings}: no embedding of {missing[0]} and {len(missing) - 1} more;"
            " distill.teacher: sface needs curate.judge: sface"
        )
    rows = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    targets = torch.from_numpy(rows[[places[name] for name in image_ids]])
    return lambda images, batch: targets[batch["index"].cpu()].to(images.device)


def distill_student(
    options: Mapping[str, Any], faces: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Distil by the values of conf/distill.yaml, write the model directory, return the metrics.

    Raises FoundryError for an unknown teacher, or one that breaks the policy.
    """
    if options["teacher"] not in TEACHERS:
        raise FoundryError(
            f"distill.teacher: '{options['teacher']}' is not one of {', '.join(TEACHERS)}"
        )
    data = TrainingData.read(faces, options["augmentation"], options["seed"])
    model = Path(options["model"])
    trained, spec = load_model(model)
    outside = options["teacher"] == "sface"
    chain = merged(spec.licences, [SFACE_TEACHER.of(sface_path()).entry()] if outside else [])
    enforce(options["policy"], merged(data.licences, chain))
    pl.seed_everything(options["seed"], verbose=False)
    student = build_backbone(**options["backbone"], embedding_size=spec.embedding_size)
    start_from(student, trained)
    targets = (
        of_the_clean_crops(Path(options["embeddings"]), data.image_ids)
        if outside
        else of_the_same_images(trained)
    )
    options = dict(options) | {
        "embedding_size": spec.embedding_size,
        "model_sha256": sha256((model / WEIGHTS).read_bytes()).hexdigest(),
    }

    def distil(student: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
        module = DistillerModule(
            student, targets, options=options, data=data, log_metrics=log_metrics
        )
        return train(module, faces, out, options["backbone"], chain)

    metrics = distil(student, options)
    if not options["prune"]["share"]:
        return metrics
    smaller, options = pruned_student(student, options)
    return distil(smaller, options) | {"pruning": pruning_cost(student, smaller, metrics, options)}
