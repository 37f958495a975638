"""What binds a name to bytes: the sha256 of weight files and datasets."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from facefoundry.errors import FoundryError
from facefoundry.progress import track


@cache
def sha256_of(*files: Path, root: Path | None = None) -> str:
    """The sha256 of one file, as hexadecimal; of several, that of the list which `sha256sum` prints
    for them sorted by their path under `root` (the first one's folder): `sha256sum ... | sha256sum`
    finds the same. Read once in a process. Raises FoundryError naming a file that cannot be read.
    """
    if len(files) == 1:
        return _digest(files[0])
    base = root or files[0].parent
    places = sorted((path.relative_to(base).as_posix(), path) for path in files)
    lines = [
        f"{_digest(path)}  {place}\n" for place, path in track(places, "hashing", unit="files")
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror})") from error
