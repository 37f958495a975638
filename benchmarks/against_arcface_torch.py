"""Images per second of our training step against one as InsightFace's arcface_torch does it.

Run: python benchmarks/against_arcface_torch.py [--backbone mobilefacenet_prelu] [--batch 32]
     [--rounds 7] [--threads 1] [--no-compile]
Same network, batch, precision (float32), loss (ArcFace, 10,000 identities) and optimiser (SGD with
momentum). The peer is written from the method as published: images in NCHW memory, already
normalised; arccos and cos around the margin; gradients of the backbone clipped at 5. Ours is the
module of the train stage: uint8 images, channels-last memory, the guard against NaN. They take
turns, and CPU seconds are counted, so that a neighbour's load counts little: trust the ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from torch import nn
from torch.nn import functional

from facefoundry.backbones import build_backbone
from facefoundry.losses import build_head
from facefoundry.optim import build_optimizer
from facefoundry.recognizer import RecognizerModule

IDENTITIES, SIZE = 10_000, 512
SGD = {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
Step = Callable[[], None]


class PublishedArcFace(nn.Module):
    """Scale 64, margin 0.5: the angle to the right centre, enlarged (Deng et al., CVPR 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.normal(0, 0.01, (IDENTITIES, SIZE)))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        centres = functional.normalize(self.weight)
        cosine = functional.linear(functional.normalize(embeddings), centres).clamp(-1, 1)
        rows = torch.arange(len(labels))
        angle = cosine[rows, labels].arccos() + 0.5
        logits = cosine.index_put((rows, labels), angle.cos())
        return functional.cross_entropy(64.0 * logits, labels)


def peer_step(options: dict, images: torch.Tensor, labels: torch.Tensor) -> Step:
    backbone = build_backbone(**options, embedding_size=SIZE).train()
    head = PublishedArcFace()
    parameters = [*(p for p in backbone.parameters() if p.requires_grad), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=5e-4)
    images = ((images.float() / 255 - 0.5) / 0.5).contiguous()

    def step() -> None:
        head(backbone(images), labels).backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(options: dict, images: torch.Tensor, labels: torch.Tensor, compiled: bool) -> Step:
    settings = yaml.safe_load(Path("conf/train.yaml").read_text())
    settings |= {"compile": compiled, "batch_size": len(images), "steps": 1, "seed": 0}
    module = RecognizerModule(
        build_backbone(**options, embedding_size=SIZE).train(),
        build_head("arcface", identities=IDENTITIES, embedding_size=SIZE, scale=64, margin_rad=0.5),
        options=settings,
        data=SimpleNamespace(train=SimpleNamespace(labels=labels.numpy())),  # type: ignore[arg-type]
        log_metrics=lambda metrics, step: None,
    )
    optimizer = build_optimizer([module], SGD)
    images = images.contiguous(memory_format=torch.channels_last)
    batch = {"image": images, "label": labels, "index": torch.arange(len(labels))}

    def step() -> None:
        module.training_step(batch, 0).backward()
        nn.utils.clip_grad_norm_(module.parameters(), settings["gradient_clip"])
        optimizer.step()
        optimizer.zero_grad()
        module._losses.clear()

    return step


def fastest(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """CPU seconds of the best of the rounds, after one that warms up (and compiles)."""
    best = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                best[name] = min(best[name], time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilefacenet_prelu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = yaml.safe_load(Path(f"conf/backbone/{arguments.backbone}.yaml").read_text())
    images = torch.randint(0, 256, (arguments.batch, 3, 112, 112), dtype=torch.uint8)
    labels = torch.randint(IDENTITIES, (arguments.batch,))
    steps = {
        "arcface_torch-style": peer_step(options, images, labels),
        "ours": our_step(options, images, labels, compiled=False),
    }
    if not arguments.no_compile:
        steps["ours, compiled"] = our_step(options, images, labels, compiled=True)
    best = fastest(steps, arguments.rounds)
    print(f"{arguments.backbone}, batch {arguments.batch}, {arguments.threads} thread(s), float32")
    for name, seconds in best.items():
        ratio = best["arcface_torch-style"] / seconds
        print(f"{name:20} {arguments.batch / seconds:8.1f} images/s {ratio:6.2f}")


if __name__ == "__main__":
    main()
