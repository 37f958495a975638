"""What curation must know of every image: hash and, by a judge, landmarks, quality, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from facefoundry import manifest
from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import Embed, embed_images
from facefoundry.curation.decide import LOW_QUALITY, NO_FACE
from facefoundry.images import Image
from facefoundry.keeping import CACHE
from facefoundry.progress import Tally
from facefoundry.references import sface
from facefoundry.sharding import Row, cache_key, chunked, count_images, kept, run_pool
from facefoundry.shards import image_of

SCHEMA = manifest.SCHEMA.append(pa.field("embedding", pa.list_(pa.float32())))


def measure(
    faces: Path,
    out: Path,
    chunk: int,
    judge: str,
    workers: int,
    executor: str,
    min_quality: float,
) -> list[Row]:
    """Rows of the dataset `faces` with phash and, by a judge, landmarks, quality and embedding.

    min_quality: below it an image counts as rejected in the display.
    """
    source = manifest.rows(manifest.read(faces))
    key = cache_key({"chunk": chunk, "judge": judge}, faces / manifest.MANIFEST)
    cache = CACHE / out.name / key
    cache.mkdir(parents=True, exist_ok=True)
    chunks = list(enumerate(chunked(source, chunk)))
    work, look = partial(_measure_chunk, cache, judge), partial(_look, min_quality)
    paths = run_pool(work, chunks, workers, f"{out.name}: chunks", executor, look)
    return manifest.rows(pa.concat_tables(pq.read_table(path) for path in paths))


def _look(min_quality: float, tally: Tally, path: Path) -> None:
    """Count what one image alone is rejected for; the other rules need all of them."""
    count_images(tally, path)
    for row in pq.read_table(path, columns=["landmarks", "quality"]).to_pylist():
        if row["landmarks"] is None:
            tally.rejected[NO_FACE] += 1
        elif (row["quality"] or 1.0) < min_quality:
            tally.rejected[LOW_QUALITY] += 1


def _measure_chunk(cache: Path, judge: str, numbered: tuple[int, Sequence[Row]]) -> Path:
    number, chunk = numbered

    def make() -> pa.Table:
        images = [image_of(row) for row in chunk]
        rows = [_hashed(row, image) for row, image in zip(chunk, images, strict=True)]
        if judge != "none":
            _judge(rows, images)
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    return kept(cache / f"{number:06d}.parquet", make)


def _hashed(row: Row, image: Image) -> Row:
    bits = imagehash.phash(PillowImage.fromarray(image)).hash.ravel()
    return row | {
        "phash": int(np.packbits(bits).view(">u8")[0]),
        "attributes": list(row["attributes"].items()),
        "embedding": None,
    }


def _judge(rows: Sequence[Row], images: Sequence[Image]) -> None:
    """Fill in landmarks, quality and embedding. Detected landmarks come first, as a user's
    photographs will have those, then the generator's own."""
    crops = []
    for row, image in zip(rows, images, strict=True):
        if found := _detector().detect(image):
            row["quality"] = found[0].score
            row["landmarks"] = found[0].landmarks.ravel().tolist()
        if row["landmarks"] is not None:
            landmarks = np.reshape(row["landmarks"], (5, 2)).astype(np.float32)
            crops.append(warp(image, landmarks))
    if crops:
        embeddings = iter(embed_images(_embedder(), np.stack(crops), flip=False))
        for row in rows:
            row["embedding"] = None if row["landmarks"] is None else next(embeddings)


@cache
def _detector() -> Detector:
    return Detector()


@cache
def _embedder() -> Embed:
    return sface(threads=1)
