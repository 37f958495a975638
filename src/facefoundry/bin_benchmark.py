"""InsightFace's `.bin` benchmarks: a pickle of (encoded images, whether each two are the same).

Image 2i is paired with image 2i + 1; ten folds are ten blocks in this order. A pickle can run any
code, so this one is read by an unpickler that knows no name but the one that Python 2's bytes need.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.benchmarks import SIDE, Images, Pairs
from facefoundry.errors import FoundryError
from facefoundry.images import decode_image
from facefoundry.progress import track

FOLDS = 10
MAX_BYTES = 2_000_000_000


def read_bin(path: Path) -> tuple[Images, Pairs, str]:
    """Unique images (N, 112, 112, 3), the pairs over them, and the file's sha256.

    Raises FoundryError naming the file and the image or pair that is wrong, for any pickle of more
    than lists, tuples, bytes and booleans, and where two files are needed to make ten folds.
    """
    data = _read(path)
    encoded, same = _check(_unpickle(data, path), path)
    row_of: dict[bytes, int] = {}
    index = np.array([row_of.setdefault(image, len(row_of)) for image in encoded]).reshape(-1, 2)
    images = np.empty((len(row_of), SIDE, SIDE, 3), np.uint8)
    for image, row in track(row_of.items(), f"reading {path.name}", unit="images"):
        images[row] = _decode(image, f"{path}, image {encoded.index(image)}")
    fold = np.arange(len(same)) * FOLDS // len(same)
    pairs = Pairs(index.astype(np.int64), np.array(same, bool), fold.astype(np.int64))
    return images, pairs, hashlib.sha256(data).hexdigest()


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FoundryError(f"{path}: larger than {MAX_BYTES:,} bytes; not a benchmark")
        return path.read_bytes()
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror})") from error


class _PlainUnpickler(pickle.Unpickler):
    """Knows containers, bytes, strings and numbers, which need no name, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return _latin1_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _latin1_bytes(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it encodes something other than bytes")
    return text.encode("latin1")


def _unpickle(data: bytes, path: Path) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly any kind
        raise FoundryError(
            f"{path}: not a benchmark of plain lists and bytes ({error}); never load it with pickle"
        ) from error


def _check(value: Any, path: Path) -> tuple[list[bytes], list[bool]]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise FoundryError(f"{path}: holds no (images, same) pair; it is not such a benchmark")
    encoded, same = value
    if not isinstance(encoded, list) or not isinstance(same, list):
        raise FoundryError(f"{path}: images and same must be lists; it is not such a benchmark")
    for number, image in enumerate(encoded):
        if not isinstance(image, bytes):
            raise FoundryError(f"{path}, image {number}: {type(image).__name__}, not bytes")
    for number, flag in enumerate(same):
        if flag not in (True, False):
            raise FoundryError(f"{path}, pair {number}: same is {flag!r}, not true or false")
    if len(encoded) != 2 * len(same) or len(same) < FOLDS:
        raise FoundryError(
            f"{path}: {len(encoded)} images for {len(same)} pairs; there must be two each and at"
            f" least {FOLDS} pairs"
        )
    return encoded, same


def _decode(data: bytes, name: str) -> Any:
    image = decode_image(data, name)
    if image.shape != (SIDE, SIDE, 3):
        raise FoundryError(
            f"{name}: {image.shape[1]}x{image.shape[0]} pixels, not {SIDE}x{SIDE}; use the"
            " benchmark's aligned file"
        )
    return image
