"""Work over shards: a pool of processes, each shard kept the moment it is done.

A shard's tar and its rows land under `.cache/<stage>/<key>` by atomic rename, rows last, so a
shard whose rows are there is whole. A killed run finds them again; the stage publishes at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from facefoundry import manifest
from facefoundry.progress import track
from facefoundry.shards import write_shard

T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]
Build = Callable[[Sequence[T]], Iterable[tuple[Row, bytes]]]

CACHE = Path(".cache")


def cache_key(config: Mapping[str, Any], *inputs: Path) -> str:
    """A short hash of a plain config and the bytes of input files."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for path in inputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def chunked(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def build_shards(
    build: Build[T],
    chunks: Sequence[Sequence[T]],
    out: Path,
    key: str,
    workers: int,
    licences: Sequence[Mapping[str, str]],
) -> pa.Table:
    """Run `build` on every chunk; write `out/shards/*.tar` and return the sorted manifest.

    build: chunk -> (row without shard, offset and size; image bytes) pairs; it must be picklable
    and depend on nothing but its chunk.
    """
    cache = CACHE / out.name / key
    cache.mkdir(parents=True, exist_ok=True)
    shards = out / "shards"
    task = partial(_build_shard, build, cache, shards)
    numbered = list(enumerate(chunks))
    tables = [
        pq.read_table(path) for path in run_pool(task, numbered, workers, f"{out.name}: shards")
    ]
    _publish(cache, shards, len(chunks))
    merged = pa.concat_tables(tables).sort_by("image_id")
    merged = manifest.with_licences(merged, licences)
    manifest.write(merged, out)
    shutil.rmtree(cache)
    return merged


def run_pool(function: Callable[[T], R], items: Sequence[T], workers: int, label: str) -> list[R]:
    """Map over a pool of single-threaded processes; results in the order of `items`."""
    if workers <= 1 or len(items) <= 1:
        return [function(item) for item in track(items, label)]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_one_thread
    ) as pool:
        futures = {pool.submit(function, item): place for place, item in enumerate(items)}
        results: dict[int, R] = {}
        try:
            for future in track(as_completed(futures), label, total=len(items)):
                results[futures[future]] = future.result()
        except BaseException:
            _cancel(futures)
            raise
    return [results[place] for place in range(len(items))]


def _cancel(futures: Iterable[Future[Any]]) -> None:
    for future in futures:
        future.cancel()


def _one_thread() -> None:
    """One thread for each worker, or two workers fight over two cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    threadpool_limits(1)


def _build_shard(
    build: Build[T], cache: Path, shards: Path, numbered: tuple[int, Sequence[T]]
) -> Path:
    number, chunk = numbered
    name = f"{number:06d}"

    def make() -> pa.Table:
        built = list(build(chunk))
        with _atomic(cache / f"{name}.tar") as temporary:
            members = ((f"{row['image_id']}.jpg", data) for row, data in built)
            places = write_shard(temporary, members)
        return manifest.table(
            {**row, "shard": (shards / f"{name}.tar").as_posix(), "offset": offset, "size": size}
            for (row, _), (offset, size) in zip(built, places, strict=True)
        )

    return kept(cache / f"{name}.parquet", make)


def kept(path: Path, make: Callable[[], pa.Table]) -> Path:
    """`path`, which holds the table that `make` gives, by atomic rename; not made again.

    The path is what a worker hands over: a table that came through a pipe is written to other
    bytes than one that came from a file.
    """
    if not path.is_file():
        with _atomic(path) as temporary:
            pq.write_table(make(), temporary)
    return path


class _atomic:  # noqa: N801 - reads as a verb at its call sites
    """A temporary path that takes its final name only when the block ends well."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self._temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink(missing_ok=True)


def _publish(cache: Path, shards: Path, count: int) -> None:
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    for number in range(count):
        shutil.move(cache / f"{number:06d}.tar", shards / f"{number:06d}.tar")
