"""A folder of images for each identity: torchvision's ImageFolder layout."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from facefoundry.formats import Faces, Labelled, Stored, grouped
from facefoundry.images import IMAGE_SUFFIXES


def read(root: Path) -> Faces:
    """Every image of `root/<identity>/`."""
    files = (
        path
        for folder in root.iterdir()
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    return grouped(((p.parent.name, Stored(str(p), partial(_read, p))) for p in files), root)


def write(images: Iterable[Labelled], out: Path) -> None:
    for image in images:
        folder = out / image.identity
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{image.name}.jpg").write_bytes(image.data)


def _read(path: Path) -> bytes:
    return path.read_bytes()
