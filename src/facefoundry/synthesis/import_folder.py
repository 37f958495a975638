"""The user's own faces: a folder with one folder of images for each identity."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from facefoundry.errors import FoundryError
from facefoundry.images import IMAGE_SUFFIXES, read_image
from facefoundry.licences import Licence
from facefoundry.synthesis import Face

BAD_IMAGE = ("stop", "skip")


class ImportFolder:
    """Every image of `root/<identity>/`; counts and seed of the protocol do not limit it.

    licence, commercial, real_faces: what the user states of the images (see `Licence`).
    on_bad_image: stop at an unreadable image, or skip it with a line on standard error.
    Raises FoundryError where the folder is missing or empty.
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
        entry = Licence(f"images under {root}", licence, commercial, real_faces, source=root)
        self.licences: list[dict[str, str]] = [entry.entry()]

    def identities(self, count: int, seed: int) -> list[str]:
        if not self.root.is_dir():
            raise FoundryError(f"{self.root}: no such folder; set import.root in params.yaml")
        names = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        names = [name for name in names if any(self._images(name))]
        if not names:
            raise FoundryError(
                f"{self.root}: no image to import; make a folder for each identity and put its"
                f" images ({', '.join(sorted(IMAGE_SUFFIXES))}) there"
            )
        return names

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        found = []
        for path in self._images(identity):
            try:
                found.append(Face(read_image(path)))
            except FoundryError as error:
                if not self.skip:
                    raise FoundryError(f"{error}, or set generator.on_bad_image=skip") from error
                print(f"skipped: {error}", file=sys.stderr)
        return found

    def _images(self, identity: str) -> Iterator[Path]:
        folder = sorted((self.root / identity).iterdir())
        return (path for path in folder if path.suffix.lower() in IMAGE_SUFFIXES)
