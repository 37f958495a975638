"""An aligned crop seen from the side: laid over the shape of a face, turned and aligned anew.

One shape for all faces does: Hassner et al., "Effective Face Frontalization in Unconstrained
Images", CVPR 2015; Masi et al., "Do We Really Need to Collect Millions of Faces for Effective Face
Recognition?", ECCV 2016, which turns faces by it to train on them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from facefoundry.alignment import SIZE, TEMPLATE, Landmarks, similarity_transform, warp_landmarks
from facefoundry.images import Image

Floats = NDArray[np.floating[Any]]
Plane = NDArray[np.float32]

# Of the face in the pixels of the crop, z towards the viewer; by least squares from MakeHuman's
# head with the mean of its macros, to 4 pixels (root mean square) where it faces the viewer.
MIDDLE, HALF_WIDTH, HALF_HEIGHT, HALF_DEPTH = (56.0, 58.0), 47.0, 86.0, 65.0
FRONT = 10.0  # of the ellipsoid
NOSE_HEIGHT, NOSE_WIDTH, NOSE_ROOT, NOSE_TIP = 7.0, 4.5, 46.0, 75.0
SOCKET_DEPTH, SOCKET_WIDTH = 4.0, 15.0
MOUTH_HEIGHT, MOUTH_SIZE, MOUTH_Y = 6.0, (14.0, 12.0), TEMPLATE[3:, 1].mean()

AXIS = np.array([*MIDDLE, -30.0])  # about which a head turns
MARGIN = 40  # around the crop, until which there is more than the plane
NEAR, FAR, STEP = 90.0, -260.0, 3.5  # of the rays
STEEPEST = 75.0  # degrees; beyond it what is behind the head would lie before it


def turned(crop: Image, yaw: float, pitch: float = 0.0) -> Image:
    """The face of an aligned (112, 112, 3) uint8 RGB crop, taken for frontal, turned by `yaw`
    degrees to the viewer's right and `pitch` degrees down.

    What was hidden is smeared from where it begins, and so is the picture's edge. Raises ValueError
    beyond 75 degrees.
    """
    x, y = sources(yaw, pitch)
    return np.asarray(cv2.remap(crop, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@cache
def sources(yaw: float, pitch: float) -> tuple[Plane, Plane]:
    """Where each pixel of the turned crop is taken from: x and y, (112, 112) each.

    A ray through each pixel meets the face where it first lies below it. Raises ValueError beyond
    75 degrees.
    """
    if max(abs(yaw), abs(pitch)) > STEEPEST:
        raise ValueError(f"a turn by {yaw}, {pitch} degrees is beyond {STEEPEST}")
    turn = rotation(yaw, pitch)
    alignment = similarity_transform(landmarks_after(turn))
    y, x = np.mgrid[:SIZE, :SIZE].reshape(2, -1)
    screen = (np.stack([x, y], axis=1) - alignment[:, 2]) @ np.linalg.inv(alignment[:, :2]).T
    # of the face that looks at the viewer: `turn` takes it to the screen, its transpose back
    start = (np.column_stack([screen, np.zeros(len(screen))]) - AXIS) @ turn + AXIS
    depths = np.arange(NEAR, FAR, -STEP)
    rays = (start[:, :, None] + turn[2][:, None] * depths).astype(np.float32)  # (P, 3, depths)
    across, down = rays[:, 0], rays[:, 1]
    height = cv2.remap(
        relief(), across + MARGIN, down + MARGIN, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    above = rays[:, 2] - height
    row, hit = np.arange(len(above)), np.maximum((above <= 0).argmax(axis=1), 1)
    share = above[row, hit - 1] / (above[row, hit - 1] - above[row, hit])
    x, y = (
        line[row, hit - 1] + share * (line[row, hit] - line[row, hit - 1])
        for line in (across, down)
    )
    return x.reshape(SIZE, SIZE), y.reshape(SIZE, SIZE)


@cache
def relief() -> Plane:
    """`surface` at the pixels of the crop and MARGIN more on each side."""
    y, x = np.mgrid[-MARGIN : SIZE + MARGIN, -MARGIN : SIZE + MARGIN].astype(float)
    return surface(x, y).astype(np.float32)


def surface(x: Floats, y: Floats) -> Floats:
    """How far the face rises towards the viewer at places of the crop: an ellipsoid, a plane
    behind it, a nose, two eye sockets and a mouth."""
    dx, dy = x - MIDDLE[0], y - MIDDLE[1]
    inside = np.maximum(1 - (dx / HALF_WIDTH) ** 2 - (dy / HALF_HEIGHT) ** 2, 0)
    height = FRONT + HALF_DEPTH * (np.sqrt(inside) - 1)
    slope = np.clip((y - NOSE_ROOT) / (NOSE_TIP - NOSE_ROOT), 0, 1)
    below = np.exp(-((np.maximum(y - NOSE_TIP, 0) / 4) ** 2))
    height = height + NOSE_HEIGHT * np.exp(-((dx / NOSE_WIDTH) ** 2)) * slope * below
    for eye in TEMPLATE[:2]:
        away = (x - eye[0]) ** 2 + (y - eye[1]) ** 2
        height = height - SOCKET_DEPTH * np.exp(-away / SOCKET_WIDTH**2)
    mouth = (dx / MOUTH_SIZE[0]) ** 2 + ((y - MOUTH_Y) / MOUTH_SIZE[1]) ** 2
    return np.asarray(height + MOUTH_HEIGHT * np.exp(-mouth))


def rotation(yaw: float, pitch: float) -> Floats:
    """(3, 3), of column vectors; degrees."""
    return Rotation.from_euler("yx", [yaw, -pitch], degrees=True).as_matrix()


def landmarks_after(turn: Floats) -> Landmarks:
    """Where the template's five points come to lie, (5, 2), before the new alignment."""
    points = np.column_stack([TEMPLATE, surface(TEMPLATE[:, 0], TEMPLATE[:, 1])])
    return ((points - AXIS) @ turn.T + AXIS)[:, :2].astype(np.float32)


def pose_of(landmarks: Landmarks) -> tuple[float, float]:
    """Yaw and pitch in degrees, to 2.5, of the turned face whose five points, aligned, lie nearest
    to these (5, 2) in the pixels of any image."""
    poses, shapes = turned_shapes()
    distance = np.square(shapes - warp_landmarks(landmarks)).sum(axis=(1, 2))
    yaw, pitch = poses[distance.argmin()]
    return float(yaw), float(pitch)


@cache
def turned_shapes() -> tuple[Floats, Floats]:
    """Poses (K, 2) in degrees and the aligned landmarks (K, 5, 2) of each."""
    yaws, pitches = np.arange(-STEEPEST, STEEPEST + 1, 2.5), np.arange(-30, 31, 2.5)
    poses = np.array([(yaw, pitch) for yaw in yaws for pitch in pitches])
    return poses, np.stack([warp_landmarks(landmarks_after(rotation(*pose))) for pose in poses])
