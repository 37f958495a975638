"""Who a face is: bones and flesh, skin, eyes, brows and hair, drawn once per identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facefoundry.synthesis.render.arrays import Floats
from facefoundry.synthesis.render.head import RACES, Head

# linear RGB reflectance, by eye from published skin and hair swatches
PALEST_SKIN = np.array([0.76, 0.50, 0.40], np.float32)
DARKEST_SKIN = np.array([0.075, 0.036, 0.022], np.float32)
MELANIN = {"african": (0.74, 0.17), "asian": (0.32, 0.15), "caucasian": (0.15, 0.15)}
HAIR = np.array(
    [
        [0.010, 0.008, 0.007],
        [0.035, 0.020, 0.012],
        [0.095, 0.048, 0.022],
        [0.20, 0.065, 0.020],
        [0.38, 0.24, 0.11],
        [0.42, 0.41, 0.40],
    ],
    np.float32,
)
HAIR_SHARE = {
    "african": (0.88, 0.12, 0, 0, 0),
    "asian": (0.75, 0.22, 0.03, 0, 0),
    "caucasian": (0.12, 0.30, 0.28, 0.07, 0.23),
}
IRIS = np.array(
    [
        [0.045, 0.022, 0.012],
        [0.14, 0.075, 0.03],
        [0.16, 0.17, 0.07],
        [0.16, 0.25, 0.33],
        [0.25, 0.29, 0.31],
    ],
    np.float32,
)
IRIS_SHARE = {
    "african": (0.92, 0.08, 0, 0, 0),
    "asian": (0.85, 0.15, 0, 0, 0),
    "caucasian": (0.22, 0.22, 0.16, 0.28, 0.12),
}

# spread of the shape axes by the start of their name, the first that fits: none where an axis only
# moves the whole head, little where it breaks the symmetry, more for what tells people apart
AXIS_SCALES: tuple[tuple[tuple[str, ...], float], ...] = (
    (("head-trans", "neck-trans", "asymm-", "measure-"), 0.0),
    (("asym", "head-angle", "mouth-trans-out", "nose-trans-out"), 0.35),
    (("eye-push", "neck", "eye-eyefold", "eye-height"), 0.7),
    (("head-fat", "head-age", "cheek-volume", "chin-jaw-drop"), 0.6),
    (("head-", "ear-"), 0.65),
    (("mouth-lowerlip", "mouth-upperlip"), 0.9),
    (("nose", "eye"), 1.35),
    (("mouth", "chin"), 1.2),
    (("forehead",), 0.8),
    (("",), 1.0),
)


@dataclass(frozen=True)
class Identity:
    """shape: (V, 3) neutral head. male, age: 0..1 (age 0 is 16 years, 1 is 80). melanin: 0..1.
    skin, hair, brow, iris, lip: (3,) linear RGB. blood, blotch, oil, sockets: strengths about 1.
    freckles: 0..1. moles: (M, 4) x, y on the face, radius in dm, darkness 0..1. brows: height,
    arch, tilt, gap, length, thickness, density. hairline: height, recession, peak, baldness. beard,
    long: how likely a beard and long hair are, 0..1. curl: 0..1. iris_size: radians
    of the eyeball. volume: of the hair, about 1.
    """

    shape: Floats
    male: float
    age: float
    melanin: float
    skin: Floats
    hair: Floats
    brow: Floats
    iris: Floats
    lip: Floats
    blood: float
    blotch: float
    oil: float
    sockets: float
    freckles: float
    moles: Floats
    brows: Floats
    hairline: Floats
    beard: float
    long: float
    curl: float
    iris_size: float
    volume: float


def draw_identity(head: Head, spread: float, rng: np.random.Generator) -> Identity:
    """One identity; `spread` is the standard deviation of the shape axes (1 is a target's end)."""
    race = rng.dirichlet([0.22, 0.22, 0.34])
    origin = RACES[int(rng.choice(3, p=race))]
    male = float(rng.beta(0.25, 0.25))
    age = float(rng.beta(1.3, 1.8))
    mean, deviation = MELANIN[origin]
    melanin = float(np.clip(rng.normal(mean, deviation), 0, 1))
    skin = PALEST_SKIN ** (1 - melanin) * DARKEST_SKIN**melanin
    skin = skin * np.exp(rng.normal(0, (0.05, 0.06, 0.12), 3))
    hair = _hair_colour(HAIR_SHARE[origin], age, rng)
    bald = float(rng.random() < 0.4 * male * (0.15 + age)) * rng.beta(1.5, 2) * (0.4 + age)
    return Identity(
        shape=draw_shape(head, race, male, age, spread, rng),
        male=male,
        age=age,
        melanin=melanin,
        skin=skin.astype(np.float32),
        hair=hair,
        brow=(hair * np.exp(rng.normal(-0.6, 0.45))).astype(np.float32),
        iris=_mixture(IRIS, IRIS_SHARE[origin], rng),
        lip=np.exp(rng.normal([0.0, -0.42, -0.28], [0.14, 0.18, 0.10])).astype(np.float32),
        blood=float(rng.lognormal(-0.1, 0.4)),
        blotch=float(rng.lognormal(-0.5, 0.45)),
        oil=float(rng.lognormal(0, 0.4)),
        sockets=float(rng.lognormal(-0.2, 0.7)),
        freckles=float(rng.beta(0.5, 2.0)) * (1 - melanin) ** 2,
        moles=_moles(rng),
        brows=rng.normal(
            [7.47 - 0.02 * male, 0.05 - 0.02 * male, 0.0, 0.10, 0.50, 0.046 + 0.016 * male, 0.8],
            [0.028, 0.028, 0.028, 0.045, 0.045, 0.018, 0.22],
        ).astype(np.float32),
        hairline=np.array(
            [
                rng.normal(8.0, 0.09) + 0.15 * bald,
                rng.gamma(1.2, 0.035) * (0.5 + male) + 0.3 * bald,
                rng.normal(0.0, 0.025),
                bald,
            ],
            np.float32,
        ),
        beard=float(male > 0.5) * float(rng.beta(1, 1)),
        long=float(np.clip(rng.beta(4, 1.5) if male < 0.5 else rng.beta(0.6, 6), 0, 1)),
        curl=float(rng.beta(3, 1) if origin == "african" else rng.beta(0.7, 2)),
        iris_size=float(rng.normal(0.50, 0.025)),
        volume=float(rng.lognormal(0, 0.35)),
    )


def draw_shape(
    head: Head, race: Floats, male: float, age: float, spread: float, rng: np.random.Generator
) -> Floats:
    """(V, 3) base mesh + race, sex and age + shape axes, heavy-tailed."""
    shape = head.vertices.copy()
    ages = age_weights(age)
    sexes = np.array([1 - male, male])
    weight = np.clip(rng.normal(0, 0.55), -1, 1)
    builds = np.array([max(-weight, 0), 1 - abs(weight), max(weight, 0)])
    mixture = np.einsum("r,s,a->rsa", race, sexes, ages).ravel()
    shape += np.tensordot(mixture.astype(np.float32), head.races, 1)
    mixture = np.einsum("s,a,w->saw", sexes, ages, builds).ravel()
    shape += np.tensordot(mixture.astype(np.float32), head.builds, 1)
    return shape + axis_offsets(
        head, axis_scales(head) * spread * rng.standard_t(6, len(head.axes))
    )


def age_weights(age: float) -> Floats:
    """Shares of child, young and old in an adult face of age 0..1."""
    child = max(0.0, 0.25 - age)
    old = max(0.0, (age - 0.25) / 0.75)
    return np.array([child, 1 - child - old, old], np.float32)


def axis_scales(head: Head) -> Floats:
    """(A,) relative spread of each axis: none where it only moves the whole head, little where it
    breaks the symmetry."""
    scales = np.ones(len(head.axes), np.float32)
    for row, axis in enumerate(head.axes):
        scales[row] = next(scale for starts, scale in AXIS_SCALES if axis.startswith(starts))
    return scales


def axis_offsets(head: Head, values: Floats) -> Floats:
    """(V, 3) what the shape axes at `values` (A,) add."""
    values = np.clip(values, -1.1, 1.1).astype(np.float32)
    return moved(values, head.high) + moved(-values, head.low)


def moved(weights: Floats, offsets: Floats) -> Floats:
    """(V, 3) the offsets (A, V, 3) of the positive weights (A,), times these; mostly few are."""
    active = np.flatnonzero(weights > 0)
    return np.asarray(np.tensordot(weights[active], offsets[active], 1), np.float32)


def _hair_colour(shares: tuple[float, ...], age: float, rng: np.random.Generator) -> Floats:
    colour = _mixture(HAIR[:-1], shares, rng)
    grey = float(np.clip(rng.normal(2.6 * (age - 0.55), 0.35), 0, 1))
    return np.asarray(colour * (1 - grey) + grey * HAIR[-1], np.float32)


def _mixture(colours: Floats, shares: tuple[float, ...], rng: np.random.Generator) -> Floats:
    """One of the colours, blended a little with another and varied."""
    first, second = rng.choice(len(colours), 2, p=shares)
    blend = 0.4 * rng.random()
    colour = colours[first] * (1 - blend) + colours[second] * blend
    return np.asarray(colour * np.exp(rng.normal(0, 0.05, 3) + rng.normal(0, 0.25)), np.float32)


def _moles(rng: np.random.Generator) -> Floats:
    count = int(rng.poisson(2.0))
    low, high = [-0.65, 6.2, 0.008, 0.3], [0.65, 8.0, 0.022, 0.85]
    return rng.uniform(low, high, (count, 4)).astype(np.float32)
