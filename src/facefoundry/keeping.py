"""Nothing that was done is lost, and nothing half done is seen.

What a stage has finished is kept under `.cache/<stage>/<key>` until all of its output is out. The
output is written under `.cache/partial`, a mirror of the project, and takes its place by a rename:
whoever looks, after a kill at any moment, finds the output of before, none, or the new one.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

CACHE = Path(".cache")
PARTIAL = CACHE / "partial"
ELSEWHERE = "elsewhere"  # below PARTIAL: outputs that are not in the project

_discarded: ContextVar[list[Path] | None] = ContextVar("discarded", default=None)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path that takes its final name only when the block ends well."""
    temporary = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # or the name may outlive a power cut and the bytes not
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def until_done() -> Iterator[None]:
    """What is discarded inside is removed when the block ends well: a kill before finds it."""
    directories: list[Path] = []
    token = _discarded.set(directories)
    try:
        yield
    finally:
        _discarded.reset(token)
    for directory in directories:
        _remove(directory)


def discard(directory: Path) -> None:
    """Remove a directory of finished work: at the end of `until_done`, or now where it is not in
    use."""
    directories = _discarded.get()
    if directories is None:
        _remove(directory)
    else:
        directories.append(directory)


def _remove(directory: Path) -> None:
    """Out of the way first: what a kill leaves of it is never taken for finished work."""
    gone = directory.with_name(f"{directory.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    if directory.exists():
        directory.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def published(out: Path) -> Iterator[Path]:
    """A directory to write to, which takes the place of `out` when the block ends well."""
    partial = _partial_of(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    _replace(out, partial)


def _partial_of(out: Path) -> Path:
    relative = Path(os.path.relpath(out))
    if relative.parts[0] == "..":
        relative = Path(ELSEWHERE, *out.absolute().parts[1:])
    return PARTIAL / relative


def final_path(path: Path) -> Path:
    """Where a path inside a directory of `published` will be; any other path as it is."""
    if not path.is_relative_to(PARTIAL):
        return path
    relative = path.relative_to(PARTIAL)
    return Path("/", *relative.parts[1:]) if relative.parts[0] == ELSEWHERE else relative


def _replace(out: Path, new: Path) -> None:
    """Two renames; where `out` is on another file system, `new` is first copied beside it."""
    beside, old = (out.with_name(f".{out.name}.{word}") for word in ("new", "old"))
    for leftover in (beside, old):
        shutil.rmtree(leftover, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(new, beside)
    if out.exists():
        out.rename(old)
    beside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system knows no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
