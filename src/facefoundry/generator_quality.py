"""How good a generator's faces are: found by a detector, one identity each, many identities."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import Embed, embed_images, held_out_eer
from facefoundry.centres import identity_centres
from facefoundry.curation.rules import (
    consistency,
    pair_cosines,
    similar_identities,
    similarity_summary,
)
from facefoundry.data import Crops
from facefoundry.identification import search
from facefoundry.progress import track
from facefoundry.synthesis import Face, Generator

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sampled:
    """faces, the identity labels (N,) of them from 0 on, and the seconds that they took."""

    faces: list[Face]
    labels: Ints
    seconds: float


def sample_generator(generator: Generator, identities: int, images: int, seed: int) -> Sampled:
    """`images` faces of each of up to `identities`; the first identity is drawn once before, so
    that what a generator does once is not timed."""
    names = generator.identities(identities, seed)
    generator.faces(names[0], 1, seed)
    start = time.perf_counter()
    made = [generator.faces(name, images, seed) for name in track(names, generator.name)]
    seconds = time.perf_counter() - start
    labels = np.repeat(np.arange(len(names)), [len(faces) for faces in made])
    return Sampled([face for faces in made for face in faces], labels, seconds)


@dataclass(frozen=True)
class Judged:
    """What curation would leave of a sample: crops (M, 112, 112, 3) uint8 RGB, labels (M,),
    embeddings (M, D); detected: share of the faces that YuNet finds; kept: share of these."""

    crops: Crops
    labels: Ints
    embeddings: Floats
    detected: float
    kept: float


def judge(sampled: Sampled, embed: Embed, min_consistency: float = -1.0) -> Judged:
    """min_consistency: least cosine to the mean of the other images of the identity, by `embed`,
    which should be an embedder that the generator does not know."""
    crops, found = aligned(sampled.faces)
    labels = sampled.labels[found]
    embeddings = embed_images(embed, crops, flip=False, title="judge")
    like = consistency(embeddings, np.unique(labels, return_inverse=True)[1]) >= min_consistency
    shares = float(found.mean()), float(like.mean())
    return Judged(crops[like], labels[like], embeddings[like], *shares)


def quality(sampled: Sampled, judged: Judged, threshold: float) -> dict[str, Any]:
    """Rate, detection and identity measures. threshold: cosine from which two mean embeddings count
    as one identity."""
    return {
        "images": len(sampled.faces),
        "images_per_second": len(sampled.faces) / sampled.seconds,
        "detected": judged.detected,
        "kept": judged.kept,
        **identity_quality(judged.embeddings, judged.labels, threshold),
    }


def aligned(faces: Sequence[Face]) -> tuple[Crops, NDArray[np.bool_]]:
    """Crops (M, 112, 112, 3) of the faces that YuNet finds, and which they are, (N,) bool."""
    detector = Detector()
    best = [detector.detect(face.image)[:1] for face in track(faces, "detection")]
    crops = [warp(f.image, d[0].landmarks) for f, d in zip(faces, best, strict=True) if d]
    empty = np.empty((0, 112, 112, 3), np.uint8)
    return (np.stack(crops) if crops else empty), np.array([bool(found) for found in best])


def identity_quality(embeddings: Floats, labels: Ints, threshold: float) -> dict[str, Any]:
    """embeddings (N, D) L2-normalised, labels (N,): genuine and impostor similarity, EER, rank-1
    with each identity's first image enrolled, and how many identities are left when those nearer
    than `threshold` to another count as one."""
    labels = np.unique(labels, return_inverse=True)[1]
    first = np.unique(labels, return_index=True)[1]
    probes = np.setdiff1d(np.arange(len(labels)), first)
    rank = search(embeddings[first], embeddings[probes], labels[probes]).rank
    centres = identity_centres(embeddings, labels)
    target = similar_identities(centres, np.bincount(labels), threshold)
    return {
        **similarity_summary(*pair_cosines(embeddings, labels, seed=0)),
        "eer": held_out_eer(embeddings, labels.tolist()),
        "rank_1": float((rank == 1).mean()),
        "identities": len(centres),
        "distinct": int((target == np.arange(len(target))).sum()),
    }
