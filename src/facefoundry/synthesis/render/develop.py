"""What lies behind the head, and from light to an 8-bit picture."""

from __future__ import annotations

import cv2
import numpy as np

from facefoundry.images import Image
from facefoundry.synthesis.render.arrays import Floats, to_bytes
from facefoundry.synthesis.render.identity import Identity
from facefoundry.synthesis.render.look import Look

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)


def background(size: int, rng: np.random.Generator) -> Floats:
    """(size, size, 3) linear RGB: a gradient, blurred blobs and bars, at times a plain wall."""
    small = 24
    base = rng.beta(1, 1.5) * np.exp(rng.normal(0, 0.2) * rng.standard_normal(3))
    ramp = np.exp(rng.normal(0, 0.5) * np.linspace(-1, 1, small))
    field = (base * np.ones((small, small, 1))) * ramp[:, None, None]
    if rng.random() < 0.75:
        for _ in range(int(rng.integers(2, 12))):
            x, y = rng.integers(-4, small, 2)
            w, h = rng.integers(2, 14, 2)
            colour = rng.beta(0.8, 1.5) * np.exp(rng.normal(0, 0.25) * rng.standard_normal(3))
            field[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = colour
        field += 0.05 * rng.standard_normal(field.shape) * field
    image = cv2.resize(field.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    blur = float(np.exp(rng.uniform(-0.5, 2.2)))
    return np.maximum(cv2.GaussianBlur(image, (0, 0), blur), 0.002)


def develop(
    linear: Floats, landmarks: Floats, who: Identity, look: Look, rng: np.random.Generator
) -> Image:
    """Exposure on the face, tone curve, lens blur and sensor noise; (S, S, 3) linear to uint8."""
    left, top = np.maximum(landmarks.min(axis=0).astype(int) - 6, 0)
    right, bottom = landmarks.max(axis=0).astype(int) + 7
    face = float((linear[top:bottom, left:right] @ LUMINANCE).mean()) + 1e-4
    skin = float(who.skin @ LUMINANCE)
    wanted = 0.26 * (skin / 0.3) ** 0.6 * np.exp(look.exposure)
    exposed = linear * (wanted / face)
    blur = rng.gamma(1.5, 0.2)
    if blur > 0.25:
        exposed = cv2.GaussianBlur(exposed, (0, 0), float(blur))
    exposed *= np.exp(rng.normal(0, 0.05, 3)).astype(np.float32)
    shot = rng.gamma(1.2, 0.008)
    exposed += (
        shot * np.sqrt(np.maximum(exposed, 0.02)) * rng.standard_normal(exposed.shape, np.float32)
    )
    toned = np.maximum(exposed, 0)
    toned = toned * (1 + toned / 6) / (1 + 0.55 * toned)  # a soft shoulder
    coded = np.clip(toned, 0, 1) ** np.float32(1 / 2.2)
    contrast = rng.normal(1.05, 0.10)
    coded = (coded - 0.45) * contrast + 0.45
    return to_bytes(coded)
