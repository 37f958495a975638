"""Light on the vertices, then colour on the pixels."""

from __future__ import annotations

import numpy as np
from numba import njit

from facefoundry.synthesis.render.arrays import Floats, Ints
from facefoundry.synthesis.render.meshes import EYEBALL, FLESH, STRANDS
from facefoundry.synthesis.render.skin import (
    BLUSH,
    BROWS,
    GLOSS,
    JAW,
    LIPS,
    MOUSTACHE,
    SCALP,
    SHADOW,
)

# columns of the per-vertex attributes that the pixels interpolate
LIGHT, NORMAL, COORDS, TINT, DETAIL, KEY, SHEEN, COLUMNS = 0, 3, 6, 8, 11, 12, 13, 14
# how far light bleeds around the terminator in red, green and blue: a stand-in for subsurface
# scattering (d'Eon and Luebke, GPU Gems 3, chapter 14)
BLEED = np.array([0.42, 0.18, 0.10], np.float32)


@njit(cache=True, fastmath=True)
def vertex_light(
    normals: Floats,
    ambient: Floats,
    key: Floats,
    flesh: Floats,
    directions: Floats,
    colours: Floats,
) -> Floats:
    """Irradiance (V, 3). The first two lights are hard, the first times the visibility `key` (V,);
    the others are soft, each a cosine lobe cut at spherical-harmonics order 2 (Ramamoorthi and
    Hanrahan, 2001), dimmed by `ambient` (V,). flesh: (V,) 1 where light bleeds."""
    light = np.zeros((len(normals), 3), np.float32)
    for i in range(len(normals)):
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        for row in range(len(directions)):
            c = nx * directions[row, 0] + ny * directions[row, 1] + nz * directions[row, 2]
            if row >= 2:
                lobe = np.float32(0.0938) + np.float32(0.5) * c + np.float32(0.4688) * c * c
                lobe = max(lobe, np.float32(0)) * ambient[i]
                for k in range(3):
                    light[i, k] += lobe * colours[row, k]
                continue
            seen = key[i] if row == 0 else ambient[i]
            for k in range(3):
                bleed = BLEED[k] * flesh[i]
                wrapped = max((c + bleed) / (1 + bleed), np.float32(0))
                if flesh[i] > 0:
                    wrapped = wrapped ** (1 + np.float32(0.8) * bleed)
                    seen_here = seen ** (1 - np.float32(0.9) * bleed)  # shadows redden at the edge
                else:
                    seen_here = seen
                light[i, k] += wrapped * seen_here * colours[row, k]
    return light


def strand_sheen(normals: Floats, direction: Floats) -> Floats:
    """(V,) highlight of hair that hangs down (Kajiya and Kay, 1989), viewed along z."""
    tangent = np.array([0, -1, 0], np.float32) + normals * normals[:, 1:2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-3
    half = direction + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half) + 1e-6
    along = tangent @ half
    facing = np.clip(normals @ direction + 0.3, 0, 1)
    return np.asarray(np.maximum(1 - along * along, 0) ** 24 * facing, np.float32)


