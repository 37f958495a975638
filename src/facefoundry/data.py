"""Aligned crops for training: decoded once into memory, augmented the same way on every run.

A sample's key is (pass, index) and its randomness comes from (seed, pass, index), so that the
number of loader processes and a resumed run cannot change what the network sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from facefoundry import manifest
from facefoundry.alignment import SIZE
from facefoundry.array_file import ArrayFile
from facefoundry.augmentation import augment, build_augmentation
from facefoundry.errors import FoundryError
from facefoundry.progress import track
from facefoundry.samplers import Key
from facefoundry.shards import image_of

Crops = NDArray[np.uint8]  # (N, 112, 112, 3) RGB
Batch = dict[str, torch.Tensor]
NOBODY = -1  # the label of a face that is no identity's


def read_split(faces: Path, split: str) -> tuple[Crops, list[str], list[str]]:
    """Crops, identities and image ids of one split. Raises FoundryError where it is empty."""
    table = manifest.read(faces)
    rows = manifest.rows(table.filter(pc.equal(table["split"], pa.scalar(split))))
    if not rows:
        raise FoundryError(f"{faces}: no image in split '{split}'; run the split stage again")
    crops = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    for place, row in enumerate(track(rows, f"reading {split} crops", unit="images")):
        crops[place] = image_of(row)
    identities = [row["identity"] for row in rows]
    return crops, identities, [row["image_id"] for row in rows]


def sample_crops(faces: Path, count: int, seed: int) -> Crops:
    """Up to `count` crops of the data set, whatever their split, drawn by the seed."""
    rows = manifest.rows(manifest.read(faces))
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return np.stack([image_of(rows[i]) for i in chosen])


def labels_of(identities: Sequence[str]) -> NDArray[np.int64]:
    """Numbers 0..K-1 in the order of the sorted names."""
    return np.unique(np.asarray(identities), return_inverse=True)[1].astype(np.int64)


class AugmentedCrops(Dataset[dict[str, Any]]):
    """Samples by (epoch, index): image (112, 112, 3) uint8 RGB, label and index."""

    def __init__(
        self, crops: Crops, labels: NDArray[np.int64], options: Mapping[str, Any], seed: int
    ) -> None:
        self.crops, self.labels, self.seed = crops, labels, seed
        self.transform = build_augmentation(options)
        self._file: ArrayFile | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a loader process gets."""
        self._file = self._file or ArrayFile(self.crops)
        return self.__dict__ | {"crops": self._file, "_file": None}

    def add(self, crops: Crops, labels: NDArray[np.int64]) -> None:
        """More crops behind those that are there."""
        self.crops = np.concatenate([self.crops, crops])
        self.labels = np.concatenate([self.labels, labels])
        self._file = None

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        epoch, index = key
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        image = augment(self.transform, self.crops[index], seed)
        return {"image": image, "label": self.labels[index], "index": index}


@dataclass(frozen=True)
class HeldOut:
    """Crops (N, 112, 112, 3) uint8 RGB and their identities."""

    crops: Crops
    identities: Sequence[str]


@dataclass(frozen=True)
class TrainingData:
    """What a training reads: augmented train crops, held-out val crops, and where they are from."""

    train: AugmentedCrops
    image_ids: Sequence[str]
    generators: Sequence[str]  # that made the images
    identities: int
    val: HeldOut
    licences: list[dict[str, str]]
    manifest_sha256: str

    @property
    def counts(self) -> dict[str, int]:
        """Identities, train crops that are of one, and those that were made for the training."""
        images = int((self.train.labels != NOBODY).sum())
        made = len(self.train) - images
        return {"identities": self.identities, "images": images, "morphs": made}

    @classmethod
    def read(cls, faces: Path, augmentation: Mapping[str, Any], seed: int) -> TrainingData:
        crops, identities, image_ids = read_split(faces, "train")
        val_crops, val_identities, _ = read_split(faces, "val")
        table = manifest.read(faces)
        ids, generators = table["image_id"].to_pylist(), table["generator"].to_pylist()
        made_by = dict(zip(ids, generators, strict=True))
        return cls(
            train=AugmentedCrops(crops, labels_of(identities), augmentation, seed),
            image_ids=image_ids,
            generators=[made_by[name] for name in image_ids],
            identities=len(set(identities)),
            val=HeldOut(val_crops, val_identities),
            licences=manifest.licences(table),
            manifest_sha256=sha256((faces / manifest.MANIFEST).read_bytes()).hexdigest(),
        )


def collate(samples: list[dict[str, Any]]) -> Batch:
    """image (B, 3, 112, 112) uint8 RGB in channels-last memory, label (B,) and index (B,)."""
    images = torch.from_numpy(np.stack([sample["image"] for sample in samples]))
    return {
        "image": images.permute(0, 3, 1, 2),
        "label": torch.tensor([int(sample["label"]) for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
    }


def train_loader(
    dataset: AugmentedCrops, sampler: Sampler[list[Key]], workers: int
) -> DataLoader[Batch]:
    """Batches in the sampler's order; `workers` loader processes, none where it is 0."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
        # a forked child hangs where OpenMP or OpenCV have threads already
        multiprocessing_context="spawn" if workers else None,
    )


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 -> float32 in [-1, 1], as the exported graph does it."""
    return (images.float() - 127.5) / 127.5
