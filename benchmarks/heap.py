"""What a training step gains where the C library keeps freed memory (src/facefoundry/heap.py).

Run: python benchmarks/heap.py [--backbone fine_resnet] [--threads 1] [--batch 64] [--rounds 3]
The two take turns, each time in a new process, so that a neighbour's load falls on both alike.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

from facefoundry.backbones import build_backbone
from facefoundry.heap import keep_freed_memory
from facefoundry.precision import computes_bf16

STEPS = 15


def measured(options: argparse.Namespace) -> tuple[float, float]:
    """Seconds and page faults of a step on random images, forward and backward: the medians."""
    torch.set_num_threads(options.threads)
    if options.once == "kept":
        keep_freed_memory()
    file = Path("conf/backbone", f"{options.backbone}.yaml")
    backbone = build_backbone(**yaml.safe_load(file.read_text()), embedding_size=128)
    backbone = backbone.to(memory_format=torch.channels_last).train()
    images = torch.randn(options.batch, 3, 112, 112).to(memory_format=torch.channels_last)
    seconds, faults = [], []
    for _ in range(STEPS):
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
            embeddings = backbone(images)
        embeddings.float().square().sum().backward()
        seconds.append(time.perf_counter() - start)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sorted(seconds)[STEPS // 2], sorted(faults)[STEPS // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="fine_resnet")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", choices=("given back", "kept"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(*measured(options))
        return
    found: dict[str, list[list[float]]] = {"given back": [], "kept": []}
    for _ in range(options.rounds):
        for way, rows in found.items():
            command = [sys.executable, *sys.argv, "--once", way]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rows.append([float(number) for number in printed.split()])
    best = {way: min(rows) for way, rows in found.items()}
    for way, (seconds, faults) in best.items():
        ratio = best["given back"][0] / seconds
        print(f"{way:10} {1000 * seconds:6.0f} ms a step, {faults:6.0f} page faults {ratio:5.2f}")


if __name__ == "__main__":
    main()
