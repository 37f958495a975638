"""Photoreal faces: an identity is a style vector, an image is a step away from it.

In the whitened principal components of w, each resolution group takes a Gaussian step of its own:
coarse groups move pose and shape, middle ones expression and age, fine ones light and colour. The
directions that move a face embedding are damped and head yaw is set along its own direction, so
the step is large while the identity stays. The directions are fitted once, by ridge regression on
random images, and kept under `.cache/stylegan/`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import embed_images
from facefoundry.licences import Licence
from facefoundry.references import sface
from facefoundry.sharding import chunked, run_pool
from facefoundry.synthesis import Face, face_rng
from facefoundry.synthesis.mobile_stylegan import (
    GROUPS,
    STYLE_SIZE,
    Array,
    Mapping,
    Synthesis,
    fit_head,
    paint,
)

CACHE = Path(".cache/stylegan")
COMPONENTS = 60
FIT_WORKERS = 2
HEAD_IMAGES = 24  # at most; no more than `fit_images`


@dataclass(frozen=True)
class Directions:
    """What is fitted once. G resolution groups, K components.

    head: (C + 1, 3 r r), see `paint`. mean: (512,) mean style. basis: (K, 512), component times its
    standard deviation. yaw: (K,) unit direction of head yaw in the coarsest group. identity:
    (G, K, 128), the linear part of the embedding.
    """

    head: Array
    mean: Array
    basis: Array
    yaw: Array
    identity: Array


class StyleGan:
    """truncation: how far base identities lie from the mean face (1 is the full distribution).
    restyle: per resolution group, the share of the base style that a stranger's replaces in each
    image; in the finest group all of it changes colours and light and leaves the identity.
    scales: standard deviation of the step per resolution group. yaw: standard deviation of the
    yaw step, clipped at `yaw_limit` (more than about 2 breaks faces). identity_damping: 0 lets the
    step change who it is. cut: resolution of the features that the image is painted from, 64
    (faster, softer) or 128.
    """

    name = "stylegan"
    licences: ClassVar = [
        Licence(
            name="MobileStyleGAN in PyPI random-face 2021.7.21.1",
            licence="Apache-2.0 by the wheel; distilled from StyleGAN2 (non-commercial) on FFHQ"
            " (CC BY-NC-SA-4.0)",
            commercial="no",
            real_faces="yes",
            source="arXiv:2104.04767; FFHQ: photographs of people from Flickr",
        ).entry()
    ]

    def __init__(
        self,
        truncation: float = 0.85,
        restyle: Sequence[float] = (0.0, 0.0, 0.0, 0.4, 1.0),
        scales: Sequence[float] = (0.9, 0.7, 0.7, 0.9, 1.2),
        yaw: float = 1.5,
        yaw_limit: float = 2.0,
        identity_damping: float = 300.0,
        cut: int = 128,
        fit_images: int = 800,
    ) -> None:
        self.truncation = truncation
        self.restyle = np.asarray(restyle, np.float32)
        self.scales = np.asarray(scales, np.float32)
        self.yaw = yaw
        self.yaw_limit = yaw_limit
        self.cut = cut
        self.directions = load_directions(cut, fit_images)
        self._mapping = Mapping()
        self._synthesis = Synthesis(cut)
        self._damping = _damping_matrices(self.directions.identity, identity_damping)

    def identities(self, count: int, seed: int) -> list[str]:
        return [f"s{index:06d}" for index in range(count)]

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        rngs = [face_rng(seed, identity, index) for index in range(-1, count)]
        own, *strangers = self._styles(rngs)
        return [
            self._face(own, stranger, rng)
            for stranger, rng in zip(strangers, rngs[1:], strict=True)
        ]

    def _styles(self, rngs: Sequence[np.random.Generator]) -> Array:
        """One truncated style (512,) from each generator."""
        latents = np.stack([rng.standard_normal(STYLE_SIZE, np.float32) for rng in rngs])
        mean = self.directions.mean
        return mean + np.float32(self.truncation) * (self._mapping(latents) - mean)

    def _face(self, own: Array, stranger: Array, rng: np.random.Generator) -> Face:
        steps = rng.standard_normal((len(self.scales), COMPONENTS), np.float32)
        steps = np.einsum("gkl,gl->gk", self._damping, steps * self.scales[:, None])
        yaw = float(np.clip(self.yaw * rng.standard_normal(), -self.yaw_limit, self.yaw_limit))
        direction = self.directions.yaw
        steps[0] += (yaw - steps[0] @ direction) * direction
        base = own + self.restyle[:, None] * (stranger - own)
        features = self._synthesis(base + steps @ self.directions.basis)[0]
        attributes = {
            "yaw_sd": yaw,
            "shape_step": _rms(steps[:2]),
            "expression_step": _rms(steps[2:3]),
            "light_step": _rms(steps[3:]),
        }
        return Face(paint(features, self.directions.head), attributes)


def _rms(steps: Array) -> float:
    return float(np.sqrt(np.mean(steps**2)))


def _damping_matrices(identity: Array, strength: float) -> Array:
    """(I + strength A A^T)^-1 for each group: small along what the embedding sees. (G, K, K)."""
    gram = np.einsum("gkd,gld->gkl", identity, identity)
    return np.linalg.inv(np.eye(COMPONENTS) + strength * gram).astype(np.float32)


def load_directions(cut: int, images: int) -> Directions:
    """The fitted directions, from the cache or fitted now (about a minute on two cores)."""
    key = hashlib.sha256(f"2 {cut} {images} {COMPONENTS}".encode()).hexdigest()[:16]
    path = CACHE / f"{key}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")
        np.savez(temporary, **vars(fit_directions(cut, images)))
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        return Directions(**arrays)


def fit_directions(cut: int, images: int) -> Directions:
    """Fit head and directions on random images, each resolution group with a style of its own."""
    rng = np.random.default_rng(0)
    styles = Mapping(threads=2)(rng.standard_normal((8192, STYLE_SIZE), np.float32))
    mean = styles.mean(0)
    _, spread, axes = np.linalg.svd(styles - mean, full_matrices=False)
    basis = axes[:COMPONENTS] * (spread[:COMPONENTS, None] / np.sqrt(len(styles)))
    basis = basis.astype(np.float32)
    head = fit_head(mean + 0.85 * (styles[: min(HEAD_IMAGES, images)] - mean), cut)
    sample = partial(_random_images, mean, basis, head, cut)
    parts = run_pool(sample, chunked(range(images), 25), FIT_WORKERS, "stylegan: directions, x25")
    steps, yaws, embeddings = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    yaw = _ridge(steps[:, 0], yaws[:, None])[:, 0]
    identity = _ridge(steps.reshape(len(steps), -1), embeddings)
    return Directions(
        head=head,
        mean=mean,
        basis=basis,
        yaw=(yaw / np.linalg.norm(yaw)).astype(np.float32),
        identity=identity.reshape(len(GROUPS), COMPONENTS, -1).astype(np.float32),
    )


def _random_images(
    mean: Array, basis: Array, head: Array, cut: int, numbers: Sequence[int]
) -> tuple[Array, Array, Array]:
    """Steps (N, G, K), yaw as nose offset over eye distance (N,), SFace embeddings (N, 128)."""
    synthesis, detector = Synthesis(cut), Detector()
    steps, yaws, crops = [], [], []
    for number in numbers:
        rng = np.random.default_rng([1, number])
        step = rng.standard_normal((len(GROUPS), COMPONENTS), np.float32) * np.float32(0.8)
        image = paint(synthesis(np.asarray(mean + step @ basis, np.float32))[0], head)
        found = detector.detect(image)
        if found:
            left, right, nose = found[0].landmarks[:3]
            steps.append(step)
            yaws.append(float(nose[0] - (left[0] + right[0]) / 2) / float(right[0] - left[0]))
            crops.append(warp(image, found[0].landmarks))
    embeddings = embed_images(sface(threads=1), np.stack(crops), flip=False)
    return np.stack(steps), np.array(yaws, np.float32), embeddings


def _ridge(inputs: Array, targets: Array, strength: float = 0.1) -> Array:
    """Ridge regression (N, K) -> (N, D), intercept removed: (K, D)."""
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    gram = x.T @ x
    ridge = strength * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram + ridge, x.T @ y))
