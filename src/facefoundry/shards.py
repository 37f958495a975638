"""Deterministic tar shards (WebDataset layout), read by offset."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec

from facefoundry.errors import FoundryError
from facefoundry.images import Image, decode_image


def write_shard(path: Path, members: Iterable[tuple[str, bytes]]) -> list[tuple[int, int]]:
    """Write named members to a tar; return (offset, size) of each member's bytes.

    Time, owner and mode are fixed, so the same members give the same file.
    """
    places: list[tuple[int, int]] = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, BytesIO(data))
            padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            places.append((tar.offset - padded, len(data)))
    return places


def read_member(row: Mapping[str, Any], root: Path = Path()) -> bytes:
    """The bytes of one manifest row. Raises FoundryError where the shard is missing or short."""
    path = root / row["shard"]
    try:
        with path.open("rb") as shard:
            shard.seek(row["offset"])
            data = shard.read(row["size"])
    except OSError as error:
        raise FoundryError(
            f"{path}: shard cannot be read ({error.strerror}); run `dvc checkout`"
        ) from error
    if len(data) != row["size"]:
        raise FoundryError(
            f"{path}: shard ends before {row['image_id']} does; delete it and run `dvc repro`"
        )
    return data


def image_of(row: Mapping[str, Any]) -> Image:
    """The image (H, W, 3) uint8 RGB of a manifest row. Raises FoundryError where it cannot be read
    or is none."""
    return decode_image(read_member(row), row["image_id"])


def read_remote_member(row: Mapping[str, Any], root: str) -> bytes:
    """The bytes of one manifest row of a dataset that lies elsewhere, and no more than those.

    root: URL of the folder that the manifest's paths start from, for any file system of fsspec that
    reads ranges: https, s3 and others. Raises FoundryError where the shard is missing or short, or
    the server sends more than it was asked for.
    """
    url = f"{root.rstrip('/')}/{row['shard']}"
    files, path = fsspec.url_to_fs(url)
    start, size = row["offset"], row["size"]
    try:
        data = bytes(files.cat_file(path, start=start, end=start + size))
    except OSError as error:
        raise FoundryError(f"{url}: shard cannot be read ({error}); check the address") from error
    if len(data) != size:
        raise FoundryError(
            f"{url}: {len(data)} bytes for the {size} of {row['image_id']}; the shard must be whole"
            " and its server know HTTP ranges"
        )
    return data
