"""StyleGAN's paintings as a judge sees them, with the gradient that says how they should change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.alignment import SIZE
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.painter import Painter

AIM = 0.65  # what the judge sees of the person beyond which it is enough: a cosine, as the next
ALIKE = 0.4  # below which the judge tells two pictures of a person apart well enough
LOOKS = 0.35  # correlation of two pictures' colours below which they look different enough
CELL = 8  # pixels of a crop that are one colour
MIDDLE = slice(3, 11)  # cells of the face, by rows and columns; around it lie hair and background
AVERAGED = 64  # faces that say what they all look like
SCALE = 1024.0  # of the gradient, or FP16 would lose it


class Sight(nn.Module):
    """What the judge sees in a painting. judge: crops (N, 3, 112, 112) in 0..255 -> (N, D) of
    length 1. at_once: so many are in memory with what their gradient needs; an even number."""

    def __init__(
        self,
        painter: Painter,
        aligner: Aligner,
        judge: Callable[[Tensor], Tensor],
        at_once: int,
    ) -> None:
        super().__init__()
        self.painter, self.aligner, self.judge = painter, aligner, judge
        self.at_once = at_once

    def forward(self, styles: Tensor) -> Tensor:
        """styles (N, G, 512) -> (N, D), through which a gradient passes."""
        return self.judge(self.crops(styles))

    def crops(self, styles: Tensor) -> Tensor:
        """(N, 3, 112, 112) in 0..255, through which a gradient passes."""
        images = self.painter.paint(styles)
        with torch.no_grad():
            landmarks, _ = self.aligner.landmarks(images)
        return self.aligner.cut(images, landmarks)

    @torch.no_grad()
    def people(self, people: Tensor) -> Tensor:
        """What the judge makes of people (N, 512) as they are: (N, D)."""
        return self(self._as_they_are(people))

    def slope(self, styles: Tensor, moves: Tensor, targets: Tensor, differ: bool = True) -> Tensor:
        """How what is wanted changes with the moves (N, G, K): that the judge sees the targets
        (N, D) in what is not common to all people. differ: as far as AIM, and that pictures, of
        which each pair is of one person, resemble one another neither to the judge nor in their
        colours."""
        given = (torch.split(part, self.at_once) for part in (styles, moves.detach(), targets))
        slopes = [self._slope(here, by, to, differ) for here, by, to in zip(*given, strict=True)]
        return torch.cat(slopes)

    @torch.enable_grad()
    def _slope(self, styles: Tensor, moves: Tensor, targets: Tensor, differ: bool) -> Tensor:
        moves = moves.requires_grad_()
        crops = self.crops(styles + moves @ self.painter.basis)
        seen = self.own(self.judge(crops))
        near = (seen * self.own(targets)).sum(1)
        wanted = near.clamp(max=AIM).sum() - self._alike(crops, seen) if differ else near.sum()
        (slope,) = torch.autograd.grad(SCALE * wanted, moves)
        return slope / SCALE

    def _alike(self, crops: Tensor, seen: Tensor) -> Tensor:
        alike = ((seen[::2] * seen[1::2]).sum(1) - ALIKE).clamp(min=0)
        looks = looks_of(crops, self.average)
        similar = ((looks[::2] * looks[1::2]).sum(2) - LOOKS).clamp(min=0)
        return alike.sum() + similar.sum()

    def own(self, seen: Tensor) -> Tensor:
        """What the judge sees (N, D) in a face less what it sees in all, again of length 1: or to
        look like anybody would be near to everybody."""
        return functional.normalize(seen - self.painter.common, dim=1)

    @cached_property
    def average(self) -> Tensor:
        """The crop (1, 3, 112, 112) that is the mean of some people's."""
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            people = self._as_they_are(self.painter.people(AVERAGED))
            crops = [self.crops(some) for some in torch.split(people, self.at_once)]
        return torch.cat(crops).mean(0, keepdim=True)

    def _as_they_are(self, people: Tensor) -> Tensor:
        return people[:, None].expand(-1, len(self.painter.scales), -1)


def looks_of(crops: Tensor, average: Tensor) -> Tensor:
    """How the colours of crops (N, 3, 112, 112) differ from an average crop's (1, 3, 112, 112):
    (N, 2, D) of length 1, in the middle and around it."""
    colours = functional.avg_pool2d(crops - average, CELL)
    middle = torch.zeros(SIZE // CELL, SIZE // CELL, device=crops.device)
    middle[MIDDLE, MIDDLE] = 1
    parts = torch.stack([colours * middle, colours * (1 - middle)], 1)
    return functional.normalize(parts.flatten(2), dim=2)