@njit(cache=True, fastmath=True)
def shade(
    index: Ints,
    weights: Floats,
    triangles: Ints,
    kind: Ints,
    attributes: Floats,
    texture: np.ndarray,
    strands: Floats,
    strength: Floats,
    lights: Floats,
    hair: Floats,
    beard: Floats,
    lip: Floats,
    eyes: Floats,
    iris: Floats,
    iris_cosine: np.float32,
    pupil_cosine: np.float32,
    tan: Floats,
    brow: Floats,
    image: Floats,
) -> None:
    """Colour the pixels of image (H, W, 3), linear RGB, where index (H, W) is not negative.

    texture: (h, w, CHANNELS) uint8, see `skin`. strength: (CHANNELS,) of what its masks cover.
    lights: (2, 6) half vector towards the viewer and colour of the hard lights. eyes: (3,)
    direction of the gaze in eye space; for eyeballs TINT is the direction of the surface in eye
    space. iris_cosine, pupil_cosine: of the angle between the gaze and the edge of each. tan: (3,)
    factors of the skin's reflectance. brow: (3,) colour of brows.
    """
    height, width = index.shape
    rows, columns, channels = texture.shape
    period = strands.shape[0]
    value = np.zeros(COLUMNS, np.float32)
    texel = np.zeros(channels, np.float32)
    colour = np.zeros(3, np.float32)
    for y in range(height):
        for x in range(width):
            t = index[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t]
            wa, wb = weights[y, x, 0], weights[y, x, 1]
            wc = np.float32(1.0) - wa - wb
            what = kind[t]
            for k in range(COLUMNS):
                if what == FLESH and (TINT <= k <= DETAIL or k == SHEEN):
                    continue
                value[k] = wa * attributes[a, k] + wb * attributes[b, k] + wc * attributes[c, k]
            nx, ny, nz = value[NORMAL], value[NORMAL + 1], value[NORMAL + 2]
            gloss = np.float32(0.03)
            sharp = False
            if what == FLESH:
                u = value[COORDS] * columns - np.float32(0.5)
                v = min(
                    max(value[COORDS + 1] * rows - np.float32(0.5), np.float32(0)),
                    np.float32(rows - 1.001),
                )
                iu, iv = int(np.floor(u)), int(v)
                fu, fv = u - np.float32(np.floor(u)), v - np.float32(iv)
                left, right = iu % columns, (iu + 1) % columns
                q00, q01 = (1 - fu) * (1 - fv), fu * (1 - fv)
                q10, q11 = (1 - fu) * fv, fu * fv
                for k in range(channels):
                    texel[k] = (
                        q00 * texture[iv, left, k]
                        + q01 * texture[iv, right, k]
                        + q10 * texture[iv + 1, left, k]
                        + q11 * texture[iv + 1, right, k]
                    ) * np.float32(1 / 255)
                gloss = texel[GLOSS] * (1 + np.float32(0.6) * strength[LIPS] * texel[LIPS])
                grain = strands[
                    int(value[COORDS + 1] * 2600) % period, int(value[COORDS] * 3400) % period
                ]
                stubble = np.float32(0.45) + np.float32(0.9) * grain
                scalp = min(strength[SCALP] * texel[SCALP] * stubble, np.float32(0.97))
                moustache, jaw = strength[MOUSTACHE] * texel[MOUSTACHE], strength[JAW] * texel[JAW]
                bearded = min(max(moustache, jaw) * stubble, np.float32(0.92))
                shadow = strength[SHADOW] * texel[SHADOW]
                painted = strength[LIPS] * texel[LIPS]
                blush = strength[BLUSH] * texel[BLUSH]
                brows = min(strength[BROWS] * texel[BROWS], np.float32(0.97))
                for k in range(3):
                    albedo = texel[k] * texel[k] * tan[k]
                    albedo *= 1 - shadow * (np.float32(0.45) + np.float32(0.15) * k)
                    albedo *= 1 - blush * np.float32(0.22) * k
                    albedo += painted * (lip[k] - albedo)
                    albedo += brows * (brow[k] - albedo)
                    albedo += scalp * (hair[k] - albedo)
                    albedo += bearded * (beard[k] - albedo)
                    colour[k] = albedo * value[LIGHT + k]
                gloss *= 1 - max(scalp, bearded)
                bump = (grain - np.float32(0.5)) * np.float32(0.10)
                nx += bump
                ny -= bump
            elif what == EYEBALL:
                dx, dy, dz = value[TINT], value[TINT + 1], value[TINT + 2]
                length = np.sqrt(dx * dx + dy * dy + dz * dz) + np.float32(1e-6)
                along = (dx * eyes[0] + dy * eyes[1] + dz * eyes[2]) / length
                if along > iris_cosine:
                    depth = (along - iris_cosine) / (1 - iris_cosine)
                    spoke = (
                        int(np.arctan2(dy / length - eyes[1], dx / length - eyes[0]) * 60) % period
                    )
                    mottle = np.float32(0.65) + np.float32(0.7) * strands[7, spoke]
                    ring = min(depth * np.float32(6.0), np.float32(1.0))
                    outside = (pupil_cosine - along) * np.float32(160.0)
                    pupil = min(max(outside, np.float32(0)), np.float32(1))
                    for k in range(3):
                        colour[k] = (
                            iris[k] * mottle * (np.float32(0.3) + np.float32(0.7) * ring) * pupil
                        )
                        colour[k] = (colour[k] + np.float32(0.004)) * value[LIGHT + k]
                else:
                    edge = max(1 - (iris_cosine - along) * np.float32(18.0), np.float32(0.0))
                    pink = np.float32(0.10) * min(
                        (iris_cosine - along) * np.float32(2.0), np.float32(1.0)
                    )
                    for k in range(3):
                        white = np.float32(0.62) - np.float32(0.04) * k - pink * (k > 0)
                        colour[k] = (white + edge * (iris[k] - white)) * value[LIGHT + k]
                gloss = np.float32(1.0)
                sharp = True
            else:
                row = int((value[COORDS + 1] - np.floor(value[COORDS + 1])) * period) % period
                column = int((value[COORDS] - np.floor(value[COORDS])) * period) % period
                noise = strands[row, column] - np.float32(0.5)
                for k in range(3):
                    colour[k] = (
                        value[TINT + k]
                        * (1 + np.float32(1.2) * value[DETAIL] * noise)
                        * value[LIGHT + k]
                    )
                if what == STRANDS:
                    sheen = value[SHEEN] * value[KEY] * (np.float32(0.5) + noise)
                    for k in range(3):
                        colour[k] += (
                            sheen
                            * (np.float32(0.035) + np.float32(0.35) * value[TINT + k])
                            * lights[0, 3 + k]
                        )
                    gloss = np.float32(0.0)
            if gloss > 0:
                scale = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-9))
                nx, ny, nz = nx * scale, ny * scale, nz * scale
                for row in range(2):
                    h = nx * lights[row, 0] + ny * lights[row, 1] + nz * lights[row, 2]
                    if h <= 0:
                        continue
                    h2 = h * h
                    h8 = h2 * h2 * h2 * h2
                    h16 = h8 * h8
                    if sharp:
                        h64 = h16 * h16 * h16 * h16
                        lobe = np.float32(3.0) * h64 * h64 * h64 * h64
                    else:
                        lobe = np.float32(0.28) * h8 + np.float32(0.45) * h16 * h16 * h8
                    seen = value[KEY] if row == 0 else np.float32(1.0)
                    for k in range(3):
                        colour[k] += np.float32(0.35) * gloss * lobe * seen * lights[row, 3 + k]
                rim = 1 - max(nz, np.float32(0.0))
                rim = rim * rim * rim * np.float32(0.10) * gloss
                for k in range(3):
                    colour[k] += rim * value[LIGHT + k]
            image[y, x, 0] = colour[0]
            image[y, x, 1] = colour[1]
            image[y, x, 2] = colour[2]


