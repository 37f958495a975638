"""Strangers: drawn the same each time, and rejected by the length of their embeddings."""

import numpy as np
import pytest

from facefoundry import out_of_distribution as ood
from facefoundry import strangers
from facefoundry.alignment import Detector
from facefoundry.errors import FoundryError

NO_HEADS = FoundryError("no wheel")


@pytest.fixture(autouse=True)
def without_rendered_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """They compile for seconds; tests of the renderer draw them."""

    def missing(count: int, seed: int) -> np.ndarray:
        raise NO_HEADS

    monkeypatch.setattr(ood, "rendered_heads", missing)


@pytest.mark.parametrize("draw", [strangers.cartoon, strangers.non_face])
def test_strangers_differ_and_come_again(draw) -> None:
    images = strangers.drawn(draw, 12, seed=0)
    assert images.shape == (12, 112, 112, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[:5], strangers.drawn(draw, 5, seed=0))
    assert len({image.tobytes() for image in images}) == 12
    assert not np.array_equal(images, strangers.drawn(draw, 12, seed=1))


def test_a_detector_falls_for_some_cartoons_and_for_no_non_face() -> None:
    detector = Detector()
    found = [
        sum(bool(detector.detect(image)) for image in strangers.drawn(draw, 40, seed=0))
        for draw in (strangers.cartoon, strangers.non_face)
    ]
    assert found[0] > 0 and found[1] == 0


def test_nothing_is_left_of_an_unrecognisable_face() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    found = strangers.unrecognisable(noise)
    assert np.abs(np.diff(found.astype(int), axis=1)).max() < 8


def faces(count: int) -> np.ndarray:
    """Stand-ins for good faces: bright images, each with a colour of its own."""
    rng = np.random.default_rng(0)
    return np.broadcast_to(
        rng.integers(180, 256, (count, 1, 1, 3), dtype=np.uint8), (count, 112, 112, 3)
    )


def by_smoothness(images: np.ndarray) -> np.ndarray:
    """Long embeddings for plain images, short ones for those with edges; all of one direction."""
    edges = np.abs(np.diff(images.astype(float), axis=2)).mean(axis=(1, 2, 3))
    return np.stack([100 / (1 + edges), np.zeros(len(images))], axis=1).astype(np.float32)


def test_short_embeddings_are_rejected_and_their_false_accepts_with_them() -> None:
    limit = ood.rejection_limit(by_smoothness, faces(50))
    assert limit == pytest.approx(100)
    found = ood.out_of_distribution_metrics(by_smoothness, faces(50), 20, 0.9, limit - 1, seed=0)
    assert found["faces_rejected"] == 0
    cartoons = found["sets"]["cartoons"]
    assert cartoons["images"] == 20 and cartoons["rejected"] == 1 and cartoons["auc"] == 1
    assert cartoons["false_accept"] == cartoons["false_accept_with_faces"] == 1
    assert cartoons["false_accept_kept"] == 0
    assert sum(cartoons["histogram"]) == pytest.approx(1, abs=1e-3)
    assert cartoons["histogram"][-1] == pytest.approx(1, abs=1e-3)  # all pairs at cosine 1


def test_what_could_not_be_made_is_said() -> None:
    found = ood.out_of_distribution_metrics(by_smoothness, faces(20), 5, None, 1.0, seed=0)
    assert found["not_run"] == ["rendered heads: not run (no wheel)"]
    assert found["sets"]["cartoons"]["false_accept"] is None


def test_false_accepts_by_hand() -> None:
    """Three strangers: two alike, one at right angles; one good face like the third."""
    raw = np.array([[2.0, 0], [3.0, 0], [0, 5.0]])
    row = ood._row(raw, np.array([[0, 4.0]]), 0.5, limit=2.5)
    assert row["false_accept"] == pytest.approx(1 / 3)
    assert row["false_accept_with_faces"] == pytest.approx(1 / 3)
    assert row["rejected"] == pytest.approx(1 / 3) and row["false_accept_kept"] == 0
    assert row["auc"] == pytest.approx(2 / 3)
