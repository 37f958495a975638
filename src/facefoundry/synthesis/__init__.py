"""Where faces come from: one module per generator, all behind one small protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.images import Image


@dataclass(frozen=True)
class Face:
    """One image of one identity.

    image: (H, W, 3) uint8 RGB, the whole head with some margin, not yet aligned.
    attributes: what the generator knows, such as yaw_deg, pitch_deg, age, glasses (0 or 1).
    landmarks: (5, 2) float32 x, y in pixels of `image` (left eye, right eye, nose tip, left and
        right mouth corner, left meaning the viewer's), or None where the generator does not know.
    generator: who made it, where that is not the generator that was asked.
    """

    image: Image
    attributes: dict[str, float] = field(default_factory=dict)
    landmarks: NDArray[np.float32] | None = None
    generator: str | None = None


class Generator(Protocol):
    """All randomness comes from (seed, identity, index), so that the number of workers, the order
    of work and a resumed run cannot change a pixel."""

    name: str

    @property
    def licences(self) -> list[dict[str, str]]:
        """The entry of each work behind the faces, see `licences.Licence`."""
        ...

    def identities(self, count: int, seed: int) -> list[str]:
        """Names of up to `count` identities, unique, in the order in which they are made."""
        ...

    def faces(self, identity: str, count: int, seed: int) -> Sequence[Face]:
        """Up to `count` images of one identity, the same for the same arguments."""
        ...


def face_rng(seed: int, identity: str, index: int) -> np.random.Generator:
    """The random generator of one image; index -1 is the identity's own."""
    return np.random.default_rng([seed, index + 1, *identity.encode()])


def mixed_noise(
    common: NDArray[np.float32], own: NDArray[np.float32], share: float
) -> NDArray[np.float32]:
    """Noise of which `share` of the variance is `common`'s; all of one shape and variance 1."""
    return np.asarray(np.sqrt(share) * common + np.sqrt(1 - share) * own, np.float32)


GENERATORS = {
    "diffusion": "Diffusion",
    "stylegan": "StyleGan",
    "render": "Render",
    "hub": "Hub",
    "import": "ImportFaces",
    "mix": "Mix",
}


def build_generator(name: str, **arguments: Any) -> Generator:
    """Build a generator by name. Raises FoundryError for an unknown one."""
    if name not in GENERATORS:
        raise FoundryError(
            f"generator.name: '{name}' is not one of {', '.join(sorted(GENERATORS))}"
        )
    module = import_module(f"facefoundry.synthesis.{name if name != 'import' else 'import_faces'}")
    generator: Generator = getattr(module, GENERATORS[name])(**arguments)
    return generator
