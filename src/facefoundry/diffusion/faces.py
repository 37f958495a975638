"""What a diffusion model is fitted on: aligned faces with a margin, who they are, how they look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facefoundry import manifest
from facefoundry.alignment import warp
from facefoundry.benchmarks import Embed, embed_images
from facefoundry.centres import identity_centres
from facefoundry.data import labels_of
from facefoundry.diffusion.nets import FULL_SIDE, MARGIN, SIDE
from facefoundry.errors import FoundryError
from facefoundry.images import Image, resize
from facefoundry.keeping import atomic
from facefoundry.progress import track
from facefoundry.shards import image_of

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class FittingFaces:
    """images (N, 64, 64, 3) uint8 RGB; labels (N,) 0..I-1; controls: names of the attributes that
    every image has, values (N, C) of them; image_ids for messages."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    controls: tuple[str, ...]
    values: Floats
    image_ids: tuple[str, ...]


def read_faces(faces: Path, limit: int, controls: Sequence[str]) -> FittingFaces:
    """Up to `limit` images of the dataset, as many of each identity as of another where it can be.

    controls: attributes to fit as knobs; those that an image lacks are left out. Raises
    FoundryError where a row has no landmarks or the dataset has fewer than two identities.
    """
    rows = spread_rows(manifest.rows(manifest.read(faces)), limit)
    identities = [row["identity"] for row in rows]
    if len(set(identities)) < 2:
        raise FoundryError(f"{faces}: fewer than two identities; nothing to tell apart")
    known = tuple(name for name in controls if all(name in row["attributes"] for row in rows))
    values = [[row["attributes"][name] for name in known] for row in rows]
    return FittingFaces(
        images=np.stack([cut(row) for row in track(rows, "reading faces", unit="images")]),
        labels=labels_of(identities),
        controls=known,
        values=np.array(values, np.float32).reshape(len(rows), len(known)),
        image_ids=tuple(row["image_id"] for row in rows),
    )


def spread_rows(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """Up to `limit` rows: the first of every identity, then the second of every, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for row in rows:
        turns.append(seen.get(row["identity"], 0))
        seen[row["identity"]] = turns[-1] + 1
    order = np.argsort(turns, kind="stable")[:limit]
    return [rows[place] for place in sorted(order.tolist())]


def cut(row: Mapping[str, Any]) -> Image:
    """The aligned face (64, 64, 3) of a manifest row, with the margin that the model paints."""
    if row["landmarks"] is None:
        raise FoundryError(
            f"{row['image_id']}: no landmarks; give a dataset that curate has judged, or renders"
        )
    landmarks = np.reshape(row["landmarks"], (5, 2)).astype(np.float32)
    full = warp(image_of(row), landmarks, MARGIN)
    return resize(full, SIDE, SIDE)


def enlarge(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The model's images (N, 64, 64, 3) at the size of alignment, (N, 128, 128, 3)."""
    size = (FULL_SIDE, FULL_SIDE)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_CUBIC) for image in images])


def crops_of(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ArcFace crops (N, 112, 112, 3) of the model's images (N, 64, 64, 3)."""
    return cut_margin(enlarge(images))


def cut_margin(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 128, 128, 3) -> the ArcFace crops (N, 112, 112, 3)."""
    return images[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def templates(images: NDArray[np.uint8], labels: NDArray[np.int64], embed: Embed) -> Floats:
    """(I, D) unit embeddings of the identities: the mean of their images'."""
    embeddings = embed_images(embed, crops_of(images), flip=False, title="identities")
    return identity_centres(embeddings, labels)


def kept_array(path: Path, make: Callable[[], Floats]) -> Floats:
    """The array at `path`, made and kept by atomic rename where there is none."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, make())
    return np.asarray(np.load(path, allow_pickle=False), np.float32)
