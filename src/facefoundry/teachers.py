"""Teachers: who says where the embedding of a face should lie.

A teacher is a network of ours that looks on, or what SFace made of each face once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from facefoundry.benchmarks import embed_images
from facefoundry.data import NOBODY, Batch, TrainingData
from facefoundry.ensemble import embedded_together
from facefoundry.errors import FoundryError
from facefoundry.keeping import CACHE, atomic
from facefoundry.licences import SFACE_TEACHER
from facefoundry.losses import CosFace
from facefoundry.morphs import morphs
from facefoundry.references import sface
from facefoundry.synthesis import GENERATORS
from facefoundry.weights import sface_path


def taught_by(stage: str, teacher: str, known: Sequence[str]) -> str:
    """The teacher. Raises FoundryError where the stage does not know it."""
    if teacher not in known:
        raise FoundryError(f"{stage}.teacher: '{teacher}' is not one of {', '.join(known)}")
    return teacher


def teacher_licences(teacher: str) -> list[dict[str, str]]:
    """What a teacher adds to the licence chain: our own stands there already."""
    return [SFACE_TEACHER.of(sface_path()).entry()] if teacher == "sface" else []


class Teacher(Protocol):
    """Where the student's embeddings should lie."""

    def loss(self, student: torch.Tensor, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        """student: (B, D) embeddings of images (B, 3, 112, 112) in [-1, 1]; the batch they are of.
        A scalar; no label is used."""


class LiveTeacher:
    """A frozen net that sees what the student sees, augmentation and all. Loss: 1 - cosine, mean
    over the batch (Shi et al., "ShrinkTeaNet", 2019, angular loss)."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net.eval().requires_grad_(False)

    def loss(self, student: torch.Tensor, images: torch.Tensor, _batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            target = self.net.to(images.device)(images).float()
        return away(student, target)


class RecordedTeacher:
    """Embeddings (K, D) of the faces as they are, made once: the student also learns to see
    through the augmentation.

    Regression alone teaches what all faces share first and what tells two apart last. So the
    student must also find the image's own embedding among all: cross-entropy over them as fixed
    centres, as AdaDistill (Boutros et al., ECCV 2024) has it for identities.
    places: (N,) which of the embeddings is each image's; None where each has one. scale,
    margin_cos: of the cosines in it, as in CosFace. among: so many embeddings at most, drawn for
    each batch. regression: weight of 1 - cosine beside it.
    """

    def __init__(
        self,
        embeddings: torch.Tensor,
        scale: float,
        margin_cos: float,
        regression: float,
        among: int,
        places: torch.Tensor | None = None,
    ) -> None:
        count, size = embeddings.shape
        share = min(1.0, among / count)
        self.head = CosFace(count, size, scale, margin_cos, share).requires_grad_(False)
        self.head.centres.copy_(functional.normalize(embeddings))
        self.regression = regression
        self.places = torch.arange(count) if places is None else places

    def loss(self, student: torch.Tensor, _images: torch.Tensor, batch: Batch) -> torch.Tensor:
        device = student.device
        head, self.places = self.head.to(device), self.places.to(device)
        own = self.places[batch["index"].to(device)]
        with torch.autocast(device.type, enabled=False):  # close cosines need their digits
            return head(student, own) + self.regression * away(student, head.centres[own])


def away(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine of (B, D) and (B, D)."""
    return (1 - functional.cosine_similarity(student, target)).mean()


def asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the values of conf/sface.yaml, what a RecordedTeacher of any answers is made with."""
    return {key: options[key] for key in ("scale", "margin_cos", "regression", "among")}


def sface_teacher(
    options: Mapping[str, Any], data: TrainingData, size: int, threads: int
) -> tuple[TrainingData, RecordedTeacher]:
    """By the values of conf/sface.yaml; the data with the morphs that were asked for.

    size: of the embeddings that are to be learnt. Raises FoundryError where it is not SFace's,
    where curation kept no embeddings, or for a name in `averaged` that is no generator's.
    """
    embeddings = recorded(Path(options["embeddings"]), data.image_ids)
    check_size(embeddings.shape[1], size)
    averaged = made_by(options["averaged"], data.generators)
    embeddings, places = centres(embeddings, data.train.labels, averaged, options["averaging"])
    count = options["morphs"]
    if count:
        own = ~averaged | averaged.all()
        parents = np.flatnonzero(own)  # of whom SFace's own answers count, where there are any
        data, more = with_morphs(data, parents, count, threads)
        places = torch.cat([places, len(embeddings) + torch.arange(count)])
        embeddings = torch.cat([embeddings, more])
    return data, RecordedTeacher(embeddings, places=places, **asked(options))


def made_by(names: Sequence[str], generators: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the images are by generators of these names; none of one that made no image.

    Raises FoundryError for a name that is no generator's, or `mix`, whose images are its parts'.
    """
    makers = {*GENERATORS} - {"mix"}
    unknown = sorted(set(names) - {*makers, *generators})
    if unknown:
        known = ", ".join(sorted(makers))
        raise FoundryError(f"sface.averaged: no image is made by '{unknown[0]}', but by {known}")
    return np.isin(generators, names)


def centres(
    embeddings: torch.Tensor, labels: NDArray[np.int64], averaged: NDArray[np.bool_], share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where images should lie, (K, D), and which of these is each image's, (N,).

    At its own embedding of (N, D); or, where `averaged`, by that share nearer to the mean over the
    images of its label, which takes back what pose and light do to the teacher's answers. By all
    of it, the images of a label have one place.
    """
    own, of = functional.normalize(embeddings), torch.from_numpy(labels)
    sums = own.new_zeros(int(of.max()) + 1, own.shape[1]).index_add_(0, of, own)
    weight = share * torch.from_numpy(averaged)[:, None]
    answers = functional.normalize(own + weight * (functional.normalize(sums)[of] - own))
    alone = len(sums) + np.arange(len(labels))
    groups = np.where(averaged & (share == 1), labels, alone)
    _, first, places = np.unique(groups, return_index=True, return_inverse=True)
    return answers[torch.from_numpy(first)], torch.from_numpy(places)


def check_size(taught: int, size: int) -> None:
    """Raises FoundryError where SFace's numbers are not as many as are to be learnt."""
    if taught != size:
        raise FoundryError(
            f"train.embedding_size: {size} cannot follow teacher: sface, which has"
            f" {taught}; set the one or train.teacher: none"
        )


def ensemble_teacher(
    options: Mapping[str, Any], data: TrainingData, models: Sequence[Path], threads: int
) -> RecordedTeacher:
    """What several models make of the train faces, by the values of conf/sface.yaml for answers
    that are recorded. Raises FoundryError for a name in `averaged` that is no generator's, or a
    model that cannot be read."""
    averaged = made_by(options["averaged"], data.generators)
    embeddings = embedded_together(models, data.train.crops, threads)
    drawn, places = centres(embeddings, data.train.labels, averaged, options["averaging"])
    return RecordedTeacher(drawn, places=places, **asked(options))


def with_morphs(
    data: TrainingData, parents: NDArray[np.int64], count: int, threads: int
) -> tuple[TrainingData, torch.Tensor]:
    """The train crops and `count` morphs of those at the parents' places, and SFace's embeddings
    (count, D) of the morphs.

    The embeddings of morphs, minutes of work, are kept for the next distillation of these faces.
    """
    made = morphs(data.train.crops, parents, count, data.train.seed)
    kept = CACHE / "morphs" / f"{sha256(made.data).hexdigest()[:16]}.npy"
    if not kept.is_file():
        found = embed_images(sface(threads), made, flip=False, title="embedding morphs")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic(kept) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    data.train.add(made, np.full(count, NOBODY))
    names = [f"morph/{number:06d}" for number in range(count)]
    more = replace(data, image_ids=[*data.image_ids, *names])
    return more, torch.from_numpy(np.load(kept, allow_pickle=False))


def recorded(embeddings: Path, image_ids: Sequence[str]) -> torch.Tensor:
    """A teacher's embeddings (N, D) by image id. Raises FoundryError where it or one is missing."""
    if not embeddings.is_file():
        raise FoundryError(
            f"{embeddings} is missing: teacher: sface needs what curate leaves with judge: sface"
        )
    table = pq.read_table(embeddings)
    places = {name: place for place, name in enumerate(table["image_id"].to_pylist())}
    missing = [name for name in image_ids if name not in places]
    if missing:
        raise FoundryError(
            f"{embeddings}: no embedding of {missing[0]} and {len(missing) - 1} more;"
            " teacher: sface needs curate.judge: sface"
        )
    rows = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    return torch.from_numpy(rows[[places[name] for name in image_ids]]).float()
