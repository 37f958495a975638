"""Work over shards: a pool of processes, each shard kept the moment it is done.

A shard's tar and its rows land under `.cache/<stage>/<key>` by atomic rename, rows last, so a
shard whose rows are there is whole. A killed run finds them again. The pool dies with the run: by
Ctrl-C, which only the run itself hears, and by `kill -9`. On a Ray cluster the same functions give
the same bytes (see `ray_executor`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from facefoundry import manifest
from facefoundry.errors import FoundryError
from facefoundry.journal import record
from facefoundry.keeping import CACHE, atomic, discard, final_path, link
from facefoundry.progress import Tally, track
from facefoundry.shards import write_shard

T = TypeVar("T")
R = TypeVar("R")
Row = dict[str, Any]
Build = Callable[[Sequence[T]], Iterable[tuple[Row, bytes]]]
EXECUTORS = ("local", "ray")


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
    executor: str = "local",
) -> pa.Table:
    """Run `build` on every chunk; write `out/shards/*.tar` and return the sorted manifest.

    build: chunk -> (row without shard, offset and size; image bytes) pairs; it must be picklable
    and depend on nothing but its chunk.
    """
    cache = CACHE / out.name / key
    cache.mkdir(parents=True, exist_ok=True)
    task = partial(_build_shard, build, cache, final_path(out) / "shards")
    numbered = list(enumerate(chunks))
    paths = run_pool(task, numbered, workers, f"{out.name}: shards", executor, count_images)
    tables = [pq.read_table(path) for path in paths]
    _lay_out(cache, out / "shards", len(chunks))
    merged = pa.concat_tables(tables).sort_by("image_id")
    merged = manifest.with_licences(merged, licences)
    manifest.write(merged, out)
    discard(cache)
    return merged


def count_images(tally: Tally, path: Path) -> None:
    """Add the rows of a finished table to the display; those that a killed run left count apart."""
    rows = pq.read_metadata(path).num_rows
    if path.stat().st_mtime < tally.begun:
        tally.kept += rows
    else:
        tally.images += rows


def run_pool(
    function: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    label: str,
    executor: str = "local",
    look: Callable[[Tally, R], None] | None = None,
) -> list[R]:
    """Map over single-threaded processes; results in the order of `items`.

    executor: local, a pool of `workers` processes, or this one, with the threads that it has, where
    one worker or one item is all; or ray, a cluster, whose CPUs are its workers.
    look: adds each result to what the display tells. Raises FoundryError for any other executor.
    """
    if executor not in EXECUTORS:
        raise FoundryError(f"executor: '{executor}' is not one of {', '.join(EXECUTORS)}")
    tally, results = Tally(), dict[int, R]()
    found = _map(function, items, workers, executor)
    for place, result in track(found, label, len(items), tally=tally if look else None):
        results[place] = result
        if look:
            look(tally, result)
    return [results[place] for place in range(len(items))]


def _map(
    function: Callable[[T], R], items: Sequence[T], workers: int, executor: str
) -> Iterable[tuple[int, R]]:
    """(place, result) of each item, as they are done."""
    if executor == "ray":
        from facefoundry.ray_executor import map_on_ray

        return map_on_ray(function, items)
    if workers <= 1 or len(items) <= 1:
        return enumerate(map(function, items))
    return _in_pool(function, items, workers)


def _in_pool(
    function: Callable[[T], R], items: Sequence[T], workers: int
) -> Iterator[tuple[int, R]]:
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker
    ) as pool:
        try:
            with _interrupts_held():
                futures = {pool.submit(function, item): place for place, item in enumerate(items)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            for process in active_children():
                process.kill()  # or leaving the block would wait for every shard in work
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C; this one hears it when the block ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    """One thread for each worker, or two workers fight over two cores; and no worker outlives the
    run that it works for."""
    Thread(target=_end_with, args=[parent_process()], daemon=True).start()
    single_threaded()


def single_threaded() -> None:
    """For this process, from now on."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)
    threadpool_limits(1)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _build_shard(
    build: Build[T], cache: Path, shards: Path, numbered: tuple[int, Sequence[T]]
) -> Path:
    number, chunk = numbered
    name = f"{number:06d}"

    def make() -> pa.Table:
        built = list(build(chunk))
        with atomic(cache / f"{name}.tar") as temporary:
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
    if path.is_file():
        record("kept", path=path)
        return path
    record("begun", path=path)
    with atomic(path) as temporary:
        pq.write_table(make(), temporary)
    record("done", path=path)
    return path


def _lay_out(cache: Path, shards: Path, count: int) -> None:
    """By links, so that a kill from here on finds the cache whole."""
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir(parents=True)
    for number in range(count):
        link(cache / f"{number:06d}.tar", shards / f"{number:06d}.tar")
