"""Datasets of faces in the layouts of the field: read to be imported, written to be shared.

Each module has `read(root) -> Faces`, which looks at names and places and decodes nothing, and
`write(images, out)`. An image is read by its offset; nothing is ever unpacked, so no name inside an
archive can reach the file system.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

from facefoundry.errors import FoundryError

# suffix of the file that gives a layout away, and the module that knows it
LAYOUTS = {
    "insightface": "*.rec",
    "webdataset": "*.tar",
    "parquet": "*.parquet",
    "image_folder": "*",
}
SAFE_NAME = re.compile(r"[^\x00-\x1f/\\]{1,200}")


@dataclass(frozen=True)
class Stored:
    """An image somewhere in a file: `read` gives its encoded bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Labelled:
    """An encoded image (JPEG) with its identity, its name within it, and what is known of it."""

    identity: str
    name: str
    data: bytes
    attributes: Mapping[str, float] = field(default_factory=dict)


Faces = Mapping[str, Sequence[Stored]]  # the images of each identity, sorted by identity


def layout_of(root: Path) -> str:
    """The layout of the dataset at `root`. Raises FoundryError where there is nothing."""
    if not root.is_dir():
        raise FoundryError(f"{root}: no such folder; set import.root in params.yaml")
    return next((name for name, glob in LAYOUTS.items() if any(root.glob(glob))), "image_folder")


def layout(name: str) -> ModuleType:
    """The module of a layout. Raises FoundryError for an unknown one."""
    if name not in LAYOUTS:
        raise FoundryError(f"layout '{name}' is not one of {', '.join(LAYOUTS)}")
    return import_module(f"{__name__}.{name}")


def grouped(images: Iterable[tuple[str, Stored]], source: Path) -> dict[str, list[Stored]]:
    """Images by identity, both in order. Raises FoundryError for a name that no file could have."""
    faces: dict[str, list[Stored]] = {}
    for identity, image in images:
        if not SAFE_NAME.fullmatch(identity) or identity in (".", ".."):
            raise FoundryError(
                f"{source}: identity {identity[:40]!r} of {image.name[:80]!r} is not a plain name;"
                " rename it"
            )
        faces.setdefault(identity, []).append(image)
    return {name: sorted(faces[name], key=lambda image: image.name) for name in sorted(faces)}


def batches(images: Iterable[Labelled], size: int) -> Iterator[list[Labelled]]:
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch


def read_at(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes of a file. Raises FoundryError where it ends before."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise FoundryError(f"{path}: ends at byte {offset + len(data)}, inside an image; copy it")
    return data
