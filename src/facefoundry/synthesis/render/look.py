"""How a face looks in one picture: everything that changes while the identity stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facefoundry.synthesis.render.arrays import Floats
from facefoundry.synthesis.render.head import Head
from facefoundry.synthesis.render.identity import HAIR, Identity

LIGHTS = 7  # the first is the one that casts shadows, the second is hard too, the rest are soft


@dataclass(frozen=True)
class Hair:
    """Thickness on top and at the sides in dm, how far a fringe hangs below the hairline and around
    which angle, where long hair ends (y in dm; above 7.2 none), waves 0..1, share of hairs."""

    top: float
    side: float
    fringe: float
    fringe_angle: float
    end: float
    wave: float
    cover: float
    colour: Floats


@dataclass(frozen=True)
class Day:
    """What time changes in one face. tan: (3,) factors of the skin's linear RGB; flush: of the
    cheeks, below 0 pale; brows: factor of their density; brow_tint, hair_tint: of reflectance."""

    tan: Floats
    flush: float
    brows: float
    brow_tint: float
    hair_tint: float


@dataclass(frozen=True)
class Look:
    """Angles in degrees: yaw > 0 turns to the viewer's right, pitch > 0 up, roll > 0 clockwise.
    units: (52,) expression. gaze: right, up in radians. distance: of the camera in dm. crop: side
    in pixels of the square that alignment cuts; shift: (2,) of its centre. directions, colours:
    (LIGHTS, 3) towards the lights and their linear RGB. glasses: 0 none, 1 clear, 2 dark. hat: 0
    none, 1 knitted cap, 2 peaked cap. Other numbers are strengths, 0 for absent."""

    yaw: float
    pitch: float
    roll: float
    units: Floats
    gaze: Floats
    distance: float
    crop: float
    shift: Floats
    directions: Floats
    colours: Floats
    exposure: float
    hair: Hair
    moustache: float
    jaw: float
    beard_depth: float
    glasses: int
    hat: int
    shadow: float
    lipstick: float
    blush: float
    ageing: float
    fattening: float
    pupil: float
    day: Day


def draw_look(
    head: Head,
    who: Identity,
    pose: float,
    crop: tuple[float, float],
    days: float,
    rng: np.random.Generator,
) -> Look:
    """One look. `pose` scales all angles; at 1, two fifths of the yaws lie evenly in +-60. `days`:
    how much skin, brows, hair, hats and weight differ between pictures, from 0 to 1, as on days
    that are years apart."""
    wide = rng.random() < 0.4
    yaw = rng.uniform(-60, 60) if wide else rng.normal(0, 19)
    directions, colours = _lights(rng)
    day = _draw_day(days, rng.spawn(1)[0])  # of its own, so that all else stays as without it
    knitted, peaked = 0.05 + 0.09 * days, 0.04 + 0.07 * days
    made_up = float(rng.random() < 0.6 * (1 - who.male))
    beard = rng.random() < who.beard * (who.male > 0.5)
    glasses = int(rng.choice(3, p=(0.76, 0.17, 0.07)))
    return Look(
        yaw=float(np.clip(pose * yaw, -75, 75)),
        pitch=float(np.clip(pose * rng.normal(0, 10), -28, 28)),
        roll=float(np.clip(pose * rng.normal(0, 7), -25, 25)),
        units=_expression(head, rng),
        gaze=rng.normal(0, (0.16, 0.08)).astype(np.float32),
        distance=float(np.exp(rng.uniform(np.log(5), np.log(30)))),
        crop=float(rng.uniform(*crop)),
        shift=rng.normal(0, 2.0, 2).astype(np.float32),
        directions=directions,
        colours=colours,
        exposure=float(rng.normal(0, 0.35)),
        hair=_hair(who, days, day.hair_tint, rng),
        moustache=float(beard) * float(rng.random() < 0.8) * rng.uniform(0.4, 1.0),
        jaw=float(beard) * float(rng.random() < 0.65) * rng.uniform(0.3, 1.0),
        beard_depth=float(rng.random() < 0.5) * rng.uniform(0.02, 0.12),
        glasses=glasses,
        hat=int(rng.choice(3, p=(1 - knitted - peaked, knitted, peaked))),
        shadow=made_up * float(rng.beta(1, 2)),
        lipstick=made_up * float(rng.beta(1, 1.2)),
        blush=made_up * float(rng.beta(1, 2)) + day.flush,
        ageing=float(rng.normal(0, 0.2)) * (1 + 0.75 * days),
        fattening=float(rng.normal(0, 0.22)) * (1 + 0.75 * days),
        pupil=float(rng.uniform(0.13, 0.24)),
        day=day,
    )


def _draw_day(days: float, rng: np.random.Generator) -> Day:
    tan = rng.normal(0, 0.25) + rng.normal(0, (0.04, 0.05, 0.08), 3)
    flush, brows, brow_tint, hair_tint = rng.normal(0, (0.6, 0.45, 0.5, 0.3))
    return Day(
        tan=np.exp(days * tan).astype(np.float32),
        flush=float(days * flush),
        brows=float(np.exp(days * brows)),
        brow_tint=float(np.exp(days * brow_tint)),
        hair_tint=float(np.exp(days * hair_tint)),
    )


def _lights(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Key from above on either side (at times hard from the side or below), a second hard light now
    and then, and soft ones all around that stand for the room or the sky."""
    side = rng.normal(0, 0.9)
    height = rng.normal(0.55, 0.45)
    directions = rng.standard_normal((LIGHTS, 3))
    directions[0] = (np.sin(side), height, np.cos(side) + 0.1)
    directions[2] = (0, 1, 0.2)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    warmth = rng.normal(0, 0.22, (LIGHTS, 1))
    colours = np.exp(warmth * (0.7, 0.0, -1.0) + rng.normal(0, 0.06, (LIGHTS, 3)))
    strength = rng.lognormal(0, 0.7, (LIGHTS, 1))
    strength[0] *= 3.2 * rng.beta(1.2, 1.2)
    strength[1] *= 0.9 * (rng.random() < 0.3)
    strength[2:] *= 0.8
    return directions.astype(np.float32), (colours * strength).astype(np.float32)


