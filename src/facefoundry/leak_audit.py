"""Does a real face of a reference set come back in synthetic ones?

Every synthetic sample is compared with every reference image, by an embedder that measures and was
not trained here. A generator that invents people makes pairs with real faces that look like pairs
of two real strangers. One that remembers shows it in two signs: how often samples look like a real
face at all, and how many are as near to one as another photograph of that person would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from facefoundry.benchmarks import Pairs

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 2048


@dataclass(frozen=True)
class Nearest:
    """For each sample the reference that is most like it: `similarity` (N,), `index` (N,)."""

    similarity: Floats
    index: Ints


def identity_groups(images: int, pairs: Pairs) -> Ints:
    """(M,) numbers: images that genuine pairs link have the same one."""
    left, right = pairs.index[pairs.same].T
    links = coo_array((np.ones(len(left)), (left, right)), shape=(images, images))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def nearest(
    samples: Floats,
    references: Floats,
    groups: tuple[Ints, Ints] | None = None,
) -> Nearest:
    """Nearest reference by cosine; samples (N, D), references (M, D), both L2-normalised.

    groups: numbers of samples and references; a reference of the sample's own is passed over.
    """
    similarity, index = [], []
    for start in range(0, len(samples), BLOCK):
        cosine = samples[start : start + BLOCK] @ references.T
        if groups:
            cosine[groups[0][start : start + BLOCK, None] == groups[1][None]] = -1
        index.append(cosine.argmax(axis=1))
        similarity.append(cosine.max(axis=1))
    return Nearest(np.concatenate(similarity), np.concatenate(index))


def stranger_threshold(references: Floats, pairs: Pairs, fmr: float) -> float:
    """Similarity that the share `fmr` of the reference set's own impostor pairs exceeds."""
    left, right = pairs.index[~pairs.same].T
    impostors = np.einsum("pd,pd->p", references[left], references[right])
    return float(np.quantile(impostors, 1 - fmr, method="higher"))


def genuine_median(references: Floats, pairs: Pairs) -> float:
    """How alike two photographs of one person usually are in the reference set."""
    left, right = pairs.index[pairs.same].T
    return float(np.median(np.einsum("pd,pd->p", references[left], references[right])))


def audit(
    samples: Floats,
    references: Floats,
    pairs: Pairs,
    fmr: float,
    limits: Mapping[str, float],
    labelled: bool = False,
) -> tuple[dict[str, Any], Nearest]:
    """What the samples owe to the references, and the nearest reference of each sample.

    fmr: share of real strangers that look alike, 1 % say; few benchmarks have the impostor pairs
    for less. limits: `ratio`, how many times that share may be reached by samples with references;
    `near_copies`, the share of samples that may lie as near to a real face as two photographs of
    one person do. A set in which one identity stands in several groups makes `strangers_nearest`
    and `strangers_near` too high, hence the gate rests on the labelled pairs. labelled: no identity
    does, so that `near_copies` counts from the share of strangers that come as near by chance.
    """
    groups = identity_groups(len(references), pairs)
    found = nearest(samples, references)
    own = nearest(references, references, (groups, groups))
    threshold = stranger_threshold(references, pairs, fmr)
    alike = sum(
        int((samples[start : start + BLOCK] @ references.T > threshold).sum())
        for start in range(0, len(samples), BLOCK)
    )
    share = alike / (len(samples) * len(references))
    copy = genuine_median(references, pairs)
    near, strangers_near = (float((n.similarity >= copy).mean()) for n in (found, own))
    by_chance = strangers_near if labelled else 0.0
    metrics = {
        "samples": len(samples),
        "references": len(references),
        "threshold": threshold,
        "strangers_alike": fmr,
        "samples_alike": share,
        "ratio": share / fmr,
        "samples_nearest": _percentiles(found.similarity),
        "strangers_nearest": _percentiles(own.similarity),
        "near_copies": near,
        "strangers_near": strangers_near,
        "passed": share <= limits["ratio"] * fmr and near - by_chance <= limits["near_copies"],
    }
    return metrics, found


def closest(found: Nearest, count: int) -> Sequence[tuple[int, int]]:
    """(sample, reference) of the nearest pairs, nearest first."""
    order = np.argsort(-found.similarity, kind="stable")[:count]
    return [(int(sample), int(found.index[sample])) for sample in order]


def _percentiles(values: Floats) -> dict[str, float]:
    return {f"p{q}": round(float(np.percentile(values, q)), 4) for q in (50, 99, 100)}