@njit(cache=True, fastmath=True)
def draw_lenses(
    points: Floats, triangles: Ints, depth: Floats, tint: Floats, glare: Floats, image: Floats
) -> None:
    """Lay lenses over image (H, W, 3): it is multiplied by tint (3,) and glare (3,) is added, more
    towards the lenses' top."""
    height, width = depth.shape
    low, high = points[:, 1].min(), points[:, 1].max()
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        ax, ay, bx, by = points[a, 0], points[a, 1], points[b, 0], points[b, 1]
        cx, cy = points[c, 0], points[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        for y in range(max(int(min(ay, by, cy)), 0), min(int(max(ay, by, cy)) + 1, height)):
            for x in range(max(int(min(ax, bx, cx)), 0), min(int(max(ax, bx, cx)) + 1, width)):
                wa = ((bx - x - 0.5) * (cy - y - 0.5) - (by - y - 0.5) * (cx - x - 0.5)) / area
                wb = ((cx - x - 0.5) * (ay - y - 0.5) - (cy - y - 0.5) * (ax - x - 0.5)) / area
                if wa < 0.0 or wb < 0.0 or wa + wb >= 1.0:
                    continue
                if (
                    wa * points[a, 2] + wb * points[b, 2] + (1.0 - wa - wb) * points[c, 2]
                    < depth[y, x]
                ):
                    continue
                fade = (high - y) / (high - low + 1e-6)
                for k in range(3):
                    image[y, x, k] = image[y, x, k] * tint[k] + glare[k] * fade * fade
