"""Images per second of each part of a stream (docs/training.md), on a GPU where there is one.

Run: python benchmarks/streaming_speed.py [--images 256] [--rounds 5]
What takes the longest is printed with a ratio of 1. The first run fits StyleGAN's directions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from facefoundry.backbones import build_backbone
from facefoundry.optim import build_optimizer
from facefoundry.stage import composed, plain
from facefoundry.streaming.augmentation import Augmentation
from facefoundry.streaming.morphs import morphs
from facefoundry.streaming.mover import Mover, strangers
from facefoundry.streaming.pool import AT_ONCE, SFace, prepared, streaming_nets
from facefoundry.streaming.puller import Puller
from facefoundry.streaming.sight import Sight
from facefoundry.synthesis.mobile_stylegan import torch_device


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Of one call, the best of `rounds`, after one that does not count."""
    best = float("inf")
    for number in range(rounds + 1):
        wait()
        start = time.perf_counter()
        work()
        wait()
        best = min(best, time.perf_counter() - start) if number else best
    return best


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def student_step(options: dict, crops: torch.Tensor) -> Callable[[], object]:
    """Forward, backward and optimiser step of the student, as `distill` would do them."""
    net = build_backbone(**options["backbone"], embedding_size=128)
    net = net.to(crops.device, memory_format=torch.channels_last)
    optimizer = build_optimizer([net], options["optimizer"])
    images = (crops.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=crops.is_cuda):
            loss = net(images).float().square().mean()
        loss.backward()
        optimizer.step()

    return step


def slope(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> None:
    x = x.detach().clone().requires_grad_()
    torch.autograd.grad(function(x).mean(), x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256, help="at once")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    options = plain(composed("distill", []))
    nets = streaming_nets(options["stream"]["generator"])
    painter, aligner, teacher = prepared([*nets, SFace()])
    sight = Sight(painter, aligner, teacher.as_it_is, AT_ONCE[torch_device().type])
    puller = Puller(sight, Mover(painter).to(torch_device()))
    augment, count = Augmentation(options["augmentation"]).to(torch_device()), arguments.images
    with torch.no_grad():
        people = painter.people(count)
        images = painter(people)
        crops, _ = aligner(images)
        landmarks, _ = aligner.landmarks(images)
        styles, targets = strangers(painter, people), puller.targets(people)
        moves = puller.mover.moves(styles, targets)
    crops = crops[torch.arange(count, device=crops.device) % len(crops)]
    parts = {
        "pull": lambda: puller(people, targets),
        "paint": lambda: painter(people),
        "find and cut": lambda: aligner(images),
        "teacher, twice": lambda: teacher(crops),
        "morph": lambda: morphs(crops, crops.flip(0)),
        "augment": lambda: augment(crops),
    }
    with torch.no_grad():
        found = {name: seconds(work, arguments.rounds) for name, work in parts.items()}
    gradients = {
        "paint, gradient": lambda: slope(painter.paint, styles),
        "cut, gradient": lambda: slope(partial(aligner.cut, landmarks=landmarks), images),
        "SFace, gradient": lambda: slope(teacher.as_it_is, crops.float()),
        "learn to pull": lambda: sight.slope(styles, moves, targets),
    }
    found |= {name: seconds(work, arguments.rounds) for name, work in gradients.items()}
    found["student's step"] = seconds(student_step(options, crops), arguments.rounds)
    slowest = max(found.values())
    print(f"{count} images at once on {torch_device().type}")
    for name, spent in found.items():
        print(f"{name:16} {count / spent:9.0f} images/s {slowest / spent:7.2f}")


if __name__ == "__main__":
    main()
