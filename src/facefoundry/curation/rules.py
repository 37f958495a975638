"""What stays in a dataset: arrays in, masks and labels out.

No duplicates, no two names for one face, no stranger under a name, no identity that outweighs the
others. The thresholds are the caller's; the functions know nothing of files or models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 1024


def near_duplicates(hashes: NDArray[np.uint64], quality: Floats, bits: int) -> Ints:
    """For each image the index of the kept image that it repeats, or -1 where it is kept itself.

    hashes: (N,) 64-bit perceptual hashes. Two are near-duplicates at a Hamming distance of at most
    `bits`. Greedy in falling quality, so that the best picture of a group stays.
    """
    order = np.argsort(-quality, kind="stable")
    sorted_hashes = hashes[order]
    original = np.full(len(hashes), -1, np.int64)
    for start in range(0, len(order), BLOCK):
        block = sorted_hashes[start : start + BLOCK]
        distance = np.bitwise_count(block[:, None] ^ sorted_hashes[None, : start + len(block)])
        for row in np.flatnonzero((distance <= bits).sum(1) > 1):
            earlier = np.flatnonzero(distance[row, : start + row] <= bits)
            kept = earlier[original[order[earlier]] < 0]
            if len(kept):
                original[order[start + row]] = order[kept[0]]
    return original


def identity_centres(embeddings: Floats, labels: Ints) -> Floats:
    """Mean directions (K, D) of L2-normalised embeddings (N, D) with labels 0..K-1, each used."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, labels, embeddings)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


def consistency(embeddings: Floats, labels: Ints) -> Floats:
    """Cosine (N,) of each image to the mean of the *other* images of its identity; 1 for a single
    image, which has nothing to disagree with."""
    sums = np.zeros((int(labels.max()) + 1, embeddings.shape[1]), np.float32)
    np.add.at(sums, labels, embeddings)
    others = sums[labels] - embeddings
    length = np.linalg.norm(others, axis=1)
    alone = np.bincount(labels)[labels] == 1
    cosine = np.einsum("nd,nd->n", embeddings, others) / np.maximum(length, 1e-12)
    return np.where(alone, np.float32(1.0), cosine).astype(np.float32)


def similar_identities(centres: Floats, counts: Ints, max_similarity: float) -> Ints:
    """For each identity the index of the kept identity that it is too close to, or its own.

    centres: (K, D) L2-normalised. Greedy in falling number of images.
    """
    target = np.arange(len(centres))
    kept: list[int] = []
    for index in np.argsort(-counts, kind="stable"):
        if kept:
            similarity = centres[kept] @ centres[index]
            nearest = int(np.argmax(similarity))
            if similarity[nearest] > max_similarity:
                target[index] = kept[nearest]
                continue
        kept.append(int(index))
    return target


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


def similarity_summary(embeddings: Floats, labels: Ints, seed: int) -> dict[str, float]:
    """Genuine and impostor cosines of a dataset: means, and the percentiles that matter."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[:2000]
    cosine = embeddings[chosen] @ embeddings[chosen].T
    left, right = np.triu_indices(len(chosen), k=1)
    same = labels[chosen][left] == labels[chosen][right]
    genuine, impostor = cosine[left, right][same], cosine[left, right][~same]
    summary: dict[str, np.float32] = {}
    if len(genuine):
        summary |= {"genuine_mean": genuine.mean(), "genuine_p5": np.percentile(genuine, 5)}
    if len(impostor):
        summary |= {"impostor_mean": impostor.mean(), "impostor_p99": np.percentile(impostor, 99)}
    return {name: round(float(value), 4) for name, value in summary.items()}
