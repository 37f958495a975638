"""Glasses that sit on the nose and the ears."""

from __future__ import annotations

import numpy as np

from facefoundry.synthesis.render.arrays import Floats, Ints
from facefoundry.synthesis.render.head import Head
from facefoundry.synthesis.render.look import Look
from facefoundry.synthesis.render.meshes import PLAIN, Part, fan, make_part, tube


def make_glasses(
    head: Head, points: Floats, eyes: Floats, rng: np.random.Generator
) -> tuple[list[Part], Part]:
    """Frame, and lenses. points: (V, 3) of the head. eyes: (2, 3) centres of the eyeballs, viewer's
    left first."""
    half = abs(eyes[1, 0] - eyes[0, 0]) / 2
    wide, tall = rng.uniform(0.68, 0.84) * half, rng.uniform(0.5, 0.8) * half
    outline = _outline(wide, tall, rng.uniform(2.0, 4.5))
    thick = float(np.exp(rng.uniform(np.log(0.010), np.log(0.032))))
    colour = np.clip(rng.beta(0.5, 2) * np.exp(rng.normal(0, 0.35, 3)), 0.004, 0.7)
    front = _front(head, points)
    frame: list[tuple[Floats, Ints]] = []
    lens_points: list[Floats] = []
    lens_triangles: list[Ints] = []
    for side, eye in zip((-1, 1), eyes, strict=True):
        rim = outline + np.array([eye[0] + side * 0.02, eye[1] - 0.03, front])
        rim[:, 2] -= 0.25 * np.maximum(np.abs(rim[:, 0]) - 0.25, 0)  # wraps around the face
        frame.append(tube(rim, thick))
        hinge = rim[np.argmax(side * rim[:, 0])] + np.array([0, 0.25 * tall, 0])
        bend = hinge + np.array([side * 0.04, 0, -0.08])
        frame.append(tube(np.stack([hinge, bend, _ear_hook(head, points, side)]), thick))
        lens_triangles.append(fan(len(rim)) + sum(len(points) for points in lens_points))
        lens_points.append(np.concatenate([rim.mean(axis=0, keepdims=True), rim]))
    frame.append(tube(_bridge(eyes, wide, front), thick))
    parts = [make_part(p, t, PLAIN, p[:, :2], colour) for p, t in frame]
    lenses = np.concatenate(lens_points)
    return parts, make_part(lenses, np.concatenate(lens_triangles), PLAIN, lenses[:, :2], 0.0)


def _outline(wide: float, tall: float, power: float) -> Floats:
    """(25, 3) a superellipse: an ellipse at power 2, nearly a rectangle at 4.5."""
    turns = np.linspace(0, 2 * np.pi, 25)
    x, y = np.cos(turns), np.sin(turns)
    across = wide * np.sign(x) * np.abs(x) ** (2 / power)
    upwards = tall * np.sign(y) * np.abs(y) ** (2 / power)
    return np.stack([across, upwards, 0 * turns], axis=1)


def _front(head: Head, points: Floats) -> float:
    """How far in front the lenses stand: clear of the bridge of the nose and of the lids."""
    x, y = np.abs(head.vertices[:, 0]), head.vertices[:, 1]
    bridge = points[(x < 0.1) & (np.abs(y - 7.25) < 0.1), 2]
    lids = points[(x < 0.45) & (np.abs(y - 7.28) < 0.2), 2]
    return float(max(bridge.max() + 0.02, np.percentile(lids, 98) + 0.05))


def _ear_hook(head: Head, points: Floats, side: int) -> Floats:
    ear = points[(head.masks[:, 1] > 0.5) & (np.sign(head.vertices[:, 0]) == side)]
    x = side * (np.abs(ear[:, 0]).min() + 0.06)
    return np.array([x, ear[:, 1].max() - 0.08, ear[:, 2].mean()])


def _bridge(eyes: Floats, wide: float, front: float) -> Floats:
    left, right = eyes[0, 0] - 0.02 + 0.97 * wide, eyes[1, 0] + 0.02 - 0.97 * wide
    across = np.linspace(left, right, 5)
    arch = 0.05 * (1 - np.linspace(-1, 1, 5) ** 2)
    return np.stack([across, eyes[:, 1].mean() + 0.02 + arch, front + 0 * across], axis=1)


def lens_colours(look: Look, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """What the lenses let through and what they reflect, (3,) each."""
    dark = look.glasses == 2
    tint = rng.uniform(0.02, 0.2) * np.exp(rng.normal(0, 0.25, 3)) if dark else np.full(3, 0.92)
    glare = (0.10 if dark else 0.05) * rng.random() * look.colours[2:].mean(axis=0)
    return tint.astype(np.float32), glare.astype(np.float32)
