"""The user's own faces, in any layout that `facefoundry.formats` knows."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path

from facefoundry.errors import FoundryError
from facefoundry.formats import Faces, layout, layout_of
from facefoundry.images import IMAGE_SUFFIXES, decode_image
from facefoundry.licences import Licence
from facefoundry.synthesis import Face

BAD_IMAGE = ("stop", "skip")


class ImportFaces:
    """Every image of the dataset at `root`; counts and seed of the protocol do not limit it.

    licence, commercial, real_faces: what the user states of the images (see `Licence`).
    on_bad_image: stop at an unreadable image, or skip it with a line on standard error.
    Raises FoundryError where the dataset is missing, empty or damaged.
    """

    name = "import"

    def __init__(
        self,
        root: str,
        licence: str = "unknown",
        commercial: str = "unknown",
        real_faces: str = "unknown",
        on_bad_image: str = "stop",
    ) -> None:
        if on_bad_image not in BAD_IMAGE:
            raise FoundryError(
                f"generator.on_bad_image: '{on_bad_image}' is not one of {', '.join(BAD_IMAGE)}"
            )
        self.root = Path(root)
        self.skip = on_bad_image == "skip"
        self._licence = Licence(f"images under {root}", licence, commercial, real_faces, root)

    @cached_property
    def licences(self) -> list[dict[str, str]]:
        """With the sha256 of all files under `root`, which reads them once."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file())
        return [(self._licence.of(*files, root=self.root) if files else self._licence).entry()]

    @cached_property
    def _faces(self) -> Faces:
        faces: Faces = layout(layout_of(self.root)).read(self.root)
        if not faces:
            raise FoundryError(
                f"{self.root}: no image to import; make a folder for each identity and put its"
                f" images ({', '.join(sorted(IMAGE_SUFFIXES))}) there"
            )
        return faces

    def identities(self, count: int, seed: int) -> list[str]:
        return list(self._faces)

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        found = []
        for image in self._faces[identity]:
            try:
                found.append(Face(decode_image(image.read(), image.name)))
            except FoundryError as error:
                if not self.skip:
                    raise FoundryError(f"{error}, or set generator.on_bad_image=skip") from error
                print(f"skipped: {error}", file=sys.stderr)
        return found
