"""Whom a fitted model may invent: a Gaussian over identity embeddings, and the spread of controls.

Only moments are kept, no embedding of anyone: the model file says nothing about a single identity
of its training set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

Floats = NDArray[np.float32]

QUANTILES = 65


@dataclass(frozen=True)
class Population:
    """mean (D,) of the identities' templates; axes (K, D), principal components times their
    standard deviation; controls: names of C attributes, quantiles (Q, C) their distribution from
    least to greatest."""

    mean: Floats
    axes: Floats
    controls: tuple[str, ...]
    quantiles: Floats

    def identity(self, rng: np.random.Generator, spread: float = 1.0) -> Floats:
        """The unit embedding (D,) of an identity that never was, `spread` wide of the mean."""
        step = rng.standard_normal(len(self.axes), np.float32) * np.float32(spread)
        drawn = self.mean + step @ self.axes
        return np.asarray(drawn / np.linalg.norm(drawn), np.float32)

    def draw_controls(self, rng: np.random.Generator) -> Floats:
        """Values (C,), each from its own distribution in the training set."""
        levels = np.linspace(0, 1, len(self.quantiles))
        drawn = rng.random(len(self.controls))
        pairs = zip(drawn, self.quantiles.T, strict=True)
        return np.array([np.interp(at, levels, column) for at, column in pairs], np.float32)

    def standardise(self, values: Floats) -> Floats:
        """Controls (N, C) in their own units -> mean 0 and deviation 1 over the training set."""
        deviation = self.quantiles.std(axis=0)
        return (values - self.quantiles.mean(axis=0)) / np.where(deviation > 0, deviation, 1)

    def save(self, path: Path) -> None:
        arrays = {"mean": self.mean, "axes": self.axes, "quantiles": self.quantiles}
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        path.write_bytes(save(contiguous))

    @classmethod
    def load(cls, path: Path, controls: Sequence[str]) -> Population:
        return cls(controls=tuple(controls), **load_file(path))


def fit_population(
    templates: Floats, components: int, controls: Sequence[str], values: Floats
) -> Population:
    """templates (N, D) unit, one for each identity; values (M, C) of the controls, one row for each
    image. Keeps at most `components` axes."""
    mean = templates.mean(axis=0)
    _, spread, axes = np.linalg.svd(templates - mean, full_matrices=False)
    scaled = axes * (spread[:, None] / np.sqrt(max(len(templates) - 1, 1)))
    quantiles = np.quantile(values, np.linspace(0, 1, QUANTILES), axis=0)
    return Population(
        mean=mean.astype(np.float32),
        axes=scaled[:components].astype(np.float32),
        controls=tuple(controls),
        quantiles=quantiles.astype(np.float32),
    )
