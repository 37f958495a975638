"""From an identity and a look to pixels and landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facefoundry.images import Image
from facefoundry.synthesis.render.arrays import Floats, Ints
from facefoundry.synthesis.render.camera import framing, perspective, pose, to_screen
from facefoundry.synthesis.render.develop import background, develop
from facefoundry.synthesis.render.glasses import lens_colours, make_glasses
from facefoundry.synthesis.render.head import EYE, SKIN, Head, light_view
from facefoundry.synthesis.render.identity import Identity, axis_offsets, moved
from facefoundry.synthesis.render.look import Look
from facefoundry.synthesis.render.meshes import FLESH, STRANDS, Part
from facefoundry.synthesis.render.parts import Wardrobe
from facefoundry.synthesis.render.raster import (
    FAR,
    rasterise,
    rasterise_depth,
    vertex_normals,
    visibility,
)
from facefoundry.synthesis.render.shade import (
    COLUMNS,
    COORDS,
    DETAIL,
    KEY,
    LIGHT,
    NORMAL,
    SHEEN,
    TINT,
    draw_lenses,
    shade,
    strand_sheen,
    vertex_light,
)
from facefoundry.synthesis.render.skin import (
    BLUSH,
    BROWS,
    CHANNELS,
    JAW,
    LIPS,
    MOUSTACHE,
    SCALP,
    SHADOW,
    Canvas,
)

SUPERSAMPLING = 2
SHADOW_SIZE = 192


@dataclass(frozen=True)
class Studio:
    """What every picture shares. The rest are vertex rows: nose tip, left and right mouth corner
    (viewer's), and those of the viewer's left and right eyeball."""

    head: Head
    canvas: Canvas
    wardrobe: Wardrobe
    tip: int
    corners: tuple[int, int]
    eyeballs: tuple[Ints, Ints]


@dataclass(frozen=True)
class Scene:
    """All parts together in camera space (V, 3), decimetres, z towards the camera."""

    points: Floats
    triangles: Ints
    kind: Ints
    closed: np.ndarray
    casts: np.ndarray
    cover: Floats
    coords: Floats
    tint: Floats
    detail: Floats
    ambient: Floats


def make_studio(head: Head, canvas: Canvas) -> Studio:
    place = head.vertices
    middle = np.abs(place[:, 0]) < 0.02
    skin = np.zeros(len(place), bool)
    skin[head.triangles[head.part == SKIN]] = True
    nose = middle & skin & (place[:, 1] > 6.8) & (place[:, 1] < 7.1)
    lips = skin & (head.masks[:, 0] > 0.5)
    eyes = np.unique(head.triangles[head.part == EYE])
    return Studio(
        head,
        canvas,
        Wardrobe(head, canvas),
        int(np.argmax(np.where(nose, place[:, 2], -9))),
        (
            int(np.argmin(np.where(lips, place[:, 0], 9))),
            int(np.argmax(np.where(lips, place[:, 0], -9))),
        ),
        (eyes[place[eyes, 0] < 0], eyes[place[eyes, 0] > 0]),
    )


def render(
    studio: Studio,
    who: Identity,
    texture: np.ndarray,
    look: Look,
    size: int,
    rng: np.random.Generator,
) -> tuple[Image, Floats]:
    """The picture (size, size, 3) uint8 RGB and its landmarks (5, 2) in pixels."""
    points = flesh(studio.head, who, look)
    eyes = np.stack([points[rows].mean(axis=0) for rows in studio.eyeballs])
    parts, lenses = _dress(studio, who, look, points, eyes, rng)
    scene = _assemble(parts, look)
    fine = size * SUPERSAMPLING
    marks = pose(_landmark_points(studio, points, eyes), look, np.ones(5, np.float32))
    matrix = framing(perspective(marks, look.distance)[:, :2], look, size)
    landmarks = to_screen(marks, look.distance, matrix)[:, :2]
    screen = to_screen(scene.points, look.distance, matrix * SUPERSAMPLING)
    depth = np.full((fine, fine), FAR, np.float32)
    index = np.full((fine, fine), -1, np.int32)
    weights = np.zeros((fine, fine, 2), np.float32)
    strands = studio.canvas.strands
    rasterise(
        screen,
        scene.triangles,
        scene.closed,
        scene.cover,
        strands,
        scene.coords,
        depth,
        index,
        weights,
    )
    image = np.repeat(np.repeat(background(size, rng), SUPERSAMPLING, 0), SUPERSAMPLING, 1)
    image = _shade(image, scene, index, weights, texture, strands, who, look)
    if lenses is not None:
        lens = to_screen(
            pose(lenses.points, look, lenses.follow), look.distance, matrix * SUPERSAMPLING
        )
        tint, glare = lens_colours(look, rng)
        draw_lenses(lens, lenses.triangles, depth, tint, glare, image)
    small = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.float32)
    return develop(small, landmarks, who, look, rng), landmarks.astype(np.float32)


def flesh(head: Head, who: Identity, look: Look) -> Floats:
    """(V, 3) the head with the look's expression, years and weight."""
    slow = np.zeros(len(head.axes), np.float32)
    axes = head.axes.tolist()
    slow[axes.index("head-age-incr")] = look.ageing
    slow[axes.index("head-fat-incr")] = look.fattening
    points = who.shape + moved(look.units, head.units)
    return np.asarray(points + axis_offsets(head, slow), np.float32)


def _dress(
    studio: Studio,
    who: Identity,
    look: Look,
    points: Floats,
    eyes: Floats,
    rng: np.random.Generator,
) -> tuple[list[Part], Part | None]:
    wardrobe, twin = studio.wardrobe, studio.head.twin
    normals = vertex_normals(points, twin[studio.head.triangles])[twin]
    parts = wardrobe.skin(points, who)
    parts += [wardrobe.clothes(points, normals, rng)]
    parts = wardrobe.hair(points, normals, who, look) + parts
    if look.hair.end < 7.2:
        parts += wardrobe.curtain(points, look, rng)
    if look.beard_depth > 0 and max(look.moustache, look.jaw) > 0:
        parts += wardrobe.beard_shells(points, normals, who, look)
    if look.hat:
        parts += wardrobe.hat(points, normals, look, rng)
    if not look.glasses:
        return parts, None
    frame, lenses = make_glasses(studio.head, points, eyes, rng)
    return parts + frame, lenses


def _assemble(parts: list[Part], look: Look) -> Scene:
    starts = np.cumsum([0] + [len(part.points) for part in parts])
    sizes = [len(part.triangles) for part in parts]
    return Scene(
        np.concatenate([pose(part.points, look, part.follow) for part in parts]),
        np.concatenate([p.triangles + s for p, s in zip(parts, starts, strict=False)]).astype(
            np.int32
        ),
        *(
            np.repeat(np.array([getattr(part, name) for part in parts]), sizes)
            for name in ("kind", "closed", "casts")
        ),
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("cover", "coords", "tint", "detail", "ambient")
        ),
    )


