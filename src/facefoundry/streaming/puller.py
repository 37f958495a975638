"""Other pictures of a person: a stranger's, pulled to the person by the judge's gradient.

What the judge takes for a person is all that the pictures share; pose, hair, light and background
stay the stranger's. The first move is a leap along the directions that `synthesis.stylegan` fits,
the others follow the gradient. Others condition a generator on a recogniser's embedding to that
end (Boutros et al., "IDiff-Face", ICCV 2023; Kim et al., "DCFace", CVPR 2023); here nothing is
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.alignment import SIZE
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.painter import Painter
from facefoundry.streaming.pool import AT_ONCE, SFace, prepared
from facefoundry.synthesis.mobile_stylegan import IMAGE_SIZE
from facefoundry.synthesis.stylegan import StyleGan

STEP = 0.2  # standard deviations of a component
MOMENTS = 0.5, 0.9  # of Adam (Kingma and Ba, ICLR 2015): few steps, so short memories
# the shares of the person's own style to begin with, for each resolution group
LEAST, MOST = (0.3, 0.3, 0.2, 0.0, 0.0), (0.6, 0.6, 0.5, 0.2, 0.0)
SCALE = 1024.0  # of the gradient, or FP16 would lose it


class Pulled(NamedTuple):
    """styles (N, G, 512) and crops (N, 3, 112, 112) uint8 of pictures, and which (N,) of them came
    out; those of the others mean nothing."""

    styles: Tensor
    crops: Tensor
    found: Tensor


class Puller(nn.Module):
    """pull: steps at most; enough: the judge's cosine to the person at which a picture stays as it
    is; at_once: so many are in memory with what their gradient needs.
    judge: crops (N, 3, 112, 112) in 0..255 -> (N, D) of length 1."""

    moves: Tensor

    def __init__(
        self,
        painter: Painter,
        aligner: Aligner,
        judge: Callable[[Tensor], Tensor],
        pull: int,
        enough: float,
        apart: float,
        at_once: int,
    ) -> None:
        super().__init__()
        self.painter, self.aligner, self.judge = painter, aligner, judge
        self.pull, self.enough, self.apart, self.at_once = pull, enough, apart, at_once
        self.register_buffer("moves", first_moves(painter.identity))

    @torch.no_grad()
    def targets(self, people: Tensor) -> Tensor:
        """What the judge makes of people (N, 512) as they are, but further apart: (N, D)."""
        seen = self._judged(people[:, None].expand(-1, len(self.painter.scales), -1))
        return functional.normalize(seen - self.apart * self.painter.common)

    def pictures(self, person: Tensor, count: int) -> Tensor:
        """Styles (M, G, 512), on the CPU, of as many pictures of a person (1, 512) as come out of
        `count`."""
        person = person.to(self.moves.device)
        targets = self.targets(person).expand(count, -1)
        pulled = self(person.expand(count, -1), targets)
        return pulled.styles[pulled.found].cpu()

    @torch.no_grad()
    def forward(self, people: Tensor, targets: Tensor) -> Pulled:
        """A picture of each of (N, 512), whom the judge is to see as (N, D). Drawn from torch's
        generator.

        Only those that are not there yet are computed on, so many together are faster.
        """
        count, device = len(people), people.device
        styles = self._start(people)
        moves = torch.einsum("gkd,nd->ngk", self.moves, targets - self._judged(styles))
        first, second = torch.zeros_like(moves), torch.zeros_like(moves)
        crops = torch.zeros(count, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        found = torch.zeros(count, dtype=torch.bool, device=device)
        far = torch.arange(count, device=device)
        for step in range(1, self.pull + 2):
            left = []
            for rows in torch.split(far, self.at_once):
                here = styles[rows], moves[rows], targets[rows]
                pictures, scores, cosines, slope = self._slope(*here)
                there = cosines >= self.enough
                found[rows[there]] = scores[there] >= self.aligner.min_score
                crops[rows[there]] = pictures[there].round().clamp(0, 255).to(torch.uint8)
                rows, slope = rows[~there], slope[~there]
                first[rows] = first[rows].lerp(slope, 1 - MOMENTS[0])
                second[rows] = second[rows].lerp(slope.square(), 1 - MOMENTS[1])
                mean = first[rows] / (1 - MOMENTS[0] ** step)
                square = second[rows] / (1 - MOMENTS[1] ** step)
                moves[rows] += STEP * mean / (square.sqrt() + 1e-8)
                left.append(rows)
            far = torch.cat(left)
            if not len(far):
                break
        return Pulled(styles + moves @ self.painter.basis, crops, found)

    def _start(self, people: Tensor) -> Tensor:
        least, most = torch.tensor([LEAST, MOST], device=people.device)[:, None, :, None]
        shares = torch.rand(len(people), len(LEAST), 1, device=people.device) * (most - least)
        stranger = self.painter.people(len(people))[:, None]
        return stranger + (least + shares) * (people[:, None] - stranger)

    def _slope(
        self, styles: Tensor, moves: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Crops, how certain the detector is, the cosines (N,), and their slope by the moves."""
        with torch.enable_grad():
            moves.requires_grad_()
            crops, seen, scores = self._seen(styles + moves @ self.painter.basis)
            cosines = (seen * targets).sum(1)
            (slope,) = torch.autograd.grad(SCALE * cosines.sum(), moves)
        return crops.detach(), scores, cosines.detach(), slope

    def _judged(self, styles: Tensor) -> Tensor:
        return torch.cat([self._seen(part)[1] for part in torch.split(styles, self.at_once)])

    def _seen(self, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops, what the judge makes of them, and how certain the detector is."""
        images = self.painter.paint(styles)
        with torch.no_grad():
            landmarks, scores = self.aligner.landmarks(images)
        crops = self.aligner.cut(images, landmarks)
        return crops, self.judge(crops), scores


def open_puller(source: StyleGan, pull: int, enough: float, apart: float) -> Puller:
    """Of the faces of `source`, by SFace; on a GPU where there is one."""
    nets = prepared((Painter(source), Aligner(IMAGE_SIZE), SFace()))
    return puller_of(nets, pull, enough, apart)


def puller_of(nets: Sequence[Any], pull: int, enough: float, apart: float) -> Puller:
    """nets: a painter, an aligner and SFace, on one device."""
    painter, aligner, judge = nets
    at_once = AT_ONCE[painter.mean.device.type]
    return Puller(painter, aligner, judge.as_it_is, pull, enough, apart, at_once)


def first_moves(identity: Tensor) -> Tensor:
    """identity (G, K, D): how embeddings change by the moves. How to move for a wanted change, as
    far as these directions can (G, K, D), ridge regression's way."""
    flat = identity.flatten(0, 1)
    gram = flat.T @ flat
    ridge = gram.trace() / len(gram) * torch.eye(len(gram), device=gram.device)
    return torch.linalg.solve(gram + ridge, flat.T).T.reshape(identity.shape)
