"""Degradations do what they say, by degrees, and the curves count what they should."""

import cv2
import numpy as np
import pytest

from facefoundry.benchmarks import Pairs
from facefoundry.degradations import FACTORS, degrade_all, low_light, low_resolution
from facefoundry.robustness import robustness_metrics, sample_pairs


def textured(count: int = 1, seed: int = 0) -> np.ndarray:
    """Soft colour noise in the middle of the range, which every degradation changes."""
    coarse = np.random.default_rng(seed).integers(40, 216, (count, 37, 37, 3), dtype=np.uint8)
    return np.stack([cv2.resize(image, (112, 112)) for image in coarse])


@pytest.mark.parametrize("name", FACTORS)
def test_every_level_is_harder_than_the_one_before_and_repeatable(name: str) -> None:
    images = textured(4)
    factor, changes = FACTORS[name], []
    for level in factor.levels:
        found = degrade_all(images, factor, level, seed=3)
        assert found.shape == images.shape and found.dtype == np.uint8
        np.testing.assert_array_equal(found, degrade_all(images, factor, level, seed=3))
        changes.append(np.abs(found.astype(float) - images).mean())
    assert changes[0] > 0 and changes == sorted(changes)


def test_low_resolution_keeps_nothing_finer_than_its_pixels() -> None:
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[:, ::2] = 255
    found = low_resolution(stripes, 28, np.random.default_rng(0))
    assert np.ptp(found) <= 1 and found.mean() == pytest.approx(127.5, abs=1)


def test_low_light_has_the_noise_of_its_photons() -> None:
    """White at 10 % of 600 photons: 60 +- sqrt(60), seen through the camera's curve of 1 / 2.2."""
    grey = np.full((112, 112, 3), round(255 * 0.5 ** (1 / 2.2)), np.uint8)
    found = low_light(grey, 10, np.random.default_rng(0)).astype(float)
    linear = (found / 255) ** 2.2
    assert linear.mean() == pytest.approx(0.5, rel=0.03)
    assert linear.std() == pytest.approx(np.sqrt(30) / 60, rel=0.08)


def mean_colours(images: np.ndarray) -> np.ndarray:
    """An embedding that light and masks change and blur does not."""
    cells = images.reshape(len(images), 4, 28, 4, 28, 3).mean(axis=(2, 4))
    return (cells.reshape(len(images), -1) - 128).astype(np.float32)


def test_curves_start_clean_and_count_at_the_threshold() -> None:
    faces = textured(10)
    images = np.concatenate([faces, faces])  # image i and i + 10 are the same
    genuine = np.stack([np.arange(10), np.arange(10) + 10], axis=1)
    impostor = np.stack([np.arange(10), (np.arange(10) + 1) % 10 + 10], axis=1)
    same = np.arange(20) < 10
    pairs = Pairs(np.concatenate([genuine, impostor]), same, np.zeros(20, int))
    found = robustness_metrics(mean_colours, images, pairs, 0.9, seed=0)
    assert found["pairs"] == 20
    assert found["clean"] == {"auc": 1, "eer": 0, "fmr": 0, "fnmr": 0}
    assert set(found["factors"]) == set(FACTORS)
    assert found["factors"]["mask"]["levels"][-1]["fnmr"] == 1
    assert found["factors"]["blur"]["levels"][0]["fnmr"] == 0
    without = robustness_metrics(mean_colours, images, pairs, None, seed=0)
    assert without["clean"]["fnmr"] is None and without["clean"]["auc"] == 1


def test_sampled_pairs_are_balanced_and_seeded() -> None:
    rng = np.random.default_rng(0)
    pairs = Pairs(rng.integers(0, 50, (900, 2)), np.arange(900) < 100, np.zeros(900, int))
    some = sample_pairs(pairs, 60, seed=1)
    assert some.same.sum() == 30 and len(some.same) == 60
    np.testing.assert_array_equal(some.index, sample_pairs(pairs, 60, seed=1).index)
    assert len(sample_pairs(pairs, 10_000, seed=1).same) == 900
