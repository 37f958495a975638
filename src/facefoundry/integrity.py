"""Is every output of the pipeline, byte for byte, what its stage wrote?

DVC trusts the time stamps of files and does not read its cache again; here everything is read. The
truth is dvc.lock, whose hash of a folder is that of a list with the hash of every file in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from facefoundry.errors import FoundryError
from facefoundry.progress import track

LOCK = Path("dvc.lock")
CACHE = Path(".dvc/cache/files/md5")
DIRECTORY = ".dir"


@dataclass(frozen=True)
class Fault:
    """A file that is not what it was: where, what is wrong, and the command that mends it."""

    path: Path
    problem: str
    repair: str


def find_faults(root: Path = Path()) -> list[Fault]:
    """Read every output that dvc.lock names; the faults in the order of the pipeline.

    Raises FoundryError where there is no dvc.lock, or it cannot be read.
    """
    outputs = [
        (stage, output)
        for stage, spec in _locked(root / LOCK).items()
        for output in spec.get("outs", [])
    ]
    return [
        fault
        for stage, output in track(outputs, "reading outputs", unit="outputs")
        for fault in _faults(root, stage, output)
    ]


def _locked(path: Path) -> Mapping[str, Any]:
    try:
        stages: Mapping[str, Any] = yaml.safe_load(path.read_text())["stages"]
        return stages
    except FileNotFoundError as error:
        raise FoundryError(f"{path}: nothing has run here yet; run `dvc repro`") from error
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise FoundryError(f"{path}: not a lock file of DVC; `git checkout {LOCK}`") from error


def _faults(root: Path, stage: str, output: Mapping[str, Any]) -> Iterator[Fault]:
    expected, place = str(output["md5"]), Path(output["path"])
    if not expected.endswith(DIRECTORY):
        files: Mapping[Path, str] | None = {place: expected}
    else:
        files = _listing(root / place, root / _cached(expected), expected, place)
    if files is None:
        yield Fault(place, "some file in it differs, and the list of them is lost", rerun(stage))
        return
    for path, md5 in files.items():
        if problem := _problem(root / path, md5):
            yield Fault(path, problem, _repair(root, stage, place, md5))
    if expected.endswith(DIRECTORY):
        found = {path.relative_to(root) for path in (root / place).rglob("*") if path.is_file()}
        for path in sorted(found - set(files)):
            yield Fault(path, "is not of this output", f"rm {path}")


def _listing(folder: Path, cached: Path, expected: str, place: Path) -> Mapping[Path, str] | None:
    """{file: md5} of an output folder: DVC's own list, or one made anew if its hash agrees."""
    if cached.is_file() and md5_of(cached) + DIRECTORY == expected:
        entries = json.loads(cached.read_text())
    else:
        entries = [
            {"md5": md5_of(path), "relpath": path.relative_to(folder).as_posix()}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        if directory_hash(entries) != expected:
            return None
    return {place / entry["relpath"]: entry["md5"] for entry in entries}


def directory_hash(entries: list[dict[str, str]]) -> str:
    """DVC's hash of a folder: md5 of its sorted list as JSON."""
    entries = sorted(entries, key=lambda entry: entry["relpath"])
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + DIRECTORY


def _problem(path: Path, md5: str) -> str | None:
    if not path.is_file():
        return "is missing"
    return None if md5_of(path) == md5 else "differs from what its stage wrote"


def _repair(root: Path, stage: str, output: Path, md5: str) -> str:
    """From DVC's cache where that is sound, else by the stage."""
    copy = root / _cached(md5)
    if copy.is_file() and md5_of(copy) == md5:
        return f"dvc checkout --force {output}"
    return rerun(stage)


def rerun(stage: str) -> str:
    return f"dvc repro --force --single-item {stage}"


def _cached(md5: str) -> Path:
    return CACHE / md5[:2] / md5[2:]


def md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
