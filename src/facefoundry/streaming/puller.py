"""Other pictures of a person: a stranger's, pulled to the person by the judge's gradient.

What the judge takes for a person is all that the pictures share; pose, hair, light and background
stay the stranger's. Others condition a generator on a recogniser's embedding to that end (Boutros
et al., "IDiff-Face", ICCV 2023; Kim et al., "DCFace", CVPR 2023); here nothing is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.painter import Painter
from facefoundry.synthesis.stylegan import COMPONENTS

STEP = 0.2  # standard deviations of a component
MOMENTS = 0.5, 0.9  # of Adam (Kingma and Ba, ICLR 2015): few steps, so short memories
# the shares of the person's own style to begin with, for each resolution group
LEAST, MOST = (0.3, 0.3, 0.2, 0.0, 0.0), (0.6, 0.6, 0.5, 0.2, 0.0)
SCALE = 1024.0  # of the gradient, or FP16 would lose it


class Puller(nn.Module):
    """steps: at most so many; enough: the judge's cosine to the person at which a picture stays as
    it is. judge: crops (N, 3, 112, 112) in 0..255 -> (N, D) of length 1."""

    def __init__(
        self, painter: Painter, aligner: Aligner, judge: nn.Module, steps: int, enough: float
    ) -> None:
        super().__init__()
        self.painter, self.aligner, self.judge = painter, aligner, judge
        self.steps, self.enough = steps, enough

    @torch.no_grad()
    def targets(self, people: Tensor) -> Tensor:
        """What the judge makes of people (N, 512) as they are: (N, D)."""
        return self._seen(people[:, None].expand(-1, len(self.painter.scales), -1))[1]

    @torch.no_grad()
    def forward(self, people: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A picture of each of (N, 512), whom the judge is to see as (N, D): crops (M, 3, 112, 112)
        uint8 of those that came out, and which (N,) these are. Drawn from torch's generator."""
        styles = self._start(people)
        moves = torch.zeros(*styles.shape[:2], COMPONENTS, device=styles.device)
        first, second = torch.zeros_like(moves), torch.zeros_like(moves)
        for step in range(1, self.steps + 1):
            with torch.enable_grad():
                moves.requires_grad_()
                _, seen, _ = self._seen(styles + moves @ self.painter.basis)
                cosines = (seen * targets).sum(1)
                (slope,) = torch.autograd.grad(SCALE * cosines.sum(), moves)
            first = first.lerp(slope, 1 - MOMENTS[0])
            second = second.lerp(slope.square(), 1 - MOMENTS[1])
            mean, square = first / (1 - MOMENTS[0] ** step), second / (1 - MOMENTS[1] ** step)
            far = (cosines < self.enough)[:, None, None]
            moves = moves + STEP * far * mean / (square.sqrt() + 1e-8)
        crops, seen, scores = self._seen(styles + moves @ self.painter.basis)
        found = ((seen * targets).sum(1) >= self.enough) & (scores >= self.aligner.min_score)
        return crops[found].round().clamp(0, 255).to(torch.uint8), found

    def _start(self, people: Tensor) -> Tensor:
        least, most = torch.tensor([LEAST, MOST], device=people.device)[:, None, :, None]
        shares = torch.rand(len(people), len(LEAST), 1, device=people.device) * (most - least)
        stranger = self.painter.people(len(people))[:, None]
        return stranger + (least + shares) * (people[:, None] - stranger)

    def _seen(self, styles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Crops, what the judge makes of them, and how certain the detector is."""
        images = self.painter.paint(styles).float()
        with torch.no_grad():
            landmarks, scores = self.aligner.landmarks(images)
        crops = self.aligner.cut(images, landmarks)
        return crops, self.judge(crops), scores
