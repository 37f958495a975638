"""The z-buffer rasteriser and other loops over triangles, compiled by numba.

Screen coordinates are pixels, x right, y down; a pixel's centre lies at (column + 0.5, row + 0.5).
Depth is larger for what is nearer to the camera.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from facefoundry.synthesis.render.arrays import Floats, Ints

FAR = np.float32(-1e9)


@njit(cache=True, fastmath=True)
def _setup(points: Floats, a: int, b: int, c: int, width: int, height: int) -> tuple[Any, ...]:
    """Signed area, the box of pixels, and the first two barycentric weights as linear functions
    (at pixel 0, 0; per column; per row) of a triangle."""
    ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
    cx, cy = points[c, 0], points[c, 1]
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    half = np.float32(0.5)
    left = max(int(np.ceil(min(ax, bx, cx) - half)), 0)
    right = min(int(np.floor(max(ax, bx, cx) - half)), width - 1)
    top = max(int(np.ceil(min(ay, by, cy) - half)), 0)
    bottom = min(int(np.floor(max(ay, by, cy) - half)), height - 1)
    scale = np.float32(1.0) / area if area != 0 else np.float32(0.0)
    wa = ((bx - half) * (cy - half) - (by - half) * (cx - half)) * scale
    wb = ((cx - half) * (ay - half) - (cy - half) * (ax - half)) * scale
    return (
        area, left, right, top, bottom,
        wa, (by - cy) * scale, (cx - bx) * scale,
        wb, (cy - ay) * scale, (ax - cx) * scale,
    )  # fmt: skip


@njit(cache=True, fastmath=True)
def rasterise(
    points: Floats,
    triangles: Ints,
    closed: NDArray[np.bool_],
    cover: Floats,
    strands: Floats,
    coords: Floats,
    depth: Floats,
    index: Ints,
    weights: Floats,
) -> None:
    """Draw triangles (T, 3) over points (V, 3) into depth (H, W), index (H, W) and weights
    (H, W, 2), the barycentric weights of the first two corners.

    Triangles of `closed` (T,) surfaces are left out where they face away. A pixel is left out where
    the interpolated `cover` (V,) is not above the tileable noise `strands` (S, S) in 0..1, looked
    up at coords (V, 2) in periods; cover > 1 draws all.
    """
    height, width = depth.shape
    period = strands.shape[0]
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if max(cover[a], cover[b], cover[c]) <= 0.0:
            continue
        area, left, right, top, bottom, a0, ax, ay, b0, bx, by = _setup(
            points, a, b, c, width, height
        )
        if area == 0.0 or (closed[t] and area > 0.0):
            continue
        solid = min(cover[a], cover[b], cover[c]) > 1.0
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                wa = a0 + ax * np.float32(x) + ay * np.float32(y)
                wb = b0 + bx * np.float32(x) + by * np.float32(y)
                wc = np.float32(1.0) - wa - wb
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                z = wa * za + wb * zb + wc * zc
                if z <= depth[y, x]:
                    continue
                if not solid:
                    u = wa * coords[a, 0] + wb * coords[b, 0] + wc * coords[c, 0]
                    v = wa * coords[a, 1] + wb * coords[b, 1] + wc * coords[c, 1]
                    column = int((u - np.floor(u)) * period) % period
                    row = int((v - np.floor(v)) * period) % period
                    if wa * cover[a] + wb * cover[b] + wc * cover[c] <= strands[row, column]:
                        continue
                depth[y, x] = z
                index[y, x] = t
                weights[y, x, 0] = wa
                weights[y, x, 1] = wb


@njit(cache=True, fastmath=True)
def rasterise_depth(points: Floats, triangles: Ints, cover: Floats, depth: Floats) -> None:
    """Draw only the depth (H, W), for shadows: triangles whose cover is mostly above 0.5."""
    height, width = depth.shape
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        if cover[a] + cover[b] + cover[c] <= 1.5:
            continue
        area, left, right, top, bottom, a0, ax, ay, b0, bx, by = _setup(
            points, a, b, c, width, height
        )
        if area == 0.0:
            continue
        za, zb, zc = points[a, 2], points[b, 2], points[c, 2]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                wa = a0 + ax * np.float32(x) + ay * np.float32(y)
                wb = b0 + bx * np.float32(x) + by * np.float32(y)
                if wa < 0 or wb < 0 or wa + wb > 1:
                    continue
                depth[y, x] = max(depth[y, x], wa * za + wb * zb + (1 - wa - wb) * zc)


@njit(cache=True, fastmath=True)
def visibility(points: Floats, depth: Floats, bias: float) -> Floats:
    """Share (V,) of the 5 x 5 depth texels around each point that do not hide it: a soft shadow."""
    height, width = depth.shape
    seen = np.ones(len(points), np.float32)
    for i in range(len(points)):
        column, row = int(points[i, 0]), int(points[i, 1])
        if column < 2 or row < 2 or column >= width - 2 or row >= height - 2:
            continue
        count = 0
        for y in range(row - 2, row + 3):
            for x in range(column - 2, column + 3):
                if depth[y, x] <= points[i, 2] + bias:
                    count += 1
        seen[i] = count / 25.0
    return seen


@njit(cache=True, fastmath=True)
def vertex_normals(points: Floats, triangles: Ints) -> Floats:
    """Unit normals (V, 3), area-weighted, outward for counter-clockwise triangles."""
    normals = np.zeros_like(points)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = (
            points[b, 0] - points[a, 0],
            points[b, 1] - points[a, 1],
            points[b, 2] - points[a, 2],
        )
        vx, vy, vz = (
            points[c, 0] - points[a, 0],
            points[c, 1] - points[a, 1],
            points[c, 2] - points[a, 2],
        )
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for i in range(len(points)):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-20)
        normals[i, 0], normals[i, 1], normals[i, 2] = nx * scale, ny * scale, nz * scale
    return normals
