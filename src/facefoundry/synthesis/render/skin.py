"""The skin of an identity as a texture: reflectance, and masks of what hair and make-up cover.

The texture is the head unrolled (see `head.unroll`); every pattern is a function of the place on
the base mesh, so that it moves with the flesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facefoundry.synthesis.render.arrays import Floats, to_bytes
from facefoundry.synthesis.render.head import AXIS_CENTRE, SKIN, Head
from facefoundry.synthesis.render.identity import Identity
from facefoundry.synthesis.render.raster import FAR, rasterise

WIDTH, HEIGHT = 512, 384
CHANNELS = 11
RED, GREEN, BLUE, GLOSS, SCALP, MOUSTACHE, JAW, SHADOW, LIPS, BLUSH, BROWS = range(CHANNELS)
NOISES = 6
SHADES = 8


@dataclass(frozen=True)
class Canvas:
    """What all identities share. place: (H, W, 3) position on the base mesh of each texel. lips,
    mouth: (H, W) masks 0..1. noises: (NOISES, H, W) tileable noise, mean 0, deviation 1: half
    from coarse to fine, half fine only. shades: (SHADES, H, W) the same, smooth. strands:
    (256, 256) 0..1, tileable, stretched downwards.
    Then (H, W) strengths: warm of blood, pale, oily, sunken (by age), hollow, aged, freckled; and
    masks 0..1: moustache, jaw, and hairy, where no ear is. blank: (H, W, CHANNELS) uint8, a texture
    with the masks that all identities share."""

    place: Floats
    lips: Floats
    mouth: Floats
    warm: Floats
    pale: Floats
    oily: Floats
    sunken: Floats
    hollow: Floats
    aged: Floats
    freckled: Floats
    moustache: Floats
    jaw: Floats
    hairy: Floats
    noises: Floats
    shades: Floats
    strands: Floats
    blank: np.ndarray


def make_canvas(head: Head) -> Canvas:
    rng = np.random.default_rng(1)  # any fixed number: all identities share the bank
    place, masks = _unrolled(head)
    half = NOISES // 2
    noises = [tileable_noise((HEIGHT, WIDTH), 1.2, 3, rng) for _ in range(half)]
    noises += [tileable_noise((HEIGHT, WIDTH), 0.3, 30, rng) for _ in range(NOISES - half)]
    strands = tileable_noise((256, 256), 0.35, 12, rng, stretch=14)
    smooth = np.random.default_rng(2)
    shades = [tileable_noise((HEIGHT, WIDTH), 1.8, 3, smooth) for _ in range(SHADES)]
    ranks = np.argsort(np.argsort(strands.ravel())).reshape(strands.shape) / strands.size
    lips, ears, mouth = (cv2.GaussianBlur(mask, (0, 0), 1.2) for mask in masks)
    moustache, jaw = (mask * (1 - lips) for mask in beard_masks(place))
    blank = np.zeros((HEIGHT, WIDTH, CHANNELS), np.uint8)
    blank[..., MOUSTACHE], blank[..., JAW] = to_bytes(moustache), to_bytes(jaw)
    blank[..., SHADOW] = to_bytes(_spot(place, (0.32, 7.37, 1.35), (0.14, 0.055)))
    blank[..., LIPS] = to_bytes(lips)
    blank[..., BLUSH] = to_bytes(_spot(place, (0.52, 6.98, 1.15), (0.15, 0.12)))
    return Canvas(
        place=place,
        lips=lips,
        mouth=mouth,
        warm=_warm(place, ears),
        pale=0.25 * _spot(place, (0.0, 7.9, 1.4), (0.4, 0.25)),
        oily=_oily(place),
        sunken=0.22 * _spot(place, (0.30, 7.16, 1.35), (0.16, 0.05)),
        hollow=0.18 * _spot(place, (0.17, 7.32, 1.35), (0.06, 0.10)),
        aged=_lines(place),
        freckled=1.6 * _spot(place, (0.25, 7.0, 1.4), (0.3, 0.25))
        + 0.4 * _spot(place, (0, 7.8, 1.3), (0.5, 0.3)),
        moustache=moustache,
        jaw=jaw,
        hairy=1 - smoothstep(0.2, 0.7, ears),
        noises=np.stack(noises),
        shades=np.stack(shades),
        strands=ranks.astype(np.float32),
        blank=blank,
    )


def tileable_noise(
    shape: tuple[int, int],
    slope: float,
    lowest: float,
    rng: np.random.Generator,
    stretch: float = 1,
) -> Floats:
    """Noise with amplitude frequency^-slope above `lowest` periods, mean 0, deviation 1."""
    rows = np.fft.fftfreq(shape[0])[:, None] * shape[0] * stretch
    columns = np.fft.rfftfreq(shape[1])[None] * shape[1]
    frequency = np.hypot(rows, columns)
    gain = np.where(frequency < lowest, 0, np.maximum(frequency, 1) ** -slope)
    gain = gain * np.exp(-((frequency / (0.35 * shape[0])) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, shape)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _unrolled(head: Head) -> tuple[Floats, Floats]:
    """Places (H, W, 3) and masks (3, H, W) of the outermost skin."""
    radius = np.hypot(head.vertices[:, 0], head.vertices[:, 2] - AXIS_CENTRE)
    points = np.column_stack([head.coords * (WIDTH, HEIGHT), radius]).astype(np.float32)
    triangles = head.triangles[head.part == SKIN]
    depth = np.full((HEIGHT, WIDTH), FAR, np.float32)
    index = np.full((HEIGHT, WIDTH), -1, np.int32)
    weights = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    solid = np.full(len(points), 2, np.float32)
    both = np.zeros(len(triangles), bool)
    none = np.zeros((1, 1), np.float32)
    rasterise(points, triangles, both, solid, none, head.coords, depth, index, weights)
    corners = triangles[index]
    a, b = weights[..., :1], weights[..., 1:]
    values = np.concatenate([head.vertices, head.masks], axis=1)
    texels = values[corners[..., 0]] * a + values[corners[..., 1]] * b
    texels += values[corners[..., 2]] * (1 - a - b)
    texels[index < 0, :3] = (0, 0, -9)
    texels[index < 0, 3:] = 0
    return texels[..., :3].astype(np.float32), np.moveaxis(texels[..., 3:], -1, 0).astype(
        np.float32
    )


def smoothstep(low: float, high: float, x: Floats) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def hair_depth(place: Floats, hairline: Floats) -> Floats:
    """How far (...,) in dm each place (..., 3) of the base mesh lies inside the hairline."""
    height, recession, peak, bald = hairline
    angle = np.degrees(np.abs(np.arctan2(place[..., 0], place[..., 2] - AXIS_CENTRE)))
    angles = (0, 8, 22, 34, 44, 52, 58, 64, 72, 78, 105, 112, 140, 180)
    side = height - 8.0
    lines = (
        height - peak + 0.7 * bald,
        height + 0.7 * bald,
        height + recession + 0.7 * bald,
        height - 0.05 + 0.8 * recession + 0.5 * bald,
        7.84 + 0.5 * side + 0.3 * recession + 0.2 * bald,
        7.58,
        7.32,
        7.02,
        7.0,
        7.4,
        7.42,
        6.9,
        6.45,
        6.35,
    )
    # towards the crown the angle is no longer a direction on the face: only baldness counts there
    crown = smoothstep(8.25, 8.42, place[..., 1]) * (0.3 - 1.2 * bald)
    return np.asarray(
        place[..., 1] - np.interp(angle, angles, lines) + np.maximum(crown, 0), np.float32
    )


def beard_masks(place: Floats) -> tuple[Floats, Floats]:
    """Where (...,) moustache and goatee, and where beard on cheeks and jaw grow, 0..1."""
    x, y = np.abs(place[..., 0]), place[..., 1]
    angle = np.degrees(np.arctan2(x, place[..., 2] - AXIS_CENTRE))
    front = smoothstep(75, 65, angle)
    moustache = smoothstep(6.62, 6.68, y) * smoothstep(6.87, 6.80, y) * smoothstep(0.36, 0.26, x)
    goatee = smoothstep(0.30, 0.18, x) * smoothstep(6.53, 6.47, y) * smoothstep(6.0, 6.2, y)
    upper = np.interp(angle, (0, 14, 24, 40, 55, 70), (6.5, 6.6, 6.66, 6.75, 6.92, 7.1))
    jaw = smoothstep(0.06, -0.06, y - upper) * smoothstep(5.85, 6.1, y)
    return (
        np.asarray(np.maximum(moustache, goatee) * front, np.float32),
        np.asarray(jaw * front, np.float32),
    )


def _spot(place: Floats, centre: tuple[float, float, float], radius: tuple[float, float]) -> Floats:
    """A soft spot (H, W) and its mirror image, 1 at `centre`; radius across and upwards in dm."""
    x = (np.abs(place[..., 0]) - centre[0]) / radius[0]
    y = (place[..., 1] - centre[1]) / radius[1]
    z = (place[..., 2] - centre[2]) / 0.5
    return np.asarray(np.exp(-0.5 * (x * x + y * y + z * z)), np.float32)


def bake(canvas: Canvas, who: Identity, complexion: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, CHANNELS) uint8: square roots of linear reflectance, gloss, masks; 0..1 times 255.
    complexion: see `Render`."""
    coarse, coarser, patch, fine, finer, finest = _shuffled(canvas.noises, rng)
    place = canvas.place
    blood = who.blood * canvas.warm - canvas.pale + 0.10 * who.blotch * coarse
    dark = _darkness(canvas, who) + 0.05 * who.blotch * coarser + 0.035 * fine
    dark = dark + complexion * _complexion(canvas, rng.spawn(1)[0])
    spots = smoothstep(0.9, 1.8, finer + 0.4 * patch)
    dark = dark + 0.45 * who.freckles * canvas.freckled * spots
    for x, y, radius, strength in who.moles:
        distance = np.hypot(place[..., 0] - x, place[..., 1] - y)
        dark = dark + strength * 1.6 * smoothstep(1.3 * radius, 0.6 * radius, distance) * (
            place[..., 2] > 0.6
        )
    reach = 1 - 0.75 * who.melanin
    tint = np.array([-0.10, -0.50, -0.44], np.float32) * reach
    colour = who.skin * np.exp(blood[..., None] * tint - dark[..., None] * (0.75, 1.0, 1.1))
    lips = canvas.lips * (1 + 0.12 * finest)
    colour = colour * (1 - 0.85 * lips[..., None]) + 0.85 * lips[..., None] * _lip_colour(who)
    colour *= 1 - 0.9 * canvas.mouth[..., None] * (1 - canvas.lips[..., None])
    gloss = who.oil * (0.22 + 0.3 * canvas.oily) + 0.05 * fine + 0.35 * lips
    scalp = smoothstep(-0.03, 0.07, hair_depth(place, who.hairline) + 0.02 * patch)
    texture = canvas.blank.copy()
    texture[..., :3] = to_bytes(np.sqrt(np.clip(colour, 0, 1)))
    texture[..., GLOSS] = to_bytes(gloss)
    texture[..., SCALP] = to_bytes(scalp * canvas.hairy)
    texture[..., BROWS] = to_bytes(_brows(canvas, who, finest))
    return texture


