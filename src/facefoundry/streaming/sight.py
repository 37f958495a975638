"""StyleGAN's paintings as a judge sees them, with the gradient that says how they should change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.painter import Painter

AIM = 0.7  # the judge's cosine to the person beyond which nothing is won
ALIKE = 0.45  # cosine of two pictures of a person below which they differ enough
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
        images = self.painter.paint(styles)
        with torch.no_grad():
            landmarks, _ = self.aligner.landmarks(images)
        return self.judge(self.aligner.cut(images, landmarks))

    @torch.no_grad()
    def people(self, people: Tensor) -> Tensor:
        """What the judge makes of people (N, 512) as they are: (N, D)."""
        return self(people[:, None].expand(-1, len(self.painter.scales), -1))

    def slope(self, styles: Tensor, moves: Tensor, targets: Tensor) -> Tensor:
        """How what is wanted changes with the moves (N, G, K), of pictures of which each pair is of
        one person: that they resemble the targets (N, D), and not one another."""
        given = (torch.split(part, self.at_once) for part in (styles, moves.detach(), targets))
        return torch.cat([self._slope(*part) for part in zip(*given, strict=True)])

    @torch.enable_grad()
    def _slope(self, styles: Tensor, moves: Tensor, targets: Tensor) -> Tensor:
        moves = moves.requires_grad_()
        seen = self(styles + moves @ self.painter.basis)
        cosines, pairs = (seen * targets).sum(1), (seen[::2] * seen[1::2]).sum(1)
        wanted = cosines.clamp(max=AIM).sum() - (pairs - ALIKE).clamp(min=0).sum()
        (slope,) = torch.autograd.grad(SCALE * wanted, moves)
        return slope / SCALE
