"""Benchmarks from the network, aligned by our own detector and written as folder benchmarks.

LFW's images are news photographs whose rights stay with their owners: for evaluation only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import fetch_lfw_pairs

from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import COLUMNS, PAIRS
from facefoundry.errors import FoundryError
from facefoundry.images import encode_jpeg, read_image
from facefoundry.progress import track

Pair = tuple[str, str, int, int]  # image, image, same, fold


def fetch(name: str, root: Path, downloads: Path) -> str:
    """Download a benchmark and write `root/<name>`; return what was done, in one sentence.

    Raises FoundryError for an unknown name, a folder that is there already, no network, or a
    photograph without a face.
    """
    if name != "lfw":
        raise FoundryError(f"no benchmark {name} to fetch: only lfw; see docs/evaluation.md")
    folder = root / name
    if folder.exists():
        raise FoundryError(f"{folder}: is there already; remove it to fetch it again")
    originals = _download_lfw(downloads)
    pairs = read_lfw_pairs(originals.parent / "pairs.txt")
    names = dict.fromkeys(image for pair in pairs for image in pair[:2])
    partial = folder.with_name(f"{name}.partial")
    write_aligned(originals, list(names), partial)
    lines = [",".join(COLUMNS), *(",".join(map(str, _in_folder(pair))) for pair in pairs)]
    (partial / PAIRS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (partial / "images.csv").write_text(_identities(names), encoding="utf-8")
    partial.rename(folder)
    return f"{folder}: {len(pairs):,} pairs of {len(names):,} images, for evaluation only"


def _download_lfw(downloads: Path) -> Path:
    """The folder of funneled photographs, through scikit-learn's loader, which checks hashes."""
    try:
        # its smallest subset: the loader fetches everything, and we decode the rest ourselves
        fetch_lfw_pairs(subset="test", data_home=str(downloads))
    except OSError as error:
        raise FoundryError(
            f"lfw cannot be downloaded ({error}); with a network, run this again, or put"
            f" lfw-funneled.tgz and pairs*.txt into {downloads / 'lfw_home'}"
        ) from error
    return downloads / "lfw_home/lfw_funneled"


def read_lfw_pairs(path: Path) -> list[Pair]:
    """LFW's `pairs.txt`: ten folds of genuine pairs (name, n, m), then impostor pairs (name, n,
    other, m). Raises FoundryError naming the line."""
    lines = path.read_text("utf-8").splitlines()
    folds, size = (int(number) for number in lines[0].split())
    pairs: list[Pair] = []
    for number, line in enumerate(lines[1 : 1 + 2 * folds * size]):
        cells, fold = line.split(), 1 + number // (2 * size)
        if len(cells) == 3:
            pairs.append((_image(cells[0], cells[1]), _image(cells[0], cells[2]), 1, fold))
        elif len(cells) == 4:
            pairs.append((_image(cells[0], cells[1]), _image(cells[2], cells[3]), 0, fold))
        else:
            raise FoundryError(f"{path}, line {number + 2}: {line!r} is no pair; fetch it again")
    return pairs


def _image(identity: str, number: str) -> str:
    return f"{identity}/{identity}_{int(number):04d}.jpg"


def _in_folder(pair: Pair) -> Iterator[object]:
    return iter((f"images/{pair[0]}", f"images/{pair[1]}", *pair[2:]))


def _identities(names: Mapping[str, None]) -> str:
    rows = (f"images/{name},{name.partition('/')[0]}" for name in names)
    return "\n".join(["image,identity", *rows]) + "\n"


def write_aligned(originals: Path, names: Sequence[str], folder: Path) -> None:
    """Cut each photograph's most prominent face to `folder/images/<name>`; one that is there from
    an earlier, broken run is kept."""
    detector = Detector()
    for name in track(names, "aligning", unit="images"):
        target = folder / "images" / name
        if target.is_file():
            continue
        image = read_image(originals / name)
        faces = detector.detect(image)
        if not faces:
            raise FoundryError(f"{originals / name}: no face found; check the photograph")
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_suffix(".partial")
        half.write_bytes(encode_jpeg(np.ascontiguousarray(warp(image, faces[0].landmarks))))
        half.rename(target)
