"""Similarity to probability: known curves are found again, and bad ones are noticed."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss

from facefoundry.errors import FoundryError
from facefoundry.probability import Curve, fit_curve, reliability


def gaussian_pairs(pairs: int, impostor_share: float = 0.5, seed: int = 0):
    """Two normal distributions of one deviation: the log-odds are exactly linear in similarity."""
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) >= impostor_share
    return np.where(same, 0.5, 0.2) + rng.normal(0, 0.1, pairs), same


def test_the_curve_of_two_gaussians_is_found() -> None:
    """Their log-odds are (m1 - m0) / s^2 * x - (m1^2 - m0^2) / (2 s^2): 30 x - 10.5."""
    curve = fit_curve(*gaussian_pairs(200_000))
    assert curve.slope == pytest.approx(30, rel=0.03)
    assert curve.intercept == pytest.approx(-10.5, rel=0.03)
    assert curve(np.array([0.35]))[0] == pytest.approx(0.5, abs=0.02)


def test_the_number_of_impostors_does_not_matter() -> None:
    even, odd = (fit_curve(*gaussian_pairs(100_000, share)) for share in (0.5, 0.95))
    assert odd.slope == pytest.approx(even.slope, rel=0.06)
    assert odd.intercept == pytest.approx(even.intercept, rel=0.06)


def test_a_true_curve_is_reliable_and_an_overconfident_one_is_not() -> None:
    similarity, same = gaussian_pairs(50_000)
    right = reliability(Curve(30, -10.5)(similarity), same)
    wrong = reliability(Curve(120, -42)(similarity), same)
    assert right["expected_calibration_error"] < 0.02 < wrong["expected_calibration_error"]
    for row in right["bins"]:
        assert row["low"] <= row["predicted"] <= row["high"]
        assert row["observed"] == pytest.approx(row["predicted"], abs=0.05)
    assert sum(row["pairs"] for row in right["bins"]) == 50_000


def test_brier_agrees_with_sklearn() -> None:
    similarity, same = gaussian_pairs(4000, 0.8)
    probability = expit(20 * similarity - 7)
    weight = np.where(same, 1 / same.sum(), 1 / (~same).sum())
    expected = brier_score_loss(same, probability, sample_weight=weight)
    assert reliability(probability, same)["brier"] == pytest.approx(expected)


def test_certainty_falls_into_the_last_bin() -> None:
    found = reliability(np.array([1.0, 0.0]), np.array([True, False]))
    assert [row["low"] for row in found["bins"]] == [0, 0.9] and found["brier"] == 0


def test_one_kind_of_pair_is_refused() -> None:
    with pytest.raises(FoundryError, match="no impostor pairs"):
        fit_curve(np.array([0.1, 0.2]), np.array([True, True]))
