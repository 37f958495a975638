"""The recogniser: the thin Lightning module around backbone and head, and its training."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import nn

from facefoundry.backbones import build_backbone
from facefoundry.backbones.transfer import start_from
from facefoundry.curation.run import judge_licences
from facefoundry.data import NOBODY, Batch, TrainingData
from facefoundry.errors import FoundryError
from facefoundry.licences import enforce, merged
from facefoundry.losses import build_head
from facefoundry.model_dir import load_model, origin
from facefoundry.resumable import LogMetrics
from facefoundry.samplers import choose_sampling
from facefoundry.streaming import check_kornia
from facefoundry.streaming.loader import FixedPool, pictures
from facefoundry.synthesis.mobile_stylegan import torch_device
from facefoundry.teachers import Teacher, sface_teacher, taught_by, teacher_licences
from facefoundry.trained_model import train
from facefoundry.training import Chain, TrainingModule
from facefoundry.wccn import last_layers, normalise_within

if TYPE_CHECKING:
    from facefoundry.streaming.people import PeoplePool


class RecognizerModule(TrainingModule):
    """Trains `backbone` and `head` (see `losses.build_head`); the margin grows over the first
    `margin_warmup` share of the steps, since a full margin on random weights stalls. Under the
    option `wccn` the kept weights go through `wccn.normalise_within`.

    teacher: its loss is added to the head's, which then weighs `labels`; it also sees faces that
    have no label.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        teacher: Teacher | None = None,
        labels: float = 1.0,
        **common: Any,
    ) -> None:
        sampling: str | None = getattr(head, "sampling", None)
        super().__init__(backbone, needs=sampling, **common)
        self.head, self.teacher, self._weight = head, teacher, labels
        # two views of an image are told from those of others, whatever their identity
        self._label = "index" if sampling == "views" else "label"
        self._margin = getattr(head, "margin", None)
        if self.options["wccn"]:
            last_layers(self.trained)  # refuses a backbone before the training, not after it

    def batch_loss(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        embeddings = self.embed(images).float()
        with torch.autocast(images.device.type, enabled=False):  # a margin needs all its digits
            loss = torch.zeros((), device=images.device)
            if self.teacher:
                loss = loss + self.teacher.loss(embeddings, images, batch)
            named = batch["label"] != NOBODY
            if named.any():
                loss = loss + self._weight * self.head(embeddings[named], batch[self._label][named])
            return loss

    def on_train_batch_start(self, _batch: Any, _index: int) -> None:
        rise = self.options["margin_warmup"] * self.options["steps"]
        if self._margin is not None:
            self.head.margin = self._margin * min(1.0, (self.step + 1) / max(rise, 1))

    def finish(self) -> None:
        if self.options["wccn"]:
            faces, options = self.data.train, self.options
            read, labels = faces.crops.__getitem__, faces.labels
            if self.pool:
                read, labels = partial(pictures, self.pool.crops), self.pool.labels.numpy()
            normalise_within(self.trained, read, labels, options["wccn"], options["seed"])


def train_recognizer(
    options: dict[str, Any], faces: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Train by the values of conf/train.yaml, write the model directory, return the metrics.

    init_from: a model directory whose weights are taken wherever name and shape agree. Raises
    FoundryError where none does.
    """
    data = TrainingData.read(faces, options["augmentation"], options["seed"])
    pl.seed_everything(options["seed"], verbose=False)
    size = options["embedding_size"]
    backbone = build_backbone(**options["backbone"], embedding_size=size)
    chain: Chain = []
    if options["init_from"]:
        chain, start = initialise(backbone, Path(options["init_from"]))
        options = options | {"start": start}
    outside = taught_by("train", options["teacher"], ("none", "sface")) == "sface"
    chain = merged(chain, teacher_licences(options["teacher"]))
    enforce(options["policy"], merged(data.licences, chain))
    people: PeoplePool | None = None
    if options["people"]["identities"]:
        people, licences = with_people(options, data)
        chain = merged(chain, licences)
    teacher: Teacher | None = None
    identities = people.identities if people else data.identities
    head = build_head(**options["loss"], identities=identities, embedding_size=size)
    if outside:
        drawn = choose_sampling(options["sampling"], getattr(head, "sampling", None))
        wanted = options["sface"] | ({} if drawn == "uniform" else {"morphs": 0})  # of nobody
        data, teacher = sface_teacher(wanted, data, size, options["workers"])
    module = RecognizerModule(
        backbone,
        head,
        teacher,
        options["sface"]["labels"] if outside else 1.0,
        pool=people or pool_for(options["augment_on"], data),
        options=options,
        data=data,
        log_metrics=log_metrics,
    )
    metrics = train(module, faces, out, options["backbone"], chain)
    return metrics | (people.counts if people else {})


def with_people(options: Mapping[str, Any], data: TrainingData) -> tuple[PeoplePool, Chain]:
    """The train crops and identities that are painted beside the training, and the licences that
    these add. Raises FoundryError for a teacher, who has not seen them, or without Kornia."""
    if options["teacher"] != "none":
        raise FoundryError("people.identities: are learnt by labels alone; set train.teacher: none")
    check_kornia("people.identities")
    from facefoundry.streaming import people  # import Kornia
    from facefoundry.streaming import pool as pools

    painter, aligner = pools.streaming_nets(options["people"]["generator"])
    licences = merged(painter.licences, judge_licences("sface"))
    enforce(options["policy"], licences)
    kept = FixedPool.of(data.train.crops, data.train.labels, torch_device())
    return people.open_people(options["people"], (painter, aligner, pools.SFace()), kept), licences


def pool_for(augment_on: str, data: TrainingData) -> FixedPool | None:
    """The train crops on the GPU where they are to be augmented there. Raises FoundryError for
    another word than cpu or gpu, and for gpu without Kornia."""
    if augment_on not in ("cpu", "gpu"):
        raise FoundryError(f"augment_on: '{augment_on}' is not one of cpu, gpu")
    if augment_on == "cpu":
        return None
    check_kornia("augment_on: gpu")
    return FixedPool.of(data.train.crops, data.train.labels, torch_device())


def initialise(backbone: nn.Module, model: Path) -> tuple[Chain, dict[str, Any]]:
    """Give `backbone` the weights of a model directory; return its licences and what it is to
    those who start from it."""
    trained, spec = load_model(model)
    if not start_from(backbone, trained):
        raise FoundryError(
            f"init_from: {model} is a {spec.architecture} that shares no layer with the backbone;"
            " choose the backbone it was trained with"
        )
    return spec.licences, origin(model, spec)
