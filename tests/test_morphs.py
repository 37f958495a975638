"""Morphs against what can be said of them by hand."""

import cv2
import numpy as np
import pytest
from toy_faces import toy_crops

from facefoundry.morphs import bend, match_colours, morph, morphs, smooth


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def plain(*colour: int) -> np.ndarray:
    return np.full((112, 112, 3), colour, np.uint8)


def test_a_face_with_itself_is_itself_but_bent(rng, monkeypatch):
    face = cv2.GaussianBlur(toy_crops()[0][0], (0, 0), 5)
    monkeypatch.setattr("facefoundry.morphs.BEND", 0.0)
    for _ in range(4):
        found = morph(face, face, rng)
        assert found.dtype == np.uint8
        there_and_back = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2LAB), cv2.COLOR_LAB2RGB)
        assert np.abs(found.astype(int) - there_and_back).max() <= 4


def test_a_morph_lies_between_its_two_faces(rng):
    dark, light = plain(40, 40, 40), plain(200, 200, 200)
    shares = []
    for _ in range(40):
        found = morph(dark, light, rng)
        assert found.min() >= 39
        assert found.max() <= 201
        shares.append((found.mean() - 40) / 160)
    # in the first one's colours it is the first, since plain faces differ in nothing else
    assert sum(share < 0.01 for share in shares) > len(shares) / 2
    assert any(0.2 < share < 0.8 for share in shares)


def test_colours_are_matched_by_the_face_and_not_by_its_surroundings(rng):
    like = rng.normal(100, 10, (112, 112, 3)).astype(np.float32)
    lab = rng.normal(30, 40, (112, 112, 3)).astype(np.float32)
    lab[:20] = 250  # a hat
    face = match_colours(lab, like)[20:100, 20:92].reshape(-1, 3)
    target = like[20:100, 20:92].reshape(-1, 3)
    assert np.allclose(face.mean(0), target.mean(0), atol=0.1)
    assert np.allclose(face.std(0), target.std(0), atol=1.0)


def test_bending_moves_pixels_by_the_planes(rng):
    columns = np.tile(np.arange(112, dtype=np.uint8), (112, 1))
    image = np.stack([columns] * 3, axis=2)
    assert np.array_equal(bend(image, rng, 0.0), image)
    plane = smooth(np.random.default_rng(7), (112, 112))
    moved = bend(image, np.random.default_rng(7), 2.0)[:, 20:92, 0] - columns[:, 20:92].astype(
        float
    )
    assert np.abs(moved - 2.0 * plane[:, 20:92]).max() <= 0.55  # whole numbers


def test_the_same_seed_gives_the_same_morphs_of_two_different_faces():
    crops = np.stack([plain(shade, shade, shade) for shade in (0, 80, 160, 240)])
    among = np.arange(4)
    found = morphs(crops, among, 6, seed=3)
    assert found.shape == (6, 112, 112, 3)
    assert np.array_equal(found[:4], morphs(crops, among, 4, seed=3))
    assert not np.array_equal(found, morphs(crops, among, 6, seed=4))
    textured = toy_crops()[0]
    made = morphs(textured, np.arange(len(textured)), 3, seed=0)
    assert not any((one == two).all() for one in made for two in textured)


def test_morphs_are_of_the_crops_at_the_given_places():
    black, white = plain(0, 0, 0), plain(255, 255, 255)
    crops = np.stack([black, white, black])
    assert morphs(crops, np.array([0, 2]), 8, seed=3).max() == 0
    assert morphs(crops, np.array([0, 1]), 8, seed=3).max() > 0
