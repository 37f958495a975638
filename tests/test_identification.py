"""1:N identification against hand-made galleries."""

import numpy as np
import pytest

from facefoundry.errors import FoundryError
from facefoundry.identification import (
    FPIR_RATES,
    Search,
    cmc,
    fnir_at,
    gallery_sizes,
    identification_metrics,
    search,
)


def clusters(identities: int, images: int, noise: float, seed: int = 0):
    """L2-normalised embeddings (identities * images, 16) around a centre for each identity."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(identities), images)
    vectors = rng.normal(size=(identities, 16))[label] + noise * rng.normal(size=(len(label), 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), label


def test_search_by_hand() -> None:
    gallery = np.eye(3)
    probes = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]])
    found = search(gallery, probes, np.array([0, 1, -1]))
    assert found.rank.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.best, [1, 0.8, 0.8])


def test_a_tie_counts_against_the_own_template() -> None:
    gallery = np.array([[1.0, 0], [1.0, 0]])
    assert search(gallery, gallery[:1], np.array([0])).rank.tolist() == [2]


def test_cmc_by_hand() -> None:
    np.testing.assert_allclose(cmc(np.array([1, 1, 3, 2, 0]), 4), [0.5, 0.75, 1, 1])


def test_fnir_by_hand() -> None:
    """Thirty strangers support FPIR 0.1: three may pass, so 0.27 sets the threshold."""
    strangers = np.arange(30) / 100
    best = np.concatenate([strangers, [0.9, 0.9, 0.1, 0.28]])
    rank = np.concatenate([np.zeros(30, int), [1, 2, 1, 1]])
    # of four mated probes one is not first and one is below the threshold
    assert fnir_at(Search(best, rank), 0.1) == 0.5
    assert fnir_at(Search(best, rank), 0.01) is None


def test_identities_that_lie_apart_are_found() -> None:
    metrics = identification_metrics(*clusters(60, 4, noise=0.05), seed=0)
    assert metrics["gallery"] == 60 and metrics["probes"] == 180
    assert metrics["rank_1"] == metrics["rank_5"] == metrics["cmc"][0] == 1
    assert {row["gallery"] for row in metrics["open_set"]} == {10, 30, 45}
    for row in metrics["open_set"]:
        assert row["unmated_probes"] == 15 * 3
        if row["fpir"] == 0.1:
            assert row["fnir"] == 0 and row["needs_probes"] is None
        else:
            assert row["fnir"] is None and row["needs_probes"] == 300


def test_chance_level_and_gallery_size() -> None:
    """Embeddings that say nothing: rank k is k / gallery, and FNIR stays near 1."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4000, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metrics = identification_metrics(vectors, np.arange(4000) % 100, seed=0)
    assert metrics["rank_5"] == pytest.approx(0.05, abs=0.02)
    fnir = [row["fnir"] for row in metrics["open_set"] if row["fpir"] == FPIR_RATES[0]]
    assert min(fnir) > 0.9


def test_a_larger_gallery_is_harder() -> None:
    metrics = identification_metrics(*clusters(200, 4, noise=0.9), seed=0)
    fnir = [row["fnir"] for row in metrics["open_set"] if row["fpir"] == 0.1]
    assert fnir[0] < fnir[-1]


def test_gallery_sizes() -> None:
    assert gallery_sizes(150) == [10, 30, 100, 150]
    assert gallery_sizes(10) == [10] and gallery_sizes(4) == [4] and gallery_sizes(0) == []


def test_one_image_each_is_refused() -> None:
    with pytest.raises(FoundryError, match="two images"):
        identification_metrics(np.eye(4), np.arange(4), seed=0)


def test_dimensions_that_differ_are_named() -> None:
    with pytest.raises(FoundryError, match="3 dimensions and probes 4"):
        search(np.eye(3), np.eye(4), np.array([0, 1, 2, 3]))
