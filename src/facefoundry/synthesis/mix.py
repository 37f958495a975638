"""Identities from several generators, by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from facefoundry.errors import FoundryError
from facefoundry.licences import merged
from facefoundry.synthesis import Face, Generator, build_generator


class Mix:
    """parts: arguments of `build_generator` by name. weights: share of the identities by name; a
    part of weight 0 is not built, and its licences are none of the faces'. images: how many of an
    identity of the part, by name; None: as many as are asked.

    An identity is called `<part>.<its name there>`. Raises FoundryError where the names differ.
    """

    name = "mix"

    def __init__(
        self,
        parts: Mapping[str, Mapping[str, Any]],
        weights: Mapping[str, float],
        images: Mapping[str, int | None],
    ) -> None:
        if set(parts) != set(weights) or min(weights.values()) < 0 or not sum(weights.values()):
            raise FoundryError(
                f"generator.weights: need one weight, 0 or more, for each of {', '.join(parts)}"
            )
        if set(parts) != set(images) or any(
            count is not None and count < 1 for count in images.values()
        ):
            raise FoundryError(
                f"generator.images: need a number above 0, or null, for each of {', '.join(parts)}"
            )
        self.images = images
        self.weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        self.parts: dict[str, Generator] = {
            name: build_generator(**arguments)
            for name, arguments in parts.items()
            if weights[name] > 0
        }

    @property
    def licences(self) -> list[dict[str, str]]:
        return merged(*(part.licences for part in self.parts.values()))

    def identities(self, count: int, seed: int) -> list[str]:
        """Evenly among one another: their times differ, and so a remaining time is one."""
        placed = []
        for name, part in self.parts.items():
            own = part.identities(round(count * self.weights[name]), seed)
            placed += [(place / len(own), f"{name}.{each}") for place, each in enumerate(own)]
        return [identity for _, identity in sorted(placed)]

    def faces(self, identity: str, count: int, seed: int) -> Sequence[Face]:
        name, _, own = identity.partition(".")
        faces = self.parts[name].faces(own, self.images[name] or count, seed)
        return [replace(face, generator=self.parts[name].name) for face in faces]
