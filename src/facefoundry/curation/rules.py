"""What stays in a dataset: arrays in, masks and labels out.

No duplicates, no two names for one face, no stranger under a name, no identity that outweighs the
others. The thresholds are the caller's; the functions know nothing of files or models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.centres import identity_sums
from facefoundry.curation.neighbours import CentreIndex, HashIndex, Index, leaders

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PAIRED = 2000  # images that are compared with one another


def near_duplicates(hashes: NDArray[np.uint64], quality: Floats, bits: int) -> Ints:
    """For each image the index of the kept image that it repeats, or -1 where it is kept itself.

    hashes: (N,) 64-bit perceptual hashes. Two are near-duplicates at a Hamming distance of at most
    `bits`. Greedy in falling quality, so that the best picture of a group stays. Exact.
    """
    order = np.argsort(-quality, kind="stable")
    index = HashIndex(bits, expected=len(hashes))
    original = _leaders_in(order, hashes, index, "near-duplicates")
    return np.where(original == np.arange(len(hashes)), -1, original)


def _leaders_in(order: Ints, items: NDArray[Any], index: Index, label: str) -> Ints:
    """For each of (N, ...) items its leader where they come in the order `order`."""
    leader = np.empty_like(order)
    leader[order] = order[leaders(items[order], index, label)]
    return leader


def consistency(embeddings: Floats, labels: Ints) -> Floats:
    """Cosine (N,) of each image to the mean of the *other* images of its identity; 1 for a single
    image, which has nothing to disagree with."""
    others = identity_sums(embeddings, labels)[labels] - embeddings
    length = np.linalg.norm(others, axis=1)
    alone = np.bincount(labels)[labels] == 1
    cosine = np.einsum("nd,nd->n", embeddings, others) / np.maximum(length, 1e-12)
    return np.where(alone, np.float32(1.0), cosine).astype(np.float32)


def similar_identities(centres: Floats, counts: Ints, max_similarity: float) -> Ints:
    """For each identity the index of the kept identity that it is too close to, or its own.

    centres: (K, D) L2-normalised. Greedy in falling number of images; the closest kept identity is
    named. Exact up to EXACT_CENTRES identities; beyond, a few close ones may be missed.
    """
    order = np.argsort(-counts, kind="stable")
    return _leaders_in(order, centres, CentreIndex(max_similarity, centres), "identities")


def balanced(labels: Ints, quality: Floats, max_imbalance: float) -> Bools:
    """Mask (N,) that keeps at most `max_imbalance` times as many images of an identity as the
    smallest has, the best ones by quality."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    cap = int(max_imbalance * counts.min())
    order = np.lexsort((-quality, inverse))
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - first[inverse[order]]
    return np.asarray(rank < cap)


def pair_cosines(embeddings: Floats, labels: Ints, seed: int) -> tuple[Floats, Floats]:
    """Cosines of all genuine pairs and of all impostor pairs of up to PAIRED images."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[:PAIRED]
    cosine = embeddings[chosen] @ embeddings[chosen].T
    left, right = np.triu_indices(len(chosen), k=1)
    same = labels[chosen][left] == labels[chosen][right]
    return cosine[left, right][same], cosine[left, right][~same]


def similarity_summary(genuine: Floats, impostor: Floats) -> dict[str, float]:
    """Means of what `pair_cosines` gives, and the percentiles that matter."""
    summary: dict[str, np.float32] = {}
    if len(genuine):
        summary |= {"genuine_mean": genuine.mean(), "genuine_p5": np.percentile(genuine, 5)}
    if len(impostor):
        summary |= {"impostor_mean": impostor.mean(), "impostor_p99": np.percentile(impostor, 99)}
    return {name: round(float(value), 4) for name, value in summary.items()}
