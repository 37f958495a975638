"""Images per second of a training step, for every option of conf/backbone, on one thread.

Run: python benchmarks/training_speed.py [--threads 1] [--batch 64] [--rounds 5]
The options take turns, so that a neighbour's load falls on all alike: trust the ratios.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import yaml

from facefoundry.backbones import build_backbone
from facefoundry.losses import build_head
from facefoundry.optim import build_optimizer


def make_step(options: dict, batch: int):
    """A closure that does one step on random images: forward, backward, AdamW."""
    backbone = build_backbone(**options, embedding_size=128)
    backbone = backbone.to(memory_format=torch.channels_last).train()
    head = build_head("arcface", identities=500, embedding_size=128)
    adamw = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05}
    optimizer = build_optimizer([backbone, head], adamw)
    images = torch.randn(batch, 3, 112, 112).to(memory_format=torch.channels_last)
    labels = torch.randint(500, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        head(backbone(images), labels).backward()
        optimizer.step()

    return step, sum(parameter.numel() for parameter in backbone.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    files = sorted(Path("conf/backbone").glob("*.yaml"))
    steps = {
        path.stem: make_step(yaml.safe_load(path.read_text()), arguments.batch) for path in files
    }
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(arguments.rounds):
        for name, (step, _) in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    slowest = max(best.values())
    print(f"{'backbone':16} {'M parameters':>12} {'images/s':>9} {'ratio':>6}")
    for name, (_, parameters) in steps.items():
        rate = arguments.batch / best[name]
        print(f"{name:16} {parameters / 1e6:12.2f} {rate:9.0f} {slowest / best[name]:6.2f}")


if __name__ == "__main__":
    main()
