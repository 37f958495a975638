"""What the images of an identity have in common: sums and mean directions of their embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


def identity_sums(embeddings: Floats, labels: Ints) -> Floats:
    """(K, D) sums of embeddings (N, D) with labels 0..K-1, in their precision."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]), embeddings.dtype)
    np.add.at(sums, labels, embeddings)
    return sums


def identity_centres(embeddings: Floats, labels: Ints) -> NDArray[np.float32]:
    """Mean directions (K, D) of L2-normalised embeddings (N, D) with labels 0..K-1, each used."""
    sums = identity_sums(embeddings, labels)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)
