"""From similarity to the probability that two faces are the same identity.

A logistic curve (Platt, 1999), fitted on the pairs of some identities and shown on those of others.
Genuine and impostor pairs weigh the same, so the probability is for a prior of one half: where
impostors are a thousand times as frequent, add log(1/1000) to the curve's log-odds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from facefoundry.verification import Bools, Floats, check_scores

BINS = 10


@dataclass(frozen=True)
class Curve:
    """Probability = 1 / (1 + exp(-(slope * similarity + intercept)))."""

    slope: float
    intercept: float

    def __call__(self, similarity: Floats) -> NDArray[np.float64]:
        """(P,) similarities -> (P,) in 0..1, at equal odds of genuine and impostor."""
        return np.asarray(expit(self.slope * similarity.astype(np.float64) + self.intercept))


def fit_curve(similarity: Floats, same: Bools) -> Curve:
    """Raises FoundryError unless there are both kinds of pairs with finite scores."""
    check_scores(similarity, same)
    model = LogisticRegression(C=1e6, class_weight="balanced")
    model.fit(similarity[:, None].astype(np.float64), same)
    return Curve(float(model.coef_[0, 0]), float(model.intercept_[0]))


def balanced(same: Bools) -> NDArray[np.float64]:
    """(P,) weights with which genuine and impostor pairs add up to one half each."""
    return np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())


def reliability(probability: Floats, same: Bools, bins: int = BINS) -> dict[str, Any]:
    """`{bins, expected_calibration_error, brier}`, kinds of pairs balanced.

    Rows of `bins`: {low, high, predicted, observed, pairs}, those without pairs left out. The
    calibration error is the mean of |predicted - observed| (Naeini et al., AAAI 2015); the Brier
    score the mean squared error, 0.25 for a coin.
    """
    weight = balanced(same)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    mass, predicted, observed = (
        np.bincount(place, weight * values, bins) for values in (1.0, probability, same)
    )
    rows = [
        {
            "low": number / bins,
            "high": (number + 1) / bins,
            "predicted": float(predicted[number] / mass[number]),
            "observed": float(observed[number] / mass[number]),
            "pairs": int((place == number).sum()),
        }
        for number in np.flatnonzero(mass).tolist()
    ]
    return {
        "bins": rows,
        "expected_calibration_error": float(np.abs(predicted - observed).sum()),
        "brier": float((weight * (probability - same) ** 2).sum()),
    }
