"""Identities at hand while a recogniser learns: new images of each are painted all the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.curation.rules import consistency
from facefoundry.errors import FoundryError
from facefoundry.progress import track
from facefoundry.sharding import chunked
from facefoundry.streaming.loader import FixedPool
from facefoundry.streaming.pool import AT_ONCE, Ring, prepared
from facefoundry.streaming.puller import Puller, open_puller

COMPARED = 4096  # identities that are compared with all others together

# people (K, 512), the means (K, D) of their images, the images, and whose of the K each is
Introduced = tuple[Tensor, Tensor, Tensor, Tensor]


class PeoplePool:
    """crops (N, 3, 112, 112) uint8 RGB and labels (N,): the train crops and, behind them, `images`
    each of painted identities, of which `fresh` are made anew for every image that is learnt from.

    Who is let in is decided by the rules of curate: an image whose cosine to the mean of the others
    of its identity is at least `min_consistency`, an identity that has `min_images` of these and
    whose mean lies no closer than `max_similarity` to that of one before it. So there are fewer
    than the `asked`. judge: crops -> (N, D) of length 1. puller: where the images are strangers'
    that are pulled to the identity; where None, they are steps away from it.
    """

    def __init__(
        self,
        kept: FixedPool,
        asked: int,
        images: int,
        fresh: float,
        min_consistency: float,
        min_images: int,
        max_similarity: float,
        painter: Any,
        aligner: nn.Module,
        judge: nn.Module,
        puller: Puller | None = None,
    ) -> None:
        self.painter, self.aligner, self.judge, self.puller = painter, aligner, judge, puller
        self.images, self.fresh = images, fresh
        self.min_consistency, self.min_images = min_consistency, min_images
        self.at_once = AT_ONCE[kept.crops.device.type]
        batches = chunked(range(asked), max(1, self.at_once // images))
        found = [
            self._introduce(len(batch))
            for batch in track(batches, "painting identities", unit="batches")
        ]
        self.people, self.means = (torch.cat([part[n] for part in found]) for n in (0, 1))
        single = ~similar_to_earlier(self.means, max_similarity)
        self.people, self.means = self.people[single], self.means[single]
        if not len(self.people):
            raise FoundryError(
                f"people.identities: none of {asked} has {min_images} images that agree; ask for"
                " more, or lower people.min_consistency"
            )
        crops, self.owners = _of_those(single, found)
        del found  # its images are as large as all crops together
        self.crops = torch.cat([kept.crops, *crops])
        self.labels = torch.cat([kept.labels, self.owners.cpu() + kept.identities])
        self.identities = kept.identities + len(self.people)
        self.turns, self.made = Ring(len(kept.labels), len(self.owners)), len(self.owners)

    @property
    def counts(self) -> dict[str, int]:
        """Of the painted: identities, and images that were made in all."""
        return {"people": len(self.people), "streamed": self.made}

    @torch.no_grad()
    def refresh(self, images: int) -> None:
        """New images of the identities whose turn it is; where one does not agree, the old one
        stays."""
        first = self.turns.start
        for batch in chunked(range(round(self.fresh * images)), self.at_once):
            places = self.turns.next(len(batch)).to(self.crops.device)
            owners = self.owners[places - first]
            crops, found = self._paint(self.people[owners], self.means[owners])
            places = places[found]
            cosines = (self.judge(crops) * self.means[owners[found]]).sum(1)
            near = cosines >= self.min_consistency
            self.crops[places[near]] = crops[near]
            self.made += int(near.sum())

    def _paint(self, people: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.puller:
            return self.puller(people, targets)
        return self.aligner(self.painter(people))

    @torch.no_grad()
    def _introduce(self, count: int) -> Introduced:
        people = self.painter.people(count)
        owners = torch.arange(count, device=people.device).repeat_interleave(self.images)
        targets = self.puller.targets(people)[owners] if self.puller else None
        crops, found = self._paint(people[owners], targets)
        owners, seen = owners[found], self.judge(crops)
        if not len(seen):
            return people[:0], seen, crops, owners
        agreement = consistency(seen.cpu().numpy(), owners.cpu().numpy())
        agree = torch.from_numpy(agreement).to(owners.device) >= self.min_consistency
        enough = torch.bincount(owners[agree], minlength=count) >= self.min_images
        agree &= enough[owners]
        owners = (enough.cumsum(0) - 1)[owners[agree]]
        sums = torch.zeros(int(enough.sum()), seen.shape[1], device=seen.device)
        means = functional.normalize(sums.index_add(0, owners, seen[agree]))
        return people[enough], means, crops[agree], owners


def _of_those(stay: Tensor, found: Sequence[Introduced]) -> tuple[list[Tensor], Tensor]:
    """The images of the people who `stay` (N,) of all that were `found`, and whose each is."""
    numbers, crops, owners, start = stay.cumsum(0) - 1, [], [], 0
    for people, _, pictures, owner in found:
        chosen = stay[owner + start]
        crops.append(pictures[chosen])
        owners.append(numbers[owner[chosen] + start])
        start += len(people)
    return crops, torch.cat(owners)


def similar_to_earlier(means: Tensor, max_similarity: float) -> Tensor:
    """Which (N,) of means (N, D) of length 1 lie closer than `max_similarity` to one before it."""
    similar = []
    for start in range(0, len(means), COMPARED):
        block = means[start : start + COMPARED]
        cosines = block @ means[: start + len(block)].T
        similar.append((cosines.tril(start - 1) > max_similarity).any(1))
    return torch.cat(similar) if similar else torch.zeros(0, dtype=torch.bool)


def open_people(options: Mapping[str, Any], nets: Sequence[Any], kept: FixedPool) -> PeoplePool:
    """By the values of conf/people.yaml. nets: a painter, an aligner and SFace."""
    rules = {
        name: options[name]
        for name in ("images", "fresh", "min_consistency", "min_images", "max_similarity")
    }
    painter, aligner, judge = nets = prepared(nets)
    generator, puller = options["generator"], None
    if generator["pull"]:
        puller = open_puller(nets, generator["pull"], generator["pull_steps"])
    parts = {"painter": painter, "aligner": aligner, "judge": judge, "puller": puller}
    return PeoplePool(kept, options["identities"], **rules, **parts)