def _shuffled(noises: Floats, rng: np.random.Generator) -> list[Floats]:
    """The bank's fields in another order (coarse stay before fine), shifted and mirrored."""
    half = len(noises) // 2
    order = [*rng.permutation(half), *(half + rng.permutation(half))]
    fields = []
    for row in order:
        field = np.roll(noises[row], rng.integers(0, (HEIGHT, WIDTH)), axis=(0, 1))
        fields.append(field[:, ::-1] if rng.random() < 0.5 else field)
    return fields


def _complexion(canvas: Canvas, rng: np.random.Generator) -> Floats:
    """(H, W) where the front of a face is darker and lighter, left as right: mean 0, deviation
    about 1, more in some people than in others."""
    field = np.roll(canvas.shades[rng.integers(SHADES)], rng.integers(0, (HEIGHT, WIDTH)), (0, 1))
    mirrored = field + field[:, ::-1]
    front = smoothstep(0.2, 0.7, canvas.place[..., 2])
    return np.asarray(rng.lognormal(0, 0.4) * front * mirrored / mirrored.std(), np.float32)


def _warm(place: Floats, ears: Floats) -> Floats:
    """Redness (H, W) of nose, cheeks, ears, lids and chin."""
    nose = _spot(place, (0.0, 6.91, 1.65), (0.14, 0.12))
    nose += 0.6 * _spot(place, (0.14, 6.86, 1.5), (0.07, 0.07))
    cheeks = _spot(place, (0.46, 6.93, 1.25), (0.20, 0.17))
    chin = _spot(place, (0.0, 6.28, 1.4), (0.16, 0.12))
    lids = _spot(place, (0.31, 7.25, 1.35), (0.18, 0.1))
    return 0.45 * nose + 0.42 * cheeks + 0.35 * ears + 0.25 * chin + 0.35 * lids


