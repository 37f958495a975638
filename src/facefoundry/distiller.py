"""Embedding distillation: the student learns where the teacher puts each face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

from facefoundry.backbones import build_backbone
from facefoundry.data import TrainingData
from facefoundry.model_dir import load_model
from facefoundry.pruning import prune_blocks
from facefoundry.training import LogMetrics, TrainingModule, train


class DistillerModule(TrainingModule):
    """Trains `backbone` to the directions of a frozen `teacher` on the same augmented images.

    Loss: 1 - cosine, mean over the batch (Shi et al., "ShrinkTeaNet", 2019, angular loss).
    No labels are used.
    """

    def __init__(self, backbone: nn.Module, teacher: nn.Module, **common: Any) -> None:
        super().__init__(backbone, **common)
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: not saved with us

    def batch_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = self._teacher[0].to(images.device)(images)
        embeddings = self.backbone(images).float()
        return (1 - functional.cosine_similarity(embeddings, target.float())).mean()


def start_from(student: nn.Module, teacher: nn.Module) -> int:
    """Copy the teacher's weights wherever name and shape agree (Sanh et al., "DistilBERT", 2019:
    a student made of some of the teacher's layers learns faster). Returns how many were copied."""
    own, given = student.state_dict(), teacher.state_dict()
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(own | shared)
    return len(shared)


def distill_student(
    options: dict[str, Any], faces: Path, teacher: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Distil by the values of conf/distill.yaml, write the model directory, return the metrics."""
    data = TrainingData.read(faces, options["augmentation"], options["seed"])
    teacher_backbone, teacher_spec = load_model(teacher)
    pl.seed_everything(options["seed"], verbose=False)
    options = options | {"embedding_size": teacher_spec.embedding_size}
    student = build_backbone(**options["backbone"], embedding_size=teacher_spec.embedding_size)
    start_from(student, teacher_backbone)
    common = {"teacher": teacher_backbone, "data": data, "log_metrics": log_metrics}
    module = DistillerModule(student, options=options, **common)
    metrics = train(module, faces, out, options["backbone"], teacher_spec.licences)
    share = options["prune"]["share"]
    if not share:
        return metrics
    state, inner = prune_blocks(student, share)
    architecture = options["backbone"] | {"inner": inner}
    student = build_backbone(**architecture, embedding_size=teacher_spec.embedding_size)
    student.load_state_dict(state)
    options = options | {"steps": options["prune"]["steps"], "backbone": architecture}
    module = DistillerModule(student, options=options, **common)
    pruned = train(module, faces, out, architecture, teacher_spec.licences)
    return pruned | {"pruning": {"share": share, "before": metrics}}
