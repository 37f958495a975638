"""Batches from crops that lie on the GPU, and are augmented there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from facefoundry.data import Batch, Crops
from facefoundry.samplers import Labels, Shares

AT_ONCE = 2048  # images that are augmented together: a GPU waits for small batches


class Pool(Protocol):
    """crops: (N, 3, 112, 112) uint8 RGB on a device. labels: (N,) int64, on the CPU."""

    crops: Tensor
    labels: Tensor

    def refresh(self, images: int) -> None:
        """So many are about to be drawn; crops may change."""


@dataclass(frozen=True)
class FixedPool:
    """The train crops as they are."""

    crops: Tensor
    labels: Tensor

    @property
    def identities(self) -> int:
        return int(self.labels.max()) + 1

    @classmethod
    def of(cls, crops: Crops, labels: Labels, device: torch.device) -> FixedPool:
        """crops: (N, 112, 112, 3) uint8 RGB."""
        return cls(planes(crops, device), torch.from_numpy(labels))

    def refresh(self, images: int) -> None:
        pass


def planes(crops: Crops, device: torch.device) -> Tensor:
    """(N, 112, 112, 3) -> (N, 3, 112, 112), in one piece."""
    return torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))).to(device)


def pictures(crops: Tensor, rows: Labels) -> Crops:
    """Rows (M,) of (N, 3, 112, 112), as (M, 112, 112, 3)."""
    return crops[torch.from_numpy(rows).to(crops.device)].permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True)
class PoolLoader:
    """Batches as `data.train_loader` makes them. augment: (N, 3, 112, 112) uint8 RGB -> the same.

    All randomness is torch's own, which starts anew with each epoch.
    """

    pool: Pool
    batches: Shares
    augment: Any
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        torch.manual_seed(1_000_003 * self.seed + self.batches.sampler.epoch)
        batches = iter(self.batches)
        while group := list(islice(batches, max(1, AT_ONCE // self.batches.size))):
            self.pool.refresh(len(group) * self.batches.size)
            index = torch.tensor([[place for _, place in batch] for batch in group])
            images = self.augment(self.pool.crops[index.flatten().to(self.pool.crops.device)])
            for rows, part in zip(index, images.chunk(len(index)), strict=True):
                yield {"image": part, "label": self.pool.labels[rows], "index": rows}


def pool_loader(
    pool: Pool, batches: Shares, augmentation: Mapping[str, Any], seed: int
) -> PoolLoader:
    """augmentation: the values of conf/augmentation."""
    from facefoundry.streaming.augmentation import Augmentation  # imports Kornia, an extra

    return PoolLoader(pool, batches, Augmentation(augmentation).to(pool.crops.device), seed)
