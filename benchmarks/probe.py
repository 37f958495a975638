"""How much identity does a set of faces teach? One fixed net, one fixed training, LFW at the end.

A half-width ReLU MobileFaceNet at 64 pixels, 128 numbers, CosFace 0.3 at scale 24, AdamW with a
cosine to zero, 2,200 steps of 64 on about 4,170 images: seven minutes on two quiet cores. Only the
faces differ between runs, so the accuracy measures them. The probe reads a benchmark at its end:
run it rarely, and write down each reading.

Run: python benchmarks/probe.py [--faces data/split] [--images 4170] [--per-identity 16] [--seed 0]
     [--augmentation standard]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn
from torch.nn import functional

from facefoundry.backbones.layers import Embedding
from facefoundry.backbones.mobilefacenet import MobileFaceNet
from facefoundry.data import (
    AugmentedCrops,
    Crops,
    labels_of,
    normalise,
    read_split,
    train_loader,
)
from facefoundry.evaluation import PairSet, benchmark_sets, similarities
from facefoundry.losses import build_head
from facefoundry.optim import build_optimizer, build_schedule
from facefoundry.precision import computes_bf16
from facefoundry.progress import track
from facefoundry.samplers import SAMPLERS
from facefoundry.stage import composed
from facefoundry.training import embedder

SIDE, SIZE, BATCH = 64, 128, 64
AUGMENTATIONS = Path("conf/augmentation")


class ProbeNet(nn.Module):
    """(B, 3, 112, 112) -> (B, 128) by way of 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MobileFaceNet(width=0.5)
        self.net.embedding = Embedding(64, 256, SIZE, "relu", side=SIDE // 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = functional.interpolate(images, SIDE, mode="bilinear", antialias=True)
        return self.net(small)


def choose(identities: list[str], images: int, per_identity: int) -> np.ndarray:
    """Places of the first `per_identity` images of identity after identity, up to `images`."""
    labels = labels_of(identities)
    places = [np.flatnonzero(labels == label)[:per_identity] for label in range(labels.max() + 1)]
    return np.concatenate(places)[:images]


def fit(net: nn.Module, data: AugmentedCrops, steps: int, seed: int) -> float:
    """Train; the mean loss of the last hundred steps."""
    head = build_head(
        "cosface",
        scale=24.0,
        margin_cos=0.3,
        identities=int(data.labels.max()) + 1,
        embedding_size=SIZE,
    )
    adamw = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05}
    optimizer = build_optimizer([net, head], adamw)
    factor = build_schedule({"schedule": "cosine", "steps": steps, "warmup": 0.05})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    loader = train_loader(data, SAMPLERS["uniform"](data.labels, BATCH, steps, seed), 0)
    losses = []
    for batch in track(loader, "probe", total=steps):
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16()):
            embeddings = net(normalise(batch["image"]))
        loss = head(embeddings.float(), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses[-100:]))


def scores(net: nn.Module, benchmarks: list[PairSet]) -> dict[str, dict[str, float]]:
    """Accuracy, its deviation and TAR@FMR 1e-3 in percent, for each benchmark."""
    rows = {}
    for pair_set in benchmarks:
        row = pair_set.metrics(similarities(embedder(net), pair_set))
        names = {"accuracy": "accuracy", "deviation": "accuracy_std", "tar": "tar_at_fmr_1e-3"}
        rows[pair_set.name] = {name: 100 * row[key] for name, key in names.items()}
    return rows


def benchmarks_root(asked: Path | None) -> Path:
    """The one that evaluate reads where none is asked for."""
    return asked or Path(composed("evaluate", [])["benchmarks"])


def trained(
    crops: Crops, identities: list[str], steps: int, seed: int, augmentation: str = "standard"
) -> tuple[ProbeNet, float]:
    """The probe trained on crops (N, 112, 112, 3) uint8 RGB, and its last loss.

    augmentation: a file of AUGMENTATIONS, without .yaml.
    """
    torch.manual_seed(seed)
    options = yaml.safe_load((AUGMENTATIONS / f"{augmentation}.yaml").read_text())
    data = AugmentedCrops(crops, labels_of(identities), options, seed)
    net = ProbeNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net, fit(net, data, steps, seed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=Path, default=Path("data/split"))
    parser.add_argument("--images", type=int, default=4170)
    parser.add_argument("--per-identity", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--seed", type=int, default=0)
    known = sorted(path.stem for path in AUGMENTATIONS.glob("*.yaml"))
    parser.add_argument("--augmentation", default="standard", choices=known)
    parser.add_argument("--benchmarks", type=Path, help="the root that evaluate reads if left out")
    arguments = parser.parse_args()
    root = benchmarks_root(arguments.benchmarks)
    benchmarks = benchmark_sets(root)
    if not benchmarks:  # better now than after the training
        parser.error(f"no benchmark under {root}: give --benchmarks a folder of some")
    crops, identities, _ = read_split(arguments.faces, "train")
    chosen = choose(identities, arguments.images, arguments.per_identity)
    names = [identities[place] for place in chosen]
    start = time.process_time()
    net, loss = trained(
        crops[chosen], names, arguments.steps, arguments.seed, arguments.augmentation
    )
    seconds = time.process_time() - start
    print(f"{len(set(names))} identities, {len(chosen)} images, {seconds:.0f} CPU s")
    print(f"last loss {loss:.2f}")
    for name, row in scores(net, benchmarks).items():
        print(f"{name}: {row['accuracy']:.2f} ± {row['deviation']:.2f} %", end="")
        print(f", TAR@FMR 1e-3 {row['tar']:.2f} %")


if __name__ == "__main__":
    main()
