"""Confidence intervals for verification measures, by resampling pairs or whole identities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.verification import FMR_RATES, Bools, Floats, Ints, pairs_needed, tar_at

ROUNDS = 400


def tar_intervals(
    similarity: Floats,
    same: Bools,
    seed: int,
    identities: Ints | None = None,
    rates: tuple[float, ...] = FMR_RATES,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Rows `{fmr, tar, low, high, needs_pairs}`: TAR@FMR with its bootstrap interval.

    The threshold is chosen anew in every round, so its uncertainty is in the interval. With
    `identities` (P, 2), numbers of the two identities of each pair, whole identities are
    resampled, which is honest where one identity is in many pairs; otherwise pairs are. A rate
    that the impostor pairs cannot support has None for its numbers.
    """
    supported = [fmr for fmr in rates if (~same).sum() >= pairs_needed(fmr)]
    genuine, impostor = _falling(similarity, same), _falling(similarity, ~same)
    draws = np.array(
        [
            [_weighted_tar(similarity, weight, genuine, impostor, fmr) for fmr in supported]
            for weight in resampled_weights(same, identities, np.random.default_rng(seed))
        ]
    )
    tail = (1 - level) / 2
    bounds = np.nanquantile(draws, [tail, 1 - tail], axis=0) if supported else np.empty((2, 0))
    interval = dict(zip(supported, bounds.T.tolist(), strict=True))
    return [
        {
            "fmr": fmr,
            "tar": tar_at(similarity, same, fmr),
            "low": interval.get(fmr, (None, None))[0],
            "high": interval.get(fmr, (None, None))[1],
            "needs_pairs": None if fmr in interval else pairs_needed(fmr),
        }
        for fmr in rates
    ]


def accuracy_interval(accuracies: Floats, seed: int, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the mean of the folds' accuracies (F,)."""
    rng = np.random.default_rng(seed)
    means = rng.choice(accuracies, (ROUNDS, len(accuracies))).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _falling(similarity: Floats, chosen: Bools) -> NDArray[np.intp]:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-similarity[rows], kind="stable")]


def resampled_weights(
    same: Bools, identities: Ints | None, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """How often each pair (P,) counts, in each of ROUNDS rounds."""
    for _ in range(ROUNDS):
        if identities is None:
            weight = np.zeros(len(same))
            for kind in (same, ~same):
                weight[kind] = rng.multinomial(kind.sum(), np.full(kind.sum(), 1 / kind.sum()))
            yield weight
        else:
            count = int(identities.max()) + 1
            drawn = np.bincount(rng.integers(0, count, count), minlength=count).astype(float)
            left, right = drawn[identities[:, 0]], drawn[identities[:, 1]]
            yield np.where(same, left, left * right)


def _weighted_tar(
    similarity: Floats,
    weight: NDArray[np.float64],
    genuine: NDArray[np.intp],
    impostor: NDArray[np.intp],
    fmr: float,
) -> float:
    """TAR at the threshold that keeps the weighted FMR at or below `fmr`; NaN without pairs.
    `genuine` and `impostor` are row numbers by falling similarity."""
    mass = np.cumsum(weight[impostor])
    total = weight[genuine].sum()
    if not mass[-1] or not total:
        return float("nan")
    barrier = similarity[impostor[np.searchsorted(mass, fmr * mass[-1] + 1e-9, side="right")]]
    return float(weight[genuine][similarity[genuine] > barrier].sum() / total)