def _oily(place: Floats) -> Floats:
    forehead = _spot(place, (0.0, 7.85, 1.4), (0.3, 0.2))
    nose = _spot(place, (0.0, 7.0, 1.6), (0.09, 0.25))
    cheeks = _spot(place, (0.42, 7.05, 1.3), (0.14, 0.1))
    return forehead + nose + 0.7 * cheeks + 0.5 * _spot(place, (0, 6.3, 1.5), (0.1, 0.1))


def _lines(place: Floats) -> Floats:
    """Folds from nose to mouth, lines of the forehead, crow's feet (H, W)."""
    x, y = np.abs(place[..., 0]), place[..., 1]
    fold = np.abs(x - (0.17 + 0.42 * (6.86 - y))) / 0.022
    folds = np.exp(-fold * fold) * smoothstep(6.58, 6.66, y) * smoothstep(6.9, 6.8, y)
    waves = np.cos(2 * np.pi * (y - 7.62 + 0.03 * np.cos(4 * x)) / 0.095) - 0.55
    forehead = np.maximum(waves, 0) * smoothstep(7.58, 7.66, y) * smoothstep(8.0, 7.9, y)
    forehead = forehead * smoothstep(0.5, 0.3, x)
    rays = np.cos(2 * np.pi * (y - 7.26) / (0.02 + 0.12 * np.maximum(x - 0.42, 0.1))) - 0.3
    crow = np.maximum(rays, 0) * smoothstep(0.5, 0.55, x) * smoothstep(0.68, 0.6, x)
    crow = crow * (np.abs(y - 7.26) < 0.12)
    lines = (0.5 * folds + 0.35 * forehead + 0.3 * crow) * (place[..., 2] > 0.7)
    return np.asarray(lines, np.float32)


