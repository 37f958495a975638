"""The synthesize stage's work: a generator's identities, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facefoundry.errors import FoundryError
from facefoundry.images import encode_jpeg
from facefoundry.licences import enforce
from facefoundry.sharding import Row, build_shards, cache_key, chunked
from facefoundry.synthesis import Face, Generator, build_generator
from facefoundry.synthesis.marking import mark


def synthesize(
    generator: Mapping[str, Any],
    identities: int,
    images_per_identity: int,
    identities_per_shard: int,
    seed: int,
    out: Path,
    workers: int,
    policy: str = "none",
    executor: str = "local",
) -> pa.Table:
    """Write `identities` x `images_per_identity` faces as a dataset in `out`.

    generator: arguments of `build_generator`. executor: see `sharding.run_pool`. Raises
    FoundryError where it has no identity, or its licences break the policy (see
    `licences.enforce`).
    """
    specification = json.dumps(generator, sort_keys=True)
    source = _generator(specification)
    enforce(policy, source.licences)
    names = source.identities(identities, seed)
    if not names:
        raise FoundryError(f"generator {generator['name']}: no identity to make; check its options")
    build = partial(build_chunk, specification, images_per_identity, seed)
    key = cache_key(
        {"generator": specification, "images": images_per_identity, "seed": seed, "names": names}
        | {"identities_per_shard": identities_per_shard}
    )
    chunks = chunked(names, identities_per_shard)
    return build_shards(build, chunks, out, key, workers, source.licences, executor)


def build_chunk(
    specification: str, images_per_identity: int, seed: int, identities: Sequence[str]
) -> Iterator[tuple[Row, bytes]]:
    """Rows and JPEG bytes of some identities; picklable, so that a pool can run it."""
    generator = _generator(specification)
    for identity in identities:
        for index, face in enumerate(generator.faces(identity, images_per_identity, seed)):
            row = _row(generator, identity, index, seed, face)
            xmp = mark(row["generator"], row["image_id"], seed)
            yield row, encode_jpeg(face.image, xmp=xmp)


@cache
def _generator(specification: str) -> Generator:
    """One generator for each process: weights load once."""
    return build_generator(**json.loads(specification))


def _row(generator: Generator, identity: str, index: int, seed: int, face: Face) -> Row:
    landmarks = None if face.landmarks is None else np.ravel(face.landmarks).tolist()
    return {
        "image_id": f"{identity}/{index:04d}",
        "identity": identity,
        "seed": seed,
        "generator": face.generator or generator.name,
        "attributes": face.attributes,
        "landmarks": landmarks,
    }
