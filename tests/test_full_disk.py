"""A disk with no room left: one line, a status that is not 0, and nothing lost."""

import errno
import hashlib
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import Crashes

from facefoundry.errors import is_disk_full

SIZE, ROOM = 20_000_000, 60_000  # bytes of the disk, and of what is left on it


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def digests(folder: Path) -> dict[Path, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fill(disk: Path) -> Path:
    free = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - ROOM)
    return filler


@pytest.mark.parametrize("stage", ["synthesize", "curate", "align", "train"])
def test_a_full_disk_costs_a_line_and_no_file(stage: str, small_disk: Path, tmp_path: Path):
    crashes = Crashes(small_disk, tmp_path)
    inputs = digests(small_disk)
    filler = fill(small_disk)
    full = crashes.run(stage)
    assert full.exit_status == 1
    *_, last = full.words.splitlines()
    assert last.startswith(f"{stage}: the disk is full (")
    assert "Traceback" not in full.words
    assert full.output == {}
    filler.unlink()
    left = digests(small_disk)
    assert {path: left[path] for path in inputs} == inputs
    again = crashes.run(stage)
    assert again.exit_status == 0, again.words
    assert "metrics.json" in again.output


def test_a_database_without_room_is_a_full_disk(tmp_path: Path):
    database = sqlite3.connect(tmp_path / "x.db")
    database.execute("pragma max_page_count = 2")
    database.execute("create table t (a)")
    with pytest.raises(sqlite3.OperationalError) as caught:
        database.execute("insert into t values (zeroblob(100000))")
    wrapped = RuntimeError("could not log")
    wrapped.__cause__ = caught.value
    assert is_disk_full(wrapped)
    database.close()


def test_other_trouble_is_not_a_full_disk():
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(RuntimeError("disk"))