def _landmark_points(studio: Studio, points: Floats, eyes: Floats) -> Floats:
    """(5, 3) in head space: the eyes' on the front of the eyeball."""
    front = eyes + np.array([0.0, 0.0, 0.13], np.float32)
    return np.concatenate([front, points[[studio.tip, *studio.corners]]]).astype(np.float32)


def _shade(
    image: Floats,
    scene: Scene,
    index: Ints,
    weights: Floats,
    texture: np.ndarray,
    strands: Floats,
    who: Identity,
    look: Look,
) -> Floats:
    halves = look.directions[:2] + np.array([0, 0, 1], np.float32)
    halves /= np.linalg.norm(halves, axis=1, keepdims=True) + 1e-6
    gaze = np.array([np.sin(look.gaze[0]), np.sin(look.gaze[1]), 1], np.float32)
    shade(
        index,
        weights,
        scene.triangles,
        scene.kind,
        _vertex_attributes(scene, look),
        texture,
        strands,
        _strength(look),
        np.concatenate([halves, look.colours[:2]], axis=1).astype(np.float32),
        look.hair.colour,
        0.8 * who.hair,
        np.array([0.42, 0.04, 0.06], np.float32) * (0.5 + 0.5 * (1 - who.melanin)),
        gaze / np.linalg.norm(gaze),
        who.iris,
        np.float32(np.cos(who.iris_size)),
        np.float32(np.cos(look.pupil)),
        look.day.tan,
        who.brow * np.float32(look.day.brow_tint),
        image,
    )
    return image


def _strength(look: Look) -> Floats:
    """(CHANNELS,): how much of what each mask of the texture covers is there."""
    strength = np.zeros(CHANNELS, np.float32)
    strength[SCALP] = min(look.hair.cover, 1.0)
    strength[MOUSTACHE], strength[JAW] = look.moustache, look.jaw
    strength[SHADOW], strength[LIPS], strength[BLUSH] = look.shadow, look.lipstick, look.blush
    strength[BROWS] = look.day.brows
    return strength


def _vertex_attributes(scene: Scene, look: Look) -> Floats:
    """(V, COLUMNS) what the pixels interpolate."""
    normals = vertex_normals(scene.points, scene.triangles)
    hairy = np.zeros(len(scene.points), bool)
    hairy[scene.triangles[scene.kind == STRANDS]] = True
    flesh_share = np.zeros(len(scene.points), np.float32)
    flesh_share[scene.triangles[scene.kind == FLESH]] = 1
    key = _shadow(scene, look.directions[0])
    # sheets seen from behind (long hair, peaks) are lit as from the front
    normals[(normals[:, 2] < 0) & (flesh_share == 0)] *= -1
    attributes = np.empty((len(scene.points), COLUMNS), np.float32)
    attributes[:, LIGHT : LIGHT + 3] = vertex_light(
        normals, scene.ambient, key, flesh_share, look.directions, look.colours
    )
    attributes[:, NORMAL : NORMAL + 3] = normals
    attributes[:, COORDS : COORDS + 2] = scene.coords
    attributes[:, TINT : TINT + 3] = scene.tint
    attributes[:, DETAIL] = scene.detail
    attributes[:, KEY] = key
    attributes[:, SHEEN] = np.where(hairy, strand_sheen(normals, look.directions[0]), 0)
    return attributes


def _shadow(scene: Scene, direction: Floats) -> Floats:
    """(V,) visibility of the first light."""
    points = light_view(scene.points, direction, SHADOW_SIZE)
    depth = np.full((SHADOW_SIZE, SHADOW_SIZE), FAR, np.float32)
    rasterise_depth(points, scene.triangles[scene.casts], scene.cover, depth)
    return np.asarray(visibility(points, depth, 0.09), np.float32)