EXPRESSIONS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.30, {}),
    (0.20, {"mouthSmile": 0.7, "cheekSquint": 0.5, "eyeSquint": 0.25, "mouthDimple": 0.3}),
    (
        0.14,
        {
            "mouthSmile": 0.9,
            "cheekSquint": 0.7,
            "mouthUpperUp": 0.45,
            "jawOpen": 0.14,
            "eyeSquint": 0.3,
        },
    ),
    (0.08, {"jawOpen": 0.35, "mouthFunnel": 0.2}),
    (0.06, {"jawOpen": 0.5, "browInnerUp": 0.8, "browOuterUp": 0.8, "eyeWide": 0.6}),
    (0.06, {"browDown": 0.9, "mouthFrown": 0.5, "mouthPress": 0.5, "noseSneer": 0.3}),
    (0.03, {"mouthFrown": 0.8, "browInnerUp": 0.7, "mouthShrugLower": 0.5}),
    (0.04, {"mouthPucker": 0.7, "mouthFunnel": 0.2}),
    (0.03, {"eyeBlink": 0.9}),
    (0.03, {"cheekPuff": 0.7, "mouthPress": 0.3}),
)


def _expression(head: Head, rng: np.random.Generator) -> Floats:
    shares = np.array([share for share, _ in EXPRESSIONS])
    recipe = EXPRESSIONS[int(rng.choice(len(shares), p=shares / shares.sum()))][1]
    strength = rng.uniform(0.6, 1.3)
    units = np.zeros(len(head.unit_names), np.float32)
    for row, name in enumerate(head.unit_names.tolist()):
        stem = name.removesuffix("Left").removesuffix("Right")
        units[row] = strength * recipe.get(stem, 0.0) * rng.uniform(0.8, 1.2)
        if stem not in ("tongueOut", "jawOpen", "mouthClose") and not stem.startswith("eyeLook"):
            units[row] += max(rng.normal(0, 0.10), 0)
    return np.clip(units, 0, 1.1)


def _hair(who: Identity, days: float, tint: float, rng: np.random.Generator) -> Hair:
    """A hair style: mostly what the identity tends to, at times another, dyed now and then."""
    long = who.long if rng.random() < 0.88 - 0.5 * days else rng.random() * (1 - 0.8 * who.male)
    loose = long > 0.5 and rng.random() < 0.75  # otherwise tied back
    shaved = rng.random() < 0.12 * who.male + 0.5 * float(who.hairline[3] > 0.3)
    volume = who.volume * rng.lognormal(0, 0.3 + 0.3 * days)
    colour = who.hair
    if rng.random() < 0.06 + 0.2 * days:
        colour = HAIR[int(rng.integers(0, 5))] * np.float32(rng.uniform(0.7, 1.2))
    return Hair(
        top=0.02 if shaved else float(np.clip(0.16 * volume, 0.03, 0.42)),
        side=0.015 if shaved else float(np.clip((0.13 if loose else 0.07) * volume, 0.02, 0.3)),
        fringe=0.0 if shaved else float(rng.random() < 0.45) * rng.uniform(0.1, 0.45),
        fringe_angle=float(rng.normal(0, 30)),
        end=float(rng.uniform(4.9, 6.7)) if loose and not shaved else 9.0,
        wave=float(np.clip(who.curl + rng.normal(0, 0.15), 0, 1)),
        cover=0.75 if shaved else 1.3,
        colour=np.asarray(colour * tint, np.float32),
    )
