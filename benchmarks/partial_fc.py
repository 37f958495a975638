"""Peak memory and seconds of a training step of the ArcFace head with very many identities.

Run: python benchmarks/partial_fc.py [--identities 1000000] [--size 128] [--batch 64]
Each sample rate runs in a process of its own: backbone aside, head, gradients, SGD with momentum.
The memory of an empty process is taken off.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch

from facefoundry.losses import build_head
from facefoundry.optim import build_optimizer

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(identities: int, size: int, batch: int, rate: float) -> tuple[float, float]:
    """Peak GiB and seconds of the second of two steps."""
    torch.set_num_threads(1)
    empty = peak_gib()
    head = build_head("arcface", identities=identities, embedding_size=size, sample_rate=rate)
    optimizer = build_optimizer([head], SGD)
    embeddings = torch.randn(batch, size, requires_grad=True)
    for _ in range(2):
        start = time.perf_counter()
        optimizer.zero_grad()
        head(embeddings, torch.randint(identities, (batch,))).backward()
        optimizer.step()
        seconds = time.perf_counter() - start
    return peak_gib() - empty, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--identities", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    print(f"{arguments.identities:,} identities, {arguments.size} dimensions, float32,", end=" ")
    print(f"batch {arguments.batch}\n{'sample_rate':>11} {'peak GiB':>9} {'seconds':>8}")
    spawn = multiprocessing.get_context("spawn")
    for rate in (1.0, 0.3, 0.1, 0.01):
        with spawn.Pool(1) as pool:
            work = (arguments.identities, arguments.size, arguments.batch, rate)
            peak, seconds = pool.apply(measure, work)
        print(f"{rate:11} {peak:9.2f} {seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
