"""A turned crop is what a camera beside the head would see."""

import cv2
import numpy as np
import pytest

from facefoundry.alignment import SIZE, TEMPLATE, warp_landmarks
from facefoundry.augmentation import augment, build_augmentation, draw_turn
from facefoundry.stage import composed, plain
from facefoundry.turning import landmarks_after, pose_of, rotation, sources, surface, turned

NONE = plain(composed("train", ["augmentation=none"]))["augmentation"]


def picture() -> np.ndarray:
    """Soft colour noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE))


def test_no_turn_is_the_picture() -> None:
    np.testing.assert_allclose(turned(picture(), 0).astype(int), picture(), atol=1)


@pytest.mark.parametrize("angles", [(30, 0), (-45, 10), (50, -10)])
def test_the_five_points_are_taken_from_where_they_were(angles: tuple[float, float]) -> None:
    """The way there is a matrix, the way back a search along rays. The far eye and the far corner
    of the mouth may be hidden."""
    places = warp_landmarks(landmarks_after(rotation(*angles)))
    x, y = sources(*angles)
    back = [
        [cv2.remap(plane, *np.float32(place)[:, None, None], cv2.INTER_LINEAR) for plane in (x, y)]
        for place in places
    ]
    away = np.linalg.norm(np.reshape(back, (5, 2)) - TEMPLATE, axis=1)
    near = [0, 2, 3] if angles[0] > 0 else [1, 2, 4]
    assert away[near].max() < 2.5


def test_a_nose_moves_with_the_turn_and_hides_the_far_cheek() -> None:
    left, right = (landmarks_after(rotation(yaw, 0))[:, 0] for yaw in (-30, 30))
    for points, towards in ((left, -1), (right, 1)):
        beside = points[2] - points[:2].mean()
        assert beside * towards > 5
    x, _ = sources(60, 0)
    row = x[72]
    jumps = np.diff(row)
    assert jumps.max() > 8, "between the tip of the nose and what lies behind it"
    assert jumps.min() > -1, "left to right stays so"


def test_both_sides_are_mirror_images() -> None:
    there, back = turned(picture(), 40), turned(picture()[:, ::-1].copy(), -40)[:, ::-1]
    # the template's points are not quite symmetrical
    assert np.abs(there[20:100, 20:70].astype(int) - back[20:100, 20:70]).mean() < 12


def test_the_surface_is_a_face() -> None:
    eyes, nose, mouth = TEMPLATE[:2], TEMPLATE[2] + (0, 2), TEMPLATE[3:].mean(axis=0)
    at = {
        name: float(surface(np.array([x]), np.array([y]))[0])
        for name, (x, y) in {"eye": eyes[0], "nose": nose, "mouth": mouth, "ear": (6, 60)}.items()
    }
    assert at["nose"] > at["mouth"] > at["eye"] > at["ear"]
    assert 12 < at["nose"] - at["eye"] < 20


@pytest.mark.parametrize("pose", [(0, 0), (-30, 10), (52.5, -5)])
def test_a_pose_is_found_in_any_image(pose: tuple[float, float]) -> None:
    """The image is twice as large, tilted and elsewhere."""
    tilt = 2 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    points = landmarks_after(rotation(*pose)) @ tilt.T + (40, -7)
    assert pose_of(points.astype(np.float32)) == pose


def test_a_turn_too_far_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond 75"):
        turned(picture(), 80)


def test_training_turns_to_both_sides_within_its_limits() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_turn(45, rng) for _ in range(300)])
    assert np.abs(drawn).max(axis=0).tolist() == [45, 15]
    assert np.abs(drawn.mean(axis=0)).max() < 4
    transform = build_augmentation(NONE | {"flip": 0.0, "turn": 0.5, "turn_degrees": 45})
    still = [np.array_equal(augment(transform, picture(), seed), picture()) for seed in range(60)]
    assert 15 < sum(still) < 45
