"""The align stage's work: every image of a dataset cut to the template, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from facefoundry import manifest
from facefoundry.alignment import Detector, Landmarks, warp, warp_landmarks
from facefoundry.errors import FoundryError
from facefoundry.images import Image, encode_jpeg
from facefoundry.sharding import Row, build_shards, cache_key, chunked
from facefoundry.shards import image_of


def align(
    faces: Path, out: Path, images_per_shard: int, workers: int, executor: str = "local"
) -> pa.Table:
    """Write the aligned crops of the dataset `faces` as a dataset in `out`.

    executor: see `sharding.run_pool`.
    """
    source = manifest.read(faces)
    key = cache_key({"images_per_shard": images_per_shard}, faces / manifest.MANIFEST)
    chunks = chunked(manifest.rows(source), images_per_shard)
    chain = manifest.licences(source)
    return build_shards(_align_rows, chunks, out, key, workers, chain, executor)


def _align_rows(rows: Sequence[Row]) -> Iterator[tuple[Row, bytes]]:
    for row in rows:
        image = image_of(row)
        landmarks = _landmarks(row, image)
        crop = warp(image, landmarks)
        yield row | {"landmarks": warp_landmarks(landmarks).ravel().tolist()}, encode_jpeg(crop)


def _landmarks(row: Row, image: Image) -> Landmarks:
    """The manifest's landmarks, or detected now. Raises FoundryError where there is no face."""
    if row["landmarks"] is not None:
        return np.reshape(row["landmarks"], (5, 2)).astype(np.float32)
    found = Detector().detect(image)
    if not found:
        raise FoundryError(f"{row['image_id']}: no face to align; run the curate stage before")
    return found[0].landmarks
