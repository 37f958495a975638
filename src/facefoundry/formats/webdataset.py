"""WebDataset: tar files whose members share a key, `000001.jpg` beside `000001.json`.

The identity stands in the JSON as `identity`, or is the text of a `.cls` member, or, where there is
neither, is the folder part of the key.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from facefoundry.errors import FoundryError
from facefoundry.formats import Faces, Labelled, Stored, batches, grouped, read_at
from facefoundry.images import IMAGE_SUFFIXES
from facefoundry.shards import write_shard

IMAGES_PER_TAR = 10_000
MAX_LABEL = 65_536  # bytes of a .json or .cls member


def read(root: Path) -> Faces:
    return grouped((found for path in sorted(root.glob("*.tar")) for found in _members(path)), root)


def write(images: Iterable[Labelled], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for number, batch in enumerate(batches(images, IMAGES_PER_TAR)):
        write_shard(out / f"{number:06d}.tar", _samples(batch))


def _samples(images: Iterable[Labelled]) -> Iterator[tuple[str, bytes]]:
    for image in images:
        key = f"{image.identity}/{image.name}"
        yield f"{key}.jpg", image.data
        label = {"identity": image.identity, **image.attributes}
        yield f"{key}.json", json.dumps(label, sort_keys=True).encode()


def _members(path: Path) -> Iterator[tuple[str, Stored]]:
    """(identity, image) of one tar; links and anything but regular files are passed over."""
    images: dict[str, Stored] = {}
    labels: dict[str, str] = {}
    if any(read_at(path, max(path.stat().st_size - 512, 0), 512)):
        raise FoundryError(f"{path}: ends without the empty block of a whole tar; copy it again")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                key, suffix = _split(member.name)
                if suffix in IMAGE_SUFFIXES:
                    place = partial(read_at, path, member.offset_data, member.size)
                    images[key] = Stored(f"{path.name}/{member.name}", place)
                elif suffix in (".json", ".cls") and member.size <= MAX_LABEL:
                    text = read_at(path, member.offset_data, member.size).decode()
                    labels[key] = _identity(text, suffix)
    except (tarfile.TarError, ValueError, KeyError) as error:
        raise FoundryError(f"{path}: not a WebDataset tar ({error})") from error
    return ((labels.get(key) or key.rpartition("/")[0], images[key]) for key in sorted(images))


def _split(name: str) -> tuple[str, str]:
    """A key ends at the first dot of the file name: the rule of WebDataset."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}{slash}{stem}", f".{suffix.lower()}"


def _identity(text: str, suffix: str) -> str:
    return str(json.loads(text)["identity"]) if suffix == ".json" else text.strip()
