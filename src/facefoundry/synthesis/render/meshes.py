"""Pieces of geometry and how they look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from facefoundry.synthesis.render.arrays import Floats, Ints

FLESH, EYEBALL, PLAIN, STRANDS = range(4)  # how the shader treats a triangle
ALWAYS = 2.0


@dataclass(frozen=True)
class Part:
    """n vertices, m triangles, in head space. points: (n, 3). triangles: (m, 3). kind: FLESH ...
    STRANDS. coords: (n, 2), of the skin texture for FLESH, else periods of the strand noise. tint:
    (n, 3) linear RGB. detail: (n,) how much the noise changes the tint. cover: (n,) see
    `rasterise`. ambient: (n,) share of the sky seen. follow: (n,) how far it moves with
    the head, 0 for the shoulders. closed: never seen from behind. casts: throws a shadow."""

    points: Floats
    triangles: Ints
    kind: int
    coords: Floats
    tint: Floats
    detail: Floats
    cover: Floats
    ambient: Floats
    follow: Floats
    closed: bool
    casts: bool


def make_part(
    points: Floats,
    triangles: Ints,
    kind: int,
    coords: Floats,
    tint: ArrayLike,
    detail: float = 0.0,
    cover: Floats | float = ALWAYS,
    ambient: Floats | float = 1.0,
    follow: ArrayLike = 1.0,
    closed: bool = False,
    casts: bool = True,
) -> Part:
    """A part whose per-vertex values may be given as one number or colour."""
    count = len(points)

    def spread(value: ArrayLike, *shape: int) -> Floats:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float32), (count, *shape)))

    return Part(
        np.asarray(points, np.float32),
        np.asarray(triangles, np.int32),
        kind,
        np.asarray(coords, np.float32),
        spread(tint, 3),
        spread(detail),
        spread(cover),
        spread(ambient),
        spread(follow),
        closed,
        casts,
    )


def compact(triangles: Ints) -> tuple[Ints, Ints]:
    """The vertices that triangles (m, 3) use, and the triangles counted within them."""
    rows, local = np.unique(triangles, return_inverse=True)
    return rows.astype(np.int32), local.reshape(-1, 3).astype(np.int32)


def tube(path: Floats, radius: float) -> tuple[Floats, Ints]:
    """A square tube (radius in dm) along the points (n, 3) of an open path."""
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-9
    side = np.cross(along, (0.0, 0.0, 1.0))
    weak = np.linalg.norm(side, axis=1) < 0.3
    side[weak] = np.cross(along[weak], (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    up = np.cross(side, along)
    rings = [
        path + radius * (side * np.cos(a) + up * np.sin(a))
        for a in np.pi * (0.25 + 0.5 * np.arange(5))
    ]
    return np.stack(rings).reshape(-1, 3), grid_triangles(5, len(path))


def grid_triangles(rows: int, columns: int) -> Ints:
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (
        part.ravel()
        for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:])
    )
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def fan(count: int) -> Ints:
    """Triangles between point 0 and `count` points around it, the last one at the first."""
    ring = np.arange(1, count)
    return np.stack([0 * ring, ring, ring + 1], axis=1).astype(np.int32)
