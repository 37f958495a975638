"""Which images make a batch: batches of keys (pass, index), the same in every run of a seed.

An epoch is `steps` batches, however many passes over the images that takes. No key comes twice in
a training, since an image's augmentation is drawn from its key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from facefoundry.errors import FoundryError

Key = tuple[int, int]  # pass, index
Labels = NDArray[np.int64]  # (N,), one for each image: 0..K-1

PER_IDENTITY = 4  # images of an identity in a batch, for losses that need pairs


class EpochSampler(Sampler[list[Key]]):
    """Every pass over the images is a permutation of its own.

    Raises FoundryError where the batch is larger than the set.
    """

    together = 1  # neighbours in a batch that the loss must see together

    def __init__(self, labels: Labels, batch_size: int, steps: int, seed: int) -> None:
        images = len(labels)
        if batch_size > images:
            raise FoundryError(
                f"train.batch_size: {batch_size} is more than the {images} training images;"
                " lower it or make more images"
            )
        self.images, self.batch_size, self.steps, self.seed = images, batch_size, steps, seed
        self.epoch = 0

    def start_at(self, epoch: int) -> None:
        """Make the next iteration that of `epoch`; iterating does not move on by itself."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        keys = self._keys(self.epoch * self.steps * self.batch_size)
        for _ in range(self.steps):
            yield [next(keys) for _ in range(self.batch_size)]

    def _keys(self, first: int) -> Iterator[Key]:
        """The endless sequence of (pass, index), from its `first` element on."""
        number, offset = divmod(first, self._pass_length())
        while True:
            yield from ((number, int(index)) for index in self._order(number)[offset:])
            number, offset = number + 1, 0

    def _pass_length(self) -> int:
        return self.images

    def _order(self, number: int) -> NDArray[np.int64]:
        """The images of pass `number`, none twice."""
        return np.random.default_rng([self.seed, number]).permutation(self.images)


class BalancedSampler(EpochSampler):
    """A pass is one random image of every identity, so that identities weigh alike however many
    images they have."""

    def __init__(self, labels: Labels, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(labels, batch_size, steps, seed)
        self.grouped = np.argsort(labels, kind="stable")
        self.counts = np.bincount(labels)
        self.starts = np.cumsum(self.counts) - self.counts

    def _pass_length(self) -> int:
        return len(self.counts)

    def _order(self, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, number])
        identities = rng.permutation(len(self.counts))
        return self.grouped[self.starts[identities] + rng.integers(self.counts[identities])]


class PairSampler(EpochSampler):
    """Batches of P identities with K images each, for losses that compare images of a batch
    (Hermans et al., "In Defense of the Triplet Loss", 2017). Raises FoundryError where the batch
    is not a multiple of K, or there are too few identities with K images.
    """

    together = PER_IDENTITY

    def __init__(self, labels: Labels, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(labels, batch_size, steps, seed)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        self.members = [images for images in members if len(images) >= PER_IDENTITY]
        if batch_size % PER_IDENTITY or len(self.members) * PER_IDENTITY < batch_size:
            raise FoundryError(
                f"train.batch_size: {batch_size} cannot be filled with {PER_IDENTITY} each"
                f" of {len(self.members)} identities; make it a smaller multiple of {PER_IDENTITY}"
            )

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.epoch * self.steps, (self.epoch + 1) * self.steps):
            rng = np.random.default_rng([self.seed, step])
            count = self.batch_size // PER_IDENTITY
            chosen = rng.choice(len(self.members), count, replace=False)
            images = [rng.choice(self.members[i], PER_IDENTITY, replace=False) for i in chosen]
            # the step stands for the pass: no image is augmented the same way twice
            yield [(step, int(index)) for index in np.concatenate(images)]


class ViewSampler(EpochSampler):
    """Every image twice in a row, to be augmented in two ways: half as many images in a batch.

    Raises FoundryError for an odd batch."""

    together = 2

    def __init__(self, labels: Labels, batch_size: int, steps: int, seed: int) -> None:
        if batch_size % 2:
            raise FoundryError(f"train.batch_size: {batch_size} is odd, but images come in two")
        super().__init__(labels, batch_size // 2, steps, seed)

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in super().__iter__():
            yield [(2 * number + view, index) for number, index in batch for view in (0, 1)]


class Shares(Sampler[list[Key]]):
    """Each batch of `sampler` in slices: `parts` in turn for the process `rank` of `world`.

    All slices of all processes are the batch, so that neither the number of processes nor gradient
    accumulation changes what a step sees. Raises FoundryError where a batch cannot be cut evenly.
    """

    def __init__(
        self, sampler: EpochSampler, batch_size: int, rank: int = 0, world: int = 1, parts: int = 1
    ) -> None:
        self.sampler, self.rank, self.world, self.parts = sampler, rank, world, parts
        self.size = batch_size // (world * parts)
        if batch_size % (world * parts) or self.size % sampler.together:
            raise FoundryError(
                f"train.batch_size: {batch_size} cannot be cut into {world} processes x {parts}"
                f" accumulated parts; make it a multiple of {world * parts * sampler.together}"
            )

    def __len__(self) -> int:
        return len(self.sampler) * self.parts

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.sampler:
            for part in range(self.parts):
                start = (part * self.world + self.rank) * self.size
                yield batch[start : start + self.size]


SAMPLERS: dict[str, Callable[..., EpochSampler]] = {
    "uniform": EpochSampler,
    "balanced": BalancedSampler,
    "pairs": PairSampler,
    "views": ViewSampler,
}


def choose_sampling(asked: str, needed: str | None) -> str:
    """A name of SAMPLERS from the one asked for, where `auto` is what the loss needs, or uniform.

    needed: the only sampling that the loss can work with, None where any will do. Raises
    FoundryError where they do not agree, or the name is unknown.
    """
    name = (needed or "uniform") if asked == "auto" else asked
    if name not in SAMPLERS:
        raise FoundryError(f"sampling: '{name}' is not one of auto, {', '.join(SAMPLERS)}")
    if needed and name != needed:
        raise FoundryError(
            f"sampling: '{name}' gives the loss no {needed}; set it to auto or {needed}"
        )
    return name
