"""Pose of the head, perspective and framing."""

from __future__ import annotations

import numpy as np

from facefoundry.alignment import SIZE, similarity_transform
from facefoundry.synthesis.render.arrays import Floats
from facefoundry.synthesis.render.look import Look

PIVOT = np.array([0.0, 6.2, 0.1], np.float32)  # the joint of skull and neck


def _rotation(yaw: float, pitch: float, roll: float) -> Floats:
    """(3, 3) degrees; columns act on x right, y up, z to the camera."""
    y, p, r = np.radians([yaw, -pitch, -roll])
    turn = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    nod = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    tilt = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return np.asarray(tilt @ nod @ turn, np.float32)


def pose(points: Floats, look: Look, follow: Floats) -> Floats:
    """Turn the head; the shoulders follow a little, the neck in between."""
    centred = points - PIVOT
    head = centred @ _rotation(look.yaw, look.pitch, look.roll).T
    if follow.min() >= 1:
        return np.asarray(head, np.float32)
    body = centred @ _rotation(0.5 * look.yaw, 0.2 * look.pitch, 0.2 * look.roll).T
    return np.asarray(body + follow[:, None] * (head - body), np.float32)


def perspective(points: Floats, distance: float) -> Floats:
    """x and y (down) after division, and z, of points (n, 3) seen from (0, 0, distance)."""
    scale = distance / (distance - points[:, 2:])
    return np.concatenate([points[:, :2] * scale * (1, -1), points[:, 2:]], axis=1).astype(
        np.float32
    )


def framing(marks: Floats, look: Look, size: int) -> Floats:
    """(2, 3) scale and shift, such that the aligned cut of the landmarks has the side look.crop and
    lies about the middle."""
    cut = similarity_transform(marks)
    scale = look.crop / SIZE * float(np.hypot(cut[0, 0], cut[1, 0]))
    centre = np.linalg.solve(cut[:, :2], np.full(2, SIZE / 2) - cut[:, 2])
    shift = size / 2 + look.shift - scale * centre
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)


def to_screen(points: Floats, distance: float, matrix: Floats) -> Floats:
    flat = perspective(points, distance)
    flat[:, :2] = flat[:, :2] * matrix[0, 0] + matrix[:, 2]
    return flat
