"""The aligned crops that quantization is calibrated and compared on, from where a user has them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from facefoundry import manifest
from facefoundry.alignment import SIZE, TEMPLATE, Detector
from facefoundry.data import Crops, read_split
from facefoundry.errors import FoundryError
from facefoundry.images import IMAGE_SUFFIXES, Image, read_image
from facefoundry.progress import track

T = TypeVar("T")

CHECKED_CROPS = 16
HELD_OUT_EVERY = 4
# Root mean square distance of the five landmarks to the template's, in pixels. Aligned crops
# measure 3 to 8; shifted by an eighth of the side, or with the face a third larger, 10 to 25.
MAX_DISTANCE = 10.0


def read_crops(source: Path, split: str, count: int, seed: int) -> Crops:
    """Up to `count` crops (N, 112, 112, 3) uint8 RGB, drawn by the seed, in their order.

    source: a data set of this pipeline, of which `split` is read, or any folder of aligned
    images, which is read whole. Raises FoundryError where there are none, or where an image of
    the folder is not 112x112, or where most of those looked at are not aligned faces.
    """
    if (source / manifest.MANIFEST).is_file():
        return np.stack(choose(list(read_split(source, split)[0]), count, seed))
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise FoundryError(
            f"{source}: no {manifest.MANIFEST} and no images; give a folder of aligned"
            f" {SIZE}x{SIZE} faces, or a data set such as data/split"
        )
    chosen = choose(paths, count, seed)
    crops = np.stack([_read_crop(path) for path in track(chosen, "reading crops", unit="images")])
    check_aligned(crops, str(source))
    return crops


def calibration_and_held_out(
    source: Path, calibration: int, held_out: int, seed: int
) -> tuple[Crops, Crops]:
    """Crops to calibrate on and others to compare on: the train and the test split of a data set,
    or of a plain folder every fourth image for comparing. Raises FoundryError as `read_crops`
    does, and for a folder of fewer than `HELD_OUT_EVERY` images."""
    if (source / manifest.MANIFEST).is_file():
        return (
            read_crops(source, "train", calibration, seed),
            read_crops(source, "test", held_out, seed),
        )
    crops = read_crops(source, "", calibration + held_out, seed)
    if len(crops) < HELD_OUT_EVERY:
        raise FoundryError(f"{source}: {len(crops)} images are too few; give {HELD_OUT_EVERY}")
    compared = np.arange(len(crops)) % HELD_OUT_EVERY == 0
    return crops[~compared], crops[compared]


def choose(items: Sequence[T], count: int, seed: int) -> list[T]:
    """Up to `count` of the items, drawn by the seed, in their order."""
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[index] for index in np.sort(order[:count])]


def _read_crop(path: Path) -> Image:
    image = read_image(path)
    if image.shape != (SIZE, SIZE, 3):
        raise FoundryError(
            f"{path}: {image.shape[1]}x{image.shape[0]} pixels, not an aligned crop of"
            f" {SIZE}x{SIZE}; align the faces first"
        )
    return image


def check_aligned(crops: Crops, name: str) -> None:
    """Raise FoundryError unless in most of `CHECKED_CROPS` of the crops the landmarks of the best
    face lie where ArcFace's template has them."""
    sample = crops[np.linspace(0, len(crops) - 1, min(len(crops), CHECKED_CROPS), dtype=int)]
    detector = Detector()
    aligned = sum(_distance(detector, crop) <= MAX_DISTANCE for crop in sample)
    if 2 * aligned < len(sample):
        raise FoundryError(
            f"{name}: only {aligned} of {len(sample)} crops looked at are aligned faces; align them"
            " to the ArcFace template first"
        )


def _distance(detector: Detector, crop: Image) -> float:
    """Root mean square distance in pixels, infinite where no face is found."""
    found = detector.detect(crop)
    if not found:
        return float("inf")
    return float(np.sqrt(((found[0].landmarks - TEMPLATE) ** 2).sum(axis=1).mean()))
