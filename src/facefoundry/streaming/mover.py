"""Other pictures of a person: a stranger's, moved until the judge takes it for the person.

What the judge takes for a person is all that the pictures share; pose, hair, light and background
stay the stranger's. A small network says in one go how a stranger's styles are to move. It learns
from the judge's gradient through the painter, on people and strangers drawn anew for every step,
with no photograph in between (amortised optimisation: Amos, "Tutorial on amortized optimization",
2023; for a StyleGAN's styles: Patashnik et al., "StyleCLIP", ICCV 2021). Left to itself it would
paint one picture of each person, so two pictures are told to differ, to the judge and in their
colours. Others condition a generator on a recogniser's embedding to that end (Boutros et al.,
"IDiff-Face", ICCV 2023; Kim et al., "DCFace", CVPR 2023).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.keeping import atomic
from facefoundry.optim import build_optimizer, build_schedule
from facefoundry.progress import track
from facefoundry.streaming.painter import Painter
from facefoundry.streaming.sight import Sight
from facefoundry.synthesis.stylegan import CACHE

MOST = 0.3, 0.3, 0.25, 0.0, 0.0  # of the person's own style to begin with, by resolution group
WIDTH, BLOCKS = 512, 3
SHORT = 0.05  # what moves cost by their mean square
BATCH = 16  # pictures; two of each person
RATE = 1e-3
OPTIMIZER = {"name": "muon", "lr": RATE, "weight_decay": 0.01}
SCHEDULE = {"schedule": "cosine", "warmup": 0.03}
KEPT_EVERY = 20  # steps


class Mover(nn.Module):
    """Strangers' styles (N, G, 512) and what the judge is to see (N, D) -> styles (N, G, 512).

    It begins as the move that the fitted directions of `synthesis.stylegan` ask for, and leaves
    the head's yaw as it is.
    """

    mean: Tensor
    basis: Tensor
    white: Tensor
    identity: Tensor
    common: Tensor
    yaw: Tensor
    first: Tensor

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        groups, components, size = painter.identity.shape
        for name in ("mean", "basis", "identity", "common", "yaw"):
            self.register_buffer(name, getattr(painter, name).clone())
        lengths = self.basis.square().sum(1, keepdim=True)
        self.register_buffer("white", (self.basis / lengths).T.contiguous())
        self.register_buffer("first", first_moves(self.identity))
        self.enter = nn.Linear(groups * components + 2 * size, WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(BLOCKS)), nn.LayerNorm(WIDTH))
        self.leave = nn.Linear(WIDTH, groups * components)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, strangers: Tensor, targets: Tensor) -> Tensor:
        return strangers + self.moves(strangers, targets) @ self.basis

    def moves(self, strangers: Tensor, targets: Tensor) -> Tensor:
        """(N, G, K), in standard deviations of a component."""
        where = (strangers - self.mean) @ self.white
        guess = torch.einsum("gkd,ngk->nd", self.identity, where) + self.common
        missing = targets - functional.normalize(guess)
        unit = targets.shape[1] ** 0.5  # numbers of a direction are small
        known = torch.cat([where.flatten(1), unit * targets, unit * missing], 1)
        moves = torch.einsum("gkd,nd->ngk", self.first, missing)
        moves = moves + self.leave(self.blocks(self.enter(known))).reshape(moves.shape)
        return self.level(moves)

    def level(self, moves: Tensor) -> Tensor:
        """Moves (N, G, K) less what of them turns the head."""
        coarse = moves[:, :1]
        return torch.cat([coarse - (coarse @ self.yaw)[..., None] * self.yaw, moves[:, 1:]], 1)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def first_moves(identity: Tensor) -> Tensor:
    """identity (G, K, D): how embeddings change by the moves. How to move for a wanted change, as
    far as these directions can (G, K, D), ridge regression's way."""
    flat = identity.flatten(0, 1)
    gram = flat.T @ flat
    ridge = gram.trace() / len(gram) * torch.eye(len(gram), device=gram.device)
    return torch.linalg.solve(gram + ridge, flat.T).T.reshape(identity.shape)


def strangers(painter: Painter, people: Tensor) -> Tensor:
    """Styles (N, G, 512) to begin with, a stranger's for each of people (N, 512), drawn from
    torch's generator."""
    most = torch.tensor(MOST, device=people.device)[:, None]
    shares = most * torch.rand(len(people), len(MOST), 1, device=people.device)
    stranger = painter.people(len(people))[:, None]
    return stranger + shares * (people[:, None] - stranger)


def fit_mover(sight: Sight, images: int) -> Mover:
    """A mover that has learnt from so many pictures, or more to fill a batch; from the cache, where
    what is done is kept as well."""
    painter, steps = sight.painter, math.ceil(images / BATCH)
    key = hashlib.sha256(f"2 {painter.key} {steps}".encode()).hexdigest()[:16]
    path = CACHE / f"mover-{key}.pt"
    factor = build_schedule(SCHEDULE | {"steps": steps})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mover = Mover(painter).to(painter.mean.device)
        optimizer = build_optimizer([mover], OPTIMIZER)
        done = _restore(path, mover, optimizer)
        for step in track(range(done, steps), "stylegan: learning to pull", unit="steps"):
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor(step)
            _learn(mover, sight, optimizer)
            if (step + 1) % KEPT_EVERY == 0 or step + 1 == steps:
                _keep(path, step + 1, mover, optimizer if step + 1 < steps else None)
    return mover.eval().requires_grad_(False)


def _learn(mover: Mover, sight: Sight, optimizer: torch.optim.Optimizer) -> None:
    """A step: two pictures of each person are to be the person's, and to differ."""
    with torch.no_grad():
        people = sight.painter.people(BATCH // 2)
        targets = sight.people(people).repeat_interleave(2, 0)
        start = strangers(sight.painter, people.repeat_interleave(2, 0))
    moves = mover.moves(start, targets)
    slope = sight.slope(start, moves, targets)
    loss = SHORT * moves.square().mean() - (moves * slope).sum((1, 2)).mean()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(mover.parameters(), 1.0)
    optimizer.step()


def _keep(path: Path, step: int, mover: Mover, optimizer: torch.optim.Optimizer | None) -> None:
    """optimizer: None where no step is left, which halves the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"step": step, "mover": mover.state_dict()}
    if optimizer:
        state |= {"optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    with atomic(path) as temporary:
        torch.save(state, temporary)


def _restore(path: Path, mover: Mover, optimizer: torch.optim.Optimizer) -> int:
    """The steps that are done."""
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=mover.mean.device, weights_only=True)
    mover.load_state_dict(state["mover"])
    if "optimizer" in state:
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
    return int(state["step"])
