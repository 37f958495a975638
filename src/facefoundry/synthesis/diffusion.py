"""Faces of a fitted diffusion model: an identity is an embedding that nobody has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from facefoundry.alignment import TEMPLATE
from facefoundry.benchmarks import Embed, Images
from facefoundry.diffusion.faces import cut_margin, enlarge
from facefoundry.diffusion.nets import MARGIN, load_diffuser, open_identity_model
from facefoundry.diffusion.population import Floats
from facefoundry.diffusion.sampling import noise, sample
from facefoundry.errors import FoundryError
from facefoundry.precision import torch_threads
from facefoundry.sharding import chunked
from facefoundry.synthesis import Face, face_rng, mixed_noise

LANDMARKS = TEMPLATE + np.float32(MARGIN)
TRIES = 4  # draws for each identity that is asked for


class Diffusion:
    """model: a directory of the fit_generator stage. steps: of the sampler. guidance, interval: see
    `diffusion.sampling.sample`. spread: how far identities lie from the mean one (1 is as far as
    those of the training set). max_similarity: least cosine at which two identities are one too
    many. batch: images at a time. candidates: draws for each image; the one that the identity
    model of the fit finds nearest to the identity is kept, which costs as many times the work.
    shared_noise: share of the start's variance that all images of an identity have in common: what
    the embedding does not say of a face, the start does (the mixed noise of Ge et al., "Preserve
    Your Own Correlation", ICCV 2023).

    Images are 128 x 128, enlarged from 64 x 64, and aligned: the landmarks are those of the ArcFace
    template. On a GPU where there is one, else on one thread, so that the number of workers changes
    no pixel.
    """

    name = "diffusion"

    def __init__(
        self,
        model: str = "pretrained/generator-clean",
        steps: int = 8,
        guidance: float = 7.0,
        interval: Sequence[float] = (0.2, 0.7),
        spread: float = 1.0,
        max_similarity: float = 0.6,
        batch: int = 16,
        candidates: int = 1,
        shared_noise: float = 0.85,
    ) -> None:
        if not 0 <= shared_noise <= 1:
            raise FoundryError(f"generator.shared_noise: {shared_noise} is not between 0 and 1")
        self.steps, self.guidance, self.interval = steps, guidance, interval
        self.spread, self.max_similarity = spread, max_similarity
        self.batch, self.candidates = max(1, batch // candidates), candidates
        self.shared_noise = shared_noise
        self.model, self.diffuser = Path(model), load_diffuser(Path(model))
        self.licences: list[dict[str, str]] = self.diffuser.spec["licences"]
        if torch.cuda.is_available():
            self.diffuser.vae.cuda()
            self.diffuser.unet.cuda()

    def identities(self, count: int, seed: int) -> list[str]:
        """Raises FoundryError where the model does not know so many that are apart."""
        kept = np.empty((count, len(self.diffuser.population.mean)), np.float32)
        names: list[str] = []
        for number in range(TRIES * count):
            embedding, _ = self._identity(name := f"d{number:06d}", seed)
            if (kept[: len(names)] @ embedding).max(initial=-1) < self.max_similarity:
                kept[len(names)] = embedding
                names.append(name)
            if len(names) == count:
                return names
        raise FoundryError(
            f"generator: {len(names)} of {count} identities are less alike than max_similarity"
            f" {self.max_similarity}; raise it, or ask for fewer"
        )

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        with torch_threads(1):
            return [
                face
                for indices in chunked(range(count), self.batch)
                for face in self._batch(identity, indices, seed)
            ]

    def _identity(self, identity: str, seed: int) -> tuple[Floats, Floats]:
        """The embedding (D,) and the noise (C, h, w) that its images have in common."""
        rng = face_rng(seed, identity, -1)
        return self.diffuser.population.identity(rng, self.spread), noise(self.diffuser, rng)

    def _batch(self, identity: str, indices: Sequence[int], seed: int) -> list[Face]:
        population = self.diffuser.population
        who, common = self._identity(identity, seed)
        rngs = [face_rng(seed, identity, index) for index in indices]
        controls = np.stack([population.draw_controls(rng) for rng in rngs])
        starts = [
            mixed_noise(common, noise(self.diffuser, rng), self.shared_noise)
            for rng in rngs
            for _ in range(self.candidates)
        ]
        drawn = sample(
            self.diffuser,
            np.repeat(who[None], len(starts), axis=0),
            np.repeat(controls, self.candidates, axis=0),
            np.stack(starts),
            self.steps,
            self.guidance,
            self.interval,
        )
        images = self._truest(enlarge(np.stack(drawn)), who)
        return [
            Face(image, dict(zip(population.controls, map(float, row), strict=True)), LANDMARKS)
            for image, row in zip(images, controls, strict=True)
        ]

    def _truest(self, images: Images, who: Floats) -> Images:
        """Of every `candidates` images in a row (N, 128, 128, 3) the one nearest to `who` (D,)."""
        if self.candidates == 1:
            return images
        similarity = (self.embed(cut_margin(images)) @ who).reshape(-1, self.candidates)
        return images[np.arange(0, len(images), self.candidates) + similarity.argmax(axis=1)]

    @cached_property
    def embed(self) -> Embed:
        """The model by whose embeddings the identities were told apart, as the fit kept it."""
        return open_identity_model(self.model).embed
