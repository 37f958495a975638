import numpy as np
import pytest

from facefoundry.alignment import (
    SIZE,
    TEMPLATE,
    Detector,
    similarity_transform,
    warp,
    warp_landmarks,
)


def turned(points: np.ndarray, degrees: float, scale: float, shift) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T * scale + shift).astype(np.float32)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (25, 2.5), (-160, 0.3)])
def test_the_transform_undoes_a_similarity(degrees, scale):
    moved = turned(TEMPLATE, degrees, scale, (40, -7))
    matrix = similarity_transform(moved)
    assert moved @ matrix[:, :2].T + matrix[:, 2] == pytest.approx(TEMPLATE, abs=1e-3)


def test_least_squares_agrees_with_a_linear_solver():
    rng = np.random.default_rng(0)
    source = (TEMPLATE * 2 + rng.normal(0, 5, (5, 2))).astype(np.float32)
    # x' = a x - b y + c, y' = b x + a y + d as a plain least-squares problem
    x, y, one, zero = *source.T.astype(float), np.ones(5), np.zeros(5)
    system = np.vstack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, TEMPLATE.T.ravel().astype(float), rcond=None)[0]
    assert similarity_transform(source) == pytest.approx(np.array([[a, -b, c], [b, a, d]]))


def test_there_is_no_mirroring():
    mirrored = TEMPLATE * [-1, 1]
    matrix = similarity_transform(mirrored.astype(np.float32))
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("scale", [0.8, 2.0, 9.0])
def test_warp_puts_marks_on_the_template(scale):
    landmarks = turned(TEMPLATE, 10, scale, (30 * scale, 20 * scale))
    side = int(200 * scale)
    image = np.zeros((side, side, 3), np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for x, y in landmarks:
        image[np.hypot(columns - x, rows - y) < 2.5 * scale] = 255
    crop = warp(image, landmarks)
    assert crop.shape == (SIZE, SIZE, 3)
    ys, xs = np.nonzero(crop[..., 0] > 127)
    for x, y in TEMPLATE:
        near = np.hypot(xs - x, ys - y) < 5
        assert near.any()
        assert np.hypot(xs[near].mean() - x, ys[near].mean() - y) < 0.6
    assert warp_landmarks(landmarks) == pytest.approx(TEMPLATE, abs=1e-2)


def test_black_outside_the_image():
    crop = warp(np.full((112, 112, 3), 200, np.uint8), TEMPLATE + 60)
    assert crop[:40, :40].min() == 200
    assert crop[-20:, -20:].max() == 0


def test_noise_has_no_face():
    noise = np.random.default_rng(0).integers(0, 256, (200, 160, 3)).astype(np.uint8)
    assert Detector().detect(noise) == []