def _darkness(canvas: Canvas, who: Identity) -> Floats:
    """Eye sockets, shaved beard and the lines of age, (H, W)."""
    shaved = 0.28 * who.male * who.beard * np.maximum(canvas.moustache, canvas.jaw)
    lines = canvas.aged * smoothstep(0.25, 0.95, np.array(who.age))
    return who.sockets * (canvas.sunken * (0.6 + 1.4 * who.age) + canvas.hollow) + shaved + lines


def _lip_colour(who: Identity) -> Floats:
    return np.asarray(np.clip(who.skin**0.9 * who.lip * 0.85, 0, 1), np.float32)


def _brows(canvas: Canvas, who: Identity, noise: Floats) -> Floats:
    """Share (H, W) of the skin that brow hairs hide."""
    height, arch, tilt, gap, length, thickness, density = who.brows
    x, y = np.abs(canvas.place[..., 0]), canvas.place[..., 1]
    along = (x - max(gap, 0.03)) / max(length, 0.3)
    bow = np.interp(along, (0, 0.3, 0.65, 1.0), (-0.15, 0.4, 1.0, -0.4))
    middle = height + max(arch, 0) * bow + tilt * (along - 0.5)
    half = max(thickness, 0.028) * np.interp(along, (-0.05, 0.12, 0.6, 1.0), (0.5, 1.0, 0.85, 0.25))
    across = np.abs(y - middle) / half
    body = (
        smoothstep(1.25, 0.55, across)
        * smoothstep(-0.05, 0.08, along)
        * smoothstep(1.03, 0.9, along)
    )
    body = body * (canvas.place[..., 2] > 0.7)
    tufts = np.clip(0.85 + 0.25 * noise, 0, 1.0)
    return np.asarray(np.clip(body * tufts * np.clip(density, 0.35, 1), 0, 0.95), np.float32)
