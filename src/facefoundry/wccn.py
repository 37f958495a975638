"""Within-class covariance normalisation: what changes from picture to picture counts for less.

Directions of the embedding in which pictures of one identity lie apart are shrunk, so that each of
them weighs the same in a cosine (Hatch, Kajarekar and Stolcke, "Within-Class Covariance
Normalization for SVM-Based Speaker Recognition", Interspeech 2006). The last layers are linear, so
it goes into their weights and costs nothing at inference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facefoundry.backbones.layers import Embedding
from facefoundry.centres import identity_sums
from facefoundry.data import NOBODY, Crops
from facefoundry.errors import FoundryError
from facefoundry.progress import track
from facefoundry.training import embedder

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]

IMAGES = 8000  # more change the matrix little
BATCH = 256


def normalise_within(
    backbone: nn.Module, read: Callable[[Ints], Crops], labels: Ints, ridge: float, seed: int
) -> None:
    """Estimate the matrix on crops of the identities `labels` (N,), but for those of NOBODY, and
    put it into `backbone`. read: rows (M,) -> their crops (M, 112, 112, 3) uint8 RGB. Raises
    FoundryError for a backbone that does not end in `Embedding`."""
    end = last_layers(backbone)
    rows = np.flatnonzero(labels != NOBODY)
    turns = np.random.default_rng(seed).permutation(labels.max() + 1)
    rows = rows[np.argsort(turns[labels[rows]], kind="stable")][:IMAGES]
    embed = embedder(backbone)
    starts = track(range(0, len(rows), BATCH), "wccn", unit="batches")
    raw = np.concatenate([embed(read(rows[start : start + BATCH])) for start in starts])
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    matrix = wccn_matrix(unit, labels[rows], ridge)
    fold(end, matrix, raw @ matrix)


def last_layers(backbone: nn.Module) -> Embedding:
    """Where the matrix goes. Raises FoundryError for a backbone that ends in anything else."""
    end = getattr(backbone, "embedding", None)
    if not isinstance(end, Embedding):
        raise FoundryError(
            f"train.wccn: {type(backbone).__name__} does not end in a linear layer and batch"
            " normalisation; set wccn: 0, or choose small_resnet or a mobilefacenet"
        )
    return end


def wccn_matrix(embeddings: Floats, labels: Ints, ridge: float) -> Floats:
    """(D, D) symmetric: the inverse square root of the covariance of embeddings (N, D) around the
    mean of each one's identity, plus `ridge` times its mean variance in all directions. Its mean
    eigenvalue is 1."""
    labels = np.unique(labels, return_inverse=True)[1]
    embeddings = np.asarray(embeddings, np.float64)  # small eigenvalues are what it divides by
    sums = identity_sums(embeddings, labels)
    centred = embeddings - (sums / np.bincount(labels)[:, None])[labels]
    within = centred.T @ centred / len(centred)
    size = len(within)
    values, axes = np.linalg.eigh(within + ridge * np.trace(within) / size * np.eye(size))
    scales = values**-0.5
    return np.asarray((axes * (scales / scales.mean())) @ axes.T)


@torch.no_grad()
def fold(end: Embedding, matrix: Floats, given: Floats) -> None:
    """Have `end` give `matrix` (D, D) times what it gave. given (N, D): what comes out then, whose
    statistics batch normalisation keeps, as if the network had been trained so."""
    linear, norm = end.linear, end.normalise
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # or it would not normalise at inference
    turn = torch.from_numpy(matrix).to(linear.weight)
    centre, spread = (torch.from_numpy(of).to(mean) for of in (given.mean(0), given.var(0)))
    gain = norm.weight / (variance + norm.eps).sqrt()
    linear.weight.copy_(turn @ (gain[:, None] * linear.weight))
    mean.copy_(turn @ (gain * mean - norm.bias) + centre)
    norm.bias.copy_(centre)
    variance.copy_(spread)
    norm.weight.copy_((spread + norm.eps).sqrt())
