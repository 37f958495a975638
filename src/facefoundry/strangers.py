"""Images that no face recogniser should know: drawn cartoons, rendered heads, ruined faces, and
what is no face at all.

All are (N, 112, 112, 3) uint8 RGB on the aligned template, each image from (seed, number).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from facefoundry.alignment import SIZE, TEMPLATE, warp
from facefoundry.benchmarks import Images
from facefoundry.images import Image, resize

Draw = Callable[[np.random.Generator], Image]


def drawn(draw: Draw, count: int, seed: int) -> Images:
    return np.stack([draw(np.random.default_rng([seed, number])) for number in range(count)])


def cartoon(rng: np.random.Generator) -> Image:
    """A face of flat colours and outlines: eyes, nose and mouth where the template has them."""
    canvas = np.full((SIZE, SIZE, 3), rng.integers(60, 256, 3), np.uint8)
    skin, hair, ink = _skin(rng), _colour(rng, 0, 256), _colour(rng, 0, 60)
    width, height = int(rng.integers(34, 48)), int(rng.integers(50, 62))
    cv2.ellipse(canvas, (56, 40), (width + 6, height), 0, 180, 360, hair, -1)
    cv2.ellipse(canvas, (56, 62), (width, height), 0, 0, 360, skin, -1)
    cv2.ellipse(canvas, (56, 62), (width, height), 0, 0, 360, ink, 1 + int(rng.integers(2)))
    cv2.ellipse(canvas, (56, 14), (width, int(rng.integers(6, 20))), 0, 180, 360, hair, -1)
    _eyes(canvas, rng, hair, ink)
    nose, left, right = (tuple(map(int, TEMPLATE[row])) for row in (2, 3, 4))
    cv2.line(canvas, (nose[0], nose[1] - int(rng.integers(4, 16))), nose, ink, 1, cv2.LINE_AA)
    middle = ((left[0] + right[0]) // 2, left[1])
    smile = (int(rng.integers(8, 16)), int(rng.integers(1, 9)))
    cv2.ellipse(canvas, middle, smile, 0, 0, 180, _colour(rng, 0, 200), -1, cv2.LINE_AA)
    return canvas


def _eyes(
    canvas: Image, rng: np.random.Generator, hair: tuple[int, ...], ink: tuple[int, ...]
) -> None:
    size, iris = int(rng.integers(4, 10)), _colour(rng, 0, 200)
    brow = int(rng.integers(8, 14))
    for x, y in TEMPLATE[:2].astype(int).tolist():
        cv2.ellipse(canvas, (x, y), (size, int(0.8 * size)), 0, 0, 360, (255, 255, 255), -1)
        cv2.ellipse(canvas, (x, y), (size, int(0.8 * size)), 0, 0, 360, ink, 1, cv2.LINE_AA)
        cv2.circle(canvas, (x, y), max(size // 2, 2), iris, -1, cv2.LINE_AA)
        cv2.line(canvas, (x - 8, y - brow), (x + 8, y - brow), hair, 1 + int(rng.integers(3)))


def _skin(rng: np.random.Generator) -> tuple[int, ...]:
    """From dark to pale, redder than green, greener than blue: a detector should fall for it."""
    return tuple(
        (rng.uniform(90, 250) * np.array([1, rng.uniform(0.7, 0.9), 0.65])).astype(int).tolist()
    )


def _colour(rng: np.random.Generator, low: int, high: int) -> tuple[int, ...]:
    return tuple(rng.integers(low, high, 3).tolist())


def non_face(rng: np.random.Generator) -> Image:
    """One of: noise from fine to coarse, stripes, a checkerboard, a gradient, random shapes."""
    kinds = (_noise, _stripes, _checkerboard, _gradient, _shapes)
    return kinds[int(rng.integers(len(kinds)))](rng)


def _noise(rng: np.random.Generator) -> Image:
    cells = int(rng.choice([4, 8, 16, 56, 112]))
    coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC))


def _stripes(rng: np.random.Generator) -> Image:
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
    return _blend(wave, rng)


def _checkerboard(rng: np.random.Generator) -> Image:
    cell = int(rng.integers(5, 30))
    y, x = np.mgrid[:SIZE, :SIZE]
    return _blend(((x // cell + y // cell) % 2).astype(float), rng)


def _gradient(rng: np.random.Generator) -> Image:
    y, x = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
    return _blend(x * rng.random() + y * rng.random(), rng)


def _blend(share: np.ndarray, rng: np.random.Generator) -> Image:
    """From one colour to another by `share` (H, W)."""
    first, second = rng.integers(0, 256, (2, 3))
    mixed = first + np.clip(share, 0, 1)[..., None] * (second - first)
    return np.asarray(mixed.round().astype(np.uint8))


def _shapes(rng: np.random.Generator) -> Image:
    canvas = np.full((SIZE, SIZE, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(int(rng.integers(4, 14))):
        corners = rng.integers(0, SIZE, (int(rng.integers(3, 6)), 2)).astype(np.int32)
        cv2.fillPoly(canvas, [corners], _colour(rng, 0, 256))
    return canvas


def rendered_heads(count: int, seed: int) -> Images:
    """One aligned image each of `count` rendered 3D heads. Raises FoundryError where the wheel
    with the head is missing."""
    from facefoundry.synthesis.render import Render  # compiles for seconds at first use

    generator = Render()
    faces = [generator.faces(who, 1, seed)[0] for who in generator.identities(count, seed)]
    return np.stack([warp(face.image, face.landmarks) for face in faces])  # type: ignore[arg-type]


def unrecognisable(images: Images) -> Images:
    """Faces of which nothing is left but light and dark: 6 x 6 pixels each."""
    blocks = [resize(image, 6, 6) for image in images]
    return np.stack([cv2.resize(b, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for b in blocks])
