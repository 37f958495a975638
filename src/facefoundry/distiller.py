"""Embedding distillation: the student learns where the teacher puts each face."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import nn

from facefoundry.averaging import average, check_alike
from facefoundry.backbones import build_backbone
from facefoundry.backbones.transfer import start_from
from facefoundry.data import Batch, TrainingData, normalise
from facefoundry.errors import FoundryError
from facefoundry.licences import enforce, merged
from facefoundry.model_dir import load_model, origin, read_spec, weights_sha256
from facefoundry.pruning import pruned_student, pruning_cost
from facefoundry.resumable import LogMetrics
from facefoundry.streaming import check_kornia
from facefoundry.teachers import (
    LiveTeacher,
    RecordedTeacher,
    Teacher,
    asked,
    centres,
    check_size,
    ensemble_teacher,
    made_by,
    sface_teacher,
    taught_by,
    teacher_licences,
)
from facefoundry.trained_model import train
from facefoundry.training import Chain, TrainingModule

if TYPE_CHECKING:
    from facefoundry.streaming.pool import FacePool


AVERAGED_OVER = 80  # batches, for statistics of normalisation


class DistillerModule(TrainingModule):
    """Trains `backbone` by a teacher; what is kept is the mean with `other`'s weights, if given."""

    def __init__(
        self, backbone: nn.Module, teacher: Teacher, other: nn.Module | None = None, **common: Any
    ) -> None:
        super().__init__(backbone, **common)
        self.teacher = teacher
        self._other = [other] if other else []  # in a list: it is no part of what is trained

    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.teacher.loss(self.embed(images).float(), images, batch)

    def finish(self) -> None:
        for other in self._other:
            batches = islice(self.train_dataloader(), AVERAGED_OVER)
            average(self.trained, other, (normalise(batch["image"]) for batch in batches))


def distill_student(
    options: Mapping[str, Any], faces: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Distil by the values of conf/distill.yaml, write the model directory, return the metrics.

    Raises FoundryError for an unknown teacher, one that breaks the policy, models beside one that
    is not `own`, or a model to average with that is of another shape or to be pruned.
    """
    outside = taught_by("distill", options["teacher"], ("own", "sface")) == "sface"
    data = TrainingData.read(faces, options["augmentation"], options["seed"])
    model, beside = Path(options["model"]), [Path(other) for other in options["beside"]]
    if beside and (outside or options["stream"]["faces"]):
        raise FoundryError("distill.beside: only for teacher: own without a stream")
    if options["average_with"] and options["prune"]["share"]:
        raise FoundryError("distill.average_with: not with distill.prune, which changes the shape")
    trained, spec = load_model(model)
    mean_of = [Path(options["average_with"])] if options["average_with"] else []
    others = [read_spec(directory).licences for directory in [*beside, *mean_of]]
    chain = merged(spec.licences, teacher_licences(options["teacher"]), *others)
    enforce(options["policy"], merged(data.licences, chain))
    pl.seed_everything(options["seed"], verbose=False)
    student = build_backbone(**options["backbone"], embedding_size=spec.embedding_size)
    start_from(student, trained)
    other = load_model(mean_of[0])[0] if mean_of else None
    if other:
        check_alike(student, other, mean_of[0])
    teacher: Teacher = LiveTeacher(trained)
    pool: FacePool | None = None
    if options["stream"]["faces"]:
        pool, teacher, licences = streamed(options, data, spec.embedding_size, trained)
        chain = merged(chain, licences)
    elif outside:
        data, teacher = sface_teacher(
            options["sface"], data, spec.embedding_size, options["workers"]
        )
    elif beside:
        teacher = ensemble_teacher(options["sface"], data, [model, *beside], options["workers"])
    options = dict(options) | {
        "embedding_size": spec.embedding_size,
        "beside_sha256": [weights_sha256(directory) for directory in beside],
        "average_with_sha256": weights_sha256(mean_of[0]) if mean_of else None,
        "start": origin(model, spec),
    }

    def distil(student: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
        module = DistillerModule(
            student,
            teacher,
            other,
            options=options,
            data=data,
            log_metrics=log_metrics,
            pool=pool,
        )
        metrics = train(module, faces, out, options["backbone"], chain)
        return metrics | ({"streamed": pool.made} if pool else {})

    metrics = distil(student, options)
    if not options["prune"]["share"]:
        return metrics
    smaller, options = pruned_student(student, options)
    return distil(smaller, options) | {"pruning": pruning_cost(student, smaller, metrics, options)}


def streamed(
    options: Mapping[str, Any], data: TrainingData, size: int, trained: nn.Module
) -> tuple[FacePool, RecordedTeacher, Chain]:
    """Faces that are made while the student learns, what the teacher makes of each, and the
    licences that they add.

    Answers to the train faces are averaged as without a stream. size: of the embeddings that are
    to be learnt. trained: the teacher `own`. Raises FoundryError where the size is not SFace's that
    is to teach, for a name in `averaged` that is no generator's, or without Kornia.
    """
    check_kornia("stream.faces")
    from facefoundry.streaming import pool as pools  # imports Kornia

    if options["teacher"] == "sface":
        check_size(pools.DIMENSIONS, size)
    painter, aligner = pools.streaming_nets(options["stream"]["generator"])
    enforce(options["policy"], painter.licences)
    answers = pools.SFace() if options["teacher"] == "sface" else pools.Own(trained)
    nets = painter, aligner, answers
    pool = pools.open_pool(options["stream"], nets, data.train.crops, size)
    averaged = made_by(options["sface"]["averaged"], data.generators)
    own = pool.targets[: len(averaged)]
    drawn, places = centres(own.cpu(), data.train.labels, averaged, options["sface"]["averaging"])
    own.copy_(drawn[places])
    teacher = RecordedTeacher(pool.targets, **asked(options["sface"]))
    # what the pool writes down from now on is what the teacher asks for
    pool.targets = teacher.head.to(pool.targets.device).centres.data
    return pool, teacher, painter.licences
