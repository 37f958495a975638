"""Pictures of a person by a `mover`: strangers', moved to the person, and from there some steps
along the judge's gradient, which no network foresees for every picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.precision import torch_threads
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.mover import Mover, fit_mover, strangers
from facefoundry.streaming.painter import Painter
from facefoundry.streaming.pool import AT_ONCE, SFace, prepared
from facefoundry.streaming.sight import Sight
from facefoundry.synthesis.mobile_stylegan import IMAGE_SIZE
from facefoundry.synthesis.stylegan import StyleGan

CLIMB = 0.12, 0.01  # standard deviations of a component, from step to step, that each is long
SHARED = 0.5  # what the person's pictures ask for together, against what each does


class Puller(nn.Module):
    """Whom the judge of `sight` is to see, and strangers' pictures in which it should. steps: along
    the gradient, of each picture."""

    def __init__(self, sight: Sight, mover: Mover, steps: int = 0) -> None:
        super().__init__()
        self.sight, self.mover, self.steps = sight, mover, steps

    @torch.no_grad()
    def targets(self, people: Tensor) -> Tensor:
        """What the judge makes of people (N, 512) as they are: (N, D)."""
        return self.sight.people(people)

    @torch.no_grad()
    def styles(self, people: Tensor, targets: Tensor) -> Tensor:
        """(N, G, 512) of a picture of each of (N, 512), whom the judge is to see as (N, D). Drawn
        from torch's generator."""
        styles = self.mover(strangers(self.sight.painter, people), targets)
        first, last = CLIMB
        for step in range(self.steps):
            length = first + (last - first) * (step + 0.5) / self.steps
            styles = self._climb(styles, targets, length)
        return styles

    def _climb(self, styles: Tensor, targets: Tensor, length: float) -> Tensor:
        here = styles.new_zeros(len(styles), *self.mover.identity.shape[:2])
        slope = self.mover.level(self.sight.slope(styles, here, targets, differ=False))
        step = length * here[0].numel() ** 0.5 * agreed(slope.flatten(1), targets)
        return styles + step.reshape(slope.shape) @ self.mover.basis

    def pictures(self, person: Tensor, count: int) -> Tensor:
        """Styles (count, G, 512), on the CPU, of pictures of a person (1, 512)."""
        person = person.to(self.mover.mean.device)
        with torch_threads(1):  # as in a worker: steps of the gradient make much of a last digit
            targets = self.targets(person).expand(count, -1)
            return self.styles(person.expand(count, -1), targets).cpu()

    def forward(self, people: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (M, 3, 112, 112) uint8 of those pictures that show a face, and which (N,) do."""
        images = self.sight.painter.paint(self.styles(people, targets))
        return self.sight.aligner(images)


def agreed(slopes: Tensor, targets: Tensor) -> Tensor:
    """Directions (N, K) of length 1: of slopes (N, K), each with some of its person's, whom equal
    targets (N, D) tell. A picture's own is noisy, and what moves to a person moves others, too."""
    own = functional.normalize(slopes, dim=1)
    same = (targets[:, None] == targets).all(2).to(own)
    return functional.normalize(own + SHARED * functional.normalize(same @ own, dim=1), dim=1)


def open_puller(nets: Sequence[Any], images: int, steps: int) -> Puller:
    """nets: a painter, an aligner and SFace, on one device; images: see `fit_mover`."""
    painter, aligner, judge = nets
    sight = Sight(painter, aligner, judge.as_it_is, AT_ONCE[painter.mean.device.type])
    return Puller(sight, fit_mover(sight, images), steps)


def puller_of(source: StyleGan, images: int, steps: int) -> Puller:
    """Of the faces of `source`, by SFace; on a GPU where there is one."""
    return open_puller(prepared((Painter(source), Aligner(IMAGE_SIZE), SFace())), images, steps)
