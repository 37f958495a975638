"""Skin, eyes, hair, beard, clothes and hats: all that is grown from triangles of the head."""

from __future__ import annotations

import numpy as np

from facefoundry.synthesis.render.arrays import Floats, Ints
from facefoundry.synthesis.render.head import AXIS_CENTRE, EYE, LASH, SKIN, TEETH, TONGUE, Head
from facefoundry.synthesis.render.identity import Identity
from facefoundry.synthesis.render.look import Look
from facefoundry.synthesis.render.meshes import (
    ALWAYS,
    EYEBALL,
    FLESH,
    PLAIN,
    STRANDS,
    Part,
    compact,
    grid_triangles,
    make_part,
)
from facefoundry.synthesis.render.skin import (
    HEIGHT,
    WIDTH,
    Canvas,
    beard_masks,
    hair_depth,
    smoothstep,
)

HAIR_LAYERS = 3
CURTAIN_ROWS, CURTAIN_COLUMNS = 12, 33
NECK_LOW, NECK_HIGH = 5.3, 6.0  # y on the base mesh between which the neck bends, below the chin


class Wardrobe:
    """The triangles of the head that each part is grown from, found once."""

    def __init__(self, head: Head, canvas: Canvas) -> None:
        self.head = head
        self.rows = np.clip(head.coords[:, 1] * HEIGHT, 0, HEIGHT - 1).astype(int)
        self.columns = (head.coords[:, 0] * WIDTH).astype(int) % WIDTH
        self.follow = smoothstep(NECK_LOW, NECK_HIGH, head.vertices[:, 1])
        self.noise = canvas.noises[:, self.rows, self.columns]
        place = head.vertices
        skin = np.zeros(len(place), bool)
        skin[head.triangles[head.part == SKIN]] = True
        outer = skin & (head.masks[:, 2] < 0.3)
        no_ear = head.masks[:, 1] < 0.3
        widest = np.array([8.0, 0.0, 0.0, 0.0], np.float32)
        self.scalp = self._patch(
            outer & no_ear & (hair_depth(place, widest) > -0.75) & (place[:, 1] > 6.25)
        )
        self.beard = self._patch(outer & (np.maximum(*beard_masks(place)) > 0.02))
        self.torso = self._patch(outer & (place[:, 1] < 6.1))
        eye = place[np.unique(head.triangles[head.part == EYE])]
        centres = np.where(eye[:, :1] < 0, eye[eye[:, 0] < 0].mean(0), eye[eye[:, 0] > 0].mean(0))
        self.eye_directions = (eye - centres) / np.linalg.norm(eye - centres, axis=1, keepdims=True)
        self.groups = {
            part: compact(head.triangles[head.part == part])
            for part in (SKIN, EYE, TEETH, TONGUE, LASH)
        }
        self.moustache, self.jaw = beard_masks(place)
        self.moustache *= 1 - head.masks[:, 0]
        self.jaw *= 1 - head.masks[:, 0]

    def _patch(self, chosen: np.ndarray) -> tuple[Ints, Ints]:
        """Vertex rows of the chosen triangles, and the triangles counted within them."""
        return compact(self.head.triangles[chosen[self.head.triangles].all(axis=1)])

    def skin(self, points: Floats, who: Identity) -> list[Part]:
        """Skin, eyes, teeth and tongue, lashes; `points` (V, 3) are the head's vertices."""
        head = self.head
        parts = []
        tints = {EYE: self.eye_directions, LASH: who.brow * 0.5, TONGUE: (0.32, 0.10, 0.09)}
        for part in (SKIN, EYE, TEETH, TONGUE, LASH):
            rows, local = self.groups[part]
            kind = {SKIN: FLESH, EYE: EYEBALL}.get(part, PLAIN)
            parts.append(
                make_part(
                    points[rows],
                    local,
                    kind,
                    head.coords[rows] if part == SKIN else head.vertices[rows, :2] * 3,
                    tints.get(part, (0.62, 0.56, 0.47)),
                    cover=0.75 if part == LASH else ALWAYS,
                    ambient=np.maximum(head.ambient[rows], 0.10),
                    follow=self.follow[rows],
                    closed=part != LASH,
                    casts=part == SKIN,
                )
            )
        return parts

    def hair(self, points: Floats, normals: Floats, who: Identity, look: Look) -> list[Part]:
        """Shells over the scalp, the fringe among them."""
        rows, triangles = self.scalp
        place = self.head.vertices[rows]
        style = look.hair
        depth = hair_depth(place, who.hairline)
        angle = np.degrees(np.arctan2(place[:, 0], place[:, 2] - AXIS_CENTRE))
        fringe = style.fringe * np.exp(-(((angle - style.fringe_angle) / 45) ** 2))
        depth = depth + np.where(np.abs(angle) < 65, fringe, 0) + 0.03 * self.noise[3, rows]
        thick = style.side + (style.top - style.side) * smoothstep(7.6, 8.3, place[:, 1])
        thick = thick * smoothstep(-0.05, 0.3, depth) + 0.02
        bumps = 0.25 * self.noise[0, rows] + (0.15 + 0.5 * style.wave) * self.noise[1, rows]
        thick = np.maximum(thick * (1 + 0.5 * bumps), 0.012)
        if look.hat:  # pressed flat
            thick = np.minimum(thick, 0.05)
        inside = smoothstep(-0.03, 0.05, depth) * _under_hat(place, look.hat)
        parts = []
        for layer in range(HAIR_LAYERS, 0, -1):  # from outside in: less is drawn twice
            share = layer / HAIR_LAYERS
            cover = inside * style.cover * (1.25 - 0.75 * share)
            parts.append(
                make_part(
                    points[rows] + normals[rows] * (thick * share)[:, None],
                    triangles,
                    STRANDS,
                    self.head.coords[rows] * (6, 4 + 8 * style.wave),
                    style.colour,
                    detail=0.9,
                    cover=cover,
                    ambient=(0.35 + 0.65 * share) * np.maximum(self.head.ambient[rows], 0.4),
                    follow=self.follow[rows],
                    closed=True,
                    casts=layer == HAIR_LAYERS,
                )
            )
        return parts

    def beard_shells(
        self, points: Floats, normals: Floats, who: Identity, look: Look
    ) -> list[Part]:
        rows, triangles = self.beard
        share = np.maximum(look.moustache * self.moustache[rows], look.jaw * self.jaw[rows])
        parts = []
        for layer in (0.5, 1.0):
            height = look.beard_depth * share * layer * (1 + 0.3 * self.noise[1, rows]) + 0.008
            parts.append(
                make_part(
                    points[rows] + normals[rows] * height[:, None],
                    triangles,
                    STRANDS,
                    self.head.coords[rows] * (9, 9),
                    0.8 * who.hair,
                    detail=0.9,
                    cover=share * (1.1 - 0.5 * layer),
                    ambient=(0.4 + 0.6 * layer) * self.head.ambient[rows],
                    follow=self.follow[rows],
                    closed=True,
                    casts=False,
                )
            )
        return parts

    def clothes(self, points: Floats, normals: Floats, rng: np.random.Generator) -> Part:
        rows, triangles = self.torso
        place = self.head.vertices[rows]
        neckline = rng.uniform(5.35, 5.85) - rng.uniform(0, 0.5) * np.exp(
            -((place[:, 0] / 0.4) ** 2)
        )
        neckline = neckline + (5.8 - neckline) * smoothstep(0.4, -0.1, place[:, 2])
        neckline = neckline + smoothstep(0.55, 1.0, np.abs(place[:, 0]))
        colour = rng.beta(0.8, 1.4) * np.exp(rng.normal(0, 0.3) * rng.standard_normal(3))
        weave = np.exp(rng.uniform(-2, 2, 2))
        return make_part(
            points[rows] + normals[rows] * rng.uniform(0.03, 0.12),
            triangles,
            PLAIN,
            place[:, :2] * weave,
            np.clip(colour, 0.005, 0.85),
            detail=rng.beta(0.7, 1.5),
            cover=40 * (neckline - place[:, 1]),
            ambient=np.maximum(self.head.ambient[rows], 0.3),
            follow=self.follow[rows],
        )

    def curtain(self, points: Floats, look: Look, rng: np.random.Generator) -> list[Part]:
        """Long hair: sheets that hang from the sides and the back of the head."""
        style = look.hair
        front = rng.uniform(58, 76)
        turns = np.linspace(front, 360 - front, CURTAIN_COLUMNS)
        ring, rise = self._ring(points, turns)
        top = 7.82 + rise - 0.12 * np.cos(np.radians(turns))
        bottom = style.end + rise + 0.1 * rng.standard_normal(len(turns))
        phases = rng.uniform(0, 6.28, 2)
        fall = np.linspace(0, 1, CURTAIN_ROWS)[:, None]
        ripple = np.sin(turns / 9 + 9 * fall + phases[0])
        ripple = (ripple + np.sin(turns / 5 - 14 * fall + phases[1])) * fall**0.5
        edge = np.minimum(np.arange(len(turns)), np.arange(len(turns))[::-1]) / 3
        solid = np.clip(0.35 + edge, 0, 1.25) * np.clip(3.0 * (1.15 - fall), 0, 1)
        coords = np.stack(np.broadcast_arrays(turns / 45, 1.5 * fall), axis=-1).reshape(-1, 2)
        parts = []
        for layer in (0.0, 0.6, 1.0):
            out = ring + (0.02 + layer * style.side) * smoothstep(0, 0.25, fall) + 0.10 * fall
            out = out + (0.012 + 0.05 * style.wave) * ripple
            grid = _hang(turns, out, top + (bottom - top) * fall, fall)
            parts.append(
                make_part(
                    grid,
                    grid_triangles(CURTAIN_ROWS, CURTAIN_COLUMNS),
                    STRANDS,
                    coords,
                    style.colour,
                    detail=0.9,
                    cover=solid.ravel() * (1.2 - 0.5 * layer) * _under_hat(grid, look.hat),
                    ambient=0.45 + 0.45 * layer,
                )
            )
        return parts

    def _ring(self, points: Floats, turns: Floats) -> tuple[Floats, float]:
        """Radius of the head above the ears at the angles `turns` (degrees), and how much higher
        than the base mesh it lies."""
        place = self.head.vertices
        band = (self.head.masks[:, 1] < 0.3) & (place[:, 1] > 7.3) & (place[:, 1] < 7.75)
        x, z = points[band, 0], points[band, 2] - AXIS_CENTRE
        angle = np.degrees(np.arctan2(x, z)) % 360
        order = np.argsort(angle)
        ring = np.interp(turns, angle[order], np.hypot(x, z)[order], period=360)
        smooth = np.convolve(np.pad(ring, 2, "edge"), np.ones(5) / 5, "valid")
        return smooth + 0.03, float((points[band, 1] - place[band, 1]).mean())

    def hat(
        self, points: Floats, normals: Floats, look: Look, rng: np.random.Generator
    ) -> list[Part]:
        """A knitted cap, or a cap with a peak."""
        rows, triangles = self.scalp
        place = self.head.vertices[rows]
        colour = np.clip(rng.beta(0.7, 1.4) * np.exp(rng.normal(0, 0.5, 3)), 0.005, 0.8)
        rise = smoothstep(7.7, 8.4, place[:, 1])
        out = 0.10 + (0.12 if look.hat == 1 else 0.22) * rise
        crown = make_part(
            points[rows] + normals[rows] * out[:, None] + (0, 0.05, 0) * rise[:, None],
            triangles,
            PLAIN,
            self.head.coords[rows] * (5, 6),
            colour,
            detail=0.6 if look.hat == 1 else 0.15,
            cover=60 * (place[:, 1] - _hat_edge(place)),
        )
        if look.hat == 1:
            return [crown]
        turns = np.radians(np.linspace(-62, 62, 15))
        reach = np.linspace(0, 1, 5)[:, None]
        brow = points[rows][np.abs(place[:, 1] - 7.95) < 0.1]
        radius = np.percentile(brow[:, 2], 97) - AXIS_CENTRE
        out = radius * (0.95 + 0.45 * reach * np.cos(turns) ** 0.5)
        x, z = out * np.sin(turns), AXIS_CENTRE + out * np.cos(turns)
        y = brow[:, 1].mean() + 0.14 - 0.06 * reach - 0.22 * (x / radius) ** 2
        grid = np.stack([x, y, z], axis=-1).reshape(-1, 3)
        peak = make_part(grid, grid_triangles(5, 15), PLAIN, grid[:, ::2], colour, detail=0.15)
        return [crown, peak]


def _hang(turns: Floats, out: Floats, height: Floats, fall: Floats) -> Floats:
    """Points (rows * columns, 3) at radius `out`; the front locks swing forward as they fall."""
    sine, cosine = np.sin(np.radians(turns)), np.cos(np.radians(turns))
    forward = np.abs(cosine) * (cosine > -0.3)
    z = AXIS_CENTRE + out * cosine + 0.25 * forward * fall
    return np.stack([out * sine, height, z], axis=-1).reshape(-1, 3)


def _hat_edge(place: Floats) -> Floats:
    return np.asarray(7.55 + 0.47 * smoothstep(-0.5, 1.2, place[:, 2]), np.float32)


def _under_hat(place: Floats, hat: int) -> Floats:
    """0 where a hat hides the hair, else 1."""
    if not hat:
        return np.ones(len(place), np.float32)
    return smoothstep(0.05, -0.05, place[:, 1] - _hat_edge(place))
